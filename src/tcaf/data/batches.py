"""Batches of clips, packed: only real tokens, clip after clip.

Owns `FeatureBatch`, and reading one. Clips come from a store or from memory, on one path. Knows
nothing of models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.data.packed import Packed
from tcaf.data.resident import ResidentClips
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.execution.devices import moved


@dataclass(frozen=True)
class FeatureBatch:
    """A batch of clips.

    Args:
        audio: audio features, packed; a clip without sound has length 0.
        visual: visual features of the same clips.
        labels: index of each clip's class in the stage's class set, if known.
    """

    audio: Packed
    visual: Packed
    labels: Int[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        if len(self.audio.lens) != len(self.visual.lens):
            raise TCAFError(
                f"a batch needs as many audio as visual lengths, got {len(self.audio.lens)} and "
                f"{len(self.visual.lens)}"
            )

    def __len__(self) -> int:
        return len(self.audio.lens)

    def modality(self, modality: Modality) -> Packed:
        """Returns the features of a modality."""
        return self.audio if modality == "audio" else self.visual

    def only(self, modality: Modality) -> "FeatureBatch":
        """Returns the same clips without the tokens of the other modality."""
        audio, visual = (
            packed if name == modality else packed.without_tokens()
            for name, packed in (("audio", self.audio), ("visual", self.visual))
        )
        return FeatureBatch(audio, visual, self.labels)

    @property
    def known_labels(self) -> Int[Tensor, " batch"]:
        """The labels of a batch to train on.

        Raises:
            TCAFError: it has none.
        """
        if self.labels is None:
            raise TCAFError("expected a batch with labels to train on, got one without")
        return self.labels

    def to(self, device: torch.device | str) -> "FeatureBatch":
        """Moves tokens, times and labels to a device; lengths stay on the CPU."""
        labels = None if self.labels is None else moved(self.labels, device)
        return FeatureBatch(self.audio.to(device), self.visual.to(device), labels)

    @classmethod
    def from_videos(cls, videos: Sequence[VideoFeatures], spec: FeatureSpec) -> "FeatureBatch":
        """Packs whole clips, with token i of a modality at i times its seconds per token.

        Raises:
            TCAFError: no clip at all, or one that does not fit the spec.
        """
        if not videos:
            raise TCAFError("a batch needs at least one clip, got none")
        return load_batch(LoadedClips(videos, spec), np.arange(len(videos)), Windows())


@runtime_checkable
class Clips(Protocol):
    """Where the tokens of many clips can be had: a `FeatureStore`, or `LoadedClips`."""

    @property
    def spec(self) -> FeatureSpec:
        """What the numbers mean."""
        ...

    def lens(self, modality: Modality) -> Int[np.ndarray, " num_clips"]:
        """Returns the number of tokens of each clip."""
        ...

    def gather(
        self,
        rows: Int[np.ndarray, " batch"],
        modality: Modality,
        first: Int[np.ndarray, " batch"],
        lens: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, "total dim"]:
        """Returns `lens` tokens of each row from its `first` on, clip after clip."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """`Clips` whose tokens may have to be waited for, and that can be told which come next."""

    def expect(
        self,
        rows: Int[np.ndarray, " batch"],
        modality: Modality,
        first: Int[np.ndarray, " batch"],
        lens: Int[np.ndarray, " batch"],
    ) -> None:
        """Prepares for a call of `gather`, without waiting for anything."""
        ...


@dataclass(frozen=True)
class LoadedClips:
    """Clips that are in memory.

    Args:
        videos: at least one.
        spec: what their numbers mean.

    Raises:
        TCAFError: a clip does not fit the spec.
    """

    videos: Sequence[VideoFeatures]
    spec: FeatureSpec

    def __post_init__(self) -> None:
        for video in self.videos:
            video.check(self.spec)

    def lens(self, modality: Modality) -> Int[np.ndarray, " num_clips"]:
        """Returns the number of tokens of each clip."""
        return np.array([len(video.tokens(modality)) for video in self.videos], np.int64)

    def gather(
        self,
        rows: Int[np.ndarray, " batch"],
        modality: Modality,
        first: Int[np.ndarray, " batch"],
        lens: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, "total dim"]:
        """Copies tokens of clips into one packed array, as `FeatureStore.gather` does."""
        cuts = zip(rows.tolist(), first.tolist(), lens.tolist(), strict=True)
        parts = [self.videos[row].tokens(modality)[at : at + length] for row, at, length in cuts]
        return np.concatenate(parts)


@dataclass(frozen=True)
class JoinedClips:
    """Clips of two origins as one: the rows of the second go on where those of the first end.

    Args:
        first: some clips.
        second: others, whose tokens are of the same sizes and steps.
    """

    first: Clips
    second: Clips

    @property
    def spec(self) -> FeatureSpec:
        """What the numbers of both mean."""
        return self.first.spec

    @cached_property
    def _lens(self) -> dict[Modality, Int[np.ndarray, " num_clips"]]:
        both = (self.first, self.second)
        return {m: np.concatenate([clips.lens(m) for clips in both]) for m in MODALITIES}

    def lens(self, modality: Modality) -> Int[np.ndarray, " num_clips"]:
        """Returns the number of tokens of each clip."""
        return self._lens[modality]

    def gather(
        self,
        rows: Int[np.ndarray, " batch"],
        modality: Modality,
        first: Int[np.ndarray, " batch"],
        lens: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, "total dim"]:
        """Returns `lens` tokens of each row from its `first` on, clip after clip."""
        tokens = np.empty((int(lens.sum()), self.spec.dim(modality)), np.float32)
        for clips, own, before in self._origins(rows, modality):
            found = clips.gather(rows[own] - before, modality, first[own], lens[own])
            tokens[np.repeat(own, lens)] = found
        return tokens

    def expect(
        self,
        rows: Int[np.ndarray, " batch"],
        modality: Modality,
        first: Int[np.ndarray, " batch"],
        lens: Int[np.ndarray, " batch"],
    ) -> None:
        """Prepares for a call of `gather` each origin that can read ahead."""
        for clips, own, before in self._origins(rows, modality):
            if isinstance(clips, ReadsAhead):
                clips.expect(rows[own] - before, modality, first[own], lens[own])

    def _origins(
        self, rows: Int[np.ndarray, " batch"], modality: Modality
    ) -> Iterator[tuple[Clips, Bool[np.ndarray, " batch"], int]]:
        """Yields an origin, which rows are its, and how many rows come before its first."""
        ends = len(self.first.lens(modality))
        if (rows < ends).any():
            yield self.first, rows < ends, 0
        if (rows >= ends).any():
            yield self.second, rows >= ends, ends


def load_batch(
    clips: Clips | ResidentClips,
    rows: Int[np.ndarray, " batch"],
    windows: Windows,
    *,
    labels: Int[np.ndarray, " batch"] | None = None,
    generator: torch.Generator | None = None,
    share: slice = slice(None),
) -> FeatureBatch:
    """Reads one window of each clip into a packed float32 batch.

    Args:
        clips: a store, clips in memory, or on a device, where the tokens of the batch are then.
        rows: which of them, in any order, repeats allowed.
        windows: which stretch of each, and how tokens are timed.
        labels: class index of each clip.
        generator: draws random windows.
        share: which of `rows` are read; windows are drawn for all, so that a clip has the same
            one in whatever share of a batch.
    """
    spec = clips.spec
    starts = _starts(clips, rows, windows, generator)[share]
    rows, labels = rows[share], None if labels is None else labels[share]
    packed: dict[Modality, Packed] = {}
    for modality in MODALITIES:
        first, lens = windows.cut(modality, spec, clips.lens(modality)[rows], starts)
        tokens = _float32(clips.gather(rows, modality, first, lens))
        times = torch.from_numpy(windows.token_times(spec.step_s(modality), first, lens))
        whole = Packed(tokens, torch.from_numpy(lens), times.to(torch.float32))
        packed[modality] = whole.averaged() if windows.average else whole
    return FeatureBatch(**packed, labels=None if labels is None else torch.from_numpy(labels))


def expect_batch(
    clips: Clips | ResidentClips,
    rows: Int[np.ndarray, " batch"],
    windows: Windows,
    *,
    generator: torch.Generator | None = None,
    share: slice = slice(None),
) -> None:
    """Prepares for a call of `load_batch`, without waiting for anything.

    Args:
        clips: those of that call; nothing is done for such as cannot read ahead.
        rows: as of that call.
        windows: as of that call.
        generator: in the state that the other's will be in then.
        share: as of that call.
    """
    if not isinstance(clips, ReadsAhead):
        return
    starts = _starts(clips, rows, windows, generator)[share]
    rows = rows[share]
    for modality in MODALITIES:
        first, lens = windows.cut(modality, clips.spec, clips.lens(modality)[rows], starts)
        clips.expect(rows, modality, first, lens)


def _starts(
    clips: Clips | ResidentClips,
    rows: Int[np.ndarray, " batch"],
    windows: Windows,
    generator: torch.Generator | None,
) -> Float[np.ndarray, " batch"]:
    """Returns where each clip's window starts, in seconds."""
    return windows.starts(_durations(clips, rows), generator)


