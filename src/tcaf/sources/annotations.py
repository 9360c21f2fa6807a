"""Annotations of videos as ActivityNet publishes them: a JSON file with a `database`.

Owns the reading of that file. Which files the videos are is `labels`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcaf.errors import TCAFError, shorten
from tcaf.files.atomic import read_json


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video and what is said of it.

    Args:
        id: its name.
        labels: those of its annotations, each once, sorted.
        subset: as the file has it, such as `training`; empty where it says nothing.
        num_segments: annotations that are of a stretch of the video.
    """

    id: str
    labels: tuple[str, ...]
    subset: str
    num_segments: int


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
        labels = {str(each["label"]).strip() for each in annotations}
        num_segments = sum(bool(each.get("segment")) for each in annotations)
        subset = str(entry.get("subset") or "").strip()
    except (AttributeError, KeyError, TypeError):
        raise TCAFError(
            f"{path}: expected a subset and annotations with a label each for {name!r}"
        ) from None
    return AnnotatedVideo(name, tuple(sorted(labels - {""})), subset, num_segments)
