"""Attention over a batch of a fixed shape, on any device, without a look at what is in it.

Owns two ways from a `filled_layout.FilledPlan` to the attended rows: torch's scaled-dot-product
kernel over rectangles of all clips, and, for products in half precision on cards that have it, the
kernel for sequences of variable length, which pads nothing.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tcaf.systems.filled_layout import FilledPlan, Sequences

Kernel = Callable[..., Any]
"""`torch.nn.attention.varlen.varlen_attn`, or what computes the same."""

HALVES = (torch.bfloat16, torch.float16)
"""What the kernel of variable length computes in."""

STEP, WIDEST = 8, 256
"""Sizes of a head that it takes: multiples, up to so many."""


@cache
def varlen_kernel(device: torch.device) -> Kernel | None:
    """Returns the kernel of variable length; None where this device or this torch has none."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def attend_filled(
    plan: FilledPlan,
    query: Float[Tensor, "query_rows _"],
    key_value: Float[Tensor, "rows _"],
) -> Float[Tensor, "query_rows inner"]:
    """Computes `attention.attend` for a batch of a fixed shape; see there for the arguments."""
    if plan.sequences is not None and query.dtype in HALVES:
        head_dim = query.shape[1] // (3 * plan.num_heads)
        kernel = varlen_kernel(query.device)
        if kernel is not None and not head_dim % STEP and head_dim <= WIDEST:
            return by_sequences(plan, plan.sequences, query, kernel)
    return by_rectangles(plan, query, key_value)


def by_rectangles(
    plan: FilledPlan,
    query: Float[Tensor, "query_rows _"],
    key_value: Float[Tensor, "rows _"],
) -> Float[Tensor, "query_rows inner"]:
    """Computes it over all clips at once, padded to the room of a clip."""
    heads = plan.num_heads
    parts = query.unflatten(1, (3 if plan.joined else 1, heads, -1))
    both = key_value.unflatten(1, (3 if plan.joined else 2, heads, -1))[:, -2:]
    queries = parts[:, 0]
    # Clips, heads, tokens.
    keys, values = both[plan.key_rows].permute(2, 0, 3, 1, 4)
    found = []
    for rectangle in plan.rectangles:
        own = queries[rectangle.rows].transpose(1, 2)
        out = F.scaled_dot_product_attention(
            own,
            keys[:, :, rectangle.keys],
            values[:, :, rectangle.keys],
            attn_mask=rectangle.seen[:, None, None],
        )
        if rectangle.lonely is not None:
            out = out.masked_fill(rectangle.lonely[:, None, None, None], 0.0)
        found.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, plan.row_from).flatten(1)


def by_sequences(
    plan: FilledPlan,
    sequences: Sequences,
    joined: Float[Tensor, "rows _"],
    kernel: Kernel,
) -> Float[Tensor, "rows inner"]:
    """Computes it run by run, without any padding.

    Args:
        plan: of all groups.
        sequences: its runs.
        joined: query, key and value of each row side by side.
        kernel: see `Kernel`.
    """
    query, key, value = joined.unflatten(1, (3, plan.num_heads, -1)).unbind(dim=1)
    out: Tensor = kernel(
        query.contiguous(),
        key.index_select(0, sequences.key_rows),
        value.index_select(0, sequences.key_rows),
        sequences.query_ends,
        sequences.key_ends,
        sequences.most_queries,
        sequences.most_keys,
    )
    return out.flatten(1)
