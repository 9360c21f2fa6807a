import os
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("google_crc32c")
pytest.importorskip("google.protobuf")

from tcaf.errors import TCAFError
from tcaf.sources.youtube8m import (
    UNWRITTEN_EXCLUSIONS,
    bare_name,
    first_sentence,
    prepare_youtube8m,
)
from write_tfrecord import example, sequence, write_records

SHARED = Path(os.environ.get("TCAF_SHARED", Path(__file__).parents[3] / "shared")) / "youtube8m"

VOCABULARY = """Index,Name,Vertical1,Vertical2,Vertical3,WikiDescription
2,Dog,Pets & Animals,,,"A dog barks, e.g. at St. Nicholas. It runs."
3,Drifting (motorsport),Sports,Autos & Vehicles,,Drifting is a technique.
5,Cake,Food & Drink,,,
7,Harp,,,,A harp has strings! They are plucked.
11,Brass instrument,Arts & Entertainment,,,Brass.
"""
CLASSES = """label,name,theme,partition
2,Dog,animal,train
7,Harp,instrument,test_unseen
3,Drifting (motorsport),vehicle,val_unseen
5,Cake,food,train
"""
NAMES = {2: "Dog", 3: "Drifting", 5: "Cake", 7: "Harp"}


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "vocabulary.csv").write_text(VOCABULARY, encoding="utf-8")
    (tmp_path / "classes.csv").write_text(CLASSES, encoding="utf-8")
    return {"vocabulary": tmp_path / "vocabulary.csv", "classes": tmp_path / "classes.csv"}


def video(clip_id, labels, audio=3, rgb=5, seed=0):
    rng = np.random.default_rng([seed, *clip_id.encode()])
    values = {"id": [clip_id.encode()], "labels": labels}
    means = {"mean_audio": rng.normal(size=audio), "mean_rgb": rng.normal(size=rgb)}
    return example(values | {name: mean for name, mean in means.items() if mean.size})


def frames(clip_id, labels, audio, rgb):
    return sequence({"id": [clip_id.encode()], "labels": labels}, {"audio": audio, "rgb": rgb})


def some_videos(number=211):
    """Ids and labels: none, one or several of the classes, and labels that are no class."""
    rng = np.random.default_rng(0)
    return [
        (f"v{i:03d}", sorted(rng.choice(13, size=rng.integers(0, 4), replace=False).tolist()))
        for i in range(number)
    ]


def write_shards(folder, payloads, number=3):
    folder.mkdir()
    for shard in range(number):
        write_records(folder / f"validate{shard:04d}.tfrecord", payloads[shard::number])
    return folder


def rule(videos, cap, excluded=()):
    """The benchmark's rule in the words of its description: (class, id, part) of each clip."""
    by_class = {name: [] for name in NAMES.values()}
    for clip_id, labels in videos:
        listed = [label for label in labels if label in NAMES]
        if len(listed) == 1 and not set(excluded) & set(labels):
            by_class[NAMES[listed[0]]].append(clip_id)
    for name in sorted(by_class):
        ranked = sorted(by_class[name], key=lambda i: zlib.crc32(b"cap" + i.encode()))
        for clip_id in ranked[:cap]:
            p = zlib.crc32(clip_id.encode()) % 100
            if name in ("Dog", "Cake"):
                part = "stage_1_train" if p < 70 else "val_seen" if p < 85 else "test_seen"
            elif name == "Drifting":
                part = "val_unseen" if p < 85 else "test_seen"
            else:
                part = "test_unseen"
            yield name, clip_id, part


