"""SHA-256 of files, which are read no oftener than need be.

Owns the cache folder and what is remembered in it: which files were found right, and when those had
changed last. A disk that loses a bit by itself changes no time: `tcaf inspect --verify` reads all.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from tcaf.files.atomic import parse_json, replacing
from tcaf.progress import Track, silent

SETTLED_NS = 2 * 10**9
"""Nanoseconds since a file's last change from which on its SHA-256 is kept."""

MOST_REMEMBERED = 20_000
"""Files found right that are remembered; of more, the last ones."""


def cache_folder() -> Path:
    """Returns where tcaf keeps what it fetched and verified; weights lie in `weights` inside.

    `TCAF_CACHE`, else `tcaf` in `XDG_CACHE_HOME`, else `~/.cache/tcaf`. It need not exist.
    """
    if own := os.environ.get("TCAF_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "tcaf"


def file_sha256(path: Path) -> str:
    """Reads a file and returns its SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(path: Path) -> tuple[int, int, int, int]:
    """Returns what is another once a file has changed: inode, size, times of writing and change."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_settled(version: tuple[int, int, int, int]) -> bool:
    """Whether a later change shows: clocks of file systems are coarse."""
    return time.time_ns() - version[-1] >= SETTLED_NS


@lru_cache(maxsize=512)
def _digest_of_version(path: Path, version: tuple[int, int, int, int]) -> str:
    return file_sha256(path)


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's content in hexadecimal.

    A file that did not change is read once in a process. What tells is the time of its last change
    of any kind, which no program can set back, beside its size and the time of its last writing.
    """
    version = _version(path)
    return _digest_of_version(path, version) if _is_settled(version) else file_sha256(path)


def changed_files(expected: Mapping[Path, str], track: Track = silent) -> list[Path]:
    """Returns the files whose content has not the SHA-256 that is expected.

    One that was found right, by this process or another, is read again only once it has changed.
    It is remembered in `verified.json` in the cache folder, where that can be written.

    Args:
        expected: the SHA-256 of each file.
        track: shows how many are read.
    """
    known = _remembered()
    unknown, found = [], {}
    for path, digest in expected.items():
        if known.get(str(path.resolve())) != [*_version(path), digest]:
            unknown.append(path)
    changed = []
    for path in track(unknown, "Verifying") if unknown else ():
        version = _version(path)
        if file_digest(path) != expected[path]:
            changed.append(path)
        elif _is_settled(version):
            found[str(path.resolve())] = [*version, expected[path]]
    if found:
        _remember(found)
    return changed


def _memory() -> Path:
    return cache_folder() / "verified.json"


def _remembered() -> dict[str, Any]:
    """Returns what is remembered; nothing where that is damaged, which costs a reading."""
    try:
        value = parse_json(_memory().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _remember(found: Mapping[str, Any]) -> None:
    # Other processes may have written since.
    entries = {path: value for path, value in _remembered().items() if path not in found}
    entries |= found
    kept = dict(list(entries.items())[-MOST_REMEMBERED:])
    with suppress(OSError):
        _memory().parent.mkdir(parents=True, exist_ok=True)
        with replacing(_memory()) as temporary:
            temporary.write_text(json.dumps(kept), encoding="utf-8")
