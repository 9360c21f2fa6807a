import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError
from tcaf.evaluation import statistics
from tcaf.evaluation.decisions import ClipDecisions
from tcaf.evaluation.gzsl import Decisions
from tcaf.evaluation.gzsl import score as gzsl_score
from tcaf.evaluation.statistics import (
    ClassAccuracy,
    class_accuracies,
    mean_and_std,
    paired_bootstrap,
)

SCORES = ("harmonic_mean", "seen", "unseen", "zsl", "curve_area")

# The five clips of test_gzsl.py: S = (1/2 + 1) / 2 = 0.75, U = (1 + 0) / 2 = 0.5, HM = 0.6.
CLASSES = ClassSet(("walking", "barking", "sewing", "diving"), frozenset({"walking", "barking"}))
FIVE = ClipDecisions(
    ("e", "d", "c", "b", "a"),
    CLASSES,
    Decisions(
        labels=np.array([0, 0, 1, 2, 3]),
        is_seen=np.array([True, True, True, False, False]),
        margin=np.array([1.0, -1.0, 5.0, 0.75, 7.0]),
        nearest_seen=np.array([0, 0, 1, 0, 1]),
        nearest_unseen=np.array([2, 2, 2, 2, 2]),
        num_classes=4,
    ),
    0.8,
)


def draw(seed, *, clips=61, num_seen=5, num_unseen=3, right=0.6, gamma=0.3, test=0, decimals=1):
    """One run: `test` decides on clips and classes, `seed` on what the model makes of them."""
    fixed, rng = np.random.default_rng(test), np.random.default_rng(1000 + seed)
    num = num_seen + num_unseen
    names = tuple(f"class {i}" for i in fixed.permutation(num))
    labels = fixed.permutation(
        np.concatenate([np.arange(num), fixed.integers(num, size=clips - num)])
    )
    is_seen = labels < num_seen
    hit = rng.random(clips) < right
    decisions = Decisions(
        labels=labels,
        is_seen=is_seen,
        # Rounded, so that some margins are equal.
        margin=np.round(rng.normal(size=clips) + is_seen, decimals),
        nearest_seen=np.where(is_seen & hit, labels, rng.integers(num_seen, size=clips)),
        nearest_unseen=np.where(~is_seen & hit, labels, rng.integers(num_seen, num, size=clips)),
        num_classes=num,
    )
    ids = tuple(f"clip {i}" for i in fixed.permutation(clips))
    return ClipDecisions(ids, ClassSet(names, frozenset(names[:num_seen])), decisions, gamma)


def shuffled(run, seed):
    """The same run with its clips and its classes in another order."""
    rng, d = np.random.default_rng(seed), run.decisions
    clips, order = rng.permutation(len(run.ids)), rng.permutation(len(run.classes))
    position = order.argsort()
    return ClipDecisions(
        tuple(run.ids[i] for i in clips),
        ClassSet(tuple(run.classes.names[i] for i in order), run.classes.seen),
        Decisions(
            position[d.labels][clips],
            d.is_seen[clips],
            d.margin[clips],
            position[d.nearest_seen][clips],
            position[d.nearest_unseen][clips],
            d.num_classes,
        ),
        run.gamma,
    )


def resampled(decisions, counts):
    """The decisions with each clip as many times as it was drawn."""
    rows = np.repeat(np.arange(len(counts)), counts.astype(int))
    columns = ("labels", "is_seen", "margin", "nearest_seen", "nearest_unseen")
    return replace(decisions, **{name: getattr(decisions, name)[rows] for name in columns})


def test_mean_and_std():
    # Mean 4, deviations -3, 0, 3: variance (9 + 0 + 9) / (3 - 1) = 9.
    assert mean_and_std([1.0, 4.0, 7.0]) == (4, 3)
    assert mean_and_std(np.array([1.0, 4.0, 7.0])) == (4, 3)
    mean, std = mean_and_std([0.25])
    assert mean == 0.25
    assert math.isnan(std)
    with pytest.raises(TCAFError, match="at least one run, got none"):
        mean_and_std([])


