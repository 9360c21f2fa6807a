"""A real server on loopback: `tcaf serve`, with its address, ended by SIGTERM."""

import re
import signal
import subprocess
import sys
from contextlib import contextmanager


@contextmanager
def served(*options, log):
    """Yields the address and the process of `tcaf serve --port 0`.

    Args:
        options: further ones.
        log: file of its standard error.
    """
    command = [sys.executable, "-m", "tcaf", "serve", *options, "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        line = process.stdout.readline()
        match = re.search(r"answers at (http://\S+)", line)
        assert match, log.read_text()
        yield match[1], process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
