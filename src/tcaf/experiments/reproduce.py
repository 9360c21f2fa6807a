"""Reproducing a table: which runs it takes, running them side by side, carrying on after a kill.

Owns the plan of runs, how a process trains one, and what is skipped since it is done. A run's
folder is named after its configuration and data, so another configuration never passes for it. The
content of the tables is `tables.py`, writing them `reports.results`, the processes
`execution.processes`.
"""

import hashlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tcaf.data.features import Modality
from tcaf.data.random_partitions import base_split, partition_name
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.execution.outcomes import Failed, Failure
from tcaf.execution.processes import HERE, Place, answers
from tcaf.execution.worker import Send
from tcaf.experiments.layers import Layer, are_anchored, experiment_layers, resolve
from tcaf.experiments.tables import Row, Table, no_meaning, row_settings
from tcaf.files.atomic import write_json, write_text
from tcaf.plugins import load_plugin
from tcaf.settings.experiment import TEXT, Experiment
from tcaf.systems.reads import read_changes, unread_settings, without
from tcaf.systems.registry import SYSTEMS, configure, find_system
from tcaf.text.of_backbone import resolved
from tcaf.training.auxiliary import auxiliary_content
from tcaf.training.observers import EpochRecord
from tcaf.training.provenance import class_text_sha256, split_sha256
from tcaf.training.run import UNIMPORTANT, Run, train
from tcaf.training.start import start_content