def test_five_clips_by_hand():
    # Below all margins no clip is called unseen: S = (2/2 + 1) / 2 = 1 and U = 0.
    other = replace(FIVE, gamma=-2.0)
    found = paired_bootstrap([FIVE], [other], score="unseen", num_samples=10)
    # Classes with one clip are drawn as they are: U is 0.5 and 0 in every sample.
    assert (found.first, found.second, found.difference) == (0.5, 0.0, 0.5)
    assert (found.low, found.high, found.wins) == (0.5, 0.5, 1.0)
    assert (found.num_samples, found.score) == (10, "unseen")
    # Walking has a right clip and a wrong one: drawn in pairs, its accuracy is 0, 1/2, 1/2 or 1,
    # and S, with that of barking, 1/2, 3/4, 3/4 or 1; with other's S of 1 the difference is
    # -1/2, -1/4, -1/4 or 0, and 95 % of the samples reach from the worst to the best.
    found = paired_bootstrap([FIVE], [other], score="seen", num_samples=4000)
    assert (found.first, found.second, found.difference) == (0.75, 1.0, -0.25)
    assert (found.low, found.high) == (-0.5, 0.0)
    # A tie in a quarter of the samples, which counts half.
    assert found.wins == pytest.approx(1 / 8, abs=0.02)
    assert paired_bootstrap([FIVE], [FIVE], num_samples=3).first == pytest.approx(0.6)
    area = paired_bootstrap([FIVE], [other], score="curve_area", num_samples=3)
    assert (area.first, area.second) == (0.375, 0.375)


def test_the_mean_over_seeds_by_hand():
    # HM 0.6 and 0 (U is 0 at gamma 0.75, where the seen class wins): the mean of HM is 0.3, and
    # not the HM of the means of S, 0.75, and U, 0.25.
    found = paired_bootstrap([FIVE, replace(FIVE, gamma=0.75)], [FIVE, FIVE], num_samples=3)
    assert (found.first, found.second) == pytest.approx((0.3, 0.6))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("decimals", [1, 15])
def test_scores_by_loops(score, decimals):
    runs = [draw(seed, gamma=gamma, decimals=decimals) for seed, gamma in ((0, 0.3), (1, 0.0))]
    _, decisions = statistics._aligned(runs)
    gammas = [run.gamma for run in runs]
    counts = np.concatenate(list(statistics._draw_clips(decisions[0].labels, 17, 5)))
    found = statistics._scores(decisions, gammas, score)(counts)
    assert found.shape == (17, 2)
    for sample in range(17):
        for number, (d, gamma) in enumerate(zip(decisions, gammas, strict=True)):
            slow = gzsl_score(resampled(d, counts[sample]), gamma=gamma)
            assert found[sample, number] == pytest.approx(getattr(slow, score), abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_the_bootstrap_by_loops(score, monkeypatch):
    first = [draw(seed, gamma=gamma) for seed, gamma in ((0, 0.3), (1, 0.1), (2, 0.5))]
    second = [draw(seed, right=0.4) for seed in (3, 4, 5)]
    _, decisions = statistics._aligned([*first, *second])
    drawn = list(statistics._draw_clips(decisions[0].labels, 23, 7))
    weights = statistics._draw_seeds(3, 23, 7)
    differences = []
    for counts, seeds in zip(np.concatenate(drawn), weights, strict=True):
        difference = 0.0
        for number, (a, b, weight) in enumerate(zip(first, second, seeds, strict=True)):
            mine = gzsl_score(resampled(decisions[number], counts), gamma=a.gamma)
            other = gzsl_score(resampled(decisions[3 + number], counts), gamma=b.gamma)
            difference += weight * (getattr(mine, score) - getattr(other, score))
        differences.append(difference)
    found = paired_bootstrap(first, second, score=score, num_samples=23, seed=7)
    expected = np.percentile(differences, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)
    assert found.wins == np.mean(np.array(differences) > 0)
    assert found.first == pytest.approx(np.mean([getattr(r.result, score) for r in first]))
    assert found.second == pytest.approx(np.mean([getattr(r.result, score) for r in second]))
    assert found.difference == pytest.approx(found.first - found.second, abs=1e-9)
    # How many samples are held at once is of no account.
    monkeypatch.setattr(statistics, "_CHUNK", 5 * 61)
    assert paired_bootstrap(first, second, score=score, num_samples=23, seed=7) == found


def test_clips_are_drawn_within_their_class():
    labels = np.repeat([0, 1, 3], [1, 2, 40])  # class 2 has no clips
    counts = np.concatenate(list(statistics._draw_clips(labels, 3001, 0)))
    assert counts.shape == (3001, 43)
    for number, size in ((0, 1), (1, 2), (3, 40)):
        of_class = counts[:, labels == number]
        assert (of_class.sum(axis=1) == size).all()
        # Each clip once on average, with the multinomial variance 1 - 1 / size.
        assert of_class.mean(axis=0) == pytest.approx(1, abs=0.1)
        assert of_class.var(axis=0) == pytest.approx(1 - 1 / size, abs=0.15)


def test_seeds_are_drawn_with_replacement():
    weights = statistics._draw_seeds(3, 4001, 0)
    assert weights.sum(axis=1) == pytest.approx(1)
    assert set(np.round(weights.ravel() * 3, 9)) == {0, 1, 2, 3}
    # Each of three drawn with probability 1/3: variance of the share (1/3 x 2/3) / 3.
    assert weights.mean(axis=0) == pytest.approx(1 / 3, abs=0.02)
    assert weights.var(axis=0) == pytest.approx(2 / 27, abs=0.01)
    assert (statistics._draw_seeds(1, 5, 0) == 1).all()
    assert (statistics._draw_seeds(3, 40, 0) != statistics._draw_seeds(3, 40, 1)).any()


@pytest.mark.parametrize("score", SCORES)
def test_identical_systems(score):
    runs = [draw(seed) for seed in range(3)]
    others = [shuffled(run, seed) for seed, run in enumerate(runs)]
    found = paired_bootstrap(runs, others, score=score, num_samples=50)
    assert (found.difference, found.low, found.high, found.wins) == (0, 0, 0, 0.5)
    assert found.first == pytest.approx(found.second)


def test_rounding_is_a_tie():
    # 49 unseen classes of one clip: both systems have 13 right, and sum up 1/49 in another order.
    num = 49
    labels = np.arange(num + 1)
    names = tuple(f"class {i:02}" for i in labels)

    def run(right):
        nearest = np.where(np.isin(labels, right), labels, (labels + 1) % num)
        decisions = Decisions(
            labels, labels == num, np.zeros(num + 1), np.full(num + 1, num), nearest, num + 1
        )
        return ClipDecisions(names, ClassSet(names, frozenset(names[num:])), decisions, 1.0)

    others = [run(np.random.default_rng(i).permutation(num)[:13]) for i in range(10)]
    for other in others:
        found = paired_bootstrap([run(np.arange(13))], [other], score="zsl", num_samples=9)
        assert (found.difference, found.low, found.high, found.wins) == (0, 0, 0, 0.5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SCORES), st.integers(1, 3))
