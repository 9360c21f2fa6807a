"""One clip and its answers as a picture: frames, sound, where the model looks, what it says.

Owns its look, and how little of a file it needs. Figures are matplotlib's (extra `plot`), see
`theme`; files are decoded by `extract.media` (extra `video`).
"""

import glob
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.clips import Answered, Unanswered
from tcaf.answers.interface import Classifier
from tcaf.answers.ranking import Ranking
from tcaf.data.batches import LoadedClips, load_batch
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.extract.backbones import FrameSize
from tcaf.extract.containers import BrokenMediaWarning
from tcaf.extract.extractor import until_unusable
from tcaf.extract.media import probe, read_audio, read_frames
from tcaf.files.atomic import check_file, followed, make_parents, replacing
from tcaf.reports.theme import SERIES, Figure, extra, light, new_figure, shortened, styled
from tcaf.systems.attention_map import AttentionMap, HasAttentionMap

FRAMES = 24
"""Frames that are kept of a clip; the strip shows as many as fit side by side."""

FRAME_HEIGHT = 108
"""Pixels of a kept frame; its width follows from the file's."""

SAMPLE_RATE = 8000
"""Samples per second that the waveform is drawn from."""

BIN_S = 0.02
"""Seconds of sound that become one lowest and one highest sample while a file is read."""

BINS = 900
"""Strokes of the waveform, at most."""

ROWS = {"frames": 0.95, "sound": 0.75, "attention": 1.5}
"""Inches of each row of the picture."""


SHORT, LONG = 28, 90
"""Characters of a class name that fit beside the clip, and where the answers stand alone."""


@dataclass(frozen=True)
class ClipView:
    """What there is to see and to hear of a clip, whose tracks begin together.

    Args:
        sound_s: length of the sound track in seconds.
        picture_s: length of the picture track.
        frames: evenly spread, each from the middle of its share of the picture track; none without
            picture.
        lowest: lowest sample of each share of the sound track, in -1..1; none without sound.
        highest: highest sample of each share.
    """

    sound_s: float
    picture_s: float
    frames: UInt8[np.ndarray, "num_frames height width 3"]
    lowest: Float[np.ndarray, " bins"]
    highest: Float[np.ndarray, " bins"]

    @property
    def duration_s(self) -> float:
        """Length of the longer track in seconds."""
        return max(self.sound_s, self.picture_s)


@dataclass(frozen=True)
class ClipAttention:
    """Where a model looks in a clip.

    Args:
        weights: with times in seconds since the clip's start.
        spec: of the tokens that the model was given; None for the seconds of one that stands for
            the whole clip.
    """

    weights: AttentionMap
    spec: FeatureSpec


def view_clip(path: Path, num_frames: int = FRAMES, bins: int = BINS) -> ClipView:
    """Reads a file once more, at low resolution; a track that cannot be used is an empty one.

    Args:
        path: of the file.
        num_frames: how many of them are kept.
        bins: strokes of the waveform, at most.

    Raises:
        TCAFError: see `extract.media`.
    """
    with warnings.catch_warnings():
        # It was said when the features were made.
        warnings.simplefilter("ignore", BrokenMediaWarning)
        lowest, highest, sound_s = _waveform(path, bins)
        info = probe(path)
        stated_s = info.duration_s or sound_s
        frames, picture_s = np.zeros((0, 1, 1, 3), np.uint8), 0.0
        if info.has_video:
            aspect = (info.width or 16) / (info.height or 9)
            frames, picture_s = _frames(path, stated_s, aspect, num_frames)
    return ClipView(sound_s, picture_s, frames, lowest, highest)


def _frames(
    path: Path, stated_s: float, aspect: float, num_frames: int
) -> tuple[UInt8[np.ndarray, "num_frames height width 3"], float]:
    """Returns frames evenly spread over the picture track, and its length in seconds.

    Every second frame is dropped whenever there are twice as many as wanted: the length that
    a file states need not be right.
    """
    size = FrameSize(FRAME_HEIGHT, min(max(round(FRAME_HEIGHT * aspect), 2), 8 * FRAME_HEIGHT))
    fps = 2 * num_frames / stated_s if stated_s > 0 else 4.0
    kept: list[UInt8[np.ndarray, "height width 3"]] = []
    stride, count = 1, 0
    for frame in until_unusable(read_frames(path, fps, size)):
        if count % stride == 0:
            kept.append(frame)
        count += 1
        if len(kept) == 4 * num_frames:
            kept, stride = kept[::2], 2 * stride
    if not kept:
        return np.zeros((0, 1, 1, 3), np.uint8), 0.0
    middles = (np.arange(num_frames) + 0.5) / num_frames * count / stride
    chosen = np.minimum(middles.astype(int), len(kept) - 1)
    return np.stack([kept[place] for place in chosen]), count / fps


