"""Tables as data sets publish them: the layout of each, what it says, what of it is not used."""

import json

import pytest

from tcaf.errors import TCAFError
from tcaf.sources.published import LAYOUTS, OWN, Listed, layout_of, read_published

VGGSOUND = """\
---g-f_I2yQ,1,people marching,test
--0PQM4-hqg,30,waterfall burbling,train
-0jeONf82dE,21,"bird chirping, tweeting",train
"""

KINETICS = """\
label,youtube_id,time_start,time_end,split,is_cc
playing harp,---QUuC4vJs,84,94,validate,0
,-7kbO0v4hag,107,117,train,0
playing harp,-7kbO0v4hag,117,107,train,0
"""

ESC50 = """\
filename,fold,target,category,esc10,src_file,take
1-100032-A-0.wav,1,0,dog,True,100032,A
1-100032-B-0.wav,1,0,dog,True,100032,B
"""

AVE = """\
Category&VideoID&Quality&StartTime&EndTime
Church bell&RUhOCu3LNXM&good&0&10
Male speech, man speaking&wRCI9THVlQc&good&2&9
"""

UCF101 = """\
ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
HandstandPushups/v_HandStandPushups_g08_c01.avi 38
"""

UCF101_TEST = "Archery/v_Archery_g01_c01.avi\n"

DATABASE = {"a": {"subset": "training", "annotations": [{"label": "Dog", "segment": [0, 1]}]}}

KINETICS_JSON = {
    "---QUuC4vJs": {
        "annotations": {"label": "playing harp", "segment": [84.0, 94.0]},
        "duration": 10.0,
        "subset": "validate",
        "url": "https://www.youtube.com/watch?v=---QUuC4vJs",
    }
}


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def said(listed: Listed):
    return listed.name, listed.class_name, listed.use, listed.segment, listed.group


@pytest.mark.parametrize(
    ("name", "text", "layout", "clips", "rejects", "unused"),
    [
        (
            "vggsound.csv",
            VGGSOUND,
            "vggsound",
            [
                ("---g-f_I2yQ", "people marching", "test", (1, 11), "---g-f_I2yQ"),
                ("--0PQM4-hqg", "waterfall burbling", "train", (30, 40), "--0PQM4-hqg"),
                ("-0jeONf82dE", "bird chirping, tweeting", "train", (21, 31), "-0jeONf82dE"),
            ],
            {},
            None,
        ),
        (
            "commented.csv",
            "# YouTube ID, start seconds, label, train/test split\n" + VGGSOUND[:35],
            "vggsound",
            [("---g-f_I2yQ", "people marching", "test", (1, 11), "---g-f_I2yQ")],
            {},
            None,
        ),
        (
            "named.csv",
            "youtube_id,start_seconds,label,split,category\n"
            + VGGSOUND[:35].replace("test", "test,x"),
            "vggsound",
            [("---g-f_I2yQ", "people marching", "test", (1, 11), "---g-f_I2yQ")],
            {},
            "the columns category",
        ),
        (
            "train.csv",
            KINETICS,
            "kinetics",
            [("---QUuC4vJs", "playing harp", "validate", (84, 94), "---QUuC4vJs")],
            {"-7kbO0v4hag": "no label", "-7kbO0v4hag@117-107": "impossible segment"},
            "the columns is_cc",
        ),
        (
            "esc50.csv",
            ESC50,
            "esc50",
            [
                ("1-100032-A-0.wav", "dog", "", None, "100032"),
                ("1-100032-B-0.wav", "dog", "", None, "100032"),
            ],
            {},
            "the columns fold, target, esc10, take",
        ),
        (
            "Annotations.txt",
            AVE,
            "ave",
            [
                ("RUhOCu3LNXM", "Church bell", "", (0, 10), "RUhOCu3LNXM"),
                ("wRCI9THVlQc", "Male speech, man speaking", "", (2, 9), "wRCI9THVlQc"),
            ],
            {},
            "the columns Quality",
        ),
        (
            "valSet.txt",
            AVE.partition("\n")[2],
            "ave",
            [
                ("RUhOCu3LNXM", "Church bell", "val", (0, 10), "RUhOCu3LNXM"),
                ("wRCI9THVlQc", "Male speech, man speaking", "val", (2, 9), "wRCI9THVlQc"),
            ],
            {},
            "the columns Quality",
        ),
        (
            "trainlist01.txt",
            UCF101,
            "ucf101",
            [
                (
                    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
                    "ApplyEyeMakeup",
                    "train",
                    None,
                    "",
                ),
                (
                    "HandstandPushups/v_HandStandPushups_g08_c01.avi",
                    *("HandstandPushups", "train", None, ""),
                ),
            ],
            {},
            None,
        ),
        (
            "testlist01.txt",
            UCF101_TEST,
            "ucf101",
            [("Archery/v_Archery_g01_c01.avi", "Archery", "test", None, "")],
            {},
            None,
        ),
        (
            "activity_net.json",
            json.dumps({"database": DATABASE, "taxonomy": [], "version": "1.3"}),
            "activitynet",
            [("a", "Dog", "training", (0, 1), "")],
            {},
            "the keys taxonomy, version",
        ),
        (
            "kinetics.json",
            json.dumps(KINETICS_JSON),
            "activitynet",
            [("---QUuC4vJs", "playing harp", "validate", (84, 94), "---QUuC4vJs")],
            {},
            "the keys duration, url",
        ),
    ],
)
def test_each_layout(tmp_path, name, text, layout, clips, rejects, unused):
    path = written(tmp_path / name, "\ufeff" + text)
    assert layout_of(path) == layout
    found = read_published([path], layout)
    assert [said(listed) for listed in found.clips] == clips
    assert {reject.id: reject.reason for reject in found.rejects} == rejects
    assert found.remarks == ([f"{path}: not used are {unused}"] if unused else [])


