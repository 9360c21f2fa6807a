"""One vector a clip, in blocks: means of the modalities, what changes together, what comes first.

Owns the arithmetic from a batch of clips to the blocks that `textlda` reads. All of it is over
packed tokens, without a loop over clips. `docs/systems.md` has the meaning in pictures.

- *together*: how much the picture changes some seconds before or after the sound does, for each of
  many such lags.
- *random features* of that: products of lags, so that a linear model can tell shapes.
- *products* of how much each modality changes and of where to, at one time and across lags: what
  goes up when the other does, and on which side of a pause.
- *order*: the course of each modality, along its leading directions of change.
- *deviation*: how far each number of a modality strays from its mean over the clip, whenever.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.data.packed import Packed

LEAST_TOKENS = 3
"""Tokens that a modality needs for its changes to mean anything."""

MOST_PAIRS = 1 << 18
"""Pairs of an audio and a visual token that are looked at in one go, to bound memory."""

REACH = 4.0
"""Standard deviations of a lag's weight beyond which it is taken for 0."""

POLYNOMIALS = 3
"""Legendre polynomials of relative time, from the first degree on."""


def deviations(packed: Packed) -> Float[Tensor, "total dim"]:
    """Returns each token less the mean token of its clip."""
    return packed.tokens - packed.mean()[packed.packing.clip_of]


def change(
    packed: Packed, apart: Float[Tensor, "total dim"] | None = None
) -> Float[Tensor, " total"]:
    """Returns how far each token is from its clip's mean, less its mean, at unit norm a clip.

    0 in clips of fewer than `LEAST_TOKENS` tokens, or in which nothing changes.

    Args:
        packed: tokens of each clip.
        apart: their `deviations`, where they are at hand.
    """
    size = (deviations(packed) if apart is None else apart).norm(dim=1, keepdim=True)
    return _unit_courses(packed, size).squeeze(dim=1)


def _unit_courses(packed: Packed, values: Float[Tensor, "total n"]) -> Float[Tensor, "total n"]:
    """Returns values less their mean over each clip, at unit norm over each clip."""
    packing, clip_of = packed.packing, packed.packing.clip_of
    count = packed.lens.clamp_min(1).to(values)[:, None]
    centred = values - (packing.sum(values) / count)[clip_of]
    power = packing.sum(centred.square())
    # Rounding leaves a little of what does not change at all.
    floor = 1e-10 * packing.sum(values.square())
    kept = (power > floor) & (packed.lens >= LEAST_TOKENS).to(values.device)[:, None]
    scale = torch.where(kept, power, 1).rsqrt() * kept
    return centred * scale[clip_of]


def ends(packed: Packed) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Returns the times of each clip's first and last token; infinity and less without any."""
    clip_of, none = packed.packing.clip_of, packed.times.new_zeros(len(packed.lens))
    first = (none + torch.inf).scatter_reduce(0, clip_of, packed.times, "amin")
    last = (none - torch.inf).scatter_reduce(0, clip_of, packed.times, "amax")
    return first, last


def longest_span(audio: Packed, visual: Packed) -> float:
    """Returns the seconds from the first to the last token of the longest clip, at least 0."""
    found = [last - first for first, last in map(ends, (audio, visual))]
    return max(0.0, *(float(span.max()) for span in found if len(span)))


def together(
    audio: Packed,
    visual: Packed,
    audio_change: Float[Tensor, " audio_total"],
    visual_change: Float[Tensor, " visual_total"],
    lags: Float[Tensor, " num_lags"],
) -> Float[Tensor, "batch num_lags"]:
    """Returns how sound and picture change together at each lag.

    E(lag) = sum_ij w_ij e_i f_j / sqrt(sum_ij w_ij), with e and f the changes of the audio tokens i
    and the visual tokens j, and w_ij a Gaussian in t_i - u_j - lag, 0.8 of a lag's spacing wide. 0
    where there is no pair.

    Args:
        audio: tokens of each clip with their times t.
        visual: the same, with times u.
        audio_change: `change` of the audio tokens.
        visual_change: of the visual ones.
        lags: evenly spaced, in seconds, ascending.
    """
    width = 0.8 * float(lags[1] - lags[0])
    reach = float(lags[-1]) + REACH * width
    total = lags.new_zeros(len(audio.lens), len(lags))
    weight = lags.new_zeros(len(audio.lens), len(lags))
    for i, j in _near_pairs(audio, visual, reach):
        apart = (audio.times[i] - visual.times[j])[:, None] - lags
        w = torch.exp(-0.5 * (apart / width).square())
        clip = audio.packing.clip_of[i]
        product = (audio_change[i] * visual_change[j])[:, None]
        total.index_add_(0, clip, w * product)
        weight.index_add_(0, clip, w)
    return total * weight.clamp_min(torch.finfo(weight.dtype).tiny).rsqrt() * (weight > 1e-6)


