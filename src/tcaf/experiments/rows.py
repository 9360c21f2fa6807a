"""Which rows a folder of results holds after several calls: `rows.json`, beside the table's files.

Owns that file. It names, for each row, the folder of its configuration and what became of each
seed, so that a call for some rows or seeds adds to the table in place of writing over it. What is
in the table is read from the runs themselves.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tcaf.errors import TCAFError
from tcaf.experiments.reproduce import RowResult, run_folder
from tcaf.experiments.tables import Row, Table
from tcaf.files.atomic import check_content, read_json, write_json
from tcaf.training.run import Run

FILE = "rows.json"


@dataclass(frozen=True)
class KnownRows:
    """The rows of a table that a folder holds.

    Args:
        rows: in the table's order.
        commands: that trained them.
        kept: which of them an earlier call has left, in words.
        lost: which earlier ones are no longer in the table, and why.
    """

    rows: tuple[RowResult, ...]
    commands: tuple[str, ...]
    kept: tuple[str, ...]
    lost: tuple[str, ...]


class _EntryContent(BaseModel):
    model: str
    title: str
    folder: str
    seeds: dict[str, str | None]
    commands: list[str]


class _Content(BaseModel):
    """What the file is checked against."""

    table: int
    data: list[str]
    rows: list[_EntryContent]


@dataclass(frozen=True)
class _Entry:
    """A row as the file has it.

    Args:
        row: of the table.
        folder: of its configuration.
        seeds: why the run of each failed; None for one that was done.
        commands: that trained them.
    """

    row: Row
    folder: Path
    seeds: dict[int, str | None]
    commands: tuple[str, ...]

    @classmethod
    def of(cls, result: RowResult, command: str) -> "_Entry":
        seeds = {**dict.fromkeys(result.runs), **result.errors}
        return cls(result.row, result.folder.resolve(), seeds, (command,))

    @property
    def result(self) -> RowResult:
        runs = {s: Run(run_folder(self.folder, s)) for s, e in self.seeds.items() if e is None}
        errors = {seed: error for seed, error in self.seeds.items() if error is not None}
        return RowResult(self.row, self.folder, runs, errors)

    def to_json(self, out: Path) -> dict[str, Any]:
        return {
            "model": self.row.name,
            "title": self.row.title,
            # Results may be moved along with their runs.
            "folder": Path(os.path.relpath(self.folder, out)).as_posix(),
            "seeds": self.seeds,
            "commands": self.commands,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], out: Path, table: Table) -> "_Entry":
        rows = {row.name: row for row in table.rows}
        # A system of the user's own is no row where its plugin is not loaded.
        row = rows.get(value["model"]) or Row(value["model"], value["title"])
        seeds = {int(seed): error for seed, error in value["seeds"].items()}
        return cls(row, (out / value["folder"]).resolve(), seeds, tuple(value["commands"]))


def merge_rows(
    out: Path, table: Table, rows: Sequence[RowResult], dataset: str, command: Sequence[str]
) -> KnownRows:
    """Adds rows to those that a folder holds, and returns them all.

    A run of an earlier call stays if it is still done, is of the same table and data, and this call
    has no run of another configuration of its row. So do the reasons of those that failed.

    Args:
        out: the folder of results.
        table: of which these are rows.
        rows: what this call has trained.
        dataset: the preset of the data.
        command: of this call.

    Raises:
        TCAFError: `rows.json` is damaged.
    """
    entries = {row.row.name: _Entry.of(row, shlex.join(command)) for row in rows}
    earlier, lost, data = _read(out, table, _data(rows, dataset))
    kept = []
    for entry in earlier:
        title, new = entry.row.title, entries.get(entry.row.name)
        if new is not None and new.folder != entry.folder:
            lost.append(f"{title}: another configuration, {entry.folder.name}")
            continue
        left, gone = _still_there(entry, new.seeds if new is not None else {})
        lost += [f"{title}, seed {seed}: its run is no longer there" for seed in gone]
        if left:
            kept.append(f"{title} (seed {', '.join(map(str, left))})")
            entries[entry.row.name] = _joined(replace(entry, seeds=left), new)
    order = {row.name: number for number, row in enumerate(table.rows)}
    found = sorted(entries.values(), key=lambda entry: order.get(entry.row.name, len(order)))
    content = [entry.to_json(out.resolve()) for entry in found]
    write_json(out / FILE, {"table": table.number, "data": data, "rows": content})
    commands = dict.fromkeys(command for entry in found for command in entry.commands)
    results = tuple(entry.result for entry in found)
    return KnownRows(results, tuple(commands), tuple(kept), tuple(lost))


def _data(rows: Sequence[RowResult], dataset: str) -> list[str]:
    """Returns what identifies the data of a call; only its name if no run is done."""
    runs = [run for row in rows for run in row.runs.values()]
    if not runs:
        return [dataset]
    return [dataset, runs[0].provenance["data"]["fingerprint"]]


def _read(out: Path, table: Table, data: list[str]) -> tuple[list[_Entry], list[str], list[str]]:
    """Returns what earlier calls have left, what cannot stand in this table, and all's data."""
    file = out / FILE
    if not file.is_file():
        return [], [], data
    value = read_json(file, "the rows of a table")
    try:
        check_content(value, _Content)
        entries = [_Entry.from_json(row, out.resolve(), table) for row in value["rows"]]
        number, before = value["table"], value["data"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TCAFError(
            f"expected the rows of a table at {file}, found something else; remove it, and name "
            "all rows of the table once more"
        ) from None
    for differs, why in (
        (number != table.number, f"a row of Table {number}"),
        (any(a != b for a, b in zip(before, data, strict=False)), "on other data"),
    ):
        if differs:
            return [], [f"{entry.row.title}: {why}" for entry in entries], data
    return entries, [], max(before, data, key=len)


def _still_there(
    entry: _Entry, again: Mapping[int, str | None]
) -> tuple[dict[int, str | None], list[int]]:
    """Returns the seeds of a row that a call has not run again, and which of them are gone."""
    left: dict[int, str | None] = {}
    gone = []
    for seed, error in sorted(entry.seeds.items()):
        if seed in again:
            continue
        if Run(run_folder(entry.folder, seed)).result is not None:
            left[seed] = None
        elif error is not None:
            left[seed] = error
        else:
            gone.append(seed)
    return left, gone


def _joined(entry: _Entry, new: _Entry | None) -> _Entry:
    """Returns a row with the seeds of both."""
    if new is None:
        return entry
    seeds = dict(sorted({**entry.seeds, **new.seeds}.items()))
    commands = tuple(dict.fromkeys((*entry.commands, *new.commands)))
    return replace(new, seeds=seeds, commands=commands)
