"""The vectors that TextLDA reads of a clip, from padded clips.

Owns, for rectangles, the arithmetic of `systems.clip_vectors`, which says what each block means. In
place of pairs of tokens that are near each other, and of a grid as long as the longest clip needs,
each token of one modality meets each of the other, at each lag: no shape follows from what the
numbers are. Memory grows with the product of both lengths, which is little for clips of minutes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.data.features import Modality
from tcaf.export.padded import Padded
from tcaf.systems.clip_vectors import LEAST_TOKENS, REACH, random_features
from tcaf.systems.textlda_vectors import PRODUCT_DIRECTIONS, ClipVectors


@dataclass(frozen=True)
class OneModality:
    """What vectors read of one modality, whichever read-out asks.

    Args:
        clips: the tokens.
        still: blocks that need no time: means, and deviations where they are read.
        course: how clips move along the leading directions of change.
        steps: how they change at even steps of time.
        own: products of that with itself.
    """

    clips: Padded
    still: list[Float[Tensor, "batch dim"]]
    course: Float[Tensor, "batch num_numbers"] | None = None
    steps: "Steps | None" = None
    own: Float[Tensor, "batch num_products"] | None = None


class ClipBlocks:
    """From padded clips to the vectors of read-outs.

    Args:
        vectors: what was learnt of vectors.
    """

    def __init__(self, vectors: ClipVectors) -> None:
        self.vectors = vectors
        self.lags: list[float] = vectors.lags.tolist()
        # Numbers of the model, hence of the graph: as float32, which the packed way computes in.
        self.step_s = float(vectors.lags[1] - vectors.lags[0]) if self.lags else 0.0
        self.steps = range(len(self.lags) // 2 + 1)

    def read(self, modality: Modality, clips: Padded) -> OneModality:
        """Returns what vectors read of one modality, once for all read-outs."""
        still = [F.normalize(clips.mean(), dim=1)]
        if self.vectors.reads_spread:
            still.append(relative_deviations(clips))
        if not self.vectors.reads_time:
            return OneModality(clips, still)
        directions = self.vectors.directions(modality)
        steps = on_steps(clips, directions[:PRODUCT_DIRECTIONS], self.step_s)
        own = products(steps, steps, self.steps)
        return OneModality(clips, still, course(clips, directions), steps, own)

    def vector(self, given: Sequence[OneModality]) -> Float[Tensor, "batch dim"]:
        """Returns the vectors of clips for the read-out of some modalities, in their order."""
        vectors = self.vectors
        # The means of all, then the deviations of all.
        found = list(chain.from_iterable(zip(*(each.still for each in given), strict=True)))
        if not vectors.reads_time:
            return torch.cat(found, dim=1)
        steps = [each.steps for each in given if each.steps is not None]
        across = []
        if len(given) > 1:
            lagged = self._together(*(each.clips for each in given))
            scaled = (lagged - vectors.together_mean) * vectors.together_scale
            found += [lagged, random_features(scaled, vectors.frequencies, vectors.phases)]
            audio, visual = steps
            across = [
                products(audio, visual, self.steps),
                products(visual, audio, self.steps[1:]),
            ]
        found += [each.course for each in given if each.course is not None]
        found += across
        found += [each.own for each in given if each.own is not None]
        return torch.cat(found, dim=1)

    def _together(self, audio: Padded, visual: Padded) -> Float[Tensor, "batch num_lags"]:
        """Returns how sound and picture change together at each lag."""
        width = 0.8 * self.step_s
        reach = self.lags[-1] + REACH * width
        apart = audio.times[:, :, None] - visual.times[:, None, :]
        near = (audio.times.double()[:, :, None] - visual.times.double()[:, None, :]).abs() <= reach
        near = near & audio.mask[:, :, None] & visual.mask[:, None, :]
        changes = change(audio)[:, :, None] * change(visual)[:, None, :]
        # Batch, audio, visual, lags: all lags at once, for a loop would be a graph of thousands.
        lagged = (apart[..., None] - self.vectors.lags) / width
        w = torch.exp(-0.5 * lagged.square()) * near[..., None]
        weight, total = w.sum(dim=(1, 2)), (w * changes[..., None]).sum(dim=(1, 2))
        least = torch.finfo(weight.dtype).tiny
        return total * weight.clamp_min(least).rsqrt() * (weight > 1e-6)


def deviations(clips: Padded) -> Float[Tensor, "batch len dim"]:
    """Returns each token less the mean token of its clip; 0 where there is none."""
    return (clips.tokens - clips.mean()[:, None]) * clips.weights


def change(clips: Padded) -> Float[Tensor, "batch len"]:
    """Returns how far each token is from its clip's mean, less its mean, at unit norm a clip."""
    return unit_courses(clips, deviations(clips).norm(dim=2, keepdim=True))[:, :, 0]


