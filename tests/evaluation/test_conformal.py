"""Sets of answers: by hand, what they promise by counting, and what is no promise."""

import math

import numpy as np
import pytest
import torch

from tcaf.errors import TCAFError
from tcaf.evaluation.conformal import (
    Conformity,
    answer_sets,
    conformity,
    coverage,
    strangeness,
)

SEEN = [0, 1, 2, 3]
UNSEEN = [4, 5, 6]


def test_strangeness_by_hand():
    """At temperature 1 / ln 2 a distance d weighs 2^-d: 1 and 2 weigh 1/2 + 1/4, log2 = -0.415."""
    distances = torch.tensor([[1.0, 2.0, 5.0]])
    found = strangeness(distances, distances[:, :2], 1 / math.log(2))
    near = math.log2(0.75)
    assert found[0].tolist() == pytest.approx([1 + near, 2 + near, 5 + near])
    # A single class of the training is its own neighbourhood.
    assert strangeness(distances, distances[:, 1:2], 0.01)[0].tolist() == pytest.approx([-1, 0, 3])


def test_halves_are_told_apart_by_the_true_class():
    distances = torch.tensor([[0.5, 3.0], [3.0, 1.0], [2.5, 3.0]])
    found = conformity(distances, torch.tensor([0, 1, 0]), seen=[0], temperature=0.1)
    # From the only class of the training a seen clip is 0 away.
    assert found.seen.tolist() == pytest.approx([0, 0])
    assert found.unseen.tolist() == pytest.approx([-2])


@pytest.mark.parametrize(
    ("allowed", "rank"), [(0.05, 19), (0.1, 18), (0.06, 19), (0.5, 10), (0.95, 1), (0.999, 1)]
)
def test_the_threshold_of_nineteen_clips(allowed, rank):
    """The k-th smallest, k = ceil(20 (1 - allowed))."""
    scores = np.arange(1.0, 20)
    assert Conformity(scores, -scores[::-1]).thresholds(allowed) == (rank, rank - 20)


def test_what_no_threshold_can_be_had_for():
    scores = np.arange(19.0)
    few = Conformity(scores, scores[:4])
    assert few.thresholds(0.2) == (15.0, 3.0)
    message = r"the run has 4 validation clips of unseen classes, which can vouch for .* 0\.2 or"
    with pytest.raises(TCAFError, match=message):
        few.thresholds(0.19)
    for allowed in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(TCAFError, match="a number between 0 and 1"):
            few.thresholds(allowed)


def test_a_class_is_judged_by_its_half():
    strange = torch.tensor([[1.0, 1.0], [0.0, 3.0], [2.0, 2.0]], dtype=torch.float64)
    found = answer_sets(strange, [0], (1.0, 2.0))
    assert found.tolist() == [[True, True], [True, False], [False, True]]
    counted = coverage(found, torch.tensor([0, 1, 0]), [0], 0.3)
    assert (counted.seen, counted.unseen, counted.allowed) == (0.5, 0.0, 0.3)
    assert (counted.size, counted.single, counted.empty) == pytest.approx((4 / 3, 2 / 3, 0))


def clips(rng, num_clips):
    """Draws clips of a world: labels, and distances that are smaller to the true class."""
    labels = torch.from_numpy(rng.integers(0, 7, num_clips))
    distances = torch.from_numpy(rng.normal(2.0, 0.5, (num_clips, 7)))
    # Unseen classes are farther away, as they are from a model that was not trained on them.
    nearness = torch.where(labels < len(SEEN), 1.0, 0.4)
    distances[torch.arange(num_clips), labels] -= nearness
    return distances, labels


def sets_of(known, distances, allowed, temperature=0.3):
    strange = strangeness(distances, distances[:, SEEN], temperature)
    return answer_sets(strange, SEEN, known.thresholds(allowed))


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [0.06, 0.2])
def test_exchangeable_clips_are_covered_exactly_as_promised(allowed):
    """Over validations and tests: k / (n + 1) of each half, to 5 standard errors.

    19 clips a half, so that one rank up or down would be off by 0.05, and so would a threshold for
    the other half or an order turned round.
    """
    rng = np.random.default_rng(0)
    hits = {"seen": [], "unseen": []}
    while min(map(len, hits.values())) < 2000:
        distances, labels = clips(rng, 80)
        first = {half: [] for half in hits}
        for clip, label in enumerate(labels.tolist()):
            first["seen" if label in SEEN else "unseen"].append(clip)
        if min(map(len, first.values())) < 20:
            continue
        rows = torch.tensor(first["seen"][:19] + first["unseen"][:19])
        known = conformity(distances[rows], labels[rows], seen=SEEN, temperature=0.3)
        assert (len(known.seen), len(known.unseen)) == (19, 19)
        for half, own in first.items():
            sets = sets_of(known, distances[own[19:20]], allowed)
            hits[half].append(bool(sets[0, labels[own[19]]]))
    expected = math.ceil(20 * (1 - allowed) - 1e-9) / 20
    error = math.sqrt(expected * (1 - expected) / 2000)
    for half, found in hits.items():
        assert np.mean(found) == pytest.approx(expected, abs=5 * error), half
    assert 5 * error < 0.05


def test_sets_of_any_list_of_candidates_are_the_same():
    """What else may be chosen is of no account; nor is how often each half occurs."""
    rng = np.random.default_rng(1)
    distances, labels = clips(rng, 500)
    known = conformity(distances, labels, seen=SEEN, temperature=0.3)
    whole = sets_of(known, distances, 0.1)
    strange = strangeness(distances[:, [6, 1]], distances[:, SEEN], 0.3)
    fewer = answer_sets(strange, [1], known.thresholds(0.1))
    assert torch.equal(fewer, whole[:, [6, 1]])


def test_clips_of_none_of_the_classes_have_empty_sets():
    """What is far from a candidate, or nearer to a class that is none, keeps no name."""
    rng = np.random.default_rng(2)
    distances, labels = clips(rng, 2000)
    known = conformity(distances, labels, seen=SEEN, temperature=0.05)
    seen = distances[labels == 0]
    strange = strangeness(seen[:, [1]], seen[:, SEEN], 0.05)
    without = answer_sets(strange, [0], known.thresholds(0.1))
    there = answer_sets(strangeness(seen[:, [0]], seen[:, SEEN], 0.05), [0], known.thresholds(0.1))
    assert there.double().mean() > 0.85
    assert without.double().mean() < 0.25
