"""An answer as HTML: order, marks, numbers, what is apart, files; names that would be tags."""

import csv
import json
import re

import pytest

from tcaf.app.page_answer import (
    _ordinal,
    answer_html,
    as_files,
    empty_html,
    files_html,
    percent,
    problem_html,
    provenance_html,
)

HOSTILE = '<img src=x onerror="alert(1)">'


def answer(name, probability=0.5, distance=1.0, seen=True, **more):
    return {"rank": 1, "class": name, "probability": probability, "distance": distance} | {
        "seen": seen,
        **more,
    }


def prediction(*answers, **more):
    return {"id": "clip.mp4", "answers": list(answers), **more}


def text(html):
    return " ".join(re.sub("<[^>]+>", " ", html).split())


def test_the_best_name_stands_first_with_its_mark():
    html = answer_html(prediction(answer("cat", 0.75, seen=False), answer("dog", 0.25)))
    assert text(html).startswith("cat unseen 75.0 % among the names given cat unseen 75.0 %")
    assert 'class="unseen" style="width:75.0%"' in html
    assert 'class="seen" style="width:25.0%"' in html
    assert "seen: the model was trained on it · unseen: known by its name alone" in html


def test_of_one_kind_the_other_is_not_explained():
    assert "known by its name" not in answer_html(prediction(answer("cat")))


def test_none_of_these():
    html = answer_html(prediction(answer("cat"), set=[]))
    assert text(html).startswith("None of these")
    assert "the nearest is cat" in html
    told = text(answer_html(prediction(answer("cat"), answer("dog"), set=["cat", "dog"])))
    assert "2 names are not ruled out" in told
    assert "1 name is not ruled out" in text(answer_html(prediction(answer("cat"), set=["cat"])))


def test_without_probabilities_bars_show_what_is_near():
    html = answer_html(prediction(answer("cat", None, 1.0), answer("dog", None, 3.0)))
    assert "distance 1.000" in html
    # From the nearest, 1, to the farthest, 1 - 0.9.
    assert re.findall(r"width:([\d.]+)%", html) == ["100.0", "10.0"]
    assert "%" not in text(html)


def test_sound_and_picture_apart():
    alone = {
        "audio": {"distance": 0.5, "rank": 2},
        "visual": {"distance": 0.25, "rank": 11},
    }
    told = text(answer_html(prediction(answer("cat", alone=alone))))
    assert "class sound alone picture alone cat 2nd 0.500 11th 0.250" in told
    # A clip without one of them has nothing apart.
    assert "apart" not in answer_html(prediction(answer("cat", alone={})))


def test_the_nearest_classes_of_the_training():
    near = [{"class": "lion", "distance": 0.5}]
    told = answer_html(prediction(answer("cat"), nearest_training=near))
    assert "Nearest classes of the training: lion (0.500)" in told


def test_names_are_no_html():
    near = [{"class": HOSTILE, "distance": 0.5}]
    alone = {m: {"distance": 1.0, "rank": 1} for m in ("audio", "visual")}
    html = answer_html(
        prediction(answer(HOSTILE, alone=alone), nearest_training=near, set=[]), [HOSTILE]
    )
    html += problem_html(HOSTILE, HOSTILE) + empty_html(HOSTILE)
    html += provenance_html({HOSTILE: HOSTILE}) + files_html({HOSTILE: (HOSTILE, HOSTILE)})
    assert "<img" not in html
    assert "&lt;img" in html
    assert 'onerror="' not in html


def test_names_do_not_turn_the_text_around():
    assert "‮" not in answer_html(prediction(answer("gnp‮.mp4")))


@pytest.mark.parametrize(
    ("probability", "told"),
    [(0.0, "0.0 %"), (1e-9, "&lt; 0.1 %"), (0.001, "0.1 %"), (0.5, "50.0 %"), (1.0, "100.0 %")],
)
def test_percent(probability, told):
    assert percent(probability) == told


@pytest.mark.parametrize(
    ("rank", "told"),
    [
        *((1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th")),
        *((13, "13th"), (21, "21st"), (111, "111th"), (122, "122nd")),
    ],
)
def test_ordinals(rank, told):
    assert _ordinal(rank) == told


def test_files_hold_what_a_command_prints():
    value = {"gamma": 0.5, "predictions": [prediction(answer("café", 0.5), answer("dog", 0.5))]}
    files = as_files(value, "WEBVTT\n", "clip")
    assert {title: name for title, (name, _) in files.items()} == {
        "JSON": "clip.json",
        "CSV": "clip.csv",
        "WebVTT": "clip.vtt",
    }
    assert json.loads(files["JSON"][1]) == value
    rows = list(csv.DictReader(files["CSV"][1].splitlines()))
    assert [row["class"] for row in rows] == ["café", "dog"]
    html = files_html(files)
    places = re.findall(r'data-t-copy="([^"]+)"', html)
    assert places == re.findall(r'<pre id="([^"]+)"', html)
    assert len(set(places)) == 3


def test_what_is_not_known_is_left_out():
    html = provenance_html({"Model": "imagenet", "Temperature": ""})
    assert "<dt>Model</dt><dd>imagenet</dd>" in html
    assert "Temperature" not in html