def _waveform(
    path: Path, num_bins: int
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"], float]:
    """Returns lowest and highest samples over the sound track, and its length in seconds."""
    size = round(BIN_S * SAMPLE_RATE)
    lows, highs, rest, count = [], [], np.zeros(0, np.float32), 0
    for block in until_unusable(read_audio(path, SAMPLE_RATE)):
        count += len(block)
        samples = np.concatenate([rest, block])
        whole = len(samples) // size * size
        bins, rest = samples[:whole].reshape(-1, size), samples[whole:]
        lows.append(bins.min(axis=1))
        highs.append(bins.max(axis=1))
    if len(rest):
        lows.append(rest.min(keepdims=True))
        highs.append(rest.max(keepdims=True))
    if not count:
        return np.zeros(0, np.float32), np.zeros(0, np.float32), 0.0
    low, high = np.concatenate(lows), np.concatenate(highs)
    starts = np.unique(np.linspace(0, len(low), num_bins, endpoint=False).astype(int))
    low, high = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
    return low, high, count / SAMPLE_RATE


def clip_attention(classifier: Classifier, video: VideoFeatures) -> ClipAttention | None:
    """Returns where a model looks in a clip; None for a model without a class token."""
    if not isinstance(classifier, ZeroShotClassifier):
        return None
    model = classifier.trained.model
    if not isinstance(model, HasAttentionMap):
        return None
    found = model.attention_map(classifier.batch(video))
    if not len(found.class_to_class):
        return None
    # The model's times may be token numbers, or seconds since the window's start.
    windows = replace(classifier.windows, times="seconds", restart=False)
    spec = classifier.spec
    timed = load_batch(LoadedClips([video], spec), np.arange(1), windows)
    weights = replace(
        found,
        audio_times=timed.audio.times.double().numpy(),
        visual_times=timed.visual.times.double().numpy(),
    )
    if windows.average:
        spec = replace(spec, audio_step_s=None, visual_step_s=None)
    return ClipAttention(weights, spec)


def answer_timeline(
    ranking: Ranking, attention: ClipAttention | None = None, view: ClipView | None = None
) -> Figure:
    """Draws a clip over time and its answers beside.

    From above: frames; the sound; the class token's weights in the last layer on audio and visual
    tokens, each as a multiple of an even look. What there is not is left out.

    Args:
        ranking: the answers.
        attention: from `clip_attention`.
        view: from `view_clip`.

    Raises:
        TCAFError: matplotlib is not installed.
    """
    rows = []
    if view is not None and len(view.frames):
        rows.append("frames")
    if view is not None and len(view.lowest):
        rows.append("sound")
    if attention is not None:
        rows.append("attention")
    bars = 0.5 + 0.42 * len(ranking.answers)
    with styled():
        figure = new_figure("wide", 0.75 + max(sum(ROWS[row] for row in rows), bars))
        figure.suptitle(shortened(ranking.id, 110), x=0.012, ha="left", fontsize=10.5)
        widths = [2.5, 1] if rows else [1]
        parts = figure.subfigures(1, len(widths), squeeze=False, width_ratios=widths)[0]
        if rows:
            ratio = [ROWS[row] for row in rows]
            axes = parts[0].subplots(len(rows), height_ratios=ratio, squeeze=False, sharex=True)
            _draw_rows(dict(zip(rows, axes[:, 0], strict=True)), attention, view)
        _draw_answers(parts[-1].subplots(), ranking, SHORT if rows else LONG)
        if view is not None and "frames" in rows:
            # How many frames fit is known once the layout is.
            figure.draw_without_rendering()
            _draw_frames(axes[0, 0], view)
    return figure


def _draw_rows(
    axes: dict[str, Any], attention: ClipAttention | None, view: ClipView | None
) -> None:
    """Draws everything that has a time but the frames."""
    length_s = view.duration_s if view is not None else 0.0
    for name, axis in axes.items():
        last = name == list(axes)[-1]
        if name != "attention":
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
        if not last:
            axis.tick_params(bottom=False, labelbottom=False)
            axis.spines["bottom"].set_visible(False)
        else:
            axis.set_xlabel("seconds")
    if view is not None and "sound" in axes:
        edges = np.linspace(0, view.sound_s, len(view.lowest) + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        loudest = max(float(np.abs([view.lowest, view.highest]).max()), 1e-3)
        axes["sound"].fill_between(middles, view.lowest, view.highest, color=light("muted"), lw=0.4)
        axes["sound"].set_ylim(-1.05 * loudest, 1.05 * loudest)
    if attention is not None:
        length_s = length_s or _tokens_end_s(attention)
        _draw_attention(axes["attention"], attention, length_s or 1.0)
    last = list(axes.values())[-1]
    last.set_xlim(0, length_s or 1.0)
    if not length_s:
        # Each token stands for a whole clip, whose length is not known.
        last.set_xticks([])
        last.set_xlabel("the whole clip")


def _tokens_end_s(attention: ClipAttention) -> float:
    """Returns where the last token ends, in seconds; 0 if each stands for the whole clip."""
    weights, spec = attention.weights, attention.spec
    ends = (
        times[-1] + step_s
        for times, step_s in (
            (weights.audio_times, spec.audio_step_s),
            (weights.visual_times, spec.visual_step_s),
        )
        if len(times) and step_s is not None
    )
    return float(max(ends, default=0.0))


def _draw_attention(axis: Any, attention: ClipAttention, length_s: float) -> None:
    """Draws the class token's weights as steps, for a clip of this length in seconds."""
    weights, spec = attention.weights, attention.spec
    both = (
        ("audio", weights.audio_times, weights.class_to_audio[-1], SERIES[0]),
        ("visual", weights.visual_times, weights.class_to_visual[-1], SERIES[1]),
    )
    used = [row for row in both if row[2].any()]
    num_tokens = 1 + sum(len(times) for _, times, _, _ in used)
    top = 1.0
    for name, times, on_tokens, colour in used:
        looks = on_tokens * num_tokens
        step_s = spec.audio_step_s if name == "audio" else spec.visual_step_s
        if step_s is None:
            edges = np.linspace(0, length_s, len(times) + 1)
        else:
            edges = np.append(times, times[-1] + step_s)
        axis.stairs(looks, edges, label=name, color=colour, baseline=None, lw=1.7)
        top = max(top, float(looks.max()))
    axis.axhline(1, color=light("muted"), lw=0.8, ls=(0, (4, 3)))
    axis.set_ylim(0, 1.15 * top)
    axis.set_title("weight of the class token (1: an even look)")
    axis.grid(axis="y")
    axis.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderaxespad=0.1)


def _draw_frames(axis: Any, view: ClipView) -> None:
    """Draws as many frames side by side as fit, each over its share of the picture track."""
    limits = axis.get_xlim()
    box = axis.get_window_extent()
    strip = box.width * view.picture_s / limits[1]
    height, width = view.frames.shape[1:3]
    num = int(np.clip(round(strip / box.height / (width / height)), 1, len(view.frames)))
    shown = view.frames[((np.arange(num) + 0.5) / num * len(view.frames)).astype(int)]
    edges = np.linspace(0, view.picture_s, num + 1)
    draw_strip(axis, shown, edges, strip / num / box.height)
    axis.set_xlim(limits)


def draw_strip(
    axis: Any,
    frames: UInt8[np.ndarray, "num height width 3"],
    edges: Float[np.ndarray, " num_and_1"],
    wanted: float,
) -> None:
    """Draws frames side by side, cut to the shape of their places, so that nothing is stretched.

    Args:
        axis: with seconds from left to right.
        frames: in their order.
        edges: where each begins and the last one ends, in seconds.
        wanted: width of a place over its height.
    """
    height, width = frames.shape[1:3]
    tall, wide = min(height, round(width / wanted)), min(width, max(round(height * wanted), 1))
    top, left = (height - tall) // 2, (width - wide) // 2
    gap = 0.012 * (edges[-1] - edges[0]) / max(len(frames), 1)
    for frame, start, end in zip(frames, edges[:-1], edges[1:], strict=True):
        axis.imshow(
            frame[top : top + tall, left : left + wide],
            extent=(start + gap, end - gap, 0, 1),
            aspect="auto",
            interpolation="bilinear",
        )
    axis.set_ylim(0, 1)


def _draw_answers(axis: Any, ranking: Ranking, limit: int) -> None:
    """Draws a bar for each answer, its name above, in no more than `limit` characters.

    The best name is bold; where a set was asked for, those that are not ruled out.
    """
    answers, bold = ranking.answers, ranking.names
    chances = [answer.probability for answer in answers]
    known = None not in chances
    values = [
        answer.distance if answer.probability is None else answer.probability for answer in answers
    ]
    full = 1.0 if known else max(*values, 1e-12)
    end = full * (1.3 if limit < LONG else 1.07)
    for rank, (answer, value) in enumerate(zip(answers, values, strict=True)):
        colour = light("seen" if answer.seen else "unseen")
        axis.barh(rank + 0.22, full, height=0.3, color=light("raised"))
        axis.barh(rank + 0.22, value, height=0.3, color=colour)
        number = f"{100 * value:.1f} %" if known else f"{value:.3f}"
        axis.text(end, rank + 0.22, number, va="center", ha="right", color=light("muted"))
        chosen = rank == 0 if bold is None else answer.name in bold
        weight = "bold" if chosen else "normal"
        axis.text(0, rank - 0.02, shortened(answer.name, limit), va="bottom", fontweight=weight)
    axis.set_ylim(len(answers) - 0.4, -0.5)
    axis.set_xlim(0, end)
    title = "probability" if known else "distance, nearest first"
    if bold is not None:
        title += "; bold: not ruled out" if bold else "; none of these"
    axis.set_title(title)
    axis.set_axis_off()
    kinds = {answer.seen: "seen" if answer.seen else "unseen" for answer in answers}
    patch = extra("matplotlib.patches").Patch
    handles = [patch(color=light(kinds[s]), label=kinds[s]) for s in (True, False) if s in kinds]
    look = {"handlelength": 1.0, "borderaxespad": 0.0, "columnspacing": 1.0}
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), ncols=2, **look)


