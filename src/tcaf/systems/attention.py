"""Attention between a class token, audio tokens and visual tokens, packed.

Owns the step from rows of all tokens (`systems.layout`) to what attention makes of them, in two
ways that give the same: by matrix products, and by torch's scaled-dot-product kernel. On a CPU,
with the short clips of this field, the kernel takes twice as long as the products alone; it needs
no memory for the weights of all pairs of tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.settings.sections import AttentionPattern
from tcaf.systems.blocks import Dropout
from tcaf.systems.filled_attention import attend_filled
from tcaf.systems.filled_layout import FilledLayout, FilledPlan
from tcaf.systems.layout import AttentionPlan, Block, Bucket, Group, TokenLayout

MOST_SCORES = 1 << 24
"""Attention weights of a layer up to which products are taken: 64 MiB in float32."""


SHORT_ROW = 16
"""Numbers in a row below which torch's softmax on a CPU goes through them one by one."""


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
        self.dropout = Dropout(dropout)

    def forward(
        self,
        rows: Float[Tensor, "rows token_dim"],
        layout: TokenLayout | FilledLayout,
        queries: tuple[Group, ...],
    ) -> Float[Tensor, "query_rows token_dim"]:
        """Lets the tokens of some groups attend to what their pattern lets them see.

        Args:
            rows: tokens of all groups.
            layout: where they lie.
            queries: the groups whose output is wanted; the last layer wants the class token alone.

        Returns:
            The attended tokens of the groups in `queries`, before the residual is added. A token
            that sees nothing at all gets `to_out`'s bias.
        """
        plan = layout.plan(self.pattern, queries, self.num_heads)
        inner, weight = self.to_out.in_features, self.to_qkv.weight
        if plan.joined:
            query = key_value = F.linear(rows, weight)
        else:
            query = F.linear(layout.rows_of(rows, queries), weight[:inner])
            key_value = F.linear(rows, weight[inner:])
        attended: Tensor = self.dropout(self.to_out(attend(plan, query, key_value)))
        return attended


def attend(
    plan: AttentionPlan | FilledPlan,
    query: Float[Tensor, "query_rows _"],
    key_value: Float[Tensor, "rows _"],
) -> Float[Tensor, "query_rows inner"]:
    """Returns softmax(q k / sqrt(d)) v of each query over the keys that it sees, 0 over none.

    Args:
        plan: of a layout.
        query: a query a row; of a joined plan with its key and value, heads side by side.
        key_value: a key and its value a row; of a joined plan the same tensor as `query`.
    """
    if isinstance(plan, FilledPlan):
        return attend_filled(plan, query, key_value)
    if query.device.type != "cpu" or plan.num_scores > MOST_SCORES:
        return by_kernel(plan, query, key_value)
    if torch.is_grad_enabled() and (query.requires_grad or key_value.requires_grad):
        out: Tensor = _Products.apply(plan, query, key_value)
        return out
    return _products(plan, query, key_value)[0]


