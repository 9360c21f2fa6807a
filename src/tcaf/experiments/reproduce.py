"""Reproducing a table: which runs it takes, running them side by side, carrying on after a kill.

Owns the plan of runs, the processes that train them, and what is skipped since it is done. A run's
folder is named after its configuration and data, so another configuration never passes for it. The
content of the tables is `tables.py`, writing them `reports.results`.
"""

import hashlib
import json
import math
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.experiments.layers import Layer, experiment_layers, resolve, unread_settings
from tcaf.experiments.tables import Row, Table, row_settings
from tcaf.files.atomic import write_json, write_text
from tcaf.settings.experiment import Experiment
from tcaf.systems.registry import PLUGIN_SHA256, configure, find_system, load_plugin
from tcaf.training.observers import EpochRecord
from tcaf.training.provenance import split_sha256, text_sha256
from tcaf.training.run import UNIMPORTANT, Run, train


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
        return f"{self.row.name}, seed {self.experiment.seed}"


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
    """What a watcher is told about a job that runs.

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
) -> list[Job]:
    """Returns the runs that a table takes, row by row.

    Args:
        table: what is compared.
        store: the clips.
        config: presets or TOML files, in order (`experiments.layers`).
        seeds: of the runs of each row.
        runs: folder of the run directories.
        models: names of the rows wanted; none for all.
        options: further settings for all rows that read them, nested as TOML files are.

    Raises:
        TCAFError: a row or setting that there is not, one that no row reads, a repeated seed, or a
            value not allowed.
    """
    rows = _chosen(table.rows, models)
    if "seed" in (options or {}) or "system" in (options or {}):
        raise TCAFError("a table's seeds are --seeds, and a row says what it trains")
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
        for row in rows
    }
    _check_all_are_read(rows, layers_of)
    jobs = []
    for row in rows:
        # What some rows alone read is theirs: no learning rate is asked of a closed form.
        experiment = resolve([replace(layer, by_hand=False) for layer in layers_of[row.name]])
        _check_row_is_kept(row, experiment)
        # An option that the system does not have is said now, not after hours of other rows.
        dims = {"audio_dim": store.spec.audio_dim, "visual_dim": store.spec.visual_dim}
        configure(experiment, **dims, text_dim=1)
        folder = runs / f"{row.name}-{_configuration_hash(experiment, store)}"
        jobs += [Job(row, replace(experiment, seed=s), folder / f"seed_{s}") for s in seeds]
    return jobs


def _check_all_are_read(rows: Sequence[Row], layers_of: Mapping[str, Sequence[Layer]]) -> None:
    """Refuses settings of a person's that none of the rows reads."""
    unread = [
        {
            name
            for layer in layers_of[row.name]
            if layer.by_hand
            for name in unread_settings(find_system(row.system), layer.settings)
        }
        for row in rows
    ]
    if nobody := set.intersection(*unread):
        raise TCAFError(f"no row reads {shorten(sorted(nobody))}; leave it out")


def _check_row_is_kept(row: Row, experiment: Experiment) -> None:
    """Refuses settings that would make a row another than its title says."""
    wanted = row_settings(row)
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
    value = replace(experiment, seed=0).changes()
    for section, names in UNIMPORTANT.items():
        kept = {k: v for k, v in value.pop(section, {}).items() if k not in names}
        value |= {section: kept} if kept else {}
    if code := PLUGIN_SHA256.get(experiment.system):
        value["code"] = code  # a model of the user's own is another one once its file has changed
    value["store"] = [store.fingerprint, split_sha256(store, experiment)]
    value["class_text"] = text_sha256(experiment, store)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def is_done(job: Job) -> bool:
    """Returns whether a run is over; its folder's name stands for its configuration and data."""
    return Run(job.out).result is not None


class _Reporter:
    """Tells the parent process about epochs through a pipe."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.stage, self.epochs = 0, 0

    def stage_started(self, stage: int, epochs: int, done: int) -> None:
        """Sends which stage begins."""
        self.stage, self.epochs = stage, epochs
        self.connection.send(("moment", stage, epochs, None, 0.0))

    def batch_done(
        self, epoch: int, batch: int, num_batches: int, losses: dict[str, float]
    ) -> None:
        """Sends how much of the epoch is done."""
        self.connection.send(("moment", self.stage, self.epochs, None, batch / num_batches))

    def epoch_done(self, record: EpochRecord) -> None:
        """Sends the epoch's record."""
        self.connection.send(("moment", self.stage, self.epochs, record, 0.0))


