"""Which classes are unseen and which part each clip has: by tables, by use, by lot."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from tcaf.data.splits import Split
from tcaf.errors import TCAFError
from tcaf.extract.work_folder import MediaFile
from tcaf.sources.labels import Clip
from tcaf.sources.partition import (
    PARTS_OF,
    classes_of_takes,
    deal_out,
    read_split,
    split_by_parts,
    split_by_rule,
    split_by_use,
    torn_groups,
)


def write_csv(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_split_file(tmp_path):
    rows = [("class", "subset"), ("b", "train"), ("a", "train"), ("c", "val_unseen")]
    path = write_csv(tmp_path / "split.csv", *rows, ("d", "test_unseen"))
    assert read_split(path) == Split(("a", "b"), ("c",), ("d",))
    assert read_split(write_csv(path, *rows, ("d", "Test_Unseen"))).test_unseen == ("d",)
    with pytest.raises(TCAFError, match="no class is test_unseen"):
        read_split(write_csv(path, *rows))
    assert read_split(path, is_whole=False) == Split(("a", "b"), ("c",), ())
    with pytest.raises(TCAFError, match="no subset 'test'"):
        read_split(write_csv(path, *rows, ("d", "test")))
    with pytest.raises(TCAFError, match="split overlap: 'a' in both train and test_unseen"):
        read_split(write_csv(path, *rows, ("a", "test_unseen")))
    with pytest.raises(TCAFError, match="found none"):
        read_split(tmp_path / "gone.csv")


def test_rule_holds_out_classes():
    names = [f"c{i:02}" for i in range(20) for _ in range(7)]
    split = split_by_rule(names, 0.2, 0)
    assert split is not None
    assert (len(split.train), len(split.val_unseen), len(split.test_unseen)) == (12, 4, 4)
    assert split_by_rule(names[::-1], 0.2, 0) == split
    assert split_by_rule(names, 0.2, 1) != split


@pytest.mark.parametrize("names", [[], [""] * 20, ["a", "b", "c"] * 9, list("abcdef") * 2])
def test_too_few_for_a_split(names):
    assert split_by_rule(names, 0.2, 0) is None


def clips_of(counts):
    return [
        Clip(MediaFile(f"{name}/{i}", Path(name)), name, "")
        for name, count in counts.items()
        for i in range(count)
    ]


def test_dealing_out():
    split = Split(("a", "b"), ("c",), ("d",))
    clips = clips_of({"a": 20, "b": 3, "c": 20, "d": 5, "e": 4, "": 2})
    parts = deal_out(clips, split, 0)
    counts = Counter((clip.class_name, part) for clip, part in zip(clips, parts, strict=True))
    assert counts == {
        ("a", "stage_1_train"): 14,
        ("a", "val_seen"): 3,
        ("a", "test_seen"): 3,
        # Each part at least one clip.
        ("b", "stage_1_train"): 1,
        ("b", "val_seen"): 1,
        ("b", "test_seen"): 1,
        ("c", "val_unseen"): 17,
        ("c", "test_seen"): 3,
        ("d", "test_unseen"): 5,
        ("e", ""): 4,
        ("", ""): 2,
    }
    # By lot, and not by the order of the names.
    assert parts != sorted(parts)
    assert all(sum(shares.values()) == pytest.approx(1) for shares in PARTS_OF.values())


def test_a_part_that_is_given_stays():
    clips = [Clip(c.file, c.class_name, "test_seen") for c in clips_of({"a": 3})]
    assert deal_out(clips, Split(("a",), ("b",), ("c",)), 0) == ["test_seen"] * 3
    assert deal_out(clips, None, 0) == [""] * 3


def test_parts_imply_the_split():
    parts = {"a": "stage_1_train", "b": "val_seen", "c": "val_unseen", "d": "test_unseen"}
    clips = [
        Clip(c.file, c.class_name, parts[c.class_name]) for c in clips_of(dict.fromkeys(parts, 2))
    ]
    assert split_by_parts(clips) == Split(("a", "b"), ("c",), ("d",))
    both = [*clips, Clip(clips[0].file, "a", "test_unseen")]
    with pytest.raises(TCAFError, match="split overlap: 'a' in both train and test_unseen"):
        split_by_parts(both)


def used(*uses, group=""):
    """Clips of the uses that a table gives them: `"a train"`, class and use, or with a count."""
    clips = []
    for text in uses:
        name, use, *count = text.split()
        for _ in range(int(count[0]) if count else 1):
            file = MediaFile(f"{name}/{len(clips)}", Path(name))
            clips.append(Clip(file, name, "", use, group))
    return clips


def counted(clips, parts):
    return Counter((c.class_name, c.use, p) for c, p in zip(clips, parts, strict=True))


def test_uses_imply_the_partition():
    clips = used("a train", "a test", "b train", "b val", "c val", "c test", "d test")
    split = split_by_use(clips, None, 0.2, 0)
    assert split == Split(("a", "b"), ("c",), ("d",))
    assert deal_out(clips, split, 0) == [
        *("stage_1_train", "test_seen", "stage_1_train", "val_seen"),
        *("val_unseen", "test_seen", "test_unseen"),
    ]


def test_what_no_use_says_is_drawn_and_no_test_clip_is_trained_on():
    # An ordinary table for training and test of the same ten classes: 20 % are two classes each.
    uses = [f"c{n} {use} {count}" for n in range(10) for use, count in (("train", 20), ("test", 4))]
    clips = used(*uses)
    split = split_by_use(clips, None, 0.2, 0)
    assert (len(split.train), len(split.val_unseen), len(split.test_unseen)) == (6, 2, 2)
    assert split_by_use(clips[::-1], None, 0.2, 0) == split
    assert any(split_by_use(clips, None, 0.2, seed) != split for seed in (1, 2))
    parts = deal_out(clips, split, 0)
    # Of 20 clips for training 15 of (70 + 15) hundredths, 3.5, are for validation.
    expected = {}
    for name in split.train:
        expected |= {(name, "train", "stage_1_train"): 16, (name, "train", "val_seen"): 4}
        expected |= {(name, "test", "test_seen"): 4}
    for name in split.val_unseen:
        expected |= {(name, "train", "val_unseen"): 20, (name, "test", "test_seen"): 4}
    for name in split.test_unseen:
        expected |= {(name, "train", ""): 20, (name, "test", "test_unseen"): 4}
    assert counted(clips, parts) == expected
    # More clips of the same kind: the store has clips for validation, and all are for training.
    name = split.train[0]
    more = used(f"{name} train 10")
    assert split_by_use(more, split, 0.2, 0) == split
    assert deal_out(more, split, 0, [("", "val_seen"), ("", "test_seen")]) == ["stage_1_train"] * 10


def test_a_table_of_training_and_validation_alone():
    clips = used(*(f"c{n} {use} 10" for n in range(5) for use in ("train", "val")))
    split = split_by_use(clips, None, 0.2, 0)
    assert (len(split.train), len(split.val_unseen), len(split.test_unseen)) == (3, 1, 1)
    parts = counted(clips, deal_out(clips, split, 0))
    for name in split.train:  # 15 of 85 hundredths of 10
        assert parts[name, "train", "test_seen"] == 2
        assert parts[name, "val", "val_seen"] == 10
    (name,) = split.val_unseen  # 15 of 100 hundredths of 20
    assert sum(n for key, n in parts.items() if key[::2] == (name, "test_seen")) == 3
    (name,) = split.test_unseen
    assert parts[name, "train", "test_unseen"] == parts[name, "val", "test_unseen"] == 10


def test_a_class_that_is_tested_alone_needs_test_clips():
    # Where the table says it is so, as nothing trains on it, or where its clips are of no test.
    clips = used("a train 3", "b train 3", "c train 2", "d train 2", "d test", "a test")
    split = Split(("a", "b"), (), ("c", "d"))
    assert split_by_use(clips, split, 0.2, 0) == split
    parts = counted(clips, deal_out(clips, split, 0))
    assert parts["c", "train", "test_unseen"] == 2
    assert (parts["d", "train", ""], parts["d", "test", "test_unseen"]) == (2, 1)


def test_too_few_classes_for_a_split_by_use():
    assert split_by_use(used("a train 9", "a test 9", "b train 9"), None, 0.2, 0) is None
    assert deal_out(used("a train"), None, 0) == [""]


def grouped(name, *sizes):
    return [
        Clip(MediaFile(f"{name}/g{g}_{n}", Path(name)), name, "", group=f"{name} g{g}")
        for g, size in enumerate(sizes)
        for n in range(size)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_group_stays_in_one_part(seed):
    split = Split(("a", "b"), ("c",), ("d",))
    clips = [*grouped("a", *[5] * 20), *grouped("b", 30, 1, 1), *grouped("c", *[4] * 10)]
    clips += grouped("d", 3, 3)
    parts = deal_out(clips, split, seed)
    parts_of = {}
    for clip, part in zip(clips, parts, strict=True):
        parts_of.setdefault(clip.group, set()).add(part)
    assert all(len(found) == 1 for found in parts_of.values())
    assert torn_groups(clips, parts) == []
    counts = Counter((c.class_name, p) for c, p in zip(clips, parts, strict=True))
    # 15 % of 100 are three groups of five; of b's no group but the large one is left for training.
    assert (counts["a", "val_seen"], counts["a", "test_seen"]) == (15, 15)
    assert counts["b", "stage_1_train"] == 30
    assert (counts["b", "val_seen"], counts["b", "test_seen"]) == (1, 1)
    # 15 % of 40 are 6: a group of four, and for the two that lack the smallest.
    assert (counts["c", "val_unseen"], counts["c", "test_seen"]) == (32, 8)


@pytest.mark.parametrize("seed", range(5))
def test_where_no_group_fits_the_smallest_goes(seed):
    # 15 % of 36 are 5, less than any of the three groups has.
    clips = grouped("a", 20, 9, 7)
    counts = Counter(deal_out(clips, Split(("a",), (), ()), seed))
    assert counts == {"stage_1_train": 20, "val_seen": 7, "test_seen": 9}


def test_clips_alone_are_dealt_as_ever():
    clips = clips_of({"a": 20, "b": 7, "c": 20})
    alone = [Clip(c.file, c.class_name, "", group=c.file.id) for c in clips]
    split = Split(("a", "b"), ("c",), ())
    assert deal_out(alone, split, 3) == deal_out(clips, split, 3)


def test_a_group_follows_its_clips_in_other_classes_and_in_the_store():
    # A recording of which one half is of class a, the other of b, on one side of the test.
    split = Split(("a", "b"), ("c",), ())
    clips = [
        Clip(MediaFile(f"{name}/{n}", Path(name)), name, "", group=f"take {n % 9}")
        for name in "abc"
        for n in range(18)
    ]
    parts = deal_out(clips, split, 0)
    assert "test_seen" in parts
    assert torn_groups(clips, parts) == []
    for seed in range(5):
        kept = [("take 3", "test_seen"), ("take 4", "stage_1_train"), ("", "val_seen")]
        kept += [("take 5", "test_unseen"), ("take 6", "val_unseen")]
        parts = deal_out(clips, split, seed, kept)
        for group in ("take 3", "take 5"):
            assert {p for c, p in zip(clips, parts, strict=True) if c.group == group} == {
                "test_seen"
            }
        assert torn_groups(clips, parts, kept) == []
    assert torn_groups(clips, parts, [*kept, ("take 4", "test_unseen")]) == ["take 4"]


def test_classes_count_takes():
    assert classes_of_takes([*grouped("a", 3, 2), *clips_of({"b": 3})]) == [*"aabbb"]


def test_torn_groups_of_a_table():
    parts = ("stage_1_train", "val_seen", "test_seen", "test_seen", "test_unseen", "")
    groups = ("x", "y", "y", "", "z", "z")
    clips = [
        Clip(MediaFile(str(n), Path("a")), "a", part, group=group)
        for n, (part, group) in enumerate(zip(parts, groups, strict=True))
    ]
    assert torn_groups(clips, parts) == ["y"]
