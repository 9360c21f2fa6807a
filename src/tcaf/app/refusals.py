"""Why something that was asked for is refused, and what whoever asked may be told.

Owns the kinds of refusals, by which a service chooses a status, and that no sentence names a place
on this machine.
"""

import re
from pathlib import PurePath
from typing import Literal

from tcaf.answers.readers import TOO_LONG
from tcaf.errors import TCAFError, printable
from tcaf.extract.containers import MediaError

Kind = Literal["asked", "too_large", "unsupported", "unusable", "too_slow", "busy", "gone", "ended"]
"""What is wrong: the question; the size or length of a file; that it is no clip; that it is one
which cannot be used; the time it takes; that too many ask; that what was meant is no longer kept;
that nothing answers any more."""

NO_CLIP = frozenset(
    {"a playlist", "a picture, not a clip", "an empty file", "not a media file", "not a file"}
    | {"a folder"}
)
"""Reasons of files that are no clips."""

NAME = 120
"""Characters of the name of a file that are kept."""

_PLACE = re.compile(r"(?<![\w./:\\])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'\",;:()=@]+)+[/\\](?=[^\s/\\])")
"""The folders of an absolute path, in words."""


class RefusedError(TCAFError):
    """What whoever asked is told, in one line.

    Args:
        kind: what is wrong.
        reason: the sentence.
        retry_after_s: when it may be worth to ask again, in seconds, where somebody is busy.
    """

    def __init__(self, kind: Kind, reason: str, retry_after_s: int = 0) -> None:
        super().__init__(printable(" ".join(without_places(reason).split())))
        self.kind: Kind = kind
        self.retry_after_s = retry_after_s

    @classmethod
    def of(cls, error: TCAFError) -> "RefusedError":
        """Returns an error of the package as a refusal."""
        if isinstance(error, RefusedError):
            return error
        if not isinstance(error, MediaError):
            return cls("asked", str(error))
        kind: Kind = "unusable"
        if error.reason == TOO_LONG:
            kind = "too_large"
        elif error.reason in NO_CLIP:
            kind = "unsupported"
        elif error.reason == "takes too long":
            kind = "too_slow"
        return cls(kind, str(error))


def without_places(text: str) -> str:
    """Returns a text in which absolute paths are the names at their ends."""
    return _PLACE.sub("", text)


def clip_name(name: str) -> str:
    """Returns what a client calls a file as one printable word or more, without folders."""
    last = PurePath(name.replace("\\", "/")).name
    return printable(" ".join(last.split()))[:NAME] or "clip"