def test_clips_of_kinetics_may_lie_in_files_of_their_own(tmp_path):
    for content, are_cut in ((KINETICS_JSON, True), ({"database": DATABASE}, False)):
        path = written(tmp_path / "a.json", json.dumps(content))
        assert {c.cut_names for c in read_published([path], "activitynet").clips} == {are_cut}


def test_tables_of_ones_own_are_not_taken_for_others(tmp_path):
    for text in ("file,class\na.mp4,dog", "File;Class;Part\na.mp4;dog;train", "x,y\n1,2", ""):
        assert layout_of(written(tmp_path / "labels.csv", text)) == OWN
    assert layout_of(tmp_path / "gone.csv") == OWN


def test_a_table_with_the_marks_of_two_layouts_is_refused(tmp_path):
    columns = "file,class,youtube_id,time_start,label,time_end,split"
    path = written(tmp_path / "both.csv", f"{columns}\na.mp4,dog,x,1,dog,2,train")
    with pytest.raises(TCAFError, match="laid out as kinetics or own; say which it is with --lay"):
        layout_of(path)
    found = read_published([path], "kinetics")
    assert found.remarks == [f"{path}: not used are the columns file, class"]


@pytest.mark.parametrize(
    ("name", "text", "layout", "told"),
    [
        (
            "a.csv",
            "label,youtube_id\n1,2",
            "kinetics",
            "expected the columns label, youtube_id, ti",
        ),
        ("a.csv", "ID,x\n", "vggsound", "expected 4 cells as there are column names, found 2"),
        ("list01.txt", UCF101, "ucf101", "expected train or test at the beginning of the list's"),
        ("train.txt", "a/b.avi 1\nc/b.avi 1", "ucf101", "line 2: the class 'c' has the number 1, "),
        ("train.txt", "b.avi", "ucf101", r"line 1: expected Class/v_Class_g01_c01.avi, found 'b"),
        ("train.txt", "", "ucf101", "expected clips laid out as ucf101, found none"),
        ("a.txt", "Category&VideoID\nx&y", "ave", "expected the columns Category, VideoID, Start"),
        ("a.json", "[", "activitynet", "damaged"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, text, layout, told):
    path = written(tmp_path / name, text)
    with pytest.raises(TCAFError, match=told) as caught:
        read_published([path], layout)
    assert str(path) in str(caught.value)


def test_a_list_of_numbered_classes_is_none_of_clips(tmp_path):
    path = written(tmp_path / "classInd.txt", "1 ApplyEyeMakeup\n2 ApplyLipstick\n")
    with pytest.raises(TCAFError, match=r"numbers classes and names no clip; .* trainlist01\.txt"):
        layout_of(path)


def test_every_layout_has_an_example_of_its_own(tmp_path):
    assert len({layout.example for layout in LAYOUTS.values()}) == len(LAYOUTS)
