"""The runs of a folder: their table, one in detail, and what is said where there is none."""

import re
import shutil

import pytest

from tcaf.app.page_runs import Runs
from tcaf.errors import TCAFError
from tcaf.training.run import train

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_store, tiny_experiment):
    path = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train(tiny_experiment(seed=seed), tiny_store, path / f"tcaf_{seed}")
    train(tiny_experiment(system="ridge"), tiny_store, path / "ridge")
    return path


def test_seeds_of_one_configuration_are_a_row(folder):
    runs = Runs(folder)
    assert sorted(runs.read()) == ["Ridge", "TCaF"]
    table = runs.table()
    rows = dict(re.findall(r'<tr><th scope="row"[^>]*>(\w+)</th>(.*?)</tr>', table))
    assert set(rows) == {"Ridge", "TCaF"}
    assert rows["TCaF"].endswith('data-t-value="2.0">2</td>')
    assert "±" in rows["TCaF"]
    assert "±" not in rows["Ridge"]


@pytest.mark.slow
def test_one_in_detail(folder):
    runs = Runs(folder)
    runs.read()
    html = runs.detail("TCaF")
    for title in (
        *("Seen-unseen curve", "Accuracy by class", "Confusion of unseen classes"),
        "Inputs and learnt embeddings",
    ):
        assert f"<h2>{title}</h2>" in html
    assert "data-t-tip" in html
    # Curves of both are drawn, so that they can be compared.
    assert "Ridge" in html
    assert runs.detail("TCaF") is html
    assert html.count("<svg") == html.count("</svg>")


def test_what_is_gone_is_said(folder, tmp_path):
    copied = tmp_path / "runs"
    shutil.copytree(folder, copied)
    runs = Runs(copied)
    runs.read()
    shutil.rmtree(copied / "ridge")
    assert runs.read() == ["TCaF"]
    with pytest.raises(TCAFError, match="no runs called 'Ridge' any more"):
        runs.detail("Ridge")
    shutil.rmtree(copied)
    copied.mkdir()
    with pytest.raises(TCAFError, match="expected a run of `tcaf train`"):
        runs.read()


@pytest.mark.slow
def test_without_the_clips_there_is_no_map(folder, tmp_path, tiny_store, monkeypatch):
    monkeypatch.setattr(
        "tcaf.app.page_runs.open_store", lambda one, store, notes: notes.append("gone") or None
    )
    runs = Runs(folder)
    runs.read()
    html = runs.detail("Ridge")
    assert "Inputs and learnt embeddings" not in html
    assert '<p class="t-note">gone</p>' in html
