"""Ranked answers: their records, and how they follow from distances.

Owns the order of equals. What computes distances is `classifier`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.answers.evidence import Alone, Neighbour
from tcaf.data.features import Modality


@dataclass(frozen=True)
class Answer:
    """One candidate class of one clip.

    Args:
        name: of the class, as it was given.
        distance: from the clip in the joint space, before gamma; of a mixture of models the
            negative logarithm of the probability.
        probability: that this class is right if one of the candidates is; None if the model holds
            no temperature.
        seen: whether the model was trained on the class.
        alone: what sound and picture say of the class apart, where that was asked for; empty where
            the clip or the model does not have both.
    """

    name: str
    distance: float
    probability: float | None
    seen: bool
    alone: Mapping[Modality, Alone] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the answer as JSON values."""
        found: dict[str, Any] = {
            "class": self.name,
            "probability": self.probability,
            "distance": self.distance,
            "seen": self.seen,
        }
        if self.alone is not None:
            found["alone"] = {modality: asdict(each) for modality, each in self.alone.items()}
        return found


@dataclass(frozen=True)
class Ranking:
    """The best answers for one clip.

    Args:
        id: of the clip; the path of a file.
        answers: best first, by distance plus gamma where seen.
        names: all candidates that are not ruled out, in the order of the answers; empty for none of
            them, None where no set was asked for.
        nearest: classes of the training, the nearest first, where they were asked for.
    """

    id: str
    answers: tuple[Answer, ...]
    names: tuple[str, ...] | None = None
    nearest: tuple[Neighbour, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the ranking as JSON values."""
        ranked = enumerate(self.answers, start=1)
        found = {"id": self.id, "answers": [{"rank": r, **a.to_json()} for r, a in ranked]}
        if self.names is not None:
            found["set"] = list(self.names)
        if self.nearest is not None:
            found["nearest_training"] = [
                {"class": each.name, "distance": each.distance} for each in self.nearest
            ]
        return found


@dataclass(frozen=True)
class Scores:
    """What a model says of clips and candidates.

    Args:
        distances: of clips from candidates.
        added: the same with gamma on those of seen classes, by which they are ranked.
        probabilities: None for a model without a temperature.
    """

    distances: Float[Tensor, "clips num_classes"]
    added: Float[Tensor, "clips num_classes"]
    probabilities: Float[Tensor, "clips num_classes"] | None


def ranked_columns(
    scores: Scores, names: Sequence[str], seen: Sequence[int]
) -> Int[np.ndarray, "clips num_classes"]:
    """Returns the candidates of each clip, best first.

    Of equals a seen class comes first, as at evaluation; then names decide, not their order.

    Args:
        scores: of clips and candidates.
        names: of the candidates.
        seen: columns of those that the model was trained on.
    """
    unseen = np.ones(len(names), bool)
    unseen[list(seen)] = False
    by_name = np.argsort(np.argsort(np.array(names), kind="stable"))
    added = scores.added.numpy()
    ties = (np.broadcast_to(key, added.shape) for key in (by_name, unseen))
    return np.lexsort((*ties, added), axis=1)


def rankings(
    ids: Sequence[str],
    ranked: Int[np.ndarray, "clips num_answers"],
    scores: Scores,
    names: Sequence[str],
    seen: Sequence[int],
) -> list[Ranking]:
    """Returns the answers of each clip.

    Args:
        ids: of the clips.
        ranked: columns of the answers of each, best first.
        scores: of clips and candidates.
        names: of the candidates.
        seen: columns of those that the model was trained on.
    """
    known = frozenset(seen)
    distances, chances = scores.distances, scores.probabilities
    return [
        Ranking(
            id_,
            tuple(
                Answer(
                    names[column],
                    float(distances[clip, column]),
                    None if chances is None else float(chances[clip, column]),
                    column in known,
                )
                for column in ranked[clip].tolist()
            ),
        )
        for clip, id_ in enumerate(ids)
    ]
