"""Scores of a run on clips of a store, which may lack a half."""

import json

import pytest

from tcaf import ZeroShotClassifier
from tcaf.commands import entry as cli
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.training.evaluate import evaluate_run
from tcaf.training.run import train


@pytest.fixture(scope="module")
def run(tiny_store, tiny_experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "run"
    train(tiny_experiment(), tiny_store, out)
    return out


@pytest.fixture(scope="module")
def halves(tiny_store, tmp_path_factory):
    """Stores whose test clips are all of seen or all of unseen classes, by that half."""
    folder = tmp_path_factory.mktemp("halves")
    for half in ("seen", "unseen"):
        with new_store(folder / half, tiny_store.spec) as writer:
            for row in tiny_store.rows("cls", f"test_{half}").tolist():
                writer.add(tiny_store[row])
            writer.splits |= tiny_store.splits
    return {half: FeatureStore.open(folder / half) for half in ("seen", "unseen")}


def strict_json(text):
    """Reads JSON, in which there is no NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(("half", "known"), [("seen", ["seen"]), ("unseen", ["unseen", "zsl"])])
def test_what_a_missing_half_leaves(half, known, run, halves, tiny_store, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    whole = evaluate_run(run, tiny_store).to_json()
    command = ["evaluate", str(run), "--store", str(halves[half].path), "--per_class"]
    assert cli.main([*command, "--json"]) == 0
    value = strict_json(capsys.readouterr().out)
    scores = ("seen", "unseen", "harmonic_mean", "zsl", "curve_area")
    assert [name for name in scores if value[name] is not None] == known
    assert {name: value[name] for name in known} == pytest.approx({n: whole[n] for n in known})
    assert {row["seen"] for row in value["per_class"].values()} == {half == "seen"}
    assert cli.main(command) == 0
    output = capsys.readouterr().out
    (row,) = [line for line in output.splitlines() if line.startswith("│ test")]
    assert [cell.strip() == "-" for cell in row.split("│")[3:7]] == [
        name not in known for name in scores[:4]
    ]
    assert "seen-unseen curve -" in output
    assert "nan" not in output


@pytest.mark.parametrize(("half", "missing"), [("seen", "unseen"), ("unseen", "seen")])
def test_gamma_is_not_searched_on_one_half(half, missing, run, halves):
    with pytest.raises(TCAFError, match=f"and there are none of {missing} ones"):
        evaluate_run(run, halves[half], search_gamma=True)


@pytest.mark.parametrize("half", ["seen", "unseen"])
def test_clips_of_one_half_are_answered(half, run, halves, tiny_store, capsys):
    command = ["predict", str(run), "test", "--store", str(halves[half].path), "--json"]
    assert cli.main(command) == 0
    value = strict_json(capsys.readouterr().out)
    rows = tiny_store.rows("cls", f"test_{half}")
    expected = ZeroShotClassifier.load(run).classify_store(tiny_store, rows)
    assert value["predictions"] == [ranking.to_json() for ranking in expected]


def test_a_part_without_clips_is_an_error(run, halves):
    with pytest.raises(TCAFError, match="has no clips in this part"):
        evaluate_run(run, halves["seen"], part="val")
