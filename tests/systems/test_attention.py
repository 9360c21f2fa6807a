import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.data.packed import Packing
from tcaf.seeding import generator
from tcaf.systems.attention import SEES, CrossModalAttention

CPU = torch.device("cpu")
PATTERNS = ("cross", "self", "full")
DIM, HEADS, HEAD_DIM = 7, 3, 5


def packing(*lens):
    return Packing(torch.tensor(lens), CPU)


def attention(pattern, dim=DIM, heads=HEADS, head_dim=HEAD_DIM):
    made = CrossModalAttention(dim, heads, head_dim, pattern, dropout=0.0).eval()
    for number, parameter in enumerate(made.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator(number, "weights"))
    return made


# One head of size 1, every matrix 1, no bias: query, key and value of a token are its number x, and
# a query sees a key with weight exp(x_query x_key), normalised. Class token 0, audio 1, visual
# ln 3.
LN3 = math.log(3)
BY_HAND = {
    # audio sees class and visual with weights exp(0) = 1 and exp(ln 3) = 3: (0 + 3 ln 3) / 4;
    # visual sees class and audio with weights 1 and exp(ln 3) = 3: (0 + 3) / 4.
    "cross": {"audio": 3 * LN3 / 4, "visual": 3 / 4},
    # audio sees class and itself with weights 1 and e: e / (1 + e);
    # visual likewise with 1 and exp(ln 3 ln 3) = 3^ln 3: 3^ln 3 ln 3 / (1 + 3^ln 3).
    "self": {"audio": math.e / (1 + math.e), "visual": 3**LN3 * LN3 / (1 + 3**LN3)},
    # audio sees all with 1, e, 3; visual sees all with 1, 3, 3^ln 3.
    "full": {
        "audio": (math.e + 3 * LN3) / (1 + math.e + 3),
        "visual": (3 + 3**LN3 * LN3) / (1 + 3 + 3**LN3),
    },
}


@pytest.mark.parametrize("pattern", PATTERNS)
@torch.no_grad()
def test_two_tokens_by_hand(pattern):
    made = attention(pattern, dim=1, heads=1, head_dim=1)
    made.to_qkv.weight.fill_(1)
    made.to_out.weight.fill_(1)
    made.to_out.bias.fill_(0)
    numbers = {"class": 0.0, "audio": 1.0, "visual": LN3}
    tokens = {group: torch.tensor([[number]]) for group, number in numbers.items()}
    found = made(tokens, dict.fromkeys(tokens, packing(1)), tuple(tokens))
    assert found["audio"].item() == pytest.approx(BY_HAND[pattern]["audio"])
    assert found["visual"].item() == pytest.approx(BY_HAND[pattern]["visual"])
    # The class token's query is 0, so that it sees all three alike.
    assert found["class"].item() == pytest.approx((0 + 1 + LN3) / 3)


@torch.no_grad()
def test_without_class_token_by_hand():
    made = attention("cross", dim=1, heads=1, head_dim=1)
    made.to_qkv.weight.fill_(1)
    made.to_out.weight.fill_(2)
    made.to_out.bias.fill_(10)
    tokens = {"audio": torch.tensor([[1.0]]), "visual": torch.tensor([[LN3]])}
    found = made(tokens, dict.fromkeys(tokens, packing(1)), ("audio", "visual"))
    # Each sees the other alone: 10 + 2 x the other.
    assert found["audio"].item() == pytest.approx(10 + 2 * LN3)
    assert found["visual"].item() == pytest.approx(12)


def test_table_of_patterns():
    # Table 3: A_c joins the class token to everything; cross adds the other modality, self the own.
    for pattern, sees in SEES.items():
        assert set(sees["class"]) == {"class", "audio", "visual"}, pattern
        for own, other in (("audio", "visual"), ("visual", "audio")):
            assert "class" in sees[own]
            assert (own in sees[own]) == (pattern in ("self", "full"))
            assert (other in sees[own]) == (pattern in ("cross", "full"))


