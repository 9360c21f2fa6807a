"""Processes that stay, for tasks that come one at a time and from any thread.

Owns who has which process. What a process is, and how it ends, is `worker`. In `processes` all
tasks are known at the start, here nobody knows when the next one comes, and a process that has
answered waits for it with all that it has opened.
"""

import math
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from multiprocessing.connection import wait
from types import MappingProxyType
from typing import Any, Generic

from tcaf.errors import TCAFError
from tcaf.execution.outcomes import Crash, Failed, Failure, OutOfTime
from tcaf.execution.processes import HERE, Limit, no_limit, setup_of
from tcaf.execution.worker import (
    Answer,
    Done,
    Job,
    Lost,
    Message,
    Moment,
    Open,
    Ready,
    Task,
    Worker,
)

CLOSING_S = 5.0
"""Seconds that closing waits for others, at most."""


class NoneFreeError(TCAFError):
    """No process has become free in time."""


class StandingProcesses(Generic[Task, Answer]):
    """Processes for tasks that come one at a time; each is started when it is first needed.

    Args:
        open_: a function at the top of a module, called once in each process.
        arguments: of `open_`.
        workers: processes at a time; each has its share of the cores.
        limit: of a task's time; one that takes longer is not tried again.
        limit_bytes: of the memory that a task takes; one that takes more is not tried again.
        environment: variables that the processes have beside those of this one.
        tries: how many processes may crash on a task before that is its answer.

    Raises:
        TCAFError: workers is not positive.
    """

    def __init__(
        self,
        open_: Open[Task, Answer],
        arguments: tuple[Any, ...],
        workers: int,
        *,
        limit: Limit[Task] = no_limit,
        limit_bytes: float = math.inf,
        environment: Mapping[str, str] = MappingProxyType({}),
        tries: int = 2,
    ) -> None:
        self.workers = workers
        self._setup = setup_of(HERE, open_, arguments, workers, limit_bytes, environment)
        self._limit, self._tries = limit, tries
        self._slots = threading.Semaphore(workers)
        # Held while a process starts too: its environment is set in this process for a moment.
        self._lock = threading.Lock()
        self._idle: list[Worker[Task]] = []
        self._busy: list[Worker[Task]] = []
        self._is_closed = False

    def do(self, task: Task, patience_s: float | None = None) -> Answer | Failure:
        """Returns the answer to a task, as soon as a process is free and has found it.

        Args:
            task: see `events`.
            patience_s: see there.

        Raises:
            TCAFError: see there.
        """
        with closing(self.events(task, patience_s)) as found:
            for event in found:
                if not isinstance(event, Moment):
                    return event
        raise AssertionError("the last event is the answer")

    def events(
        self, task: Task, patience_s: float | None = None
    ) -> Generator[Moment | Answer | Failure, None, None]:
        """Yields the moments of a task and then its answer; a task that is tried again, all again.

        Close it where it is left early, so that its process ends then.

        Args:
            task: what is to be done; picklable.
            patience_s: how long to wait until a process is free, in seconds; None for ever.

        Raises:
            NoneFreeError: none has become free.
            TCAFError: no process comes so far as to take a task, or all are closed.
        """
        if not self._slots.acquire(timeout=patience_s):
            raise NoneFreeError(f"no process has become free within {patience_s:g} s")
        try:
            for tries in range(1, self._tries + 1):
                worker, message = self._given(Job(task, tries)), None
                try:
                    while message is None or isinstance(message, Ready | Moment):
                        message = self._heard(worker)
                        if isinstance(message, Moment):
                            yield message
                finally:
                    # Left in the middle it is at work on what nobody waits for any more.
                    self._take_back(worker, isinstance(message, Done))
                if isinstance(message, OutOfTime):
                    yield message
                    return
                if not worker.ready:
                    reason = message.error if isinstance(message, Failed) else message
                    raise TCAFError(f"no process starts: {reason}")
                assert not isinstance(message, Lost), "only machines of a cluster get lost"
                if not isinstance(message, Crash) or tries == self._tries:
                    yield message.content if isinstance(message, Done) else message
                    return
        finally:
            self._slots.release()

    def close(self) -> None:
        """Ends all processes; whoever waits for one gets an error.

        Waits a little for those who have one in hand to hear of it.
        """
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            # Whoever has one in hand hears of its end, and dismisses it.
            for worker in self._busy:
                worker.kill()
        for worker in idle:
            worker.kill()
            worker.dismiss()
        until = time.monotonic() + CLOSING_S
        got = [
            self._slots.acquire(timeout=max(until - time.monotonic(), 0.0))
            for _ in range(self.workers)
        ]
        for _ in filter(None, got):
            self._slots.release()

    def _given(self, job: Job[Task]) -> Worker[Task]:
        """Returns a process that has the job: one that waits, or else a new one."""
        with self._lock:
            if self._is_closed:
                raise TCAFError("no process starts: they are closed")
            while self._idle:
                worker = self._idle.pop()
                # It may have been ended from outside meanwhile, which is no fault of this task.
                if worker.process.is_alive():
                    worker.give(job)
                    break
                worker.dismiss()
            else:
                worker = Worker.start(job, self._setup)
            self._busy.append(worker)
            return worker

    def _heard(self, worker: Worker[Task]) -> Message | OutOfTime:
        """Returns what a process says next, or that its task is out of time."""
        limit_s = self._limit(worker.job.task)
        left_s = worker.since + limit_s - time.monotonic()
        patience_s = None if left_s == math.inf else max(left_s, 0.0)
        if wait([worker.connection], patience_s):
            return worker.receive()
        return OutOfTime(limit_s)

    def _take_back(self, worker: Worker[Task], has_answered: bool) -> None:
        """Lets a process wait for the next task; ends one that has not answered, or has failed.

        What it raised says that nobody foresaw it: a GPU that has failed, say, fails all that a
        process still asks of it.
        """
        with self._lock:
            self._busy.remove(worker)
            if worker.ready and has_answered and not self._is_closed:
                self._idle.append(worker)
                return
        worker.kill()
        worker.dismiss()