@dataclass(frozen=True)
class Job:
    """One run of a table.

    Args:
        row: of the table.
        experiment: all settings, the seed among them.
        out: the run directory.
    """

    row: Row
    experiment: Experiment
    out: Path

    @property
    def name(self) -> str:
        """What people are shown."""
        which = f"partition {self.partition}, " if self.partition else ""
        return f"{self.row.name}, {which}seed {self.experiment.seed}"

    @property
    def partition(self) -> int:
        """Number of the random partition that it is on; 0 for the store's own split."""
        return base_split(self.experiment.data.split)[1]


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Args:
        job: the run.
        error: why it failed, in one line; None if it is done.
        skipped: it was done before.
    """

    job: Job
    error: str | None = None
    skipped: bool = False


@dataclass(frozen=True)
class Moment:
    """How far a job that runs is.

    Args:
        job: the run.
        stage: 1 or 2; 0 before the first.
        epochs: of the stage.
        record: of the epoch that is done; None when a stage begins.
        batches: share of the epoch that is done.
    """

    job: Job
    stage: int = 0
    epochs: int = 0
    record: EpochRecord | None = None
    batches: float = 0.0


Watcher = Callable[[Moment | Outcome], None]


def plan(
    table: Table,
    store: FeatureStore,
    *,
    config: Sequence[str],
    seeds: Sequence[int],
    runs: Path,
    models: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    partitions: int = 0,
) -> list[Job]:
    """Returns the runs that a table takes, row by row.

    Args:
        table: what is compared.
        store: the clips.
        config: presets or TOML files, in order (`experiments.layers`).
        seeds: of the runs of each row.
        runs: folder of the run directories.
        models: names of the rows wanted; none for all but `left_out`.
        options: further settings for all rows that read them, nested as TOML files are.
        partitions: random partitions of the split's classes to run on in place of the split itself.

    Raises:
        TCAFError: a row or setting that there is not, one that no row reads, a row that is named
            and cannot be run on this data, a repeated seed, or a value not allowed.
    """
    rows = _chosen(table.rows, models)
    if outside := rows_outside(table, store):
        if named := [row.name for row in rows if models and row.name in outside]:
            raise TCAFError(
                f"row {named[0]!r} cannot be run on store {store.path}: {outside[named[0]]}"
            )
        rows = [row for row in rows if row.name not in outside]
    if "seed" in (options or {}) or "system" in (options or {}):
        raise TCAFError("a table's seeds are --seeds, and a row says what it trains")
    if partitions < 0:
        raise TCAFError(f"--partitions must be at least 0, got {partitions}")
    if len(set(seeds)) != len(seeds) or not seeds:
        raise TCAFError(f"expected different seeds, at least one, got {list(seeds)}")
    layers_of = {
        row.name: experiment_layers(
            store,
            config=config,
            system=row.system,
            options=options,
            row=Layer(row.name, row.changes),
        )
        for row in table.rows
    }
    # What some rows alone read is theirs: no learning rate is asked of a closed form.
    experiments = {
        row.name: resolve([replace(layer, by_hand=False) for layer in layers_of[row.name]])
        for row in rows
    }
    if not models:
        rows = [row for row in rows if not _lacks_text(experiments[row.name], store)]
    jobs = []
    for row in rows:
        experiment = experiments[row.name]
        _check_row_is_kept(row, experiment, store.spec.modalities)
        # An option that the system does not have is an error now, not after hours of other rows.
        dims = {"audio_dim": store.spec.audio_dim, "visual_dim": store.spec.visual_dim}
        configure(experiment, **dims, text_dim=1)
        for own in _on_partitions(experiment, partitions):
            folder = runs / f"{row.name}-{_configuration_hash(own, store)}"
            jobs += [Job(row, replace(own, seed=s), run_folder(folder, s)) for s in seeds]
    further = [job for job in jobs if job.experiment.data.auxiliary]
    if further and (alone := [job.row.name for job in jobs if job not in further]):
        raise TCAFError(
            f"row {alone[0]!r} does not learn from data.auxiliary, and one table does not mix rows "
            f"that do with others: name rows with --models, such as {further[0].row.name}"
        )
    # A file may be for the whole table; what was typed is for the rows asked for.
    _check_some_row_reads(table.rows, layers_of, typed=False)
    _check_some_row_reads(rows, layers_of, typed=True)
    return jobs


_NO_TEXT = (
    "the features are of no model that embeds text too; a --config file may say of "
    "[text_spaces.visual] and [text_spaces.audio] where they come from"
)


def _lacks_text(experiment: Experiment, store: FeatureStore) -> bool:
    """Returns whether a system reads text spaces of its own which the features do not have."""
    system = find_system(experiment.system)
    if system.spaces == (TEXT,):
        return False
    try:
        for settings in system.text_settings(experiment).values():
            resolved(settings, store.spec)
    except TCAFError:
        return True
    return False


def left_out(
    table: Table, store: FeatureStore, jobs: Sequence[Job], models: Sequence[str] = ()
) -> dict[str, str]:
    """Returns the rows that a plan has left out, and why.

    Args:
        table: what is compared.
        store: the clips.
        jobs: from `plan`.
        models: as they were given to it; of rows that were named none is left out.
    """
    planned = {job.row.name for job in jobs}
    absent = [row.name for row in table.rows if not models and row.name not in planned]
    outside = rows_outside(table, store)
    return {name: outside.get(name, _NO_TEXT) for name in absent}


def _on_partitions(experiment: Experiment, partitions: int) -> list[Experiment]:
    """Returns an experiment as it is, or on each of some random partitions of its classes."""
    data = experiment.data
    if partitions and base_split(data.split)[1]:
        raise TCAFError(f"--partitions are of a split of the store, got data.split {data.split!r}")
    names = [partition_name(data.split, number) for number in range(1, partitions + 1)]
    return [replace(experiment, data=replace(data, split=n)) for n in names] or [experiment]


def _check_some_row_reads(
    rows: Sequence[Row], layers_of: Mapping[str, Sequence[Layer]], *, typed: bool
) -> None:
    """Refuses settings of files, or typed ones, that none of the rows reads."""
    unread = [
        {
            name
            for layer in layers_of[row.name]
            if layer.by_hand and (layer.name == "options") == typed
            for name in unread_settings(
                find_system(row.system), layer.settings, anchored=are_anchored(layers_of[row.name])
            )
        }
        for row in rows
    ]
    if nobody := set.intersection(*unread):
        raise TCAFError(f"no row reads {shorten(sorted(nobody))}; leave it out")


def run_folder(folder: Path, seed: int) -> Path:
    """Returns where the run of a seed lies in the folder of its configuration."""
    return folder / f"seed_{seed}"


def rows_outside(table: Table, store: FeatureStore) -> dict[str, str]:
    """Returns the rows that cannot be run on a store, and why: those of a modality it lacks."""
    reasons = {row.name: no_meaning(row, store.spec.modalities) for row in table.rows}
    return {name: why for name, why in reasons.items() if why is not None}


def _check_row_is_kept(row: Row, experiment: Experiment, there: Sequence[Modality]) -> None:
    """Refuses settings that would make a row another than its title says.

    Args:
        row: of the table.
        experiment: its settings.
        there: modalities of the data; of one alone, `both` is that one.
    """
    wanted = row_settings(row)
    if len(there) == 1 and wanted.get("model", {}).get("modalities") == "both":
        wanted["model"]["modalities"] = there[0]
    asked = experiment.to_json()
    for section, settings in wanted.items():
        for name, value in settings.items():
            if asked[section][name] != value:
                raise TCAFError(
                    f"row {row.name!r} is about {section}.{name} = {value!r}, which no "
                    "option can change; name other rows with --models"
                )


def _chosen(rows: Sequence[Row], models: Sequence[str]) -> list[Row]:
    names = {row.name for row in rows}
    for name in models:
        if name not in names:
            raise _no_row(name, rows)
    return [row for row in rows if not models or row.name in models]


def _no_row(name: str, rows: Sequence[Row]) -> TCAFError:
    names = [row.name for row in rows]
    hint = did_you_mean(name, names)
    return TCAFError(f"the table has no row {name!r}; it has {', '.join(names)}{hint}")


def _configuration_hash(experiment: Experiment, store: FeatureStore) -> str:
    """Returns a short name for a configuration, seed aside, and the data that it runs on."""
    value = without(read_changes(replace(experiment, seed=0)), UNIMPORTANT)
    if code := SYSTEMS.sha256(experiment.system):
        value["code"] = code  # a model of the user's own is another one once its file has changed
    value["store"] = [store.fingerprint, split_sha256(store, experiment)]
    value |= class_text_sha256(experiment, store)
    if further := auxiliary_content(experiment):
        value["auxiliary"] = further
    if known := start_content(experiment):
        value["start"] = known
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def is_done(job: Job) -> bool:
    """Returns whether a run is over; its folder's name stands for its configuration and data."""
    return Run(job.out).result is not None


