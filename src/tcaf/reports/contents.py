"""What a report holds, as data: rows of tables, figures, configurations, notes.

Owns the records that `page` renders. They hold numbers and text, ready to show, and know nothing of
runs or stores.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tcaf.reports.theme import Figure, Width, to_svg


@dataclass(frozen=True)
class Score:
    """A score over the runs of a row, as a fraction.

    Args:
        mean: over the seeds.
        std: over the seeds; None where there is one.
        paper: what the paper reports, if it does.
    """

    mean: float
    std: float | None = None
    paper: float | None = None


@dataclass(frozen=True)
class ResultRow:
    """One model in the table of results.

    Args:
        model: its name.
        seeds: how many runs.
        seen: S.
        unseen: U.
        harmonic_mean: HM.
        zsl: ZSL.
        area: under the seen-unseen curve.
        calibration: expected calibration error of the probabilities.
        gammas: what each run's validation chose.
        failure: why there are no scores; empty where there are.
    """

    model: str
    seeds: int = 1
    seen: Score | None = None
    unseen: Score | None = None
    harmonic_mean: Score | None = None
    zsl: Score | None = None
    area: Score | None = None
    calibration: Score | None = None
    gammas: tuple[float, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class ComparisonRow:
    """A paired comparison of two models on the same clips or seeds, as fractions.

    Args:
        first: name of a model.
        second: of the one it is compared with.
        measure: what is compared, such as HM.
        difference: first minus second; None where it cannot be computed.
        low: lower end of its interval; None where there is none.
        high: upper end.
        remark: anything else, such as the number of pairs.
    """

    first: str
    second: str
    measure: str
    difference: float | None
    low: float | None = None
    high: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class PageFigure:
    """A figure with its words.

    Args:
        name: letters, digits and hyphens; unique on the page.
        title: above it.
        caption: below it.
        wide: its SVG.
        narrow: its SVG for a phone; empty if the wide one serves.
    """

    name: str
    title: str
    caption: str
    wide: str
    narrow: str = ""

    @classmethod
    def of(
        cls, name: str, draw: Callable[[Width], Figure], *, title: str, caption: str, alt: str
    ) -> "PageFigure":
        """Draws a figure for both widths; `alt` says in words what it shows.

        No SVG serves both: text keeps its size, so that the two differ in the shape of what is
        drawn, in where panels and legends stand, and in how much of a name or matrix is shown.
        """
        wide = to_svg(draw("wide"), f"{name}-wide", alt)
        return cls(name, title, caption, wide, to_svg(draw("narrow"), f"{name}-narrow", alt))


@dataclass(frozen=True)
class ClassRow:
    """One class in the table of classes.

    Args:
        name: of the class.
        seen: whether it is a seen one.
        clips: how many there are.
        accuracies: of each model, in the order of `ReportPage.class_models`; None without clips.
    """

    name: str
    seen: bool
    clips: int
    accuracies: tuple[Score | None, ...]


@dataclass(frozen=True)
class SettingRow:
    """One setting in which configurations differ.

    Args:
        setting: its dotted name.
        values: in the order of `ReportPage.configurations`, as text.
    """

    setting: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class NamedText:
    """A whole configuration.

    Args:
        name: of the run.
        text: TOML or JSON.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Provenance:
    """Where a run comes from.

    Args:
        name: of the run.
        facts: what and its value, such as commit, versions, device, seed, fingerprint, time.
    """

    name: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ReportPage:
    """Everything on a page; a section without content is left out.

    Args:
        title: of the page.
        summary: lines below it.
        results: table of results.
        results_note: below its heading, such as what a spread is of.
        comparisons: table of paired comparisons.
        comparisons_note: below its heading, such as which test.
        figures: in this order.
        class_models: names of the models in the table of classes.
        classes: table of classes.
        configurations: whole configurations.
        differences: in what they differ.
        provenance: of each run.
        notes: what was left out, and why.
        footer: last line.
    """

    title: str
    summary: tuple[str, ...] = ()
    results: tuple[ResultRow, ...] = ()
    results_note: str = ""
    comparisons: tuple[ComparisonRow, ...] = ()
    comparisons_note: str = ""
    figures: tuple[PageFigure, ...] = ()
    class_models: tuple[str, ...] = ()
    classes: tuple[ClassRow, ...] = ()
    configurations: tuple[NamedText, ...] = ()
    differences: tuple[SettingRow, ...] = ()
    provenance: tuple[Provenance, ...] = ()
    notes: tuple[str, ...] = ()
    footer: str = ""


def differing_settings(configs: Sequence[Mapping[str, Any]]) -> tuple[SettingRow, ...]:
    """Returns the settings in which configurations differ, by dotted name.

    Args:
        configs: one a run, such as `Experiment.to_json` gives; one without a setting has "not set".
    """
    flat = [_flattened(config) for config in configs]
    names = dict.fromkeys(name for config in flat for name in config)
    rows = (
        SettingRow(name, tuple(config.get(name, "not set") for config in flat)) for name in names
    )
    return tuple(row for row in rows if len(set(row.values)) > 1)


def _flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = "not set" if value is None else str(value)
    return flat
