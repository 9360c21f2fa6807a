"""The table of test clips answered together, of real runs."""

from dataclasses import replace

import pytest

from tcaf.commands import entry as cli
from tcaf.experiments.reproduce import RowResult
from tcaf.experiments.tables import Row
from tcaf.reports.transductive import together_markdown
from tcaf.settings.sections import TextSettings
from tcaf.training.evaluate import evaluate_run
from tcaf.training.run import Run, train


@pytest.mark.slow
def test_runs_that_can_and_runs_that_cannot(tiny_store, tiny_experiment, tmp_path):
    text = TextSettings(source="stored", name="attributes")
    for system, options in (("textlda", {"time": "off"}), ("ridge", {})):
        made = replace(tiny_experiment(), system=system, text=text, options=options)
        train(made, tiny_store, tmp_path / system)
    titles = {"ridge": "Ridge", "textlda": "TextLDA"}
    rows = [
        RowResult(Row(system, title, system), tmp_path, {0: Run(tmp_path / system)}, {})
        for system, title in titles.items()
    ]
    written = together_markdown(rows, tiny_store, ["tcaf", "reproduce"])
    found = evaluate_run(tmp_path / "textlda", tiny_store, together=True)
    alone = rows[1].runs[0].result["test"]["harmonic_mean"]
    result = found.result
    numbers = [result.seen, result.unseen, result.harmonic_mean, result.zsl, alone]
    shown = " | ".join(f"{100 * number:.2f}" for number in numbers)
    assert f"| TextLDA | {shown} | {found.clips} | {result.gamma:g} | 0 |" in written
    assert "Without a way to answer so: Ridge." in written
    assert "| Ridge |" not in written
    only = together_markdown(rows[:1], tiny_store, ["tcaf"])
    assert "|---" not in only


def test_partitions_have_no_test_clips(tiny_store, tmp_path, capsys):
    given = ("--table", "1", "--store", tiny_store.path, "--partitions", "2", "--together")
    assert cli.main(["reproduce", *map(str, given), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("tcaf: --together is about the split's test clips")
    assert not (tmp_path / "out").exists()
