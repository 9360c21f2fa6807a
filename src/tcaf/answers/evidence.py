"""Why an answer is what it is: what each modality says alone, and which training classes are near.

Owns the records of it, and how they follow from distances. What computes those is `classifier`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

NEIGHBOURS = 5
"""Training classes that are named of each clip."""


@dataclass(frozen=True)
class Alone:
    """What one modality of a clip says of a candidate, without the other.

    Args:
        distance: of what is left of the clip from the class; 1 less the similarity for systems
            that compare by the cosine, as TextLDA.
        rank: of the class among the candidates by that alone, from 1.
    """

    distance: float
    rank: int


@dataclass(frozen=True)
class Neighbour:
    """A class of the training, and how far a clip is from it.

    Args:
        name: of the class.
        distance: in the joint space, before gamma.
    """

    name: str
    distance: float


def nearest(
    distances: Float[Tensor, "clips num_training"], names: Sequence[str]
) -> list[tuple[Neighbour, ...]]:
    """Returns the nearest classes of the training for each clip, the nearest first."""
    order = np.argsort(distances.numpy(), axis=1, kind="stable")[:, :NEIGHBOURS]
    return [
        tuple(Neighbour(names[column], float(distances[clip, column])) for column in columns)
        for clip, columns in enumerate(order.tolist())
    ]


def alone(
    distances: Float[Tensor, " num_classes"], added: Float[Tensor, " num_classes"]
) -> list[Alone]:
    """Returns what one modality of a clip says of each candidate.

    Args:
        distances: from the candidates.
        added: the same with gamma on seen classes, by which they are ranked.
    """
    ranks = np.argsort(np.argsort(added.numpy(), kind="stable")) + 1
    return [
        Alone(distance, rank)
        for distance, rank in zip(distances.tolist(), ranks.tolist(), strict=True)
    ]
