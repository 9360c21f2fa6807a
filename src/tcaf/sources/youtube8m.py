"""YouTube-8M, video-level or frame-level, to a feature store with a zero-shot benchmark on it.

Owns the rule that makes the benchmark: which videos belong to a class, which are kept, and the part
that each stands in. All of it follows from ids and labels, so that video-level and frame-level
files of the same videos give the same benchmark.
"""

import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.shards import Dtype
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError, did_you_mean
from tcaf.files.csv_tables import Row, csv_rows
from tcaf.progress import Track, silent
from tcaf.sources.id_parts import check_partition, part_of_id, split_of
from tcaf.sources.tfrecord import PlacedRecord, read_sequences, sequence_at, shard_paths

NAME = "YouTube-8M"
"""As messages call the data set."""

FRAME_STEP_S = 1.0
"""Frame-level files have a token a second."""

DEQUANTISED = (np.arange(256) * (4 / 255) + 4 / 512 - 2).astype(np.float32)
"""What each byte of a frame-level file stands for (YouTube-8M's own `Dequantize`)."""

UNWRITTEN_EXCLUSIONS = ("Brass instrument",)
"""Labels that the published benchmark leaves out though its rule does not say so.

Its counts, which others compare with, come out only if videos with this label (168) belong to no
class: on its 70 shards 2317, 487, 850, 616 and 981 by part. The rule to the letter gives 2319, 487,
866, 619 and 991.
"""

_COLUMNS = ("Index", "Name", "Vertical1", "Vertical2", "Vertical3", "WikiDescription")


@dataclass(frozen=True)
class _Clip:
    """A video that belongs to a class, and where it lies. Orders as the cap of the rule does."""

    cap_crc: int
    id: str
    shard: Path
    offset: int
    labels: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[int, str]:
        return self.cap_crc, self.id


@dataclass(frozen=True)
class _Benchmark:
    """The classes with their labels and phrases, from the two tables."""

    names: dict[int, str]
    """By label index."""
    excluded: dict[int, str]
    """Names of the labels that no clip may have, by label index."""
    partitions: dict[str, str]
    """By name."""
    phrases: dict[str, dict[str, list[str]]]
    """By name and kind."""


def prepare_youtube8m(
    shards: Path,
    out: Path,
    *,
    vocabulary: Path,
    classes: Path | None = None,
    videos_per_class: int = 150,
    excluded_labels: tuple[str, ...] | None = None,
    dtype: Dtype = "float16",
    overwrite: bool = False,
    track: Track = silent,
) -> FeatureStore:
    """Prepares YouTube-8M as a feature store with one split, `cls`.

    A video belongs to a class if exactly one of the listed labels is among its labels. Video-level
    files give one token a modality, frame-level files one a second; the files show which they are.
    A video without sound or picture is left out, counted and named, and so is a class without any
    video.

    Without `classes` it is a store of all videos that have a label, with all of their labels and
    no class or part: further videos for `tcaf train --auxiliary`.

    Args:
        shards: folder of .tfrecord files as published, or one file.
        out: folder to make.
        vocabulary: YouTube-8M's vocabulary.csv (names, verticals and descriptions of labels).
        classes: table of the classes, with the columns label, name and partition (train,
            val_unseen or test_unseen); without it all videos and labels are kept.
        videos_per_class: most videos that a class keeps.
        excluded_labels: names of further labels; a video that has one belongs to no class. By
            default those of `UNWRITTEN_EXCLUSIONS`, which is Brass instrument, as far as the
            vocabulary has them and they are no class: only so do the published benchmark's counts
            come out. None at all (`[]` on the command line) is its written rule to the letter. The
            store's `source` records what was applied.
        dtype: how tokens are kept on disk.
        overwrite: replace a store that is there already.
        track: shows progress.

    Returns:
        The store, opened.

    Raises:
        TCAFError: a file is missing or damaged, a class does not fit the vocabulary, two videos
            have the same id, or no video belongs to a class.
    """
    if videos_per_class < 1:
        raise TCAFError(f"expected at least 1 video per class, got {videos_per_class}")
    if classes is None and excluded_labels:
        raise TCAFError("excluded labels are of a benchmark; name its --classes too")
    paths = shard_paths(shards)
    benchmark, labels = None, {}
    if classes is None:
        labels = _read_labels(vocabulary)
        kept, empty = _all_videos(paths, labels, track)
    else:
        benchmark = _read_benchmark(classes, vocabulary, excluded_labels)
        kept, empty = _choose(paths, benchmark, videos_per_class, track)
    level, audio_dim, visual_dim = _kind_of(kept)
    step = FRAME_STEP_S if level == "frame" else None
    spec = FeatureSpec(audio_dim, visual_dim, step, step, "youtube8m_audio", "youtube8m_rgb")
    with new_store(out, spec, dtype=dtype, overwrite=overwrite) as writer:
        writer.source.update(kind="youtube8m", level=level, shards=len(paths), licence="CC BY 4.0")
        if benchmark is None:
            writer.phrases.update(dict(labels.values()))
        else:
            writer.splits["cls"] = split_of(benchmark.partitions)
            writer.phrases.update(benchmark.phrases)
            writer.source.update(
                videos_per_class=videos_per_class,
                excluded_labels=list(benchmark.excluded.values()),
            )
        for path in empty:
            writer.leave_out("shard without a record", path.name)
        with_clips = set()
        rows = [(name, clip) for name in sorted(kept) for clip in kept[name]]
        for class_name, clip in track(rows, "Reading tokens"):
            own_level, audio, visual = _features(clip)
            if own_level != level and (len(audio) or len(visual)):
                raise TCAFError(
                    f"{clip.shard}, byte {clip.offset}: expected a {level}-level video, found a "
                    f"{own_level}-level one; prepare one level at a time"
                )
            if not len(audio) or not len(visual):
                missing = " and ".join(
                    m for m, tokens in (("audio", audio), ("rgb", visual)) if not len(tokens)
                )
                writer.leave_out(f"no {missing} features", clip.id)
                continue
            part = part_of_id(clip.id, benchmark.partitions[class_name]) if benchmark else ""
            video = VideoFeatures(clip.id, audio, visual, class_name, part, labels=clip.labels)
            writer.add(video)
            with_clips.add(class_name)
        for class_name in sorted(set(kept) - with_clips):
            writer.leave_out("class without a video", class_name)
    return FeatureStore.open(out)


