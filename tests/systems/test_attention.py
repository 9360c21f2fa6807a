import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.seeding import generator
from tcaf.systems import attention as attention_module
from tcaf.systems.attention import SHORT_ROW, CrossModalAttention, _softmax, attend, by_kernel
from tcaf.systems.layout import SEES, TokenLayout

CPU = torch.device("cpu")
PATTERNS = ("cross", "self", "full")
DIM, HEADS, HEAD_DIM = 7, 3, 5


def layout(**lens):
    """A layout of clips with these numbers of tokens; `token` stands for the class."""
    groups = {"class" if group == "token" else group: each for group, each in lens.items()}
    return TokenLayout({group: torch.tensor(each) for group, each in groups.items()}, CPU)


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
    one = layout(token=[1], audio=[1], visual=[1])
    rows = torch.tensor([[0.0], [1.0], [LN3]])
    found = one.split(made(rows, one, one.groups))
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
    one = layout(audio=[1], visual=[1])
    found = one.split(made(torch.tensor([[1.0], [LN3]]), one, one.groups))
    # Each sees the other alone: 10 + 2 x the other.
    assert found["audio"].item() == pytest.approx(10 + 2 * LN3)
    assert found["visual"].item() == pytest.approx(12)


def masked_square(made, rows, where):
    """The whole square of all tokens of a clip, masked before the softmax, clip by clip."""
    num_clips = len(next(iter(where.lens.values())))
    outputs = {group: [] for group in where.groups}
    for clip in range(num_clips):
        groups, parts = [], []
        for group, packed in where.split(rows).items():
            lens = where.lens[group].tolist()
            start = sum(lens[:clip])
            parts.append(packed[start : start + lens[clip]])
            groups += [group] * lens[clip]
        joined = torch.cat(parts)
        query, key, value = (joined @ made.to_qkv.weight.T).chunk(3, dim=1)
        mask = torch.tensor(
            [[k in SEES[made.pattern][q] for k in groups] for q in groups], dtype=torch.bool
        ).view(len(groups), len(groups))
        heads = []
        for part in torch.arange(made.to_out.in_features).split(HEAD_DIM):
            logits = query[:, part] @ key[:, part].T / HEAD_DIM**0.5
            weights = logits.masked_fill(~mask, -torch.inf).softmax(dim=1)
            # A token that sees nothing has a softmax over nothing.
            heads.append(weights.masked_fill(~mask.any(dim=1, keepdim=True), 0) @ value[:, part])
        result = torch.cat(heads, dim=1) @ made.to_out.weight.T + made.to_out.bias
        for group in where.groups:
            outputs[group].append(result[[g == group for g in groups]])
    return {group: torch.cat(parts) for group, parts in outputs.items()}


clips = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=5)


def lens_of(clips, *, class_token, dense=False):
    if dense:
        clips = [clips[0]] * len(clips)
    audio, visual = map(list, zip(*clips, strict=True))
    token = {"token": [1] * len(clips)} if class_token else {}
    return layout(**token, audio=audio, visual=visual)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(clips, st.sampled_from(PATTERNS), st.booleans(), st.booleans(), st.integers(0, 99))
def test_rectangles_equal_the_masked_square(lens, pattern, class_token, dense, seed):
    where = lens_of(lens, class_token=class_token, dense=dense)
    rows = torch.randn(where.num_rows, DIM, generator=generator(seed, "tokens"))
    made = attention(pattern)
    with torch.no_grad():
        found = where.split(made(rows, where, where.groups))
        expected = masked_square(made, rows, where)
        for group in where.groups:
            torch.testing.assert_close(found[group], expected[group], rtol=1e-4, atol=1e-4)
            alone = made(rows, where, (group,))
            torch.testing.assert_close(alone, found[group], rtol=1e-4, atol=1e-4)


def gradients(made, rows, where, queries, direction, way):
    """The output of a way to attend, and the gradients of tokens and weights along a direction."""
    rows = rows.clone().requires_grad_()
    made.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "attend", way)
        output = made(rows, where, queries)
    (output * direction[: len(output)]).sum().backward()
    return [output.detach(), rows.grad, *(weight.grad for weight in made.parameters())]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(clips, st.sampled_from(PATTERNS), st.booleans(), st.booleans(), st.integers(0, 99))
