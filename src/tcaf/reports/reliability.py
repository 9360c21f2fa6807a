"""The reliability diagram: how often answers are right, by the probability that they were given.

Owns its look. Takes `evaluation.calibration.Reliability`, returns matplotlib's `Figure`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tcaf.errors import TCAFError
from tcaf.evaluation.calibration import NUM_BINS, Reliability
from tcaf.reports.theme import SERIES, Figure, Width, light, new_figure, styled


def reliability_diagram(parts: Mapping[str, Reliability], *, width: Width = "wide") -> Figure:
    """Draws accuracy over probability for each part, and below it the share of clips in each bin.

    A dot is a bin, larger where more clips are in it; on the dashed line probabilities are what
    they say, below it they are too sure.

    Args:
        parts: by name, such as validation and test.
        width: of the page.

    Raises:
        TCAFError: there is no part, or matplotlib is not installed.
    """
    if not parts:
        raise TCAFError("the reliability diagram needs at least one part")
    wide = width == "wide"
    with styled():
        figure = new_figure(width, 4.6 if wide else 4.8)
        above, below = figure.subplots(2, height_ratios=[3.2, 1], sharex=True)
        above.plot([0, 100], [0, 100], color=light("muted"), lw=0.9, ls=(0, (4, 3)))
        above.set(xlim=(0, 100), ylim=(0, 100), ylabel="right answers (%)")
        below.set(ylabel="clips (%)", xlabel="probability of the best answer (%)")
        edges = 100 * np.arange(NUM_BINS + 1) / NUM_BINS
        for number, (name, one) in enumerate(parts.items()):
            colour = SERIES[number % len(SERIES)]
            label = f"{name}, calibration error {100 * one.error:.1f} %"
            _draw(above, one, colour, label)
            share = 100 * np.array(one.share)
            below.stairs(share, edges, color=colour, lw=1.5, ls=("-", "--")[number % 2])
        below.set_ylim(0, None)
        for axis in (above, below):
            axis.grid(axis="y")
        handles = above.get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside right upper" if wide else "outside lower left")
    return figure


def _draw(axis: Any, one: Reliability, colour: str, label: str) -> None:
    share = np.array(one.share)
    there = share > 0
    places = 100 * np.array(one.confidence)[there], 100 * np.array(one.accuracy)[there]
    axis.plot(*places, color=colour, label=label)
    look = {"color": colour, "edgecolors": light("paper"), "linewidths": 1, "clip_on": False}
    axis.scatter(*places, s=15 + 600 * share[there], zorder=4, **look)
