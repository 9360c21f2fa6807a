"""`tcaf report`: from run directories to one page, opened in a real browser."""

import json
import re
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest

from browsers import check
from run_contents import without_digests
from tcaf.commands.entry import main
from tcaf.errors import TCAFError
from tcaf.evaluation.decisions import FILE, read_decisions, write_decisions
from tcaf.files.atomic import write_json
from tcaf.reports.contents import PageFigure
from tcaf.reports.detail import Detail
from tcaf.reports.page import render_page
from tcaf.reports.report import build_report, curve_figures, find_runs, group
from tcaf.training.run import Run, result_json, train

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_store, tiny_experiment):
    """Two seeds of TCaF, one of ridge, and one that was not carried to its end."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train(tiny_experiment(seed=seed), tiny_store, folder / f"tcaf_{seed}")
    train(tiny_experiment(seed=0, system="ridge"), tiny_store, folder / "ridge")
    open_ = folder / "open"
    shutil.copytree(folder / "tcaf_0", open_)
    (open_ / "result.json").unlink()
    return folder


def finished(folder):
    return [folder / name for name in ("tcaf_0", "tcaf_1", "ridge")]


def test_runs_that_differ_in_seed_alone_are_one_series(folder):
    runs, notes = find_runs([folder])
    assert [run.path.name for run in runs] == ["ridge", "tcaf_0", "tcaf_1"]
    assert len(notes) == 1
    assert "open" in notes[0]
    names = [(one.name, len(one.runs)) for one in group(runs)]
    assert names == [("Ridge", 1), ("TCaF", 2)]


@pytest.mark.slow
def test_equal_names_are_told_apart_by_what_differs(folder, tmp_path, tiny_store, tiny_experiment):
    other = tiny_experiment(seed=0, model={"attention": "self"})
    train(other, tiny_store, tmp_path / "self")
    series = group([Run(folder / "tcaf_0"), Run(tmp_path / "self")])
    assert [one.name for one in series] == ["TCaF (attention cross)", "TCaF (attention self)"]


@pytest.mark.slow
def test_everything_is_on_the_page(folder):
    page = build_report(finished(folder))
    assert [row.model for row in page.results] == ["TCaF", "Ridge"]
    results = [
        json.loads((folder / f"tcaf_{seed}" / "result.json").read_text())["test"] for seed in (0, 1)
    ]
    mean = sum(result["harmonic_mean"] for result in results) / 2
    assert page.results[0].harmonic_mean.mean == pytest.approx(mean)
    assert page.results[0].seeds == 2
    assert [(row.first, row.second, row.measure) for row in page.comparisons] == [
        ("TCaF", "Ridge", "HM"),
        ("TCaF", "Ridge", "curve area"),
    ]
    # One seed in common: the comparison is of seed 0 alone.
    assert page.comparisons[0].low <= page.comparisons[0].difference <= page.comparisons[0].high
    assert [figure.name for figure in page.figures] == [
        "curves",
        "classes",
        "confusion",
        "reliability",
        "training",
        "embeddings",
        "attention",
    ]
    assert page.differences[0].setting == "system"
    assert len(page.provenance) == 3
    assert "fingerprint" not in dict(page.provenance[0].facts)
    assert page.notes == ()


@pytest.mark.slow
def test_without_the_clips_the_rest_is_shown(folder, tmp_path):
    moved = without_digests(shutil.copytree(folder / "tcaf_0", tmp_path / "moved"))
    origin = json.loads((moved / "provenance.json").read_text())
    (moved / "provenance.json").write_text(json.dumps({**origin, "store": str(tmp_path / "gone")}))
    page = build_report([moved])
    names = [figure.name for figure in page.figures]
    assert names == ["curves", "classes", "confusion", "reliability", "training"]
    assert "--store" in page.notes[0]


def half_of(run, out, half):
    """Copies a run as it would be if all its test clips were of seen or of unseen classes."""
    without_digests(shutil.copytree(run, out))
    decided = read_decisions(run / FILE)
    rows = np.flatnonzero(decided.decisions.is_seen == (half == "seen"))
    columns = {
        field.name: getattr(decided.decisions, field.name)
        for field in fields(decided.decisions)
        if field.name != "num_classes"
    }
    decisions = replace(decided.decisions, **{name: c[rows] for name, c in columns.items()})
    ids = tuple(decided.ids[row] for row in rows)
    kept = replace(decided, ids=ids, decisions=decisions)
    write_decisions(out / FILE, kept)
    result = json.loads((out / "result.json").read_text())
    write_json(out / "result.json", {**result, "test": result_json(kept.result)})
    return out


@pytest.mark.slow  # draws whole pages
@pytest.mark.parametrize(
    ("half", "missing", "known", "drawn"),
    [
        ("seen", "unseen", [True, False, False, False, False], []),
        ("unseen", "seen", [False, True, False, True, False], ["confusion"]),
    ],
)
def test_clips_of_one_half(folder, tmp_path, monkeypatch, half, missing, known, drawn):
    # Maps and attention take seconds, and care for no half.
    for method in ("embedding_map", "attention"):
        monkeypatch.setattr(Detail, method, lambda _: PageFigure("nothing", "", "", ""))
    runs = [half_of(folder / name, tmp_path / name, half) for name in ("tcaf_0", "ridge")]
    page = build_report(runs)
    for row in page.results:
        scores = (row.seen, row.unseen, row.harmonic_mean, row.zsl, row.area)
        assert [score is not None for score in scores] == known
    names = [figure.name for figure in page.figures if figure.name != "nothing"]
    assert names == ["classes", *drawn, "reliability", "training"]
    assert page.comparisons == ()
    told = " ".join(page.notes)
    assert f"harmonic_mean needs clips of {missing} classes" in told
    assert f"TCaF has no seen-unseen curve: no test clip is of {missing} classes." in told
    assert ("confusion of unseen classes is left out" in told) == (half == "seen")
    assert not re.search(r"\bnan\b", render_page(replace(page, figures=page.figures[:-2])))


@pytest.mark.slow
def test_a_series_of_one_half_has_no_curve_among_the_others(folder, tmp_path):
    half = half_of(folder / "ridge", tmp_path / "ridge", "seen")
    series = group([Run(folder / "tcaf_0"), Run(half)])
    notes = []
    (figure,) = curve_figures(series, notes)
    assert "TCaF, area" in figure.wide
    assert "Ridge, area" not in figure.wide
    assert notes == ["Ridge has no seen-unseen curve: no test clip is of unseen classes."]


@pytest.mark.parametrize("half", ["seen", "unseen"])
def test_the_clip_shown_is_of_the_half_there_is(folder, tmp_path, half):
    (series,) = group([Run(half_of(folder / "tcaf_0", tmp_path / "r", half))])
    number = Detail(series, series.first, None)._clip_number()
    decided = series.clip_decisions[0]
    right = decided.decisions.predicted(decided.gamma) == decided.decisions.labels
    assert right[number] == right.any()


@pytest.mark.slow
def test_other_clips_are_refused(folder, tmp_path, tiny_experiment):
    from tcaf.sources.synthetic import prepare_synthetic

    other = prepare_synthetic(tmp_path / "other", looks=2, motions=2, sounds=2, clips_per_class=20)
    with pytest.raises(TCAFError, match="holds other data"):
        build_report([folder / "tcaf_0"], store=other.path)


@pytest.mark.slow
def test_classes_and_clip_of_ones_own(folder, tiny_store):
    rows = tiny_store.rows("cls", "test")
    clip = tiny_store.ids[rows[3]]
    names = sorted(set(tiny_store.class_names[rows].tolist()))[:2]
    page = build_report([folder / "tcaf_0"], classes=names, clip=clip)
    captions = {figure.name: figure for figure in page.figures}
    assert clip in captions["attention"].caption
    assert all(name[:8] in captions["embeddings"].wide for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{runs}/nothing"], "expected a run of `tcaf train` or a folder of runs"),
        (["{runs}/open"], "expected a run that is over"),
        pytest.param(
            ["{runs}/tcaf_0", "--clip", "no such"],
            "no test clip has the id 'no such'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["{runs}/tcaf_0", "--classes", "no such"], "'no such'", marks=pytest.mark.slow
        ),
        (["{runs}/tcaf_0", "--store", "{runs}/no"], "no"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, capsys, arguments, message):
    out = tmp_path / "report.html"
    words = [word.format(runs=folder) for word in arguments]
    assert main(["report", *words, "--out", str(out)]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("tcaf: ")
    assert complaint.count("\n") == 1
    assert message in complaint
    assert not out.exists()


@pytest.mark.slow
def test_the_command_writes_one_file(folder, tmp_path, capsys):
    out = tmp_path / "new" / "report.html"
    assert main(["report", *map(str, finished(folder)), "--out", str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    assert f"{out}: " in capsys.readouterr().out
    assert out.read_text(encoding="utf-8") == render_page(build_report(finished(folder)))


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_of_real_runs_in_a_browser(browser, folder, tmp_path, scheme):
    out = tmp_path / "report.html"
    assert main(["report", *map(str, finished(folder)), "--out", str(out)]) == 0
    wrong = []
    tab = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda request: wrong.append(request.url))
    tab.goto(out.as_uri())
    assert tab.locator("table").first.is_visible()
    assert "TCaF" in tab.locator("table").first.inner_text()
    assert tab.locator("figure").count() == 7
    check(tab)
    tab.close()
    assert wrong == []