@dataclass
class _Reporter:
    """Sends the parent process how far a training is."""

    send: Send
    stage: int = 0
    epochs: int = 0

    def stage_started(self, stage: int, epochs: int, done: int) -> None:
        """Sends which stage begins."""
        self.stage, self.epochs = stage, epochs
        self.send((stage, epochs, None, 0.0))

    def batch_done(
        self, epoch: int, batch: int, num_batches: int, losses: dict[str, float]
    ) -> None:
        """Sends how much of the epoch is done."""
        self.send((self.stage, self.epochs, None, batch / num_batches))

    def epoch_done(self, record: EpochRecord) -> None:
        """Sends the epoch's record."""
        self.send((self.stage, self.epochs, record, 0.0))


def _open_worker(store: Path, plugin: Path | None) -> Callable[[Job, Send], None]:
    """Returns what a process does with its run; time and peak memory are the run's own too."""
    start = time.perf_counter()
    if plugin is not None:
        load_plugin(plugin)
    opened = FeatureStore.open(store)

    def work(job: Job, send: Send) -> None:
        resume = (job.out / "config.json").is_file()
        result = train(job.experiment, opened, job.out, resume=resume, observer=_Reporter(send))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Kilobytes, but bytes on macOS.
        peak_mib = peak / (2**20 if sys.platform == "darwin" else 2**10)
        # Of a run that was taken up again, the epochs that other processes trained count too.
        cost = {
            "seconds": round(max(time.perf_counter() - start, result["seconds"]), 1),
            "peak_mib": round(peak_mib),
            "threads": torch.get_num_threads(),
        }
        write_json(job.out / "process.json", cost)

    return work