def _label(row: Row, column: str) -> int:
    try:
        return int(row[column])
    except ValueError:
        raise TCAFError(
            f"{row.where}: expected a whole number as label, got {row[column]!r}"
        ) from None


def _read_benchmark(
    classes: Path, vocabulary: Path, excluded_labels: tuple[str, ...] | None
) -> _Benchmark:
    listed_labels = csv_rows(vocabulary, _COLUMNS, others="allowed", filled=False)
    entries = {_label(row, "Index"): row for row in listed_labels}
    names: dict[int, str] = {}
    partitions: dict[str, str] = {}
    phrases: dict[str, dict[str, list[str]]] = {}
    for row in csv_rows(classes, ("label", "name", "partition"), others="allowed"):
        label, listed, partition = _label(row, "label"), row["name"], row["partition"]
        if label not in entries or entries[label]["Name"] != listed:
            there = repr(entries[label]["Name"]) if label in entries else "nothing"
            nearest = did_you_mean(listed, [entry["Name"] for entry in entries.values()])
            raise TCAFError(
                f"{classes}: class {listed!r} has label {label}, under which {vocabulary} has "
                f"{there}{nearest}"
            )
        check_partition(partition, f"{classes}: class {listed!r}")
        name = bare_name(listed)
        if label in names or name in partitions:
            raise TCAFError(f"{classes}: class {name!r} (label {label}) is listed twice")
        names[label], partitions[name] = name, partition
        phrases[name] = _phrases(name, entries[label])
    by_name = {entry["Name"]: label for label, entry in entries.items()}
    if excluded_labels is None:
        excluded_labels = tuple(
            n for n in UNWRITTEN_EXCLUSIONS if n in by_name and by_name[n] not in names
        )
    for label_name in excluded_labels:
        if label_name not in by_name or by_name[label_name] in names:
            what = "is a class" if label_name in by_name else f"is not in {vocabulary}"
            raise TCAFError(
                f"excluded label {label_name!r} {what}{did_you_mean(label_name, by_name)}"
            )
    return _Benchmark(names, {by_name[n]: n for n in excluded_labels}, partitions, phrases)


def _read_labels(vocabulary: Path) -> dict[int, tuple[str, dict[str, list[str]]]]:
    """Returns a name of its own for each label that has one, and its phrases, by index.

    That is the bare name where no other label has the same.
    """
    rows = csv_rows(vocabulary, _COLUMNS, others="allowed", filled=False)
    bare = Counter(bare_name(row["Name"]) for row in rows)
    named = {}
    for row in rows:
        short = bare_name(row["Name"])
        if short:
            name = short if bare[short] == 1 else row["Name"]
            named[_label(row, "Index")] = (name, _phrases(short, row))
    return named


