"""Streams of samples and frames from media files, decoded by PyAV (extra `video`).

Owns time: sound and picture share the clip's start, which is the first time stamp of either track;
sample n is what sounds at n / sample_rate, frame k what is shown at k / fps. Neither a track nor a
part of it that grows with its length is ever in memory. Does not cut into windows: that is
`extractor`.

Time stamps are believed within limits. A step of more than `MAX_JUMP_S` forwards or `MAX_BACK_S`
backwards is taken for damage, and the track goes on from where it was. So is a step by which those
beyond the length that the file states would add up to more than `MAX_JUMP_S`: damage must not make
hours of a few frames. A file whose tracks both start hours late starts at 0 all the same.

Pixels are taken to be square, and interlaced frames are not parted.

Longer than other modules, for what is odd about media files is written nowhere else.
"""

import math
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int32, UInt8

from tcaf.errors import MissingExtraError, TCAFError
from tcaf.extract.backbones import FrameSize

DECODE_THREADS = 2
"""Threads of a video decoder; more frames are in memory with more of them."""

GAP_S = 0.1
"""Seconds that the sound may stray from its time stamps before silence fills the gap."""

MAX_JUMP_S = 300.0
"""The longest step forwards between two time stamps that is believed, in seconds."""

STILL_S = 1.0
"""Seconds that each frame may last in a file that states no length, without counting as a step."""

MAX_BACK_S = 1.0
"""The longest step backwards that is believed, in seconds: what comes late by less is dropped."""

ROUNDING_S = 1e-3
"""A frame that is late by less than this is on time: Matroska rounds stamps to milliseconds."""

PRIMING_S = 0.1
"""A start up to this far below 0 is an encoder's delay, which decoders cut off, and counts as 0."""

TAIL_S = 0.5
"""Seconds that may be missing of the length that a file states before it counts as cut short."""

MAX_FAILURES = 100
"""Failures to read a packet, one after the other, after which the rest of a file is given up."""

MAX_PIXELS = 2**26
"""Pixels of the largest picture that is decoded: twice 8K. More of them is a damaged header."""

_STATE_LENGTH = ("mov,", "matroska,", "avi")
"""Beginnings of the formats whose header states the length; others have it guessed from a rate."""

_GUESS_LENGTH = ("mpeg",)
"""Beginnings of the formats without a length, which FFmpeg guesses from their last time stamps."""

_MAGIC = {b"ftyp": slice(4, 8), b"\x1aE\xdf\xa3": slice(0, 4), b"RIFF": slice(0, 4)}
"""How the common containers begin, to part a damaged header from what is no media file."""


class MediaError(TCAFError):
    """A file that cannot be used.

    Args:
        path: of the file.
        reason: one of few phrases, by which such files are counted.
        detail: more on this file.
    """

    def __init__(self, path: str | Path, reason: str, detail: str = "") -> None:
        more = f" ({' '.join(detail.split())})" if detail else ""
        super().__init__(f"{_one_line(path)}: {reason}{more}")
        self.path = Path(path)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuilds the error on the other side of a pipe between processes."""
        return type(self), (self.path, self.reason, self.detail)


class TrackError(MediaError):
    """A track that cannot be used; what else is in the file may be."""


class BrokenMediaWarning(UserWarning):
    """Part of a file does not decode; the rest is used."""


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
    _import_av()


def probe(path: str | Path) -> MediaInfo:
    """Returns what is known of a file without decoding more of it than a first frame.

    Raises:
        MediaError: not a media file, or one without sound and picture.
        MissingExtraError: PyAV is not installed.
    """
    with _opened(Path(path)) as (container, audio, video):
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
            is_turned, _, _ = _turns(matrix)
            sides = (video.width or None, video.height or None)
            known["width"], known["height"] = sides[::-1] if is_turned else sides
            known["rotation"] = _rotation(matrix)
        return MediaInfo(Path(path), _length_s(container, audio, video), **known)


def read_audio(path: str | Path, sample_rate: int) -> Iterator[Float[np.ndarray, " samples"]]:
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

    Raises:
        MediaError: when the first block is asked for: not a media file, or no sound decodes.
        MissingExtraError: PyAV is not installed.
    """
    if sample_rate < 1:
        raise TCAFError(f"expected a sample rate of at least 1, got {sample_rate}")
    with _opened(Path(path)) as (container, audio, video):
        if audio is None:
            return
        track = _Track(Path(path), container, audio, _origin_s(audio, video), slack_s=GAP_S)
        resampler = _Resampler(sample_rate, track.warn)
        num_out = 0
        with closing(track.frames()) as frames:
            for placed in frames:
                for block in _filled(placed, resampler, num_out):
                    num_out += len(block)
                    yield block
        yield from resampler.flush()
        track.check_end("no sound decodes")
        if not resampler.is_used:
            raise TrackError(path, "no sound decodes", "its channels cannot be mixed")


