"""Attention of variable length, written out run by run: what torch's kernel is to compute."""

import torch


def reference_kernel(query, key, value, query_ends, key_ends, most_queries, most_keys):
    """What the kernel of variable length computes, run by run."""
    found = torch.full_like(query, torch.nan)
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert query_ends[-1] == len(query)
    assert key_ends[-1] == len(key)
    runs = zip(query_ends.tolist(), query_ends.tolist()[1:], strict=False)
    keys = zip(key_ends.tolist(), key_ends.tolist()[1:], strict=False)
    for (first, last), (start, end) in zip(runs, keys, strict=True):
        assert last - first <= most_queries
        assert 0 < end - start <= most_keys
        own, seen, content = query[first:last], key[start:end], value[start:end]
        logits = torch.einsum("qhd,khd->hqk", own, seen) * query.shape[2] ** -0.5
        rows = torch.einsum("hqk,khd->qhd", logits.softmax(dim=2), content)
        found = torch.cat([found[:first], rows, found[last:]])
    return found
