"""Writing a feature store, and adding to one, whole or not at all.

Owns the checks that every clip passes on its way to disk, and the cutting into shards.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.data.shards import LABELS, Dtype, Manifest, shard_schema
from tcaf.data.splits import Split
from tcaf.data.store import FeatureStore, write_text_embeddings
from tcaf.errors import TCAFError, is_unicode
from tcaf.files.atomic import check_place, new_folder, only_writer, replacing, write_json
from tcaf.files.digests import file_sha256

SHARD_BYTES = 256 * 2**20
"""Tokens gathered in memory before a shard is written."""


@dataclass
class StoreWriter:
    """Gathers clips and writes them as shards; `new_store` and `append_store` make one.

    Args:
        folder: an empty folder, or the store that is added to.
        spec: what every clip is checked against.
        dtype: how tokens are kept on disk.
        shard_bytes: tokens gathered before a shard is written.
        splits: what `FeatureStore` says of them; so do the three that follow.
        known: ids of the clips that the store has already.
        skip_known: pass over a clip that is known; otherwise it is an error.
    """

    folder: Path
    spec: FeatureSpec
    dtype: Dtype = "float16"
    shard_bytes: int = SHARD_BYTES
    splits: dict[str, Split] = field(default_factory=dict)
    phrases: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    skip_known: bool = False
    _shards: list[dict[str, Any]] = field(default_factory=list)
    _clips: list[VideoFeatures] = field(default_factory=list)
    _bytes: int = 0
    _ids: set[str] = field(default_factory=set)

    def add(self, clip: VideoFeatures) -> None:
        """Adds a clip after checking it.

        Raises:
            TCAFError: the clip does not fit the spec, is empty, has a NaN or infinite value, a
                value too large for the dtype, or an id that was added before.
        """
        if clip.id in self.known:
            if self.skip_known:
                return
            raise TCAFError(f"clip {clip.id!r} is in store {self.folder} already")
        clip.check(self.spec)
        for name in (clip.id, clip.class_name, *clip.labels):
            if not is_unicode(name):
                raise TCAFError(f"expected a name in Unicode, got {name!r}, half a character in it")
        if clip.id in self._ids:
            raise TCAFError(f"clip {clip.id!r} was added twice; ids must be unique")
        for modality in MODALITIES:
            peak = float(np.abs(clip.tokens(modality)).max(initial=0))
            if peak > float(np.finfo(self.dtype).max):
                hint = "; make a new store with --dtype float32" if self.dtype == "float16" else ""
                raise TCAFError(
                    f"clip {clip.id!r}: {modality} value {peak:g} does not fit {self.dtype}{hint}"
                )
        audio, visual = (np.asarray(clip.tokens(m), self.dtype) for m in MODALITIES)
        self._ids.add(clip.id)
        self._clips.append(replace(clip, audio=audio, visual=visual))
        self._bytes += audio.nbytes + visual.nbytes
        if self._bytes >= self.shard_bytes:
            self._flush()

    def add_text(self, name: str, embeddings: Mapping[str, Float[np.ndarray, " text_dim"]]) -> None:
        """Keeps text embeddings of classes with the store, under a name."""
        write_text_embeddings(self.folder, name, embeddings)

    def leave_out(self, reason: str, name: str) -> None:
        """Notes a clip or class that does not enter the store, and why."""
        # Pickles may hold halves of characters, which no file of text can.
        shown = name.encode("utf-8", "backslashreplace").decode()
        self.left_out.setdefault(reason, []).append(shown)

    def _lists(self, modality: Modality, type_: pa.DataType) -> pa.Array:
        offsets = np.concatenate([[0], np.cumsum([len(c.tokens(modality)) for c in self._clips])])
        flat = np.concatenate([c.tokens(modality) for c in self._clips]).reshape(-1)
        tokens = pa.FixedSizeListArray.from_arrays(pa.array(flat), self.spec.dim(modality))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), tokens).cast(type_)

    def _flush(self) -> None:
        if not self._clips:
            return
        schema = shard_schema(self.spec, self.dtype)
        strings = (
            [c.id for c in self._clips],
            [c.class_name for c in self._clips],
            [c.part for c in self._clips],
        )
        columns = [
            *map(pa.array, strings),
            *(self._lists(m, schema.field(m).type) for m in MODALITIES),
        ]
        if any(clip.labels for clip in self._clips):
            schema = schema.append(LABELS)
            columns.append(pa.array([list(clip.labels) for clip in self._clips], LABELS.type))
        path = self.folder / f"shard-{len(self._shards):05d}.arrow"
        with replacing(path) as temporary, pa.ipc.new_file(str(temporary), schema) as file:
            file.write_batch(pa.record_batch(columns, schema=schema))
        self._shards.append(
            {
                "file": path.name,
                "clips": len(self._clips),
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
        )
        self._clips, self._bytes = [], 0

    def finish(self) -> None:
        """Writes the last shard and `store.json`.

        Raises:
            TCAFError: no clip was added.
        """
        self._flush()
        if not self._shards:
            reasons = "; ".join(f"{len(n)} left out: {r}" for r, n in self.left_out.items())
            raise TCAFError(f"no clip to store{': ' + reasons if reasons else ''}")
        manifest = Manifest(
            self.spec,
            self.dtype,
            self._shards,
            self.splits,
            self.phrases,
            self.left_out,
            self.source,
        )
        write_json(self.folder / "store.json", manifest.to_json())


def check_store_place(path: Path, *, overwrite: bool) -> None:
    """Checks that a store may be written to `path`, before hours go into what it is to hold.

    Raises:
        TCAFError: a store is there and `overwrite` is false, or something that is no store.
    """
    check_place(path, overwrite=overwrite, what="feature store", mark="store.json")


@contextmanager
def new_store(
    path: str | Path,
    spec: FeatureSpec,
    *,
    dtype: Dtype = "float16",
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Iterator[StoreWriter]:
    """Yields a writer; the store appears at `path` when the body ends, whole, or not at all.

    Args:
        path: the folder to make.
        spec: dimensions, seconds per token, backbones.
        dtype: how tokens are kept on disk.
        overwrite: replace a store that is there already.
        shard_bytes: tokens gathered in memory before a shard is written.

    Raises:
        TCAFError: something is at `path` and `overwrite` is false, or that is no store; no clip
            was added.
    """
    path = Path(path)
    check_store_place(path, overwrite=overwrite)
    with new_folder(path, overwrite=overwrite) as folder:
        writer = StoreWriter(folder, spec, dtype, shard_bytes)
        yield writer
        writer.finish()


@contextmanager
def append_store(
    path: str | Path, *, skip_known: bool = False, shard_bytes: int = SHARD_BYTES
) -> Iterator[StoreWriter]:
    """Yields a writer that adds to a store; when the body ends all clips are in it, or none.

    The writer begins with what the store says of splits, phrases, what was left out and where clips
    come from; what is changed there counts. New clips go into new shards, in the store's dtype; the
    old shards are not touched, so that whoever has the store open goes on reading it. `store.json`
    is replaced last. What a killed process has left is cleared by the next that adds.

    Args:
        path: a feature store.
        skip_known: pass over clips whose id the store has; otherwise such a clip is an error.
        shard_bytes: tokens gathered in memory before a shard is written.

    Raises:
        TCAFError: no store there, a damaged one, or another process is adding to it.
    """
    path = Path(path)
    Manifest.read(path)
    with only_writer(path):
        manifest = Manifest.read(path)
        known = frozenset(FeatureStore.open(path).ids)
        _clear_unlisted(path)
        writer = StoreWriter(
            path,
            manifest.spec,
            manifest.dtype,
            shard_bytes,
            manifest.splits,
            manifest.phrases,
            manifest.left_out,
            manifest.source,
            known,
            skip_known,
            manifest.shards,
        )
        try:
            yield writer
            writer.finish()
        finally:
            _clear_unlisted(path)


def _clear_unlisted(store: Path) -> None:
    """Removes shards that `store.json` does not list, and what was being written."""
    listed = {entry["file"] for entry in Manifest.read(store).shards}
    for path in (*store.glob("shard-*.arrow"), *store.glob(".*.partial")):
        if path.name not in listed:
            path.unlink()
