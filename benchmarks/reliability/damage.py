"""Thousands of damaged files of every kind, each read by a command in a process that is watched.

    python -m benchmarks.reliability.damage --files 30000 --work faults
    python -m benchmarks.reliability.damage --kind flv --number 17 --seed 0 --work faults

Every file ends in one of three ways: the command does what it is for, with what is left; it says in
one line what is wrong; or that is a fault: a traceback, more than `LIMIT_S` of work a file, more
than `LIMIT_BYTES` resident. Which files there are, and how they are damaged, is shared with the
test (`tests/fuzzing.py`). A damage follows from kind, number and seed, so that it can be repeated.
"""

import argparse
import math
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil

# Where the writers of small files are.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from benchmarks.reliability.section import Section

from fuzzing import KINDS, MANY, damaged_copy, ended
from write_one_of_each import write_one_of_each

FILES, QUICK_FILES = 10_000, 500
LIMIT_S = 20.0
"""Seconds of processor time for a file, of the command with all that it starts."""

WAITING = 5
"""How much longer it may take by the clock: other load slows it, waiting for ever is a fault."""

LIMIT_BYTES = 2 * 10**9
TIME_S = 12 * 60.0
"""Of the campaign's part, after which no further command is given; what was given is counted."""

PROCESSES = 2
FAULTS = ("traceback", "hang", "memory")


@dataclass(frozen=True)
class Task:
    """Damaged files of a kind that one command is given, by their numbers."""

    kind: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """How a command ended: `well`, `refused` or one of `FAULTS`."""

    task: Task
    how: str
    more: str
    num_refused: int
    seconds: float
    peak_bytes: int


