"""The named parts of a generalised zero-shot benchmark, and the published class lists.

Owns which classes are seen and unseen in which stage, which clips a part holds, and the check that
no class or clip leaks. A clip carries the name of exactly one part; `stage_2_train`, `val` and
`test` are unions of parts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file
from importlib.resources import files as package_files
from typing import Any

import numpy as np
from jaxtyping import Bool

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.files.csv_tables import csv_rows

PARTS = ("stage_1_train", "val_seen", "val_unseen", "test_seen", "test_unseen")
"""What a clip can belong to."""

UNIONS = {
    "stage_2_train": ("stage_1_train", "val_seen", "val_unseen"),
    "val": ("val_seen", "val_unseen"),
    "test": ("test_seen", "test_unseen"),
}
"""Parts made of parts: what stage 2 trains on, and what each stage is evaluated on."""

NAMED_PARTS = (*PARTS[:3], "stage_2_train", *PARTS[3:])
"""The six lists of clips that a benchmark publishes, in the order of the protocol."""


SUBSETS = ("train", "val_unseen", "test_unseen")
"""What a class can belong to: the lists of a `Split`."""


def _among(
    names: Sequence[str] | np.ndarray, allowed: Sequence[str]
) -> Bool[np.ndarray, " num_names"]:
    """Returns which names are allowed; numpy's own `isin` compares every name with every class."""
    known = frozenset(allowed)
    return np.fromiter((name in known for name in names), bool, len(names))


@dataclass(frozen=True)
class Split:
    """Which classes are trained on, validated on as unseen, and tested on as unseen.

    Args:
        train: classes of stage 1's training clips.
        val_unseen: classes that stage 1 has not seen; stage 2 trains on them too.
        test_unseen: classes that neither stage has seen.

    Raises:
        TCAFError: a class is in two of the three lists, or twice in one.
    """

    train: tuple[str, ...]
    val_unseen: tuple[str, ...]
    test_unseen: tuple[str, ...]

    def __post_init__(self) -> None:
        lists: dict[str, tuple[str, ...]] = asdict(self)
        for key, names in lists.items():
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            if twice:
                raise TCAFError(f"{key} lists {shorten(twice)} more than once")
        for first, second in (
            ("train", "val_unseen"),
            ("train", "test_unseen"),
            ("val_unseen", "test_unseen"),
        ):
            shared = sorted(set(lists[first]) & set(lists[second]))
            if shared:
                raise TCAFError(f"split overlap: {shorten(shared)} in both {first} and {second}")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Split":
        """Rebuilds a split from `dataclasses.asdict`."""
        return cls(**{key: tuple(value[key]) for key in SUBSETS})

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class of the split, sorted."""
        return tuple(sorted([*self.train, *self.val_unseen, *self.test_unseen]))

    @property
    def stage_1(self) -> ClassSet:
        """Stage 1: `train` is seen, `val_unseen` unseen."""
        return ClassSet.of(self.train, self.val_unseen)

    @property
    def stage_2(self) -> ClassSet:
        """Stage 2: `train` and `val_unseen` are seen, `test_unseen` unseen."""
        return ClassSet.of([*self.train, *self.val_unseen], self.test_unseen)

    def part_classes(self, part: str) -> tuple[str, ...]:
        """Returns the classes whose clips may stand in `part`, sorted.

        Raises:
            TCAFError: no such part.
        """
        allowed = {
            "stage_1_train": self.train,
            "val_seen": self.train,
            "val_unseen": self.val_unseen,
            "test_seen": (*self.train, *self.val_unseen),
            "test_unseen": self.test_unseen,
        }
        if part not in allowed:
            raise TCAFError(
                f"no part {part!r}; there are {', '.join(PARTS)}{did_you_mean(part, PARTS)}"
            )
        return tuple(sorted(allowed[part]))

    def select(
        self, part: str, class_names: Sequence[str] | np.ndarray, parts: Sequence[str] | np.ndarray
    ) -> Bool[np.ndarray, " num_clips"]:
        """Returns which clips belong to a part or union of parts.

        A clip counts if it carries the part's name and its class belongs there: the `cls` and
        `main` splits share clips and differ in the unseen test classes alone.

        Args:
            part: one of `PARTS` or `UNIONS`.
            class_names: class of each clip.
            parts: part of each clip.

        Raises:
            TCAFError: no such part.
        """
        parts = np.asarray(parts)
        chosen = np.zeros(len(parts), bool)
        for single in UNIONS.get(part, (part,)):
            chosen |= (parts == single) & _among(class_names, self.part_classes(single))
        return chosen

    def check_clips(
        self,
        ids: Sequence[str] | np.ndarray,
        class_names: Sequence[str] | np.ndarray,
        parts: Sequence[str] | np.ndarray,
    ) -> None:
        """Checks that clips are unique and that every training clip has a class of its part.

        Args:
            ids: of each clip.
            class_names: class of each clip.
            parts: part of each clip, one of `PARTS`; empty for a clip outside of the benchmark.

        Raises:
            TCAFError: no such part, or a clip stands in two parts, or in one that its class must
                not reach.
        """
        id_array, class_array, part_array = (
            np.asarray(values, dtype=object) for values in (ids, class_names, parts)
        )
        unique, counts = np.unique(id_array, return_counts=True)
        if (counts > 1).any():
            twice = [str(clip) for clip in unique[counts > 1]]
            raise TCAFError(f"split overlap: {shorten(twice)} listed more than once")
        strange = np.flatnonzero(~_among(part_array, [*PARTS, ""]))
        if len(strange):
            clip, part = str(id_array[strange[0]]), str(part_array[strange[0]])
            raise TCAFError(
                f"clip {clip!r} stands in {part!r}, which is no part; there are "
                f"{', '.join(PARTS)}{did_you_mean(part, PARTS)}"
            )
        for part in PARTS[:-1]:
            stray = (part_array == part) & ~_among(class_array, self.part_classes(part))
            if stray.any():
                first = int(np.flatnonzero(stray)[0])
                clip, class_name = str(id_array[first]), str(class_array[first])
                raise TCAFError(
                    f"split overlap: clip {clip!r} of class {class_name!r} stands in {part}, whose "
                    f"class list lacks that class ({int(stray.sum())} such clips)"
                )


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark: its splits, and the words that stand for each class name.

    Args:
        splits: by name, `cls` (the paper's tables) and `main`.
        words: class name as in file names, to the words whose vectors are averaged.
    """

    splits: dict[str, Split]
    words: dict[str, str]


BENCHMARKS = ("ucf", "vggsound", "activitynet")
"""The three published benchmarks (Mercea et al., CVPR 2022 and ECCV 2022)."""


def load_benchmark(name: str) -> Benchmark:
    """Loads one of `BENCHMARKS` from the lists that come with the package.

    Raises:
        TCAFError: no such benchmark.
    """
    if name not in BENCHMARKS:
        hint = did_you_mean(name, BENCHMARKS)
        raise TCAFError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}{hint}")
    with as_file(package_files("tcaf") / "benchmarks" / f"{name}.csv") as path:
        rows = csv_rows(path, ("class", "words", "cls", "main"), filled=False)
    splits = {
        split: Split(
            **{
                part: tuple(row["class"] for row in rows if row[split] == part)
                for part in ("train", "val_unseen", "test_unseen")
            }
        )
        for split in ("cls", "main")
    }
    return Benchmark(splits, {row["class"]: row["words"] for row in rows})
