"""Annotations of videos as JSON: ActivityNet's, with a `database`, and Kinetics', without.

Owns the reading of that file. Which files the videos are is `found_files`.
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
        in_order: segment and label of each annotation as the file has them; None for the segment
            of one that has none or an impossible one.
    """

    id: str
    subset: str
    labels: dict[Segment | None, list[str]]
    impossible: tuple[str, ...] = ()
    in_order: tuple[tuple[Segment | None, str], ...] = ()


@dataclass(frozen=True)
class Annotations:
    """What such a file says.

    Args:
        videos: sorted by name.
        unread: keys of the file, of videos and of annotations that say nothing here, such as
            lengths and addresses; sorted.
        are_cut: whether the videos are the file itself, as of Kinetics, whose clips are downloaded
            as files of their own.
    """

    videos: list[AnnotatedVideo]
    unread: list[str]
    are_cut: bool = False


def is_json(path: Path) -> bool:
    """Returns whether a file begins as JSON of several things does; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    except OSError:
        return False


def read_annotations(path: Path) -> Annotations:
    """Reads `{"database": {ID: {"subset": ..., "annotations": [{"label", "segment"}, ...]}}}`.

    As Kinetics has it, the videos may be the file itself, with one annotation that is in no list.

    Raises:
        TCAFError: not such a file, or no video in it.
    """
    content = read_json(path, "a CSV table or ActivityNet's annotations")
    database = content.get("database") if isinstance(content, dict) else None
    unread = set(content) - {"database"} if isinstance(content, dict) else set()
    are_cut = isinstance(content, dict) and database is None and _are_videos(content)
    if are_cut:
        database, unread = content, set()
    if not isinstance(database, dict):
        keys = shorten(content) if isinstance(content, dict) else type(content).__name__
        raise TCAFError(f"{path}: expected ActivityNet's annotations in `database`, found {keys}")
    if not database:
        raise TCAFError(f"{path}: expected videos in `database`, found none")
    videos = [_video(path, name, entry, unread) for name, entry in sorted(database.items())]
    return Annotations(videos, sorted(unread), are_cut)


def _are_videos(content: dict[str, Any]) -> bool:
    return bool(content) and all(
        isinstance(each, dict) and "annotations" in each for each in content.values()
    )


def _video(path: Path, name: str, entry: Any, unread: set[str]) -> AnnotatedVideo:
    """Returns a video; adds to the keys that are not read."""
    try:
        annotations = entry.get("annotations") or []
        annotations = [annotations] if isinstance(annotations, dict) else annotations
        unread |= set(entry) - {"annotations", "subset"}
        said, impossible, in_order = set(), [], []
        for each in annotations:
            unread |= set(each) - {"label", "segment"}
            named, given = each["label"], each.get("segment")
            if not isinstance(named, str | int | None) or not isinstance(given, list | None):
                raise TypeError
            label = "" if named is None else str(named).strip()
            segment = segment_of(*given) if given else ()
            in_order.append((segment or None, label))
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
    return AnnotatedVideo(name, subset, labels, tuple(impossible), tuple(in_order))
