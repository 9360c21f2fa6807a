"""A run whose system reads two text spaces: trained, resumed, evaluated, asked; and old runs."""

import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.errors import TCAFError
from tcaf.experiments.layers import experiment_layers, resolve
from tcaf.settings.sections import TextSettings
from tcaf.systems.registry import SYSTEMS, register
from tcaf.text.class_text import embed_classes
from tcaf.training.evaluate import evaluate_run
from tcaf.training.model_file import load_model, load_tensors, save_model, save_tensors
from tcaf.training.observers import Silence
from tcaf.training.protocol import TwoStages
from tcaf.training.provenance import class_text_sha256
from tcaf.training.run import Run, train
from two_spaces import SYSTEM, write_spaces


@pytest.fixture(autouse=True, scope="module")
def registered():
    register(SYSTEM)
    yield
    del SYSTEMS["two_spaces"]


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_store):
    names = [*tiny_store.split("cls").classes, "zebra"]
    return write_spaces(tmp_path_factory.mktemp("spaces"), names)


@pytest.fixture(scope="module")
def experiment(tiny_experiment, files):
    table, words = map(str, files)
    training = {"epochs": 3, "batches_per_epoch": 7, "learning_rate": 3e-2}
    made = tiny_experiment(training=training, fidelity={"stage_2_epochs": "release"})
    return replace(
        made,
        system="two_spaces",
        text=TextSettings("attributes", path=table),
        text_spaces={"words": TextSettings("glove", path=words)},
    )


