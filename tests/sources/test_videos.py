"""Your own clips to a store, and more of them: tables, parts, what is there already.

Clips are real; they are extracted in the test's own process, and damage is for the slow tests.
"""

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tcaf.commands.entry import main
from tcaf.data.splits import PARTS, Split, load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.extract import corpus
from tcaf.extract.backbones import BACKBONES
from tcaf.plugins import Registry
from tcaf.sources import benchmark_videos
from tcaf.sources.benchmark_videos import load_clips
from tcaf.sources.labels import find_clips
from tcaf.sources.videos import prepare_videos

pytest.importorskip("av")
pytest.importorskip("efficientnet_lite_pytorch")

LIGHT = "efficientnet_lite0:frames=1,weights=random"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_csv(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [("a", "train"), ("bb", "val_unseen"), ("cat", "test_unseen")],
            "no clip is of the class 'bb'; did you mean 'b'",
        ),
        (
            [("a", "train"), ("b", "val_unseen"), ("c", "test_unseen")],
            "split overlap: clip 'a/1.mp4' of class 'a' stands in val_unseen",
        ),
        (
            [("a", "val_unseen"), ("b", "train"), ("c", "test_unseen")],
            "clip 'b/1.mp4' stands in test_unseen, but its class 'b' is not",
        ),
        (
            [("a", "train"), ("b", "val_unseen")],
            "no class is test_unseen",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused_before_any_work(tmp_path, rows, told):
    parts = {"a/1.mp4": "val_unseen", "b/1.mp4": "test_unseen", "c/1.mp4": "test_seen"}
    touch(tmp_path, *parts)
    parts["c/1.mp4"] = "test_unseen"
    labels = [("file", "class", "part"), *((file, file[0], part) for file, part in parts.items())]
    classes = write_csv(tmp_path / "classes.csv", ("class", "subset"), *rows)
    with pytest.raises(TCAFError, match=told):
        prepare_videos(
            tmp_path,
            tmp_path / "out",
            labels=write_csv(tmp_path / "labels.csv", *labels),
            classes=classes,
        )
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"unseen": 0.5}, "unseen must lie between 0 and 0.5"),
        ({"unseen": 0.3, "classes": Path("c.csv")}, "^c.csv says which classes are unseen; leave"),
        ({"seed": -1}, "seed from 0 on; got unseen 0.2, seed -1"),
        ({"overwrite": True}, "exists already and is no feature store; name another place$"),
        ({}, "exists already"),
        ({"append": True}, "expected the list of shards of a feature store"),
        ({"append": True, "overwrite": True}, "replaced or added to, not both"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path, options, told):
    touch(tmp_path, "a/1.mp4", "out/note.txt")
    out = tmp_path / ("new" if {"unseen", "seed"} & set(options) else "out")
    with pytest.raises(TCAFError, match=told):
        prepare_videos(tmp_path, out, **options)
    assert not (tmp_path / "out.extracted").exists()


def in_this_process(jobs, open_worker, opened, workers, *, limit, limit_bytes, environment, place):
    """Takes the place of what starts processes."""
    work = open_worker(*opened)
    for job in jobs:
        EXTRACTED.append(job[0].name)
        yield job, work(job, lambda message: None)


EXTRACTED = []
"""Ids of the files that were extracted in a test."""


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    EXTRACTED.clear()
    monkeypatch.setattr(corpus, "answers", in_this_process)


