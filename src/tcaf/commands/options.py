"""Options from signatures: what a command takes, as the command line shows and reads it.

Owns the options of a run's settings, which follow from the sections of `settings`, the shape of a
function's parameters on the command line, and the reading of values of a system's own options.
Nothing here imports torch: a help text is read by somebody who waits.
"""

import functools
import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter
from docstring_parser import parse as parse_docstring

from tcaf.settings.experiment import SECTIONS
from tcaf.settings.validation import range_of

COMMON = frozenset(
    {
        *("data.split", "text.source", "text.path", "text.phrases", "text.words"),
        *("model.modalities", "training.epochs", "training.learning_rate", "training.batch_size"),
        *("training.window_s", "training.device"),
    }
)
"""The settings that `--help` lists; `--help-all` lists all."""

NONE = "none"
"""The word for no value, where a setting may have none."""

Words = Annotated[list[str], Parameter(consume_multiple=True, negative=())]
"""Several words behind one option."""


def typed_settings(show_all: bool, sections: Sequence[str] = tuple(SECTIONS)) -> type:
    """Returns a class that holds the settings that were typed, and None for all others.

    Args:
        show_all: whether the help lists every setting, or the common ones alone.
        sections: the ones that a command takes.
    """
    parts = [
        (
            section,
            Annotated[
                _typed_section(section, show_all),
                Parameter(group=Group(_title(section), sort_key=10 + number)),
            ],
            field(default_factory=_typed_section(section, show_all)),
        )
        for number, section in enumerate(sections)
    ]
    # Under a name of our own: cyclopts looks into no class of Python's modules.
    return make_dataclass("Settings", parts, namespace={"__module__": __name__})


@functools.cache
def _typed_section(section: str, show_all: bool) -> type:
    kind = SECTIONS[section]
    helps = _helps(kind.__doc__)
    hints = get_type_hints(kind, include_extras=True)
    parts = []
    for each in fields(kind):
        name = f"{section}.{each.name}"
        limits = range_of(hints[each.name])
        default = _shown(each.default)
        parameter = Parameter(
            help=helps[each.name] + (f" ({limits})" if limits else ""),
            show=show_all or name in COMMON,
            show_choices=each.default is not None,
            show_default=functools.partial(_constant, default) if default else False,
            consume_multiple=True,
        )
        parts.append((each.name, Annotated[_typed(hints[each.name]), parameter], None))
    return make_dataclass(section.title(), parts, namespace={"__module__": __name__})


def _constant(value: str, _: Any) -> str:
    return value


def _shown(default: Any) -> str:
    if default is None:
        return NONE
    return " ".join(default) if isinstance(default, tuple) else str(default)


def _typed(hint: Any) -> Any:
    """Returns a setting's type as it can be typed: absent, or a value, or the word for none."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if type(None) in get_args(hint):
        inner = [_bare(part) for part in get_args(hint) if part is not type(None)]
        return inner[0] | Literal[NONE] | None
    return hint | None


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _title(section: str) -> str:
    document = parse_docstring(SECTIONS[section].__doc__ or "").short_description or ""
    return f"{section}: {document.rstrip('.')}"


def nested(typed: Any) -> dict[str, dict[str, Any]]:
    """Returns the settings that were typed, nested as TOML files are."""
    found: dict[str, dict[str, Any]] = {}
    for section in fields(typed):
        values = vars(getattr(typed, section.name))
        given = {n: None if v == NONE else v for n, v in values.items() if v is not None}
        if given:
            found[section.name] = given
    return found


def typed_options(
    typed: Any, options: Mapping[str, str] | None, seed: int | None = None
) -> dict[str, Any]:
    """Returns all that was typed, nested as TOML files are.

    Args:
        typed: of `typed_settings`.
        options: of a system alone, as text.
        seed: if it was typed.
    """
    found: dict[str, Any] = nested(typed)
    if options:
        found["options"] = scalars(options)
    return found if seed is None else {**found, "seed": seed}


def scalars(given: Mapping[str, str] | None) -> dict[str, Any]:
    """Reads values of a system's own options as TOML does; quotes around words may be left out."""
    found: dict[str, Any] = {}
    for name, text in (given or {}).items():
        try:
            found[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = text
    return found


def _helps(document: str | None) -> dict[str, str]:
    parsed = parse_docstring(document or "")
    return {each.arg_name: " ".join((each.description or "").split()) for each in parsed.params}


def as_command(
    function: Callable[..., Any],
    *,
    positional: Sequence[str] = (),
    without: Sequence[str] = (),
    call: Callable[..., Any] | None = None,
    more: Mapping[str, tuple[Any, Any, str]] | None = None,
    settings: type | None = None,
    names: Mapping[str, str] | None = None,
    types: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Returns a function whose signature is the command line's form of another's.

    Parameters are options but for the positional ones; lists take several words; none of them has
    an opposite `--no-...` but truth values that are on by default.

    Args:
        function: whose signature and docstring are taken.
        positional: parameters that are given without their name.
        without: parameters that the command line does not offer.
        call: what is called in place of `function`.
        more: further options: annotation, default and help by name.
        settings: of `typed_settings`, for a function with a parameter `settings`.
        names: what stands in help texts for a word in capitals.
        types: of parameters that the command line takes in one form of several.
    """
    helps = _helps(_named(function.__doc__ or "", names or {}))
    hints = {**get_type_hints(function, include_extras=True), **(types or {})}
    parameters = []
    for name, old in inspect.signature(function).parameters.items():
        if name == "settings" and settings is not None:
            hint = Annotated[settings, Parameter(name="*")]  # type: ignore[valid-type]
            parameters.append(_parameter(name, hint, settings(), None, False))
        elif name not in without:
            help_ = helps.get(name)
            parameters.append(_parameter(name, hints[name], old.default, help_, name in positional))
    for name, (hint, default, help_) in (more or {}).items():
        parameters.append(_parameter(name, hint, default, help_, False))
    # Positional ones first, in their own order.
    parameters.sort(key=lambda each: each.kind)

    def command(*args: Any, **values: Any) -> Any:
        bound = signature.bind(*args, **values)
        bound.apply_defaults()
        return (call or function)(**bound.arguments)

    signature = inspect.Signature(parameters)
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    parsed = parse_docstring(function.__doc__ or "")
    texts = (parsed.short_description, parsed.long_description)
    command.__doc__ = "\n\n".join(text for text in texts if text)
    command.__name__ = function.__name__
    return command


def _named(text: str, names: Mapping[str, str]) -> str:
    for word, listed in names.items():
        text = text.replace(word, listed)
    return text


def _parameter(
    name: str, hint: Any, default: Any, help_: str | None, positional: bool
) -> inspect.Parameter:
    notes: dict[str, Any] = {} if help_ is None else {"help": help_}
    inner = _bare(hint)
    kinds = {get_origin(each) for each in (inner, *get_args(inner))}
    if kinds & {list, Sequence} and not positional:
        notes["consume_multiple"] = True
    if inner is bool and default is False:
        notes |= {"negative": (), "show_default": False}
    if default in (None, "", ()) or default == []:
        notes["show_default"] = False
    elif isinstance(default, tuple):
        notes["show_default"] = functools.partial(_constant, _shown(default))
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY
    annotation = Annotated[hint, Parameter(**notes)] if notes else hint
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
