"""Training of one stage, an epoch at a time.

Owns the optimiser, the learning rate's schedule, the drawing of batches and the objective of TCaF.
An epoch follows from the weights, Adam's averages and the epoch's number alone, so a stage that is
resumed from them is the stage that was never interrupted. Knows nothing of files or of the second
stage.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.batches import FeatureBatch, Sampler, Windows, load_batch
from tcaf.config import Experiment
from tcaf.errors import TCAFError
from tcaf.losses import TCAFLosses, tcaf_losses
from tcaf.model import TCAF
from tcaf.seeding import generator, seeded
from tcaf.store import FeatureStore

SHOW_EVERY = 10
"""Batches between two reports of the running losses: reading a loss waits for the device."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch left behind.

    Args:
        stage: 1 or 2.
        epoch: number of the epoch, from 1.
        learning_rate: that it ran with.
        losses: each term's mean over the batches.
        validation: scores on the validation clips (`GZSLResult.scores`), where they were taken.
        seconds: wall time, validation included.
    """

    stage: int
    epoch: int
    learning_rate: float
    losses: dict[str, float]
    validation: dict[str, float | bool] | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the record as one JSON value, a line of `metrics.jsonl`."""
        return asdict(self)


@runtime_checkable
class Observer(Protocol):
    """Somebody who watches a training: a progress bar, a log."""

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


@dataclass(frozen=True)
class TrainingPart:
    """Clips to train on.

    Args:
        store: where the clips are.
        rows: which clips.
        labels: their classes, indices into the rows of `text_embedding`.
        text_embedding: of the seen classes of the stage.
    """

    store: FeatureStore
    rows: Int[np.ndarray, " clips"]
    labels: Int[np.ndarray, " clips"]
    text_embedding: Float[Tensor, "num_seen text_dim"]


def tcaf_objective(
    model: TCAF,
    batch: FeatureBatch,
    text_embedding: Float[Tensor, "num_seen text_dim"],
    experiment: Experiment,
) -> TCAFLosses:
    """Computes TCaF's loss on a batch (Eq. 15).

    Args:
        model: in training mode.
        batch: with labels that index `text_embedding`.
        text_embedding: of the seen classes of the stage.
        experiment: which terms are on, and how faithful to the release they are.
    """
    labels = batch.labels
    assert labels is not None, "training batches carry labels"
    video = model(batch)
    text = model.embed_text(text_embedding)
    clips = None
    if experiment.fidelity.text_statistics == "clips":
        clips = model.embed_text(text_embedding[labels])
    return tcaf_losses(
        video.video_embedding,
        video.video_reconstruction,
        text.class_embedding,
        text.text_reconstruction,
        text_embedding,
        labels,
        clip_class_embedding=None if clips is None else clips.class_embedding,
        clip_text_reconstruction=None if clips is None else clips.text_reconstruction,
        terms=experiment.objective,
        reduction=experiment.fidelity.squared_error,
    )


def plateau_rate(scores: Sequence[float], rate: float, factor: float, patience: int) -> float:
    """Returns the learning rate after epochs with these validation scores.

    The rate is multiplied by `factor` each time `patience` epochs in a row brought no new best.
    """
    best, stale = -math.inf, 0
    for value in scores:
        stale = 0 if value > best else stale + 1
        best = max(best, value)
        if stale == patience:
            rate, stale = rate * factor, 0
    return rate


class Stage:
    """A model in training: weights, Adam's averages, and how to run the next epoch.

    Args:
        model: with initial weights, already on `device`.
        part: what to train on.
        experiment: all settings.
        number: 1 or 2; part of every random stream's name.
        device: where to compute.

    Raises:
        TCAFError: there are no clips to train on.
    """

    def __init__(
        self,
        model: TCAF,
        part: TrainingPart,
        experiment: Experiment,
        number: int,
        device: torch.device,
    ) -> None:
        if not len(part.rows):
            raise TCAFError(f"store {part.store.path} has no clips to train stage {number} on")
        settings = experiment.training
        self.model = model
        self.part = part
        self.experiment = experiment
        self.number = number
        self.device = device
        self.text_embedding = part.text_embedding.to(device)
        self.sampler = Sampler(part.labels, settings.sampling)
        self.windows = Windows(
            window_s=settings.window_s,
            place="random",
            restart=experiment.fidelity.window_times == "restart",
            release_audio_len=experiment.fidelity.audio_window == "release",
            average=experiment.data.average,
        )
        self.optimizer = torch.optim.Adam(
            model.parameters(),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def run_epoch(self, epoch: int, learning_rate: float, observer: Observer) -> dict[str, float]:
        """Trains for one epoch and returns each loss term's mean over the batches.

        Raises:
            TCAFError: the loss became NaN or infinite.
        """
        settings, seed = self.experiment.training, self.experiment.seed
        purpose = (f"stage_{self.number}", epoch)
        draw = generator(seed, "batches", *purpose)
        starts = generator(seed, "windows", *purpose)
        drawn = self.sampler.draw(settings.batches_per_epoch, settings.batch_size, draw)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.model.train()
        sums: dict[str, Tensor] = {}
        with seeded(seed, "dropout", *purpose):
            for number, chosen in enumerate(drawn, start=1):
                losses = self._step(chosen, starts)
                for name, value in losses.terms().items():
                    sums[name] = sums[name] + value if name in sums else value
                if number % SHOW_EVERY == 0 or number == len(drawn):
                    means = {name: value.item() / number for name, value in sums.items()}
                    observer.batch_done(epoch, number, len(drawn), means)
        if not all(map(math.isfinite, means.values())):
            raise TCAFError(
                f"stage {self.number}, epoch {epoch}: the loss became {means['loss']}; lower "
                "training.learning_rate or check the features' scale (fidelity.audio_scaling)"
            )
        return means

    def _step(self, chosen: Int[np.ndarray, " batch"], starts: torch.Generator) -> TCAFLosses:
        part = self.part
        batch = load_batch(
            part.store,
            part.rows[chosen],
            self.windows,
            labels=part.labels[chosen],
            generator=starts,
        ).to(self.device)
        losses = tcaf_objective(self.model, batch, self.text_embedding, self.experiment)
        self.optimizer.zero_grad()
        losses.total.backward()
        self.optimizer.step()
        return losses

    def state(self) -> dict[str, Tensor]:
        """Returns copies of the weights and Adam's averages, by name."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, averages in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in averages.items()}
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state` returned."""
        weights = {
            n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")
        }
        self.model.load_state_dict(weights)
        averages: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, average = name.split(".")
                # A copy: the optimiser keeps the tensor itself and writes into it.
                averages.setdefault(int(index), {})[average] = tensor.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": averages, "param_groups": groups})


def timed_epoch(
    stage: Stage,
    epoch: int,
    learning_rate: float,
    observer: Observer,
    validate: Callable[[], dict[str, float | bool]] | None,
) -> EpochRecord:
    """Runs an epoch and, where `validate` is given, a validation after it."""
    start = time.perf_counter()
    losses = stage.run_epoch(epoch, learning_rate, observer)
    validation = validate() if validate else None
    seconds = time.perf_counter() - start
    return EpochRecord(stage.number, epoch, learning_rate, losses, validation, seconds)
