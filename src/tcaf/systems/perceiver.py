"""Perceiver: a fixed set of latent tokens reads the clip.

Owns the network of Jaegle et al. (ICML 2021) as the TCaF paper adapts it: TCaF's encoders and
positions; then, as often as TCaF has layers, the latents attend to all tokens of the clip and to
one another, each followed by a feed-forward function; the mean over the latents goes to O_proj. It
is trained with TCaF's objective, optimiser and settings.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packing
from tcaf.settings.validation import Count, settings
from tcaf.systems.blocks import Dropout
from tcaf.systems.joint_space import JointSpaceModel, TCAFConfig, feed_forward
from tcaf.systems.tcaf import PositionEncoder


@settings("options", kw_only=True)
class PerceiverConfig(TCAFConfig):
    """What `Perceiver` is built from; `attention` and `class_token` play no part in it.

    Args:
        num_latents: latent tokens, of TCaF's token size.
    """

    num_latents: Count = 64


class LatentAttention(nn.Module):
    """Pre-norm multi-head attention of latents to a source, with a residual.

    Args:
        config: sizes and dropout.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.num_heads = config.num_heads
        self.norm = nn.LayerNorm(config.token_dim)
        self.to_q = nn.Linear(config.token_dim, inner, bias=False)
        self.to_kv = nn.Linear(config.token_dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.token_dim)
        self.dropout = Dropout(config.dropout_transformer)

    def keys_values(
        self, source: Float[Tensor, "total token_dim"], packing: Packing
    ) -> tuple[
        Float[Tensor, "batch heads len head_dim"], Float[Tensor, "batch heads len head_dim"]
    ]:
        """Projects packed tokens, real ones only, and lays them out clip by clip."""
        key, value = packing.unpack(self.to_kv(source)).chunk(2, dim=2)
        return self._heads(key), self._heads(value)

    def forward(
        self,
        latents: Float[Tensor, "latent_batch num_latents token_dim"],
        key: Float[Tensor, "batch heads len head_dim"] | None = None,
        value: Float[Tensor, "batch heads len head_dim"] | None = None,
        mask: Bool[Tensor, "batch 1 1 len"] | None = None,
    ) -> Float[Tensor, "batch num_latents token_dim"]:
        """Returns the latents after attending to keys and values, or to themselves without any.

        Latents that are still the same for all clips come as a batch of one.
        """
        normed = self.norm(latents)
        if key is None or value is None:
            key, value = map(self._heads, self.to_kv(normed).chunk(2, dim=2))
        query = self._heads(self.to_q(normed)).expand(len(key), -1, -1, -1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out = self.to_out(rearrange(out, "b h n d -> b n (h d)"))
        attended: Tensor = latents + self.dropout(out)
        return attended

    def _heads(
        self, rows: Float[Tensor, "batch len inner"]
    ) -> Float[Tensor, "batch heads len head_dim"]:
        return rearrange(rows, "b n (h d) -> b h n d", h=self.num_heads)


class PerceiverLayer(nn.Module):
    """Latents read the clip, then one another.

    Args:
        config: sizes and dropout.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.tokens_norm = nn.LayerNorm(config.token_dim)
        self.cross = LatentAttention(config)
        self.cross_feed_forward = feed_forward(config, norm=True)
        self.latent = LatentAttention(config)
        self.latent_feed_forward = feed_forward(config, norm=True)

    def forward(
        self,
        latents: Float[Tensor, "latent_batch num_latents token_dim"],
        tokens: list[Float[Tensor, "_ token_dim"]],
        packings: list[Packing],
        mask: Bool[Tensor, "batch 1 1 len"] | None,
    ) -> Float[Tensor, "batch num_latents token_dim"]:
        """Returns the new latents; `tokens` are packed, one entry a modality."""
        pairs = [
            self.cross.keys_values(self.tokens_norm(of_modality), packing)
            for of_modality, packing in zip(tokens, packings, strict=True)
        ]
        key, value = (torch.cat(parts, dim=2) for parts in zip(*pairs, strict=True))
        latents = self.cross(latents, key, value, mask)
        latents = latents + self.cross_feed_forward(latents)
        latents = self.latent(latents)
        return latents + self.latent_feed_forward(latents)


class Perceiver(JointSpaceModel):
    """A Perceiver over audio and visual tokens.

    Args:
        config: sizes and settings, as TCaF's, and the number of latents.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__(config)
        self.positions = PositionEncoder(config)
        # Small, so that no latent drowns what it reads (Jaegle et al. 2021, Sec. 3).
        self.latents = nn.Parameter(0.02 * torch.randn(config.num_latents, config.token_dim))
        self.layers = nn.ModuleList(PerceiverLayer(config) for _ in range(config.num_layers))
        self.video_projection = self.new_projection()
        self.add_decoders_and_text()

    def embed_video(self, batch: FeatureBatch) -> Float[Tensor, "batch joint_dim"]:
        """Returns theta_o: O_proj of the mean over the latents."""
        tokens, packings = [], []
        for modality in self.modalities:
            encoded = self.encoded(batch, modality)
            tokens.append(self.positions(encoded.tokens, encoded.times, modality))
            packings.append(encoded.packing)
        mask = None
        if not all(packing.dense for packing in packings):
            mask = torch.cat([packing.real for packing in packings], dim=1)[:, None, None, :]
        latents = self.latents[None]
        for layer in self.layers:
            latents = layer(latents, tokens, packings, mask)
        embedding: Tensor = self.video_projection(latents.mean(dim=1))
        return embedding
