"""The tokens of a whole store on a device, where a GPU has the memory for it.

Owns whether they fit and how batches are gathered there: what goes to the device for a batch is
which tokens, not the tokens. Knows nothing of windows or batches.
"""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.data.features import MODALITIES, FeatureSpec, Modality
from tcaf.data.store import FeatureStore
from tcaf.data.windows import ranges
from tcaf.execution.devices import moved

SHARE = 0.5
"""Of a GPU's free memory that tokens may take; the rest is for weights and what is computed."""

ROWS_AT_ONCE = 1024
"""Clips that are read in one go."""


class ResidentClips:
    """Clips whose tokens are on a device, in the precision that the store has.

    Args:
        store: all of its clips are read.
        device: where they go.
    """

    def __init__(self, store: FeatureStore, device: torch.device) -> None:
        self.store = store
        self.device = device
        self._starts = {m: np.cumsum(store.lens(m)) - store.lens(m) for m in MODALITIES}

    @cached_property
    def _tokens(self) -> dict[Modality, Float[Tensor, "total _"]]:
        # When the first batch is asked for: settings are checked before that.
        return {modality: self._read(modality) for modality in MODALITIES}

    def _read(self, modality: Modality) -> Float[Tensor, "total dim"]:
        lens = self.store.lens(modality)
        parts = []
        for first in range(0, len(lens), ROWS_AT_ONCE):
            rows = np.arange(first, min(first + ROWS_AT_ONCE, len(lens)))
            found = torch.from_numpy(self.store.gather(rows, modality))
            parts.append(found.to(self.device))
        return torch.cat(parts)

    @property
    def spec(self) -> FeatureSpec:
        """What the numbers mean."""
        return self.store.spec

    def lens(self, modality: Modality) -> Int[np.ndarray, " num_clips"]:
        """Returns the number of tokens of each clip."""
        return self.store.lens(modality)

    def gather(
        self,
        rows: Int[np.ndarray, " batch"],
        modality: Modality,
        first: Int[np.ndarray, " batch"],
        lens: Int[np.ndarray, " batch"],
    ) -> Float[Tensor, "total dim"]:
        """Returns `lens` tokens of each row from its `first` on, clip after clip, on the device."""
        starts = self._starts[modality][rows] + first
        index = torch.from_numpy(np.repeat(starts, lens) + ranges(lens))
        return self._tokens[modality].index_select(0, moved(index, self.device))


def num_bytes(store: FeatureStore) -> int:
    """Returns how much memory the tokens of all clips take."""
    size = np.dtype(store.dtype).itemsize
    return sum(size * int(store.lens(m).sum()) * store.spec.dim(m) for m in MODALITIES)


def on_device(store: FeatureStore, device: torch.device) -> FeatureStore | ResidentClips:
    """Returns the clips with their tokens on a GPU if they fit there; on a CPU the store itself."""
    if device.type != "cuda":
        return store
    free, _ = torch.cuda.mem_get_info(device)
    return ResidentClips(store, device) if num_bytes(store) <= SHARE * free else store
