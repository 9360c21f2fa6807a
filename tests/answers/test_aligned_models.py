"""Models that embed text beside pictures or sounds, as they answer without training."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import write_aligned
import write_clip_run
from tcaf.answers import aligned_models
from tcaf.answers.aligned_models import open_aligned
from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.ready import READY, is_ready, open_ready
from tcaf.commands import entry as cli
from tcaf.errors import TCAFError
from tcaf.extract.backbones import parse_name
from tcaf.pretrained.aligned_model import AlignedModel, load_aligned
from tcaf.pretrained.hub import ModelName, is_commit
from tcaf.text.prompts import prompt_sets
from tcaf.training.model_file import load_model, save_model

NAMES = ["red circle", "a cat", "drum"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_aligned.write_clip(tmp_path_factory.mktemp("clip") / "model")[1]


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    return write_aligned.write_clap(tmp_path_factory.mktemp("clap") / "model")[1]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_clip_run.write_clip(path, seconds=3)
    return path


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def class_vectors(folder, modality, templates):
    """Means of unit vectors of the sentences around each name, by hand."""
    model = load_aligned(folder)
    each = [
        unit(model.embed_text([t.replace("{}", n) for t in templates], modality)) for n in NAMES
    ]
    return unit(np.stack([rows.mean(axis=0) for rows in each]))


def test_the_models_that_are_offered_are_pinned_and_licensed():
    offered = {name: info for name, info in READY.items() if info.backbones}
    assert set(offered) == {"clip", "clap", "clip+clap", "pe-av"}
    for info in offered.values():
        assert set(info.modalities) == set(info.backbones)
        for name in info.backbones.values():
            kind, options = parse_name(name)
            assert kind == "hf"
            assert is_commit(ModelName.parse(options["model"]).revision)


def test_names_that_are_taken():
    assert is_ready("clip+clap")
    assert is_ready("hf:any/model@main")
    assert is_ready("st:./folder")
    assert not is_ready("gpt:any")
    with pytest.raises(TCAFError, match=r"^no ready model 'pe_av'; there .*mean 'pe-av'\?$"):
        open_ready("pe_av")


def test_a_picture_model_answers_with_its_own_probability(clip, film):
    trained = open_aligned(f"hf:{clip}")
    assert trained.model.modalities == ("visual",)
    assert trained.spec.audio_backbone == "none"
    classifier = ZeroShotClassifier(trained)
    classifier.set_classes(NAMES)
    features = classifier.features(film)
    v = unit(unit(features.visual).mean(axis=0))
    cosines = class_vectors(clip, "visual", prompt_sets()["general"]) @ v
    scale = float(load_aligned(clip).model.logit_scale.exp())
    expected = torch.softmax(torch.from_numpy(scale * cosines), dim=0)
    found = {a.name: a.probability for a in classifier.classify(film).answers}
    for name, probability in zip(NAMES, expected.tolist(), strict=True):
        assert found[name] == pytest.approx(probability, abs=1e-4)
    # What was asked for first is answered again.
    classifier.set_classes(trained.classes.names)
    assert len(classifier.classify(film, top_k=99).answers) == len(aligned_models.CLASSES) == 20


@pytest.mark.slow
def test_two_models_are_mixed_and_one_answers_for_the_other(
    clip, clap, film, tmp_path, monkeypatch
):
    backbones = {"visual": f"hf:{clip}", "audio": f"hf:{clap}"}
    monkeypatch.setitem(READY, "both", replace(READY["clip+clap"], backbones=backbones))
    trained = open_ready("both")
    assert trained.model.modalities == ("audio", "visual")
    classifier = ZeroShotClassifier(trained)
    classifier.set_classes(NAMES)
    silent, unseen = tmp_path / "silent.mp4", tmp_path / "unseen.wav"
    write_clip_run.write_clip(silent, sound=False)
    write_clip_run.write_clip(unseen, picture=False)

    def logits(ranking):
        return np.array([-{a.name: a.distance for a in ranking.answers}[n] for n in NAMES])

    mixed, seen, heard = (logits(classifier.classify(p)) for p in (film, silent, unseen))
    for rows in (mixed, seen, heard):
        rows -= rows.mean()
    # The picture is the same in two of the files, the sound in the other two (but for its codec).
    np.testing.assert_allclose(mixed, (seen + heard) / 2, atol=0.3)
    assert np.abs(seen - heard).max() > 0.5
    why = classifier.classify(film, why=True)
    assert set(why.answers[0].alone) == {"audio", "visual"}
    assert why.nearest == ()


@pytest.mark.slow
def test_it_is_asked_by_its_name(clip, film, capsys):
    asked = ["predict", f"hf:{clip}", str(film), "--classes", ", ".join(NAMES), "--json"]
    assert cli.main(asked) == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    assert {each["class"] for each in found["answers"]} == set(NAMES)
    assert sum(each["probability"] for each in found["answers"]) == pytest.approx(1)


@pytest.mark.slow
def test_reasons_of_a_model_without_a_training(clip, film, capsys):
    asked = ["predict", f"hf:{clip}", str(film), "--classes", ", ".join(NAMES), "--why"]
    assert cli.main([*asked, "--csv"]) == 0
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    column = header.index("nearest_training")
    assert [row[column] for row in rows] == [""] * len(NAMES)
    assert cli.main(asked) == 0
    assert "nearest classes of the training" not in capsys.readouterr().out


def test_a_model_that_gives_no_probability_says_so(clip, monkeypatch):
    half = load_aligned(clip).half("visual")
    without = type(half)(half.kind, half.embed, half.embed_text, None)
    monkeypatch.setattr(AlignedModel, "half", lambda self, modality: without)
    trained = open_aligned(f"hf:{clip}")
    assert trained.temperature is None
    assert "no probabilities" in "".join(ZeroShotClassifier(trained).notes)


def test_an_opened_model_can_be_kept_and_asked_for_other_names(clip, film, tmp_path):
    trained = open_aligned(f"hf:{clip}")
    save_model(tmp_path / "model.safetensors", trained)
    kept, fresh = (
        ZeroShotClassifier(each) for each in (load_model(tmp_path / "model.safetensors"), trained)
    )
    for classifier in (kept, fresh):
        classifier.set_classes(NAMES)
    assert kept.classify(film) == fresh.classify(film)
