"""Files of foreign weights: where they lie, how they are fetched and checked, their marks.

Owns the one download in the package and what marks weights. Which file a backbone needs stands in
its own module; reading weights into a network is `weights`, digests are `files.digests`.
"""

import hashlib
import http.client
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tcaf.errors import TCAFError
from tcaf.files.atomic import replacing
from tcaf.files.digests import cache_folder, file_digest
from tcaf.files.transfers import Bar, is_offline, terminal_bar

RANDOM = "random"
"""The option `weights=random`: initial weights of a fixed seed, for trying things out."""

TIMEOUT_S = 30.0
"""Seconds that a server may keep silent before a download is given up."""

MARK_DIGITS = 12
"""Hexadecimal digits of a SHA-256 that mark weights in the name of a backbone."""

_CHUNK = 1 << 20
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class WeightsFile:
    """A published file of weights.

    Args:
        name: of the file in the cache folder.
        url: where it is fetched from, by https.
        sha256: of its content in lower-case hexadecimal: all 64 digits, or as many of the first as
            are published.
        megabytes: its size, for messages; a megabyte is 10^6 bytes.
    """

    name: str
    url: str
    sha256: str
    megabytes: int


def find_weights(file: WeightsFile, given: Path | None, bar: Bar = terminal_bar) -> Path:
    """Returns where weights lie, after fetching them if need be.

    Nothing is fetched where `TCAF_OFFLINE` or `HF_HUB_OFFLINE` is 1.

    Args:
        file: what is looked for in the cache, and fetched into it if it is not there.
        given: a file or folder to be used in its place, whatever it holds.
        bar: shows how far a download is.

    Raises:
        TCAFError: `given` does not exist, the cached file is damaged, or the file cannot be had.
    """
    if given is not None:
        if not given.exists():
            raise TCAFError(f"expected weights at {given}, found nothing")
        return given
    path = cache_folder() / "weights" / file.name
    if not path.is_file():
        _fetch(file, path, bar)
    elif not file_digest(path).startswith(file.sha256):
        raise TCAFError(
            f"{path} is not {file.name} as published: expected a SHA-256 that starts with "
            f"{file.sha256[:MARK_DIGITS]}, found {file_digest(path)[:MARK_DIGITS]}; delete it, and "
            "it is fetched anew"
        )
    return path


def _fetch(file: WeightsFile, path: Path, bar: Bar) -> None:
    """Downloads `file` to `path`, whole and of the right content or not at all."""
    variable = is_offline()
    reason = f"{variable} is set"
    if variable is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _clear_unfinished(path)
            with replacing(path) as temporary:
                _download(file, temporary, bar)
            return
        except HTTPError as error:
            error.close()
            reason = f"HTTP error {error.code}, {error.reason}"
        except URLError as error:
            reason = str(error.reason)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
    raise TCAFError(
        f"cannot fetch the weights {file.name} ({file.megabytes} MB) from {file.url} "
        f"({' '.join(reason.split())}); put that file at {path}, or give its path by "
        "--audio_weights or --visual_weights"
    )


def _clear_unfinished(path: Path) -> None:
    """Removes what killed downloads of `path` left; one that runs has just written to its own."""
    for left in path.parent.glob(f".{path.name}.*.partial"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 10 * TIMEOUT_S:
                left.unlink()


def _check_url(url: str) -> str:
    """Returns `url` if it is https, or http on this machine; raises URLError for another."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return url
    raise URLError(f"expected an https address, found {url}")


class _SafeRedirects(HTTPRedirectHandler):
    """Follows redirects to where a download may come from, and no others."""

    def redirect_request(
        self,
        req: Request,
        fp: Any,
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> Request | None:
        return super().redirect_request(req, fp, code, msg, headers, _check_url(newurl))


def _download(file: WeightsFile, target: Path, bar: Bar) -> None:
    """Writes the content of `file` to `target`; raises OSError or TCAFError if it is not that."""
    request = Request(_check_url(file.url), headers={"User-Agent": "tcaf"})  # noqa: S310
    hashed = hashlib.sha256()
    came = 0
    with build_opener(_SafeRedirects).open(request, timeout=TIMEOUT_S) as response:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        with bar(f"fetching {file.name}", total) as advance, target.open("wb") as out:
            while piece := response.read(_CHUNK):
                out.write(piece)
                hashed.update(piece)
                came += len(piece)
                advance(len(piece))
    if total is not None and came < total:
        raise OSError(f"the connection ended after {came} of {total} bytes")
    if not hashed.hexdigest().startswith(file.sha256):
        raise TCAFError(
            f"what came from {file.url} is not {file.name} as published: expected a SHA-256 that "
            f"starts with {file.sha256[:MARK_DIGITS]}, found {hashed.hexdigest()[:MARK_DIGITS]}; "
            "nothing was kept"
        )


def files_digest(folder: Path, files: Iterable[Path]) -> str:
    """Returns the SHA-256 of names and contents of files below a folder, by name."""
    hashed = hashlib.sha256()
    for name, file in sorted((file.relative_to(folder).as_posix(), file) for file in files):
        hashed.update(f"{len(name)} {name} {file_digest(file)}\n".encode())
    return hashed.hexdigest()


def weights_mark(
    path: Path, file: WeightsFile | None, only: Sequence[Path] | None = None
) -> str | None:
    """Returns what parts weights from others in the name of a backbone.

    Args:
        path: a file or folder of weights.
        file: the published file that the backbone's name stands for.
        only: the files of the folder that count; all of them by default.

    Returns:
        None where `path` has the content of `file`, else the first `MARK_DIGITS` digits of its
        SHA-256: for a folder, of the names and contents of its files, in the order of the names.
    """
    if not path.is_dir():
        digest = file_digest(path)
        return None if file and digest.startswith(file.sha256) else digest[:MARK_DIGITS]
    files = only if only is not None else [each for each in path.rglob("*") if each.is_file()]
    return files_digest(path, files)[:MARK_DIGITS]
