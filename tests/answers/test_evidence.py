"""Sets of answers, and why an answer is what it is, from a run to what is printed."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tcaf import ZeroShotClassifier
from tcaf.commands.entry import main
from tcaf.data.batches import FeatureBatch
from tcaf.errors import TCAFError
from tcaf.evaluation.conformal import Conformity
from tcaf.training.evaluate import evaluate_run
from tcaf.training.model_file import load_model, save_model
from tcaf.training.run import train

TRAINING = {"epochs": 2, "batches_per_epoch": 7, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def runs(tiny_store, tiny_experiment, tmp_path_factory):
    """A run of TextLDA, of TCaF and of ridge."""
    out = tmp_path_factory.mktemp("evidence")
    for system in ("textlda", "tcaf", "ridge"):
        train(tiny_experiment(system=system, training=TRAINING), tiny_store, out / system)
    return out


@pytest.fixture(params=["textlda", "tcaf"])
def classifier(request, runs):
    return ZeroShotClassifier.load(runs / request.param)


@pytest.fixture(scope="module")
def rows(tiny_store):
    return tiny_store.rows("cls", "test")


def strange(classifier, store, row):
    """How strange each candidate is for a clip, by a loop over the classes of the training."""
    names = classifier.classes
    found = {a.name: a.distance for a in classifier.classify(store[row], top_k=100).answers}
    seen = [found[name] for name in names if name in classifier.trained.classes.seen]
    temperature = classifier.temperature
    near = -temperature * np.log(np.sum(np.exp(-np.array(seen) / temperature)))
    return {name: found[name] - near for name in names}


@pytest.mark.slow
def test_sets_are_what_is_not_too_strange(classifier, tiny_store, rows):
    limits = classifier.trained.thresholds(0.3)
    for row, ranking in zip(
        rows, classifier.classify_store(tiny_store, rows, abstain=0.3), strict=True
    ):
        for name, score in strange(classifier, tiny_store, int(row)).items():
            limit = limits[name not in classifier.trained.classes.seen]
            if abs(score - limit) > 1e-5:
                assert (name in ranking.names) == (score < limit), name
        order = [a.name for a in classifier.classify(tiny_store[int(row)], top_k=100).answers]
        assert list(ranking.names) == [name for name in order if name in ranking.names]


def test_the_threshold_follows_from_validation_clips(runs, tiny_store):
    """On them sets leave out as many as they may: the scores are of these weights and clips."""
    first = load_model(runs / "textlda" / "stage_1.safetensors")
    assert load_model(runs / "textlda").conformity.seen.tolist() == first.conformity.seen.tolist()
    found = evaluate_run(runs / "textlda", tiny_store, part="val", abstain=0.3).sets
    for half in ("seen", "unseen"):
        num_clips = len(getattr(first.conformity, half))
        kept = np.ceil((num_clips + 1) * 0.7) / num_clips
        assert getattr(found, half) == pytest.approx(kept, abs=1e-9)


def test_a_set_may_be_empty_or_hold_all(classifier, tiny_store, rows):
    scores = np.linspace(-1e3, 1e3, 101)
    trained = replace(classifier.trained, conformity=Conformity(scores, scores))
    wide = ZeroShotClassifier(trained)
    assert {len(r.names) for r in wide.classify_store(tiny_store, rows, abstain=0.02)} == {12}
    assert {len(r.names) for r in wide.classify_store(tiny_store, rows, abstain=0.98)} == {0}
    assert wide.classify_store(tiny_store, rows[:1], abstain=0.98)[0].to_json()["set"] == []


def test_other_candidates_change_no_name_of_a_set(classifier, tiny_store, rows):
    whole = classifier.classify_store(tiny_store, rows, abstain=0.3)
    few = classifier.classes[:2] + classifier.classes[-2:]
    classifier.set_classes(few)
    for before, now in zip(
        whole, classifier.classify_store(tiny_store, rows, abstain=0.3), strict=True
    ):
        assert set(now.names) == set(before.names) & set(few)


def test_each_modality_answers_as_a_clip_that_has_it_alone(classifier, tiny_store, rows):
    videos = [tiny_store[row] for row in rows[:5].tolist()]
    for video, ranking in zip(videos, classifier.classify(videos, why=True), strict=True):
        for modality, other in (("audio", "visual"), ("visual", "audio")):
            cut = replace(video, **{other: video.tokens(other)[:0]})
            ranked = classifier.classify(cut, top_k=100).answers
            expected = {a.name: (a.distance, rank) for rank, a in enumerate(ranked, start=1)}
            for answer in ranking.answers:
                said = answer.alone[modality]
                assert said.distance == pytest.approx(expected[answer.name][0], abs=1e-5)
                assert said.rank == expected[answer.name][1]


def test_the_nearest_classes_of_the_training(classifier, tiny_store, rows):
    classifier.set_classes(classifier.classes[-1:])
    (found,) = classifier.classify_store(tiny_store, rows[:1], why=True)
    classifier.set_classes(classifier.trained.classes.names)
    ranked = classifier.classify(tiny_store[int(rows[0])], top_k=100).answers
    seen = sorted((a.distance, a.name) for a in ranked if a.seen)[:5]
    assert [each.name for each in found.nearest] == [name for _, name in seen]
    assert [each.distance for each in found.nearest] == pytest.approx([d for d, _ in seen])


def test_nothing_is_computed_that_nobody_asked_for(classifier, tiny_store, rows, monkeypatch):
    monkeypatch.setattr("tcaf.answers.classifier.strangeness", None)
    monkeypatch.setattr("tcaf.answers.classifier.nearest", None)
    (found,) = classifier.classify_store(tiny_store, rows[:1])
    assert set(found.to_json()) == {"id", "answers"}
    assert set(found.to_json()["answers"][0]) == {
        *("rank", "class", "probability", "distance", "seen")
    }


def test_what_is_not_there_is_left_out(runs, classifier, tiny_store, rows):
    """A modality that the clip lacks, or a system to which what is missing is zeros."""
    video = tiny_store[int(rows[0])]
    deaf = replace(video, audio=video.audio[:0])
    both, one = classifier.classify([video, deaf], why=True)
    assert [set(a.alone) for a in both.answers] == [{"audio", "visual"}] * 5
    assert [a.alone for a in one.answers] == [{}] * 5
    ridge = ZeroShotClassifier.load(runs / "ridge")
    assert not ridge.tells_apart
    found = ridge.classify(video, why=True)
    assert [a.alone for a in found.answers] == [{}] * 5
    assert len(found.nearest) == 5


def test_models_that_cannot_vouch_for_sets_say_so(runs, tiny_store, rows, tmp_path):
    trained = load_model(runs / "textlda")
    save_model(tmp_path / "model.safetensors", replace(trained, conformity=None))
    old = ZeroShotClassifier.load(tmp_path / "model.safetensors")
    assert old.classify_store(tiny_store, rows[:1])[0].names is None
    for ask in (
        lambda: old.classify_store(tiny_store, rows, abstain=0.1),
        lambda: old.classify([], abstain=0.1),
        lambda: evaluate_run(tmp_path / "model.safetensors", tiny_store, abstain=0.1),
    ):
        with pytest.raises(TCAFError, match=r"holds no scores of validation clips.*train again"):
            ask()
    new = ZeroShotClassifier(trained)
    with pytest.raises(TCAFError, match="--abstain and --together exclude each other"):
        new.classify([], abstain=0.1, together=True)


@pytest.mark.parametrize("scores", [[[0.0, 1.0]], [], [1.0, 0.0], [0.0, float("nan")]])
def test_scores_that_cannot_be_are_refused(runs, tmp_path, scores, unchecked):
    trained = load_model(runs / "textlda")
    broken = Conformity(np.array(scores), trained.conformity.unseen)
    save_model(tmp_path / "model.safetensors", replace(trained, conformity=broken))
    with pytest.raises(TCAFError, match="damaged: expected scores of validation clips"):
        load_model(tmp_path / "model.safetensors")


def test_only_one_modality_of_a_batch(tiny_store, rows):
    videos = [tiny_store[row] for row in rows[:3].tolist()]
    batch = FeatureBatch.from_videos(videos, tiny_store.spec)
    heard = batch.only("audio")
    assert torch.equal(heard.audio.tokens, batch.audio.tokens)
    assert (heard.visual.lens.tolist(), len(heard.visual.tokens)) == ([0, 0, 0], 0)
    assert len(batch.only("visual").audio.tokens) == 0


@pytest.mark.slow
def test_what_is_printed(runs, tiny_store, rows, capsys):
    run, clip = str(runs / "textlda"), tiny_store.ids[rows[0]]
    words = ["predict", run, "--store", str(tiny_store.path), "--abstain", "0.3", "--why"]

    def printed(*more):
        assert main([*words, *more]) == 0
        return capsys.readouterr()

    value = json.loads(printed(clip, "--json").out)
    assert value["abstain"] == 0.3
    (found,) = value["predictions"]
    names = ", ".join(found["set"]) or "none of these"
    one = " ".join(printed(clip).out.split())
    assert f"not ruled out: {names}, where 30 % wrong are allowed" in one
    near = found["nearest_training"][0]
    assert f"nearest classes of the training: {near['class']} {near['distance']:.3f}, " in one
    assert "not ruled out" in printed("test").out
    lines = printed(clip, "--csv", "--top_k", "1").out.splitlines()
    header, row = csv.reader(lines)
    cells = dict(zip(header, row, strict=True))
    best = found["answers"][0]
    assert cells["set_size"] == str(len(found["set"]))
    assert cells["in_set"] == str(best["class"] in found["set"])
    assert cells["visual_rank"] == str(best["alone"]["visual"]["rank"])
    assert cells["nearest_training"] == near["class"]
    words[1] = str(runs / "ridge")
    assert "ridge does not tell apart" in printed(clip).err
    assert main(["evaluate", run, "--store", str(tiny_store.path), "--abstain", "0.3"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "sets that may leave out the true class of 30 % of the clips hold it for" in out
    assert "expected calibration error of probabilities, percent: " in out