@pytest.mark.parametrize("cap", [7, 150])
def test_follows_the_rule(tmp_path, tables, cap):
    videos = some_videos()
    shards = write_shards(tmp_path / "shards", [video(*v) for v in videos])
    store = prepare_youtube8m(
        shards, tmp_path / "out", videos_per_class=cap, excluded_labels=(), **tables
    )
    assert store.source["excluded_labels"] == []
    expected = list(rule(videos, cap))
    assert [(c.class_name, c.id, c.part) for c in store] == expected
    assert {part for *_, part in expected} == {
        "stage_1_train",
        "val_seen",
        "val_unseen",
        "test_seen",
        "test_unseen",
    }
    for part in ("stage_1_train", "test_unseen"):
        assert len(store.rows("cls", part)) == sum(p == part for *_, p in expected)
    assert store.split("cls").train == ("Cake", "Dog")
    assert store.split("cls").val_unseen == ("Drifting",)
    assert store.split("cls").test_unseen == ("Harp",)


def test_without_classes_all_videos_and_labels_are_kept(tmp_path, tables):
    rows = VOCABULARY + "4,Drifting (music),,,,\n6,,,,,A label without a name.\n"
    tables["vocabulary"].write_text(rows, encoding="utf-8")
    videos = [("b", [7, 2]), ("a", [4]), ("d", [99, 6]), ("c", [3, 6]), ("e", [])]
    shards = write_shards(tmp_path / "shards", [video(*v) for v in videos], 1)
    store = prepare_youtube8m(shards, tmp_path / "out", vocabulary=tables["vocabulary"])
    assert [(clip.id, clip.labels, clip.class_name, clip.part) for clip in store] == [
        ("b", ("Harp", "Dog"), "", ""),
        ("a", ("Drifting (music)",), "", ""),
        ("c", ("Drifting (motorsport)",), "", ""),
    ]
    assert store.splits == {}
    # What two labels are both called tells them apart by brackets alone.
    assert store.phrases["Drifting (music)"] == {"name": ["Drifting"]}
    assert store.phrases["Dog"]["verticals"] == ["Pets & Animals"]
    assert "excluded_labels" not in store.source
    for given, message in (
        (
            {"excluded_labels": ("Dog",)},
            "excluded labels are of a benchmark; name its --classes too",
        ),
        ({"shards": write_shards(tmp_path / "none", [video("e", [])], 1)}, "no video has a label"),
    ):
        asked = {"shards": shards, "vocabulary": tables["vocabulary"], **given}
        with pytest.raises(TCAFError, match=message):
            prepare_youtube8m(out=tmp_path / "other", **asked)


def test_bounds_of_the_parts(tmp_path, tables):
    # For each class a video of every p from 0 to 99.
    by_percent = {zlib.crc32(f"i{i}".encode()) % 100: f"i{i}" for i in range(2003)}
    assert sorted(by_percent) == list(range(100))
    for label, bounds in (
        (2, {"stage_1_train": range(70), "val_seen": range(70, 85), "test_seen": range(85, 100)}),
        (3, {"val_unseen": range(85), "test_seen": range(85, 100)}),
        (7, {"test_unseen": range(100)}),
    ):
        payloads = [video(clip_id, [label]) for clip_id in by_percent.values()]
        shard = write_records(tmp_path / f"{label}.tfrecord", payloads)
        store = prepare_youtube8m(shard, tmp_path / f"out{label}", **tables)
        assert {clip.id: clip.part for clip in store} == {
            by_percent[p]: part for part, percents in bounds.items() for p in percents
        }


def test_the_published_exclusions_are_the_default(tmp_path, tables):
    videos = some_videos()
    shards = write_shards(tmp_path / "shards", [video(*v) for v in videos])
    store = prepare_youtube8m(shards, tmp_path / "out", **tables)
    expected = list(rule(videos, 150, excluded=[11]))
    assert [(c.class_name, c.id, c.part) for c in store] == expected
    assert store.source["excluded_labels"] == list(UNWRITTEN_EXCLUSIONS) == ["Brass instrument"]
    assert len(expected) < len(list(rule(videos, 150)))


