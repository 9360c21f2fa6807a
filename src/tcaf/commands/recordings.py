"""Recordings in `tcaf predict`: their answers as they come, as files, as pictures.

Owns what goes where. What the options mean is `predict`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcaf.commands.lines import JsonLines, SpansCsv
from tcaf.commands.printing import print_json
from tcaf.commands.printing_answers import Recordings
from tcaf.commands.terminal import note, show, track
from tcaf.errors import TCAFError
from tcaf.progress import describe_time, silent

if TYPE_CHECKING:
    from tcaf.answers.interface import Classifier
    from tcaf.answers.recordings import Recording, Span
    from tcaf.extract.stretches import Cut
    from tcaf.reports.captions import Destination, FormatName


@dataclass(frozen=True)
class Wanted:
    """How the answers of recordings are wanted; see `predict` for each.

    Args:
        printed: `table`, `json`, `jsonl` or `csv`: what goes to the standard output.
        out: where files go; None for none.
        format: of these files.
        timeline: where pictures go; None for none.
    """

    printed: str
    out: Path | None = None
    format: "FormatName | None" = None
    timeline: Path | None = None


def predict_recordings(
    classifier: "Classifier",
    words: Sequence[str],
    cut: "Cut",
    wanted: Wanted,
    **asked: Any,
) -> None:
    """Answers recordings, prints and writes the answers.

    Args:
        classifier: that answers.
        words: files and folders.
        cut: into which stretches.
        wanted: what becomes of the answers.
        asked: see `answer_recordings`.

    Raises:
        TCAFError: a recording has no answers, or none from somewhere on; the others have theirs.
    """
    from tcaf.answers.clips import find_media
    from tcaf.answers.recordings import answer_recordings, recordings_json, remarks
    from tcaf.files.remote import local_path
    from tcaf.reports.answer_timeline import check_timeline
    from tcaf.reports.captions import Destination

    words = [str(local_path(word)) for word in words]
    files = find_media(words)
    destination = None
    if wanted.out is not None:
        roots = [Path(word) for word in words if Path(word).is_dir()]
        destination = Destination.plan(wanted.out, wanted.format, files, roots)
    if wanted.timeline is not None:
        check_timeline(wanted.timeline)
    for each in remarks(classifier, cut, asked["abstain"]):
        note(each)
    # What streams to a terminal and a bar there would overwrite each other.
    streams = sys.stdout.isatty() and wanted.printed in ("jsonl", "csv")
    keep = wanted.timeline is not None
    shown = silent if streams else track
    found = answer_recordings(classifier, files, cut, keep_stretches=keep, track=shown, **asked)
    outlet = Outlet(wanted)
    outlet.begin(destination, len(files))
    try:
        for one in found:
            outlet.take(one)
    finally:
        # Of what was interrupted the recordings that are over are kept too.
        outlet.write_shared()
    if wanted.printed == "json":
        value = recordings_json(classifier, cut, outlet.found, asked["seen_bias"], asked["abstain"])
        show(value, print_json, True)
    outlet.check()


class Outlet:
    """Prints and writes answers as they come.

    Args:
        wanted: what becomes of them.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.found: list[Span | Recording] = []
        self._wanted = wanted
        self._lines, self._csv = JsonLines(), SpansCsv()
        self.begin(None, 0)

    def begin(self, destination: "Destination | None", num_files: int) -> None:
        """Makes ready for recordings.

        Args:
            destination: of files; None for none.
            num_files: how many recordings there are.
        """
        self._destination, self._num_files = destination, num_files
        # Of many recordings that go to files, the tables would only scroll by.
        is_shown = self._wanted.printed == "table" and (destination is None or num_files == 1)
        self._tables = Recordings() if is_shown else None
        self._current: list[Span] = []
        self._shared: list[Span] = []
        self._ended: list[Recording] = []

    def take(self, one: "Span | Recording") -> None:
        """Takes a span, or the end of a recording."""
        from tcaf.answers.recordings import Span

        if self._wanted.printed == "json":
            self.found.append(one)
        if isinstance(one, Span):
            self._take_span(one)
        else:
            self._take_end(one)

    def _take_span(self, span: "Span") -> None:
        from tcaf.reports.captions import COLUMNS, csv_row

        if self._destination is not None:
            self._current.append(span)
        if self._tables is not None:
            self._tables.print_span(span.to_json())
        elif self._wanted.printed == "jsonl":
            self._lines.print(span.to_json())
        elif self._wanted.printed == "csv":
            self._csv.print_header(COLUMNS)
            self._csv.print(csv_row(span))

    def _take_end(self, recording: "Recording") -> None:
        from tcaf.answers.recordings import LEFT_OUT
        from tcaf.reports.captions import COLUMNS

        self._ended.append(recording)
        if recording.reason and self._wanted.printed == "jsonl":
            self._lines.print(recording.to_json())
        if not recording.length_s:
            return
        if self._tables is not None:
            self._tables.print_recording(recording.to_json(), LEFT_OUT)
        elif self._wanted.printed == "csv":
            self._csv.print_header(COLUMNS)
        if self._destination is not None:
            self._write(self._destination, recording.file)
        if self._wanted.timeline is not None:
            self._draw(self._wanted.timeline, recording)

    def _write(self, destination: "Destination", file: Path) -> None:
        """Writes the file of a recording; what goes to one file with others is kept until then."""
        if destination.is_shared:
            self._shared += self._current
        else:
            destination.write(destination.files[file], self._current)
            note(str(destination.files[file]), "written")
        self._current = []

    def _draw(self, path: Path, recording: "Recording") -> None:
        from tcaf.reports.recording_timeline import draw_recording

        number = len(self._ended) if self._num_files > 1 else None
        if recording.reason:
            # It would be decoded again, here, where nothing guards against what became of it.
            note(f"no picture of {recording.file}, which could not be read to its end", "")
            return
        try:
            note(str(draw_recording(path, recording, number)), "drawn")
        except TCAFError as error:
            note(f"no picture of {recording.file}: {error}", "")

    def write_shared(self) -> None:
        """Writes the file that recordings share, if there is one and something for it."""
        if self._destination is None or not self._destination.is_shared:
            return
        if any(recording.length_s for recording in self._ended):
            place = next(iter(self._destination.files.values()))
            self._destination.write(place, self._shared)
            note(str(place), "written")

    def check(self) -> None:
        """Says what has no answers.

        Raises:
            TCAFError: something has none, or none to its end.
        """
        failed = [one for one in self._ended if one.reason]
        told = [
            f"{describe_time(one.length_s)} answered, then: {one.reason}"
            if one.length_s
            else one.reason
            for one in failed
        ]
        if len(failed) == len(self._ended) == 1:
            raise TCAFError(told[0])
        for one, reason in zip(failed, told, strict=True):
            note(f"no answer for {one.file}: {reason}", "")
        if failed:
            raise TCAFError(
                f"{len(failed)} of {len(self._ended)} recordings have no answer, or none to the end"
            )
