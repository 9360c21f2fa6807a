"""AudioSet's published features, to a feature store: a zero-shot benchmark on it, or all clips.

Owns what a record of AudioSet holds and what its bytes are: 128 a second, VGGish after its PCA and
8-bit step. That is where the backbone `vggish:activation=none` ends too, so values are kept as they
are and go by its name. There is no picture.

A clip belongs to a class of the benchmark if its one and only label is that class.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tcaf.data.features import NO_BACKBONE, FeatureSpec, VideoFeatures
from tcaf.data.shards import Dtype
from tcaf.data.store import FeatureStore
from tcaf.data.writer import StoreWriter, check_store_place, new_store
from tcaf.errors import TCAFError, did_you_mean
from tcaf.files.csv_tables import Row, csv_rows
from tcaf.progress import Track, silent
from tcaf.sources.id_parts import check_partition, part_of_id, split_of
from tcaf.sources.tfrecord import PlacedRecord, read_sequences, sequence_at, shard_paths

NAME = "AudioSet"
"""As messages call the data set."""

DIM = 128
"""Bytes a second."""

STEP_S = 1.0
"""A token a second; files that are extracted here have one every 0.96 s."""

SPEC = FeatureSpec(DIM, 1, STEP_S, None, "vggish:activation=none", NO_BACKBONE)
"""What was published was coded without the network's last ReLU (`extract.vggish`)."""

ID, LABELS, AUDIO = "video_id", "labels", "audio_embedding"
"""What a record holds; its times within the video are of no concern here."""

_ALIASES = {"id": "mid", "display_name": "name"}


@dataclass(frozen=True)
class _Label:
    """A row of the vocabulary.

    Args:
        mid: AudioSet's id, as `/m/09x0r`.
        name: unique.
        phrases: by kind.
    """

    mid: str
    name: str
    phrases: dict[str, list[str]]


@dataclass(frozen=True)
class _Clip:
    """A clip that enters the store, and where it lies."""

    id: str
    path: Path
    offset: int
    labels: tuple[str, ...]


def prepare_audioset(
    shards: Path,
    out: Path,
    *,
    vocabulary: Path,
    classes: Path | None = None,
    dtype: Dtype = "float16",
    overwrite: bool = False,
    track: Track = silent,
) -> FeatureStore:
    """Prepares AudioSet's published features as a feature store with one split, `cls`.

    Sound alone: 128 numbers a second, 0 to 255, as the backbone vggish:activation=none makes them.
    A clip belongs to a class if its one and only label is that class; others are counted. A clip
    without features is left out, counted and named, and so is a class without any clip.

    Without `classes` it is a store of all clips with all of their labels and no class or part:
    further clips for `tcaf train --auxiliary`.

    Args:
        shards: folder of .tfrecord files as published, or one file.
        out: folder to make.
        vocabulary: table of the labels, with the columns index, mid (or id) and name (or
            display_name), and, if they are there, parents (names parted by |) and description.
        classes: table of the benchmark's classes, with the columns index, mid, name and subset
            (train, val_unseen or test_unseen); without it all clips and labels are kept.
        dtype: how tokens are kept on disk; the values are whole numbers that float16 holds.
        overwrite: replace a store that is there already.
        track: shows progress.

    Returns:
        The store, opened.

    Raises:
        TCAFError: a file is missing or damaged, a class does not fit the vocabulary, a clip has a
            label that the vocabulary lacks, two clips have the same id, or no clip belongs to a
            class.
    """
    check_store_place(out, overwrite=overwrite)
    paths = shard_paths(shards)
    labels = _read_vocabulary(vocabulary)
    partitions = None if classes is None else _read_classes(classes, labels, vocabulary)
    clips, empty = _read_clips(paths, labels, vocabulary, track)
    total = len(clips)
    if partitions is not None:
        clips = [c for c in clips if len(c.labels) == 1 and c.labels[0] in partitions]
        clips.sort(key=lambda clip: (clip.labels, clip.id))
    if not clips:
        raise TCAFError(
            "no clip has a label"
            if partitions is None
            else "no clip belongs to a class: none has one of the listed labels and no other"
        )
    with new_store(out, SPEC, dtype=dtype, overwrite=overwrite) as writer:
        writer.source.update(
            kind="audioset", shards=len(paths), licence="features CC BY 4.0, ontology CC BY-SA 4.0"
        )
        writer.phrases.update({label.name: label.phrases for label in labels.values()})
        if partitions is not None:
            writer.splits["cls"] = split_of(partitions)
            writer.phrases = {name: writer.phrases[name] for name in sorted(partitions)}
            writer.source["clips_of_no_class"] = total - len(clips)
        for path in empty:
            writer.leave_out("shard without a record", path.name)
        with_clips: set[str] = set()
        for clip in track(clips, "Reading tokens"):
            if _add(writer, clip, partitions):
                with_clips.update(clip.labels)
        for name in sorted(set(partitions or ()) - with_clips):
            writer.leave_out("class without a clip", name)
    return FeatureStore.open(out)


