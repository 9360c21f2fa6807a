"""Answers as tables, as lines and as CSV."""

import io

import pytest

from tcaf.commands import printing_answers
from tcaf.commands.lines import AnswersCsv
from tcaf.commands.printing_answers import print_answers


def predictions(clips=1, probability=0.625, gamma=0.4):
    answers = [
        {"rank": 1, "class": "ant [x]", "probability": probability, "distance": 1.5, "seen": False},
        {"rank": 2, "class": "bee", "probability": probability, "distance": 1.25, "seen": True},
    ]
    return {
        "classes": ["ant [x]", "bee", "cat"],
        "gamma": gamma,
        "predictions": [{"id": f"clip [{n}]", "answers": answers} for n in range(clips)],
        "failed": {},
    }


def test_predictions_of_one_clip(printed):
    output = printed(print_answers, predictions())
    assert output.splitlines()[0] == "clip [0]"
    for expected in ("ant [x]", "bee", "62.5 %", "1.500", "1.250", "unseen"):
        assert expected in output
    told = "of 3 classes, if one of them is right; ranked with +0.4 on the distances of seen"
    assert told in output.replace("\n", " ")
    bare = printed(print_answers, predictions(probability=None, gamma=0.0))
    assert "%" not in bare
    assert "if one of them is right" not in bare
    assert "ranked" not in bare


def test_predictions_of_several_clips_are_a_line_each(printed):
    output = printed(print_answers, predictions(clips=3))
    assert all(f"clip [{n}]" in output for n in range(3))
    assert "bee" not in output
    assert "--json or --csv" in output
    assert printed(print_answers, predictions(clips=0)) == ""


def test_predictions_of_very_many_clips_are_lines_with_tabs(printed, monkeypatch):
    monkeypatch.setattr(printing_answers, "LONG", 3)
    value = predictions(clips=3)
    value["predictions"][1]["id"] = "a\tb\nc\x1b"
    first, *rows, told = printed(print_answers, value).splitlines()
    assert first == "clip\tclass\tprobability\tdistance\tin training"
    assert rows[0] == "clip [0]\tant [x]\t62.5 %\t1.500\tunseen"
    assert rows[1].split("\t")[0] == r"a\tb\nc\x1b"
    assert len(rows) == 3
    assert "of 3 classes" in told


def test_predictions_as_csv(printed):
    table = AnswersCsv()
    assert printed(table.print_header) == "file,rank,class,probability,distance,seen\n"
    clip = predictions(probability=None)["predictions"][0]
    assert printed(table.print_clip, clip) == (
        "clip [0],1,ant [x],,1.5,False\nclip [0],2,bee,,1.25,True\n"
    )


@pytest.mark.parametrize("is_terminal", [True, False])
def test_csv_is_raw_but_for_a_terminal(monkeypatch, is_terminal):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stdout", stream)
    answer = {"rank": 1, "class": "=1+1", "probability": 0.5, "distance": 1.0, "seen": True}
    AnswersCsv().print_clip({"id": "-\x1b\udcff", "answers": [answer]})
    name = r"-\x1b\udcff" if is_terminal else "-\x1b\\xff"
    assert stream.getvalue() == f"{name},1,=1+1,0.5,1.0,True\n"
