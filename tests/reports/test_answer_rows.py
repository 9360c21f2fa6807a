import csv

from tcaf.reports.answer_rows import columns, rows, to_csv


def answer(name, rank, **more):
    return {"rank": rank, "class": name, "probability": 0.5, "distance": 1.0, "seen": True, **more}


def test_columns_follow_what_was_asked():
    value = {"id": "a.mp4", "answers": [answer("cat", 1), answer("dog", 2)]}
    assert to_csv([value]) == (
        "file,rank,class,probability,distance,seen\n"
        "a.mp4,1,cat,0.5,1.0,True\na.mp4,2,dog,0.5,1.0,True\n"
    )
    sets = {**value, "set": ["dog"]}
    assert next(rows(sets, columns(sets=True, reasons=False)))[-2:] == [False, 1]


def test_reasons():
    alone = {"visual": {"distance": 0.25, "rank": 3}}
    value = {
        "id": "a.mp4",
        "answers": [answer("cat", 1, alone=alone)],
        "nearest_training": [{"class": "lion", "distance": 0.75}],
    }
    (row,) = csv.DictReader(to_csv([value]).splitlines())
    assert (row["visual_rank"], row["visual_distance"]) == ("3", "0.25")
    assert (row["audio_rank"], row["nearest_training"]) == ("", "lion")


def test_names_that_are_no_text_can_be_written():
    text = to_csv([{"id": "\udcff.mp4", "answers": [answer("cat", 1)]}])
    assert "\\xff.mp4" in text.encode().decode()


def test_no_clip_has_no_columns():
    assert to_csv([]) == ""
