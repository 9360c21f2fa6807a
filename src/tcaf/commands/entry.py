"""The command `tcaf`: reads arguments, says in one line what is wrong with them, and exits.

Exit status: 0 done, 2 something the user can mend, 130 and 143 interrupted by SIGINT and SIGTERM.
What the commands do is `commands`.
"""

import difflib
import inspect as python_inspect
import os
import re
import signal
import sys
import types
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, get_args, get_origin

from docstring_parser import parse as parse_docstring
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]

from tcaf.commands.families import COMMANDS, GROUP_HELP, Command, run_command
from tcaf.errors import TCAFError, did_you_mean
from tcaf.experiments.presets import preset_names, preset_path, read_settings
from tcaf.extract.backbones import BACKBONES
from tcaf.systems.registry import SYSTEMS

_NAMES = {
    "AUDIO_BACKBONES": [name for name, info in BACKBONES.items() if info.modality == "audio"],
    "VISUAL_BACKBONES": [name for name, info in BACKBONES.items() if info.modality == "visual"],
    "SYSTEMS": list(SYSTEMS),
}
"""What help texts list, by the word that stands for it there."""


def _resolve_presets(arguments: list[str]) -> list[str]:
    """Replaces the name of a preset after `--config` by the path of its file."""
    if arguments[:1] == ["reproduce"]:
        return arguments  # it needs the names: those of the systems' presets follow from them
    resolved = list(arguments)
    for index, argument in enumerate(arguments):
        if argument.startswith("--config="):
            resolved[index] = "--config=" + _preset_path(argument.removeprefix("--config="))
        elif index and arguments[index - 1] == "--config":
            resolved[index] = _preset_path(argument)
    return resolved


