"""A table's results as files."""

import csv
import io
import json
import math

import numpy as np
import pytest

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError
from tcaf.evaluation.decisions import ClipDecisions, write_decisions
from tcaf.evaluation.gzsl import Decisions, score
from tcaf.experiments.reproduce import RowResult
from tcaf.experiments.tables import Row, Table, paper_table
from tcaf.reports.results import (
    compare,
    per_class_csv,
    percent,
    summarise,
    table_csv,
    table_markdown,
    write_results,
)
from tcaf.training.run import Run, result_json

CLASSES = ClassSet(("cat, meowing", "dog", "owl"), frozenset({"cat, meowing", "dog"}))
PAPER = {"ucf_cls": (67.14, 40.83, 50.78, 44.64)}

# Nine clips: four cats, three dogs and two owls (unseen). A clip is called an owl when gamma
# exceeds its margin, and else the nearest seen class.
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
NEAREST = np.array([0, 0, 0, 1, 1, 1, 0, 0, 1])
# At gamma 0.5: three of four cats right, two of three dogs, one of two owls.
MARGINS = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1.0])
CATS, DOGS, OWLS = 3 / 4, 2 / 3, 1 / 2
SEEN = (CATS + DOGS) / 2
HM = 2 * SEEN * OWLS / (SEEN + OWLS)


def write_run(folder, margins=MARGINS, *, gamma=0.5, epoch=3, seconds=13.0, peak_mib=211):
    """Writes what a run of these decisions leaves."""
    folder.mkdir(parents=True)
    decisions = Decisions(LABELS, LABELS < 2, margins, NEAREST, np.full(9, 2), 3)
    ids = tuple(f"clip {i}" for i in range(9))
    write_decisions(folder / "predictions.parquet", ClipDecisions(ids, CLASSES, decisions, gamma))
    files = {
        "result": {
            "test": result_json(score(decisions, gamma=gamma)),
            "choice": {
                "epoch": epoch,
                "gamma": gamma,
                "validation": {"gamma_on_edge": gamma == 2},
            },
        },
        "process": {"seconds": seconds, "peak_mib": peak_mib, "threads": 2},
        "provenance": {
            "commit": "abc123",
            "versions": {"tcaf": "0.1", "torch": "2.6"},
            "gpu": None,
            "threads": 2,
            "cores": 5,
            "cpu": "Abacus",
            "started": "2026-01-02T03:04:05",
            "data": {"kind": "synthetic", "clips": 1234, "fingerprint": "0123456789abcdef"},
        },
    }
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return Run(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two seeds of TCaF, one of two of a row with a bar in its title, and a row without any."""
    folder = tmp_path_factory.mktemp("results")
    # At gamma 0.5 the first cat is lost to the owls: S is (2/4 + 2/3) / 2.
    other = np.array([0, 1, 1, 1, 1, 1, 1, 0, 1.0])
    runs = {
        0: write_run(folder / "a0"),
        1: write_run(folder / "a1", other, epoch=5, seconds=17.0, peak_mib=223),
    }
    first = Row("tcaf", "TCaF", paper=PAPER)
    bar = Row("bar", "a | b", paper={"ucf_cls": (1.0, 2.0, 3.0, 4.0)})
    return [
        RowResult(bar, {1: write_run(folder / "b1", gamma=2.0)}, {0: "it | diverged"}),
        RowResult(Row("none", "None at all"), {}, {0: "no, never", 1: "nor, this"}),
        RowResult(first, runs, {}),
    ]


def parsed(text):
    return {row["model"]: row for row in csv.DictReader(io.StringIO(text))}


def markdown_table(text, head):
    """The cells of the table whose first line begins with these words."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head}"))
    cells = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells.append([c.strip() for c in line.replace("\\|", "BAR").strip("|").split("|")])
    assert len({len(row) for row in cells}) == 1
    assert set(cells[1]) == {"---"}
    return [cells[0], *cells[2:]]


TABLE = Table(1, "systems", ())
COMMAND = ["tcaf", "reproduce", "--set", "text.path=a b"]


def markdown(rows, dataset="synthetic"):
    scores = summarise(rows, dataset)
    comparisons, notes = compare(rows)
    return table_markdown(TABLE, rows, scores, comparisons, COMMAND, notes)


