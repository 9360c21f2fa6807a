"""Your own clips: files, classes, parts, and the rule that deals them out."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from tcaf.data.splits import Split
from tcaf.errors import TCAFError
from tcaf.extract.corpus import MediaFile
from tcaf.sources.labels import (
    PARTS_OF,
    Clip,
    deal_out,
    find_clips,
    read_split,
    split_by_parts,
    split_by_rule,
)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_csv(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_classes_are_the_sub_folders(tmp_path):
    touch(tmp_path, "dog/1.mp4", "dog/deep/2.MKV", "a cat/1.webm", "loose.wav", "notes.txt")
    touch(tmp_path, ".Trash/1.mp4", "dog/._1.mp4")
    found = [(clip.file.id, clip.class_name) for clip in find_clips(tmp_path)]
    assert found == [
        ("a cat/1.webm", "a cat"),
        ("dog/1.mp4", "dog"),
        ("dog/deep/2.MKV", "dog"),
        ("loose.wav", ""),
    ]


def test_no_folder_and_no_media(tmp_path):
    with pytest.raises(TCAFError, match=r"expected a folder with media files at .*gone"):
        find_clips(tmp_path / "gone")
    touch(tmp_path, "a.txt", "b.jpg")
    with pytest.raises(TCAFError, match=r"no media file in .* \(2 other files\)"):
        find_clips(tmp_path)


def test_labels(tmp_path):
    touch(tmp_path, "x/1.mp4", "2.avi", "3.avi")
    labels = write_csv(
        tmp_path / "labels.csv",
        ("class", "file", "part"),
        ("dog", "x/1.mp4", "val_seen"),
        ("cat", "2.avi", "test_seen"),
        ("cat", "gone.avi", "stage_1_train"),
    )
    found = {clip.file.id: (clip.class_name, clip.part) for clip in find_clips(tmp_path, labels)}
    assert found == {
        "x/1.mp4": ("dog", "val_seen"),
        "2.avi": ("cat", "test_seen"),
        "gone.avi": ("cat", "stage_1_train"),
    }


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("name", "class"), ("a", "b")], "expected the columns file, class, found name, class"),
        ([("file", "class"), ("1.mp4", "")], "line 2: expected a class, found none"),
        ([("file", "class"), ("1.mp4", "a", " b")], "line 2: expected 2 cells .* found 3"),
        (
            [("file", "class", "split"), ("1.mp4", "a", "train")],
            "no column 'split' is known; there may be file, class, part",
        ),
        ([("file", "class"), ("1.mp4", "a"), ("1.mp4", "b")], "line 3: '1.mp4' is listed twice"),
        (
            [("file", "class", "part"), ("1.mp4", "a", "test_sen")],
            "no part 'test_sen'.*did you mean 'test_seen'",
        ),
        (
            [("file", "class", "part"), ("1.mp4", "a", "val_seen"), ("2.mp4", "a", "")],
            "1 rows have a part, '2.mp4' none",
        ),
        ([("file", "class")], "expected rows of file and class, found none"),
        ([("file", "class"), ("2.mp4", "a")], "none of 1 files is in .*2.mp4"),
    ],
)
def test_bad_labels(tmp_path, rows, told):
    touch(tmp_path, "1.mp4")
    with pytest.raises(TCAFError, match=told):
        find_clips(tmp_path, write_csv(tmp_path / "labels.csv", *rows))


def test_split_file(tmp_path):
    rows = [("class", "subset"), ("b", "train"), ("a", "train"), ("c", "val_unseen")]
    path = write_csv(tmp_path / "split.csv", *rows, ("d", "test_unseen"))
    assert read_split(path) == Split(("a", "b"), ("c",), ("d",))
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
