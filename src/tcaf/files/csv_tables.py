"""Reading CSV tables, those that people wrote and those of others.

Owns what a table is: UTF-8 with or without a byte order mark, a row of column names, then rows of
as many cells. Commas part cells, or semicolons or tabs where these part the column names, as
spreadsheets write them; a first line `sep=;` is passed over. What the cells mean is the caller's.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tcaf.errors import TCAFError, did_you_mean, shorten


class MissingColumnsError(TCAFError):
    """A table lacks columns that it must have."""


def is_finite_number(cell: str | bytes) -> bool:
    """Returns whether a cell of text is a number that float32 holds."""
    try:
        return abs(float(cell)) <= float(np.finfo(np.float32).max)
    except ValueError:
        return False


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        where: file and line, for messages.
        cells: by column, in the order of the file, without white space around them.
    """

    where: str
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]


def csv_rows(
    path: Path,
    required: Sequence[str] = (),
    *,
    optional: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    others: Literal["refused", "allowed"] = "refused",
    filled: bool = True,
    header: Sequence[str] = (),
    delimiter: str = "",
) -> list[Row]:
    """Reads a table; blank rows are passed over.

    Args:
        path: of the file.
        required: columns that there must be, in any letter case; a row has them under these names.
        optional: columns that there may be; a row has an empty cell where there are none.
        aliases: other names of columns, and under which of the above a row has them.
        others: `allowed` for tables that have columns of no concern here, as those of others do; a
            column that is not read is an error otherwise.
        filled: whether the required columns must be filled in every row.
        header: names of the columns of a table that has no row of them.
        delimiter: what parts cells; by default commas, semicolons or tabs, as told by the names.

    Raises:
        MissingColumnsError: a required column is not there.
        TCAFError: no such file, not such a table, a row with another number of cells than there are
            columns, or no row at all.
    """
    lines = _lines(path, delimiter)
    _, names = (0, list(header)) if header else next(lines, (0, []))
    known = {column: column for column in (*required, *optional)} | dict(aliases or {})
    columns = _columns(path, names, required, known, others)
    rows = []
    for line, cells in lines:
        where = f"{path}, line {line}"
        if len(cells) != len(names) or any(cells[len(columns) :]):
            raise TCAFError(
                f"{where}: expected {len(columns)} cells as there are column names, found "
                f"{len(cells)}: {shorten(cells, 5)}; a cell with a comma in it stands in quotes"
            )
        row = dict.fromkeys(optional, "") | dict(zip(columns, cells, strict=False))
        if missing := [column for column in required if filled and not row[column]]:
            raise TCAFError(f"{where}: expected a {missing[0]}, found none in {shorten(cells, 5)}")
        rows.append(Row(where, row))
    if not rows:
        named = f" of {' and '.join(required)}" if required else ""
        raise TCAFError(f"{path}: expected rows{named}, found none")
    return rows


def _lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields each row that is not blank, and the line on which it begins."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            is_separator = head.lower().startswith("sep=")
            told = head.strip()[4:5] if is_separator else max(",;\t", key=head.count)
            if not is_separator:
                file.seek(0)
            # Without strict, a quote that is never closed would swallow the rest of the file.
            reader = csv.reader(file, delimiter=delimiter or told or ",", strict=True)
            line += is_separator
            for row in reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    yield line, cells
                line = reader.line_num + 1 + is_separator
    except FileNotFoundError:
        raise TCAFError(f"expected a CSV table at {path}, found none") from None
    except OSError as error:
        raise TCAFError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TCAFError(f"{path}: expected CSV in UTF-8 ({error})") from None
    except csv.Error as error:
        raise TCAFError(f"{path}, line {line}: damaged CSV ({error})") from None


def _columns(
    path: Path,
    names: Sequence[str],
    required: Sequence[str],
    known: Mapping[str, str],
    others: Literal["refused", "allowed"],
) -> list[str]:
    """Returns the names of the columns as the caller spells them, without those left empty at the
    end, which spreadsheets add.
    """
    folded = {name.casefold(): column for name, column in known.items()}
    columns = [folded.get(name.casefold(), name) for name in names]
    while columns and not columns[-1]:
        columns.pop()
    if missing := [column for column in required if column not in columns]:
        raise MissingColumnsError(
            f"{path}: expected the columns {', '.join(required)}, found "
            f"{', '.join(names) or 'none'}{did_you_mean(missing[0], names)}"
        )
    if twice := [column for column, count in Counter(columns).items() if count > 1]:
        spelt = [n for n, column in zip(names, columns, strict=False) if column == twice[0]]
        raise TCAFError(f"{path}: the column {twice[0]!r} is there twice, as {shorten(spelt, 5)}")
    unread = [column for column in columns if column not in known.values()]
    if unread and others == "refused":
        raise TCAFError(
            f"{path}: no column {unread[0]!r} is known; there may be "
            f"{', '.join(known)}{did_you_mean(unread[0], known)}"
        )
    return columns
