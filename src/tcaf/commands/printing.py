"""Results as tables for a terminal.

Owns the look of what commands print. Takes the JSON values that `--json` prints, so that both show
the same.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tcaf.errors import STEERING, printable, shorten
from tcaf.evaluation.scores import SCORES


class SafeConsole(Console):
    """A console that shows characters which would steer the terminal, in place of obeying them."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Prints as any console does."""
        super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **how)


class _SafeTable(Table):
    def add_row(self, *cells: Any, **how: Any) -> None:
        shown = (printable(c).replace("\n", "\\n") if isinstance(c, str) else c for c in cells)
        super().add_row(*shown, **how)


def print_rich(*things: Any) -> None:
    """Prints texts with rich's markup, and tables."""
    console = SafeConsole(highlight=False)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str))


def print_json(value: Any) -> None:
    """Prints a value as JSON, with the characters escaped that would steer a terminal."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(STEERING.sub(lambda match: json.dumps(match[0])[1:-1], text))


def new_table(*columns: str, title: str = "") -> Table:
    """Returns an empty table: the first column is text, the others are numbers."""
    title = printable(title)
    table = _SafeTable(title=title, title_justify="left", title_style="bold", header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def shown(value: float | None, form: str, scale: int = 1) -> str:
    """Returns a number, times `scale`, as text; "-" for one that cannot be computed."""
    return "-" if value is None else f"{scale * value:{form}}"


def _step(seconds: float | None) -> str:
    return "clip" if seconds is None else f"{seconds:g} s"


def print_store(value: dict[str, Any]) -> None:
    """Prints `FeatureStore.summary`."""
    spec, lengths = value["spec"], value["lengths"]
    print_rich(
        f"[bold]{escape(value['path'])}[/]: {value['clips']:,} clips of {value['classes']} "
        f"classes, {value['bytes'] / 2**20:,.1f} MiB in {value['shards']} shards, {value['dtype']}"
    )
    columns = ("", "features", "size", "a token", "tokens", "per clip")
    tokens = new_table(*columns)
    for modality in ("audio", "visual"):
        row = lengths[modality]
        tokens.add_row(
            modality,
            spec[f"{modality}_backbone"],
            str(spec[f"{modality}_dim"]),
            _step(spec[f"{modality}_step_s"]),
            f"{row['tokens']:,}",
            f"{row['shortest']} to {row['longest']}",
        )
    print_rich(tokens)
    for modality in ("audio", "visual"):
        if missing := lengths[modality]["clips_without"]:
            print_rich(f"[yellow]{missing:,} clips[/] have no {modality} token")
    for name, parts in value["splits"].items():
        table = new_table("part", "clips", "classes", title=f"split {escape(name)}")
        for part, row in parts.items():
            table.add_row(part, f"{row['clips']:,}", str(row["classes"]))
        print_rich(table)
    for what in ("text", "phrases"):
        if value[what]:
            print_rich(f"{what}: {escape(', '.join(value[what]))}")
    for reason, names in value["left_out"].items():
        print_rich(
            f"[yellow]left out[/] {len(names):,}, {escape(reason)}: {escape(shorten(names))}"
            f" (all are named by --json)"
        )


def print_line(text: str) -> None:
    """Prints a line."""
    print(printable(text))


def print_parquet(value: dict[str, Any]) -> None:
    """Prints what `tcaf store to-parquet` wrote."""
    files, size = len(value["files"]), value["bytes"] / 2**20
    print_line(f"{value['path']}: {files} Parquet files, {size:,.1f} MiB")


def print_export(value: dict[str, Any]) -> None:
    """Prints what `tcaf export` wrote."""
    (model, size), *others = value["files"].items()
    if model != value["model"]:  # a vocabulary comes first
        (model, size) = value["model"], value["files"][value["model"]]
        others = [each for each in value["files"].items() if each[0] != model]
    beside = ", ".join(name for name, _ in others)
    print_line(f"{value['path']}: {value['system']}, {size / 2**20:,.1f} MiB; beside it {beside}")
    for text in value["notes"]:
        print_line(f"note: {text}")
    if value["page"]:
        print_line(f"next: python -m http.server -d {value['page']}")


def print_pushed(value: dict[str, Any]) -> None:
    """Prints what `tcaf push` made, and how it is opened."""
    files = value["files"]
    size = sum(files.values()) / 2**20
    where = value["path"] or value["name"]
    print_line(f"{where}: a {value['kind']} of {len(files)} files, {size:,.1f} MiB")
    if value["address"]:
        print_line(f"opened by: {value['address']}")


def print_imported(value: dict[str, Any], out: Path) -> None:
    """Prints what `tcaf import-checkpoint` made and how to go on."""
    print_line(f"{value['path']}: {value['weights']:,} weights")
    print_line(f"next: tcaf evaluate {out} --store {value['store']} --search_gamma")


def print_settings(value: dict[str, Any], origins: dict[str, str]) -> None:
    """Prints settings as a TOML file; a comment behind each says which layer it comes from.

    Args:
        value: nested as TOML files are.
        origins: name of the layer by name of the setting, `training.epochs`.
    """
    spaces = {f"text_spaces.{name}": own for name, own in value.get("text_spaces", {}).items()}
    sections = {n: content for n, content in value.items() if isinstance(content, dict)} | spaces
    plain = {name: content for name, content in value.items() if name not in sections}
    sections.pop("text_spaces", None)
    for section, content in ("", plain), *sections.items():
        if section and content:
            print_line(f"\n[{section}]")
        for name, setting in content.items():
            origin = origins.get(f"{section}.{name}" if section else name, "default")
            # TOML has no null: what may be none is left to its default, which none is.
            line = f"# {name} = none" if setting is None else tomli_w.dumps({name: setting}).strip()
            print_line(f"{line}  # {origin}")


def warn_on_edge(gamma: float, where: str, wider: str) -> None:
    """Says on the standard error that the best gamma lies on the edge of its grid.

    Args:
        gamma: the best one.
        where: the clips are from.
        wider: the option that goes beyond the grid.
    """
    advice = (
        f"a larger one ({wider}) may give a better harmonic mean"
        if gamma > 0
        else "the model does not favour seen classes, as an untrained one does not either"
    )
    print(
        f"warning: the best gamma on {where} clips, {gamma:g}, lies on the edge of the grid "
        f"searched; {advice}",
        file=sys.stderr,
    )


def print_rendered(value: dict[str, Any]) -> None:
    """Prints `RenderedWorld.summary`."""
    table = new_table("part", "videos")
    for part, clips in value["parts"].items():
        table.add_row(part, f"{clips:,}")
    print_rich(
        f"[bold]{escape(value['path'])}[/]: {value['clips']:,} videos of {value['classes']} "
        f"classes, {value['bytes'] / 2**20:,.1f} MiB",
        table,
        f"next: tcaf prepare videos {escape(value['path'])} --labels {escape(value['labels'])} "
        f"--classes {escape(value['split'])} --out STORE",
    )


def print_models(value: dict[str, Any]) -> None:
    """Prints `answers.ready.READY`."""
    for name, info in value.items():
        reads = " and ".join(info["modalities"])
        print_rich(
            f"[bold]{name}[/]  {reads}, {escape(info['classes'])}; {escape(info['size'])}",
            f"    fetched on first use: {escape(info['fetched'])}; licence: "
            f"{escape(info['licence'])}",
            f"    {escape(info['known'])}",
        )
    print_rich(
        'Ask one: [bold]tcaf predict imagenet clip.mp4 --classes "cat purring, dog barking"[/]; '
        "with + between them, several answer together, runs of your own too."
    )


def print_backbones(value: dict[str, Any]) -> None:
    """Prints `extract.backbones.BACKBONES`."""
    for name, info in value.items():
        options = "".join(f", {key}={default}" for key, default in info["options"].items())
        size = f"{info['dim']} numbers" if info["dim"].isdigit() else f"the size of {info['dim']}"
        every = "" if info["step_s"] is None else f" every {_step(info['step_s'])}"
        print_rich(
            f"[bold]{name}[/]  {info['modality'] or 'audio or visual'}, {size}{every}"
            f"{escape(options)}",
            f"    weights: {escape(info['weights'])}; licence: {escape(info['licence'])}",
        )
    print_rich(
        "Options follow the name, as in [bold]efficientnet_lite0:frames=4[/] or "
        "[bold]c3d:colours=release[/]; weights=random gives initial weights, for trying things "
        "out. A model stands before them, as in [bold]hf:openai/clip-vit-base-patch32,frames=4[/]."
    )


def _score_row(scores: dict[str, Any]) -> list[str]:
    return [shown(scores[name], ".2f", 100) for name in SCORES] + [f"{scores['gamma']:g}"]


def _area(scores: dict[str, Any]) -> str:
    return f"area under the seen-unseen curve {shown(scores['curve_area'], '.4f')}"


def _calibration(**parts: dict[str, Any]) -> list[str]:
    """Returns a line on the calibration error of each part; none without probabilities."""
    known = {
        part: own["error"] for part, scores in parts.items() if (own := scores.get("reliability"))
    }
    told = ", ".join(f"{100 * error:.1f} ({part})" for part, error in known.items())
    return [f"expected calibration error of probabilities, percent: {told}"] if told else []


def print_result(value: dict[str, Any], out: Path, store: Path) -> None:
    """Prints `result.json` and how to go on."""
    choice = value["choice"]
    table = new_table("", *SCORES.values(), "gamma", title="mean class accuracy, percent")
    table.add_row(f"validation, epoch {choice['epoch']}", *_score_row(choice["validation"]))
    table.add_row("[bold]test[/]", *(f"[bold]{cell}[/]" for cell in _score_row(value["test"])))
    print_rich(
        table,
        f"{_area(value['test'])}, {value['seconds']:.0f} s of training, seed {value['seed']}",
        *_calibration(validation=choice, test=value["test"]),
        f"kept in {escape(str(out))}: model.safetensors, result.json, metrics.jsonl",
        f"next: tcaf evaluate {escape(str(out))} --store {escape(str(store))} --per_class",
    )


def print_evaluation(value: dict[str, Any]) -> None:
    """Prints what `tcaf evaluate` found."""
    title = "mean class accuracy, percent"
    if value.get("transductive"):
        title += "; transductive"
    table = new_table("part", "clips", *SCORES.values(), "gamma", title=title)
    table.add_row(value["part"], f"{value['clips']:,}", *_score_row(value))
    # Clips together have no curve: classes would move elsewhere at each gamma.
    area = [] if value.get("transductive") else [_area(value)]
    print_rich(table, *area, *_calibration(**{value["part"]: value}))
    if "sets" in value:
        sets = value["sets"]
        covered = [shown(sets[half], ".1f", 100) for half in ("seen", "unseen")]
        print_rich(
            f"sets that may leave out the true class of {100 * sets['allowed']:g} % of the clips "
            f"hold it for {covered[0]} % of those of seen and {covered[1]} % of those of unseen "
            f"classes: {sets['size']:.1f} names in the mean, one in {100 * sets['single']:.1f} % "
            f"of them, none in {100 * sets['empty']:.1f} %"
        )
    if "per_class" in value:
        classes = new_table("class", "", "clips", "accuracy")
        rows = sorted(value["per_class"].items(), key=lambda row: (-row[1]["seen"], row[0]))
        for name, row in rows:
            kind = "seen" if row["seen"] else "[magenta]unseen[/]"
            classes.add_row(escape(name), kind, str(row["clips"]), f"{100 * row['accuracy']:.1f}")
        print_rich(classes)


def auxiliary_note(further: dict[str, Any]) -> str:
    """Returns what to say of the further videos that a run learnt from."""
    dropped = ", ".join(f"{label} ({near})" for label, near in further["labels_dropped"].items())
    missing = further.get("videos_missing", [])
    gone = f", {len(missing):,} that the store has not: {shorten(missing)}" if missing else ""
    return (
        f"auxiliary: {further['videos']:,} videos with {further['labels']:,} labels; not used: "
        f"{further['videos_known']:,} that the split has too{gone}, "
        f"{further.get('labels_rare', 0):,} labels of a single video, "
        f"{further['videos_dropped']:,} videos with a label near an unseen class, which are "
        f"{dropped or 'none'}"
    )


def start_note(known: dict[str, Any]) -> str:
    """Returns what to say of the classes of a ready model that a run learnt from."""
    dropped = [f"{name} ({near})" for name, near in known["classes_dropped"].items()]
    parts = [(dropped, "near an unseen class"), (known["classes_seen"], "called like a seen one")]
    told = [f"{len(names)} {why}" + f": {shorten(names, 8)}" * bool(names) for names, why in parts]
    return (
        f"start: {known['classes']:,} classes of {known['model']}; not used: {'; '.join(told)} "
        "(all are named in provenance.json)"
    )


def print_table(rows: list[dict[str, Any]], out: Path, files: Sequence[str]) -> None:
    """Prints the rows of a table of the paper, beside the paper's own numbers where it has them."""
    with_paper = any(row["paper"] for row in rows)
    paper = [f"paper {name}" for name in SCORES.values()] if with_paper else []
    table = new_table(
        "model",
        *SCORES.values(),
        *paper,
        "curve area",
        "seeds",
        title="mean class accuracy, percent",
    )
    for row in rows:
        if not row["means"]:
            cells = ["[red]failed[/]", *[""] * (len(SCORES) - 1)]
        else:
            cells = [_percent(row["means"][score], row["stds"][score]) for score in SCORES]
        if with_paper:
            cells += [f"{v:.2f}" for v in row["paper"]] if row["paper"] else [""] * len(SCORES)
        area = shown(row["means"]["curve_area"], ".3f") if row["means"] else ""
        table.add_row(escape(row["title"]), *cells, area, " ".join(map(str, row["seeds"])))
    print_rich(table)
    for row in rows:
        for seed, error in row["errors"].items():
            print_rich(f"[red]failed[/] {escape(row['title'])}, seed {seed}: {escape(error)}")
    print_rich(f"kept in {escape(str(out))}: {', '.join(files)}")


