"""A clip over time, as HTML: player, frames, sound, where the model looks, the stretches.

Owns its look and how it is marked up for `page.js`, which moves the position and seeks. Frames and
waveform are read by `reports.answer_timeline`; nothing here reads a file.
"""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.answers.recordings import LEFT_OUT, Span
from tcaf.app.page_answer import NAME, percent, shown
from tcaf.progress import describe_time
from tcaf.reports.answer_timeline import ClipAttention, ClipView

FRAMES = 12
"""Frames of the strip."""

STROKES = 300
"""Strokes of the waveform."""

HEIGHT = 100
"""Units of a drawing from top to bottom; it is stretched to its place."""

STEPS_S = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
"""Seconds between two marks of the time axis."""

MARKS = 8
"""Marks of the time axis, at most."""


def player_html(url: str, has_picture: bool) -> str:
    """Returns the player of a clip.

    Args:
        url: of the file, for the browser.
        has_picture: whether there is one; else a player of sound.
    """
    tag = "video" if has_picture else "audio"
    return (
        f'<{tag} class="t-media" controls preload="metadata" playsinline src="{escape(url)}" '
        f'aria-label="The clip"></{tag}><p class="t-note t-unplayable" hidden>The browser '
        "cannot play this kind of file; what the model saw and heard is below.</p>"
    )


def timeline_html(view: ClipView, attention: ClipAttention | None = None) -> str:
    """Returns what there is to see and hear over time; a click seeks to its place.

    Args:
        view: frames and sound.
        attention: where the model looked; None for a model that has no such weights.
    """
    length_s = view.duration_s
    if not length_s:
        return ""
    rows = [_frames(view, length_s), _sound(view, length_s), _attention(attention, length_s)]
    return _timed(rows, length_s) + _legend(attention)


def stretches_html(spans: Sequence[Span], captions: str) -> str:
    """Returns the stretches of a recording: as bars over time, and as buttons that seek to them.

    Args:
        spans: in their order.
        captions: the same as WebVTT, which the player shows.
    """
    if not spans:
        return ""
    rows = "".join(
        f'<li><button type="button" class="t-jump" data-t-seek="{span.start_s:.3f}">'
        f'<span class="t-when">{describe_time(span.start_s)}–{describe_time(span.end_s)}</span>'
        f'<span class="t-dot {_kind(span)}" aria-hidden="true"></span>{_said(span)}</button></li>'
        for span in spans
    )
    length_s = spans[-1].end_s
    code = base64.b64encode(captions.encode()).decode()
    return (
        f'<div data-t-captions="data:text/vtt;base64,{code}"><h3>Stretches</h3>'
        f"{_timed([_spans(spans, length_s)], length_s, has_range=False)}"
        f'<ol class="t-stretches">{rows}</ol></div>'
    )


def _timed(rows: Sequence[str], length_s: float, has_range: bool = True) -> str:
    """Returns rows over a common time, with its axis and a mark of where the player is."""
    slider = (
        f'<input type="range" class="t-range" min="0" max="{length_s:.2f}" step="0.1" value="0" '
        'aria-label="Position in the clip, in seconds">'
    )
    return (
        f'<div class="t-time" data-t-length="{length_s:.3f}"><div class="t-rows" data-t-seekable>'
        f'{"".join(rows)}<span class="t-head" aria-hidden="true"></span></div>{_axis(length_s)}'
        f"{slider if has_range else ''}</div>"
    )


def _place(start_s: float, end_s: float, length_s: float) -> str:
    """Returns where something stands between left and right, as a style."""
    left, width = 100 * start_s / length_s, 100 * (end_s - start_s) / length_s
    return f"left:{left:.2f}%;width:{width:.2f}%"


def _frames(view: ClipView, length_s: float) -> str:
    if not len(view.frames):
        return ""
    chosen = np.linspace(0, len(view.frames) - 1, min(FRAMES, len(view.frames))).astype(int)
    images = "".join(f'<img alt="" src="{_jpeg(view.frames[place])}">' for place in chosen)
    place = _place(0.0, view.picture_s, length_s)
    return (
        f'<div class="t-row t-frames" role="img" aria-label="{len(chosen)} frames of the picture">'
        f'<div class="t-part" style="{place}">{images}</div></div>'
    )


