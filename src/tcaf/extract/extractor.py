"""One media file to `VideoFeatures`: streams of samples and frames, cut into windows, embedded.

Owns the cutting. Decoding is `media`, what a window becomes is a backbone's business. Neither the
whole sound nor all frames are ever in memory, only `WINDOWS` windows of either.
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.extract.backbones import AudioBackbone, VisualBackbone, open_backbone
from tcaf.extract.containers import BrokenMediaWarning, MediaError, TrackError
from tcaf.extract.media import read_audio, read_frames, unnoted

WINDOWS = 16
"""Windows that are embedded together."""

MOST_BYTES = 1 << 27
"""Bytes of frames in memory, unless those of one window are more."""

SILENT = 1e-3
"""Sound that never exceeds this, of 1, is silent: 60 dB below the loudest."""

STILL = 16
"""Levels, of 255, by which no pixel of a picture that stands still differs from its first frame."""


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
            note: called with what is odd about a track though nothing is wrong with the file:
                silence, a picture that stands still.

        Raises:
            MediaError: not a media file, or neither a sample nor a frame decodes. If one track
                alone cannot be used, a `BrokenMediaWarning` says so and the clip goes without it.
            TCAFError: a backbone returns numbers that are not finite.
        """
        path = Path(path)
        samples = read_audio(path, self.audio.sample_rate, note)
        frames = read_frames(path, self.visual.fps, self.visual.frame_size)
        clip = VideoFeatures(
            id or path.name,
            audio_tokens(self.audio, noting_silence(until_unusable(samples), note)),
            visual_tokens(self.visual, noting_stillness(until_unusable(frames), note)),
            audio_backbone=self.audio.name,
            visual_backbone=self.visual.name,
        )
        if not len(clip.audio) and not len(clip.visual):
            raise MediaError(path, "neither sound nor picture", "no sample and no frame decodes")
        clip.check(self.spec)
        return clip


def until_unusable(stream: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Passes a track on; one that cannot be used is an empty one, with a warning."""
    try:
        yield from stream
    except TrackError as error:
        warnings.warn(BrokenMediaWarning(str(error)), stacklevel=2)


def noting_silence(
    blocks: Iterable[Float[np.ndarray, " _"]], note: Callable[[str], None]
) -> Iterator[Float[np.ndarray, " _"]]:
    """Passes sound of one channel on; notes at its end if nothing was to be heard in it."""
    peak = -1.0
    for block in blocks:
        peak = max(peak, float(np.abs(block).max(initial=peak)))
        yield block
    if 0 <= peak < SILENT:
        note("the sound is silent")


def noting_stillness(
    frames: Iterable[UInt8[np.ndarray, "height width 3"]], note: Callable[[str], None]
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Passes frames on; notes at their end if there are several and all look like the first."""
    first, count, is_still = None, 0, True
    for frame in frames:
        first = frame if first is None else first
        count += 1
        if is_still and frame is not first:
            change = np.maximum(frame, first) - np.minimum(frame, first)
            is_still = int(change.max()) <= STILL
        yield frame
    if is_still and count > 1:
        note("the picture stands still")


def audio_tokens(
    backbone: AudioBackbone, blocks: Iterable[Float[np.ndarray, " _"]]
) -> Float[np.ndarray, "len dim"]:
    """Returns the tokens of a stream of samples.

    Args:
        backbone: what makes them.
        blocks: the samples in order, in blocks of any length.
    """
    size, hop = backbone.window_samples, backbone.hop_samples
    tokens = [np.empty((0, backbone.dim), np.float32)]
    held = np.empty(0, np.float32)
    waiting: list[Float[np.ndarray, " _"]] = []
    num_waiting = 0
    for block in blocks:
        waiting.append(block)
        num_waiting += len(block)
        # Joined once enough for a batch has come, so that no sample is copied many times.
        if len(held) + num_waiting >= size + (WINDOWS - 1) * hop:
            held = np.concatenate([held, *waiting])
            waiting, num_waiting = [], 0
            held = _embed_whole_windows(backbone, held, tokens)
    held = np.concatenate([held, *waiting])
    held = _embed_whole_windows(backbone, held, tokens)
    if len(held) and len(tokens) == 1:
        tokens.append(backbone.embed(np.pad(held, (0, size - len(held)))[None]))
    return np.concatenate(tokens)


def _embed_whole_windows(
    backbone: AudioBackbone,
    samples: Float[np.ndarray, " samples"],
    tokens: list[Float[np.ndarray, "_ dim"]],
) -> Float[np.ndarray, " rest"]:
    """Adds the tokens of all whole windows; returns the samples from the next window's start on."""
    size, hop = backbone.window_samples, backbone.hop_samples
    count = (len(samples) - size) // hop + 1 if len(samples) >= size else 0
    windows = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop] if count else ()
    for start in range(0, count, WINDOWS):
        batch = np.ascontiguousarray(windows[start : start + WINDOWS])
        tokens.append(backbone.embed(batch))
    return samples[count * hop :]


def visual_tokens(
    backbone: VisualBackbone, frames: Iterable[UInt8[np.ndarray, "height width 3"]]
) -> Float[np.ndarray, "len dim"]:
    """Returns the tokens of a stream of frames at the backbone's frames per second."""
    size = backbone.window_frames
    tokens = [np.empty((0, backbone.dim), np.float32)]
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return tokens[0]
    windows = max(1, min(WINDOWS, MOST_BYTES // (size * first.nbytes)))
    batch = np.empty((windows, size, *first.shape), np.uint8)
    flat = batch.reshape(-1, *first.shape)
    count = 0
    for frame in itertools.chain([first], frames):
        flat[count] = frame
        count += 1
        if count == len(flat):
            tokens.append(backbone.embed(batch))
            count = 0
    whole, rest = divmod(count, size)
    if whole:
        tokens.append(backbone.embed(batch[:whole]))
    last = batch[whole : whole + 1]
    if rest and backbone.takes_incomplete_windows:
        tokens.append(backbone.embed(last[:, :rest]))
    elif rest and len(tokens) == 1:
        last[:, rest:] = last[:, rest - 1 : rest]
        tokens.append(backbone.embed(last))
    return np.concatenate(tokens)
