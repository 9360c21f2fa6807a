"""A track of a media file: the frames that can be decoded, and when each of them starts.

Owns how far time stamps are believed. A step of more than `MAX_JUMP_S` forwards is taken for
damage, unless the file's length agrees with it (`MAX_AGREED_S`) or another track has played for as
long; so is one of more than `MAX_BACK_S` backwards, and the track goes on from where it was. So is
a step by which those beyond the length that the file states would add up to more than `MAX_JUMP_S`:
damage must not make hours of a few frames.
"""

import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tcaf.extract.containers import (
    DECODER_LIMITS,
    ENCRYPTED,
    BrokenMediaWarning,
    MediaError,
    Reader,
    TrackError,
    import_av,
    one_line,
)

MAX_JUMP_S = 300.0
"""The longest step forwards between two time stamps that is believed without more, in seconds."""

MAX_AGREED_S = 3600.0
"""The longest step that is believed because it ends within the length that the file states."""

STILL_S = 1.0
"""Seconds that each frame may last in a file that states no length, without counting as a step."""

MAX_BACK_S = 1.0
"""The longest step backwards that is believed, in seconds: what comes late by less is dropped."""

TAIL_S = 0.5
"""Seconds that may be missing of the length that a file states before it counts as cut short."""

MAX_FAILURES = 100
"""Failures to read a packet, one after the other, after which the rest of a file is given up."""

_ENCRYPTED_TAGS = frozenset({"drms", "drmi", "drmt", "enca", "encv"})
"""What MP4 calls tracks that are encrypted whole; others say so in their packets."""

_STATE_LENGTH = ("mov,", "matroska,", "avi")
"""Beginnings of the formats whose header states the length; others have it guessed from a rate."""

_GUESS_LENGTH = ("mpeg",)
"""Beginnings of the formats without a length, which FFmpeg guesses from their last time stamps."""


class Placed(NamedTuple):
    """A decoded frame, its start since the clip's, and what lies between it and the one before."""

    frame: Any
    start_s: float
    gap_s: float


class Track:
    """Decodes a track, finds when each frame starts, and warns once of what is damaged.

    Args:
        path: of the file, for messages.
        container: the open file.
        reader: what it reads from.
        stream: the track.
        origin_s: time stamp of the clip's start, in seconds.
        slack_s: how far stamps may be off while frames follow each other without a gap; a frame
            that comes late by more than this is dropped. None if stamps are to the point.
    """

    def __init__(
        self,
        path: Path,
        container: Any,
        reader: Reader,
        stream: Any,
        origin_s: float,
        slack_s: float | None = None,
    ) -> None:
        if stream.codec_context is None:
            raise TrackError(path, "no decoder", f"for the {stream.type} track")
        if stream.codec_context.codec_tag in _ENCRYPTED_TAGS:
            raise MediaError(path, *ENCRYPTED)
        stream.codec_context.options = dict(DECODER_LIMITS)
        self._path, self._stream = path, stream
        self._container, self._reader = container, reader
        self._origin_s, self._shift_s, self._slack_s = origin_s, -origin_s, slack_s
        self._nominal_s = _nominal_s(stream)
        self._stated_s = _stated_s(container)
        self._played_s: dict[int, float] = {}
        self._furthest_s = self._beyond_s = 0.0
        self._is_damaged = False
        self._read_s = 0.0
        self._num_frames = 0
        self._start_s = self.position_s = 0.0

    def frames(self) -> Generator[Placed, None, None]:
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
            self._start_s, self.position_s = start_s, start_s + duration_s
            yield Placed(frame, start_s, gap_s)

    def _place(self, frame: Any) -> tuple[float, float]:
        """Returns start and duration in seconds; the clock is set anew where a stamp is absurd."""
        stamp = frame.pts if frame.pts is not None else frame.dts
        is_sound = hasattr(frame, "samples")
        if is_sound:
            duration_s = frame.samples / frame.sample_rate
        else:
            duration_s = float((frame.duration or 0) * frame.time_base)
            if not 0 < duration_s <= MAX_JUMP_S:
                duration_s = self._nominal_s
        start_s = self.position_s
        if stamp is not None:
            start_s = float(stamp * frame.time_base) + self._shift_s
        # How long a frame of a picture lasts is often a guess from the average.
        is_back = start_s < (self.position_s if is_sound else self._start_s) - MAX_BACK_S
        if is_back or not self._is_near(start_s):
            self._shift_s += self.position_s - start_s
            start_s = self.position_s
        if self._stated_s is not None and not is_sound:
            duration_s = min(duration_s, max(self._stated_s - start_s, STILL_S))
        if not self._is_believed(start_s + duration_s, self._free_s(frame, duration_s)):
            self.warn()
            self._shift_s += self.position_s - start_s
            start_s = self.position_s
            duration_s = min(duration_s, self._free_s(frame, duration_s))
        return start_s, duration_s

    def _is_near(self, start_s: float) -> bool:
        """Returns whether a frame may start there, for how far that is from the one before."""
        step_s = start_s - self.position_s
        if step_s <= MAX_JUMP_S:
            return True
        agrees = self._stated_s is not None and start_s <= self._stated_s + TAIL_S
        others_s = max(self._played_s.values(), default=0.0)
        return (agrees and step_s <= MAX_AGREED_S) or start_s <= others_s + MAX_JUMP_S

    def _free_s(self, frame: Any, duration_s: float) -> float:
        """Returns how long a frame may last, in seconds, whatever length the file states."""
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
        av = import_av()
        failures = 0
        packets = self._container.demux()
        while failures < MAX_FAILURES:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                # The generator has ended; a new one goes on behind the packet that failed.
                # So FFmpeg says of chained Ogg whose second part has other rates or channels.
                self.warn(is_changed=isinstance(error, av.error.PatchWelcomeError))
                failures += 1
                packets = self._container.demux()
                continue
            except IndexError:
                # At the end, over a track that the header does not tell of; PyAV knows none such.
                break
            if packet is None:
                break
            failures = 0
            self._reader.note_packet()
            if packet.has_sidedata("encryption_info"):
                raise MediaError(self._path, *ENCRYPTED)
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
        av = import_av()
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

    def warn(self, *, is_changed: bool = False) -> None:
        """Warns here of damage, or of a change that FFmpeg does not follow, if it is the first."""
        if not self._is_damaged:
            self._is_damaged = True
            kind = "picture" if self._stream.type == "video" else "sound"
            what = f"damaged {kind} from {self.position_s:.1f} s on; what decodes is used"
            if is_changed:
                what = f"the {kind} changes its form at {self.position_s:.1f} s; the rest is lost"
            warnings.warn(
                f"{one_line(self._path)}: {what}",
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
        if is_short or self._reader.is_exhausted or _is_cut_riff(self._path):
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
