"""Streams of samples and frames from media files, decoded by PyAV (extra `video`).

Owns time: sound and picture share the clip's start, which is the first time stamp of either track;
sample n is what sounds at n / sample_rate, frame k what is shown at k / fps. A file whose tracks
both start hours late starts at 0 all the same. Neither a track nor a part of it that grows with its
length is ever in memory. Which files are read is `containers`, which time stamps are believed
`tracks`, what becomes of a decoded frame `conversion`. Does not cut into windows: that is
`extractor`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, UInt8

from tcaf.errors import TCAFError
from tcaf.extract.backbones import FrameSize
from tcaf.extract.containers import (
    MediaError,
    Reader,
    TrackError,
    import_av,
    open_container,
)
from tcaf.extract.conversion import (
    Resampler,
    Scaler,
    display_matrix,
    pixel_aspect,
    rotation,
    turns,
)
from tcaf.extract.tracks import MAX_FAILURES, Placed, Track

Segment = tuple[float, float]
"""Start and end of a stretch of a file, in seconds since the clip's start."""

DECODE_THREADS = 2
"""Threads of a video decoder; more frames are in memory with more of them."""

GAP_S = 0.1
"""Seconds that the sound may stray from its time stamps before silence fills the gap."""

ROUNDING_S = 1e-3
"""A frame that is late by less than this is on time: Matroska rounds stamps to milliseconds."""

PRIMING_S = 0.1
"""A start up to this far below 0 is an encoder's delay, which decoders cut off, and counts as 0."""


@dataclass(frozen=True)
class MediaInfo:
    """What the header of a media file says; what it does not say is None.

    Args:
        path: of the file.
        duration_s: seconds, of the container or, where it states none, of the longest track.
        has_audio: whether there is a sound track.
        has_video: whether there is a picture track; a cover is none.
        width: of a frame as shown, in pixels.
        height: of a frame as shown, in pixels.
        fps: frames per second, on average.
        sample_rate: samples per second.
        channels: number of channels of sound.
        rotation: degrees by which frames are turned clockwise to be shown: 0, 90, 180 or 270; one
            that is mirrored too is mirrored left to right first.
        audio_codec: FFmpeg's name of the decoder, "unknown" where there is none.
        video_codec: FFmpeg's name of the decoder, "unknown" where there is none.
    """

    path: Path
    duration_s: float | None = None
    has_audio: bool = False
    has_video: bool = False
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    rotation: int = 0
    audio_codec: str | None = None
    video_codec: str | None = None


def require_decoder() -> None:
    """Says at once what would else be said of every file.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    import_av()


def probe(path: str | Path) -> MediaInfo:
    """Describes a file without decoding more of it than a first frame.

    Raises:
        MediaError: not a media file, or one without sound and picture.
        MissingExtraError: PyAV is not installed.
    """
    with _opened(Path(path)) as (container, _, audio, video):
        known: dict[str, Any] = {}
        if audio is not None:
            known |= {"has_audio": True, "audio_codec": _codec(audio)}
        if audio is not None and audio.codec_context is not None:
            known |= {"sample_rate": audio.rate or None, "channels": audio.channels or None}
        if video is not None:
            rate = video.average_rate
            known |= {"has_video": True, "video_codec": _codec(video)}
            known["fps"] = float(rate) if rate else None
        if video is not None and video.codec_context is not None:
            matrix = _first_matrix(container, video)
            is_turned, _, _ = turns(matrix)
            sides = (round(video.width * pixel_aspect(video)) or None, video.height or None)
            known["width"], known["height"] = sides[::-1] if is_turned else sides
            known["rotation"] = rotation(matrix)
        return MediaInfo(Path(path), _length_s(container, audio, video), **known)


def unnoted(note: str) -> None:
    """Notes nothing."""


def read_audio(
    path: str | Path, sample_rate: int, note: Callable[[str], None] = unnoted
) -> Iterator[Float[np.ndarray, " samples"]]:
    """Yields a file's sound in blocks of any length, float32 in -1..1, mixed to one channel.

    Nothing is yielded for a file without a sound track. Channels are mixed with swresample's
    weights, scaled to add up to 1, so that no mix is louder than its loudest channel: the mean of
    two; of 5.1 the centre counts 0.29, left and right 0.21 each, those behind 0.15, the
    low-frequency channel 0. What a decoder or the resampling overshoots is cut to -1..1. Silence
    stands where the track begins after the picture and where its time stamps leave a gap of more
    than `GAP_S`.

    Args:
        path: of the file.
        sample_rate: wanted samples per second.
        note: called at the end, or where reading is left off, if two channels cancel each other out
            in their mean.

    Raises:
        MediaError: when the first block is asked for: not a media file, or no sound decodes.
        MissingExtraError: PyAV is not installed.
    """
    if sample_rate < 1:
        raise TCAFError(f"expected a sample rate of at least 1, got {sample_rate}")
    with _opened(Path(path)) as (container, reader, audio, video):
        if audio is None:
            return
        track = Track(Path(path), container, reader, audio, _origin_s(audio, video), slack_s=GAP_S)
        resampler = Resampler(Path(path), sample_rate, track.warn)
        num_out = 0
        try:
            with closing(track.frames()) as frames:
                for placed in frames:
                    for block in _filled(placed, resampler, num_out):
                        num_out += len(block)
                        yield block
            yield from resampler.flush()
            track.check_end("no sound decodes")
            if not resampler.is_used:
                raise TrackError(path, "no sound decodes", "its channels cannot be mixed")
        finally:
            if resampler.cancels:
                note("the two channels of the sound cancel each other out in their mean")


def read_frames(
    path: str | Path, fps: float, size: FrameSize | None, *, threads: int = DECODE_THREADS
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Yields a file's frames, RGB: frame k is the one that is shown at k / fps.

    Args:
        path: of the file.
        fps: wanted frames per second.
        size: how frames are scaled.
        threads: of the decoder.

    Raises:
        MediaError: see `frames_at`.
        MissingExtraError: PyAV is not installed.
    """
    if not fps > 0:
        raise TCAFError(f"expected frames per second above 0, got {fps}")
    yield from frames_at(path, (k / fps for k in itertools.count()), size, threads=threads)


