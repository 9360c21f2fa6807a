"""The names that a person chooses from on the page: lists that ship, and a box to type in.

Owns which lists there are, and how a box is read.
"""

from collections.abc import Callable, Iterable
from functools import cache

from tcaf.data.splits import load_benchmark
from tcaf.text.candidates import split_names

MODEL = "The model's classes"
OWN = "Names of your own"


@cache
def _benchmark(name: str) -> tuple[str, ...]:
    return tuple(load_benchmark(name).words.values())


@cache
def _audioset() -> tuple[str, ...]:
    from tcaf.answers.audioset import open_audioset  # brings torch

    return tuple(open_audioset().classes.names)


LISTS: dict[str, Callable[[], tuple[str, ...]]] = {
    "UCF101 (actions)": lambda: _benchmark("ucf"),
    "VGGSound (sounds in sight)": lambda: _benchmark("vggsound"),
    "ActivityNet (activities)": lambda: _benchmark("activitynet"),
    "AudioSet (sounds)": _audioset,
}
"""Lists of class names that come with the package, by what people call them."""


def choices() -> list[str]:
    """Returns what lists of names may be picked from."""
    return [OWN, MODEL, *LISTS]


def names_in(text: str, known: Iterable[str]) -> list[str]:
    """Returns the names in a box: one a line, or all on one line with commas between them.

    Empty lines do not count, nor do names that are there twice.

    Args:
        text: of the box.
        known: names that may hold commas, for a single line.
    """
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [line for line in lines if line]
    if len(lines) == 1:
        known = list(known)
        lines = lines if lines[0] in known else split_names(lines[0], known)
    return list(dict.fromkeys(lines))


def as_text(names: Iterable[str]) -> str:
    """Returns names as a box shows them: one a line."""
    return "\n".join(names)


def picked(list_name: str, text: str) -> str:
    """Returns what a box of names holds once a list is picked.

    Args:
        list_name: of `choices`.
        text: what the box held.
    """
    if list_name == OWN:
        return text
    return "" if list_name == MODEL else as_text(LISTS[list_name]())
