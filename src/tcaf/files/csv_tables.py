"""Reading CSV tables that people wrote."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tcaf.errors import TCAFError


def is_finite_number(cell: str | bytes) -> bool:
    """Returns whether a cell of text is a number that float32 holds."""
    try:
        return abs(float(cell)) <= float(np.finfo(np.float32).max)
    except ValueError:
        return False


def csv_rows(path: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yields line number, header and cells of each row below the header; blank rows are passed."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [cell.strip() for cell in next(reader, [])]
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield reader.line_num, header, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise TCAFError(f"{path}: expected CSV in UTF-8 ({error})") from None
