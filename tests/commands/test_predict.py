"""`tcaf predict`: from files, folders and stores to answers, in all forms of output."""

import csv
import io
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tcaf import ZeroShotClassifier
from tcaf.answers.clips import Unanswered, answer_files, answer_store, find_media, select_rows
from tcaf.commands import entry as cli
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.extract.backbones import BACKBONES
from tcaf.training.model_file import load_model, save_model
from write_clip_run import COLOURS, KINDS, write_clip, write_run

pytest.importorskip("av")


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_experiment):
    """A run on features that files give, and some files."""
    folder = tmp_path_factory.mktemp("predict")
    training = {"epochs": 1, "batches_per_epoch": 3}
    write_run(folder, tiny_experiment(training=training))
    media = folder / "media"
    (media / "deep" / ".hidden").mkdir(parents=True)
    write_clip(media / "both.mp4")
    write_clip(media / "deep" / "silent.mp4", sound=False, colour=(10, 240, 30))
    write_clip(media / "deep" / "Heard.WAV", picture=False)
    shutil.copy(media / "both.mp4", media / "deep" / ".hidden" / "no.mp4")
    (media / "notes.txt").write_text("no clip")
    return folder


@pytest.fixture(autouse=True)
def _tiny_backbone(monkeypatch, quick):
    monkeypatch.setitem(BACKBONES, "colours", COLOURS)


@pytest.mark.slow
def test_a_bias_between_no_classes_is_noted(predict, world):
    both = world / "media" / "both.mp4"
    for names, kind in (("eel", "none"), ("ant; bee", "all")):
        status, _, error = predict(both, "--classes", names, "--seen_bias", "0.1")
        assert status == 0
        assert f"--seen_bias changes nothing: {kind} of the classes" in error
    assert "seen_bias" not in predict(both, "--classes", "ant; eel", "--seen_bias", "0.1")[2]


def complaint(result):
    """Returns the one line of a command that failed."""
    status, output, error = result
    assert (status, output, error.count("\n")) == (2, "", 1)
    return error


def test_one_clip_gets_a_table(predict, world):
    status, output, error = predict(world / "media" / "both.mp4")
    assert (status, error) == (0, "")
    assert all(name in output for name in KINDS)
    assert "of 5 classes, if one of them is right" in output
    assert output.count(" %") == 5


@pytest.mark.slow
def test_json_and_csv_say_what_the_classifier_says(predict, world):
    clip = world / "media" / "both.mp4"
    _, output, _ = predict(clip, "--json", "--top_k", 3)
    value = json.loads(output)
    classifier = ZeroShotClassifier.load(world / "run")
    assert value["predictions"] == [classifier.classify(str(clip), top_k=3).to_json()]
    assert value["classes"] == list(classifier.classes)
    assert (value["gamma"], value["failed"]) == (classifier.gamma, {})
    status, output, _ = predict(clip, "--csv", "--top_k", 3)
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(output)))
    assert list(rows[0]) == ["file", "rank", "class", "probability", "distance", "seen"]
    for row, answer in zip(rows, value["predictions"][0]["answers"], strict=True):
        assert row["file"] == str(clip)
        assert {k: row[k] for k in answer} == {k: str(v) for k, v in answer.items()}


@pytest.mark.slow
def test_any_of_the_runs_names_can_be_asked_for(predict, world, tmp_path):
    clip = world / "media" / "both.mp4"
    _, output, _ = predict(clip, "--json", "--classes", "Dog, Wet, ant")
    assert json.loads(output)["classes"] == ["Dog, Wet", "ant"]
    (tmp_path / "names.txt").write_text("# two\ndog, wet\nbee\n")
    _, output, _ = predict(clip, "--json", "--classes_file", tmp_path / "names.txt")
    value = json.loads(output)
    assert value["classes"] == ["dog, wet", "bee"]
    answers = value["predictions"][0]["answers"]
    assert {a["class"]: a["seen"] for a in answers} == {"dog, wet": True, "bee": True}
    assert "no class 'wasp'" in complaint(predict(clip, "--classes", "wasp; bee"))
    assert "no class to choose from" in complaint(predict(clip, "--classes", " , "))


