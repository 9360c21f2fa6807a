"""`tcaf predict --watch`: answers for the files of a folder as they arrive.

Owns what is printed and written on the way. What the options mean is `predict`.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcaf.commands.lines import AnswersCsv, JsonLines
from tcaf.commands.printing_answers import print_arrived
from tcaf.commands.recordings import Outlet, Wanted
from tcaf.commands.terminal import note
from tcaf.errors import TCAFError

if TYPE_CHECKING:
    from tcaf.answers.interface import Classifier
    from tcaf.answers.watch import Arrived, Record
    from tcaf.extract.stretches import Cut


def watch(
    classifier: "Classifier",
    folder: Path,
    record: Path | None,
    settle_s: float,
    run: str,
    cut: "Cut | None",
    wanted: Wanted,
    asked: Mapping[str, Any],
) -> None:
    """Answers the files of a folder as they arrive, until it is interrupted.

    Args:
        classifier: that answers.
        folder: to watch.
        record: where it is kept what is answered; by default in the folder.
        settle_s: seconds without a change after which a file counts as whole.
        run: the model, as it was named.
        cut: into stretches; None for an answer for each file.
        wanted: what becomes of the answers.
        asked: see `answer_recordings` or `answer_files`.

    Raises:
        KeyboardInterrupt: the end, after what is in hand has been let go.
        TCAFError: see `answers.watch`.
    """
    from tcaf.answers.watch import RECORD, Record, arrivals
    from tcaf.reports.captions import Destination

    if wanted.out is not None:
        # What is wrong with the place is said before anything arrives.
        Destination.plan(wanted.out, wanted.format, [], [folder], full_names=True)
    place = folder / RECORD if record is None else record
    decisive = {key: value for key, value in asked.items() if key not in _INDIFFERENT}
    cutting = {"every": cut.every_s, "hop": cut.hop_s} if cut else {"every": None, "hop": None}
    written: dict[str, str | None] = {"out": None, "format": wanted.format}
    if wanted.out is not None:
        # Files that were answered before would be missing in another place.
        written["out"] = str(wanted.out.resolve())
    model = str(Path(run).resolve()) if Path(run).exists() else run
    decisive = {"model": model, "classes": list(classifier.classes)} | cutting | written | decisive
    with Record.open(place, folder, decisive) as kept:
        told = f"; {len(kept)} are answered already" if len(kept) else ""
        note(f"{folder}; answered files are kept in {place}{told}; Ctrl-C ends it", "watching")
        watcher = _Watcher(classifier, folder, kept, cut, wanted, asked)
        try:
            for some in arrivals(folder, kept, settle_s):
                watcher.answer(some)
        except KeyboardInterrupt:
            note(f"{watcher.count} files answered; the same command goes on with what comes", "")
            raise


_INDIFFERENT = ("workers", "file_timeout_s", "place")
"""What may differ from one call to the next: answers are the same."""


class _Watcher:
    """Answers what has arrived, prints and keeps the answers; see `watch` for the arguments."""

    def __init__(
        self,
        classifier: "Classifier",
        folder: Path,
        record: "Record",
        cut: "Cut | None",
        wanted: Wanted,
        asked: Mapping[str, Any],
    ) -> None:
        self.count = 0
        self._classifier, self._folder, self._record = classifier, folder, record
        self._cut, self._wanted, self._asked = cut, wanted, asked
        self._outlet, self._lines = Outlet(wanted), JsonLines()
        sets, reasons = asked["abstain"] is not None, bool(asked.get("why"))
        self._csv = AnswersCsv(sets=sets, reasons=reasons)

    def answer(self, some: "Sequence[Arrived]") -> None:
        """Answers files."""
        if self._cut is None:
            self._answer_clips(some)
        else:
            self._answer_recordings(some, self._cut)

    def _keep(self, file: "Arrived", answers: Any) -> None:
        # One that was taken away meanwhile may come again.
        if file.path.exists():
            self._record.add(file, answers)
            self.count += 1

    def _answer_clips(self, some: "Sequence[Arrived]") -> None:
        from tcaf.answers.clips import Answered, answer_files, answer_json

        files = [file.path for file in some]
        found = answer_files(self._classifier, files, **self._asked)
        for file, one in zip(some, found, strict=True):
            value = answer_json(one)
            if self._wanted.printed == "jsonl":
                self._lines.print(value)
            elif not isinstance(one, Answered):
                note(f"no answer for {one.id}: {one.reason}", "")
            elif self._wanted.printed == "csv":
                self._csv.print_header()
                self._csv.print_clip(value)
            else:
                print_arrived(time.strftime("%Y-%m-%d %H:%M:%S"), value)
            self._keep(file, value)

    def _has_place(self, file: "Arrived") -> bool:
        """Returns whether answers for a file can be written; one that cannot holds up no other."""
        from tcaf.reports.captions import Destination

        if self._wanted.out is None:
            return True
        try:
            given = (self._wanted.out, self._wanted.format, [file.path], [self._folder])
            Destination.plan(*given, full_names=True)
        except TCAFError as error:
            note(f"no answer for {file.path}: {error}", "")
            self._keep(file, {"id": str(file.path), "error": str(error)})
            return False
        return True

    def _answer_recordings(self, some: "Sequence[Arrived]", cut: "Cut") -> None:
        from tcaf.answers.recordings import Span, answer_recordings
        from tcaf.reports.captions import Destination

        files = {file.path: file for file in some if self._has_place(file)}
        if not files:
            return
        destination = None
        if self._wanted.out is not None:
            given = (self._wanted.out, self._wanted.format, list(files), [self._folder])
            destination = Destination.plan(*given, full_names=True)
        self._outlet.begin(destination, len(files))
        spans: list[Any] = []
        for one in answer_recordings(self._classifier, list(files), cut, **self._asked):
            self._outlet.take(one)
            if isinstance(one, Span):
                spans.append(one.to_json())
                continue
            if one.reason:
                note(f"no answer for {one.file}: {one.reason}", "")
            self._keep(files[one.file], {**one.to_json(), "spans": spans})
            spans = []