def _near_pairs(
    audio: Packed, visual: Packed, reach: float
) -> Iterator[tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]]:
    """Yields audio and visual tokens of one clip that are at most `reach` seconds apart."""
    if not len(audio.tokens) or not len(visual.tokens):
        return
    # Clip after clip on one axis of time, far enough apart that none reaches into the next.
    both = torch.cat([audio.times, visual.times]).double()
    stride = float(both.max() - both.min()) + 2 * reach + 1
    starts = [p.packing.clip_of * stride + p.times.double() for p in (audio, visual)]
    first = torch.searchsorted(starts[1], starts[0] - reach)
    count = torch.searchsorted(starts[1], starts[0] + reach, right=True) - first
    cuts = torch.div(count.cumsum(0), MOST_PAIRS, rounding_mode="floor")
    for rows in torch.arange(len(count), device=count.device).split(cuts.bincount().tolist()):
        own = count[rows]
        i = rows.repeat_interleave(own)
        within = torch.arange(len(i), device=i.device) - (own.cumsum(0) - own).repeat_interleave(
            own
        )
        yield i, first[i] + within


def random_features(
    values: Float[Tensor, "batch n"],
    frequencies: Float[Tensor, "n num_features"],
    phases: Float[Tensor, " num_features"],
) -> Float[Tensor, "batch num_features"]:
    """Returns sqrt(2 / m) cos(x W + b): m features whose products make a Gaussian kernel."""
    scale: float = (2 / len(phases)) ** 0.5
    return scale * torch.cos(values @ frequencies + phases)


def course(
    packed: Packed, directions: Float[Tensor, "num_directions dim"]
) -> Float[Tensor, "batch num_numbers"]:
    """Returns how a modality moves along some directions in the course of a clip.

    Centred tokens on the directions, times Legendre polynomials of relative time from -1 to 1, each
    mean-free and of unit norm: `POLYNOMIALS` numbers a direction. 0 in clips of fewer than
    `LEAST_TOKENS` tokens.

    Args:
        packed: tokens of each clip.
        directions: unit vectors.
    """
    first, last = (end[packed.packing.clip_of] for end in ends(packed))
    s = 2 * (packed.times - first) / (last - first).clamp_min(1e-9) - 1
    legendre = torch.stack([s, (3 * s**2 - 1) / 2, (5 * s**3 - 3 * s) / 2], dim=1)
    time = _unit_courses(packed, legendre)
    moved = deviations(packed) @ directions.T
    return packed.packing.sum((moved[:, :, None] * time[:, None, :]).flatten(1))


def on_a_grid(
    packed: Packed,
    directions: Float[Tensor, "num_directions dim"],
    step_s: float,
    first: Float[Tensor, " batch"],
    num_steps: int,
) -> Float[Tensor, "batch num_steps num_channels"]:
    """Returns how clips change, at even steps of time: how much, and along some directions.

    The first channel is `change`, the others are the centred tokens on the directions, of unit norm
    together. A token falls to the two steps beside it, to the nearer the more. 0 in clips of fewer
    than `LEAST_TOKENS` tokens.

    Args:
        packed: tokens of each clip.
        directions: unit vectors.
        step_s: seconds from one step to the next; steps lie at multiples of it.
        first: the time at which the first step of each clip may lie; no token comes before it.
        num_steps: enough for the longest clip.
    """
    apart, clip_of = deviations(packed), packed.packing.clip_of
    amount, moved = change(packed, apart)[:, None], apart @ directions.T
    power = packed.packing.sum(moved.square()).sum(dim=1, keepdim=True)
    told = packed.packing.sum(amount.square()) > 0
    scale = torch.where(told & (power > 0), power, 1).rsqrt() * told
    channels = torch.cat([amount, moved * scale[clip_of]], dim=1)
    at = packed.times / step_s - torch.div(first, step_s, rounding_mode="floor")[clip_of]
    before = at.floor().long().clamp(0, num_steps - 2)
    share = (at - before)[:, None]
    grid = channels.new_zeros(len(packed.lens) * num_steps, channels.shape[1])
    place = clip_of * num_steps + before
    grid.index_add_(0, place, channels * (1 - share))
    grid.index_add_(0, place + 1, channels * share)
    return grid.view(len(packed.lens), num_steps, -1)


def products(
    later: Float[Tensor, "batch num_steps m"],
    earlier: Float[Tensor, "batch num_steps n"],
    lags: range,
) -> Float[Tensor, "batch num_numbers"]:
    """Returns the products of each two channels, summed over time, at each lag.

    Args:
        later: channels at even steps of time.
        earlier: channels that are looked at some steps before.
        lags: by how many steps.
    """
    steps = later.shape[1]
    found = [later[:, min(lag, steps) :].mT @ earlier[:, : max(steps - lag, 0)] for lag in lags]
    return torch.stack(found, dim=1).flatten(1)


def unit_means(packed: Packed) -> Float[Tensor, "batch dim"]:
    """Returns the mean token of each clip at unit length; 0 for a clip without tokens."""
    return F.normalize(packed.mean(), dim=1)


def relative_deviations(packed: Packed) -> Float[Tensor, "batch dim"]:
    """Returns the standard deviation of each number over a clip, by the size of its tokens.

    That is in units of the root mean square length of the clip's tokens, so that no scaling of the
    features matters; when something happens makes no difference, nor do seconds per token. 0 for a
    clip of one token or none.
    """
    count = packed.lens.clamp_min(1).to(packed.tokens)[:, None]
    variance = packed.packing.sum(deviations(packed).square()) / count
    power = (packed.packing.sum(packed.tokens.square()) / count).sum(dim=1, keepdim=True)
    return (variance / power.clamp_min(torch.finfo(power.dtype).tiny)).sqrt()