def test_a_bias_brings_unseen_classes_forward(predict, world):
    _, output, _ = predict(world / "media" / "both.mp4", "--json", "--seen_bias", "1e6")
    assert json.loads(output)["predictions"][0]["answers"][0]["class"] == "eel"


@pytest.mark.slow
@pytest.mark.filterwarnings("default:passed over")
def test_a_folder_is_all_its_media(predict, world):
    status, output, error = predict(world / "media", "--json")
    assert status == 0
    assert error.startswith("warning: passed over in ")
    assert error.endswith(" (.txt 1: 'notes.txt')\n")
    media = world / "media"
    expected = [media / "both.mp4", media / "deep" / "Heard.WAV", media / "deep" / "silent.mp4"]
    assert [p["id"] for p in json.loads(output)["predictions"]] == list(map(str, expected))
    with pytest.warns(UserWarning, match="passed over"):
        assert find_media([str(media), str(expected[0])]) == expected
    (media / "empty").mkdir(exist_ok=True)
    assert "holds no media file" in complaint(predict(media / "empty"))
    links = media / "empty" / "links"
    links.mkdir()
    (links / "deep").symlink_to(media / "deep")
    (links / "loop").symlink_to(links)
    status, output, error = predict(links, "--json")
    assert status == 0
    found = [f"{links}/deep/Heard.WAV", f"{links}/deep/silent.mp4"]
    assert [p["id"] for p in json.loads(output)["predictions"]] == found
    assert "1 links to folders that are taken already or lead back ('loop')" in error
    shutil.rmtree(media / "empty")


@pytest.mark.slow
def test_files_that_begin_with_a_hyphen(predict, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(world / "media" / "both.mp4", "-0abc.mp4")
    for words in (["--", "-0abc.mp4"], ["./-0abc.mp4"]):
        status, output, _ = predict("--csv", "--top_k", 1, *words)
        assert (status, output.count("abc.mp4,1,")) == (0, 1)
    assert "behind a lone --, or as ./-0abc.mp4" in complaint(predict("-0abc.mp4"))


def test_several_clips_get_a_line_each(predict, world):
    media = world / "media"
    status, output, _ = predict(media / "both.mp4", media / "deep" / "silent.mp4")
    assert status == 0
    assert output.count(" %") == 2
    assert "all answers by --json or --csv" in output


@pytest.mark.slow
def test_a_bad_file_keeps_nothing_else_back(predict, world, tmp_path):
    bad, gone = tmp_path / "bad.mp4", tmp_path / "gone.mp4"
    bad.write_bytes(b"no clip at all")
    good = world / "media" / "both.mp4"
    status, output, error = predict(bad, good, gone, "--json")
    assert status == 2
    value = json.loads(output)
    assert [p["id"] for p in value["predictions"]] == [str(good)]
    assert list(value["failed"]) == [str(bad), str(gone)]
    lines = error.splitlines()
    assert lines[0].startswith(f"no answer for {bad}: ")
    assert lines[1].startswith(f"no answer for {gone}: ")
    assert lines[2] == "tcaf: 2 of 3 clips have no answer"
    assert str(bad) in complaint(predict(bad))


def test_nothing_but_the_files_named_is_read(predict, world, tmp_path):
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {world}/media/both.mp4\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "endless.mp4").symlink_to("/dev/zero")
    names = ("list.mp4", "pipe.mp4", "endless.mp4")
    status, output, error = predict(*(tmp_path / name for name in names), "--json")
    assert (status, json.loads(output)["predictions"]) == (2, [])
    reasons = [line.partition(".mp4: ")[2].partition(".mp4: ")[2] for line in error.splitlines()]
    assert [reason.partition(" (")[0] for reason in reasons] == [
        *("a playlist", "not a file", "not a file", "")
    ]


