"""Writing so that a file or folder is whole or absent, whenever the process is killed.

Owns temporary names, syncing, renaming, and that one process at a time changes a folder. Knows
nothing of what is written.
"""

import errno
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tcaf.errors import STEERING, TCAFError
from tcaf.files.urls import check_local


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
        # Writing to a file that is open, the system does not say which it is. Errors without a
        # number, such as of a connection, are about something else.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
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
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Returns what `write_json` writes; see there."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def json_line(value: Any) -> str:
    """Returns a value as JSON in one line; what would steer a terminal is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return STEERING.sub(lambda match: json.dumps(match[0])[1:-1], text)


def check_inside(names: Iterable[str]) -> None:
    """Checks that names of files are of files in a folder: whoever made it may name any.

    Raises:
        ValueError: one leads somewhere else.
    """
    for name in names:
        if Path(name).name != name or name in ("", "..") or "\\" in name:
            raise ValueError(f"expected names of files in this folder, found {name!r}")


def parse_json(text: str | bytes) -> Any:
    """Returns the value that JSON stands for.

    Raises:
        ValueError: it is no JSON, or holds what `write_json` would not write again: NaN, infinite
            numbers, halves of characters; or lists within lists without end.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("lists within lists") from None
    return value


def check_content(value: Any, content: Any) -> None:
    """Checks a JSON value against a type, by pydantic.

    Raises:
        ValueError: it has other content; says where and what is wrong, in one line.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(content).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        where = ".".join(map(str, found["loc"])) or "its content"
        raise ValueError(f"{where}: {found['msg']}") from None


def read_json(path: Path, what: str, content: Any = None) -> Any:
    """Reads JSON.

    Args:
        path: the file.
        what: what it should be, for messages.
        content: a type that its value is checked against, by pydantic; None for any value.

    Returns:
        The value as JSON has it, whatever `content` is.

    Raises:
        TCAFError: the file is missing, not JSON, or has other content.
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8-sig"))
        if content is not None:
            check_content(value, content)
    except FileNotFoundError:
        raise TCAFError(f"expected {what} at {path}, found nothing") from None
    except ValueError as error:
        raise TCAFError(f"expected {what} at {path}, found a damaged file ({error})") from None
    return value


_WHOLE: dict[Path, tuple[int, int]] = {}
"""What this process is at work on as a whole: by path its number, which a fork changes, and the
thread's."""


@contextmanager
def only_writer(path: Path, *, whole: bool = False, is_file: bool = False) -> Iterator[None]:
    """Keeps other processes from writing a folder, there or yet to come; readers are not kept out.

    The lock is a file beside it, `.NAME.lock`, which says who holds it and is gone afterwards. A
    process that ends lets go, however it ends. Where the system or file system has no locks,
    nothing is kept out.

    Args:
        path: of the folder, or of a file.
        whole: for a long work, steps of which take the lock too: this thread may take it again.
        is_file: it is a file, not a folder.

    Raises:
        TCAFError: another process is at work there, or it can be no folder.
    """
    path = followed(path)
    me = (os.getpid(), threading.get_ident())
    if _WHOLE.get(path) == me:
        yield
        return
    if not is_file:
        check_folder(path)
    made = make_parents(path)
    lock = path.with_name(f".{path.name}.lock")
    handle = None
    try:
        handle = _lock(lock, path)
        if whole:
            _WHOLE[path] = me
        yield
    finally:
        if whole:
            _WHOLE.pop(path, None)
        if handle is not None:
            with suppress(OSError):
                lock.unlink()
            os.close(handle)
        for folder in made:
            # Of a command that came to nothing, no empty folder stays.
            with suppress(OSError):
                folder.rmdir()


