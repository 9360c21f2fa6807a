import math
import re

import numpy as np
import pytest
import torch

from tcaf.errors import TCAFError
from tcaf.evaluation.gzsl import evaluate
from tcaf.evaluation.statistics import ClassAccuracy
from tcaf.reports.plots import (
    MOST_BARS,
    CurveSeries,
    SeenUnseenCurve,
    class_accuracy_bars,
    most_confused,
    seen_unseen_curves,
    unseen_confusion,
    unseen_counts,
)
from tcaf.reports.theme import SERIES, light, to_svg

to_hex = pytest.importorskip("matplotlib.colors").to_hex

# A triangle and a rectangle: areas 0.5 x 0.8 / 2 = 0.2 and 0.4 x 0.5 = 0.2 x 1.
TRIANGLE = SeenUnseenCurve(np.array([0.8, 0.0]), np.array([0.0, 0.5]), 0.4, 0.25)
RECTANGLE = SeenUnseenCurve(np.array([0.4, 0.4, 0.0]), np.array([0.0, 0.5, 0.5]), 0.4, 0.5)


def five_clips():
    """The five clips of test_gzsl.py: classes 0 and 1 seen, 2 and 3 unseen."""
    return evaluate(
        torch.tensor([[1.0], [2.0], [9.0], [1.125], [11.0]]),
        torch.tensor([[0.0], [10.0], [3.0], [20.0]]),
        torch.tensor([0, 0, 1, 2, 3]),
        seen=[0, 1],
        unseen=[2, 3],
        gamma=0.8,
    )


def lines(axis):
    return [line for line in axis.lines if line.get_zorder() > 0]


def test_curve_of_a_result():
    result = five_clips()
    curve = SeenUnseenCurve.of(result)
    assert (curve.chosen_seen, curve.chosen_unseen) == (0.75, 0.5)
    assert curve.area == pytest.approx(result.curve_area)


def test_area_of_the_mean_is_the_mean_area():
    assert TRIANGLE.area == pytest.approx(0.2)
    half = SeenUnseenCurve(np.array([0.4, 0.0]), np.array([0.0, 0.25]), 0.2, 0.125)
    series = CurveSeries("model", (TRIANGLE, half))
    assert series.area == pytest.approx((0.2 + 0.05) / 2)
    unseen, seen = series.mean()
    assert np.trapezoid(seen, unseen) == pytest.approx(series.area, rel=1e-3)
    # (0.8 + 0.4) / 2 at the start; beyond 0.25 half a triangle alone: (0.4 x 0.8 + 0) / 2.
    assert seen[0] == pytest.approx(0.6)
    assert np.interp(0.3, unseen, seen) == pytest.approx(0.16, rel=1e-3)


def test_a_single_run_is_drawn_as_it_is():
    figure = seen_unseen_curves([CurveSeries("costs $5 or $6", (RECTANGLE,))])
    (curve,) = lines(figure.axes[0])
    np.testing.assert_allclose(curve.get_xdata(), [0, 50, 50])
    np.testing.assert_allclose(curve.get_ydata(), [40, 40, 0])
    (dot,) = figure.axes[0].collections
    np.testing.assert_allclose(dot.get_offsets(), [[50, 40]])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["costs $5 or $6, area 0.200", "at the chosen gamma"]


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_several_runs(width):
    both = CurveSeries("both", (TRIANGLE, RECTANGLE))
    figure = seen_unseen_curves([both, CurveSeries("one", (TRIANGLE,))], width=width)
    axis = figure.axes[0]
    faint, other, mean, one = lines(axis)
    assert faint.get_alpha() == other.get_alpha() == 0.35
    assert mean.get_alpha() is None
    assert [line.get_color() for line in (faint, mean, one)] == [SERIES[0], SERIES[0], SERIES[1]]
    # At U = 25%: triangle 40, rectangle 40.
    assert np.interp(25, mean.get_xdata(), mean.get_ydata()) == pytest.approx(40, abs=0.2)
    dots = [dot.get_offsets()[0] for dot in axis.collections]
    np.testing.assert_allclose(dots, [[37.5, 40], [25, 40]])
    assert axis.get_xlim()[1] > 50
    assert axis.get_ylim()[1] > 80


def test_lines_of_equal_mean():
    figure = seen_unseen_curves([CurveSeries("one", (TRIANGLE,))])
    axis = figure.axes[0]
    means = [float(text.get_text().removeprefix("HM ")) for text in axis.texts]
    assert means
    drawn = [line for line in axis.lines if line.get_zorder() == 0]
    for line, mean in zip(drawn, sorted(means), strict=False):
        seen, unseen = line.get_ydata(), line.get_xdata()
        np.testing.assert_allclose(2 * seen * unseen / (seen + unseen), mean)


