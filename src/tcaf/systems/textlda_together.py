"""Class vectors that move to where the clips of a batch are.

Owns the arithmetic of answering many clips at once: soft k-means on the sphere, begun at a model's
class vectors u0 and held there by the clips that each was learnt from. With unit vectors z_i of
clips and u_c of classes, in each round

    r_ic = softmax_c((z_i . u_c - added_c) / 0.03),
    u_c  = unit((n_c + 60) b u0_c + sum_i r_ic z_i),

n_c training clips, 0 of an unseen class, and b = sum_c |sum_i r_ic z_i| / clips, how long the mean
of a class's clips is: a clip of the training then counts as much as one of the batch.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ROUNDS = 10
SHARPNESS = 0.03
"""Temperature of the shares r."""

TRUST = 60.0
"""Clips that a class vector is worth beside those that it was learnt from."""


def moved(
    clips: Sequence[Float[Tensor, "_ dim"]],
    classes: Float[Tensor, "num_classes dim"],
    counts: Float[Tensor, " num_classes"],
    added: Float[Tensor, " num_classes"],
) -> Float[Tensor, "num_classes dim"]:
    """Returns the class vectors after ten rounds.

    Args:
        clips: unit vectors in pieces, one of which is looked at in one go, to bound memory.
        classes: unit vectors, where classes are before.
        counts: n, clips that each class was learnt from.
        added: gamma where a class is held back, else 0.
    """
    num_clips = sum(map(len, clips))
    now = classes
    for _ in range(ROUNDS if num_clips else 0):
        total = classes.new_zeros(classes.shape)
        for z in clips:
            shares = ((z @ now.T - added) / SHARPNESS).softmax(dim=1)
            total.addmm_(shares.T, z)
        length = total.norm(dim=1).sum() / num_clips
        now = F.normalize((counts + TRUST)[:, None] * length * classes + total, dim=1)
    return now
