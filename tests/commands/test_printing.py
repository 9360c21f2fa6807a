"""The tables that commands print."""

import json
from pathlib import Path

from tcaf.commands import printing
from tcaf.commands.printing_answers import print_answers

STORE = {
    "path": "world",
    "clips": 12345,
    "classes": 17,
    "dtype": "float16",
    "shards": 2,
    "bytes": 3 * 2**20,
    "spec": {
        "audio_dim": 128,
        "visual_dim": 1024,
        "audio_step_s": 0.96,
        "visual_step_s": None,
        "audio_backbone": "youtube8m_audio",
        "visual_backbone": "youtube8m_rgb",
    },
    "lengths": {
        "audio": {"tokens": 98765, "shortest": 0, "median": 7.0, "longest": 10, "clips_without": 7},
        "visual": {"tokens": 12345, "shortest": 1, "median": 1.0, "longest": 1, "clips_without": 0},
    },
    "splits": {"cls": {"stage_1_train": {"clips": 2317, "classes": 39}}},
    "text": ["word2vec"],
    "phrases": ["name"],
    "left_out": {"no audio features": ["x1", "x2", "x3", "x4", "x5"]},
}


def test_a_store_fits_80_columns_and_says_what_is_missing(printed):
    output = printed(printing.print_store, STORE)
    tables = [line for line in output.splitlines() if line.startswith(("┃", "│"))]
    assert max(map(len, tables)) <= 80
    for expected in (
        *(
            "12,345 clips",
            "17 classes",
            "3.0 MiB",
            "0.96 s",
            "98,765",
            "0 to 10",
            "youtube8m_audio",
        ),
        *("7 clips have no audio token", "2,317", "word2vec"),
    ):
        assert expected in output
    assert "left out 5, no audio features: 'x1', 'x2', 'x3' and 2 more" in output
    assert "no visual token" not in output


SCORES = {"seen": 0.5, "unseen": 0.25, "harmonic_mean": 1 / 3, "zsl": 0.4, "gamma": 0.6}


def test_a_result_shows_percent_and_the_next_step(printed):
    value = {
        "test": {**SCORES, "curve_area": 0.1234},
        "choice": {"epoch": 7, "gamma": 0.6, "validation": {**SCORES, "seen": 0.75}},
        "seconds": 61.2,
        "seed": 3,
    }
    output = printed(printing.print_result, value, Path("run"), Path("world"))
    assert "validation, epoch 7" in output
    assert "75.00" in output
    assert "33.33" in output
    assert "0.1234" in output
    assert "tcaf evaluate run --store world" in output


def test_an_evaluation_lists_seen_classes_first(printed):
    rows = {
        "a unseen": {"seen": False, "clips": 3, "accuracy": 1 / 3},
        "z seen": {"seen": True, "clips": 5, "accuracy": 0.2},
    }
    value = {"part": "test", "clips": 8, **SCORES, "curve_area": 0.5, "per_class": rows}
    output = printed(printing.print_evaluation, value)
    assert output.index("z seen") < output.index("a unseen")
    assert "33.3" in output
    assert "20.0" in output


def test_names_with_brackets_are_printed_as_they_are(printed):
    rows = {"drum [snare]": {"seen": True, "clips": 5, "accuracy": 0.2}}
    value = {"part": "test", "clips": 8, **SCORES, "curve_area": 0.5, "per_class": rows}
    assert "drum [snare]" in printed(printing.print_evaluation, value)
    assert "wor[ld]" in printed(printing.print_store, {**STORE, "path": "wor[ld]"})


ROW = {
    "model": "tcaf",
    "title": "TCaF",
    "means": {
        "seen": 0.5,
        "unseen": 0.25,
        "harmonic_mean": 1 / 3,
        "zsl": 0.4,
        "curve_area": 0.1234,
    },
    "stds": {"seen": 0.01, "unseen": 0.0, "harmonic_mean": 0.002, "zsl": 0.03, "curve_area": 0.1},
    "seeds": (0, 1),
    "errors": {},
    "paper": None,
}
FILES = ["table.md", "table.csv", "per_class.csv"]
FAILED = {
    **ROW,
    "title": "Row [one]",
    "means": {},
    "stds": {},
    "seeds": (),
    "errors": {3: "needs [track]"},
}