def test_curves_of_zeros():
    nothing = SeenUnseenCurve(np.zeros(3), np.zeros(3), 0.0, 0.0)
    assert "area 0.000" in to_svg(seen_unseen_curves([CurveSeries("none", (nothing,))]), "a", "")


def test_curves_need_a_run():
    with pytest.raises(TCAFError, match="at least one curve"):
        seen_unseen_curves([])
    with pytest.raises(TCAFError, match="at least one curve"):
        seen_unseen_curves([CurveSeries("model", ())])


def accuracy(name, *values, seen=True):
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return ClassAccuracy(name, seen, 7, float(np.mean(values)), spread)


def test_classes_without_clips_have_no_bar():
    void = ClassAccuracy("void", False, 0, math.nan, math.nan)
    figure = class_accuracy_bars([void, accuracy("low", 0.1), accuracy("high", 0.7)])
    (axis,) = figure.axes
    assert axis.get_title(loc="left") == "2 seen classes, mean 40.0 (dashed)"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["high", "low"]
    with pytest.raises(TCAFError, match="at least one class with clips"):
        class_accuracy_bars([void])


def test_bars_are_sorted_and_apart():
    figure = class_accuracy_bars(
        [
            accuracy("low", 0.1, 0.3),
            accuracy("new", 0.5, 0.5, seen=False),
            accuracy("high", 0.7, 0.9),
            accuracy("also low", 0.2, 0.2),
        ]
    )
    seen, unseen = figure.axes
    labels = [text.get_text() for text in seen.get_yticklabels()]
    # Of equals the first by name.
    assert labels == ["high", "also low", "low"]
    np.testing.assert_allclose([bar.get_width() for bar in seen.patches], [80, 20, 20])
    assert {to_hex(bar.get_facecolor()) for bar in seen.patches} == {light("seen")}
    assert {to_hex(bar.get_facecolor()) for bar in unseen.patches} == {light("unseen")}
    assert seen.get_title(loc="left") == "3 seen classes, mean 40.0 (dashed)"
    assert unseen.get_title(loc="left") == "1 unseen class, mean 50.0 (dashed)"
    # The best is on top.
    assert seen.get_ylim()[0] > seen.get_ylim()[1]
    # std of 0.7 and 0.9 is 0.2 / sqrt(2).
    whiskers = seen.containers[1].lines[2][0].get_segments()
    assert np.ptp(whiskers[0][:, 0]) == pytest.approx(2 * 100 * 0.2 / 2**0.5)


def test_one_seed_has_no_whiskers():
    figure = class_accuracy_bars([accuracy("one", 0.1), accuracy("two", 0.2)])
    assert len(figure.axes) == 1
    assert len(figure.axes[0].containers) == 1


def test_whiskers_end_at_0_and_100():
    figure = class_accuracy_bars([accuracy("a", 0.0, 0.2), accuracy("b", 0.8, 1.0)])
    segments = figure.axes[0].containers[1].lines[2][0].get_segments()
    ends = np.concatenate([segment[:, 0] for segment in segments])
    assert ends.min() == pytest.approx(0)
    assert ends.max() == pytest.approx(100)


def test_many_classes_show_their_ends():
    classes = [accuracy(f"class {i:03}", (i / 300) ** 2, seen=i % 4 > 0) for i in range(276)]
    figure = class_accuracy_bars(classes)
    seen, unseen = figure.axes
    for axis, ids in ((seen, [i for i in range(276) if i % 4]), (unseen, range(0, 276, 4))):
        labels = [text.get_text() for text in axis.get_yticklabels()]
        half = MOST_BARS // 4
        wanted = [*ids[::-1][:half], *ids[::-1][-half:]]
        assert labels == [f"class {i:03}" for i in wanted]
        assert axis.texts[0].get_text() == f"… {len(ids) - 2 * half} more between …"
        # The mean is of all classes, not of those drawn.
        assert f"mean {100 * np.mean(np.square(ids)) / 300**2:.1f} " in axis.get_title(loc="left")
        places = [bar.get_y() + bar.get_height() / 2 for bar in axis.patches]
        np.testing.assert_allclose(places, [*range(half), *range(half + 1, 2 * half + 1)])


