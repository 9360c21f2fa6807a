"""Training of one stage, an epoch at a time.

Owns the optimiser, the learning rate's schedule and the drawing of batches. An epoch follows from
the weights, Adam's averages and the epoch's number alone, so a stage that is resumed from them is
the stage that was never interrupted. Knows nothing of files or of the second stage, and of systems
what `systems.System` says.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch, load_batch
from tcaf.data.sampler import Sampler, in_order
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.seeding import generator, seeded
from tcaf.settings.experiment import Experiment
from tcaf.systems.interface import Fit, System
from tcaf.systems.losses import Losses
from tcaf.systems.registry import find_system
from tcaf.training.observers import EpochRecord, Observer

SHOW_EVERY = 10
"""Batches between two reports of the running losses: reading a loss waits for the device."""


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

    def check(self, number: int) -> None:
        """Checks that there is something to train stage `number` on.

        Raises:
            TCAFError: there are no clips.
        """
        if not len(self.rows):
            raise TCAFError(f"store {self.store.path} has no clips to train stage {number} on")


@runtime_checkable
class Stage(Protocol):
    """A model in training: weights, and how to run the next epoch."""

    number: int
    model: nn.Module

    def run_epoch(self, epoch: int, learning_rate: float, observer: Observer) -> dict[str, float]:
        """Trains for one epoch and returns what its record shows, `loss` first."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Returns copies of all tensors that the next epoch depends on, by name."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state` returned."""
        ...


def new_stage(
    model: nn.Module,
    part: TrainingPart,
    experiment: Experiment,
    number: int,
    device: torch.device,
) -> Stage:
    """Returns a stage of the kind that the experiment's system needs.

    Args:
        model: with initial weights, already on `device`.
        part: what to train on.
        experiment: all settings.
        number: 1 or 2; part of every random stream's name.
        device: where to compute.

    Raises:
        TCAFError: there are no clips to train on.
    """
    kind = ClosedFormStage if find_system(experiment.system).fit else DescentStage
    return kind(model, part, experiment, number, device)


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


class DescentStage:
    """A model trained by Adam: weights, running averages, and how to run the next epoch.

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
        model: nn.Module,
        part: TrainingPart,
        experiment: Experiment,
        number: int,
        device: torch.device,
    ) -> None:
        part.check(number)
        settings = experiment.training
        self.system = find_system(experiment.system)
        self.model = model
        self.part = part
        self.experiment = experiment
        self.number = number
        self.device = device
        self.text_embedding = part.text_embedding.to(device)
        self.sampler = Sampler(part.labels, settings.sampling)
        self.windows = (
            Windows(average=True)
            if self.system.averages
            else Windows(
                window_s=settings.window_s,
                place="random",
                restart=experiment.fidelity.window_times == "restart",
                release_audio_len=experiment.fidelity.audio_window == "release",
                average=experiment.data.average,
            )
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
        others: Sequence[np.ndarray | None] = [None] * len(drawn)
        if self.system.negatives:
            others = list(self.sampler.draw_others(drawn, generator(seed, "negatives", *purpose)))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.model.train()
        sums: dict[str, Tensor] = {}
        with seeded(seed, "dropout", *purpose):
            for number, (chosen, other) in enumerate(zip(drawn, others, strict=True), start=1):
                losses = self._step(chosen, other, starts)
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

    def _step(
        self,
        chosen: Int[np.ndarray, " batch"],
        others: Int[np.ndarray, " batch"] | None,
        starts: torch.Generator,
    ) -> Losses:
        batch = self._load(chosen, starts)
        negatives = None if others is None else self._load(others, starts)
        assert self.system.objective is not None, "systems without one are fitted"
        losses = self.system.objective(
            self.model, batch, negatives, self.text_embedding, self.experiment
        )
        self.optimizer.zero_grad()
        losses.total.backward()
        self.optimizer.step()
        return losses

    def _load(self, chosen: Int[np.ndarray, " batch"], starts: torch.Generator) -> FeatureBatch:
        rows, labels = self.part.rows[chosen], self.part.labels[chosen]
        batch = load_batch(self.part.store, rows, self.windows, labels=labels, generator=starts)
        return batch.to(self.device)

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


class ClosedFormStage:
    """A model solved in closed form: one regulariser an epoch.

    All clips are read once, when the first epoch is asked for; epoch `e` solves for the e-th
    regulariser, whatever came before it.

    Args:
        model: with initial weights, already on `device`.
        part: what to fit.
        experiment: all settings.
        number: 1 or 2.
        device: where to compute.

    Raises:
        TCAFError: there are no clips to fit.
    """

    def __init__(
        self,
        model: nn.Module,
        part: TrainingPart,
        experiment: Experiment,
        number: int,
        device: torch.device,
    ) -> None:
        part.check(number)
        self.system: System = find_system(experiment.system)
        self.model = model
        self.part = part
        self.number = number
        self.device = device
        self.batch_size = experiment.evaluation.batch_size
        self.fit: Fit | None = None

    @torch.no_grad()
    def run_epoch(self, epoch: int, learning_rate: float, observer: Observer) -> dict[str, float]:
        """Solves for the epoch's regulariser and returns the training error."""
        if self.fit is None:
            assert self.system.fit is not None, "systems without one are trained"
            text = self.part.text_embedding.to(self.device)
            self.model.eval()
            self.fit = self.system.fit(self.model, self._batches(epoch, observer), text)
        return self.fit.solve(epoch)

    def _batches(self, epoch: int, observer: Observer) -> Iterator[FeatureBatch]:
        part, order = self.part, np.arange(len(self.part.rows))
        count = -(-len(order) // self.batch_size)
        for number, chosen in enumerate(in_order(order, self.batch_size), start=1):
            batch = load_batch(
                part.store, part.rows[chosen], Windows(average=True), labels=part.labels[chosen]
            )
            yield batch.to(self.device)
            observer.batch_done(epoch, number, count, {})

    def state(self) -> dict[str, Tensor]:
        """Returns a copy of the solution; the next epoch does not depend on it."""
        return {f"model.{n}": tensor.clone() for n, tensor in self.model.state_dict().items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state` returned."""
        self.model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items()})


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
