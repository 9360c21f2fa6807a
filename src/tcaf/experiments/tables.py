"""The paper's four tables: which rows they have, what each row trains, and what the paper reports.

Owns the content of the tables (Mercea et al., ECCV 2022, Tables 1 to 4). Running rows is
`reproduce.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tcaf.settings.experiment import Experiment
from tcaf.systems.registry import SYSTEMS

PaperScores = tuple[float, float, float, float]
"""S, U, HM and ZSL in percent."""

PAPER_DATASETS = ("vggsound_cls", "ucf_cls", "activitynet_cls")
"""The presets whose data the paper reports on, in the order of its columns."""


TABLE_NUMBERS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        name: as files call it; equal names in two tables are the same runs.
        title: as printed tables call it.
        system: what is trained.
        changes: what differs from the system's own settings, nested as in a TOML file.
        paper: the paper's scores by preset of the data; empty where it has none.
    """

    name: str
    title: str
    system: str = "tcaf"
    changes: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, PaperScores] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One table.

    Args:
        number: in the paper.
        title: what it compares.
        rows: in the paper's order.
    """

    number: int
    title: str
    rows: tuple[Row, ...]


def _paper(*scores: float) -> dict[str, PaperScores]:
    """Returns twelve numbers of a line of the paper by data set."""
    return {
        dataset: (scores[i], scores[i + 1], scores[i + 2], scores[i + 3])
        for dataset, i in zip(PAPER_DATASETS, (0, 4, 8), strict=True)
    }


_TCAF = Row(
    "tcaf",
    "TCaF",
    paper=_paper(12.63, 6.72, 8.77, 7.41, 67.14, 40.83, 50.78, 44.64, 30.12, 7.65, 12.20, 7.96),
)

_TABLE_1 = {
    "attention_fusion": _paper(
        *(14.13, 3.00, 4.95, 3.37, 39.34, 18.29, 24.97, 20.21, 11.15, 3.37, 5.18, 4.88)
    ),
    "perceiver": _paper(
        *(13.25, 3.03, 4.93, 3.44, 46.85, 26.82, 34.11, 28.12, 18.25, 4.27, 6.92, 4.47)
    ),
    "cjme": _paper(*(10.86, 2.22, 3.68, 3.72, 33.89, 24.82, 28.65, 29.01, 10.75, 5.55, 7.32, 6.29)),
    "avgzslnet": _paper(
        *(15.02, 3.19, 5.26, 4.81, 74.79, 24.15, 36.51, 31.51, 13.70, 5.96, 8.30, 6.39)
    ),
    "avca": _paper(*(12.63, 6.19, 8.31, 6.91, 63.15, 30.72, 41.34, 37.72, 16.77, 7.04, 9.92, 7.58)),
}

_TABLE_2 = (
    Row(
        "regression",
        "l_reg",
        changes={"objective": {"cross_entropy": False, "reconstruction": False}},
        paper=_paper(0.10, 2.41, 0.19, 2.50, 14.30, 18.82, 16.25, 30.17, 1.09, 0.27, 0.43, 2.11),
    ),
    Row(
        "regression_cross_entropy",
        "l_reg + l_ce",
        changes={"objective": {"reconstruction": False}},
        paper=_paper(
            *(13.67, 4.06, 6.26, 4.31, 75.31, 37.15, 49.76, 41.75, 11.36, 5.28, 7.21, 5.31)
        ),
    ),
    _TCAF,
)


def _attention(name: str, title: str, pattern: str, class_token: bool, *scores: float) -> Row:
    changes = {"model": {"attention": pattern, "class_token": class_token}}
    return Row(name, title, changes=changes, paper=_paper(*scores))


_TABLE_3 = (
    _attention(
        *("no_class_token_full", "A_self + A_x, no class token", "full", False),
        *(18.40, 3.78, 6.27, 4.25, 31.70, 32.57, 32.13, 33.26, 11.87, 3.80, 5.75, 3.90),
    ),
    _attention(
        *("no_class_token_self", "A_self, no class token", "self", False),
        *(16.08, 3.56, 5.83, 4.00, 42.59, 24.04, 30.73, 27.49, 9.51, 4.33, 5.95, 4.39),
    ),
    _attention(
        *("no_class_token_cross", "A_x, no class token", "cross", False),
        *(14.62, 4.22, 6.55, 4.59, 19.52, 29.80, 23.62, 31.35, 1.85, 3.50, 2.42, 3.50),
    ),
    _attention(
        *("full", "A_c + A_self + A_x", "full", True),
        *(11.36, 5.50, 7.41, 5.97, 36.73, 41.99, 39.18, 42.56, 17.75, 6.79, 9.83, 6.89),
    ),
    _attention(
        *("self", "A_c + A_self", "self", True),
        *(12.23, 4.63, 6.71, 5.25, 40.14, 34.95, 37.37, 35.74, 4.24, 3.23, 3.67, 3.25),
    ),
    _TCAF,
)

_TABLE_4 = (
    Row(
        "tcaf_audio",
        "TCaF, audio alone",
        changes={"model": {"modalities": "audio"}},
        paper=_paper(5.11, 4.06, 4.53, 4.28, 35.51, 19.75, 25.38, 24.24, 9.28, 4.26, 5.84, 4.65),
    ),
    Row(
        "tcaf_visual",
        "TCaF, visual alone",
        changes={"model": {"modalities": "visual"}},
        paper=_paper(3.97, 3.12, 3.50, 3.19, 38.10, 26.84, 31.49, 27.25, 2.75, 3.11, 2.92, 3.11),
    ),
    _TCAF,
)


def paper_table(number: int) -> Table:
    """Returns one of the paper's tables; Table 1 with every system there is, TCaF last.

    Systems of the user's own that are registered by now are rows of Table 1.
    """
    if number == 1:
        others = (
            Row(name, system.title, name, paper=_TABLE_1.get(name, {}))
            for name, system in SYSTEMS.items()
            if name != "tcaf"
        )
        return Table(1, "systems", (*others, _TCAF))
    title, rows = {
        2: ("terms of the training objective", _TABLE_2),
        3: ("attention patterns, with and without class token", _TABLE_3),
        4: ("modalities", _TABLE_4),
    }[number]
    return Table(number, title, rows)


def row_of(experiment: Experiment) -> Row | None:
    """Returns the row of the paper's tables that an experiment is; None if it is none of them.

    Compared are the system and what rows change: objective, attention pattern, class token and
    modalities. A row of Table 1 is found for any size or schedule of its system.
    """
    asked = experiment.to_json()
    for number in TABLE_NUMBERS:
        for row in paper_table(number).rows:
            same = all(
                asked[section][name] == value
                for section, settings in row_settings(row).items()
                for name, value in settings.items()
            )
            if row.system == experiment.system and same:
                return row
    return None


def row_settings(row: Row) -> dict[str, dict[str, Any]]:
    """Returns what makes a row the one that it is: nested settings that tell TCaF's rows apart."""
    if row.system != "tcaf":
        return {}
    wanted: dict[str, dict[str, Any]] = {
        "objective": {"cross_entropy": True, "regression": True, "reconstruction": True},
        "model": {"attention": "cross", "class_token": True, "modalities": "both"},
    }
    for section, changes in row.changes.items():
        wanted[section] = {**wanted[section], **changes}
    return wanted
