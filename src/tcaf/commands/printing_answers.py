"""Answers of clips and recordings as tables and lines for a terminal.

Takes the JSON values that `--json` prints, as `printing` does.
"""

import sys
from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from tcaf.commands.printing import new_table, print_line, print_rich
from tcaf.errors import printable
from tcaf.progress import describe_time

LONG = 1000
"""Clips from which on answers are lines with tabs: a table of 20,000 takes 20 s to draw."""


def print_answers(value: dict[str, Any]) -> None:
    """Prints what `tcaf predict` found: all answers for one clip, the best for each of several."""
    clips, several = value["predictions"], len(value["predictions"]) > 1
    if not clips:
        return
    # In a line for each of several clips there is no room for reasons.
    reasons = not several and "nearest_training" in clips[0]
    with_sets = "set" in clips[0]
    columns = ["class", "probability", "distance", "in training"]
    # Of a clip or a model with one of both there is nothing apart.
    apart = reasons and bool(clips[0]["answers"][0]["alone"])
    columns += ["sound alone", "picture alone"] if apart else []
    columns += ["not ruled out"] if with_sets and several else []
    table = new_table("clip" if several else "rank", *columns)
    for column in (table.columns[1], *(table.columns[-1:] if with_sets and several else ())):
        column.justify = "left"
    rows = (
        _answer_cells(clip, answer, several=several, apart=apart)
        for clip in clips
        for answer in (clip["answers"][:1] if several else clip["answers"])
    )
    if len(clips) >= LONG:
        print("\t".join(str(column.header) for column in table.columns))
        for row in rows:
            print("\t".join(printable(cell).replace("\n", "\\n") for cell in row))
    else:
        for row in rows:
            cells = [escape(cell) for cell in row]
            cells[4] = cells[4].replace("unseen", "[magenta]unseen[/]")
            table.add_row(*cells)
    if not several:
        print_rich(f"[bold]{escape(clips[0]['id'])}[/]")
    told = f"of {len(value['classes'])} classes"
    if clips[0]["answers"][0]["probability"] is not None:
        told += ", if one of them is right"
    if value["gamma"] and any(answer["seen"] for clip in clips for answer in clip["answers"]):
        told += f"; ranked with {value['gamma']:+g} on the distances of seen classes"
    if value.get("transductive"):
        told += "; all clips together"
    if len(clips) < LONG:
        print_rich(table)
    print_rich(f"[dim]{told}{'; all answers by --json or --csv' if several else ''}[/]")
    if with_sets:
        allowed = f"{100 * value['abstain']:g} % wrong are allowed"
        told = "not ruled out" if several else f"not ruled out: {escape(_set(clips[0]['set']))}"
        print_rich(f"{told}, where {allowed} [dim](of clips like those of validation)[/]")
    if reasons and clips[0]["nearest_training"]:
        near = (f"{each['class']} {each['distance']:.3f}" for each in clips[0]["nearest_training"])
        print_rich(f"nearest classes of the training: {escape(', '.join(near))}")
    if apart:
        print_rich("[dim]alone: the distance, and the rank that the class has by it[/]")


def _answer_cells(
    clip: dict[str, Any], answer: dict[str, Any], *, several: bool, apart: bool
) -> list[str]:
    """Returns an answer's row: clip or rank, class, probability, distance, kind, and the rest."""
    chance = answer["probability"]
    return [
        clip["id"] if several else str(answer["rank"]),
        answer["class"],
        "" if chance is None else f"{100 * chance:.1f} %",
        f"{answer['distance']:.3f}",
        "seen" if answer["seen"] else "unseen",
        *(_alone(answer, modality) for modality in ("audio", "visual") if apart),
        *([_set(clip["set"])] if "set" in clip and several else []),
    ]


def print_arrived(time: str, value: dict[str, Any]) -> None:
    """Prints the best answer of a file that has arrived, in a line.

    Args:
        time: of now.
        value: of `Ranking.to_json`.
    """
    best = value["answers"][0]
    chance = best["probability"]
    said = best["class"] if chance is None else f"{best['class']}  {100 * chance:.1f} %"
    print_line(f"{time}  {value['id']}  {_set(value['set']) if 'set' in value else said}")
    sys.stdout.flush()


def _alone(answer: dict[str, Any], modality: str) -> str:
    """Returns what a modality says of an answer; "-" for one that is not there."""
    found = answer["alone"].get(modality)
    return "-" if found is None else f"{found['distance']:.3f} ({found['rank']})"


def _set(names: list[str]) -> str:
    return ", ".join(names) if names else "none of these"


class Recordings:
    """Prints the answers of recordings, a table for each as soon as it is over."""

    def __init__(self) -> None:
        self._spans: list[dict[str, Any]] = []

    def print_span(self, value: dict[str, Any]) -> None:
        """Takes `Span.to_json`."""
        self._spans.append(value)

    def print_recording(self, value: dict[str, Any], names: Mapping[Any, str]) -> None:
        """Prints the spans so far and `Recording.to_json`.

        Args:
            value: of the recording.
            names: what kinds of spans without an answer are called.
        """
        table = new_table(
            "from", "to", "class", "probability", "distance", "in training", "stretches"
        )
        table.columns[2].justify = "left"
        for span in self._spans:
            chance, distance = span["probability"], span["distance"]
            kind = {True: "seen", False: "[magenta]unseen[/]", None: ""}[span["seen"]]
            said = f"[dim]{names[span['kind']]}[/]" if span["class"] is None else None
            table.add_row(
                describe_time(span["start"]),
                describe_time(span["end"]),
                said or escape(span["class"]),
                "" if chance is None else f"{100 * chance:.1f} %",
                "" if distance is None else f"{distance:.3f}",
                kind,
                str(span["stretches"]),
            )
        left = "; ".join(
            f"{describe_time(seconds)} {names[kind]}" for kind, seconds in value["left_out"].items()
        )
        print_rich(f"[bold]{escape(value['id'])}[/]")
        if self._spans:
            print_rich(table)
        told = f"{describe_time(value['length'])} in all"
        print_rich(f"[dim]{told}{f'; of them {left}' if left else ''}[/]")
        self._spans = []
