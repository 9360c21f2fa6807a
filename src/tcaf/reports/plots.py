"""Figures of what a model decides: seen-unseen curves, accuracy by class, confusion.

Owns the small records that they are drawn from. Takes arrays, returns matplotlib's `Figure`; reads
no files, writes none, and leaves matplotlib's global state as it was. matplotlib (extra `plot`) is
imported inside functions. Every figure comes for two widths: `wide` for a desktop's page, `narrow`
for a phone's, with the same size of text on both. Scores are fractions, and shown in percent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tcaf.errors import TCAFError
from tcaf.evaluation.gzsl import Decisions, GZSLResult
from tcaf.evaluation.statistics import ClassAccuracy
from tcaf.reports.theme import (
    SERIES,
    WIDTHS,
    Figure,
    Width,
    extra,
    heat,
    light,
    new_figure,
    on_heat,
    shortened,
    styled,
)

MOST_BARS = 60
"""Classes up to which `class_accuracy_bars` shows all."""

HALVES = ("seen", "unseen")

MOST_CELLS: dict[Width, int] = {"wide": 25, "narrow": 10}
"""Classes up to which `unseen_confusion` shows all."""


@dataclass(frozen=True)
class SeenUnseenCurve:
    """One run's seen-unseen curve, and where its gamma put it.

    Args:
        seen: S, falling as gamma grows.
        unseen: U, rising.
        chosen_seen: S at the run's gamma.
        chosen_unseen: U at the run's gamma.
    """

    seen: Float[np.ndarray, " points"]
    unseen: Float[np.ndarray, " points"]
    chosen_seen: float
    chosen_unseen: float

    @classmethod
    def of(cls, result: GZSLResult) -> "SeenUnseenCurve":
        """Takes the curve of a result whose clips are of both halves."""
        return cls(*result.curve, result.seen, result.unseen)

    @cached_property
    def area(self) -> float:
        """Area under the curve, S over U."""
        return float(np.trapezoid(self.seen, self.unseen))


@dataclass(frozen=True)
class CurveSeries:
    """The curves of one model's runs, one a seed.

    Args:
        label: name of the model.
        curves: at least one.
    """

    label: str
    curves: tuple[SeenUnseenCurve, ...]

    def mean(
        self, num_points: int = 201
    ) -> tuple[Float[np.ndarray, " num_points"], Float[np.ndarray, " num_points"]]:
        """Returns U and the runs' mean S there, 0 for a run that never reaches that U.

        Every curve ends at S = 0, and is carried on from there. So averaged, the area under the
        mean is the mean of the areas.
        """
        top = max(float(curve.unseen.max()) for curve in self.curves)
        unseen = np.linspace(0.0, top, num_points)
        seen = [np.interp(unseen, curve.unseen, curve.seen) for curve in self.curves]
        return unseen, np.mean(seen, axis=0)

    @property
    def area(self) -> float:
        """Mean area of the runs."""
        return float(np.mean([curve.area for curve in self.curves]))


def seen_unseen_curves(series: Sequence[CurveSeries], *, width: Width = "wide") -> Figure:
    """Draws S over U for each model, with the point that its gamma chose and lines of equal HM.

    A model of one run is drawn as it is. Of several, the mean is drawn strongly and each run
    faintly; the point is the mean of the runs' points, so that it may lie beside the mean curve.

    Raises:
        TCAFError: there is no curve, or matplotlib is not installed.
    """
    if not series or not all(one.curves for one in series):
        raise TCAFError("the seen-unseen figure needs at least one curve of each model")
    curves = [curve for one in series for curve in one.curves]
    right = 112 * max(max(float(curve.unseen.max()) for curve in curves), 0.01)
    top = 105 * max(max(float(curve.seen.max()) for curve in curves), 0.01)
    wide = width == "wide"
    with styled():
        figure = new_figure(width, 4.6 if wide else 4.1 + 0.2 * len(series))
        axis: Any = figure.subplots()
        axis.set(xlim=(0, right), ylim=(0, top))
        axis.set(xlabel="unseen classes, U (%)", ylabel="seen classes, S (%)")
        _equal_means(axis, right, top)
        for number, one in enumerate(series):
            style = ("-", "--", "-.", ":")[number // len(SERIES) % 4]
            _draw_series(axis, one, SERIES[number % len(SERIES)], style)
        dot = extra("matplotlib.lines").Line2D(
            [], [], ls="", marker="o", ms=7, color=light("muted"), label="at the chosen gamma"
        )
        handles = [*axis.get_legend_handles_labels()[0], dot]
        figure.legend(handles=handles, loc="outside right upper" if wide else "outside lower left")
    return figure


def _draw_series(axis: Any, series: CurveSeries, colour: str, style: str) -> None:
    curves = series.curves
    several = len(curves) > 1
    for curve in curves if several else ():
        faint = {"color": colour, "lw": 0.8, "alpha": 0.35, "ls": style}
        axis.plot(100 * curve.unseen, 100 * curve.seen, **faint)
    unseen, seen = series.mean() if several else (curves[0].unseen, curves[0].seen)
    label = f"{shortened(series.label, 30)}, area {series.area:.3f}"
    axis.plot(100 * unseen, 100 * seen, color=colour, ls=style, label=label)
    chosen = np.mean([(c.chosen_unseen, c.chosen_seen) for c in curves], axis=0)
    dot = {"marker": "o", "s": 60, "edgecolors": light("paper"), "linewidths": 1.4}
    axis.scatter(*(100 * chosen[:, None]), color=colour, **dot, zorder=4, clip_on=False)


def _equal_means(axis: Any, right: float, top: float) -> None:
    """Draws the lines on which the harmonic mean is a round number of percent."""
    best = 2 * right * top / (right + top)
    step = next((s for s in (1, 2, 5, 10) if best / s <= 6), 20)
    for mean in np.arange(step, best, step):
        unseen = np.linspace(mean / 2 * 1.001, right, 200)
        seen = mean * unseen / (2 * unseen - mean)
        axis.plot(unseen, seen, color=light("grid"), lw=0.8, zorder=0, scaley=False, scalex=False)
        # At the right edge, where the lines are flat.
        if seen[-1] < 0.97 * top:
            axis.annotate(
                f"HM {mean:g}",
                (right, seen[-1]),
                (-2, 2),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=8,
                color=light("muted"),
            )


def class_accuracy_bars(
    classes: Sequence[ClassAccuracy], *, most: int = MOST_BARS, width: Width = "wide"
) -> Figure:
    """Draws a bar for each class, the best first, seen and unseen classes apart.

    The figure grows with the classes. Beyond `most` of them each half shows as many of its best as
    of its worst, and says how many lie between; the halves share the room evenly, unless one
    needs less. The mean of a half is over all its classes. Whiskers are one standard deviation
    over the runs. Classes without clips are left out.

    Raises:
        TCAFError: no class has clips, or matplotlib is not installed.
    """
    classes = sorted((c for c in classes if c.clips), key=lambda c: (-c.accuracy, c.name))
    if not classes:
        raise TCAFError("the figure of accuracy by class needs at least one class with clips")
    halves = [(kind, [c for c in classes if c.seen == (kind == "seen")]) for kind in HALVES]
    halves = [(kind, rows) for kind, rows in halves if rows]
    fewest = min(len(rows) for _, rows in halves)
    room = max(most - fewest, most // len(halves))
    shown = [_ends(rows, room if len(classes) > most else len(rows)) for _, rows in halves]
    lens = [len(rows) for rows in shown]
    with styled():
        figure = new_figure(width, 0.19 * sum(lens) + 0.45 * len(lens) + 0.45)
        axes = figure.subplots(
            len(lens), sharex=True, squeeze=False, height_ratios=[n + 1.0 for n in lens]
        ).flat
        for axis, (kind, rows), bars in zip(axes, halves, shown, strict=True):
            _draw_bars(axis, kind, rows, bars, limit=34 if width == "wide" else 18)
        axes[len(lens) - 1].set_xlabel("accuracy (%)")
    return figure


def _ends(rows: list[ClassAccuracy], room: int) -> list[ClassAccuracy | None]:
    """Returns all rows, or as many first as last ones with None between."""
    if len(rows) <= room:
        return list(rows)
    end = max(room // 2, 1)
    return [*rows[:end], None, *rows[-end:]]


def _draw_bars(
    axis: Any,
    kind: str,
    rows: list[ClassAccuracy],
    bars: list[ClassAccuracy | None],
    limit: int,
) -> None:
    places = np.array([y for y, row in enumerate(bars) if row])
    drawn = [row for row in bars if row]
    means = 100 * np.array([row.accuracy for row in drawn])
    axis.barh(places, means, height=0.72, color=light(kind))
    stds = 100 * np.array([0.0 if math.isnan(row.std) else row.std for row in drawn])
    if not all(math.isnan(row.std) for row in drawn):
        whisker = {"ecolor": light("ink"), "elinewidth": 1, "capsize": 2, "capthick": 1}
        low = np.minimum(stds, means)
        axis.errorbar(
            means, places, xerr=[low, np.minimum(stds, 100 - means)], fmt="none", **whisker
        )
    labels = [shortened(row.name, limit) for row in drawn]
    if None in bars:
        gap = bars.index(None)
        hidden = len(rows) - len(drawn)
        axis.text(1, gap, f"… {hidden} more between …", va="center", color=light("muted"))
    mean = 100 * float(np.mean([row.accuracy for row in rows]))
    axis.axvline(mean, color=light("ink"), lw=0.9, ls=(0, (4, 3)))
    what = f"{kind} class" + ("es" if len(rows) > 1 else "")
    axis.set_title(f"{len(rows)} {what}, mean {mean:.1f} (dashed)")
    axis.set_yticks(places, labels)
    axis.set(xlim=(0, 100), ylim=(len(bars) - 0.4, -0.6))
    axis.tick_params(axis="y", length=0, labelcolor=light("ink"))
    axis.tick_params(axis="x", labelbottom=True)
    axis.grid(axis="x")
    axis.spines["left"].set_visible(False)


def unseen_counts(
    decisions: Decisions, unseen: Int[np.ndarray, " num_unseen"]
) -> Int[np.ndarray, "num_unseen num_unseen"]:
    """Returns the clips of each true unseen class (row) by nearest unseen class (column).

    Args:
        decisions: of all clips; those of seen classes are not counted.
        unseen: `ClassSet.unseen_ids`.
    """
    place = np.full(decisions.num_classes, -1)
    place[unseen] = np.arange(len(unseen))
    clips = ~decisions.is_seen
    true, said = place[decisions.labels[clips]], place[decisions.nearest_unseen[clips]]
    cells = true * len(unseen) + said
    return np.bincount(cells, minlength=len(unseen) ** 2).reshape(len(unseen), len(unseen))


def most_confused(
    counts: Int[np.ndarray, "num_unseen num_unseen"], most: int
) -> Int[np.ndarray, " shown"]:
    """Returns the classes, ascending, that take part in most wrong answers.

    A class counts by the share of its clips that went elsewhere plus what it drew from others, in
    shares of theirs.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = shares - np.diag(shares.diagonal())
    order = np.argsort(-(wrong.sum(axis=1) + wrong.sum(axis=0)), kind="stable")
    return np.sort(order[:most])


