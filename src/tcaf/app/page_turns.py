"""What the page remembers of each session: its clip, its bias, the order of its questions.

Owns which answer is shown. Questions of a session are answered beside each other: a clip that takes
long to read is done after one that was brought later, and the bias is moved meanwhile. Shown is the
answer of the last question, with the bias as it stands.
"""

import threading
from dataclasses import dataclass

from tcaf.app.shelf import Placed


@dataclass(frozen=True)
class Current:
    """What is known of a session's clip.

    Args:
        placed: where it lies.
        rows: what there is over time, as HTML; None before it is drawn.
        has_picture: whether there is a picture track, as far as is known.
    """

    placed: Placed
    rows: str | None = None
    has_picture: bool = True


COMING_S = 60.0
"""Seconds that a question waits for a clip that is being brought."""


@dataclass
class _Session:
    last: int = 0
    clip: Current | None = None
    clip_turn: int = 0
    is_coming: bool = False
    shown: int = 0
    shown_clip: Current | None = None
    bias: float | None = None


class Turns:
    """The questions of all sessions, each with a number, its turn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sessions: dict[str, _Session] = {}
        self._last = 0

    def begin(self, session: str, *, brings: bool = False) -> int:
        """Returns the turn of a question that begins now, the last of its session from here on.

        Args:
            session: whose.
            brings: whether a clip comes with it, which `hold` tells; until then whoever asks for
                the session's clip waits.
        """
        with self._changed:
            found = self._sessions.setdefault(session, _Session())
            # Of all sessions: one that comes again does not take up where it ended.
            self._last += 1
            found.last = self._last
            if brings:
                found.clip_turn, found.is_coming = found.last, True
            return found.last

    def is_last(self, session: str, turn: int) -> bool:
        """Returns whether no question began in a session since."""
        with self._changed:
            return self._of(session).last == turn

    def hold(self, session: str, turn: int, clip: Current | None) -> None:
        """Tells the clip that came with a turn, or that none did."""
        with self._changed:
            found = self._of(session)
            if turn == found.clip_turn:
                found.clip, found.is_coming = clip, False
                self._changed.notify_all()

    def clip(self, session: str) -> Current | None:
        """Returns the clip that was brought last, once it is there; None where none comes."""
        with self._changed:
            is_there = self._changed.wait_for(lambda: not self._of(session).is_coming, COMING_S)
            return self._of(session).clip if is_there else None

    def replace(self, session: str, before: Current, after: Current | None) -> None:
        """Remembers more of a clip, or that it is of no use, if it still is the session's."""
        with self._changed:
            found = self._of(session)
            if found.clip is before:
                found.clip = after
            if found.shown_clip is before:
                found.shown_clip = after

    def bias(self, session: str, asked: float) -> float:
        """Returns where the bias stands now; it may have been moved since a question was asked."""
        with self._changed:
            moved = self._of(session).bias
            return asked if moved is None else moved

    def show(self, session: str, turn: int, clip: Current, bias: float) -> bool:
        """Notes that a clip's answer is shown, if the bias stands where the answer took it.

        Returns:
            False where it was moved meanwhile: the clip is to be answered anew.
        """
        with self._changed:
            found = self._of(session)
            if found.bias not in (None, bias):
                return False
            if turn == found.last:
                found.shown, found.shown_clip = turn, clip
            return True

    def show_none(self, session: str, turn: int) -> None:
        """Notes that no answer is shown, but a problem or nothing."""
        with self._changed:
            found = self._of(session)
            if turn == found.last:
                found.shown, found.shown_clip = turn, None

    def move(self, session: str, bias: float) -> tuple[int, Current | None]:
        """Notes where the bias is moved to; returns the turn that is shown, and its clip."""
        with self._changed:
            found = self._sessions.setdefault(session, _Session())
            found.bias = bias
            return found.shown, found.shown_clip

    def is_shown(self, session: str, turn: int) -> bool:
        """Returns whether what is shown is still of a turn."""
        with self._changed:
            return self._of(session).shown == turn

    def end(self, session: str) -> None:
        """Forgets a session."""
        with self._changed:
            self._sessions.pop(session, None)
            self._changed.notify_all()

    def _of(self, session: str) -> _Session:
        """Returns a session; of one that has ended, what nobody remembers."""
        return self._sessions.get(session) or _Session()