@pytest.mark.parametrize("kind", ["not in the vocabulary", "a class"])
def test_the_default_exclusions_apply_as_far_as_they_can(tmp_path, tables, kind):
    if kind == "a class":
        tables["classes"].write_text(CLASSES + "11,Brass instrument,instrument,train\n")
    else:
        lines = [line for line in VOCABULARY.splitlines() if "Brass" not in line]
        tables["vocabulary"].write_text("\n".join(lines))
    shard = write_records(tmp_path / "a.tfrecord", [video("aa", [2]), video("bb", [11])])
    store = prepare_youtube8m(shard, tmp_path / "out", **tables)
    assert store.source["excluded_labels"] == []
    assert ("bb" in store.ids) == (kind == "a class")


def test_excluded_labels(tmp_path, tables):
    videos = some_videos()
    tables["vocabulary"].write_text(VOCABULARY + "4,Lute,,,,\n", encoding="utf-8")
    shards = write_shards(tmp_path / "shards", [video(*v) for v in videos])
    store = prepare_youtube8m(shards, tmp_path / "out", excluded_labels=("Lute",), **tables)
    expected = list(rule(videos, 150, excluded=[4]))
    assert [(c.class_name, c.id, c.part) for c in store] == expected
    assert store.source["excluded_labels"] == ["Lute"]
    for label, message in (
        ("Dog", "'Dog' is a class"),
        ("Bras instrument", "is not in .*did you mean 'Brass instrument'"),
    ):
        with pytest.raises(TCAFError, match=message):
            prepare_youtube8m(shards, tmp_path / "x", excluded_labels=(label,), **tables)


def test_rows_do_not_depend_on_how_shards_are_cut(tmp_path, tables):
    videos = [video(*v) for v in some_videos()]
    stores = [
        prepare_youtube8m(
            write_shards(tmp_path / f"shards{n}", videos[::step], n), tmp_path / f"o{n}", **tables
        )
        for n, step in ((2, 1), (5, -1))
    ]
    assert stores[0].fingerprint == stores[1].fingerprint


def test_video_level_tokens_and_spec(tmp_path, tables):
    shard = write_records(tmp_path / "one.tfrecord", [video("ab", [2, 100])])
    store = prepare_youtube8m(shard, tmp_path / "out", dtype="float32", **tables)
    rng = np.random.default_rng([0, *b"ab"])
    np.testing.assert_array_equal(store[0].audio, rng.normal(size=(1, 3)).astype(np.float32))
    np.testing.assert_array_equal(store[0].visual, rng.normal(size=(1, 5)).astype(np.float32))
    assert (store.spec.audio_step_s, store.spec.visual_step_s) == (None, None)
    assert (store.spec.audio_backbone, store.spec.visual_backbone) == (
        "youtube8m_audio",
        "youtube8m_rgb",
    )
    assert store.source == {
        "kind": "youtube8m",
        "level": "video",
        "shards": 1,
        "videos_per_class": 150,
        "excluded_labels": ["Brass instrument"],
        "licence": "CC BY 4.0",
    }


def test_frame_level_by_hand(tmp_path, tables):
    audio = [b"\x00\xff", b"\x80\x01", b"\x02\x03"]
    rgb = [b"\x00\x01\x02", b"\xfd\xfe\xff"]
    shard = write_records(tmp_path / "one.tfrecord", [frames("ab", [2], audio, rgb)])
    store = prepare_youtube8m(shard, tmp_path / "out", dtype="float32", **tables)
    # 0 -> 4/512 - 2, 255 -> 4 + 4/512 - 2, 1 -> 4/255 more than 0.
    assert store[0].audio[0].tolist() == [-1.9921875, 2.0078125]
    np.testing.assert_allclose(
        store[0].audio[1], [128 * 4 / 255 - 1.9921875, 4 / 255 - 1.9921875], rtol=1e-6
    )
    np.testing.assert_allclose(
        store[0].visual,
        np.array([[0, 1, 2], [253, 254, 255]]) * 4 / 255 + 4 / 512 - 2,
        rtol=1e-6,
    )
    assert (len(store[0].audio), len(store[0].visual)) == (3, 2)
    assert (store.spec.audio_step_s, store.spec.visual_step_s) == (1.0, 1.0)
    assert store.source["level"] == "frame"