def _underscored(argument: str) -> str:
    """Returns `--classes_file=x` for `--classes-file=x`: people expect either."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _preset_path(name: str) -> str:
    if name in preset_names():
        return str(preset_path(name))
    read_settings(name)
    return name


def _parser(description: str, **settings: Any) -> ArgumentParser:
    """Returns a parser that reads TOML, takes no abbreviations and raises what is wrong."""
    return ArgumentParser(
        description=description,
        parser_mode="toml",
        exit_on_error=False,
        allow_abbrev=False,
        **settings,
    )


def _command_parser(name: str, command: Command) -> ArgumentParser:
    documentation = parse_docstring(command.function.__doc__ or "")
    helps = {p.arg_name: p.description or "" for p in documentation.params}
    description = "\n\n".join(
        text for text in (documentation.short_description, documentation.long_description) if text
    ).replace("PRESETS", ", ".join(preset_names()))
    parser = _parser(description)
    parameters = python_inspect.signature(command.function).parameters
    # All options follow below, explained; a list of their names first would fill the screen.
    required = {n for n, p in parameters.items() if p.default is p.empty} - {*command.positional}
    shown = [word.upper() for word in command.positional]
    shown += [f"--{n} {n.upper()}" for n in parameters if n in required]
    parser.usage = " ".join(["tcaf", name, *shown, "[options]"])
    flags = [n for n, parameter in parameters.items() if parameter.annotation is bool]
    for word in command.positional:
        kind = parameters[word].annotation
        if get_origin(kind) is list:
            parser.add_argument(word, type=get_args(kind)[0], help=helps[word], nargs="+")
        else:
            parser.add_argument(word, type=kind, help=helps[word])
    if "config" not in parameters:
        help_ = "a TOML file with any of the options below, or a preset; may be given repeatedly"
        parser.add_argument("--config", action=ActionConfigFile, help=help_)
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true", help=helps[flag])
    if command.prepares:
        parser.add_argument("--json", action="store_true", help="print the result as JSON.")
    skip: set[str | int] = {*command.positional, *flags}
    skip |= {"track"} & set(parameters)
    for word, parameter in parameters.items():
        if get_origin(parameter.annotation) in (list, Sequence) and word not in skip:
            # Several words behind one option: jsonargparse alone would want them as JSON.
            kind = get_args(parameter.annotation)[0]
            settings = {"type": kind, "nargs": "+", "default": list(parameter.default)}
            if not parameter.default:
                settings["action"] = "extend"  # given twice, both count
            parser.add_argument(f"--{word}", help=helps[word], **settings)
            skip.add(word)
    parser.add_function_arguments(command.function, as_positional=False, skip=skip)
    for action in parser._actions:
        for placeholder, names in _NAMES.items():
            if action.help:
                action.help = action.help.replace(placeholder, ", ".join(names))
    return parser


def build_parser() -> ArgumentParser:
    """Returns the parser of the whole command line."""
    parser = _parser(
        "Audio-visual zero-shot video classification. Begin with `tcaf prepare synthetic --out "
        "world` and `tcaf train --config synthetic --store world --out run`.",
        prog="tcaf",
        version=version("tcaf"),
    )
    subcommands = parser.add_subcommands(dest="command", help="what to do:")
    for name, entry in COMMANDS.items():
        if isinstance(entry, Command):
            short = parse_docstring(entry.function.__doc__ or "").short_description
            subcommands.add_subcommand(name, _command_parser(name, entry), help=short)
            continue
        # jsonargparse wants a group to be added before what is in it.
        group = _parser(GROUP_HELP[name])
        subcommands.add_subcommand(name, group, help=GROUP_HELP[name])
        inner = group.add_subcommands(dest="kind", help="one of:")
        for kind, command in entry.items():
            short = parse_docstring(command.function.__doc__ or "").short_description
            inner.add_subcommand(kind, _command_parser(f"{name} {kind}", command), help=short)
    return parser


def _call(parser: ArgumentParser, parsed: Namespace) -> None:
    """Calls the command that the arguments name."""
    made = parser.instantiate(parsed)
    entry, values = COMMANDS[made.command], made[made.command]
    if isinstance(entry, dict):
        entry, values = entry[values.kind], values[values.kind]
    # Most commands have no such parameter: files were read into the others.
    own = python_inspect.signature(entry.function).parameters
    arguments = {n: value for n, value in vars(values).items() if n != "config" or n in own}
    run_command(entry, arguments)


def _one_line(error: Exception, parser: ArgumentParser) -> str:
    """Returns an argument error as one line: what was expected, what came, what is nearest."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r"required: (?:\w+\.)*(\w+)$", r"required: --\1", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("typing.", "")
    if choice := re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", text):
        return text + did_you_mean(choice[1], re.findall(r"'(.+?)'", choice[2]))
    wrong = r'Parser key "(.+?)"(?: element \d+)?: Expected an? (.+)\. Got value: (.+)'
    if value := re.search(wrong, text):
        key, expected, got = value.groups()
        hint = did_you_mean(got, re.findall(r"'(.+?)'", expected))
        expected = re.sub(r"Literal\[(.+?)\]", r"one of \1", expected)
        return f"{key}: expected {expected}, got {got!r}{hint}"
    union = re.search(r'key "(.+?)": Does not .*Subtypes: \[(.+?)\].* Given value: (.+)', text)
    if union:
        expected = union[2].replace("NoneType", "null").replace(", ", " or ")
        return f"{union[1]}: expected {expected}, got {union[3]!r}"
    unknown = re.search(r"unrecognized arguments: (\S+)|does not accept .*?'([^']+)'", text)
    if not unknown:
        return text
    asked = (unknown[1] or unknown[2]).split("=")[0].lstrip("-")
    options = sorted(_option_names(parser))
    leaves = {option.rsplit(".", 1)[-1]: option for option in options}
    close = difflib.get_close_matches(asked, options, n=1) or [
        leaves[leaf] for leaf in difflib.get_close_matches(asked.rsplit(".", 1)[-1], leaves, n=1)
    ]
    return f"unknown option {asked!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _option_names(parser: ArgumentParser) -> set[str]:
    names: set[str] = set()
    for action in parser._actions:
        names |= {option.lstrip("-") for option in action.option_strings if option[:2] == "--"}
        for inner in getattr(action, "_name_parser_map", {}).values():
            names |= _option_names(inner)
    return names


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that nothing half-written is left behind."""

    def raise_terminated(number: int, frame: types.FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    asked = list(map(_underscored, sys.argv[1:] if arguments is None else arguments))
    parser = build_parser()
    try:
        with _sigterm_interrupts(), warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            _call(parser, parser.parse_args(_resolve_presets(asked)))
    except TCAFError as error:
        return _complain(str(error))
    except ArgumentError as error:
        return _complain(_one_line(error, parser))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return _complain("this does not fit into memory; lower the sizes or numbers asked for")
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our output has gone; what is left to flush has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _complain(str(error))
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        carries_on = {
            "train": "; the same command with --resume carries on",
            "reproduce": "; the same command carries on",
            "prepare videos": "; the same command carries on",
        }
        hint = carries_on.get(asked[0] if asked else "", carries_on.get(" ".join(asked[:2]), ""))
        print(f"\ninterrupted{hint}", file=sys.stderr)
        return 143 if terminated else 130
    return 0


def _complain(message: str) -> int:
    print(f"tcaf: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