def prepare(folder, out, **options):
    return prepare_videos(folder, out, visual=LIGHT, workers=1, **options)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Clips of a third of a second, to be copied."""
    from damaged import write_clip

    folder = tmp_path_factory.mktemp("sounds")
    return [
        write_clip(folder / f"{n}.wav", 0, num_samples=5000 + n, audio_codec="pcm_s16le")
        for n in range(2)
    ]


@pytest.fixture
def folder(tmp_path, sounds):
    """Four classes of four clips each."""
    put(tmp_path / "clips", sounds, *(f"{name}/{n}.wav" for name in "abcd" for n in range(4)))
    return tmp_path / "clips"


def put(folder, sounds, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(sounds[len(name) % 2].read_bytes())


def known(store):
    """Class and part by clip."""
    return dict(zip(store.ids, zip(store.class_names, store.parts, strict=True), strict=True))


@pytest.mark.slow
def test_new_clips_are_added_and_the_old_ones_stay(tmp_path, folder, sounds):
    (folder / "a" / "broken.wav").write_text("no sound")
    (folder / "a" / "mended.wav").write_text("no sound yet")
    first = prepare(folder, tmp_path / "store")
    before, split = known(first), first.split("cls")
    assert len(before) == 16
    assert set(split.classes) == set("abcd")
    name = split.train[0]
    put(folder, sounds, *(f"{name}/new{n}.wav" for n in range(10)), "a/mended.wav")
    EXTRACTED.clear()
    store = prepare(folder, tmp_path / "store", append=True)
    store.verify()
    new = [f"{name}/new{n}.wav" for n in range(10)]
    assert sorted(EXTRACTED) == sorted([*new, "a/broken.wav", "a/mended.wav"])
    after = known(store)
    assert store.ids[:16] == first.ids
    assert {clip: after[clip] for clip in before} == before
    assert set(after) - set(before) == {*new, "a/mended.wav"}
    assert store.splits == first.splits
    # 15 % of 10 (or, with the mended clip, 11) are 2 for validation and 2 for the test.
    parts = [after[clip][1] for clip in after if clip not in before and after[clip][0] == name]
    assert (parts.count("val_seen"), parts.count("test_seen")) == (2, 2)
    assert set(parts) == {"stage_1_train", "val_seen", "test_seen"}
    # What was left out before and is in now is left out no more.
    assert list(first.left_out.values()) == [["a/broken.wav", "a/mended.wav"]]
    assert list(store.left_out.values()) == [["a/broken.wav"]]
    assert [row[0] for row in rows_of(store.path / "rejects.csv")] == ["a/broken.wav"]
    assert [row[0] for row in rows_of(store.path / "notes.csv")] == store.ids
    call = {"folder": str(folder), "seed": 0}
    assert store.source == {"kind": "videos", **call, "appended": [{**call, "after": 16}]}
    assert not (tmp_path / "store.extracted").exists()
    # Nothing is new but the broken file, which is tried again and changes nothing.
    again = prepare(folder, tmp_path / "store", append=True)
    assert (again.fingerprint, again.left_out) == (store.fingerprint, store.left_out)


@pytest.mark.slow
def test_with_nothing_new_nothing_is_done(tmp_path, folder):
    first = prepare(folder, tmp_path / "store")
    EXTRACTED.clear()
    content = (first.path / "store.json").read_bytes()
    assert prepare(folder, tmp_path / "store", append=True).ids == first.ids
    assert EXTRACTED == []
    assert (first.path / "store.json").read_bytes() == content


@pytest.mark.slow
def test_new_classes_need_a_place(tmp_path, folder, sounds):
    first = prepare(folder, tmp_path / "store")
    content = (first.path / "store.json").read_bytes()
    put(folder, sounds, "e/1.wav", "f/1.wav", "g/1.wav", "loose.wav")
    EXTRACTED.clear()
    with pytest.raises(
        TCAFError, match=r"split of store .*store has no place for 'e', 'f', 'g'; a"
    ):
        prepare(folder, tmp_path / "store", append=True)
    rows = [("class", "subset"), ("e", "train"), ("f", "test_unseen")]
    table = write_csv(tmp_path / "new.csv", *rows)
    with pytest.raises(TCAFError, match=r"new\.csv has no place for 'g'"):
        prepare(folder, tmp_path / "store", append=True, classes=table)
    taken = first.split("cls").train[0]
    write_csv(table, *rows, ("g", "val_unseen"), (taken, "test_unseen"))
    with pytest.raises(TCAFError, match=f"class '{taken}' is to be test_unseen, but in the split"):
        prepare(folder, tmp_path / "store", append=True, classes=table)
    assert EXTRACTED == []
    assert (first.path / "store.json").read_bytes() == content
    write_csv(table, *rows, ("g", "val_unseen"), (taken, "train"))
    store = prepare(folder, tmp_path / "store", append=True, classes=table)
    old, new = first.split("cls"), store.split("cls")
    assert set(new.train) == {*old.train, "e"}
    assert set(new.test_unseen) == {*old.test_unseen, "f"}
    assert set(new.val_unseen) == {*old.val_unseen, "g"}
    after = known(store)
    assert after["e/1.wav"] == ("e", "stage_1_train")
    assert after["f/1.wav"] == ("f", "test_unseen")
    assert after["g/1.wav"] == ("g", "val_unseen")
    # A clip of no class serves to predict alone.
    assert after["loose.wav"] == ("", "")
    assert store.phrases["e"] == {"name": ["e"]}


@pytest.mark.slow
def test_parts_of_a_table_say_the_place_of_new_classes(tmp_path, folder, sounds):
    first = prepare(folder, tmp_path / "store")
    train = first.split("cls").train[0]
    put(folder, sounds, "e/1.wav", "e/2.wav", f"{train}/new.wav")
    rows = [("e/1.wav", "e", "val_unseen"), ("e/2.wav", "e", "test_seen")]
    rows += [(f"{train}/new.wav", train, "test_seen")]
    # What it says of a clip that is in the store counts no more.
    rows += [(first.ids[0], "e", "val_unseen")]
    table = write_csv(tmp_path / "labels.csv", ("file", "class", "part"), *rows)
    store = prepare(folder, tmp_path / "store", append=True, labels=table)
    after = known(store)
    assert [after[row[0]] for row in rows[:3]] == [row[1:] for row in rows[:3]]
    assert after[first.ids[0]] == known(first)[first.ids[0]]
    assert set(store.split("cls").val_unseen) == {*first.split("cls").val_unseen, "e"}
    put(folder, sounds, f"{train}/late.wav")
    write_csv(table, ("file", "class", "part"), (f"{train}/late.wav", train, "val_unseen"))
    with pytest.raises(TCAFError, match=f"class '{train}' is to be val_unseen, but in the split"):
        prepare(folder, tmp_path / "store", append=True, labels=table)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*the store has no split")
def test_a_store_without_a_split(tmp_path, sounds, recwarn):
    put(tmp_path / "clips", sounds, "a/1.wav")
    prepare(tmp_path / "clips", tmp_path / "store")
    put(tmp_path / "clips", sounds, "b/1.wav")
    recwarn.clear()
    store = prepare(tmp_path / "clips", tmp_path / "store", append=True)
    assert known(store) == {"a/1.wav": ("a", ""), "b/1.wav": ("b", "")}
    # That it has none was said when it was made.
    assert not recwarn.list
    # Clips of every part make it one that can be trained on.
    new = [(f"{n}.wav", name, PARTS[n]) for n, name in enumerate("aacad")]
    put(tmp_path / "clips", sounds, *(row[0] for row in new))
    table = write_csv(tmp_path / "labels.csv", ("file", "class", "part"), *new)
    store = prepare(tmp_path / "clips", tmp_path / "store", append=True, labels=table)
    assert store.split("cls") == Split(("a",), ("c",), ("d",))
    assert known(store)["a/1.wav"] == ("a", "")


@pytest.mark.slow
def test_other_backbones_are_refused(tmp_path, folder, sounds):
    prepare(folder, tmp_path / "store")
    put(folder, sounds, "a/new.wav")
    message = r"expected the backbones logmel and efficientnet_lite0:frames=1,weights=random, whose"
    with pytest.raises(TCAFError, match=message):
        prepare_videos(
            folder,
            tmp_path / "store",
            visual="efficientnet_lite0:frames=2,weights=random",
            append=True,
        )
    assert not (tmp_path / "store.extracted").exists()


@pytest.mark.slow
def test_equal_names_in_another_folder_are_named(tmp_path, folder, sounds):
    prepare(folder, tmp_path / "store")
    put(tmp_path / "more", sounds, "a/0.wav", "a/9.wav")
    with pytest.warns(UserWarning, match=r"1 files of .*more are passed over: .* \('a/0\.wav'\)"):
        store = prepare(tmp_path / "more", tmp_path / "store", append=True)
    assert store.ids[16:] == ["a/9.wav"]
    # Now it is one of the store's folders.
    assert prepare(tmp_path / "more", tmp_path / "store", append=True).ids == store.ids


def test_a_table_that_leaves_out_a_class_is_refused(tmp_path, folder):
    rows = [("class", "subset"), ("a", "train"), ("b", "val_unseen"), ("c", "test_unseen")]
    table = write_csv(tmp_path / "classes.csv", *rows)
    with pytest.raises(TCAFError, match=r"classes\.csv has no place for 'd'; a table of classes"):
        prepare(folder, tmp_path / "store", classes=table)
    assert EXTRACTED == []


PLUGIN = """
import numpy as np
from tcaf.extract.backbones import BackboneInfo, register_backbone

