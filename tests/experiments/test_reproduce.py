"""Reproducing a table: which runs it takes, and that neither failure nor kill loses any."""

import csv
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from ended import still_running
from run_contents import RESULT
from tcaf.commands import entry as cli
from tcaf.data.splits import Split
from tcaf.errors import TCAFError
from tcaf.experiments.reproduce import (
    Job,
    Moment,
    Outcome,
    RowResult,
    collect,
    is_done,
    left_out,
    plan,
    run_jobs,
)
from tcaf.experiments.tables import Row, paper_table
from tcaf.plugins import load_plugin
from tcaf.settings.experiment import Experiment
from tcaf.settings.sections import TextSettings
from tcaf.systems.registry import SYSTEMS
from tcaf.training.run import Run, train


@pytest.fixture
def one_core(quick, monkeypatch):
    """Starts processes quickly, each with one thread."""
    monkeypatch.setattr("tcaf.execution.processes.usable_cores", lambda: 1)


@pytest.fixture
def registry():
    """Leaves the registry as it was."""
    systems = dict(SYSTEMS)
    yield
    SYSTEMS.clear()
    SYSTEMS.update(systems)


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_experiment, toml):
    """The names behind `--config`: the synthetic data's preset, made tiny."""
    path = tmp_path_factory.mktemp("reproduce") / "tiny.toml"
    toml(path, tiny_experiment(training={"schedule": "constant"}))
    return ["synthetic", str(path)]


SMALL = {"training": {"epochs": 2, "batches_per_epoch": 3, "batch_size": 11}}


def small(**training):
    """Returns `SMALL` with other settings of the training."""
    return {"training": {**SMALL["training"], **training}}


@pytest.fixture
def planned(tiny_store, config, tmp_path):
    """Plans runs of a table into `tmp_path/runs`."""

    def build(table=1, **changes):
        given = {"config": config, "seeds": [0], "runs": tmp_path / "runs", "options": SMALL}
        return plan(paper_table(table), tiny_store, **{**given, **changes})

    return build


def ignore(news):
    """Watches nothing."""


