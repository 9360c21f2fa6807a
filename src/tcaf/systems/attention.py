"""Attention between a class token, audio tokens and visual tokens, packed.

Owns the three attention patterns of the paper (Eq. 5-12, Table 3) and the step between packed
tokens and the rectangles that scaled-dot-product attention works on. A pattern is a table of which
group of tokens sees which; no mask of the whole square is ever made.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.packed import Packing
from tcaf.settings.sections import AttentionPattern

Group = Literal["class", "audio", "visual"]
Tokens = dict[Group, Float[Tensor, "_ token_dim"]]

SEES: dict[AttentionPattern, dict[Group, tuple[Group, ...]]] = {
    "cross": {
        "class": ("class", "audio", "visual"),
        "audio": ("class", "visual"),
        "visual": ("class", "audio"),
    },
    "self": {
        "class": ("class", "audio", "visual"),
        "audio": ("class", "audio"),
        "visual": ("class", "visual"),
    },
    "full": {
        "class": ("class", "audio", "visual"),
        "audio": ("class", "audio", "visual"),
        "visual": ("class", "audio", "visual"),
    },
}
"""Which groups the queries of a group see, by pattern (A_c + A_x, A_c + A_self, and both)."""


class CrossModalAttention(nn.Module):
    """Multi-head attention along one of the patterns of `SEES`.

    Maps symbols of the paper: g_q, g_k, g_v are one matrix `to_qkv` without bias, g_h is `to_out`.
    Eq. 10-12 sum zero-padded blocks before the softmax; what is meant is that a query's softmax
    runs over the tokens that it may see, and over nothing else.

    Args:
        token_dim: size of a token.
        num_heads: attention heads.
        head_dim: size of a head.
        pattern: which groups see which.
        dropout: on the output, g^DL.
    """

    def __init__(
        self,
        token_dim: int,
        num_heads: int,
        head_dim: int,
        pattern: AttentionPattern,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pattern = pattern
        self.to_qkv = nn.Linear(token_dim, 3 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, token_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tokens, packings: dict[Group, Packing], queries: tuple[Group, ...]
    ) -> Tokens:
        """Lets the tokens of some groups attend to what their pattern lets them see.

        Args:
            tokens: packed tokens of each group that there is.
            packings: where each group's clips lie.
            queries: the groups whose output is wanted; the last layer wants the class token alone.

        Returns:
            The attended tokens of the groups in `queries`, before the residual is added. A token
            that sees nothing at all gets `to_out`'s bias.
        """
        inner = self.to_out.in_features
        weight = self.to_qkv.weight
        keys_only = tuple(group for group in tokens if group not in queries)
        projected: dict[Group, tuple[Tensor, ...]] = {}
        for groups, matrix in ((queries, weight), (keys_only, weight[inner:])):
            if groups:
                joined = F.linear(torch.cat([tokens[group] for group in groups]), matrix)
                parts = joined.split([len(tokens[group]) for group in groups])
                for group, part in zip(groups, parts, strict=True):
                    projected[group] = part.split(inner, dim=1)
        heads = {
            group: [self._heads(matrix, packings[group]) for matrix in matrices]
            for group, matrices in projected.items()
        }
        attended = []
        for group in queries:
            keys = [other for other in SEES[self.pattern][group] if other in tokens]
            attended.append(packings[group].pack(self._attend(heads, packings, group, keys)))
        output = self.dropout(self.to_out(torch.cat(attended)))
        parts = output.split([len(part) for part in attended])
        return dict(zip(queries, parts, strict=True))

    def _heads(
        self, packed: Float[Tensor, "total inner"], packing: Packing
    ) -> Float[Tensor, "batch heads longest head_dim"]:
        return rearrange(packing.unpack(packed), "b l (h d) -> b h l d", h=self.num_heads)

    def _attend(
        self,
        heads: dict[Group, list[Tensor]],
        packings: dict[Group, Packing],
        group: Group,
        keys: list[Group],
    ) -> Float[Tensor, "batch longest inner"]:
        """Returns one rectangle of attention: the queries of `group` over the tokens of `keys`."""
        query = heads[group][0]
        if not keys:
            return torch.zeros_like(rearrange(query, "b h l d -> b l (h d)"))
        key = torch.cat([heads[other][-2] for other in keys], dim=2)
        value = torch.cat([heads[other][-1] for other in keys], dim=2)
        mask = None
        if not all(packings[other].dense for other in keys):
            mask = torch.cat([packings[other].real for other in keys], dim=1)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=None if mask is None else mask[:, None, None, :]
        )
        if mask is not None and "class" not in keys:
            # A clip without any key: what the kernel returns for an empty softmax is undefined.
            out = out.masked_fill(~mask.any(dim=1)[:, None, None, None], 0.0)
        return rearrange(out, "b h l d -> b l (h d)")