def read_frames(
    path: str | Path, fps: float, size: FrameSize, *, threads: int = DECODE_THREADS
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Yields a file's frames, RGB: frame k is the one that is shown at k / fps.

    Nothing is yielded for a file without a picture track. Before the first time stamp the first
    frame is shown, the last one as long as it says. A frame that is shown at several of these
    times is the same array each time, not to be written to. Frames are turned and mirrored as the
    file says, to the nearest right angle.

    Args:
        path: of the file.
        fps: wanted frames per second.
        size: how frames are scaled. What `keep_aspect` cuts off is cut before scaling, at whole
            pixels of the file's frame.
        threads: of the decoder.

    Raises:
        MediaError: when the first frame is asked for: not a media file, or no frame decodes; later
            too, as a `TrackError`: pixels of a format that cannot be scaled.
        MissingExtraError: PyAV is not installed.
    """
    if not fps > 0:
        raise TCAFError(f"expected frames per second above 0, got {fps}")
    with _opened(Path(path)) as (container, audio, video):
        if video is None:
            return
        if video.codec_context is not None:
            video.thread_type = "AUTO"
            video.thread_count = threads
        track = _Track(Path(path), container, video, _origin_s(audio, video))
        scaler = _Scaler(Path(path), size)
        shown, picture, num_out = None, None, 0
        with closing(track.frames()) as frames:
            for placed in frames:
                while shown is not None and num_out / fps < placed.start_s - ROUNDING_S:
                    picture = scaler.scale(shown) if picture is None else picture
                    yield picture
                    num_out += 1
                shown, picture = placed.frame, None
        while shown is not None and (num_out / fps < track.position_s - ROUNDING_S or not num_out):
            picture = scaler.scale(shown) if picture is None else picture
            yield picture
            num_out += 1
        track.check_end("no frame decodes")


def _one_line(path: str | Path) -> str:
    """Returns a path as it is, quoted and escaped where it would break the line."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def _import_av() -> Any:
    """Returns PyAV. Its own default keeps FFmpeg's messages off standard error."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("PyAV is not installed; pip install 'tcaf[video]'") from None
    return av


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Yields the container and its sound and picture tracks, or None where there is none."""
    av = _import_av()
    try:
        if not path.is_file():
            kind = "no such file" if not path.exists() else "a folder"
            raise MediaError(path, kind if path.is_dir() or not path.exists() else "not a file")
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise MediaError(path, "not readable", error.strerror or "") from None
    if not head:
        raise MediaError(path, "an empty file")
    is_container = any(head[place] == magic for magic, place in _MAGIC.items())
    try:
        # With the protocol written out, a colon in a name does not make it an address.
        container = av.open(
            f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace"
        )
    except (av.FFmpegError, ValueError) as error:
        reason = "damaged header" if is_container else "not a media file"
        raise MediaError(path, reason, getattr(error, "strerror", "") or "") from None
    with container:
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise MediaError(path, "a picture, not a clip")
        audio, video = _pick(container, "audio"), _pick(container, "video")
        if audio is None and video is None:
            is_bare = is_container and all(t.type in ("data", "unknown") for t in container.streams)
            raise MediaError(path, "damaged header" if is_bare else "no sound or picture track")
        yield container, audio, video


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


class _Placed(NamedTuple):
    """A decoded frame, its start since the clip's, and what lies between it and the one before."""

    frame: Any
    start_s: float
    gap_s: float


class _Track:
    """Decodes a track, finds when each frame starts, and warns once of what is damaged.

    Args:
        path: of the file, for messages.
        container: the open file.
        stream: the track.
        origin_s: time stamp of the clip's start, in seconds.
        slack_s: how far stamps may be off while frames follow each other without a gap; a frame
            that comes late by more than this is dropped. None if stamps are to the point.
    """

    def __init__(
        self, path: Path, container: Any, stream: Any, origin_s: float, slack_s: float | None = None
    ) -> None:
        if stream.codec_context is None:
            raise TrackError(path, "no decoder", f"for the {stream.type} track")
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        self._path, self._container, self._stream = path, container, stream
        self._origin_s, self._shift_s, self._slack_s = origin_s, -origin_s, slack_s
        self._nominal_s = _nominal_s(stream)
        self._stated_s = _stated_s(container)
        self._played_s: dict[int, float] = {}
        self._furthest_s = self._beyond_s = 0.0
        self._is_damaged = False
        self._read_s = 0.0
        self._num_frames = 0
        self.position_s = 0.0

    def frames(self) -> Generator[_Placed, None, None]:
        """Yields frames in the order in which they are shown, at times that are to be believed."""
        for frame in self._decoded():
            if frame.is_corrupt:
                self.warn()
            if frame.time_base is None:
                frame.time_base = self._stream.time_base
            start_s, duration_s = self._place(frame)
            gap_s = start_s - self.position_s
            if self._slack_s is not None and self._num_frames:
                if gap_s < -self._slack_s:
                    continue
                if gap_s <= self._slack_s:
                    start_s, gap_s = self.position_s, 0.0
            self._num_frames += 1
            self.position_s = start_s + duration_s
            yield _Placed(frame, start_s, gap_s)

    def _place(self, frame: Any) -> tuple[float, float]:
        """Returns start and duration in seconds; the clock is set anew where a stamp is absurd."""
        stamp = frame.pts if frame.pts is not None else frame.dts
        if hasattr(frame, "samples"):
            duration_s = frame.samples / frame.sample_rate
        else:
            duration_s = float((frame.duration or 0) * frame.time_base)
            if not 0 < duration_s <= MAX_JUMP_S:
                duration_s = self._nominal_s
        start_s = self.position_s
        if stamp is not None:
            start_s = float(stamp * frame.time_base) + self._shift_s
        if not -MAX_BACK_S <= start_s - self.position_s <= MAX_JUMP_S:
            self._shift_s += self.position_s - start_s
            start_s = self.position_s
        if not self._is_believed(start_s + duration_s, self._free_s(frame, duration_s)):
            self.warn()
            self._shift_s += self.position_s - start_s
            start_s = self.position_s
            duration_s = min(duration_s, self._free_s(frame, duration_s))
        return start_s, duration_s

    def _free_s(self, frame: Any, duration_s: float) -> float:
        """Returns how long a frame may last, in seconds, wherever the file is said to end."""
        if hasattr(frame, "samples"):
            return duration_s
        return STILL_S if self._stated_s is None else min(self._nominal_s, STILL_S)

    def _is_believed(self, end_s: float, free_s: float) -> bool:
        """Judges a frame's end by what is left of the steps beyond the length of the file."""
        # In a file that states none, the other tracks go on for as long as they have packets.
        length_s = max(self._played_s.values(), default=0.0)
        length_s = length_s if self._stated_s is None else self._stated_s
        step_s = end_s - max(self._furthest_s, length_s) - free_s
        if self._beyond_s + max(step_s, 0.0) > MAX_JUMP_S:
            return False
        self._beyond_s += max(step_s, 0.0)
        self._furthest_s = max(self._furthest_s, end_s)
        return True

    def _decoded(self) -> Iterator[Any]:
        """Yields every frame that decodes, those that the decoder holds back included."""
        av = _import_av()
        failures = 0
        packets = self._container.demux()
        while failures < MAX_FAILURES:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                # The generator has ended; a new one goes on behind the packet that failed.
                self.warn()
                failures += 1
                packets = self._container.demux()
                continue
            except IndexError:
                # At the end, over a track that the header does not tell of; PyAV knows none such.
                break
            if packet is None:
                break
            failures = 0
            if packet.size:
                self._note_position(packet)
            if packet.stream_index != self._stream.index or not packet.size:
                continue
            if packet.is_corrupt:
                self.warn()
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                self.warn()
                continue
            yield from frames
        packets.close()
        yield from self._flushed()

    def _flushed(self) -> Iterator[Any]:
        """Yields what the decoder still holds; a frame that fails does not take others along."""
        av = _import_av()
        for _ in range(MAX_FAILURES):
            try:
                frames = self._stream.codec_context.decode(None)
            except av.error.EOFError:
                return
            except (av.FFmpegError, ValueError):
                self.warn()
                continue
            yield from frames
            return

    def _note_position(self, packet: Any) -> None:
        """Remembers how far the file has been read, and how much other tracks have played."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None and packet.time_base:
            end_s = float((stamp + (packet.duration or 0)) * packet.time_base) - self._origin_s
            self._read_s = max(self._read_s, end_s)
        if packet.time_base and packet.stream_index != self._stream.index:
            lasts_s = float(max(packet.duration or 0, 0) * packet.time_base)
            played_s = self._played_s.get(packet.stream_index, 0.0)
            self._played_s[packet.stream_index] = played_s + min(lasts_s, STILL_S)

    def warn(self) -> None:
        """Warns of damage here, if it is the first."""
        if not self._is_damaged:
            self._is_damaged = True
            kind = "picture" if self._stream.type == "video" else "sound"
            warnings.warn(
                f"{_one_line(self._path)}: damaged {kind} from {self.position_s:.1f} s on; "
                "what decodes is used",
                BrokenMediaWarning,
                stacklevel=2,
            )

    def check_end(self, nothing: str) -> None:
        """Warns if the file ends before the length that it states.

        Raises:
            TrackError: no frame has come; the reason is `nothing`.
        """
        if not self._num_frames:
            raise TrackError(self._path, nothing)
        stated_s = (self._container.duration or 0) / 1e6
        name = self._container.format.name
        is_short = name.startswith(_STATE_LENGTH) and self._read_s < stated_s - TAIL_S
        if is_short or _is_cut_riff(self._path):
            self.warn()


def _is_cut_riff(path: Path) -> bool:
    """Returns whether an AVI or WAV file is shorter than its head says; FFmpeg passes over it."""
    with path.open("rb") as file:
        head = file.read(8)
    size = int.from_bytes(head[4:], "little") + 8
    # What is written as a stream has the largest number there.
    return head[:4] == b"RIFF" and path.stat().st_size < size < 0x7FFF_FFF0


def _stated_s(container: Any) -> float | None:
    """Returns the least length in seconds that container or tracks state; None if none does."""
    if container.format.name.startswith(_GUESS_LENGTH):
        return None
    stated = [container.duration / 1e6] if container.duration and container.duration > 0 else []
    tracks = [float(t.duration * t.time_base) for t in container.streams if t.duration]
    return min([*stated, *([max(tracks)] if tracks else [])], default=None)


def _nominal_s(stream: Any) -> float:
    """Returns the duration of a frame that states none, in seconds."""
    rate = getattr(stream, "average_rate", None) if stream.type == "video" else None
    return 1 / float(rate) if rate and rate * MAX_JUMP_S > 1 else 0.0


def _filled(
    placed: _Placed, resampler: "_Resampler", num_out: int
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


class _Resampler:
    """Makes samples of one rate and one channel from frames of any.

    Args:
        sample_rate: of what comes out.
        complain: called for a frame whose channels cannot be mixed; silence takes its place.
    """

    def __init__(self, sample_rate: int, complain: Callable[[], None]) -> None:
        self.sample_rate = sample_rate
        self.is_used = False
        self._complain = complain
        self._resampler: Any = None
        self._source: tuple[Any, ...] = ()

    def push(self, frame: Any) -> Iterator[Float[np.ndarray, " samples"]]:
        """Yields the samples that are ready once `frame` has come."""
        from av.audio.resampler import AudioResampler

        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if source != self._source:
            yield from self.flush()
        if self._resampler is None:
            self._source = source
            # Without the limit swresample adds two floating-point channels up to 1.41.
            options = {"rematrix_maxval": "1.0"}
            self._resampler = AudioResampler("flt", "mono", self.sample_rate, options=options)
        # Stamps have done their work; the filter must not judge them again.
        frame.pts = None
        try:
            blocks = self._resampler.resample(frame)
        except (_import_av().FFmpegError, ValueError):
            # swresample has no weights for unusual channels, which damaged headers tell of.
            self._resampler = None
            self._complain()
            yield np.zeros(round(frame.samples / frame.sample_rate * self.sample_rate), np.float32)
            return
        self.is_used = True
        for block in blocks:
            yield _samples(block)

    def flush(self) -> Iterator[Float[np.ndarray, " samples"]]:
        """Yields the samples that were held back, and forgets all."""
        resampler, self._resampler = self._resampler, None
        for block in resampler.resample(None) if resampler is not None else ():
            if block is not None:
                yield _samples(block)


def _samples(block: Any) -> Float[np.ndarray, " samples"]:
    samples = np.clip(block.to_ndarray().reshape(-1), -1, 1)
    return np.nan_to_num(samples, copy=False, nan=0.0)


def _display_matrix(frame: Any) -> Int32[np.ndarray, "3 3"]:
    """Returns the matrix by which a frame is turned to be shown, in 16.16 fixed point.

    A pixel at column p and row q is shown at column a p + c q and row b p + d q, give or take a
    shift, for a matrix that begins with a, b in its first row and c, d in its second (ISO/IEC
    14496-12, matrix of the track header).
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None or len(bytes(data)) < 36:
        return np.diag(np.array([1 << 16, 1 << 16, 1 << 30], np.int32))
    return np.frombuffer(bytes(data), np.int32, 9).reshape(3, 3)


def _first_matrix(container: Any, video: Any) -> Int32[np.ndarray, "3 3"]:
    """Returns the display matrix of the first frame that decodes among the first packets."""
    av = _import_av()
    with closing(container.demux(video)) as packets:
        for _ in range(MAX_FAILURES):
            try:
                for frame in next(packets).decode():
                    return _display_matrix(frame)
            except StopIteration:
                break
            except (av.FFmpegError, ValueError):
                continue
    return np.diag(np.array([1 << 16, 1 << 16, 1 << 30], np.int32))


def _turns(matrix: Int32[np.ndarray, "3 3"]) -> tuple[bool, bool, bool]:
    """Returns whether rows and columns change places, and then run from right and from below."""
    (a, b), (c, d) = matrix[:2, :2].tolist()
    is_turned = abs(b) + abs(c) > abs(a) + abs(d)
    return (True, c < 0, b < 0) if is_turned else (False, a < 0, d < 0)


def _rotation(matrix: Int32[np.ndarray, "3 3"]) -> int:
    """Returns the nearest right angle clockwise, in degrees, behind the mirror if there is one."""
    (a, b), (c, d) = matrix[:2, :2].tolist()
    mirror = -1 if a * d - b * c < 0 else 1
    return round(math.atan2(mirror * b, mirror * a) / (math.pi / 2)) * 90 % 360


class _Scaler:
    """Cuts, scales and turns frames of any size and pixel format to one size.

    Args:
        path: of the file, for messages.
        size: of what comes out.
    """

    def __init__(self, path: Path, size: FrameSize) -> None:
        from av.video.reformatter import VideoReformatter

        self._path, self._size = path, size
        # One for all frames: swscale's tables are then made once.
        self._reformatter: Any = VideoReformatter()
        self._cutter: Any = None
        self._source: tuple[Any, ...] = ()

    def scale(self, frame: Any) -> UInt8[np.ndarray, "height width 3"]:
        """Returns a frame as shown, in RGB.

        Raises:
            TrackError: FFmpeg cannot scale pixels of this format.
        """
        try:
            return self._scaled(frame)
        except (_import_av().FFmpegError, ValueError) as error:
            detail = f"{frame.format.name}: {getattr(error, 'strerror', None) or error}"
            raise TrackError(self._path, "picture cannot be scaled", detail) from None

    def _scaled(self, frame: Any) -> UInt8[np.ndarray, "height width 3"]:
        is_turned, from_right, from_below = _turns(_display_matrix(frame))
        height, width = self._size.height, self._size.width
        if is_turned:
            height, width = width, height
        if self._size.keep_aspect:
            frame = self._cut(frame, height, width)
        frame = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation="BILINEAR", threads=1
        )
        picture = frame.to_ndarray()
        if is_turned:
            picture = picture.transpose(1, 0, 2)
        if from_right:
            picture = picture[:, ::-1]
        if from_below:
            picture = picture[::-1]
        return np.ascontiguousarray(picture)

    def _cut(self, frame: Any, height: int, width: int) -> Any:
        """Cuts out the middle that scales to `height` x `width` as `FrameSize` says."""
        sides = (frame.height, frame.width)
        scale = max(self._size.height / min(sides), height / sides[0], width / sides[1])
        tall = min(sides[0], max(1, round(height / scale)))
        wide = min(sides[1], max(1, round(width / scale)))
        if (tall, wide) == sides:
            return frame
        source = (*sides, frame.format.name)
        if source != self._source:
            self._source = source
            self._cutter = _cutter(frame, tall, wide)
        self._cutter.push(frame)
        return self._cutter.pull()


def _cutter(frame: Any, tall: int, wide: int) -> Any:
    """Returns a filter that cuts the middle out of frames like `frame`, without copying."""
    from av.filter import Graph

    # At an even place, so that colours of half the resolution stay with their pixels.
    left, top = (frame.width - wide) // 2 & ~1, (frame.height - tall) // 2 & ~1
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base,
        ),
        graph.add("crop", f"{wide}:{tall}:{left}:{top}:exact=1"),
        graph.add("buffersink"),
    ).configure()
    return graph