def test_both_levels_give_the_same_benchmark(tmp_path, tables):
    videos = some_videos()
    by_video = write_shards(tmp_path / "v", [video(*v) for v in videos])
    by_frame = write_shards(tmp_path / "f", [frames(*v, [b"ab"] * 3, [b"c"]) for v in videos], 7)
    stores = [
        prepare_youtube8m(shards, tmp_path / name, videos_per_class=11, **tables)
        for name, shards in (("ov", by_video), ("of", by_frame))
    ]
    first, second = ([(c.id, c.class_name, c.part) for c in store] for store in stores)
    assert first == second


def test_phrases(tmp_path, tables):
    shard = write_records(tmp_path / "one.tfrecord", [video("ab", [2])])
    store = prepare_youtube8m(shard, tmp_path / "out", **tables)
    assert store.phrases == {
        "Dog": {
            "name": ["Dog"],
            "verticals": ["Pets & Animals"],
            "description": ["A dog barks, e.g. at St. Nicholas."],
        },
        "Harp": {"name": ["Harp"], "description": ["A harp has strings!"]},
        "Drifting": {
            "name": ["Drifting"],
            "verticals": ["Sports", "Autos & Vehicles"],
            "description": ["Drifting is a technique."],
        },
        "Cake": {"name": ["Cake"], "verticals": ["Food & Drink"]},
    }


def test_clips_without_a_modality_are_named(tmp_path, tables):
    shards = tmp_path / "shards"
    shards.mkdir()
    write_records(
        shards / "a.tfrecord",
        [
            video("aa", [2], audio=0),
            video("bb", [2], rgb=0),
            video("cc", [5], 0, 0),
            video("dd", [7]),
            video("ee", [4], audio=0),
        ],
    )
    write_records(shards / "b.tfrecord", [])
    store = prepare_youtube8m(shards, tmp_path / "out", **tables)
    assert store.ids == ["dd"]
    assert store.left_out == {
        "no audio features": ["aa"],
        "no rgb features": ["bb"],
        "no audio and rgb features": ["cc"],
        "shard without a record": ["b.tfrecord"],
        "class without a video": ["Cake", "Dog", "Drifting"],
    }


@pytest.mark.parametrize(
    ("payloads", "message"),
    [
        ([video("aa", [2]), video("aa", [5])], r"byte \d+: video 'aa' occurs twice"),
        ([video("aa", [4])], "none has exactly one of the listed labels"),
        ([video("aa", [2], rgb=0)], "none of the 1 videos has both audio and rgb"),
        ([video("aa", [2]), video("bb", [2], rgb=7)], "expected visual tokens of shape"),
        (
            [frames("aa", [2], [b"ab"], [b"a", b"ab"])],
            "byte 0: the steps of 'rgb' differ in size: 1 and 2 bytes",
        ),
        ([video("aa", [2]), frames("bb", [2], [b"a"], [b"b"])], "one level at a time"),
        ([example({"video_id": [b"aa"]})], "one 'id', found 0 .it has 'video_id'"),
        ([example({"id": [b"\xff\xfe"], "labels": [2]})], "is no text"),
        ([b"\xff\xff"], r"a\.tfrecord, byte 0: the record is no tf"),
    ],
)
def test_wrong_records_leave_nothing(tmp_path, tables, payloads, message):
    shard = write_records(tmp_path / "a.tfrecord", payloads)
    with pytest.raises(TCAFError, match=message):
        prepare_youtube8m(shard, tmp_path / "out", **tables)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2,Dog,", "13,Dog,", "'Dog' has label 13, under which .* nothing; did you mean 'Dog'"),
        ("2,Dog,", "2,Dogg,", "'Dogg' has label 2, .* 'Dog'; did you mean 'Dog'"),
        ("2,Dog,", "two,Dog,", "whole number as label, got 'two'"),
        ("food,train", "food,trian", "partition 'trian'; .* did you mean 'train'"),
        ("5,Cake,food", "2,Dog,food", "'Dog' .label 2. is listed twice"),
        (
            "theme,partition",
            "theme,partitions",
            "expected the columns .*, partition, .*; did you mean 'partitions'",
        ),
        (
            "7,Harp,instrument,test_unseen",
            "7,Harp",
            r"classes\.csv, line \d: expected 4 cells .* found 2",
        ),
    ],
)
def test_wrong_class_tables(tmp_path, tables, old, new, message):
    assert old in CLASSES
    tables["classes"].write_text(CLASSES.replace(old, new), encoding="utf-8")
    shard = write_records(tmp_path / "a.tfrecord", [video("aa", [2])])
    with pytest.raises(TCAFError, match=message):
        prepare_youtube8m(shard, tmp_path / "out", **tables)


