"""How a system learns from the clips of one stage, an epoch at a time.

Three ways behind one interface: descent of an objective, a fit in closed form, and none at all.
Owns the drawing of batches. An epoch follows from the weights, the optimiser's averages and the
epoch's number alone, so a stage that is resumed from them is the stage that was never interrupted.
Knows nothing of files, of validation or of the second stage.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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
from tcaf.systems.losses import Losses

SHOW_EVERY = 10
"""Batches between two reports of the running losses: reading a loss waits for the device."""

Report = Callable[[int, int, dict[str, float]], None]
"""Called every few batches: how many are done, of how many, and the running means of the losses."""


def unwatched(batch: int, num_batches: int, losses: dict[str, float]) -> None:
    """The report that goes nowhere."""


Objective = Callable[
    [Any, FeatureBatch, Any, Float[Tensor, "num_seen text_dim"], Experiment], Losses
]
"""(model, batch, negatives, text_embedding, experiment) to `Losses`, as `tcaf_objective`."""


class Fit(Protocol):
    """A closed-form solution for each epoch's regulariser."""

    def solve(self, epoch: int) -> dict[str, float]:
        """Sets the model's weights; returns what an epoch's record shows, `loss` among it."""
        ...


NewFit = Callable[[Any, Iterable[FeatureBatch], Float[Tensor, "num_seen text_dim"]], Fit]
"""(model, batches, text_embedding) to a `Fit`; all clips of the stage come once, with labels."""


@dataclass(frozen=True)
class TrainingPart:
    """Clips to train on, as a system reads them.

    Args:
        store: where the clips are.
        rows: which clips.
        labels: their classes, indices into the rows of `text_embedding`.
        text_embedding: of the seen classes of the stage, on `device`.
        windows: how clips are cut.
        device: where to compute.
    """

    store: FeatureStore
    rows: Int[np.ndarray, " clips"]
    labels: Int[np.ndarray, " clips"]
    text_embedding: Float[Tensor, "num_seen text_dim"]
    windows: Windows
    device: torch.device

    def check(self, number: int) -> None:
        """Checks that there is something to train stage `number` on.

        Raises:
            TCAFError: there are no clips.
        """
        if not len(self.rows):
            raise TCAFError(f"store {self.store.path} has no clips to train stage {number} on")

    def load(
        self, chosen: Int[np.ndarray, " batch"], starts: torch.Generator | None = None
    ) -> FeatureBatch:
        """Reads a batch with its labels.

        Args:
            chosen: which of the clips.
            starts: draws random windows.
        """
        rows, labels = self.rows[chosen], self.labels[chosen]
        batch = load_batch(self.store, rows, self.windows, labels=labels, generator=starts)
        return batch.to(self.device)


@runtime_checkable
class Stage(Protocol):
    """A model that learns: weights, and how to run the next epoch."""

    number: int
    model: nn.Module

    def run_epoch(
        self, epoch: int, learning_rate: float, report: Report = unwatched
    ) -> dict[str, float]:
        """Learns for one epoch and returns what its record shows, `loss` first."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Returns copies of all tensors that the next epoch depends on, by name."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state` returned."""
        ...


def _copied(model: nn.Module) -> dict[str, Tensor]:
    """Returns copies of a model's weights, named as a stage's state names them."""
    return {f"{_MODEL}{name}": tensor.clone() for name, tensor in model.state_dict().items()}


def _take_up(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives a model the weights that a stage's state holds."""
    weights = {n.removeprefix(_MODEL): t for n, t in tensors.items() if n.startswith(_MODEL)}
    model.load_state_dict(weights)


_MODEL = "model."


class TrainingFreeStage:
    """A model that has nothing to learn; its one epoch is there to be validated.

    Args:
        model: already on its device.
        number: 1 or 2.
    """

    def __init__(self, model: nn.Module, number: int) -> None:
        self.model = model
        self.number = number

    def run_epoch(
        self, epoch: int, learning_rate: float, report: Report = unwatched
    ) -> dict[str, float]:
        """Leaves the model as it is."""
        return {"loss": 0.0}

    def state(self) -> dict[str, Tensor]:
        """Returns copies of the weights, by name."""
        return _copied(self.model)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state` returned."""
        _take_up(self.model, tensors)


class ClosedFormStage:
    """A model solved in closed form: one regulariser an epoch.

    All clips are read once, when the first epoch is asked for; epoch `e` solves for the e-th
    regulariser, whatever came before it.

    Args:
        model: with initial weights, already on its device.
        part: what to fit.
        number: 1 or 2.
        new_fit: all clips to what solves for a regulariser.
        batch_size: clips that are read at once; changes nothing beyond rounding.
    """

    def __init__(
        self, model: nn.Module, part: TrainingPart, number: int, new_fit: NewFit, batch_size: int
    ) -> None:
        self.model = model
        self.part = part
        self.number = number
        self.new_fit = new_fit
        self.batch_size = batch_size
        self.fit: Fit | None = None

    @torch.no_grad()
    def run_epoch(
        self, epoch: int, learning_rate: float, report: Report = unwatched
    ) -> dict[str, float]:
        """Solves for the epoch's regulariser and returns the training error."""
        if self.fit is None:
            self.model.eval()
            self.fit = self.new_fit(self.model, self._batches(report), self.part.text_embedding)
        return self.fit.solve(epoch)

    def _batches(self, report: Report) -> Iterator[FeatureBatch]:
        order = np.arange(len(self.part.rows))
        count = -(-len(order) // self.batch_size)
        for number, chosen in enumerate(in_order(order, self.batch_size), start=1):
            yield self.part.load(chosen)
            report(number, count, {})

    def state(self) -> dict[str, Tensor]:
        """Returns a copy of the solution; the next epoch does not depend on it."""
        return _copied(self.model)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state` returned."""
        _take_up(self.model, tensors)


class DescentStage:
    """A model trained by Adam: weights, running averages, and how to run the next epoch.

    Args:
        model: with initial weights, already on its device.
        part: what to train on.
        number: 1 or 2; part of every random stream's name.
        experiment: all settings.
        objective: the loss on a batch.
        negatives: whether the objective is given clips of other classes too.
    """

    def __init__(
        self,
        model: nn.Module,
        part: TrainingPart,
        number: int,
        experiment: Experiment,
        objective: Objective,
        *,
        negatives: bool,
    ) -> None:
        settings = experiment.training
        self.model = model
        self.part = part
        self.number = number
        self.experiment = experiment
        self.objective = objective
        self.negatives = negatives
        self.sampler = Sampler(part.labels, settings.sampling)
        self.optimizer = torch.optim.Adam(
            model.parameters(),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def run_epoch(
        self, epoch: int, learning_rate: float, report: Report = unwatched
    ) -> dict[str, float]:
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
        if self.negatives:
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
                    report(number, len(drawn), means)
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
        batch = self.part.load(chosen, starts)
        negatives = None if others is None else self.part.load(others, starts)
        losses = self.objective(
            self.model, batch, negatives, self.part.text_embedding, self.experiment
        )
        self.optimizer.zero_grad()
        losses.total.backward()
        self.optimizer.step()
        return losses

    def state(self) -> dict[str, Tensor]:
        """Returns copies of the weights and Adam's averages, by name."""
        tensors = _copied(self.model)
        for index, averages in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{n}": value.clone() for n, value in averages.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state` returned."""
        _take_up(self.model, tensors)
        averages: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, average = name.split(".")
                # A copy: the optimiser keeps the tensor itself and writes into it.
                averages.setdefault(int(index), {})[average] = tensor.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": averages, "param_groups": groups})
