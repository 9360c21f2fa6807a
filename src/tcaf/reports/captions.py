"""Answers of recordings as files: tables, captions for players, labels for editors.

Owns the formats, what of a name each cannot hold, and where the file of each recording goes. Takes
spans (`answers.recordings`); files are written whole or not at all.

| format | file | for |
|---|---|---|
| `csv` | `.csv` | spreadsheets: a line for each span, with names of columns |
| `jsonl` | `.jsonl` | programs: a JSON value for each span |
| `vtt` | `.vtt` | WebVTT: captions in browsers and players (W3C, 2019) |
| `srt` | `.srt` | SubRip: captions in players |
| `audacity` | `.txt` | Audacity: a label track, by File, Import, Labels |
| `elan` | `.tsv` | ELAN: tab-separated text, by File, Import |
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tcaf.answers.recordings import Span
from tcaf.errors import STEERING, TCAFError, in_unicode, shorten
from tcaf.files.atomic import (
    check_file,
    check_folder,
    followed,
    json_line,
    make_parents,
    write_text,
)

FormatName = Literal["csv", "jsonl", "vtt", "srt", "audacity", "elan"]
"""How answers of recordings are written."""

COLUMNS = ("id", "start", "end", "kind", "class", "probability", "distance", "seen", "stretches")
"""Columns of CSV."""

TIER = "tcaf"
"""The tier of ELAN that answers go to."""

SAID = {"silence": "(silence)", "none": "(none of the names)"}
"""What captions and labels say of spans without an answer, where those are kept."""

_SUBRIP = str.maketrans("<>{}", "‹›()")
"""SubRip has no way to write these: players take what stands between them for styles."""


@dataclass(frozen=True)
class Format:
    """A format of files.

    Args:
        suffix: of its files.
        begins: what the first line of such a file looks like; others are not replaced.
        write: returns the content.
        is_table: one file may hold several recordings.
    """

    suffix: str
    begins: str
    write: Callable[[Iterable[Span]], str]
    is_table: bool = False


def csv_row(span: Span) -> list[object]:
    """Returns a span as a row of CSV, in the order of `COLUMNS`."""
    value = span.to_json()
    return [in_unicode(cell) if isinstance(cell := value[c], str) else cell for c in COLUMNS]


def to_csv(spans: Iterable[Span]) -> str:
    """Returns spans as CSV, with the names of the columns."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([COLUMNS, *map(csv_row, spans)])
    return file.getvalue()


def to_jsonl(spans: Iterable[Span]) -> str:
    """Returns spans as JSON lines."""
    return "".join(json_line(span.to_json()) + "\n" for span in spans)


def to_vtt(spans: Iterable[Span]) -> str:
    """Returns spans as WebVTT; what would be a tag or an arrow is escaped."""

    def cue(span: Span) -> str:
        text = _label(span, with_probability=True)
        for letter, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(letter, escaped)
        return f"{_clock(span.start_s)} --> {_clock(span.end_s)}\n{text}\n"

    return "\n".join(["WEBVTT\n", *map(cue, spans)])


def to_srt(spans: Iterable[Span]) -> str:
    """Returns spans as SubRip; of `<>{}` in names, which it cannot hold, come `‹›()`."""

    def cue(number: int, span: Span) -> str:
        start, end = (_clock(s).replace(".", ",") for s in (span.start_s, span.end_s))
        text = _label(span, with_probability=True).translate(_SUBRIP)
        return f"{number}\n{start} --> {end}\n{text}\n"

    return "\n".join(cue(number, span) for number, span in enumerate(spans, start=1))


def to_audacity(spans: Iterable[Span]) -> str:
    """Returns spans as a label track: start and end in seconds, and the name."""
    return "".join(f"{s.start_s:.6f}\t{s.end_s:.6f}\t{_label(s)}\n" for s in spans)


def to_elan(spans: Iterable[Span]) -> str:
    """Returns spans as tab-separated text, with the names of the columns."""
    lines = ["Tier\tBegin Time\tEnd Time\tDuration\tAnnotation"]
    for span in spans:
        times = (_clock(s) for s in (span.start_s, span.end_s, span.end_s - span.start_s))
        lines.append("\t".join((TIER, *times, _label(span))))
    return "\n".join(lines) + "\n"


def _label(span: Span, with_probability: bool = False) -> str:
    """Returns what is said of a span, on one line, without tabs."""
    if span.kind != "answer":
        return SAID[span.kind]
    name = " ".join(in_unicode(STEERING.sub(" ", span.name)).split())
    if with_probability and span.probability is not None:
        return f"{name} ({100 * span.probability:.0f} %)"
    return name


def _clock(seconds: float) -> str:
    """Returns a time as `HH:MM:SS.mmm`."""
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"


