"""How a long loop tells that it moves, without knowing who watches.

Owns the one signature that loops in the package report through; the command line passes one that
draws a bar, everybody else the silent one.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Track(Protocol):
    """Passes items through and may show how many of them are done."""

    def __call__(self, items: Sequence[T], description: str) -> Iterable[T]:
        """Passes `items` through; `description` says what is done with them."""
        ...


def silent(items: Sequence[T], description: str) -> Iterable[T]:
    """Passes the items through and shows nothing."""
    return items


def describe_time(seconds: float) -> str:
    """Returns a duration as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
