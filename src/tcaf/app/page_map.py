"""The map of embeddings as a drawing that says of each point which clip it is.

Owns its look on the page; `reports.detail` lays the clips out. `page.js` shows what a point is when
the pointer is over it.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float

from tcaf.app.page_answer import NAME, shown
from tcaf.reports.detail import ClipMap
from tcaf.reports.embedding_map import MapPanel
from tcaf.reports.theme import COLOURS

SIDE = 100.0
"""Units from one side of a panel to the other."""

MARGIN = 4.0

HUES = tuple(name for name in COLOURS if name.startswith("series-"))


def map_html(found: ClipMap, ids: Sequence[str], predicted: Sequence[str]) -> str:
    """Returns the map: a panel for the inputs of each modality, and one for what is learnt.

    Args:
        found: where the clips lie.
        ids: of all test clips.
        predicted: which class each was taken for.
    """
    panels = "".join(
        _panel(found, panel, [(ids[n], predicted[n]) for n in clips.tolist()])
        for panel, clips in zip(found.panels, found.clips, strict=True)
    )
    keys = "".join(
        f'<li><svg viewBox="-3 -3 6 6" aria-hidden="true">{_mark(number, 0.0, 0.0, is_seen)}</svg>'
        f"{shown(name, NAME)}{'' if is_seen else ' <b>unseen</b>'}</li>"
        for number, (name, is_seen) in enumerate(_classes(found))
    )
    return (
        '<figure class="t-map"><h2>Inputs and learnt embeddings</h2>'
        f'<div class="t-panels">{panels}</div><ul class="t-keys">{keys}</ul>'
        "<figcaption>t-SNE of test clips. Triangles are clips of unseen classes, squares the "
        "classes' own embeddings; point at a clip to see which it is.</figcaption></figure>"
    )


def _classes(found: ClipMap) -> list[tuple[str, bool]]:
    return [(name, name in found.classes.seen) for name in found.classes.names]


def _panel(found: ClipMap, panel: MapPanel, said: Sequence[tuple[str, str]]) -> str:
    every = panel.points
    if panel.class_points is not None:
        every = np.concatenate([every, panel.class_points])
    if not len(every):
        return ""
    points = _placed(panel.points, every)
    classes = _classes(found)
    marks = []
    for (x, y), label, (id_, taken) in zip(
        points.tolist(), panel.labels.tolist(), said, strict=True
    ):
        name, is_seen = classes[label]
        told = f"{id_}: {name}" + ("" if taken == name else f", taken for {taken}")
        marks.append(_mark(label, x, y, is_seen, told))
    if panel.class_points is not None:
        for label, (x, y) in enumerate(_placed(panel.class_points, every).tolist()):
            tip = escape(f"the class {classes[label][0]}")
            marks.append(
                f'<rect class="t-class" x="{x - 2.2:.1f}" y="{y - 2.2:.1f}" width="4.4" '
                f'height="4.4" fill="var(--{HUES[label % len(HUES)]})" data-t-tip="{tip}"/>'
            )
    return (
        f'<div><h3>{escape(panel.title)}</h3><svg class="t-panel" viewBox="0 0 {SIDE:g} {SIDE:g}" '
        f'role="img" aria-label="Map of clips: {escape(panel.title)}">{"".join(marks)}</svg></div>'
    )


def _placed(
    points: Float[np.ndarray, "num 2"], every: Float[np.ndarray, "all 2"]
) -> Float[np.ndarray, "num 2"]:
    """Returns points in the units of a panel that shows all of them."""
    low, high = every.min(axis=0), every.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return MARGIN + (SIDE - 2 * MARGIN) * (points - low) / span


def _mark(number: int, x: float, y: float, is_seen: bool, told: str = "") -> str:
    """Returns a point: a dot for a clip of a seen class, a triangle for one of an unseen one."""
    look = f'fill="var(--{HUES[number % len(HUES)]})"'
    tip = f' data-t-tip="{escape(told)}"' if told else ""
    if is_seen:
        return f'<circle class="t-clip" cx="{x:.1f}" cy="{y:.1f}" r="1.5" {look}{tip}/>'
    corners = f"{x:.1f},{y - 2.1:.1f} {x + 1.9:.1f},{y + 1.4:.1f} {x - 1.9:.1f},{y + 1.4:.1f}"
    return f'<polygon class="t-clip t-unseen" points="{corners}" {look}{tip}/>'
