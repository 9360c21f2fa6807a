"""Who waits for work that few can have done at a time.

Owns how many may wait, and when it is worth to come again.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tcaf.app.refusals import RefusedError

USUAL_S = 5.0
"""Seconds that a piece of work is taken to last before any is done."""

LONGEST_S = 120
"""Seconds after which whoever was sent away may ask again, at most."""


class WaitingRoom:
    """Lets in those whose work is done now and those who wait, and sends the others away.

    Args:
        at_work: pieces of work that are done at a time.
        max_waiting: how many may wait beside.
    """

    def __init__(self, at_work: int, max_waiting: int) -> None:
        self._at_work, self._room = at_work, at_work + max_waiting
        self._lock = threading.Lock()
        self._inside = 0
        self._usual_s = USUAL_S

    @property
    def working(self) -> int:
        """How many pieces of work are being done."""
        return min(self._inside, self._at_work)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return max(self._inside - self._at_work, 0)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place for as long as somebody waits or has work done.

        Raises:
            RefusedError: too many wait.
        """
        with self._lock:
            if self._inside >= self._room:
                raise self.busy(f"too many clips wait to be read ({self.waiting})")
            self._inside += 1
        since = time.monotonic()
        ahead = self._inside
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                # Of one who has waited for others too, the time of one piece.
                took_s = (time.monotonic() - since) / max(1.0, ahead / self._at_work)
                self._usual_s += 0.2 * (took_s - self._usual_s)

    def busy(self, reason: str) -> RefusedError:
        """Returns what whoever is sent away is told."""
        worth_s = math.ceil(self._usual_s * self._inside / self._at_work)
        return RefusedError(
            "busy", f"busy: {reason}; ask again later", min(max(worth_s, 1), LONGEST_S)
        )
