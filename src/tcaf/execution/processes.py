"""Processes that each work on one task at a time, so that no task can stop the others.

Owns feeding them and what becomes of a task; one process is `worker`, the words for how one ended
are `outcomes`. A task that crashes takes its process along and nothing else; where that may be
chance, it is tried once more in a new one. A task that takes too long or too much memory is given
up. A process ends with the one that started it, however that dies. They run here, or on the
machines of a cluster (`cluster`). What a worker does with a file is `extract.corpus`, with a run
`experiments.reproduce`.
"""

import math
import os
import pickle
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Protocol, runtime_checkable

from tcaf.errors import TCAFError
from tcaf.execution.outcomes import Crash, Failed, Failure, Killed, OutOfMemory, OutOfTime
from tcaf.execution.worker import (
    Answer,
    Done,
    Job,
    Lost,
    Message,
    Moment,
    Open,
    Ready,
    Setup,
    Task,
    Worker,
)

Limit = Callable[[Task], float]
"""Returns how many seconds a task may take once its process has it and is ready."""

Watch = Callable[[Task, Any], None]
"""Called with a task and None when a process takes it, and then with each moment of it."""

PATIENT = {"OMP_WAIT_POLICY": "passive"}
"""An environment in which threads that wait for each other let other processes work meanwhile.

By default they spin, and beside other work spend most of their time at it. A worker of one thread,
one for each core, waits for nobody.
"""

MAX_LOSSES = 1
"""How many workers may be lost with a task in hand before that is its answer."""


