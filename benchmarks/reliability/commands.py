"""A command in a process of its own, with its time and the memory that it and its workers take."""

import subprocess
import sys
import time
from collections.abc import Sequence
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
    """Runs a command as `run_tcaf` does."""
    start, parent_mib, worker_mib, status = time.perf_counter(), 0.0, 0.0, None
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    seen = psutil.Process(process.pid)
    with process:
        while process.poll() is None:
            try:
                parent_mib = max(parent_mib, seen.memory_info().rss / 2**20)
                for child in seen.children(recursive=True):
                    worker_mib = max(worker_mib, child.memory_info().rss / 2**20)
            except psutil.NoSuchProcess:
                pass
            if time.perf_counter() - start > timeout_s:
                process.kill()
                status = 124
            time.sleep(0.05)
        assert process.stdout is not None
        told = process.stdout.read().decode(errors="replace").strip().splitlines()
    seconds = time.perf_counter() - start
    status = process.returncode if status is None else status
    return Ended(status, told[-1] if told else "", seconds, parent_mib, worker_mib)
