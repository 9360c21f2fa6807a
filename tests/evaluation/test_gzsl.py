import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tcaf.errors import TCAFError
from tcaf.evaluation.gzsl import (
    GAMMAS,
    GammaOnEdgeWarning,
    decide,
    evaluate,
    harmonic_mean,
    margin_gammas,
    score,
    warn_if_on_edge,
)
from tcaf.evaluation.temperature import SHARPEST, calibrated, fit_temperature, probabilities
from tcaf.systems.blocks import euclidean_distances

# Classes 0 and 1 are seen, 2 and 3 unseen; all lie on a line, and so do five clips.
CLASSES = torch.tensor([[0.0], [10.0], [3.0], [20.0]])
SEEN, UNSEEN = [0, 1], [2, 3]
#  clip at  class  nearest seen  nearest unseen  margin
#    1.0      0      0 at 1.0       2 at 2.0       1.0    right up to gamma 1
#    2.0      0      0 at 2.0       2 at 1.0      -1.0    right up to gamma -1: never, in practice
#    9.0      1      1 at 1.0       2 at 6.0       5.0    right up to gamma 5
#    1.125    2      0 at 1.125     2 at 1.875     0.75   right beyond gamma 0.75
#   11.0      3      1 at 1.0       2 at 8.0       7.0    never right: 2 is nearer than 3
CLIPS = torch.tensor([[1.0], [2.0], [9.0], [1.125], [11.0]])
LABELS = torch.tensor([0, 0, 1, 2, 3])


def five(**options):
    return evaluate(CLIPS, CLASSES, LABELS, seen=SEEN, unseen=UNSEEN, **options)


@pytest.mark.parametrize(
    ("gamma", "seen", "unseen", "mean"),
    [
        (0.0, 0.75, 0.0, 0.0),  # S = (1/2 + 1) / 2
        (0.75, 0.75, 0.0, 0.0),  # at a tie the seen class wins
        (0.8, 0.75, 0.5, 0.6),  # U = (1 + 0) / 2, HM = 2 x 0.375 / 1.25
        (1.0, 0.75, 0.5, 0.6),
        (1.2, 0.5, 0.5, 0.5),  # S = (0 + 1) / 2
        (6.0, 0.0, 0.5, 0.0),
    ],
)
def test_five_clips_by_hand(gamma, seen, unseen, mean):
    result = five(gamma=gamma)
    got = (result.seen, result.unseen, result.harmonic_mean)
    assert got == pytest.approx((seen, unseen, mean))
    predicted = result.decisions.predicted(gamma)
    assert predicted[3] == (0 if gamma <= 0.75 else 2)
    # Among the unseen classes alone clip 3 is right and clip 4 is not, whatever gamma.
    assert result.zsl == 0.5
    assert (result.gamma, result.gamma_on_edge) == (gamma, False)


def test_five_clips_searched():
    result = five()
    assert (result.gamma, result.gamma_on_edge) == (0.8, False)
    assert result.harmonic_mean == pytest.approx(0.6)
    assert result.scores() == {
        "seen": 0.75,
        "unseen": 0.5,
        "harmonic_mean": result.harmonic_mean,
        "zsl": 0.5,
        "gamma": 0.8,
        "gamma_on_edge": False,
    }


def test_five_clips_in_detail():
    result = five(gamma=0.8)
    assert result.confusion.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert result.per_class_accuracy.tolist() == [0.5, 1, 1, 0]
    assert result.decisions.margin.tolist() == [1, -1, 5, 0.75, 7]
    # Between the margins -1, 0.75, 1, 5, 7.
    seen, unseen = result.curve
    assert seen.tolist() == [1, 0.75, 0.75, 0.5, 0, 0]
    assert unseen.tolist() == [0, 0, 0.5, 0.5, 0.5, 0.5]
    # U goes from 0 to 0.5 while S is 0.75.
    assert result.curve_area == 0.375


def test_the_papers_grid():
    assert pytest.approx([i / 5 for i in range(16)]) == GAMMAS
    assert repr(GAMMAS[3]) == "0.6"


@pytest.mark.parametrize("gammas", [(0.8, 1.2), (0.0, 0.8)])
def test_best_gamma_on_the_edge(gammas):
    with pytest.warns(GammaOnEdgeWarning, match=r"0\.8, lies on the edge.*wider grid \(gammas\)"):
        assert five(gammas=gammas).gamma_on_edge
    # A grid of one has no edge to speak of.
    assert not five(gammas=(0.8,)).gamma_on_edge
    warn_if_on_edge(five(gamma=0.8))


