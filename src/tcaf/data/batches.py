"""Batches of clips, packed: only real tokens, clip after clip.

Owns `FeatureBatch`, the cutting of windows in seconds, and the class-balanced sampler. Clips come
from a store or from memory, on one path. Knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.data.packed import time_average
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError


@dataclass(frozen=True)
class FeatureBatch:
    """A batch of clips with their tokens packed, in order of time within a clip.

    Args:
        audio_tokens: audio features of all clips, clip after clip.
        audio_lens: audio tokens of each clip, 0 where it has no sound; stays on the CPU, since
            shapes follow from it.
        audio_times: time of each audio token in its clip, in seconds.
        visual_tokens: the same for visual features.
        visual_lens: see `audio_lens`.
        visual_times: see `audio_times`.
        labels: index of each clip's class in the stage's class set, if known.
    """

    audio_tokens: Float[Tensor, "audio_total audio_dim"]
    audio_lens: Int[Tensor, " batch"]
    audio_times: Float[Tensor, " audio_total"]
    visual_tokens: Float[Tensor, "visual_total visual_dim"]
    visual_lens: Int[Tensor, " batch"]
    visual_times: Float[Tensor, " visual_total"]
    labels: Int[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        if len(self.audio_lens) != len(self.visual_lens):
            raise TCAFError(
                f"a batch needs as many audio as visual lengths, got {len(self.audio_lens)} and "
                f"{len(self.visual_lens)}"
            )
        for modality in MODALITIES:
            tokens, lens, times = self.tokens(modality), self.lens(modality), self.times(modality)
            if not len(tokens) == len(times) == int(lens.sum()):
                raise TCAFError(
                    f"{modality} lengths sum to {int(lens.sum())}, but there are {len(tokens)} "
                    f"tokens and {len(times)} times"
                )

    def __len__(self) -> int:
        return len(self.audio_lens)

    def tokens(self, modality: Modality) -> Float[Tensor, "total dim"]:
        """Returns the packed tokens of a modality."""
        return self.audio_tokens if modality == "audio" else self.visual_tokens

    def lens(self, modality: Modality) -> Int[Tensor, " batch"]:
        """Returns the number of tokens of each clip in a modality."""
        return self.audio_lens if modality == "audio" else self.visual_lens

    def times(self, modality: Modality) -> Float[Tensor, " total"]:
        """Returns the times of a modality's tokens, in seconds."""
        return self.audio_times if modality == "audio" else self.visual_times

    def to(self, device: torch.device | str) -> "FeatureBatch":
        """Moves tokens, times and labels to a device; lengths stay on the CPU."""
        return replace(
            self,
            audio_tokens=self.audio_tokens.to(device),
            audio_times=self.audio_times.to(device),
            visual_tokens=self.visual_tokens.to(device),
            visual_times=self.visual_times.to(device),
            labels=None if self.labels is None else self.labels.to(device),
        )

    @classmethod
    def from_padded(
        cls,
        audio: Float[Tensor, "batch audio_len audio_dim"],
        visual: Float[Tensor, "batch visual_len visual_dim"],
        audio_lens: Int[Tensor, " batch"],
        visual_lens: Int[Tensor, " batch"],
        audio_times: Float[Tensor, "batch audio_len"],
        visual_times: Float[Tensor, "batch visual_len"],
    ) -> "FeatureBatch":
        """Packs padded arrays: of clip i, the first `lens[i]` tokens are real.

        Raises:
            TCAFError: a length is negative or beyond the padded one.
        """
        packed: dict[str, Tensor] = {}
        for name, tokens, lens, times in (
            ("audio", audio, audio_lens, audio_times),
            ("visual", visual, visual_lens, visual_times),
        ):
            lens = lens.cpu()
            if bool((lens < 0).any()) or bool((lens > tokens.shape[1]).any()):
                raise TCAFError(
                    f"{name} lengths must lie in 0..{tokens.shape[1]}, got {lens.tolist()}"
                )
            real = (torch.arange(tokens.shape[1]) < lens[:, None]).to(tokens.device)
            packed[f"{name}_tokens"] = tokens[real]
            packed[f"{name}_times"] = times.to(tokens.device, tokens.dtype)[real]
            packed[f"{name}_lens"] = lens
        return cls(**packed)

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


def load_batch(
    clips: Clips,
    rows: Int[np.ndarray, " batch"],
    windows: Windows,
    *,
    labels: Int[np.ndarray, " batch"] | None = None,
    generator: torch.Generator | None = None,
) -> FeatureBatch:
    """Reads one window of each clip into a packed float32 batch.

    Args:
        clips: a store, or clips in memory.
        rows: which of them, in any order, repeats allowed.
        windows: which stretch of each, and how tokens are timed.
        labels: class index of each clip.
        generator: draws random windows.
    """
    spec = clips.spec
    durations = np.zeros(len(rows))
    for modality in MODALITIES:
        durations = np.maximum(
            durations, clips.lens(modality)[rows] * (spec.step_s(modality) or 0.0)
        )
    starts = windows.starts(durations, generator)
    packed: dict[str, Tensor] = {}
    for modality in MODALITIES:
        first, lens = windows.cut(modality, spec, clips.lens(modality)[rows], starts)
        tokens = torch.from_numpy(clips.gather(rows, modality, first, lens))
        times = torch.from_numpy(windows.token_times(spec.step_s(modality), first, lens))
        packed[f"{modality}_tokens"] = tokens.to(torch.float32)
        packed[f"{modality}_times"] = times.to(torch.float32)
        packed[f"{modality}_lens"] = torch.from_numpy(lens)
        if windows.average:
            averaged = time_average(packed[f"{modality}_tokens"], packed[f"{modality}_lens"])
            packed[f"{modality}_tokens"] = averaged
            packed[f"{modality}_times"] = torch.zeros(len(averaged))
            packed[f"{modality}_lens"] = packed[f"{modality}_lens"].clamp_max(1)
    return FeatureBatch(**packed, labels=None if labels is None else torch.from_numpy(labels))
