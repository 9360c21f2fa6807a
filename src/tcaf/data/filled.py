"""Batches of fixed shapes: packed tokens, with rows behind them that belong to no clip.

Owns the shapes and the filling up. What is computed of a batch is the same whatever rows are behind
its tokens; but of two batches of one shape everything is as large, and nothing of it is looked at
by the CPU, so that a device can do for the second what it did for the first without being told
anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import Modality
from tcaf.data.packed import Packed, Packing
from tcaf.execution.devices import moved


def size_for(number: int) -> int:
    """Returns the least size that is `number` or more: there are four from each power of two on."""
    if number <= 4:
        return number
    step = 1 << ((number - 1).bit_length() - 3)
    return -(-number // step) * step


@dataclass(frozen=True)
class FilledPacking(Packing):
    """Where the tokens of each clip lie in front of rows that belong to none.

    Args:
        lens: tokens of each clip, on the device.
        device: where the tokens are.
        num_rows: in all.
        room: places for the tokens of a clip, enough for the longest.
    """

    num_rows: int
    room: int

    @cached_property
    def first(self) -> Int[Tensor, " batch"]:
        """The row of each clip's first token."""
        return self.lens.cumsum(dim=0) - self.lens

    @cached_property
    def real_rows(self) -> Bool[Tensor, " rows"]:
        """Which rows hold a token."""
        return self._rows < self.lens.sum()

    @cached_property
    def clip_of(self) -> Int[Tensor, " rows"]:
        """The clip that each row belongs to; of a row that belongs to none the last."""
        ends = self.lens.cumsum(dim=0)
        found = torch.searchsorted(ends, self._rows, right=True)
        return found.clamp_max(len(self.lens) - 1)

    @cached_property
    def place_of(self) -> Int[Tensor, " rows"]:
        """The place of each row among those of its clip, below `room`."""
        return (self._rows - self.first[self.clip_of]).clamp_max(self.room - 1)

    @cached_property
    def real(self) -> Bool[Tensor, "batch room"]:
        """Which places of the clips hold a token."""
        return torch.arange(self.room, device=self.device) < self.lens[:, None]

    @property
    def _rows(self) -> Int[Tensor, " rows"]:
        return torch.arange(self.num_rows, device=self.device)

    def sum(self, packed: Float[Tensor, "rows dim"]) -> Float[Tensor, "batch dim"]:
        """Sums the tokens of each clip."""
        zero = packed.new_zeros(len(self.lens), packed.shape[1])
        return zero.index_add(0, self.clip_of, packed * self.real_rows[:, None])


@dataclass(frozen=True)
class FilledPacked(Packed):
    """The tokens of one modality of a batch, and rows behind them that belong to no clip.

    Args:
        tokens: of all clips, then at least one row that holds anything finite.
        lens: tokens of each clip, on the tokens' device.
        times: of each token, likewise.
        room: places for the tokens of a clip.
    """

    room: int

    def __post_init__(self) -> None:
        """Looks at no length: it would have to be waited for."""

    @cached_property
    def packing(self) -> FilledPacking:
        """Where the tokens of each clip lie."""
        return FilledPacking(self.lens, self.tokens.device, len(self.tokens), self.room)


@dataclass(frozen=True)
class FixedShape:
    """How large everything of a batch is.

    Args:
        num_clips: of the batch.
        rows: by modality, all that are used.
        rooms: places for the tokens of a clip, likewise.
    """

    num_clips: int
    rows: tuple[tuple[Modality, int], ...]
    rooms: tuple[tuple[Modality, int], ...]

    @classmethod
    def of(cls, batch: FeatureBatch, modalities: Sequence[Modality]) -> "FixedShape | None":
        """Returns the shape that a batch is filled up to.

        Returns:
            None for a batch that is to be computed as it is: it has not two tokens of each modality
            to take statistics of, or a clip without any.
        """
        lens = {m: batch.modality(m).lens for m in modalities}
        totals = {m: int(each.sum()) for m, each in lens.items()}
        if min(totals.values()) < 2:
            return None
        if bool((torch.stack(list(lens.values())).sum(dim=0) == 0).any()):
            return None
        return cls(
            len(batch),
            # At least one row is behind the tokens: attention has somewhere to leave what is over.
            tuple((m, size_for(total + 1)) for m, total in totals.items()),
            tuple((m, size_for(int(each.max()))) for m, each in lens.items()),
        )

    def new_batch(self, like: FeatureBatch) -> FeatureBatch:
        """Returns a batch of this shape that holds nothing yet.

        Args:
            like: what it is to hold, and of whose device it is.
        """
        rows, rooms = dict(self.rows), dict(self.rooms)

        def empty(modality: Modality) -> Packed:
            packed = like.modality(modality)
            num, tokens = rows.get(modality, 0), packed.tokens
            if not num:
                # No view: it would hold on to the batch.
                none = tokens.new_zeros(0, tokens.shape[1])
                return Packed(none, torch.zeros_like(packed.lens), packed.times.new_zeros(0))
            return FilledPacked(
                tokens.new_zeros(num, tokens.shape[1]),
                torch.zeros(self.num_clips, dtype=torch.int64, device=tokens.device),
                packed.times.new_zeros(num),
                rooms[modality],
            )

        return FeatureBatch(empty("audio"), empty("visual"), torch.empty_like(like.known_labels))

    def fill(self, held: FeatureBatch, batch: FeatureBatch) -> None:
        """Writes a batch of this shape into one that `new_batch` returned, 0 behind its tokens.

        Nothing depends on what is there, as long as it is finite; what another batch left may not
        be, once it is scaled as if it belonged to this one's last clip.
        """
        names = [m for m, _ in self.rows]
        device = batch.known_labels.device
        lens = moved(torch.stack([batch.modality(m).lens for m in names]), device)
        for modality, own in zip(names, lens, strict=True):
            packed, target = batch.modality(modality), held.modality(modality)
            target.tokens[: len(packed.tokens)].copy_(packed.tokens)
            target.tokens[len(packed.tokens) :].zero_()
            target.times[: len(packed.times)].copy_(packed.times)
            target.lens.copy_(own)
        assert held.labels is not None, "made with labels"
        held.labels.copy_(batch.known_labels)


def as_new(held: FeatureBatch) -> FeatureBatch:
    """Returns a batch of the same tensors, of which nothing is worked out yet."""
    return FeatureBatch(replace(held.audio), replace(held.visual), held.labels)


def is_filled(batch: FeatureBatch) -> bool:
    """Returns whether a batch is of a fixed shape, and its lengths on the device."""
    return any(isinstance(packed, FilledPacked) for packed in (batch.audio, batch.visual))
