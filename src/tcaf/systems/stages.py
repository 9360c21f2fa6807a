"""How a system learns from the clips of one stage, an epoch at a time.

Three ways behind one interface: descent of an objective, a fit in closed form, and none at all.
Owns the drawing of batches. An epoch follows from the weights, the optimiser's averages and the
epoch's number alone, so a stage that is resumed from them is the stage that was never interrupted.
Knows nothing of files, of validation or of the second stage.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tcaf.data.batches import FeatureBatch
from tcaf.data.sampler import Sampler
from tcaf.errors import TCAFError
from tcaf.execution import ranks
from tcaf.execution.devices import Glimpse, forward_in, products_in
from tcaf.seeding import generator, seeded
from tcaf.settings.experiment import Experiment
from tcaf.systems.fixed_steps import FixedSteps, TakesFilled
from tcaf.systems.losses import Losses
from tcaf.systems.optimisers import Optimiser
from tcaf.systems.over_ranks import over_ranks
from tcaf.systems.training_parts import TrainingPart, in_chunks

_SYNCS_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)
"""What torch calls the sending of buffers before each step; of two names the older one warns."""

SHOW_EVERY = 10
"""Batches between two reports of the running losses, at least: a GPU is not waited for."""

Report = Callable[[int, int, dict[str, float]], None]
"""Called every few batches: how many are done, of how many, and the running means of the losses."""


def unwatched(batch: int, num_batches: int, losses: dict[str, float]) -> None:
    """The report that goes nowhere."""


Objective = Callable[[Any, FeatureBatch, Any, Any, Experiment], Losses]
"""(model, batch, negatives, text_embedding, experiment) to `Losses`, as `tcaf_objective`.

The text is a matrix, or a `ClassText` for a system that reads several text spaces.
"""


class Fit(Protocol):
    """A closed-form solution for each epoch's regulariser."""

    def solve(self, epoch: int) -> dict[str, float]:
        """Sets the model's weights; returns what an epoch's record shows, `loss` among it."""
        ...


NewFit = Callable[[Any, Iterable[FeatureBatch], Any], Fit]
"""(model, batches, text_embedding) to a `Fit`.

All clips of the stage come, whole and with labels, each time that the batches are iterated over.

The text is as an `Objective` is given it.
"""

NewAuxiliaryFit = Callable[[Any, Any, Iterable[FeatureBatch], Any], Fit]
"""The same, behind an `AuxiliaryPart`."""

NewStartFit = Callable[[Any, Any, Any, Iterable[FeatureBatch], Any], Fit]
"""The same, behind a `StartPart` and an `AuxiliaryPart` or None."""


Drawn = tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"] | None]
"""Which clips a batch is made of, and which others stand against them."""


@runtime_checkable
class Stage(Protocol):
    """A model that learns: weights, and how to run the next epoch."""

    number: int
    model: nn.Module

    def learning_rate(self, epoch: int, scores: Sequence[float]) -> float:
        """Returns an epoch's learning rate, given the validation HM of the epochs before it."""
        ...

    def run_epoch(
        self, epoch: int, learning_rate: float, report: Report = unwatched
    ) -> dict[str, float]:
        """Learns for one epoch and returns what its record shows, `loss` first."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Returns copies of all tensors that the next epoch depends on, by name."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], epoch: int) -> None:
        """Takes up what `state` returned after an epoch."""
        ...


class _WithWeights:
    """What all stages have: a model, and its weights as their state."""

    def __init__(self, model: nn.Module, number: int, experiment: Experiment) -> None:
        self.model = model
        self.number = number
        self.experiment = experiment

    def learning_rate(self, epoch: int, scores: Sequence[float]) -> float:
        """Returns 0: nothing moves by steps."""
        return 0.0

    def state(self) -> dict[str, Tensor]:
        """Returns copies of the weights, by name."""
        return {f"model.{name}": t.clone() for name, t in self.model.state_dict().items()}

    def load_state(self, tensors: Mapping[str, Tensor], epoch: int) -> None:
        """Takes up what `state` returned after an epoch."""
        self.model.load_state_dict(_under("model.", tensors))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose name begins with a prefix, by the rest of their name."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


@runtime_checkable
class Chooses(Protocol):
    """A model that learns nothing, of which validation chooses one of several."""

    def choose(self, epoch: int) -> None:
        """Becomes the one of an epoch."""
        ...


class TrainingFreeStage(_WithWeights):
    """A model that has nothing to learn; an epoch is there to be validated.

    Args:
        model: already on its device.
        number: 1 or 2.
        experiment: all settings.
    """

    def run_epoch(
        self, epoch: int, learning_rate: float, report: Report = unwatched
    ) -> dict[str, float]:
        """Leaves the model as it is, or takes the epoch's choice (`Chooses`)."""
        if isinstance(self.model, Chooses):
            self.model.choose(epoch)
        return {"loss": 0.0}


