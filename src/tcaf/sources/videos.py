"""Your own clips: a folder of media files to a feature store, by way of `extract`.

Owns which files are clips, which class each has, and the rule that makes a zero-shot benchmark of
them where no file says how.
"""

import csv
import io
import os
import shutil
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tcaf.data.features import MODALITIES, Modality
from tcaf.data.shards import Dtype
from tcaf.data.splits import PARTS, Split
from tcaf.data.store import FeatureStore
from tcaf.data.writer import check_place, new_store
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.execution.processes import usable_cores
from tcaf.extract.corpus import Backbones, Extracted, MediaFile, Reject, extract_files
from tcaf.files.atomic import write_text
from tcaf.files.csv_tables import csv_rows
from tcaf.progress import Track, silent

# fmt: off
SUFFIXES = frozenset({
    ".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
    ".aac", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma",
})
# fmt: on
"""What media files end with; other files in a folder are passed over."""

SUBSETS = ("train", "val_unseen", "test_unseen")
"""What a class can be in a split file."""

PARTS_OF = {
    "train": {"stage_1_train": 0.7, "val_seen": 0.15, "test_seen": 0.15},
    "val_unseen": {"val_unseen": 0.85, "test_seen": 0.15},
    "test_unseen": {"test_unseen": 1.0},
}
"""Shares in which the clips of a class are dealt out to parts."""

NO_SPLIT = "the store has no split for training and test, and serves to predict alone"


@dataclass(frozen=True)
class Clip:
    """A media file and what is known of it.

    Args:
        file: the file.
        class_name: its class; empty if not known.
        part: one of `splits.PARTS`; empty if not known.
    """

    file: MediaFile
    class_name: str
    part: str


def prepare_videos(
    folder: Path,
    out: Path,
    *,
    audio: str = "logmel",
    visual: str = "efficientnet_lite0",
    labels: Path | None = None,
    split: Path | None = None,
    unseen: float = 0.2,
    seed: int = 0,
    require_audio: bool = False,
    require_visual: bool = False,
    audio_weights: Path | None = None,
    visual_weights: Path | None = None,
    workers: int | None = None,
    dtype: Dtype = "float16",
    overwrite: bool = False,
    track: Track = silent,
) -> FeatureStore:
    """Extracts features from your own videos into a feature store.

    The class of a clip is the sub-folder that it lies in, or what a table says. Where no table says
    more, a seeded rule deals classes and clips out to the parts of the two-stage protocol; if there
    are too few, the store has no split and serves `tcaf predict`.

    Nothing is done twice: what is extracted gathers in OUT.extracted until all files are done, so
    that an interrupted run is taken up by the same command. A file that cannot be used is left out
    and named in rejects.csv in the store; one that is kept though something is amiss (a damaged
    part, no sound, no picture) in notes.csv.

    Args:
        folder: folder with media files, in sub-folders or not.
        out: folder of the store to make.
        audio: backbone for sound: AUDIO_BACKBONES; `tcaf backbones` tells more.
        visual: backbone for frames: VISUAL_BACKBONES.
        labels: a CSV with the columns file (as seen from the folder), class, and perhaps part
            (stage_1_train, val_seen, val_unseen, test_seen, test_unseen); only these are taken.
        split: a CSV with the columns class and subset (train, val_unseen, test_unseen).
        unseen: share of the classes that the rule holds out, for validation and again for the test.
        seed: of the rule.
        require_audio: leave out clips without sound, in place of an empty sequence.
        require_visual: leave out clips without picture.
        audio_weights: a file or folder in place of the audio backbone's known weights; `clap` and
            `clip` have none, and need it.
        visual_weights: the same for the visual backbone.
        workers: processes that extract; by default one for each core.
        dtype: how tokens are kept on disk.
        overwrite: replace a store that is there already.
        track: shows progress.

    Raises:
        TCAFError: no media file, a table that does not fit the files, a backbone that cannot be
            opened, or no clip with features.
    """
    clips = find_clips(folder, labels)
    partition = None if split is None else read_split(split)
    check_place(out, overwrite=overwrite)
    if not 0 < unseen < 0.5 or seed < 0:
        raise TCAFError(
            f"unseen must lie between 0 and 0.5, seed from 0 on; got unseen {unseen}, seed {seed}"
        )
    _check_tables(clips, partition, split)
    backbones = Backbones(audio, visual, audio_weights, visual_weights)
    work = out.with_name(f"{out.name}.extracted")
    files = [clip.file for clip in clips]
    spec, found = extract_files(
        files, backbones, work, workers=workers or usable_cores(), track=track
    )
    required = {"audio": require_audio, "visual": require_visual}
    outcome = _sort_out(found, [m for m in MODALITIES if required[m]])
    outcome.write(work)
    if not outcome.kept:
        raise TCAFError(
            f"none of {len(clips)} files can be used: {outcome.rejects[0].detail}; "
            f"{work}/rejects.csv names all of them"
        )
    by_id = {clip.file.id: clip for clip in clips}
    chosen = [by_id[extracted.id] for extracted in outcome.kept]
    if partition is None and chosen[0].part:
        partition = split_by_parts(chosen)
    elif partition is None:
        partition = split_by_rule([clip.class_name for clip in chosen], unseen, seed)
    parts = _deal_out(chosen, partition, seed)
    with new_store(out, spec, dtype=dtype, overwrite=overwrite) as writer:
        writer.source = {"kind": "videos", "folder": _readable(folder.resolve()), "seed": seed}
        if partition is not None and set(PARTS) <= set(parts):
            writer.splits["cls"] = partition
        else:
            empty = [part for part in PARTS if part not in parts]
            warnings.warn(f"no clips for {', '.join(empty)}: {NO_SPLIT}", stacklevel=2)
        for extracted, clip, part in zip(outcome.kept, chosen, parts, strict=True):
            try:
                writer.add(extracted.features(clip.class_name, part))
            except TCAFError as error:  # a value that float16 does not hold
                outcome.rejects.append(Reject(extracted.id, "unusable features", str(error)))
                continue
            if clip.class_name:
                writer.phrases.setdefault(clip.class_name, {"name": [words(clip.class_name)]})
        for reject in outcome.rejects:
            writer.leave_out(reject.reason, reject.id)
        outcome.write(writer.folder)
    shutil.rmtree(work)
    return FeatureStore.open(out)


