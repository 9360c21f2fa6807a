"""The calibration error: bins and weights by hand, and what it says of honest probabilities."""

import numpy as np
import pytest

from tcaf.evaluation.calibration import NUM_BINS, pooled, reliability


def test_four_clips_by_hand():
    """Two classes of one clip, one of two: the clips of a class share its third.

    Bins are a fifteenth wide: 0.95 and 0.97 lie in the last, 0.2 = 3/15 at the end of the third,
    0.21 in the fourth.
    """
    confidence = np.array([0.95, 0.97, 0.2, 0.21])
    right = np.array([True, False, True, False])
    found = reliability(confidence, right, np.array([0, 1, 2, 2]))
    share, mean, accuracy = (np.zeros(NUM_BINS) for _ in range(3))
    share[[14, 2, 3]] = 2 / 3, 1 / 6, 1 / 6
    mean[[14, 2, 3]] = 0.96, 0.2, 0.21
    accuracy[[14, 2, 3]] = 0.5, 1, 0
    assert found.share == pytest.approx(share)
    assert found.confidence == pytest.approx(mean)
    assert found.accuracy == pytest.approx(accuracy)
    assert found.error == pytest.approx(2 / 3 * 0.46 + 0.8 / 6 + 0.21 / 6)


def test_every_probability_has_a_bin():
    ends = np.array([0.0, 1.0, 1 + 1e-12])
    found = reliability(ends, np.array([False, True, True]), np.zeros(3, int))
    assert (found.share[0], found.share[-1]) == pytest.approx((1 / 3, 2 / 3))
    assert sum(found.share) == pytest.approx(1)


def test_honest_probabilities_have_no_error_and_others_as_much_as_they_lie():
    rng = np.random.default_rng(0)
    confidence = rng.random(100_000)
    labels = rng.integers(0, 7, 100_000)
    right = rng.random(100_000) < confidence
    assert reliability(confidence, right, labels).error < 0.01
    lying = np.sqrt(confidence)
    assert reliability(lying, right, labels).error == pytest.approx(
        np.mean(lying - confidence), abs=0.01
    )


def test_runs_of_equal_clips_are_pooled_as_their_clips():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 5
    runs = [(rng.random(60), rng.random(60) < 0.5, labels) for _ in range(3)]
    found = pooled([reliability(*run) for run in runs])
    joined = reliability(*(np.concatenate(part) for part in zip(*runs, strict=True)))
    for name in ("share", "confidence", "accuracy", "error"):
        assert getattr(found, name) == pytest.approx(getattr(joined, name))
