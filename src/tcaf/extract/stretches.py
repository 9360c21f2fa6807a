"""A recording of any length to the features of its stretches, one after the other.

Owns which tokens a stretch has, and when there is nothing to hear and nothing to see in it. Sound
and picture are decoded side by side, each once, and a token is made once however many stretches it
is in; what lies behind is forgotten, so that memory does not grow with the length of a file. The
tokens are those of the whole file (`extractor`), bit for bit.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.data.features import MODALITIES, SENSES, Modality, VideoFeatures
from tcaf.data.windows import tokens_within
from tcaf.errors import TCAFError
from tcaf.extract.backbones import AudioBackbone, VisualBackbone
from tcaf.extract.containers import MediaError
from tcaf.extract.extractor import (
    SILENT,
    STILL,
    stream_audio_tokens,
    stream_visual_tokens,
    until_unusable,
)
from tcaf.extract.media import read_audio, read_frames

BIN_S = 0.1
"""Seconds of a track that are noted together as empty or not."""


@dataclass(frozen=True)
class Cut:
    """How recordings are cut into stretches.

    Args:
        every_s: length of a stretch, in seconds.
        overlap_hop_s: seconds from the start of one to the start of the next, where they overlap;
            None where they follow each other.

    Raises:
        TCAFError: a length or hop that is not above 0, or a hop above the length.
    """

    every_s: float
    overlap_hop_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.every_s < math.inf:
            raise TCAFError(f"--every must be above 0 seconds, got {self.every_s:g}")
        if not 0 < self.hop_s <= self.every_s:
            raise TCAFError(
                f"--hop must be above 0 and at most --every, {self.every_s:g}, got {self.hop_s:g}; "
                "stretches may overlap, not leave anything out"
            )

    @property
    def hop_s(self) -> float:
        """Seconds from the start of one stretch to the start of the next."""
        return self.every_s if self.overlap_hop_s is None else self.overlap_hop_s

    def place(self, number: int) -> tuple[float, float]:
        """Returns where a stretch begins and ends, in seconds, counted from 0."""
        start_s = number * self.hop_s
        return start_s, start_s + self.every_s

    def stands_for(self, number: int, end_s: float, is_last: bool) -> tuple[float, float]:
        """Returns the seconds that a stretch answers for: all of it, or of overlapping ones a part.

        Where stretches overlap, each stands for the `hop_s` in its middle, the first also for what
        is before, the last for what is behind. These parts follow each other without a gap.

        Args:
            number: of the stretch.
            end_s: its end, which is that of the recording at the latest.
            is_last: whether none follows.
        """
        margin_s = (self.every_s - self.hop_s) / 2
        start_s = number * self.hop_s
        begins_s = start_s + margin_s if number else start_s
        return begins_s, end_s if is_last else start_s + self.hop_s + margin_s

    def check_steps(self, steps: Mapping[Modality, float]) -> None:
        """Checks that every stretch has tokens.

        Args:
            steps: seconds a token, by modality.

        Raises:
            TCAFError: stretches or hops are shorter than a token.
        """
        for modality, step_s in steps.items():
            for option, asked_s in (("every", self.every_s), ("hop", self.hop_s)):
                if asked_s < step_s:
                    raise TCAFError(
                        f"--{option} {asked_s:g} is shorter than what one {modality} token of the "
                        f"model stands for, {step_s:g} s; give at least that"
                    )


@dataclass(frozen=True)
class Stretch:
    """The features of a stretch of a recording.

    Args:
        number: of the stretch, from 0.
        start_s: where what it answers for begins, in seconds since the recording's start.
        end_s: where that ends.
        video: its tokens.
        is_empty: whether there is nothing to hear and nothing to see in what it answers for.
    """

    number: int
    start_s: float
    end_s: float
    video: VideoFeatures
    is_empty: bool


class _Filled:
    """How long a track is so far, and in which tenths of a second there is something in it."""

    def __init__(self) -> None:
        self.length_s = 0.0
        self._bins: deque[int] = deque()

    def note(self, start_s: float, end_s: float, is_empty: bool) -> None:
        """Notes what the next part of the track is like: a frame, or at most `BIN_S` of sound."""
        self.length_s = end_s
        # Where it begins: a frame says what is to be seen then, not until the next one.
        tenth = math.floor(start_s / BIN_S + 1e-6)
        if not is_empty and (not self._bins or self._bins[-1] < tenth):
            self._bins.append(tenth)

    def is_within(self, start_s: float, end_s: float) -> bool:
        """Returns whether there is something in a stretch; forgets what was before it."""
        first, behind = (math.floor(seconds / BIN_S + 1e-6) for seconds in (start_s, end_s))
        while self._bins and self._bins[0] < first:
            self._bins.popleft()
        return bool(self._bins) and self._bins[0] < behind


class _Tokens:
    """The tokens of one track as they come.

    Args:
        stream: of tokens.
        step_s: seconds from one to the next.
        filled: what is noted of the track while it is decoded.
    """

    def __init__(
        self, stream: Iterator[Float[np.ndarray, "_ dim"]], step_s: float, filled: _Filled
    ) -> None:
        self.filled = filled
        self._stream, self._step_s = stream, step_s
        self._held: list[Float[np.ndarray, " dim"]] = []
        self._first = 0

    def take(self, start_s: float, end_s: float) -> list[Float[np.ndarray, " dim"]]:
        """Returns the tokens of a stretch, fewer where the track ends; those before it go."""
        wanted = tokens_within((start_s, end_s), self._step_s)
        self._fill(wanted.stop)
        del self._held[: max(wanted.start - self._first, 0)]
        self._first = max(self._first, wanted.start)
        return self._held[: wanted.stop - wanted.start]

    def goes_on_behind(self, end_s: float) -> bool:
        """Returns whether there are tokens behind the stretch that was taken last."""
        stop = tokens_within((0.0, end_s), self._step_s).stop
        self._fill(stop + 1)
        return self._first + len(self._held) > stop

    def _fill(self, stop: int) -> None:
        while self._first + len(self._held) < stop:
            some = next(self._stream, None)
            if some is None:
                return
            self._held.extend(some)


def _audio(path: Path, backbone: AudioBackbone, is_only: bool) -> _Tokens:
    """Returns the tokens of a file's sound, in which what never exceeds `SILENT` is empty."""
    filled, rate = _Filled(), backbone.sample_rate

    def noted() -> Iterator[Float[np.ndarray, " _"]]:
        count, size = 0, round(BIN_S * rate)
        for block in read_audio(path, rate):
            for start in range(0, len(block), size):
                part = block[start : start + size]
                is_silent = float(np.abs(part).max(initial=0.0)) < SILENT
                filled.note(count / rate, (count + len(part)) / rate, is_silent)
                count += len(part)
            yield block

    stream = stream_audio_tokens(backbone, _passing(noted(), is_only))
    return _Tokens(stream, backbone.step_s, filled)


