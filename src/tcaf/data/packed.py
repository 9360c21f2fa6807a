"""Packed tokens: only real ones, clip after clip.

Owns where they lie (`Packing`), and what belongs together: tokens, lengths, times (`Packed`).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcaf.errors import TCAFError
from tcaf.execution.devices import moved


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
        return moved(self._is_real, self.device)

    @property
    def _is_real(self) -> Bool[Tensor, "batch longest"]:
        return torch.arange(self.longest) < self.lens[:, None]

    @cached_property
    def _places(self) -> Int[Tensor, " total"]:
        # Found on the CPU: a GPU would have to be waited for.
        return moved(self._is_real.flatten().nonzero().squeeze(dim=1), self.device)

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
        clips = torch.repeat_interleave(torch.arange(len(self.lens)), self.lens)
        return moved(clips, self.device)

    def sum(self, packed: Float[Tensor, "total dim"]) -> Float[Tensor, "batch dim"]:
        """Sums the tokens of each clip."""
        if self.dense:
            return self.unpack(packed).sum(dim=1)
        zero = packed.new_zeros(len(self.lens), packed.shape[1])
        return zero.index_add(0, self.clip_of, packed)


@dataclass(frozen=True)
class Packed:
    """The tokens of one modality of a batch of clips, clip after clip, in order of time.

    Args:
        tokens: of all clips; only real ones.
        lens: tokens of each clip, 0 where it has none; stays on the CPU, since shapes follow from
            it.
        times: time of each token in its clip, in seconds.
    """

    tokens: Float[Tensor, "total dim"]
    lens: Int[Tensor, " batch"]
    times: Float[Tensor, " total"]

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.times) == int(self.lens.sum()):
            raise TCAFError(
                f"lengths sum to {int(self.lens.sum())}, but there are {len(self.tokens)} tokens "
                f"and {len(self.times)} times"
            )

    @classmethod
    def from_padded(
        cls,
        tokens: Float[Tensor, "batch len dim"],
        lens: Int[Tensor, " batch"],
        times: Float[Tensor, "batch len"],
    ) -> "Packed":
        """Packs a padded array: of clip i, the first `lens[i]` tokens are real.

        Raises:
            TCAFError: a length is negative or beyond the padded one.
        """
        lens = lens.cpu()
        if bool((lens < 0).any()) or bool((lens > tokens.shape[1]).any()):
            raise TCAFError(f"lengths must lie in 0..{tokens.shape[1]}, got {lens.tolist()}")
        real = (torch.arange(tokens.shape[1]) < lens[:, None]).to(tokens.device)
        return cls(tokens[real], lens, times.to(tokens.device, tokens.dtype)[real])

    @cached_property
    def packing(self) -> Packing:
        """Where the tokens of each clip lie."""
        return Packing(self.lens, self.tokens.device)

    def to(self, device: torch.device | str) -> "Packed":
        """Moves tokens and times to a device; lengths stay on the CPU."""
        return Packed(moved(self.tokens, device), self.lens, moved(self.times, device))

    def with_tokens(self, tokens: Float[Tensor, "total other_dim"]) -> "Packed":
        """Returns other tokens in the same places, such as these after an encoder."""
        found = replace(self, tokens=tokens)
        vars(found)["packing"] = self.packing  # its places are worked out once
        return found

    def without_tokens(self) -> "Packed":
        """Returns as many clips that have no token."""
        return Packed(self.tokens[:0], torch.zeros_like(self.lens), self.times[:0])

    def mean(self) -> Float[Tensor, "batch dim"]:
        """Returns the mean token of each clip; 0 for a clip without tokens."""
        return mean_token(self)

    def averaged(self) -> "Packed":
        """Returns one token for each clip that has any: their mean, at time 0."""
        some = moved((self.lens > 0).nonzero().squeeze(dim=1), self.tokens.device)
        tokens = self.mean().index_select(0, some)
        return Packed(tokens, self.lens.clamp_max(1), tokens.new_zeros(len(tokens)))


def mean_token(*groups: Packed) -> Float[Tensor, "batch dim"]:
    """Returns the mean over all tokens that each clip has in some groups; 0 where it has none."""
    total = torch.stack([group.packing.sum(group.tokens) for group in groups]).sum(dim=0)
    count = torch.stack([group.lens for group in groups]).sum(dim=0)
    return total / moved(count.clamp_min(1).to(total.dtype), total.device)[:, None]