def files(folder):
    """What lies below a folder, with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def losses(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["losses"] for line in lines]


# --- The plan ---


def test_jobs_are_row_by_row(planned, tmp_path):
    jobs = planned(seeds=[3, 1], models=["tcaf", "cjme"])
    assert [(job.row.name, job.experiment.seed) for job in jobs] == [
        *(("cjme", 3), ("cjme", 1), ("tcaf", 3), ("tcaf", 1)),
    ]
    assert [job.name for job in jobs[:2]] == ["cjme, seed 3", "cjme, seed 1"]
    for job in jobs:
        assert job.experiment.system == job.row.system
        assert job.out.parent.parent == tmp_path / "runs"
        assert re.fullmatch(rf"{job.row.name}-[0-9a-f]{{8}}", job.out.parent.name)
        assert job.out.name == f"seed_{job.experiment.seed}"
    assert len({job.out for job in jobs}) == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("table", [1, 2, 3, 4])
def test_all_rows_by_default(planned, tiny_store, table):
    """But for those whose systems read text spaces that nobody has named."""
    jobs, rows = planned(table), list(paper_table(table).rows)
    absent = ["clipclap", "aligned"] if table == 1 else []
    assert [job.row for job in jobs] == [row for row in rows if row.name not in absent]
    assert list(left_out(paper_table(table), tiny_store, jobs)) == absent
    assert left_out(paper_table(table), tiny_store, jobs[:1], [jobs[0].row.name]) == {}


def test_a_row_whose_text_spaces_are_named(planned, tmp_path):
    spaces = '[text_spaces.visual]\nsource = "sentence"\n[text_spaces.audio]\nsource = "sentence"\n'
    (tmp_path / "spaces.toml").write_text(spaces)
    jobs = planned(1, config=[str(tmp_path / "spaces.toml")], seeds=[0])
    (own,) = {id(j.experiment): j.experiment for j in jobs if j.row.name == "clipclap"}.values()
    # The preset's prompts and modality are of the source that was left.
    assert own.text_spaces["visual"] == TextSettings(source="sentence")
    with pytest.raises(TCAFError, match=r"visual features are of .*, which embeds no text"):
        planned(1, models=["clipclap"])


def test_layers_of_a_row(planned):
    """Data, then the system, then the row, then files, then what was typed."""
    jobs = {job.row.name: job.experiment for job in planned(3)}
    assert (jobs["self"].model.attention, jobs["self"].model.class_token) == ("self", True)
    assert jobs["no_class_token_cross"].model.class_token is False
    assert jobs["tcaf"].model.token_dim == 13
    jobs = {job.row.name: job.experiment for job in planned(1, config=[])}
    assert jobs["avca"].fidelity.batch_norm_momentum == 0.99
    assert jobs["avca"].training.learning_rate == 1e-3
    assert {job.training.epochs for job in jobs.values()} == {2}


def test_a_setting_is_for_the_rows_that_read_it(planned):
    options = {
        "training": {"learning_rate": 3e-3, "epochs": 5},
        "model": {"num_layers": 3},
        "options": {"num_latents": 7, "strongest": 0.5},
    }
    jobs = {job.row.name: job.experiment for job in planned(1, options=options)}
    assert {job.training.epochs for job in jobs.values()} == {5}
    assert (jobs["tcaf"].model.num_layers, jobs["perceiver"].model.num_layers) == (3, 3)
    assert jobs["avca"].training.learning_rate == 3e-3
    default = Experiment()
    assert jobs["avca"].model == default.model
    assert jobs["ridge"].training.learning_rate == default.training.learning_rate
    assert (jobs["perceiver"].options, jobs["ridge"].options) == (
        {"num_latents": 7},
        {"strongest": 0.5},
    )
    assert jobs["tcaf"].options == {}


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"attention": "full"}},
        {"model": {"class_token": False}},
        {"model": {"modalities": "audio"}},
        {"objective": {"reconstruction": False}},
    ],
)
def test_a_row_stays_what_its_title_says(planned, change):
    with pytest.raises(TCAFError, match=r"row 'tcaf' is about .* which no option"):
        planned(1, models=["tcaf"], options=change)


def test_data_of_one_modality_leaves_rows_out(sound_store, config, tmp_path):
    def names(table, **changes):
        options = {**SMALL, "model": {"modalities": "audio"}}
        given = {"config": config, "seeds": [0], "runs": tmp_path, "options": options}
        return [
            job.row.name for job in plan(paper_table(table), sound_store, **{**given, **changes})
        ]

    assert names(1) == ["attention_fusion", "perceiver", "ridge", "tcaf_cosine", "textlda", "tcaf"]
    # Of one modality the row of both is the one of all that there is.
    assert names(3) == ["no_class_token_self", "self", "tcaf"]
    with pytest.raises(TCAFError, match=r"row 'avca' cannot be run .* learns from sound beside"):
        names(1, models=["tcaf", "avca"])
    with pytest.raises(TCAFError, match=r"row 'tcaf' is about model\.modalities = 'audio'"):
        names(1, options={**SMALL, "model": {"modalities": "visual"}})


def test_presets_of_systems_follow_the_data(planned, config):
    def dropout(*names):
        jobs = planned(models=["avca"], config=list(names), options={})
        return jobs[0].experiment.options

    expected = dict.fromkeys(("dropout_encoder", "dropout_projection", "dropout_decoder"), 0.0)
    assert dropout("vggsound_cls", config[1]) == dropout(config[1], "vggsound_cls") == expected
    assert dropout(config[1]) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["tcf"]}, r"no row 'tcf'; it has attention_fusion, .*did you mean 'tcaf'"),
        ({"models": ["tcaf", "self"]}, "the table has no row 'self'"),
        ({"seeds": [1, 2, 1]}, r"expected different seeds, at least one, got \[1, 2, 1\]"),
        ({"seeds": []}, r"expected different seeds, at least one, got \[\]"),
        ({"config": ["syntetic"]}, "did you mean 'synthetic'"),
        ({"options": {"training": {"epoch": 3}}}, "did you mean 'epochs'"),
        (
            {"models": ["avca", "ridge"], "options": {"model": {"num_layers": 3}}},
            "no row reads 'model.num_layers'",
        ),
        ({"options": {"options": {"num_latent": 3}}}, "no row reads 'options.num_latent'"),
        ({"options": {"trainig": {"epochs": 3}}}, "no setting trainig; did you mean"),
        ({"options": {"training": {"epochs": "x"}}}, "epochs: expected int, got 'x'"),
        ({"options": {"training": 3}}, "training is a section of settings, got 3"),
        ({"options": {"data": {"split": "clss"}}}, "did you mean 'cls'"),
        ({"options": {"seed": 3}}, "a table's seeds are --seeds"),
        ({"options": {"system": "avca"}}, "a row says what it trains"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_plans_that_are_refused(planned, change, message, tmp_path):
    with pytest.raises(TCAFError, match=message):
        planned(**change)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_folder_stands_for_configuration_and_data(planned, tiny_store, monkeypatch):
    def folder(**changes):
        return planned(models=["tcaf"], **changes)[0].out.parent.name

    def with_(section, **values):
        return folder(options={**SMALL, section: {**SMALL.get(section, {}), **values}})

    base = folder()
    assert folder() == base
    # Neither the seed nor where things are computed.
    assert folder(seeds=[7]) == base
    assert with_("training", device="auto") == base
    assert with_("evaluation", batch_size=17) == base
    others = {
        with_("training", epochs=3),
        with_("training", learning_rate=2e-3),
        with_("model", token_dim=17),
        with_("evaluation", gamma_step=0.1),
        with_("text", normalise=False),
    }
    assert len(others) == 5
    # Another split of the same clips, under the same name.
    split = tiny_store.split("cls")
    swapped = Split(split.train, split.test_unseen, split.val_unseen)
    monkeypatch.setattr(type(tiny_store), "split", lambda self, name: swapped)
    others.add(folder())
    monkeypatch.undo()
    monkeypatch.setattr(type(tiny_store), "fingerprint", "another")
    others.add(folder())
    assert len(others | {base}) == 8


def test_equal_rows_of_two_tables_are_the_same_runs(planned):
    outs = {planned(table, models=["tcaf"])[0].out for table in (1, 2, 3, 4)}
    assert len(outs) == 1
    assert planned(4, models=["tcaf_audio"])[0].out not in outs


# --- The runs ---


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_runs_are_trained_once(planned, tiny_store, tmp_path):
    jobs, news, processes = planned(models=["ridge", "tcaf"]), [], {}

    def watch(moment):
        news.append(moment)
        if isinstance(moment, Moment):
            (child,) = multiprocessing.active_children()
            processes.setdefault(moment.job.name, set()).add(child.pid)

    assert not any(map(is_done, jobs))
    outcomes = run_jobs(jobs, tiny_store.path, watch)
    assert outcomes == [Outcome(job) for job in jobs]
    # Each run has a process to itself.
    assert [len(pids) for pids in processes.values()] == [1, 1]
    assert len(set.union(*processes.values())) == 2
    assert all(map(is_done, jobs))
    for job in jobs:
        own = [n for n in news if n.job is job]
        assert own[0] == Moment(job)
        assert own[-1] == Outcome(job)
        done = [(n.stage, n.record.epoch) for n in own[:-1] if n.record]
        assert done[:3] == [(1, 1), (1, 2), (2, 1)]
        assert all(n.epochs == 2 for n in own[:-1] if n.stage == 1)
        cost = json.loads((job.out / "process.json").read_text())
        assert set(cost) == {"seconds", "peak_mib", "threads"}
        assert cost["threads"] == 1
        assert 10 < cost["peak_mib"] < 10_000
        # In a process of its own, and yet as in this one.
        train(job.experiment, tiny_store, tmp_path / "here" / job.row.name)
        assert losses(job.out) == losses(tmp_path / "here" / job.row.name)
    shares = [n.batches for n in news if isinstance(n, Moment)]
    assert (min(shares), max(shares)) == (0, 1)
    before, news = files(tmp_path), []
    outcomes = run_jobs(jobs, tiny_store.path, news.append)
    assert outcomes == news == [Outcome(job, skipped=True) for job in jobs]
    assert files(tmp_path) == before


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_a_row_that_fails_is_kept_and_tried_again(planned, tiny_store):
    jobs = [
        *planned(models=["attention_fusion"], options=small(learning_rate=1e30)),
        *planned(models=["perceiver"], options=small(device="cuda")),
        *planned(models=["ridge"], options={"training": {"epochs": 2}}),
    ]
    for skipped in (False, True):  # once more, and the failed ones are tried again
        diverged, wrong, fine = run_jobs(jobs, tiny_store.path, ignore)
        assert diverged.error.startswith("stage 1, epoch ")
        assert "lower training.learning_rate" in diverged.error
        assert wrong.error.startswith("the device is 'cuda', but torch finds no GPU")
        assert fine == Outcome(jobs[2], skipped=skipped)
    assert not jobs[1].out.exists()
    by_name = {row.row.name: row for row in collect([diverged, wrong, fine])}
    assert list(by_name) == ["attention_fusion", "perceiver", "ridge"]
    assert by_name["perceiver"].errors == {0: wrong.error}
    assert by_name["perceiver"].runs == {}
    assert list(by_name["ridge"].runs) == [0]
    # Mended, it runs.
    mended = planned(models=["perceiver"])
    assert run_jobs(mended, tiny_store.path, ignore) == [Outcome(mended[0])]


PLUGIN = """
import os
from dataclasses import dataclass

