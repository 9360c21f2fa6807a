"""Your own clips: which files, and what tables and folders say of class, part and group."""

import csv
import json

import pytest

from tcaf.errors import TCAFError
from tcaf.sources.labels import USES, check_class_names, file_of, find_clips, group_finder


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
    found = [(clip.file.id, clip.class_name) for clip in find_clips(tmp_path).clips]
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
    clips = find_clips(tmp_path, labels).clips
    found = {clip.file.id: (clip.class_name, clip.part) for clip in clips}
    assert found == {
        "x/1.mp4": ("dog", "val_seen"),
        "2.avi": ("cat", "test_seen"),
        "gone.avi": ("cat", "stage_1_train"),
    }


@pytest.mark.parametrize("name", ["../2.mp4", "link/../2.mp4", "a/../../2.mp4", "{}"])
def test_files_elsewhere_are_taken_only_if_someone_says_so(tmp_path, name):
    folder = tmp_path / "clips"
    touch(tmp_path, "clips/1.mp4", "clips/a/3.mp4", "2.mp4", "far/4.mp4")
    (folder / "link").symlink_to(tmp_path / "far")
    name = name.format(tmp_path / "2.mp4")
    rows = [("file", "class"), ("1.mp4", "dog"), (name, "dog")]
    labels = write_csv(tmp_path / "labels.csv", *rows)
    with pytest.raises(TCAFError, match=r"line 3: expected a file in .*; with --allow_outside"):
        find_clips(folder, labels)
    clips = find_clips(folder, labels, allow_outside=True).clips
    assert clips[1].file.path.samefile(tmp_path / "2.mp4")


def test_links_in_the_folder_are_followed(tmp_path):
    touch(tmp_path, "clips/1.mp4", "far/..4.mp4")
    (tmp_path / "clips" / "link").symlink_to(tmp_path / "far")
    rows = [("file", "class"), ("link/..4.mp4", "dog")]
    (clip,) = find_clips(tmp_path / "clips", write_csv(tmp_path / "labels.csv", *rows)).clips
    assert clip.file.path.samefile(tmp_path / "far" / "..4.mp4")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("name", "class"), ("a", "b")], "expected the columns file, class, found name, class"),
        ([("file", "class"), ("1.mp4", "")], "line 2: expected a class, found none"),
        ([("file", "class"), ("1.mp4", "a", " b")], "line 2: expected 2 cells .* found 3"),
        (
            [("file", "class", "lable"), ("1.mp4", "a", "train")],
            "no column 'lable' is known; there may be file, class, part, group, start, end, split",
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
        (
            [("file", "class", "split", "Part"), ("1.mp4", "a", "train", "train")],
            "the column 'part' is there twice, as 'split', 'Part'",
        ),
        (
            [("file", "class", "fold"), ("1.mp4", "a", "3")],
            "no part '3'; there are train, val, test and their like, or stage_1_train",
        ),
        (
            [("file", "class", "set"), ("1.mp4", "a", "train"), ("2.mp4", "a", "val_seen")],
            "'2.mp4' has one of the parts .*, '1.mp4' one of train, val, test; keep to either",
        ),
        ([("file", "class")], "expected rows of file and class, found none"),
        ([("file", "class"), ("2.mp4", "a")], "none of 1 files is in .*2.mp4"),
    ],
)
def test_bad_labels(tmp_path, rows, told):
    touch(tmp_path, "1.mp4")
    with pytest.raises(TCAFError, match=told):
        find_clips(tmp_path, write_csv(tmp_path / "labels.csv", *rows))


@pytest.mark.parametrize("column", ["part", "Split", "SUBSET", "set", "fold", "partition"])
def test_training_and_test_are_taken_from_a_table(tmp_path, column):
    touch(tmp_path, "1.mp4")
    words = [(use, word) for use, words in USES.items() for word in words]
    words += [("train", "Train"), ("val", " VALIDATION "), ("test", "Test")]
    rows = [(f"{n}.mp4", "a", word) for n, (_, word) in enumerate(words)]
    labels = write_csv(tmp_path / "labels.csv", ("file", "class", column), *rows)
    clips = find_clips(tmp_path, labels).clips
    assert [(clip.part, clip.use) for clip in clips] == [("", use) for use, _ in words]


def test_folders_of_training_and_test(tmp_path):
    touch(tmp_path, "Train/dog/1.mp4", "Train/cat/deep/2.mp4", "valid/dog/3.mp4", "test/cat/4.mp4")
    found = [(c.file.id, c.class_name, c.use) for c in find_clips(tmp_path).clips]
    assert found == [
        ("Train/cat/deep/2.mp4", "cat", "train"),
        ("Train/dog/1.mp4", "dog", "train"),
        ("test/cat/4.mp4", "cat", "test"),
        ("valid/dog/3.mp4", "dog", "val"),
    ]
    touch(tmp_path, "extra/dog/5.mp4")
    with pytest.raises(TCAFError, match=r"'Train', 'test', 'valid' say the use .* 'extra' beside"):
        find_clips(tmp_path)
    (tmp_path / "extra/dog/5.mp4").rename(tmp_path / "test/5.mp4")
    with pytest.raises(TCAFError, match=r"'test/5\.mp4' lies in no folder of a class"):
        find_clips(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, "train/1.mp4", "bus/2.mp4")
    assert [(c.class_name, c.use) for c in find_clips(tmp_path).clips] == [
        ("bus", ""),
        ("train", ""),
    ]


