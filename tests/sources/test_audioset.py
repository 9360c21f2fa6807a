import os
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("google_crc32c")
pytest.importorskip("google.protobuf")

from tcaf.errors import TCAFError
from tcaf.sources.audioset import SPEC, prepare_audioset
from write_tfrecord import example, sequence, write_records

SHARED = Path(os.environ.get("TCAF_SHARED", Path(__file__).parents[3] / "shared")) / "audioset"

VOCABULARY = """index,mid,name,parents,description
0,/m/a,Speech,Human voice,Talk.
1,/m/b,"Baby cry, infant cry","Crying, sobbing|Human voice",A baby cries. Loudly.
2,/m/c,Harp,,
4,/t/d,Rain,Water,Falling water.
"""
CLASSES = """index,mid,name,subset
0,/m/a,Speech,train
1,/m/b,"Baby cry, infant cry",val_unseen
2,/m/c,Harp,test_unseen
"""


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "vocabulary.csv").write_text(VOCABULARY, encoding="utf-8")
    (tmp_path / "classes.csv").write_text(CLASSES, encoding="utf-8")
    return {"vocabulary": tmp_path / "vocabulary.csv", "classes": tmp_path / "classes.csv"}


def clip(clip_id, labels, seconds=3, dim=128):
    rng = np.random.default_rng(list(clip_id.encode()))
    times = {"start_time_seconds": np.zeros(1), "end_time_seconds": np.full(1, 10.0)}
    values = {"video_id": [clip_id.encode()], "labels": labels, **times}
    return sequence(values, {"audio_embedding": [rng.bytes(dim) for _ in range(seconds)]})


def test_a_clip_belongs_to_its_one_and_only_label(tmp_path, tables):
    records = [clip("b", [0]), clip("a", [0]), clip("c", [0, 4]), clip("d", [4]), clip("e", [2, 2])]
    shard = write_records(tmp_path / "one.tfrecord", [*records, clip("f", [])])
    store = prepare_audioset(shard, tmp_path / "out", **tables)
    # "e" has Harp twice, which is one label; "c" has a second one, and Rain is no class.
    assert [(c.id, c.class_name) for c in store] == [
        ("e", "Harp"),
        ("a", "Speech"),
        ("b", "Speech"),
    ]
    # Of the clips with labels, "c" and "d" are of no class.
    assert store.source["clips_of_no_class"] == 2
    assert store.left_out == {"class without a clip": ["Baby cry, infant cry"]}
    split = store.split("cls")
    assert (split.train, split.val_unseen, split.test_unseen) == (
        ("Speech",),
        ("Baby cry, infant cry",),
        ("Harp",),
    )


def test_parts_follow_from_ids(tmp_path, tables):
    ids = [f"clip{n}" for n in range(97)]
    shard = write_records(
        tmp_path / "one.tfrecord",
        [clip(f"{i}{c}", [c], 1) for i in ids for c in (0, 1, 2)],
    )
    store = prepare_audioset(shard, tmp_path / "out", **tables)
    bounds = {
        "Speech": ((70, "stage_1_train"), (85, "val_seen"), (100, "test_seen")),
        "Baby cry, infant cry": ((85, "val_unseen"), (100, "test_seen")),
        "Harp": ((100, "test_unseen"),),
    }
    for each in store:
        percent = zlib.crc32(each.id.encode()) % 100
        assert each.part == next(p for bound, p in bounds[each.class_name] if percent < bound)
    assert {each.part for each in store} == {p for of in bounds.values() for _, p in of}


def test_values_are_the_bytes_at_one_second(tmp_path, tables):
    shard = write_records(tmp_path / "one.tfrecord", [clip("a", [0], seconds=5)])
    store = prepare_audioset(shard, tmp_path / "out", **tables)
    rng = np.random.default_rng(list(b"a"))
    expected = np.stack([np.frombuffer(rng.bytes(128), np.uint8) for _ in range(5)])
    np.testing.assert_array_equal(store[0].audio, expected)
    assert store[0].visual.shape == (0, 1)
    assert store.spec == SPEC
    assert (SPEC.audio_step_s, SPEC.audio_backbone) == (1.0, "vggish:activation=none")
    assert (SPEC.visual_dim, SPEC.visual_step_s, SPEC.visual_backbone) == (1, None, "none")


def test_without_classes_all_clips_and_labels_are_kept(tmp_path, tables):
    folder = tmp_path / "shards"
    folder.mkdir()
    write_records(folder / "b.tfrecord", [clip("a", [4, 0]), clip("z", [])])
    write_records(folder / "a.tfrecord", [clip("b", [1])])
    write_records(folder / "c.tfrecord", [])
    store = prepare_audioset(folder, tmp_path / "out", vocabulary=tables["vocabulary"])
    assert [(c.id, c.labels, c.class_name, c.part) for c in store] == [
        ("b", ("Baby cry, infant cry",), "", ""),
        ("a", ("Rain", "Speech"), "", ""),
    ]
    assert store.splits == {}
    assert store.left_out == {"shard without a record": ["c.tfrecord"]}
    assert store.phrases == {
        "Speech": {"name": ["Speech"], "parents": ["Human voice"], "description": ["Talk."]},
        "Baby cry, infant cry": {
            "name": ["Baby cry, infant cry"],
            "parents": ["Crying, sobbing", "Human voice"],
            "description": ["A baby cries. Loudly."],
        },
        "Harp": {"name": ["Harp"]},
        "Rain": {"name": ["Rain"], "parents": ["Water"], "description": ["Falling water."]},
    }