from tcaf.systems.ridge import Ridge, RidgeConfig, RidgeFit
from tcaf import System, register


@dataclass(frozen=True, kw_only=True)
class BrittleConfig(RidgeConfig):
    how: str = "raises"


class BrittleFit(RidgeFit):
    def solve(self, epoch):
        if self.model.config.how == "raises":
            raise ZeroDivisionError("a reason\\nin two lines")
        if self.model.config.how == "exits":
            os._exit(3)
        return super().solve(epoch)


register(System("brittle", "Brittle", BrittleConfig, Ridge, fit=BrittleFit, averages=True))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("one_core", "registry")
def test_a_system_of_ones_own_that_breaks(planned, tiny_store, tmp_path):
    plugin = tmp_path / "brittle.py"
    plugin.write_text(PLUGIN)
    load_plugin(plugin)

    def outcome(how):
        options, news = {"training": {"epochs": 2}, "options": {"how": how}}, []
        (job,) = planned(models=["brittle"], options=options)
        (found,) = run_jobs([job], tiny_store.path, news.append, plugin=plugin)
        # Once: what crashed might crash after hours of training again.
        assert news.count(Moment(job)) == 1
        return found

    raised = outcome("raises")
    trace = raised.job.out.with_name("seed_0_error.txt")
    expected = f"ZeroDivisionError: a reason in two lines (traceback in {trace})"
    assert raised.error == expected
    assert 'raise ZeroDivisionError("a reason' in trace.read_text()
    assert outcome("exits").error == "the process ended with exit status 3"
    assert outcome("works").error is None


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_a_killed_run_is_said_so_and_taken_up(planned, tiny_store, tmp_path):
    (job,) = planned(models=["tcaf"], options=small(epochs=13))
    killed = []

    def kill(news):
        if isinstance(news, Moment) and news.record and news.record.epoch == 3 and not killed:
            (child,) = multiprocessing.active_children()
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)

    (outcome,) = run_jobs([job], tiny_store.path, kill)
    assert killed
    assert outcome.error == "the process was ended by SIGKILL, perhaps for want of memory"
    assert not is_done(job)
    kept = (job.out / "metrics.jsonl").read_text().splitlines()
    assert 2 <= len(kept) < 13
    assert run_jobs([job], tiny_store.path, ignore) == [Outcome(job)]
    # The epochs before the kill, times included, were not trained again.
    assert (job.out / "metrics.jsonl").read_text().splitlines()[: len(kept)] == kept
    whole = replace(job, out=tmp_path / "whole")
    run_jobs([whole], tiny_store.path, ignore)
    assert losses(job.out) == losses(whole.out)
    for name in ("model.safetensors", "stage_1.safetensors", "predictions.parquet"):
        assert (job.out / name).read_bytes() == (whole.out / name).read_bytes()
    assert Run(job.out).result["test"] == Run(whole.out).result["test"]


