"""Figures over time: a training over its epochs, a clip's attention over its seconds.

Owns their look. Takes records and arrays, returns matplotlib's `Figure`; see `theme`. matplotlib
(extra `plot`) is imported inside functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tcaf.errors import TCAFError
from tcaf.evaluation.scores import SCORES
from tcaf.reports.theme import SERIES, Figure, Width, extra, heat, light, new_figure, styled
from tcaf.systems.attention_map import AttentionMap
from tcaf.training.observers import EpochRecord

LOSSES = {"loss": "total", "cross_entropy": "cross-entropy"}
"""What the legend calls a loss term, where its own name does not read well."""

ROWS = ("losses", "validation", "learning rate")


def training_curves(
    records: Sequence[EpochRecord], *, chosen_epoch: int | None = None, width: Width = "wide"
) -> Figure:
    """Draws losses, validation scores and learning rate over the epochs of both stages.

    Stages stand side by side, or one below the other where it is narrow; what a stage does not
    have, such as validation in stage 2 or the learning rate of a closed form, is left out. The
    chosen epoch is marked in all of them. An epoch of a closed form is a choice of regularisers,
    which its record has beside the loss: the axis says which.

    Args:
        records: of one run, in any order.
        chosen_epoch: what validation chose; None if nothing did.
        width: of the page.

    Raises:
        TCAFError: there is no epoch, or matplotlib is not installed.
    """
    if not records:
        raise TCAFError("training curves need at least one epoch")
    parts = _parts(records)
    heights = {"losses": 2.3, "validation": 2.3, "learning rate": 1.3}
    wide = width == "wide"
    rows = [what for what in ROWS if any(part.what == what for part in parts)]
    with styled():
        if wide:
            tall = [heights[what] for what in rows]
            figure = new_figure(width, sum(tall) + 0.3)
            shape = (len(rows), 1 + parts[-1].column)
            grid = figure.add_gridspec(*shape, height_ratios=tall)
            places = [grid[rows.index(part.what), part.column] for part in parts]
            axes: list[Any] = [figure.add_subplot(place) for place in places]
        else:
            tall = [heights[part.what] for part in parts]
            figure = new_figure(width, sum(tall) + 0.5 * len(parts))
            axes = list(figure.subplots(len(parts), squeeze=False, height_ratios=tall).flat)
        for axis, part in zip(axes, parts, strict=True):
            _draw_epochs(axis, part, chosen_epoch)
        for row in rows:
            beside = [a for a, part in zip(axes, parts, strict=True) if part.what == row]
            _finish_row(beside, row, wide)
    return figure


@dataclass(frozen=True)
class _Part:
    """One row of one stage; stages are columns.

    Args:
        what: one of `ROWS`.
        column: of the stage.
        epochs: of the stage, in order.
        last: it is the lowest row of its stage.
    """

    what: str
    column: int
    epochs: list[EpochRecord]
    last: bool

    @property
    def solved(self) -> bool:
        """Whether epochs are choices of a closed form, in which nothing moves by steps."""
        return not any(record.learning_rate for record in self.epochs)


def _parts(records: Sequence[EpochRecord]) -> list[_Part]:
    """Returns what there is to draw, stage by stage."""
    parts = []
    for column, stage in enumerate(sorted({record.stage for record in records})):
        epochs = sorted((r for r in records if r.stage == stage), key=lambda r: r.epoch)
        there = {
            "losses": True,
            "validation": any(record.validation for record in epochs),
            "learning rate": any(record.learning_rate for record in epochs),
        }
        rows = [what for what in ROWS if there[what]]
        parts += [_Part(what, column, epochs, what == rows[-1]) for what in rows]
    return parts


def _finish_row(axes: list[Any], what: str, wide: bool) -> None:
    """Gives the stages one range, so that they can be compared, and a legend beside or below."""
    for axis in axes[1:]:
        axis.sharey(axes[0])
    for axis in axes:
        axis.autoscale(axis="y")
    if what == "learning rate":
        return
    for axis in axes:
        axis.set_ylim(bottom=0)
    style = {"handlelength": 1.4, "borderaxespad": 0.3, "columnspacing": 1.0}
    if wide:
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), **style)
    else:
        for axis in axes:
            below = -0.3 if axis.get_xlabel() else -0.12
            axis.legend(loc="upper left", bbox_to_anchor=(-0.05, below), ncols=3, **style)


def _chosen(record: EpochRecord) -> dict[str, float]:
    """Returns the regularisers of an epoch of a closed form."""
    return {name: value for name, value in record.losses.items() if name != "loss"}


def _across(part: _Part) -> str:
    """Returns what the horizontal axis counts."""
    if not part.solved:
        return "epoch"
    names = ", ".join(_chosen(part.epochs[0]))
    return f"choice of {names}" if names else "choice"


def _draw_epochs(axis: Any, part: _Part, chosen: int | None) -> None:
    """Draws one row of one stage."""
    what, epochs = part.what, part.epochs
    numbers = np.array([record.epoch for record in epochs])
    many = len(numbers) > 1
    style = {"marker": None if many else "o", "ms": 4}
    if what == "losses":
        for place, name in enumerate(["loss"] if part.solved else epochs[0].losses):
            values = [record.losses.get(name, np.nan) for record in epochs]
            label = LOSSES.get(name, name.replace("_", " "))
            colour = light("ink") if name == "loss" else SERIES[(place - 1) % len(SERIES)]
            axis.plot(numbers, values, label=label, color=colour, **style)
    elif what == "validation":
        looks = zip(SCORES.items(), ("seen", "unseen", "ink", "series-3"), strict=True)
        for (name, label), colour in looks:
            values = [100 * float((r.validation or {}).get(name, np.nan)) for r in epochs]
            dots = {**style, "lw": 2.2 if name == "harmonic_mean" else 1.3}
            dash = "--" if name == "zsl" else "-"
            axis.plot(numbers, values, label=label, color=light(colour), ls=dash, **dots)
    else:
        rates = [record.learning_rate for record in epochs]
        axis.step(numbers, rates, where="mid", color=light("muted"), **style)
        axis.set_yscale("log")
        ticker = extra("matplotlib.ticker")
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=5))
        axis.yaxis.set_major_formatter(
            ticker.FuncFormatter(lambda rate, _: f"{rate:.3g}".replace("e-0", "e-"))
        )
        axis.yaxis.set_minor_locator(ticker.NullLocator())
    titles = {"validation": "validation (%)"}
    axis.set_title(f"stage {epochs[0].stage}: {titles.get(what, what)}")
    axis.grid(axis="y")
    axis.margins(x=0.02)
    if many:
        axis.xaxis.get_major_locator().set_params(integer=True)
    else:
        axis.set_xticks(numbers)
    if part.last:
        axis.set_xlabel(_across(part))
    if chosen is not None and numbers[0] <= chosen <= numbers[-1]:
        record = epochs[int(np.searchsorted(numbers, chosen))]
        names = [f"{name} {value:.3g}" for name, value in _chosen(record).items()]
        what = ",\n".join(names) if part.solved and names else str(chosen)
        axis.axvline(chosen, color=light("ink"), lw=0.9, ls=(0, (4, 3)), label=f"chosen: {what}")


def _edges(times: Float[np.ndarray, " tokens"]) -> tuple[float, float, float]:
    """Returns where the first token begins, the last one ends, and how long one is."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    return float(times[0]), float(times[-1]) + step, step


