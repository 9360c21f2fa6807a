"""A feature store: a folder of Arrow IPC shards, memory-mapped, opened without reading a token.

Owns access to clips, parts and splits, and the class text embeddings that lie beside the shards as
safetensors. The format is `shards`, writing it `writer`. Knows nothing of where features come from
or how they are batched.

Damage is found, not computed with: `store.json` and text embeddings are verified whenever they are
read (`files.sealed`), shards by `verify_once`, which whoever is about to use tokens calls: the
first look reads every byte, later ones none.
"""

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from jaxtyping import Float, Int

from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.data.random_partitions import base_split, deal_parts, draw_partition
from tcaf.data.shards import Dtype, Manifest, Shard, shard_schema
from tcaf.data.splits import NAMED_PARTS, Split
from tcaf.errors import TCAFError, did_you_mean
from tcaf.files.atomic import check_content, parse_json
from tcaf.files.digests import changed_files, file_sha256
from tcaf.files.remote import local_path
from tcaf.files.sealed import read_sealed, write_sealed
from tcaf.progress import Track, silent

CACHE_PREFIX = "cache-"
"""How the names of text embeddings begin that were computed here, not given with the clips."""

PARQUET_SIDECAR = "tcaf.json"
"""What a folder of Parquet files has where a store has its manifest."""


