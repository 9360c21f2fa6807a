"""A live folder: which files have arrived whole, and which of them are answered already.

    DIR/.tcaf-watch.jsonl     a line that says what is asked of all files, then a line for each file
                              with its size, its time and its answers

Owns this record, and when a file counts as arrived. A file is answered when its line is there,
whole: a process that was killed at any moment goes on where it was. One that has changed since
(size or time) is answered again. How files are answered is `clips` and `recordings`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcaf.errors import TCAFError, in_unicode
from tcaf.files.atomic import followed, json_line, make_parents, only_writer, parse_json
from tcaf.sources.media_files import media_folder, readable

RECORD = ".tcaf-watch.jsonl"
"""Name of the record in the folder that is watched."""

LOOK_S = 1.0
"""Seconds between two looks at a folder."""

BUSY = 4.0
"""How many times as long as a look itself takes the next one is waited for, at least."""

_FORMAT = {"format": "tcaf-watch", "version": 1}


@dataclass(frozen=True)
class Arrived:
    """A file that has arrived.

    Args:
        path: where it lies.
        bytes: its size.
        mtime_ns: when it was last changed.
    """

    path: Path
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Arrived | None":
        """Looks at a file; None if it is gone."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(path, status.st_size, status.st_mtime_ns)

    @property
    def age_s(self) -> float:
        """Seconds since it was last changed, by the clocks of this machine and of its disk."""
        return time.time() - self.mtime_ns / 1e9


class Record:
    """Which files of a folder are answered, kept in a file to which a line is added for each.

    Args:
        path: of the file.
        folder: that is watched.
        done: size and time of each answered file, by its path as seen from the folder.
    """

    def __init__(self, path: Path, folder: Path, done: dict[str, tuple[int, int]]) -> None:
        self.path, self._folder, self._done = path, folder, done

    @classmethod
    @contextmanager
    def open(cls, path: Path, folder: Path, asked: Mapping[str, Any]) -> Iterator["Record"]:
        """Opens or begins a record, which no other process writes meanwhile.

        What a killed process had begun to add is cut off.

        Args:
            path: of the file.
            folder: that is watched.
            asked: what decides the answers: model, classes, ...

        Raises:
            TCAFError: there is no such folder; something else is at the path, a record of other
                answers, one that is damaged, or another process is at work on it.
        """
        if not folder.is_dir():
            raise TCAFError(f"expected a folder to watch, {folder} is none")
        path = followed(path)
        if path.is_dir():
            raise TCAFError(f"expected a file for the record, {path} is a folder")
        make_parents(path)
        with only_writer(path, is_file=True):
            first = {**_FORMAT, "asked": json.loads(json.dumps(asked))}
            lines = _whole_lines(path, first)
            if not lines:
                _append(path, first)
            done = dict(_read(path, number, line) for number, line in enumerate(lines[1:], 2))
            yield cls(path, folder, done)

    def __len__(self) -> int:
        return len(self._done)

    def has(self, file: Arrived) -> bool:
        """Returns whether a file is answered as it is now."""
        return self._done.get(self._name(file.path)) == (file.bytes, file.mtime_ns)

    def add(self, file: Arrived, answers: Any) -> None:
        """Keeps that a file is answered, and how.

        Args:
            file: as it was before it was read.
            answers: JSON values.
        """
        name = self._name(file.path)
        line = {"file": name, "bytes": file.bytes, "mtime_ns": file.mtime_ns, "answers": answers}
        _append(self.path, line)
        self._done[name] = (file.bytes, file.mtime_ns)

    def _name(self, path: Path) -> str:
        return readable(path.relative_to(self._folder))


def _append(path: Path, value: Any) -> None:
    """Adds a line to a file, at one go, and sees to it that it is on the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        data = (json_line(_in_unicode(value)) + "\n").encode()
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _in_unicode(value: Any) -> Any:
    """Returns a JSON value without halves of characters: a file's name may be no UTF-8."""
    if isinstance(value, str):
        return in_unicode(value)
    if isinstance(value, Mapping):
        return {_in_unicode(key): _in_unicode(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_in_unicode(each) for each in value]
    return value


def _whole_lines(path: Path, first: Mapping[str, Any]) -> list[bytes]:
    """Returns the lines of a record; one without an end is cut off.

    Raises:
        TCAFError: it is of other answers, or no record.
    """
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].splitlines()
    if lines:
        _check_asked(path, lines[0], first)
    elif not json_line(first).encode().startswith(data):
        raise TCAFError(f"{path} {_NO_RECORD}")
    if whole < len(data):
        os.truncate(path, whole)
    return lines


_NO_RECORD = "exists already and is no record of answers; name another --record"


def _check_asked(path: Path, line: bytes, first: Mapping[str, Any]) -> None:
    try:
        found = parse_json(line)
        is_record = all(found[key] == value for key, value in _FORMAT.items())
        asked = dict(found["asked"])
    except (ValueError, KeyError, TypeError):
        is_record, asked = False, {}
    if not is_record:
        raise TCAFError(f"{path} {_NO_RECORD}")
    now = first["asked"]
    keys = dict.fromkeys([*now, *asked])
    if other := [key for key in keys if asked.get(key) != now.get(key)]:
        kept, wanted = (str(each.get(other[0])) for each in (asked, now))
        more = "" if max(map(len, (kept, wanted))) > 60 else f" ({kept}, now {wanted})"
        raise TCAFError(
            f"{path} keeps which files were answered with other {other[0]}{more}; name another "
            "--record, or remove it, and all files are answered anew"
        )


def _read(path: Path, number: int, line: bytes) -> tuple[str, tuple[int, int]]:
    """Returns the file that a line is about, its size and its time.

    Raises:
        TCAFError: the line is damaged.
    """
    try:
        value = parse_json(line)
        return str(value["file"]), (int(value["bytes"]), int(value["mtime_ns"]))
    except (ValueError, KeyError, TypeError) as error:
        raise TCAFError(
            f"{path} is damaged in line {number} ({error}); remove the line, and that file is "
            "answered anew"
        ) from None


def arrivals(
    folder: Path,
    record: Record,
    settle_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Sequence[Arrived]]:
    """Yields files of a folder that are not answered and have arrived whole, some at a time.

    Looks on and on. A file counts as whole when two looks find the same size and time and it has
    not changed for `settle_s` seconds: by the clock of its disk, as one that was moved in, or since
    it was first found like this. Hidden files and others than media do not count.

    Args:
        folder: with all that is in it, in any depth.
        record: of what is answered.
        settle_s: seconds without a change.
        sleep: waits for the next look.

    Raises:
        TCAFError: the folder cannot be read, or `settle_s` is below 0.
    """
    if not settle_s >= 0:
        raise TCAFError(f"settle_s must be at least 0, got {settle_s:g}")
    since: dict[Arrived, float] = {}
    while True:
        began = time.monotonic()
        found = [Arrived.of(path) for path in media_folder(folder).files if not path.is_dir()]
        new = [file for file in found if file is not None and not record.has(file)]
        before, since = since, {file: since.get(file, began) for file in new}
        whole = [
            file
            for file in new
            if file in before and max(began - since[file], file.age_s) >= settle_s
        ]
        if whole:
            yield sorted(whole, key=lambda file: (file.mtime_ns, file.path))
            since = {}
        else:
            sleep(max(LOOK_S, BUSY * (time.monotonic() - began)))
