import math

import numpy as np
import pytest
import torch

from tcaf.data.packed import Packed
from tcaf.seeding import generator
from tcaf.systems import clip_vectors
from tcaf.systems.clip_vectors import (
    change,
    course,
    ends,
    longest_span,
    on_a_grid,
    products,
    relative_deviations,
    together,
    unit_means,
)

LENS_A, LENS_V = (5, 0, 3, 2, 11), (7, 4, 2, 0, 13)


def packed(lens, dim, step, seed=0):
    """Clips of tokens `step` seconds apart."""
    total = sum(lens)
    tokens = torch.randn(total, dim, generator=generator(seed, "tokens"), dtype=torch.float64)
    times = torch.cat([torch.arange(n, dtype=torch.float64) * step for n in lens])
    return Packed(tokens, torch.tensor(lens), times)


def clips(batch):
    """Each clip's tokens and times."""
    ends = np.cumsum(batch.lens.tolist())
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield batch.tokens[start:end].numpy(), batch.times[start:end].numpy()


def change_by_loop(tokens):
    if len(tokens) < 3:
        return np.zeros(len(tokens))
    size = np.linalg.norm(tokens - tokens.mean(axis=0), axis=1)
    centred = size - size.mean()
    return centred / np.linalg.norm(centred)


def test_change_by_hand():
    """Tokens 0, 0, 3 are 1, 1, 2 from their mean; less 4/3 that is -1/3, -1/3, 2/3."""
    batch = Packed(torch.tensor([[0.0], [0.0], [3.0]]), torch.tensor([3]), torch.arange(3.0))
    expected = torch.tensor([-1.0, -1.0, 2.0]) / math.sqrt(6)
    torch.testing.assert_close(change(batch), expected)


def test_change_of_every_clip():
    batch = packed(LENS_A, 3, 0.5)
    expected = np.concatenate([change_by_loop(tokens) for tokens, _ in clips(batch)])
    np.testing.assert_allclose(change(batch).numpy(), expected, atol=1e-12)


def test_what_does_not_change_has_no_change():
    batch = Packed(torch.full((4, 2), 0.1), torch.tensor([4]), torch.arange(4.0))
    assert not change(batch).any()


@pytest.mark.parametrize("most_pairs", [1 << 18, 3])
def test_together_by_a_loop(monkeypatch, most_pairs):
    monkeypatch.setattr(clip_vectors, "MOST_PAIRS", most_pairs)
    audio, visual = packed(LENS_A, 3, 0.96), packed(LENS_V, 2, 0.64, seed=1)
    lags = torch.linspace(-2, 2, 5, dtype=torch.float64)
    found = together(audio, visual, change(audio), change(visual), lags)
    for row, ((a, t), (v, u)) in enumerate(zip(clips(audio), clips(visual), strict=True)):
        e, f = change_by_loop(a), change_by_loop(v)
        for column, lag in enumerate(lags.tolist()):
            apart = t[:, None] - u[None, :] - lag
            w = np.exp(-0.5 * (apart / 0.8) ** 2)
            # Beyond four standard deviations of the outermost lag nobody looks.
            w[np.abs(apart + lag) > 2 + 4 * 0.8] = 0
            expected = (w * e[:, None] * f).sum() / math.sqrt(w.sum()) if w.sum() else 0.0
            assert found[row, column].item() == pytest.approx(expected, abs=1e-9)
    assert found[0].any()
    assert not found[[1, 2, 3]].any(), "fewer than three tokens, or none, in a modality"


def test_a_later_picture_shows_at_a_negative_lag():
    """The sound changes at 2 s, the picture at 4 s: t - u is -2."""
    spike = torch.zeros(9, 1)
    audio = Packed(
        spike.index_fill(0, torch.tensor([2]), 1.0), torch.tensor([9]), torch.arange(9.0)
    )
    visual = audio.with_tokens(spike.index_fill(0, torch.tensor([4]), 1.0))
    lags = torch.linspace(-3, 3, 7)
    found = together(audio, visual, change(audio), change(visual), lags)
    assert lags[found.argmax()] == -2


def test_course_by_a_loop():
    batch = packed(LENS_A, 3, 0.7)
    directions = torch.eye(3, dtype=torch.float64)[:2]
    found = course(batch, directions)
    for row, (tokens, times) in enumerate(clips(batch)):
        expected = np.zeros((2, 3))
        if len(tokens) >= 3:
            s = 2 * (times - times[0]) / (times[-1] - times[0]) - 1
            for degree in (1, 2, 3):
                p = np.polynomial.legendre.Legendre.basis(degree)(s)
                p -= p.mean()
                # Of three tokens the third is the first once more.
                p /= np.linalg.norm(p)
                expected[:, degree - 1] = p @ (tokens - tokens.mean(axis=0))[:, :2]
        if len(tokens) != 3:
            np.testing.assert_allclose(found[row].reshape(2, 3), expected, atol=1e-10)