class Peak:
    name, dim, step_s = "peak", 1, 0.1
    sample_rate, window_samples, hop_samples = 16_000, 1600, 1600

    def embed(self, windows):
        return np.abs(windows).max(axis=1, keepdims=True).astype(np.float32)

info = BackboneInfo("audio", lambda options, weights: Peak(), "1", 0.1, "none", "none needed")
register_backbone("peak", info)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setattr("tcaf.plugins._REGISTRIES", [])
    monkeypatch.setattr("tcaf.extract.backbones.BACKBONES", Registry("backbone", BACKBONES))
    (tmp_path / "peak.py").write_text(PLUGIN, encoding="utf-8")
    return tmp_path / "peak.py"


@pytest.mark.slow
def test_a_backbone_of_ones_own(tmp_path, folder, plugin):
    with pytest.raises(TCAFError, match="no backbone 'peak'"):
        prepare(folder, tmp_path / "store", audio="peak")
    store = prepare(folder, tmp_path / "store", audio="peak", plugin=plugin)
    assert (store.spec.audio_backbone, store.spec.audio_dim) == ("peak", 1)
    # A tone of loudness 0.5 for 5000 samples.
    assert store[0].audio.shape == (3, 1)
    np.testing.assert_allclose(store[0].audio, 0.5, atol=0.01)
    sha256 = hashlib.sha256(PLUGIN.encode()).hexdigest()
    assert store.source["plugin_sha256"] == sha256