def frames_at(
    path: str | Path,
    times: Iterable[float],
    size: FrameSize | None,
    *,
    threads: int = DECODE_THREADS,
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Yields the frame of a file, RGB, that is shown at each of some times, until the file ends.

    Nothing is yielded for a file without a picture track. Before the first time stamp the first
    frame is shown, the last one as long as it says. A frame that is shown at several of these
    times is the same array each time, not to be written to. Frames are turned and mirrored as the
    file says, to the nearest right angle, and pixels that are not square count as wide as they are.
    Behind the last of the times nothing is decoded.

    Args:
        path: of the file.
        times: in seconds since the clip's start, none before the one before it; they may never end.
        size: how frames are scaled; None leaves them as large as the first is shown. What
            `keep_aspect` cuts off is cut before scaling, at whole pixels of the file's frame.
        threads: of the decoder.

    Raises:
        MediaError: when the first frame is asked for: not a media file, or no frame decodes; later
            too, as a `TrackError`: pixels of a format that cannot be scaled.
        MissingExtraError: PyAV is not installed.
    """
    with _opened(Path(path)) as (container, reader, audio, video):
        if video is None:
            return
        wanted = iter(times)
        time_s = next(wanted, None)
        if video.codec_context is not None:
            video.thread_type = "AUTO"
            video.thread_count = threads
        track = Track(Path(path), container, reader, video, _origin_s(audio, video))
        scaler = Scaler(Path(path), size, pixel_aspect(video))
        shown, picture = None, None
        with closing(track.frames()) as frames:
            for placed in frames:
                while (
                    shown is not None
                    and time_s is not None
                    and time_s < placed.start_s - ROUNDING_S
                ):
                    picture = scaler.scale(shown) if picture is None else picture
                    yield picture
                    time_s = next(wanted, None)
                if time_s is None:
                    return
                shown, picture = placed.frame, None
        # A picture that lasts no time is shown at 0 all the same.
        while (
            shown is not None
            and time_s is not None
            and (time_s < track.position_s - ROUNDING_S or time_s <= 0)
        ):
            picture = scaler.scale(shown) if picture is None else picture
            yield picture
            time_s = next(wanted, None)
        track.check_end("no frame decodes")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Reader, Any, Any]]:
    """Yields a container, what it reads from, its sound and picture tracks or None."""
    with open_container(path) as (container, reader):
        audio, video = _pick(container, "audio"), _pick(container, "video")
        if audio is None and video is None:
            raise MediaError(path, "no sound or picture track")
        yield container, reader, audio, video


def _pick(container: Any, kind: str) -> Any:
    """Returns the track that a player would choose; covers and thumbnails are none."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    tracks = [t for t in getattr(container.streams, kind) if not t.disposition & pictures]
    best = container.streams.best(kind)
    return next((t for t in tracks if best is not None and t.index == best.index), None) or next(
        iter(tracks), None
    )


def _codec(track: Any) -> str:
    return track.codec_context.name if track.codec_context is not None else "unknown"


def _length_s(container: Any, *tracks: Any) -> float | None:
    if container.duration and container.duration > 0:
        return float(container.duration) / 1e6
    lengths = [float(t.duration * t.time_base) for t in tracks if t is not None and t.duration]
    return max(lengths, default=None)


def _origin_s(*tracks: Any) -> float:
    """Returns the first time stamp of any track, in seconds."""
    starts = [
        float(t.start_time * t.time_base)
        for t in tracks
        if t is not None and t.start_time is not None
    ]
    return min((0.0 if -PRIMING_S < s < 0 else s for s in starts), default=0.0)


def _filled(
    placed: Placed, resampler: "Resampler", num_out: int
) -> Iterator[Float[np.ndarray, " samples"]]:
    """Yields silence up to a frame's start if there is a gap before it, then the frame's samples.

    Args:
        placed: the frame.
        resampler: what makes samples of it.
        num_out: number of samples that came before.
    """
    if placed.gap_s > 0:
        for block in resampler.flush():
            num_out += len(block)
            yield block
        rate = resampler.sample_rate
        yield from _silence(round(placed.start_s * rate) - num_out, rate)
    yield from resampler.push(placed.frame)


def _silence(num_samples: int, sample_rate: int) -> Iterator[Float[np.ndarray, " samples"]]:
    """Yields zeros, no more than a second at a time."""
    for start in range(0, num_samples, sample_rate):
        yield np.zeros(min(sample_rate, num_samples - start), np.float32)


def _first_matrix(container: Any, video: Any) -> Int32[np.ndarray, "3 3"]:
    """Returns the display matrix of the first frame that decodes among the first packets."""
    av = import_av()
    with closing(container.demux(video)) as packets:
        for _ in range(MAX_FAILURES):
            try:
                for frame in next(packets).decode():
                    return display_matrix(frame)
            except StopIteration:
                break
            except (av.FFmpegError, ValueError):
                continue
    return np.diag(np.array([1 << 16, 1 << 16, 1 << 30], np.int32))
