"""Processes that each work on one task at a time, so that no task can stop the others.

Owns starting, feeding and ending them; the words for how one ended are `outcomes`. A task that
crashes takes its process along and nothing else; where that may be chance, it is tried once more in
a new one. A task that takes too long or too much memory is given up. A process ends with the one
that started it, however that dies. What a worker does with a file is `extract.corpus`, with a run
`experiments.reproduce`.
"""

import math
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from tcaf.errors import TCAFError
from tcaf.execution.outcomes import Crash, Failed, Failure, Killed, OutOfMemory, OutOfTime

Task = TypeVar("Task")
Answer = TypeVar("Answer")

Send = Callable[[Any], None]
"""What a worker's function sends moments with while it works: anything that can be pickled."""

Open = Callable[..., Callable[[Task, Send], Answer]]
"""What a worker calls once, with the arguments given, to get the function for its tasks."""

Limit = Callable[[Task], float]
"""Returns how many seconds a task may take once its process has it and is ready."""

Watch = Callable[[Task, Any], None]
"""Called with a task and None when a process takes it, and then with each moment of it."""

PATIENT = {"OMP_WAIT_POLICY": "passive"}
"""An environment in which threads that wait for each other let other processes work meanwhile.

By default they spin, and beside other work spend most of their time at it. A worker of one thread,
one for each core, waits for nobody.
"""

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


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    """Adds variables for processes that start meanwhile; what the user has set stays."""
    missing = [name for name in added if name not in os.environ]
    os.environ.update({name: added[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


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
    """What a worker's function returns."""

    content: Any


def _serve(connection: Connection, pickled: bytes, threads: int, limit_bytes: float) -> None:
    """Answers tasks until the other end of the pipe closes. Runs in a process of its own.

    Args:
        connection: our end of the pipe.
        pickled: the `Open` and its arguments. What they import may take seconds, by the end of
            which the parent may be gone: they are taken out here, once that ends us too.
        threads: of torch.
        limit_bytes: of memory for a task, beyond what the process held before it.
    """
    # Ctrl-C reaches the whole group of processes; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    import torch  # not by the parent, which may only want to say what is wrong

    torch.set_num_threads(threads)

    def send(moment: Any) -> None:
        connection.send(Moment(moment))

    # A closed pipe: the parent is done.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            open_, arguments = pickle.loads(pickled)  # noqa: S301 - our own parent's
            work = open_(*arguments)
        except Exception as error:  # noqa: BLE001 - the parent decides
            connection.send(Failed.of(error))
            return
        connection.send(Ready())
        guard = _MemoryGuard(limit_bytes)
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
    """A task, and how many processes have been given it."""

    task: Task
    tries: int = 1


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
    def start(
        cls,
        job: Job[Task],
        open_: Open[Task, Any],
        arguments: tuple[Any, ...],
        threads: int,
        limit_bytes: float,
        environment: Mapping[str, str],
    ) -> "Worker[Task]":
        """Starts a process and hands it its first task."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        given = (theirs, pickle.dumps((open_, arguments)), threads, limit_bytes)
        process = context.Process(target=_serve, args=given, daemon=True)
        with _interrupts_held(), _environment(environment):
            process.start()
        theirs.close()
        worker = cls(process, ours, job, limit_bytes)
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

    def receive(self) -> Ready | Moment | Done | Failed | Crash | Killed | OutOfMemory:
        """Returns what the process has sent, or why it has ended without."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            return self._ended()
        if isinstance(message, Ready):
            self.ready, self.since = True, time.monotonic()
        return message

    def dismiss(self) -> None:
        """Lets the process end, since there is nothing more for it to do."""
        self.connection.close()
        self.process.join()

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


def no_limit(task: Any) -> float:
    """Lets a task take as long as it will."""
    return math.inf


def _ignore(task: Any, moment: Any) -> None:
    """Watches nothing."""


def events(
    tasks: Sequence[Task],
    open_: Open[Task, Answer],
    arguments: tuple[Any, ...],
    workers: int,
    *,
    watch: Watch[Task] = _ignore,
    limit: Limit[Task] = no_limit,
    limit_bytes: float = math.inf,
    environment: Mapping[str, str] = MappingProxyType({}),
    fresh: bool = False,
    tries: int = 2,
    raises: bool = True,
) -> Generator[tuple[Task, Answer | Failure | Moment], None, None]:
    """Yields the moments of each task and then its answer, in the order in which they are ready.

    Moments are for work that is long and made use of as it comes: a process waits until the one
    before is taken, give or take what a pipe holds. A task that is tried again sends them again.

    Close it where it is left early, so that its processes end then.

    Args:
        tasks: what is to be done; picklable.
        open_: a function at the top of a module, called once in each process.
        arguments: of `open_`.
        workers: processes at a time; each has its share of the cores.
        watch: called in this process when a task begins and with its moments.
        limit: of a task's time; one that takes longer is not tried again.
        limit_bytes: of the memory that a task takes; one that takes more is not tried again.
        environment: variables that the processes have beside those of this one.
        fresh: a new process for each task, whose time and peak memory are then the task's own.
        tries: how many processes may crash on a task before that is its answer.
        raises: raise what the function raises, and that no process starts; otherwise either is the
            answer of the task that it happens to.

    Raises:
        TCAFError: workers is not positive; where `raises`, the function raised it, or no process
            comes so far as to take a task.
        OSError: the function raised it, where `raises`.
        RuntimeError: the function raised something else, which the message names, where `raises`.
    """
    if workers < 1:
        raise TCAFError(f"--workers must be at least 1, got {workers}")
    threads = max(1, usable_cores() // workers)
    waiting = [Job(task) for task in reversed(tasks)]
    how = (watch, limit, limit_bytes, environment, fresh, tries, raises)
    pool = _Pool(open_, arguments, threads, *how, waiting)
    try:
        while waiting or pool.running:
            while waiting and len(pool.running) < workers:
                pool.start(waiting.pop())
            ready = wait([worker.connection for worker in pool.running], pool.patience_s())
            for worker in [w for w in pool.running if w.connection in ready]:
                yield from pool.hear(worker)
            for worker in [w for w in pool.running if pool.left_s(w) <= 0]:
                yield pool.give_up(worker)
    finally:
        # SIGTERM may be held back, in a process that is stopped or by whoever started us.
        for worker in pool.running:
            worker.process.kill()
        for worker in pool.running:
            worker.dismiss()


def answers(
    tasks: Sequence[Task],
    open_: Open[Task, Answer],
    arguments: tuple[Any, ...],
    workers: int,
    **how: Any,
) -> Generator[tuple[Task, Answer | Failure], None, None]:
    """Yields each task with its answer, in the order in which they are ready.

    Close it where it is left early, so that its processes end then.

    Args:
        tasks: what is to be done; picklable.
        open_: a function at the top of a module, called once in each process.
        arguments: of `open_`.
        workers: processes at a time; each has its share of the cores.
        how: see `events`.

    Raises:
        Exception: see there.
    """
    with closing(events(tasks, open_, arguments, workers, **how)) as found:
        for task, event in found:
            if not isinstance(event, Moment):
                yield task, event


@dataclass
class _Pool(Generic[Task, Answer]):
    """The processes of one call of `events`, whose arguments these are, and what waits for them.

    Args:
        waiting: what no process has been given, the first one last.
        running: the processes; each has a job in hand.
    """

    open_: Open[Task, Answer]
    arguments: tuple[Any, ...]
    threads: int
    watch: Watch[Task]
    limit: Limit[Task]
    limit_bytes: float
    environment: Mapping[str, str]
    fresh: bool
    tries: int
    raises: bool
    waiting: list[Job[Task]]
    running: list[Worker[Task]] = field(default_factory=list)

    def start(self, job: Job[Task]) -> None:
        """Gives a job to a new process."""
        given = (self.open_, self.arguments, self.threads, self.limit_bytes, self.environment)
        self.running.append(Worker.start(job, *given))
        self.watch(job.task, None)

    def left_s(self, worker: Worker[Task]) -> float:
        """Returns how long the task in a process may go on, in seconds; endless without a limit."""
        return worker.since + self.limit(worker.job.task) - time.monotonic()

    def patience_s(self) -> float | None:
        """Returns in how many seconds the first task is out of time; None if none will be."""
        soonest = min(self.left_s(worker) for worker in self.running)
        return None if soonest == math.inf else max(soonest, 0.0)

    def give_up(self, worker: Worker[Task]) -> tuple[Task, OutOfTime]:
        """Ends a process whose task is out of time."""
        worker.process.kill()
        worker.dismiss()
        self.running.remove(worker)
        return worker.job.task, OutOfTime(self.limit(worker.job.task))

    def hear(self, worker: Worker[Task]) -> Iterator[tuple[Task, Answer | Failure | Moment]]:
        """Takes a message, and yields the task and its moment or answer where it is one.

        Raises:
            Exception: see `events`.
        """
        job, message = worker.job, worker.receive()
        if isinstance(message, Ready):
            return
        if isinstance(message, Moment):
            self.watch(job.task, message.content)
            yield job.task, message
            return
        if self.raises:
            _raise(message, worker.ready)
        if isinstance(message, Crash) and job.tries < self.tries:
            self.running.remove(worker)
            # In a new process: what came before may have spoilt this one.
            self.start(Job(job.task, job.tries + 1))
            return
        is_over = self.fresh or isinstance(message, Crash | Killed | OutOfMemory)
        goes_on = worker.ready and not is_over
        if goes_on and self.waiting:
            worker.give(self.waiting.pop())
            self.watch(worker.job.task, None)
        else:
            worker.dismiss()
            self.running.remove(worker)
        yield job.task, message.content if isinstance(message, Done) else message


def _raise(message: Done | Failure, ready: bool) -> None:
    if not ready:
        reason = message.error if isinstance(message, Failed) else message
        raise TCAFError(f"no process starts: {reason}")
    if isinstance(message, Failed):
        raise message.error