def test_an_extraction_is_not_taken_up_with_a_changed_plugin(tmp_path, folder, plugin):
    backbones = corpus.Backbones("peak", LIGHT, plugin=plugin)
    files = [clip.file for clip in find_clips(folder).clips]
    corpus.extract_files(files[:2], backbones, tmp_path / "store.extracted", workers=1)
    plugin.write_text(PLUGIN + "# changed")
    with pytest.raises(TCAFError, match=r"with peak and .* of another plugin file, now it is peak"):
        prepare(folder, tmp_path / "store", audio="peak", plugin=plugin)


@pytest.mark.slow  # starts processes
def test_processes_know_the_backbones_of_a_plugin(tmp_path, folder, plugin, monkeypatch):
    monkeypatch.undo()
    out = tmp_path / "store"
    store = prepare_videos(folder, out, audio="peak", visual=LIGHT, plugin=plugin, workers=2)
    BACKBONES.pop("peak")
    assert len(store) == 16
    np.testing.assert_allclose(store[15].audio, 0.5, atol=0.01)


def table(path, *rows):
    return write_csv(path, ("file", "class", "split", "group"), *rows)


@pytest.mark.slow
def test_a_table_of_training_and_test_is_kept_to(tmp_path, sounds):
    names = [f"{name}/{n}.wav" for name in "abcd" for n in range(5)]
    put(tmp_path / "clips", sounds, *names)
    rows = [(name, name[0], "test" if "4" in name else "train", name[2]) for name in names]
    with pytest.warns(UserWarning, match="4 clips for training are of classes that are unseen in"):
        store = prepare(tmp_path / "clips", tmp_path / "store", labels=table(tmp_path / "t", *rows))
    split = store.split("cls")
    assert [len(split.train), len(split.val_unseen), len(split.test_unseen)] == [2, 1, 1]
    for name, (class_name, part) in known(store).items():
        if "4" in name:
            assert part == ("test_unseen" if class_name in split.test_unseen else "test_seen")
        else:
            assert part not in ("test_unseen", "test_seen")
    # One group is one number here, of all classes: 15 of 85 hundredths of four is one.
    validated = {n[2] for n, (_, part) in known(store).items() if part == "val_seen"}
    assert len(validated) == 1
    # More of them: the uses hold, and the group that is in validation is known from the table.
    more = [(f"{split.train[0]}/new.wav", split.train[0], "test", "3")]
    put(tmp_path / "clips", sounds, more[0][0])
    labels = table(tmp_path / "t", *rows, *more)
    with pytest.warns(UserWarning, match="1 groups have clips both in training and .*: '3'"):
        store = prepare(tmp_path / "clips", tmp_path / "store", labels=labels, append=True)
    assert known(store)[more[0][0]] == (split.train[0], "test_seen")


