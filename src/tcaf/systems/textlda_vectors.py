"""What TextLDA reads of a clip: one vector, in named blocks.

Owns its configuration, which blocks a read-out's vectors have, and which numbers of the vector of
both modalities are those of one. The arithmetic of each block is `clip_vectors`.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.data.packed import Packed
from tcaf.settings.validation import Count, NotNegative, settings
from tcaf.systems import clip_vectors
from tcaf.systems.interface import InputConfig

NUM_LAGS = 31

PRODUCT_DIRECTIONS = 2
"""Of the leading directions of change, those of which products are taken."""

FREQUENCY = 2.0**0.5
"""Standard deviation of the random features' frequencies."""

LATER = ("seen_counts", "source_text", "source_map", "source_mean", "spread")
"""Weights that files of older models lack, and which are empty there."""

_HALVES = ("mean", "spread")
"""Blocks whose numbers are those of sound, then those of the picture."""


@settings("options", kw_only=True)
class TextLDAConfig(InputConfig):
    """What `TextLDA` is built from.

    Args:
        kappa: how many clips a class's text is worth beside the clips that it has.
        time: whether a clip's course in time is read beside its means: `chosen` by validation, or
            `on`, or `off`. Clips of one token a modality have none.
        spread: whether the deviation over time is read beside the mean: `chosen`, `on` or `off`.
            It knows neither order nor seconds.
        num_random: random features of what changes together.
    """

    kappa: NotNegative = 50.0
    time: Literal["chosen", "on", "off"] = "chosen"
    spread: Literal["chosen", "on", "off"] = "off"
    num_random: Count = 400


