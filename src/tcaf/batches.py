"""Batches of clips, packed: only real tokens, clip after clip.

Owns `FeatureBatch`, the cutting of windows in seconds, and the class-balanced sampler. Clips come
from a store or from memory, on one path. Knows nothing of models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.errors import TCAFError
from tcaf.features import MODALITIES, FeatureSpec, Modality, VideoFeatures

SNAP = 1e-6
"""Token borders nearer than this many tokens count as equal: 60 x 0.64 s is 40 x 0.96 s."""


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


def ranges(lens: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " total"]:
    """Returns 0..lens[0]-1, 0..lens[1]-1, ... one after the other."""
    ends = np.cumsum(lens)
    return np.arange(int(lens.sum())) - np.repeat(ends - lens, lens)


@dataclass(frozen=True)
class Windows:
    """How clips are cut and their tokens timed.

    Args:
        window_s: longest stretch of a clip, in seconds; None for whole clips.
        place: `random` draws its start, `centre` takes the middle of the clip.
        times: `seconds`, or the token's `index` as the release does at evaluation.
        restart: times count from the start of the window, not of the clip.
        release_audio_len: take round(visual tokens x 0.64 x 0.96) audio tokens, as the release.
        average: replace the tokens of each window by their mean, at time 0.
    """

    window_s: float | None = None
    place: Literal["random", "centre"] = "centre"
    times: Literal["seconds", "index"] = "seconds"
    restart: bool = False
    release_audio_len: bool = False
    average: bool = False

    def starts(
        self, durations: Float[np.ndarray, " batch"], generator: torch.Generator | None
    ) -> Float[np.ndarray, " batch"]:
        """Returns where each clip's window starts, in seconds; 0 where the clip fits in one."""
        slack = np.maximum(durations - (self.window_s or np.inf), 0.0)
        if self.place == "centre":
            return slack / 2
        return slack * torch.rand(len(slack), generator=generator, dtype=torch.float64).numpy()

    def cut(
        self,
        modality: Modality,
        spec: FeatureSpec,
        lens: Int[np.ndarray, " batch"],
        starts: Float[np.ndarray, " batch"],
    ) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
        """Returns the first token and the number of tokens inside each clip's window.

        A token belongs to the window if its middle lies in it, so that each token of a clip, the
        first included, can be the first of a random window. A clip that has tokens keeps at least
        one.
        """
        step_s = spec.step_s(modality)
        if step_s is None or self.window_s is None:
            return np.zeros_like(lens), lens
        first = np.ceil(starts / step_s - 0.5 - SNAP).astype(np.int64)
        first = np.clip(first, 0, np.maximum(lens - 1, 0))
        if modality == "audio" and self.release_audio_len and spec.visual_step_s:
            visual_count = np.ceil(self.window_s / spec.visual_step_s - SNAP)
            end = first + max(1, round(visual_count * spec.visual_step_s * step_s))
        else:
            end = np.ceil((starts + self.window_s) / step_s - 0.5 - SNAP).astype(np.int64)
        return first, np.clip(end - first, np.minimum(lens, 1), lens - first)

    def token_times(
        self,
        step_s: float | None,
        first: Int[np.ndarray, " batch"],
        lens: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, " total"]:
        """Returns the time of every token of the windows."""
        index = ranges(lens) + (0 if self.restart else np.repeat(first, lens))
        return index * (1.0 if self.times == "index" else step_s or 0.0)


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


def time_average(
    tokens: Float[Tensor, "total dim"], lens: Int[Tensor, " batch"]
) -> Float[Tensor, "clips dim"]:
    """Returns the mean token of each clip that has any, in the order of the batch."""
    some = lens[lens > 0]
    clip = torch.repeat_interleave(torch.arange(len(some)), some)
    total = torch.zeros(len(some), tokens.shape[1]).index_add(0, clip, tokens)
    return total / some[:, None]


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


def in_order(
    rows: Int[np.ndarray, " num_rows"], batch_size: int
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Yields `rows` in order, `batch_size` at a time; the last batch may be smaller."""
    return (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
