"""Rows of all ranks: batch norm as torch has it, and systems that learn the same on two ranks."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tcaf.errors import TCAFError
from tcaf.systems.blocks import Block
from tcaf.systems.over_ranks import RankBatchNorm, mean_over_ranks, of_each_rank, over_ranks
from tcaf.systems.registry import SYSTEMS
from torchrun import environment, torchrun

WORK = Path(__file__).parents[1] / "rank_work.py"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"momentum": 0.3, "eps": 0.1},
        {"momentum": None},
        {"affine": False},
        {"track_running_stats": False},
    ],
)
@pytest.mark.parametrize("shape", [(7, 5), (3, 5, 2)])
def test_batch_norm_is_torchs(how, shape):
    torch.manual_seed(0)
    expected = nn.BatchNorm1d(5, **how)
    if expected.affine:
        nn.init.normal_(expected.weight)
    made = RankBatchNorm.of(copy.deepcopy(expected))
    assert list(made.state_dict()) == list(expected.state_dict())
    for _ in range(2):
        rows = torch.randn(*shape, requires_grad=True)
        same = rows.detach().clone().requires_grad_()
        weight = torch.randn(*shape)
        for norm, given in ((expected, rows), (made, same)):
            (norm(given) * weight).sum().backward()
        torch.testing.assert_close(same.grad, rows.grad, atol=1e-5, rtol=1e-5)
        for one, other in zip(made.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-5)
        for one, other in zip(made.buffers(), expected.buffers(), strict=True):
            torch.testing.assert_close(one, other)
    rows = torch.randn(*shape)
    torch.testing.assert_close(made.eval()(rows), expected.eval()(rows))


def test_a_norm_keeps_the_tensors_and_the_mode():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)).eval()
    weight, mean = model[1].weight, model[1].running_mean
    made = over_ranks(model)
    assert made is model
    assert isinstance(model[1], RankBatchNorm)
    assert model[1].weight is weight
    assert model[1].running_mean is mean
    assert not model[1].training
    norm = model[1]
    assert over_ranks(model)[1] is norm


def test_statistics_in_float32_of_rows_in_half():
    """The mean of 1000 and some is lost in bfloat16, and so is what they differ by."""
    rows = torch.tensor([[1000.0], [1008.0], [1016.0]]).bfloat16()
    made = RankBatchNorm(1)
    found = made(rows)
    assert found.dtype == torch.bfloat16
    # Variance 128 / 3.
    assert found.flatten().tolist() == pytest.approx([-1.2247, 0, 1.2247], abs=0.01)
    assert made.running_mean.item() == pytest.approx(100.8)


def test_no_row_and_a_single_one():
    block = over_ranks(Block(3, 5, 0.0, 0.1))
    out = block(torch.zeros(0, 3))
    assert out.shape == (0, 5)
    assert not out.requires_grad
    assert block.norm.num_batches_tracked == 0
    with pytest.raises(TCAFError, match="left a single sample in a batch norm"):
        block(torch.zeros(1, 3))
    assert block.eval()(torch.zeros(1, 3)).shape == (1, 5)


def test_alone_there_is_one_rank():
    values = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    assert torch.equal(of_each_rank(values), values[None])
    mean_over_ranks(values).backward()
    assert values.grad.tolist() == pytest.approx([1 / 3] * 3)


# --- Two processes. What they do is in `rank_work.py`. ---

slow = pytest.mark.slow

TRAINED = [name for name, system in SYSTEMS.items() if not system.training_free]
CASES = [
    *TRAINED,
    *("plain", "tcaf of the release", "cjme of the release"),
    *("sound: half", "sound: one", "sound: none"),
]


@pytest.fixture(scope="module")
def both(tiny_store, tmp_path_factory):
    """The same work done by one process, and by two of torchrun."""
    folder = tmp_path_factory.mktemp("ranks")
    alone, together = folder / "alone.pt", folder / "together.pt"
    given = (str(WORK), str(tiny_store.path))
    subprocess.run([sys.executable, *given, str(alone)], env=environment(), check=True)
    ended = torchrun(2, folder / "logs", *given, together)
    assert ended.code == 0, ended.err
    return torch.load(alone), torch.load(together)


@slow
def test_all_cases_are_here(both):
    assert all(set(found) == {"norms", *CASES} for found in both)


@slow
def test_norms_and_their_gradients(both):
    """Rows that are all on one rank, of which there is one on the other, or that do not halve."""
    alone, together = (found["norms"] for found in both)
    for name, values in alone.items():
        for one, other in zip(values, together[name], strict=True):
            torch.testing.assert_close(torch.tensor(other), torch.tensor(one), atol=1e-5, rtol=1e-5)


@slow
@pytest.mark.parametrize("case", CASES)
def test_the_same_losses(both, case):
    """Each step's, which hang on the steps before; and no weight is moved that stood still."""
    alone, together = (found[case] for found in both)
    for one, other in zip(alone["losses"], together["losses"], strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    assert alone["state"] == together["state"]


@slow
@pytest.mark.parametrize("system", ["ridge", "textlda"])
def test_a_fit_answers_the_same(both, system):
    alone, together = (torch.tensor(found[system]["distances"]) for found in both)
    assert alone.std() > 0.1
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)


@slow
@pytest.mark.parametrize("case", [c for c in CASES if c not in ("ridge", "textlda")])
def test_the_same_running_statistics(both, case):
    """Which evaluation rests on; rows that all ranks have count once."""
    alone, together = (found[case]["weights"] for found in both)
    names = [name for name in alone if name.endswith(("running_mean", "running_var"))]
    assert names
    for name in names:
        one, other = torch.tensor(alone[name]), torch.tensor(together[name])
        torch.testing.assert_close(other, one, atol=3e-4, rtol=3e-4)
