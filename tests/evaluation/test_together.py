"""Runs whose clips are answered together: what they keep, `evaluate --together`, older runs."""

import json
import shutil
from dataclasses import replace

import pytest
import safetensors
import safetensors.torch
import torch

from tcaf import ZeroShotClassifier
from tcaf.commands import entry as cli
from tcaf.errors import TCAFError
from tcaf.evaluation.gzsl import margin_gammas
from tcaf.evaluation.parts import EvaluationPart
from tcaf.evaluation.temperature import fit_temperature
from tcaf.evaluation.together import PartTogether
from tcaf.systems.registry import find_system
from tcaf.training.evaluate import evaluate_run
from tcaf.training.model_file import load_model, save_model
from tcaf.training.run import Run, train


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    given = {"training": {"epochs": 3}, "evaluation": {"gamma_grid": "margins", "batch_size": 13}}
    return replace(tiny_experiment(**given), system="textlda")


@pytest.fixture(scope="module")
def run(tiny_store, experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("together") / "run"
    train(experiment, tiny_store, out)
    return out


@pytest.fixture(scope="module")
def other(tiny_store, tiny_experiment, tmp_path_factory):
    """A run of a system that answers each clip by itself."""
    out = tmp_path_factory.mktemp("other") / "run"
    train(replace(tiny_experiment(training={"epochs": 1}), system="ridge"), tiny_store, out)
    return out


@pytest.fixture(scope="module")
def older(run, tmp_path_factory):
    """The run as a release without clips together would have left it."""
    folder = tmp_path_factory.mktemp("older") / "run"
    shutil.copytree(run, folder)
    for name in ("model.safetensors", "stage_1.safetensors"):
        with safetensors.safe_open(folder / name, framework="pt") as file:
            header = json.loads(file.metadata()["header"])
            names = [key for key in file.keys() if not key.endswith("seen_counts")]  # noqa: SIM118
            tensors = {key: file.get_tensor(key) for key in names}
        del header["together"]
        header = {"header": json.dumps(header)}
        safetensors.torch.save_file(tensors, folder / name, metadata=header)
    return folder


def validation_clips(run, store):
    trained = load_model(run / "stage_1.safetensors")
    rows = store.rows("cls", "val")
    part = EvaluationPart(store, rows, trained.classes, trained.class_text)
    windows = find_system("textlda").windows(trained.experiment, training=False)
    return PartTogether(trained.model, part, windows, batch_size=7)


def test_validation_chooses_again_and_both_models_keep_it(run, tiny_store):
    together = Run(run).result["choice"]["together"]
    for name in ("model.safetensors", "stage_1.safetensors"):
        kept = load_model(run / name).together
        assert (kept.gamma, kept.temperature) == (together["gamma"], together["temperature"])
        assert kept.validation == together["validation"]
    found = evaluate_run(run, tiny_store, part="val", together=True).to_json()
    assert found["transductive"] is True
    assert found["curve_area"] is None
    for name, value in together["validation"].items():
        assert name == "gamma_on_edge" or found[name] == pytest.approx(value)
    # And the clips were indeed answered otherwise.
    assert Run(run).result["choice"]["validation"] != together["validation"]


@pytest.mark.slow
def test_the_gamma_is_the_best_around_the_best_of_a_coarse_grid(run, tiny_store):
    clips = validation_clips(run, tiny_store)
    found = clips.search()
    model, classes = clips.model, clips.part.classes
    embedding = model.embed_text(clips.text).class_embedding
    gammas = margin_gammas(clips._decide(model.scores(o, embedding) for o in clips.outputs))
    means = [clips.evaluate(gamma).harmonic_mean for gamma in gammas]
    coarse = max(range(0, len(gammas), 4), key=lambda i: means[i])
    near = range(max(0, coarse - 3), min(len(gammas), coarse + 4))
    best = max(near, key=lambda i: means[i])
    assert (found.gamma, found.harmonic_mean) == (gammas[best], means[best])
    assert found.gamma_on_edge == (best in (0, len(gammas) - 1))
    assert found.harmonic_mean > means[0]
    # The temperature is that of these very distances.
    distances = torch.cat(list(clips.distances(found.gamma)))
    temperature = fit_temperature(
        distances, clips.part.labels, seen=classes.seen_ids, gamma=found.gamma
    )
    assert clips.choose().temperature == pytest.approx(temperature)


def test_batches_change_nothing(run, tiny_store):
    one, many = validation_clips(run, tiny_store), validation_clips(run, tiny_store)
    many.outputs = [replace_rows(many.outputs, rows) for rows in torch.arange(1000).split(3)]
    many.outputs = [output for output in many.outputs if len(output.video_embedding)]
    found = [torch.cat(list(each.distances(0.05))) for each in (one, many)]
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def replace_rows(outputs, rows):
    whole = torch.cat([output.video_embedding for output in outputs])
    return replace(outputs[0], video_embedding=whole[rows[rows < len(whole)]])


@pytest.mark.slow
def test_the_command_says_that_scores_are_transductive(run, tiny_store, capsys):
    command = ["evaluate", str(run), "--store", str(tiny_store.path), "--together"]
    assert cli.main([*command, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == evaluate_run(run, tiny_store, together=True).to_json()
    clips = len(tiny_store.rows("cls", "test"))
    assert value["gamma"] == load_model(run).for_together(clips)[0]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "percent; transductive" in told
    assert "area" not in told
    assert cli.main(command[:-1]) == 0
    told = capsys.readouterr().out
    assert "transductive" not in told
    assert "area" in told


@pytest.mark.slow
def test_another_gamma_may_be_given_or_searched(run, tiny_store):
    given = evaluate_run(run, tiny_store, together=True, gamma=5.0).result
    assert (given.gamma, given.seen) == (5.0, 0.0)
    best = evaluate_run(run, tiny_store, together=True, search_gamma=True).result
    again = evaluate_run(run, tiny_store, together=True, gamma=best.gamma).result
    assert best.harmonic_mean == again.harmonic_mean > 0


def test_systems_that_cannot_say_so(other, tiny_store, capsys):
    assert Run(other).result["choice"]["together"] is None
    assert load_model(other).together is None
    line = (
        r"'ridge' answers each clip by itself and has no way to answer clips together, as textlda"
    )
    with pytest.raises(TCAFError, match=line):
        evaluate_run(other, tiny_store, together=True, gamma=0.1)
    with pytest.raises(TCAFError, match=line):
        ZeroShotClassifier.load(other).classify([], together=True)
    command = ["predict", str(other), "test", "--store", str(tiny_store.path), "--together"]
    assert cli.main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.filterwarnings("ignore::tcaf.files.sealed.UnsealedWarning")
def test_older_runs_answer_clip_by_clip_and_say_how_to_get_the_other(older, run, tiny_store):
    assert evaluate_run(older, tiny_store).to_json() == evaluate_run(run, tiny_store).to_json()
    classifier = ZeroShotClassifier.load(older)
    rows = tiny_store.rows("cls", "test")
    assert classifier.classify_store(tiny_store, rows)
    line = "holds no gamma for clips together: it was not .* a run of an older release"
    with pytest.raises(TCAFError, match=line):
        classifier.classify_store(tiny_store, rows, together=True)
    with pytest.raises(TCAFError, match=f"{older} {line}"):
        evaluate_run(older, tiny_store, together=True, gamma=0.1)


def test_numbers_that_cannot_be_are_damage(run, tmp_path):
    trained = load_model(run)
    for name in ("gamma", "temperature"):
        broken = replace(trained, together=replace(trained.together, **{name: -1.0}))
        save_model(tmp_path / name, broken)
    assert load_model(tmp_path / "gamma").together.gamma == -1.0
    with pytest.raises(TCAFError, match="temperature to be a finite number above 0"):
        load_model(tmp_path / "temperature")


@pytest.mark.slow
def test_a_run_that_is_taken_up_again_keeps_the_same(
    run, experiment, tiny_store, tmp_path, monkeypatch
):
    """Killed when stage 2 was over and nothing was kept of it."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tcaf.training.protocol.TwoStages.together", stop)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, tiny_store, tmp_path / "run")
    assert load_model(tmp_path / "run" / "stage_1.safetensors").together is None
    train(experiment, tiny_store, tmp_path / "run", resume=True)
    for name in ("model.safetensors", "stage_1.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()
    assert Run(tmp_path / "run").result["choice"] == Run(run).result["choice"]
