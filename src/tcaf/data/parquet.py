"""A feature store as a folder of Parquet files, for sharing, and back.

Owns that folder: a Parquet file for each shard, with the store's own columns, which the Hugging
Face Hub shows and pyarrow, pandas, polars, DuckDB and datasets read; `tcaf.json` holds what is
true of the whole, class text embeddings lie beside it. The way back gives an equal store, cut into
the same shards. float16 stays float16: Parquet knows it since format 2.10 (2023).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.data.shards import LABELS, Dtype, Manifest, StoreContent, is_schema, shard_schema
from tcaf.data.splits import Split
from tcaf.data.store import (
    PARQUET_SIDECAR,
    FeatureStore,
    read_text_embeddings,
    write_text_embeddings,
)
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError, one_line
from tcaf.files.atomic import (
    check_content,
    check_inside,
    check_place,
    new_folder,
    read_json,
    write_json,
)
from tcaf.files.digests import cache_folder, file_sha256
from tcaf.files.remote import local_path
from tcaf.files.sealed import check_json, seal_json
from tcaf.progress import Track, silent

FORMAT = "tcaf-parquet"
VERSION = 1
SIDECAR = PARQUET_SIDECAR

_ROW_GROUP = 1000
"""Most clips in a row group, which is what a reader holds in memory."""


def to_parquet(
    store_path: Path,
    out: Path,
    *,
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
    track: Track = silent,
) -> None:
    """Writes a store as Parquet files that other tools and the Hugging Face Hub read.

    Args:
        store_path: a feature store, or its address.
        out: folder to make.
        overwrite: replace such a folder that is there already.
        origin: what is to be said of where the clips come from; by default what the store says.
        track: shows progress.

    Raises:
        TCAFError: no store there or a damaged one; something is at `out` and `overwrite` is false,
            or that is no such folder.
    """
    check_place(out, overwrite=overwrite, what="Parquet folder of tcaf", mark=SIDECAR)
    store = FeatureStore.open(store_path)
    store.verify()
    manifest = Manifest.read(store.path)
    with new_folder(out, overwrite=overwrite) as folder:
        files = []
        for entry in track(manifest.shards, "Writing Parquet"):
            with pa.memory_map(str(store.path / entry["file"])) as source:
                table = pa.ipc.open_file(source).read_all()
                path = folder / f"{Path(entry['file']).stem}.parquet"
                pq.write_table(table, path, row_group_size=_ROW_GROUP)
            files.append({"file": path.name, "sha256": file_sha256(path)})
        for name in store.text_names:
            write_text_embeddings(folder, name, store.text(name))
        content = {**asdict(manifest), "shards": files}
        content |= {} if origin is None else {"source": dict(origin)}
        sealed = seal_json({"format": FORMAT, "version": VERSION, **content})
        write_json(folder / SIDECAR, sealed)


def from_parquet(
    folder: Path,
    out: Path,
    *,
    dtype: Dtype | None = None,
    overwrite: bool = False,
    track: Track = silent,
) -> FeatureStore:
    """Makes a store from a folder that `to_parquet` wrote.

    Args:
        folder: Parquet files and `tcaf.json`, or their address.
        out: folder to make.
        dtype: how tokens are kept on disk; as they were by default.
        overwrite: replace a store that is there already.
        track: shows progress.

    Returns:
        The store, opened.

    Raises:
        TCAFError: no such folder, a file of it missing or changed; something is at `out` and
            `overwrite` is false, or that is no store.
    """
    folder = local_path(folder)
    content = _read_sidecar(folder)
    spec = FeatureSpec(**content["spec"])
    schema = shard_schema(spec, content["dtype"])
    kept: Dtype = dtype or content["dtype"]
    files = [(entry["file"], entry["sha256"]) for entry in content["shards"]]
    with new_store(out, spec, dtype=kept, overwrite=overwrite) as writer:
        writer.splits.update({n: Split.from_json(s) for n, s in content["splits"].items()})
        writer.phrases.update(content["phrases"])
        writer.left_out.update(content["left_out"])
        writer.source.update(content["source"])
        for name, sha256 in track(files, "Reading Parquet"):
            path = folder / name
            _check_file(path, sha256)
            # A shard ends where its Parquet file ends, so that the way there and back is the
            # identity, fingerprint included.
            writer.shard_bytes = _token_bytes(path, schema, spec, kept)
            for clip in _clips(path, schema, spec):
                writer.add(clip)
        for text in sorted(folder.glob("text/*.safetensors")):
            writer.add_text(text.stem, read_text_embeddings(text))
    return FeatureStore.open(out)


def unpacked(folder: Path) -> Path:
    """Returns the store of a Parquet folder, made in the cache when it is first asked for.

    Raises:
        TCAFError: see `from_parquet`.
    """
    place = cache_folder() / "parquet" / file_sha256(folder / SIDECAR)[:24]
    if not (place / "store.json").is_file():
        from_parquet(folder, place)
    return place


def _read_sidecar(folder: Path) -> dict[str, Any]:
    content = read_json(folder / SIDECAR, "the description of a Parquet folder of tcaf")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TCAFError(f"{folder / SIDECAR} does not describe a Parquet folder of tcaf")
    if content.get("version") != VERSION:
        raise TCAFError(
            f"{folder / SIDECAR} has format version {content.get('version')}, this tcaf reads "
            f"version {VERSION}; write it again with this release"
        )
    try:
        check_json(content, ("format", "version", *(field.name for field in fields(Manifest))))
        check_content(content, StoreContent)
        check_inside(entry["file"] for entry in content["shards"])
    except (KeyError, TypeError, ValueError) as error:
        raise TCAFError(f"{folder / SIDECAR} is damaged: {error}; fetch the folder again") from None
    return content


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise TCAFError(f"{path} is missing; fetch the folder again")
    if file_sha256(path) != sha256:
        raise TCAFError(f"{path} has changed: its SHA-256 is not the one written; fetch it again")


@contextmanager
def _opened(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetFile]:
    """Yields an open file; whatever is damaged in it is a `TCAFError`."""
    try:
        with pq.ParquetFile(path) as file:
            if not is_schema(file.schema_arrow, schema, check_metadata=False):
                raise ValueError(f"it does not fit {SIDECAR}")
            yield file
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise TCAFError(f"{path} is damaged: {one_line(str(error))}; fetch it again") from None


def _flat(batch: pa.RecordBatch | pa.Table, modality: Modality) -> Any:
    """Returns the numbers of a column of lists of lists, in one row."""
    return pc.list_flatten(pc.list_flatten(batch.column(modality)))


def _token_bytes(path: Path, schema: pa.Schema, spec: FeatureSpec, dtype: Dtype) -> int:
    """Returns the bytes that a file's tokens take in memory."""
    with _opened(path, schema) as file:
        tokens = sum(
            (pc.sum(pc.list_value_length(batch.column(m))).as_py() or 0) * spec.dim(m)
            for batch in file.iter_batches(columns=list(MODALITIES))
            for m in MODALITIES
        )
    return int(tokens) * np.dtype(dtype).itemsize


def _clips(path: Path, schema: pa.Schema, spec: FeatureSpec) -> Iterator[VideoFeatures]:
    with _opened(path, schema) as file:
        for batch in file.iter_batches(batch_size=_ROW_GROUP):
            yield from _clips_of(batch, spec)


def _clips_of(batch: pa.RecordBatch, spec: FeatureSpec) -> Iterator[VideoFeatures]:
    per_modality = []
    for m in MODALITIES:
        lens = pc.list_value_length(batch.column(m)).to_numpy(zero_copy_only=False)
        tokens = _flat(batch, m).to_numpy(zero_copy_only=False).reshape(-1, spec.dim(m))
        per_modality.append(np.split(tokens, np.cumsum(lens)[:-1]))
    ids, classes, parts = (batch.column(c).to_pylist() for c in ("id", "class", "part"))
    labels: list[Any] = [()] * len(ids)
    if LABELS.name in batch.schema.names:
        labels = [tuple(own) for own in batch.column(LABELS.name).to_pylist()]
    for id_, class_, part, own, audio, visual in zip(
        ids, classes, parts, labels, *per_modality, strict=True
    ):
        yield VideoFeatures(id_, audio, visual, class_, part, labels=own)
