"""What has been made once and may be asked for again: features of clips, vectors of class names.

Owns how much of it stays, and that what several ask for at once is made once.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Values by key; those that nobody has asked for the longest go first. For any thread.

    Args:
        room: how much stays.
        size: of a value, in the unit of the room.
    """

    def __init__(self, room: int, size: Callable[[Value], int]) -> None:
        self._room, self._size = room, size
        self._lock = threading.Lock()
        self._values: OrderedDict[object, Value] = OrderedDict()
        self._making: dict[object, Future[Value]] = {}
        self._used = 0

    @property
    def used(self) -> int:
        """How much room is taken."""
        return self._used

    def find(self, key: object) -> Value | None:
        """Returns what is kept under a key; None if nothing is."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def get(self, key: object, make: Callable[[], Value]) -> Value:
        """Returns what is kept under a key, or makes it; whoever asks meanwhile waits for it.

        Raises:
            Exception: what `make` raises, also for those who wait; nothing is kept then.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            others = self._making.get(key)
            if others is None:
                mine: Future[Value] = Future()
                self._making[key] = mine
        if others is not None:
            return others.result()
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._making[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._making[key]
            self._keep(key, value)
        mine.set_result(value)
        return value

    def keep(self, key: object, value: Value) -> None:
        """Keeps a value."""
        with self._lock:
            self._keep(key, value)

    def _keep(self, key: object, value: Value) -> None:
        size = self._size(value)
        if size > self._room or key in self._values:
            return
        self._values[key] = value
        self._used += size
        while self._used > self._room:
            _, oldest = self._values.popitem(last=False)
            self._used -= self._size(oldest)
