"""Decoded frames to what backbones take: samples of one rate and channel, pictures of one size.

Owns how FFmpeg's converters are used, and how pictures are turned. Interlaced frames are not
parted.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, UInt8

from tcaf.extract.backbones import FrameSize
from tcaf.extract.containers import TrackError, import_av

MAX_PIXEL_ASPECT = 10.0
"""How many times wider than high a pixel may be, or higher than wide; more is a damaged header."""


MAX_UNNAMED = 8
"""Kinds of side data without a name that are looked past."""

CANCELLED = 0.01
"""Share of the power of two channels below which their mean has lost them: 20 dB."""

SAMPLE_RATES = range(1_000, 2**22)
"""Samples per second of sound that is read; others are of a damaged header."""


class Resampler:
    """Makes samples of one rate and one channel from frames of any.

    Args:
        path: of the file, for messages.
        sample_rate: of what comes out.
        complain: called for a frame whose channels cannot be mixed; silence takes its place.
    """

    def __init__(self, path: Path, sample_rate: int, complain: Callable[[], None]) -> None:
        self.sample_rate = sample_rate
        self.is_used = False
        self._path, self._complain = path, complain
        self._resampler: Any = None
        self._source: tuple[Any, ...] = ()
        self._power = np.zeros(2)

    @property
    def cancels(self) -> bool:
        """Whether the two channels of the sound so far cancel each other out in their mean."""
        channels, mean = self._power
        return bool(mean < CANCELLED * channels)

    def push(self, frame: Any) -> Iterator[Float[np.ndarray, " samples"]]:
        """Yields the samples that are ready once `frame` has come.

        Raises:
            TrackError: the frame has too few or too many samples per second.
        """
        from av.audio.resampler import AudioResampler

        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if source != self._source:
            yield from self.flush()
        # Of a sample per second, each frame would become gigabytes.
        if frame.sample_rate not in SAMPLE_RATES:
            told = f"{frame.sample_rate} samples per second"
            raise TrackError(self._path, "damaged header", told)
        if self._resampler is None:
            self._source = source
            # Without the limit swresample adds two floating-point channels up to 1.41.
            options = {"rematrix_maxval": "1.0"}
            self._resampler = AudioResampler("flt", "mono", self.sample_rate, options=options)
        if frame.layout.nb_channels == 2:
            self._power += _powers(frame)
        # Stamps have done their work; the filter must not judge them again.
        frame.pts = None
        try:
            blocks = self._resampler.resample(frame)
        except (import_av().FFmpegError, ValueError):
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


def _powers(frame: Any) -> Float[np.ndarray, " 2"]:
    """Returns the squares of samples of two channels, their mean over both, and those of the mean.

    In units of the frame's own, and summed over its samples.
    """
    samples = frame.to_ndarray()
    samples = samples if frame.format.is_planar else samples.reshape(-1, 2).T
    middle = 128 if samples.dtype == np.uint8 else 0
    samples = np.nan_to_num(samples.astype(np.float32) - middle, posinf=0.0, neginf=0.0)
    left, right = np.clip(samples, -1e9, 1e9)
    mean = (left + right) / 2
    return np.array([(left @ left + right @ right) / 2, mean @ mean], np.float64)


def _samples(block: Any) -> Float[np.ndarray, " samples"]:
    samples = np.clip(block.to_ndarray().reshape(-1), -1, 1)
    return np.nan_to_num(samples, copy=False, nan=0.0)


def display_matrix(frame: Any) -> Int32[np.ndarray, "3 3"]:
    """Returns the matrix by which a frame is turned to be shown, in 16.16 fixed point.

    A pixel at column p and row q is shown at column a p + c q and row b p + d q, give or take a
    shift, for a matrix that begins with a, b in its first row and c, d in its second (ISO/IEC
    14496-12, matrix of the track header).
    """
    try:
        data = _named_side_data(frame).get("DISPLAYMATRIX")
    except (ValueError, import_av().FFmpegError):
        return _turned(-frame.rotation)  # without the mirror
    if data is None or len(bytes(data)) < 36:
        return np.diag(np.array([1 << 16, 1 << 16, 1 << 30], np.int32))
    return np.frombuffer(bytes(data), np.int32, 9).reshape(3, 3)


def _named_side_data(frame: Any) -> Any:
    """Returns what stands beside a frame's picture but for what PyAV has no name for, as EXIF is.

    Raises:
        ValueError: it cannot be had.
    """
    for _ in range(MAX_UNNAMED):
        try:
            return frame.side_data
        except ValueError as error:
            number = re.match(r"\d+", str(error))
            if number is None:
                raise
            delete = _filter(frame, "sidedata", f"mode=delete:type={number[0]}")
            delete.push(frame)
            frame = delete.pull()
    return frame.side_data


def _turned(degrees: int) -> Int32[np.ndarray, "3 3"]:
    """Returns the matrix of a turn clockwise by degrees, taken to the nearest right angle."""
    quarter = round(degrees / 90) % 4
    cos, sin = (1, 0, -1, 0)[quarter] << 16, (0, 1, 0, -1)[quarter] << 16
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1 << 30]], np.int32)


def turns(matrix: Int32[np.ndarray, "3 3"]) -> tuple[bool, bool, bool]:
    """Returns whether rows and columns change places, and then run from right and from below."""
    (a, b), (c, d) = matrix[:2, :2].tolist()
    is_turned = abs(b) + abs(c) > abs(a) + abs(d)
    return (True, c < 0, b < 0) if is_turned else (False, a < 0, d < 0)


def rotation(matrix: Int32[np.ndarray, "3 3"]) -> int:
    """Returns the nearest right angle clockwise, in degrees, behind the mirror if there is one."""
    (a, b), (c, d) = matrix[:2, :2].tolist()
    mirror = -1 if a * d - b * c < 0 else 1
    return round(math.atan2(mirror * b, mirror * a) / (math.pi / 2)) * 90 % 360


def pixel_aspect(video: Any) -> float:
    """Returns a pixel's width over its height; 1 where a track does not say, or absurdly."""
    aspect = float(video.sample_aspect_ratio or 1)
    return aspect if 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT else 1.0


