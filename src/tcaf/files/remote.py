"""Stores, runs and clips that lie elsewhere: in an object store, on a hub, on a server.

    CACHE/remote/KEY/NAME          what is at an address, a file or a folder called as it is there
    CACHE/remote/KEY/fetched.json  the address, and size and version of each file
    CACHE/remote/KEY/so_far.jsonl  the same of files that have come, until all have

Owns this part of the cache folder. What is at an address is listed each time it is named, and what
has another version, or is not here yet, is fetched; a file is here whole or not at all. Addresses
are those of fsspec (extra `remote`); which of them are named is up to people, no other is asked.
Nothing is written to any.
"""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from tcaf.errors import MissingExtraError, TCAFError, did_you_mean, one_line
from tcaf.files.atomic import parse_json, replacing, write_json
from tcaf.files.digests import cache_folder
from tcaf.files.transfers import Bar, is_offline, terminal_bar
from tcaf.files.urls import as_url

AT_ONCE = 8
"""Files that are fetched at the same time: an object store takes its time over each small one."""

_EXTRAS = {"s3": "remote", "s3a": "remote", "http": "remote", "https": "remote", "hf": "hub"}
_HERE = ("file", "local")

_VERSIONS = (
    *("ETag", "etag", "blob_id", "sha", "md5Hash", "Content-MD5", "Digest", "content_md5"),
    *("LastModified", "Last-Modified", "last_modified", "mtime", "modified", "created"),
)
"""What file systems call that which changes with the content, the surest first."""


@dataclass(frozen=True)
class _File:
    """A file elsewhere.

    Args:
        source: what its file system calls it.
        num_bytes: its size; None where that is not known.
        version: what changes with its content; empty where nothing is known to.
    """

    source: str
    num_bytes: int | None
    version: str

    @property
    def state(self) -> list[Any]:
        """What is kept of it: equal for equal content."""
        return [self.num_bytes, self.version]


def local_path(named: str | Path, bar: Bar = terminal_bar) -> Path:
    """Returns where something lies on this machine, after fetching what is not here yet.

    Nothing is fetched where `TCAF_OFFLINE` or `HF_HUB_OFFLINE` is 1, and what was fetched before is
    taken as it is.

    Args:
        named: a path, which is returned as it is; or an address: `s3://`, `hf://`, `https://`,
            `file://` or any other that fsspec knows, of a file or a folder.
        bar: shows how far fetching is.

    Raises:
        TCAFError: nothing is there, it cannot be read, or it is not in the cache and nothing may be
            fetched.
        MissingExtraError: a package that reads such addresses is not installed.
    """
    url = as_url(named)
    if url is None:
        return Path(named)
    scheme = url.partition("://")[0]
    if scheme in _HERE:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise TCAFError(f"{url} names another machine; expected file:///PATH")
        return Path(url2pathname(parts.path))
    url = url.rstrip("/")
    place = cache_folder() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:24]
    target = place / _name(url)
    if variable := is_offline():
        if (place / "fetched.json").is_file() and target.exists():
            return target
        raise TCAFError(f"{url} was not fetched before, and {variable} is set; unset it")
    with _in_words(url):
        filesystem, root = _open(url)
        files = _listed(filesystem, root, target.name)
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        _update(url, filesystem, place, files, bar)
    return target


def as_named(path: Path) -> str:
    """Returns what people call a file: its address if it was fetched from one, else its path."""
    folder = cache_folder() / "remote"
    if not path.is_relative_to(folder):
        return str(path)
    key, _, *inside = path.relative_to(folder).parts
    return "/".join([_address(folder / key), *inside])


@lru_cache
def _address(place: Path) -> str:
    return str(parse_json((place / "fetched.json").read_bytes())["url"])


def _name(url: str) -> str:
    """Returns what a file or folder is called, without what an address has behind its path."""
    path = urlsplit(url).path
    path = unquote(path) if url.startswith("http") else path
    name = PurePosixPath(path).name or urlsplit(url).netloc or "content"
    if name in ("fetched.json", "so_far.jsonl"):
        return f"_{name}"
    return name


