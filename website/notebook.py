"""Makes the tutorial a notebook: `python website/notebook.py` writes `docs/tutorial.ipynb`.

Text becomes cells of text, an indented block a cell of commands, a fenced block of Python a cell of
code. Blocks before the first numbered heading are for a terminal and stay text. A test compares the
two and runs the cells.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"

_BLOCK = re.compile(
    r"^```python\n(?P<python>.*?)^```$|(?P<shell>(?:^ {4}\S[^\n]*\n)+)", re.M | re.S
)
_LAST = "## Your own clips"
"""From here on the page speaks of files that only the reader has."""


def cells(page: str) -> Iterator[tuple[str, str]]:
    """Yields the cells of a page: `markdown` or `code`, and what is in each."""
    start = re.search(r"^## 1\. ", page, re.M)
    assert start, "the tutorial has numbered headings"
    steps, last, rest = page[start.start() :].partition(_LAST)
    text, end = page[: start.start()], 0
    for block in _BLOCK.finditer(steps):
        yield "markdown", (text + steps[end : block.start()]).strip()
        text, end = "", block.end()
        if block["python"]:
            yield "code", block["python"].strip()
        else:
            lines = block["shell"].strip("\n").splitlines()
            yield "code", "\n".join(f"!{line.strip()}" for line in lines)
    yield "markdown", (text + steps[end:] + last + rest).strip()


def notebook(page: str) -> dict[str, Any]:
    """Returns the notebook, as nbformat 4.5 has it."""
    found = []
    for number, (kind, text) in enumerate(cells(page)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        found.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": found, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def text(page: str) -> str:
    """Returns the notebook as its file has it."""
    return json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes the notebook."""
    NOTEBOOK.write_text(text(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
