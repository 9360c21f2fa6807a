"""The media files of a folder, also behind links, and what of it is passed over.

Owns which files are taken for clips by their names. What becomes of them is the caller's.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from tcaf.errors import TCAFError, shorten

# fmt: off
SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mkv",
    ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".rm", ".rmvb", ".ts",
    ".vob", ".webm", ".wmv",
    ".aac", ".ac3", ".aif", ".aiff", ".amr", ".caf", ".flac", ".m4a", ".mka", ".mp3", ".oga",
    ".ogg", ".opus", ".wav", ".wma", ".wv",
})
# fmt: on
"""What media files end with, in any letter case; other files in a folder are passed over."""


def readable(path: PurePath) -> str:
    """Returns a path as text; what is not UTF-8 in it, as in names of old archives, is escaped."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


@dataclass
class MediaFolder:
    """What lies in a folder, in any depth; what is hidden does not count.

    Args:
        files: with the suffix of a media file, sorted; folders that are called so among them.
        others: all other files, sorted.
        links: to folders that are not entered, as they lead back or are taken already.
    """

    files: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)

    def passed_over(self, folder: Path) -> str:
        """Returns in one line what is passed over, with counts; nothing if there is nothing."""
        told = []
        if self.others:
            counts = Counter(path.suffix.lower() or "no suffix" for path in self.others)
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
            told.append(
                f"{len(self.others)} files that are no media files by their names ({kinds}:"
                f" {_shown(self.others, folder)})"
            )
        if self.links:
            told.append(
                f"{len(self.links)} links to folders that are taken already or lead back"
                f" ({_shown(self.links, folder)})"
            )
        return f"passed over in {folder}: {' and '.join(told)}" if told else ""


def _shown(paths: Sequence[Path], folder: Path) -> str:
    return shorten(str(path.relative_to(folder)) for path in paths)


def media_folder(folder: Path) -> MediaFolder:
    """Lists a folder, and behind links to folders; each folder is entered once, so that loops end.

    One that lies inside is taken where it lies, one from elsewhere under the first link to it.

    Raises:
        TCAFError: a folder cannot be read.
    """
    found = MediaFolder()
    taken: set[str] = set()
    root = os.path.realpath(folder)
    waiting = [folder]
    while waiting:
        links = _enter(waiting.pop(0), taken, found)
        for link in sorted(links):
            real = os.path.realpath(link)
            leads_back = any(
                Path(place).is_relative_to(real) for place in (root, os.path.realpath(link.parent))
            )
            if leads_back:
                found.links.append(link)
            else:
                waiting.append(link)
    found.files.sort()
    found.others.sort()
    return found


def _enter(folder: Path, taken: set[str], found: MediaFolder) -> list[Path]:
    """Lists a folder and those that lie in it; returns the links to others."""
    links = []
    for top, folders, names in os.walk(folder, onerror=_refuse):
        real = os.path.realpath(top)
        if real in taken:
            folders.clear()
            if Path(top).is_symlink():
                found.links.append(Path(top))
            continue
        taken.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        links += [Path(top, name) for name in folders if Path(top, name).is_symlink()]
        for name in (*folders, *names):
            path = Path(top, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                found.files.append(path)
            elif name in names and not name.startswith("."):
                found.others.append(path)
    return links


def _refuse(error: OSError) -> None:
    raise TCAFError(f"cannot read the folder {error.filename}: {error.strerror}")
