"""Processes that each extract one file at a time, so that no file can stop the others.

Owns starting, feeding and ending them. A decoder that crashes takes its process along and nothing
else: the file that it had is tried once more by a new process, then reported. What a worker does
with a file is `corpus`.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import torch

from tcaf.errors import TCAFError

Task = TypeVar("Task")
Answer = TypeVar("Answer")

Open = Callable[..., Callable[[Task], Answer]]
"""What a worker calls once, with the arguments given, to get the function for its tasks."""

FAULTS = frozenset(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS")
    if hasattr(signal, name)
)
"""Signals that a process brings upon itself; others come from outside."""

GRACE_S = 0.5
"""Seconds between the end of a worker and our own, where someone ends all processes in turn."""

_READY = object()
"""Stands for the first sign of life of a worker."""


@dataclass(frozen=True)
class Crash:
    """Two processes, one after the other, ended by themselves before they had answered.

    Args:
        reason: in words.
    """

    reason: str


@dataclass(frozen=True)
class Killed:
    """The process was ended from outside before it had answered, which says nothing of the task.

    Args:
        reason: in words.
        wants_memory: whether it was by the signal that also comes for want of memory.
    """

    reason: str
    wants_memory: bool

    @property
    def hint(self) -> str:
        """What to add to words such as "killed"."""
        return ", perhaps for want of memory" if self.wants_memory else ""


@dataclass(frozen=True)
class _Raised:
    """What a worker sends in place of an answer where its function raises.

    Args:
        error: an OSError as such, others in words: not every exception goes through a pipe.
    """

    error: Exception

    @classmethod
    def of(cls, error: Exception) -> "_Raised":
        """Makes an error fit to be sent."""
        if isinstance(error, OSError) and error.errno is not None:
            paths = (error.filename, None, error.filename2)
            return cls(OSError(error.errno, error.strerror, *paths))
        return cls(RuntimeError(f"{type(error).__name__}: {error}"))


def usable_cores() -> int:
    """Returns how many cores this process may use, which can be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Holds Ctrl-C back, here until the end, in processes that start meanwhile for good.

    They import torch for seconds before they can choose for themselves.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its own start would let signals through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    connection: Connection, open_: Open[Task, Answer], arguments: tuple[Any, ...], threads: int
) -> None:
    """Answers tasks until the other end of the pipe closes. Runs in a process of its own."""
    # Ctrl-C reaches the whole group of processes; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    # A closed pipe: the parent is done, or has gone itself.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            work = open_(*arguments)
        except Exception as error:  # noqa: BLE001 - the parent raises it
            connection.send(_Raised.of(error))
            return
        connection.send(None)  # ready
        while True:
            connection.send(_done(work, connection.recv()))


def _done(work: Callable[[Task], Answer], task: Task) -> Answer | _Raised:
    try:
        return work(task)
    except Exception as error:  # noqa: BLE001 - the parent raises it
        return _Raised.of(error)


@dataclass(frozen=True)
class _Job(Generic[Task]):
    """A task, and whether a process has crashed on it already."""

    task: Task
    is_second_try: bool = False


@dataclass
class _Worker(Generic[Task]):
    """A process, the pipe to it, and what it has in hand."""

    process: Any
    connection: Connection
    job: _Job[Task] | None = None
    ready: bool = False

    def give(self, job: _Job[Task] | None) -> None:
        """Hands over the next task; without one the pipe is closed and the process ends."""
        self.job = job
        if job is None:
            self.connection.close()
        else:
            # If it has crashed already, `wait` reports it.
            with suppress(OSError):
                self.connection.send(job.task)

    def end(self) -> Crash | Killed:
        """Waits for the process to end and says why it did."""
        self.connection.close()
        self.process.join()
        code = self.process.exitcode
        if code >= 0:
            return Crash(f"the process ended with exit status {code}")
        try:
            reason = f"the process was ended by {signal.Signals(-code).name}"
        except ValueError:
            reason = f"the process was ended by signal {-code}"
        if -code in FAULTS:
            return Crash(reason)
        return Killed(reason, wants_memory=-code == getattr(signal, "SIGKILL", None))


def answers(
    tasks: Sequence[Task],
    open_: Open[Task, Answer],
    arguments: tuple[Any, ...],
    workers: int,
) -> Generator[tuple[Task, Answer | Crash | Killed], None, None]:
    """Yields each task with its answer, in the order in which they are ready.

    Close it where it is left early, so that its processes end then.

    Args:
        tasks: what is to be done; picklable.
        open_: a function at the top of a module, called once in each process.
        arguments: of `open_`.
        workers: processes; each has its share of the cores.

    Raises:
        TCAFError: workers is not positive, or no process comes so far as to take a task.
        OSError: the function raised it.
        RuntimeError: the function raised something else, which the message names.
    """
    if workers < 1:
        raise TCAFError(f"--workers must be at least 1, got {workers}")
    waiting = [_Job(task) for task in reversed(tasks)]
    running: list[_Worker[Task]] = []
    threads = max(1, usable_cores() // workers)

    def start(job: _Job[Task]) -> None:
        running.append(_started(open_, arguments, threads))
        running[-1].give(job)

    try:
        while waiting or running:
            while waiting and len(running) < workers:
                start(waiting.pop())
            ready = wait([worker.connection for worker in running])
            for worker in [w for w in running if w.connection in ready]:
                answer, job = _heard(worker), worker.job
                assert job is not None, "a worker without a task is not waited for"
                if answer is _READY:
                    continue
                if isinstance(answer, Crash | Killed):
                    running.remove(worker)
                    if isinstance(answer, Crash) and not job.is_second_try:
                        # In a new process: what came before may have spoilt this one.
                        start(_Job(job.task, is_second_try=True))
                        continue
                else:
                    worker.give(waiting.pop() if waiting else None)
                    if worker.job is None:
                        worker.process.join()
                        running.remove(worker)
                yield job.task, answer
    finally:
        # SIGTERM may be held back, in a process that is stopped or by whoever started us.
        for worker in running:
            worker.process.kill()
        for worker in running:
            worker.process.join()
            worker.connection.close()


def _started(open_: Open[Task, Answer], arguments: tuple[Any, ...], threads: int) -> _Worker[Task]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, open_, arguments, threads), daemon=True)
    with _interrupts_held():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _heard(worker: _Worker[Any]) -> Any:
    """Returns an answer, or why there is none: `_READY`, a crash, an end from outside.

    Raises:
        TCAFError: the process does not come so far as to take a task.
        Exception: what the function has raised.
    """
    try:
        answer = worker.connection.recv()
    except (EOFError, OSError):
        ended = worker.end()
        if isinstance(ended, Killed) and not ended.wants_memory:
            # Whoever ends all processes one after the other comes to this one now.
            time.sleep(GRACE_S)
        if not worker.ready:
            hint = ended.hint if isinstance(ended, Killed) else ""
            raise TCAFError(f"no process starts: {ended.reason}{hint}") from None
        return ended
    if isinstance(answer, _Raised):
        if not worker.ready:
            raise TCAFError(f"no process starts: {answer.error}")
        raise answer.error
    if worker.ready:
        return answer
    worker.ready = True
    return _READY
