"""Recordings: joined answers, what is left out, order, failures on the way, the bar."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from moody import MOODY
from tcaf import ZeroShotClassifier
from tcaf.answers.files import Begun, Ended, FileBackbones, stretches_of_files
from tcaf.answers.ranking import Answer, Ranking
from tcaf.answers.recordings import (
    Joiner,
    Recording,
    Span,
    _Bar,
    answer_recordings,
    recordings_json,
    remarks,
)
from tcaf.data.features import FeatureSpec
from tcaf.errors import TCAFError
from tcaf.extract.backbones import BACKBONES
from tcaf.extract.stretches import Cut, Stretch
from write_clip_run import COLOURS, write_run
from write_recording import Scene, write_recording

pytest.importorskip("av")


def span(start_s, name="ant", probability=0.5, distance=1.0, kind="answer"):
    ranking = Ranking("r.mkv", (Answer(name, distance, probability, True),))
    ranking = None if kind == "silence" else ranking
    return Span("r.mkv", start_s, start_s + 2.0, kind, ranking, probability, distance)


def joined(spans, **how):
    joiner = Joiner(**how)
    return [one for one in (*map(joiner.push, spans), joiner.flush()) if one is not None]


def test_neighbours_with_the_same_answer_are_one():
    spans = [
        span(0.0, probability=0.5, distance=1.0),
        span(2.0, probability=0.8, distance=0.25),
        span(4.0, probability=0.2, distance=1.0),
        span(6.0, "bee"),
        span(8.0, "ant"),
    ]
    one, two, three = joined(spans)
    assert [(s.start_s, s.end_s, s.name) for s in (one, two, three)] == [
        (0.0, 6.0, "ant"),
        (6.0, 8.0, "bee"),
        (8.0, 10.0, "ant"),
    ]
    # (0.5 + 0.8 + 0.2) / 3 and (1 + 0.25 + 1) / 3; the second stretch is the surest.
    assert (one.probability, one.distance) == (pytest.approx(0.5), pytest.approx(0.75))
    assert (one.num_stretches, one.ranking) == (3, spans[1].ranking)
    assert joined(spans, apart=True) == spans
    assert joined([]) == []


def test_what_is_no_answer_keeps_answers_apart():
    spans = [
        *(span(0.0), span(2.0, kind="silence"), span(4.0, kind="silence")),
        *(span(6.0, kind="none"), span(8.0, "bee", kind="none"), span(10.0)),
    ]
    found = joined(spans)
    assert [(s.kind, s.start_s, s.end_s) for s in found] == [
        ("answer", 0.0, 2.0),
        ("silence", 2.0, 6.0),
        ("none", 6.0, 10.0),
        ("answer", 10.0, 12.0),
    ]
    assert [s.name for s in found] == ["ant", "", "", "ant"]
    assert found[1].to_json()["class"] is found[2].to_json()["probability"] is None


def test_without_temperature_there_are_no_probabilities():
    (one,) = joined([span(0.0, probability=None), span(2.0, probability=None)])
    assert (one.probability, one.distance) == (None, 1.0)


class Ticks:
    """Counts how many parts of a bar are done."""

    def __call__(self, items, description):
        self.done = -1
        for item in items:
            self.done += 1
            yield item
        self.done += 1


def test_a_bar_in_which_recordings_count_by_their_sizes(tmp_path):
    (tmp_path / "a").write_bytes(bytes(300))
    (tmp_path / "b").write_bytes(bytes(100))
    ticks = Ticks()
    bar = _Bar(ticks, [tmp_path / "a", tmp_path / "b", tmp_path / "gone"])
    assert ticks.done == 0
    bar.begin(0, 60.0)
    bar.begin(1, None)
    bar.move(0, 30.0)
    assert ticks.done == 37  # 150 of 401 bytes
    bar.move(1, 30.0)  # how long it is nobody knows
    bar.move(0, 90.0)
    assert ticks.done == 74
    bar.end(1)
    assert ticks.done == 99
    bar.end(0)
    bar.end(2)
    bar.close()
    assert ticks.done == 100


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_experiment):
    """A run, and two recordings."""
    folder = tmp_path_factory.mktemp("recordings")
    write_run(folder, tiny_experiment(training={"epochs": 1, "batches_per_epoch": 3}))
    scenes = [Scene(4.0), Scene(4.0, None, None), Scene(5.0, 900.0, (10, 240, 30))]
    write_recording(folder / "a.mkv", scenes)
    write_recording(folder / "b.wav", [Scene(3.0)], sight=False)
    return folder


@pytest.fixture(autouse=True)
def _backbones(monkeypatch, quick):
    monkeypatch.setitem(BACKBONES, "colours", COLOURS)
    monkeypatch.setitem(BACKBONES, "moody", MOODY)


@pytest.fixture(scope="module")
def classifier(world):
    return ZeroShotClassifier.load(world / "run")


@pytest.mark.slow
def test_answers_are_those_of_the_stretches(world, classifier):
    found = list(
        answer_recordings(
            classifier, [world / "a.mkv"], Cut(2.0), apart=True, keep_all=True, keep_stretches=True
        )
    )
    *spans, recording = found
    with_features = classifier.backbones.stretches(world / "a.mkv", "r", Cut(2.0))
    for one, stretch in zip(spans, with_features, strict=True):
        assert (one.start_s, one.end_s) == (stretch.start_s, stretch.end_s)
        assert (one.kind == "silence") == stretch.is_empty == (4.0 <= one.start_s < 8.0)
        if one.ranking is not None:
            assert one.ranking.answers == classifier.classify(stretch.video).answers
    assert recording.stretches == tuple(spans)
    assert recording.left_out_s == {"silence": 4.0}
    assert recording.length_s == spans[-1].end_s
    assert recording.num_answers == len(spans) - 2


def test_what_is_left_out_is_counted(world, classifier):
    found = list(answer_recordings(classifier, [world / "a.mkv"], Cut(2.0)))
    assert not [one for one in found[:-1] if one.kind != "answer"]
    for one, other in pairwise(found[:-1]):
        assert one.end_s <= other.start_s
    assert found[-1].left_out_s == {"silence": 4.0}
    assert found[-1].stretches == ()


@pytest.mark.slow
def test_none_of_the_names(world, classifier, monkeypatch):
    def classify(clip, **asked):
        assert asked["abstain"] == 0.1
        names = ("ant",) if isinstance(clip, list) or clip.visual[0, 1] < 0.5 else ()
        return Ranking("r", (Answer("ant", 1.0, 0.5, True),), names)

    monkeypatch.setattr(classifier, "classify", classify)
    *spans, recording = answer_recordings(
        classifier, [world / "a.mkv"], Cut(2.0), abstain=0.1, keep_all=True
    )
    assert [one.kind for one in spans] == ["answer", "silence", "none"]
    assert [one.start_s for one in spans] == [0.0, 4.0, 8.0]
    lost_s = spans[2].end_s - spans[2].start_s
    assert recording.left_out_s == {"silence": 4.0, "none": lost_s}
    (only, _) = answer_recordings(classifier, [world / "a.mkv"], Cut(2.0), abstain=0.1)
    assert only == spans[0]


@pytest.mark.slow
def test_recordings_keep_their_order_and_a_bad_one_stops_none(world, classifier, tmp_path):
    (tmp_path / "bad.mkv").write_text("no recording")
    files = [world / "a.mkv", tmp_path / "bad.mkv", tmp_path / "gone.mkv", world / "b.wav"]
    found = list(answer_recordings(classifier, files, Cut(2.0), workers=2))
    ends = [one for one in found if isinstance(one, Recording)]
    assert [one.file for one in ends] == files
    of = [one.id if isinstance(one, Span) else str(one.file) for one in found]
    assert of == sorted(of, key=[*map(str, files)].index)
    assert [bool(one.reason) for one in ends] == [False, True, True, False]
    assert "not a media file" in ends[1].reason
    assert "no such file" in ends[2].reason
    value = recordings_json(classifier, Cut(2.0), found, 0.25, None)
    assert json.loads(json.dumps(value)) == value
    assert [len(each["spans"]) > 0 for each in value["recordings"]] == [True, False, False, True]
    assert value["recordings"][1]["error"] == ends[1].reason
    assert (value["every"], value["hop"], value["gamma"]) == (2.0, 2.0, classifier.gamma + 0.25)


@pytest.mark.slow
def test_a_crash_in_the_middle_leaves_the_answers_before(tmp_path):
    backbones = FileBackbones(
        FeatureSpec(128, 6, 0.96, 0.64, "logmel", "moody"), ("visual",), {"visual": None}
    )
    # Windows are embedded 16 at a time: the green ones are in the third batch.
    scenes = [Scene(24.0, None, (200, 180, 190)), Scene(12.0, None, (0, 255, 0))]
    path = write_recording(tmp_path / "r.mkv", scenes, sound=False)
    found = [event for _, event in stretches_of_files([path], backbones, Cut(4.0))]
    assert isinstance(found[0], Begun)
    numbers = [event.number for event in found if isinstance(event, Stretch)]
    # It is tried twice; what came before is not given again.
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < 6
    assert isinstance(found[-1], Ended)
    assert found[-1].reason == f"{path}: decoder crashed (the process was ended by SIGSEGV)"


def test_an_answer_that_cannot_be_had_ends_its_recording(world, classifier, monkeypatch):
    classify = ZeroShotClassifier.classify

    def fails_later(self, clip, *given, **asked):
        if not isinstance(clip, list) and not np.allclose(clip.audio[0], first):
            raise TCAFError("a NaN")
        return classify(self, clip, *given, **asked)

    first = next(classifier.backbones.stretches(world / "a.mkv", "", Cut(2.0))).video.audio[0]
    monkeypatch.setattr(ZeroShotClassifier, "classify", fails_later)
    files = [world / "a.mkv", world / "b.wav"]
    found = list(answer_recordings(classifier, files, Cut(2.0), apart=True))
    ends = [one for one in found if isinstance(one, Recording)]
    assert ends[0].reason == "a NaN"
    assert ends[0].length_s == 2.0


def test_remarks(classifier, tiny_experiment):
    (told,) = remarks(classifier, Cut(2.0), None)
    assert told.startswith("a stretch that is none of the names gets the nearest one")
    assert remarks(classifier, Cut(2.0), 0.05) == []


def test_what_concerns_all_files_is_said_at_once(world, classifier):
    with pytest.raises(TCAFError, match=r"--every 0\.5 is shorter"):
        list(answer_recordings(classifier, [world / "a.mkv"], Cut(0.5)))


def test_the_code_in_the_documentation(world, tmp_path, monkeypatch, capsys):
    document = Path(__file__).parents[2] / "docs" / "recordings.md"
    (code,) = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.S)
    (tmp_path / "run").symlink_to(world / "run")
    (tmp_path / "lecture.mp4").symlink_to(world / "a.mkv")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    *spans, end = capsys.readouterr().out.splitlines()
    assert spans
    assert spans[0].startswith("0.0 ")
    assert end.startswith("13.")
