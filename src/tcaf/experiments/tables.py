"""The paper's four tables: which rows they have, what each row trains, and what the paper reports.

Owns the reading of `benchmarks/paper_tables.toml`, where the content of the tables stands (Mercea
et al., ECCV 2022, Tables 1 to 4). Running rows is `reproduce.py`.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files as package_files
from typing import Any

from tcaf.data.features import MODALITIES, Modality
from tcaf.settings.experiment import Experiment

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


@cache
def _tables() -> dict[int, Table]:
    """Reads the paper's tables; a row that is a name alone is the one of that name above it."""
    text = (package_files("tcaf") / "benchmarks" / "paper_tables.toml").read_text(encoding="utf-8")
    rows: dict[str, Row] = {}
    tables = {}
    for table in tomllib.loads(text)["table"]:
        for entry in table["row"]:
            name = entry["name"]
            assert (name in rows) == (set(entry) == {"name"}), f"{name} is written out once"
            if name not in rows:
                paper = {dataset: tuple(scores) for dataset, scores in entry.pop("paper").items()}
                assert tuple(paper) == PAPER_DATASETS, f"{name} has scores on other data"
                assert all(len(scores) == 4 for scores in paper.values()), f"{name}: S, U, HM, ZSL"
                rows[name] = Row(**entry, paper=paper)
        number, title = table["number"], table["title"]
        tables[number] = Table(number, title, tuple(rows[entry["name"]] for entry in table["row"]))
    assert tuple(tables) == TABLE_NUMBERS, "the paper has four tables"
    return tables


def paper_table(number: int) -> Table:
    """Returns one of the paper's tables; Table 1 with every system there is, TCaF last.

    Systems that the paper does not have, of the user's own among them, are rows of Table 1 too if
    they are registered by now.
    """
    table = _tables()[number]
    if number != 1:
        return table
    from tcaf.systems.registry import SYSTEMS

    *published, tcaf = table.rows
    names = {row.name for row in table.rows}
    others = [Row(n, system.title, n) for n, system in SYSTEMS.items() if n not in names]
    return replace(table, rows=(*published, *others, tcaf))


def no_meaning(row: Row, modalities: Sequence[Modality]) -> str | None:
    """Returns why a row cannot be run on data of some modalities; None if it can.

    On data of one modality, a row of both is one of all that there is.

    Args:
        row: of a table.
        modalities: that the data has.
    """
    from tcaf.systems.registry import find_system

    if len(modalities) == len(MODALITIES):
        return None
    model = row.changes.get("model", {})
    if find_system(row.system).needs_both:
        return "it learns from sound beside picture"
    if model.get("modalities", modalities[0]) != modalities[0]:
        return f"there are no {model['modalities']} features"
    if model.get("attention") == "full":
        return "of one modality alone, attention to both is attention to itself"
    if model.get("attention") == "cross" and not model.get("class_token", True):
        return "one modality alone and no class token leave nothing to attend to"
    return None


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