def test_margins_have_no_edge():
    """They are not widened by any setting, and beyond them no clip switches."""
    # Of clips 1 and 3 the seen one switches at -1, the unseen one at 0.75: no gamma serves both.
    distances = euclidean_distances(CLIPS[[1, 3]], CLASSES)
    decisions = decide(distances, LABELS[[1, 3]], seen=SEEN, unseen=UNSEEN)
    grid = margin_gammas(decisions)
    assert (grid[0], grid[-1]) == pytest.approx((-1, 0.75), abs=0.03)
    found = score(decisions, gammas=None)
    assert found.gamma == grid[0]
    assert not found.gamma_on_edge
    assert score(decisions, gammas=grid).gamma_on_edge


def draw(seed, num_seen=5, num_unseen=3, clips=31, dim=2):
    """Random clips near random classes; every class has a clip, the order is shuffled."""
    rng = np.random.default_rng(seed)
    num = num_seen + num_unseen
    classes = rng.normal(size=(num, dim))
    labels = rng.permutation(np.concatenate([np.arange(num), rng.integers(num, size=clips - num)]))
    videos = classes[labels] + rng.normal(size=(clips, dim)) * 0.6
    order = rng.permutation(num)
    as_tensor = torch.from_numpy
    return (
        as_tensor(videos),
        as_tensor(classes),
        as_tensor(labels),
        {"seen": order[:num_seen].tolist(), "unseen": order[num_seen:].tolist()},
    )


def predict_slowly(videos, classes, seen, gamma, candidates=None):
    """The nearest class of each clip, with gamma added to seen ones: one distance at a time."""
    answers = []
    for video in videos.tolist():
        best, answer = np.inf, None
        for number in candidates or range(len(classes)):
            away = [a - b for a, b in zip(video, classes[number].tolist(), strict=True)]
            distance = sum(x * x for x in away) ** 0.5 + (gamma if number in seen else 0)
            if distance < best:
                best, answer = distance, number
        answers.append(answer)
    return answers


def mean_accuracy_slowly(answers, labels, of):
    accuracies = []
    for number in of:
        mine = [a for a, label in zip(answers, labels.tolist(), strict=True) if label == number]
        if mine:
            accuracies.append(mine.count(number) / len(mine))
    return sum(accuracies) / len(accuracies)


def mean_slowly(seen, unseen):
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


seeds = st.integers(0, 10**6)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seeds)
def test_search_by_loops(seed):
    videos, classes, labels, parts = draw(seed)
    best = (-1.0, None)
    for gamma in GAMMAS:
        answers = predict_slowly(videos, classes, parts["seen"], gamma)
        halves = [mean_accuracy_slowly(answers, labels, parts[p]) for p in ("seen", "unseen")]
        if mean_slowly(*halves) > best[0]:
            best = (mean_slowly(*halves), gamma, *halves)
    decisions = decide(euclidean_distances(videos, classes), labels, **parts)
    result = score(decisions)
    found = (result.harmonic_mean, result.gamma, result.seen, result.unseen)
    assert found == pytest.approx(best)
    assert result.gamma_on_edge == (best[1] in (GAMMAS[0], GAMMAS[-1]))
    alone = predict_slowly(videos, classes, [], 0, candidates=parts["unseen"])
    assert result.zsl == pytest.approx(mean_accuracy_slowly(alone, labels, parts["unseen"]))


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.3, 1.1]))
def test_details_by_loops(seed, gamma):
    videos, classes, labels, parts = draw(seed)
    result = evaluate(videos, classes, labels, gamma=gamma, **parts)
    answers = predict_slowly(videos, classes, parts["seen"], gamma)
    confusion = np.zeros((8, 8), int)
    for label, answer in zip(labels.tolist(), answers, strict=True):
        confusion[label, answer] += 1
    assert (result.confusion == confusion).all()
    for number in range(8):
        accuracy = mean_accuracy_slowly(answers, labels, [number])
        assert result.per_class_accuracy[number] == pytest.approx(accuracy)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seeds)
def test_curve_by_loops(seed):
    videos, classes, labels, parts = draw(seed)
    result = evaluate(videos, classes, labels, gamma=0.0, **parts)
    margins = sorted(set(result.decisions.margin.tolist()))
    between = [(a + b) / 2 for a, b in pairwise(margins)]
    points = []
    for gamma in [margins[0] - 1, *between, margins[-1] + 1]:
        answers = predict_slowly(videos, classes, parts["seen"], gamma)
        points.append([mean_accuracy_slowly(answers, labels, parts[p]) for p in ("seen", "unseen")])
    np.testing.assert_allclose(np.stack(result.curve, axis=1), points, atol=1e-12)
    area = 0.0
    for (s, u), (next_s, next_u) in pairwise(points):
        area += (s + next_s) / 2 * (next_u - u)
    assert result.curve_area == pytest.approx(area)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(-3, 3))
