"""What the page is told: answers, stretches, what is kept of a session, many files."""

import dataclasses
import json
import threading

import numpy as np
import pytest

from moody import MOODY
from tcaf import ZeroShotClassifier
from tcaf.answers.interface import FEW_CLIPS
from tcaf.app.page_desk import Desk
from tcaf.app.page_questions import Question
from tcaf.app.shelf import Shelf
from tcaf.errors import TCAFError
from tcaf.extract.backbones import BACKBONES
from tcaf.reports.answer_timeline import view_clip
from write_clip_run import KINDS, write_clip
from write_engine import GREEN, GREY, open_engine, write_moody_run

pytest.importorskip("av")

NAMES = tuple(KINDS)


@pytest.fixture
def desk(monkeypatch, quick, moody_run):
    monkeypatch.setitem(BACKBONES, "moody", MOODY)
    with (
        open_engine(moody_run, workers=2) as engine,
        Shelf() as shelf,
        Desk(engine, shelf) as found,
    ):
        # In this process: what is drawn is tested beside the pictures.
        monkeypatch.setattr(found, "_viewers", Viewed())
        yield found


class Viewed:
    def view(self, path):
        return view_clip(path, 4, 20)

    def close(self):
        pass


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, seconds=3, colour=GREY)
    return path


def names_of(told):
    return [answer["class"] for answer in told.value["predictions"][0]["answers"]]


def test_a_clip_is_answered_as_by_the_engine(desk, clip):
    told = desk.answer("one", desk.take("one", clip, "clip.mp4"), Question(top_k=3))
    expected = desk._engine.answer([desk._engine.read(clip)], top_k=3, why=True)
    assert told.value["predictions"] == expected["predictions"]
    assert told.name == "clip.mp4"
    assert told.spans == ()
    assert told.captions.startswith("WEBVTT\n")
    assert "00:00:00.000 --> 00:00:03.0" in told.captions
    assert json.dumps(told.value)
    assert told.facts["Model"] == desk.title
    assert "sound: logmel; picture: moody" in told.facts["Features"]
    assert "3 of sound" in told.facts["Clip"]


def test_other_names_and_another_bias_read_nothing_again(desk, clip, monkeypatch):
    placed = desk.take("one", clip, "clip.mp4")
    assert not desk.is_read("one", placed)
    desk.answer("one", placed, Question())
    assert desk.is_read("one", placed)
    monkeypatch.setattr(desk._engine, "read", None)
    first = desk.answer("one", placed, Question(seen_bias=-9.0, top_k=len(NAMES)))
    other = desk.answer("one", placed, Question(seen_bias=9.0, top_k=len(NAMES)))
    seen = [answer["seen"] for answer in first.value["predictions"][0]["answers"]]
    assert seen == sorted(seen, reverse=True)
    seen = [answer["seen"] for answer in other.value["predictions"][0]["answers"]]
    assert seen == sorted(seen)
    some = desk.answer("one", placed, Question((NAMES[0], NAMES[1])))
    assert sorted(names_of(some)) == sorted(NAMES[:2])