def unit_courses(
    clips: Padded, values: Float[Tensor, "batch len n"]
) -> Float[Tensor, "batch len n"]:
    """Returns values less their mean over each clip, at unit norm over each clip."""
    mean = clips.sum(values) / clips.count.clamp_min(1)
    centred = (values - mean[:, None]) * clips.weights
    power = centred.square().sum(dim=1)
    floor = 1e-10 * clips.sum(values.square())
    kept = (power > floor) & (clips.count >= LEAST_TOKENS)
    scale = torch.where(kept, power, 1.0).rsqrt() * kept
    return centred * scale[:, None]


def course(
    clips: Padded, directions: Float[Tensor, "num_directions dim"]
) -> Float[Tensor, "batch num_numbers"]:
    """Returns how a modality moves along some directions in the course of a clip."""
    none = torch.zeros_like(clips.times)
    first = torch.where(clips.mask, clips.times, none + torch.inf).amin(dim=1, keepdim=True)
    last = torch.where(clips.mask, clips.times, none - torch.inf).amax(dim=1, keepdim=True)
    # Of a clip without tokens both are infinite, and nothing of it is read.
    first, last = (torch.where(end.isfinite(), end, 0.0) for end in (first, last))
    s = 2 * (clips.times - first) / (last - first).clamp_min(1e-9) - 1
    s = torch.where(clips.mask, s, 0.0)
    legendre = torch.stack([s, (3 * s**2 - 1) / 2, (5 * s**3 - 3 * s) / 2], dim=2)
    time = unit_courses(clips, legendre)
    moved = deviations(clips) @ directions.T
    return (moved.mT @ time).flatten(1)


@dataclass(frozen=True)
class Steps:
    """Where the tokens of clips lie between even steps of time, and how clips change there.

    Args:
        before: the step before each token, or at it.
        share: how far a token is on the way to the next step, from 0 to 1.
        channels: how much the clip changes, and along some directions; 0 where there is no token.
    """

    before: Int[Tensor, "batch len"]
    share: Float[Tensor, "batch len"]
    channels: Float[Tensor, "batch len n"]


def on_steps(
    clips: Padded, directions: Float[Tensor, "num_directions dim"], step_s: float
) -> Steps:
    """Returns how clips change beside even steps of time: how much, and along some directions.

    Args:
        clips: of one modality.
        directions: unit vectors.
        step_s: seconds from one step to the next.
    """
    amount, moved = change(clips)[:, :, None], deviations(clips) @ directions.T
    power = moved.square().sum(dim=(1, 2))
    told = amount.square().sum(dim=(1, 2)) > 0
    scale = torch.where(told & (power > 0), power, 1.0).rsqrt() * told
    at = clips.times / step_s
    before = at.floor()
    channels = torch.cat([amount, moved * scale[:, None, None]], dim=2)
    return Steps(before.long(), at - before, channels)


def products(later: Steps, earlier: Steps, lags: range) -> Float[Tensor, "batch num_numbers"]:
    """Returns the products of each two channels, summed over time, at each lag.

    A token counts at the two steps beside it, at the nearer the more; two tokens meet where a step
    of one is `lag` steps behind a step of the other.
    """
    apart = later.before[:, :, None] - earlier.before[:, None, :]
    shares, others = ((1 - each.share, each.share) for each in (later, earlier))
    pairs = {
        (i, j): shares[i][:, :, None] * others[j][:, None, :]
        for i, j in product(range(2), repeat=2)
    }
    # What two tokens have in common by how many steps the one is to be behind the other.
    met = {0: pairs[0, 0] + pairs[1, 1], 1: pairs[1, 0], -1: pairs[0, 1]}
    # Batch, lags, later, earlier: all lags at once.
    behind = apart[:, None] - torch.arange(lags.start, lags.stop)[None, :, None, None]
    beside = [(behind + more == 0) * both[:, None] for more, both in met.items()]
    overlap = torch.stack(beside).sum(dim=0)
    found = later.channels.mT[:, None] @ overlap @ earlier.channels[:, None]
    return found.flatten(1)


def relative_deviations(clips: Padded) -> Float[Tensor, "batch dim"]:
    """Returns the standard deviation of each number over a clip, by the size of its tokens."""
    count = clips.count.clamp_min(1)
    variance = deviations(clips).square().sum(dim=1) / count
    power = (clips.sum(clips.tokens.square()) / count).sum(dim=1, keepdim=True)
    return (variance / power.clamp_min(torch.finfo(power.dtype).tiny)).sqrt()
