"""What is computed over the rows that all ranks of a training have together, with gradients.

Owns batch normalisation and the mean over the global batch, so that a batch split over ranks
(`execution.ranks`) gives what it gives on one. Works on any device; torch's own `SyncBatchNorm`
wants a GPU, and rows on every rank.
"""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tcaf.errors import TCAFError
from tcaf.execution import ranks

SINGLE_ROW = (
    "a training batch left a single sample in a batch norm, which has no statistics; use a larger "
    "batch_size, at least two classes, and clips with more than one token"
)


class _Gathered(torch.autograd.Function):
    """One row from each rank; the gradient of a row is the sum of what all ranks make of it."""

    @staticmethod
    def forward(ctx: Any, own: Float[Tensor, " n"]) -> Float[Tensor, "ranks n"]:
        return ranks.gathered_rows(own[None])

    @staticmethod
    def backward(ctx: Any, *gradients: Float[Tensor, "ranks n"]) -> Float[Tensor, " n"]:
        (gradient,) = gradients
        return ranks.add_up_rows(gradient)[ranks.current().index]


def of_each_rank(own: Float[Tensor, " n"]) -> Float[Tensor, "ranks n"]:
    """Returns the vectors of all ranks; gradients go back to the rank that each came from."""
    found: Tensor = _Gathered.apply(own)
    return found


def mean_over_ranks(values: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Returns the mean of the rows of all ranks; of this process's rows where it is alone."""
    if ranks.current().count == 1:
        return values.mean()
    count = values.new_full((), len(values))
    totals = of_each_rank(torch.stack([values.sum(), count])).sum(dim=0)
    return totals[0] / totals[1]


class RankBatchNorm(_BatchNorm):
    """Batch normalisation whose statistics are those of the rows of all ranks.

    Equal to torch's on the rows of all ranks together. A rank may have no rows, but comes here: all
    ranks run the same norms in the same order. Rows that are the same on all ranks, as those of
    class text are, count once.
    """

    @classmethod
    def of(cls, norm: _BatchNorm) -> "RankBatchNorm":
        """Returns one with the same weights and running statistics: the tensors themselves."""
        affine, tracking = norm.affine, norm.track_running_stats
        found = cls(norm.num_features, norm.eps, norm.momentum, affine, tracking)
        for name, own in {**norm._parameters, **norm._buffers}.items():
            setattr(found, name, own)
        found.train(norm.training)
        return found

    def _check_input_dim(self, input: Tensor) -> None:
        """Takes rows of any shape: the second axis has the features."""

    def forward(self, input: Shaped[Tensor, "rows dim *more"]) -> Tensor:
        """Normalises rows; refuses a single one on all ranks together, in training.

        Raises:
            TCAFError: there is only one.
        """
        if not self.training and self.track_running_stats:
            return super().forward(input)
        last = input.movedim(1, -1)
        rows = last.reshape(-1, last.shape[-1]).float()
        count, mean, var = self._statistics(rows)
        # The count is looked at, and waited for, where this rank alone does not know enough.
        if len(rows) < 2 and not self._is_enough(int(count)):
            return input.detach()
        keep_statistics(self, count, mean.detach(), var.detach())
        found = normalised(self, rows, mean, var)
        return found.to(input.dtype).view(last.shape).movedim(-1, 1)

    @staticmethod
    def _statistics(rows: Float[Tensor, "rows dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns how many rows there are on all ranks, their mean and their variance."""
        own = rows.sum(dim=0) / max(1, len(rows))
        spread = (rows - own).square().sum(dim=0)
        each = of_each_rank(torch.cat([rows.new_full((1,), len(rows)), own, spread]))
        counts, means, spreads = each.split([1, rows.shape[1], rows.shape[1]], dim=1)
        total = counts.sum().clamp_min(1)
        mean = (counts * means).sum(dim=0) / total
        var = (spreads + counts * (means - mean).square()).sum(dim=0) / total
        same = (each.detach() == each.detach()[:1]).all()
        return torch.where(same, counts[0, 0], counts.sum()).detach(), mean, var

    @staticmethod
    def _is_enough(count: int) -> bool:
        """Returns whether there are rows at all: on none there is nothing to take statistics of."""
        if count == 1:
            raise TCAFError(SINGLE_ROW)
        return count > 1


def keep_statistics(
    norm: _BatchNorm, count: Tensor, mean: Float[Tensor, " dim"], var: Float[Tensor, " dim"]
) -> None:
    """Moves the running statistics of a batch norm, as torch does.

    Args:
        norm: whose.
        count: of the rows.
        mean: of the rows, without a gradient.
        var: of the rows about it, likewise; over `count`, not one less.
    """
    if norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    with torch.no_grad():
        rate: Any = norm.momentum
        if rate is None:
            rate = 1 / norm.num_batches_tracked.to(mean.dtype)
        for running, now in (
            (norm.running_mean, mean),
            (norm.running_var, var * count / (count - 1)),
        ):
            assert running is not None, "these are there where batches are counted"
            running.add_(rate * (now - running))


def normalised(
    norm: _BatchNorm,
    rows: Float[Tensor, "rows dim"],
    mean: Float[Tensor, " dim"],
    var: Float[Tensor, " dim"],
) -> Float[Tensor, "rows dim"]:
    """Returns what a batch norm makes of rows by these statistics."""
    found = (rows - mean) * (var + norm.eps).rsqrt()
    return found * norm.weight + norm.bias if norm.affine else found


def over_ranks(model: nn.Module) -> nn.Module:
    """Lets a model's batch norms take statistics over all ranks; returns the model.

    Weights and the names of weights stay what they are.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, RankBatchNorm):
                setattr(module, name, RankBatchNorm.of(child))
    return model
