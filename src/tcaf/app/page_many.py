"""The second tab: many clips, a table that fills as they are answered.

Owns its layout and events, and how the table looks. What is answered is `page_desk`.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tcaf.answers.interface import FEW_CLIPS
from tcaf.app.page_answer import empty_html, files_html, kind_of, percent, problem_html, shown
from tcaf.app.page_desk import Desk
from tcaf.app.page_names import MODEL, OWN, choices, names_in, picked
from tcaf.app.page_parts import READING, html, import_gradio, streaming
from tcaf.app.page_questions import Batch, Question
from tcaf.app.page_table import Cell, Column, number_cell, sortable_table
from tcaf.errors import TCAFError
from tcaf.reports.answer_rows import to_csv

EMPTY = "Choose a folder or several files: each has a row here as soon as it is answered."

MOMENT_S = 0.5
"""Seconds between two pictures of a table that fills: it is sent whole each time."""

COLUMNS = (
    Column("file"),
    Column("class"),
    Column("probability", is_number=True),
    Column("kind"),
    Column("next best"),
)


class ManyTab:
    """The second tab of the page; to be made where Gradio's blocks are open.

    Args:
        desk: what answers.
    """

    def __init__(self, desk: Desk) -> None:
        self._gr, self._desk = import_gradio(), desk
        with self._gr.Row(equal_height=False):
            with self._gr.Column(scale=4, min_width=300):
                self._inputs()
            with self._gr.Column(scale=8, min_width=300):
                self._table = html("t-table", empty_html(EMPTY))
                self._files = html("t-table-files")
        self._events()

    def _inputs(self) -> None:
        gr, cannot = self._gr, self._desk.together
        self._several = gr.File(
            label="Files",
            file_count="multiple",
            height=150,
            elem_id="t-several",
        )
        self._folder = gr.File(
            label="Or a folder",
            file_count="directory",
            height=150,
            elem_id="t-folder",
        )
        self._list = gr.Dropdown(
            choices(),
            value=MODEL,
            label="Names to choose from",
            filterable=False,
            elem_id="t-many-list",
        )
        self._names = gr.Textbox(
            label="Names, one a line",
            placeholder="empty: the model's own classes",
            lines=4,
            max_lines=9,
            elem_id="t-many-names",
        )
        self._together = gr.Checkbox(
            label="Together: each in the light of the others",
            info=cannot or f"from {FEW_CLIPS} clips on, in which the names really occur",
            interactive=not cannot,
            elem_id="t-together",
        )
        with gr.Row():
            self._ask = gr.Button("Answer all", variant="primary", elem_id="t-ask-all")
            self._stop = gr.Button("Stop", elem_id="t-stop")

    def _events(self) -> None:
        asked = [self._several, self._folder, self._names, self._together]
        running = self._ask.click(
            streaming(self._answers),
            asked,
            [self._table, self._files],
            concurrency_id=READING,
            concurrency_limit=self._desk.workers,
            show_progress="minimal",
        )
        self._stop.click(None, None, None, cancels=[running], queue=False)
        self._list.input(
            picked,
            [self._list, self._names],
            self._names,
            queue=False,
            trigger_mode="always_last",
        )
        self._names.input(lambda: OWN, None, self._list, queue=False, show_progress="hidden")

    def _answers(
        self,
        session: str,
        several: Sequence[str] | None,
        folder: Sequence[str] | None,
        names: str,
        together: bool,
    ) -> Iterator[tuple[str, Any]]:
        """Yields the table again and again as it fills, at the end with files to save."""
        files = [(Path(file), Path(file).name) for file in (*(several or ()), *(folder or ()))]
        if not files:
            yield problem_html("There are no files yet.", "Choose a folder or several files."), ""
            return
        if together and len(files) < FEW_CLIPS:
            yield (
                problem_html(
                    f"{len(files)} clips are too few to be answered together: from {FEW_CLIPS} on "
                    "answers get better, of fewer they may be worse.",
                    "Leave “Together” out, or bring more of them.",
                ),
                "",
            )
            return
        question = Question(tuple(names_in(names or "", self._desk.known)), top_k=2)
        last_s, batch = 0.0, None
        try:
            for batch in self._desk.many(files, question, together=together):
                if time.monotonic() - last_s > MOMENT_S:
                    last_s = time.monotonic()
                    yield table_html(batch), ""
        except TCAFError as error:
            yield problem_html(str(error)), ""
            return
        assert batch is not None, "there are files"
        yield table_html(batch), files_html(_as_files(batch))


def table_html(batch: Batch) -> str:
    """Returns a table of what is known so far; files that wait come last."""
    rows = [_cells(name, row) for name, row in zip(batch.names, batch.rows, strict=True) if row]
    waiting = len(batch.rows) - len(rows)
    told = batch.told or f"0 of {len(batch.rows)} answered"
    bar = (
        f'<progress class="t-progress" max="{len(batch.rows)}" value="{batch.done}" '
        'aria-label="Files answered"></progress>'
        if waiting
        else ""
    )
    table = sortable_table("many", "Answers", COLUMNS, rows) if rows else ""
    return f'<div class="t-many"><p class="t-sub" role="status">{told}</p>{bar}{table}</div>'


def _cells(name: str, row: dict[str, Any]) -> tuple[Cell, ...]:
    if "error" in row:
        reason = f'<span class="t-failed">{shown(row["error"], 300)}</span>'
        return Cell(shown(name), name), Cell(reason), Cell("–"), Cell("–"), Cell("–")
    best, *others = row["answers"]
    chance = best["probability"]
    second = others[0]["class"] if others else ""
    return (
        Cell(shown(name), name),
        Cell(f"<b>{shown(best['class'])}</b>", best["class"]),
        number_cell(chance, "" if chance is None else percent(chance)),
        Cell(kind_of(best["seen"]), "seen" if best["seen"] else "unseen"),
        Cell(shown(second), second),
    )


def _as_files(batch: Batch) -> dict[str, tuple[str, str]]:
    text = json.dumps(batch.value, indent=2, ensure_ascii=False)
    table = to_csv(batch.value.get("predictions", ()))
    return {"JSON": ("answers.json", text), "CSV": ("answers.csv", table)}