def _float32(
    values: Float[np.ndarray, "*shape"] | Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """Returns numbers in float32, without a copy if they are, where they are."""
    if isinstance(values, Tensor):
        return values.to(torch.float32)
    if values.dtype == np.float32:
        return torch.from_numpy(values)
    # numpy's memory comes in large pages: of torch's own the first touch takes longer than the
    # conversion. numpy's conversion of halves is several times slower than torch's.
    found = torch.from_numpy(np.empty(values.shape, np.float32))
    return found.copy_(torch.from_numpy(values))


def _durations(
    clips: Clips | ResidentClips, rows: Int[np.ndarray, " batch"]
) -> Float[np.ndarray, " batch"]:
    """Returns how long clips last, in seconds; 0 where tokens have no time."""
    each = [clips.lens(m)[rows] * (clips.spec.step_s(m) or 0.0) for m in MODALITIES]
    return np.max(each, axis=0).astype(np.float64)


MOST_TOKENS = 16_384
"""Tokens that are read at once where a batch may be smaller: 256 MiB of 4,096 numbers each."""


def in_reads(
    clips: Clips | ResidentClips,
    rows: Int[np.ndarray, " num_rows"],
    windows: Windows,
    batch_size: int,
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Yields rows in order, as many as fit into memory at once.

    Of long clips these are fewer than `batch_size`, at least one, so that memory does not grow with
    the length of clips times their number.

    Args:
        clips: a store, or clips in memory.
        rows: which of them.
        windows: which stretch of each is read; of random ones the middle stands for all.
        batch_size: most clips of a batch.
    """
    middle = replace(windows, place="centre")
    starts = middle.starts(_durations(clips, rows), None)
    tokens = np.zeros(len(rows), np.int64)
    for modality in MODALITIES:
        # Averages are made of whole windows too.
        tokens += middle.cut(modality, clips.spec, clips.lens(modality)[rows], starts)[1]
    before = np.concatenate([[0], np.cumsum(tokens)])
    first = 0
    while first < len(rows):
        fits = int(np.searchsorted(before, before[first] + MOST_TOKENS, side="right")) - 1
        end = min(max(fits, first + 1), first + batch_size)
        yield rows[first:end]
        first = end


def token_view(store: FeatureStore, row: int, modality: Modality) -> Float[Tensor, "len dim"]:
    """Returns the tokens of one clip as a tensor that shares the file's memory: read only."""
    flat = torch.utils.dlpack.from_dlpack(store.flat(row, modality))
    return flat.view(-1, store.spec.dim(modality))
