"""Random partitions of a split's classes: further benchmarks on clips that are no test clips.

Owns their names (`cls@3` is the third of the split `cls`), the draw, and the part of each clip. The
classes of training and validation are dealt anew: as many as `val_unseen` has are held out as the
unseen ones of a test, and of the others some are unseen in validation, in the same proportion. So
the whole protocol runs on a partition unchanged, and nothing is chosen by what is held out. The
split's own test clips, and its unseen test classes, have no part in any.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tcaf.data.splits import Split
from tcaf.errors import TCAFError

PARTS_OF = {
    "train": {"stage_1_train": 0.7, "val_seen": 0.15, "test_seen": 0.15},
    "val_unseen": {"val_unseen": 0.85, "test_seen": 0.15},
    "test_unseen": {"test_unseen": 1.0},
}
"""Shares in which the clips of a class are dealt out to parts, by what the class is."""

_TAKES = (r"(?:^|/)v_(\w+_g\d+)_c\d+(?:\.\w+)?$", r"^(.+)@[0-9.e+-]+-[0-9.e+-]+$")
"""What clips of one video share in their ids: groups of UCF101, and segments of a file."""


def partition_name(split: str, number: int) -> str:
    """Returns the name of a random partition of a split's classes."""
    return f"{split}@{number}"


def base_split(name: str) -> tuple[str, int]:
    """Returns the split that a name is of, and the partition's number; 0 for the split itself."""
    split, _, number = name.rpartition("@")
    return (split, int(number)) if split and re.fullmatch("[1-9][0-9]{0,8}", number) else (name, 0)


def draw_partition(split: Split, number: int) -> Split:
    """Draws which classes of training and validation are learnt from and held out.

    Args:
        split: whose test classes have no part in it.
        number: of the partition, from 1: the seed of the draw.

    Raises:
        TCAFError: fewer than two classes would be left to train on, or none is unseen.
    """
    names = sorted([*split.train, *split.val_unseen])
    held_out = len(split.val_unseen)
    left = len(names) - held_out
    unseen = max(1, round(left * held_out / max(len(names), 1)))
    if not held_out or left - unseen < 2:
        raise TCAFError(
            f"a random partition needs classes of validation, and 2 to train on beside as many: "
            f"the split has {len(split.train)} of training and {held_out} of validation"
        )
    order = [names[i] for i in np.random.default_rng([number, 1]).permutation(len(names))]
    lists = (order[held_out + unseen :], order[held_out : held_out + unseen], order[:held_out])
    return Split(*(tuple(sorted(own)) for own in lists))


def deal_parts(
    partition: Split,
    number: int,
    ids: Sequence[str],
    class_names: Sequence[str] | np.ndarray,
    source: dict[str, Any],
) -> np.ndarray:
    """Returns the part of each clip in a partition, an array of str; clips of one video together.

    Args:
        partition: from `draw_partition`.
        number: of the partition.
        ids: of the clips that are no test clips.
        class_names: of the same.
        source: of the store, which tells how clips of one video are known by their names.
    """
    calls = [source, *source.get("appended", [])]
    patterns = [*(call["group"] for call in calls if call.get("group")), *_TAKES]
    by_class: dict[str, dict[str, list[int]]] = {}
    for index, (name, id_) in enumerate(zip(class_names, ids, strict=True)):
        by_class.setdefault(name, {}).setdefault(_take(id_, patterns), []).append(index)
    parts = np.full(len(ids), "", object)
    for kind, shares in PARTS_OF.items():
        for name in getattr(partition, kind):
            takes = list(by_class.get(name, {}).values())
            rng = np.random.default_rng([number, zlib.crc32(name.encode())])
            free = [takes[i] for i in rng.permutation(len(takes))]
            first, *others = shares
            clips = sum(map(len, takes))
            for part in others:
                lacking = max(1, round(shares[part] * clips)) if len(takes) >= len(shares) else 0
                while lacking > 0 and len(free) > 1:
                    take = free.pop()
                    parts[take] = part
                    lacking -= len(take)
            for take in free:
                parts[take] = first
    return parts


def _take(id_: str, patterns: Iterable[str]) -> str:
    """Returns what a clip has in common with others of its video; its id if it is alone."""
    for pattern in patterns:
        if match := re.search(pattern, id_):
            return str(match[min(1, match.re.groups)] or id_)
    return id_
