"""Your own clips as files: which there are, the class and the part of each.

Owns the tables that people write about them, and the rule that makes a zero-shot benchmark of them
where no table says how.
"""

import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tcaf.data.splits import PARTS, Split
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.extract.corpus import MediaFile
from tcaf.files.csv_tables import csv_rows

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


@dataclass(frozen=True)
class Clip:
    """A media file with its class and part.

    Args:
        file: the file.
        class_name: its class; empty if not known.
        part: one of `splits.PARTS`; empty if not known.
    """

    file: MediaFile
    class_name: str
    part: str


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
        name = readable(path.relative_to(folder))
        class_name, is_inside, _ = name.partition("/")
        clips.append(Clip(MediaFile(name, path), class_name if is_inside else "", ""))
    return clips


def readable(path: Path) -> str:
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


def read_split(path: Path, *, is_whole: bool = True) -> Split:
    """Reads which classes are seen and unseen, from a CSV with the columns class and subset.

    Args:
        path: of the table.
        is_whole: whether there must be classes of every subset.

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
    empty = [subset for subset, names in lists.items() if not names]
    if empty and is_whole:
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


def deal_out(clips: Sequence[Clip], split: Split | None, seed: int) -> list[str]:
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


def check_parts(clips: Sequence[Clip], split: Split) -> None:
    """Checks that clips stand in parts that their classes may reach.

    Raises:
        TCAFError: one does not.
    """
    split.check_clips(
        [clip.file.id for clip in clips],
        [clip.class_name for clip in clips],
        [clip.part for clip in clips],
    )
    for clip in clips:
        if clip.part == "test_unseen" and clip.class_name not in split.test_unseen:
            raise TCAFError(
                f"clip {clip.file.id!r} stands in test_unseen, but its class {clip.class_name!r} "
                "is not among the unseen ones of the test"
            )
