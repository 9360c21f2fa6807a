"""What a model decided for every clip of a test, kept as a Parquet file.

Owns that file. Every score, the confusion matrix, the seen-unseen curve and comparisons between
runs follow from it, with no model and no store. pandas, polars and DuckDB read it too: a row for
each clip, classes by name. The arithmetic of the scores is in `gzsl.py`, that between runs in
`statistics.py`.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError
from tcaf.evaluation.gzsl import Decisions, GZSLResult, score
from tcaf.files.atomic import parse_json, replacing

FORMAT = "tcaf-predictions"
VERSION = 1
FILE = "predictions.parquet"
"""The name that the file has in a run."""

_HEADER = b"tcaf"
"""The key of the schema's metadata under which format, version, classes and gamma stand as JSON."""

_COLUMNS = {
    "id": pa.string(),
    "class": pa.string(),
    "seen": pa.bool_(),
    "predicted": pa.string(),
    "nearest_seen": pa.string(),
    "nearest_unseen": pa.string(),
    "margin": pa.float64(),
}
"""What a reader turns each column into."""

_CLASSES = ("class", "predicted", "nearest_seen", "nearest_unseen")
"""The columns of class names, which are dictionary encoded in the file."""


@dataclass(frozen=True)
class ClipDecisions:
    """What one model decided for the clips of one test.

    Args:
        ids: of the clips, each once.
        classes: the candidates, with their seen/unseen partition.
        decisions: for the clips in the order of `ids`; its class indices are those of `classes`.
        gamma: what is added to the distance of seen classes, chosen before the test.

    Raises:
        TCAFError: there are no clips, an id is there twice, or the parts do not fit each other.
    """

    ids: tuple[str, ...]
    classes: ClassSet
    decisions: Decisions
    gamma: float

    def __post_init__(self) -> None:
        decisions, num_clips = self.decisions, len(self.ids)
        if not num_clips:
            raise TCAFError("predictions of no clips: there is nothing to keep or compare")
        if len(set(self.ids)) != num_clips:
            raise TCAFError("predictions need each clip once: an id is there twice")
        if not np.isfinite(self.gamma):
            raise TCAFError(f"gamma must be a finite number, got {self.gamma}")
        columns = (decisions.labels, decisions.nearest_seen, decisions.nearest_unseen)
        lens = {len(column) for column in (*columns, decisions.is_seen, decisions.margin)}
        if lens != {num_clips} or decisions.num_classes != len(self.classes):
            raise TCAFError(
                f"{num_clips} ids and {len(self.classes)} classes do not fit decisions for "
                f"{len(decisions.labels)} clips among {decisions.num_classes} classes"
            )
        if any(c.min() < 0 or c.max() >= len(self.classes) for c in columns):
            raise TCAFError(f"class indices must be in 0..{len(self.classes) - 1}")
        is_seen = np.isin(np.arange(len(self.classes)), self.classes.seen_ids)
        if not (
            (is_seen[decisions.labels] == decisions.is_seen).all()
            and is_seen[decisions.nearest_seen].all()
            and not is_seen[decisions.nearest_unseen].any()
        ):
            raise TCAFError("decisions and classes differ on which classes are seen")
        if not np.isfinite(decisions.margin).all():
            raise TCAFError("a margin is NaN or infinite")

    @cached_property
    def result(self) -> GZSLResult:
        """All scores at `gamma`."""
        return score(self.decisions, gamma=self.gamma)


def write_decisions(path: Path, decided: ClipDecisions) -> None:
    """Writes decisions as a Parquet file, whole or not at all.

    Columns: `id`; `class`, the true one; `seen`, whether that is a seen class; `predicted` at
    gamma; `nearest_seen` and `nearest_unseen`, which gamma decides between; `margin`, the distance
    of the nearest unseen class minus that of the nearest seen one.
    """
    decisions, names = decided.decisions, pa.array(decided.classes.names, pa.string())

    def named(ids: Int[np.ndarray, " clips"]) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(ids, pa.int32()), names)

    header = {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(decided.classes.names),
        "seen": sorted(decided.classes.seen),
        "gamma": decided.gamma,
        "clips": len(decided.ids),
    }
    columns = {
        "id": pa.array(decided.ids, pa.string()),
        "class": named(decisions.labels),
        "seen": pa.array(decisions.is_seen),
        "predicted": named(decisions.predicted(decided.gamma)),
        "nearest_seen": named(decisions.nearest_seen),
        "nearest_unseen": named(decisions.nearest_unseen),
        "margin": pa.array(decisions.margin, pa.float64()),
    }
    table = pa.table(columns).replace_schema_metadata({_HEADER: json.dumps(header)})
    with replacing(path) as temporary:
        # Ids and margins hardly repeat: a dictionary of them would only add to the file.
        pq.write_table(table, temporary, use_dictionary=list(_CLASSES), write_page_checksum=True)


def read_decisions(path: Path) -> ClipDecisions:
    """Reads what `write_decisions` wrote; decisions are equal to the last bit.

    Raises:
        TCAFError: the file is missing, damaged, of another format or of another version of it.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            header = _read_header(path, file.schema_arrow.metadata)
            table = file.read()
        return _from_table(header, table)
    except FileNotFoundError:
        raise TCAFError(f"expected predictions at {path}, found nothing") from None
    except _OtherFileError as error:
        raise TCAFError(str(error)) from None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        what = " ".join(str(error).split())
        raise TCAFError(f"expected predictions at {path}, found a damaged file ({what})") from None


class _OtherFileError(ValueError):
    """A whole file, but none of ours or none of this version."""


def _read_header(path: Path, metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    text = (metadata or {}).get(_HEADER)
    header = parse_json(text) if text is not None else None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _OtherFileError(f"expected predictions at {path}, found another Parquet file")
    if header.get("version") != VERSION:
        raise _OtherFileError(
            f"{path} has format version {header.get('version')}, this tcaf reads version "
            f"{VERSION}; train the run again with this release"
        )
    return header


def _from_table(header: dict[str, Any], table: pa.Table) -> ClipDecisions:
    classes = ClassSet(tuple(header["classes"]), frozenset(header["seen"]))
    columns = {name: table.column(name).cast(type_) for name, type_ in _COLUMNS.items()}
    names = pa.array(classes.names, pa.string())

    def ids(column: str) -> Int[np.ndarray, " clips"]:
        found = pc.index_in(columns[column], value_set=names)
        if found.null_count:
            raise ValueError(f"{column} is empty or no candidate for {found.null_count} clips")
        return found.to_numpy().astype(np.int64)

    if len(table) != header["clips"]:
        raise ValueError(f"{len(table)} rows for {header['clips']} clips")
    for name, column in columns.items():
        if column.null_count:
            raise ValueError(f"{name} is empty for {column.null_count} clips")
    decisions = Decisions(
        labels=ids("class"),
        is_seen=columns["seen"].to_numpy(),
        margin=columns["margin"].to_numpy(),
        nearest_seen=ids("nearest_seen"),
        nearest_unseen=ids("nearest_unseen"),
        num_classes=len(classes),
    )
    gamma = float(header["gamma"])
    decided = ClipDecisions(tuple(columns["id"].to_pylist()), classes, decisions, gamma)
    if (decisions.predicted(gamma) != ids("predicted")).any():
        raise ValueError("what is predicted does not follow from margin and gamma")
    return decided