def test_properties(seed, score, num_seeds):
    first = [draw(seed + i, test=seed) for i in range(num_seeds)]
    second = [draw(seed + 7 + i, test=seed, gamma=0.1) for i in range(num_seeds)]
    options = {"score": score, "num_samples": 40, "seed": seed}
    found = paired_bootstrap(first, second, **options)
    swapped = paired_bootstrap(second, first, **options)
    assert (swapped.first, swapped.second) == pytest.approx((found.second, found.first))
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
    assert swapped.difference == pytest.approx(-found.difference, abs=1e-9)
    assert swapped.wins == pytest.approx(1 - found.wins)
    assert found.low <= found.high
    moved = [[shuffled(run, seed + i) for i, run in enumerate(runs)] for runs in (first, second)]
    again = paired_bootstrap(*moved, **options)
    assert (again.low, again.high) == pytest.approx((found.low, found.high), abs=1e-9)
    assert (again.first, again.wins) == pytest.approx((found.first, found.wins))


def test_the_seed_decides_what_is_drawn():
    runs = [draw(0)], [draw(1)]
    found = [paired_bootstrap(*runs, num_samples=20, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert (found[0].low, found[0].high) != (found[2].low, found[2].high)
    assert found[0].difference == found[2].difference


@pytest.mark.parametrize("score", SCORES)
def test_a_system_that_is_better(score):
    # Right on 0.75 and on 0.45 of the clips, about.
    first = [draw(seed, clips=601, right=0.75) for seed in range(3)]
    second = [draw(seed + 3, clips=601, right=0.45) for seed in range(3)]
    found = paired_bootstrap(first, second, score=score, num_samples=300)
    assert found.low > 0
    assert found.wins == 1
    assert found.low < found.difference < found.high


@pytest.mark.parametrize("score", SCORES)
def test_equal_systems_with_errors_of_their_own(score):
    inside = 0
    for test in range(20):
        first, second = ([draw(seed, clips=307, test=test)] for seed in (test, test + 20))
        found = paired_bootstrap(first, second, score=score, num_samples=200)
        inside += found.low <= 0 <= found.high
    # 19 of 20 on average; fewer than 16 would happen in less than 1 of 300 such tests.
    assert inside >= 16
    assert found.low < 0.1
    assert found.high - found.low < 0.5


def test_pairs_make_the_interval_narrow():
    # Both miss the same clips, but for a few: the clips that are hard for both cancel.
    first, apart = draw(0, clips=601), draw(1, clips=601)
    nearest = first.decisions.nearest_unseen.copy()
    nearest[:12] = first.classes.unseen_ids[0]
    second = replace(first, decisions=replace(first.decisions, nearest_unseen=nearest))
    pair, strangers = (
        paired_bootstrap([first], [other], score="zsl", num_samples=200)
        for other in (second, apart)
    )
    assert pair.high - pair.low < (strangers.high - strangers.low) / 2


def test_seeds_that_differ_make_the_interval_wide():
    good, bad, second = draw(0, right=0.9), draw(1, right=0.2), draw(2)
    options = {"score": "zsl", "num_samples": 300}
    found = paired_bootstrap([good, bad], [second, second], **options)
    alone = paired_bootstrap([good], [second], **options)
    assert found.high - found.low > 1.5 * (alone.high - alone.low)


def halves(seen):
    """The clips of one half alone."""
    rows = np.flatnonzero(FIVE.decisions.is_seen == seen)
    counts = (FIVE.decisions.is_seen == seen).astype(float)
    ids = tuple(FIVE.ids[row] for row in rows)
    return replace(FIVE, ids=ids, decisions=resampled(FIVE.decisions, counts))


OTHER_CLASS = replace(FIVE, decisions=replace(FIVE.decisions, labels=np.array([1, 0, 1, 2, 3])))
OTHER_HALVES = replace(
    FIVE,
    classes=ClassSet(("walking", "sewing", "barking", "diving"), frozenset({"walking", "sewing"})),
)


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        ([], [], {}, "as many runs of one system as of the other, seed by seed; got 0 and 0"),
        ([FIVE, FIVE], [FIVE], {}, "got 2 and 1"),
        ([FIVE], [FIVE], {"num_samples": 0}, "num_samples must be positive, got 0"),
        (
            [FIVE],
            [replace(FIVE, ids=("e", "d", "x", "b", "a"))],
            {},
            "the same test clips; in some but not in all are 'c', 'x'",
        ),
        ([FIVE], [halves(True)], {}, "in some but not in all are 'a', 'b'"),
        ([FIVE], [OTHER_CLASS], {}, "agree on the class of a clip; they do not on 'e'"),
        (
            [FIVE],
            [replace(FIVE, classes=ClassSet(("walking", "barking", "sewing", "x"), CLASSES.seen))],
            {},
            "the same candidate classes, seen and unseen; these differ in 'diving', 'x'",
        ),
        ([FIVE], [OTHER_HALVES], {}, "these differ in 'barking', 'sewing'"),
        ([halves(True)] * 2, [halves(True)] * 2, {}, "harmonic_mean needs clips of unseen classes"),
        ([halves(False)], [halves(False)], {}, "harmonic_mean needs clips of seen classes"),
        ([halves(False)], [halves(False)], {"score": "seen"}, "seen needs clips of seen"),
        ([halves(True)], [halves(True)], {"score": "unseen"}, "unseen needs clips of unseen"),
        ([halves(True)], [halves(True)], {"score": "zsl"}, "zsl needs clips of unseen"),
        ([halves(False)], [halves(False)], {"score": "curve_area"}, "curve_area needs clips of"),
    ],
)
def test_errors(first, second, options, message):
    with pytest.raises(TCAFError, match=message):
        paired_bootstrap(first, second, **options)