def test_what_is_passed_over_is_a_remark(tmp_path):
    touch(tmp_path, "dog/1.mp4")
    assert find_clips(tmp_path).remarks == ()
    touch(tmp_path, "dog/2.gif")
    (remark,) = find_clips(tmp_path).remarks
    assert "1 files that are no media files by their names (.gif 1: 'dog/2.gif')" in remark
    labels = write_csv(tmp_path / "labels.csv", ("file", "class"), ("dog/1.mp4", "dog"))
    assert find_clips(tmp_path, labels).remarks == ()


def groups(listing):
    return [clip.group for clip in listing.clips]


def test_groups_by_column_by_pattern_and_as_ucf_has_them(tmp_path):
    names = ("v_A_g01_c01.avi", "v_A_g01_c02.avi", "v_A_g02_c01.avi", "other.avi")
    touch(tmp_path, *(f"A/{name}" for name in names))
    assert groups(find_clips(tmp_path)) == ["", "A_g01", "A_g01", "A_g02"]
    found = find_clips(tmp_path, group=r"_c(\d+)")
    assert groups(found) == ["", "01", "02", "01"]
    assert found.remarks == ("--group fits 3 of 4 files, not 'A/other.avi'",)
    assert groups(find_clips(tmp_path, group="A/.")) == ["A/o", "A/v", "A/v", "A/v"]
    rows = [(f"A/{name}", "A", f"take {n % 2}") for n, name in enumerate(names)]
    labels = write_csv(tmp_path / "labels.csv", ("file", "class", "Group"), *rows)
    assert groups(find_clips(tmp_path, labels)) == ["take 0", "take 1"] * 2
    with pytest.raises(TCAFError, match="has a column group, or names the recordings; leave"):
        find_clips(tmp_path, labels, "x")
    with pytest.raises(TCAFError, match=r"--group 'xyz' fits no file's name; the first is 'A/oth"):
        find_clips(tmp_path, group="xyz")
    with pytest.raises(TCAFError, match=r"--group 'g\(' is no regular expression"):
        find_clips(tmp_path, group="g(")
    # Of alternatives the one that is there.
    assert group_finder("a(x)?")("ba") == ""


