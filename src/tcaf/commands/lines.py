"""Answers line by line, for programs: CSV and JSON, each line as soon as it is there.

Which columns CSV has is `reports.answer_rows` and `reports.captions`. Each class here holds on to
the standard output, which a bar on the standard error takes over while it is drawn. Nothing waits
in a buffer, so that no stop loses it.
"""

import csv
import sys
from collections.abc import Sequence
from typing import Any

from tcaf.errors import in_unicode, printable
from tcaf.files.atomic import json_line
from tcaf.reports.answer_rows import columns, rows


class JsonLines:
    """Prints values as JSON, each on a line of its own."""

    def __init__(self) -> None:
        self._file = sys.stdout

    def print(self, value: Any) -> None:
        """Prints a value."""
        self._file.write(json_line(value) + "\n")
        self._file.flush()


class SpansCsv:
    """Prints spans of recordings as CSV; names are as in `AnswersCsv`."""

    def __init__(self) -> None:
        self._file = sys.stdout
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._has_header = False

    def print_header(self, columns: Sequence[str]) -> None:
        """Prints the names of the columns, once."""
        if not self._has_header:
            self._has_header = True
            self.print(columns)

    def print(self, row: Sequence[object]) -> None:
        """Prints a row."""
        is_shown = self._file.isatty()
        self._writer.writerow([printable(c) if isinstance(c, str) and is_shown else c for c in row])
        self._file.flush()


class AnswersCsv:
    """Prints the answers of `tcaf predict` as CSV, a line each, clip by clip as they are found.

    Names are as they are, for other programs to read; on a terminal they are made printable.
    """

    def __init__(self, *, sets: bool = False, reasons: bool = False) -> None:
        self._columns = columns(sets, reasons)
        self._has_header = False
        self._file = sys.stdout
        self._writer = csv.writer(self._file, lineterminator="\n")

    def print_header(self) -> None:
        """Prints the names of the columns, once."""
        if not self._has_header:
            self._has_header = True
            self._writer.writerow(self._columns)
            self._file.flush()

    def print_clip(self, value: dict[str, Any]) -> None:
        """Prints `Ranking.to_json`; nothing waits in a buffer, so that no stop loses it."""
        for row in rows(value, self._columns):
            self._writer.writerow([self._cell(c) if isinstance(c, str) else c for c in row])
        self._file.flush()

    def _cell(self, text: str) -> str:
        if self._file.isatty():
            return printable(text)
        # A file's name may be no UTF-8; it is written as the ids of a store are.
        return in_unicode(text)
