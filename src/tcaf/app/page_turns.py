"""Which question of a session was asked last: its answer is shown, however long others took.

Owns the order of a session's questions. They are answered beside each other: a clip that takes long
to read is done after one that was brought later, and the bias is moved meanwhile.
"""

import threading
from dataclasses import dataclass


@dataclass
class _Session:
    last: int = 0
    shown: int = 0
    bias: float | None = None


class Turns:
    """The questions of all sessions, each with a number, its turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}

    def begin(self, session: str) -> int:
        """Returns the turn of a question that begins now, the last of its session from here on."""
        with self._lock:
            found = self._of(session)
            found.last += 1
            return found.last

    def is_last(self, session: str, turn: int) -> bool:
        """Returns whether no question began in a session since."""
        with self._lock:
            return self._of(session).last == turn

    def bias(self, session: str, asked: float) -> float:
        """Returns where the bias stands now; it may have been moved since a question was asked."""
        with self._lock:
            moved = self._of(session).bias
            return asked if moved is None else moved

    def show(self, session: str, turn: int, bias: float) -> bool:
        """Notes that an answer is shown, if it is the last and the bias stands where it took it.

        Returns:
            False where the bias was moved meanwhile: it is to be answered anew.
        """
        with self._lock:
            found = self._of(session)
            if found.bias not in (None, bias):
                return False
            if turn == found.last:
                found.shown = turn
            return True

    def move(self, session: str, bias: float) -> int:
        """Notes where the bias is moved to; returns the turn whose answer is shown."""
        with self._lock:
            found = self._of(session)
            found.bias = bias
            return found.shown

    def is_shown(self, session: str, turn: int) -> bool:
        """Returns whether the answer that is shown is still the one of a turn."""
        with self._lock:
            return self._of(session).shown == turn

    def end(self, session: str) -> None:
        """Forgets a session."""
        with self._lock:
            self._sessions.pop(session, None)

    def _of(self, session: str) -> _Session:
        return self._sessions.setdefault(session, _Session())
