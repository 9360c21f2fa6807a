"""Class names, their order and the seen/unseen partition.

Owns the one place where names become indices. Knows nothing of clips or text embeddings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from tcaf.errors import TCAFError, did_you_mean, shorten


@dataclass(frozen=True)
class ClassSet:
    """The candidate classes of one stage, in a fixed order.

    Args:
        names: class names; the index of a name is its column in every score matrix.
        seen: the names a model of this stage is trained on; all others are unseen.

    Raises:
        TCAFError: a name is listed twice, or a seen name is not among `names`.
    """

    names: tuple[str, ...]
    seen: frozenset[str]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise TCAFError(f"class names must be unique; listed twice: {shorten(twice)}")
        strangers = sorted(self.seen - set(self.names))
        if strangers:
            raise TCAFError(f"seen classes that are not in the class list: {shorten(strangers)}")

    @classmethod
    def of(cls, seen: Iterable[str], unseen: Iterable[str] = ()) -> "ClassSet":
        """Builds the set from its two halves, in sorted order."""
        seen = frozenset(seen)
        return cls(tuple(sorted([*seen, *unseen])), seen)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def seen_ids(self) -> Int[np.ndarray, " num_seen"]:
        """Indices of the seen classes, ascending."""
        return np.array([i for i, name in enumerate(self.names) if name in self.seen], np.int64)

    @cached_property
    def unseen_ids(self) -> Int[np.ndarray, " num_unseen"]:
        """Indices of the unseen classes, ascending."""
        return np.array([i for i, name in enumerate(self.names) if name not in self.seen], np.int64)

    def ids(self, names: Sequence[str]) -> Int[np.ndarray, " num_names"]:
        """Returns the index of each name.

        Raises:
            TCAFError: a name is not in the set; the message gives the nearest one.
        """
        try:
            return np.array([self._positions[name] for name in names], np.int64)
        except KeyError as missing:
            name = str(missing.args[0])
            hint = did_you_mean(name, self.names)
            raise TCAFError(f"unknown class {name!r} among {len(self)} classes{hint}") from None
