"""One media file to `VideoFeatures`: streams of samples and frames, cut into windows, embedded.

Owns the cutting. Decoding is `media`, what a window becomes is a backbone's business. Neither the
whole sound nor all frames are ever in memory, only `WINDOWS` windows of either; of segments that
overlap, as much for each, where frames are shared. Each track is decoded once for any number of
segments.
"""

import heapq
import itertools
import math
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.extract.backbones import AudioBackbone, VisualBackbone, open_backbone
from tcaf.extract.containers import BrokenMediaWarning, MediaError, TrackError
from tcaf.extract.media import ROUNDING_S, Segment, frames_at, read_audio, unnoted
from tcaf.extract.tracks import TAIL_S

WINDOWS = 16
"""Windows that are embedded together."""

MOST_BYTES = 1 << 27
"""Bytes of frames in memory, unless those of one window are more."""

SILENT = 1e-3
"""Sound that never exceeds this, of 1, is silent: 60 dB below the loudest."""

STILL = 16
"""Levels, of 255, by which no pixel of a picture that stands still differs from its first frame."""


class AudioTokens:
    """Makes tokens of sound of one channel, which comes in blocks of any length.

    Args:
        backbone: what makes them.
    """

    def __init__(self, backbone: AudioBackbone) -> None:
        self._backbone = backbone
        self._held = np.empty(0, np.float32)
        self._waiting: list[Float[np.ndarray, " _"]] = []
        self._num_waiting = self._num_samples = self._num_tokens = 0
        self._peak = -1.0

    @property
    def is_silent(self) -> bool:
        """Whether nothing was to be heard in the sound that came."""
        return 0 <= self._peak < SILENT

    @property
    def lasts_s(self) -> float:
        """Seconds of sound that came."""
        return self._num_samples / self._backbone.sample_rate

    def push(self, block: Float[np.ndarray, " _"]) -> Iterator[Float[np.ndarray, "_ dim"]]:
        """Takes the samples that follow; yields tokens, some at a time, once there are enough."""
        if not len(block):
            return
        self._peak = max(self._peak, float(np.abs(block).max()))
        self._waiting.append(block)
        self._num_waiting += len(block)
        self._num_samples += len(block)
        size, hop = self._backbone.window_samples, self._backbone.hop_samples
        # Joined once enough for a batch has come, so that no sample is copied many times.
        if len(self._held) + self._num_waiting >= size + (WINDOWS - 1) * hop:
            yield from self._whole_windows()

    def finish(self) -> Iterator[Float[np.ndarray, "_ dim"]]:
        """Yields the tokens that are left; of less than a window one, continued with silence."""
        yield from self._whole_windows()
        held, self._held = self._held, self._held[:0]
        if len(held) and not self._num_tokens:
            missing = self._backbone.window_samples - len(held)
            yield self._backbone.embed(np.pad(held, (0, missing))[None])

    def _whole_windows(self) -> Iterator[Float[np.ndarray, "_ dim"]]:
        """Yields the tokens of all whole windows; holds samples from the next one's start on."""
        samples = np.concatenate([self._held, *self._waiting])
        self._waiting, self._num_waiting = [], 0
        size, hop = self._backbone.window_samples, self._backbone.hop_samples
        count = (len(samples) - size) // hop + 1 if len(samples) >= size else 0
        self._held = samples[count * hop :]
        self._num_tokens += count
        windows = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop] if count else ()
        for start in range(0, count, WINDOWS):
            yield self._backbone.embed(np.ascontiguousarray(windows[start : start + WINDOWS]))


