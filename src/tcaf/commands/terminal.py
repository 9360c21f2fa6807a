"""What people see while a command works: bars, notes, a line an epoch, and its result.

Owns what goes to the terminal. Nothing here changes what is computed.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tcaf.commands.printing import SafeConsole, print_json, shown
from tcaf.errors import one_line
from tcaf.evaluation.scores import SCORES
from tcaf.execution import ranks
from tcaf.progress import describe_time

if TYPE_CHECKING:
    from tcaf.experiments.reproduce import Job, Moment, Outcome
    from tcaf.training.observers import EpochRecord

T = TypeVar("T")

SHORT = {"loss": "loss", "cross_entropy": "ce", "regression": "reg", "reconstruction": "rec"}


def console() -> Console:
    """Returns the standard error, where all but results goes."""
    return SafeConsole(stderr=True, quiet=not ranks.speaks())


def note(text: str, kind: str = "note") -> None:
    """Prints a line on the standard error."""
    if not ranks.speaks():
        return
    print(one_line(f"{kind}: {text}" if kind else text), file=sys.stderr)


def show(value: Any, render: Callable[[Any], None], as_json: bool) -> None:
    """Prints a result: as JSON, or as `render` shows it."""
    if as_json:
        print_json(value)
    else:
        render(value)


def track(items: Sequence[T], description: str) -> Iterable[T]:
    """Draws a bar on the standard error where that is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(),
        TimeRemainingColumn(),
    )
    place = console()
    with Progress(*columns, console=place, disable=not place.is_terminal) as bar:
        yield from bar.track(items, description=description)


class _SpeedColumn(ProgressColumn):
    """How many items are done per second."""

    def render(self, task: Task) -> Text:
        """Returns the speed once it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


def describe_losses(losses: dict[str, float]) -> str:
    """Returns the loss terms as one short text."""
    return "  ".join(f"{SHORT.get(name, name)} {value:.3f}" for name, value in losses.items())


B = TypeVar("B", bound="_WithBar")


class _WithBar:
    """What draws a bar for as long as its `with` lasts."""

    bar: Progress

    def __enter__(self: B) -> B:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()


class TerminalObserver(_WithBar):
    """Draws a bar for the epoch that runs and leaves a line for each that is over.

    Args:
        console: where to draw; bars are left out where it is no terminal.
        heading: a line to print when the training begins.
    """

    def __init__(self, console: Console, heading: str = "") -> None:
        self.console = console
        self.heading = heading
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[losses]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None
        self.stage, self.epochs, self.done = 0, 0, 0
        self.started = 0.0

    def stage_started(self, stage: int, epochs: int, done: int) -> None:
        """Announces the stage."""
        if self.heading:
            self.console.print(self.heading, highlight=False, markup=False, soft_wrap=True)
            self.heading = ""
        self.stage, self.epochs, self.done = stage, epochs, done
        self.started = time.perf_counter()
        what = "picks epoch and gamma" if stage == 1 else "retrains on all seen classes"
        taken_up = f", taken up after epoch {done}" if done else ""
        self.console.print(f"[bold]stage {stage}[/] {what}: {epochs} epochs{taken_up}")

    def batch_done(
        self, epoch: int, batch: int, num_batches: int, losses: dict[str, float]
    ) -> None:
        """Moves the bar."""
        if self.task is None:
            self.task = self.bar.add_task("", total=num_batches, losses="")
        self.bar.update(
            self.task,
            description=f"  epoch {epoch}/{self.epochs}",
            completed=batch,
            total=num_batches,
            losses=describe_losses(losses),
        )

    def epoch_done(self, record: "EpochRecord") -> None:
        """Leaves a line: losses, validation scores in percent, time taken and time left."""
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None
        scores = ""
        if record.validation is not None:
            values = (f"{SCORES[n]} {100 * record.validation[n]:4.1f}" for n in SCORES)
            scores = f"  [cyan]{'  '.join(values)}[/]  gamma {record.validation['gamma']:g}"
        here = record.epoch - self.done
        left = (time.perf_counter() - self.started) / here * (self.epochs - record.epoch)
        clock = f"{describe_time(record.seconds)}, {describe_time(left)} left"
        self.console.print(
            f"  {record.epoch:3}/{self.epochs}  {describe_losses(record.losses)}{scores}"
            f"  [dim]{clock}[/]",
            highlight=False,
            soft_wrap=True,
        )


class JobsObserver(_WithBar):
    """Shows the runs of a table: a bar for each that runs, one for all, a line for each that ends.

    Args:
        console: where to draw; bars are left out where it is no terminal.
        jobs: all runs of the table.
    """

    def __init__(self, console: Console, jobs: "Sequence[Job]") -> None:
        self.console = console
        self.num_jobs, self.done = len(jobs), 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.total = self.bar.add_task("all runs", total=len(jobs), state=f"0/{len(jobs)}")
        self.tasks: dict[Path, TaskID] = {}
        self.started: dict[Path, float] = {}

    def __call__(self, news: "Moment | Outcome") -> None:
        """Shows what a job has come to."""
        from tcaf.experiments.reproduce import Outcome

        if isinstance(news, Outcome):
            self._ended(news)
            return
        out = news.job.out
        if out not in self.tasks:
            self.tasks[out] = self.bar.add_task(news.job.name, total=1.0, state="")
            self.started[out] = time.perf_counter()
        epoch = news.record.epoch if news.record else None
        if epoch is None and not news.batches:
            state = f"stage {news.stage}" if news.stage else "starting"
            self.bar.update(self.tasks[out], completed=0, state=state)
        elif epoch is None:
            self.bar.update(self.tasks[out], completed=news.batches)
        else:
            scores = news.record.validation if news.record else None
            shown = f"  HM {100 * scores['harmonic_mean']:.1f}" if scores else ""
            state = f"stage {news.stage}, epoch {epoch}/{news.epochs}{shown}"
            self.bar.update(self.tasks[out], completed=0, state=state)

    def _ended(self, outcome: "Outcome") -> None:
        out, name = outcome.job.out, escape(outcome.job.name)
        if out in self.tasks:
            self.bar.remove_task(self.tasks.pop(out))
        self.done += 1
        self.bar.update(self.total, completed=self.done, state=f"{self.done}/{self.num_jobs}")
        count = f"[dim]{self.done}/{self.num_jobs}[/]"
        if outcome.error is not None:
            self.console.print(f"{count} [red]failed[/] {name}: {escape(outcome.error)}")
            return
        from tcaf.training.run import Run

        test = (Run(out).result or {})["test"]
        scores = "  ".join(
            f"{short} {shown(test[score], '.1f', 100)}" for score, short in SCORES.items()
        )
        took = "was done" if outcome.skipped else describe_time(self._seconds(out))
        self.console.print(f"{count} {name}  [cyan]{scores}[/]  {took}")

    def _seconds(self, out: Path) -> float:
        return time.perf_counter() - self.started[out]