class Sized(nn.Module):
    """A module whose buffers take the shapes of what is loaded into them: data decides those."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name, buffer in self._buffers.items():
            if name in LATER and buffer is not None:
                state_dict.setdefault(prefix + name, buffer[:0])
            kept = state_dict.get(prefix + name)
            if buffer is not None and kept is not None and kept.ndim == buffer.ndim:
                self._buffers[name] = buffer.new_empty(kept.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class ClipVectors(Sized):
    """What turns clips into vectors, learnt from clips: lags, their statistics, directions.

    Without lags, vectors are means alone, and deviations beside them where `spread` is not empty.

    Args:
        config: dimensions, and how many random features.
    """

    lags: Float[Tensor, " num_lags"]
    together_mean: Float[Tensor, " num_lags"]
    together_scale: Float[Tensor, ""]
    frequencies: Float[Tensor, "num_lags num_random"]
    phases: Float[Tensor, " num_random"]
    spread: Float[Tensor, " flags"]

    def __init__(self, config: TextLDAConfig) -> None:
        super().__init__()
        self.offers_spread = config.spread != "off"
        self.register_buffer("lags", torch.zeros(0))
        self.register_buffer("together_mean", torch.zeros(0))
        self.register_buffer("together_scale", torch.zeros(()))
        self.register_buffer("frequencies", FREQUENCY * torch.randn(NUM_LAGS, config.num_random))
        self.register_buffer("phases", 2 * torch.pi * torch.rand(config.num_random))
        for modality in MODALITIES:
            self.register_buffer(f"{modality}_directions", torch.zeros(0, config.dim(modality)))
        self.register_buffer("spread", torch.zeros(0))

    def directions(self, modality: Modality) -> Float[Tensor, "num_directions dim"]:
        """Returns the directions along which a modality's course is followed."""
        found: Tensor = getattr(self, f"{modality}_directions")
        return found

    @property
    def reads_time(self) -> bool:
        """Whether vectors hold what depends on when something happens."""
        return len(self.lags) > 0

    @property
    def reads_spread(self) -> bool:
        """Whether vectors hold deviations over time."""
        return len(self.spread) > 0

    def with_spread(self, spread: bool) -> "ClipVectors":
        """Returns a copy that reads deviations, or does not."""
        found = deepcopy(self)
        found.spread = self.lags.new_ones(int(spread))
        return found

    def without_time(self, spread: bool) -> "ClipVectors":
        """Returns a copy whose vectors are means alone; it keeps the random numbers.

        Args:
            spread: whether deviations stand beside the means.
        """
        found = self.with_spread(spread)
        found.lags = self.lags[:0]
        found.together_mean = self.together_mean[:0]
        for modality in MODALITIES:
            setattr(found, f"{modality}_directions", self.directions(modality)[:0])
        return found

    def sizes(self, modalities: Sequence[Modality]) -> dict[str, int]:
        """Returns the sizes of the blocks that a read-out's vectors are made of, by name.

        In order: means, deviations, what changes together and its random features, courses and
        products.
        """
        sizes = {"mean": sum(self.directions(modality).shape[1] for modality in modalities)}
        if self.reads_spread:
            sizes["spread"] = sizes["mean"]
        if self.reads_time:
            if len(modalities) > 1:
                sizes |= {"together": len(self.lags), "shapes": len(self.phases)}
            for modality in modalities:
                numbers = clip_vectors.POLYNOMIALS * len(self.directions(modality))
                sizes[f"{modality}_course"] = numbers
            sizes["products"] = sum(self.product_sizes(modalities))
        return sizes

    def dim(self, modalities: Sequence[Modality]) -> int:
        """Returns the size of a read-out's vectors."""
        return sum(self.sizes(modalities).values())

    def product_sizes(self, modalities: Sequence[Modality]) -> list[int]:
        """Returns how many products there are: across modalities if there are two, then of each."""
        channels = [1 + len(self.directions(m)[:PRODUCT_DIRECTIONS]) for m in modalities]
        steps = len(self.lags) // 2 + 1
        across = [(2 * steps - 1) * math.prod(channels)] if len(channels) > 1 else []
        return [*across, *(steps * size**2 for size in channels)]

    def columns(self, modality: Modality) -> Int[Tensor, " dim"]:
        """Returns which numbers of the vector of both modalities are those of one alone."""
        audio, visual = (self.directions(each).shape[1] for each in MODALITIES)
        is_audio = modality == "audio"
        # Where the own part of a block begins in it, and how long it is.
        own = dict.fromkeys(_HALVES, (0, audio) if is_audio else (audio, visual))
        if self.reads_time:
            across, sound, picture = self.product_sizes(MODALITIES)
            own["products"] = (across, sound) if is_audio else (across + sound, picture)
        found, first = [], 0
        for name, size in self.sizes(MODALITIES).items():
            if name == f"{modality}_course":
                own[name] = 0, size
            if name in own:
                start, length = own[name]
                found.append(torch.arange(first + start, first + start + length))
            first += size
        return torch.cat(found).to(self.lags.device)

    def vector(self, blocks: Mapping[str, Float[Tensor, "batch _"]]) -> Float[Tensor, "batch dim"]:
        """Returns vectors from their blocks, without those that they do not read."""
        return torch.cat([block for name, block in blocks.items() if name in self._read], dim=1)

    @property
    def _read(self) -> frozenset[str]:
        """Names of the blocks that vectors read."""
        return frozenset(self.sizes(MODALITIES))

    def blocks(
        self, batch: FeatureBatch, modalities: Sequence[Modality]
    ) -> dict[str, Float[Tensor, "batch _"]]:
        """Returns the blocks of the clips' vectors for a read-out, in the order of `sizes`.

        With deviations where the configuration offers them, whether they are read or not: what is
        kept of validation clips serves every choice.

        Args:
            batch: the clips.
            modalities: that the read-out reads.
        """
        given = [batch.modality(modality) for modality in modalities]
        found = {"mean": torch.cat([clip_vectors.unit_means(each) for each in given], dim=1)}
        if self.offers_spread:
            spreads = [clip_vectors.relative_deviations(each) for each in given]
            found["spread"] = torch.cat(spreads, dim=1)
        if not self.reads_time:
            return found
        if len(given) > 1:
            lagged = self.together(batch)
            seen = (lagged - self.together_mean) * self.together_scale
            found["together"] = lagged
            found["shapes"] = clip_vectors.random_features(seen, self.frequencies, self.phases)
        for packed, modality in zip(given, modalities, strict=True):
            course = clip_vectors.course(packed, self.directions(modality))
            found[f"{modality}_course"] = course
        grids = self._grids(given, modalities)
        lags = range(len(self.lags) // 2 + 1)
        products = [clip_vectors.products(grid, grid, lags) for grid in grids]
        if len(given) > 1:
            audio, visual = grids
            across = (
                clip_vectors.products(audio, visual, lags),
                clip_vectors.products(visual, audio, lags[1:]),
            )
            products = [*across, *products]
        found["products"] = torch.cat(products, dim=1)
        return found

    def _grids(
        self, given: Sequence[Packed], modalities: Sequence[Modality]
    ) -> list[Float[Tensor, "batch num_steps num_channels"]]:
        """Returns how clips change in some modalities, at the same even steps of time."""
        step_s = float(self.lags[1] - self.lags[0])
        ends = [clip_vectors.ends(packed) for packed in given]
        first = torch.stack([each for each, _ in ends]).amin(dim=0)
        last = torch.stack([each for _, each in ends]).amax(dim=0)
        span_s = float((last - first).clamp_min(0).max())
        # Steps lie at multiples: one before the first token, one behind the last.
        steps = int(span_s / step_s) + 3
        return [
            clip_vectors.on_a_grid(
                packed, self.directions(modality)[:PRODUCT_DIRECTIONS], step_s, first, steps
            )
            for packed, modality in zip(given, modalities, strict=True)
        ]

    def together(self, batch: FeatureBatch) -> Float[Tensor, "batch num_lags"]:
        """Returns how sound and picture of each clip change together."""
        audio, visual = (clip_vectors.change(batch.modality(modality)) for modality in MODALITIES)
        return clip_vectors.together(batch.audio, batch.visual, audio, visual, self.lags)
