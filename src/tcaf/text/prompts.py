"""Prompts: sentences around a class's name, for models that learnt from captions.

Owns the sets that come with the package (`prompts.toml`), and reading those of a user's own.
"""

import itertools
import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tcaf.errors import TCAFError, did_you_mean

NAME = "{}"
"""Where a template has the name."""


@lru_cache(maxsize=1)
def prompt_sets() -> dict[str, tuple[str, ...]]:
    """Returns the templates that come with the package, by the name of their set."""
    table = tomllib.loads(files("tcaf.text").joinpath("prompts.toml").read_text(encoding="utf-8"))
    return {name: _combined(content) for name, content in table.items()}


def _combined(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns templates with each combination of the parts that they name put in."""
    found = []
    for template in content["templates"]:
        named = re.findall(r"\{(\w+)\}", template)
        for chosen in itertools.product(*(content[name] for name in named)):
            filled = template
            for name, part in zip(named, chosen, strict=True):
                filled = filled.replace(f"{{{name}}}", part)
            found.append(filled)
    return tuple(found)


def read_prompts(text: str) -> tuple[str, ...]:
    """Returns templates, each with `NAME` once.

    Args:
        text: the name of a set, or the path of a text file with a template a line, in which empty
            lines and those that begin with # do not count; nothing for the name alone.

    Raises:
        TCAFError: neither, or a line without `NAME`, or with more of it.
    """
    if not text:
        return (NAME,)
    if text in prompt_sets():
        return prompt_sets()[text]
    path = Path(text)
    if not path.is_file():
        raise TCAFError(
            f"expected text.prompts to be one of {', '.join(prompt_sets())}, or a file of "
            f"templates, got {text!r}{did_you_mean(text, prompt_sets())}"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TCAFError(f"expected a file of templates at {path}: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line.count(NAME) != 1:
            raise TCAFError(
                f"{path}, line {number}: expected a template with {NAME} once, for the name, found "
                f"{line!r}"
            )
        found.append(line.strip())
    if not found:
        raise TCAFError(f"{path}: expected templates, one a line, found none")
    return tuple(found)


def prompted(phrases: list[str], templates: tuple[str, ...]) -> list[str]:
    """Returns each phrase in each template, phrase by phrase."""
    return [template.replace(NAME, phrase) for phrase in phrases for template in templates]
