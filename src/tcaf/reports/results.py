"""A table's results as files: `table.md` for people, `table.csv` and `per_class.csv` for programs.

Owns their columns and wording. Scores are fractions in the CSV files and percent in Markdown. One
that has no meaning, since the test has no clips of a half, is empty there and "-" here.
"""

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tcaf.errors import TCAFError
from tcaf.evaluation.scores import SCORES
from tcaf.evaluation.statistics import (
    PairedComparison,
    class_accuracies,
    mean_and_std,
    paired_bootstrap,
)
from tcaf.experiments.reproduce import RowResult
from tcaf.experiments.rows import merge_rows
from tcaf.experiments.tables import PaperScores, Table
from tcaf.files.atomic import check_file, check_folder, make_parents, write_text
from tcaf.progress import describe_time
from tcaf.training.run import Run

AREA = "curve_area"

TABLE_FILES = ("table.md", "table.csv", "per_class.csv")
"""What a table is written to."""


class RowsLostWarning(UserWarning):
    """Rows that were in a folder's table are no longer in it."""


@dataclass(frozen=True)
class Scores:
    """A row of a results table.

    Args:
        model: the row's name in files.
        title: its name in print.
        means: mean over seeds by score, fractions; empty if no run is done.
        stds: sample standard deviation by score; NaN for one seed.
        gammas: that the runs chose.
        on_edge: whether one of these is the first or last of its grid.
        epochs: that stage 1 of the runs chose.
        seconds: wall time of each run that has it.
        peak_mib: largest memory of a run.
        seeds: of the runs that are done.
        errors: why other runs failed, by seed.
        paper: the paper's scores in percent, where the data is the paper's.
    """

    model: str
    title: str
    means: Mapping[str, float]
    stds: Mapping[str, float]
    gammas: tuple[float, ...]
    on_edge: bool
    epochs: tuple[int, ...]
    seconds: tuple[float, ...]
    peak_mib: float
    seeds: tuple[int, ...]
    errors: Mapping[int, str]
    paper: PaperScores | None

    def to_json(self) -> dict[str, Any]:
        """Returns the row as JSON values; None for a number that there is not."""
        value = asdict(self)
        for name in ("means", "stds"):
            value[name] = {n: None if math.isnan(v) else v for n, v in value[name].items()}
        value["peak_mib"] = None if math.isnan(self.peak_mib) else self.peak_mib
        return value


def summarise(rows: Sequence[RowResult], dataset: str) -> list[Scores]:
    """Returns each row's mean and standard deviation over seeds.

    Args:
        rows: of a table.
        dataset: the preset of the data, for the paper's numbers.
    """
    found = []
    for row in rows:
        means, stds = {}, {}
        if row.runs:
            for score in (*SCORES, AREA):
                means[score], stds[score] = mean_and_std(row.values(score))
        results = [run.result or {} for run in row.runs.values()]
        costs = [run.cost for run in row.runs.values()]
        found.append(
            Scores(
                model=row.row.name,
                title=row.row.title,
                means=means,
                stds=stds,
                gammas=tuple(result["choice"]["gamma"] for result in results),
                on_edge=any(r["choice"]["validation"]["gamma_on_edge"] for r in results),
                epochs=tuple(result["choice"]["epoch"] for result in results),
                seconds=tuple(cost["seconds"] for cost in costs if cost),
                peak_mib=max((float(cost["peak_mib"]) for cost in costs if cost), default=math.nan),
                seeds=tuple(row.runs),
                errors=row.errors,
                paper=row.row.paper.get(dataset),
            )
        )
    return found