def test_a_table_of_the_paper(printed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    output = printed(printing.print_table, [ROW, FAILED], Path("out"), FILES)
    for expected in ("50.00 ± 1.00", "25.00 ± 0.00", "33.33 ± 0.20", "0.123", "0 1", "TCaF"):
        assert expected in output
    assert "paper" not in output
    assert "failed Row [one], seed 3: needs [track]" in output
    assert output.count("Row [one]") == 2
    assert "kept in out: table.md, table.csv, per_class.csv" in output


def test_a_single_seed_shows_no_spread(printed):
    alone = {**ROW, "stds": dict.fromkeys(ROW["stds"])}
    output = printed(printing.print_table, [alone], Path("out"), FILES)
    assert "50.00" in output
    assert "±" not in output


def cells(output, name):
    """Returns the cells of the row that begins with a name."""
    row = next(line for line in output.splitlines() if line.startswith(f"│ {name}"))
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_a_score_without_meaning_is_a_dash(printed):
    row = {**ROW, "means": dict.fromkeys(ROW["means"]), "stds": dict.fromkeys(ROW["stds"])}
    row["means"]["unseen"] = 0.25
    output = printed(printing.print_table, [row], Path("out"), FILES)
    assert cells(output, "TCaF") == ["TCaF", "-", "25.00", "-", "-", "-", "0 1"]


def test_scores_of_one_half_are_dashes(printed):
    half = {**SCORES, "seen": None, "harmonic_mean": None, "curve_area": None}
    evaluated = printed(printing.print_evaluation, {"part": "test", "clips": 8, **half})
    assert cells(evaluated, "test") == ["test", "8", "-", "25.00", "-", "40.00", "0.6"]
    assert "seen-unseen curve -" in evaluated
    choice = {"epoch": 7, "gamma": 0.6, "validation": SCORES}
    value = {"test": half, "choice": choice, "seconds": 61.2, "seed": 3}
    trained = printed(printing.print_result, value, Path("run"), Path("world"))
    assert cells(trained, "test") == ["test", "-", "25.00", "-", "40.00", "0.6"]
    assert "seen-unseen curve -, 61 s" in trained


def test_the_papers_numbers_stand_beside(printed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = [{**ROW, "paper": (67.14, 40.83, 50.78, 44.64)}, ROW]
    output = printed(printing.print_table, rows, Path("out"), FILES)
    assert "paper HM" in output
    assert output.count("50.78") == 1


STEERING = "a\x1b[2J\x07\x9b\u202e\n\udcff"
SHOWN = r"a\x1b[2J\x07\x9b\u202e"


def test_names_do_not_steer_the_terminal(printed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    left_out = {**STORE, "path": STEERING, "left_out": {STEERING: [STEERING]}}
    output = printed(printing.print_store, left_out | {"splits": {STEERING: {}}})
    assert output.count(SHOWN) == 4
    answer = {"rank": 1, "class": STEERING, "probability": 0.5, "distance": 1.0, "seen": True}
    one = {"id": STEERING, "answers": [answer]}
    for clips in ([one], [one, one]):
        output += printed(
            print_answers, {"predictions": clips, "classes": [STEERING], "gamma": 0.0}
        )
    # In a cell a line feed is shown as well: in one and four, beside that of a quoted name.
    assert output.count(SHOWN + r"\n\udcff") == 1 + 1 + 4
    output += printed(printing.print_line, STEERING)
    assert not set(STEERING) & set(output) - set("a[2J\n")


def test_json_is_the_same_value_and_steers_no_terminal(printed):
    output = printed(printing.print_json, {STEERING: ["Köln", STEERING]})
    assert json.loads(output) == {STEERING: ["Köln", STEERING]}
    assert "Köln" in output
    assert not set(STEERING) & set(output) - set("a[2J\n")