def test_answers_come_in_order(world, tmp_path):
    good = world / "media" / "deep" / "Heard.WAV"
    files = [tmp_path / "1.wav", good, good, tmp_path / "2.wav", good]
    found = list(answer_files(ZeroShotClassifier.load(world / "run"), files, 1, 0.0))
    assert [one.id for one in found] == list(map(str, files))
    assert [isinstance(one, Unanswered) for one in found] == [True, False, False, True, False]


@pytest.mark.slow
def test_features_are_kept_only_where_they_are_wanted(world):
    classifier, store = ZeroShotClassifier.load(world / "run"), FeatureStore.open(world / "store")
    file, rows = world / "media" / "deep" / "Heard.WAV", store.rows("cls", "test")
    for keep in (False, True):
        of_file = list(answer_files(classifier, [file], 1, 0.0, keep_features=keep))
        of_store = answer_store(classifier, store, rows, 1, 0.0, keep_features=keep)
        assert {one.video is not None for one in [*of_file, *of_store]} == {keep}
    assert [one.video.id for one in of_store] == [one.id for one in of_store]


def test_rows_are_printed_before_the_next_file_is_read(predict, world, monkeypatch, tmp_path):
    features, calls = ZeroShotClassifier.features, []

    def until_somebody_stops_it(self, video):
        calls.append(video.id)
        if calls.count(video.id) == 1 and len(set(calls)) > 2:
            raise KeyboardInterrupt
        return features(self, video)

    monkeypatch.setattr(ZeroShotClassifier, "features", until_somebody_stops_it)
    # The third file has been read when Ctrl-C comes.
    clip = world / "media" / "both.mp4"
    files = [shutil.copy(clip, tmp_path / f"{n}.mp4") for n in range(4)]
    status, output, _ = predict(*files, "--csv", "--top_k", 1, "--workers", 1)
    assert status == 130
    assert [row["file"] for row in csv.DictReader(io.StringIO(output))] == list(map(str, files[:2]))


@pytest.mark.slow
def test_lines_of_json(predict, world, tmp_path):
    clip, bad = world / "media" / "both.mp4", tmp_path / "bad.mp4"
    bad.write_bytes(b"no clip at all")
    status, output, error = predict(bad, clip, "--jsonl", "--top_k", 2)
    failed, answered = map(json.loads, output.splitlines())
    assert status == 2
    assert (failed["id"], answered["id"]) == (str(bad), str(clip))
    assert failed["error"] in error
    _, output, _ = predict(clip, "--json", "--top_k", 2)
    assert json.loads(output)["predictions"] == [answered]
    assert "--json, --jsonl and --csv exclude" in complaint(predict(clip, "--json", "--jsonl"))


@pytest.mark.slow
def test_files_are_read_by_several_processes_and_answered_in_order(predict, world, tmp_path):
    # The first takes longest.
    files = [
        write_clip(tmp_path / f"{n}.wav", seconds=s, picture=False)
        for n, s in enumerate((90, 1, 1))
    ]
    found = []
    for workers in (1, 2):
        status, output, _ = predict(*files, "--jsonl", "--workers", workers)
        assert status == 0
        found.append([json.loads(line) for line in output.splitlines()])
    assert [one["id"] for one in found[1]] == list(map(str, files))
    assert found[0] == found[1]
    assert "--workers must be at least 1, got 0" in complaint(predict(files[1], "--workers", 0))


def test_a_model_without_temperature_promises_nothing(predict, world, tmp_path, capsys):
    bare = replace(load_model(world / "run"), temperature=None)
    save_model(tmp_path / "model.safetensors", bare)
    clip = world / "media" / "both.mp4"
    assert cli.main(["predict", str(tmp_path / "model.safetensors"), str(clip)]) == 0
    output = capsys.readouterr().out
    assert "of 5 classes" in output
    assert "if one of them is right" not in output


