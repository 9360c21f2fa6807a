"""Which clips stand in which batch: the class-balanced sampler, and clips in order."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int

from tcaf.errors import TCAFError


@dataclass(frozen=True)
class Sampler:
    """Draws the rows of training batches, with replacement.

    Args:
        labels: class index of each candidate clip.
        sampling: `balanced` draws a class, then one of its clips; `uniform` draws a clip.
    """

    labels: Int[np.ndarray, " num_clips"]
    sampling: Literal["balanced", "uniform"] = "balanced"

    def draw(
        self, num_batches: int, batch_size: int, generator: torch.Generator
    ) -> Int[np.ndarray, "num_batches batch_size"]:
        """Returns positions into `labels`, all batches of an epoch at once."""
        shape = (num_batches, batch_size)
        if self.sampling == "uniform":
            return torch.randint(len(self.labels), shape, generator=generator).numpy()
        drawn = torch.randint(len(self._counts), shape, generator=generator).numpy()
        return self._within(drawn, generator)

    def draw_others(
        self, chosen: Int[np.ndarray, "num_batches batch_size"], generator: torch.Generator
    ) -> Int[np.ndarray, "num_batches batch_size"]:
        """Returns, for each position in `chosen`, one of a random other class.

        Raises:
            TCAFError: all clips are of one class.
        """
        count = len(self._counts)
        if count < 2:
            raise TCAFError("triplets need clips of at least two classes, got one")
        classes = np.searchsorted(self._classes, self.labels[chosen])
        step = torch.randint(1, count, chosen.shape, generator=generator).numpy()
        return self._within((classes + step) % count, generator)

    def _within(
        self, classes: Int[np.ndarray, "num_batches batch_size"], generator: torch.Generator
    ) -> Int[np.ndarray, "num_batches batch_size"]:
        """Returns a random clip of each class, classes counted among those that have clips."""
        within = torch.rand(classes.shape, generator=generator, dtype=torch.float64).numpy()
        offset = (within * self._counts[classes]).astype(np.int64)
        return self._by_class[self._starts[classes] + offset]

    @cached_property
    def _by_class(self) -> Int[np.ndarray, " num_clips"]:
        return np.argsort(self.labels, kind="stable")

    @cached_property
    def _groups(self) -> tuple[np.ndarray, ...]:
        return np.unique(self.labels[self._by_class], return_index=True, return_counts=True)

    @property
    def _classes(self) -> Int[np.ndarray, " num_classes"]:
        return self._groups[0]

    @property
    def _starts(self) -> Int[np.ndarray, " num_classes"]:
        return self._groups[1]

    @property
    def _counts(self) -> Int[np.ndarray, " num_classes"]:
        return self._groups[2]


def few_of_each(
    labels: Int[np.ndarray, " num_clips"], count: int, generator: torch.Generator
) -> Int[np.ndarray, " num_chosen"]:
    """Returns positions of at most `count` random clips of each class, in ascending order.

    What is chosen for a smaller count is among what is chosen for a larger one.

    Args:
        labels: class index of each clip.
        count: clips of each class.
        generator: of the choice.
    """
    shuffled = torch.randperm(len(labels), generator=generator).numpy()
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.sort(by_class[place < count])


def in_order(
    rows: Int[np.ndarray, " num_rows"], batch_size: int
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Yields `rows` in order, `batch_size` at a time; the last batch may be smaller."""
    return (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
