"""The command `tcaf`: reads arguments, says in one line what is wrong with them, and exits.

Exit status: 0 done, 2 something the user can mend, 130 and 143 interrupted by SIGINT and SIGTERM.
What the commands do is in the modules beside this one, of which only the one that is asked for is
imported: nobody waits for torch to read a help text.
"""

import functools
import importlib
import inspect
import operator
import os
import signal
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from tcaf.commands.catalogue import (
    COMMANDS,
    GROUPS,
    INTRODUCTION,
    OF_RANKS,
    OWN_CONFIG,
    words_of,
)
from tcaf.execution import ranks

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError


def load_command(words: tuple[str, ...], show_all: bool = False) -> Callable[..., Any]:
    """Imports a command and returns it in the command line's form.

    Args:
        words: a key of `COMMANDS`.
        show_all: whether its help lists every setting.
    """
    from tcaf.commands.options import as_command, typed_settings
    from tcaf.experiments.presets import data_presets

    entry = COMMANDS[words]
    module, _, name = entry.function.partition(":")
    function = getattr(importlib.import_module(f"tcaf.commands.{module}"), name)
    if not entry.ready:
        settings = None if entry.settings is None else typed_settings(show_all, entry.settings)
        names = {"PRESETS": ", ".join(data_presets())} if entry.settings else {}
        function = as_command(function, positional=entry.positional, settings=settings, names=names)
    return function


def build_app(asked: Sequence[tuple[str, ...]], show_all: bool = False) -> "App":
    """Returns the command line.

    Args:
        asked: the commands that are imported; of the others there is their line of help.
        show_all: whether help lists every setting.
    """
    from cyclopts import App, Parameter

    app = App(
        name="tcaf",
        help=INTRODUCTION,
        version=_version,
        name_transform=_same,
        default_parameter=Parameter(name_transform=_same, negative_iterable=(), negative_none=()),
        help_format="markdown",
        help_on_error=False,
    )
    groups = {name: App(name=name, help=text) for name, text in GROUPS.items()}
    for number, (words, entry) in enumerate(COMMANDS.items()):
        place = app if len(words) == 1 else groups[words[0]]
        if place is not app and words[0] not in app:
            place.sort_key = number
            app.command(place)
        function = load_command(words, show_all) if words in asked else _unread
        more = entry.settings and not show_all
        place.command(
            function,
            name=words[-1],
            help=None if words in asked else entry.help,
            help_epilogue=f"All settings: `tcaf {' '.join(words)} --help-all`" if more else None,
            sort_key=number,
        )
    app.register_install_completion_command(name="--install-completion")
    return app


def _same(name: str) -> str:
    return name


def _version() -> str:
    from importlib.metadata import version

    return version("tcaf")


def _unread() -> None:
    """Stands for a command that nobody asked for."""


