"""Figure 3: clips of a few classes on a plane, in the input features and in the learnt space.

Owns the look of that map; `projection` computes the places. matplotlib (extra `plot`) is imported
inside functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError
from tcaf.reports.theme import (
    SERIES,
    WIDTHS,
    Figure,
    Width,
    extra,
    light,
    new_figure,
    shortened,
    styled,
)

SEEN_MARKERS = ("o", "P", "X")
UNSEEN_MARKERS = ("^", "v", "D")
"""A class beyond the last colour takes the first one again with the next marker."""


@dataclass(frozen=True)
class MapPanel:
    """One map of clips on a plane.

    Args:
        title: what was laid out.
        points: of the clips.
        labels: class of each clip.
        class_points: of the classes' own embeddings; None where the map has none.
    """

    title: str
    points: Float[np.ndarray, "clips 2"]
    labels: Int[np.ndarray, " clips"]
    class_points: Float[np.ndarray, "num_classes 2"] | None = None


def _class_looks(classes: ClassSet) -> list[tuple[str, str]]:
    """Returns colour and marker of each class: seen ones filled, unseen ones ringed by ink."""
    looks, used = [], {True: 0, False: 0}
    for number, name in enumerate(classes.names):
        seen = name in classes.seen
        markers = SEEN_MARKERS if seen else UNSEEN_MARKERS
        marker = markers[number // len(SERIES) % len(markers)]
        if not seen:
            # Unseen classes are few: each has its own marker as well.
            marker = markers[used[seen] % len(markers)]
        looks.append((SERIES[number % len(SERIES)], marker))
        used[seen] += 1
    return looks


def embedding_map(
    panels: Sequence[MapPanel], classes: ClassSet, *, width: Width = "wide"
) -> Figure:
    """Draws Figure 3: clips by class, in the input features and in the learnt space.

    Clips of seen classes are dots; clips of unseen ones have markers of their own with a dark ring,
    and bold names. A class's own embedding is a large square.

    Args:
        panels: side by side, or one below the other where it is narrow.
        classes: what labels index; drawn and listed in this order.
        width: of the page.

    Raises:
        TCAFError: there is no panel, or matplotlib is not installed.
    """
    if not panels:
        raise TCAFError("a map needs at least one panel")
    looks, wide = _class_looks(classes), width == "wide"
    rows = -(-(len(classes) + 2) // (4 if wide else 2))
    each = WIDTHS["wide"] / max(len(panels), 2) if wide else WIDTHS["narrow"] * 0.8
    height = each * (1 if wide else len(panels)) + 0.22 * rows + 0.5
    with styled():
        figure = new_figure(width, height)
        shape = (1, len(panels)) if wide else (len(panels), 1)
        axes = figure.subplots(*shape, squeeze=False).flat
        for axis, panel in zip(axes, panels, strict=True):
            axis.set_title(panel.title)
            axis.set(xticks=[], yticks=[])
            axis.set_box_aspect(1)
            for spine in axis.spines.values():
                spine.set(visible=True, color=light("grid"))
            for number, (name, look) in enumerate(zip(classes.names, looks, strict=True)):
                _draw_class(axis, panel, number, name in classes.seen, look)
        _map_legend(figure, classes, looks, columns=4 if wide else 2)
    return figure


def _draw_class(axis: Any, panel: MapPanel, number: int, seen: bool, look: tuple[str, str]) -> None:
    colour, marker = look
    points = panel.points[panel.labels == number]
    # A thin ring of the page's colour keeps neighbours apart.
    ring = {"edgecolors": light("paper"), "linewidths": 0.4}
    if not seen:
        ring = {"edgecolors": light("ink"), "linewidths": 0.9}
    size = 17 if seen else 28
    axis.scatter(*points.T, s=size, color=colour, marker=marker, **ring, zorder=2 if seen else 3)
    if panel.class_points is not None:
        square = panel.class_points[number]
        edge = {"edgecolors": light("ink"), "linewidths": 1.6}
        axis.scatter(*square[:, None], s=95, color=colour, marker="s", **edge, zorder=4)


def _map_legend(
    figure: Figure, classes: ClassSet, looks: list[tuple[str, str]], columns: int
) -> None:
    line = extra("matplotlib.lines").Line2D
    order = sorted(range(len(classes)), key=lambda i: classes.names[i] not in classes.seen)
    handles = []
    for number in order:
        colour, marker = looks[number]
        seen = classes.names[number] in classes.seen
        name = shortened(classes.names[number], 24 if columns == 2 else 26)
        edge = light("paper") if seen else light("ink")
        handles.append(
            line([], [], ls="", marker=marker, ms=6, mfc=colour, mec=edge, mew=0.9, label=name)
        )
    ringed = line([], [], ls="", marker="^", ms=6, mfc="none", mec=light("ink"), label="unseen")
    square = line([], [], ls="", marker="s", ms=9, mfc="none", mec=light("ink"), mew=1.6)
    square.set_label("class embedding")
    ringed.set_label("bold, ringed: unseen")
    legend = figure.legend(
        handles=[*handles, ringed, square],
        loc="outside lower left",
        ncols=columns,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    for number, text in zip(order, legend.get_texts()[: len(order)], strict=True):
        if classes.names[number] not in classes.seen:
            text.set_fontweight("bold")
