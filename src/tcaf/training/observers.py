"""Who watches a training: what an epoch leaves behind, and those that are shown it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import ConfigDict, TypeAdapter

from tcaf.errors import TCAFError
from tcaf.evaluation.calibration import Reliability
from tcaf.evaluation.scores import SCORES
from tcaf.training.numbers import check_numbers


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch left behind.

    Args:
        stage: 1 or 2.
        epoch: number of the epoch, from 1.
        learning_rate: that it ran with.
        losses: each term's mean over the batches.
        validation: scores on the validation clips (`GZSLResult.scores`), where they were taken;
            with the `temperature` fitted to them where the epoch is stage 1's best so far.
        seconds: wall time, validation included.
        reliability: of probabilities on the validation clips, where a temperature was fitted.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    stage: int
    epoch: int
    learning_rate: float
    losses: dict[str, float]
    validation: dict[str, float | bool] | None
    seconds: float
    reliability: Reliability | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the record as one JSON value, a line of `metrics.jsonl`."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: str | bytes, where: str) -> "EpochRecord":
        """Returns the record that `to_json` made a value of.

        Args:
            line: the value as JSON.
            where: what holds it, for messages.

        Raises:
            TCAFError: it is no record, or has numbers that cannot be.
        """
        try:
            record = _RECORD.validate_json(line, strict=True)
        except ValueError:
            raise TCAFError(f"{where} is damaged: expected the record of an epoch") from None
        check_numbers(record.to_json(), where)
        return record


# Made once: it takes longer than reading a line.
_RECORD = TypeAdapter(EpochRecord)


@runtime_checkable
class Observer(Protocol):
    """What watches a training: a progress bar, a log."""

    def stage_started(self, stage: int, epochs: int, done: int) -> None:
        """A stage begins or is taken up again after `done` epochs."""
        ...

    def batch_done(
        self, epoch: int, batch: int, num_batches: int, losses: dict[str, float]
    ) -> None:
        """Some batches are done; `losses` are running means. Called every few batches."""
        ...

    def epoch_done(self, record: EpochRecord) -> None:
        """An epoch is done."""
        ...


class Silence:
    """The observer that shows nothing."""

    def stage_started(self, stage: int, epochs: int, done: int) -> None:
        """Shows nothing."""

    def batch_done(
        self, epoch: int, batch: int, num_batches: int, losses: dict[str, float]
    ) -> None:
        """Shows nothing."""

    def epoch_done(self, record: EpochRecord) -> None:
        """Shows nothing."""


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
        observers: in the order in which they are called.
    """

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def stage_started(self, stage: int, epochs: int, done: int) -> None:
        """Passes it on."""
        for observer in self.observers:
            observer.stage_started(stage, epochs, done)

    def batch_done(
        self, epoch: int, batch: int, num_batches: int, losses: dict[str, float]
    ) -> None:
        """Passes it on."""
        for observer in self.observers:
            observer.batch_done(epoch, batch, num_batches, losses)

    def epoch_done(self, record: EpochRecord) -> None:
        """Passes it on."""
        for observer in self.observers:
            observer.epoch_done(record)