def _open(url: str) -> tuple[Any, str]:
    """Returns the file system of an address, and what that calls it."""
    try:
        import fsspec
        from fsspec.registry import known_implementations
    except ImportError:
        raise MissingExtraError("fsspec is not installed; pip install 'tcaf[remote]'") from None
    scheme = url.partition("://")[0]
    known = sorted({*known_implementations, *fsspec.available_protocols()})
    if scheme not in known:
        raise TCAFError(
            f"{url}: no file system is called {scheme!r}{did_you_mean(scheme, known)}; expected an "
            "address such as s3://BUCKET/FOLDER, hf://datasets/NAME or https://HOST/FILE"
        )
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        said = known_implementations.get(scheme, {}).get("err", str(error))
        extra = _EXTRAS.get(scheme)
        how = f"pip install 'tcaf[{extra}]'" if extra else said
        raise MissingExtraError(f"{url}: what reads {scheme}:// is not installed; {how}") from None
    # What it remembers of an earlier call may have changed.
    filesystem.invalidate_cache()
    return filesystem, root


@contextmanager
def _in_words(url: str) -> Iterator[None]:
    """Says in one line why an address cannot be read: each file system has errors of its own.

    Raises:
        TCAFError: it cannot.
    """
    try:
        yield
    except (TCAFError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Of web servers all that can be wrong is a file that is not found, at first sight.
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
        is_absent = cause is None or isinstance(cause, FileNotFoundError)
        if is_absent or getattr(cause, "status", None) == 404:
            raise TCAFError(f"expected a file or folder at {url}, found nothing") from None
        reason = one_line(str(cause)) or type(cause).__name__
        raise TCAFError(f"cannot read {url}: {reason}") from None


def _listed(filesystem: Any, root: str, name: str) -> dict[str, _File]:
    """Returns the files at an address, by the path that each gets in the cache.

    Args:
        filesystem: of the address.
        root: what that calls it.
        name: of the file or folder in the cache.
    """
    top = filesystem.info(root)
    is_page = top["type"] == "file" and "text/html" in str(top.get("mimetype"))
    if top["type"] == "file" and not is_page:
        return {name: _file(root, top)}
    # A server that lists a folder does so as a page.
    folder = f"{root.rstrip('/')}/"
    found = filesystem.find(folder if is_page else root, detail=True)
    files = {}
    for source, info in sorted(found.items()):
        inside = source.removeprefix(folder) if source.startswith(folder) else ""
        inside = unquote(inside) if is_page else inside
        parts = inside.split("/")
        if not inside or inside.endswith("/") or any(part.startswith(".") for part in parts):
            continue  # folders as objects, hidden files, what a page links to elsewhere
        if "" in parts or "\\" in inside or "\0" in inside:
            raise TCAFError(f"{source!r} has a name that no folder here can hold")
        files[f"{name}/{inside}"] = _file(source, filesystem.info(source) if is_page else info)
    if not files:
        raise FileNotFoundError(root)
    return files


def _file(source: str, info: Mapping[str, Any]) -> _File:
    version = next((f"{key} {info[key]}" for key in _VERSIONS if info.get(key)), "")
    size = info.get("size")
    return _File(source, None if size is None else int(size), version)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Waits until no other process fetches into a folder, and keeps others waiting meanwhile."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(place / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _update(url: str, filesystem: Any, place: Path, files: Mapping[str, _File], bar: Bar) -> None:
    """Makes the cache hold the files as they are now, and no others.

    Args:
        url: the address.
        filesystem: of it.
        place: folder in the cache.
        files: by their paths in that.
        bar: shows how far fetching is.
    """
    known = _known(place)
    waiting = {name: file for name, file in files.items() if not _is_here(place, name, file, known)}
    whole = {"url": url, "files": {name: file.state for name, file in files.items()}}
    if not waiting and whole["files"] == known:
        return
    kept = {name: state for name, state in known.items() if name in files and name not in waiting}
    _keep_so_far(place, kept)
    (place / "fetched.json").unlink(missing_ok=True)
    sizes = [file.num_bytes for file in waiting.values()]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    with _in_words(url), bar(f"fetching {url}", total) as advance:
        _fetch(filesystem, place, waiting, advance)
    for path in sorted(place.rglob("*"), reverse=True):
        name = path.relative_to(place).as_posix()
        if path.is_dir():
            with suppress(OSError):  # not empty
                path.rmdir()
        elif name not in files and name not in (".lock", "so_far.jsonl"):
            path.unlink()
    write_json(place / "fetched.json", whole)
    (place / "so_far.jsonl").unlink(missing_ok=True)


def _is_here(place: Path, name: str, file: _File, known: Mapping[str, Any]) -> bool:
    """Returns whether a file is in the cache as it is elsewhere."""
    path = place / name
    if known.get(name) != file.state or file.state == [None, ""] or not path.is_file():
        return False
    return file.num_bytes is None or path.stat().st_size == file.num_bytes


def _known(place: Path) -> dict[str, Any]:
    """Returns the state of each file that has come; nothing where that is damaged."""
    try:
        whole = parse_json((place / "fetched.json").read_bytes())
        return dict(whole["files"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = {}
    with suppress(OSError, ValueError, KeyError, TypeError):  # the last line may be cut short
        for line in (place / "so_far.jsonl").read_bytes().splitlines():
            entry = parse_json(line)
            found[entry["name"]] = entry["state"]
    return found


def _line(name: str, state: Any) -> str:
    return json.dumps({"name": name, "state": state}) + "\n"


def _keep_so_far(place: Path, kept: Mapping[str, Any]) -> None:
    with replacing(place / "so_far.jsonl") as temporary:
        temporary.write_text("".join(_line(*each) for each in kept.items()), encoding="utf-8")


def _fetch(
    filesystem: Any, place: Path, files: Mapping[str, _File], advance: Callable[[int], None]
) -> None:
    """Fetches files, some at once; what has come stays when one cannot be had.

    Raises:
        OSError: one came short; or what the file system raises.
    """
    if not files:
        return
    stop = threading.Event()
    pool = ThreadPoolExecutor(min(AT_ONCE, len(files)), thread_name_prefix="tcaf-fetch")
    try:
        running = {}
        for name, file in files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}.fetching")
            given = (filesystem, file, partial, stop, advance)
            running[pool.submit(_download, *given)] = (name, partial)
        with (place / "so_far.jsonl").open("a", encoding="utf-8") as so_far:
            failure: BaseException | None = None
            for done in as_completed(running):
                name, partial = running[done]
                if error := done.exception():
                    # The first one counts: the others end since it has come.
                    failure = failure or error
                    stop.set()
                    continue
                # Here, as one thread alone may look at the mask of new files.
                with replacing(place / name) as temporary:
                    partial.replace(temporary)
                so_far.write(_line(name, files[name].state))
                so_far.flush()
            if failure:
                raise failure
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        for _, partial in running.values():
            partial.unlink(missing_ok=True)


class _StoppedError(Exception):
    """Another file cannot be had, or someone has pressed Ctrl-C."""


def _download(
    filesystem: Any,
    file: _File,
    target: Path,
    stop: threading.Event,
    advance: Callable[[int], None],
) -> None:
    """Writes a file, whole or not at all, and says how many bytes have come."""
    from fsspec.callbacks import Callback

    before = 0

    def moved(size: int | None, value: int, **_: Any) -> None:
        nonlocal before
        if stop.is_set():
            raise _StoppedError
        advance(value - before)
        before = value

    if stop.is_set():
        raise _StoppedError
    filesystem.get_file(file.source, str(target), callback=Callback(hooks={"moved": moved}))
    came = target.stat().st_size
    if file.num_bytes is not None and came != file.num_bytes:
        raise OSError(f"{came} of {file.num_bytes} bytes came of {file.source}")
