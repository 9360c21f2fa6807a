"""Which classes are seen and unseen, and the part of each clip, by tables or by a seeded rule.

Owns the rule that makes a zero-shot benchmark of clips where tables say little or nothing, and what
training, validation and test mean for it. Reading the tables about clips is `labels`.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tcaf.data.random_partitions import PARTS_OF as PARTS_OF
from tcaf.data.splits import SUBSETS, Split
from tcaf.errors import TCAFError, did_you_mean
from tcaf.files.csv_tables import csv_rows
from tcaf.sources.labels import Clip

PART_OF_USE = {
    "train": {"train": "stage_1_train", "val": "val_seen", "test": "test_seen"},
    # Stage 2 trains on these classes, and their clips for the test are of seen ones then.
    "val_unseen": {"train": "val_unseen", "val": "val_unseen", "test": "test_seen"},
    # Nothing trains on these classes; what is no test clip by the table has no part.
    "test_unseen": {"train": "", "val": "", "test": "test_unseen"},
}
"""The part of a clip by the subset of its class, and by its use: `train`, `val` or `test`."""

_DEALT = ("stage_1_train", "val_unseen")
"""The parts of clips for training, of which others are dealt out."""

TEST_PARTS = ("test_seen", "test_unseen")
"""The parts that nothing is trained on or chosen by."""


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
        subset = row["subset"].lower()
        if subset not in lists:
            hint = did_you_mean(subset, SUBSETS)
            raise TCAFError(
                f"{row.where}: no subset {row['subset']!r}; there are {', '.join(SUBSETS)}{hint}"
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


def split_by_use(
    clips: Sequence[Clip], given: Split | None, unseen: float, seed: int
) -> Split | None:
    """Returns the partition of classes that training, validation and test of the clips imply.

    A class with clips for training is `train`, one with test clips alone `test_unseen`, any other
    `val_unseen`. Where no class is of one of the last two, the rule draws some among those of
    training; for the test among those with test clips, if there are such.

    Args:
        clips: with a class and a use each.
        given: the partition by a table, or of a store; its classes stay, and nothing is drawn.
        unseen: share of the classes to draw.
        seed: of the draw.

    Returns:
        None where fewer than two classes would be left to train on.
    """
    uses = _uses(clips)
    lists = {subset: set(getattr(given, subset) if given else ()) for subset in SUBSETS}
    for name in uses.keys() - set(given.classes if given else ()):
        if "train" in uses[name]:
            lists["train"].add(name)
        else:
            lists["test_unseen" if uses[name] == {"test"} else "val_unseen"].add(name)
    if given is None:
        order = _order(sorted(lists["train"]), seed)
        tested = [name for name in order if "test" in uses[name]] or order
        for subset, candidates in (("test_unseen", tested), ("val_unseen", order)):
            if not lists[subset]:
                left = [name for name in candidates if name in lists["train"]]
                lists[subset] = set(left[: _num_unseen(unseen, len(uses))])
                lists["train"] -= lists[subset]
    if len(lists["train"]) < 2:
        return None
    return Split(**{subset: tuple(sorted(names)) for subset, names in lists.items()})


def _uses(clips: Iterable[Clip]) -> dict[str, set[str]]:
    uses: dict[str, set[str]] = {}
    for clip in clips:
        if clip.class_name:
            uses.setdefault(clip.class_name, set()).add(clip.use)
    return uses


def _order(names: Sequence[str], seed: int) -> list[str]:
    return [names[i] for i in np.random.default_rng([seed, 1]).permutation(len(names))]


def _num_unseen(share: float, num_classes: int) -> int:
    return max(1, round(share * num_classes))


def split_by_rule(class_names: Sequence[str], unseen: float, seed: int) -> Split | None:
    """Draws which classes are unseen; None where there are too few with three clips.

    Args:
        class_names: of each clip; clips without one do not count.
        unseen: share held out for validation, and again for the test; at least one class each.
        seed: of the draw.
    """
    counts = Counter(name for name in class_names if name)
    names = sorted(counts)
    num_unseen = _num_unseen(unseen, len(names))
    drawn = _order(names, seed)
    val_unseen, test_unseen = drawn[:num_unseen], drawn[num_unseen : 2 * num_unseen]
    train = drawn[2 * num_unseen :]
    # Below, training, validation and test cannot all have clips of seen classes.
    if len(train) < 2 or max(counts[name] for name in train) < 3:
        return None
    return Split(tuple(sorted(train)), tuple(sorted(val_unseen)), tuple(sorted(test_unseen)))


def classes_of_takes(clips: Sequence[Clip]) -> list[str]:
    """Returns the class of each clip, once for those that are of one group."""
    return [name for name, _ in dict.fromkeys((c.class_name, _take(c)) for c in clips)]


def _take(clip: Clip) -> tuple[str, str]:
    """Returns what stays together: the group, or the clip alone."""
    return (clip.group, "") if clip.group else ("", clip.id)


def deal_out(
    clips: Sequence[Clip],
    split: Split | None,
    seed: int,
    kept: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """Returns the part of each clip: the one it has, or one by its class and use, or by lot.

    Clips of one group go by lot together, also to where clips of the store are. Where clips have
    uses and no part follows from these for seen clips of validation or test, some of those for
    training are dealt out to it.

    Args:
        clips: with their classes.
        split: which of them are seen and unseen; None for no parts at all.
        seed: of the lot.
        kept: group and part of the clips that the store has.
    """
    if split is None:
        return [""] * len(clips)
    subset_of = {n: s for s in SUBSETS for n in getattr(split, s)}
    uses = _uses(clips)
    parts = [clip.part or _part_of_use(clip, subset_of, uses) for clip in clips]
    has_uses = any(clip.use for clip in clips)
    there = {*parts, *(part for _, part in kept)}
    missing = {part for part in ("val_seen", "test_seen") if part not in there}
    placed = {group: part for group, part in kept if group and part}
    by_class: dict[str, list[int]] = {}
    for index, (clip, part) in enumerate(zip(clips, parts, strict=True)):
        if not clip.part and (not clip.use or (missing and part in _DEALT)):
            by_class.setdefault(clip.class_name, []).append(index)
        elif clip.group and part:
            placed[clip.group] = part
    # Classes of training first: groups go where those of others follow them.
    ranks = {name: rank for rank, subset in enumerate(SUBSETS) for name in getattr(split, subset)}
    for name, indices in sorted(by_class.items(), key=lambda of: (ranks.get(of[0], 3), of[0])):
        wanted = PARTS_OF.get(subset_of.get(name, ""), {})
        if has_uses:
            wanted = {p: share for p, share in wanted.items() if p in _DEALT or p in missing}
        takes: dict[tuple[str, str], list[int]] = {}
        for index in indices:
            takes.setdefault(_take(clips[index]), []).append(index)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        for part, of_part in _deal(takes, wanted, placed, rng).items():
            for index in of_part:
                parts[index] = part
                placed[clips[index].group] = part
    return parts


def _part_of_use(clip: Clip, subset_of: Mapping[str, str], uses: Mapping[str, set[str]]) -> str:
    subset = subset_of.get(clip.class_name, "")
    if not clip.use or not subset:
        return ""
    # A class that nothing trains on may be tested on clips for training, if it has no others.
    alone = subset == "test_unseen" and "test" not in uses[clip.class_name]
    return PART_OF_USE[subset]["test" if alone else clip.use]


def _deal(
    takes: Mapping[tuple[str, str], list[int]],
    wanted: Mapping[str, float],
    placed: Mapping[str, str],
    rng: np.random.Generator,
) -> dict[str, list[int]]:
    """Deals out the clips of one class.

    Args:
        takes: the clips that stay together.
        wanted: shares by part; the first part has what the others leave.
        placed: the part of groups that have one already.
        rng: of the lot.
    """
    dealt: dict[str, list[int]] = {part: [] for part in wanted or [""]}
    free = []
    for key in (list(takes)[i] for i in rng.permutation(len(takes))):
        before = placed.get(key[0], "") if key[0] else ""
        same_side = [p for p in dealt if before and (p in TEST_PARTS) == (before in TEST_PARTS)]
        if before in same_side:
            dealt[before] += takes[key]
        elif same_side:
            dealt[same_side[0]] += takes[key]
        else:
            free.append(takes[key])
    num_clips = sum(map(len, takes.values()))
    others = list(wanted.items())[1:]
    for following, (part, share) in zip(range(len(others), 0, -1), others, strict=True):
        count = max(1, round(share / sum(wanted.values()) * num_clips)) if len(takes) >= 3 else 0
        while (lacking := count - len(dealt[part])) > 0 and len(free) > following:
            fitting = next((take for take in free if len(take) <= lacking), min(free, key=len))
            free.remove(fitting)
            dealt[part] += fitting
    dealt[next(iter(dealt))] += [index for take in free for index in take]
    return dealt


def torn_groups(
    clips: Sequence[Clip], parts: Sequence[str], kept: Sequence[tuple[str, str]] = ()
) -> list[str]:
    """Returns the groups with clips both in training or validation and in the test, sorted.

    Args:
        clips: with their groups.
        parts: of each clip.
        kept: group and part of the clips that the store has.
    """
    sides: dict[str, set[bool]] = {}
    for group, part in [*((c.group, p) for c, p in zip(clips, parts, strict=True)), *kept]:
        if group and part:
            sides.setdefault(group, set()).add(part in TEST_PARTS)
    return sorted(group for group, both in sides.items() if len(both) == 2)


def check_parts(clips: Sequence[Clip], split: Split) -> None:
    """Checks that clips stand in parts that their classes may reach.

    Raises:
        TCAFError: one does not.
    """
    split.check_clips(
        [clip.id for clip in clips],
        [clip.class_name for clip in clips],
        [clip.part for clip in clips],
    )
    for clip in clips:
        if clip.part == "test_unseen" and clip.class_name not in split.test_unseen:
            raise TCAFError(
                f"clip {clip.id!r} stands in test_unseen, but its class {clip.class_name!r} "
                "is not among the unseen ones of the test"
            )