def test_clips_of_a_store(predict, world):
    status, output, _ = predict("test", "ant_0", "--store", world / "store", "--json")
    assert status == 0
    ids = [p["id"] for p in json.loads(output)["predictions"]]
    assert ids == ["ant_3", "bee_3", "cat_3", "eel_0", "eel_1", "eel_2", "ant_0"]
    _, output, _ = predict("all", "--store", world / "store", "--csv", "--top_k", 1)
    assert output.count("\n") == 1 + 18
    wrong = complaint(predict("ant_O", "--store", world / "store"))
    assert "no clip 'ant_O'; did you mean 'ant_" in wrong


def test_words_for_clips_of_a_store(world):
    store = FeatureStore.open(world / "store")
    row = store.row("bee_1")
    assert select_rows(store, ["bee_1", "ant_0", "bee_1"], "cls").tolist() == [
        row,
        store.row("ant_0"),
    ]
    np.testing.assert_array_equal(select_rows(store, ["val"], "cls"), store.rows("cls", "val"))


def test_features_of_another_backbone_are_refused(predict, tiny_store):
    wrong = complaint(predict("all", "--store", tiny_store.path))
    assert "the model was trained on audio features of size 128" in wrong


def test_a_run_on_features_of_no_backbone_wants_a_store(world, tiny_store, tmp_path, monkeypatch):
    monkeypatch.delitem(BACKBONES, "colours")
    classifier = ZeroShotClassifier.load(world / "run")
    with pytest.raises(TCAFError, match=r"visual features of 'colours', which cannot be made"):
        list(answer_files(classifier, [world / "media" / "both.mp4"], 1, 0.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "--csv"], "--json, --jsonl and --csv exclude"),
        (["--classes", "ant", "--classes_file", "x"], "--classes and --classes_file exclude"),
        (["--top_k", "0"], "expected top_k from 1 on"),
        (["--timeline", "out.jpg"], "expected a PNG file to draw into"),
        (["--classes_file", "missing"], "expected a file of class names"),
        (["--store", "s", "--audio_weights", "x"], "--audio_weights is about files, and with"),
        (["--store", "s", "--visual_weights", "x"], "--visual_weights is about files, and with"),
        (["--store", "s", "--file_timeout_s", "3"], "--file_timeout_s is about files, and with"),
    ],
)
def test_mistakes_get_one_line(predict, world, arguments, message):
    # Said before any file is looked at.
    assert message in complaint(predict(world / "no.mp4", *arguments))


@pytest.mark.slow
def test_pictures(predict, world, tmp_path):
    pytest.importorskip("matplotlib")
    media, out = world / "media", tmp_path / "new" / "t.png"
    (tmp_path / "bad.mp4").write_bytes(b"?")
    # Numbered as the clips were given, those that failed included.
    assert predict(tmp_path / "bad.mp4", media / "both.mp4", "--timeline", out)[0] == 2
    assert [path.name for path in out.parent.iterdir()] == ["t_2.png"]
    (out.parent / "t_2.png").unlink()
    assert predict("ant_0", "--store", world / "store", "--timeline", out)[0] == 0
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::tcaf.extract.containers.BrokenMediaWarning")
def test_a_clip_without_a_usable_track_is_drawn_as_the_others(predict, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    import damaged

    (tmp_path / "bad.mp4").write_bytes(b"?")
    mute = damaged.write_clip(tmp_path / "mute.mp4", 1)
    mute.write_bytes(mute.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz"))
    blind = damaged.write_clip(tmp_path / "blind.mp4", 1)
    blind.write_bytes(blind.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzz"))
    files = [tmp_path / "bad.mp4", mute, blind]
    out = tmp_path / "new" / "t.png"
    status, _, error = predict(*files, "--timeline", out, "--json")
    assert status == 2
    assert sorted(path.name for path in out.parent.iterdir()) == ["t_2.png", "t_3.png"]
    # What is drawn comes behind what went wrong: drawing may go wrong too.
    begins = [line.partition(":")[0] for line in error.splitlines()]
    assert begins == [f"no answer for {files[0]}", "drawn", "drawn", "tcaf"]
