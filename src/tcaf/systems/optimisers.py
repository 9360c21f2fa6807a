"""How gradients become steps: the optimiser, the schedule of its learning rate, clipping.

The learning rate of an epoch follows from its number and the validation scores before it, so that
a resumed stage needs no more than the records of its epochs and the optimiser's averages.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.settings.experiment import Experiment

Schedule = Callable[[int, Sequence[float]], float]
"""(epoch, scores) to the epoch's learning rate: epochs count from 1, and `scores` are the harmonic
means on validation of the stage's epochs before it."""


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


def new_schedule(experiment: Experiment) -> Schedule:
    """Returns the schedule that the settings ask for.

    The first `warmup_epochs` rise linearly: of two, one third and two thirds of `learning_rate`.
    What follows starts from all of it; the half cosine would reach 0 after the last epoch of
    stage 1, and the plateau does not look at the scores of the warm-up.
    """
    settings, patience = experiment.training, experiment.fidelity.plateau_epochs
    warmup, rate = settings.warmup_epochs, settings.learning_rate

    def schedule(epoch: int, scores: Sequence[float]) -> float:
        if epoch <= warmup:
            return rate * epoch / (warmup + 1)
        if settings.schedule == "plateau":
            return plateau_rate(scores[warmup:], rate, settings.plateau_factor, patience)
        if settings.schedule == "cosine":
            done = (epoch - 1 - warmup) / (settings.epochs - warmup)
            return rate * (1 + math.cos(math.pi * done)) / 2
        return rate

    return schedule


@dataclass(frozen=True)
class Optimiser:
    """An optimiser with its schedule.

    Args:
        steps: what turns gradients into steps; the learning rate that it was made with is not read.
        schedule: the learning rate of each epoch.
        clip_norm: gradients whose norm over all weights is larger are scaled down to it.
    """

    steps: torch.optim.Optimizer
    schedule: Schedule
    clip_norm: float | None = None

    def step(self, loss: Float[Tensor, ""], learning_rate: float) -> None:
        """Moves the weights a step down the loss."""
        self.steps.zero_grad()
        loss.backward()
        if self.clip_norm is not None:
            weights = [w for group in self.steps.param_groups for w in group["params"]]
            nn.utils.clip_grad_norm_(weights, self.clip_norm)
        for group in self.steps.param_groups:
            group["lr"] = learning_rate
        self.steps.step()

    def state(self) -> dict[str, Tensor]:
        """Returns copies of the running averages, as `<index of the weight>.<name>`."""
        return {
            f"{index}.{name}": value.clone()
            for index, averages in self.steps.state_dict()["state"].items()
            for name, value in averages.items()
            if value is not None  # SGD without momentum
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state` returned."""
        averages: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, average = name.split(".")
            # A copy: the optimiser keeps the tensor itself and writes into it.
            averages.setdefault(int(index), {})[average] = tensor.clone()
        groups = self.steps.state_dict()["param_groups"]
        self.steps.load_state_dict({"state": averages, "param_groups": groups})


NewOptimiser = Callable[[nn.Module, Experiment], Optimiser]


def new_optimiser(model: nn.Module, experiment: Experiment) -> Optimiser:
    """Returns the optimiser that the settings ask for."""
    settings = experiment.training
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser]
    steps = kind(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
        # A step that is recorded once is taken again without the CPU, which counts no steps then.
        capturable=settings.static_shapes and next(model.parameters()).is_cuda,
    )
    return Optimiser(steps, new_schedule(experiment), settings.clip_norm)