def test_a_small_half_is_shown_whole():
    classes = [accuracy(f"class {i:03}", i / 300, seen=i >= 10) for i in range(100)]
    seen, unseen = class_accuracy_bars(classes).axes
    assert len(unseen.patches) == 10
    assert len(seen.patches) == MOST_BARS - 10


def test_the_figure_grows():
    heights = [
        class_accuracy_bars([accuracy(f"class {i}", 0.5) for i in range(num)]).get_figheight()
        for num in (10, 60)
    ]
    assert heights[1] - heights[0] == pytest.approx(0.19 * 50)


def test_bars_need_a_class():
    with pytest.raises(TCAFError, match="at least one class"):
        class_accuracy_bars([])


def test_counts_of_unseen_clips():
    # Clip 3 of class 2 is nearest to 2; clip 4, of class 3, is nearer to 2.
    counts = unseen_counts(five_clips().decisions, np.array([2, 3]))
    assert counts.tolist() == [[1, 0], [1, 0]]


def test_most_confused_classes():
    #           wrong share + drawn share
    # class 0:  0.5         + 0
    # class 1:  0           + 0.5
    # class 2:  0           + 0
    # class 3:  0.25        + 0     and nothing of class 4, which has no clips
    counts = np.array(
        [[1, 1, 0, 0, 0], [0, 3, 0, 0, 0], [0, 0, 9, 0, 0], [0, 0, 0, 3, 1], [0, 0, 0, 0, 0]]
    )
    assert most_confused(counts, 2).tolist() == [0, 1]
    assert most_confused(counts, 9).tolist() == [0, 1, 2, 3, 4]
    assert sorted(most_confused(counts, 4).tolist()) == [0, 1, 3, 4]


def cell_texts(axis):
    return {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axis.texts}


def test_confusion_in_percent_of_the_row():
    counts = np.array([[3, 1, 0], [0, 5, 0], [1, 999, 0]])
    figure = unseen_confusion(counts, ["a", "b & <c>", "d"])
    axis = figure.axes[0]
    # 1 of 1000 rounds to 0 and is not written, but drawn.
    assert cell_texts(axis) == {(0, 0): "75", (0, 1): "25", (1, 1): "100", (2, 1): "100"}
    pixels = axis.images[0].get_array()
    np.testing.assert_allclose(
        pixels[..., 3], [[0.75, 0.25, 0], [0, 1, 0], [0.001, 0.999, 0]], atol=1e-9
    )
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a · 1", "b & <c> · 2", "d · 3"]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["1", "2", "3"]
    assert axis.get_title(loc="left") == "3 unseen classes, % of row"


@pytest.mark.parametrize(("width", "shown"), [("wide", 25), ("narrow", 10)])
def test_confusion_of_many_classes(width, shown):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, (138, 138)) + 90 * np.eye(138, dtype=int)
    figure = unseen_confusion(counts, [f"class {i}" for i in range(138)], width=width)
    axis = figure.axes[0]
    shares = axis.images[0].get_array()[..., 3]
    assert shares.shape == (shown, shown + 1)
    # The last column makes each row whole.
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert axis.get_xticklabels()[-1].get_text().strip() == "other"
    assert axis.get_title(loc="left") == f"{shown} of 138 unseen classes, % of row"
    rows = [int(re.search(r"class (\d+)", t.get_text())[1]) for t in axis.get_yticklabels()]
    assert rows == most_confused(counts, shown).tolist()


@pytest.mark.slow
def test_class_without_clips():
    figure = unseen_confusion(np.array([[2, 0], [0, 0]]), ["a", "b"])
    assert cell_texts(figure.axes[0]) == {(0, 0): "100"}


def test_confusion_needs_a_class():
    with pytest.raises(TCAFError, match="at least one class"):
        unseen_confusion(np.zeros((0, 0), int), [])


@pytest.mark.slow
@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_nothing_is_cut_off(width):
    names = [f"a class of a rather long name, number {i}" for i in range(21)]
    counts = np.random.default_rng(0).integers(0, 9, (21, 21))
    bars = [accuracy(name, 0.1 * (i % 9), 0.4, seen=i > 9) for i, name in enumerate(names)]
    series = [CurveSeries(name, (TRIANGLE, RECTANGLE)) for name in names[:4]]
    for figure in (
        unseen_confusion(counts, names, width=width),
        class_accuracy_bars(bars, width=width),
        seen_unseen_curves(series, width=width),
    ):
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        assert box.x0 >= -0.05
        assert box.y0 >= -0.05
        assert box.x1 <= figure.get_figwidth() + 0.05
        assert box.y1 <= figure.get_figheight() + 0.05