class FeatureStore:
    """A prepared set of clips, opened without reading any token.

    Rows are numbered from 0 in the order in which they were written. Arrays and tensors that come
    from a store are views of a read-only memory map: copy before you write into one.
    """

    def __init__(self, path: Path, manifest: Manifest, shards: list[Shard]) -> None:
        self.path = path
        self._manifest = manifest
        self._shards = shards
        self._starts = np.concatenate([[0], np.cumsum([s.batch.num_rows for s in shards])]).astype(
            np.int64
        )

    @classmethod
    def open(cls, path: str | Path) -> "FeatureStore":
        """Opens the store in a folder, or at an address, of which it is fetched (`local_path`).

        A folder of Parquet files that `to_parquet` wrote is turned into a store in the cache.

        Raises:
            TCAFError: no store there, another version, or a shard is missing, cut short or foreign;
                or it cannot be fetched.
        """
        folder = local_path(path)
        if (folder / PARQUET_SIDECAR).is_file():
            # Which imports this module.
            folder = importlib.import_module("tcaf.data.parquet").unpacked(folder)
        manifest = Manifest.read(folder)
        schema = shard_schema(manifest.spec, manifest.dtype)
        return cls(
            folder, manifest, [Shard.open(folder, entry, schema) for entry in manifest.shards]
        )

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def spec(self) -> FeatureSpec:
        """Dimensions, seconds per token, backbones."""
        return self._manifest.spec

    @property
    def dtype(self) -> Dtype:
        """How tokens are kept on disk."""
        return self._manifest.dtype

    @property
    def splits(self) -> dict[str, Split]:
        """The class partitions that the clips' parts refer to, by name."""
        return self._manifest.splits

    @property
    def phrases(self) -> dict[str, dict[str, list[str]]]:
        """For each class, its phrases by kind (`name`, and whatever the source offers)."""
        return self._manifest.phrases

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Clips and classes that did not enter the store, by reason."""
        return self._manifest.left_out

    @property
    def source(self) -> dict[str, Any]:
        """Where the clips come from."""
        return self._manifest.source

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shards' own; equal for equal content, whatever the folder is called."""
        joined = "".join(entry["sha256"] for entry in self._manifest.shards)
        return hashlib.sha256(joined.encode()).hexdigest()

    def split(self, name: str) -> Split:
        """Returns one of `splits`, or a random partition of its classes such as `cls@3`.

        Raises:
            TCAFError: the store has no split of that name, or one of too few classes to partition.
        """
        if name not in self.splits:
            base, number = base_split(name)
            if number:
                return draw_partition(self.split(base), number)
            known = ", ".join(self.splits) or "none"
            hint = did_you_mean(name, self.splits)
            raise TCAFError(f"store {self.path} has no split {name!r}; it has {known}{hint}")
        return self.splits[name]

    @cached_property
    def ids(self) -> list[str]:
        """Clip ids in row order."""
        return [clip for shard in self._shards for clip in shard.column("id")]

    @cached_property
    def class_names(self) -> np.ndarray:
        """Class name of each row, an array of str."""
        return np.array(
            [name for shard in self._shards for name in shard.column("class")], dtype=object
        )

    @cached_property
    def labels(self) -> list[tuple[str, ...]]:
        """Labels of each row, where clips have several in place of a class."""
        return [labels for shard in self._shards for labels in shard.labels]

    @cached_property
    def parts(self) -> np.ndarray:
        """Part of each row, an array of str."""
        return np.array(
            [part for shard in self._shards for part in shard.column("part")], dtype=object
        )

    def parts_of(self, split: str) -> np.ndarray:
        """Returns the part of each row in a split: `parts`, or what a random partition deals out.

        Raises:
            TCAFError: see `split`.
        """
        partition = self.split(split)
        if split in self.splits:
            return self.parts
        if split not in self._dealt:
            base, number = base_split(split)
            rows = self.rows(base, "stage_2_train")
            ids = [self.ids[row] for row in rows]
            parts = np.full(len(self), "", object)
            parts[rows] = deal_parts(partition, number, ids, self.class_names[rows], self.source)
            self._dealt[split] = parts
        return self._dealt[split]

    @cached_property
    def _dealt(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {clip: row for row, clip in enumerate(self.ids)}

    @cached_property
    def _all_lens(self) -> dict[Modality, Int[np.ndarray, " num_clips"]]:
        return {
            m: np.concatenate([np.diff(s.offsets[m]) for s in self._shards]) for m in MODALITIES
        }

    def lens(self, modality: Modality) -> Int[np.ndarray, " num_clips"]:
        """Returns the number of tokens of each row."""
        return self._all_lens[modality]

    def rows(self, split: str, part: str) -> Int[np.ndarray, " num_rows"]:
        """Returns the rows of one part or union of parts, ascending.

        Raises:
            TCAFError: no such split or part.
        """
        own = self.parts_of(split)
        return np.flatnonzero(self.split(split).select(part, self.class_names, own))

    def row(self, clip_id: str) -> int:
        """Returns the row of a clip.

        Raises:
            TCAFError: no such clip.
        """
        if clip_id not in self._row_of:
            raise TCAFError(
                f"store {self.path} has no clip {clip_id!r}{did_you_mean(clip_id, self.ids)}"
            )
        return self._row_of[clip_id]

    def __iter__(self) -> Iterator[VideoFeatures]:
        return (self[row] for row in range(len(self)))

    def _locate(self, row: int) -> tuple[Shard, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a store of {len(self)} clips")
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._shards[number], row - int(self._starts[number])

    def __getitem__(self, row: int) -> VideoFeatures:
        """Returns one clip; its tokens are views of the file and no other clip is read."""
        shard, local = self._locate(row)
        audio, visual = (
            shard.tokens[m][shard.offsets[m][local] : shard.offsets[m][local + 1]]
            for m in MODALITIES
        )
        id_, class_name, part = (
            shard.batch.column(c)[local].as_py() for c in ("id", "class", "part")
        )
        names = (self.spec.audio_backbone, self.spec.visual_backbone)
        labels = self.labels[row]
        return VideoFeatures(id_, audio, visual, class_name, part, *names, labels)

    def flat(self, row: int, modality: Modality) -> pa.Array:
        """Returns the numbers of one clip's tokens, one after the other: a view of the file."""
        shard, local = self._locate(row)
        column = shard.batch.column(modality)
        start, stop = shard.offsets[modality][local : local + 2].tolist()
        dim = self.spec.dim(modality)
        return column.values.values.slice(start * dim, (stop - start) * dim)

    def gather(
        self,
        rows: Int[np.ndarray, " batch"],
        modality: Modality,
        first: Int[np.ndarray, " batch"] | None = None,
        lens: Int[np.ndarray, " batch"] | None = None,
    ) -> Float[np.ndarray, "total dim"]:
        """Copies tokens of many clips into one packed array, clip after clip.

        Args:
            rows: clips, in any order, repeats allowed.
            modality: which tokens.
            first: first token of each clip to take; 0 by default.
            lens: how many tokens of each clip to take; all by default.

        Returns:
            The tokens in the order of `rows`, in the store's dtype.

        Raises:
            IndexError: there is no such row, or a clip has no such tokens.
        """
        rows = np.asarray(rows, np.int64)
        strange = rows[(rows < 0) | (rows >= len(self))]
        if len(strange):
            raise IndexError(f"row {strange[0]} of a store of {len(self)} clips")
        whole = self.lens(modality)[rows]
        first = np.zeros(len(rows), np.int64) if first is None else np.asarray(first, np.int64)
        lens = whole if lens is None else np.asarray(lens, np.int64)
        # Beyond a clip's end lie the tokens of another.
        beyond = (first < 0) | (lens < 0) | (first + lens > whole)
        if beyond.any():
            i = int(np.flatnonzero(beyond)[0])
            raise IndexError(
                f"{lens[i]} {modality} tokens from {first[i]} on of row {rows[i]}, which has "
                f"{whole[i]}"
            )
        # The tokens of a clip lie together: views, whose bytes are copied once.
        views = [np.empty((0, self.spec.dim(modality)), self.dtype)]
        for shard, start, length in self._spans(rows, modality, first, lens):
            views.append(shard.tokens[modality][start : start + length])
        return np.concatenate(views)

    def expect(
        self,
        rows: Int[np.ndarray, " batch"],
        modality: Modality,
        first: Int[np.ndarray, " batch"],
        lens: Int[np.ndarray, " batch"],
    ) -> None:
        """Lets the system read ahead what `gather` will be asked for; returns at once.

        Of a store that is larger than the memory a clip is not there when it is asked for, and
        each of its pages would be waited for. What is there costs some microseconds a clip.
        """
        for shard, start, length in self._spans(rows, modality, first, lens):
            shard.expect(modality, start, length)

    def _spans(
        self,
        rows: Int[np.ndarray, " batch"],
        modality: Modality,
        first: Int[np.ndarray, " batch"],
        lens: Int[np.ndarray, " batch"],
    ) -> Iterator[tuple[Shard, int, int]]:
        """Yields the shard of each row, the first of its tokens there, and how many they are."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        local = rows - self._starts[owner]
        for number, row, skipped, length in zip(
            owner.tolist(), local.tolist(), first.tolist(), lens.tolist(), strict=True
        ):
            shard = self._shards[number]
            yield shard, int(shard.offsets[modality][row]) + skipped, length

    def summary(self) -> dict[str, Any]:
        """Returns what `tcaf inspect` prints: clips, classes, tokens, lengths, dims, splits."""
        lengths = {
            m: {
                "tokens": int(lens.sum()),
                "shortest": int(lens.min()),
                "median": float(np.median(lens)),
                "longest": int(lens.max()),
                "clips_without": int((lens == 0).sum()),
            }
            for m in MODALITIES
            for lens in [self.lens(m)]
        }
        parts = {
            name: {
                part: {
                    "clips": int(chosen.sum()),
                    "classes": len(set(self.class_names[chosen])),
                }
                for part in NAMED_PARTS
                for chosen in [split.select(part, self.class_names, self.parts)]
            }
            for name, split in self.splits.items()
        }
        return {
            "path": str(self.path),
            "clips": len(self),
            "classes": len(set(self.class_names) - {""}),
            "labels": len({label for labels in self.labels for label in labels}),
            "dtype": self.dtype,
            "shards": len(self._shards),
            "bytes": sum(entry["bytes"] for entry in self._manifest.shards),
            "spec": asdict(self.spec),
            "lengths": lengths,
            "splits": parts,
            "text": self.given_text_names,
            "phrases": sorted({kind for kinds in self.phrases.values() for kind in kinds}),
            "left_out": self.left_out,
            "source": self.source,
            "fingerprint": self.fingerprint,
        }

    def verify(self) -> None:
        """Reads every shard and compares its SHA-256 with the one in `store.json`.

        Raises:
            TCAFError: a shard's bytes have changed since it was written.
        """
        for entry in self._manifest.shards:
            path = self.path / entry["file"]
            if file_sha256(path) != entry["sha256"]:
                raise _corrupt(path)

    def verify_once(self, track: Track = silent) -> None:
        """Does what `verify` does, for the shards that changed since they were last found right.

        Args:
            track: shows how many are read.

        Raises:
            TCAFError: a shard's bytes have changed since it was written.
        """
        entries = self._manifest.shards
        for path in changed_files({self.path / e["file"]: e["sha256"] for e in entries}, track):
            raise _corrupt(path)

    @property
    def text_names(self) -> list[str]:
        """Names of the class text embeddings that are kept with the store."""
        return sorted(path.stem for path in self.path.glob("text/*.safetensors"))

    @property
    def given_text_names(self) -> list[str]:
        """Those of `text_names` that came with the clips, without what was computed since."""
        return [name for name in self.text_names if not name.startswith(CACHE_PREFIX)]

    def text(self, name: str) -> dict[str, Float[np.ndarray, " text_dim"]]:
        """Returns the text embedding of each class that is kept under `name`.

        Raises:
            TCAFError: nothing is kept under that name.
        """
        if name not in self.text_names:
            known = ", ".join(self.text_names) or "none"
            raise TCAFError(
                f"store {self.path} keeps no text embeddings {name!r}; it keeps {known}"
            )
        return read_text_embeddings(self.path / "text" / f"{name}.safetensors")

    def add_text(self, name: str, embeddings: Mapping[str, Float[np.ndarray, " text_dim"]]) -> None:
        """Keeps the text embeddings of classes with the store, replacing those of the same name.

        Raises:
            TCAFError: there is no class.
        """
        write_text_embeddings(self.path, name, embeddings)


def _corrupt(shard: Path) -> TCAFError:
    return TCAFError(
        f"shard {shard} is corrupt: its SHA-256 is not the one written; copy or prepare the store "
        "again"
    )


def class_names(text: str) -> list[str]:
    """Returns the names of classes that the metadata of a file of text embeddings hold.

    Raises:
        ValueError: they are something else.
    """
    names: list[str] = parse_json(text)
    check_content(names, list[str])
    return names


def check_matrix(matrix: Any) -> None:
    """Checks that an array or tensor, such as a file holds, is of embeddings.

    Raises:
        ValueError: it has other axes or holds no numbers.
    """
    if matrix.ndim != 2 or "float" not in str(matrix.dtype):
        shape = tuple(matrix.shape)
        raise ValueError(f"expected rows of numbers, found {matrix.dtype} of shape {shape}")


def read_text_embeddings(path: Path) -> dict[str, Float[np.ndarray, " text_dim"]]:
    """Reads class text embeddings that `FeatureStore.add_text` wrote.

    Raises:
        TCAFError: the file is damaged.
    """
    try:
        names, data = read_sealed(path, "classes")
        matrix = safetensors.numpy.load(data)["embeddings"]
        check_matrix(matrix)
        return dict(zip(class_names(names), matrix, strict=True))
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TCAFError(
            f"text embeddings {path} are damaged: {error}; copy or prepare the store again"
        ) from None


def write_text_embeddings(
    folder: Path, name: str, embeddings: Mapping[str, Float[np.ndarray, " text_dim"]]
) -> None:
    """Keeps class text embeddings as `text/<name>.safetensors` in a store's folder.

    Raises:
        TCAFError: there is no class.
    """
    if not embeddings:
        raise TCAFError(f"no class to keep text embeddings {name!r} of")
    (folder / "text").mkdir(exist_ok=True)
    matrix = np.stack([np.asarray(vector, np.float32) for vector in embeddings.values()])
    metadata = {"classes": json.dumps(list(embeddings))}
    data = safetensors.numpy.save({"embeddings": matrix}, metadata)
    write_sealed(folder / "text" / f"{name}.safetensors", data)