@pytest.mark.usefixtures("one_core")
def test_what_stops_the_parent_stops_the_children(planned, tiny_store):
    long = small(epochs=997)
    jobs, children = planned(models=["tcaf"], seeds=[0, 1, 2], options=long), []

    def stop(news):
        if isinstance(news, Moment) and news.record:
            children.extend(multiprocessing.active_children())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, tiny_store.path, stop, num_jobs=2)
    assert len(children) == 2
    assert [child.exitcode for child in children] == [-signal.SIGKILL] * 2
    assert not jobs[2].out.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_runs_side_by_side_are_the_same(planned, tiny_store, tmp_path):
    jobs = planned(2, seeds=[0, 1], models=["tcaf"])
    others = [replace(job, out=tmp_path / f"other_{i}") for i, job in enumerate(jobs)]
    most, running = 0, set()

    def count(news):
        nonlocal most
        running.add(news.job.out) if isinstance(news, Moment) else running.discard(news.job.out)
        most = max(most, len(running))

    assert run_jobs(jobs, tiny_store.path, count, num_jobs=2) == [Outcome(job) for job in jobs]
    assert most == 2
    run_jobs(others, tiny_store.path, count)
    for one, other in zip(jobs, others, strict=True):
        for name in ("model.safetensors", "predictions.parquet"):
            assert (one.out / name).read_bytes() == (other.out / name).read_bytes()
    weights = {(job.out / "model.safetensors").read_bytes() for job in jobs}
    assert len(weights) == 2