def compare(
    rows: Sequence[RowResult], reference: str = "tcaf"
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compares one row with every other, by HM and by the area under the seen-unseen curve.

    Args:
        rows: of a table; those without a run in common with the reference are left out.
        reference: name of the row to compare with.

    Returns:
        The comparisons, and which rows cannot be compared, with the reason.
    """
    by_name = {row.row.name: row for row in rows}
    if reference not in by_name:
        return [], []
    first = by_name[reference]
    found: list[dict[str, Any]] = []
    notes = []
    for other in rows:
        seeds = [seed for seed in first.runs if seed in other.runs]
        if other is first or not seeds:
            continue
        titles = {"first": first.row.title, "second": other.row.title}
        try:
            found.append({**titles, **compare_runs(first.runs, other.runs)})
        except TCAFError as error:
            notes.append(f"{other.row.title}: {error}")
    return found, notes


def compare_runs(
    first: Mapping[int, Run], second: Mapping[int, Run]
) -> dict[str, PairedComparison]:
    """Compares two configurations by HM and by curve area, over the seeds that both have.

    Args:
        first: runs by seed.
        second: of the other configuration.

    Raises:
        TCAFError: no seed in common, or see `paired_bootstrap`.
    """
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        raise TCAFError("they have no seed in common")
    pair = [[runs[seed].decisions for seed in seeds] for runs in (first, second)]
    return {
        "harmonic_mean": paired_bootstrap(*pair, score="harmonic_mean"),
        AREA: paired_bootstrap(*pair, score="curve_area"),
    }


def table_csv(rows: Sequence[Scores]) -> str:
    """Returns the table as CSV: scores as fractions, and their standard deviations over seeds."""
    names = [name for score in (*SCORES, AREA) for name in (score, f"{score}_std")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", *names, "seeds", "error"])
    for row in rows:
        cells = [
            "" if math.isnan(value) else f"{value:.6f}"
            for score in (*SCORES, AREA)
            for value in (row.means.get(score, math.nan), row.stds.get(score, math.nan))
        ]
        error = "; ".join(f"seed {seed}: {text}" for seed, text in row.errors.items())
        writer.writerow([row.model, *cells, " ".join(map(str, row.seeds)), error])
    return out.getvalue()


def per_class_csv(rows: Sequence[RowResult]) -> str:
    """Returns the accuracy of each class by row as CSV, fractions, classes with clips only."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "class", "seen", "clips", "accuracy", "accuracy_std"])
    for row in rows:
        if not row.runs:
            continue
        predictions = [run.decisions for run in row.runs.values()]
        for entry in class_accuracies(predictions):
            if entry.clips:
                std = "" if math.isnan(entry.std) else f"{entry.std:.6f}"
                seen = str(entry.seen).lower()
                cells = [row.row.name, entry.name, seen, entry.clips, f"{entry.accuracy:.6f}", std]
                writer.writerow(cells)
    return out.getvalue()


def percent(mean: float, std: float = math.nan) -> str:
    """Returns a fraction in percent, with its standard deviation where there is one; - for NaN."""
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.2f}" + ("" if math.isnan(std) else f" ± {100 * std:.2f}")


def markdown_line(cells: Sequence[str]) -> str:
    """Returns a line of a table in Markdown."""
    # A bar in a cell would end it.
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _spread(values: Sequence[float | int]) -> str:
    """Returns the smallest and largest of several numbers, or the one that they all are."""
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def markdown_rows(rows: Sequence[Scores]) -> list[str]:
    """Returns the table itself in Markdown."""
    with_paper = any(row.paper for row in rows)
    head = ["Model", *SCORES.values()]
    if with_paper:
        head += [f"paper {name}" for name in SCORES.values()]
    head += ["curve area", "gamma", "epoch", "seeds", "time a run", "memory"]
    lines = [markdown_line(head), "|---" + "|---" * (len(head) - 1) + "|"]
    for row in rows:
        cells = [row.title]
        if not row.means:
            cells += ["failed"] * len(SCORES)
        else:
            cells += [percent(row.means[score], row.stds[score]) for score in SCORES]
        if with_paper:
            cells += [f"{value:.2f}" for value in row.paper] if row.paper else [""] * len(SCORES)
        area = row.means.get(AREA)
        seconds = f"{sum(row.seconds) / len(row.seconds):.0f} s" if row.seconds else ""
        memory = "" if math.isnan(row.peak_mib) else f"{row.peak_mib:.0f} MiB"
        gammas = _spread(row.gammas) + (" *" if row.on_edge else "")
        shown = "" if area is None else "-" if math.isnan(area) else f"{area:.3f}"
        cells += [shown, gammas, _spread(row.epochs), " ".join(map(str, row.seeds))]
        lines.append(markdown_line([*cells, seconds, memory]))
    if any(row.on_edge for row in rows):
        lines += ["", "\\* the first or last gamma of the grid: a wider grid may do better."]
    return lines


