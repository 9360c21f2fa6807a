"""Showing a training to people: progress on a terminal, curves in TensorBoard.

Owns the observers of `training.py`. Nothing here changes what is trained.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tcaf.errors import TCAFError
from tcaf.reproduce import Job, Moment, Outcome
from tcaf.runs import Run
from tcaf.training import EpochRecord, Observer

SHORT = {"loss": "loss", "cross_entropy": "ce", "regression": "reg", "reconstruction": "rec"}
SCORES = {"seen": "S", "unseen": "U", "harmonic_mean": "HM", "zsl": "ZSL"}
"""The scores that people are shown, by field, and what tables call them."""


def describe_losses(losses: dict[str, float]) -> str:
    """Returns the loss terms as one short text."""
    return "  ".join(f"{SHORT.get(name, name)} {value:.3f}" for name, value in losses.items())


def describe_time(seconds: float) -> str:
    """Returns a duration as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class TerminalObserver:
    """Draws a bar for the epoch that runs and leaves a line for each that is over.

    Args:
        console: where to draw; bars are left out where it is no terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
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

    def __enter__(self) -> "TerminalObserver":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def stage_started(self, stage: int, epochs: int, done: int) -> None:
        """Announces the stage."""
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

    def epoch_done(self, record: EpochRecord) -> None:
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


class TensorBoardObserver:
    """Writes losses, learning rate and validation scores for TensorBoard (extra `track`).

    Args:
        folder: where the event files go.

    Raises:
        TCAFError: the extra is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise TCAFError(
                "TensorBoard needs the extra 'track': pip install 'tcaf[track]'"
            ) from None
        self.open_writer: Any = lambda: SummaryWriter(str(folder))
        self.writer: Any = None

    def stage_started(self, stage: int, epochs: int, done: int) -> None:
        """Opens the event file: not before, since a run wants its folder to itself."""
        self.writer = self.writer or self.open_writer()

    def batch_done(
        self, epoch: int, batch: int, num_batches: int, losses: dict[str, float]
    ) -> None:
        """Writes nothing: epochs are enough for a curve."""

    def epoch_done(self, record: EpochRecord) -> None:
        """Writes the epoch's numbers."""
        numbers = {f"loss/{name}": value for name, value in record.losses.items()}
        numbers["learning_rate"] = record.learning_rate
        if record.validation is not None:
            numbers |= {f"validation/{n}": float(record.validation[n]) for n in (*SCORES, "gamma")}
        for name, value in numbers.items():
            self.writer.add_scalar(f"stage_{record.stage}/{name}", value, record.epoch)
        self.writer.flush()


class Observers:
    """Passes everything on to several observers.

    Args:
        observers: in the order in which they are told.
    """

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def stage_started(self, stage: int, epochs: int, done: int) -> None:
        """Tells all."""
        for observer in self.observers:
            observer.stage_started(stage, epochs, done)

    def batch_done(
        self, epoch: int, batch: int, num_batches: int, losses: dict[str, float]
    ) -> None:
        """Tells all."""
        for observer in self.observers:
            observer.batch_done(epoch, batch, num_batches, losses)

    def epoch_done(self, record: EpochRecord) -> None:
        """Tells all."""
        for observer in self.observers:
            observer.epoch_done(record)


class JobsObserver:
    """Shows the runs of a table: a bar for each that runs, one for all, a line for each that ends.

    Args:
        console: where to draw; bars are left out where it is no terminal.
        jobs: all runs of the table.
    """

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
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

    def __enter__(self) -> "JobsObserver":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def __call__(self, news: Moment | Outcome) -> None:
        """Shows what a job has come to."""
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

    def _ended(self, outcome: Outcome) -> None:
        out, name = outcome.job.out, escape(outcome.job.name)
        if out in self.tasks:
            self.bar.remove_task(self.tasks.pop(out))
        self.done += 1
        self.bar.update(self.total, completed=self.done, state=f"{self.done}/{self.num_jobs}")
        count = f"[dim]{self.done}/{self.num_jobs}[/]"
        if outcome.error is not None:
            self.console.print(f"{count} [red]failed[/] {name}: {escape(outcome.error)}")
            return
        test = (Run(out).result or {})["test"]
        scores = "  ".join(
            f"{short} {100 * test[score]:.1f}"
            for score, short in SCORES.items()
            if test[score] is not None
        )
        took = "was done" if outcome.skipped else describe_time(self._seconds(out))
        self.console.print(f"{count} {name}  [cyan]{scores}[/]  {took}")

    def _seconds(self, out: Path) -> float:
        return time.perf_counter() - self.started[out]