def test_order_turns_the_sign_of_odd_polynomials():
    batch = packed((6,), 2, 1.0)
    back = batch.with_tokens(batch.tokens.flip(0))
    there, other = (course(each, torch.eye(2, dtype=torch.float64)) for each in (batch, back))
    signs = torch.tensor([-1.0, 1.0, -1.0] * 2, dtype=torch.float64)
    torch.testing.assert_close(other, there * signs)


def test_means_have_length_1_and_missing_ones_0():
    lengths = unit_means(packed(LENS_A, 3, 1.0)).norm(dim=1)
    np.testing.assert_allclose(lengths, [1, 0, 1, 1, 1])


def test_the_longest_span():
    assert longest_span(packed(LENS_A, 3, 0.5), packed(LENS_V, 2, 0.25)) == 5.0
    assert longest_span(packed((1, 0), 3, 0.5), packed((0, 0), 2, 0.5)) == 0.0


def grid_by_loop(batch, directions, step_s, first, num_steps):
    """Each token's change and its place along directions, shared out to the steps beside it."""
    found = np.zeros((len(batch.lens), num_steps, 1 + len(directions)))
    for clip, (tokens, times) in enumerate(clips(batch)):
        if len(tokens) < 3:
            continue
        moved = (tokens - tokens.mean(axis=0)) @ directions.T
        channels = np.c_[change_by_loop(tokens), moved / np.linalg.norm(moved)]
        for channel, time in zip(channels, times, strict=True):
            for step in range(num_steps):
                at = (np.floor(first[clip] / step_s) + step) * step_s
                found[clip, step] += max(0, 1 - abs(time - at) / step_s) * channel
    return found


def test_a_grid_by_a_loop():
    batch = packed(LENS_A, 3, 0.96)
    starts = torch.tensor([0.3, 0.0, 7.1, 2.0, 0.9], dtype=torch.float64)
    batch = Packed(batch.tokens, batch.lens, batch.times + starts[batch.packing.clip_of])
    directions = torch.linalg.qr(torch.randn(3, 2, generator=generator(0), dtype=torch.float64))[
        0
    ].T
    first = ends(batch)[0]
    found = on_a_grid(batch, directions, 0.5, first, 23)
    expected = grid_by_loop(batch, directions.numpy(), 0.5, first.numpy(), 23)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert found[:, -1].abs().sum() == 0, "no token lies so late"


def test_a_clip_that_does_not_move_along_the_directions():
    batch = Packed(torch.tensor([[0.0, 1], [0, 3], [0, 9]]), torch.tensor([3]), torch.arange(3.0))
    found = on_a_grid(batch, torch.tensor([[1.0, 0.0]]), 1.0, torch.zeros(1), 5)
    assert found[0, :, 0].any()
    assert not found[0, :, 1].any()


def test_products_by_hand():
    """One channel each: at lag 1 the later one is looked at one step after the earlier one."""
    later, earlier = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[5.0, 7.0, 11.0]])
    found = products(later[:, :, None], earlier[:, :, None], range(1, 5))
    assert found.tolist() == [[2 * 5 + 3 * 7, 3 * 5, 0, 0]]


def test_products_of_each_two_channels():
    one, other = (torch.randn(2, 7, n, generator=generator(n)) for n in (2, 3))
    found = products(one, other, range(3)).view(2, 3, 2, 3)
    for lag in range(3):
        expected = torch.einsum("bti,btj->bij", one[:, lag:], other[:, : 7 - lag])
        torch.testing.assert_close(found[:, lag], expected)


def test_deviations_by_hand():
    """Tokens (0, 2) and (4, 2) stray by 2 and 0; their mean power is (4 + 20) / 2 = 12."""
    tokens = torch.tensor([[0.0, 2.0], [4.0, 2.0], [7.0, 7.0]])
    batch = Packed(tokens, torch.tensor([2, 0, 1]), torch.zeros(3))
    expected = torch.tensor([[2 / math.sqrt(12), 0.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(relative_deviations(batch), expected)


def test_deviations_know_neither_order_nor_scale_nor_seconds():
    batch = packed(LENS_A, 3, 0.96)
    turned = torch.cat([torch.from_numpy(t[::-1].copy()) for t, _ in clips(batch)])
    other = Packed(7 * turned, batch.lens, 3 * batch.times)
    torch.testing.assert_close(relative_deviations(other), relative_deviations(batch))