@pytest.mark.slow
def test_takes_stay_together_and_torn_ones_are_named(tmp_path, sounds):
    names = [f"{c}/v_{c}_g{g:02}_c{n:02}.wav" for c in "ABCDE" for g in range(5) for n in (1, 2)]
    put(tmp_path / "clips", sounds, *names)
    parts = known(prepare(tmp_path / "clips", tmp_path / "store"))
    parts_of = {}
    for name, (_, part) in parts.items():
        parts_of.setdefault(name[:-8], set()).add(part)
    assert all(len(found) == 1 for found in parts_of.values())
    rows = [(name, name[0], "train" if "c01" in name else "test") for name in names]
    labels = write_csv(tmp_path / "t", ("file", "class", "split"), *rows)
    with (
        pytest.warns(UserWarning, match="are of classes that are unseen in the test"),
        # Of all but the class that is unseen in the test.
        pytest.warns(UserWarning, match="^20 groups have clips both in training and in the test"),
    ):
        store = prepare(tmp_path / "clips", tmp_path / "torn", labels=labels, group="(.*)_c")
    assert store.source["group"] == "(.*)_c"


def test_names_that_are_one_are_refused_before_any_work(tmp_path, sounds):
    put(tmp_path / "clips", sounds, "dog/1.wav", "Dog /1.wav")
    with pytest.raises(TCAFError, match="'Dog ' and 'dog' are one but for spaces"):
        prepare(tmp_path / "clips", tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]
    (tmp_path / "clips" / "Dog ").rename(tmp_path / "other")
    with pytest.warns(UserWarning, match="no clips for"):
        prepare(tmp_path / "clips", tmp_path / "store")
    put(tmp_path / "clips", sounds, "DOG/2.wav")
    with pytest.raises(TCAFError, match="'DOG' and 'dog' are one"):
        prepare(tmp_path / "clips", tmp_path / "store", append=True)


