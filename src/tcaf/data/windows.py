"""Which stretch of a clip is used, and when its tokens are.

Owns the cutting of windows in seconds and the times of tokens.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from tcaf.data.features import FeatureSpec, Modality

SNAP = 1e-6
"""Token borders nearer than this many tokens count as equal: 60 x 0.64 s is 40 x 0.96 s."""


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


def tokens_within(segment: tuple[float, float], step_s: float | None) -> slice:
    """Returns which tokens of a clip lie in a stretch of it, by their middles; at least one.

    Args:
        segment: start and end of the stretch, in seconds.
        step_s: seconds from one token to the next; None if one stands for the whole clip.
    """
    if step_s is None:
        return slice(None)
    first, end = (math.floor(time_s / step_s + 0.5) for time_s in segment)
    if first == end:
        first = math.floor(sum(segment) / 2 / step_s)
    return slice(first, max(end, first + 1))
