"""Starts real processes by torchrun, on this machine, and gathers what each of them has said."""

import os
import subprocess
import sys
from dataclasses import dataclass

LIMIT_S = 240


@dataclass(frozen=True)
class Ended:
    """What is left of the processes.

    Args:
        code: exit status of torchrun, which is 1 whatever the processes' own.
        told: what torchrun itself has said, which names the exit status of the first that failed.
        out: standard output of each rank.
        err: standard error of each rank.
    """

    code: int
    told: str
    out: list[str]
    err: list[str]


def command(count, logs, *arguments):
    """Returns the command that starts so many processes, whose words go to files under `logs`."""
    how = ("--standalone", "--nproc-per-node", str(count), "--log-dir", str(logs))
    torchrun = [sys.executable, "-m", "torch.distributed.run", *how, "--redirects", "3"]
    return [*torchrun, *map(str, arguments)]


def environment():
    """Returns the variables of processes: a thread each."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def said(count, logs, name):
    """Returns what each rank has written to one of its streams, in the order of the ranks."""
    files = [next(logs.glob(f"*/attempt_0/{rank}/{name}.log")) for rank in range(count)]
    return [file.read_text() for file in files]


def torchrun(count, logs, *arguments):
    """Runs processes to their end."""
    done = subprocess.run(
        command(count, logs, *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    streams = (said(count, logs, name) for name in ("stdout", "stderr"))
    return Ended(done.returncode, done.stdout + done.stderr, *streams)