def test_properties(seed, gamma):
    videos, classes, labels, parts = draw(seed)
    result = evaluate(videos, classes, labels, gamma=gamma, **parts)
    low, high = sorted([result.seen, result.unseen])
    assert 0 <= low <= result.harmonic_mean + 1e-12
    assert result.harmonic_mean <= high + 1e-12
    assert high <= 1 + 1e-12
    nearest = torch.cdist(videos, classes).argmin(dim=1)
    assert result.decisions.predicted(0.0).tolist() == nearest.tolist()
    huge = evaluate(videos, classes, labels, gamma=1e6, **parts)
    assert (huge.seen, huge.unseen) == (0, pytest.approx(huge.zsl))
    below = evaluate(videos, classes, labels, gamma=-1e6, **parts)
    assert below.unseen == 0
    assert below.seen >= result.seen - 1e-12


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0, 2))
def test_order_of_classes_and_clips_is_of_no_account(seed, gamma):
    videos, classes, labels, parts = draw(seed)
    rng = np.random.default_rng(seed)
    order, clips = rng.permutation(len(classes)), rng.permutation(len(videos))
    position = torch.from_numpy(order.argsort())
    result = evaluate(videos, classes, labels, gamma=gamma, **parts)
    moved = evaluate(
        videos[clips],
        classes[order],
        position[labels][clips],
        gamma=gamma,
        # As arrays and tensors, in another order: all are taken.
        seen=position.numpy()[parts["seen"]][::-1],
        unseen=position[parts["unseen"]].flip(0),
    )
    assert moved.scores() == pytest.approx(result.scores())
    assert order[moved.decisions.predicted(gamma)].tolist() == (
        result.decisions.predicted(gamma)[clips].tolist()
    )


def test_distances_are_exact():
    points = torch.tensor([[1e4, 0.0], [1e4, 1.0]])
    # The matrix-product shortcut loses such small differences in float32.
    centres = (points + 0.01).repeat(32, 1)
    found = euclidean_distances(points.repeat(32, 1), centres)
    expected = torch.cdist(points.double().repeat(32, 1), centres.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_harmonic_mean():
    found = harmonic_mean(np.array([0.5, 0.0, 0.0, 1.0]), np.array([0.25, 0.0, 0.7, 1.0]))
    assert found.tolist() == pytest.approx([1 / 3, 0, 0, 1])


@pytest.mark.parametrize(("only", "nan", "finite"), [(0, "unseen", "seen"), (3, "seen", "unseen")])
def test_clips_of_one_half_alone(only, nan, finite):
    labels = torch.full((5,), only)
    decisions = decide(euclidean_distances(CLIPS, CLASSES), labels, seen=SEEN, unseen=UNSEEN)
    result = score(decisions, gamma=0.4)
    assert np.isnan(getattr(result, nan))
    assert np.isnan(result.harmonic_mean)
    assert np.isnan(result.zsl) == (nan == "unseen")
    assert np.isfinite(getattr(result, finite))
    assert np.isnan(result.per_class_accuracy).sum() == 3
    with pytest.raises(TCAFError, match="gamma needs clips of seen and of unseen classes"):
        score(decisions)


def nan_distance(distances):
    distances = distances.clone()
    distances[3, 1] = torch.nan
    return distances


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distances": torch.zeros(0, 4), "labels": torch.zeros(0).long()}, "there are no clips"),
        ({"seen": []}, "needs seen and unseen classes, got 0 seen and 2 unseen"),
        ({"unseen": []}, "got 2 seen and 0 unseen"),
        ({"unseen": [1, 2, 3]}, r"classes \[1\] are both seen and unseen"),
        ({"seen": [0, 4]}, r"seen must be class indices in 0\.\.3, got \[0 4\]"),
        ({"unseen": [-1, 2]}, r"unseen must be class indices in 0\.\.3, got \[-1  2\]"),
        ({"labels": torch.tensor([0, 0, 1, 2, 4])}, r"labels must be class indices in 0\.\.3"),
        ({"unseen": [2]}, "label 3 is neither a seen nor an unseen class"),
        ({"distances": nan_distance}, "clip 3 has a NaN or infinite distance"),
    ],
)
def test_errors(change, message):
    distances = euclidean_distances(CLIPS, CLASSES)
    if callable(change.get("distances")):
        change = {"distances": change["distances"](distances)}
    arguments = {"distances": distances, "labels": LABELS, "seen": SEEN, "unseen": UNSEEN}
    with pytest.raises(TCAFError, match=message):
        decide(**{**arguments, **change})


