"""Answers for clips that are looked at together, of stores and of files."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tcaf import ZeroShotClassifier
from tcaf.answers import interface as module
from tcaf.commands import entry as cli
from tcaf.extract.backbones import BACKBONES
from tcaf.training.evaluate import evaluate_run
from tcaf.training.run import train
from write_clip_run import COLOURS, write_clip, write_run

FEW = "few clips to answer together"


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    given = {"training": {"epochs": 2}, "evaluation": {"gamma_grid": "margins", "batch_size": 13}}
    return replace(tiny_experiment(**given), system="textlda")


@pytest.fixture(scope="module")
def run(tiny_store, experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("together") / "run"
    train(experiment, tiny_store, out)
    return out


@pytest.fixture
def classifier(run):
    return ZeroShotClassifier.load(run)


@pytest.mark.slow
@pytest.mark.filterwarnings(f"ignore:{FEW}")
def test_they_are_those_that_evaluation_counts(run, classifier, tiny_store):
    rows = tiny_store.rows("cls", "test")
    alone = classifier.classify_store(tiny_store, rows, 100)
    classifier.gamma, classifier.temperature = 7.0, 7.0  # of clip by clip alone
    found = classifier.classify_store(tiny_store, rows, 100, together=True)
    result = evaluate_run(run, tiny_store, together=True).result
    names = [classifier.trained.classes.names[i] for i in result.decisions.predicted(result.gamma)]
    assert [ranking.answers[0].name for ranking in found] == names
    for ranking, margin in zip(found, result.decisions.margin, strict=True):
        unseen, seen = (min(a.distance for a in ranking.answers if a.seen == s) for s in (0, 1))
        assert unseen - seen == pytest.approx(margin, abs=1e-5)
    assert [ranking.answers for ranking in alone] != [ranking.answers for ranking in found]
    # From memory, in another order.
    videos = [tiny_store[row] for row in rows.tolist()]
    again = classifier.classify(videos[::-1], together=True)[::-1]
    for one, other in zip(found, again, strict=True):
        assert one.id == other.id
        assert one.answers[0].name == other.answers[0].name
        assert one.answers[0].distance == pytest.approx(other.answers[0].distance, abs=1e-5)


@pytest.mark.filterwarnings(f"ignore:{FEW}")
def test_probabilities_are_of_this_modes_gamma_and_temperature(classifier, tiny_store):
    chosen = classifier.trained.together
    many, few, none = (classifier.calibration(n) for n in (10**6, chosen.clips // 4, 0))
    assert many == pytest.approx((chosen.gamma, chosen.temperature))
    # A quarter of validation's clips is a quarter of the way from clip by clip.
    alone = np.array([classifier.gamma, classifier.temperature])
    assert few == pytest.approx(
        alone + (np.array(many) - alone) * (chosen.clips // 4) / chosen.clips
    )
    assert none == pytest.approx(alone)
    assert classifier.calibration() == (classifier.gamma, classifier.temperature)
    rows = tiny_store.rows("cls", "test")
    bias = 0.01
    gamma, temperature = classifier.calibration(len(rows))
    found = classifier.classify_store(tiny_store, rows, 100, bias, together=True)
    for ranking in found[::7]:
        added = [a.distance + (gamma + bias) * a.seen for a in ranking.answers]
        assert added == sorted(added)
        shares = [math.exp(-value / temperature) for value in added]
        expected = [share / sum(shares) for share in shares]
        assert [a.probability for a in ranking.answers] == pytest.approx(expected, rel=1e-6)
    # The bias holds seen classes back while classes move, not at the end alone.
    without = classifier.classify_store(tiny_store, rows, 100, together=True)
    biased, plain = (
        [[a.distance for a in sorted(r.answers, key=lambda a: a.name)] for r in each]
        for each in (found, without)
    )
    assert not np.allclose(biased, plain, atol=1e-5)


def test_few_clips_are_warned_of(classifier, tiny_store, monkeypatch):
    rows = tiny_store.rows("cls", "test")
    monkeypatch.setattr(module, "FEW_CLIPS", len(rows))
    classifier.classify_store(tiny_store, rows, together=True)  # warnings are errors here
    with pytest.warns(UserWarning, match=f"^{FEW}, {len(rows) - 1}: from {len(rows)} on"):
        classifier.classify_store(tiny_store, rows[1:], together=True)
    with pytest.warns(UserWarning, match=f"^{FEW}, 1: "):
        classifier.classify(tiny_store[int(rows[0])], together=True)
    assert classifier.classify([], together=True) == []


@pytest.mark.slow
@pytest.mark.filterwarnings(f"default:{FEW}")
def test_json_says_that_answers_are_transductive(run, tiny_store, capsys):
    command = ["predict", str(run), "test", "--store", str(tiny_store.path), "--json"]
    assert cli.main(command) == 0
    alone = capsys.readouterr()
    assert (json.loads(alone.out)["transductive"], alone.err) == (False, "")
    assert cli.main([*command, "--together"]) == 0
    together = capsys.readouterr()
    value, classifier = json.loads(together.out), ZeroShotClassifier.load(run)
    assert value["transductive"] is True
    number = len(tiny_store.rows("cls", "test"))
    assert (value["gamma"], value["temperature"]) == classifier.calibration(number)
    assert together.err.startswith("warning: ")
    assert FEW in together.err
    assert together.err.count("\n") == 1
    assert cli.main([*command[:-1], "--together"]) == 0
    assert "all clips together" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.filterwarnings(f"default:{FEW}")
def test_files_are_answered_when_all_are_read(experiment, tmp_path, monkeypatch, capsys):
    pytest.importorskip("av")
    monkeypatch.setitem(BACKBONES, "colours", COLOURS)
    run = write_run(tmp_path, experiment)
    media = tmp_path / "media"
    media.mkdir()
    write_clip(media / "a.mp4")
    (media / "b.mp4").write_bytes(b"no clip at all")
    write_clip(media / "c.mp4", sound=False, colour=(10, 240, 30))
    files = [media / "a.mp4", media / "c.mp4"]
    command = ["predict", str(run), str(media), "--together", "--json"]
    assert cli.main(command) == 2
    output = capsys.readouterr()
    value = json.loads(output.out)
    assert list(value["failed"]) == [str(media / "b.mp4")]
    assert f"{FEW}, 2: " in output.err
    classifier = ZeroShotClassifier.load(run)
    with pytest.warns(UserWarning, match=FEW):
        expected = classifier.classify(list(map(str, files)), together=True)
    assert value["predictions"] == [ranking.to_json() for ranking in expected]
    assert cli.main([*command[:-1], "--csv", "--top_k", "1"]) == 2
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(",")[0] for row in rows] == ["file", *map(str, files)]
