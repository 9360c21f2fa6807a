"""The answers of clips as rows of a table: CSV.

Owns its columns; those of recordings are `captions`. Takes what `Ranking.to_json` returns.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tcaf.errors import in_unicode

COLUMNS = ("rank", "class", "probability", "distance", "seen")
SETS = ("in_set", "set_size")
REASONS = (
    *("audio_distance", "audio_rank", "visual_distance", "visual_rank"),
    *("nearest_training", "nearest_distance"),
)


def columns(sets: bool, reasons: bool) -> tuple[str, ...]:
    """Returns the names of the columns.

    Args:
        sets: whether sets of names were asked for.
        reasons: whether it was asked why.
    """
    return ("file", *COLUMNS, *(SETS if sets else ()), *(REASONS if reasons else ()))


def rows(value: Mapping[str, Any], names: Iterable[str]) -> Iterator[list[Any]]:
    """Yields a row for each answer of a clip.

    Args:
        value: of the clip.
        names: of the columns.
    """
    for answer in value["answers"]:
        cells = {"file": value["id"], **answer, **_more_of(value, answer)}
        yield [cells[name] for name in names]


def to_csv(values: Iterable[Mapping[str, Any]]) -> str:
    """Returns the answers of clips as CSV, with the names of the columns; without a clip, nothing.

    A name that is no UTF-8 is written as the ids of a store are.
    """
    values = list(values)
    if not values:
        return ""
    names = columns("set" in values[0], "nearest_training" in values[0])
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for value in values:
        for row in rows(value, names):
            writer.writerow([in_unicode(c) if isinstance(c, str) else c for c in row])
    return file.getvalue()


def _more_of(value: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what was asked for beside the answers; None for a modality that is missing."""
    found: dict[str, Any] = {}
    if "set" in value:
        found |= {"in_set": answer["class"] in value["set"], "set_size": len(value["set"])}
    if "nearest_training" in value:
        # A model that needs no training has no classes of one.
        near = next(iter(value["nearest_training"]), {"class": None, "distance": None})
        found |= {"nearest_training": near["class"], "nearest_distance": near["distance"]}
        for modality in ("audio", "visual"):
            alone = answer["alone"].get(modality, {})
            found |= {f"{modality}_{what}": alone.get(what) for what in ("distance", "rank")}
    return found