def unseen_confusion(
    counts: Int[np.ndarray, "num_unseen num_unseen"],
    names: Sequence[str],
    *,
    width: Width = "wide",
) -> Figure:
    """Draws which unseen class clips of each unseen class are nearest to, in percent of the row.

    Beyond `MOST_CELLS` classes those that take part in most confusions are shown, and a last column
    gathers the answers outside them. Cells carry their percentage, unless it rounds to 0.

    Args:
        counts: from `unseen_counts`, summed over runs if there are several.
        names: of the unseen classes, in that order.
        width: of the page.

    Raises:
        TCAFError: there is no class, or matplotlib is not installed.
    """
    if not names:
        raise TCAFError("the confusion of unseen classes needs at least one class")
    chosen = most_confused(counts, MOST_CELLS[width])
    cells = _confusion_cells(counts, chosen)
    columns = [str(i + 1) for i in range(len(chosen))]
    if len(chosen) < len(names):
        columns.append("\nother")  # a line below the numbers, which have no room beside
    wide = width == "wide"
    rows = [f"{shortened(names[i], 30 if wide else 18)} · {k + 1}" for k, i in enumerate(chosen)]
    cell = min(0.6, (WIDTHS[width] - (2.9 if wide else 2.0)) / len(columns))
    with styled():
        figure = new_figure(width, cell * len(rows) + 1.1)
        axis: Any = figure.subplots()
        _draw_cells(axis, cells, size=min(9.0, cell * 72 * 0.45))
        axis.set_xticks(range(len(columns)), columns)
        axis.set_yticks(range(len(rows)), rows)
        axis.set_xlabel("nearest unseen class, numbered as the rows")
        part = f"{len(chosen)} of " if len(chosen) < len(names) else ""
        axis.set_title(f"{part}{len(names)} unseen classes, % of row")
    return figure


def _confusion_cells(
    counts: Int[np.ndarray, "num_unseen num_unseen"], chosen: Int[np.ndarray, " shown"]
) -> Float[np.ndarray, "shown columns"]:
    """Returns the chosen part in percent of whole rows, and a column of what lies outside it."""
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = shares[np.ix_(chosen, chosen)]
    if len(chosen) == len(counts):
        return cells
    others = shares[chosen].sum(axis=1) - cells.sum(axis=1)
    return np.concatenate([cells, others[:, None]], axis=1)


def _draw_cells(axis: Any, cells: Float[np.ndarray, "rows columns"], size: float) -> None:
    axis.imshow(heat(cells / 100), interpolation="none", aspect="auto")
    axis.tick_params(length=0, labelcolor=light("ink"))
    for spine in axis.spines.values():
        spine.set(visible=True, color=light("grid"))
    for row, column in np.argwhere(cells >= 0.5):
        share = float(cells[row, column])
        style = {"ha": "center", "va": "center", "fontsize": size, "color": on_heat(share / 100)}
        axis.text(column, row, f"{share:.0f}", **style)
