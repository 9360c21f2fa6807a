"""What TCaF, its cosine head, Attention Fusion and the Perceiver make of padded clips.

Owns their way from padded tokens to one vector a clip, on the layers of the models themselves: what
is learnt, and which tokens see which, is theirs. Tests hold it equal to the packed way.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from tcaf.data.features import Modality
from tcaf.export.padded import Padded
from tcaf.systems.attention import CrossModalAttention
from tcaf.systems.attention_fusion import AttentionFusion
from tcaf.systems.joint_space import ClipEncoder
from tcaf.systems.layout import SEES, Group
from tcaf.systems.perceiver import Perceiver, PerceiverLayer
from tcaf.systems.tcaf import Layer, PositionEncoder, Transformer

Rectangles = dict[Group, Float[Tensor, "batch _ token_dim"]]
Masks = dict[Group, Bool[Tensor, "batch _"]]


def embedded(
    model: ClipEncoder, clips: Mapping[Modality, Padded]
) -> Float[Tensor, "batch joint_dim"]:
    """Returns what `ClipEncoder.embed` does; NaN for a clip without any token, which that refuses.

    Args:
        model: any system of TCaF's family.
        clips: of the modalities that it reads.
    """
    encoded = {m: _encoded(model, m, clips[m]) for m in model.modalities}
    found: Tensor
    if isinstance(model, AttentionFusion):
        found = _fused(model, encoded)
    elif isinstance(model, Perceiver):
        found = model.video_projection(_read_by_latents(model, encoded))
    else:
        assert isinstance(model, Transformer)
        found = model.get_submodule("video_projection")(_transformed(model, encoded))
    there = torch.stack([each.there for each in encoded.values()]).any(dim=0)
    return torch.where(there[:, None], found, math.nan)


def _encoded(model: ClipEncoder, modality: Modality, clips: Padded) -> Padded:
    """Returns phi: the scaled tokens of a modality after its encoder."""
    rows = clips.scaled(model.config.scaling(modality)).flatten(0, 1)
    tokens = model.encoders[modality](rows)
    return clips.with_tokens(tokens.view(*clips.mask.shape, tokens.shape[1]))


def _aware(
    positions: PositionEncoder, modality: Modality, clips: Padded
) -> Float[Tensor, "batch len token_dim"]:
    """Returns position-aware tokens."""
    aware = positions(clips.tokens.flatten(0, 1), clips.times.flatten(), modality)
    return aware.view_as(clips.tokens)


def _transformed(
    model: Transformer, encoded: Mapping[Modality, Padded]
) -> Float[Tensor, "batch token_dim"]:
    """Returns c_o, or the mean over output tokens."""
    tokens: Rectangles = {}
    masks: Masks = {}
    batch = next(iter(encoded.values())).mask.shape[0]
    if model.class_token is not None:
        tokens["class"] = model.class_token.expand(batch, 1, -1)
        masks["class"] = torch.ones_like(next(iter(encoded.values())).mask[:, :1])
    for modality, clips in encoded.items():
        tokens[modality] = _aware(model.positions, modality, clips)
        masks[modality] = clips.mask
    last = len(model.layers) - 1
    for number, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        only_class = number == last and model.class_token is not None
        tokens = _layer(layer, tokens, masks, ("class",) if only_class else tuple(tokens))
    if model.class_token is not None:
        return tokens["class"][:, 0]
    given = [clips.with_tokens(tokens[m]) for m, clips in encoded.items()]
    total = torch.stack([each.sum(each.tokens) for each in given]).sum(dim=0)
    return total / torch.stack([each.count for each in given]).sum(dim=0).clamp_min(1)


def _layer(
    layer: Layer, tokens: Rectangles, masks: Masks, queries: tuple[Group, ...]
) -> Rectangles:
    """Returns the new tokens of the groups in `queries`."""
    attended = _attended(
        layer.attention, {g: layer.attention_norm(t) for g, t in tokens.items()}, masks, queries
    )
    norm = layer.feed_forward_norm or layer.attention_norm
    found: Rectangles = {}
    for group in queries:
        rows = tokens[group] + attended[group]
        found[group] = rows + layer.feed_forward(norm(rows))
    return found


def _attended(
    attention: CrossModalAttention, tokens: Rectangles, masks: Masks, queries: tuple[Group, ...]
) -> Rectangles:
    """Lets the tokens of some groups attend to what their pattern lets them see."""
    projected = {
        group: _heads(F.linear(rows, attention.to_qkv.weight), 3 * attention.num_heads)
        for group, rows in tokens.items()
    }
    parts = {group: each.chunk(3, dim=1) for group, each in projected.items()}
    found: Rectangles = {}
    for group in queries:
        query = parts[group][0]
        seen = [other for other in SEES[attention.pattern][group] if other in tokens]
        out = torch.zeros_like(query)
        if seen:
            key, value = (torch.cat([parts[g][i] for g in seen], dim=2) for i in (1, 2))
            out = _weighed(query, key, value, torch.cat([masks[g] for g in seen], dim=1))
        found[group] = attention.to_out(rearrange(out, "b h l d -> b l (h d)"))
    return found


def _heads(
    rows: Float[Tensor, "batch len inner"], num_heads: int
) -> Float[Tensor, "batch heads len head_dim"]:
    return rearrange(rows, "b l (h d) -> b h l d", h=num_heads)


def _weighed(
    query: Float[Tensor, "batch heads len head_dim"],
    key: Float[Tensor, "batch heads num_keys head_dim"],
    value: Float[Tensor, "batch heads num_keys head_dim"],
    mask: Bool[Tensor, "batch num_keys"] | None,
) -> Float[Tensor, "batch heads len head_dim"]:
    """Returns softmax(q k / sqrt(d)) v over the keys of the mask, 0 where there are none."""
    scores = query @ key.mT / math.sqrt(query.shape[3])
    if mask is None:
        return scores.softmax(dim=3) @ value
    places = mask[:, None, None, :]
    # The least number in place of minus infinity: an empty softmax would be NaN.
    weights = scores.masked_fill(~places, torch.finfo(scores.dtype).min).softmax(dim=3)
    return weights * places @ value


def _fused(
    model: AttentionFusion, encoded: Mapping[Modality, Padded]
) -> Float[Tensor, "batch joint_dim"]:
    """Returns the weighted sum of both modalities' embeddings."""
    tokens = {m: clips.mean() for m, clips in encoded.items()}
    logits = model.attention(torch.cat(list(tokens.values()), dim=1))
    there = torch.stack([clips.there for clips in encoded.values()], dim=1)
    weights = logits.masked_fill(~there, torch.finfo(logits.dtype).min).softmax(dim=1)
    embeddings = torch.stack([model.projections[m](own) for m, own in tokens.items()], dim=1)
    return (weights[:, :, None] * embeddings).sum(dim=1)