def test_columns_and_fractions(rows):
    table = parsed(table_csv(summarise(rows, "ucf_cls")))
    assert list(table) == ["bar", "none", "tcaf"]
    assert list(table["tcaf"]) == [
        *("model", "seen", "seen_std", "unseen", "unseen_std"),
        *("harmonic_mean", "harmonic_mean_std", "zsl", "zsl_std", "curve_area", "curve_area_std"),
        *("seeds", "error"),
    ]
    other = (2 / 4 + DOGS) / 2
    found = table["tcaf"]
    assert float(found["seen"]) == pytest.approx((SEEN + other) / 2, abs=1e-6)
    # Of two numbers the sample standard deviation is their distance over the root of 2.
    assert float(found["seen_std"]) == pytest.approx((SEEN - other) / math.sqrt(2), abs=1e-6)
    assert (float(found["unseen"]), float(found["unseen_std"])) == (OWLS, 0)
    other_hm = 2 * other * OWLS / (other + OWLS)
    assert float(found["harmonic_mean"]) == pytest.approx((HM + other_hm) / 2, abs=1e-6)
    assert float(found["zsl"]) == 1  # there is no other unseen class
    assert 0 < float(found["curve_area"]) < 1
    assert (found["seeds"], found["error"]) == ("0 1", "")


def test_a_single_seed_has_no_spread(rows):
    found = parsed(table_csv(summarise(rows, "ucf_cls")))["bar"]
    # At gamma 2 all are called owls.
    assert (float(found["seen"]), float(found["unseen"])) == (0, 1)
    assert [value for name, value in found.items() if name.endswith("_std")] == [""] * 5


def test_a_failed_row_is_kept_with_its_reasons(rows):
    table = parsed(table_csv(summarise(rows, "ucf_cls")))
    assert table["bar"]["error"] == "seed 0: it | diverged"
    assert table["none"]["error"] == "seed 0: no, never; seed 1: nor, this"
    assert table["none"]["seeds"] == table["none"]["seen"] == ""
    text = markdown(rows)
    failed = "Failed:\n\n- a | b, seed 0: it | diverged\n- None at all, seed 0: no, never\n"
    assert failed in text
    cells = {row[0]: row for row in markdown_table(text, "Model")}
    assert cells["None at all"][1:5] == ["failed"] * 4
    assert set(cells["None at all"][5:]) == {""}


def test_markdown_of_the_papers_data(rows):
    head, *body = markdown_table(markdown(rows, "ucf_cls"), "Model")
    assert head[:9] == [
        *("Model", "S", "U", "HM", "ZSL", "paper S", "paper U", "paper HM", "paper ZSL"),
    ]
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in body}
    assert cells["TCaF"]["paper HM"] == "50.78"
    assert cells["a BAR b"]["paper S"] == "1.00"
    assert cells["None at all"]["paper S"] == ""


def test_markdown_of_other_data(rows):
    """There the paper's numbers would compare what cannot be compared."""
    text = markdown(rows)
    head, *body = markdown_table(text, "Model")
    assert "paper" not in " ".join(head)
    assert "50.78" not in text
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in body}
    tcaf = cells["TCaF"]
    # (3/4 + 2/3) / 2 and (2/4 + 2/3) / 2: 70.83 and 58.33, whose mean is 64.58, apart by 12.5.
    assert tcaf["S"] == "64.58 ± 8.84"
    assert tcaf["U"] == "50.00 ± 0.00"
    assert (tcaf["gamma"], tcaf["epoch"], tcaf["seeds"]) == ("0.5", "3-5", "0 1")
    assert (tcaf["time a run"], tcaf["memory"]) == ("15 s", "223 MiB")
    assert cells["a BAR b"]["S"] == "0.00"
    assert cells["a BAR b"]["gamma"] == "2 *"
    assert "\\* the first or last gamma of the grid" in text
    assert "\\*" not in markdown(rows[1:])


def test_what_markdown_says_of_its_making(rows):
    text = markdown(rows)
    assert text.startswith("# Table 1: systems\n\n    tcaf reproduce --set 'text.path=a b'\n\n")
    assert "Data: synthetic, 1,234 clips, fingerprint 0123456789ab." in text
    assert " 5 cores of Abacus, 2 threads per run; tcaf 0.1, torch 2.6; commit abc123;" in text
    # 13 + 17 and once more 13 seconds.
    assert "Time of all runs added up: 0:43." in text


