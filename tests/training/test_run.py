"""The run directory: what it holds, and that interrupting a run loses nothing."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import safetensors.torch
import torch

from run_contents import without_digests
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.files.sealed import UnsealedWarning
from tcaf.settings.experiment import TextSettings
from tcaf.settings.fidelity import Fidelity
from tcaf.sources.synthetic import prepare_synthetic
from tcaf.systems.textlda import TextLDA
from tcaf.systems.textlda_vectors import TextLDAConfig
from tcaf.training.model_file import load_model, save_model, save_tensors
from tcaf.training.observers import Silence
from tcaf.training.provenance import text_sha256
from tcaf.training.run import FILE, Run, train


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    # Whichever epoch is best, stage 2 then has more than one to be interrupted in.
    training = {"epochs": 3, "batches_per_epoch": 5, "learning_rate": 3e-3}
    return tiny_experiment(training=training, fidelity={"stage_2_epochs": "release"})


@pytest.fixture(scope="module")
def whole(store, experiment, tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(experiment, store, out)
    return out


def weights(run):
    return safetensors.torch.load_file(run / "model.safetensors")


def assert_same(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def test_a_run_leaves_what_it_says(whole):
    assert sorted(path.name for path in whole.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "predictions.parquet",
        "provenance.json",
        "result.json",
        "stage_1.safetensors",
        "text",
    ]
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((whole / "result.json").read_text())
    assert [(line["stage"], line["epoch"]) for line in lines[:3]] == [(1, 1), (1, 2), (1, 3)]
    assert len(lines) == sum(result["epochs"].values())
    assert set(lines[0]["losses"]) == {"loss", "cross_entropy", "regression", "reconstruction"}
    assert result["test"]["gamma"] == result["choice"]["gamma"]
    assert 0 <= result["test"]["curve_area"] <= 1


class StopAfter(Silence):
    """Interrupts a run after some epochs, as SIGINT does, or in the middle of the next one."""

    def __init__(self, epochs, in_batch):
        self.left, self.in_batch = epochs, in_batch

    def epoch_done(self, record):
        self.left -= 1

    def batch_done(self, epoch, batch, num_batches, losses):
        if self.left == 0 and self.in_batch:
            raise KeyboardInterrupt

    def stage_started(self, stage, epochs, done):
        if self.left == 0 and not self.in_batch:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [0, 1, 3, 4])
def test_an_interrupted_run_ends_with_the_same_weights(store, whole, tmp_path, epochs, experiment):
    assert epochs < sum(Run(whole).result["epochs"].values())
    with pytest.raises(KeyboardInterrupt):
        train(experiment, store, tmp_path / "r", observer=StopAfter(epochs, in_batch=True))
    assert Run(tmp_path / "r").result is None
    result = train(experiment, store, tmp_path / "r", resume=True)
    assert_same(weights(tmp_path / "r"), weights(whole))
    expected = Run(whole).result
    assert result["test"] == expected["test"]
    assert result["choice"] == expected["choice"]
    best = [safetensors.torch.load_file(r / "stage_1.safetensors") for r in (tmp_path / "r", whole)]
    assert_same(*best)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 4])
def test_an_interrupted_run_of_another_optimiser(store, tmp_path, epochs, experiment):
    """The learning rates of both stages are taken up too, those of stage 2 from the schedule."""
    modern = {
        "optimiser": "adamw",
        "weight_decay": 0.1,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "clip_norm": 0.5,
    }
    fidelity = replace(experiment.fidelity, stage_2_schedule="validation")
    training = replace(experiment.training, **modern)
    experiment = replace(experiment, training=training, fidelity=fidelity)
    train(experiment, store, tmp_path / "whole")
    rates = [r.learning_rate for r in Run(tmp_path / "whole").records()]
    assert rates[:3] == pytest.approx([training.learning_rate * share for share in (0.5, 1, 0.5)])
    with pytest.raises(KeyboardInterrupt):
        train(experiment, store, tmp_path / "r", observer=StopAfter(epochs, in_batch=True))
    train(experiment, store, tmp_path / "r", resume=True)
    assert_same(weights(tmp_path / "r"), weights(tmp_path / "whole"))
    assert [r.learning_rate for r in Run(tmp_path / "r").records()] == rates


@pytest.mark.slow
def test_a_run_stopped_between_the_stages_carries_on(store, whole, tmp_path, experiment):
    class StopAtStage2(Silence):
        def stage_started(self, stage, epochs, done):
            if stage == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(experiment, store, tmp_path / "r", observer=StopAtStage2())
    train(experiment, store, tmp_path / "r", resume=True)
    assert_same(weights(tmp_path / "r"), weights(whole))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("checkpoint.safetensors", 2),
        ("metrics.jsonl", 2),
        ("stage_1.safetensors", 1),
        ("model.safetensors", 1),
        ("result.json", 1),
    ],
)
def test_a_failing_disk_loses_no_epoch(store, whole, experiment, tmp_path, monkeypatch, name, time):
    """The write of one file fails once; what was there before carries on."""
    import tcaf.files.atomic

    original, calls = tcaf.files.atomic.Path.replace, []

    def failing(self, target):
        if target.name == name:
            calls.append(target)
            if len(calls) == time:
                raise OSError(28, "No space left on device")
        return original(self, target)

    monkeypatch.setattr(tcaf.files.atomic.Path, "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        train(experiment, store, tmp_path / "r")
    monkeypatch.undo()
    assert not list((tmp_path / "r").glob(".*partial"))
    assert Run(tmp_path / "r").result is None
    result = train(experiment, store, tmp_path / "r", resume=True)
    assert_same(weights(tmp_path / "r"), weights(whole))
    assert result["test"] == Run(whole).result["test"]


@pytest.mark.slow
def test_another_seed_gives_other_weights(store, whole, tmp_path, experiment):
    train(replace(experiment, seed=1), store, tmp_path / "r")
    one, other = weights(tmp_path / "r"), weights(whole)
    name = "model.layers.0.attention.to_qkv.weight"
    assert not torch.equal(one[name], other[name])


def test_a_run_is_not_overwritten(store, whole, experiment):
    with pytest.raises(TCAFError, match="holds a run already; carry on with --resume"):
        train(experiment, store, whole)


def test_a_foreign_folder_is_not_touched(store, tmp_path, experiment):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(TCAFError, match=r"mine holds 'notes\.txt' and no run; name another"):
        train(experiment, store, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_finished_run_is_not_run_again(store, whole, experiment):
    class Fails(Silence):
        def stage_started(self, stage, epochs, done):
            raise AssertionError("nothing is left to do")

    assert train(experiment, store, whole, resume=True, observer=Fails()) == (Run(whole).result)


def test_resuming_with_other_settings_names_the_first_that_differs(store, whole, experiment):
    other = replace(experiment, training=replace(experiment.training, epochs=4))
    with pytest.raises(TCAFError, match=r"started with training\.epochs = 3, now it is 4"):
        train(other, store, whole, resume=True)
    with pytest.raises(TCAFError, match="started with seed = 0, now it is 1"):
        train(replace(experiment, seed=1), store, whole, resume=True)


def test_resuming_on_other_data_is_refused(whole, tmp_path, experiment):
    other_store = prepare_synthetic(
        tmp_path / "other",
        relations=("together", "late"),
        clips_per_class=20,
        audio_dim=5,
        visual_dim=7,
    )
    with pytest.raises(TCAFError, match="holds other data"):
        train(experiment, other_store, whole, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"evaluation": {"batch_size": 7}}, {"training": {"device": "auto"}}]
)
def test_what_changes_no_result_may_change_on_the_way(
    store, whole, tmp_path, experiment, change, monkeypatch
):
    monkeypatch.setattr("tcaf.execution.devices.torch.cuda.is_available", lambda: False)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, store, tmp_path / "r", observer=StopAfter(1, in_batch=True))
    sections = {name: replace(getattr(experiment, name), **new) for name, new in change.items()}
    other = replace(experiment, **sections)
    assert other != experiment
    train(other, store, tmp_path / "r", resume=True)
    assert_same(weights(tmp_path / "r"), weights(whole))


@pytest.mark.slow
def test_provenance_says_how_a_run_was_taken_up_again(
    store, whole, tmp_path, experiment, monkeypatch
):
    run, file = Run(tmp_path / "r"), tmp_path / "r" / "provenance.json"
    with pytest.raises(KeyboardInterrupt):
        train(experiment, store, run.path, observer=StopAfter(1, in_batch=True))
    first = json.loads(file.read_text())
    assert "resumed" not in first
    monkeypatch.setattr("sys.argv", ["tcaf", "train", "--resume"])
    with pytest.raises(KeyboardInterrupt):
        train(experiment, store, run.path, resume=True, observer=StopAfter(1, in_batch=True))
    threads = torch.get_num_threads() + 1
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("sys.argv", ["tcaf", "train", "again"])
    train(experiment, store, run.path, resume=True)
    # A run that is over is not taken up.
    train(experiment, store, run.path, resume=True)
    found = json.loads(file.read_text())
    resumed = found.pop("resumed")
    assert found == first
    assert [again["command"][1:] for again in resumed] == [
        ["train", "--resume"],
        ["train", "again"],
    ]
    assert [again["threads"] for again in resumed] == [threads - 1, threads]
    for again in resumed:
        assert again["started"] >= first["started"]
        kept = ("versions", "commit", "machine", "device")
        assert {name: again[name] for name in kept} == {name: first[name] for name in kept}


def test_resuming_with_other_class_text_is_refused(store, whole, tmp_path, experiment):
    run = without_digests(shutil.copytree(whole, tmp_path / "r"))
    origin = json.loads((run / "provenance.json").read_text())
    assert origin["data"]["class_text"] == text_sha256(experiment, store)

    def resume_after(kept):
        data = {**origin["data"], "class_text": kept}
        if kept is None:
            del data["class_text"]  # as in runs of older releases
        (run / "provenance.json").write_text(json.dumps({**origin, "data": data}))
        return train(experiment, store, run, resume=True)

    with pytest.raises(TCAFError, match=r"class text is made from \(stored\) has changed since"):
        resume_after("0" * 64)
    assert resume_after(None)["test"] == Run(whole).result["test"]


@pytest.mark.slow
def test_a_run_goes_on_where_its_text_files_are_gone(store, tmp_path, experiment):
    table = tmp_path / "vectors.npy"
    np.save(table, store.text("attributes"), allow_pickle=True)
    own = replace(experiment, text=TextSettings(source="npy", path=str(table)))
    with pytest.raises(KeyboardInterrupt):
        train(own, store, tmp_path / "r", observer=StopAfter(1, in_batch=True))
    content = table.read_bytes()
    table.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(TCAFError, match=rf"class text is made from \({table}\) has changed"):
        train(own, store, tmp_path / "r", resume=True)
    table.unlink()
    assert train(own, store, tmp_path / "r", resume=True)["test"]


@pytest.mark.slow
def test_resume_without_a_run_starts_one(store, whole, tmp_path, experiment):
    train(experiment, store, tmp_path / "r", resume=True)
    assert_same(weights(tmp_path / "r"), weights(whole))


def test_a_bad_setting_leaves_no_folder(store, tmp_path, experiment):
    wrong = replace(experiment, fidelity=Fidelity(class_vectors="release_order"))
    with pytest.raises(TCAFError, match="word2vec_release_order"):
        train(wrong, store, tmp_path / "r")
    assert not list(tmp_path.iterdir())
    text = replace(experiment.text, source="sentence")
    with pytest.raises(TCAFError, match="release_order' needs the vectors of a store"):
        train(replace(wrong, text=text), store, tmp_path / "r")


@pytest.mark.parametrize("wrong", ["a device that is not there", "a split that is not there"])
def test_what_is_wrong_is_said_before_anything_is_written(store, experiment, tmp_path, wrong):
    if "device" in wrong:
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
        other = replace(experiment, training=replace(experiment.training, device="cuda"))
    else:
        other = replace(experiment, data=replace(experiment.data, split="none"))
    with pytest.raises(TCAFError):
        train(other, store, tmp_path / "r")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_metrics_lost_by_a_kill_come_back(store, whole, experiment, tmp_path, monkeypatch):
    """A kill between the last checkpoint and its line of metrics."""
    monkeypatch.setattr("tcaf.training.run.save_model", Full())
    with pytest.raises(OSError, match="No space left"):
        train(experiment, store, tmp_path / "r")
    monkeypatch.undo()
    metrics = tmp_path / "r" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    train(experiment, store, tmp_path / "r", resume=True)
    files = (metrics, whole / "metrics.jsonl")
    kept, wanted = ([json.loads(line) for line in f.read_text().splitlines()] for f in files)
    assert [(k["stage"], k["epoch"], k["losses"]) for k in kept] == [
        (w["stage"], w["epoch"], w["losses"]) for w in wanted
    ]


class Full:
    """Stands for `save_model` on a disk that is full when the final model is to be written."""

    def __call__(self, path, trained):
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        save_model(path, trained)


def test_a_loaded_model_is_the_trained_one(store, whole, experiment):
    loaded = load_model(whole)
    split = store.split("cls")
    assert loaded.spec == store.spec
    assert loaded.classes == split.stage_2
    assert loaded.gamma == Run(whole).result["choice"]["gamma"]
    assert loaded.experiment == experiment
    assert not loaded.model.training
    assert load_model(whole / "stage_1.safetensors").classes == split.stage_1


def test_models_carry_the_temperature(whole):
    kept = Run(whole).result["choice"]["temperature"]
    assert load_model(whole).temperature == kept > 0
    # That of stage 1's best epoch is the one that was chosen with it.
    assert load_model(whole / "stage_1.safetensors").temperature == kept


def test_models_of_older_releases_have_no_temperature(whole, tmp_path):
    path = tmp_path / "old.safetensors"
    with safetensors.safe_open(whole / "model.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["header"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["temperature"]
    safetensors.torch.save_file(tensors, path, metadata={"header": json.dumps(header)})
    with pytest.warns(UnsealedWarning, match="hold no digest"):
        assert load_model(path).temperature is None


def test_features_of_another_kind_are_refused(whole, store):
    trained = load_model(whole)
    trained.check_features(store.spec, "it")
    with pytest.raises(TCAFError, match=r"audio features of size 5, it holds size 7"):
        trained.check_features(replace(store.spec, audio_dim=7), "it")
    other = replace(store.spec, visual_backbone="c3d")
    with pytest.raises(TCAFError, match=r"of 'synthetic_visual', it holds those of 'c3d'"):
        trained.check_features(other, "it")
    other = replace(store.spec, audio_step_s=None)
    with pytest.raises(TCAFError, match=r"a token every 0.96 s, it holds one token a clip"):
        trained.check_features(other, "it")
    averaging = replace(trained.experiment, data=replace(trained.experiment.data, average=True))
    replace(trained, experiment=averaging).check_features(other, "it")


def test_seconds_matter_to_models_that_read_them(whole):
    """TextLDA says it itself, since validation may have chosen to read means alone."""
    trained = load_model(whole)
    steps = {None: "one token a clip", 1.0: "a token every 1 s"}
    for options, refused in (
        ({"time": "on", "spread": "on"}, [None, 1.0]),
        ({"time": "off", "spread": "on"}, [None]),
        ({"time": "off", "spread": "off"}, []),
    ):
        model = TextLDA(TextLDAConfig(audio_dim=5, visual_dim=7, text_dim=3, **options))
        model.vectors.lags = torch.zeros(31 if options["time"] == "on" else 0)
        model.vectors.spread = torch.ones(int(options["spread"] == "on"))
        own = replace(trained, system="textlda", model=model)
        for step, told in steps.items():
            other = replace(own.spec, audio_step_s=step)
            if step in refused:
                with pytest.raises(TCAFError, match=f"a token every 0.96 s, it holds {told}"):
                    own.check_features(other, "it")
            else:
                own.check_features(other, "it")


def test_damaged_and_foreign_models_are_refused(whole, tmp_path):
    with pytest.raises(TCAFError, match="found nothing"):
        load_model(tmp_path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((whole / "model.safetensors").read_bytes()[:-5])
    with pytest.raises(TCAFError, match="damaged file"):
        load_model(cut)
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, foreign)
    with pytest.raises(TCAFError, match="damaged file"):
        load_model(foreign)
    header = {"format": "tcaf-model", "version": 99}
    save_tensors(foreign, {"x": torch.zeros(2)}, header)
    with pytest.raises(TCAFError, match="format version 99, this tcaf reads 2"):
        load_model(foreign)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("result.json", {"choice": {"epoch": "3"}}),
        ("result.json", []),
        ("provenance.json", {"data": {"fingerprint": None}}),
        ("config.json", ["training"]),
        ("process.json", {"seconds": "long", "peak_mib": 1.0}),
    ],
)
def test_a_file_with_other_content_is_named(whole, tmp_path, name, damage):
    run = Run(without_digests(shutil.copytree(whole, tmp_path / "run")))
    file = run.path / name
    if isinstance(damage, dict) and file.is_file():
        damage = {**json.loads(file.read_text()), **damage}
    file.write_text(json.dumps(damage))
    with pytest.raises(TCAFError, match=f"{name}, found a damaged file"):
        _ = (run.result, run.provenance, run.experiment, run.cost)


@pytest.mark.parametrize("line", ["", "{", "[]", '{"stage": 1}', "[" * 100_000])
def test_a_damaged_line_of_metrics_is_named(whole, tmp_path, line):
    run = Run(without_digests(shutil.copytree(whole, tmp_path / "run")))
    file = run.path / "metrics.jsonl"
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([first, line, *rest]))
    with pytest.raises(TCAFError, match=r"line 2 of .*metrics.jsonl is damaged"):
        run.records()


@pytest.mark.parametrize("name", ["config.json", "provenance.json", "metrics.jsonl", FILE])
def test_a_file_that_is_not_as_the_run_left_it_is_named(whole, tmp_path, name):
    def look(run):
        return run.experiment, run.provenance, run.records(), run.decisions

    run = Run(shutil.copytree(whole, tmp_path / "run"))
    look(run)
    # White space changes nothing but the bytes.
    with (run.path / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(TCAFError, match=rf"{name} is not what the run wrote"):
        look(run)


@pytest.mark.slow
def test_every_bit_of_a_result_counts(whole, tmp_path):
    run = Run(shutil.copytree(whole, tmp_path / "run"))
    file = run.path / "result.json"
    data = file.read_bytes()
    # The lowest bit makes another digit of a digit.
    for place, bit in itertools.product(range(0, len(data), 2), (0, 5)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        file.write_bytes(flipped)
        with pytest.raises(TCAFError, match=r"result\.json"):
            run.result  # noqa: B018


def test_provenance_says_where_a_result_comes_from(store, whole):
    found = json.loads((whole / "provenance.json").read_text())
    assert found["data"]["fingerprint"] == store.fingerprint
    assert found["versions"]["torch"] == version("torch")
    assert found["seed"] == 0
    assert found["threads"] == torch.get_num_threads()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_loses_nothing(store, tmp_path, number, experiment, toml):
    """A real process is killed in the middle; the same command with --resume ends the same."""
    training = replace(experiment.training, batches_per_epoch=60)
    config = toml(tmp_path / "tiny.toml", replace(experiment, training=training))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(out, *more):
        return [
            *(sys.executable, "-m", "tcaf", "train", "--config", str(config)),
            *("--store", str(store.path), "--out", str(out), *more),
        ]

    subprocess.run(command(tmp_path / "whole"), check=True, env=environment, capture_output=True)
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command(killed), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not (killed / "metrics.jsonl").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
    assert process.returncode == expected[number], error
    if number != signal.SIGKILL:
        assert b"--resume" in error
        assert b"Traceback" not in error
    assert not (killed / "result.json").exists()
    (killed / ".model.safetensors.1.partial").write_bytes(b"what a kill in a write leaves")
    subprocess.run(command(killed, "--resume"), check=True, env=environment, capture_output=True)
    assert_same(weights(killed), weights(tmp_path / "whole"))
    assert not list(killed.glob(".*"))


def test_the_store_is_not_changed_by_a_run(store, whole):
    FeatureStore.open(store.path).verify()