def _lock(lock: Path, path: Path) -> int | None:
    """Returns the open lock file, or None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    while opened := _open_lock(lock, path):
        handle, place = opened
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file between our opening and locking it.
            if not os.path.samestat(place.stat(), os.fstat(handle)):
                raise FileNotFoundError
        except FileNotFoundError:
            os.close(handle)
            continue
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace") if place == lock else ""
            os.close(handle)
            raise TCAFError(
                f"another process{f' ({holder})' if holder else ''} is at work on {path}; wait "
                "until it is done, or name another place"
            ) from None
        except OSError:
            os.close(handle)
            return None
        with suppress(OSError):  # another user's file, or a folder
            os.ftruncate(handle, 0)
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            os.write(handle, f"pid {os.getpid()} on {socket.gethostname()}, since {now}".encode())
        return handle
    return None


def _open_lock(lock: Path, path: Path) -> tuple[int, Path] | None:
    """Opens what is locked: the file beside `path`; where none can be made, the folder itself."""
    for place, flags in (
        (lock, os.O_RDWR | os.O_CREAT),
        (lock, os.O_RDONLY),
        (path, os.O_RDONLY),
    ):
        with suppress(OSError):
            return os.open(place, flags, 0o666), place
    return None


def _is_gone(pid: int) -> bool:
    """Returns whether the process `pid` has ended, or is this one: what it left may be cleared."""
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


def followed(path: Path) -> Path:
    """Returns what a path leads to, through links, whether it is there or yet to come.

    Raises:
        TCAFError: a link that leads in a circle, or an address in place of a path.
    """
    check_local(path)
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise TCAFError(f"{path} is a link that leads in a circle; name another place")
    return found


def make_parents(path: Path) -> list[Path]:
    """Makes the folders in which `path` is to lie, and returns them, the innermost first.

    Raises:
        TCAFError: see `_missing_parents`; or one cannot be made.
    """
    missing = _missing_parents(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TCAFError(f"cannot make {path}: {missing[-1]}: {error.strerror}") from None
    return missing


def _missing_parents(path: Path) -> list[Path]:
    """Returns the folders that `path` is to lie in and that are not there, the innermost first.

    Raises:
        TCAFError: one of the others is no folder, or the last may not be written to.
    """
    parents = path.absolute().parents
    missing = [each for each in parents if not each.exists()]
    nearest = parents[len(missing)]
    if not nearest.is_dir():
        raise TCAFError(f"cannot make {path}: {nearest} is no folder; name another place")
    if not path.exists() and not os.access(nearest, os.W_OK | os.X_OK):
        raise TCAFError(f"cannot make {path}: {nearest} may not be written to; name another place")
    return missing


def check_folder(path: Path) -> None:
    """Checks that a command may write into a folder at `path`, there or yet to come.

    Raises:
        TCAFError: something else is there, or no folder can be made there.
    """
    place = followed(path)
    if place.exists() and not place.is_dir():
        raise TCAFError(f"{path} exists already and is no folder; name another place")
    _missing_parents(place)


def check_file(path: Path, begins: str, what: str) -> None:
    """Checks that a command may write a file to `path`, before its content is made.

    Args:
        path: of the file; an empty one may be there, or one of the same kind, which is replaced.
        begins: what a file of this kind begins with, in any letter case; each character a byte.
        what: it is, as in "HTML page".

    Raises:
        TCAFError: something else is there, or no file can be made there.
    """
    place = followed(path)
    _missing_parents(place)
    if not place.exists():
        return
    if not place.is_file():
        kind = "a folder" if place.is_dir() else "neither file nor folder"
        raise TCAFError(f"expected a file to write to, {path} is {kind}")
    with place.open("rb") as file:
        head = file.read(len(begins)).decode("latin-1")
    if head and head.lower() != begins.lower():
        raise TCAFError(f"{path} exists already and is no {what}; name another place")


def _is_taken(path: Path) -> bool:
    """Returns whether something is at `path` that would be lost: an empty folder would not."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def check_place(path: Path, *, overwrite: bool, what: str, mark: str) -> None:
    """Checks that a command may write a folder to `path`, before hours go into its content.

    Args:
        path: of the folder; an empty one may be there.
        overwrite: one of the same kind may be replaced.
        what: the folder is to be, as in "feature store".
        mark: file by which such a folder is known.

    Raises:
        TCAFError: something else is there, or `overwrite` is false.
    """
    if not _is_taken(path):
        return
    if not (path / mark).is_file():
        raise TCAFError(f"{path} exists already and is no {what}; name another place")
    if not overwrite:
        raise TCAFError(f"{path} holds a {what} already; name another place or pass --overwrite")


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside `path`; on success it takes the name `path`.

    If the body raises, the new folder is removed; an older folder at `path` stays as it was until
    the new one is complete. Where `path` is a link, what it points to is made or replaced. What
    killed processes left beside it is cleared first: an older folder that one of them was about to
    replace is put back, unfinished ones are removed. Other processes are kept out (`only_writer`).

    Raises:
        TCAFError: something other than an empty folder is at `path` and `overwrite` is false, or
            another process is at work there.
    """
    target = followed(path)
    with only_writer(target):
        _tidy(target)
        if _is_taken(target) and not overwrite:
            raise TCAFError(f"{path} exists already; name another place")
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        retired = target.with_name(f".{target.name}.{os.getpid()}.old")
        partial.mkdir(parents=True)
        try:
            yield partial
            _sync_folder(partial)
            if target.exists():
                target.replace(retired)
            partial.replace(target)
            _sync_folder(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if retired.exists():
                if not target.exists():
                    retired.replace(target)
                shutil.rmtree(retired, ignore_errors=True)