@dataclass(frozen=True)
class _View:
    """The class token's weights on one modality, as multiples of an even look."""

    name: str
    times: Float[np.ndarray, " tokens"]
    weights: Float[np.ndarray, "layers tokens"]


def _views(attention: AttentionMap) -> list[_View]:
    """Returns the modalities that the class token looks at."""
    both = (
        ("audio", attention.audio_times, attention.class_to_audio),
        ("visual", attention.visual_times, attention.class_to_visual),
    )
    used = [view for view in both if view[2].any()]
    num_tokens = 1 + sum(len(times) for _, times, _ in used)
    return [_View(name, times, weights * num_tokens) for name, times, weights in used]


def attention_over_time(
    attention: AttentionMap, *, layer: int | None = None, width: Width = "wide"
) -> Figure:
    """Draws where a model looks in one clip.

    Above, the class token's weights on audio and visual tokens in one layer, each as a multiple of
    an even look at everything that it sees, itself included; below, the same for all layers as
    heat. Beside, how audio queries weigh visual keys, in the deepest layer that has such.

    Args:
        attention: what a model's `attention_map` returns.
        layer: of the upper panel, counted from 1; None for the last.
        width: of the page.

    Raises:
        TCAFError: the map is empty, no such layer, or matplotlib is not installed.
    """
    layers, cross = len(attention.class_to_class), bool(attention.audio_to_visual.size)
    views = _views(attention)
    layer = layers if layer is None else layer
    if not views and not cross:
        raise TCAFError("the attention map is empty: no class token, and one modality at most")
    if views and not 1 <= layer <= layers:
        raise TCAFError(f"the attention map has layers 1 to {layers}, got {layer}")
    wide = width == "wide"
    left = [2.2, *[0.45 + 0.16 * layers] * len(views)] if views else []
    with styled():
        figure = new_figure(width, sum(left) + (0.2 if wide and views else 3.8 * cross))
        parts = [figure]
        if views and cross:
            ratios = {"width_ratios": [1.25, 1]} if wide else {"height_ratios": [sum(left), 3.8]}
            shape = (1, 2) if wide else (2, 1)
            parts = list(figure.subfigures(*shape, **ratios))
        if views:
            axes = parts[0].subplots(len(left), height_ratios=left, squeeze=False).flat
            _draw_class_token(list(axes), views, layer)
        if cross:
            _draw_cross(parts[-1].subplots(), attention)
    return figure


