import pytest
import torch

from tcaf.seeding import seeded
from tcaf.systems.blocks import DROPOUT_STEPS, Dropout


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.97])
def test_dropout_rate_and_scale(rate):
    """In each of the four elements that one draw of 64 bits decides on."""
    values = torch.full((4 * 9973,), 3.0)
    with seeded(0, "dropout"):
        found = Dropout(rate)(values)
    dropped = found == 0
    for lane in range(4):
        share = dropped[lane::4].float().mean()
        # Within six standard deviations.
        assert abs(share - rate) < 6 * (rate * (1 - rate) / 9973) ** 0.5
    # What is kept makes up for what is not, at the rate that there really is.
    true_rate = round(rate * DROPOUT_STEPS) / DROPOUT_STEPS
    assert abs(true_rate - rate) <= 0.5 / DROPOUT_STEPS
    expected = torch.full((int((~dropped).sum()),), 3 / (1 - true_rate))
    torch.testing.assert_close(found[~dropped], expected)


def test_neighbours_are_dropped_independently():
    with seeded(0, "dropout"):
        dropped = Dropout(0.5)(torch.ones(39989)) == 0
    for step in (1, 2, 3, 4):
        both = (dropped[step:] & dropped[:-step]).float().mean()
        assert abs(both - 0.25) < 6 * (0.25 * 0.75 / 39989) ** 0.5


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (3, 5), (2, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_of_any_shape(shape, dtype):
    values = torch.ones(shape, dtype=dtype, requires_grad=True)
    found = Dropout(0.5)(values)
    assert found.shape == shape
    assert found.dtype == dtype
    found.sum().backward()
    # The gradient is dropped and scaled where the value was.
    assert torch.equal(values.grad, found.detach())
    assert set(found.flatten().tolist()) <= {0.0, 2.0}


def test_dropout_follows_the_global_stream():
    values, drawn = torch.ones(997), []
    for purpose in (1, 1, 2):
        with seeded(purpose, "dropout"):
            drawn.append(Dropout(0.5)(values))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_where_nothing_is_dropped():
    values = torch.ones(997)
    before = torch.get_rng_state()
    assert Dropout(0.0)(values) is values
    assert Dropout(0.5).eval()(values) is values
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rate", [1.0, 1 - 1e-6])
def test_where_nothing_is_kept(rate):
    """Among 997 numbers, at a rate that is 1 or as good as 1."""
    assert torch.equal(Dropout(rate)(torch.ones(997)), torch.zeros(997))


def test_torch_s_own_refuses_the_same_rates():
    with pytest.raises(ValueError, match="dropout probability"):
        Dropout(1.5)
