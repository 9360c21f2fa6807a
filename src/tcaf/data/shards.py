"""The format of a feature store on disk: `store.json` and the Arrow IPC shards it lists.

Owns the schema of a shard, the checks on opening one, and the list of them. One row is a clip: id,
class, part, audio tokens and visual tokens as lists of fixed-size lists, and, where clips have
several labels, a list of these. Knows nothing of stores as a whole.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped
from pydantic import BaseModel, ConfigDict

from tcaf.data.features import MODALITIES, FeatureSpec, Modality
from tcaf.data.splits import Split
from tcaf.errors import TCAFError
from tcaf.files.atomic import check_content, check_inside, read_json
from tcaf.files.sealed import check_json, seal_json

FORMAT = "tcaf-features"
VERSION = 1
SHARD_KEYS = ("file", "clips", "bytes", "sha256")
Dtype = Literal["float16", "float32"]

LABELS = pa.field("labels", pa.list_(pa.string()), nullable=False)
"""The column of shards whose clips have labels in place of a class."""


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class SpecContent(_Content):
    """A `FeatureSpec` as JSON has it; these classes are what such a value is checked against."""

    audio_dim: int
    visual_dim: int
    audio_step_s: float | None
    visual_step_s: float | None
    audio_backbone: str
    visual_backbone: str


class SplitContent(_Content):
    """A `Split`."""

    train: list[str]
    val_unseen: list[str]
    test_unseen: list[str]


class FileContent(_Content):
    """A file of features."""

    file: str
    sha256: str


class ShardContent(FileContent):
    """A shard."""

    clips: int
    bytes: int


class StoreContent(_Content):
    """What is true of a store as a whole, and its files."""

    spec: SpecContent
    dtype: Dtype
    shards: list[FileContent]
    splits: dict[str, SplitContent]
    phrases: dict[str, dict[str, list[str]]]
    left_out: dict[str, list[str]]
    source: dict[str, Any]


class ManifestContent(StoreContent):
    """`store.json`."""

    shards: list[ShardContent]  # type: ignore[assignment]


@dataclass(frozen=True)
class Manifest:
    """The content of `store.json`: see the properties of `FeatureStore`."""

    spec: FeatureSpec
    dtype: Dtype
    shards: list[dict[str, Any]]
    splits: dict[str, Split]
    phrases: dict[str, dict[str, list[str]]]
    left_out: dict[str, list[str]]
    source: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON value that `read` understands, sealed (`files.sealed`)."""
        return seal_json({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads `store.json` of a store's folder.

        Raises:
            TCAFError: no store there, another format version, or a damaged file.
        """
        if not folder.is_dir():
            raise TCAFError(f"no feature store at {folder}; `tcaf prepare` makes one")
        value = read_json(folder / "store.json", "the list of shards of a feature store")
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise TCAFError(f"{folder / 'store.json'} does not describe a feature store")
        if value.get("version") != VERSION:
            raise TCAFError(
                f"store {folder} has format version {value.get('version')}, this tcaf reads "
                f"version {VERSION}; prepare it again with this release"
            )
        try:
            check_json(value, ("format", "version", *(field.name for field in fields(cls))))
            check_content(value, ManifestContent)
            check_inside(entry["file"] for entry in value["shards"])
            return cls(
                spec=FeatureSpec(**value["spec"]),
                dtype=value["dtype"],
                shards=[{key: entry[key] for key in SHARD_KEYS} for entry in value["shards"]],
                splits={name: Split.from_json(s) for name, s in value["splits"].items()},
                phrases=value["phrases"],
                left_out=value["left_out"],
                source=value["source"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise TCAFError(
                f"{folder / 'store.json'} is damaged: {error}; copy or prepare the store again"
            ) from None


def shard_schema(spec: FeatureSpec, dtype: Dtype) -> pa.Schema:
    """Returns the Arrow schema of a shard; the spec travels in its metadata."""
    value = pa.float16() if dtype == "float16" else pa.float32()
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("class", pa.string(), nullable=False),
            pa.field("part", pa.string(), nullable=False),
            *(
                pa.field(m, pa.list_(pa.list_(value, spec.dim(m))), nullable=False)
                for m in MODALITIES
            ),
        ],
        metadata={"format": FORMAT, "version": str(VERSION), "spec": json.dumps(asdict(spec))},
    )


def is_schema(found: pa.Schema, expected: pa.Schema, *, check_metadata: bool) -> bool:
    """Returns whether a schema is that of a shard, with or without the column of labels."""
    known = (expected, expected.append(LABELS))
    return any(found.equals(each, check_metadata=check_metadata) for each in known)


@dataclass
class Shard:
    """One memory-mapped shard. Its arrays are views of the file; nothing is read until used.

    Args:
        batch: its rows.
        file: the file as it is mapped.
    """

    batch: pa.RecordBatch
    file: pa.MemoryMappedFile

    @classmethod
    def open(cls, folder: Path, entry: Mapping[str, Any], schema: pa.Schema) -> "Shard":
        """Maps the shard of an entry of `store.json`.

        Raises:
            TCAFError: it is missing, cut short, damaged, or of another schema or length.
        """
        path = folder / entry["file"]
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise TCAFError(f"shard {path} is missing; prepare the store again") from None
        if size != entry["bytes"]:
            raise TCAFError(
                f"shard {path} is corrupt: expected {entry['bytes']} bytes, found {size}; "
                "prepare the store again"
            )
        try:
            file = pa.memory_map(str(path))
            batch = pa.ipc.open_file(file).get_batch(0)
            # Reads names and offsets, no token: a wrong offset would end in a bus error later.
            batch.validate(full=True)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise TCAFError(f"shard {path} is corrupt: {error}; prepare the store again") from None
        fits = is_schema(batch.schema, schema, check_metadata=True)
        if not fits or batch.num_rows != entry["clips"]:
            raise TCAFError(f"shard {path} does not fit store.json; prepare the store again")
        return cls(batch, file)

    def column(self, name: str) -> list[str]:
        """Returns a column of text."""
        values: list[str] = self.batch.column(name).to_pylist()
        return values

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """The labels of each row; none in shards without."""
        if LABELS.name not in self.batch.schema.names:
            return [()] * self.batch.num_rows
        return [tuple(labels) for labels in self.batch.column(LABELS.name).to_pylist()]

    @cached_property
    def offsets(self) -> dict[Modality, Int[np.ndarray, " rows_plus_one"]]:
        """First token of each row, and the end of the last, by modality."""
        return {m: numbers(self.batch.column(m).offsets).astype(np.int64) for m in MODALITIES}

    @cached_property
    def places(self) -> dict[Modality, tuple[int, int]]:
        """Where the tokens of a modality begin in the file, and how large one is, in bytes."""
        self.file.seek(0)
        start = self.file.read_buffer().address
        found: dict[Modality, tuple[int, int]] = {}
        for modality, tokens in self.tokens.items():
            first = tokens.__array_interface__["data"][0] - start
            found[modality] = (first, tokens.shape[1] * tokens.itemsize)
        return found

    def expect(self, modality: Modality, first: int, count: int) -> None:
        """Lets the system read tokens ahead, on systems that can; returns at once."""
        if count and hasattr(os, "posix_fadvise"):
            start, size = self.places[modality]
            begin, length = start + first * size, count * size
            os.posix_fadvise(self.file.fileno(), begin, length, os.POSIX_FADV_WILLNEED)

    @cached_property
    def tokens(self) -> dict[Modality, Float[np.ndarray, "num_tokens dim"]]:
        """All tokens of the shard, a read-only view of the file."""
        return {
            m: numbers(self.batch.column(m).values.values).reshape(
                -1, self.batch.schema.field(m).type.value_type.list_size
            )
            for m in MODALITIES
        }


def numbers(array: pa.Array) -> Shaped[np.ndarray, " _"]:
    """Returns a read-only view of the numbers of an array without gaps.

    Arrow's own `to_numpy` imports pandas first, which takes as long as half of torch.
    """
    dtype = np.dtype(array.type.to_pandas_dtype())
    _, values = array.buffers()
    if not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(values, dtype, len(array), array.offset * dtype.itemsize)