def _check_tables(clips: Sequence[Clip], split: Split | None, path: Path | None) -> None:
    """Checks that what tables say of classes and clips fits together, before hours go into them.

    Raises:
        TCAFError: the split names a class that no clip has, or a clip stands in a part that its
            class must not reach.
    """
    names = {clip.class_name for clip in clips}
    for name in split.classes if split else ():
        if name not in names:
            raise TCAFError(f"{path}: no clip is of the class {name!r}{did_you_mean(name, names)}")
    if not clips[0].part:
        return
    partition = split or split_by_parts(clips)
    partition.check_clips(
        [clip.file.id for clip in clips],
        [clip.class_name for clip in clips],
        [clip.part for clip in clips],
    )
    for clip in clips:
        if clip.part == "test_unseen" and clip.class_name not in partition.test_unseen:
            raise TCAFError(
                f"clip {clip.file.id!r} stands in test_unseen, but its class {clip.class_name!r} "
                "is not among the unseen ones of the test"
            )


def words(class_name: str) -> str:
    """Returns a class name as words: folders are often called `playing_harmonica`."""
    return class_name.replace("_", " ").strip() or class_name


def find_clips(folder: Path, labels: Path | None = None) -> list[Clip]:
    """Lists the media files of a folder, sorted by name; the class is the first sub-folder.

    Args:
        folder: where they lie.
        labels: a table of the files wanted, with the columns file, class and perhaps part.

    Raises:
        TCAFError: no such folder, no media file in it, or a table that is not such a one.
    """
    if not folder.is_dir():
        raise TCAFError(f"expected a folder with media files at {folder}, found none")
    if labels is not None:
        return _listed(folder, labels)
    files = sorted(
        path
        for path in folder.rglob("*")
        if (not path.is_dir() or path.suffix.lower() in SUFFIXES)
        # Hidden ones are the system's: thumbnails, waste baskets.
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    media = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not media:
        raise TCAFError(
            f"no media file in {folder} ({len(files)} other files); known are "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    clips = []
    for path in media:
        name = _readable(path.relative_to(folder))
        class_name, is_inside, _ = name.partition("/")
        clips.append(Clip(MediaFile(name, path), class_name if is_inside else "", ""))
    return clips


def _readable(path: Path) -> str:
    """Returns a path as text; what is not UTF-8 in it, as in names of old archives, is escaped."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def _listed(folder: Path, labels: Path) -> list[Clip]:
    clips: dict[str, Clip] = {}
    for row in csv_rows(labels, ("file", "class"), optional=("part",)):
        name, part = row["file"], row["part"]
        if part and part not in PARTS:
            hint = did_you_mean(part, PARTS)
            raise TCAFError(f"{row.where}: no part {part!r}; there are {', '.join(PARTS)}{hint}")
        if name in clips:
            raise TCAFError(f"{row.where}: {name!r} is listed twice")
        clips[name] = Clip(MediaFile(name, folder / name), row["class"], part)
    bare = [name for name, clip in clips.items() if not clip.part]
    if 0 < len(bare) < len(clips):
        raise TCAFError(
            f"{labels}: {len(clips) - len(bare)} rows have a part, {shorten(bare)} none; give all "
            "or none of them one"
        )
    present = [clip for clip in clips.values() if clip.file.path.exists()]
    if not present:
        first = next(iter(clips.values())).file.path
        raise TCAFError(f"{labels}: none of {len(clips)} files is in {folder}; expected {first}")
    return list(clips.values())


def read_split(path: Path) -> Split:
    """Reads which classes are seen and unseen, from a CSV with the columns class and subset.

    Raises:
        TCAFError: not such a file, a subset that there is none of, or a class in two of them.
    """
    lists: dict[str, list[str]] = {subset: [] for subset in SUBSETS}
    for row in csv_rows(path, ("class", "subset")):
        subset = row["subset"]
        if subset not in lists:
            hint = did_you_mean(subset, SUBSETS)
            raise TCAFError(
                f"{row.where}: no subset {subset!r}; there are {', '.join(SUBSETS)}{hint}"
            )
        lists[subset].append(row["class"])
    if empty := [subset for subset, names in lists.items() if not names]:
        raise TCAFError(f"{path}: no class is {empty[0]}; there must be some in each of the three")
    return Split(**{subset: tuple(sorted(names)) for subset, names in lists.items()})


def split_by_parts(clips: Sequence[Clip]) -> Split:
    """Returns the partition of classes that the parts of the clips imply.

    Raises:
        TCAFError: clips of one class stand in parts that exclude each other.
    """
    parts_of: dict[str, set[str]] = {}
    for clip in clips:
        parts_of.setdefault(clip.class_name, set()).add(clip.part)
    telling = {"stage_1_train": "train", "val_seen": "train"}
    lists = {
        subset: tuple(
            sorted(n for n, ps in parts_of.items() if subset in {telling.get(p, p) for p in ps})
        )
        for subset in SUBSETS
    }
    return Split(**lists)


def split_by_rule(class_names: Sequence[str], unseen: float, seed: int) -> Split | None:
    """Draws which classes are unseen; None where there are too few with three clips.

    Args:
        class_names: of each clip; clips without one do not count.
        unseen: share held out for validation, and again for the test; at least one class each.
        seed: of the draw.
    """
    counts = Counter(name for name in class_names if name)
    names = sorted(counts)
    num_unseen = max(1, round(unseen * len(names)))
    drawn = [names[i] for i in np.random.default_rng([seed, 1]).permutation(len(names))]
    val_unseen, test_unseen = drawn[:num_unseen], drawn[num_unseen : 2 * num_unseen]
    train = drawn[2 * num_unseen :]
    # Below, training, validation and test cannot all have clips of seen classes.
    if len(train) < 2 or max(counts[name] for name in train) < 3:
        return None
    return Split(tuple(sorted(train)), tuple(sorted(val_unseen)), tuple(sorted(test_unseen)))


def _deal_out(clips: Sequence[Clip], split: Split | None, seed: int) -> list[str]:
    """Returns the part of each clip: the one it has, or one by its class and by lot."""
    subset_of = {n: s for s in SUBSETS for n in (getattr(split, s) if split else ())}
    by_class: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        if not clip.part:
            by_class.setdefault(clip.class_name, []).append(index)
    parts = [clip.part if split else "" for clip in clips]
    for name, indices in sorted(by_class.items()):
        wanted = PARTS_OF.get(subset_of.get(name, ""), {})
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        order = [indices[i] for i in rng.permutation(len(indices))]
        # The first part has what the others leave.
        for part, share in list(wanted.items())[1:]:
            count = max(1, round(share * len(indices))) if len(indices) >= 3 else 0
            for index in order[:count]:
                parts[index] = part
            order = order[count:]
        for index in order:
            parts[index] = next(iter(wanted), "")
    return parts


@dataclass(frozen=True)
class _Outcome:
    """What became of the files.

    Args:
        kept: those with features.
        rejects: those without, or without what was required.
    """

    kept: list[Extracted]
    rejects: list[Reject]

    def write(self, folder: Path) -> None:
        """Writes rejects.csv, and notes.csv about files kept though something is amiss."""
        rejects = [(reject.id, reject.reason, reject.detail) for reject in self.rejects]
        notes = [(extracted.id, note) for extracted in self.kept for note in extracted.notes]
        for name, header, rows in (
            ("rejects.csv", ("file", "reason", "detail"), rejects),
            ("notes.csv", ("file", "note"), notes),
        ):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([header, *rows])
            write_text(folder / name, text.getvalue())


def _sort_out(found: Sequence[Extracted | Reject], required: Sequence[Modality]) -> _Outcome:
    kept: list[Extracted] = []
    rejects: list[Reject] = []
    for one in found:
        if isinstance(one, Reject):
            rejects.append(one)
        elif missing := [m for m in one.missing if m in required]:
            reason = f"no {missing[0]} track"
            rejects.append(Reject(one.id, reason, f"{one.id} has no {missing[0]} track"))
        else:
            kept.append(one)
    return _Outcome(kept, rejects)
