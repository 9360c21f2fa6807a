"""What became of clips that were to be extracted, and the tables about it in a store.

Owns `rejects.csv`, which names what is left out, and `notes.csv`, which says what is amiss with
clips that are kept.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tcaf.data.features import Modality
from tcaf.extract.corpus import Extracted, Reject
from tcaf.files.atomic import write_text


@dataclass(frozen=True)
class Outcome:
    """What became of the files.

    Args:
        kept: those with features.
        rejects: those without, or without what was required.
    """

    kept: list[Extracted]
    rejects: list[Reject]

    @property
    def ids(self) -> set[str]:
        """Every file's."""
        return {one.id for one in self.kept} | {one.id for one in self.rejects}

    def write(self, folder: Path) -> None:
        """Writes rejects.csv, and notes.csv about files kept though something is amiss.

        What such tables in the folder say of other files stays.
        """
        rejects = [(reject.id, reject.reason, reject.detail) for reject in self.rejects]
        notes = [(extracted.id, note) for extracted in self.kept for note in extracted.notes]
        tried = self.ids
        for name, header, rows in (
            ("rejects.csv", ("file", "reason", "detail"), rejects),
            ("notes.csv", ("file", "note"), notes),
        ):
            before = _table_rows(folder / name) if (folder / name).is_file() else []
            others = [row for row in before if row[0] not in tried]
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([header, *others, *rows])
            write_text(folder / name, text.getvalue())


def _table_rows(path: Path) -> list[list[str]]:
    """Returns the rows of a table that `Outcome` wrote, which may have none."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def sort_out(found: Sequence[Extracted | Reject], required: Sequence[Modality]) -> Outcome:
    """Returns what became of files, where those that lack what is required are left out.

    Args:
        found: what became of each.
        required: modalities that a clip must have.
    """
    kept: list[Extracted] = []
    rejects: list[Reject] = []
    for one in found:
        if isinstance(one, Reject):
            rejects.append(one)
        elif missing := [m for m in one.missing if m in required]:
            reason = f"no {missing[0]} track"
            rejects.append(Reject(one.id, reason, f"{one.id} has no {missing[0]} track"))
        else:
            kept.append(one)
    return Outcome(kept, rejects)