def test_probabilities_by_hand():
    # Gamma 1 on the first column makes 1, 2, 1 of 0, 2, 1. At temperature 1 / ln 3 what is further
    # by 1 has a third of the probability: 3, 1, 3 of 7.
    distances = torch.tensor([[0.0, 2.0, 1.0]])
    found = probabilities(distances, seen=[0], gamma=1.0, temperature=1 / math.log(3))
    torch.testing.assert_close(found, torch.tensor([[3, 1, 3]]).double() / 7)
    assert calibrated(distances, seen=[0], gamma=1.0).tolist() == [[1.0, 2.0, 1.0]]


def nll(distances, labels, gamma, temperature):
    """The mean over classes of the mean negative log likelihood of their clips, by loops."""
    chances = probabilities(distances, seen=SEEN, gamma=gamma, temperature=temperature)
    by_class = {}
    for row, label in zip(chances, labels.tolist(), strict=True):
        by_class.setdefault(label, []).append(-row[label].log().item())
    return np.mean([np.mean(values) for values in by_class.values()])


def test_temperature_of_two_clips_by_hand():
    # Two classes, a clip of each. The first is right by 3, the second wrong by 1; with b = 1 / T
    # the sum log(1 + e^-3b) + log(1 + e^b) is least where 3 / (e^3b + 1) = e^b / (e^b + 1). With
    # x = e^b: 3 (x + 1) = x (x^3 + 1), so x^4 = 2 x + 3.
    x = max(root.real for root in np.roots([1, 0, 0, -2, -3]) if abs(root.imag) < 1e-9)
    distances = torch.tensor([[0.0, 3.0], [1.0, 2.0]])
    found = fit_temperature(distances, torch.tensor([0, 1]), seen=[0], gamma=0.0)
    assert found == pytest.approx(1 / math.log(x), rel=1e-9)
    # The same by way of gamma: 0.5 less on the seen class, 0.5 more by gamma.
    lowered = distances - torch.tensor([0.5, 0.0])
    again = fit_temperature(lowered, torch.tensor([0, 1]), seen=[0], gamma=0.5)
    assert again == pytest.approx(found, rel=1e-9)


def noisy(seed, clips=40, noise=1.0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (clips,), generator=draw)
    distances = 2 + noise * torch.randn(clips, 4, generator=draw)
    return distances - torch.nn.functional.one_hot(labels, 4), labels


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 2), st.floats(0.4, 3))
def test_temperature_is_the_best_of_all(seed, gamma, noise):
    distances, labels = noisy(seed, noise=noise)
    found = fit_temperature(distances, labels, seen=SEEN, gamma=gamma)
    added = calibrated(distances, seen=SEEN, gamma=gamma)
    span = float((added.amax(dim=1) - added.amin(dim=1)).mean())
    assume(span / SHARPEST * 1.01 < found < span * SHARPEST / 1.01)
    least = nll(distances, labels, gamma, found)
    for factor in (0.3, 0.9, 0.999, 1.001, 1.1, 3.0):
        assert least <= nll(distances, labels, gamma, factor * found) + 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-4, 1e4))
def test_temperature_has_the_unit_of_distances(seed, scale):
    distances, labels = noisy(seed)
    distances = distances.double()
    found = fit_temperature(distances, labels, seen=SEEN, gamma=0.3)
    scaled = fit_temperature(scale * distances, labels, seen=SEEN, gamma=0.3 * scale)
    assert scaled == pytest.approx(scale * found, rel=1e-6)


def test_each_class_counts_alike_for_the_temperature():
    distances, labels = noisy(7)
    often = torch.where(labels == 2, 5, 1)
    repeated = distances.repeat_interleave(often, dim=0), labels.repeat_interleave(often)
    found = fit_temperature(distances, labels, seen=SEEN, gamma=0.0)
    assert fit_temperature(*repeated, seen=SEEN, gamma=0.0) == pytest.approx(found, rel=1e-9)


def test_temperature_is_bounded():
    labels = torch.tensor([0, 1, 2, 3])
    span = 2.0
    separable = span * (1 - torch.eye(4))
    found = fit_temperature(separable, labels, seen=SEEN, gamma=0.0)
    assert found == pytest.approx(span / SHARPEST)
    # Every clip is wrong: the less said the better.
    found = fit_temperature(span * torch.eye(4), labels, seen=SEEN, gamma=0.0)
    assert found == pytest.approx(span * SHARPEST)
    assert fit_temperature(torch.ones(4, 4), labels, seen=SEEN, gamma=0.0) == 1.0


def test_temperature_of_nothing():
    for broken in (torch.zeros(0, 4), torch.full((1, 4), torch.nan)):
        labels = torch.zeros(len(broken), dtype=torch.long)
        with pytest.raises(TCAFError, match="finite distances of at least one clip"):
            fit_temperature(broken, labels, seen=SEEN, gamma=0.0)
