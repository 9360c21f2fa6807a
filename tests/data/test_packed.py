import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.data.packed import Packed, Packing, mean_token
from tcaf.errors import TCAFError
from tcaf.seeding import generator

DIM = 7


def packed(lens, *, dim=DIM, seed=0):
    """Random tokens a second apart."""
    times = torch.cat([torch.arange(float(length)) for length in lens])
    tokens = torch.randn(sum(lens), dim, generator=generator(seed, "tokens"))
    return Packed(tokens, torch.tensor(lens), times)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 99))
def test_packing_by_loops(lens, seed):
    made = Packing(torch.tensor(lens), torch.device("cpu"))
    tokens = torch.randn(sum(lens), DIM, generator=generator(seed, "tokens"))
    rectangle = torch.zeros(len(lens), max(lens), DIM)
    sums, owners, row = torch.zeros(len(lens), DIM), [], 0
    for clip, length in enumerate(lens):
        for place in range(length):
            rectangle[clip, place] = tokens[row]
            sums[clip] += tokens[row]
            owners.append(clip)
            row += 1
    assert made.longest == max(lens)
    assert made.dense == (len(set(lens)) == 1)
    assert made.real.sum(dim=1).tolist() == lens
    assert torch.equal(made.unpack(tokens), rectangle)
    assert torch.equal(made.pack(made.unpack(tokens)), tokens)
    torch.testing.assert_close(made.sum(tokens), sums)
    assert made.clip_of.tolist() == owners


def test_means_by_hand():
    """The second clip has no token; the third one's three are at 1, 2 and 6 on average 3."""
    tokens = torch.tensor([[5.0], [1.0], [2.0], [6.0]])
    made = Packed(tokens, torch.tensor([1, 0, 3]), torch.tensor([0.0, 0.0, 1.0, 2.0]))
    assert made.mean().tolist() == [[5], [0], [3]]
    averaged = made.averaged()
    assert averaged.tokens.tolist() == [[5], [3]]
    assert averaged.lens.tolist() == [1, 0, 1]
    assert averaged.times.tolist() == [0, 0]
    # Of two groups each token counts alike: (5 + 7 + 9) / 3; none in either is 0.
    others = Packed(torch.tensor([[7.0], [9.0]]), torch.tensor([2, 0, 0]), torch.zeros(2))
    assert mean_token(made, others).tolist() == [[7], [0], [3]]


def test_means_of_clips_of_one_length():
    made = packed([3, 3])
    expected = torch.stack([made.tokens[:3].mean(dim=0), made.tokens[3:].mean(dim=0)])
    torch.testing.assert_close(made.mean(), expected)
    torch.testing.assert_close(made.averaged().tokens, expected)


def test_average_of_no_token_at_all():
    averaged = packed([0, 0, 0]).averaged()
    assert averaged.tokens.shape == (0, DIM)
    assert averaged.lens.tolist() == [0, 0, 0]


def test_other_tokens_in_the_same_places():
    made = packed([2, 0, 1])
    other = made.with_tokens(torch.ones(3, 11))
    assert other.packing is made.packing
    assert other.lens is made.lens
    assert other.times is made.times
    assert other.mean().tolist() == [[1] * 11, [0] * 11, [1] * 11]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_from_padded_by_loops(lens):
    padded, times = torch.randn(len(lens), 3, 2), torch.rand(len(lens), 3)
    made = Packed.from_padded(padded, torch.tensor(lens), times)
    tokens, seconds = [], []
    for clip, length in enumerate(lens):
        for place in range(length):
            tokens.append(padded[clip, place].tolist())
            seconds.append(times[clip, place].item())
    assert made.tokens.tolist() == tokens
    assert made.times.tolist() == seconds
    assert made.lens.tolist() == lens


@pytest.mark.parametrize("lens", [[3, 4], [-1, 4]])
def test_lengths_that_a_padded_array_cannot_have(lens):
    with pytest.raises(TCAFError, match=rf"lengths must lie in 0\.\.3, got \[{lens[0]}, 4\]"):
        Packed.from_padded(torch.zeros(2, 3, 5), torch.tensor(lens), torch.zeros(2, 3))


@pytest.mark.usefixtures("unchecked")
def test_lengths_tokens_and_times_that_do_not_fit():
    with pytest.raises(TCAFError, match="lengths sum to 3, but there are 4 tokens and 4 times"):
        Packed(torch.zeros(4, 5), torch.tensor([2, 1]), torch.zeros(4))
    with pytest.raises(TCAFError, match="lengths sum to 4, but there are 4 tokens and 3 times"):
        Packed(torch.zeros(4, 5), torch.tensor([3, 1]), torch.zeros(3))