def _places(plan: AttentionPlan, query: Tensor, key_value: Tensor) -> tuple[Tensor, Tensor]:
    """Returns views of which each row is one head of a query, and of a key or value."""
    heads = plan.num_heads
    return (
        query.view(-1, query.shape[1] // (heads * (3 if plan.joined else 1))),
        key_value.view(-1, key_value.shape[1] // (heads * (3 if plan.joined else 2))),
    )


def _gathered(
    plan: AttentionPlan, query: Tensor, key_value: Tensor
) -> tuple[Float[Tensor, "queries head_dim"], Float[Tensor, "keys_values head_dim"]]:
    queries, keys = _places(plan, query, key_value)
    return queries.index_select(0, plan.query_from), keys.index_select(0, plan.key_from)


def _keys_values(
    bucket: Bucket, gathered: Float[Tensor, "keys_values head_dim"]
) -> Float[Tensor, "2 clips_heads num_keys head_dim"]:
    num = 2 * bucket.clips_heads * bucket.num_keys
    found = gathered[bucket.first : bucket.first + num]
    return found.view(2, bucket.clips_heads, bucket.num_keys, -1)


def _queries(
    bucket: Bucket, block: Block, gathered: Float[Tensor, "queries head_dim"]
) -> Float[Tensor, "clips_heads num_queries head_dim"]:
    num = bucket.clips_heads * block.num_queries
    found = gathered[block.first : block.first + num]
    return found.view(bucket.clips_heads, block.num_queries, -1)


def by_kernel(
    plan: AttentionPlan,
    query: Float[Tensor, "query_rows _"],
    key_value: Float[Tensor, "rows _"],
) -> Float[Tensor, "query_rows inner"]:
    """Computes `attend` with torch's kernel, on any device and of any length."""
    gathered = _gathered(plan, query, key_value)
    found = [gathered[0][:0]]
    for bucket in plan.buckets:
        both = _keys_values(bucket, gathered[1]).unflatten(1, (-1, plan.num_heads))
        for block in bucket.blocks:
            rows = _queries(bucket, block, gathered[0]).unflatten(0, (-1, plan.num_heads))
            if not block.num_keys:
                found.append(torch.zeros_like(rows).flatten(0, 2))
                continue
            key, value = both[:, :, :, block.keys]
            mask = None if block.hidden is None else ~block.hidden[:: plan.num_heads, None]
            out = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask)
            if block.lonely is not None:
                out = out.masked_fill(block.lonely[:: plan.num_heads, None], 0.0)
            found.append(out.flatten(0, 2))
    rows = torch.cat(found).index_select(0, plan.row_from)
    return rows.view(-1, plan.num_heads * rows.shape[1])


def _products(
    plan: AttentionPlan, query: Tensor, key_value: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Returns the output rows; the gathered queries, keys and outputs; the weights by block."""
    queries, keys = _gathered(plan, query, key_value)
    out = torch.empty_like(queries)
    weights = []
    for bucket in plan.buckets:
        key, value = _keys_values(bucket, keys)
        for block in bucket.blocks:
            own, result = _queries(bucket, block, queries), _queries(bucket, block, out)
            if not block.num_keys:
                result.zero_()
                continue
            weights.append(_weights(block, own, key[:, block.keys]))
            torch.bmm(weights[-1], value[:, block.keys], out=result)
    rows = out.index_select(0, plan.row_from).view(-1, plan.num_heads * out.shape[1])
    return rows, queries, keys, out, weights


def _weights(
    block: Block,
    query: Float[Tensor, "clips_heads num_queries head_dim"],
    key: Float[Tensor, "clips_heads num_keys head_dim"],
) -> Float[Tensor, "clips_heads num_queries num_keys"]:
    """Returns softmax(q k / sqrt(d)) over the keys that are there; 0 where there are none."""
    nothing, scale = query.new_zeros(1, 1, 1), query.shape[2] ** -0.5
    logits = torch.baddbmm(nothing, query, key.mT, beta=0, alpha=scale)
    if block.hidden is not None:
        logits.masked_fill_(block.hidden, -torch.inf)
    weights = _softmax(logits)
    return weights if block.lonely is None else weights.masked_fill_(block.lonely, 0.0)


def _softmax(logits: Float[Tensor, "clips_heads num_queries num_keys"]) -> Tensor:
    """Returns the softmax over keys; `logits` may be overwritten.

    On a CPU torch's own takes five times as long for rows shorter than one of its vectors.
    """
    if logits.shape[2] >= SHORT_ROW:
        return logits.softmax(dim=2)
    weights = logits.sub_(logits.amax(dim=2, keepdim=True)).exp_()
    return weights.div_(weights.sum(dim=2, keepdim=True))


class _Products(torch.autograd.Function):
    """`attend` by matrix products, with a backward pass that writes each gradient once.

    Left to autograd, every slice of queries, keys and values would be given its gradient in a
    matrix of zeros as large as the whole, to be added up.
    """

    @staticmethod
    def forward(ctx: Any, plan: AttentionPlan, query: Tensor, key_value: Tensor) -> Tensor:
        rows, queries, keys, out, weights = _products(plan, query, key_value)
        ctx.plan = plan
        ctx.save_for_backward(queries, keys, out, *weights)
        return rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[None, Tensor, Tensor | None]:
        plan: AttentionPlan = ctx.plan
        queries, keys, out, *weights = ctx.saved_tensors
        head_dim, left = queries.shape[1], iter(weights)
        grad = grad_rows.reshape(-1, head_dim).index_select(0, plan.query_place)
        if plan.padding is not None:
            grad.index_fill_(0, plan.padding, 0.0)
        grads = queries.new_empty(len(queries) + len(keys), head_dim)
        grad_queries, grad_keys = grads.split([len(queries), len(keys)])
        for bucket in plan.buckets:
            parts = _keys_values(bucket, keys), _keys_values(bucket, grad_keys)
            fresh = bool(bucket.blocks) and bucket.blocks[0].num_keys == bucket.num_keys
            if not fresh:
                parts[1].zero_()
            for block in bucket.blocks:
                each = [_queries(bucket, block, t) for t in (queries, out, grad, grad_queries)]
                if not block.num_keys:
                    each[-1].zero_()
                else:
                    _backward_of_block(block, next(left), *parts, *each, fresh=fresh)
                fresh = False
        if plan.joined:
            found = grads.index_select(0, plan.joined_row_from)
            return None, found.view(-1, 3 * plan.num_heads * head_dim), None
        return (
            None,
            grad_queries.index_select(0, plan.row_from).view(-1, plan.num_heads * head_dim),
            grad_keys.index_select(0, plan.key_row_from).view(-1, 2 * plan.num_heads * head_dim),
        )


def _backward_of_block(
    block: Block,
    weights: Float[Tensor, "clips_heads num_queries num_keys"],
    keys: Float[Tensor, "2 clips_heads bucket_keys head_dim"],
    grad_keys: Float[Tensor, "2 clips_heads bucket_keys head_dim"],
    query: Float[Tensor, "clips_heads num_queries head_dim"],
    out: Float[Tensor, "clips_heads num_queries head_dim"],
    grad: Float[Tensor, "clips_heads num_queries head_dim"],
    grad_query: Float[Tensor, "clips_heads num_queries head_dim"],
    *,
    fresh: bool,
) -> None:
    """Writes the gradient of the block's queries, and adds those of its keys and values.

    The first block of a bucket, if it sees all keys, writes these too.

    With w the weights, g the gradient of the output o: that of the logits is w (g v - g o).
    """
    key, value = keys[:, :, block.keys]
    grad_logits = torch.bmm(grad, value.mT)
    grad_logits.sub_((grad * out).sum(dim=2, keepdim=True)).mul_(weights)
    grad_logits.mul_(query.shape[2] ** -0.5)
    torch.bmm(grad_logits, key, out=grad_query)
    for target, pairs, other in ((1, weights, grad), (0, grad_logits, query)):
        if fresh:
            torch.bmm(pairs.mT, other, out=grad_keys[target])
        else:
            grad_keys[target, :, block.keys].add_(torch.bmm(pairs.mT, other))
