"""The clips of those who have the page open: files that are theirs, and go when they go.

Owns a folder of temporary files, one inside for each session, and the addresses by which a browser
plays them: nobody guesses that of another's.
"""

import mimetypes
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tcaf.errors import TCAFError

MEDIA = "/media"
"""Where the addresses of clips begin."""


@dataclass(frozen=True)
class Placed:
    """A clip of a session.

    Args:
        path: where it lies.
        token: the end of its address.
        name: what it was called by whoever brought it.
    """

    path: Path
    token: str
    name: str

    @property
    def url(self) -> str:
        """Its address, from where the page is."""
        return f"{MEDIA}/{self.token}"

    @property
    def media_type(self) -> str:
        """What a browser is told that it is: a picture or sound track, or nothing in particular.

        A file's name is whoever brings it's to choose: nothing that a browser would run is named.
        """
        kind = mimetypes.guess_type(self.name)[0] or ""
        return kind if kind.startswith(("video/", "audio/")) else "application/octet-stream"


class Shelf:
    """The clips of all sessions; closing it removes them.

    Args:
        room: bytes that a session's clips may take; its oldest go when there are more.
    """

    def __init__(self, room: int = 2 * 1024**3) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._placed: dict[str, dict[str, Placed]] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="tcaf-app-"))

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def make(self, session: str, name: str, write: Callable[[Path], None]) -> Placed:
        """Makes a clip of a session.

        Args:
            session: whose it is.
            name: what it is called.
            write: writes it to the path that it is given.

        Raises:
            TCAFError: it cannot be written.
        """
        token = secrets.token_urlsafe(24)
        # The suffix alone is taken over: a name may be anything.
        suffix = Path(name).suffix
        suffix = suffix if suffix[1:].isascii() and suffix[1:].isalnum() else ""
        place = self._folder_of(session) / f"{token}{suffix[:12]}"
        try:
            write(place)
        except OSError as error:
            place.unlink(missing_ok=True)
            raise TCAFError(f"cannot keep {name}: {error.strerror or error}") from None
        placed = Placed(place, token, name)
        with self._lock:
            own = self._placed.setdefault(session, {})
            own[token] = placed
            gone = self._oldest(own)
        for one in gone:
            one.path.unlink(missing_ok=True)
        return placed

    def take(self, session: str, path: Path, name: str) -> Placed:
        """Takes over a file that was brought; where it came to is left alone.

        Raises:
            TCAFError: it is no longer there.
        """

        def link(place: Path) -> None:
            try:
                os.link(path, place)
            except OSError:
                shutil.copyfile(path, place)

        return self.make(session, name, link)

    def find(self, token: str) -> Placed | None:
        """Returns the clip of an address; None where there is none."""
        with self._lock:
            return next((own[token] for own in self._placed.values() if token in own), None)

    def end(self, session: str) -> None:
        """Removes the clips of a session."""
        with self._lock:
            self._placed.pop(session, None)
        shutil.rmtree(self._folder_of(session), ignore_errors=True)

    def close(self) -> None:
        """Removes all clips."""
        with self._lock:
            self._placed.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _folder_of(self, session: str) -> Path:
        name = "".join(letter for letter in session if letter.isalnum()) or "session"
        place = self.folder / name
        place.mkdir(exist_ok=True)
        return place

    def _oldest(self, own: dict[str, Placed]) -> list[Placed]:
        """Takes out the clips that are too many, the oldest first; the newest stays."""
        sizes = {
            token: each.path.stat().st_size for token, each in own.items() if each.path.exists()
        }
        gone = []
        for token in list(own)[:-1]:
            if sum(sizes.values()) <= self._room:
                break
            sizes.pop(token, None)
            gone.append(own.pop(token))
        return gone
