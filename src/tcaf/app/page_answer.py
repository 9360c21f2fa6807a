"""What is said of one clip, as HTML: ranked classes, what sound and picture say apart, files.

Owns the look of an answer on the page; takes the JSON values that a command prints, and knows no
model. Every name is escaped.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tcaf.data.features import MODALITIES, SENSES
from tcaf.errors import printable
from tcaf.reports.answer_rows import to_csv
from tcaf.reports.theme import shortened

NAME = 60
"""Characters of a class name that are shown in a row of a table."""


def shown(name: str, limit: int = 200) -> str:
    """Returns a name as HTML: on one line, without characters that would turn the text around."""
    return escape(shortened(printable(name), limit))


def kind_of(seen: bool) -> str:
    """Returns the mark of a class that was trained on, or was not, as HTML."""
    kind = "seen" if seen else "unseen"
    return f'<span class="t-kind {kind}">{kind}</span>'


def percent(probability: float) -> str:
    """Returns a probability in percent; one that is not 0 is not shown as 0."""
    if 0 < probability < 0.001:
        return "&lt; 0.1 %"
    return f"{100 * probability:.1f} %"


def answer_html(prediction: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """Returns the answer for a clip: the best name, then all that are ranked.

    Args:
        prediction: of the clip, as `Ranking.to_json` returns it.
        notes: sentences that whoever reads the answer should know.
    """
    answers = prediction["answers"]
    parts = [
        _headline(prediction),
        f'<ol class="t-answers" aria-label="Classes, the best first">{_bars(answers)}</ol>',
        _legend(answers),
        _apart(answers),
        _nearest(prediction.get("nearest_training", ())),
        "".join(f'<p class="t-note">{escape(note)}</p>' for note in notes),
    ]
    return f'<section class="t-card" aria-label="Answer">{"".join(parts)}</section>'


def _headline(prediction: Mapping[str, Any]) -> str:
    best = prediction["answers"][0]
    if prediction.get("set") == []:
        return (
            '<h2 class="t-best">None of these</h2><p class="t-sub">All names are ruled out at the '
            f"share of mistakes that is allowed; the nearest is {shown(best['class'])}.</p>"
        )
    chance = best["probability"]
    told = "" if chance is None else f"{percent(chance)} among the names given"
    if names := prediction.get("set"):
        left = len(names)
        told += f" · {left} name{'s are' if left > 1 else ' is'} not ruled out"
    return (
        f'<h2 class="t-best">{shown(best["class"])} {kind_of(best["seen"])}</h2>'
        f'<p class="t-sub">{told}</p>'
    )


def _bars(answers: Sequence[Mapping[str, Any]]) -> str:
    """Returns a row for each answer, with a bar for its probability.

    Without probabilities bars show how near a class is, beside the nearest.
    """
    rows = []
    least = min(answer["distance"] for answer in answers)
    span = max(answer["distance"] for answer in answers) - least
    for answer in answers:
        chance = answer["probability"]
        if chance is None:
            share = 1.0 - 0.9 * (answer["distance"] - least) / span if span > 0 else 1.0
            value = f"distance {answer['distance']:.3f}"
        else:
            share, value = chance, percent(chance)
        kind = "seen" if answer["seen"] else "unseen"
        rows.append(
            f'<li><span class="t-name">{shown(answer["class"], NAME)} {kind_of(answer["seen"])}'
            f'</span><span class="t-value">{value}</span><span class="t-bar" aria-hidden="true">'
            f'<span class="{kind}" style="width:{100 * share:.1f}%"></span></span></li>'
        )
    return "".join(rows)


def _legend(answers: Sequence[Mapping[str, Any]]) -> str:
    told = {True: "seen: the model was trained on it", False: "unseen: known by its name alone"}
    kinds = [told[seen] for seen in (True, False) if any(a["seen"] == seen for a in answers)]
    return f'<p class="t-legend">{" · ".join(kinds)}</p>'


def _apart(answers: Sequence[Mapping[str, Any]]) -> str:
    """Returns what sound and picture say of each answer, where a clip and a model have both."""
    if not all(answer.get("alone") for answer in answers):
        return ""
    rows = []
    for answer in answers:
        cells = "".join(
            f"<td>{_ordinal(answer['alone'][m]['rank'])} <small>"
            f"{answer['alone'][m]['distance']:.3f}</small></td>"
            for m in MODALITIES
        )
        rows.append(f'<tr><th scope="row">{shown(answer["class"], NAME)}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{SENSES[m]} alone</th>' for m in MODALITIES)
    return (
        '<h3>What sound and picture say apart</h3><div class="t-scroll" tabindex="0" role="region" '
        'aria-label="What sound and picture say apart"><table class="t-table"><thead><tr>'
        f'<th scope="col">class</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        "</div>"
        '<p class="t-legend">Rank among the names by one of them alone, and the distance.</p>'
    )


def _ordinal(rank: int) -> str:
    ending = (
        "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    )
    return f"{rank}{ending}"


def _nearest(near: Sequence[Mapping[str, Any]]) -> str:
    if not near:
        return ""
    names = ", ".join(f"{shown(n['class'], NAME)} ({n['distance']:.3f})" for n in near)
    return f'<p class="t-legend">Nearest classes of the training: {names}</p>'


def provenance_html(facts: Mapping[str, str]) -> str:
    """Returns where an answer comes from, as a list of terms that opens on demand.

    Args:
        facts: what is said of each thing, in words.
    """
    terms = "".join(
        f"<dt>{escape(what)}</dt><dd>{escape(printable(said))}</dd>"
        for what, said in facts.items()
        if said
    )
    return (
        '<details class="t-details"><summary>Where this answer comes from</summary>'
        f"<dl>{terms}</dl></details>"
    )


def files_html(files: Mapping[str, tuple[str, str]]) -> str:
    """Returns texts that can be copied or saved.

    Args:
        files: what each is called for people, with the name of the file and its content.
    """
    parts = []
    for number, (title, (name, text)) in enumerate(files.items()):
        place = f"t-file-{number}"
        parts.append(
            f'<details class="t-details"><summary>{escape(title)}</summary><div class="t-tools">'
            f'<button type="button" class="t-button" data-t-copy="{place}">Copy '
            f'<span class="t-hidden">{escape(title)}</span></button>'
            f'<button type="button" class="t-button" data-t-save="{place}" '
            f'data-t-name="{escape(name)}">Save <span class="t-hidden">{escape(title)}</span>'
            '</button><span class="t-said" role="status"></span></div>'
            f'<pre id="{place}" class="t-pre" tabindex="0" role="region" '
            f'aria-label="{escape(title)}">{escape(text)}</pre></details>'
        )
    label = "The answer as a file"
    return f'<div class="t-files" role="group" aria-label="{label}">{"".join(parts)}</div>'


def as_files(value: Mapping[str, Any], captions: str, stem: str) -> dict[str, tuple[str, str]]:
    """Returns an answer as files: JSON, CSV and WebVTT.

    Args:
        value: the whole answer.
        captions: WebVTT.
        stem: how the files are called.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return {
        "JSON": (f"{stem}.json", text),
        "CSV": (f"{stem}.csv", to_csv(value["predictions"])),
        "WebVTT": (f"{stem}.vtt", captions),
    }


def problem_html(sentence: str, advice: str = "") -> str:
    """Returns what is wrong, in a sentence, where an answer would stand."""
    more = f"<p>{escape(advice)}</p>" if advice else ""
    told = escape(printable(sentence))
    return (
        f'<section class="t-card t-problem" role="alert"><h2>No answer</h2><p>{told}</p>{more}'
        "</section>"
    )


def empty_html(what: str) -> str:
    """Returns what stands where nothing has been asked for yet."""
    return f'<section class="t-card t-empty" aria-label="Answer"><p>{escape(what)}</p></section>'
