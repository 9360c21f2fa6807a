"""Tables of random partitions, of runs that are written by hand."""

import csv
import io

import pytest
from test_results import HM, MARGINS, markdown_table, write_run

from tcaf.experiments.reproduce import RowResult
from tcaf.experiments.tables import Row
from tcaf.reports.partitions import over_partitions, partitions_csv, partitions_markdown
from tcaf.reports.results import summarise

FIRST, SECOND = Row("first", "First"), Row("second", "Second")


@pytest.fixture
def rows(tmp_path):
    """Two partitions; the second row is worse on one of them and has no run on the other."""
    worse = MARGINS.copy()
    worse[0] = 0  # a cat is lost to the owls
    runs = [write_run(tmp_path / name, margins) for name, margins in (("a", MARGINS), ("b", worse))]
    return {
        1: [
            RowResult(SECOND, tmp_path, {0: runs[1]}, {}),
            RowResult(FIRST, tmp_path, {0: runs[0]}, {}),
        ],
        2: [
            RowResult(SECOND, tmp_path, {}, {0: "it diverged"}),
            RowResult(FIRST, tmp_path, {0: runs[1]}, {}),
        ],
    }


def test_means_are_over_the_partitions_that_are_done(rows):
    found = {number: summarise(own, "") for number, own in rows.items()}
    scores = over_partitions(found)
    assert [row.model for row in scores] == ["first", "second"]
    low = found[1][0].means["harmonic_mean"]
    assert low < HM
    assert scores[0].means["harmonic_mean"] == pytest.approx((HM + low) / 2)
    assert scores[0].stds["harmonic_mean"] == pytest.approx((HM - low) / 2**0.5)
    assert scores[1].means["harmonic_mean"] == pytest.approx(low)
    lines = list(csv.DictReader(io.StringIO(partitions_csv(found))))
    assert [(line["model"], line["partition"], line["error"]) for line in lines] == [
        ("second", "1", ""),
        ("first", "1", ""),
        ("second", "2", "seed 0: it diverged"),
        ("first", "2", ""),
    ]
    assert float(lines[1]["harmonic_mean"]) == pytest.approx(HM, abs=1e-6)
    assert lines[2]["harmonic_mean"] == ""


def test_the_page(rows, tiny_store):
    found = {number: summarise(own, "") for number, own in rows.items()}
    command = ["tcaf", "reproduce", "--partitions", "2"]
    page = partitions_markdown(tiny_store, "cls", rows, found, over_partitions(found), command)
    cells = markdown_table(page, "Model")
    assert [row[0] for row in cells] == ["Model", "First", "Second"]
    assert cells[1][7] == f"{100 * HM:.2f}"
    assert cells[2][3] == cells[2][6] == cells[2][7] == cells[1][6]
    apart = 100 * (HM - found[1][0].means["harmonic_mean"])
    assert f"First less Second, HM on the same partition: {apart:.2f}, ahead on 1 of 1." in page
    assert "- Second, partition 2, seed 0: it diverged" in page
    assert "    tcaf reproduce --partitions 2" in page
