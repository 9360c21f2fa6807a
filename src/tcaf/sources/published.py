"""Tables of clips as their data sets publish them, in the layout that each has.

Owns which layout a table has, which of its columns say what, and what is said of each clip. Which
file a clip is in is `found_files`; tables that people write for tcaf are `labels`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tcaf.errors import TCAFError, did_you_mean
from tcaf.extract.media import Segment
from tcaf.extract.work_folder import Reject, id_with_segment
from tcaf.files.csv_tables import Row, csv_rows
from tcaf.sources.annotations import Annotations, is_json, read_annotations, segment_of

OWN = "own"
"""The layout of tables that people write for tcaf, with the columns file and class."""

BY_ID = ("vggsound", "kinetics", "activitynet", "ave")
"""The layouts that name videos by their ids."""

CLIP_S = 10
"""Seconds of a clip of VGGSound, whose table gives the start alone."""

SAMPLE_LINES, SAMPLE_SIZE = 20, 2**14
"""Lines of a table, and characters, by which its layout is told."""


@dataclass(frozen=True)
class Listed:
    """What a table says of one clip.

    Args:
        where: file and line, for messages.
        name: of the video, or of the file where `is_file`.
        class_name: its class; empty where the table says none.
        use: word for the use of the clip; empty where the table says none.
        segment: the stretch of the video that the clip is; None for all of it.
        group: of clips that were cut from one recording; empty where the name tells.
        is_file: whether `name` is that of the file, with folders and suffix.
        cut_names: whether the clip may lie in a file of its own that is called by name and time.
    """

    where: str
    name: str
    class_name: str
    use: str = ""
    segment: Segment | None = None
    group: str = ""
    is_file: bool = False
    cut_names: bool = False

    @property
    def id(self) -> str:
        """What the clip is called where it is left out: `NAME`, or `NAME@START-END`."""
        return id_with_segment(self.name, self.segment)


@dataclass
class Published:
    """What one or several tables of one layout say.

    Args:
        layout: one of `LAYOUTS`.
        clips: in the order of the tables.
        rejects: rows that are no clip.
        remarks: what is not used, a line each.
    """

    layout: str
    clips: list[Listed] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def _vggsound(path: Path, into: Published) -> None:
    names = ("youtube_id", "start_seconds", "label", "split")
    first = _first_lines(path)[0]
    has_names = "youtube_id" in first.casefold() and not first.startswith("#")
    for row in _rows(path, names, into, header=() if has_names else names):
        if row["youtube_id"].startswith("#"):
            continue
        segment = _segment(row, row["start_seconds"], None, row["youtube_id"], into)
        if segment:
            said = row["label"], row["split"], segment, row["youtube_id"]
            into.clips.append(Listed(row.where, row["youtube_id"], *said, cut_names=True))


def _kinetics(path: Path, into: Published) -> None:
    names = ("label", "youtube_id", "time_start", "time_end", "split")
    for row in _rows(path, names, into):
        segment = _segment(row, row["time_start"], row["time_end"], row["youtube_id"], into)
        if segment:
            said = row["label"], row["split"], segment, row["youtube_id"]
            into.clips.append(Listed(row.where, row["youtube_id"], *said, cut_names=True))


def _esc50(path: Path, into: Published) -> None:
    for row in _rows(path, ("filename", "category", "src_file"), into):
        said = row["filename"], row["category"]
        into.clips.append(Listed(row.where, *said, group=row["src_file"], is_file=True))


def _ucf101(path: Path, into: Published) -> None:
    use = _use_of_name(path)
    classes: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        name, _, code = line.partition(" ") if line.rsplit(" ", 1)[-1].isdigit() else (line, "", "")
        class_name = name.rpartition("/")[0].rpartition("/")[2]
        where = f"{path}, line {number}"
        if not _UCF_LINE.fullmatch(line):
            raise TCAFError(f"{where}: expected Class/v_Class_g01_c01.avi, found {line!r}")
        if code and classes.setdefault(code, class_name) != class_name:
            raise TCAFError(
                f"{where}: the class {class_name!r} has the number {code}, which is that of "
                f"{classes[code]!r}"
            )
        into.clips.append(Listed(where, name, class_name, use, is_file=True))


def _ave(path: Path, into: Published) -> None:
    names = ("Category", "VideoID", "Quality", "StartTime", "EndTime")
    has_names = "videoid" in _first_lines(path)[0].casefold()
    header = () if has_names else names
    needed = ("Category", "VideoID", "StartTime", "EndTime")
    use = _use_of_name(path, needed=False)
    for row in _rows(path, needed, into, header=header, delimiter="&"):
        segment = _segment(row, row["StartTime"], row["EndTime"], row["VideoID"], into)
        if segment:
            said = row["Category"], use, segment, row["VideoID"]
            into.clips.append(Listed(row.where, row["VideoID"], *said))


def _activitynet(path: Path, into: Published) -> None:
    found: Annotations = read_annotations(path)
    if found.unread:
        into.remarks.append(f"{path}: not used are the keys {', '.join(found.unread)}")
    for video in found.videos:
        where = f"{path}, {video.id}"
        for given in video.impossible:
            told = f"{video.id}: expected a segment [start, end] in seconds, found {given}"
            into.rejects.append(Reject(f"{video.id}@{given}", "impossible segment", told))
        lacks_some = any(not label for _, label in video.in_order)
        if lacks_some or not (video.labels or video.impossible):
            told = f"{video.id}: expected a label, found none"
            into.rejects.append(Reject(video.id, "no label", told))
        for segment, labels in video.labels.items():
            for name in labels:
                said = name, video.subset, segment, video.id if found.are_cut else ""
                into.clips.append(Listed(where, video.id, *said, cut_names=found.are_cut))


_UCF_LINE = re.compile(r"(?:\S+/)?[^/\s]+/[^/\s]+\.\w+(?: \d+)?")

_VGGSOUND_LINE = re.compile(r'[\w-]{11}\s*,\s*\d+\s*,\s*(?:"[^"]*"|[^",]+)\s*,\s*[a-z]+')


def _are_of_vggsound(lines: Sequence[str]) -> bool:
    return bool(lines) and all(_VGGSOUND_LINE.fullmatch(line) for line in lines)


@dataclass(frozen=True)
class _Layout:
    """A layout of tables.

    Args:
        example: of a line, or of the columns.
        fits: returns whether a table has it, by its first lines.
        read: reads a table into what is known.
    """

    example: str
    fits: Callable[[Sequence[str]], bool]
    read: Callable[[Path, Published], None]


def _columns_of(line: str) -> set[str]:
    return {cell.strip().strip('"').casefold() for cell in re.split("[,;\t&]", line)}


def _has_columns(*names: str) -> Callable[[Sequence[str]], bool]:
    return lambda lines: set(names) <= _columns_of(lines[0])


LAYOUTS: Mapping[str, _Layout] = {
    "vggsound": _Layout(
        "ID,10,playing harp,train without names of columns",
        lambda lines: (
            _are_of_vggsound(lines[1:] if lines[0].startswith("#") else lines)
            or _has_columns("youtube_id", "start_seconds")(lines)
        ),
        _vggsound,
    ),
    "kinetics": _Layout(
        "label,youtube_id,time_start,time_end,split",
        _has_columns("youtube_id", "time_start"),
        _kinetics,
    ),
    "esc50": _Layout(
        "filename,fold,target,category,...,src_file",
        _has_columns("filename", "category", "src_file"),
        _esc50,
    ),
    "ucf101": _Layout(
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1",
        lambda lines: all(_UCF_LINE.fullmatch(line) for line in lines),
        _ucf101,
    ),
    "activitynet": _Layout('JSON with {"database": {ID: ...}}', lambda lines: False, _activitynet),
    "ave": _Layout(
        "Category&VideoID&Quality&StartTime&EndTime",
        lambda lines: all(line.count("&") == 4 for line in lines),
        _ave,
    ),
}
"""The layouts that are read, by name; `own` is another."""


def layout_of(path: Path) -> str:
    """Returns the layout of a table, by what is in it: one of `LAYOUTS`, or `own`.

    Raises:
        TCAFError: it has the marks of several, or is no table of clips.
    """
    if is_json(path):
        return "activitynet"
    lines = _first_lines(path)
    if all(re.fullmatch(r"\d+ \w+", line) for line in lines):
        raise TCAFError(
            f"{path} numbers classes and names no clip; expected the lists of UCF101's clips, "
            "trainlist01.txt and testlist01.txt"
        )
    fitting = [name for name, layout in LAYOUTS.items() if lines and layout.fits(lines)]
    if {"file", "class"} <= _columns_of(lines[0]):
        fitting.append(OWN)
    if len(fitting) > 1:
        raise TCAFError(
            f"{path} may be laid out as {' or '.join(fitting)}; say which it is with --layout"
        )
    return fitting[0] if fitting else OWN


def read_published(paths: Sequence[Path], layout: str) -> Published:
    """Reads tables of one layout.

    Args:
        paths: of the tables, in the order of their clips.
        layout: one of `LAYOUTS`.

    Raises:
        TCAFError: a table is not so laid out, or has no row.
    """
    into = Published(layout)
    for path in paths:
        before = len(into.clips) + len(into.rejects)
        LAYOUTS[layout].read(path, into)
        if before == len(into.clips) + len(into.rejects):
            raise TCAFError(f"{path}: expected clips laid out as {layout}, found none")
    return into


def check_layout(name: str) -> None:
    """Checks a layout that somebody named.

    Raises:
        TCAFError: there is none of that name.
    """
    if name not in (OWN, *LAYOUTS):
        known = (OWN, *LAYOUTS)
        raise TCAFError(
            f"no layout {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}"
        )


def layouts_told() -> str:
    """Returns in one line how tables may be laid out."""
    return "; ".join(f"{layout.example} ({name})" for name, layout in LAYOUTS.items())


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TCAFError(f"expected a table of clips at {path}, found none") from None
    except OSError as error:
        raise TCAFError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TCAFError(f"{path}: expected a table in UTF-8 ({error})") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _first_lines(path: Path) -> list[str]:
    """Returns the first lines that are not blank; at least one."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            text = file.read(SAMPLE_SIZE)
    except OSError:
        return [""]  # the reader says what is wrong
    lines = [line.strip() for line in text.splitlines()]
    if len(text) == SAMPLE_SIZE and len(lines) > 1:
        lines.pop()  # it may be a part of one
    return [line for line in lines if line][:SAMPLE_LINES] or [""]


