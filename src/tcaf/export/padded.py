"""Clips as rectangles: tokens padded to the longest, with masks, as graphs take them.

Owns the rectangle, the cutting and timing of clips in it, and the arithmetic that needs a mask.
Everywhere else tokens are packed (`data.packed`), to which this is equal; here all is made of
tensor operations whose shapes follow from those of the inputs, so that it can be traced.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcaf.data.features import FeatureSpec, Modality
from tcaf.data.windows import SNAP, Windows
from tcaf.settings.fidelity import AudioScaling, VisualScaling


@dataclass(frozen=True)
class Padded:
    """One modality of a batch of clips.

    Args:
        tokens: of each clip, in order of time; 0 where there is none.
        mask: which places hold a token.
        times: time of each token in its clip, in seconds.
    """

    tokens: Float[Tensor, "batch len dim"]
    mask: Bool[Tensor, "batch len"]
    times: Float[Tensor, "batch len"]

    @property
    def weights(self) -> Float[Tensor, "batch len 1"]:
        """1 where there is a token, 0 elsewhere."""
        return self.mask.to(self.tokens.dtype)[:, :, None]

    @property
    def count(self) -> Float[Tensor, "batch 1"]:
        """How many tokens each clip has."""
        return self.weights.sum(dim=1)

    @property
    def there(self) -> Bool[Tensor, " batch"]:
        """Which clips have any."""
        return self.mask.any(dim=1)

    def sum(self, values: Float[Tensor, "batch len n"]) -> Float[Tensor, "batch n"]:
        """Sums values over the tokens of each clip."""
        return (values * self.weights).sum(dim=1)

    def mean(self) -> Float[Tensor, "batch dim"]:
        """Returns the mean token of each clip; 0 for a clip without tokens."""
        return self.sum(self.tokens) / self.count.clamp_min(1)

    def averaged(self) -> "Padded":
        """Returns one token for each clip that has any: their mean, at time 0."""
        times = torch.zeros_like(self.times[:, :1])
        return Padded(self.mean()[:, None], self.there[:, None], times)

    def with_tokens(self, tokens: Float[Tensor, "batch len other_dim"]) -> "Padded":
        """Returns other tokens in the same places."""
        return replace(self, tokens=tokens)

    def scaled(self, scaling: AudioScaling | VisualScaling) -> Float[Tensor, "batch len dim"]:
        """Scales input features as `Fidelity.audio_scaling` and `visual_scaling` say."""
        if scaling == "divide_255":
            return self.tokens / 255
        if scaling == "l2":
            return F.normalize(self.tokens, dim=2)
        if scaling == "l2_over_time":
            return self.tokens / self.sum(self.tokens.square()).sqrt().clamp_min(1e-12)[:, None]
        return self.tokens

    def scaled_mean(self, scaling: AudioScaling | VisualScaling) -> Float[Tensor, "batch dim"]:
        """Returns each clip's mean token, scaled; 0 for a clip without any."""
        return self.averaged().scaled(scaling)[:, 0]


def padded_clips(
    tokens: Mapping[Modality, Float[Tensor, "batch _ _"]],
    masks: Mapping[Modality, Bool[Tensor, "batch _"]],
    windows: Windows,
    spec: FeatureSpec,
) -> dict[Modality, Padded]:
    """Cuts and times whole clips as `load_batch` does, for the modalities whose tokens are given.

    Args:
        tokens: of each clip; whatever lies where the mask is false is not read.
        masks: which places hold a token: the first ones of each clip.
        windows: how clips are cut, from their middle, and timed.
        spec: seconds per token.
    """
    lens = {m: mask.sum(dim=1) for m, mask in masks.items()}
    # In doubles, as the packed way computes them.
    seconds = [each.double() * (spec.step_s(m) or 0.0) for m, each in lens.items()]
    durations = torch.stack(seconds).amax(dim=0)
    starts = (durations - (windows.window_s or math.inf)).clamp_min(0) / 2
    found: dict[Modality, Padded] = {}
    for modality, rows in tokens.items():
        first, count = _cut(modality, lens[modality], starts, windows, spec)
        places = torch.arange(rows.shape[1], device=rows.device)[None]
        mask = (places >= first[:, None]) & (places < (first + count)[:, None])
        index = places - first[:, None] if windows.restart else places.expand_as(mask)
        step_s = 1.0 if windows.times == "index" else spec.step_s(modality) or 0.0
        kept = torch.where(mask[:, :, None], rows, 0.0)
        whole = Padded(kept, mask, (index.double() * step_s).float())
        found[modality] = whole.averaged() if windows.average else whole
    return found


def _cut(
    modality: Modality,
    lens: Int[Tensor, " batch"],
    starts: Float[Tensor, " batch"],
    windows: Windows,
    spec: FeatureSpec,
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Returns the first token and the number of tokens of each clip, as `Windows.cut` does."""
    step_s = spec.step_s(modality)
    if step_s is None or windows.window_s is None:
        return torch.zeros_like(lens), lens
    first = (starts / step_s - 0.5 - SNAP).ceil().long()
    first = torch.minimum(first.clamp_min(0), (lens - 1).clamp_min(0))
    if modality == "audio" and windows.release_audio_len and spec.visual_step_s:
        visual_count = math.ceil(windows.window_s / spec.visual_step_s - SNAP)
        end = first + max(1, round(visual_count * spec.visual_step_s * step_s))
    else:
        end = ((starts + windows.window_s) / step_s - 0.5 - SNAP).ceil().long()
    return first, torch.minimum(torch.maximum(end - first, lens.clamp_max(1)), lens - first)
