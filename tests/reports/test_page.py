import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from browsers import check
from tcaf.errors import TCAFError
from tcaf.reports.contents import (
    ClassRow,
    ComparisonRow,
    NamedText,
    PageFigure,
    Provenance,
    ReportPage,
    ResultRow,
    Score,
    SettingRow,
    differing_settings,
)
from tcaf.reports.page import render_page

HOSTILE = "<script>alert(\"1\")</script> & 'quotes'"
SQUARE = '<svg viewBox="0 0 9 9" role="img" aria-label="a square"><path d="M1 1h7v7z"/></svg>'


def report(**changes):
    page = ReportPage(
        title=f"UCF {HOSTILE}",
        summary=(f"TCaF against CJME {HOSTILE}",),
        results=(
            ResultRow(
                "TCaF",
                3,
                seen=Score(0.5863, 0.012, 0.586),
                unseen=Score(0.2174),
                harmonic_mean=Score(0.3172, 0.009, 0.3172),
                area=Score(0.10324, 0.004),
                calibration=Score(0.065),
                gammas=(1.2, 1.4, 1.2),
            ),
            ResultRow(f"CJME {HOSTILE}", 2, failure=f"the loss became nan {HOSTILE}"),
        ),
        comparisons=(
            ComparisonRow("TCaF", HOSTILE, "HM", -0.013, -0.02, 0.041, HOSTILE),
            ComparisonRow("TCaF", "ridge", "ZSL", 0.25),
        ),
        figures=(PageFigure("square", f"Square {HOSTILE}", f"A square {HOSTILE}", SQUARE, SQUARE),),
        class_models=("TCaF", HOSTILE),
        classes=(ClassRow(HOSTILE, False, 1234, (Score(0.5, 0.1), None)),),
        configurations=(NamedText("run_1", f"# {HOSTILE}"), NamedText(HOSTILE, "seed = 1")),
        differences=(SettingRow("training.learning_rate", ("7e-05", HOSTILE)),),
        provenance=(Provenance("run_1", (("commit", "e842d3f" * 6), (HOSTILE, HOSTILE))),),
        notes=(f"3 clips were left out {HOSTILE}",),
        footer=f"Written by tcaf {HOSTILE}",
    )
    return replace(page, **changes)


VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


