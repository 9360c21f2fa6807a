"""`python -m tcaf` is the command `tcaf`."""

import sys

from tcaf.commands.entry import main

if __name__ == "__main__":
    sys.exit(main())
