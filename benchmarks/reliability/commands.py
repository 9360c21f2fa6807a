"""A command in a process of its own, with its time and the memory that it and its workers take."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status, its last line, seconds, and peaks in MiB."""

    status: int
    line: str
    seconds: float
    parent_mib: float
    worker_mib: float


def run_tcaf(*words: object, timeout_s: float = 300.0) -> Ended:
    """Runs `tcaf` and looks at its memory 20 times a second; status 124 stands for out of time."""
    return measured([sys.executable, "-m", "tcaf", *map(str, words)], timeout_s)


def measured(command: Sequence[str], timeout_s: float = 300.0) -> Ended:
    """Runs a command as `run_tcaf` does; ends it and all that it has started when time is up."""
    start, parent_mib, worker_mib, is_over_time = time.perf_counter(), 0.0, 0.0, False
    # Into a file: a pipe fills, and stays open while any process that the command started lives.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        seen = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                parent_mib = max(parent_mib, seen.memory_info().rss / 2**20)
                for child in seen.children(recursive=True):
                    worker_mib = max(worker_mib, child.memory_info().rss / 2**20)
            if time.perf_counter() - start > timeout_s and not is_over_time:
                is_over_time = True
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        output.seek(0)
        told = output.read().decode(errors="replace").strip().splitlines()
    status = 124 if is_over_time else process.returncode
    return Ended(status, told[-1] if told else "", seconds, parent_mib, worker_mib)
