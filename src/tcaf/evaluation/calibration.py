"""Whether probabilities are what they say: reliability in bins, and the error over all of them.

Owns the expected calibration error (Guo et al., ICML 2017, Eq. 3): clips are put into bins by the
probability of their best answer, and

    error = sum over bins of  share of the bin x |accuracy in it - mean probability in it|.

Each class counts alike, however many clips it has, as in S, in U and in the fit of the temperature.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

NUM_BINS = 15
"""Bins of equal width, as in the paper; the upper end of each belongs to it, the lower does not."""


@dataclass(frozen=True)
class Reliability:
    """How often answers are right, by the probability that they were given.

    Args:
        error: the expected calibration error, from 0 to 1.
        share: of the clips in each bin; they add up to 1.
        confidence: mean probability in each bin; 0 where it is empty.
        accuracy: share of right answers in each bin; 0 where it is empty.
    """

    error: float
    share: list[float]
    confidence: list[float]
    accuracy: list[float]


def reliability(
    confidence: Float[np.ndarray, " clips"],
    right: Bool[np.ndarray, " clips"],
    labels: Int[np.ndarray, " clips"],
) -> Reliability:
    """Returns how reliable probabilities are.

    Args:
        confidence: probability of each clip's best answer.
        right: whether that answer is right.
        labels: true class of each clip; the clips of one have the same weight together as those of
            another.
    """
    weights = 1 / np.bincount(labels)[labels]
    weights = weights / weights.sum()
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)

    def total(values: Float[np.ndarray, " clips"]) -> Float[np.ndarray, " bins"]:
        return np.bincount(bins, weights=values, minlength=NUM_BINS)

    return _reliability(total(weights), total(weights * confidence), total(weights * right))


def pooled(several: Sequence[Reliability]) -> Reliability:
    """Returns the reliability of several runs' answers taken together, each run counting alike."""
    share, confidence, accuracy = (
        np.array([getattr(one, name) for one in several])
        for name in ("share", "confidence", "accuracy")
    )
    sums = (share.mean(axis=0), (share * confidence).mean(axis=0), (share * accuracy).mean(axis=0))
    return _reliability(*sums)


def _reliability(
    share: Float[np.ndarray, " bins"],
    confidence: Float[np.ndarray, " bins"],
    right: Float[np.ndarray, " bins"],
) -> Reliability:
    """Returns the bins, given the sums of weights, of weighted probabilities and right answers."""
    there = np.where(share > 0, share, 1)
    return Reliability(
        float(np.abs(right - confidence).sum()),
        share.tolist(),
        (confidence / there).tolist(),
        (right / there).tolist(),
    )
