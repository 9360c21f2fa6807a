"""The runs of a folder, for the page: a table, and one configuration in detail.

Owns what is read of a folder and kept; figures and scores are those of `tcaf report`.
"""

import threading
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from tcaf.app.page_answer import empty_html, problem_html, shown
from tcaf.app.page_map import map_html
from tcaf.app.page_parts import html, import_gradio
from tcaf.app.page_table import Cell, Column, number_cell, sortable_table
from tcaf.errors import TCAFError
from tcaf.evaluation.decisions import ClipDecisions
from tcaf.reports.contents import PageFigure, ResultRow, Score
from tcaf.reports.detail import Detail, Series
from tcaf.reports.report import (
    class_figure,
    confusion_figures,
    curve_figures,
    find_runs,
    group,
    open_store,
    result_row,
)

EMPTY = "Start with tcaf app --runs FOLDER to explore the runs of a folder here."

COLUMNS = (
    Column("model"),
    *(Column(title, is_number=True) for title in ("S", "U", "HM", "ZSL", "area", "ECE", "seeds")),
)

CURVES = 8
"""Configurations whose curves are drawn together: as many as there are colours."""


class Runs:
    """The runs of a folder.

    Args:
        folder: a run, or a folder with runs somewhere in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._series: list[Series] = []
        self._notes: list[str] = []
        self._details: dict[str, str] = {}

    def read(self) -> list[str]:
        """Reads the folder anew and returns the names of its configurations.

        Raises:
            TCAFError: no run is there that is over.
        """
        with self._lock:
            runs, self._notes = find_runs([self._folder])
            self._series = group(runs)
            self._details.clear()
            return [one.name for one in self._series]

    def table(self) -> str:
        """Returns the table of all configurations as HTML."""
        with self._lock:
            rows = [_cells(result_row(one, None)) for one in self._series]
            notes = "".join(f'<p class="t-note">{escape(note)}</p>' for note in self._notes)
        told = (
            '<p class="t-legend">Mean class accuracy in percent, mean and standard deviation over '
            "seeds; the area under the seen-unseen curve lies between 0 and 1. ECE: expected "
            "calibration error in percent.</p>"
        )
        return sortable_table("runs", "Runs", COLUMNS, rows) + told + notes

    def detail(self, name: str) -> str:
        """Returns one configuration in detail as HTML; it is drawn once.

        Raises:
            TCAFError: there is none of this name, or the extra `plot` is missing.
        """
        with self._lock:
            one = next((each for each in self._series if each.name == name), None)
            if one is None:
                raise TCAFError(f"no runs called {name!r} any more; read the folder again")
            if name not in self._details:
                self._details[name] = self._drawn(one)
            return self._details[name]

    def _drawn(self, one: Series) -> str:
        notes: list[str] = []
        others = [each for each in self._series if each is not one]
        figures = [
            *curve_figures([one, *others][:CURVES], notes),
            class_figure(one),
            *confusion_figures(one, notes),
        ]
        parts = [figure_html(figure) for figure in figures]
        try:
            parts.append(_map(one, notes))
        except TCAFError as error:
            parts.append(problem_html(str(error), "The map of embeddings is left out."))
        told = "".join(f'<p class="t-note">{escape(note)}</p>' for note in notes)
        return f'<div class="t-figures">{"".join(parts)}{told}</div>'


def _map(one: Series, notes: list[str]) -> str:
    """Returns the map of the first run's clips; empty where these are not at hand."""
    store = open_store(one, None, notes)
    if store is None:
        return ""
    store.verify_once()
    detail = Detail(one, one.first, store)
    decided: ClipDecisions = detail.clip_decisions
    names = decided.classes.names
    taken = [names[column] for column in decided.decisions.predicted(decided.gamma).tolist()]
    return map_html(detail.clip_map(), decided.ids, taken)


def figure_html(figure: PageFigure) -> str:
    """Returns a figure of a report as HTML, for wide and for narrow pages."""
    narrow = f'<div class="t-narrow">{figure.narrow}</div>' if figure.narrow else ""
    only = "" if figure.narrow else " t-only"
    return (
        f'<figure><h2>{escape(figure.title)}</h2><div class="t-wide{only}">{figure.wide}</div>'
        f"{narrow}<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _cells(row: ResultRow) -> Sequence[Cell]:
    scores = (row.seen, row.unseen, row.harmonic_mean, row.zsl)
    return (
        Cell(shown(row.model), row.model),
        *(_score(score) for score in scores),
        _score(row.area, 1.0, 3),
        _score(row.calibration),
        number_cell(float(row.seeds), str(row.seeds)),
    )


def _score(score: Score | None, scale: float = 100.0, places: int = 2) -> Cell:
    if score is None:
        return Cell("–")
    spread = "" if score.std is None else f" <small>± {scale * score.std:.{places}f}</small>"
    return Cell(f"{scale * score.mean:.{places}f}{spread}", score.mean)


class RunsTab:
    """The third tab of the page; to be made where Gradio's blocks are open.

    Args:
        runs: to explore; None where no folder was named.
    """

    def __init__(self, runs: Runs | None) -> None:
        self._gr, self._runs = import_gradio(), runs
        gr = self._gr
        if runs is None:
            html("t-runs", empty_html(EMPTY))
            return
        names = runs.read()
        self._table = html("t-runs", runs.table())
        with gr.Row(equal_height=False):
            self._name = gr.Dropdown(
                names, value=None, label="Shown in detail", filterable=False, elem_id="t-run"
            )
            self._again = gr.Button("Read the folder again", elem_id="t-runs-again", scale=0)
        self._detail = html("t-run-detail")
        # Another may be chosen while one is drawn.
        self._name.input(self._show, self._name, self._detail, trigger_mode="always_last")
        self._again.click(self._read, None, [self._table, self._name, self._detail])

    def _show(self, name: str | None) -> str:
        assert self._runs is not None, "there is no such part without"
        if not name:
            return ""
        try:
            return self._runs.detail(name)
        except TCAFError as error:
            return problem_html(str(error))

    def _read(self) -> tuple[Any, ...]:
        assert self._runs is not None, "there is no such part without"
        try:
            names = self._runs.read()
        except TCAFError as error:
            return problem_html(str(error)), self._gr.update(choices=[], value=None), ""
        return self._runs.table(), self._gr.update(choices=names, value=None), ""