def _draw_class_token(axes: list[Any], views: list[_View], layer: int) -> None:
    """Draws one layer's weights as steps, and all layers' as a strip for each modality."""
    top, *strips = axes
    for view, colour in zip(views, (SERIES[0], SERIES[1]), strict=False):
        _, end, step = _edges(view.times)
        look = {"color": colour, "lw": 1.7 if len(view.times) < 80 else 0.8, "baseline": None}
        label = f"{view.name} ({step:.3g} s)"
        top.stairs(view.weights[layer - 1], np.append(view.times, end), label=label, **look)
    top.axhline(1, color=light("muted"), lw=0.8, ls=(0, (4, 3)))
    # The legend stands above what is drawn.
    top.set_ylim(0, 1.3 * max(1.0, *(float(view.weights[layer - 1].max()) for view in views)))
    top.set_title(f"class token in layer {layer} (1: even weight)")
    top.grid(axis="y")
    top.legend(loc="upper left", ncols=2, handlelength=1.4)
    hottest = max(float(view.weights.max()) for view in views)
    for axis, view in zip(strips, views, strict=True):
        _draw_strip(axis, view, hottest)
    first = min(_edges(view.times)[0] for view in views)
    last = max(_edges(view.times)[1] for view in views)
    for axis in axes:
        axis.set_xlim(first, last)
    strips[-1].set_xlabel("seconds")


def _draw_strip(axis: Any, view: _View, hottest: float) -> None:
    start, end, _ = _edges(view.times)
    num_layers = len(view.weights)
    extent = (start, end, num_layers + 0.5, 0.5)
    axis.imshow(heat(view.weights / hottest), interpolation="none", aspect="auto", extent=extent)
    axis.set_title(f"class token on {view.name} tokens, full colour: {hottest:.1f}")
    axis.set_yticks(sorted({1, num_layers}))
    axis.set_ylabel("layer")


def _draw_cross(axis: Any, attention: AttentionMap) -> None:
    weights = attention.audio_to_visual[-1]
    audio_start, audio_end, _ = _edges(attention.audio_times)
    visual_start, visual_end, _ = _edges(attention.visual_times)
    extent = (visual_start, visual_end, audio_end, audio_start)
    hottest = float(weights.max())
    axis.imshow(
        heat(weights / max(hottest, 1e-12)), interpolation="none", aspect="auto", extent=extent
    )
    number = len(attention.audio_to_visual)
    axis.set_title(f"audio to visual, layer {number}, full colour: {100 * hottest:.0f}%")
    axis.set_xlabel("visual keys (seconds)")
    axis.set_ylabel("audio queries (seconds)")
    for spine in axis.spines.values():
        spine.set(visible=True, color=light("grid"))