def _work(
    connection: Connection,
    experiment: dict[str, Any],
    store: Path,
    out: Path,
    threads: int,
    plugin: Path | None,
) -> None:
    """Trains one run in a process of its own, so that time and peak memory are its own too."""
    # Ctrl-C reaches the whole process group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    start = time.perf_counter()
    try:
        if plugin is not None:
            load_plugin(plugin)
        result = train(
            Experiment.from_json(experiment),
            FeatureStore.open(store),
            out,
            resume=(out / "config.json").is_file(),
            observer=_Reporter(connection),
        )
    except TCAFError as error:
        connection.send(("failed", " ".join(str(error).split())))
        return
    except Exception as error:  # noqa: BLE001 - a row's failure must not end the table
        file = out.parent / f"{out.name}_error.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, traceback.format_exc())
        words = " ".join(f"{type(error).__name__}: {error}".split())
        connection.send(("failed", f"{words} (traceback in {file})"))
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes, but bytes on macOS.
    peak_mib = peak / (2**20 if sys.platform == "darwin" else 2**10)
    # Of a run that was taken up again, the epochs that other processes trained count too.
    seconds = max(time.perf_counter() - start, result["seconds"])
    (out.parent / f"{out.name}_error.txt").unlink(missing_ok=True)
    write_json(
        out / "process.json",
        {"seconds": round(seconds, 1), "peak_mib": round(peak_mib), "threads": threads},
    )


@dataclass
class _Worker:
    """A process that trains a job, and what it told."""

    job: Job
    process: Any
    connection: Connection
    moment: Moment
    error: str | None = None

    def hear(self, watcher: Watcher) -> bool:
        """Passes on what has arrived; returns False when the pipe is closed."""
        try:
            while self.connection.poll():
                kind, *content = self.connection.recv()
                if kind == "failed":
                    self.error = content[0]
                else:
                    self.moment = Moment(self.job, *content)
                    watcher(self.moment)
        except EOFError:
            return False
        return True

    def outcome(self) -> Outcome:
        """Waits for the process to end and returns what became of the job."""
        self.process.join()
        code = self.process.exitcode
        if self.error is None and code:
            self.error = f"the process ended with exit status {code}"
            if code < 0:
                name = signal.Signals(-code).name
                hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
                self.error = f"the process was ended by {name}{hint}"
        return Outcome(self.job, self.error)


def run_jobs(
    jobs: Sequence[Job],
    store: Path,
    watcher: Watcher,
    *,
    num_jobs: int = 1,
    plugin: Path | None = None,
) -> list[Outcome]:
    """Trains all runs that are not done, some side by side, and carries on after a failed one.

    Each run is a process of its own with its share of the processor's cores. One that was
    interrupted is taken up where it was.

    Args:
        jobs: from `plan`.
        store: folder of the feature store.
        watcher: told about epochs and about runs that are over.
        num_jobs: runs at a time.
        plugin: a Python file that registers systems.

    Returns:
        What became of each job, in their order.

    Raises:
        TCAFError: num_jobs is not positive.
    """
    if num_jobs < 1:
        raise TCAFError(f"--jobs must be at least 1, got {num_jobs}")
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // num_jobs)
    outcomes: dict[Path, Outcome] = {}
    waiting: list[Job] = []
    for job in jobs:
        if is_done(job):
            outcomes[job.out] = Outcome(job, skipped=True)
            watcher(outcomes[job.out])
        else:
            waiting.append(job)
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < num_jobs:
                job = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                arguments = (sender, job.experiment.to_json(), store, job.out, threads, plugin)
                process = context.Process(target=_work, args=arguments, daemon=True)
                process.start()
                sender.close()
                running.append(_Worker(job, process, receiver, Moment(job)))
                watcher(running[-1].moment)
            wait([worker.connection for worker in running])
            for worker in list(running):
                if not worker.hear(watcher):
                    running.remove(worker)
                    outcomes[worker.job.out] = worker.outcome()
                    watcher(outcomes[worker.job.out])
    finally:
        for worker in running:
            worker.process.terminate()
            worker.process.join()
    return [outcomes[job.out] for job in jobs]


@dataclass(frozen=True)
class RowResult:
    """A row of a table after its runs.

    Args:
        row: of the table.
        runs: those of its runs that are done, by seed.
        errors: why others are not, by seed.
    """

    row: Row
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
        found = rows.get(job.row.name, RowResult(job.row, {}, {}))
        seed = job.experiment.seed
        if outcome.error is None:
            found = replace(found, runs={**found.runs, seed: Run(job.out)})
        else:
            found = replace(found, errors={**found.errors, seed: outcome.error})
        rows[job.row.name] = found
    return list(rows.values())
