"""Tables that a person sorts by a click or a key, as HTML.

Owns their marks for `page.js`, which sorts in the browser: rows that come later are put in their
place too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        html: what is shown.
        value: what it is sorted by; empty where there is nothing, which comes last either way.
    """

    html: str
    value: str | float = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: its name.
        is_number: whether it is sorted as numbers, the largest first at the first click.
    """

    title: str
    is_number: bool = False


def number_cell(value: float | None, text: str) -> Cell:
    """Returns a cell for a number; a dash where there is none."""
    return Cell("–") if value is None else Cell(text, value)


def sortable_table(
    name: str, label: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]
) -> str:
    """Returns a table whose columns can be sorted by; the first cell of a row is its name.

    Args:
        name: letters and hyphens, by which the browser keeps how it was sorted.
        label: what the table is, for who does not see it.
        columns: from left to right.
        rows: with a cell for each column.
    """
    heads = "".join(
        f'<th scope="col" aria-sort="none"{"" if c.is_number else _TEXT}><button type="button" '
        f'data-t-sort="{"number" if c.is_number else "text"}">{escape(c.title)}'
        '<span class="t-arrow" aria-hidden="true"></span></button></th>'
        for c in columns
    )
    body = "".join(f"<tr>{_row(row, columns)}</tr>" for row in rows)
    return (
        f'<div class="t-scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="t-table t-sortable" data-t-table="{escape(name)}"><thead><tr>{heads}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


_TEXT = ' class="t-text"'


def _row(row: Sequence[Cell], columns: Sequence[Column]) -> str:
    parts = []
    for number, (cell, column) in enumerate(zip(row, columns, strict=True)):
        tag = 'th scope="row"' if number == 0 else "td"
        look = "" if column.is_number else _TEXT
        parts.append(
            f'<{tag}{look} data-t-value="{escape(str(cell.value))}">{cell.html}</{tag[:2]}>'
        )
    return "".join(parts)
