"""The package's own error and the words it is made of.

Owns what a user reads when an input is wrong. A command prints the message as one line and exits 2;
a program catches `TCAFError`, which is a `ValueError`.
"""

import difflib
from collections.abc import Iterable

MANY = 10_000
"""Options beyond which nobody waits for the nearest one to be found."""


class TCAFError(ValueError):
    """Something the user can mend: says what was expected, what came, and where."""


class MissingExtraError(TCAFError):
    """A package is not installed that an extra brings; the message names the extra."""


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
