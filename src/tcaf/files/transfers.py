"""How fetching shows, and whether it is allowed; what is fetched is the business of its callers."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_OFFLINE = ("TCAF_OFFLINE", "HF_HUB_OFFLINE")

Bar = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Opens a display of a download, from its description and its size in bytes, None if unknown;
what it yields is called with the number of bytes of each piece that has come."""


@contextmanager
def terminal_bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Draws size, speed and time left on the standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda num_bytes: progress.advance(task, num_bytes)


def is_offline() -> str | None:
    """Returns the environment variable that forbids fetching; None where none does."""
    return next(
        (v for v in _OFFLINE if os.environ.get(v, "").upper() in ("1", "ON", "YES", "TRUE")), None
    )
