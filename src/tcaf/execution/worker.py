"""One process that works on one task at a time, as the one that has started it sees it.

Owns starting it, handing it tasks, hearing from it, and what makes it end: the end of its parent,
and a task that takes too much memory. Which process gets which task is `processes`.
"""

import math
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any, Generic, TypeVar

from tcaf.execution.outcomes import Crash, Failed, Killed, OutOfMemory

Task = TypeVar("Task")
Answer = TypeVar("Answer")

Send = Callable[[Any], None]
"""What a worker's function sends moments with while it works: anything that can be pickled."""

Open = Callable[..., Callable[[Task, Send], Answer]]
"""What a worker calls once, with the arguments given, to get the function for its tasks."""

FAULTS = frozenset(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS")
    if hasattr(signal, name)
)
"""Signals that a process brings upon itself; others come from outside."""

GRACE_S = 0.5
"""Seconds between the end of a worker and our own, where someone ends all processes in turn."""


OUT_OF_MEMORY = 86
"""Exit status of a process that has ended itself, since its task took too much memory."""

LOOK_S = 0.02
"""Seconds between two looks at how much memory a task takes."""

_STATM = Path("/proc/self/statm")
"""Where Linux says how many pages of memory this process has."""


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


@contextmanager
def variables(added: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for processes that start meanwhile; those that the user has set stay."""
    missing = [name for name in added if name not in os.environ]
    os.environ.update({name: added[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _end_with_parent() -> None:
    """Lets this process end when its parent has, whatever it is doing by then."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in processes that another one has started"
    sentinel = parent.sentinel
    if sys.platform == "linux":
        import fcntl

        # The parent's end of this pipe closes with it, and the kernel then sends us a signal. A
        # thread would have to wait for native code to let go of Python's lock.
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
        if wait([sentinel], timeout=0):  # it closed before
            os._exit(1)
    else:
        Thread(target=lambda: wait([sentinel]) and os._exit(1), daemon=True).start()


class _MemoryGuard:
    """Ends this process when its task takes more memory than it may, on systems that tell (Linux).

    A limit of the address space would not do: torch maps far more than it uses.

    Args:
        limit_bytes: how much a task may take beyond what the process has before it.
    """

    def __init__(self, limit_bytes: float) -> None:
        self._limit_bytes, self._before = limit_bytes, math.inf
        if limit_bytes < math.inf and _STATM.is_file():
            Thread(target=self._look, daemon=True).start()

    def begin(self) -> None:
        """Lets a task begin."""
        if self._limit_bytes < math.inf and _STATM.is_file():
            self._before = self._resident_bytes()

    def _look(self) -> None:
        while self._resident_bytes() - self._before <= self._limit_bytes:
            time.sleep(LOOK_S)
        os._exit(OUT_OF_MEMORY)

    @staticmethod
    def _resident_bytes() -> int:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Ready:
    """The first sign of life of a worker."""


@dataclass(frozen=True)
class Moment:
    """What a worker's function sends while it works.

    Args:
        content: what it sends.
    """

    content: Any


@dataclass(frozen=True)
class Done:
    """What a worker's function returns.

    Args:
        content: what it returns.
    """

    content: Any


@dataclass(frozen=True)
class Lost:
    """What the worker ran on has gone, with all that it had in hand: a machine of a cluster.

    Args:
        reason: in words.
    """

    reason: str


Message = Ready | Moment | Done | Failed | Crash | Killed | OutOfMemory | Lost
"""What is heard from a worker. After the last four there is no process any more."""


@dataclass(frozen=True)
class Setup:
    """What a process is started with.

    Args:
        pickled: the `Open` and its arguments. What they import may take seconds, by the end of
            which the parent may be gone: they are taken out once that ends the process too.
        threads: of torch.
        limit_bytes: of memory for a task, beyond what the process held before it.
        environment: variables that it has beside those of its parent.
    """

    pickled: bytes
    threads: int
    limit_bytes: float = math.inf
    environment: Mapping[str, str] = field(default_factory=dict)


def _serve(connection: Connection, setup: Setup) -> None:
    """Answers tasks until the other end of the pipe closes. Runs in a process of its own."""
    # Ctrl-C reaches the whole group of processes; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    import torch  # not by the parent, which may only want to say what is wrong

    torch.set_num_threads(setup.threads)

    def send(moment: Any) -> None:
        connection.send(Moment(moment))

    # A closed pipe: the parent is done.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            open_, arguments = pickle.loads(setup.pickled)  # noqa: S301 - our own parent's
            work = open_(*arguments)
        except Exception as error:  # noqa: BLE001 - the parent decides
            connection.send(Failed.of(error))
            return
        connection.send(Ready())
        guard = _MemoryGuard(setup.limit_bytes)
        while True:
            task = connection.recv()
            guard.begin()
            connection.send(_done(work, task, send))


def _done(work: Callable[[Task, Send], Answer], task: Task, send: Send) -> Done | Failed:
    try:
        return Done(work(task, send))
    except Exception as error:  # noqa: BLE001 - the parent decides
        return Failed.of(error)


@dataclass(frozen=True)
class Job(Generic[Task]):
    """A task, how many processes have been given it, and how many of them were lost."""

    task: Task
    tries: int = 1
    losses: int = 0


@dataclass
class Worker(Generic[Task]):
    """A process, the pipe to it, and what it has in hand."""

    process: Any
    connection: Connection
    job: Job[Task]
    limit_bytes: float
    ready: bool = False
    since: float = math.inf

    @classmethod
    def start(cls, job: Job[Task], setup: Setup) -> "Worker[Task]":
        """Starts a process and hands it its first task."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, setup), daemon=True)
        with _interrupts_held(), variables(setup.environment):
            process.start()
        theirs.close()
        worker = cls(process, ours, job, setup.limit_bytes)
        worker.give(job)
        return worker

    def give(self, job: Job[Task]) -> None:
        """Hands over the next task."""
        self.job = job
        if self.ready:
            self.since = time.monotonic()
        # If it has crashed already, `receive` reports it.
        with suppress(OSError):
            self.connection.send(job.task)

    def receive(self) -> Message:
        """Returns what the process has sent, or why it has ended without."""
        message: Message = pickle.loads(self.hear())  # noqa: S301 - our own process
        if isinstance(message, Ready):
            self.ready, self.since = True, time.monotonic()
        return message

    def hear(self) -> bytes:
        """Returns what `receive` does, still pickled."""
        try:
            return self.connection.recv_bytes()
        except (EOFError, OSError):
            return pickle.dumps(self._ended())

    def dismiss(self) -> None:
        """Lets the process end, since there is nothing more for it to do."""
        self.connection.close()
        self.process.join()

    def kill(self) -> None:
        """Ends the process, whatever it is doing; `dismiss` then waits for it."""
        # SIGTERM may be held back, in a process that is stopped or by whoever started us.
        self.process.kill()

    def _ended(self) -> Crash | Killed | OutOfMemory:
        self.dismiss()
        code = self.process.exitcode
        if code == OUT_OF_MEMORY and self.limit_bytes < math.inf:
            return OutOfMemory(self.limit_bytes)
        if code >= 0:
            return Crash(f"the process ended with exit status {code}")
        try:
            reason = f"the process was ended by {signal.Signals(-code).name}"
        except ValueError:
            reason = f"the process was ended by signal {-code}"
        if -code in FAULTS:
            return Crash(reason)
        if -code == getattr(signal, "SIGKILL", None):
            return Killed(reason, wants_memory=True)
        # Whoever ends all processes one after the other comes to this one now.
        time.sleep(GRACE_S)
        return Killed(reason, wants_memory=False)
