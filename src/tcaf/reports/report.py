"""From run directories to the one page about them.

Owns what a report is made of: runs grouped by configuration, what is compared, which run and clip
are shown in detail, and what is left out with its reason. Drawing is `plots` and its neighbours,
the page is `page`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tcaf.data.store import FeatureStore
from tcaf.errors import MissingExtraError, TCAFError, shorten
from tcaf.evaluation.calibration import NUM_BINS, Reliability, pooled
from tcaf.evaluation.decisions import FILE
from tcaf.evaluation.scores import SCORES
from tcaf.evaluation.statistics import class_accuracies, mean_and_std
from tcaf.experiments.layers import dataset_of
from tcaf.experiments.tables import PaperScores, row_of
from tcaf.files.remote import local_path
from tcaf.reports.contents import (
    ClassRow,
    ComparisonRow,
    NamedText,
    PageFigure,
    Provenance,
    ReportPage,
    ResultRow,
    Score,
    differing_settings,
)
from tcaf.reports.detail import Detail, Series
from tcaf.reports.plots import (
    CurveSeries,
    SeenUnseenCurve,
    class_accuracy_bars,
    seen_unseen_curves,
    unseen_confusion,
    unseen_counts,
)
from tcaf.reports.reliability import reliability_diagram
from tcaf.reports.results import compare_runs
from tcaf.reports.timelines import training_curves
from tcaf.settings.experiment import Experiment
from tcaf.systems.reads import read_settings
from tcaf.systems.registry import SYSTEMS
from tcaf.training.run import Run

COMPARED = {"harmonic_mean": "HM", "curve_area": "curve area"}


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Returns the runs in folders, and notes on those that are not over.

    Args:
        paths: run directories, or folders with runs somewhere in them, or their addresses.

    Raises:
        TCAFError: a folder holds no run, or none is over.
    """
    runs, notes = [], []
    for path in map(local_path, paths):
        inside = [path] if (path / "config.json").is_file() else []
        inside = inside or sorted(file.parent for file in path.rglob("config.json"))
        if not inside:
            raise TCAFError(f"expected a run of `tcaf train` or a folder of runs at {path}")
        runs += [Run(folder) for folder in inside]
    runs = list({run.path.resolve(): run for run in runs}.values())
    over = [run for run in runs if run.result is not None and (run.path / FILE).is_file()]
    if open_ := [str(run.path) for run in runs if run not in over]:
        notes.append(f"Runs without a result and {FILE} are left out: {shorten(open_)}.")
    if not over:
        raise TCAFError(
            f"expected a run that is over, none of these has a result and {FILE}: {shorten(open_)}"
        )
    return over, notes


def group(runs: Sequence[Run]) -> list[Series]:
    """Groups runs that differ in their seed alone, in the order in which they were given.

    Settings that the system does not read make no difference, nor do those that an older release
    did not have. Of several runs of one configuration and seed the first counts.
    """
    groups: dict[str, dict[int, Run]] = {}
    experiments: dict[str, Experiment] = {}
    for run in runs:
        experiment, origin = run.experiment, run.provenance
        data = [origin["data"]["fingerprint"], origin["data"]["split"], origin.get("plugin")]
        key = json.dumps([_settings(experiment), data], sort_keys=True)
        experiments[key] = experiment
        groups.setdefault(key, {}).setdefault(experiment.seed, run)
    series = []
    for key, by_seed in groups.items():
        experiment = replace(experiments[key], seed=min(by_seed))
        system = SYSTEMS.get(experiment.system)
        title = system.title if system else experiment.system
        if experiment.data.auxiliary:
            title += " (auxiliary)"
        if experiment.data.start:
            title += f" (from {experiment.data.start})"
        series.append(Series(title, {s: by_seed[s] for s in sorted(by_seed)}, experiment))
    return _told_apart(series)


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Returns the settings that an experiment's system reads, or all where it is not known here."""
    experiment = replace(experiment, seed=0)
    return read_settings(experiment) if experiment.system in SYSTEMS else experiment.to_json()


