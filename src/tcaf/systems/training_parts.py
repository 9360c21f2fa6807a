"""What a stage learns from: clips, further videos with labels, classes that a network knows.

Owns how they are read, batch by batch. Which clips these are is `training.protocol`, what is made
of them `stages`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.data.batches import Clips, FeatureBatch, JoinedClips, expect_batch, load_batch
from tcaf.data.resident import ResidentClips
from tcaf.data.sampler import in_order
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.execution import ranks
from tcaf.text.spaces import ClassText


def in_chunks(number: int, batch_size: int, spread: bool) -> Iterator[Int[np.ndarray, " batch"]]:
    """Yields so many things in order, batch by batch.

    Args:
        number: of things.
        batch_size: of them in a batch.
        spread: whether each rank gets every so manieth batch, of which there are ranks.
    """
    rank = ranks.current() if spread else ranks.Rank()
    return islice(in_order(np.arange(number), batch_size), rank.index, None, rank.count)


@dataclass(frozen=True)
class AuxiliaryPart:
    """Further videos to learn from, each under any number of labels.

    Args:
        store: where the videos are.
        rows: which of them.
        labels: of each video, indices into the rows of `class_text`.
        rarest: of each video its rarest label.
        groups: of each video its rarest label among the frequent ones; -1 where it has none.
        class_text: text embeddings of the labels, on `device`.
        windows: how videos are cut.
        device: where to compute.
        batch_size: videos in a batch.
        spread: whether each rank reads its own batches alone.
    """

    store: FeatureStore
    rows: Int[np.ndarray, " videos"]
    labels: Sequence[Sequence[int]]
    rarest: Int[np.ndarray, " videos"]
    groups: Int[np.ndarray, " videos"]
    class_text: ClassText
    windows: Windows
    device: torch.device
    batch_size: int
    spread: bool = False

    def batches(
        self,
    ) -> Iterator[tuple[FeatureBatch, Int[Tensor, " pairs"], Int[Tensor, " pairs"]]]:
        """Yields all videos, labelled by group, and which of a batch have which label."""
        for chosen in in_chunks(len(self.rows), self.batch_size, self.spread):
            batch = load_batch(
                self.store, self.rows[chosen], self.windows, labels=self.groups[chosen]
            )
            pairs = [(i, n) for i, row in enumerate(chosen.tolist()) for n in self.labels[row]]
            clip, label = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.to(self.device)
            yield batch.to(self.device), clip, label


@dataclass(frozen=True)
class StartPart:
    """Classes that a network knows already, by the linear classifier at its end.

    Args:
        rows: of the classifier: what speaks for each class in the visual features, on the device.
        class_text: text embeddings of the classes, likewise.
    """

    rows: Float[Tensor, "num_classes visual_dim"]
    class_text: ClassText


@dataclass(frozen=True)
class TrainingPart:
    """Clips to train on, as a system reads them.

    Args:
        store: where the clips are.
        rows: which clips.
        labels: their classes, indices into the rows of `class_text`.
        class_text: text embeddings of the seen classes of the stage, on `device`.
        windows: how clips are cut.
        device: where to compute.
        auxiliary: further videos to learn from.
        start: classes of a ready model to learn from.
        spread: whether each rank reads its own batches alone, where all clips are read.
    """

    store: Clips | ResidentClips
    rows: Int[np.ndarray, " clips"]
    labels: Int[np.ndarray, " clips"]
    class_text: ClassText
    windows: Windows
    device: torch.device
    auxiliary: AuxiliaryPart | None = None
    start: StartPart | None = None
    spread: bool = False

    def over_ranks(self) -> "TrainingPart":
        """Returns the same clips and further videos, of which each rank reads its own batches."""
        further = None if self.auxiliary is None else replace(self.auxiliary, spread=True)
        return replace(self, auxiliary=further, spread=True)

    def check(self, number: int) -> None:
        """Checks that there is something to train stage `number` on.

        Raises:
            TCAFError: there are no clips.
        """
        if not len(self.rows):
            raise TCAFError(f"stage {number} has no clips to train on")

    def with_further_classes(self) -> "TrainingPart":
        """Returns a part with the labels of further videos as classes behind its own.

        Each video is a clip of its rarest label, which says most of it.
        """
        further = self.auxiliary
        if further is None:
            return self
        # Two origins are joined in memory.
        store = self.store.store if isinstance(self.store, ResidentClips) else self.store
        before = len(store.lens("audio"))
        own, theirs = self.class_text, further.class_text
        text = {space: torch.cat([matrix, theirs[space]]) for space, matrix in own.items()}
        num_own = len(next(iter(own.values())))
        return replace(
            self,
            store=JoinedClips(store, further.store),
            rows=np.concatenate([self.rows, further.rows + before]),
            labels=np.concatenate([self.labels, further.rarest + num_own]),
            class_text=ClassText(text),
            auxiliary=None,
        )

    def load(
        self,
        chosen: Int[np.ndarray, " batch"],
        starts: torch.Generator | None = None,
        share: slice = slice(None),
    ) -> FeatureBatch:
        """Reads a batch with its labels.

        Args:
            chosen: which of the clips.
            starts: draws random windows.
            share: which of these clips are read; windows are drawn for all.
        """
        rows, labels = self.rows[chosen], self.labels[chosen]
        batch = load_batch(
            self.store, rows, self.windows, labels=labels, generator=starts, share=share
        )
        return batch.to(self.device)

    def expect(
        self, chosen: Int[np.ndarray, " batch"], starts: torch.Generator, share: slice
    ) -> None:
        """Prepares for a call of `load`, without waiting for anything.

        Args:
            chosen: as of that call.
            starts: in the state that the other's will be in then.
            share: as of that call.
        """
        expect_batch(self.store, self.rows[chosen], self.windows, generator=starts, share=share)