def _all_videos(
    paths: list[Path], labels: Mapping[int, tuple[str, Any]], track: Track
) -> tuple[dict[str, list[_Clip]], list[Path]]:
    """Returns all videos with labels, under no class, by shard, and the empty shards."""
    found = []
    empty = []
    for path in track(paths, "Reading labels"):
        placed = None
        for placed in read_sequences(path):
            own = tuple(labels[n][0] for n in placed.record.integers("labels") if n in labels)
            if own:
                found.append(_Clip(0, placed.id("id", NAME), path, placed.offset, own))
        if placed is None:
            empty.append(path)
    return {"": found}, empty


def bare_name(name: str) -> str:
    """Returns a label's name without what stands in brackets: `Drifting (motorsport)`."""
    return " ".join(re.sub(r"\([^)]*\)", " ", name).split())


def _phrases(name: str, entry: Row) -> dict[str, list[str]]:
    kinds = {
        "name": [name],
        "verticals": [entry[f"Vertical{i}"] for i in (1, 2, 3) if entry[f"Vertical{i}"]],
        "description": [s for s in [first_sentence(entry["WikiDescription"])] if s],
    }
    return {kind: phrases for kind, phrases in kinds.items() if phrases}


_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(]?[A-Z])")
_NO_END = re.compile(r"(?:\b[A-Za-z]|\b(?:St|Mt|Dr|Mrs?|Ms|Jr|Sr|vs|No|Inc|Co|Corp|Ltd|Bros))\.$")


def first_sentence(text: str) -> str:
    """Returns the first sentence of a text: up to a full stop before a capital.

    A stop after a single letter (an initial, `U.S.`, `e.g.`) or a common abbreviation ends none.
    """
    text = text.strip()
    for end in _SENTENCE_END.finditer(text):
        sentence = text[: end.end()].rstrip()
        if not _NO_END.search(sentence):
            return sentence
    return text


def _choose(
    paths: list[Path], benchmark: _Benchmark, videos_per_class: int, track: Track
) -> tuple[dict[str, list[_Clip]], list[Path]]:
    """Returns the clips that each class keeps, smallest cap crc first, and the empty shards.

    Only ids and places are held, never tokens: frame-level files are larger than any memory.
    """
    kept: dict[str, list[_Clip]] = {name: [] for name in benchmark.partitions}
    ids: set[str] = set()
    empty = []
    for path in track(paths, "Reading labels"):
        placed = None
        for placed in read_sequences(path):
            clip_id = placed.id("id", NAME)
            labels = set(placed.record.integers("labels"))
            present = benchmark.names.keys() & labels
            if len(present) != 1 or benchmark.excluded.keys() & labels:
                continue
            if clip_id in ids:
                raise TCAFError(f"{placed.where}: video {clip_id!r} occurs twice")
            ids.add(clip_id)
            of_class = kept[benchmark.names[present.pop()]]
            cap_crc = zlib.crc32(f"cap{clip_id}".encode())
            of_class.append(_Clip(cap_crc, clip_id, path, placed.offset))
            if len(of_class) > 2 * videos_per_class:
                of_class.sort(key=lambda clip: clip.order)
                del of_class[videos_per_class:]
        if placed is None:
            empty.append(path)
    for of_class in kept.values():
        of_class.sort(key=lambda clip: clip.order)
        del of_class[videos_per_class:]
    return kept, empty


def _features(
    clip: _Clip,
) -> tuple[str, Float[np.ndarray, "audio_len audio_dim"], Float[np.ndarray, "len visual_dim"]]:
    """Reads the level of a clip, and its audio and visual tokens; empty where it has none."""
    placed = sequence_at(clip.shard, clip.offset)
    level = "frame" if {"audio", "rgb"} & set(placed.record.names) else "video"
    read = _frames if level == "frame" else _mean
    return level, read(placed, "audio"), read(placed, "rgb")


def _mean(placed: PlacedRecord, modality: str) -> Float[np.ndarray, "len dim"]:
    mean = placed.record.floats(f"mean_{modality}")
    return mean.reshape(min(1, mean.size), mean.size)


def _frames(placed: PlacedRecord, modality: str) -> Float[np.ndarray, "len dim"]:
    tokens: np.ndarray = DEQUANTISED[placed.codes(modality)]
    return tokens


def _kind_of(kept: Mapping[str, list[_Clip]]) -> tuple[str, int, int]:
    """Returns the level and the dimensions, as the first clip with both modalities has them."""
    clips = [clip for name in sorted(kept) for clip in kept[name]]
    for clip in clips:
        level, audio, visual = _features(clip)
        if len(audio) and len(visual):
            return level, audio.shape[1], visual.shape[1]
    if not clips:
        raise TCAFError(
            "no video has a label of the vocabulary"
            if "" in kept
            else "no video belongs to a class: none has exactly one of the listed labels"
        )
    raise TCAFError(
        f"none of the {len(clips)} videos has both audio and rgb features (mean_audio and mean_rgb "
        "in video-level files, audio and rgb in frame-level ones)"
    )