def usable_cores() -> int:
    """Returns how many cores this process may use, which can be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@runtime_checkable
class Hand(Protocol[Task]):
    """A worker, wherever its process is; see `Worker`."""

    job: Job[Task]
    ready: bool
    since: float

    def give(self, job: Job[Task]) -> None:
        """Hands over the next task."""

    def receive(self) -> Message:
        """Returns what was sent, or why nothing more will be."""
        ...

    def kill(self) -> None:
        """Ends the process, whatever it is doing."""

    def dismiss(self) -> None:
        """Lets the process end, and waits until it has, where it is known."""


@runtime_checkable
class Place(Protocol):
    """Where processes run: this machine (`HERE`), or a cluster."""

    @property
    def cores(self) -> int:
        """How many there are for all processes together."""
        ...

    @property
    def machines(self) -> int:
        """How many share these cores."""
        ...

    def threads(self, workers: int) -> int:
        """Returns how many of the cores each of so many workers gets."""
        ...

    def start(self, job: Job[Task], setup: Setup) -> Hand[Task]:
        """Starts a process and hands it its first task."""
        ...

    def wait(self, hands: Sequence[Any], timeout_s: float | None) -> Sequence[Any]:
        """Returns those from which something is to be received, after waiting for one."""
        ...

    def check_shared(self, reads: Iterable[Path], writes: Path | None = None) -> None:
        """Checks that processes see the same files as this one.

        Args:
            reads: files and folders that tasks read.
            writes: a file or folder, there or yet to come, that tasks write.

        Raises:
            TCAFError: some do not.
        """


class _Here:
    """This machine."""

    @property
    def cores(self) -> int:
        return usable_cores()

    @property
    def machines(self) -> int:
        return 1

    def threads(self, workers: int) -> int:
        return max(1, usable_cores() // workers)

    def start(self, job: Job[Task], setup: Setup) -> Hand[Task]:
        return Worker.start(job, setup)

    def wait(self, hands: Sequence[Any], timeout_s: float | None) -> Sequence[Any]:
        ready = wait([hand.connection for hand in hands], timeout_s)
        return [hand for hand in hands if hand.connection in ready]

    def check_shared(self, reads: Iterable[Path], writes: Path | None = None) -> None:
        pass


HERE: Place = _Here()
"""This machine."""


def no_limit(task: Any) -> float:
    """Lets a task take as long as it will."""
    return math.inf


def _ignore(task: Any, moment: Any) -> None:
    """Watches nothing."""


def setup_of(
    place: Place,
    open_: Open[Task, Answer],
    arguments: tuple[Any, ...],
    workers: int,
    limit_bytes: float,
    environment: Mapping[str, str],
) -> Setup:
    """Returns what each of so many processes at a place starts with; for all else see `events`.

    Raises:
        TCAFError: workers is not positive.
    """
    if workers < 1:
        raise TCAFError(f"--workers must be at least 1, got {workers}")
    pickled = pickle.dumps((open_, arguments))
    return Setup(pickled, place.threads(workers), limit_bytes, dict(environment))


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
    place: Place = HERE,
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
        place: where the processes run.

    Raises:
        TCAFError: workers is not positive; where `raises`, the function raised it, or no process
            comes so far as to take a task.
        OSError: the function raised it, where `raises`.
        RuntimeError: the function raised something else, which the message names, where `raises`.
    """
    setup = setup_of(place, open_, arguments, workers, limit_bytes, environment)
    waiting = [Job(task) for task in reversed(tasks)]
    pool = _Pool[Task, Answer](place, setup, watch, limit, fresh, tries, raises, waiting)
    try:
        while waiting or pool.running:
            while waiting and len(pool.running) < workers:
                pool.start(waiting.pop())
            for hand in place.wait(pool.running, pool.patience_s()):
                yield from pool.hear(hand)
            for hand in [hand for hand in pool.running if pool.left_s(hand) <= 0]:
                yield pool.give_up(hand)
    finally:
        for hand in pool.running:
            hand.kill()
        for hand in pool.running:
            hand.dismiss()


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

    place: Place
    setup: Setup
    watch: Watch[Task]
    limit: Limit[Task]
    fresh: bool
    tries: int
    raises: bool
    waiting: list[Job[Task]]
    running: list[Hand[Task]] = field(default_factory=list)

    def start(self, job: Job[Task]) -> None:
        """Gives a job to a new process."""
        self.running.append(self.place.start(job, self.setup))
        self.watch(job.task, None)

    def left_s(self, hand: Hand[Task]) -> float:
        """Returns how long the task in a process may go on, in seconds; endless without a limit."""
        return hand.since + self.limit(hand.job.task) - time.monotonic()

    def patience_s(self) -> float | None:
        """Returns in how many seconds the first task is out of time; None if none will be."""
        soonest = min(self.left_s(hand) for hand in self.running)
        return None if soonest == math.inf else max(soonest, 0.0)

    def give_up(self, hand: Hand[Task]) -> tuple[Task, OutOfTime]:
        """Ends a process whose task is out of time."""
        hand.kill()
        hand.dismiss()
        self.running.remove(hand)
        return hand.job.task, OutOfTime(self.limit(hand.job.task))

    def hear(self, hand: Hand[Task]) -> Iterator[tuple[Task, Answer | Failure | Moment]]:
        """Takes a message, and yields the task and its moment or answer where it is one.

        Raises:
            Exception: see `events`.
        """
        job, message = hand.job, hand.receive()
        if isinstance(message, Ready):
            return
        if isinstance(message, Moment):
            self.watch(job.task, message.content)
            yield job.task, message
            return
        if isinstance(message, Lost):
            if job.losses < MAX_LOSSES:
                self._start_again(hand, replace(job, losses=job.losses + 1))
                return
            message = Killed(message.reason, wants_memory=False)
        elif self.raises:
            _raise(message, hand.ready)
        if isinstance(message, Crash) and job.tries < self.tries:
            self._start_again(hand, replace(job, tries=job.tries + 1))
            return
        is_over = self.fresh or isinstance(message, Crash | Killed | OutOfMemory)
        goes_on = hand.ready and not is_over
        if goes_on and self.waiting:
            hand.give(self.waiting.pop())
            self.watch(hand.job.task, None)
        else:
            hand.dismiss()
            self.running.remove(hand)
        yield job.task, message.content if isinstance(message, Done) else message

    def _start_again(self, hand: Hand[Task], job: Job[Task]) -> None:
        """Gives a job to a new process: what came before may have spoilt the one it had."""
        self.running.remove(hand)
        self.start(job)


def _raise(message: Done | Failure, ready: bool) -> None:
    if not ready:
        reason = message.error if isinstance(message, Failed) else message
        raise TCAFError(f"no process starts: {reason}")
    if isinstance(message, Failed):
        raise message.error