def _percent(mean: float | None, std: float | None) -> str:
    return shown(mean, ".2f", 100) + ("" if std is None else f" [dim]± {100 * std:.2f}[/]")


def print_doctor(value: dict[str, Any]) -> None:
    """Prints what is installed and what is missing."""
    packages = ", ".join(f"{name} {number}" for name, number in value["packages"].items())
    print_rich(
        f"[bold]tcaf {value['tcaf']}[/] on Python {value['python']}, {packages}",
        f"computes on {value['gpu'] or 'the CPU'} ({value['cpu_threads']} CPU threads)",
        f"presets: {', '.join(value['presets'])}",
    )
    for extra, found in value["extras"].items():
        if found["installed"]:
            print_rich(f"[green]have[/]    {extra}")
        else:
            missing = ", ".join(found["missing"])
            install = f"pip install 'tcaf\\[{extra}]'"
            print_rich(f"[yellow]missing[/] {extra} (needs {missing}): {install}")


def print_verdict(value: dict[str, Any]) -> None:
    """Prints what was found of one file of weights."""
    told = {
        "trusted": "[green]can be trusted[/]",
        "unknown": "[yellow]is what it says, no more is known[/]",
        "wrong": "[red]cannot be trusted[/]",
        "missing": "[yellow]could not be had[/]",
    }[value["state"]]
    print_rich(f"[bold]{escape(value['name'])}[/] {told}: {escape(value['detail'])}")
