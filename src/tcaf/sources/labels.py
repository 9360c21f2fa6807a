"""Your own clips as files: which there are, and what is said of the class and part of each.

Owns the tables that people write about them, and the folders in which they keep them. Which classes
are seen and unseen, and the part of clips of which nothing is said, is `partition`.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tcaf.data.splits import PARTS
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.extract.corpus import MediaFile, Reject
from tcaf.files.csv_tables import csv_rows
from tcaf.sources.annotations import AnnotatedVideo, read_annotations, segment_of
from tcaf.sources.media_files import SUFFIXES, media_folder
from tcaf.text.words import foldings

USES = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
"""What tables and folders call the use of clips, in any letter case; `partition` has the parts."""

_USE_OF = {word: use for use, words in USES.items() for word in words}

PART_COLUMNS = ("part", "split", "subset", "set", "fold", "partition")
"""The names of the column that says the use or part of a clip."""

UCF_GROUP = r"(?:^|/)v_(\w+_g\d+)_c\d+\.\w+$"
"""The group in the name of a file of UCF101: clips of one group are cut from one video."""


@dataclass(frozen=True)
class Clip:
    """A media file, or a segment of one, with its class and part.

    Args:
        file: which.
        class_name: its class; empty if not known.
        part: one of `splits.PARTS`; empty if not known.
        use: `train`, `val` or `test`, where no more is known than that; empty otherwise.
        group: of clips that have to stay in one part; empty for a clip that is alone.
    """

    file: MediaFile
    class_name: str
    part: str
    use: str = ""
    group: str = ""

    @property
    def id(self) -> str:
        """The file's name, of a segment `FILE@START-END`, in seconds."""
        return self.file.id


@dataclass(frozen=True)
class Listing:
    """The clips of a folder.

    Args:
        clips: in the order of the table, or of their names.
        rejects: what is listed and no clip.
        remarks: what else is not as it may seem, a line each.
    """

    clips: list[Clip]
    rejects: tuple[Reject, ...] = ()
    remarks: tuple[str, ...] = ()


def find_clips(
    folder: Path, labels: Path | None = None, group: str = "", *, allow_outside: bool = False
) -> Listing:
    """Lists the media files of a folder; the class is the first sub-folder.

    Folders called train, val and test above those of the classes are uses. Links to folders are
    followed.

    Args:
        folder: where they lie.
        labels: a table of the files wanted, with the columns file, class and perhaps part, group,
            start and end; or ActivityNet's annotations as JSON.
        group: a regular expression that finds the group in a file's name as seen from the folder,
            as a whole or in parentheses; by default that of UCF101's files.
        allow_outside: whether the table may name files elsewhere.

    Raises:
        TCAFError: no such folder, no media file in it, a table that is not such a one or names
            files elsewhere, or a pattern that fits no file or takes the place of a column.
    """
    if not folder.is_dir():
        raise TCAFError(f"expected a folder with media files at {folder}, found none")
    if labels is None:
        listing = _of_folders(folder)
    elif _is_json(labels):
        listing = _annotated(folder, labels)
    else:
        listing = _listed(folder, labels, allow_outside)
    if any(clip.group for clip in listing.clips):
        if group:
            raise TCAFError(f"{labels} has a column group; leave --group out, or the column")
        return replace(listing, clips=_segments_grouped(listing.clips))
    find = group_finder(group)
    clips = [replace(clip, group=find(clip.file.name)) for clip in listing.clips]
    alone = [clip.file.name for clip in clips if not clip.group]
    if group and len(alone) == len(clips):
        raise TCAFError(f"--group {group!r} fits no file's name; the first is {alone[0]!r}")
    remark = f"--group fits {len(clips) - len(alone)} of {len(clips)} files, not {shorten(alone)}"
    remarks = (*listing.remarks, remark) if group and alone else listing.remarks
    return replace(listing, clips=_segments_grouped(clips), remarks=remarks)


def _segments_grouped(clips: Sequence[Clip]) -> list[Clip]:
    """Returns clips, those of a file that is cut into segments in one group if they have none."""
    cut = {clip.file.name for clip in clips if clip.file.segment}
    return [
        replace(clip, group=clip.file.name) if clip.file.name in cut and not clip.group else clip
        for clip in clips
    ]