def _jpeg(frame: UInt8[np.ndarray, "height width 3"]) -> str:
    """Returns a frame as an address that holds the picture itself."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _drawing(kind: str, label: str, body: str, width: int) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )


def _sound(view: ClipView, length_s: float) -> str:
    if not len(view.lowest):
        return ""
    starts = np.unique(np.linspace(0, len(view.lowest), STROKES, endpoint=False).astype(int))
    low = np.minimum.reduceat(view.lowest, starts)
    high = np.maximum.reduceat(view.highest, starts)
    loudest = max(float(np.abs([low, high]).max()), 1e-3)
    middles = (np.arange(len(low)) + 0.5) / len(low) * STROKES
    above = _points(middles, HEIGHT / 2 * (1 - high / loudest))
    below = _points(middles[::-1], HEIGHT / 2 * (1 - low[::-1] / loudest))
    drawing = _drawing(
        "t-sound", "Waveform of the sound", f'<polygon points="{above} {below}"/>', STROKES
    )
    place = _place(0.0, view.sound_s, length_s)
    return f'<div class="t-row t-wave"><div class="t-part" style="{place}">{drawing}</div></div>'


def _points(across: Float[np.ndarray, " num"], down: Float[np.ndarray, " num"]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))


def _attention(attention: ClipAttention | None, length_s: float) -> str:
    """Returns the class token's weights in the last layer, each beside an even look."""
    if attention is None:
        return ""
    weights, spec = attention.weights, attention.spec
    both = (
        ("audio", weights.audio_times, weights.class_to_audio[-1], spec.audio_step_s),
        ("visual", weights.visual_times, weights.class_to_visual[-1], spec.visual_step_s),
    )
    used = [row for row in both if row[2].any()]
    if not used:
        return ""
    num_tokens = 1 + sum(len(times) for _, times, _, _ in used)
    top = max(1.0, *(float(looks.max()) * num_tokens for _, _, looks, _ in used)) * 1.1
    even = HEIGHT * (1 - 1 / top)
    lines = [f'<line class="t-even" x1="0" x2="1000" y1="{even:.1f}" y2="{even:.1f}"/>']
    for name, times, looks, step_s in used:
        steps = (
            np.append(times, times[-1] + step_s)
            if step_s is not None
            else np.linspace(0, length_s, len(times) + 1)
        )
        across = np.repeat(steps / length_s * 1000, 2)[1:-1]
        down = np.repeat(HEIGHT * (1 - looks * num_tokens / top), 2)
        points = _points(across, down)
        lines.append(f'<polyline class="t-{name}" points="{points}"/>')
    drawing = _drawing("t-looks", "Where the model looks over time", "".join(lines), 1000)
    return f'<div class="t-row t-look">{drawing}</div>'


def _legend(attention: ClipAttention | None) -> str:
    if attention is None:
        return ""
    return (
        '<p class="t-legend"><span class="t-swatch t-audio"></span>weight on sound '
        '<span class="t-swatch t-visual"></span>weight on picture; dashed: an even look</p>'
    )


def _spans(stretches: Sequence[Span], length_s: float) -> str:
    """Returns what was said of each stretch, as bars between left and right."""
    bars = "".join(
        f'<span class="t-span {_kind(span)}" style="{_place(span.start_s, span.end_s, length_s)}" '
        f'title="{_said(span)}"><span>{_said(span)}</span></span>'
        for span in stretches
    )
    return f'<div class="t-row t-spans" aria-hidden="true">{bars}</div>'


def _kind(span: Span) -> str:
    if span.ranking is None or span.kind != "answer":
        return "nothing"
    return "seen" if span.ranking.answers[0].seen else "unseen"


def _said(span: Span) -> str:
    """Returns what is said of a stretch, as HTML."""
    if span.kind != "answer":
        return escape(LEFT_OUT[span.kind])
    chance = "" if span.probability is None else f" {percent(span.probability)}"
    return shown(span.name, NAME) + chance


def _axis(length_s: float) -> str:
    step_s = float(next((s for s in STEPS_S if length_s / s <= MARKS), length_s / MARKS))
    marks = np.arange(0, length_s + 1e-9, step_s)
    told = "".join(
        f'<span style="left:{100 * mark / length_s:.2f}%">{_clock(float(mark), step_s)}</span>'
        for mark in marks
        if mark <= 0.93 * length_s
    )
    return f'<div class="t-axis" aria-hidden="true">{told}</div>'


def _clock(seconds: float, step_s: float) -> str:
    if step_s < 1:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 60 and step_s < 60 else describe_time(seconds)