def masked_square(made, tokens, packings):
    """The whole square of all tokens of a clip, masked before the softmax, clip by clip."""
    outputs = {group: [] for group in tokens}
    for clip in range(len(packings["audio"].lens)):
        groups, rows = [], []
        for group, packed in tokens.items():
            lens = packings[group].lens.tolist()
            start = sum(lens[:clip])
            rows.append(packed[start : start + lens[clip]])
            groups += [group] * lens[clip]
        joined = torch.cat(rows)
        query, key, value = (joined @ made.to_qkv.weight.T).chunk(3, dim=1)
        mask = torch.tensor(
            [[k in SEES[made.pattern][q] for k in groups] for q in groups], dtype=torch.bool
        ).view(len(groups), len(groups))
        attended = torch.zeros(len(groups), HEADS * HEAD_DIM)
        for head in range(HEADS):
            part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            for row in range(len(groups)):
                seen = mask[row]
                if seen.any():
                    logits = key[seen][:, part] @ query[row, part] / HEAD_DIM**0.5
                    attended[row, part] = logits.softmax(dim=0) @ value[seen][:, part]
        result = attended @ made.to_out.weight.T + made.to_out.bias
        for group in tokens:
            outputs[group].append(result[[g == group for g in groups]])
    return {group: torch.cat(parts) for group, parts in outputs.items()}


clips = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(clips, st.sampled_from(PATTERNS), st.booleans(), st.booleans(), st.integers(0, 99))
def test_rectangles_equal_the_masked_square(lens, pattern, class_token, dense, seed):
    if dense:
        lens = [lens[0]] * len(lens)
    audio, visual = zip(*lens, strict=True)
    packings = {"audio": packing(*audio), "visual": packing(*visual)}
    if class_token:
        packings = {"class": packing(*[1] * len(lens)), **packings}
    draw = generator(seed, "tokens")
    tokens = {
        group: torch.randn(int(p.lens.sum()), DIM, generator=draw) for group, p in packings.items()
    }
    made = attention(pattern)
    with torch.no_grad():
        found = made(tokens, packings, tuple(tokens))
        expected = masked_square(made, tokens, packings)
        assert list(found) == list(tokens)
        for group in tokens:
            torch.testing.assert_close(found[group], expected[group], rtol=1e-4, atol=1e-4)
        for group in tokens:
            alone = made(tokens, packings, (group,))
            assert list(alone) == [group]
            torch.testing.assert_close(alone[group], found[group], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_token_that_sees_nothing(pattern):
    """Clip 0 has no visual token, clip 1 no audio token; with `cross` they see nothing at all."""
    made = attention(pattern)
    packings = {"audio": packing(2, 0, 3), "visual": packing(0, 3, 1)}
    tokens = {group: torch.ones(int(p.lens.sum()), DIM) for group, p in packings.items()}
    leaves = [t.requires_grad_() for t in tokens.values()]
    found = made(tokens, packings, ("audio", "visual"))
    bias = made.to_out.bias
    lone = torch.cat([found["audio"][:2], found["visual"][:3]])
    assert torch.equal(lone, bias.expand(5, DIM)) == (pattern == "cross")
    sum(part.square().sum() for part in found.values()).backward()
    for leaf in [*leaves, *made.parameters()]:
        assert leaf.grad.isfinite().all()


@torch.no_grad()
def test_what_a_kernel_makes_of_an_empty_softmax_is_of_no_account(monkeypatch):
    kernel = F.scaled_dot_product_attention

    def hostile(query, key, value, attn_mask):
        empty = ~attn_mask.any(dim=-1, keepdim=True)
        return kernel(query, key, value, attn_mask=attn_mask).masked_fill(empty, torch.nan)

    packings = {"audio": packing(2, 0, 3), "visual": packing(0, 3, 1)}
    tokens = {group: torch.ones(int(p.lens.sum()), DIM) for group, p in packings.items()}
    made = attention("cross")
    expected = made(tokens, packings, ("audio", "visual"))
    monkeypatch.setattr(F, "scaled_dot_product_attention", hostile)
    found = made(tokens, packings, ("audio", "visual"))
    assert all(torch.equal(found[group], expected[group]) for group in tokens)


def test_dropout_is_on_the_output():
    made = CrossModalAttention(DIM, HEADS, HEAD_DIM, "full", dropout=0.5).train()
    tokens = {"class": torch.ones(997, DIM)}
    found = made(tokens, {"class": packing(*[1] * 997)}, ("class",))["class"]
    # Half of 6979 numbers, within six standard deviations.
    assert abs((found == 0).float().mean() - 0.5) < 6 * 0.5 / (997 * DIM) ** 0.5
