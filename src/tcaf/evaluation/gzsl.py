"""Generalised zero-shot evaluation: calibrated stacking, S, U, HM, ZSL, the seen-unseen curve.

Owns the arithmetic from distances to scores and to probabilities, vectorised over clips, classes
and gammas. Knows nothing of models, clips or files.

Calibrated stacking (Chao et al., ECCV 2016) adds gamma to the distance of every seen class. Which
gamma a clip switches at depends on two numbers alone, its distances from the nearest seen and the
nearest unseen class; `Decisions` keeps those, and every score follows from them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcaf.errors import TCAFError
from tcaf.evaluation.calibration import Reliability
from tcaf.systems.blocks import euclidean_distances

GAMMAS: tuple[float, ...] = tuple(round(0.2 * i, 1) for i in range(16))
"""The paper's grid: 0 to 3 in steps of 0.2."""

Ids = Sequence[int] | Int[np.ndarray, " _"] | Int[Tensor, " _"]


class GammaOnEdgeWarning(UserWarning):
    """The best gamma is the first or last of the grid: a wider grid may do better."""


@dataclass(frozen=True)
class Decisions:
    """What calibrated stacking decides between, for each clip.

    Args:
        labels: true class.
        is_seen: whether the true class is a seen one.
        margin: distance of the nearest unseen class minus that of the nearest seen class; the clip
            is called unseen when gamma exceeds it.
        nearest_seen: the nearest seen class.
        nearest_unseen: the nearest unseen class.
        num_classes: how many classes there are.
    """

    labels: Int[np.ndarray, " clips"]
    is_seen: Bool[np.ndarray, " clips"]
    margin: Float[np.ndarray, " clips"]
    nearest_seen: Int[np.ndarray, " clips"]
    nearest_unseen: Int[np.ndarray, " clips"]
    num_classes: int

    @property
    def empty_half(self) -> Literal["seen", "unseen"] | None:
        """The half that no clip is of; None if both have clips."""
        if self.is_seen.all():
            return "unseen"
        return None if self.is_seen.any() else "seen"

    @cached_property
    def weights(self) -> Float[np.ndarray, " clips"]:
        """Each clip's share in the mean class accuracy of its half: 1 / (clips x classes)."""
        counts = np.bincount(self.labels, minlength=self.num_classes)
        share = 1.0 / counts[self.labels]
        for half in (self.is_seen, ~self.is_seen):
            share[half] /= max(len(np.unique(self.labels[half])), 1)
        return share

    def predicted(self, gamma: float) -> Int[np.ndarray, " clips"]:
        """Returns the predicted class of each clip."""
        return np.where(self.margin >= gamma, self.nearest_seen, self.nearest_unseen)

    def seen_unseen(
        self, gammas: Float[np.ndarray, " num_gammas"]
    ) -> tuple[Float[np.ndarray, " num_gammas"], Float[np.ndarray, " num_gammas"]]:
        """Returns S and U at each gamma; NaN for a half that has no clips."""
        scores = []
        for half, nearest, called_seen in (
            (self.is_seen, self.nearest_seen, True),
            (~self.is_seen, self.nearest_unseen, False),
        ):
            right = half & (nearest == self.labels)
            switched = (self.margin[right] >= gammas[:, None]) == called_seen
            score = switched @ self.weights[right]
            scores.append(score if half.any() else np.full(len(gammas), np.nan))
        return scores[0], scores[1]

    def zsl(self) -> float:
        """Returns the mean class accuracy of unseen clips among unseen classes; NaN without any."""
        if self.empty_half == "unseen":
            return float("nan")
        right = ~self.is_seen & (self.nearest_unseen == self.labels)
        return float(self.weights[right].sum())

    def curve(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Returns S and U between all gammas at which a clip switches, in the order of gamma."""
        margins, switch = np.unique(self.margin, return_inverse=True)
        changes = []
        for half, nearest in (
            (self.is_seen, self.nearest_seen),
            (~self.is_seen, self.nearest_unseen),
        ):
            share = np.where(half & (nearest == self.labels), self.weights, 0.0)
            change = np.cumsum(np.bincount(switch, weights=share, minlength=len(margins)))
            changes.append(np.concatenate([[0.0], change]))
        return changes[0][-1] - changes[0], changes[1]


def join_decisions(parts: Sequence[Decisions]) -> Decisions:
    """Returns the decisions about several batches of clips as one, in their order."""
    return Decisions(
        labels=np.concatenate([part.labels for part in parts]),
        is_seen=np.concatenate([part.is_seen for part in parts]),
        margin=np.concatenate([part.margin for part in parts]),
        nearest_seen=np.concatenate([part.nearest_seen for part in parts]),
        nearest_unseen=np.concatenate([part.nearest_unseen for part in parts]),
        num_classes=parts[0].num_classes,
    )


@dataclass(frozen=True)
class GZSLResult:
    """Scores as fractions. Per-class scores, confusion and curve are computed when asked for.

    Args:
        seen: S, mean class accuracy of clips of seen classes among all classes.
        unseen: U, the same for unseen classes.
        harmonic_mean: HM of both.
        zsl: mean class accuracy of unseen clips among unseen classes alone.
        gamma: what was added to the distance of seen classes.
        gamma_on_edge: gamma was searched for, and is the first or last of a fixed grid.
        decisions: what all scores follow from.
        reliability: of the probabilities of the best answers, where those were asked for.
    """

    seen: float
    unseen: float
    harmonic_mean: float
    zsl: float
    gamma: float
    gamma_on_edge: bool
    decisions: Decisions
    reliability: Reliability | None = None

    @cached_property
    def per_class_accuracy(self) -> Float[np.ndarray, " num_classes"]:
        """Accuracy of each class's clips at `gamma`; NaN for a class without clips."""
        confusion = self.confusion
        counts = confusion.sum(axis=1)
        right = confusion.diagonal().astype(float)
        return np.divide(right, counts, out=np.full(len(counts), np.nan), where=counts > 0)

    @cached_property
    def confusion(self) -> Int[np.ndarray, "num_classes num_classes"]:
        """Number of clips of each true class (row) by predicted class (column) at `gamma`."""
        num = self.decisions.num_classes
        cells = self.decisions.labels * num + self.decisions.predicted(self.gamma)
        return np.bincount(cells, minlength=num * num).reshape(num, num)

    @cached_property
    def curve(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """The whole seen-unseen curve: S falling, U rising with gamma (Chao et al. 2016)."""
        return self.decisions.curve()

    @property
    def curve_area(self) -> float:
        """Area under the seen-unseen curve, S over U; NaN where one half has no clips."""
        if self.decisions.empty_half:
            return float("nan")
        seen, unseen = self.curve
        return float(np.trapezoid(seen, unseen))

    def scores(self) -> dict[str, float | bool]:
        """Returns the fields that a table or a JSON record shows."""
        return {
            "seen": self.seen,
            "unseen": self.unseen,
            "harmonic_mean": self.harmonic_mean,
            "zsl": self.zsl,
            "gamma": self.gamma,
            "gamma_on_edge": self.gamma_on_edge,
        }


def harmonic_mean(
    seen: Float[np.ndarray, " n"], unseen: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Returns 2 S U / (S + U), 0 where both are 0."""
    total = seen + unseen
    return np.divide(2 * seen * unseen, total, out=np.zeros_like(total), where=total != 0)


def class_ids(ids: Ids, num_classes: int, what: str) -> Int[np.ndarray, " num_ids"]:
    """Returns indices of classes as an array.

    Raises:
        TCAFError: one is no index of a class.
    """
    # A copy: torch takes no reversed or read-only view.
    array = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids, np.int64).copy()
    if array.ndim != 1 or (len(array) and not (array.min() >= 0 and array.max() < num_classes)):
        raise TCAFError(f"{what} must be class indices in 0..{num_classes - 1}, got {array}")
    return array


def decide(
    distances: Float[Tensor, "clips num_classes"],
    labels: Int[Tensor, " clips"],
    *,
    seen: Ids,
    unseen: Ids,
) -> Decisions:
    """Reduces distances to what every score follows from.

    Args:
        distances: of each clip from each class.
        labels: true class of each clip, an index into the columns.
        seen: columns of the seen classes.
        unseen: columns of the unseen classes.

    Raises:
        TCAFError: no clip, a NaN distance, a class in both halves or none in one of them, or a
            clip whose class is in neither half.
    """
    num_classes = distances.shape[1]
    seen, unseen = class_ids(seen, num_classes, "seen"), class_ids(unseen, num_classes, "unseen")
    if not len(distances):
        raise TCAFError("nothing to evaluate: there are no clips")
    if not len(seen) or not len(unseen):
        raise TCAFError(
            f"generalised zero-shot evaluation needs seen and unseen classes, got {len(seen)} "
            f"seen and {len(unseen)} unseen"
        )
    if both := sorted(set(seen.tolist()) & set(unseen.tolist())):
        raise TCAFError(f"classes {both} are both seen and unseen")
    broken = ~distances.isfinite().all(dim=1)
    if bool(broken.any()):
        clip = int(broken.nonzero()[0])
        raise TCAFError(
            f"clip {clip} has a NaN or infinite distance: the model has diverged, or its input is "
            "not finite"
        )
    true = class_ids(labels, num_classes, "labels")
    is_seen = np.isin(true, seen)
    strangers = ~is_seen & ~np.isin(true, unseen)
    if strangers.any():
        raise TCAFError(f"label {true[strangers][0]} is neither a seen nor an unseen class")
    seen_min = distances[:, torch.from_numpy(seen)].min(dim=1)
    unseen_min = distances[:, torch.from_numpy(unseen)].min(dim=1)
    margin = unseen_min.values.double() - seen_min.values.double()
    return Decisions(
        labels=true,
        is_seen=is_seen,
        margin=margin.cpu().numpy(),
        nearest_seen=seen[seen_min.indices.cpu().numpy()],
        nearest_unseen=unseen[unseen_min.indices.cpu().numpy()],
        num_classes=num_classes,
    )


def margin_gammas(decisions: Decisions) -> tuple[float, ...]:
    """Returns gammas over the range in which clips switch, in round steps of about a hundredth.

    The range leaves out the outermost hundredth of the clips' margins at either end.
    """
    low, high = np.quantile(decisions.margin, [0.01, 0.99])
    if high <= low:
        return (float(low),)
    exponent = np.floor(np.log10((high - low) / 100))
    steps = np.array([1, 2, 5, 10]) * 10.0**exponent
    step = steps[np.searchsorted(steps, (high - low) / 100)]
    first, last = np.floor(low / step), np.ceil(high / step)
    return tuple(np.round(np.arange(first, last + 1) * step, 1 - int(exponent)).tolist())


def score(
    decisions: Decisions, *, gamma: float | None = None, gammas: Sequence[float] | None = GAMMAS
) -> GZSLResult:
    """Scores decisions at one gamma, or at the best of a grid.

    Args:
        decisions: from `decide`.
        gamma: what to add to the distance of seen classes; None searches `gammas` for the best HM
            (the smallest of equals).
        gammas: the grid, ascending; None takes that of `margin_gammas`.

    Raises:
        TCAFError: gamma is to be searched for, but one half has no clips and HM no meaning.
    """
    if gamma is not None and not np.isfinite(gamma):
        raise TCAFError(f"gamma must be a finite number, got {gamma}")
    if gamma is None and (missing := decisions.empty_half):
        raise TCAFError(
            "searching for gamma needs clips of seen and of unseen classes, and there are none of "
            f"{missing} ones"
        )
    # Margins end where hardly a clip switches any more: beyond them there is nothing to find.
    has_edge = gamma is None and gammas is not None and len(gammas) > 1
    if gammas is None:
        gammas = margin_gammas(decisions)
    grid = np.array(gammas if gamma is None else [gamma], float)
    seen, unseen = decisions.seen_unseen(grid)
    means = harmonic_mean(seen, unseen)
    best = 0 if gamma is not None else int(means.argmax())
    return GZSLResult(
        seen=float(seen[best]),
        unseen=float(unseen[best]),
        harmonic_mean=float(means[best]),
        zsl=decisions.zsl(),
        gamma=float(grid[best]),
        gamma_on_edge=has_edge and best in (0, len(grid) - 1),
        decisions=decisions,
    )


def warn_if_on_edge(result: GZSLResult) -> None:
    """Warns if gamma was searched for and the best one lies on the edge of its grid."""
    if result.gamma_on_edge:
        warnings.warn(
            f"the best gamma, {result.gamma:g}, lies on the edge of the grid searched; "
            "a wider grid (gammas) may give a better harmonic mean",
            GammaOnEdgeWarning,
            stacklevel=2,
        )


def evaluate(
    video_embeddings: Float[Tensor, "clips dim"],
    class_embeddings: Float[Tensor, "num_classes dim"],
    labels: Int[Tensor, " clips"],
    *,
    seen: Ids,
    unseen: Ids,
    gamma: float | None = None,
    gammas: Sequence[float] = GAMMAS,
) -> GZSLResult:
    """Evaluates clips against classes by Euclidean distance (Eq. 14, Chao et al. 2016).

    Args:
        video_embeddings: theta_o of each clip.
        class_embeddings: theta_w of each class.
        labels: true class of each clip, an index into `class_embeddings`.
        seen: indices of the seen classes.
        unseen: indices of the unseen classes.
        gamma: what to add to the distance of seen classes; None searches `gammas` for the best HM.
        gammas: the grid.

    Returns:
        Scores as fractions; a searched gamma on the edge of the grid is marked and warned of.

    Raises:
        TCAFError: see `decide` and `score`.
    """
    distances = euclidean_distances(video_embeddings, class_embeddings)
    decisions = decide(distances, labels, seen=seen, unseen=unseen)
    result = score(decisions, gamma=gamma, gammas=gammas)
    warn_if_on_edge(result)
    return result
