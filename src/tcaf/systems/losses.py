"""The terms of training objectives, as pure functions.

Owns the arithmetic of TCaF's loss (Mercea et al. 2022, Eq. 15-18) and the terms that the systems
compared with it share. Knows nothing of models, batches or optimisers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.errors import TCAFError
from tcaf.settings.sections import ObjectiveSettings

SquaredError = Literal["mean", "sum"]


@dataclass(frozen=True)
class Losses:
    """One batch's loss: the plain sum of its terms.

    Args:
        named: the terms, at least one; a term that is switched off is not there.

    Raises:
        TCAFError: no term, or one called `loss`, which is the name of their sum.
    """

    named: Mapping[str, Float[Tensor, ""]]

    def __post_init__(self) -> None:
        if not self.named or "loss" in self.named:
            raise TCAFError(
                "a loss needs at least one term, none of them called 'loss' (their sum), got "
                f"{list(self.named)}"
            )

    @property
    def total(self) -> Float[Tensor, ""]:
        """What is minimised."""
        return reduce(torch.add, self.named.values())

    def terms(self) -> dict[str, Float[Tensor, ""]]:
        """Returns the total, as `loss`, and the terms by name, detached."""
        named = {"loss": self.total, **self.named}
        return {name: term.detach() for name, term in named.items()}


def cross_entropy(
    video_embedding: Float[Tensor, "batch joint_dim"],
    class_embedding: Float[Tensor, "num_classes joint_dim"],
    labels: Int[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Returns the cross-entropy of dot products between clips and classes (Eq. 16)."""
    return F.cross_entropy(video_embedding @ class_embedding.T, labels)


def squared_error(
    predicted: Float[Tensor, "batch dim"],
    target: Float[Tensor, "batch dim"],
    reduction: SquaredError = "mean",
) -> Float[Tensor, ""]:
    """Returns the squared error, averaged over clips.

    Args:
        predicted: one vector per clip.
        target: what it should be.
        reduction: over the elements of a vector: `mean` as in the release, `sum` as Eq. 17-18 read
            literally, which is `dim` times larger.
    """
    error = F.mse_loss(predicted, target)
    return error * predicted.shape[1] if reduction == "sum" else error


def triplets(
    anchor: Float[Tensor, "batch dim"],
    positive: Float[Tensor, "batch dim"],
    negative: Float[Tensor, "batch dim"],
    margin: float = 1.0,
) -> Float[Tensor, " batch"]:
    """Returns max(0, d(anchor, positive) - d(anchor, negative) + margin) of each row.

    d is the Euclidean distance of `torch.nn.functional.triplet_margin_loss`, which adds 1e-6 to
    each difference so that its gradient exists at 0.
    """
    return F.triplet_margin_loss(anchor, positive, negative, margin=margin, reduction="none")


def triplet(
    anchor: Float[Tensor, "batch dim"],
    positive: Float[Tensor, "batch dim"],
    negative: Float[Tensor, "batch dim"],
    margin: float = 1.0,
) -> Float[Tensor, ""]:
    """Returns the mean of `triplets` over the batch."""
    return triplets(anchor, positive, negative, margin).mean()


def tcaf_losses(
    video_embedding: Float[Tensor, "batch joint_dim"],
    video_reconstruction: Float[Tensor, "batch text_dim"],
    class_embedding: Float[Tensor, "num_classes joint_dim"],
    text_reconstruction: Float[Tensor, "num_classes text_dim"],
    text_embedding: Float[Tensor, "num_classes text_dim"],
    labels: Int[Tensor, " batch"],
    *,
    clip_class_embedding: Float[Tensor, "batch joint_dim"] | None = None,
    clip_text_reconstruction: Float[Tensor, "batch text_dim"] | None = None,
    terms: ObjectiveSettings = ObjectiveSettings(),  # noqa: B008 - frozen
    reduction: SquaredError = "mean",
) -> Losses:
    """Computes the objective l = l_ce + l_reg + l_rec (Eq. 15).

    Its terms are `cross_entropy` l_ce, `regression` l_reg and `reconstruction` l_rec.

    Args:
        video_embedding: theta_o.
        video_reconstruction: rho_o.
        class_embedding: theta_w of the seen classes of the stage.
        text_reconstruction: rho_w of the same classes.
        text_embedding: w of the same classes.
        labels: each clip's class, an index into them.
        clip_class_embedding: theta_w of each clip's class where it comes from a forward pass of its
            own, as in the release; by default it is taken from `class_embedding`.
        clip_text_reconstruction: rho_w likewise.
        terms: which terms are on.
        reduction: see `squared_error`.
    """
    if clip_class_embedding is None:
        clip_class_embedding = class_embedding[labels]
    if clip_text_reconstruction is None:
        clip_text_reconstruction = text_reconstruction[labels]
    named = {}
    if terms.cross_entropy:
        named["cross_entropy"] = cross_entropy(video_embedding, class_embedding, labels)
    if terms.regression:
        named["regression"] = squared_error(video_embedding, clip_class_embedding, reduction)
    if terms.reconstruction:
        target = text_embedding[labels]
        video = squared_error(video_reconstruction, target, reduction)
        text = squared_error(clip_text_reconstruction, target, reduction)
        named["reconstruction"] = video + text
    return Losses(named)
