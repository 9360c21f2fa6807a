"""Which file of a folder a listed clip is in, by its id and the names that downloaders give.

Owns those names, whatever the suffix, and what is said of clips that have no file, and of files
that have no clip. What tables list is `published`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tcaf.errors import TCAFError, shorten
from tcaf.extract.containers import MediaError
from tcaf.extract.media import Segment, probe
from tcaf.extract.tracks import TAIL_S
from tcaf.extract.work_folder import MediaFile, Reject
from tcaf.sources.media_files import media_folder, readable
from tcaf.sources.published import Listed

PREFIXES = ("", "v_", "Y")
"""What downloaders put before the id of a video on YouTube; a name may not begin with a hyphen."""

MAX_PROBED = 20
"""Files of which it is looked up whether the stretches that are listed lie in them."""


class FoundFiles:
    """The media files of a folder, by name.

    Args:
        folder: they lie in, in any depth.

    Raises:
        TCAFError: a folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by_stem: dict[str, list[Path]] = {}
        self._by_name: dict[str, Path] = {}
        for path in media_folder(folder).files:
            self._by_stem.setdefault(path.stem, []).append(path)
            self._by_name[readable(path.relative_to(folder))] = path
        self._used: set[Path] = set()

    def find(self, listed: Listed, *, trimmed: bool = False) -> MediaFile | Reject:
        """Returns the file of a listed clip.

        Args:
            listed: the clip. Where it names a file, that will do which is called so as seen from
                the folder, or so but for its suffix, or else one that is called so elsewhere.
            trimmed: whether a file that is called by the id alone holds the stretch alone.
        """
        if listed.is_file:
            return self._taken(listed, self._named(listed.name))
        if listed.segment and listed.cut_names:
            for stem in stems_of(listed.name, listed.segment):
                if stem in self._by_stem:
                    return self._taken(listed, self._by_stem[stem])
        for prefix in PREFIXES:
            if at := self._by_stem.get(f"{prefix}{listed.name}"):
                return self._taken(listed, at, None if trimmed else listed.segment)
        return self._taken(listed, [])

    def _named(self, name: str) -> list[Path]:
        if name in self._by_name:
            return [self._by_name[name]]
        path = self._folder / name
        at = self._by_stem.get(path.stem, [])
        return [each for each in at if each.parent == path.parent] or at

    def pass_by(self, id: str) -> None:
        """Counts files of a listed video of which no clip is made as asked for."""
        for prefix in PREFIXES:
            self._used.update(self._by_stem.get(f"{prefix}{id}", ()))

    def unlisted(self) -> list[str]:
        """Returns the names of the files that nobody asked for, sorted."""
        return sorted(name for name, path in self._by_name.items() if path not in self._used)

    def _taken(
        self, listed: Listed, at: Sequence[Path], segment: Segment | None = None
    ) -> MediaFile | Reject:
        self._used.update(at)
        if not at:
            told = f"{self._folder}: no media file is called {listed.name}"
            return Reject(listed.id, "no such file", told)
        if len(at) > 1:
            told = shorten(str(path.relative_to(self._folder)) for path in at)
            return Reject(listed.id, "several files", f"{listed.name} may be each of {told}")
        return MediaFile(readable(at[0].relative_to(self._folder)), at[0], segment)


def stems_of(id: str, segment: Segment) -> Iterator[str]:
    """Yields what files of a stretch are called, without suffix, the most telling first.

    Times are written as six digits, as they are, or as milliseconds: `ID_000010_000020`,
    `ID_10_20`, `ID_10.0_20.0`, `ID_10000_20000`, and with the start alone; a hyphen will do for
    each underscore.
    """
    starts, ends = map(_written, segment)
    for mark in "_-":
        pairs = [f"{mark}{s}{mark}{e}" for s, e in zip(starts, ends, strict=True)]
        for times in (*pairs, *(f"{mark}{s}" for s in starts)):
            for prefix in PREFIXES:
                yield f"{prefix}{id}{times}"


def _written(seconds: float) -> list[str]:
    """Returns a time in the forms that names of files have it in, always as many."""
    whole = f"{round(seconds):06d}"
    return [whole, f"{seconds:.10g}", f"{seconds:.1f}", f"{round(seconds * 1000)}"]


def check_reach(files: Sequence[MediaFile], folder: Path) -> None:
    """Checks that stretches lie in the files that they are to be cut out of, by some of them.

    Raises:
        TCAFError: most of the files looked at end before the stretch does, as those do that were
            cut out already.
    """
    whole = [file for file in files if file.segment]
    looked = whole[:: -(-len(whole) // MAX_PROBED) or 1]
    short = []
    for file in looked:
        try:
            length_s = probe(file.path).duration_s
        except MediaError:
            continue
        if file.segment and length_s is not None and length_s < file.segment[1] - TAIL_S:
            short.append((file, length_s))
    if 2 * len(short) > len(looked):
        file, length_s = short[0]
        raise TCAFError(
            f"{len(short)} of {len(looked)} files of {folder} that were looked at end before the "
            f"stretch that is listed: {file.id} of one of {length_s:.1f} s; if they hold the "
            "stretches alone, say --trimmed"
        )