def test_cores_are_shared(planned, tiny_store, monkeypatch):
    """Those that this process may use, which can be fewer than the machine has."""
    given = []

    class Context:
        Pipe = staticmethod(multiprocessing.Pipe)

        def Process(self, target, args, daemon):
            given.append(args[1].threads)
            raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: Context())
    jobs = planned(models=["tcaf"])
    for cores, num_jobs in ((7, 1), (7, 2), (7, 3), (7, 11)):
        usable = set(range(cores))
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, usable=usable: usable)
        with pytest.raises(OSError, match="unavailable"):
            run_jobs(jobs, tiny_store.path, ignore, num_jobs=num_jobs)
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    with pytest.raises(OSError, match="unavailable"):
        run_jobs(jobs, tiny_store.path, ignore)
    assert given == [7, 3, 2, 1, 1]


@pytest.mark.parametrize("num_jobs", [0, -1])
def test_at_least_one_run_at_a_time(planned, tiny_store, num_jobs):
    with pytest.raises(TCAFError, match=f"--jobs must be at least 1, got {num_jobs}"):
        run_jobs(planned(), tiny_store.path, ignore, num_jobs=num_jobs)


def test_scores_of_a_row(tmp_path):
    runs = {}
    for seed, zsl in ((3, 0.25), (1, None)):
        (tmp_path / str(seed)).mkdir()
        result = {**RESULT, "test": {**RESULT["test"], "zsl": zsl}}
        (tmp_path / str(seed) / "result.json").write_text(json.dumps(result))
        runs[seed] = Run(tmp_path / str(seed))
    first, second = RowResult(Row("a", "A"), tmp_path, runs, {}).values("zsl")
    assert first == 0.25
    assert math.isnan(second)


def test_collecting_by_row(tmp_path):
    def outcome(row, seed, error=None):
        experiment = Experiment(seed=seed)
        return Outcome(Job(Row(row, row.upper()), experiment, tmp_path / f"{row}{seed}"), error)

    found = collect([outcome("a", 2), outcome("b", 2, "no"), outcome("a", 0), outcome("b", 0)])
    assert [(row.row.name, row.folder) for row in found] == [("a", tmp_path), ("b", tmp_path)]
    assert [list(row.runs) for row in found] == [[2, 0], [0]]
    assert [dict(row.errors) for row in found] == [{}, {2: "no"}]
    assert found[0].runs[0].path == tmp_path / "a0"


# --- The command ---