class VisualTokens:
    """Makes tokens of frames, which come one by one at the backbone's frames per second.

    Args:
        backbone: what makes them.
    """

    def __init__(self, backbone: VisualBackbone) -> None:
        self._backbone = backbone
        # Not copied before a batch is whole: stretches that overlap hold the same arrays.
        self._frames: list[UInt8[np.ndarray, "height width 3"]] = []
        self._first: UInt8[np.ndarray, "height width 3"] | None = None
        self._is_still = True
        self.num_frames = self._num_tokens = 0

    @property
    def is_still(self) -> bool:
        """Whether several frames came, and all look like the first."""
        return self._is_still and self.num_frames > 1

    @property
    def lasts_s(self) -> float:
        """Seconds that the frames that came are shown for."""
        return self.num_frames / self._backbone.fps

    def push(
        self, frame: UInt8[np.ndarray, "height width 3"]
    ) -> Iterator[Float[np.ndarray, "_ dim"]]:
        """Takes the frame that follows; yields tokens, some at a time, once there are enough."""
        self._first = frame if self._first is None else self._first
        self.num_frames += 1
        if self._is_still and frame is not self._first:
            change = np.maximum(frame, self._first) - np.minimum(frame, self._first)
            self._is_still = int(change.max()) <= STILL
        self._frames.append(frame)
        size = self._backbone.window_frames
        windows = max(1, min(WINDOWS, MOST_BYTES // (size * frame.nbytes)))
        if len(self._frames) >= windows * size:
            frames, self._frames = self._frames, []
            yield self._embedded(frames, size)

    def finish(self) -> Iterator[Float[np.ndarray, "_ dim"]]:
        """Yields the tokens that are left; of less than a window one, continued with the last."""
        size = self._backbone.window_frames
        num_whole = len(self._frames) // size * size
        whole, rest = self._frames[:num_whole], self._frames[num_whole:]
        self._frames = []
        if whole:
            yield self._embedded(whole, size)
        if rest and self._backbone.takes_incomplete_windows:
            yield self._embedded(rest, len(rest))
        elif rest and not self._num_tokens:
            yield self._embedded([*rest, *[rest[-1]] * (size - len(rest))], size)

    def _embedded(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], size: int
    ) -> Float[np.ndarray, "_ dim"]:
        windows = np.stack(frames).reshape(-1, size, *frames[0].shape)
        self._num_tokens += len(windows)
        return self._backbone.embed(windows)


Tokens = TypeVar("Tokens", AudioTokens, VisualTokens)


class _Cut(Generic[Tokens]):
    """One track of a file, cut into stretches.

    Args:
        backbone: what makes tokens of it.
        of: what each stretch is made by.
    """

    def __init__(self, backbone: AudioBackbone | VisualBackbone, of: list[Tokens]) -> None:
        self.of: list[Tokens] = of
        self.made: list[list[Float[np.ndarray, "_ dim"]]] = [[] for _ in of]
        self.tokens: list[Float[np.ndarray, "len dim"]] = []
        self.is_there = False
        self._backbone = backbone

    def finish(self, *, is_there: bool) -> None:
        """Finishes stretches behind the end of the file too; `is_there` if the file has any."""
        for made, tokens in zip(self.made, self.of, strict=True):
            made.extend(tokens.finish())
        self.tokens = [_joined(self._backbone, made) for made in self.made]
        self.is_there = is_there


def _oddities(
    sound: _Cut[AudioTokens], picture: _Cut[VisualTokens], place: int, span: Segment | None
) -> Iterator[str]:
    """Yields what is odd about a clip that has something, one line each."""
    audio, visual = sound.of[place], picture.of[place]
    if not audio.lasts_s:
        yield "no audio in the segment" if sound.is_there else "no audio track"
    if not visual.lasts_s:
        yield "no visual in the segment" if picture.is_there else "no visual track"
    if audio.is_silent:
        yield "the sound is silent"
    if visual.is_still:
        yield "the picture stands still"
    if span is not None:
        lacking_s = span[1] - span[0] - max(audio.lasts_s, visual.lasts_s)
        if lacking_s > TAIL_S:
            yield f"the file ends {lacking_s:.1f} s before the segment does"


@dataclass(frozen=True)
class Extractor:
    """Turns media files into features with one backbone for each modality.

    A token stands for a whole window: what is left over at the end of a track is dropped, but a
    track shorter than one window gives one token, its sound continued with silence, its picture
    with the last frame. (`c3d:colours=release` pads the last window as the authors did.) A file
    without sound has an empty audio sequence, one without picture an empty visual sequence.

    Args:
        audio: backbone for sound.
        visual: backbone for frames.
    """

    audio: AudioBackbone
    visual: VisualBackbone

    @classmethod
    def open(
        cls,
        audio: str,
        visual: str,
        *,
        audio_weights: Path | None = None,
        visual_weights: Path | None = None,
    ) -> "Extractor":
        """Loads two backbones by name (`backbones.open_backbone`).

        Raises:
            TCAFError: no such backbone, a missing package, or weights that cannot be had.
        """
        audio_backbone = open_backbone(audio, "audio", audio_weights)
        visual_backbone = open_backbone(visual, "visual", visual_weights)
        assert isinstance(audio_backbone, AudioBackbone), "`open_backbone` checks the modality"
        assert isinstance(visual_backbone, VisualBackbone), "`open_backbone` checks the modality"
        return cls(audio_backbone, visual_backbone)

    @property
    def spec(self) -> FeatureSpec:
        """What the features mean."""
        return FeatureSpec(
            self.audio.dim,
            self.visual.dim,
            self.audio.step_s,
            self.visual.step_s,
            self.audio.name,
            self.visual.name,
        )

    def extract(
        self, path: str | Path, id: str = "", note: Callable[[str], None] = unnoted
    ) -> VideoFeatures:
        """Returns the features of one file.

        Args:
            path: of a video, or of a sound or picture track alone.
            id: the clip's name; by default that of the file.
            note: called with what is odd about a track though nothing is wrong with the file: that
                there is none, silence, a picture that stands still.

        Raises:
            MediaError: not a media file, or neither a sample nor a frame decodes. If one track
                alone cannot be used, a `BrokenMediaWarning` says so and the clip goes without it.
            TCAFError: a backbone returns numbers that are not finite.
        """
        wanted = [(id or Path(path).name, None)]
        (found,) = self.extract_segments(path, wanted, lambda _, told: note(told))
        if isinstance(found, TCAFError):
            raise found
        return found

    def extract_segments(
        self,
        path: str | Path,
        segments: Sequence[tuple[str, Segment | None]],
        note: Callable[[int, str], None],
    ) -> list[VideoFeatures | TCAFError]:
        """Returns the features of segments of a file, which is decoded once.

        Each is as if its stretch alone were the file: its first window begins at its start. Frames
        are those shown at start + k / fps; sound is cut at the sample nearest to the start, and
        where it was brought to another rate, the filter has seen what lies beside the cut.

        Args:
            path: of the file.
            segments: name and stretch of each clip; None for the whole file.
            note: called with the place of a segment among them and what is odd about it.

        Returns:
            What became of each, in their order: features, or why there are none.

        Raises:
            MediaError: as of `extract`, about the file.
        """
        path = Path(path)
        spans = [span or (0.0, math.inf) for _, span in segments]
        sound, picture = self._sounds(path, spans, note), self._pictures(path, spans)
        if not sound.is_there and not picture.is_there:
            raise MediaError(path, "neither sound nor picture", "no sample and no frame decodes")
        found: list[VideoFeatures | TCAFError] = []
        for place, (id, span) in enumerate(segments):
            audio, visual = sound.tokens[place], picture.tokens[place]
            clip = VideoFeatures(
                id,
                audio,
                visual,
                audio_backbone=self.audio.name,
                visual_backbone=self.visual.name,
            )
            try:
                if not len(audio) and not len(visual):
                    told = f"{id}: neither sound nor picture lasts as long"
                    raise MediaError(path, "nothing in the segment", told)
                clip.check(self.spec)
            except TCAFError as error:
                found.append(error)
                continue
            for told in _oddities(sound, picture, place, span):
                note(place, told)
            found.append(clip)
        return found

    def _sounds(
        self, path: Path, spans: Sequence[Segment], note: Callable[[int, str], None]
    ) -> _Cut[AudioTokens]:
        """Cuts stretches out of the sound, which is read as far as the last of them goes."""
        rate = self.audio.sample_rate
        cut = _Cut[AudioTokens](self.audio, [AudioTokens(self.audio) for _ in spans])
        limits = [tuple(s if s == math.inf else round(s * rate) for s in span) for span in spans]
        waiting = sorted(range(len(spans)), key=lambda place: limits[place], reverse=True)
        last = max(end for _, end in limits)

        def note_all(told: str) -> None:
            for place in range(len(spans)):
                note(place, told)

        going: list[int] = []
        offset = 0
        with closing(until_unusable(read_audio(path, rate, note_all))) as blocks:
            for block in blocks:
                following = offset + len(block)
                while waiting and limits[waiting[-1]][0] < following:
                    going.append(waiting.pop())
                for place in going:
                    start, end = (min(max(x - offset, 0), len(block)) for x in limits[place])
                    cut.made[place].extend(cut.of[place].push(block[int(start) : int(end)]))
                    if limits[place][1] <= following:
                        cut.made[place].extend(cut.of[place].finish())
                going = [place for place in going if limits[place][1] > following]
                offset = following
                if offset >= last:
                    break
        cut.finish(is_there=offset > 0)
        return cut

    def _pictures(self, path: Path, spans: Sequence[Segment]) -> _Cut[VisualTokens]:
        """Cuts stretches out of the picture, which is read as far as the last of them goes."""
        fps = self.visual.fps
        cut = _Cut[VisualTokens](self.visual, [VisualTokens(self.visual) for _ in spans])
        counts = [
            max(1, math.ceil((end_s - start_s - ROUNDING_S) * fps)) if end_s < math.inf else None
            for start_s, end_s in spans
        ]

        def times(place: int) -> Iterator[tuple[float, int]]:
            count = counts[place]
            for k in itertools.count() if count is None else range(count):
                yield spans[place][0] + k / fps, place

        def merged() -> Iterator[tuple[float, int]]:
            return heapq.merge(*(times(place) for place in range(len(spans))))

        moments = (time_s for time_s, _ in merged())
        frames = frames_at(path, moments, self.visual.frame_size)
        is_there = False
        with closing(until_unusable(frames)) as shown:
            for frame, (_, place) in zip(shown, merged(), strict=False):
                is_there = True
                cut.made[place].extend(cut.of[place].push(frame))
                if cut.of[place].num_frames == counts[place]:
                    cut.made[place].extend(cut.of[place].finish())
        cut.finish(is_there=is_there)
        return cut


def until_unusable(stream: Iterable[np.ndarray]) -> Generator[np.ndarray, None, None]:
    """Passes a track on; one that cannot be used is an empty one, with a warning."""
    try:
        yield from stream
    except TrackError as error:
        warnings.warn(BrokenMediaWarning(str(error)), stacklevel=2)


def audio_tokens(
    backbone: AudioBackbone, blocks: Iterable[Float[np.ndarray, " _"]]
) -> Float[np.ndarray, "len dim"]:
    """Returns the tokens of a stream of samples.

    Args:
        backbone: what makes them.
        blocks: the samples in order, in blocks of any length.
    """
    return _joined(backbone, stream_audio_tokens(backbone, blocks))


def stream_audio_tokens(
    backbone: AudioBackbone, blocks: Iterable[Float[np.ndarray, " _"]]
) -> Iterator[Float[np.ndarray, "_ dim"]]:
    """Yields the tokens of a stream of samples, some at a time, as soon as they can be had."""
    tokens = AudioTokens(backbone)
    for block in blocks:
        yield from tokens.push(block)
    yield from tokens.finish()


def visual_tokens(
    backbone: VisualBackbone, frames: Iterable[UInt8[np.ndarray, "height width 3"]]
) -> Float[np.ndarray, "len dim"]:
    """Returns the tokens of a stream of frames at the backbone's frames per second."""
    return _joined(backbone, stream_visual_tokens(backbone, frames))


def stream_visual_tokens(
    backbone: VisualBackbone, frames: Iterable[UInt8[np.ndarray, "height width 3"]]
) -> Iterator[Float[np.ndarray, "_ dim"]]:
    """Yields the tokens of a stream of frames, some at a time, as soon as they can be had."""
    tokens = VisualTokens(backbone)
    for frame in frames:
        yield from tokens.push(frame)
    yield from tokens.finish()


def _joined(
    backbone: AudioBackbone | VisualBackbone, tokens: Iterable[Float[np.ndarray, "_ dim"]]
) -> Float[np.ndarray, "len dim"]:
    return np.concatenate([np.empty((0, backbone.dim), np.float32), *tokens])