@pytest.fixture(scope="module")
def run(experiment, tiny_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "run"
    train(experiment, tiny_store, out)
    return out


def weights(run):
    return safetensors.torch.load_file(run / "model.safetensors")


def test_a_run_keeps_both_spaces(run, experiment, tiny_store):
    names = tiny_store.split("cls").classes
    kept, trained = Run(run).text(), load_model(run)
    assert trained.model.config.text_dims == {"text": 5, "words": 3}
    assert trained.class_text.dims == {"text": 5, "words": 3}
    settings = {"text": experiment.text, **experiment.text_spaces}
    for space, own in settings.items():
        expected = dict(zip(names, torch.from_numpy(embed_classes(own, names)), strict=True))
        for row, name in zip(trained.class_text[space], trained.classes.names, strict=True):
            assert torch.equal(row, expected[name])
        assert all(torch.equal(torch.from_numpy(kept[space][n]), expected[n]) for n in names)
    assert {"text_embedding", "text_embedding.words"} < set(weights(run))


def test_both_spaces_are_learnt_from(run, experiment, tiny_store):
    start = TwoStages(experiment, tiny_store, Run(run).text()).new_stage(2).model.text
    for space, layer in load_model(run).model.text.items():
        assert not torch.equal(layer.weight, start[space].weight)


def test_a_run_is_evaluated_in_both_spaces(run, tiny_store):
    found = evaluate_run(run, tiny_store).to_json()
    kept = json.loads((run / "result.json").read_text())["test"]
    sure, kept_sure = found.pop("reliability"), kept.pop("reliability")
    assert {name: found[name] for name in kept} == pytest.approx(kept)
    for name, value in kept_sure.items():
        assert sure[name] == pytest.approx(value)


class Stop(Silence):
    def epoch_done(self, record):
        if (record.stage, record.epoch) == (1, 2):
            raise KeyboardInterrupt


@pytest.fixture
def stopped(experiment, tiny_store, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tiny_store, tmp_path / "run", observer=Stop())
    return tmp_path / "run"


@pytest.mark.slow
def test_a_run_taken_up_again_is_the_same(stopped, experiment, run, tiny_store):
    train(experiment, tiny_store, stopped, resume=True)
    one, other = weights(run), weights(stopped)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_resuming_with_a_changed_space_is_refused(stopped, experiment, tiny_store, tmp_path):
    names = [*tiny_store.split("cls").classes, "zebra"]
    _, words = write_spaces(tmp_path, names, seed=1)
    other = {"words": TextSettings("glove", path=str(words))}
    with pytest.raises(TCAFError, match=r"started with text_spaces\.words\.path = "):
        train(replace(experiment, text_spaces=other), tiny_store, stopped, resume=True)
    own = experiment.text_spaces["words"].path
    kept = shutil.copy(own, tmp_path / "kept.txt")
    shutil.copy(words, own)
    message = rf"text in the space 'words' is made from \({own}\) has changed since"
    try:
        with pytest.raises(TCAFError, match=message):
            train(experiment, tiny_store, stopped, resume=True)
    finally:
        shutil.copy(kept, own)


def test_each_space_has_its_hash(experiment, run, tiny_store):
    found = class_text_sha256(experiment, tiny_store)
    assert list(found) == ["class_text", "class_text.words"]
    data = json.loads((run / "provenance.json").read_text())["data"]
    assert {name: data[name] for name in found} == found
    alone = class_text_sha256(replace(experiment, system="tcaf"), tiny_store)
    assert alone == {"class_text": found["class_text"]}


def test_new_classes_are_embedded_in_both_spaces(run, experiment):
    classifier = ZeroShotClassifier.load(run)
    known = classifier.classes[3]
    classifier.set_classes(["zebra", known])
    trained = load_model(run)
    own = trained.class_text.select([3])
    new = {
        space: torch.from_numpy(embed_classes(settings, ["zebra"]))
        for space, settings in {"text": experiment.text, **experiment.text_spaces}.items()
    }
    with torch.no_grad():
        expected = [trained.model.embed_text(text).class_embedding for text in (new, own)]
    torch.testing.assert_close(classifier._class_embedding, torch.cat(expected))
    with pytest.raises(TCAFError, match=r"^text space 'text': the run knows no class 'emu'"):
        classifier.set_classes(["emu"])


def test_a_model_file_comes_back(run, tmp_path):
    trained = load_model(run)
    save_model(tmp_path / "m.safetensors", trained)
    again = load_model(tmp_path / "m.safetensors")
    assert list(again.class_text) == ["text", "words"]
    assert all(torch.equal(m, again.class_text[space]) for space, m in trained.class_text.items())
    assert again.model.config == trained.model.config
    assert again.experiment == trained.experiment
    tensors, header = load_tensors(tmp_path / "m.safetensors", "a model")
    del tensors["text_embedding.words"]
    save_tensors(tmp_path / "m.safetensors", tensors, header)
    with pytest.raises(TCAFError, match=r"holds no class text in the space 'words', which the sys"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.slow
def test_runs_of_older_releases_are_read(tiny_experiment, tiny_store, tmp_path):
    """They know of no further spaces, in settings, model files and kept text."""
    experiment, run = tiny_experiment(), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tiny_store, run, observer=Stop())
    config = json.loads((run / "config.json").read_text())
    del config["text_spaces"]
    (run / "config.json").write_text(json.dumps(config))
    train(experiment, tiny_store, run, resume=True)
    tensors, header = load_tensors(run / "model.safetensors", "a model")
    assert header["version"] == 2
    assert header["config"]["text_dim"] == tensors["text_embedding"].shape[1]
    assert "text_dims" not in header["config"]
    assert [name for name in tensors if name.startswith("text")] == ["text_embedding"]
    before = evaluate_run(run, tiny_store).to_json()
    del header["experiment"]["text_spaces"]
    save_tensors(run / "model.safetensors", tensors, header)
    assert evaluate_run(run, tiny_store).to_json() == before
    assert len(ZeroShotClassifier.load(run).classes) == 12


def test_a_space_that_the_settings_lack(experiment, tiny_store, tmp_path):
    spaces = {"word": experiment.text_spaces["words"]}
    message = (
        r"system 'two_spaces' reads the text space 'words'; .*\[text_spaces\.words\] of a --config "
        r"file; did you mean 'word'\?"
    )
    with pytest.raises(TCAFError, match=message):
        train(replace(experiment, text_spaces=spaces), tiny_store, tmp_path / "r")
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_with_a_source_names_the_space(experiment, tiny_store, tmp_path):
    spaces = {"words": TextSettings("glove")}
    with pytest.raises(TCAFError, match=r"^text space 'words': the source glove needs a GloVe"):
        train(replace(experiment, text_spaces=spaces), tiny_store, tmp_path / "r")


WORDS = "[text_spaces.words]\nsource = 'glove'\npath = 'words.txt'\n"


def test_spaces_come_from_files_and_are_laid_over_one_another(tmp_path, tiny_store):
    (tmp_path / "one.toml").write_text(WORDS)
    (tmp_path / "two.toml").write_text("[text_spaces.words]\nnormalise = false\n")
    config = [str(tmp_path / name) for name in ("one.toml", "two.toml")]
    made = resolve(experiment_layers(tiny_store, config=config, system="two_spaces"))
    assert made.text_spaces == {"words": TextSettings("glove", path="words.txt", normalise=False)}


@pytest.mark.parametrize(
    ("system", "space", "message"),
    [
        ("tcaf", "words", r"'tcaf' does not read 'text_spaces\.words\.source', .*; leave it out$"),
        ("two_spaces", "wrods", r"'text_spaces\.wrods\.source', .*mean 'text_spaces\.words\.sourc"),
    ],
)
def test_a_space_that_nobody_reads_is_refused(tmp_path, tiny_store, system, space, message):
    (tmp_path / "mine.toml").write_text(WORDS.replace("words]", f"{space}]"))
    layers = experiment_layers(tiny_store, config=[str(tmp_path / "mine.toml")], system=system)
    with pytest.raises(TCAFError, match=message):
        resolve(layers)