def _told_apart(series: list[Series]) -> list[Series]:
    """Adds to equal names the settings in which the series differ."""
    named = []
    for one in series:
        same = [other for other in series if other.name == one.name]
        if len(same) == 1:
            named.append(one)
            continue
        configs = [_settings(other.experiment) for other in same]
        place = same.index(one)
        words = [
            f"{row.setting.rpartition('.')[2]} {row.values[place]}"
            for row in differing_settings(configs)
        ]
        differing = ", ".join(words[:3]) or f"series {place + 1}"
        named.append(replace(one, name=f"{one.name} ({differing})"))
    return named


def _known(value: float) -> float | None:
    """Returns a number that can be shown; None for one that cannot be computed."""
    return None if np.isnan(value) else value


def _score(values: Sequence[float], paper: float | None = None) -> Score | None:
    if np.isnan(values).any():
        return None
    mean, std = mean_and_std(np.array(values, float))
    return Score(mean, _known(std), paper)


def _paper(one: Series, store: FeatureStore | None) -> PaperScores | None:
    """Returns the paper's scores of a series, if it is a row of the paper's on the paper's data."""
    row = row_of(one.experiment)
    if store is None or row is None or store.fingerprint != one.fingerprint:
        return None
    return row.paper.get(f"{dataset_of(store)}_{one.experiment.data.split}")


def result_row(one: Series, store: FeatureStore | None) -> ResultRow:
    """Returns a series as a row of the table of results.

    Args:
        one: the series.
        store: its clips, by which it is known whether the paper has numbers for them.
    """
    theirs = _paper(one, store)
    scores = {
        name: _score(
            [getattr(result, name) for result in one.results],
            theirs[number] / 100 if theirs else None,
        )
        for number, name in enumerate(SCORES)
    }
    return ResultRow(
        model=one.name,
        seeds=len(one.runs),
        seen=scores["seen"],
        unseen=scores["unseen"],
        harmonic_mean=scores["harmonic_mean"],
        zsl=scores["zsl"],
        area=_score([result.curve_area for result in one.results]),
        calibration=_calibration(one),
        gammas=tuple(result.gamma for result in one.results),
    )


def _calibration(one: Series) -> Score | None:
    kept = [(run.result or {})["test"].get("reliability") for run in one.runs.values()]
    return _score([each["error"] for each in kept]) if all(kept) else None


def _comparisons(series: Sequence[Series], notes: list[str]) -> tuple[ComparisonRow, ...]:
    """Compares the first series with each of the others, over the seeds that both have."""
    first, rows = series[0], []
    for other in series[1:]:
        try:
            found = compare_runs(first.runs, other.runs)
        except TCAFError as error:
            notes.append(f"{first.name} and {other.name} are not compared: {error}.")
            continue
        for score, comparison in found.items():
            ends = _known(comparison.low), _known(comparison.high)
            difference, wins = _known(comparison.difference), _known(comparison.wins)
            remark = "" if wins is None else f"ahead in {100 * wins:.0f} % of the samples"
            rows.append(
                ComparisonRow(
                    first.name, other.name, COMPARED[score], difference, *ends, remark=remark
                )
            )
    return tuple(rows)


def _figures(series: Sequence[Series], detail: Detail, notes: list[str]) -> tuple[PageFigure, ...]:
    """Draws all figures that the runs and the clips at hand allow."""
    first = detail.series
    figures = [
        *curve_figures(series, notes),
        class_figure(first),
        *confusion_figures(first, notes),
        *_reliability(first, notes),
        _training(detail),
    ]
    if detail.store is None:
        return tuple(figures)
    wanted: list[tuple[str, Callable[[], PageFigure], bool]] = [
        ("embedding map", detail.embedding_map, bool(detail.classes)),
        ("attention over time", detail.attention, bool(detail.clip)),
    ]
    for what, draw, asked_for in wanted:
        try:
            figures.append(draw())
        except MissingExtraError:
            raise
        except TCAFError as error:
            if asked_for:
                raise
            notes.append(f"The {what} is left out: {error}.")
    return tuple(figures)


def class_figure(one: Series) -> PageFigure:
    """Returns the figure of a series' accuracy by class."""
    accuracies = class_accuracies(one.clip_decisions)
    return PageFigure.of(
        "classes",
        lambda width: class_accuracy_bars(accuracies, width=width),
        title="Accuracy by class",
        caption=f"Share of a class's test clips that {one.name} names rightly among all "
        "classes, seen and unseen; whiskers are one standard deviation over seeds.",
        alt="Bars of accuracy by class.",
    )


