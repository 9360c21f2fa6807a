"""The command `tcaf`, and `python -m tcaf`; Ctrl-C is no traceback from the first import on."""

import sys


def main() -> int:
    """Runs the command line and returns its exit status."""
    try:
        from tcaf.commands.entry import main as run

        return run()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