def file_of(id: str) -> str:
    """Returns the file's name in the id of a clip."""
    return re.sub(r"@[0-9.e+-]+-[0-9.e+-]+$", "", id)


def group_finder(pattern: str = "") -> Callable[[str], str]:
    """Returns what finds the group in a file's name; it returns an empty one where there is none.

    Args:
        pattern: a regular expression (see `find_clips`).

    Raises:
        TCAFError: it is none.
    """
    try:
        compiled = re.compile(pattern or UCF_GROUP)
    except re.error as error:
        raise TCAFError(f"--group {pattern!r} is no regular expression: {error}") from None

    def find(name: str) -> str:
        match = compiled.search(name)
        return (match[min(1, compiled.groups)] or "") if match else ""

    return find


def readable(path: Path) -> str:
    """Returns a path as text; what is not UTF-8 in it, as in names of old archives, is escaped."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def check_class_names(names: Iterable[str]) -> None:
    """Checks that no two names are one for whoever types them (`text.words.foldings`).

    Raises:
        TCAFError: two are, with both spellings.
    """
    first: dict[str, str] = {}
    for name in sorted(set(names)):
        for key in sorted(foldings(name)):
            other = first.setdefault(key, name)
            if other != name:
                raise TCAFError(
                    f"the classes {other!r} and {name!r} are one but for spaces, underscores, "
                    "letter case or the like; give both one name, or call one something else"
                )


def _of_folders(folder: Path) -> Listing:
    found = media_folder(folder)
    if not found.files:
        raise TCAFError(
            f"no media file in {folder} ({len(found.others)} other files); known are "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    names = [readable(path.relative_to(folder)) for path in found.files]
    depth = 1 if _are_uses(folder, names) else 0
    clips = []
    for name, path in zip(names, found.files, strict=True):
        *folders, _ = name.split("/")
        use = _USE_OF[folders[0].lower()] if depth else ""
        class_name = folders[depth] if len(folders) > depth else ""
        clips.append(Clip(MediaFile(name, path), class_name, "", use))
    passed_over = found.passed_over(folder)
    return Listing(clips, remarks=(passed_over,) if passed_over else ())


def _are_uses(folder: Path, names: Sequence[str]) -> bool:
    """Returns whether the first folders say the use of the clips, and the second their class.

    Raises:
        TCAFError: some do, beside others, or there are no classes in them.
    """
    first = {name.partition("/")[0] if "/" in name else "" for name in names}
    uses = {name for name in first if name.lower() in _USE_OF}
    bare = [name for name in names if name.partition("/")[0] in uses and name.count("/") == 1]
    if uses == first and not bare:
        return True
    # A class may be called train; train and test side by side are none.
    if len({_USE_OF[name.lower()] for name in uses}) < 2:
        return False
    amiss = (
        f"{bare[0]!r} lies in no folder of a class"
        if bare
        else (f"there is {shorten(sorted(first - uses))} beside them")
    )
    raise TCAFError(
        f"{folder}: the folders {shorten(sorted(uses))} say the use of clips, with folders of "
        f"classes inside, but {amiss}; move it, or say class and part in --labels"
    )


def _leads_out(name: str) -> bool:
    """Returns whether a name may be of a file elsewhere than in the folder that it is seen from.

    Behind a link, `..` is the folder above the one that the link leads to.
    """
    path = Path(name)
    return bool(path.anchor) or ".." in path.parts


def _listed(folder: Path, labels: Path, allow_outside: bool) -> Listing:
    clips: dict[str, Clip] = {}
    aliases = dict.fromkeys(PART_COLUMNS, "part")
    optional = ("part", "group", "start", "end")
    for row in csv_rows(labels, ("file", "class"), optional=optional, aliases=aliases):
        name = row["file"]
        if _leads_out(name) and not allow_outside:
            # Tables are handed on, and features tell what is in a file.
            raise TCAFError(
                f"{row.where}: expected a file in {folder}, found {name!r}; with --allow_outside "
                "tables may name files anywhere"
            )
        part, use = _part_or_use(row["part"], row.where)
        segment = None
        if row["start"] or row["end"]:
            segment = segment_of(row["start"], row["end"])
            if segment is None:
                raise TCAFError(
                    f"{row.where}: expected start and end in seconds, the end after the start, "
                    f"found {row['start']!r} and {row['end']!r}"
                )
        file = MediaFile(name, folder / name, segment)
        clip = Clip(file, row["class"], part, use, row["group"])
        if clip.id in clips:
            raise TCAFError(f"{row.where}: {clip.id!r} is listed twice")
        clips[clip.id] = clip
    _check_all_or_none(labels, list(clips.values()))
    present = [clip for clip in clips.values() if clip.file.path.exists()]
    if not present:
        first = next(iter(clips.values())).file.path
        raise TCAFError(f"{labels}: none of {len(clips)} files is in {folder}; expected {first}")
    return Listing(list(clips.values()))


def _part_or_use(word: str, where: str) -> tuple[str, str]:
    folded = word.lower()
    if not word or folded in PARTS:
        return folded, ""
    if folded not in _USE_OF:
        hint = did_you_mean(word, (*PARTS, *_USE_OF))
        raise TCAFError(
            f"{where}: no part {word!r}; there are {', '.join(USES)} and their like, or "
            f"{', '.join(PARTS)}{hint}"
        )
    return "", _USE_OF[folded]


def _check_all_or_none(labels: Path, clips: Sequence[Clip]) -> None:
    """Checks that all clips have a part, all a use, or none either."""
    by_part = [clip.id for clip in clips if clip.part]
    by_use = [clip.id for clip in clips if clip.use]
    bare = [clip.id for clip in clips if not clip.part and not clip.use]
    if by_part and by_use:
        raise TCAFError(
            f"{labels}: {shorten(by_part, 1)} has one of the parts {', '.join(PARTS)}, "
            f"{shorten(by_use, 1)} one of {', '.join(USES)}; keep to either"
        )
    if 0 < len(bare) < len(clips):
        raise TCAFError(
            f"{labels}: {len(clips) - len(bare)} rows have a part, {shorten(bare)} none; give all "
            "or none of them one"
        )


def _is_json(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    except OSError:
        return False  # the reader of tables says what is wrong


def _annotated(folder: Path, path: Path) -> Listing:
    """Lists the segments of the videos that annotations name: `ID.mp4`, or `v_ID.mp4`."""
    found = media_folder(folder)
    files: dict[str, list[Path]] = {}
    for file in found.files:
        files.setdefault(file.stem, []).append(file)
    clips: list[Clip] = []
    rejects: list[Reject] = []
    videos = read_annotations(path)
    for video in videos:
        at = files.get(video.id) or files.get(f"v_{video.id}") or []
        if reject := _unusable(video, at, folder):
            rejects.append(reject)
            continue
        for given in video.impossible:
            told = f"{video.id}: expected a segment [start, end] in seconds, found {given}"
            rejects.append(Reject(f"{video.id}@{given}", "impossible segment", told))
        part, use = _part_or_use(video.subset, f"{path}, {video.id}")
        name = readable(at[0].relative_to(folder))
        for segment, labels in video.labels.items():
            clip = Clip(MediaFile(name, at[0], segment), labels[0], part, use)
            if len(labels) > 1:
                told = f"{clip.id}: expected one label, found {shorten(labels)}"
                rejects.append(Reject(clip.id, "several labels", told))
            else:
                clips.append(clip)
    if not clips:
        raise TCAFError(
            f"{path}: none of {len(videos)} videos can be used; the first: {rejects[0].detail}"
        )
    _check_all_or_none(path, clips)
    return Listing(clips, tuple(rejects))


def _unusable(video: AnnotatedVideo, files: Sequence[Path], folder: Path) -> Reject | None:
    """Returns why a video of the annotations is no clip; None if it is one."""
    if not files:
        return Reject(video.id, "no such file", f"{folder}: no media file is called {video.id}")
    if len(files) > 1:
        told = shorten(str(file.relative_to(folder)) for file in files)
        return Reject(video.id, "several files", f"{video.id} may be each of {told}")
    if not video.labels and not video.impossible:
        return Reject(video.id, "no label", f"{video.id}: expected a label, found none")
    return None