def test_annotations_name_what_is_left_out(tmp_path, sounds):
    put(tmp_path / "clips", sounds, "v_one.wav", "-two.wav")
    one, two = ([{"label": label}] for label in ("PlayingGuitar", "Dog"))
    content = {"one": one, "-two": two, "gone": one}
    database = {name: {"annotations": value} for name, value in content.items()}
    (tmp_path / "an.json").write_text(json.dumps({"database": database}))
    with pytest.warns(UserWarning, match="no clips for"):
        store = prepare(tmp_path / "clips", tmp_path / "store", labels=tmp_path / "an.json")
    assert dict(zip(store.ids, store.class_names, strict=True)) == {
        "-two.wav": "Dog",
        "v_one.wav": "PlayingGuitar",
    }
    assert store.phrases["PlayingGuitar"] == {"name": ["Playing Guitar"]}
    assert store.left_out == {"no such file": ["gone"]}
    (row,) = rows_of(store.path / "rejects.csv")
    assert row[:2] == ("gone", "no such file")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* groups have clips both in training")
def test_a_benchmark_has_the_parts_and_words_of_the_lists(tmp_path, sounds, monkeypatch):
    """And more of its clips later."""
    chosen = {(c.class_name, c.part): c for c in reversed(load_clips("ucf"))}
    few = sorted(chosen.values(), key=lambda clip: clip.name)
    parts = {f"{c.class_name}/{c.name}.wav": (c.class_name, c.part) for c in few}
    names = list(parts)
    monkeypatch.setattr(benchmark_videos, "load_clips", lambda name: few)
    put(tmp_path / "UCF-101", sounds, *names[1:])
    vectors = {words: np.eye(3)[len(words) % 3] for words in load_benchmark("ucf").words.values()}
    np.save(tmp_path / "vectors.npy", np.array(vectors, object), allow_pickle=True)
    given = {"benchmark": "ucf", "text": tmp_path / "vectors.npy"}
    with pytest.warns(UserWarning, match=rf"{len(names) - 1} of the {len(names)} clips in the li"):
        store = prepare(tmp_path / "UCF-101", tmp_path / "store", **given)
    assert known(store) == {name: parts[name] for name in names[1:]}
    assert store.splits == load_benchmark("ucf").splits
    assert store.phrases["ApplyEyeMakeup"] == {"name": ["Apply Eye Makeup"]}
    assert np.array_equal(store.text("word2vec")["Archery"], np.eye(3)[len("Archery") % 3])
    assert store.left_out == {"no such file": [few[0].name]}
    put(tmp_path / "UCF-101", sounds, names[0])
    more = prepare(tmp_path / "UCF-101", tmp_path / "store", benchmark="ucf", append=True)
    assert known(more) == parts
    assert more.left_out == {}
    assert rows_of(more.path / "rejects.csv") == []
    assert more.splits == store.splits
    with pytest.raises(TCAFError, match="is of the benchmark ucf; add to it with --benchmark ucf"):
        prepare(tmp_path / "UCF-101", tmp_path / "store", append=True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"text": Path("x.npy")}, "--text is for the paper's benchmarks"),
        ({"benchmark": "ucf", "group": "x"}, "lists of ucf say .* leave --group out"),
        ({"benchmark": "ucf", "seed": 1}, "lists of ucf say .* leave --seed out"),
        ({"benchmark": "ucf", "unseen": 0.1}, "lists of ucf say .* leave --unseen out"),
        ({"benchmark": "ucf", "classes": Path("c.csv")}, "lists of ucf say .* leave --classes out"),
        (
            {"benchmark": "ucf", "append": True, "text": Path("x.npy")},
            "keeps the vectors that it w",
        ),
        ({"benchmark": "ucf", "text": Path("gone.npy")}, r"gone\.npy"),
        ({"layout": "kinetics"}, "--layout kinetics says how tables are laid out; give --labels"),
        ({"layout": "kinetic", "labels": Path("x")}, "no layout 'kinetic'; .* 'kinetics'"),
        ({"trimmed": True}, "--trimmed is of tables that list stretches"),
    ],
)
def test_options_that_have_nothing_to_say_are_refused(tmp_path, options, told):
    touch(tmp_path, "a/1.mp4")
    with pytest.raises(TCAFError, match=told):
        prepare_videos(tmp_path, tmp_path / "new", **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:3 clips for training are of classes that are unseen")
def test_a_table_as_published_and_what_is_missing_of_it(tmp_path, sounds, capsys):
    """VGGSound's, by the command line; a file that comes later is added under its own name."""
    classes = ["playing harp", "dog barking", "rain", "wind, noise"]
    rows = [
        (f"id-{n:08}", 10 * n, classes[n % 4], "test" if n > 11 else "train") for n in range(20)
    ]
    table = write_csv(tmp_path / "vggsound.csv", *rows)
    names = [f"id-{n:08}_{10 * n:06}.wav" for n in range(19)]
    put(tmp_path / "clips", sounds, *names, "other.wav")
    words = [
        "prepare",
        "videos",
        tmp_path / "clips",
        "--labels",
        table,
        "--out",
        tmp_path / "store",
    ]
    told = r"1 media files of .* are listed nowhere, and are left out: 'other.wav'"
    with pytest.warns(UserWarning, match=told):
        store = prepare(tmp_path / "clips", tmp_path / "store", labels=[table])
    assert store.left_out == {"no such file": ["id-00000019@190-200"]}
    assert set(store.ids) == set(names)
    assert set(store.class_names) == set(classes)
    put(tmp_path / "clips", sounds, "id-00000019_000190.wav")
    more = ["--append", "--visual", LIGHT, "--workers", "1"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([*map(str, words), *more]) == 0
    assert re.search(told, " ".join(capsys.readouterr().err.split()))
    store = FeatureStore.open(tmp_path / "store")
    assert store.left_out == {}
    assert known(store)["id-00000019_000190.wav"][0] == "wind, noise"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*the store has no split")
def test_a_second_folder_says_nothing_of_clips_from_the_first(tmp_path, sounds):
    """And a clip that was missing and is there now is no longer named as left out."""
    rows = [(f"id-{n:08}", 10 * n, "rain", "train") for n in range(4)]
    table = write_csv(tmp_path / "vggsound.csv", *rows)
    names = [f"id-{n:08}_{10 * n:06}.wav" for n in range(3)]
    put(tmp_path / "first", sounds, names[0])
    put(tmp_path / "second", sounds, names[1])
    put(tmp_path / "third", sounds, names[2])
    left = [f"id-{n:08}@{10 * n}-{10 * n + 10}" for n in range(4)]
    prepare(tmp_path / "first", tmp_path / "store", labels=table)
    for n, folder in enumerate(("second", "third"), start=1):
        store = prepare(tmp_path / folder, tmp_path / "store", labels=table, append=True)
        assert list(store.ids) == names[: n + 1]
        assert store.left_out == {"no such file": left[n + 1 :]}
        rejects = rows_of(store.path / "rejects.csv")
        assert [row[0] for row in rejects] == left[n + 1 :]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*the store has no split")
def test_segments_are_cut_out_of_one_extraction(tmp_path, media_clip):
    folder = tmp_path / "clips"
    whole = prepare(folder, tmp_path / "whole")[0]
    assert (len(whole.audio), len(whole.visual)) == (6, 10)
    spans = {(0, 2): "Dog", (2, 5): "Cat", (5.9, 6): "Dog", (7, 9): "Cat"}
    said = [{"label": label, "segment": span} for span, label in spans.items()]
    annotations = tmp_path / "an.json"
    annotations.write_text(json.dumps({"database": {"one": {"annotations": said}}}))
    rows = [(media_clip, label, *span) for span, label in spans.items()]
    table = write_csv(tmp_path / "labels.csv", ("file", "class", "start", "end"), *rows)
    for labels in (annotations, table):
        EXTRACTED.clear()
        store = prepare(folder, tmp_path / "store", labels=labels, overwrite=True)
        assert [media_clip] == EXTRACTED
        assert store.left_out == {"nothing in the segment": [f"{media_clip}@7-9"]}
        assert rows_of(store.path / "notes.csv") == []
        found = {clip.id: clip for clip in (store[k] for k in range(len(store)))}
        # Sound has windows of 0.975 s each 0.96 s, the picture a frame each 0.64 s.
        lens = {"0-2": (2, 4), "2-5": (3, 5), "5.9-6": (1, 1)}
        assert {id: (len(clip.audio), len(clip.visual)) for id, clip in found.items()} == {
            f"{media_clip}@{span}": value for span, value in lens.items()
        }
        first = found[f"{media_clip}@0-2"]
        assert np.allclose(first.audio, whole.audio[:2], rtol=1e-3, atol=1e-3)
        assert np.allclose(first.visual, whole.visual[:4], rtol=1e-3, atol=1e-3)
    more = prepare(folder, tmp_path / "store", append=True)
    assert media_clip in more.ids


@pytest.fixture
def media_clip(tmp_path):
    """The name of a clip of 6 s with a picture that changes and a tone."""
    from write_clip_run import write_clip

    (tmp_path / "clips").mkdir()
    return write_clip(tmp_path / "clips" / "v_one.mkv", seconds=6).name


WRITERS = {
    "videos": ["prepare", "videos", "clips", "--visual", LIGHT],
    "append": ["prepare", "videos", "clips", "--visual", LIGHT, "--append"],
    "synthetic": ["prepare", "synthetic"],
    "render": ["render", "--clips_per_class", "7"],
    "parquet": ["store", "to-parquet", "clips"],
}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="locks of files")
@pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS)
def test_two_at_once_and_one_of_them_is_told(
    tmp_path, folder, sounds, at_work, monkeypatch, capsys, command
):
    monkeypatch.chdir(tmp_path)
    first = prepare(folder, tmp_path / "store")
    if command[0] == "store":
        command = [*command[:2], "store"]
    out = tmp_path / ("store" if "--append" in command else "out")
    other = at_work(out)
    put(folder, sounds, "a/new.wav")
    assert main([*command, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"another process (pid {other.pid} on " in error
    assert f" is at work on {out}; wait" in error
    assert sorted(path.name for path in tmp_path.iterdir() if path != out) == [
        *sorted({f".{out.name}.lock", "clips", "store"} - {out.name})
    ]
    first.verify()


KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_videos import in_this_process, prepare
from tcaf.data import writer
from tcaf.extract import corpus
from tcaf.extract.backbones import BACKBONES
from tcaf.sources import benchmark_videos
from tcaf.sources.benchmark_videos import load_clips
from tcaf.sources.labels import find_clips

def wait(self):
    self._flush()
    print("added", flush=True)
    time.sleep(60)

corpus.answers = in_this_process
writer.StoreWriter.finish = wait
prepare(Path(sys.argv[1]), Path(sys.argv[2]), append=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_while_adding(tmp_path, folder, sounds, monkeypatch):
    first = prepare(folder, tmp_path / "store")
    put(folder, sounds, "a/new.wav", "b/new.wav")
    tests = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "store")]
    command += [str(tests), str(tests.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "added\n"
        finally:
            process.send_signal(signal.SIGKILL)
    store = FeatureStore.open(tmp_path / "store")
    store.verify()
    assert (store.ids, store.fingerprint) == (first.ids, first.fingerprint)
    assert len(list(store.path.glob("*.arrow"))) == 2
    # The same command carries on, and extracts nothing twice.
    EXTRACTED.clear()
    store = prepare(folder, tmp_path / "store", append=True)
    store.verify()
    assert EXTRACTED == []
    assert store.ids == [*first.ids, "a/new.wav", "b/new.wav"]
    assert np.isfinite(store[17].audio).all()
    assert not (tmp_path / "store.extracted").exists()