def _add(writer: StoreWriter, clip: _Clip, partitions: Mapping[str, str] | None) -> bool:
    """Adds a clip with its tokens; returns whether it has any, and notes it if not."""
    placed = sequence_at(clip.path, clip.offset)
    codes = placed.codes(AUDIO)
    if not len(codes):
        writer.leave_out("no audio features", clip.id)
        return False
    if codes.shape[1] != DIM:
        raise TCAFError(
            f"{placed.where}: expected {DIM} bytes a second in {AUDIO!r} of clip {clip.id!r}, "
            f"found {codes.shape[1]}"
        )
    audio, visual = codes.astype(np.float32), np.zeros((0, SPEC.visual_dim), np.float32)
    if partitions is None:
        writer.add(VideoFeatures(clip.id, audio, visual, labels=clip.labels))
    else:
        (name,) = clip.labels
        part = part_of_id(clip.id, partitions[name])
        writer.add(VideoFeatures(clip.id, audio, visual, name, part))
    return True


def _index(row: Row) -> int:
    try:
        return int(row["index"])
    except ValueError:
        raise TCAFError(
            f"{row.where}: expected a whole number as index, got {row['index']!r}"
        ) from None


def _read_vocabulary(path: Path) -> dict[int, _Label]:
    """Returns the labels by index."""
    required = ("index", "mid", "name")
    rows = csv_rows(path, required, optional=("parents", "description"), aliases=_ALIASES)
    labels: dict[int, _Label] = {}
    taken: dict[str, str] = {}
    for row in rows:
        index, mid, name = _index(row), row["mid"], row["name"]
        for value in (f"index {index}", f"id {mid!r}", f"name {name!r}"):
            if value in taken:
                raise TCAFError(f"{row.where}: the {value} is that of {taken[value]!r} too")
            taken[value] = name
        parents = [p for p in (p.strip() for p in row["parents"].split("|")) if p]
        kinds = {"name": [name], "parents": parents, "description": [row["description"]]}
        phrases = {kind: [p for p in own if p] for kind, own in kinds.items()}
        labels[index] = _Label(mid, name, {kind: own for kind, own in phrases.items() if own})
    return labels


def _read_classes(path: Path, labels: Mapping[int, _Label], vocabulary: Path) -> dict[str, str]:
    """Returns what each class of the benchmark belongs to, by name."""
    partitions: dict[str, str] = {}
    for row in csv_rows(path, ("index", "mid", "name", "subset"), aliases=_ALIASES):
        index, name = _index(row), row["name"]
        known = labels.get(index)
        if known is None or (known.mid, known.name) != (row["mid"], name):
            there = "nothing" if known is None else f"{known.name!r} ({known.mid})"
            nearest = did_you_mean(name, [label.name for label in labels.values()])
            raise TCAFError(
                f"{row.where}: class {name!r} ({row['mid']}) has index {index}, under which "
                f"{vocabulary} has {there}{nearest}"
            )
        if name in partitions:
            raise TCAFError(f"{row.where}: class {name!r} is listed twice")
        partitions[name] = check_partition(row["subset"], f"{row.where}: class {name!r}")
    return partitions


def _read_clips(
    paths: list[Path], labels: Mapping[int, _Label], vocabulary: Path, track: Track
) -> tuple[list[_Clip], list[Path]]:
    """Returns all clips that have a label, in the order of the files, and the files without any.

    Only ids, labels and places are held, never tokens.
    """
    clips: list[_Clip] = []
    places: dict[str, str] = {}
    empty = []
    for path in track(paths, "Reading labels"):
        before = len(places)
        for clip, placed in _clips_of(path, labels, vocabulary):
            if clip.id in places:
                raise TCAFError(
                    f"{placed.where}: clip {clip.id!r} occurs twice, first in {places[clip.id]}"
                )
            places[clip.id] = placed.where
            if clip.labels:
                clips.append(clip)
        if len(places) == before:
            empty.append(path)
    return clips, empty


def _clips_of(
    path: Path, labels: Mapping[int, _Label], vocabulary: Path
) -> Iterator[tuple[_Clip, PlacedRecord]]:
    for placed in read_sequences(path):
        clip_id = placed.id(ID, NAME)
        # A label that is there twice is one label.
        own = list(dict.fromkeys(placed.record.integers(LABELS)))
        if unknown := [number for number in own if number not in labels]:
            raise TCAFError(
                f"{placed.where}: clip {clip_id!r} has the label {unknown[0]}, which {vocabulary} "
                f"lacks (it has {len(labels)}, from {min(labels)} to {max(labels)})"
            )
        names = tuple(labels[number].name for number in own)
        yield _Clip(clip_id, path, placed.offset, names), placed
