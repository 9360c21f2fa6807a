"""Files that somebody sends, for as long as they are read.

Owns where they lie, how much of them is taken, and that nothing of them stays: neither after an
error nor after a process that was killed.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tcaf.app.refusals import RefusedError
from tcaf.errors import TCAFError
from tcaf.files.atomic import only_writer

PREFIX = "tcaf-uploads-"
"""How the folders of uploads begin."""


@dataclass(frozen=True)
class Upload:
    """A file that was sent.

    Args:
        path: where it lies.
        digest: SHA-256 of its content.
    """

    path: Path
    digest: str


class Uploads:
    """A folder for files that are sent, which nobody else reads and which goes with its process.

    Args:
        max_bytes: of a file.
        parent: where the folder is made; by default where the system keeps what does not last.
    """

    def __init__(self, max_bytes: int, parent: Path | None = None) -> None:
        self.max_bytes = max_bytes
        where = Path(tempfile.gettempdir()) if parent is None else parent
        _sweep(where)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
        self._lock = only_writer(self.folder)
        self._lock.__enter__()
        self.folder.mkdir(mode=0o700, exist_ok=True)  # another process may just have swept it

    @contextmanager
    def received(self, blocks: Iterable[bytes], name: str) -> Iterator[Upload]:
        """Holds a file for as long as it is needed.

        Args:
            blocks: its content.
            name: what it is called in errors.

        Raises:
            RefusedError: it is larger than it may be.
        """
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            path = Path(file.name)
        try:
            with path.open("wb") as file:
                for block in blocks:
                    size += len(block)
                    self.check_size(size, name)
                    digest.update(block)
                    file.write(block)
            yield Upload(path, digest.hexdigest())
        finally:
            path.unlink(missing_ok=True)

    def check_size(self, size: int, name: str) -> None:
        """Checks how large a file is, as far as that is known.

        Raises:
            RefusedError: too large.
        """
        if size > self.max_bytes:
            told = f"{self.max_bytes / 2**20:.3g} MiB"
            raise RefusedError("too_large", f"{name}: too large (more than {told})")

    def close(self) -> None:
        """Removes the folder with all that is in it."""
        with suppress(OSError):
            self._lock.__exit__(None, None, None)
        shutil.rmtree(self.folder, ignore_errors=True)


def _sweep(where: Path) -> None:
    """Removes folders of processes that have ended without doing so."""
    for folder in where.glob(f"{PREFIX}*"):
        # Somebody else's, or one whose process is at work, is left alone.
        with suppress(TCAFError, OSError), only_writer(folder):
            shutil.rmtree(folder, ignore_errors=True)
