"""Attention over batches of fixed shapes, in both ways, against that over the batch as it is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from run_by_run import reference_kernel
from tcaf.data.filled import FilledPacked, size_for
from tcaf.seeding import generator
from tcaf.systems import filled_attention
from tcaf.systems.attention import attend
from tcaf.systems.filled_attention import attend_filled, by_rectangles, by_sequences, varlen_kernel
from tcaf.systems.filled_layout import FilledLayout
from tcaf.systems.layout import KEY_ORDER, SEES, TokenLayout

CPU = torch.device("cpu")
PATTERNS = ("cross", "self", "full")
HEADS, HEAD_DIM = 3, 5
LENS = {"audio": [3, 0, 7, 2, 5], "visual": [4, 6, 0, 9, 1]}


def layouts(lens, *, class_token=True):
    """The layout of clips as they are, and of the same filled up."""
    lens = {m: torch.tensor(each) for m, each in lens.items()}
    num_clips = len(next(iter(lens.values())))
    packed = {}
    for modality, each in lens.items():
        rows = torch.zeros(size_for(int(each.sum()) + 1), 1)
        packed[modality] = FilledPacked(rows, each, rows[:, 0], size_for(int(each.max())))
    token = {"class": torch.ones(num_clips, dtype=torch.int64)} if class_token else {}
    filled = FilledLayout(num_clips, packed, CPU, class_token=class_token)
    return TokenLayout({**token, **lens}, CPU), filled


def same_rows(plain, filled, groups):
    """The rows of the filled layout's groups that hold a token, in the order of the plain one's."""
    firsts = filled.firsts(groups)
    sizes = [plain.slices[g].stop - plain.slices[g].start for g in plain.groups if g in groups]
    starts = [firsts[g] for g in plain.groups if g in groups]
    parts = [torch.arange(start, start + n) for start, n in zip(starts, sizes, strict=True)]
    return torch.cat(parts)


def noise(*shape, seed):
    return torch.randn(*shape, generator=generator(seed, "rows"), dtype=torch.float64)


def both(pattern, queries, *, class_token=True, way=attend_filled, lens=LENS):
    """What is attended and the gradients of queries, keys and values: plain, and filled up."""
    plain, filled = layouts(lens, class_token=class_token)
    queries = queries or plain.groups
    inner = HEADS * HEAD_DIM
    plan, other = (each.plan(pattern, queries, HEADS) for each in (plain, filled))
    key_rows, query_rows = (same_rows(plain, filled, g) for g in (plain.groups, queries))
    found = []
    for at, one, compute in (
        (None, plan, attend),
        ((query_rows, key_rows), other, way),
    ):
        inputs = []
        for place, count, width in ((0, len(query_rows), 1), (1, len(key_rows), 2)):
            if plan.joined and place == 0:
                continue
            values = noise(count, (3 if plan.joined else width) * inner, seed=place)
            if at is not None:
                total = (
                    filled.num_rows
                    if place
                    else sum(filled.slices[g].stop - filled.slices[g].start for g in queries)
                )
                # Whatever is behind the tokens.
                behind = noise(total, values.shape[1], seed=7)
                values = behind.index_copy(0, at[place], values)
            inputs.append(values.requires_grad_())
        out = compute(one, inputs[0], inputs[-1])
        if at is not None:
            out = out.index_select(0, at[0])
        (out * noise(*out.shape, seed=9)).sum().backward()
        grads = [each.grad for each in inputs]
        if at is not None:
            rows = at[1:] if plan.joined else at
            rest = [g.index_fill(0, r, 0.0) for g, r in zip(grads, rows, strict=True)]
            assert not any(each.any() for each in rest), "rows of no clip are given a gradient"
            grads = [g.index_select(0, r) for g, r in zip(grads, rows, strict=True)]
        found.append((out.detach(), *grads))
    return found


def assert_equal(found):
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def sequences(plan, query, key_value):
    assert plan.sequences is not None
    return by_sequences(plan, plan.sequences, query, reference_kernel)


@pytest.mark.parametrize("queries", [None, ("class",), ("audio", "visual")])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_rectangles(pattern, queries):
    assert_equal(both(pattern, queries))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rectangles_without_a_class_token(pattern):
    """Then tokens of a clip of one modality see nothing along `cross`."""
    assert_equal(both(pattern, None, class_token=False))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rectangles_of_one_modality(pattern):
    assert_equal(both(pattern, None, lens={"visual": [4, 6, 2]}))
    assert_equal(both(pattern, ("class",), lens={"audio": [4, 6, 2]}))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_sequences(pattern):
    assert_equal(both(pattern, None, way=sequences))
    assert_equal(both(pattern, None, way=sequences, lens={"visual": [4, 6, 2]}))


def test_sequences_are_for_what_always_sees_something():
    _, filled = layouts(LENS)
    assert filled.plan("cross", ("class",), HEADS).sequences is None
    _, without = layouts(LENS, class_token=False)
    assert without.plan("cross", without.groups, HEADS).sequences is None


@given(
    st.sampled_from(PATTERNS),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=9),
)
def test_each_run_has_the_keys_that_its_pattern_says(pattern, pairs):
    lens = {m: [pair[n] for pair in pairs] for n, m in enumerate(("audio", "visual"))}
    _, filled = layouts(lens)
    found = filled.plan(pattern, filled.groups, HEADS).sequences
    keys = [
        found.key_rows[start:end].tolist()
        for start, end in zip(found.key_ends.tolist(), found.key_ends.tolist()[1:], strict=False)
    ]
    most = max(len(each) for each in keys)
    queries = found.query_ends.diff().tolist()
    assert most <= found.most_keys
    assert max(queries) <= found.most_queries
    lens["class"] = [1] * len(pairs)
    runs = iter(zip(queries, keys, strict=True))
    for group in filled.groups:
        for clip in range(len(pairs)):
            number, own = next(runs)
            assert number == lens[group][clip]
            expected = []
            for seen in KEY_ORDER:
                if seen in SEES[pattern][group]:
                    first = filled.slices[seen].start + sum(lens[seen][:clip])
                    expected += range(first, first + lens[seen][clip])
            assert own == expected
        if group != "class":
            number, own = next(runs)
            assert number == filled.slices[group].stop - filled.slices[group].start - sum(
                lens[group]
            )
            assert own


@pytest.mark.parametrize(("head_dim", "is_taken"), [(8, True), (5, False), (264, False)])
def test_the_kernel_is_taken_where_there_is_one_for_it(monkeypatch, head_dim, is_taken):
    assert varlen_kernel(CPU) is None
    _, filled = layouts(LENS)
    plan = filled.plan("cross", filled.groups, HEADS)
    last = filled.plan("cross", ("class",), HEADS)
    rows = torch.randn(filled.num_rows, 3 * HEADS * head_dim).bfloat16()
    asked = []

    def kernel(*arguments):
        asked.append(arguments)
        return reference_kernel(*arguments)

    monkeypatch.setattr(filled_attention, "varlen_kernel", lambda device: kernel)
    found = attend_filled(plan, rows, rows)
    assert len(asked) == is_taken
    real = torch.cat([torch.arange(5), 5 + torch.arange(17), 5 + 20 + torch.arange(20)])
    plain = by_rectangles(plan, rows, rows)
    torch.testing.assert_close(found[real], plain[real], atol=0.02, rtol=0.02)
    inner = HEADS * head_dim
    attend_filled(last, rows[:5, :inner], rows[:, inner:])
    attend_filled(plan, rows.float(), rows.float())
    assert len(asked) == is_taken, "neither for the last layer nor for whole numbers"


def test_the_kernel_takes_what_it_is_given():
    """By torch's own account of it, over tensors that have shapes and no content."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    device = torch.device("meta")
    packed = {}
    for modality, each in LENS.items():
        rows = torch.zeros(size_for(sum(each) + 1), 1, device=device)
        lens = torch.tensor(each, device=device)
        packed[modality] = FilledPacked(rows, lens, rows[:, 0], size_for(max(each)))
    filled = FilledLayout(5, packed, device, class_token=True)
    plan = filled.plan("cross", filled.groups, 2)
    rows = torch.zeros(
        filled.num_rows, 3 * 2 * 8, device=device, dtype=torch.bfloat16, requires_grad=True
    )
    found = by_sequences(plan, plan.sequences, rows, varlen.varlen_attn)
    assert found.shape == (filled.num_rows, 2 * 8)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert rows.grad.shape == rows.shape