def parse(tokens: Sequence[str]) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """Returns the command that arguments name, and what it is to be called with.

    Raises:
        UsageError: the arguments are wrong.
    """
    from cyclopts import CycloptsError

    show_all = "--help-all" in tokens
    rest = ["--help" if each == "--help-all" else each for each in tokens]
    words = words_of(rest)
    # A completion script knows them all.
    asked = list(COMMANDS) if "--install-completion" in rest[:1] else [words] if words else []
    app = build_app(asked, show_all)
    if words and words[0] not in OWN_CONFIG:
        rest = _take_files(app, rest)
    if not rest:
        app.help_print([])
        raise UsageError("name a command, such as tcaf train; all are listed above")
    try:
        command, bound, _ = app.parse_args(rest, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(in_words(error, words)) from None
    return command, bound


def _take_files(app: "App", tokens: list[str]) -> list[str]:
    """Lets the TOML files behind --config set what is not typed; returns the other arguments."""
    from cyclopts.config import Dict

    from tcaf.experiments.presets import read_toml

    files: list[str] = []
    rest: list[str] = []
    arguments = iter(tokens)
    for argument in arguments:
        if argument == "--":
            rest += [argument, *arguments]
        elif argument == "--config":
            files.append(next(arguments, ""))
        elif argument.startswith("--config="):
            files.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    # The first that sets an option wins, and later files are to.
    app.config = [
        Dict(read_toml(Path(file)), source=file, use_commands_as_keys=False)
        for file in reversed(files)
    ]
    return rest


class UsageError(Exception):
    """What is wrong with the arguments, in one line."""


def in_words(error: "CycloptsError", words: tuple[str, ...] = ()) -> str:
    """Returns what is wrong with arguments in one line: what came, what is expected or nearest.

    Args:
        error: of cyclopts; its type and fields are read, never its text.
        words: of the command.
    """
    import cyclopts

    from tcaf.errors import did_you_mean
    from tcaf.settings.validation import wrong_value

    if isinstance(error, cyclopts.UnknownOptionError):
        asked = (error.token.keyword or error.token.value).strip("[]")
        known = sorted({name for each in error.argument_collection for name in each.names})
        if not asked.startswith("--") or Path(asked).exists():
            # As the names of files do that are called after videos on YouTube.
            return f"unknown option {asked!r}; a name is given behind a lone --, or as ./{asked}"
        return f"unknown option {asked!r}{_nearest_option(asked, known)}"
    if isinstance(error, cyclopts.UnknownCommandError):
        asked = (error.unused_tokens or [""])[0]
        before = tuple(error.command_chain or ())
        names = {key[len(before)] for key in COMMANDS if key[: len(before)] == before}
        if before in COMMANDS:
            return f"unexpected argument {asked!r}"
        told = " ".join((*before, asked))
        return f"there is no command {told!r}{did_you_mean(asked, sorted(names))}"
    if isinstance(error, cyclopts.CoercionError) and error.argument and error.token:
        name = error.argument.name.lstrip("-")
        hint = error.argument.hint
        if NoneType in get_args(hint):
            # That an option may be absent is no choice of whoever types it.
            kinds = [each for each in get_args(hint) if each is not NoneType]
            hint = functools.reduce(operator.or_, kinds)
        if get_origin(hint) in (list, Sequence) and error.target_type is not None:
            hint = error.target_type  # of one of its words
        return wrong_value(name, error.token.value, hint)
    if isinstance(error, cyclopts.MissingArgumentError) and error.argument:
        if error.keyword:
            return f"{error.keyword} needs a value"
        # A name that is misspelt is the likelier reason.
        if strange := [each for each in error.unused_tokens or () if each.startswith("--")]:
            return f"unknown option {strange[0]!r}{_nearest_option(strange[0], options_of(words))}"
        return f"tcaf {' '.join(words)}: required: {error.argument.name}"
    if isinstance(error, cyclopts.RepeatArgumentError):
        return f"{error.token.keyword} is given twice"
    if isinstance(error, cyclopts.UnusedCliTokensError):
        return f"unexpected argument {(error.unused_tokens or [''])[0]!r}"
    return " ".join(str(error).split())


def options_of(words: tuple[str, ...]) -> list[str]:
    """Returns the names of a command's options."""
    app = build_app([words])
    manner = app.default_parameter
    for word in words:
        app = app[word]
    found = app.assemble_argument_collection(default_parameter=manner)
    return sorted(name for each in found for name in each.names)


def _nearest_option(asked: str, known: Sequence[str]) -> str:
    """Returns the option nearest to a name, whole or in its last part."""
    import difflib

    close = difflib.get_close_matches(asked, known, n=1)
    if not close:
        leaves = {name.rsplit(".", 1)[-1].lstrip("-"): name for name in known}
        last = asked.rsplit(".", 1)[-1].lstrip("-")
        close = [leaves[leaf] for leaf in difflib.get_close_matches(last, leaves, n=1)]
    return f"; did you mean {close[0]!r}?" if close else ""


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
        # A process that ends with others has its own way to take it (`execution.ranks`).
        if signal.getsignal(signal.SIGTERM) is raise_terminated:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _first_rank_shows() -> Iterator[None]:
    """Lets results be shown once, whatever the number of processes that torchrun has started."""
    with ExitStack() as stack:
        if ranks.started().index:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
        yield


def _refuse_ranks(words: tuple[str, ...]) -> None:
    """Refuses processes of torchrun for commands that each of them would do from end to end.

    Raises:
        UsageError: there are several.
    """
    count = ranks.started().count
    if count > 1 and words and words not in OF_RANKS:
        known = ", ".join(f"tcaf {' '.join(each)}" for each in OF_RANKS)
        raise UsageError(
            f"tcaf {' '.join(words)} is done by one process, and torchrun has started {count}; "
            f"start it without torchrun, which is for {known}"
        )


def _show_warning(message: Warning | str, *_: Any) -> None:
    from tcaf.errors import one_line

    if not ranks.speaks():
        return
    print(f"warning: {one_line(str(message))}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    asked = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _sigterm_interrupts(), warnings.catch_warnings(), _first_rank_shows():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            _refuse_ranks(words_of(asked))
            command, bound = parse(asked)
            with ranks.joined():
                command(*bound.args, **bound.kwargs)
    except KeyboardInterrupt as stop:
        entry = COMMANDS.get(words_of(asked))
        if ranks.speaks():
            print(f"\ninterrupted{entry.carries_on if entry else ''}", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except ranks.EndedElsewhereError:
        return 2
    except BrokenPipeError:
        # The reader of our output has gone; what is left to flush has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UsageError, ValueError, OSError, MemoryError, RuntimeError) as error:
        return _complain(_one_line(error))
    return 0


def _one_line(error: Exception) -> str:
    """Returns what a user can mend as one line; raises anything else again."""
    from tcaf.errors import TCAFError
    from tcaf.execution.memory import is_out_of_memory

    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"cannot read or write {error.filename}: {error.strerror}"
    if isinstance(error, UsageError | TCAFError | OSError):
        return str(error)
    if is_out_of_memory(error):
        return "this does not fit into memory; lower the sizes or numbers asked for"
    raise error


_LONGEST = 2000
"""Characters of a line that says what is wrong."""


def _complain(message: str) -> int:
    from tcaf.errors import one_line

    if not ranks.speaks():
        return 2
    words = one_line(message)
    if len(words) > _LONGEST:
        # A damaged file may hold a name that fills a screen.
        words = f"{words[: _LONGEST // 2]} … {words[-_LONGEST // 2 :]}"
    print(f"tcaf: {words}", file=sys.stderr)
    return 2