def markdown_comparisons(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the paired comparisons in Markdown: differences in percent points."""
    if not comparisons:
        return []
    first = comparisons[0]["first"]
    over = "test clips and seeds"
    if comparisons[0]["harmonic_mean"].num_seeds == 1:
        over = "test clips, which says nothing about other trainings than these"
    lines = [
        f"{first} less the other, in points, with the 95 % interval of a paired bootstrap over "
        f"{over}; ahead: share of the samples in which it is the better one.",
        "",
        markdown_line([f"{first} less", "HM", "95 %", "ahead", "curve area", "95 %", "ahead"]),
        "|---|---|---|---|---|---|---|",
    ]
    for entry in comparisons:
        cells = [entry["second"]]
        for score in ("harmonic_mean", AREA):
            found: PairedComparison = entry[score]
            cells += [
                f"{100 * found.difference:+.2f}",
                f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
                f"{100 * found.wins:.0f} %",
            ]
        lines.append(markdown_line(cells))
    return lines


def origin_sentences(rows: Sequence[RowResult], scores: Sequence[Scores]) -> list[str]:
    """Returns the sentences on data, code, hardware and time."""
    runs = [run for row in rows for run in row.runs.values()]
    if not runs:
        return []
    origins = [run.provenance for run in runs]
    last = max(origins, key=lambda origin: origin["started"])
    commits = sorted({str(origin["commit"]) for origin in origins})
    versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
    devices = {o["gpu"] or f"{o['cores']} cores of {o['cpu']}" for o in origins}
    device = " or ".join(sorted(devices))
    threads = sorted({origin["threads"] for origin in origins})
    seconds = sum((sum(row.seconds) for row in scores), 0.0)
    data = last["data"]
    found = last.get("auxiliary")
    further = (
        f" *Auxiliary*: also learnt from {found['videos']:,} further videos with "
        f"{found['labels']:,} labels, so not to be set beside rows that did not."
        if found
        else ""
    )
    if known := last.get("start"):
        further += (
            f" Started from {known['classes']:,} classes of the ready model {known['model']}."
        )
    return [
        f"Data: {data.get('kind')}, {data['clips']:,} clips, fingerprint "
        f"{data['fingerprint'][:12]}. {device}, {' or '.join(map(str, threads))} threads per "
        f"run; {versions}; commit {', '.join(commits)}; last run begun "
        f"{last['started']}. Time of all runs added up: {describe_time(seconds)}.{further}"
    ]


def table_markdown(
    table: Table,
    rows: Sequence[RowResult],
    scores: Sequence[Scores],
    comparisons: Sequence[Mapping[str, Any]],
    commands: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """Returns the whole of `table.md`; notes are sentences."""
    failures = [
        f"- {row.title}, seed {seed}: {text}" for row in scores for seed, text in row.errors.items()
    ]
    blocks = [
        [f"# Table {table.number}: {table.title}"],
        [f"    {command}" for command in commands],
        ["Test scores in percent: mean class accuracy, mean ± standard deviation over seeds."],
        markdown_rows(scores),
        ["Failed:", "", *failures] if failures else [],
        markdown_comparisons(comparisons),
        notes,
        origin_sentences(rows, scores),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def check_results_place(out: Path) -> None:
    """Checks that results may be written to a folder, before hours go into the runs.

    Raises:
        TCAFError: it can be no folder, or files are in it that would be lost.
    """
    check_folder(out)
    for name, begins in (
        ("table.md", "# Table "),
        ("table.csv", "model,"),
        ("per_class.csv", "model,class,"),
        ("partitions.md", "# Random partitions"),
        ("partitions.csv", "model,partition,"),
    ):
        check_file(out / name, begins, "result of tcaf reproduce")


def write_results(
    out: Path,
    table: Table,
    rows: Sequence[RowResult],
    dataset: str,
    command: Sequence[str],
) -> list[Scores]:
    """Writes `table.md`, `table.csv` and `per_class.csv` and returns the table's rows.

    They hold all rows that are known in the folder: these, and those of earlier calls whose runs
    are still done on the same data, seed by seed (`experiments.rows`). Those whose runs have gone
    are left out and named, as are those of another configuration than a row has now.

    Args:
        out: the folder.
        table: of which these are rows.
        rows: what this call has trained.
        dataset: the preset of the data, for the paper's numbers.
        command: of this call.

    Raises:
        TCAFError: the folder cannot be made, or its `rows.json` is damaged.
    """
    make_parents(out / "table.md")
    known = merge_rows(out, table, rows, dataset, command)
    scores = summarise(known.rows, dataset)
    write_text(out / "table.csv", table_csv(scores))
    comparisons, not_compared = compare(known.rows)
    notes = [f"Not compared with {note}." for note in not_compared]
    if known.kept:
        notes.append(f"Kept from earlier calls: {'; '.join(known.kept)}.")
    if known.lost:
        lost = f"No longer in this table: {'; '.join(known.lost)}."
        warnings.warn(lost, RowsLostWarning, stacklevel=2)
        notes.append(lost)
    text = table_markdown(table, known.rows, scores, comparisons, known.commands, notes)
    write_text(out / "table.md", text)
    write_text(out / "per_class.csv", per_class_csv(known.rows))
    return scores