class Reader(HTMLParser):
    """Reads a page as a tree would be: what is open, each tag's attributes, rows of cells."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.rows, self.texts = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "th" in self.open or "td" in self.open:
            self.rows[-1][-1] += data

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_numbers_of_the_results():
    rows = Reader(render_page(report())).rows
    assert rows[0] == ["model", "S", "U", "HM", "ZSL", "area", "ECE", "gamma", "seeds"]
    assert rows[1] == [
        "TCaF",
        "58.63 ± 1.20paper 58.60",
        "21.74",
        "31.72 ± 0.90paper 31.72",
        "–",
        "0.1032 ± 0.0040",
        "6.50",
        "1.2, 1.4",
        "3",
    ]
    assert rows[2] == [f"CJME {HOSTILE}", f"the loss became nan {HOSTILE}", "2"]


def test_numbers_of_the_comparisons():
    rows = Reader(render_page(report())).rows
    assert rows[3] == ["compared", "measure", "difference", "interval", "remark"]
    assert rows[4] == [
        f"TCaF − {HOSTILE}",
        "HM",
        "−1.30",
        "−2.00 to +4.10",
        HOSTILE,
    ]
    assert rows[5] == ["TCaF − ridge", "ZSL", "+25.00", "–", ""]
    half = report(comparisons=(ComparisonRow("TCaF", "ridge", "HM", None),))
    assert Reader(render_page(half)).rows[4] == ["TCaF − ridge", "HM", "–", "–"]


def test_classes_settings_and_facts():
    page = Reader(render_page(report()))
    assert page.rows[6] == ["class", "half", "clips", "TCaF", HOSTILE]
    assert page.rows[7] == [HOSTILE, "unseen", "1,234", "50.0 ± 10.0", "–"]
    assert page.rows[8] == ["", "run_1", HOSTILE]
    assert page.rows[9] == ["training.learning_rate", "7e-05", HOSTILE]
    for text in (f"# {HOSTILE}", "e842d3f" * 6, f"3 clips were left out {HOSTILE}"):
        assert text in page.texts
    assert f"Written by tcaf {HOSTILE}" in page.texts


def test_everything_is_escaped_and_closed():
    page = Reader(render_page(report()))
    assert not page.open
    assert not page.named("script")
    # Quotes in names end no attribute.
    assert HOSTILE in {attributes.get("aria-label") for attributes in page.named("div")}


def test_a_browser_may_load_nothing():
    html = render_page(report())
    page = Reader(html)
    (policy,) = [m["content"] for m in page.named("meta") if "http-equiv" in m]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert not re.findall(r"https?://|@import|url\((?!#)", html)
    for _, attributes in page.tags:
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:").startswith("data:")


def test_links_lead_somewhere_and_names_are_unique():
    page = Reader(render_page(report()))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(names)) == len(names)
    links = [attributes["href"][1:] for attributes in page.named("a")]
    assert links == [
        "results",
        "comparisons",
        "figures",
        "classes",
        "configuration",
        "provenance",
        "notes",
    ]
    assert set(links) <= set(names)


def test_an_empty_section_is_left_out():
    page = Reader(render_page(ReportPage(title="empty", notes=("nothing to show",))))
    assert [attributes["href"] for attributes in page.named("a")] == ["#notes"]
    assert not page.named("table")
    assert not Reader(render_page(ReportPage(title="empty"))).named("nav")


def test_landmarks_and_scopes():
    page = Reader(render_page(report()))
    assert page.named("html") == [{"lang": "en"}]
    assert {tag for tag, _ in page.tags} >= {"header", "nav", "main", "footer", "figcaption"}
    assert {attributes["scope"] for attributes in page.named("th")} == {"col", "row"}
    assert all(attributes["aria-label"] for attributes in page.named("svg"))


def test_a_figure_without_a_narrow_one_serves_both():
    both = Reader(render_page(report())).named("div")
    only = Reader(render_page(report(figures=(PageFigure("a", "A", "", SQUARE),)))).named("div")
    assert [d["class"] for d in both if d["class"] in ("wide", "narrow")] == ["wide", "narrow"]
    assert "wide only" in [d["class"] for d in only]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"figures": (PageFigure("a", "", "", SQUARE),) * 2},
            "two figures of a page are named 'a'",
        ),
        ({"class_models": ("TCaF",)}, "class row 0 has 2 values for a table of 1 columns"),
        ({"configurations": ()}, "setting row 0 has 2 values for a table of 0 columns"),
    ],
)
def test_a_page_that_does_not_fit(changes, message):
    with pytest.raises(TCAFError, match=message):
        render_page(report(**changes))


def test_settings_that_differ():
    rows = differing_settings(
        [
            {"seed": 0, "training": {"epochs": 50, "learning_rate": 7e-5}, "same": None},
            {"seed": 1, "training": {"epochs": 50, "learning_rate": 1e-3}, "same": None, "k": 3},
        ]
    )
    assert rows == (
        SettingRow("seed", ("0", "1")),
        SettingRow("training.learning_rate", ("7e-05", "0.001")),
        SettingRow("k", ("not set", "3")),
    )
    assert differing_settings([{"seed": 0}]) == ()


@pytest.fixture(scope="module")
def drawn_report():
    """A report with real figures of both widths."""
    pytest.importorskip("matplotlib")
    from tcaf.evaluation.statistics import ClassAccuracy
    from tcaf.reports.plots import class_accuracy_bars, unseen_confusion

    names = [f"a class of a rather long name {i} {HOSTILE}" for i in range(21)]
    bars = [ClassAccuracy(name, i % 3 > 0, 7, i / 35, 0.1) for i, name in enumerate(names)]
    counts = np.random.default_rng(0).integers(0, 9, (21, 21))
    figures = (
        PageFigure.of(
            "bars",
            lambda width: class_accuracy_bars(bars, width=width),
            title="Accuracy by class",
            caption="Bars.",
            alt=f"bars {HOSTILE}",
        ),
        PageFigure.of(
            "confusion",
            lambda width: unseen_confusion(counts, names, width=width),
            title="Confusion",
            caption="Cells.",
            alt="cells",
        ),
    )
    classes = tuple(ClassRow(name, True, 10, (Score(0.5, 0.1), Score(0.25, 0.2))) for name in names)
    return report(figures=figures, classes=classes)


def test_figures_of_both_widths(drawn_report):
    html = render_page(drawn_report)
    page = Reader(html)
    assert not page.open
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(names)) == len(names)
    svgs = page.named("svg")
    assert [svg["aria-label"] for svg in svgs] == [f"bars {HOSTILE}"] * 2 + ["cells"] * 2
    widths = [float(svg["viewbox"].split()[2]) for svg in svgs]
    assert widths == [648, 324, 648, 324]


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a report from a file, and checks at the end that nothing went wrong."""
    contexts, wrong = [], []

    def open_report(page, width, scheme):
        file = tmp_path / "report.html"
        file.write_text(render_page(page), encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, locale="en-GB"
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("requestfailed", lambda request: wrong.append(request.url))
        asked = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        return tab

    yield open_report
    for context in contexts:
        context.close()
    assert wrong == []


SCHEMES = ("light", "dark")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [320, 400, 768, 1280])
def test_the_page_fits_its_window(opened, drawn_report, width, scheme):
    tab = opened(drawn_report, width, scheme)
    for details in tab.locator("summary").all():
        details.click()
    check(tab)
    # Nothing sticks out of the page but what scrolls in its own box.
    outside = tab.evaluate(
        """() => [...document.querySelectorAll('body *')]
            .filter(e => !e.closest('.scroll > *') && !e.closest('svg *'))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
            .map(e => e.outerHTML.slice(0, 99))"""
    )
    assert outside == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_shows_its_text(opened, drawn_report, scheme):
    tab = opened(drawn_report, 400, scheme)
    text = tab.locator("#results").inner_text()
    for expected in ("TCaF", "58.63", "± 1.20", "paper 58.60", f"the loss became nan {HOSTILE}"):
        assert expected in text
    assert tab.title() == f"UCF {HOSTILE}"
    # A name in a figure is text, and is what it was but for its length.
    labels = tab.locator("#figure-bars .narrow svg text").all_text_contents()
    assert any(label.startswith("a class o") for label in labels)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "shown"), [(400, "narrow"), (1280, "wide")])