def curve_figures(series: Sequence[Series], notes: list[str]) -> list[PageFigure]:
    """Returns the figure of seen-unseen curves, of the series whose clips are of both halves."""
    curves = []
    for one in series:
        if missing := one.clip_decisions[0].decisions.empty_half:
            notes.append(
                f"{one.name} has no seen-unseen curve: no test clip is of {missing} classes."
            )
            continue
        runs = tuple(SeenUnseenCurve.of(result) for result in one.results)
        curves.append(CurveSeries(one.name, runs))
    if not curves:
        return []
    figure = PageFigure.of(
        "curves",
        lambda width: seen_unseen_curves(curves, width=width),
        title="Seen-unseen curve",
        caption="Accuracy on seen over unseen classes for every gamma, mean over seeds; the dot is "
        "the gamma that validation chose. A ranking by area does not hang on it.",
        alt="Curves of accuracy on seen classes over accuracy on unseen classes.",
    )
    return [figure]


def confusion_figures(one: Series, notes: list[str]) -> list[PageFigure]:
    """Returns the confusion of unseen classes over all runs of a series, if clips are of such."""
    decided = one.clip_decisions
    if decided[0].decisions.empty_half == "unseen":
        notes.append(
            "The confusion of unseen classes is left out: no test clip is of unseen classes."
        )
        return []
    counts = np.sum([unseen_counts(d.decisions, d.classes.unseen_ids) for d in decided], axis=0)
    names = [decided[0].classes.names[i] for i in decided[0].classes.unseen_ids]
    figure = PageFigure.of(
        "confusion",
        lambda width: unseen_confusion(counts, names, width=width),
        title="Confusion of unseen classes",
        caption=f"Test clips of unseen classes by the nearest unseen class, {one.name}: "
        "percent of the row.",
        alt="Confusion matrix of the unseen classes.",
    )
    return [figure]


def _reliability(one: Series, notes: list[str]) -> list[PageFigure]:
    """Returns how reliable the probabilities of a series are, if all of its runs have kept that."""
    parts = {}
    for name, place in (("validation", "choice"), ("test", "test")):
        kept = [(run.result or {})[place].get("reliability") for run in one.runs.values()]
        if all(kept):
            parts[name] = pooled([Reliability(**each) for each in kept])
    if not parts:
        notes.append(f"The reliability of {one.name} is left out: its runs hold none.")
        return []
    figure = PageFigure.of(
        "reliability",
        lambda width: reliability_diagram(parts, width=width),
        title="Reliability of probabilities",
        caption=f"How often the best answer of {one.name} is right, by its probability, in "
        f"{NUM_BINS} bins; each class counts alike. Below the dashed line answers are too sure. "
        "The temperature was fitted on the validation clips with the weights of stage 1; the test "
        "is of other clips, classes and weights.",
        alt="Share of right answers over the probability of the best answer, beside the diagonal.",
    )
    return [figure]


def _training(detail: Detail) -> PageFigure:
    """Returns the training of the run that is shown in detail."""
    records = detail.run.records()
    chosen = (detail.run.result or {})["choice"]["epoch"]
    return PageFigure.of(
        "training",
        lambda width: training_curves(records, chosen_epoch=chosen, width=width),
        title="Training",
        caption=f"Losses, validation scores and learning rate of {detail.name}; the line marks "
        "what validation chose: an epoch or, of a closed form, the regularisers.",
        alt="Losses and validation scores over epochs.",
    )


def _class_rows(series: Sequence[Series]) -> tuple[ClassRow, ...]:
    """Returns each class's accuracy in all series that know it."""
    tables = [{row.name: row for row in class_accuracies(one.clip_decisions)} for one in series]
    rows = []
    for name, row in tables[0].items():
        if not row.clips:
            continue
        found = [table.get(name) for table in tables]
        scores = tuple(
            Score(one.accuracy, _known(one.std)) if one is not None and one.clips else None
            for one in found
        )
        rows.append(ClassRow(name, row.seen, row.clips, scores))
    return tuple(rows)