FORMATS: dict[FormatName, Format] = {
    "csv": Format(".csv", "id,start,end,kind,class,", to_csv, is_table=True),
    "jsonl": Format(".jsonl", r'\{"id": .*"start": ', to_jsonl, is_table=True),
    "vtt": Format(".vtt", "WEBVTT", to_vtt),
    "srt": Format(".srt", "1$", to_srt),
    "audacity": Format(".txt", r"\d+\.\d{6}\t\d+\.\d{6}\t", to_audacity),
    "elan": Format(".tsv", "Tier\tBegin Time\t", to_elan),
}
"""The formats by name."""


@dataclass(frozen=True)
class Destination:
    """Where the answers of recordings go, and how they are written.

    Args:
        format: of the files.
        files: by recording; those of a table may share one.
    """

    format: FormatName
    files: dict[Path, Path]

    @property
    def is_shared(self) -> bool:
        """Whether several recordings go to one file."""
        return len(set(self.files.values())) < len(self.files)

    @classmethod
    def plan(
        cls,
        out: Path,
        format: FormatName | None,
        recordings: Sequence[Path],
        roots: Sequence[Path],
        *,
        full_names: bool = False,
    ) -> "Destination":
        """Finds a place for each recording, before anything long is begun.

        Args:
            out: with a suffix a file, which holds one recording, or all of them if it is a table;
                otherwise a folder with a file for each recording, called as that is.
            format: how files are written; None to go by the suffix of `out`.
            recordings: the files that are answered.
            roots: folders among which those inside keep their sub-folders.
            full_names: further recordings will come: `out` is a folder, in which files keep the
                recording's suffix before their own, so that none ever has another's name.

        Raises:
            TCAFError: no format, or a suffix of another; several recordings for one file that can
                hold one; two recordings of one name; or something else is at one of the places.
        """
        if full_names or not out.suffix or out.is_dir():
            if format is None:
                known = ", ".join(get_args(FormatName))
                raise TCAFError(f"say how the files in {out} are to be written: --format {known}")
            suffix = FORMATS[format].suffix
            found = cls(format, _in_folder(out, suffix, recordings, roots, full_names))
        else:
            by_suffix = {each.suffix: name for name, each in FORMATS.items()}
            suffix = out.suffix.lower()
            told = by_suffix.get(suffix)
            # Any text may be called .txt.
            if format is not None and suffix != ".txt" and told not in (None, format):
                raise TCAFError(f"{out} ends as a file in the format {told}, not {format}")
            format = told if format is None else format
            if format is None:
                known = " ".join(by_suffix)
                raise TCAFError(f"expected a file in one of {known} for the answers, got {out}")
            if len(recordings) > 1 and not FORMATS[format].is_table:
                raise TCAFError(
                    f"{out} can hold one recording, and there are {len(recordings)}; name a folder "
                    f"and --format {format}"
                )
            found = cls(format, dict.fromkeys(recordings, out))
        for recording, place in found.files.items():
            if followed(place) == followed(recording):
                raise TCAFError(f"{place} is the recording itself; name another place")
        for place in dict.fromkeys(found.files.values()):
            found._check(place)
        return found

    def _check(self, place: Path) -> None:
        check_file(place, "", "file")
        if not place.exists():
            return
        with place.open(encoding="utf-8", errors="replace") as file:
            first = file.readline(10_000)
        if first and not re.match(FORMATS[self.format].begins, first):
            raise TCAFError(
                f"{place} exists already and holds no answers in the format {self.format}; name "
                "another place"
            )

    def write(self, place: Path, spans: Sequence[Span]) -> None:
        """Writes the spans of a file, whole or not at all; its folder is made."""
        make_parents(place)
        write_text(followed(place), FORMATS[self.format].write(spans))


def _in_folder(
    out: Path, suffix: str, recordings: Sequence[Path], roots: Sequence[Path], full_names: bool
) -> dict[Path, Path]:
    """Returns a file for each recording: called as it is, with its suffix where two differ in it.

    Raises:
        TCAFError: two recordings come to the same place, or no folder can be made.
    """
    check_folder(out)
    inside = {}
    for recording in recordings:
        root = next((r for r in roots if recording.is_relative_to(r)), recording.parent)
        inside[recording] = recording.relative_to(root)
    stems = Counter(place.with_suffix("") for place in inside.values())
    found: dict[Path, Path] = {}
    for recording, place in inside.items():
        is_full = full_names or stems[place.with_suffix("")] > 1
        name = f"{place.name}{suffix}" if is_full else f"{place.stem}{suffix}"
        found[recording] = out / place.with_name(name)
    counts = Counter(found.values())
    if same := [str(recording) for recording, place in found.items() if counts[place] > 1]:
        raise TCAFError(
            f"{shorten(same)} would share {found[Path(same[0])]}; name the folder that they lie in"
        )
    return found
