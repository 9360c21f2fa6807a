"""The reliability diagram: a dot where clips are, and nothing where there are none."""

import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.evaluation.calibration import reliability
from tcaf.reports.reliability import reliability_diagram
from tcaf.reports.theme import SERIES, to_svg

pytest.importorskip("matplotlib")


def two_bins():
    """Three quarters of the clips at 50 %, two in three of them right; a quarter at 90 %, right."""
    right = np.array([True, True, False, True])
    return reliability(np.array([0.5, 0.5, 0.5, 0.9]), right, np.zeros(4, int))


@pytest.mark.slow
@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_dots_and_shares(width):
    figure = reliability_diagram({"validation": two_bins(), "test": two_bins()}, width=width)
    above, below = figure.axes
    dots = above.collections[0]
    assert np.asarray(dots.get_offsets()) == pytest.approx(np.array([[50, 200 / 3], [90, 100]]))
    small, large = sorted(dots.get_sizes())
    assert large > 2 * small
    assert below.patches[0].get_data().values.sum() == pytest.approx(100)
    (legend,) = figure.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told == [f"{part}, calibration error 15.0 %" for part in ("validation", "test")]
    svg = to_svg(figure, "reliability", "a diagram")
    assert svg.count("var(--series-1") >= 3
    assert above.lines[1].get_color() == SERIES[0]


def test_there_must_be_a_part():
    with pytest.raises(TCAFError, match="at least one part"):
        reliability_diagram({})