def run_jobs(
    jobs: Sequence[Job],
    store: Path,
    watcher: Watcher,
    *,
    num_jobs: int | None = None,
    plugin: Path | None = None,
    place: Place = HERE,
) -> list[Outcome]:
    """Trains all runs that are not done, some side by side, and carries on after a failed one.

    Each run is a process of its own with its share of the cores that this process may use. One that
    was interrupted is taken up where it was; one whose process crashes has failed, and is tried
    again when this is called again.

    Args:
        jobs: from `plan`.
        store: folder of the feature store.
        watcher: called with the moments of each run, and with its outcome.
        num_jobs: runs at a time; by default one for each machine.
        plugin: a Python file that registers systems.
        place: where the processes run.

    Returns:
        What became of each job, in their order.

    Raises:
        TCAFError: num_jobs is not positive.
    """
    num_jobs = place.machines if num_jobs is None else num_jobs
    if num_jobs < 1:
        raise TCAFError(f"--jobs must be at least 1, got {num_jobs}")
    place.check_shared([store, *([plugin] if plugin else [])], jobs[0].out if jobs else None)
    outcomes = {job.out: Outcome(job, skipped=True) for job in jobs if is_done(job)}
    for outcome in outcomes.values():
        watcher(outcome)

    def watch(job: Job, moment: tuple[Any, ...] | None) -> None:
        watcher(Moment(job, *(moment or ())))

    done = answers(
        [job for job in jobs if job.out not in outcomes],
        _open_worker,
        (store, plugin),
        num_jobs,
        watch=watch,
        fresh=True,
        tries=1,
        raises=False,
        place=place,
    )
    with closing(done):
        for job, answer in done:
            outcomes[job.out] = _outcome(job, answer)
            watcher(outcomes[job.out])
    return [outcomes[job.out] for job in jobs]


def _outcome(job: Job, answer: Failure | None) -> Outcome:
    """Returns what became of a job, and keeps the traceback of an error that nobody expects."""
    file = job.out.with_name(f"{job.out.name}_error.txt")
    if answer is None:
        file.unlink(missing_ok=True)
        return Outcome(job)
    if not isinstance(answer, Failed):
        return Outcome(job, str(answer))
    words = " ".join(str(answer.error).split())
    if isinstance(answer.error, TCAFError):
        return Outcome(job, words)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, answer.trace)
    return Outcome(job, f"{words} (traceback in {file})")


@dataclass(frozen=True)
class RowResult:
    """A row of a table after its runs.

    Args:
        row: of the table.
        folder: of its configuration, in which the runs lie.
        runs: those of its runs that are done, by seed.
        errors: why others are not, by seed.
    """

    row: Row
    folder: Path
    runs: Mapping[int, Run]
    errors: Mapping[int, str]

    def values(self, score: str) -> list[float]:
        """Returns a test score of each run that is done; NaN where it has no meaning."""
        found = [(run.result or {})["test"][score] for run in self.runs.values()]
        return [math.nan if value is None else value for value in found]


def collect(outcomes: Sequence[Outcome]) -> list[RowResult]:
    """Groups what became of jobs by row, in their order."""
    rows: dict[str, RowResult] = {}
    for outcome in outcomes:
        job = outcome.job
        found = rows.get(job.row.name, RowResult(job.row, job.out.parent, {}, {}))
        seed = job.experiment.seed
        if outcome.error is None:
            found = replace(found, runs={**found.runs, seed: Run(job.out)})
        else:
            found = replace(found, errors={**found.errors, seed: outcome.error})
        rows[job.row.name] = found
    return list(rows.values())


def collect_by_partition(outcomes: Sequence[Outcome]) -> dict[int, list[RowResult]]:
    """Groups what became of jobs by random partition, then by row."""
    numbers = sorted({outcome.job.partition for outcome in outcomes})
    return {n: collect([o for o in outcomes if o.job.partition == n]) for n in numbers}
