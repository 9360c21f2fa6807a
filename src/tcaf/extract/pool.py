"""Processes that each extract one file at a time, so that no file can stop the others.

Owns starting, feeding and ending them. A decoder that crashes takes its process along and nothing
else: the file that it had is reported, and a new process takes the place of the old one. What a
worker does with a file is `corpus`.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
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


@dataclass(frozen=True)
class Crash:
    """The process ended before it had answered.

    Args:
        reason: in words.
    """

    reason: str


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
    work = open_(*arguments)
    connection.send(None)  # ready
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(work(task))


@dataclass
class _Worker(Generic[Task]):
    """A process, the pipe to it, and what it has in hand."""

    process: Any
    connection: Connection
    task: Task | None = None
    ready: bool = False

    def give(self, tasks: list[Task]) -> None:
        """Hands over the next task; without one the pipe is closed and the process ends."""
        self.task = tasks.pop() if tasks else None
        if self.task is None:
            self.connection.close()
        else:
            # If it has crashed already, `wait` reports it.
            with suppress(OSError):
                self.connection.send(self.task)

    def crash(self) -> Crash:
        """Waits for the process to end and says why it did."""
        self.process.join()
        code = self.process.exitcode
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
            return Crash(f"the process was ended by {name}{hint}")
        return Crash(f"the process ended with exit status {code}")


def answers(
    tasks: Sequence[Task],
    open_: Open[Task, Answer],
    arguments: tuple[Any, ...],
    workers: int,
) -> Iterator[tuple[Task, Answer | Crash]]:
    """Yields each task with its answer, in the order in which they are ready.

    Args:
        tasks: what is to be done; picklable.
        open_: a function at the top of a module, called once in each process.
        arguments: of `open_`.
        workers: processes; each has its share of the cores.

    Raises:
        TCAFError: workers is not positive, or no process comes so far as to take a task.
    """
    if workers < 1:
        raise TCAFError(f"--workers must be at least 1, got {workers}")
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    waiting = list(reversed(tasks))
    running: list[_Worker[Task]] = []

    def start() -> None:
        ours, theirs = context.Pipe()
        worker_arguments = (theirs, open_, arguments, threads)
        process = context.Process(target=_serve, args=worker_arguments, daemon=True)
        with _interrupts_held():
            process.start()
        theirs.close()
        worker: _Worker[Task] = _Worker(process, ours)
        worker.give(waiting)
        running.append(worker)

    try:
        while waiting or running:
            while waiting and len(running) < workers:
                start()
            ready = wait([worker.connection for worker in running])
            for worker in [w for w in running if w.connection in ready]:
                assert worker.task is not None, "a worker without a task is not waited for"
                task = worker.task
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError):
                    running.remove(worker)
                    worker.connection.close()
                    crash = worker.crash()
                    if not worker.ready:
                        raise TCAFError(f"no process starts: {crash.reason}") from None
                    yield task, crash
                    continue
                if not worker.ready:
                    worker.ready = True
                    continue
                worker.give(waiting)
                if worker.task is None:
                    running.remove(worker)
                    worker.process.join()
                yield task, answer
    finally:
        for worker in running:
            worker.process.terminate()
            worker.process.join()
            worker.connection.close()