class ClosedFormStage(_WithWeights):
    """A model solved in closed form: one regulariser an epoch.

    All clips are read once, when the first epoch is asked for; epoch `e` solves for the e-th
    regulariser, whatever came before it.

    Args:
        model: with initial weights, already on its device.
        part: what to fit.
        number: 1 or 2.
        experiment: all settings.
        new_fit: all clips to what solves for a regulariser.
    """

    def __init__(
        self,
        model: nn.Module,
        part: TrainingPart,
        number: int,
        experiment: Experiment,
        new_fit: NewFit,
    ) -> None:
        super().__init__(model, number, experiment)
        self.part = part
        self.new_fit = new_fit
        self.fit: Fit | None = None

    @torch.no_grad()
    def run_epoch(
        self, epoch: int, learning_rate: float, report: Report = unwatched
    ) -> dict[str, float]:
        """Solves for the epoch's regulariser and returns the training error."""
        if self.fit is None:
            self.model.eval()
            text = self.part.class_text.model_input
            size = self.experiment.evaluation.batch_size
            self.fit = self.new_fit(self.model, _AllClips(self.part, size, report), text)
        return self.fit.solve(epoch)

    def state(self) -> dict[str, Tensor]:
        """Returns nothing: an epoch depends on none before it."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor], epoch: int) -> None:
        """Solves the epoch again, which costs less than to keep each."""
        self.run_epoch(epoch, 0.0)


@dataclass(frozen=True)
class _AllClips:
    """The clips of a part in batches, read anew for each look."""

    part: TrainingPart
    batch_size: int
    report: Report

    def __iter__(self) -> Iterator[FeatureBatch]:
        chunks = list(in_chunks(len(self.part.rows), self.batch_size, self.part.spread))
        for number, chosen in enumerate(chunks, start=1):
            yield self.part.load(chosen)
            self.report(number, len(chunks), {})


def _means(names: Iterable[str], totals: Sequence[float], number: int) -> dict[str, float]:
    """Returns totals over so many batches as means, by name."""
    return {name: total / number for name, total in zip(names, totals, strict=True)}


class TrainingStep(nn.Module):
    """All that a training step computes, as one module's forward, which can be wrapped.

    Args:
        model: in training mode.
        objective: the loss on a batch.
        experiment: all settings.
    """

    def __init__(self, model: nn.Module, objective: Objective, experiment: Experiment) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.experiment = experiment

    def forward(
        self, batch: FeatureBatch, negatives: FeatureBatch | None, text: Any
    ) -> dict[str, Float[Tensor, ""]]:
        """Returns the terms of the loss by name."""
        with forward_in(self.experiment.training.precision, batch.audio.tokens.device):
            losses = self.objective(self.model, batch, negatives, text, self.experiment)
        return dict(losses.named)


class DescentStage(_WithWeights):
    """A model trained by descent: weights, optimiser, and how to run the next epoch.

    Args:
        model: with initial weights, already on its device.
        part: what to train on.
        number: 1 or 2; part of every random stream's name.
        experiment: all settings.
        objective: the loss on a batch.
        optimiser: of the model's weights.
        negatives: whether the objective is given clips of other classes too.
    """

    def __init__(
        self,
        model: nn.Module,
        part: TrainingPart,
        number: int,
        experiment: Experiment,
        objective: Objective,
        optimiser: Optimiser,
        *,
        negatives: bool,
    ) -> None:
        super().__init__(model, number, experiment)
        self.part = part
        self.negatives = negatives
        self.optimiser = optimiser
        self.sampler = Sampler(part.labels, experiment.training.sampling)
        self.step = TrainingStep(model, objective, experiment)
        self.rank = ranks.current()
        size = experiment.training.batch_size
        if size < self.rank.count:
            raise TCAFError(
                f"each of {self.rank.count} processes needs a clip of every batch; set "
                f"training.batch_size to at least as many, got {size}"
            )
        self.share = self.rank.share(size)
        # Gradients are averaged over ranks, whose shares may differ by a clip.
        self.weight = (self.share.stop - self.share.start) * self.rank.count / size
        if self.rank.count > 1:
            over_ranks(model)
        self.fixed: FixedSteps | None = None
        fixed = experiment.training.static_shapes
        if fixed and isinstance(model, TakesFilled) and model.takes_filled:
            if self.rank.count > 1:
                raise TCAFError(
                    "training.static_shapes is for one process alone: leave it out, or torchrun"
                )
            self.fixed = FixedSteps(self._losses, optimiser, model.modalities, part.device)

    @cached_property
    def on_all_ranks(self) -> nn.Module:
        """The step whose gradients are those of all ranks; made when all of them come to it."""
        if self.rank.count == 1:
            return self.step
        # A term may be switched off, or no clip of this rank's share have a modality. Buffers are
        # equal without being sent: batch norms take their statistics over all ranks.
        how: dict[str, Any] = {"find_unused_parameters": True, _SYNCS_BUFFERS: False}
        return DistributedDataParallel(self.step, **how)

    def learning_rate(self, epoch: int, scores: Sequence[float]) -> float:
        """Returns an epoch's learning rate, given the validation HM of the epochs before it."""
        return self.optimiser.schedule(epoch, scores)

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
        self.model.train()
        own = ("rank", self.rank.index) if self.rank.index else ()
        sums: dict[str, Tensor] = {}
        glimpse: tuple[int, Glimpse] | None = None
        with seeded(seed, "dropout", *purpose, *own), products_in(settings.precision):
            soon = generator(seed, "windows", *purpose)
            batches = self._expected(zip(drawn, others, strict=True), soon)
            for number, (chosen, other) in enumerate(batches, start=1):
                terms = self._descend(chosen, other, starts, learning_rate)
                for name, value in terms.items():
                    sums[name] = sums[name] + value if name in sums else value
                if number == len(drawn):
                    break
                if glimpse is None and number % SHOW_EVERY == 0:
                    glimpse = number, Glimpse(torch.stack(list(sums.values())))
                if glimpse is not None and glimpse[1].is_ready:
                    shown = glimpse[1].look()
                    report(glimpse[0], len(drawn), _means(sums, shown, glimpse[0]))
                    glimpse = None
        totals = torch.stack(list(sums.values()))
        ranks.add_up(totals)
        means = _means(sums, (totals / self.rank.count).tolist(), len(drawn))
        report(len(drawn), len(drawn), means)
        if not all(map(math.isfinite, means.values())):
            raise TCAFError(
                f"stage {self.number}, epoch {epoch}: the loss became {means['loss']}; lower "
                "training.learning_rate or check the features' scale (fidelity.audio_scaling)"
            )
        return means

    def _expected(self, batches: Iterable[Drawn], starts: torch.Generator) -> Iterator[Drawn]:
        """Yields batches, each while the clips of the one after it are read ahead."""
        before: Drawn | None = None
        for batch in batches:
            for chosen in batch:
                if chosen is not None:
                    self.part.expect(chosen, starts, self.share)
            if before is not None:
                yield before
            before = batch
        if before is not None:
            yield before

    def _descend(
        self,
        chosen: Int[np.ndarray, " batch"],
        others: Int[np.ndarray, " batch"] | None,
        starts: torch.Generator,
        learning_rate: float,
    ) -> dict[str, Float[Tensor, ""]]:
        """Takes a step and returns the terms of the loss, detached; `loss` is their sum."""
        batch = self.part.load(chosen, starts, self.share)
        if self.fixed is not None:
            return self.fixed.step(batch, learning_rate)
        negatives = None if others is None else self.part.load(others, starts, self.share)
        losses = self._losses(batch, negatives)
        self.optimiser.step(losses.total, learning_rate)
        return losses.terms()

    def _losses(self, batch: FeatureBatch, negatives: FeatureBatch | None = None) -> Losses:
        named = self.on_all_ranks(batch, negatives, self.part.class_text.model_input)
        return Losses({name: term * self.weight for name, term in named.items()})

    def state(self) -> dict[str, Tensor]:
        """Returns copies of the weights and of the optimiser's averages, by name."""
        averages = self.optimiser.state()
        return {**super().state(), **{f"optimiser.{name}": t for name, t in averages.items()}}

    def load_state(self, tensors: Mapping[str, Tensor], epoch: int) -> None:
        """Takes up what `state` returned after an epoch."""
        super().load_state(tensors, epoch)
        # Before there was a choice, the averages were named adam.<index>.<name>.
        self.optimiser.load_state(_under("adam.", tensors) or _under("optimiser.", tensors))
        if self.fixed is not None:
            # What was recorded writes into the averages of before.
            self.fixed.forget()
