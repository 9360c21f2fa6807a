"""Class vectors that move to where clips are, against the formula in loops, and what it gains."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tcaf.seeding import generator
from tcaf.systems.textlda_together import moved


def unit(*shape, seed):
    return F.normalize(torch.randn(*shape, generator=generator(0, seed)), dim=1)


def moved_by_loop(clips, classes, counts, added):
    """Ten rounds as the formula says, a clip and a class at a time, in doubles."""
    z, start = clips.double().numpy(), classes.double().numpy()
    u = start.copy()
    for _ in range(10):
        sums = np.zeros_like(u)
        for clip in z:
            weights = [np.exp((clip @ u[c] - added[c]) / 0.03) for c in range(len(u))]
            for c, weight in enumerate(weights):
                sums[c] += weight / sum(weights) * clip
        b = sum(np.linalg.norm(each) for each in sums) / len(z)
        for c in range(len(u)):
            u[c] = (counts[c] + 60) * b * start[c] + sums[c]
            u[c] /= np.linalg.norm(u[c])
    return u


@pytest.mark.parametrize("gamma", [0.0, 0.11, -0.07])
@pytest.mark.parametrize("pieces", [(97,), (13, 41, 0, 43)])
def test_ten_rounds_are_those_of_the_formula(gamma, pieces):
    clips, classes = unit(97, 5, seed="clips"), unit(7, 5, seed="classes")
    counts = torch.tensor([31.0, 0, 5, 0, 113, 2, 0])
    added = gamma * (counts > 0)
    found = moved(clips.split(pieces), classes, counts, added)
    expected = moved_by_loop(clips, classes, counts.numpy(), added.numpy())
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert not np.allclose(found, classes, atol=0.01)


def test_without_clips_classes_stay():
    classes = unit(7, 5, seed="classes")
    for clips in ([], [torch.zeros(0, 5)]):
        assert torch.equal(moved(clips, classes, torch.zeros(7), torch.zeros(7)), classes)


def test_misplaced_classes_are_found_and_well_known_ones_hardly_move():
    """Half the classes are where clips say, the other half were guessed from text and are off."""
    places = torch.eye(10)
    off = F.normalize(places + 0.35 * torch.randn(10, 10, generator=generator(1, "off")), dim=1)
    seen = torch.arange(10) < 5
    start = torch.where(seen[:, None], places, off)
    labels = torch.arange(1000) % 10
    noise = torch.randn(1000, 10, generator=generator(0, "noise"))
    clips = F.normalize(places[labels] + 0.2 * noise, dim=1)
    found = moved([clips], start, 200.0 * seen, torch.zeros(10))

    def accuracy(classes):
        return float(((clips @ classes.T).argmax(dim=1) == labels).double().mean())

    error = (1 - (found * places).sum(dim=1)), (1 - (start * places).sum(dim=1))
    assert (error[0][~seen] < error[1][~seen] / 2).all()
    assert (error[0][seen] < 0.01).all()
    assert accuracy(found) > accuracy(start) + 0.01