def check_timeline(path: Path) -> None:
    """Checks that a picture can be drawn to a place, before anything long is begun.

    Raises:
        TCAFError: it, or where the n-th clip may go, is no PNG file or a folder, or matplotlib is
            not installed.
    """
    extra("matplotlib")
    if path.suffix.lower() != ".png" or path.is_dir():
        raise TCAFError(f"expected a PNG file to draw into, such as timeline.png, got {path}")
    # Of several clips, whose number nobody knows yet, the n-th goes to NAME_n.
    numbered = path.parent.glob(f"{glob.escape(path.stem)}_*{path.suffix}")
    for place in (path, *(p for p in numbered if p.stem.rpartition("_")[2].isdecimal())):
        check_file(place, "\x89PNG", "PNG file")


def save_timeline(path: Path, figure: Figure) -> None:
    """Writes a figure as a PNG file, whole or not at all; its folder is made."""
    make_parents(path)
    with styled(), warnings.catch_warnings(), replacing(followed(path)) as temporary:
        # Names in a script that matplotlib's font lacks show as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, format="png", dpi=150)


def draw_timelines(
    path: Path, classifier: Classifier, found: Sequence[Answered | Unanswered]
) -> list[Path]:
    """Draws each answered clip over time and returns the files written.

    Args:
        path: of the picture of a single clip; the n-th of several goes to NAME_n beside it, where
            those without answers are counted too.
        classifier: that answered.
        found: the clips, with their features.

    Raises:
        TCAFError: the extra `plot` is missing.
    """
    written = []
    for number, one in enumerate(found, start=1):
        if isinstance(one, Unanswered):
            continue
        assert one.video is not None, "features are kept where timelines are asked for"
        place = path if len(found) == 1 else path.with_stem(f"{path.stem}_{number}")
        view = None if one.file is None else view_clip(one.file)
        figure = answer_timeline(one.ranking, clip_attention(classifier, one.video), view)
        save_timeline(place, figure)
        written.append(place)
    return written
