"""Batches of fixed shapes: what lies where, and that nothing depends on what is behind."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcaf.data.filled import FilledPacked, FixedShape, as_new, is_filled, size_for
from tcaf.systems.blocks import scaled

BOTH = ("audio", "visual")
LENS = [3, 0, 7, 2, 5], [4, 6, 0, 9, 1]


@given(st.integers(0, 1 << 20))
def test_sizes(number):
    size = size_for(number)
    assert number <= size <= max(4, 1.25 * number)
    assert size_for(size) == size


def test_sizes_are_few():
    assert [size_for(n) for n in (0, 1, 4, 5, 8, 9, 13, 17, 450, 513)] == [
        *(0, 1, 4, 5, 8, 10, 14, 20, 512, 640)
    ]
    assert len({size_for(n) for n in range(1024, 2048)}) == 5


@pytest.fixture
def batch(random_batch):
    """A batch with labels."""

    def build(audio_lens, visual_lens, seed=0):
        found = random_batch(audio_lens, visual_lens, seed)
        labels = torch.arange(len(found)) % 4
        return type(found)(found.audio, found.visual, labels)

    return build


def filled(batch, modalities=BOTH, rest=None):
    shape = FixedShape.of(batch, modalities)
    held = shape.new_batch(batch)
    if rest is not None:
        for modality in modalities:
            held.modality(modality).tokens.fill_(rest)
            held.modality(modality).times.fill_(rest)
    shape.fill(held, batch)
    return held


def test_a_batch_of_a_shape(batch):
    given_batch = batch(*LENS)
    held = filled(given_batch)
    assert is_filled(held)
    assert not is_filled(given_batch)
    assert len(held) == 5
    assert torch.equal(held.labels, given_batch.labels)
    for modality, rows, room in (("audio", 20, 7), ("visual", 24, 10)):
        packed, own = held.modality(modality), given_batch.modality(modality)
        assert isinstance(packed, FilledPacked)
        assert (len(packed.tokens), packed.room) == (rows, room)
        total = len(own.tokens)
        assert torch.equal(packed.tokens[:total], own.tokens)
        assert torch.equal(packed.times[:total], own.times)
        packing = packed.packing
        assert torch.equal(packing.clip_of[:total], own.packing.clip_of)
        assert torch.equal(packing.real_rows, torch.arange(rows) < total)
        assert torch.equal(packing.real[:, : own.packing.longest], own.packing.real)
        assert not packing.real[:, own.packing.longest :].any()
        places = torch.cat([torch.arange(n) for n in own.lens.tolist()])
        assert torch.equal(packing.place_of[:total], places)
        assert int(packing.place_of.max()) < room


@pytest.mark.parametrize("rest", [0.0, 1e3])
def test_what_is_behind_the_tokens_enters_no_sum(batch, rest):
    given_batch = batch(*LENS)
    held = filled(given_batch, rest=rest)
    for modality in BOTH:
        packed, own = held.modality(modality), given_batch.modality(modality)
        torch.testing.assert_close(packed.packing.sum(packed.tokens), own.packing.sum(own.tokens))
        torch.testing.assert_close(packed.mean(), own.mean())
        for scaling in ("none", "divide_255", "l2", "l2_over_time"):
            found = scaled(packed, scaling)[: len(own.tokens)]
            torch.testing.assert_close(found, scaled(own, scaling))
        assert packed.with_tokens(packed.tokens * 2).packing is packed.packing


def test_a_shorter_batch_of_the_same_shape_follows(batch):
    """What the one before left behind the tokens is never seen."""
    long, short = batch([3, 0, 7, 2, 6], [4, 6, 0, 9, 1]), batch([2, 1, 7, 2, 5], LENS[1], seed=1)
    shape = FixedShape.of(long, BOTH)
    assert FixedShape.of(short, BOTH) == shape
    held = shape.new_batch(long)
    shape.fill(held, long)
    shape.fill(held, short)
    assert torch.equal(held.audio.lens, short.audio.lens)
    # What was worked out of the lengths before is not that of these.
    held.audio.mean()
    shape.fill(held, long)
    torch.testing.assert_close(as_new(held).audio.mean(), long.audio.mean())


def test_a_modality_that_is_not_used_has_no_rows(batch):
    held = filled(batch([3, 1, 7, 2, 5], LENS[1]), ("audio",))
    assert len(held.visual.tokens) == 0
    assert len(held) == 5


@pytest.mark.parametrize(
    ("lens", "modalities"),
    [
        (([0, 0], [3, 2]), BOTH),  # nothing to take statistics of
        (([1, 0], [3, 2]), BOTH),
        (([3, 0], [3, 0]), BOTH),  # a clip of nothing
        (([3, 0], [3, 4]), ("audio",)),
    ],
)
def test_batches_that_are_computed_as_they_are(batch, lens, modalities):
    assert FixedShape.of(batch(*lens), modalities) is None