def test_clips_without_features_are_named(tmp_path, tables):
    nothing = example({"video_id": [b"c"], "labels": [0]})
    records = [clip("a", [0]), clip("b", [2], seconds=0), nothing, clip("d", [1], seconds=2, dim=0)]
    shard = write_records(tmp_path / "one.tfrecord", records)
    store = prepare_audioset(shard, tmp_path / "out", **tables)
    assert store.ids == ["a"]
    assert store.left_out == {
        "no audio features": ["d", "b", "c"],
        "class without a clip": ["Baby cry, infant cry", "Harp"],
    }


@pytest.mark.parametrize(
    ("payloads", "message"),
    [
        ([clip("a", [0]), clip("a", [4])], r"byte \d+: clip 'a' occurs twice, first in .*, byte 0"),
        ([clip("a", [0, 3])], r"'a' has the label 3, which .* lacks \(it has 4, from 0 to 4\)"),
        ([clip("a", [0], dim=64)], "expected 128 bytes a second .* 'a', found 64"),
        ([example({"id": [b"a"]})], "AudioSet with one 'video_id', found 0 .it has 'id'"),
        ([clip("a", [4])], "no clip belongs to a class"),
        ([b"\xff\xff"], r"one\.tfrecord, byte 0: the record is no tf"),
    ],
)
def test_wrong_records_leave_nothing(tmp_path, tables, payloads, message):
    shard = write_records(tmp_path / "one.tfrecord", payloads)
    with pytest.raises(TCAFError, match=message):
        prepare_audioset(shard, tmp_path / "out", **tables)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("classes", "0,/m/a", "7,/m/a", "'Speech' ./m/a. has index 7, under which .* nothing; did"),
        ("classes", "0,/m/a", "0,/m/b", "'Speech' ./m/b. has index 0, .* 'Speech' ./m/a."),
        ("classes", "Harp", "Hrap", "'Hrap' .* 'Harp' ./m/c.; did you mean 'Harp'"),
        ("classes", "Speech,train", "Speech,trian", "the partition 'trian'; .* mean 'train'"),
        ("classes", "2,/m/c,Harp", "0,/m/a,Speech", "line 4: class 'Speech' is listed twice"),
        ("classes", "subset", "part", "expected the columns index, mid, name, subset"),
        ("vocabulary", "0,/m/a", "none,/m/a", "line 2: expected a whole number as index"),
        ("vocabulary", "1,/m/b", "0,/m/b", "line 3: the index 0 is that of 'Speech' too"),
        ("vocabulary", "1,/m/b", "1,/m/a", "line 3: the id '/m/a' is that of 'Speech' too"),
        ("vocabulary", "Harp", "Speech", "line 4: the name 'Speech' is that of 'Speech' too"),
        ("vocabulary", "description", "about", "no column 'about' is known"),
    ],
)
def test_wrong_tables(tmp_path, tables, table, old, new, message):
    text = tables[table].read_text(encoding="utf-8")
    assert old in text
    tables[table].write_text(text.replace(old, new, 1), encoding="utf-8")
    shard = write_records(tmp_path / "one.tfrecord", [clip("a", [0])])
    with pytest.raises(TCAFError, match=message):
        prepare_audioset(shard, tmp_path / "out", **tables)


def test_the_vocabulary_as_audioset_publishes_it(tmp_path, tables):
    rows = 'index,mid,display_name\n0,/m/a,Speech\n1,/m/b,"Male speech, man speaking"\n'
    tables["vocabulary"].write_text(rows, encoding="utf-8")
    shard = write_records(tmp_path / "one.tfrecord", [clip("a", [1])])
    store = prepare_audioset(shard, tmp_path / "out", vocabulary=tables["vocabulary"])
    assert store[0].labels == ("Male speech, man speaking",)


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "classes.csv").is_file(),
    reason="AudioSet's features are neither in $TCAF_SHARED nor in ../shared",
)
def test_the_real_benchmark(tmp_path):
    store = prepare_audioset(
        SHARED,
        tmp_path / "out",
        vocabulary=SHARED / "vocabulary.csv",
        classes=SHARED / "classes.csv",
    )
    parts = ("stage_1_train", "val_seen", "val_unseen", "test_seen", "test_unseen")
    counts = [len(store.rows("cls", part)) for part in parts]
    assert counts == [3077, 705, 1275, 844, 1538]
    assert store.source["clips_of_no_class"] == 35_092
    assert len(set(store.class_names)) == 133
    assert store.left_out == {}
