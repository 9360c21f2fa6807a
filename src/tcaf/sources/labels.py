"""Your own clips as files: which there are, and what is said of the class and part of each.

Owns the tables that people write about them, and the folders in which they keep them; how data sets
publish theirs is `published`, which files are meant there `found_files`. Which classes
are seen and unseen, and the part of clips of which nothing is said, is `partition`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tcaf.data.splits import PARTS
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.extract.work_folder import MediaFile, Reject
from tcaf.files.csv_tables import MissingColumnsError, Row, csv_rows
from tcaf.sources.annotations import segment_of
from tcaf.sources.found_files import FoundFiles, check_reach
from tcaf.sources.media_files import SUFFIXES, media_folder, readable
from tcaf.sources.published import (
    BY_ID,
    OWN,
    check_layout,
    layout_of,
    layouts_told,
    read_published,
)
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
        listed: what it is called where a table lists it without a file; empty if as its file.
    """

    file: MediaFile
    class_name: str
    part: str
    use: str = ""
    group: str = ""
    listed: str = ""

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
        unlisted: names of media files in the folder that no table lists.
    """

    clips: list[Clip]
    rejects: tuple[Reject, ...] = ()
    remarks: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()


def find_clips(
    folder: Path,
    labels: Path | Sequence[Path] | None = None,
    group: str = "",
    *,
    layout: str = "",
    trimmed: bool = False,
    allow_outside: bool = False,
) -> Listing:
    """Lists the media files of a folder; the class is the first sub-folder.

    Folders called train, val and test above those of the classes are uses. Links to folders are
    followed.

    Args:
        folder: where they lie.
        labels: a table of the files wanted, with the columns file, class and perhaps part, group,
            start and end; or one or several tables as data sets publish them
            (`published.LAYOUTS`).
        group: a regular expression that finds the group in a file's name as seen from the folder,
            as a whole or in parentheses; by default that of UCF101's files.
        layout: of the tables, `own` or one of `published.LAYOUTS`; by default what they look like.
        trimmed: whether files that are called by the id of a video alone hold the stretch alone
            that a published table lists.
        allow_outside: whether the table may name files elsewhere.

    Raises:
        TCAFError: no such folder, no media file in it, a table that is not such a one or names
            files elsewhere, or a pattern that fits no file or takes the place of a column.
    """
    if not folder.is_dir():
        raise TCAFError(f"expected a folder with media files at {folder}, found none")
    tables = [labels] if isinstance(labels, Path) else list(labels or ())
    layout = _layout(tables, layout)
    if trimmed and layout not in BY_ID:
        raise TCAFError(
            f"--trimmed is of tables that list stretches of videos by their ids ({', '.join(BY_ID)}"
            "); leave it out"
        )
    if not tables:
        listing = _of_folders(folder)
    elif layout == OWN:
        listing = _listed(folder, tables, allow_outside)
    else:
        listing = _published(folder, tables, layout, trimmed)
    if any(clip.group for clip in listing.clips):
        if group:
            raise TCAFError(
                f"{' and '.join(map(str, tables))} has a column group, or names the recordings; "
                "leave --group out, or the column"
            )
        return replace(listing, clips=_segments_grouped(listing.clips))
    find = group_finder(group)
    clips = [replace(clip, group=find(clip.file.name)) for clip in listing.clips]
    alone = [clip.file.name for clip in clips if not clip.group]
    if group and len(alone) == len(clips):
        raise TCAFError(f"--group {group!r} fits no file's name; the first is {alone[0]!r}")
    remark = f"--group fits {len(clips) - len(alone)} of {len(clips)} files, not {shorten(alone)}"
    remarks = (*listing.remarks, remark) if group and alone else listing.remarks
    return replace(listing, clips=_segments_grouped(clips), remarks=remarks)


def _layout(tables: Sequence[Path], named: str) -> str:
    """Returns the layout of tables; empty where there are none.

    Raises:
        TCAFError: no such layout, or tables of several; or a layout without tables.
    """
    if named:
        check_layout(named)
        if not tables:
            raise TCAFError(f"--layout {named} says how tables are laid out; give --labels too")
        return named
    found = {table: layout_of(table) for table in tables}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{table} ({layout})" for table, layout in found.items())
        raise TCAFError(f"expected tables of one layout, found {told}")
    return next(iter(found.values()), "")


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


def _listed(folder: Path, tables: Sequence[Path], allow_outside: bool) -> Listing:
    clips: dict[str, Clip] = {}
    aliases = dict.fromkeys(PART_COLUMNS, "part")
    optional = ("part", "group", "start", "end")
    for table in tables:
        for row in _own_rows(table, ("file", "class"), optional, aliases):
            clip = _clip_of(row, folder, allow_outside)
            if clip.id in clips:
                raise TCAFError(f"{row.where}: {clip.id!r} is listed twice")
            clips[clip.id] = clip
    where = " and ".join(map(str, tables))
    _check_all_or_none(where, list(clips.values()))
    present = [clip for clip in clips.values() if clip.file.path.exists()]
    if not present:
        first = next(iter(clips.values())).file.path
        raise TCAFError(f"{where}: none of {len(clips)} files is in {folder}; expected {first}")
    paths = {clip.file.path for clip in clips.values()}
    others = [path for path in media_folder(folder).files if path not in paths]
    names = [readable(path.relative_to(folder)) for path in others]
    return Listing(list(clips.values()), unlisted=tuple(names))


def _own_rows(
    table: Path, columns: Sequence[str], optional: Sequence[str], aliases: Mapping[str, str]
) -> list[Row]:
    try:
        return csv_rows(table, columns, optional=optional, aliases=aliases)
    except MissingColumnsError as error:
        raise TCAFError(f"{error}; or a table as published: {layouts_told()}") from None


def _clip_of(row: Row, folder: Path, allow_outside: bool) -> Clip:
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
    return Clip(MediaFile(name, folder / name, segment), row["class"], part, use, row["group"])


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


def _check_all_or_none(labels: str, clips: Sequence[Clip]) -> None:
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


def _published(folder: Path, tables: Sequence[Path], layout: str, trimmed: bool) -> Listing:
    """Lists the clips of tables as data sets publish them, and finds the file of each."""
    said = read_published(tables, layout)
    files = FoundFiles(folder)
    rejects = list(said.rejects)
    for reject in rejects:
        files.pass_by(reject.id.partition("@")[0])
    by_id: dict[str, list[Clip]] = {}
    for listed in said.clips:
        part, use = _part_or_use(listed.use, listed.where)
        file = files.find(listed, trimmed=trimmed)
        if isinstance(file, Reject):
            rejects.append(file)
            continue
        clip = Clip(file, listed.class_name, part, use, listed.group, listed.id)
        by_id.setdefault(clip.id, []).append(clip)
    clips: list[Clip] = []
    for id, same in by_id.items():
        names = list(dict.fromkeys(clip.listed for clip in same))
        if len(names) > 1:
            told = f"{id} may be each of {shorten(names)}"
            rejects += [Reject(name, "the same file as another clip", told) for name in names]
            continue
        clips.append(same[0])
        for word, values in (
            ("label", sorted({clip.class_name for clip in same})),
            ("part", sorted({clip.part or clip.use for clip in same})),
        ):
            if len(values) > 1:
                told = f"{id}: expected one {word}, found {shorten(values)}"
                rejects.append(Reject(id, f"several {word}s", told))
                clips.pop()
                break
    where = " and ".join(map(str, tables))
    if not clips:
        told = rejects[0].detail if rejects else "there is none"
        raise TCAFError(
            f"{where}: none of {len(said.clips) + len(said.rejects)} clips can be used; "
            f"the first: {told}"
        )
    check_reach([clip.file for clip in clips], folder)
    _check_all_or_none(where, clips)
    twice = [id for id, same in by_id.items() if len(same) > 1 and len(set(same)) == 1]
    remarks = said.remarks
    if twice:
        remarks.append(
            f"{where}: {len(twice)} clips are listed twice, and count once: {shorten(twice)}"
        )
    return Listing(clips, tuple(rejects), tuple(remarks), tuple(files.unlisted()))