class Scaler:
    """Cuts, scales and turns frames of any size and pixel format to one size.

    Args:
        path: of the file, for messages.
        size: of what comes out; None for that of the first frame as shown.
        pixel_aspect: width of a pixel over its height.
    """

    def __init__(self, path: Path, size: FrameSize | None, pixel_aspect: float) -> None:
        from av.video.reformatter import VideoReformatter

        self._path, self._size, self._pixel_aspect = path, size, pixel_aspect
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
        except (import_av().FFmpegError, ValueError) as error:
            detail = f"{frame.format.name}: {getattr(error, 'strerror', None) or error}"
            raise TrackError(self._path, "picture cannot be scaled", detail) from None

    def _scaled(self, frame: Any) -> UInt8[np.ndarray, "height width 3"]:
        is_turned, from_right, from_below = turns(display_matrix(frame))
        if self._size is None:
            shown = (frame.height, max(1, round(frame.width * self._pixel_aspect)))
            self._size = FrameSize(*(shown[::-1] if is_turned else shown))
        height, width = self._size.height, self._size.width
        if is_turned:
            height, width = width, height
        if self._size.keep_aspect:
            frame = self._cut(frame, self._size, height, width)
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

    def _cut(self, frame: Any, size: FrameSize, height: int, width: int) -> Any:
        """Cuts out the middle that scales to `height` x `width` as `FrameSize` says."""
        sides = (frame.height, frame.width)
        shown = (frame.height, frame.width * self._pixel_aspect)
        scale = max(size.height / min(shown), height / shown[0], width / shown[1])
        tall = min(sides[0], max(1, round(height / scale)))
        wide = min(sides[1], max(1, round(width / scale / self._pixel_aspect)))
        if (tall, wide) == sides:
            return frame
        source = (*sides, frame.format.name)
        if source != self._source:
            self._source = source
            # At an even place, so that colours of half the resolution stay with their pixels.
            left, top = (frame.width - wide) // 2 & ~1, (frame.height - tall) // 2 & ~1
            self._cutter = _filter(frame, "crop", f"{wide}:{tall}:{left}:{top}:exact=1")
        self._cutter.push(frame)
        return self._cutter.pull()


def _filter(frame: Any, name: str, arguments: str) -> Any:
    """Returns a filter of FFmpeg's for frames like `frame`; those used here copy no pixel."""
    from av.filter import Graph

    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base,
        ),
        graph.add(name, arguments),
        graph.add("buffersink"),
    ).configure()
    return graph
