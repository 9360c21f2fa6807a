import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.seeding import derive_seed, generator, seeded

purposes = st.lists(st.sampled_from(["init", "windows", "dropout", 0, 1, 12]), max_size=3)


def draw(*key):
    return torch.rand(7, generator=generator(*key))


def test_by_record():
    # A change here makes every earlier run irreproducible.
    assert derive_seed(0, "windows", "stage_1", 7) == 7767381173834634055
    assert derive_seed(1) == 3874038210105081456


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), purposes)
def test_seed_fits_63_bits(seed, purpose):
    assert 0 <= derive_seed(seed, *purpose) < 2**63


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), purposes, st.integers(0, 3), purposes)
def test_streams_are_repeatable_and_apart(seed, purpose, other_seed, other_purpose):
    first = draw(seed, *purpose)
    assert torch.equal(first, draw(seed, *purpose))
    same = (seed, purpose) == (other_seed, other_purpose)
    assert torch.equal(first, draw(other_seed, *other_purpose)) == same


def test_streams_are_uncorrelated():
    streams = torch.stack(
        [torch.randn(4999, generator=generator(0, "windows", epoch)) for epoch in range(11)]
    )
    correlation = torch.corrcoef(streams) - torch.eye(11)
    # Six standard deviations of a correlation of 4999 pairs.
    assert correlation.abs().max() < 6 / 4999**0.5


def test_generator_leaves_the_global_stream_alone():
    before = torch.random.get_rng_state()
    draw(0, "windows")
    assert torch.equal(before, torch.random.get_rng_state())


def test_seeded_body():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(0, "init"):
        first = torch.rand(7)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, draw(0, "init"))
    with seeded(0, "dropout"):
        assert not torch.equal(torch.rand(7), first)


def test_seeded_restores_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(KeyError), seeded(0, "init"):
        raise KeyError(torch.rand(3))
    assert torch.equal(before, torch.random.get_rng_state())


def test_all_gpus_are_restored_without_a_warning(monkeypatch):
    states, restored = {0: "a", 1: "b", 2: "c"}, {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: restored.update({device: state})
    )
    with seeded(0, "init"):
        assert restored == {}
    assert restored == states


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
def test_seeded_body_on_a_gpu():
    torch.cuda.manual_seed_all(5)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed_all(5)
    with seeded(0, "dropout"):
        first = torch.rand(7, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    with seeded(0, "dropout"):
        assert torch.equal(torch.rand(7, device="cuda"), first)
