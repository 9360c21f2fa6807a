"""A recording of any length as a picture: frames, sound, and which class was named when.

Owns its look. A long one is drawn in several bands below each other, as lines of a page are, so
that two hours can be read as well as a minute. Clips are `answer_timeline`.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tcaf.answers.recordings import LEFT_OUT, Kind, Recording, Span
from tcaf.progress import describe_time
from tcaf.reports.answer_timeline import (
    ClipView,
    draw_strip,
    save_timeline,
    view_clip,
)
from tcaf.reports.theme import Figure, extra, light, new_figure, shortened, styled

BAND_S = (600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 86_400.0)
"""Seconds that a band may stand for; what fits into the first is drawn in one band."""

MAX_BANDS = 6

BEYOND = 0.02
"""Share of a band by which a recording may go beyond the last one."""

MAX_CLASSES = 8
"""Classes that have a row of their own: those that were named for longest."""

FRAMES = 8
"""Frames of a band."""

STROKES = 900
"""Strokes of the waveform in a band."""

ROWS = {"frames": 0.62, "sound": 0.42}
"""Inches of the rows of a band above the classes."""

CLASS_INCHES = 0.17

LABEL = 30
"""Characters of a class name that fit beside its row."""

STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400)
"""Seconds between two marks of the time axis."""

PALE = 0.45
"""How opaque an answer that is not the best is drawn, for its probability."""


@dataclass(frozen=True)
class _Row:
    """A row of a band: a class, all others, or what was left out."""

    label: str
    names: frozenset[str]
    colour: str
    kind: Kind = "answer"


def bands_of(length_s: float) -> tuple[int, float]:
    """Returns how many bands there are, and how many seconds each stands for.

    What goes a little beyond the last one widens all of them, in place of one more.
    """
    if length_s <= BAND_S[0]:
        return 1, max(length_s, 1.0)
    days = math.ceil(length_s / MAX_BANDS / BAND_S[-1]) * BAND_S[-1]
    for seconds in (*BAND_S, days):
        count = max(math.ceil(length_s / seconds - BEYOND), 1)
        if count <= MAX_BANDS:
            break
    return count, max(seconds, length_s / count)


def _rows(stretches: Sequence[Span]) -> list[_Row]:
    """Returns the rows that there are, the class that was named for longest on top."""
    named_s: dict[str, float] = defaultdict(float)
    is_seen = {}
    for stretch in stretches:
        if stretch.name and stretch.ranking is not None:
            named_s[stretch.name] += stretch.end_s - stretch.start_s
            is_seen[stretch.name] = stretch.ranking.answers[0].seen
    names = sorted(named_s, key=lambda name: (-named_s[name], name))
    # A row for others stands for two at least.
    num_own = MAX_CLASSES if len(names) > MAX_CLASSES + 1 else len(names)
    rows = [
        _Row(shortened(name, LABEL), frozenset({name}), "seen" if is_seen[name] else "unseen")
        for name in names[:num_own]
    ]
    if others := names[num_own:]:
        rows.append(_Row(f"{len(others)} others", frozenset(others), "ink"))
    kinds = {stretch.kind for stretch in stretches}
    rows += [
        _Row(said, frozenset(), "muted", kind) for kind, said in LEFT_OUT.items() if kind in kinds
    ]
    return rows


def _opacities(
    rows: Sequence[_Row], stretches: Sequence[Span]
) -> Float[np.ndarray, "rows stretches"]:
    """Returns how opaque each row is drawn in each stretch: by the probability of its class."""
    found = np.zeros((len(rows), len(stretches)))
    row_of = {name: number for number, row in enumerate(rows) for name in row.names}
    row_of_kind = {row.kind: number for number, row in enumerate(rows) if row.kind != "answer"}
    for column, stretch in enumerate(stretches):
        if stretch.kind != "answer":
            found[row_of_kind[stretch.kind], column] = 0.6
            continue
        assert stretch.ranking is not None, "an answer has one"
        for rank, answer in enumerate(stretch.ranking.answers):
            if answer.name in row_of:
                chance = float(rank == 0) if answer.probability is None else answer.probability
                # The best one is always to be seen.
                opacity = PALE * chance if rank else 0.25 + 0.75 * chance
                row = row_of[answer.name]
                found[row, column] = max(found[row, column], opacity)
    return found


def recording_timeline(recording: Recording, view: ClipView | None = None) -> Figure:
    """Draws a recording over time.

    In each band from above: frames; the sound; a row for each class, the more opaque the more
    probable it was in a stretch; what was left out.

    Args:
        recording: with its stretches.
        view: from `view_clip`.

    Raises:
        TCAFError: matplotlib is not installed.
    """
    stretches = recording.stretches
    length_s = max(recording.length_s, view.duration_s if view is not None else 0.0)
    num_bands, seconds = bands_of(length_s)
    rows = _rows(stretches)
    above = []
    if view is not None and len(view.frames):
        above.append("frames")
    if view is not None and len(view.lowest):
        above.append("sound")
    heights = [*(ROWS[name] for name in above), CLASS_INCHES * max(len(rows), 1) + 0.05]
    opacities = _opacities(rows, stretches)
    with styled():
        figure = new_figure("wide", 0.75 + num_bands * (sum(heights) + 0.4))
        told = f"{shortened(str(recording.file), 90)}   {describe_time(length_s)}"
        figure.suptitle(told, x=0.012, ha="left", fontsize=10.5)
        bands = figure.subfigures(num_bands, 1, squeeze=False)[:, 0]
        strips = []
        for number, band in enumerate(bands):
            start_s = number * seconds
            axes = band.subplots(len(heights), height_ratios=heights, squeeze=False)[:, 0]
            for axis in axes:
                axis.set_xlim(start_s, start_s + seconds)
            named = dict(zip([*above, "classes"], axes, strict=True))
            if view is not None and "sound" in named:
                _draw_sound(named["sound"], view, start_s, start_s + seconds)
            _draw_classes(named["classes"], rows, stretches, opacities, seconds)
            for axis in axes[:-1]:
                axis.set_axis_off()
            if "frames" in named:
                strips.append(named["frames"])
        _draw_legend(figure, rows)
        if strips and view is not None:
            # How wide the axes are is known once the layout is.
            figure.draw_without_rendering()
            for axis in strips:
                _draw_frames(axis, view)
    return figure


def _draw_sound(axis: Any, view: ClipView, start_s: float, end_s: float) -> None:
    """Draws the waveform of a band, as loud as it is beside the loudest of all."""
    edges = np.linspace(0, view.sound_s, len(view.lowest) + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    within = (middles >= start_s) & (middles < end_s)
    loudest = max(float(np.abs([view.lowest, view.highest]).max()), 1e-3)
    lows, highs = view.lowest[within], view.highest[within]
    axis.fill_between(middles[within], lows, highs, color=light("muted"), lw=0.4)
    axis.set_ylim(-1.05 * loudest, 1.05 * loudest)


def _draw_classes(
    axis: Any,
    rows: Sequence[_Row],
    stretches: Sequence[Span],
    opacities: Float[np.ndarray, "rows stretches"],
    seconds: float,
) -> None:
    """Draws which class was named when, and the time axis."""
    start_s, end_s = axis.get_xlim()
    shown = [n for n, s in enumerate(stretches) if s.end_s > start_s and s.start_s < end_s]
    colours = extra("matplotlib.colors")
    if rows and shown:
        edges = [*(stretches[n].start_s for n in shown), stretches[shown[-1]].end_s]
        pixels = np.zeros((len(rows), len(shown), 4))
        for number, row in enumerate(rows):
            pixels[number, :, :3] = colours.to_rgb(light(row.colour))
        pixels[..., 3] = opacities[:, shown]
        axis.pcolormesh(np.array(edges), np.arange(len(rows) + 1), pixels, shading="flat")
    for line in range(1, len(rows)):
        axis.axhline(line, color=light("grid"), lw=0.6)
    axis.set_ylim(max(len(rows), 1), 0)
    axis.set_xlim(start_s, end_s)
    axis.set_yticks(np.arange(len(rows)) + 0.5, [row.label for row in rows])
    axis.tick_params(axis="y", length=0, labelsize=8.5)
    axis.spines["left"].set_visible(False)
    ticker = extra("matplotlib.ticker")
    step_s = next((step for step in STEPS_S if seconds / step <= 10), seconds / 6)
    axis.xaxis.set_major_locator(ticker.MultipleLocator(step_s))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda time, _: describe_time(time)))


def _draw_frames(axis: Any, view: ClipView) -> None:
    """Draws the frames whose share of the picture track begins in a band."""
    start_s, end_s = axis.get_xlim()
    edges = np.linspace(0, view.picture_s, len(view.frames) + 1)
    shown = np.flatnonzero((edges[1:] > start_s) & (edges[:-1] < end_s))
    if not len(shown):
        return
    box = axis.get_window_extent()
    share = (edges[1] - edges[0]) / (end_s - start_s) * box.width
    places = edges[shown[0] : shown[-1] + 2]
    draw_strip(axis, view.frames[shown], places, share / box.height)
    axis.set_xlim(start_s, end_s)


def _draw_legend(figure: Figure, rows: Sequence[_Row]) -> None:
    """Says what the colours mean."""
    patch = extra("matplotlib.patches").Patch
    kinds = [kind for kind in ("seen", "unseen") if any(row.colour == kind for row in rows)]
    handles = [patch(color=light(kind), label=kind) for kind in kinds]
    if not handles:
        return
    look = {"handlelength": 1.0, "columnspacing": 1.0, "borderaxespad": 0.0}
    title = "the more opaque, the more probable"
    figure.legend(
        handles=[*handles, patch(alpha=0, label=title)],
        loc="outside lower left",
        ncols=len(handles) + 1,
        **look,
    )


def draw_recording(path: Path, recording: Recording, number: int | None = None) -> Path:
    """Draws a recording over time and returns the file written.

    Args:
        path: of the picture of a single recording.
        recording: with its stretches.
        number: of one of several, which goes to NAME_n beside it; None for a single one.

    Raises:
        TCAFError: the extra `plot` is missing, or the recording cannot be read any more.
    """
    place = path if number is None else path.with_stem(f"{path.stem}_{number}")
    num_bands, _ = bands_of(recording.length_s)
    view = view_clip(recording.file, FRAMES * num_bands, STROKES * num_bands)
    save_timeline(place, recording_timeline(recording, view))
    return place
