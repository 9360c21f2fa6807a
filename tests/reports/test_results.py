"""A table's results as files."""

import csv
import io
import json
import math

import numpy as np
import pytest

from run_contents import PROVENANCE, RESULT, SCORES
from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError
from tcaf.evaluation.decisions import ClipDecisions, write_decisions
from tcaf.evaluation.gzsl import Decisions, score
from tcaf.experiments.reproduce import RowResult
from tcaf.experiments.tables import Row, Table, paper_table
from tcaf.reports.results import (
    RowsLostWarning,
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


def write_run(
    folder, margins=MARGINS, *, clips=slice(9), gamma=0.5, epoch=3, seconds=13.0, peak_mib=211
):
    """Writes what a run of these decisions leaves, about these of the clips."""
    folder.mkdir(parents=True)
    labels, unseen = LABELS[clips], np.full(9, 2)[clips]
    decisions = Decisions(labels, labels < 2, margins[clips], NEAREST[clips], unseen, 3)
    ids = tuple(f"clip {i}" for i in range(9)[clips])
    write_decisions(folder / "predictions.parquet", ClipDecisions(ids, CLASSES, decisions, gamma))
    files = {
        "result": {
            **RESULT,
            "test": result_json(score(decisions, gamma=gamma)),
            "choice": {
                "epoch": epoch,
                "gamma": gamma,
                "validation": {**SCORES, "gamma_on_edge": gamma == 2},
            },
        },
        "process": {"seconds": seconds, "peak_mib": peak_mib, "threads": 2},
        "provenance": PROVENANCE,
    }
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return Run(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two seeds of TCaF, one of two of a row with a bar in its title, and a row without any."""
    folder = tmp_path_factory.mktemp("results")
    bars, tcafs = folder / "bar-b", folder / "tcaf-a"
    # At gamma 0.5 the first cat is lost to the owls: S is (2/4 + 2/3) / 2.
    other = np.array([0, 1, 1, 1, 1, 1, 1, 0, 1.0])
    runs = {
        0: write_run(tcafs / "seed_0"),
        1: write_run(tcafs / "seed_1", other, epoch=5, seconds=17.0, peak_mib=223),
    }
    first = Row("tcaf", "TCaF", paper=PAPER)
    bar = Row("bar", "a | b", paper={"ucf_cls": (1.0, 2.0, 3.0, 4.0)})
    return [
        RowResult(bar, bars, {1: write_run(bars / "seed_1", gamma=2.0)}, {0: "it | diverged"}),
        RowResult(Row("none", "None at all"), folder / "n", {}, {0: "no, never", 1: "nor, this"}),
        RowResult(first, tcafs, runs, {}),
    ]


def parsed(text):
    return {row["model"]: row for row in csv.DictReader(io.StringIO(text))}


def parsed_by_class(text):
    return [row["class"] for row in csv.DictReader(io.StringIO(text))]


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
COMMAND = ["tcaf", "reproduce", "--text.path", "a b"]
COMMANDS = ["tcaf reproduce --text.path 'a b'"]


def markdown(rows, dataset="synthetic"):
    scores = summarise(rows, dataset)
    comparisons, notes = compare(rows)
    return table_markdown(TABLE, rows, scores, comparisons, COMMANDS, notes)


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
    assert text.startswith("# Table 1: systems\n\n    tcaf reproduce --text.path 'a b'\n\n")
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
    assert "over test clips, which says nothing about other trainings" in markdown(rows)


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


SEEN_CLIPS, UNSEEN_CLIPS = slice(7), slice(7, 9)


@pytest.mark.parametrize(
    ("clips", "known"), [(SEEN_CLIPS, {"seen": SEEN}), (UNSEEN_CLIPS, {"unseen": OWLS, "zsl": 1})]
)
def test_a_half_without_clips(tmp_path, clips, known):
    """Scores without meaning are no number anywhere, and no zero."""
    found = []
    for name in ("tcaf", "bar"):
        runs = {s: write_run(tmp_path / name / f"seed_{s}", clips=clips) for s in (0, 1)}
        found.append(RowResult(Row(name, name.upper(), paper=PAPER), tmp_path / name, runs, {}))
    out = tmp_path / "out"
    scores = write_results(out, TABLE, found, "ucf_cls", COMMAND)
    names = ["seen", "unseen", "harmonic_mean", "zsl", "curve_area"]
    text = (out / "table.md").read_text()
    head, *body = markdown_table(text, "Model")
    for cells in body:
        shown = dict(zip(head, cells, strict=True))
        assert [shown[name] for name in ("S", "U", "HM", "ZSL", "curve area")] == [
            f"{100 * known[name]:.2f} ± 0.00" if name in known else "-" for name in names
        ]
    for row in parsed((out / "table.csv").read_text()).values():
        assert [row[name] for name in names] == [
            f"{known[name]:.6f}" if name in known else "" for name in names
        ]
        assert [row[f"{name}_std"] for name in names] == [
            "0.000000" if name in known else "" for name in names
        ]
    for row in json.loads(json.dumps([row.to_json() for row in scores], allow_nan=False)):
        assert {name for name, value in row["means"].items() if value is not None} == set(known)
        assert {name for name, value in row["stds"].items() if value is not None} == set(known)
    # Neither HM nor the area can be compared, and why is said.
    half = "unseen" if clips == SEEN_CLIPS else "seen"
    why = f"harmonic_mean needs clips of {half} classes, and there are none"
    assert f"Not compared with BAR: {why}." in text
    classes = parsed_by_class((out / "per_class.csv").read_text())
    assert (
        classes
        == [
            label
            for label in ("cat, meowing", "dog", "owl")
            if (label == "owl") == (clips == UNSEEN_CLIPS)
        ]
        * 2
    )


def test_one_row_has_a_half_that_the_other_has_not(tmp_path):
    rows = []
    for name, clips in (("tcaf", slice(9)), ("bar", SEEN_CLIPS)):
        runs = {0: write_run(tmp_path / name / "seed_0", clips=clips)}
        rows.append(RowResult(Row(name, name.upper()), tmp_path / name, runs, {}))
    for order in (rows, rows[::-1]):
        text = markdown(order)
        cells = {row[0]: row[1:5] for row in markdown_table(text, "Model")[1:]}
        assert cells["BAR"] == ["70.83", "-", "-", "-"]
        assert "-" not in cells["TCAF"]
        assert compare(order)[0] == []
        assert compare(order)[1][0].startswith("BAR: runs must have the same test clips;")


def test_a_seed_without_a_half(tmp_path):
    """A mean over seeds of which one has no number has none: of fewer seeds it would be another."""
    runs = {
        seed: write_run(tmp_path / f"seed_{seed}", clips=clips)
        for seed, clips in ((0, slice(9)), (1, SEEN_CLIPS))
    }
    (found,) = summarise([RowResult(Row("tcaf", "TCaF"), tmp_path, runs, {})], "synthetic")
    assert found.means["seen"] == pytest.approx(SEEN)
    assert all(math.isnan(found.means[name]) for name in ("unseen", "harmonic_mean", "zsl"))


def test_percent():
    assert percent(0.12345) == "12.35"
    assert percent(0.5, 0.01) == "50.00 ± 1.00"
    assert percent(math.nan, math.nan) == "-"


def test_rows_as_json(rows):
    values = [row.to_json() for row in summarise(rows, "ucf_cls")]
    text = json.dumps(values, allow_nan=False)
    bar, none, tcaf = json.loads(text)
    assert bar["stds"] == dict.fromkeys(tcaf["stds"])
    assert (none["means"], none["peak_mib"], tcaf["peak_mib"]) == ({}, None, 223)
    assert tcaf["means"]["unseen"] == OWLS
    assert none["errors"] == {"0": "no, never", "1": "nor, this"}


def test_a_run_without_its_time(rows, tmp_path):
    run = write_run(tmp_path / "r")
    (tmp_path / "r" / "process.json").unlink()
    row = RowResult(Row("tcaf", "TCaF"), tmp_path, {0: run}, {})
    (found,) = summarise([row], "synthetic")
    assert found.seconds == ()
    assert math.isnan(found.peak_mib)
    head, cells = markdown_table(markdown([row]), "Model")
    assert dict(zip(head, cells, strict=True))["memory"] == ""


def test_the_files(rows, tmp_path):
    out = tmp_path / "deep" / "out"
    scores = write_results(out, paper_table(1), rows, "ucf_cls", COMMAND)
    assert sorted(path.name for path in out.iterdir()) == [
        *("per_class.csv", "rows.json", "table.csv", "table.md"),
    ]
    assert (out / "table.csv").read_text() == table_csv(scores)
    bar, none, tcaf = rows
    # TCaF is a row of the table, the others come after it.
    assert (out / "per_class.csv").read_text() == per_class_csv([tcaf, bar, none])
    assert "| TCaF | 64.58" in (out / "table.md").read_text()
    # Written once more, it is the same.
    before = (out / "table.md").read_text()
    write_results(out, paper_table(1), rows, "ucf_cls", COMMAND)
    assert (out / "table.md").read_text() == before


def test_two_calls_give_one_table(rows, tmp_path):
    """A row at a time, each with its own command."""
    bar, _, tcaf = rows
    write_results(tmp_path, paper_table(1), [bar], "ucf_cls", ["tcaf", "reproduce", "bar"])
    assert "Kept" not in (tmp_path / "table.md").read_text()
    scores = write_results(tmp_path, paper_table(1), [tcaf], "ucf_cls", ["tcaf", "reproduce"])
    assert [row.model for row in scores] == ["tcaf", "bar"]
    text = (tmp_path / "table.md").read_text()
    assert "\n    tcaf reproduce\n    tcaf reproduce bar\n" in text
    assert "\nKept from earlier calls: a | b (seed 0, 1).\n" in text
    # With the failure of the other seed, and compared.
    assert "- a | b, seed 0: it | diverged" in text
    assert markdown_table(text, "TCaF less")[1][0] == "a BAR b"
    assert list(parsed((tmp_path / "table.csv").read_text())) == ["tcaf", "bar"]
    assert list(parsed((tmp_path / "per_class.csv").read_text())) == ["tcaf", "bar"]


def test_a_row_that_is_gone_is_named(rows, tmp_path):
    run = write_run(tmp_path / "runs" / "bar-c" / "seed_5")
    bar = RowResult(Row("bar", "Bar"), run.path.parent, {5: run}, {})
    write_results(tmp_path, paper_table(1), [bar], "ucf_cls", COMMAND)
    (run.path / "result.json").unlink()
    lost = "No longer in this table: Bar, seed 5: its run is no longer there."
    with pytest.warns(RowsLostWarning, match=lost):
        scores = write_results(tmp_path, paper_table(1), rows[2:], "ucf_cls", COMMAND)
    assert [row.model for row in scores] == ["tcaf"]
    assert f"\n{lost}\n" in (tmp_path / "table.md").read_text()


def test_a_folder_that_cannot_be_made(rows, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TCAFError, match=r"cannot make .*table\.md: .*file is no folder"):
        write_results(tmp_path / "file" / "out", TABLE, rows, "ucf_cls", COMMAND)
