"""Packed tokens: only real ones, clip after clip."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the tokens of each clip lie in one packed group.

    Args:
        lens: tokens of each clip, on the CPU.
        device: where the tokens are.
    """

    lens: Int[Tensor, " batch"]
    device: torch.device

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest clip."""
        return int(self.lens.max())

    @cached_property
    def dense(self) -> bool:
        """Whether all clips have the same number of tokens, so that packing is a reshape."""
        return bool((self.lens == self.longest).all())

    @cached_property
    def real(self) -> Bool[Tensor, "batch longest"]:
        """Which places of the rectangle hold a token, on the tokens' device."""
        return (torch.arange(self.longest) < self.lens[:, None]).to(self.device)

    @cached_property
    def _places(self) -> Int[Tensor, " total"]:
        return self.real.flatten().nonzero().squeeze(dim=1)

    def unpack(self, packed: Float[Tensor, "total dim"]) -> Float[Tensor, "batch longest dim"]:
        """Lays tokens out as a rectangle, zero where a clip has none."""
        batch = len(self.lens)
        if not self.dense:
            rectangle = packed.new_zeros(batch * self.longest, packed.shape[1])
            packed = rectangle.index_copy(0, self._places, packed)
        return packed.view(batch, self.longest, packed.shape[1])

    def pack(self, rectangle: Float[Tensor, "batch longest dim"]) -> Float[Tensor, "total dim"]:
        """Undoes `unpack`."""
        flat = rectangle.flatten(0, 1)
        return flat if self.dense else flat.index_select(0, self._places)

    @cached_property
    def clip_of(self) -> Int[Tensor, " total"]:
        """The clip that each token belongs to."""
        return torch.repeat_interleave(torch.arange(len(self.lens)), self.lens).to(self.device)

    def sum(self, packed: Float[Tensor, "total dim"]) -> Float[Tensor, "batch dim"]:
        """Sums the tokens of each clip."""
        if self.dense:
            return self.unpack(packed).sum(dim=1)
        zero = packed.new_zeros(len(self.lens), packed.shape[1])
        return zero.index_add(0, self.clip_of, packed)


def time_average(
    tokens: Float[Tensor, "total dim"], lens: Int[Tensor, " batch"]
) -> Float[Tensor, "clips dim"]:
    """Returns the mean token of each clip that has any, in the order of the batch."""
    some = lens[lens > 0]
    clip = torch.repeat_interleave(torch.arange(len(some)), some)
    total = torch.zeros(len(some), tokens.shape[1]).index_add(0, clip, tokens)
    return total / some[:, None]