@dataclass
class Worker:
    """A process that runs commands, and the task that it has."""

    process: Any
    connection: Connection
    folder: Path
    task: Task | None = None
    since: float = 0.0
    worked_s: float = 0.0
    peak_bytes: int = 0

    @classmethod
    def start(cls, whole: Path, folder: Path, seed: int) -> "Worker":
        """Starts a process; returns once it has imported what it needs."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        folder.mkdir()
        process = context.Process(target=_serve, args=(theirs, whole, folder, seed))
        process.start()
        theirs.close()
        ours.recv()
        return cls(process, ours, folder)

    def give(self, task: Task) -> None:
        """Hands over a task."""
        self.task, self.since, self.peak_bytes = task, time.monotonic(), 0
        self.worked_s = sum(seconds for _, seconds in _used(self.process.pid))
        self.connection.send(task)

    def look(self) -> Outcome | None:
        """Returns how the task ended; None while it goes on."""
        assert self.task is not None
        if self.connection.poll():
            try:
                how, more, refused = self.connection.recv()
            except EOFError:
                how, more, refused = "traceback", "the process ended by itself", 0
                self.end()
            return self._outcome(how, more, refused)
        used = list(_used(self.process.pid))
        self.peak_bytes = max(self.peak_bytes, sum(resident for resident, _ in used))
        worked_s = sum(seconds for _, seconds in used) - self.worked_s
        limit_s = LIMIT_S * len(self.task.numbers)
        if self.peak_bytes > LIMIT_BYTES:
            how = "memory"
        elif worked_s > limit_s or time.monotonic() - self.since > WAITING * limit_s:
            how = "hang"
        else:
            return None
        self.end()
        return self._outcome(how, "ended from outside", 0)

    def _outcome(self, how: str, more: str, refused: int) -> Outcome:
        assert self.task is not None
        seconds = time.monotonic() - self.since
        return Outcome(self.task, how, more, refused, seconds, self.peak_bytes)

    def end(self) -> None:
        """Ends the process and all that it has started."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            for process in [*own.children(recursive=True), own]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.join()
        self.connection.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _used(pid: int) -> Iterator[tuple[int, float]]:
    """Yields resident bytes and seconds worked of a process and of all that it has started.

    A process's seconds hold those of the ended ones that it waited for.
    """
    with suppress(psutil.NoSuchProcess):
        own = psutil.Process(pid)
        for process in [own, *own.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                yield process.memory_info().rss, sum(process.cpu_times()[:4])


def _serve(connection: Connection, whole: Path, folder: Path, seed: int) -> None:
    """Runs the command of each task. Runs in a process of its own."""
    import torch

    torch.set_num_threads(1)
    # What native code and further processes print belongs to no report.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    connection.send(None)
    here = folder / "here"
    with suppress(EOFError):
        while True:
            task = connection.recv()
            command = damaged_copy(whole, here, task.kind, task.numbers, seed)
            os.chdir(here)
            found = ended(command)
            os.chdir(folder)
            shutil.rmtree(here)
            connection.send((found.how, found.more, found.num_refused))


def outcomes(
    tasks: Sequence[Task], whole: Path, folder: Path, seed: int, time_s: float
) -> Iterator[Outcome]:
    """Yields how each task ended; one with a fault is cut in two, until a file is by itself.

    Tasks that have not begun after `time_s` are left out.
    """
    last = time.monotonic() + time_s
    waiting = list(reversed(tasks))
    planned = set(tasks)
    workers: list[Worker] = []
    started = 0
    try:
        while waiting or any(worker.task for worker in workers):
            while waiting and len(workers) < PROCESSES:
                workers.append(Worker.start(whole, folder / f"worker_{started}", seed))
                started += 1
            for worker in workers:
                if time.monotonic() > last:
                    # Parts of what had a fault are still looked at.
                    waiting = [task for task in waiting if task not in planned]
                if worker.task is None and waiting:
                    worker.give(waiting.pop())
            wait([worker.connection for worker in workers if worker.task], timeout=0.05)
            for worker in [worker for worker in workers if worker.task]:
                if (outcome := worker.look()) is None:
                    continue
                worker.task = None
                if not worker.process.is_alive():
                    workers.remove(worker)
                numbers = outcome.task.numbers
                if outcome.how in FAULTS and len(numbers) > 1:
                    half = len(numbers) // 2
                    parts = (numbers[:half], numbers[half:])
                    waiting += [Task(outcome.task.kind, part) for part in parts]
                else:
                    yield outcome
    finally:
        for worker in workers:
            worker.end()


def plan(files: int) -> list[Task]:
    """Returns tasks of so many files in all, each kind in proportion to its share."""
    total = sum(kind.share for kind in KINDS.values())
    tasks = []
    for name, kind in KINDS.items():
        numbers = range(max(1, round(files * kind.share / total)))
        parts = (numbers[start : start + kind.many] for start in numbers[:: kind.many])
        tasks += [Task(name, tuple(part)) for part in parts]
    return tasks


@dataclass
class Row:
    """What became of the files of a kind."""

    ended: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Counts the files of a command."""
        self.ended[outcome.how] += len(outcome.task.numbers) - outcome.num_refused
        self.ended["refused"] += outcome.num_refused
        self.peak_bytes = max(self.peak_bytes, outcome.peak_bytes)
        self.seconds = max(self.seconds, outcome.seconds)

    def cells(self, name: str) -> str:
        """Returns the row of the table."""
        numbers = [self.ended.total(), *(self.ended[how] for how in ("well", "refused", *FAULTS))]
        return f"| {name} | {' | '.join(map(str, numbers))} | {self.peak_bytes / 1e6:.0f} | " + (
            f"{self.seconds:.1f} |"
        )


def campaign(
    tasks: Sequence[Task], folder: Path, seed: int, time_s: float = math.inf
) -> tuple[str, bool]:
    """Runs tasks; returns the table and the faults in Markdown, and whether there are none.

    The damaged file of each fault is kept in `faults` in the folder.
    """
    whole = folder / "whole"
    whole.mkdir(parents=True)
    write_one_of_each(whole)
    rows: dict[str, Row] = {name: Row() for name in KINDS}
    faults = []
    for outcome in outcomes(tasks, whole, folder, seed, time_s):
        kind = outcome.task.kind
        rows[kind].add(outcome)
        if outcome.how in FAULTS:
            (number,) = outcome.task.numbers
            last = outcome.more.strip().splitlines()[-1][:200]
            faults.append(
                f"- `--kind {kind!r} --number {number} --seed {seed}`: {outcome.how}, {last}"
            )
            kept = folder / "faults" / f"{kind} {number} {seed}"
            kept.parent.mkdir(exist_ok=True)
            damaged_copy(whole, kept, kind, (number,), seed)
            (kept / "how.txt").write_text(f"{outcome.how}\n{outcome.more}", errors="replace")
            print(faults[-1], file=sys.stderr, flush=True)
    for left in (whole, *folder.glob("worker_*")):
        shutil.rmtree(left)
    total = Row()
    for row in rows.values():
        total.ended += row.ended
        total.peak_bytes = max(total.peak_bytes, row.peak_bytes)
        total.seconds = max(total.seconds, row.seconds)
    head = (
        "kind | files | ended well | refused in one line | traceback | hang | memory | peak MB | "
    )
    lines = [
        f"| {head}slowest s |",
        "|---" + "|---:" * 8 + "|",
        *(row.cells(name) for name, row in rows.items() if row.ended),
        total.cells("all"),
    ]
    return "\n".join([*lines, "", *(faults or ["No fault."])]), not faults


def run(folder: Path, rng_seed: int, *, quick: bool) -> Section:
    start = time.perf_counter()
    files = QUICK_FILES if quick else FILES
    tasks = plan(files)
    random.Random(rng_seed).shuffle(tasks)
    table, passed = campaign(tasks, folder, rng_seed, TIME_S)
    text = (
        f"Of each kind of file that a command reads, damaged copies (bits, bytes, cuts, values "
        f"inside JSON, tables and pickles, content whose checksums are right), {files} in random "
        f"order for up to {TIME_S / 60:.0f} minutes (the last row counts what was reached), with "
        f"seed {rng_seed}, each given to a command that reads it in one of {PROCESSES} processes. "
        f"Criterion: no traceback, no file over {LIMIT_S:.0f} s of processor time "
        f"(or {WAITING * LIMIT_S:.0f} s by the clock, which the table shows), no command over "
        f"{LIMIT_BYTES / 1e9:.0f} GB resident with all that it starts. A command is given "
        f"{MANY} media files; one that is left out with its reason counts as refused.\n\n{table}"
    )
    return Section("Damaged files", passed, text, time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, help="one alone")
    parser.add_argument("--number", type=int, help="of the damage that is repeated")
    parser.add_argument("--work", type=Path, help="a new folder, in which faults are kept")
    asked = parser.parse_args()
    tasks = [task for task in plan(asked.files) if asked.kind in (None, task.kind)]
    if asked.number is not None:
        tasks = [Task(asked.kind, (asked.number,))]
    folder = (asked.work or Path(tempfile.mkdtemp())).resolve()
    os.environ.setdefault("TCAF_CACHE", str(folder / "cache"))
    table, passed = campaign(tasks, folder, asked.seed)
    print(table)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
