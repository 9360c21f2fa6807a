"""What became of clips that were to be extracted, and the tables about it in a store.

Owns `rejects.csv`, which names what is left out, `notes.csv`, which says what is amiss with clips
that are kept, and `listed.csv`, which says what tables call them.
"""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tcaf.data.features import Modality
from tcaf.extract.work_folder import Extracted, Reject
from tcaf.files.atomic import write_text

LISTED = "listed.csv"
"""What tables call clips of a store; there if they call any otherwise than by its file."""


@dataclass(frozen=True)
class Outcome:
    """What became of the files.

    Args:
        kept: those with features.
        rejects: those without, or without what was required.
        listed: what tables call them, by id, of those that are called otherwise there.
    """

    kept: list[Extracted]
    rejects: list[Reject]
    listed: Mapping[str, str] = field(default_factory=dict)

    @property
    def tried(self) -> set[str]:
        """Every id, and what tables call it, under which it may have been left out before."""
        ids = {one.id for one in self.kept} | {one.id for one in self.rejects}
        return ids | set(self.listed.values())

    def write(self, folder: Path) -> None:
        """Writes rejects.csv, and notes.csv about files kept though something is amiss.

        And listed.csv, if tables call any of the files kept otherwise.

        What such tables in the folder say of other files stays.
        """
        rejects = [(reject.id, reject.reason, reject.detail) for reject in self.rejects]
        notes = [(extracted.id, note) for extracted in self.kept for note in extracted.notes]
        listed = [(e.id, self.listed[e.id]) for e in self.kept if e.id in self.listed]
        tried = self.tried
        for name, header, rows in (
            ("rejects.csv", ("file", "reason", "detail"), rejects),
            ("notes.csv", ("file", "note"), notes),
            (LISTED, ("file", "listed"), listed),
        ):
            if name == LISTED and not rows:
                continue
            others = [row for row in _table_rows(folder / name) if row[0] not in tried]
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([header, *others, *rows])
            write_text(folder / name, text.getvalue())


def _table_rows(path: Path) -> list[list[str]]:
    """Returns the rows of a table that `Outcome` wrote, which may have none or not be there."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def names_of(folder: Path, ids: Collection[str]) -> set[str]:
    """Returns the ids of clips of a store, and what the tables called them that they came from."""
    return {*ids, *(row[-1] for row in _table_rows(folder / LISTED) if row[0] in ids)}


def sort_out(
    found: Sequence[Extracted | Reject],
    required: Sequence[Modality],
    listed: Mapping[str, str],
) -> Outcome:
    """Returns what became of files, where those that lack what is required are left out.

    Args:
        found: what became of each.
        required: modalities that a clip must have.
        listed: see `Outcome`.
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
    return Outcome(kept, rejects, listed)
