"""Writing so that a file or folder is whole or absent, whenever the process is killed.

Owns temporary names, syncing, renaming, and that one process at a time changes a folder. Knows
nothing of what is written.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tcaf.errors import TCAFError


def _sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power cut, where folders can be synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def needing_room(path: Path, kept: Callable[[], str]) -> Iterator[None]:
    """Says of a full disk what is kept and how to go on.

    Args:
        path: what is written, where the system does not say which file it was.
        kept: returns what is kept.

    Raises:
        TCAFError: the disk is full, or what the user may use of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TCAFError(
            f"no space left to write {error.filename or path}; {kept()}: make room and repeat the "
            "same command, which carries on"
        ) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed over `path`.

    If the body raises, the temporary file is removed and `path` is what it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        # Some libraries make files that only their owner can read; ours follow the umask.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        # Writing to a file that is open, the system does not say which it is.
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` to `path` as indented JSON, whole or not at all.

    Raises:
        ValueError: a number is NaN or infinite, for which JSON has no word.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path, what: str) -> Any:
    """Reads JSON.

    Raises:
        TCAFError: the file is missing or not JSON; `what` says what it should have been.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TCAFError(f"expected {what} at {path}, found nothing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TCAFError(f"expected {what} at {path}, found a damaged file ({error})") from None


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keeps other processes from changing a folder that is there; readers are not kept out.

    A process that ends lets go of the folder, however it ends. Where the system or file system has
    no locks, nothing is kept out.

    Raises:
        TCAFError: another process is at work there.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise TCAFError(f"another process is writing to {folder}; wait until it is done") from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(handle)


def _is_gone(pid: int) -> bool:
    """Returns whether what process `pid` left behind is nobody's: true unless another one runs."""
    if pid == os.getpid():
        # A killed process had the same number, which is common in containers.
        return True
    if os.name != "posix":
        # Signal 0 is Ctrl-C elsewhere, and would stop the process in place of asking for it.
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def _tidy(path: Path) -> None:
    """Puts back the folder that a killed process was about to replace; clears what others left."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(partial|old)")
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    for other in beside:
        match = name.fullmatch(other.name)
        if not match or not other.is_dir() or not _is_gone(int(match[1])):
            continue
        if match[2] == "old" and not path.exists():
            other.replace(path)
        else:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside `path`; on success it takes the name `path`.

    If the body raises, the new folder is removed; an older folder at `path` stays as it was until
    the new one is complete. What killed processes left beside `path` is cleared first: an older
    folder that one of them was about to replace is put back, unfinished ones are removed.

    Raises:
        TCAFError: `path` exists and `overwrite` is false.
    """
    path = path.absolute()
    _tidy(path)
    if path.exists() and not overwrite:
        raise TCAFError(f"{path} exists already; name another place or pass --overwrite")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    retired = path.with_name(f".{path.name}.{os.getpid()}.old")
    partial.mkdir(parents=True)
    try:
        yield partial
        _sync_folder(partial)
        if path.exists():
            path.replace(retired)
        partial.replace(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if retired.exists():
            if not path.exists():
                retired.replace(path)
            shutil.rmtree(retired, ignore_errors=True)
