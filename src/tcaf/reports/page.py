"""A report as one HTML file: no script, no font, no picture from anywhere else.

Owns the HTML of what `contents` describes, and needs no extra. Every name and number is escaped;
the page's own policy lets a browser load nothing. The figures' SVG is taken as it is, from
`theme.to_svg`.
"""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from tcaf.errors import TCAFError
from tcaf.reports.contents import PageFigure, Provenance, ReportPage, Score
from tcaf.reports.theme import css_variables

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)

REMARK = "remark"
"""The one column, beside the first, that holds text."""
TEXT = ' class="text"'


def render_page(report: ReportPage) -> str:
    """Returns the report as one HTML file.

    Raises:
        TCAFError: two figures of one name, or a row of another length than its table.
    """
    _check(report)
    sections = [
        ("results", "Results", _results(report)),
        ("comparisons", "Paired comparisons", _comparisons(report)),
        ("figures", "Figures", "\n".join(map(_figure, report.figures))),
        ("classes", "Accuracy by class", _classes(report)),
        ("configuration", "Configuration", _configuration(report)),
        ("provenance", "Provenance", "\n".join(map(_provenance, report.provenance))),
        ("notes", "Notes", _notes(report.notes)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
    summary = "".join(f"<p>{escape(line)}</p>" for line in report.summary)
    body = [
        f"<header><h1>{escape(report.title)}</h1>{summary}</header>",
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>' if sections else "",
        "<main>",
        *(
            f'<section id="{name}" aria-labelledby="{name}-title">\n'
            f'<h2 id="{name}-title">{title}</h2>\n{content}\n</section>'
            for name, title, content in sections
        ),
        "</main>",
        f"<footer>{escape(report.footer)}</footer>",
    ]
    return _document(report.title, "\n".join(body))


def _document(title: str, body: str) -> str:
    style = files("tcaf.reports").joinpath("page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{css_variables()}
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _check(report: ReportPage) -> None:
    names = [figure.name for figure in report.figures]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TCAFError(f"two figures of a page are named {twice[0]!r}")
    for what, width, rows in (
        ("class", len(report.class_models), [row.accuracies for row in report.classes]),
        ("setting", len(report.configurations), [row.values for row in report.differences]),
    ):
        for number, row in enumerate(rows):
            if len(row) != width:
                raise TCAFError(
                    f"{what} row {number} has {len(row)} values for a table of {width} columns"
                )


def _table(label: str, columns: Sequence[str], rows: Sequence[str]) -> str:
    """Returns a table in a box that scrolls by itself; `rows` are HTML."""
    head = "".join(
        f'<th scope="col"{TEXT if column == REMARK else ""}>{escape(column)}</th>'
        for column in columns
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>"
        "</table></div>"
    )


def _row(name: str, *cells: str) -> str:
    # Long names of settings may break after a dot or an underscore.
    label = escape(name).replace("_", "_<wbr>").replace(".", ".<wbr>")
    return f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>'


def _cell(text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<td{attribute}>{escape(text)}</td>"


def _score(score: Score | None, scale: float = 100.0, places: int = 2) -> str:
    """Returns a score's cell: mean, spread, and the paper's number below."""
    if score is None:
        return '<td class="none">–</td>'
    text = f"{scale * score.mean:.{places}f}"
    if score.std is not None:
        text += f' <span class="spread">± {scale * score.std:.{places}f}</span>'
    paper = ""
    if score.paper is not None:
        paper = f"<small>paper {scale * score.paper:.{places}f}</small>"
    return f"<td>{text}{paper}</td>"


def _note(*sentences: str) -> str:
    return f"<p>{escape(' '.join(filter(None, sentences)))}</p>\n"


def _points(difference: float | None) -> str:
    """Returns a difference in percentage points, with its sign."""
    if difference is None:
        return "–"
    return f"{100 * difference:+.2f}".replace("-", "−")


def _results(report: ReportPage) -> str:
    if not report.results:
        return ""
    columns = ("model", "S", "U", "HM", "ZSL", "area", "ECE", "gamma", "seeds")
    rows = []
    for row in report.results:
        if row.failure:
            reason = f"<span>{escape(row.failure)}</span>"
            failed = f'<td class="failed" colspan="{len(columns) - 2}">{reason}</td>'
            rows.append(_row(row.model, failed, _cell(str(row.seeds))))
            continue
        scores = (row.seen, row.unseen, row.harmonic_mean, row.zsl)
        gammas = ", ".join(f"{gamma:g}" for gamma in sorted(set(row.gammas))) or "–"
        cells = [_score(score) for score in scores] + [_score(row.area, 1.0, 4)]
        cells.append(_score(row.calibration))
        rows.append(_row(row.model, *cells, _cell(gammas), _cell(str(row.seeds))))
    scale = (
        "Mean class accuracy in percent; the area lies between 0 and 1. ECE: expected calibration "
        "error of the probabilities in percent."
    )
    return _note(scale, report.results_note) + _table("Results", columns, rows)


def _comparisons(report: ReportPage) -> str:
    if not report.comparisons:
        return ""
    columns = ["compared", "measure", "difference", "interval"]
    remarks = any(row.remark for row in report.comparisons)
    rows = []
    for row in report.comparisons:
        interval = "–"
        if row.low is not None and row.high is not None:
            interval = f"{_points(row.low)} to {_points(row.high)}"
        cells = [
            _cell(row.measure),
            _cell(_points(row.difference)),
            _cell(interval),
        ]
        if remarks:
            cells.append(_cell(row.remark, "text"))
        rows.append(_row(f"{row.first} − {row.second}", *cells))
    scale = "Differences in percentage points, the first model's score minus the second's."
    table = _table("Paired comparisons", [*columns, REMARK] if remarks else columns, rows)
    return _note(scale, report.comparisons_note) + table


def _figure(figure: PageFigure) -> str:
    only = "" if figure.narrow else " only"
    narrow = f'<div class="narrow">{figure.narrow}</div>' if figure.narrow else ""
    return (
        f'<figure id="figure-{escape(figure.name)}">\n<h3>{escape(figure.title)}</h3>\n'
        f'<div class="wide{only}">{figure.wide}</div>\n{narrow}\n'
        f"<figcaption>{escape(figure.caption)}</figcaption>\n</figure>"
    )


def _classes(report: ReportPage) -> str:
    if not report.classes:
        return ""
    rows = []
    for row in report.classes:
        kind = "seen" if row.seen else "unseen"
        half = f'<td><span class="{kind}">{kind}</span></td>'
        scores = [_score(score, places=1) for score in row.accuracies]
        rows.append(_row(row.name, half, _cell(f"{row.clips:,}"), *scores))
    columns = ["class", "half", "clips", *report.class_models]
    table = _table("Accuracy by class", columns, rows)
    what = f"{len(rows)} class" + ("es" if len(rows) > 1 else "")
    return f"<details><summary>{what}, percent of clips</summary>{table}</details>"


def _configuration(report: ReportPage) -> str:
    parts = []
    names = [text.name for text in report.configurations]
    if report.differences:
        rows = [
            _row(row.setting, *(_cell(value) for value in row.values)) for row in report.differences
        ]
        parts.append(_note("What differs:") + _table("Settings that differ", ["", *names], rows))
    parts += [
        f"<details><summary>{escape(text.name)}</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(text.name)}">'
        f"<pre><code>{escape(text.text)}</code></pre></div></details>"
        for text in report.configurations
    ]
    return "\n".join(parts)


def _provenance(run: Provenance) -> str:
    facts = "".join(f"<dt>{escape(what)}</dt><dd>{escape(fact)}</dd>" for what, fact in run.facts)
    return f"<h3>{escape(run.name)}</h3><dl>{facts}</dl>"


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if notes else ""
