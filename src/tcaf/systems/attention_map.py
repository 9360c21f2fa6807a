"""Where a model looks: attention weights of one clip, over time.

Owns what a model that can say so offers (`HasAttentionMap`), and how `CrossModalAttention` says it:
softmax(q k / sqrt(d)) is computed again from a layer's own `to_qkv`, since the kernel that the
model runs on returns no weights. Draws nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.errors import TCAFError
from tcaf.systems.attention import CrossModalAttention
from tcaf.systems.layout import SEES, Group, TokenLayout

Weights = dict[Group, dict[Group, Float[Tensor, "heads _ _"]]]
"""By group of the queries, then by group of the keys: heads, queries, keys."""


@dataclass(frozen=True)
class AttentionMap:
    """Attention weights of one clip, each a mean over heads.

    A query's weights on all tokens that it sees sum to one, the class token among them. Arrays have
    length 0 where there is nothing: no class token, no such modality, a pattern without that view.

    Args:
        audio_times: time of each audio token in the clip, in seconds.
        visual_times: the same for visual tokens.
        class_to_class: weight of the class token on itself, by layer.
        class_to_audio: its weights on audio tokens.
        class_to_visual: its weights on visual tokens.
        audio_to_visual: weights of audio queries on visual keys. The last layer has none where
            there is a class token: it computes nothing else.
        visual_to_audio: weights of visual queries on audio keys, in the same layers.
    """

    audio_times: Float[np.ndarray, " audio_len"]
    visual_times: Float[np.ndarray, " visual_len"]
    class_to_class: Float[np.ndarray, " layers"]
    class_to_audio: Float[np.ndarray, "layers audio_len"]
    class_to_visual: Float[np.ndarray, "layers visual_len"]
    audio_to_visual: Float[np.ndarray, "cross_layers audio_len visual_len"]
    visual_to_audio: Float[np.ndarray, "cross_layers visual_len audio_len"]


@runtime_checkable
class HasAttentionMap(Protocol):
    """A model that can say where it looks."""

    def attention_map(self, batch: FeatureBatch) -> AttentionMap:
        """Returns where the model looks in one clip.

        Raises:
            TCAFError: the batch holds another number of clips, or what the model refuses.
        """
        ...


def attention_weights(
    attention: CrossModalAttention,
    rows: Float[Tensor, "rows token_dim"],
    layout: TokenLayout,
    queries: tuple[Group, ...],
) -> Weights:
    """Returns each head's attention weights in one layer, for the tokens of one clip.

    Args:
        attention: of the layer.
        rows: what the layer's attention was given.
        layout: where each group's tokens lie.
        queries: the groups whose output the layer computes.

    Returns:
        For each group of queries, the weights on each group that it sees and that has tokens.
    """
    projected = F.linear(rows, attention.to_qkv.weight)
    heads = {
        group: rearrange(part, "l (three h d) -> three h l d", three=3, h=attention.num_heads)
        for group, part in layout.split(projected).items()
    }
    found: Weights = {}
    for group in queries:
        keys = [other for other in SEES[attention.pattern][group] if other in heads]
        if not keys:
            continue
        query = heads[group][0]
        key = torch.cat([heads[other][1] for other in keys], dim=1)
        weights = (query @ key.mT / query.shape[2] ** 0.5).softmax(dim=2)
        parts = weights.split([heads[other].shape[2] for other in keys], dim=2)
        found[group] = dict(zip(keys, parts, strict=True))
    return found


@torch.no_grad()
def attention_map(
    model: nn.Module, attentions: Sequence[CrossModalAttention], batch: FeatureBatch
) -> AttentionMap:
    """Runs one clip through a model, in evaluation mode, and returns where it looked.

    Args:
        model: left in the mode that it came in.
        attentions: those of its layers, in their order.
        batch: one clip, on the model's device.

    Raises:
        TCAFError: the batch holds another number of clips, or what the model refuses.
    """
    if len(batch) != 1:
        raise TCAFError(f"an attention map is of one clip, got a batch of {len(batch)}")
    layers: list[Weights] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, CrossModalAttention)
        layers.append(attention_weights(module, *args))

    hooks = [attention.register_forward_hook(keep) for attention in attentions]
    was_training = model.training
    try:
        model.eval()(batch)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return _mean_over_heads(layers, batch)


def _mean_over_heads(layers: list[Weights], batch: FeatureBatch) -> AttentionMap:
    lens = {"class": 1, "audio": len(batch.audio.times), "visual": len(batch.visual.times)}

    def stacked(query: Group, key: Group) -> Float[np.ndarray, "layers queries keys"]:
        means = [
            layer[query][key].mean(dim=0).double().cpu().numpy()
            for layer in layers
            if key in layer.get(query, {})
        ]
        return np.stack(means) if means else np.zeros((0, lens[query], lens[key]))

    return AttentionMap(
        audio_times=batch.audio.times.double().cpu().numpy(),
        visual_times=batch.visual.times.double().cpu().numpy(),
        class_to_class=stacked("class", "class")[:, 0, 0],
        class_to_audio=_class_rows(stacked("class", "class"), stacked("class", "audio")),
        class_to_visual=_class_rows(stacked("class", "class"), stacked("class", "visual")),
        audio_to_visual=stacked("audio", "visual"),
        visual_to_audio=stacked("visual", "audio"),
    )


def _class_rows(
    own: Float[np.ndarray, "layers 1 1"], other: Float[np.ndarray, "some_layers 1 len"]
) -> Float[np.ndarray, "layers len"]:
    """Returns the class token's weights on a modality, 0 in all layers where it is not used."""
    return other[:, 0] if len(other) else np.zeros((len(own), other.shape[2]))