def _provenance(one: Series) -> list[Provenance]:
    found = []
    for run in one.runs.values():
        origin, cost = run.provenance, run.cost
        data = origin["data"]
        facts = {
            "folder": str(run.path),
            "commit": str(origin["commit"]),
            "command": " ".join(origin["command"]),
            "started": origin["started"],
            "versions": ", ".join(f"{k} {v}" for k, v in origin["versions"].items()),
            "device": f"{origin['gpu'] or origin.get('cpu', origin['machine'])}, "
            f"{origin['threads']} threads",
            "data": f"{data.get('kind')}, {data['clips']:,} clips, {data['fingerprint'][:12]}",
            "training": f"{(run.result or {})['seconds']:.0f} s",
        }
        if resumed := origin.get("resumed"):
            facts["taken up again"] = ", ".join(again["started"] for again in resumed)
        if cost is not None:
            facts["whole process"] = f"{cost['seconds']:.0f} s, {cost['peak_mib']:.0f} MiB"
        found.append(Provenance(f"{one.name}, seed {origin['seed']}", tuple(facts.items())))
    return found


def open_store(series: Series, store: Path | None, notes: list[str]) -> FeatureStore | None:
    """Opens the clips of a series: the store named, or where it was when the run was trained."""
    if store is not None:
        opened = FeatureStore.open(store)
        if opened.fingerprint != series.fingerprint:
            raise TCAFError(f"store {store} holds other data than {series.first.path} was run on")
        return opened
    found, why = series.first.find_store()
    if found is None:
        notes.append(
            f"Embedding map and attention are left out, as {why}. A store with the same clips may "
            "be named with --store."
        )
    return found


def build_report(
    paths: Sequence[Path],
    *,
    store: Path | None = None,
    classes: Sequence[str] = (),
    clip: str = "",
) -> ReportPage:
    """Gathers everything that a report shows.

    Args:
        paths: run directories, or folders of runs; the first one's configuration is the one shown
            in detail and compared with the others.
        store: the clips; None looks where they were when the run was trained.
        classes: of the embedding map; none for the five seen and two unseen ones with most clips.
        clip: id of the test clip whose attention is shown; empty for one rightly named.

    Raises:
        TCAFError: see `find_runs`; an unknown class or clip; other data in the store; or
            matplotlib is not installed.
    """
    found, notes = find_runs(paths)
    series = group(found)
    if any(not (path / "config.json").is_file() for path in paths):
        # Folders of runs come by name; tables' order says more.
        order = list(SYSTEMS)
        known = {name: number for number, name in enumerate(order)}
        series.sort(key=lambda one: known.get(one.experiment.system, len(order)))
    first = series[0]
    opened = open_store(first, store, notes)
    if opened is not None:
        opened.verify_once()
    detail = Detail(first, first.first, opened, tuple(classes), clip)
    runs = [run for one in series for run in one.runs.values()]
    clips = len(first.clip_decisions[0].ids)
    candidates = first.clip_decisions[0].classes
    several = len(series) > 1
    return ReportPage(
        title="Audio-visual zero-shot classification: " + (first.name if not several else "runs"),
        summary=(
            f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {len(series)} "
            f"configuration{'s' if several else ''}, tested on {clips:,} clips among "
            f"{len(candidates.seen)} seen and {len(candidates.unseen_ids)} unseen classes.",
        ),
        results=tuple(result_row(one, opened) for one in series),
        results_note="Mean and standard deviation over seeds; validation clips chose gamma.",
        comparisons=_comparisons(series, notes),
        comparisons_note="Paired bootstrap over test clips and common seeds, 95 % interval.",
        figures=_figures(series, detail, notes),
        class_models=tuple(one.name for one in series),
        classes=_class_rows(series),
        configurations=tuple(
            NamedText(one.name, json.dumps(one.experiment.to_json(), indent=2)) for one in series
        ),
        differences=differing_settings(
            [replace(one.experiment, seed=0).to_json() for one in series]
        ),
        provenance=tuple(fact for one in series for fact in _provenance(one)),
        notes=tuple(notes),
        footer=f"Made by tcaf {version('tcaf')}.",
    )
