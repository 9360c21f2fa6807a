"""The package's own error and the words it is made of.

Owns what a user reads when an input is wrong, and that nothing which is read can steer a terminal.
A command prints the message as one line and exits 2; a program catches `TCAFError`, which is a
`ValueError`.
"""

import difflib
import re
from collections.abc import Iterable

MANY = 10_000
"""Options beyond which nobody waits for the nearest one to be found."""


class TCAFError(ValueError):
    """Something the user can mend: says what was expected, what came, and where."""


class MissingExtraError(TCAFError):
    """A package is not installed that an extra brings; the message names the extra."""


STEERING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that a terminal obeys, that turn the order of what it shows, or that are no text."""


def printable(text: str) -> str:
    """Returns a text whose characters are all shown: names of files may hold escape sequences.

    What would steer a terminal is written out as Python does, `\\x1b`; line feeds stay.
    """
    return STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def is_unicode(text: str) -> bool:
    """Returns whether a text is whole characters: pickles and names of files may hold halves."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def in_unicode(text: str) -> str:
    """Returns a text as files can hold it: bytes of a file's name that are no UTF-8 as `\\xff`."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def one_line(text: str) -> str:
    """Returns a message as one line, all of whose characters are shown."""
    return printable(re.sub(r"\s*\n\s*", " ", text.strip()))


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the option nearest to `name`, or an empty string."""
    options = list(options)
    if len(options) > MANY:
        return ""
    by_folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    return f"; did you mean {by_folded[close[0]]!r}?" if close else ""


def shorten(names: Iterable[str], limit: int = 3) -> str:
    """Returns the first `limit` names, quoted, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(repr(name) for name in listed[:limit]) + more


def missing_extra(package: str) -> MissingExtraError:
    """Returns the error for a package that the extra `text` would have brought."""
    return MissingExtraError(f"{package} is not installed; pip install 'tcaf[text]'")