@pytest.mark.slow
def test_sessions_know_nothing_of_each_other(desk, clip, tmp_path):
    other = tmp_path / "other.mp4"
    write_clip(other, seconds=2, colour=(180, 180, 180))
    placed = {"one": desk.take("one", clip, "a.mp4"), "two": desk.take("two", other, "b.mp4")}
    asked = {"one": Question((NAMES[0], NAMES[1])), "two": Question((NAMES[2], NAMES[3]))}
    found = {}

    def ask(session):
        found[session] = [desk.answer(session, placed[session], asked[session]) for _ in range(5)]

    threads = [threading.Thread(target=ask, args=(session,)) for session in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session, name in (("one", "a.mp4"), ("two", "b.mp4")):
        for told in found[session]:
            assert told.name == name
            assert sorted(names_of(told)) == sorted(asked[session].names)
    assert not desk.is_read("two", placed["one"])
    desk.end("one")
    assert not placed["one"].path.exists()
    assert desk.answer("two", placed["two"], asked["two"]).name == "b.mp4"
    with pytest.raises(TCAFError, match=r"a\.mp4 is no longer here: bring it again"):
        desk.answer("one", placed["one"], asked["one"])


@pytest.mark.slow
def test_a_clip_that_crashes_its_reader_is_a_sentence(desk, clip, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(TCAFError, match=r"bad\.mp4: not a media file"):
        desk.answer("one", desk.take("one", tmp_path / "bad.mp4", "bad.mp4"), Question())
    write_clip(tmp_path / "green.mp4", colour=GREEN)
    with pytest.raises(TCAFError, match=r"green\.mp4: decoder crashed"):
        desk.answer("one", desk.take("one", tmp_path / "green.mp4", "green.mp4"), Question())
    assert desk.answer("one", desk.take("one", clip, "clip.mp4"), Question()).name == "clip.mp4"


def test_what_is_too_large_is_not_taken(desk, tmp_path):
    desk._engine.limits = dataclasses.replace(desk._engine.limits, max_mib=1.0)
    (tmp_path / "large.mp4").write_bytes(bytes(2**20 + 1))
    with pytest.raises(TCAFError, match=r"large\.mp4: too large \(more than 1 MiB\)"):
        desk.take("one", tmp_path / "large.mp4", "large.mp4")


@pytest.mark.slow
def test_recordings_have_stretches(desk, tmp_path, monkeypatch):
    path = tmp_path / "long.mp4"
    write_clip(path, seconds=7, colour=GREY)
    placed = desk.take("one", path, "long.mp4")
    assert desk.answer("one", placed, Question()).spans == ()
    told = desk.answer("one", placed, Question(every_s=2.0))
    assert told.spans[0].start_s == 0.0
    assert told.spans[-1].end_s == pytest.approx(7.0, abs=0.3)
    assert told.value["spans"] == [span.to_json() for span in told.spans]
    assert told.captions.count("-->") == len(told.spans)
    # Those that are long have some without being asked.
    monkeypatch.setattr("tcaf.app.page_desk.LONG_S", 5.0)
    assert desk.answer("one", placed, Question()).value["every"] == 5.0


def test_what_is_there_over_time(desk, clip):
    placed = desk.take("one", clip, "clip.mp4")
    view, attention = desk.over_time("one", placed)
    assert len(view.frames) == 4
    assert attention is not None
    assert np.isfinite(attention.weights.class_to_audio).all()


def test_remarks_say_what_the_answer_goes_by(desk, tmp_path):
    path = tmp_path / "mute.mp4"
    write_clip(path, sound=False, colour=GREY)
    placed = desk.take("one", path, "mute.mp4")
    unseen = tuple(
        name for name in NAMES if name not in desk._engine.classifier.trained.classes.seen
    )
    told = desk.answer("one", placed, Question(unseen, seen_bias=0.5))
    assert "The clip has no sound: it is answered from what it has." in told.notes
    assert "The bias changes nothing: none of the names are of seen classes." in told.notes


def test_the_bias_reaches_round_numbers(desk):
    for gamma, reach in ((0.0, 1.0), (0.08, 0.16), (-0.7, 1.4), (3.11, 6.25)):
        desk._engine.classifier.gamma = gamma
        assert desk.reach == pytest.approx(reach)
    assert desk.reach / desk.bias_step == pytest.approx(round(desk.reach / desk.bias_step))


def test_many_files_come_as_they_are_read(desk, clip, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    write_clip(tmp_path / "other.mp4", seconds=2, colour=(150, 150, 150))
    files = [(clip, "a.mp4"), (tmp_path / "bad.mp4", "b.mp4"), (tmp_path / "other.mp4", "c.mp4")]
    counts, last = [], None
    for last in desk.many(files, Question(NAMES[:3])):
        counts.append(last.done)
    assert counts == [0, 1, 2, 3, 3]
    assert [row["id"] for row in last.rows] == ["a.mp4", "b.mp4", "c.mp4"]
    assert last.rows[1]["error"].startswith("b.mp4: not a media file")
    assert last.told == "2 of 3 answered, 1 cannot be used"
    assert [each["id"] for each in last.value["predictions"]] == ["a.mp4", "c.mp4"]
    assert list(last.value["failed"]) == ["b.mp4"]
    assert last.value["classes"] == list(NAMES[:3])


def test_a_model_that_cannot_answer_together_says_so(desk, clip):
    assert "together" in desk.together
    *_, last = desk.many([(clip, "a.mp4")], Question(), together=True)
    assert "together" in last.rows[0]["error"]


def ranked(row):
    return [(answer["class"], answer["probability"]) for answer in row["answers"]]


@pytest.mark.slow
def test_three_hundred_clips_are_answered_together(
    monkeypatch, quick, tmp_path, tiny_experiment, tmp_path_factory
):
    run = write_moody_run(tmp_path_factory.mktemp("together"), tiny_experiment, system="textlda")
    monkeypatch.setitem(BACKBONES, "moody", MOODY)
    draw = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.mp4" for number in range(10)]
    for number, path in enumerate(paths):
        colour = tuple(map(int, draw.integers(120, 180, 3)))
        write_clip(path, seconds=1 + number % 3, colour=colour)
    files = [(paths[n % 10], f"clip {n}.mp4") for n in range(FEW_CLIPS)]
    with open_engine(run, workers=2) as engine, Shelf() as shelf, Desk(engine, shelf) as desk:
        assert desk.together == ""
        *_, alone = desk.many(files[:10], Question(top_k=3))
        *_, last = desk.many(files, Question(top_k=3), together=True)
    assert last.told == "300 of 300 answered together"
    assert [row["id"] for row in last.rows] == [name for _, name in files]
    classifier = ZeroShotClassifier.load(run)
    expected = classifier.classify([str(path) for path, _ in files], 3, together=True)
    for row, other in zip(last.rows, expected, strict=True):
        assert ranked(row) == [
            (answer.name, pytest.approx(answer.probability, abs=1e-6)) for answer in other.answers
        ]
    assert last.value["transductive"]
    assert list(map(ranked, last.rows[:10])) != list(map(ranked, alone.rows))


def test_a_wrong_question_about_many_is_refused_at_once(desk, clip):
    with pytest.raises(TCAFError, match="twice"):
        next(desk.many([(clip, "a.mp4")], Question(("x", "x"))))
