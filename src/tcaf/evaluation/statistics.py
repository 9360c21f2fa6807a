"""What several runs say together: mean and spread, intervals, accuracy by class, the mean curve.

Owns the arithmetic between runs, from their decisions. The scores of one run are in `gzsl.py`.
Runs of one system differ in their seed alone; runs that are compared or averaged here have the
same candidate classes and the same test clips, in any order.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError, shorten
from tcaf.evaluation.decisions import ClipDecisions
from tcaf.evaluation.gzsl import Decisions, harmonic_mean
from tcaf.seeding import derive_seed

ScoreName = Literal["harmonic_mean", "seen", "unseen", "zsl", "curve_area"]

CONFIDENCE = 0.95
"""The share of the bootstrap samples that lies within an interval."""

_CHUNK = 2_000_000
"""Clips times samples that are held at once: some tens of MiB."""

_ROUNDING = 12
"""Decimals of a difference; what is smaller comes from the order of a sum, and is a tie."""

Scores = Callable[[Float[np.ndarray, "samples clips"]], Float[np.ndarray, "samples runs"]]
"""From how often each clip was drawn in each sample to each run's score there."""


def mean_and_std(values: Sequence[float] | Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Returns the mean over seeds and the sample standard deviation (n - 1 in its denominator).

    One value has no spread that could be known: its standard deviation is NaN, which a table
    leaves out, and never 0, which would claim that seeds agree.

    Raises:
        TCAFError: there are no values.
    """
    if not len(values):
        raise TCAFError("the mean over seeds needs at least one run, got none")
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else math.nan


@dataclass(frozen=True)
class PairedComparison:
    """How much better the first of two systems is than the second. Scores are fractions.

    Args:
        score: what is compared.
        first: mean score of the first system over its seeds.
        second: the same of the second.
        difference: `first` minus `second`.
        low: lower end of the 95 % interval of the difference.
        high: its upper end.
        wins: share of the bootstrap samples in which the first is better; ties count half.
        num_samples: how many bootstrap samples were drawn.
        num_seeds: how many trainings of each system were compared.
    """

    score: ScoreName
    first: float
    second: float
    difference: float
    low: float
    high: float
    wins: float
    num_samples: int
    num_seeds: int


def paired_bootstrap(
    first: Sequence[ClipDecisions],
    second: Sequence[ClipDecisions],
    *,
    score: ScoreName = "harmonic_mean",
    num_samples: int = 2000,
    seed: int = 0,
) -> PairedComparison:
    """Compares two systems by a percentile bootstrap (Efron & Tibshirani 1993, ch. 13).

    A sample draws test clips with replacement, and the same ones for both systems and all seeds:
    what makes a clip hard for both cancels, and the interval is that of the difference. Clips are
    drawn within their class, as many as the class has. All scores are means of class accuracies,
    and which classes are tested and with how many clips is part of the benchmark: drawn freely, a
    small class would be missing from some samples, and these would average over fewer classes. So
    the interval speaks of other clips of the same classes, not of other classes.

    With several seeds a sample also draws seeds with replacement, first[i] together with
    second[i], since another training is as much chance as another clip. Every seed meets every
    clip, so both are drawn independently (Owen 2007, "The pigeonhole bootstrap"). Of few seeds it
    makes too little: of n, their spread enters (n - 1) / n times, as variance. With one seed the
    interval says nothing of other trainings.

    Each run keeps its gamma, which validation chose. The mean HM is the mean over seeds of HM, as
    in the results' tables. The same arguments give the same numbers, whatever the order of clips.

    Args:
        first: decisions of one system, one for each seed.
        second: of the other, for the same seeds in the same order.
        score: what to compare.
        num_samples: bootstrap samples.
        seed: of what is drawn.

    Raises:
        TCAFError: the systems have no runs or not as many as each other, the runs differ in test
            clips or candidate classes, the clips lack a half that the score needs, or num_samples
            is not positive.
    """
    if not len(first) or len(first) != len(second):
        raise TCAFError(
            "a comparison needs as many runs of one system as of the other, seed by seed; got "
            f"{len(first)} and {len(second)}"
        )
    if num_samples < 1:
        raise TCAFError(f"num_samples must be positive, got {num_samples}")
    runs = [*first, *second]
    _, decisions = _aligned(runs)
    _check_halves(decisions[0], score)
    scores = _scores(decisions, [run.gamma for run in runs], score)
    observed = scores(np.ones((1, len(decisions[0].labels)))).reshape(2, -1).mean(axis=1)
    drawn = _draw_clips(decisions[0].labels, num_samples, seed)
    samples = np.concatenate([scores(counts) for counts in drawn])
    weights = _draw_seeds(len(first), num_samples, seed)
    means = np.einsum("nsr,nr->sn", samples.reshape(num_samples, 2, len(first)), weights)
    differences = np.round(means[0] - means[1], _ROUNDING)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(differences, [tail, 100 - tail])
    return PairedComparison(
        score=score,
        first=float(observed[0]),
        second=float(observed[1]),
        difference=float(np.round(observed[0] - observed[1], _ROUNDING)),
        low=float(low),
        high=float(high),
        wins=float((1 + np.sign(differences)).mean() / 2),
        num_samples=num_samples,
        num_seeds=len(first),
    )


@dataclass(frozen=True)
class ClassAccuracy:
    """How well one class is recognised.

    Args:
        name: of the class.
        seen: whether it is a seen one.
        clips: how many test clips it has.
        accuracy: mean over seeds of the share of these that are right, each run at its gamma; NaN
            without clips.
        std: sample standard deviation over seeds; NaN for one seed.
    """

    name: str
    seen: bool
    clips: int
    accuracy: float
    std: float


def class_accuracies(runs: Sequence[ClipDecisions]) -> list[ClassAccuracy]:
    """Returns the accuracy of every candidate class over seeds: seen classes first, then by name.

    Raises:
        TCAFError: there are no runs, or they differ in test clips or candidate classes.
    """
    classes, decisions = _aligned(runs)
    labels = decisions[0].labels
    clips = np.bincount(labels, minlength=len(classes))
    right = [
        np.bincount(labels[d.predicted(run.gamma) == labels], minlength=len(classes))
        for d, run in zip(decisions, runs, strict=True)
    ]
    rows = []
    for number, name in enumerate(classes.names):
        shares = [r[number] / clips[number] if clips[number] else math.nan for r in right]
        mean, std = mean_and_std(np.array(shares))
        rows.append(ClassAccuracy(name, name in classes.seen, int(clips[number]), mean, std))
    return sorted(rows, key=lambda row: not row.seen)


def _aligned(runs: Sequence[ClipDecisions]) -> tuple[ClassSet, list[Decisions]]:
    """Returns the classes in order of name, and each run's decisions in order of class, then id.

    Raises:
        TCAFError: there are no runs, or they differ in candidate classes or test clips.
    """
    if not len(runs):
        raise TCAFError("expected the decisions of at least one run, got none")
    reference = runs[0]
    seen, names = reference.classes.seen, frozenset(reference.classes.names)
    classes = ClassSet.of(seen, names - seen)
    by_id = _by_id(reference)
    labels = classes.ids(reference.classes.names)[reference.decisions.labels][by_id]
    by_class = np.argsort(labels, kind="stable")
    found = []
    for run in runs:
        if strange := (names ^ frozenset(run.classes.names)) or (seen ^ run.classes.seen):
            raise TCAFError(
                "runs must have the same candidate classes, seen and unseen; these differ in "
                f"{shorten(sorted(strange))}"
            )
        order = by_id
        if run.ids != reference.ids:
            if strange := frozenset(reference.ids) ^ frozenset(run.ids):
                raise TCAFError(
                    "runs must have the same test clips; in some but not in all are "
                    f"{shorten(sorted(strange))}"
                )
            order = _by_id(run)
        position = classes.ids(run.classes.names)
        differ = np.flatnonzero(position[run.decisions.labels][order] != labels)
        if len(differ):
            ids = [run.ids[clip] for clip in order[differ]]
            raise TCAFError(
                f"runs must agree on the class of a clip; they do not on {shorten(ids)}"
            )
        found.append(_reordered(run.decisions, order[by_class], position))
    return classes, found


def _by_id(run: ClipDecisions) -> Int[np.ndarray, " clips"]:
    """Returns the order of clips by id."""
    return np.array(sorted(range(len(run.ids)), key=run.ids.__getitem__), np.int64)


def _reordered(
    decisions: Decisions,
    order: Int[np.ndarray, " clips"],
    position: Int[np.ndarray, " num_classes"],
) -> Decisions:
    """Returns decisions for the clips in another order, each class under its new index."""
    return Decisions(
        labels=position[decisions.labels[order]],
        is_seen=decisions.is_seen[order],
        margin=decisions.margin[order],
        nearest_seen=position[decisions.nearest_seen[order]],
        nearest_unseen=position[decisions.nearest_unseen[order]],
        num_classes=decisions.num_classes,
    )


def _check_halves(decisions: Decisions, score: ScoreName) -> None:
    halves = {"seen": decisions.is_seen.any(), "unseen": not decisions.is_seen.all()}
    needed = {"seen": ["seen"], "unseen": ["unseen"], "zsl": ["unseen"]}.get(score, list(halves))
    for half in needed:
        if not halves[half]:
            raise TCAFError(f"{score} needs clips of {half} classes, and there are none")


def _draw_clips(
    labels: Int[np.ndarray, " clips"], num_samples: int, seed: int
) -> Iterator[Float[np.ndarray, "samples clips"]]:
    """Yields, for some samples at a time, how often each clip is drawn within its class.

    `labels` are ascending. How many samples come at a time changes no draw.
    """
    num_clips = len(labels)
    sizes = np.bincount(labels)
    size, start = sizes[labels], (np.cumsum(sizes) - sizes)[labels]
    rng = np.random.default_rng(derive_seed(seed, "bootstrap", "clips"))
    at_a_time = max(_CHUNK // num_clips, 1)
    for done in range(0, num_samples, at_a_time):
        num = min(at_a_time, num_samples - done)
        # The product rounds to less than `size`: a uniform number is at most 1 - 2^-53.
        drawn = (rng.random((num, num_clips)) * size).astype(np.int64) + start
        cells = drawn + num_clips * np.arange(num)[:, None]
        counts = np.bincount(cells.ravel(), minlength=num_clips * num)
        yield counts.reshape(num, num_clips).astype(float)


def _draw_seeds(num_seeds: int, num_samples: int, seed: int) -> Float[np.ndarray, "samples seeds"]:
    """Returns the weight of each seed in the mean of each sample."""
    rng = np.random.default_rng(derive_seed(seed, "bootstrap", "seeds"))
    drawn = rng.integers(num_seeds, size=(num_samples, num_seeds))
    return (drawn[:, :, None] == np.arange(num_seeds)).mean(axis=1)


def _scores(runs: Sequence[Decisions], gammas: Sequence[float], score: ScoreName) -> Scores:
    """Returns what scores all runs on resampled clips.

    A class keeps its number of clips in every sample, so each clip drawn is worth the same as in
    the test, and S, U and ZSL are sums of these shares: one matrix product for all runs.
    """
    if score == "curve_area":
        areas = [_curve_area(run) for run in runs]
        return lambda counts: np.stack([area(counts) for area in areas], axis=1)
    halves = {"seen": runs[0].is_seen, "unseen": ~runs[0].is_seen, "zsl": ~runs[0].is_seen}

    def shares(name: str) -> Float[np.ndarray, "runs clips"]:
        answers = [
            run.nearest_unseen if name == "zsl" else run.predicted(gamma)
            for run, gamma in zip(runs, gammas, strict=True)
        ]
        right = np.stack(answers) == runs[0].labels
        return np.where(right & halves[name], runs[0].weights, 0.0)

    if score != "harmonic_mean":
        share = shares(score)
        return lambda counts: counts @ share.T
    seen, unseen = shares("seen"), shares("unseen")

    def means(counts: Float[np.ndarray, "samples clips"]) -> Float[np.ndarray, "samples runs"]:
        s, u = counts @ seen.T, counts @ unseen.T
        return harmonic_mean(s.ravel(), u.ravel()).reshape(s.shape)

    return means


def _curve_area(
    run: Decisions,
) -> Callable[[Float[np.ndarray, "samples clips"]], Float[np.ndarray, " samples"]]:
    """Returns what computes the area under the seen-unseen curve of resampled clips.

    The trapezoids under the curve add up to a Mann-Whitney statistic: over all pairs of a seen and
    an unseen clip, each recognised within its half, the product of their shares wherever the seen
    clip has the larger margin, and half of it where the margins are equal. Clips are sorted once;
    a sample costs a cumulative sum.
    """
    halves = []
    for half, nearest in ((run.is_seen, run.nearest_seen), (~run.is_seen, run.nearest_unseen)):
        right = np.flatnonzero(half & (nearest == run.labels))
        halves.append(right[np.argsort(run.margin[right], kind="stable")])
    seen, unseen = halves
    # How many seen clips lie below each unseen clip, without and with those at the same margin.
    below, up_to = (
        np.searchsorted(run.margin[seen], run.margin[unseen], side=side)
        for side in ("left", "right")
    )

    def area(counts: Float[np.ndarray, "samples clips"]) -> Float[np.ndarray, " samples"]:
        lost = np.zeros((len(counts), len(seen) + 1))
        np.cumsum(counts.take(seen, axis=1) * run.weights[seen], axis=1, out=lost[:, 1:])
        kept = lost[:, -1:] - (lost.take(below, axis=1) + lost.take(up_to, axis=1)) / 2
        return np.einsum("sc,sc->s", counts.take(unseen, axis=1) * run.weights[unseen], kept)

    return area
