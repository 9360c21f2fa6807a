"""Which rows a folder of results holds after several calls."""

import json
import shutil

import pytest

from run_contents import PROVENANCE, RESULT
from tcaf.errors import TCAFError
from tcaf.experiments.reproduce import RowResult
from tcaf.experiments.rows import merge_rows
from tcaf.experiments.tables import Row, Table
from tcaf.training.run import Run

ROWS = {name: Row(name, name.upper()) for name in ("a", "b", "c")}
TABLE = Table(1, "of letters", tuple(ROWS.values()))


@pytest.fixture
def row(tmp_path):
    """Builds a row of a configuration with runs of these seeds, and reasons why others failed."""

    def build(name, *seeds, version="1", data="data", **errors):
        folder = tmp_path / "out" / "runs" / f"{name}-{version}"
        runs = {}
        for seed in seeds:
            runs[seed] = Run(folder / f"seed_{seed}")
            runs[seed].path.mkdir(parents=True, exist_ok=True)
            (runs[seed].path / "result.json").write_text(json.dumps(RESULT))
            origin = {**PROVENANCE, "data": {**PROVENANCE["data"], "fingerprint": data}}
            (runs[seed].path / "provenance.json").write_text(json.dumps(origin))
        row = ROWS.get(name, Row(name, f"Own {name}"))
        return RowResult(row, folder, runs, {int(s[1:]): text for s, text in errors.items()})

    return build


@pytest.fixture
def merge(tmp_path):
    """Merges rows into the folder `out`."""

    def merge(*rows, table=TABLE, dataset="ucf_cls", command="tcaf"):
        (tmp_path / "out").mkdir(exist_ok=True)
        return merge_rows(tmp_path / "out", table, rows, dataset, [command])

    return merge


def shape(known):
    """Name, seeds done and reasons of each row."""
    return [(row.row.name, list(row.runs), dict(row.errors)) for row in known.rows]


def test_rows_come_together_in_the_order_of_the_table(row, merge):
    first = merge(row("c", 0, 1), command="first")
    assert (shape(first), first.kept, first.lost) == ([("c", [0, 1], {})], (), ())
    second = merge(row("a", 1), row("b", s1="diverged"), command="second")
    assert shape(second) == [("a", [1], {}), ("b", [], {1: "diverged"}), ("c", [0, 1], {})]
    assert second.kept == ("C (seed 0, 1)",)
    assert second.commands == ("second", "first")
    # A failed run is no less remembered than one that is done.
    third = merge(row("c", 0, 1), command="third")
    assert shape(third) == shape(second)
    assert third.kept == ("A (seed 1)", "B (seed 1)")
    assert third.commands == ("second", "third")
    assert third.rows[0].runs[1].result == RESULT


def test_seeds_of_the_same_configuration_come_together(row, merge):
    merge(row("a", 2, 0, s3="killed", s5="killed"), command="first")
    found = merge(row("a", 1, 3), command="second")
    assert shape(found) == [("a", [0, 1, 2, 3], {5: "killed"})]
    assert (found.kept, found.lost) == (("A (seed 0, 2, 5)",), ())
    assert found.commands == ("first", "second")


def test_a_run_that_was_mended_elsewhere_is_done(row, merge):
    merge(row("a", s1="killed"))
    row("a", 1)
    assert shape(merge(row("b", 0))) == [("a", [1], {}), ("b", [0], {})]


def test_another_configuration_replaces(row, merge):
    merge(row("a", 0, 1))
    found = merge(row("a", 0, version="2"))
    assert shape(found) == [("a", [0], {})]
    assert found.rows[0].runs[0].path.parent.name == "a-2"
    assert found.lost == ("A: another configuration, a-1",)


def test_runs_that_are_gone_are_named(row, merge, tmp_path):
    merge(row("a", 0, 1), row("b", 0))
    (tmp_path / "out" / "runs" / "a-1" / "seed_1" / "result.json").unlink()
    shutil.rmtree(tmp_path / "out" / "runs" / "b-1")
    found = merge(row("c", 0))
    assert shape(found) == [("a", [0], {}), ("c", [0], {})]
    assert found.lost == tuple(
        f"{name}: its run is no longer there" for name in ("A, seed 1", "B, seed 0")
    )


@pytest.mark.parametrize(
    ("changes", "version", "why"),
    [
        ({"table": Table(2, "", TABLE.rows)}, "data", "a row of Table 1"),
        ({"dataset": "ucf_main"}, "data", "on other data"),
        ({}, "other", "on other data"),
    ],
)
def test_rows_that_cannot_stand_in_one_table(row, merge, changes, version, why):
    merge(row("a", 0))
    found = merge(row("b", 0, data=version), **changes)
    assert shape(found) == [("b", [0], {})]
    assert found.lost == (f"A: {why}",)


def test_without_a_run_the_data_is_known_by_its_name(row, merge):
    merge(row("a", 0))
    assert [name for name, *_ in shape(merge(row("b", s0="killed")))] == ["a", "b"]
    # Nor is its fingerprint forgotten.
    found = merge(row("c", 0, data="other"))
    assert found.lost == ("A: on other data", "B: on other data")


def test_a_system_of_ones_own_stays_without_its_plugin(row, merge):
    merge(row("mine", 0))
    found = merge(row("a", 0))
    assert [(r.row.name, r.row.title) for r in found.rows] == [("a", "A"), ("mine", "Own mine")]


def test_results_may_be_moved(row, merge, tmp_path):
    merge(row("a", 0))
    (tmp_path / "out").rename(tmp_path / "moved")
    found = merge_rows(tmp_path / "moved", TABLE, [], "ucf_cls", ["tcaf"])
    assert found.rows[0].runs[0].path == (tmp_path / "moved/runs/a-1/seed_0").resolve()
    assert found.lost == ()


@pytest.mark.parametrize("text", ["{", "[]", '{"table": 1, "data": [], "rows": [3]}'])
def test_a_damaged_file(row, merge, tmp_path, text):
    merge(row("a", 0))
    (tmp_path / "out" / "rows.json").write_text(text)
    with pytest.raises(TCAFError, match=r"expected the rows of a table at .*rows\.json, found"):
        merge(row("b", 0))