@pytest.mark.parametrize(
    "names",
    [
        ("dog", "dog "),
        ("Dog Barking", "dog_barking"),
        ("PlayingFlute", "playing flute"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_names_that_are_one_are_refused(names):
    with pytest.raises(TCAFError, match="are one but for spaces") as error:
        check_class_names([*names, "cat"])
    assert all(repr(name) in str(error.value) for name in names)
    check_class_names(["dog", "dogs", "cat", "cat"])


def write_annotations(path, **videos):
    path.write_text(json.dumps({"version": "1", "database": videos}), encoding="utf-8-sig")
    return path


def test_activitynets_annotations(tmp_path):
    touch(
        tmp_path, "v_one.mp4", "deep/two.mkv", "-three.mp4", "many.mp4", "none.mp4", "unlisted.mp4"
    )
    touch(tmp_path, "half.mp4", "twice.mp4", "v_twice.mp4", "a/both.mp4", "b/both.mp4")
    dog, cat = {"label": "Dog", "segment": [0, 1]}, {"label": "Cat"}
    both = [{"label": label, "segment": [1, 2.5]} for label in ("Dog", "Cat")]
    path = write_annotations(
        tmp_path / "an.json",
        one={"subset": "training", "annotations": [dog, dog], "duration": 9.5},
        two={"subset": "validation", "annotations": [cat]},
        **{"-three": {"subset": "testing", "annotations": [{"label": "Dog "}]}},
        twice={"subset": "training", "annotations": [cat]},
        many={"subset": "training", "annotations": [dog, cat, *both]},
        none={"subset": "testing", "annotations": []},
        unlisted={"annotations": [dog | {"segment": [3, 2]}, dog | {"segment": [0, "x"]}]},
        both={"subset": "testing", "annotations": [dog]},
        gone={"subset": "testing", "annotations": [dog]},
        half={"subset": "testing", "annotations": [dog, {"label": None, "segment": [1, 2]}]},
    )
    found = find_clips(tmp_path, path)
    assert [(c.id, c.class_name, c.use, c.group) for c in found.clips] == [
        ("-three.mp4", "Dog", "test", ""),
        ("half.mp4@0-1", "Dog", "test", "half.mp4"),
        ("many.mp4", "Cat", "train", "many.mp4"),
        ("many.mp4@0-1", "Dog", "train", "many.mp4"),
        ("v_one.mp4@0-1", "Dog", "train", "v_one.mp4"),
        ("twice.mp4", "Cat", "train", ""),
        ("deep/two.mkv", "Cat", "val", ""),
    ]
    assert {reject.id: reject.reason for reject in found.rejects} == {
        "both@0-1": "several files",
        "gone@0-1": "no such file",
        "half": "no label",
        "many.mp4@1-2.5": "several labels",
        "none": "no label",
        "unlisted@[3, 2]": "impossible segment",
        'unlisted@[0, "x"]': "impossible segment",
    }
    assert found.remarks == (f"{path}: not used are the keys duration, version",)
    assert found.unlisted == ("v_twice.mp4",)


def test_a_trimmed_file_is_none_of_several_stretches(tmp_path):
    touch(tmp_path, "two.mp4", "one.mp4")
    spans = [{"label": "Dog", "segment": span} for span in ((0, 2), (3, 5))]
    path = write_annotations(
        tmp_path / "an.json",
        two={"subset": "training", "annotations": spans},
        one={"subset": "training", "annotations": spans[:1]},
    )
    found = find_clips(tmp_path, path, trimmed=True)
    assert [clip.id for clip in found.clips] == ["one.mp4"]
    told = "two.mp4 may be each of 'two@0-2', 'two@3-5'"
    assert [(reject.id, reject.reason, reject.detail) for reject in found.rejects] == [
        (f"two@{span}", "the same file as another clip", told) for span in ("0-2", "3-5")
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"one": 1}', "expected ActivityNet's annotations in `database`, found 'one'"),
        ("[1]", "expected ActivityNet's annotations in `database`, found list"),
        ('{"database": {}}', "expected videos in `database`, found none"),
        ('{"database": ', "expected a CSV table or ActivityNet's annotations at .* damaged"),
        ('{"database": {"x": 3}}', "a subset and annotations with a label each, .* for 'x'"),
        ('{"database": {"x": {"annotations": [{}]}}}', "annotations with a label each, .* for 'x'"),
        (
            '{"database": {"x": {"annotations": [{"label": "a", "segment": [3, 2]}]}}}',
            r"none of 1 clips can be used; the first: x: expected a segment .* found \[3, 2\]",
        ),
        (
            '{"database": {"x": {"annotations": [{"label": "a", "segment": "12"}]}}}',
            r"perhaps a segment \[start, end\] in seconds, for 'x'",
        ),
        (
            '{"database": {"x": {"annotations": [{"label": ["a"]}]}}}',
            "annotations with a label each, .* for 'x'",
        ),
        (
            '{"database": {"1": {"annotations": [{"label": null}]}}}',
            "none of 1 clips can be used; the first: 1: expected a label",
        ),
        ('{"database": {"x": {}}}', "none of 1 clips can be used; the first: x: expected a label"),
        (
            '{"database": {"1": {"annotations": [{"label": "a"}], "subset": "odd"}}}',
            "an.json, 1: no part 'odd'; there are train, val, test",
        ),
    ],
)
def test_bad_annotations(tmp_path, content, told):
    touch(tmp_path, "1.mp4")
    (tmp_path / "an.json").write_text(content)
    with pytest.raises(TCAFError, match=told):
        find_clips(tmp_path, tmp_path / "an.json")


def test_segments_of_a_table(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    table = tmp_path / "labels.csv"
    head = "file,class,start,end\n"
    table.write_text(f"{head}a.mp4,ant,0,1.5\na.mp4,bee,1.5,3\nb.mp4,ant,,\n")
    found = find_clips(tmp_path, table)
    assert [(c.id, c.class_name, c.file.segment, c.group) for c in found.clips] == [
        ("a.mp4@0-1.5", "ant", (0, 1.5), "a.mp4"),
        ("a.mp4@1.5-3", "bee", (1.5, 3), "a.mp4"),
        ("b.mp4", "ant", None, ""),
    ]
    assert [file_of(c.id) for c in found.clips] == ["a.mp4", "a.mp4", "b.mp4"]
    assert {c.group for c in find_clips(tmp_path, table, r"(.)\.mp4").clips} == {"a", "b"}
    for row in ("a.mp4,ant,2,1", "a.mp4,ant,1,", "a.mp4,ant,-1,2", "a.mp4,ant,0:01,0:02"):
        table.write_text(head + row)
        with pytest.raises(TCAFError, match="line 2: expected start and end in seconds"):
            find_clips(tmp_path, table)
    table.write_text(f"{head}a.mp4,ant,0,1\na.mp4,bee,0,1.0\n")
    with pytest.raises(TCAFError, match=r"'a.mp4@0-1' is listed twice"):
        find_clips(tmp_path, table)