def test_one_figure_for_each_width(opened, drawn_report, width, shown):
    tab = opened(drawn_report, width, "light")
    for kind in ("narrow", "wide"):
        visible = tab.locator(f"#figure-bars .{kind} svg").is_visible()
        assert visible == (kind == shown)
    # Text of a figure is no smaller than it can be read.
    heights = tab.evaluate(
        f"""() => [...document.querySelectorAll('#figure-bars .{shown} svg text')]
            .map(e => e.getBoundingClientRect().height)"""
    )
    assert min(heights) >= 10
    # No text of a figure is cut off by the figure's border.
    outside = tab.evaluate(
        f"""() => [...document.querySelectorAll('.{shown} svg')].flatMap(svg => {{
            const box = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(e => {{
                const text = e.getBoundingClientRect();
                return text.left < box.left - 1 || text.right > box.right + 1;
            }}).map(e => e.textContent);
        }})"""
    )
    assert outside == []


@pytest.mark.browser
def test_both_themes_are_themes(opened, drawn_report):
    found = {}
    for scheme in SCHEMES:
        tab = opened(drawn_report, 1280, scheme)
        found[scheme] = tab.evaluate(
            """() => [
                getComputedStyle(document.body).backgroundColor,
                getComputedStyle(document.querySelector('.wide svg text')).fill,
            ]"""
        )
    # Paper and muted text of `theme.COLOURS`.
    assert found["light"] == ["rgb(255, 255, 255)", "rgb(90, 99, 112)"]
    assert found["dark"] == ["rgb(21, 24, 28)", "rgb(162, 171, 183)"]


@pytest.mark.browser
def test_head_of_a_table_stays(opened, drawn_report):
    tab = opened(drawn_report, 400, "light")
    tab.locator("#classes summary").click()
    places = tab.evaluate(
        """() => {
            const box = document.querySelector('#classes .scroll');
            box.scrollTo(100, 300);
            const top = e => box.querySelector(e).getBoundingClientRect();
            const edge = box.getBoundingClientRect();
            return [box.scrollLeft, box.scrollTop,
                    top('thead th').top - edge.top, top('tbody tr:last-child th').left - edge.left];
        }"""
    )
    assert places[0] > 0
    assert places[1] > 0
    assert places[2:] == pytest.approx([1, 1], abs=1)
