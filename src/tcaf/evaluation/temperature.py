"""From distances to probabilities: calibrated stacking as a softmax, and its temperature."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.errors import TCAFError
from tcaf.evaluation.gzsl import Ids, class_ids

SHARPEST = 1e3
"""A temperature lies within this factor of the distances' own scale, both ways: where every clip is
right, or distances tell nothing, the likelihood alone would have it go to 0 or to infinity."""


def calibrated(
    distances: Float[Tensor, "clips num_classes"], *, seen: Ids, gamma: float
) -> Float[Tensor, "clips num_classes"]:
    """Returns distances as doubles, with gamma added to those of seen classes."""
    added = distances.new_zeros(distances.shape[1], dtype=torch.float64)
    added[torch.from_numpy(class_ids(seen, distances.shape[1], "seen"))] = gamma
    return distances.double() + added


def probabilities(
    distances: Float[Tensor, "clips num_classes"], *, seen: Ids, gamma: float, temperature: float
) -> Float[Tensor, "clips num_classes"]:
    """Returns softmax(-(distance + gamma if seen) / temperature) over the classes, as doubles.

    The classes must be all candidates: one of them is taken to be right.
    """
    return (-calibrated(distances, seen=seen, gamma=gamma) / temperature).softmax(dim=1)


def fit_temperature(
    distances: Float[Tensor, "clips num_classes"],
    labels: Int[Tensor, " clips"],
    *,
    seen: Ids,
    gamma: float,
) -> float:
    """Returns the temperature at which `probabilities` are most likely to give the true classes.

    The mean negative log likelihood is convex in 1 / temperature (Guo et al., ICML 2017), so its
    minimum is where the slope is 0. Each class counts alike, however many clips it has, as in S and
    U. It keeps to a factor `SHARPEST` of the mean span of a clip's distances; where all distances
    of each clip are equal no temperature is better than another, and it is 1.

    Args:
        distances: of each clip from each class.
        labels: true class of each clip, an index into the columns.
        seen: columns of the seen classes.
        gamma: what is added to the distances of seen classes.

    Raises:
        TCAFError: there are no clips, or a distance is NaN or infinite.
    """
    if not len(distances) or not bool(distances.isfinite().all()):
        raise TCAFError("a temperature is fitted to finite distances of at least one clip")
    true = torch.from_numpy(class_ids(labels, distances.shape[1], "labels"))
    added = calibrated(distances.cpu(), seen=seen, gamma=gamma)
    span = float((added.amax(dim=1) - added.amin(dim=1)).mean())
    if span == 0:
        return 1.0
    # How much nearer than the true class each class is.
    lead = (added.gather(1, true[:, None]) - added) / span
    weights = 1 / torch.bincount(true)[true].double()
    weights = weights / weights.sum()

    def slope(sharpness: float) -> tuple[float, float]:
        shares = (sharpness * lead).softmax(dim=1)
        mean = (shares * lead).sum(dim=1)
        variance = (shares * (lead - mean[:, None]).square()).sum(dim=1)
        return float(weights @ mean), float(weights @ variance)

    return span / _rising_root(slope, 1 / SHARPEST, SHARPEST)


def _rising_root(slope: Callable[[float], tuple[float, float]], low: float, high: float) -> float:
    """Returns where a rising function is 0, to rounding, or the end of low..high nearest to that.

    Newton's steps, and halving (in the logarithm) where one leaves the bracket or gains too little.

    Args:
        slope: the function and its derivative.
        low: positive.
        high: beyond `low`.
    """
    if slope(low)[0] >= 0:
        return low
    if slope(high)[0] <= 0:
        return high
    point, last = math.sqrt(low * high), math.inf
    for _ in range(200):
        value, rise = slope(point)
        low, high = (point, high) if value < 0 else (low, point)
        new = point - value / rise if rise > 0 else -1.0
        if not low < new < high or abs(new - point) > last / 2:
            new = math.sqrt(low * high)
        last, point = abs(new - point), new
        if last <= 1e-12 * point:
            break
    return point