def test_comparisons(rows):
    """With the runs of the seeds in common: one of two."""
    ((entry,), notes) = compare(rows)
    assert notes == []
    assert (entry["first"], entry["second"]) == ("TCaF", "a | b")
    other = (2 / 4 + DOGS) / 2
    expected = 2 * other * OWLS / (other + OWLS)  # HM of the other one is 0
    assert entry["harmonic_mean"].difference == pytest.approx(expected)
    # Alone the margins differ, and the first cat's lies among the owls'.
    assert entry["curve_area"].difference < 0
    head, row = markdown_table(markdown(rows), "TCaF less")
    assert head == ["TCaF less", "HM", "95 %", "ahead", "curve area", "95 %", "ahead"]
    assert row[:2] == ["a BAR b", f"{100 * expected:+.2f}"]
    assert 50 < int(row[3].removesuffix(" %")) < 100
    assert " to " in row[2]
    # They have one seed in common.
    assert "over test clips, which tells nothing about other trainings" in markdown(rows)


def test_without_tcaf_nothing_is_compared(rows):
    assert compare(rows[:2]) == ([], [])
    assert compare(rows[1:]) == ([], [])  # no run in common
    assert "less the other" not in markdown(rows[:2])


def test_no_run_at_all(rows):
    """Every row failed: the table says so, and nothing of data or hardware."""
    text = markdown(rows[1:2])
    assert "Data:" not in text
    assert "Failed:" in text
    assert per_class_csv(rows[1:2]) == "model,class,seen,clips,accuracy,accuracy_std\n"


def test_accuracy_by_class(rows):
    lines = list(csv.DictReader(io.StringIO(per_class_csv(rows))))
    found = {(line["model"], line["class"]): line for line in lines}
    assert [line["class"] for line in lines] == ["cat, meowing", "dog", "owl"] * 2
    cats = found["tcaf", "cat, meowing"]
    assert (cats["seen"], cats["clips"]) == ("true", "4")
    assert float(cats["accuracy"]) == (3 / 4 + 2 / 4) / 2
    assert float(cats["accuracy_std"]) == pytest.approx((1 / 4) / math.sqrt(2), abs=1e-6)
    owls = found["bar", "owl"]
    assert (owls["seen"], owls["clips"], float(owls["accuracy"])) == ("false", "2", 1)
    assert owls["accuracy_std"] == ""


def test_percent():
    assert percent(0.12345) == "12.35"
    assert percent(0.5, 0.01) == "50.00 ± 1.00"
    assert percent(math.nan, math.nan) == ""


def test_rows_as_json(rows):
    values = [row.to_json() for row in summarise(rows, "ucf_cls")]
    text = json.dumps(values, allow_nan=False)
    bar, none, tcaf = json.loads(text)
    assert bar["stds"] == dict.fromkeys(tcaf["stds"])
    assert (none["means"], none["peak_mib"], tcaf["peak_mib"]) == ({}, None, 223)
    assert tcaf["means"]["unseen"] == OWLS
    assert none["errors"] == {"0": "no, never", "1": "nor, this"}


def test_a_run_that_told_no_time(rows, tmp_path):
    run = write_run(tmp_path / "r")
    (tmp_path / "r" / "process.json").unlink()
    (found,) = summarise([RowResult(Row("tcaf", "TCaF"), {0: run}, {})], "synthetic")
    assert found.seconds == ()
    assert math.isnan(found.peak_mib)
    head, row = markdown_table(markdown([RowResult(Row("tcaf", "TCaF"), {0: run}, {})]), "Model")
    assert dict(zip(head, row, strict=True))["memory"] == ""


def test_three_files(rows, tmp_path):
    out = tmp_path / "deep" / "out"
    scores = write_results(out, paper_table(1), rows, "ucf_cls", COMMAND)
    assert sorted(path.name for path in out.iterdir()) == [
        *("per_class.csv", "table.csv", "table.md"),
    ]
    assert (out / "table.csv").read_text() == table_csv(scores)
    assert (out / "per_class.csv").read_text() == per_class_csv(rows)
    assert "| TCaF | 64.58" in (out / "table.md").read_text()
    # Written once more, it is the same.
    before = (out / "table.md").read_text()
    write_results(out, paper_table(1), rows, "ucf_cls", COMMAND)
    assert (out / "table.md").read_text() == before


def test_a_folder_that_cannot_be_made(rows, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TCAFError, match=r"cannot write results to .*file"):
        write_results(tmp_path / "file" / "out", TABLE, rows, "ucf_cls", COMMAND)