def _visual(path: Path, backbone: VisualBackbone, is_only: bool) -> _Tokens:
    """Returns the tokens of a file's picture, in which frames of a single colour count as empty.

    No pixel of those differs by more than `STILL` levels from another: black, or what a camera
    sends that nothing is connected to.
    """
    filled, fps = _Filled(), backbone.fps

    def noted() -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        last, is_blank = None, True
        for number, frame in enumerate(read_frames(path, fps, backbone.frame_size)):
            if frame is not last:  # one that is shown several times is looked at once
                spread = frame.max(axis=(0, 1)).astype(int) - frame.min(axis=(0, 1))
                last, is_blank = frame, int(spread.max()) <= STILL
            filled.note(number / fps, (number + 1) / fps, is_blank)
            yield frame

    stream = stream_visual_tokens(backbone, _passing(noted(), is_only))
    return _Tokens(stream, backbone.step_s, filled)


def _passing(stream: Iterator[np.ndarray], is_only: bool) -> Iterator[np.ndarray]:
    """Passes a track on; one that cannot be used ends there, with a warning if it is not alone."""
    if is_only:
        return stream
    return until_unusable(stream)


def stretches(
    path: Path,
    id: str,
    cut: Cut,
    audio: AudioBackbone | None,
    visual: VisualBackbone | None,
    dims: Mapping[Modality, int],
) -> Iterator[Stretch]:
    """Yields the features of a recording, stretch by stretch, as soon as they can be had.

    A stretch has the tokens whose middles lie in it. The last one ends with the recording: it may
    be shorter, or longer by what is left over that is too short for a token.

    Args:
        path: of the file.
        id: of its clips.
        cut: into which stretches.
        audio: backbone for sound; None if none is wanted.
        visual: backbone for pictures; None if none is wanted.
        dims: size of a token by modality.

    Raises:
        MediaError: no media file, or it has nothing of what is wanted; where sound or picture
            alone is wanted also if it can no longer be used, after the stretches before.
    """
    is_only = audio is None or visual is None
    tracks: dict[Modality, _Tokens] = {}
    if audio is not None:
        tracks["audio"] = _audio(path, audio, is_only)
    if visual is not None:
        tracks["visual"] = _visual(path, visual, is_only)
    number, goes_on = 0, True
    while goes_on:
        place = cut.place(number)
        tokens = {m: tracks[m].take(*place) if m in tracks else [] for m in MODALITIES}
        arrays = {m: np.array(tokens[m], np.float32).reshape(-1, dims[m]) for m in MODALITIES}
        if not any(map(len, arrays.values())):
            raise MediaError(path, *_nothing(list(tracks)))
        goes_on = any(track.goes_on_behind(place[1]) for track in tracks.values())
        end_s = place[1] if goes_on else max(t.filled.length_s for t in tracks.values())
        answers_for = cut.stands_for(number, end_s, not goes_on)
        filled = [track.filled.is_within(*answers_for) for track in tracks.values()]
        video = VideoFeatures(id, arrays["audio"], arrays["visual"])
        yield Stretch(number, *answers_for, video, not any(filled))
        number += 1


def _nothing(wanted: Sequence[Modality]) -> tuple[str, str]:
    """Returns why a file has no stretch: the reason and a detail."""
    if len(wanted) == len(MODALITIES):
        return "neither sound nor picture", "no sample and no frame decodes"
    return f"no {SENSES[wanted[0]]}", f"the model reads {wanted[0]} alone"
