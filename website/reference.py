"""The pages of the site that follow from the code: commands, settings, Python.

Owns how signatures and docstrings become Markdown. Nothing of it is committed: `hooks` calls it
while the site is built. What `tcaf COMMAND --help` prints comes from the same functions.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cyclopts import Parameter
from docstring_parser import parse as parse_docstring

import tcaf
from tcaf.commands.catalogue import COMMANDS, GROUPS, INTRODUCTION
from tcaf.commands.entry import load_command
from tcaf.settings.experiment import SECTIONS
from tcaf.settings.validation import range_of
from tcaf.systems.reads import own_options
from tcaf.systems.registry import SYSTEMS

API_ROOMS = {
    "answers": "Answers",
    "data": "Features and stores",
    "training": "Runs and models",
    "evaluation": "Scores",
    "settings": "Settings",
    "systems": "Systems",
    "extract": "Backbones",
    "errors": "Errors",
}
"""Headings of the page about Python, by the room that a public name lives in."""


def commands_page() -> str:
    """Returns every command with its options."""
    blocks = ["# Commands", INTRODUCTION.partition("\n\n")[2]]
    blocks.append(
        "`--help` of each command says the same. Where a command takes settings of a run, they are "
        "options too: [settings](settings.md). All commands take `--config FILE`, a TOML file that "
        "holds their options. Exit status: 0 done, 2 something that you can mend, 130 and 143 "
        "interrupted."
    )
    group = ""
    for words, entry in COMMANDS.items():
        if len(words) == 2 and words[0] != group:
            group = words[0]
            blocks.append(f"## tcaf {group}\n\n{GROUPS[group]}")
        depth = "###" if len(words) == 2 else "##"
        function = load_command(words)
        blocks.append(f"{depth} tcaf {' '.join(words)}")
        blocks.append(inspect.cleandoc(function.__doc__ or ""))
        blocks.append("\n".join(_options(function)))
        if entry.settings is not None:
            sections = ", ".join(f"[{name}](settings.md#{name})" for name in entry.settings)
            blocks.append(f"Settings: {sections}.")
    return "\n\n".join(blocks) + "\n"


def _options(function: Any) -> Iterator[str]:
    for name, parameter in inspect.signature(function).parameters.items():
        notes = _notes(parameter.annotation)
        if notes is not None and notes.name == ("*",):
            continue  # the settings of a run
        positional = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        shown = name.upper() if positional else f"--{name}"
        said = [notes.help or ""] if notes is not None else []
        if choices := _choices(parameter.annotation):
            said.append(f"*One of: {', '.join(choices)}.*")
        if parameter.default is inspect.Parameter.empty:
            said.append("*Required.*")
        elif parameter.default not in (None, "", (), [], False):
            said.append(f"*Default: {_value(parameter.default)}.*")
        yield f"- `{shown}`: {' '.join(said)}"


def _notes(hint: Any) -> Parameter | None:
    found = [each for each in get_args(hint)[1:] if isinstance(each, Parameter)]
    return found[0] if found else None


def _choices(hint: Any) -> list[str]:
    """Returns the words that an annotation allows, if it allows only some."""
    if get_origin(hint) is Literal:
        return [str(each) or '""' for each in get_args(hint)]
    inner = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return [word for each in inner if each is not NoneType for word in _choices(each)]


def _value(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def settings_page() -> str:
    """Returns every setting of a run: its default, its range, its meaning."""
    blocks = [
        "# Settings",
        "A setting is an option, as in `--training.epochs 30`, or a line in a TOML file that "
        "`--config` names. Defaults are the paper's; presets of the data and of the system win "
        "over them, files over these, and what is typed over all: `tcaf settings --store STORE` "
        "shows what would be in force and where each comes from. A setting that the system does "
        "not read is refused.",
        "```toml\n[training]\nepochs = 30\n```",
    ]
    for section, kind in SECTIONS.items():
        blocks.append(f"## {section}")
        blocks += _section(kind, [each.name for each in fields(kind)], f"{section}.")
    blocks.append("## options")
    blocks.append("Settings of one system alone, as in `--options.dropout 0.2`.")
    for name, system in SYSTEMS.items():
        if own := own_options(system):
            blocks.append(f"### {name}")
            blocks += _section(system.config, own, "options.", first_line=False)
    return "\n\n".join(blocks) + "\n"


def _section(kind: Any, names: list[str], prefix: str, *, first_line: bool = True) -> Iterator[str]:
    document = parse_docstring(kind.__doc__ or "")
    if first_line and document.short_description:
        yield document.short_description
    helps = {each.arg_name: " ".join((each.description or "").split()) for each in document.params}
    hints: Mapping[str, Any] = get_type_hints(kind, include_extras=True)
    known: dict[str, Field] = {each.name: each for each in fields(kind)}
    lines = []
    for name in names:
        said = [helps.get(name, "")]
        if choices := _choices(hints[name]):
            said.append(f"*One of: {', '.join(choices)}.*")
        if limits := range_of(hints[name]):
            said.append(f"*{limits[:1].upper()}{limits[1:]}.*")
        lines.append(f"- `{prefix}{name}` = `{_default(known[name])}`: {' '.join(said)}")
    yield "\n".join(lines)


def _default(field: Field) -> str:
    if field.default is not MISSING:
        return _value(field.default)
    return _value(field.default_factory()) if field.default_factory is not MISSING else "given"


def api_page() -> str:
    """Returns the public names, which mkdocstrings replaces by signatures and docstrings."""
    blocks = [
        "# Python",
        "These names are the public face of the package: `from tcaf import ...`. Deeper paths are "
        "free to move. What a name does when something is wrong is under *Raises*; what a user can "
        "mend is a `TCAFError`, whose text is one sentence.",
    ]
    homes = {name: tcaf._HOMES[name] for name in tcaf.__all__}
    for room, title in API_ROOMS.items():
        blocks.append(f"## {title}")
        own = [name for name, home in homes.items() if home.partition(".")[0] == room]
        blocks += [f"::: tcaf.{homes[name]}.{name}" for name in own]
        for name in own:
            del homes[name]
    assert not homes, f"rooms without a heading: {homes}"
    return "\n\n".join(blocks) + "\n"
