"""Annotations of videos as ActivityNet publishes them: a JSON file with a `database`.

Owns the reading of that file. Which files the videos are is `labels`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcaf.errors import TCAFError, shorten
from tcaf.extract.media import Segment
from tcaf.files.atomic import read_json


def segment_of(start: Any, end: Any) -> Segment | None:
    """Returns a segment; None if these are not two numbers of seconds that follow each other."""
    try:
        segment = float(start), float(end)
    except (TypeError, ValueError):
        return None
    return segment if 0 <= segment[0] < segment[1] < math.inf else None


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video and what is said of it.

    Args:
        id: its name.
        subset: as the file has it, such as `training`; empty where it says nothing.
        labels: those of each segment, by its start and end in seconds, each once, sorted; those of
            the video as a whole by None.
        impossible: segments that are no stretch of time, as the file has them.
    """

    id: str
    subset: str
    labels: dict[Segment | None, list[str]]
    impossible: tuple[str, ...] = ()


def read_annotations(path: Path) -> list[AnnotatedVideo]:
    """Reads `{"database": {ID: {"subset": ..., "annotations": [{"label", "segment"}, ...]}}}`.

    What else such files say, lengths and addresses, does not matter.

    Raises:
        TCAFError: not such a file, or no video in it.
    """
    content = read_json(path, "a CSV table or ActivityNet's annotations")
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        keys = shorten(content) if isinstance(content, dict) else type(content).__name__
        raise TCAFError(f"{path}: expected ActivityNet's annotations in `database`, found {keys}")
    if not database:
        raise TCAFError(f"{path}: expected videos in `database`, found none")
    return [_video(path, name, entry) for name, entry in sorted(database.items())]


def _video(path: Path, name: str, entry: Any) -> AnnotatedVideo:
    try:
        annotations = entry.get("annotations") or []
        said, impossible = set(), []
        for each in annotations:
            label, given = str(each["label"]).strip(), each.get("segment")
            segment = segment_of(*given) if given else ()
            if segment is None:
                impossible.append(json.dumps(given))
            else:
                said.add((segment, label))
        subset = str(entry.get("subset") or "").strip()
    except (AttributeError, KeyError, TypeError, ValueError):
        raise TCAFError(
            f"{path}: expected a subset and annotations with a label each, and perhaps a segment "
            f"[start, end] in seconds, for {name!r}"
        ) from None
    labels: dict[Segment | None, list[str]] = {}
    for segment, label in sorted((s, name) for s, name in said if name):
        labels.setdefault(segment or None, []).append(label)
    return AnnotatedVideo(name, subset, labels, tuple(impossible))