@pytest.fixture
def tcaf(capsys, monkeypatch, tmp_path):
    """Runs `tcaf reproduce` in an empty folder; returns exit status and both outputs."""
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments):
        capsys.readouterr()
        given = ["reproduce", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["tcaf", *given])
        status = cli.main(given)
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "5"], "table: expected one of 1, 2, 3, 4, got '5'"),
        ([], "required: --table"),
        (["--table", "1", "--models", "tcf"], "no row 'tcf'.*did you mean 'tcaf'"),
        (["--table", "2", "--models", "avca"], "no row 'avca'; it has regression,"),
        (["--table", "1", "--seeds", "a"], "seeds: expected int, got 'a'"),
        (["--table", "1", "--seeds", "1", "1"], "expected different seeds"),
        (["--table", "1", "--partitions", "-1"], "--partitions must be at least 0, got -1"),
        (["--table", "1", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--table", "1", "--training.epoch", "3"], "did you mean '--training.epochs'"),
        (["--table", "1", "--options.a", "1"], "no row reads 'options.a'"),
        (["--table", "1", "--config", "syntetic"], "did you mean 'synthetic'"),
        (["--table", "1", "--plugin", "mine.py"], "at mine.py: No such file"),
        (["--table", "1", "--tabel", "2"], "unknown option '--tabel'; did you mean '--table'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_mistake_gets_one_line(tcaf, tiny_store, tmp_path, arguments, message, monkeypatch):
    # Were it none, days of training would begin.
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: pytest.fail("it is none"))
    status, output, error = tcaf(*arguments, "--store", tiny_store.path)
    assert (status, output) == (2, "")
    assert re.search(message, error)
    assert error.startswith("tcaf: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_a_store_that_is_not_there(tcaf, tmp_path):
    status, output, error = tcaf("--table", "1", "--store", "nowhere")
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert "no feature store at" in error
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_a_table_from_the_command_line(tcaf, tiny_store, config, tmp_path):
    arguments = (
        *("--table", "4", "--store", tiny_store.path, "--seeds", "1", "2", "--config", *config),
        *("--models", "tcaf_audio", "tcaf", "--training.epochs", "1", "--jobs", "2"),
    )
    status, output, error = tcaf(*arguments)
    assert status == 0
    out = tmp_path / "here" / "results" / "table_4"
    assert {path.name for path in out.iterdir()} == {
        *("runs", "rows.json", "table.md", "table.csv", "per_class.csv"),
    }
    assert "TCaF, audio alone" in output
    assert "kept in results/table_4" in output
    assert "4/4" in error
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["tcaf_audio", "tcaf"]
    command = f"tcaf reproduce --table 4 --store {tiny_store.path} --seeds 1 2"
    assert command in (out / "table.md").read_text()
    # Once more: nothing is trained, and the table is the same.
    before = files(out / "runs")
    status, output, error = tcaf(*arguments, "--json")
    assert status == 0
    assert error.count("was done") == 4
    assert files(out / "runs") == before
    # JSON that any reader takes: no NaN.
    found = json.loads(output, parse_constant=lambda name: pytest.fail(name))
    assert [row["model"] for row in found] == ["tcaf_audio", "tcaf"]
    assert float(rows[1]["seen"]) == pytest.approx(found[1]["means"]["seen"], abs=1e-6)
    # Seed 1 alone, in a folder of its own: in this one the other seed's runs would stay.
    elsewhere = ("--out", tmp_path / "alone", "--runs", out / "runs", "--json")
    status, output, _ = tcaf(*arguments[:6], *arguments[7:], *elsewhere)
    alone = json.loads(output, parse_constant=lambda name: pytest.fail(name))
    assert [row["seeds"] for row in alone] == [[1], [1]]
    assert alone[0]["stds"]["seen"] is None


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_random_partitions_from_the_command_line(tcaf, tiny_store, config, tmp_path):
    arguments = (
        *("--table", "1", "--store", tiny_store.path, "--seeds", "1", "2", "--config", *config),
        *("--models", "ridge", "textlda", "--training.epochs", "1", "--partitions", "2"),
    )
    status, output, error = tcaf(*arguments)
    assert status == 0
    out = tmp_path / "here" / "results" / "table_1"
    assert {path.name for path in out.iterdir()} == {"runs", "partitions.md", "partitions.csv"}
    assert "8/8 textlda, partition 2, seed 2" in error
    lines = list(csv.DictReader((out / "partitions.csv").read_text().splitlines()))
    assert [(line["model"], line["partition"], line["seeds"]) for line in lines] == [
        *(("ridge", "1", "1 2"), ("textlda", "1", "1 2")),
        *(("ridge", "2", "1 2"), ("textlda", "2", "1 2")),
    ]
    page = (out / "partitions.md").read_text()
    held_out = tiny_store.split("cls@2").test_unseen
    assert f"2. {', '.join(held_out)}\n" in page
    runs = [Run(path.parent) for path in (out / "runs").rglob("result.json")]
    assert {run.experiment.data.split for run in runs} == {"cls@1", "cls@2"}
    ridge = [run for run in runs if run.experiment.system == "ridge"]
    # A mean over partitions of means over seeds, and the deviation between two partitions.
    by_partition = [
        sum(
            run.result["test"]["harmonic_mean"]
            for run in ridge
            if run.experiment.data.split == f"cls@{number}"
        )
        / 2
        for number in (1, 2)
    ]
    before = files(out / "runs")
    status, output, error = tcaf(*arguments, "--json")
    assert (status, error.count("was done"), files(out / "runs")) == (0, 8, before)
    found = {row["model"]: row for row in json.loads(output)}
    assert found["ridge"]["means"]["harmonic_mean"] == pytest.approx(sum(by_partition) / 2)
    apart = abs(by_partition[0] - by_partition[1]) / math.sqrt(2)
    assert found["ridge"]["stds"]["harmonic_mean"] == pytest.approx(apart)
    status, output, error = tcaf(*arguments, "--data.split", "cls@1")
    assert (status, error) == (
        2,
        "tcaf: --partitions are of a split of the store, got data.split 'cls@1'\n",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_a_failed_row_is_in_the_table_and_the_exit_status(tcaf, tiny_store, config, tmp_path):
    status, output, error = tcaf(
        *("--table", "1", "--store", tiny_store.path, "--seeds", "0", "--config", *config),
        *("--models", "ridge", "avca", "--out", tmp_path / "out", "--runs", tmp_path / "kept"),
        *("--training.learning_rate", "1e30", "--training.epochs", "2"),
    )
    assert status == 2
    assert error.endswith(f"tcaf: 1 of 2 runs failed; {tmp_path / 'out' / 'table.md'} says why\n")
    assert "lower training.learning_rate" in output
    assert not (tmp_path / "out" / "runs").exists()
    assert len(list((tmp_path / "kept").iterdir())) == 2
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["avca", "ridge"]
    assert "lower training.learning_rate" in rows[0]["error"]
    assert rows[1]["error"] == ""
    # One of them alone, which is done: the other one stays in the table, with its reason.
    status, output, _ = tcaf(
        *("--table", "1", "--store", tiny_store.path, "--seeds", "0", "--config", *config),
        *("--models", "ridge", "--out", tmp_path / "out", "--runs", tmp_path / "kept"),
        *("--training.epochs", "2", "--json"),
    )
    assert status == 0
    assert [row["model"] for row in json.loads(output)] == ["avca", "ridge"]
    assert list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines())) == rows


# --- The real processes ---


def command_line(store, config, folder, epochs):
    return [
        *(
            sys.executable,
            "-m",
            "tcaf",
            "reproduce",
            "--table",
            "2",
            "--store",
            str(store.path),
        ),
        *("--config", *config, "--seeds", "0", "1", "--models", "tcaf", "--jobs", "2"),
        *("--training.epochs", str(epochs), "--out", str(folder)),
    ]


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_that_runs_and_the_same_command_carries_on(
    tiny_store, config, tmp_path
):
    psutil = pytest.importorskip("psutil")
    command = command_line(tiny_store, config, tmp_path / "out", 31)
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = []
    until = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("runs/*/*/metrics.jsonl"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    # As a terminal does: to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    alive = still_running(children, timeout=10)
    assert not alive
    kept = {
        path: path.read_text().splitlines()
        for path in (tmp_path / "out").glob("runs/*/*/metrics.jsonl")
    }
    assert not list((tmp_path / "out").glob("runs/*/*/result.json"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for path, lines in kept.items():
        assert path.read_text().splitlines()[: len(lines)] == lines
        assert (path.parent / "result.json").is_file()
    whole = command_line(tiny_store, config, tmp_path / "whole", 31)
    assert subprocess.run(whole, capture_output=True, check=False).returncode == 0
    tables = [(tmp_path / name / "table.csv").read_text() for name in ("out", "whole")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_ctrl_c_while_processes_start(tiny_store, config, tmp_path):
    """They import torch for seconds; nothing but one line is to be seen of them."""
    psutil = pytest.importorskip("psutil")
    command = command_line(tiny_store, config, tmp_path / "out", 2)
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (children := psutil.Process(process.pid).children(recursive=True)):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert not still_running(children, timeout=10)