def _read_by_latents(
    model: Perceiver, encoded: Mapping[Modality, Padded]
) -> Float[Tensor, "batch token_dim"]:
    """Returns the mean over the latents."""
    tokens = torch.cat([_aware(model.positions, m, clips) for m, clips in encoded.items()], dim=1)
    mask = torch.cat([clips.mask for clips in encoded.values()], dim=1)
    latents = model.latents[None].expand(mask.shape[0], -1, -1)
    for layer in model.layers:
        assert isinstance(layer, PerceiverLayer)
        cross, own = layer.cross, layer.latent
        heads = cross.num_heads
        key, value = _heads(cross.to_kv(layer.tokens_norm(tokens)), 2 * heads).chunk(2, dim=1)
        out = _weighed(_heads(cross.to_q(cross.norm(latents)), heads), key, value, mask)
        latents = latents + cross.to_out(rearrange(out, "b h n d -> b n (h d)"))
        latents = latents + layer.cross_feed_forward(latents)
        rows = own.norm(latents)
        key, value = _heads(own.to_kv(rows), 2 * own.num_heads).chunk(2, dim=1)
        out = _weighed(_heads(own.to_q(rows), own.num_heads), key, value, None)
        latents = latents + own.to_out(rearrange(out, "b h n d -> b n (h d)"))
        latents = latents + layer.latent_feed_forward(latents)
    return latents.mean(dim=1)