def _rows(
    path: Path,
    needed: Sequence[str],
    into: Published,
    *,
    header: Sequence[str] = (),
    delimiter: str = "",
) -> Iterator[Row]:
    """Yields the rows with a class and a name; notes columns that are not used, and other rows."""
    rows = csv_rows(
        path, needed, others="allowed", filled=False, header=header, delimiter=delimiter
    )
    unused = [name for name in rows[0].cells if name not in needed and name]
    if unused:
        into.remarks.append(f"{path}: not used are the columns {', '.join(unused)}")
    for row in rows:
        if empty := [name for name in needed if not row[name]]:
            told = f"{row.where}: expected a {empty[0]}, found none"
            name = next((row[n] for n in needed if row[n]), "")
            into.rejects.append(Reject(name, f"no {empty[0]}", told))
        else:
            yield row


def _segment(row: Row, start: str, end: str | None, name: str, into: Published) -> Segment | None:
    """Returns the stretch that a row says; None, and a reject, where it is none."""
    try:
        stop = str(float(start) + CLIP_S) if end is None else end
    except ValueError:
        stop = ""
    segment = segment_of(start, stop)
    if segment is None:
        given = start if end is None else f"{start}-{end}"
        told = f"{row.where}: expected a stretch in seconds, its end after its start, found {given}"
        into.rejects.append(Reject(f"{name}@{given}", "impossible segment", told))
    return segment


def _use_of_name(path: Path, *, needed: bool = True) -> str:
    """Returns the use of the clips of a list that says it in its own name alone."""
    match = re.match(r"(train|val|test)", path.name.casefold())
    if match is None and needed:
        raise TCAFError(
            f"{path}: expected train or test at the beginning of the list's name, as in "
            "trainlist01.txt and testlist01.txt, which says the use of its clips"
        )
    return match[1] if match else ""
