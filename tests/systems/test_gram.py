"""X'X: against doubles throughout, whatever the batches."""

import pytest
import torch
import torch.nn.functional as F

from tcaf.seeding import generator
from tcaf.systems.gram import BLOCK, Gram

DIM = 17


def rows(number, seed=0):
    """Unit vectors whose last number hardly varies, so that the smallest eigenvalue is small."""
    x = torch.randn(number, DIM, generator=generator(seed, "rows")) + 3
    x[:, -1] = 3 + 1e-3 * x[:, -1]
    return F.normalize(x, dim=1)


def exact(x):
    return x.double().T @ x.double()


@pytest.mark.parametrize("sizes", [(5,), (64, 3, 700), (BLOCK - 1,)])
def test_few_clips_are_multiplied_in_doubles(sizes):
    gram, parts = Gram(DIM, torch.zeros(())), rows(sum(sizes)).split(sizes)
    for part in parts:
        gram.add(part)
    torch.testing.assert_close(gram.total(), exact(torch.cat(parts)), rtol=0, atol=1e-12)


def test_many_clips_come_within_a_hundred_millionth():
    x = rows(3 * BLOCK + 300)
    gram = Gram(DIM, torch.zeros(()))
    for part in x.split(191):
        gram.add(part)
    found, expected = gram.total() / len(x), exact(x) / len(x)
    assert found.dtype == torch.float64
    difference = (torch.linalg.eigvalsh(found) - torch.linalg.eigvalsh(expected)).abs().max()
    assert 0 < difference < 1e-8
    # One sum of float32 over all clips would not do.
    plain = torch.linalg.eigvalsh((x.T @ x).double() / len(x))
    assert (plain - torch.linalg.eigvalsh(expected)).abs().max() > difference


def test_rows_may_follow_a_total():
    x = rows(29)
    gram = Gram(DIM, torch.zeros(()))
    assert not gram.total().any()
    gram.add(x[:11])
    first = gram.total()
    torch.testing.assert_close(first, exact(x[:11]))
    gram.add(x[11:])
    assert gram.total() is first
    torch.testing.assert_close(first, exact(x))