def test_one_half_alone_is_enough_for_its_score():
    for half, score, expected in (
        (True, "seen", 0.75),
        (False, "unseen", 0.5),
        (False, "zsl", 0.5),
    ):
        found = paired_bootstrap([halves(half)], [halves(half)], score=score, num_samples=3)
        assert (found.first, found.difference) == (expected, 0)


def test_class_accuracies_by_hand():
    # At gamma -2 walking has both of its clips right, and sewing none of its.
    found = class_accuracies([FIVE, shuffled(replace(FIVE, gamma=-2.0), 0)])
    half = math.sqrt(0.125)  # of 1/2 and 1, or 0 and 1: (2 x 1/4^2) / 1 and (2 x 1/2^2) / 1
    assert found == [
        ClassAccuracy("barking", True, 1, 1.0, 0.0),
        ClassAccuracy("walking", True, 2, 0.75, half),
        ClassAccuracy("diving", False, 1, 0.0, 0.0),
        ClassAccuracy("sewing", False, 1, 0.5, math.sqrt(0.5)),
    ]


def test_class_accuracies_of_one_run_and_of_classes_without_clips():
    rows = {row.name: row for row in class_accuracies([halves(True)])}
    assert (rows["walking"].accuracy, rows["walking"].clips) == (0.5, 2)
    assert math.isnan(rows["walking"].std)
    assert rows["sewing"].clips == 0
    assert math.isnan(rows["sewing"].accuracy)


def test_class_accuracies_are_those_of_the_result():
    runs = [draw(seed, gamma=seed / 10) for seed in range(3)]
    accuracies = np.mean([run.result.per_class_accuracy for run in runs], axis=0)
    rows = class_accuracies(runs)
    assert len(rows) == len(runs[0].classes)
    for row in rows:
        number = runs[0].classes.ids([row.name])[0]
        assert row.accuracy == pytest.approx(accuracies[number])
        assert row.clips == (runs[0].decisions.labels == number).sum()
    assert [row.seen for row in rows] == [True] * 5 + [False] * 3
    assert [row.name for row in rows[:5]] == sorted(runs[0].classes.seen)
    with pytest.raises(TCAFError, match="at least one run, got none"):
        class_accuracies([])