def test_missing_inputs(tmp_path, tables):
    with pytest.raises(TCAFError, match=r"expected a \.tfrecord file or a folder"):
        prepare_youtube8m(tmp_path, tmp_path / "out", **tables)
    shard = write_records(tmp_path / "a.tfrecord", [video("aa", [2])])
    with pytest.raises(TCAFError, match=r"expected a CSV table at .*none\.csv, found none"):
        prepare_youtube8m(shard, tmp_path / "o", **tables | {"vocabulary": tmp_path / "none.csv"})
    with pytest.raises(TCAFError, match="at least 1 video per class, got 0"):
        prepare_youtube8m(shard, tmp_path / "out", videos_per_class=0, **tables)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("Drifting (motorsport)", "Drifting"),
        ("Piano", "Piano"),
        ("Halo (series) 2", "Halo 2"),
        (" Cake ", "Cake"),
    ],
)
def test_bare_name(name, bare):
    assert bare_name(name) == bare


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("No stop", "No stop"),
        ("", ""),
        ("It is 2.5 m long. It flies.", "It is 2.5 m long."),
        ("By J. K. Rowling in the U.S. Army. Next.", "By J. K. Rowling in the U.S. Army."),
        ("Dogs, e.g. Huskies, run. They do.", "Dogs, e.g. Huskies, run."),
        ("Made by St. John and Dr. Who of Acme Inc. Ltd. in Rome. Next.", None),
        ('He said "stop." Then he left.', 'He said "stop."'),
        ("Really? (Yes.) No.", "Really?"),
        ("at 5 a.m. tea. Now", "at 5 a.m. tea."),
    ],
)
def test_first_sentence(text, sentence):
    expected = text.removesuffix(" Next.") if sentence is None else sentence
    assert first_sentence(text) == expected


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "shards").is_dir(),
    reason="YouTube-8M shards are neither in $TCAF_SHARED nor in ../shared",
)
@pytest.mark.parametrize(
    ("excluded", "counts"),
    [
        # What the benchmark's description says: its counts, and its rule to the letter.
        (None, (2317, 487, 850, 616, 981)),
        ((), (2319, 487, 866, 619, 991)),
    ],
)
def test_the_real_shards(tmp_path, excluded, counts):
    store = prepare_youtube8m(
        SHARED / "shards",
        tmp_path / "out",
        vocabulary=SHARED / "vocabulary.csv",
        classes=SHARED / "classes.csv",
        excluded_labels=excluded,
    )
    parts = Counter(store.parts.tolist())
    names = ("stage_1_train", "val_seen", "val_unseen", "test_seen", "test_unseen")
    assert tuple(parts[name] for name in names) == counts
    assert tuple(len(store.rows("cls", name)) for name in names) == counts
    assert (store.spec.audio_dim, store.spec.visual_dim) == (128, 1024)
    assert store.left_out == {}
    store.split("cls").check_clips(store.ids, store.class_names, store.parts)
    assert len(store.phrases) == 69
    for phrases in store.phrases.values():
        (description,) = phrases["description"]
        assert description.endswith(".")
        assert 20 < len(description) < 400
