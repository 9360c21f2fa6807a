"""Sets of names that leave out the true one in a given share of the clips, possibly empty ones.

Owns split conformal prediction (Papadopoulos et al. 2002; Vovk et al. 2005). How strange a class is
for a clip is how much farther the clip is from it than from the classes of the training, taken
together,

    strangeness(clip, class) = distance + T log sum over training classes of exp(-distance / T),

with T the temperature. It depends on the clip, the class and the model, and not on which other
classes may be chosen, so that lists of any length have the same threshold; and a clip that is far
from every candidate, or nearer to something else, has none left.

Validation clips say how strange true classes are. Seen and unseen classes have a threshold each: of
n clips the k-th smallest, k = ceil((n + 1) (1 - allowed)). If a clip and the validation clips of
its half are exchangeable, its true class, if it is a candidate, is left out with a probability of
at most `allowed`, whatever the model and the mix of the halves.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcaf.errors import TCAFError
from tcaf.evaluation.gzsl import Ids, class_ids

HALVES = ("seen", "unseen")

NOT_TOGETHER = (
    "--abstain and --together exclude each other: sets rest on validation clips that were answered "
    "one by one; give one of them"
)


@dataclass(frozen=True)
class Conformity:
    """How strange the true classes of validation clips were, ascending.

    Args:
        seen: of clips of seen classes.
        unseen: of clips of unseen classes.
    """

    seen: Float[np.ndarray, " seen_clips"]
    unseen: Float[np.ndarray, " unseen_clips"]

    def thresholds(self, allowed: float) -> tuple[float, float]:
        """Returns how strange a seen, and an unseen class may be to stay in the set.

        Args:
            allowed: share of the clips whose true class may be left out.

        Raises:
            TCAFError: it is no share, or there are too few validation clips for so small a one.
        """
        if not 0 < allowed < 1:
            raise TCAFError(
                "abstain is the share of wrong answers that is allowed: expected a number between "
                f"0 and 1 such as 0.05, got {allowed:g}"
            )
        found = []
        for half in HALVES:
            scores = getattr(self, half)
            # The small number is for rounding: 20 x (1 - 0.05) is to be 19.
            rank = math.ceil((len(scores) + 1) * (1 - allowed) - 1e-9)
            if rank > len(scores):
                least = math.ceil(1e4 / (len(scores) + 1)) / 1e4
                raise TCAFError(
                    f"the run has {len(scores)} validation clips of {half} classes, which can "
                    f"vouch for an abstain of {least:g} or more, got {allowed:g}"
                )
            found.append(float(scores[max(rank, 1) - 1]))
        return found[0], found[1]


def strangeness(
    distances: Float[Tensor, "clips num_classes"],
    training: Float[Tensor, "clips num_training"],
    temperature: float,
) -> Float[Tensor, "clips num_classes"]:
    """Returns how strange each class is for each clip, as doubles.

    Args:
        distances: of each clip from each class.
        training: of each clip from each class of the training.
        temperature: of probabilities.
    """
    near = temperature * (-training.double() / temperature).logsumexp(dim=1, keepdim=True)
    return distances.double() + near


def conformity(
    distances: Float[Tensor, "clips num_classes"],
    labels: Int[Tensor, " clips"],
    *,
    seen: Ids,
    temperature: float,
) -> Conformity:
    """Returns how strange the true classes of validation clips are.

    Args:
        distances: of each clip from each class.
        labels: true class of each clip, an index into the columns.
        seen: columns of the seen classes.
        temperature: of probabilities.
    """
    columns = torch.from_numpy(class_ids(seen, distances.shape[1], "seen"))
    found = strangeness(distances, distances[:, columns], temperature)
    own = found.gather(1, labels[:, None]).squeeze(dim=1)
    is_seen = torch.isin(labels, columns)
    halves = (own[is_seen].sort().values.numpy(), own[~is_seen].sort().values.numpy())
    return Conformity(*halves)


def answer_sets(
    strange: Float[Tensor, "clips num_classes"], seen: Ids, thresholds: tuple[float, float]
) -> Bool[Tensor, "clips num_classes"]:
    """Returns which classes are in each clip's set.

    Args:
        strange: from `strangeness`.
        seen: columns of the seen classes.
        thresholds: from `Conformity.thresholds`.
    """
    most = strange.new_full((strange.shape[1],), thresholds[1])
    most[torch.from_numpy(class_ids(seen, strange.shape[1], "seen"))] = thresholds[0]
    return strange <= most


@dataclass(frozen=True)
class Coverage:
    """How sets fared on clips whose class is known.

    Args:
        allowed: share of the clips whose true class might be left out.
        seen: share of the clips of seen classes whose set holds the true one; NaN without any.
        unseen: the same of unseen classes.
        size: mean number of names in a set.
        single: share of the sets that hold one name.
        empty: share of the sets that hold none.
    """

    allowed: float
    seen: float
    unseen: float
    size: float
    single: float
    empty: float


def coverage(
    sets: Bool[Tensor, "clips num_classes"],
    labels: Int[Tensor, " clips"],
    seen: Ids,
    allowed: float,
) -> Coverage:
    """Returns how sets fared; every clip counts alike, as in what they promise.

    Args:
        sets: from `answer_sets`.
        labels: true class of each clip.
        seen: columns of the seen classes.
        allowed: what the sets were made for.
    """
    hit = sets.gather(1, labels[:, None]).squeeze(dim=1).double()
    is_seen = torch.isin(labels, torch.from_numpy(class_ids(seen, sets.shape[1], "seen")))
    sizes = sets.sum(dim=1)
    return Coverage(
        allowed,
        float(hit[is_seen].mean()),
        float(hit[~is_seen].mean()),
        float(sizes.double().mean()),
        float((sizes == 1).double().mean()),
        float((sizes == 0).double().mean()),
    )
