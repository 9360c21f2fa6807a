"""How precisely is computed, and numbers that are not waited for."""

import pytest
import torch
from torch import nn

from tcaf.errors import TCAFError
from tcaf.execution import ranks
from tcaf.execution.devices import Glimpse, forward_in, moved, pick_device, products_in

CPU = torch.device("cpu")


def test_precision_of_products_is_put_back():
    before, seen = torch.get_float32_matmul_precision(), []

    def fail():
        seen.append(torch.get_float32_matmul_precision())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), products_in("tf32"):
        fail()
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == before
    for other in ("float32", "bfloat16"):
        with products_in(other):
            assert torch.get_float32_matmul_precision() == before


def test_products_in_bfloat16():
    layer, rows = nn.Linear(3, 5), torch.randn(7, 3)
    found = {}
    for precision in ("float32", "tf32", "bfloat16"):
        with forward_in(precision, CPU):
            found[precision] = layer(rows)
    assert found["bfloat16"].dtype == torch.bfloat16
    assert torch.equal(found["float32"], found["tf32"])
    torch.testing.assert_close(found["bfloat16"].float(), found["float32"], atol=0.02, rtol=0.02)


def test_what_is_here_already_is_not_moved():
    tensor = torch.arange(3)
    assert moved(tensor, "cpu") is tensor


def test_a_glimpse_is_of_its_moment():
    numbers = torch.tensor([1.0, 2.0])
    glimpse = Glimpse(numbers)
    numbers += 1
    assert glimpse.is_ready
    assert glimpse.look() == [1, 2]


class SlowEvent:
    """An event of a GPU that is late."""

    def __init__(self):
        self.asked, self.waited = 0, False

    def query(self):
        self.asked += 1
        return self.asked > 2

    def synchronize(self):
        self.waited = True


def test_a_glimpse_waits_when_it_has_to():
    glimpse = Glimpse(torch.tensor([3.0]))
    glimpse._event = SlowEvent()
    assert [glimpse.is_ready for _ in range(3)] == [False, False, True]
    assert glimpse.look() == [3]
    assert glimpse._event.waited


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda")
    monkeypatch.setattr(ranks, "current", lambda: ranks.Rank(3, 4, 1))
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cpu") == CPU
    monkeypatch.setattr(ranks, "current", lambda: ranks.Rank(2, 4, 2))
    with pytest.raises(TCAFError, match="more processes on this machine than its 2 GPUs"):
        pick_device("auto")