def test_both_ways_and_the_slow_one_have_the_same_gradients(lens, pattern, token, whole, seed):
    """To rounding in float64: by products, by torch's kernel, and clip by clip with autograd."""
    where = lens_of(lens, class_token=token)
    draw = generator(seed, "tokens")
    rows = torch.randn(where.num_rows, DIM, generator=draw).double()
    direction = torch.randn(where.num_rows, DIM, generator=draw).double()
    made = attention(pattern).double()
    queries = where.groups if whole else where.groups[:1]
    products = gradients(made, rows, where, queries, direction, attend)
    kernel = gradients(made, rows, where, queries, direction, by_kernel)
    leaf = rows.clone().requires_grad_()
    made.zero_grad()
    square = masked_square(made, leaf, where)
    output = torch.cat([square[group] for group in queries])
    (output * direction[: len(output)]).sum().backward()
    slow = [output.detach(), leaf.grad, *(weight.grad for weight in made.parameters())]
    for got, other, expected in zip(products, kernel, slow, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(other, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_token_that_sees_nothing(pattern):
    """Clip 0 has no visual token, clip 1 no audio token; with `cross` they see nothing at all."""
    made = attention(pattern)
    where = layout(audio=[2, 0, 3], visual=[0, 3, 1])
    rows = torch.ones(where.num_rows, DIM, requires_grad=True)
    output = made(rows, where, where.groups)
    found = where.split(output)
    lone = torch.cat([found["audio"][:2], found["visual"][:3]])
    assert torch.equal(lone, made.to_out.bias.expand(5, DIM)) == (pattern == "cross")
    output.square().sum().backward()
    for leaf in [rows, *made.parameters()]:
        assert leaf.grad.isfinite().all()


@torch.no_grad()
def test_what_a_kernel_makes_of_an_empty_softmax_is_of_no_account(monkeypatch):
    kernel = F.scaled_dot_product_attention

    def hostile(query, key, value, attn_mask):
        if attn_mask is None:
            return kernel(query, key, value)
        empty = ~attn_mask.any(dim=-1, keepdim=True)
        return kernel(query, key, value, attn_mask=attn_mask).masked_fill(empty, torch.nan)

    where = layout(audio=[2, 0, 3], visual=[0, 3, 1])
    rows, made = torch.ones(where.num_rows, DIM), attention("cross")
    monkeypatch.setattr(attention_module, "attend", by_kernel)
    expected = made(rows, where, where.groups)
    monkeypatch.setattr(F, "scaled_dot_product_attention", hostile)
    assert torch.equal(made(rows, where, where.groups), expected)


@torch.no_grad()
def test_long_clips_take_the_kernel(monkeypatch):
    """Which keeps no weights of all pairs, and gives the same."""
    where, made = layout(token=[1], audio=[5], visual=[7]), attention("cross")
    rows = torch.randn(where.num_rows, DIM, generator=generator(0, "tokens"))
    expected = made(rows, where, where.groups)
    plan = where.plan("cross", where.groups, HEADS)
    # 5 audio x 8 keys, 7 visual x 6, the class token x all 13; three heads.
    assert plan.num_scores == HEADS * (5 * 8 + 7 * 6 + 13)
    taken = []

    def watched(*arguments):
        taken.append(arguments)
        return by_kernel(*arguments)

    monkeypatch.setattr(attention_module, "by_kernel", watched)
    for most, times in ((plan.num_scores, 0), (plan.num_scores - 1, 1)):
        monkeypatch.setattr(attention_module, "MOST_SCORES", most)
        torch.testing.assert_close(made(rows, where, where.groups), expected)
        assert len(taken) == times


@pytest.mark.parametrize("num_keys", [1, SHORT_ROW - 1, SHORT_ROW])
def test_both_softmaxes(num_keys):
    """The second row's numbers overflow an exponential that is taken of them as they are."""
    logits = torch.randn(3, 2, num_keys, generator=generator(0, "logits"))
    logits[1] += 1000
    logits[2, 0, 1:] = -torch.inf
    torch.testing.assert_close(_softmax(logits.clone()), logits.softmax(dim=2))


def test_dropout_is_on_the_output():
    made = CrossModalAttention(DIM, HEADS, HEAD_DIM, "full", dropout=0.5).train()
    found = made(torch.ones(997, DIM), layout(token=[1] * 997), ("class",))
    # Half of 6979 numbers, within six standard deviations.
    assert abs((found == 0).float().mean() - 0.5) < 6 * 0.5 / (997 * DIM) ** 0.5
