import math

import pytest
import torch

from tcaf.errors import TCAFError
from tcaf.seeding import generator
from tcaf.settings.sections import ObjectiveSettings
from tcaf.systems.losses import Losses, squared_error, tcaf_losses, triplet, triplets

LN3 = math.log(3)

# Two clips, classes 1 and 0 of three, joint space of 2, text of 3 numbers.
VIDEO = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
CLASSES = torch.tensor([[0.0, 2.0], [LN3, 0.0], [0.0, 5.0]])
LABELS = torch.tensor([1, 0])
TEXT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [9.0, 9.0, 9.0]])
VIDEO_RECONSTRUCTION = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 0.0]])
TEXT_RECONSTRUCTION = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [7.0, 7.0, 7.0]])

# Clip 0 has the dot products (0, ln 3, 0): its class has 3 / (1 + 3 + 1) of the softmax.
# Clip 1 has (0, 0, 0): its class has a third. Mean of the negative logarithms:
CROSS_ENTROPY = (math.log(5 / 3) + math.log(3)) / 2
# Clip 0 is (1 - ln 3, 0) from its class, clip 1 (0, -2): squares summed, per clip.
REGRESSION_SUM = ((1 - LN3) ** 2 + 4) / 2
# rho_o of clip 0 is (0, 0, 3) from class 1's text, that of clip 1 is right: (9 + 0) / 2.
# rho_w of class 1 is right, that of class 0 is (1, 0, 0) away: (0 + 1) / 2.
RECONSTRUCTION_SUM = (9 + 0) / 2 + (0 + 1) / 2


def by_hand(**options):
    return tcaf_losses(
        VIDEO, VIDEO_RECONSTRUCTION, CLASSES, TEXT_RECONSTRUCTION, TEXT, LABELS, **options
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_two_clips_by_hand(reduction):
    found = by_hand(reduction=reduction)
    joint, text = (1, 1) if reduction == "sum" else (2, 3)
    expected = (CROSS_ENTROPY, REGRESSION_SUM / joint, RECONSTRUCTION_SUM / text)
    assert [term.item() for term in found.named.values()] == pytest.approx(expected)
    assert found.total.item() == pytest.approx(sum(expected))
    assert list(found.terms()) == ["loss", "cross_entropy", "regression", "reconstruction"]
    assert found.terms()["loss"] == found.total


def test_mean_is_the_default():
    assert by_hand().total == by_hand(reduction="mean").total


@pytest.mark.parametrize("off", ["cross_entropy", "regression", "reconstruction"])
def test_a_term_that_is_off(off):
    everything, found = by_hand(), by_hand(terms=ObjectiveSettings(**{off: False}))
    assert off not in found.named
    assert off not in found.terms()
    left = everything.total - everything.named[off]
    assert found.total.item() == pytest.approx(left.item())


@pytest.mark.parametrize("on", ["cross_entropy", "regression", "reconstruction"])
def test_a_term_alone(on):
    others = {"cross_entropy", "regression", "reconstruction"} - {on}
    found = by_hand(terms=ObjectiveSettings(**dict.fromkeys(others, False)))
    assert found.total == by_hand().named[on]


def test_text_with_a_forward_pass_of_its_own():
    own = torch.tensor([[1.0, 4.0], [0.0, 0.0]])
    decoded = TEXT[LABELS]
    found = by_hand(clip_class_embedding=own, clip_text_reconstruction=decoded, reduction="sum")
    assert found.named["cross_entropy"] == by_hand().named["cross_entropy"]
    assert found.named["regression"].item() == pytest.approx(16 / 2)
    assert found.named["reconstruction"].item() == pytest.approx(9 / 2)


def test_squared_error_by_loops():
    draw = generator(0, "errors")
    predicted, target = torch.randn(2, 5, 7, generator=draw)
    total = sum(
        (predicted[clip, i] - target[clip, i]).item() ** 2 for clip in range(5) for i in range(7)
    )
    assert squared_error(predicted, target).item() == pytest.approx(total / 35)
    assert squared_error(predicted, target, "sum").item() == pytest.approx(total / 5)


def test_order_of_classes_and_clips_is_of_no_account():
    classes, clips = torch.tensor([2, 0, 1]), torch.tensor([1, 0])
    position = classes.argsort()
    found = tcaf_losses(
        VIDEO[clips],
        VIDEO_RECONSTRUCTION[clips],
        CLASSES[classes],
        TEXT_RECONSTRUCTION[classes],
        TEXT[classes],
        position[LABELS][clips],
    )
    torch.testing.assert_close(found.total, by_hand().total)


def test_terms_carry_no_graph():
    video = VIDEO.clone().requires_grad_()
    found = tcaf_losses(video, VIDEO_RECONSTRUCTION, CLASSES, TEXT_RECONSTRUCTION, TEXT, LABELS)
    assert found.total.requires_grad
    assert not any(term.requires_grad for term in found.terms().values())


def test_triplets_by_hand():
    """Points on a line; 1e-6 is added to each difference.

    d(0, 3) - d(0, 1) + 1 is 3; d(0, 1) - d(0, 5) + 1 is -3 and counts as 0; and
    d(2, 2) - d(2, 1) + 1 is |0 + 1e-6| - |1 + 1e-6| + 1 = 0.
    """
    anchor, positive, negative = (
        torch.tensor([[x] for x in values], dtype=torch.float64)
        for values in ([0.0, 0.0, 2.0], [3.0, 1.0, 2.0], [1.0, 5.0, 1.0])
    )
    found = triplets(anchor, positive, negative)
    # |0 - 3 + 1e-6| - |0 - 1 + 1e-6| + 1 is 3 exactly.
    assert found.tolist() == pytest.approx([3, 0, 0], abs=1e-9)
    assert triplet(anchor, positive, negative).item() == pytest.approx(1)
    wider = triplets(anchor, positive, negative, margin=5.0)
    assert wider.tolist() == pytest.approx([7, 1, 4], abs=1e-9)
    # The nearness of positive and negative changes places.
    assert triplets(anchor, negative, positive)[0].item() == 0


def test_triplets_by_loops():
    anchor, positive, negative = torch.randn(3, 5, 7, generator=generator(0, "triplets"))
    expected = []
    for clip in range(5):
        near, far = (
            math.sqrt(sum((anchor[clip, i] - other[clip, i] + 1e-6).item() ** 2 for i in range(7)))
            for other in (positive, negative)
        )
        expected.append(max(0.0, near - far + 1))
    assert triplets(anchor, positive, negative).tolist() == pytest.approx(expected, rel=1e-5)
    mean = triplet(anchor, positive, negative).item()
    assert mean == pytest.approx(sum(expected) / 5, rel=1e-5)


def test_triplets_have_a_gradient_where_points_agree():
    points = torch.ones(2, 3, requires_grad=True)
    triplet(points, points * 1, points * 1).backward()
    assert points.grad.isfinite().all()


def test_a_sum_of_terms():
    weight = torch.tensor(2.0, requires_grad=True)
    losses = Losses({"pull": weight * 3, "push": weight**2})
    assert losses.total.item() == 10
    losses.total.backward()
    assert weight.grad.item() == 3 + 2 * 2
    terms = losses.terms()
    assert {name: term.item() for name, term in terms.items()} == {"loss": 10, "pull": 6, "push": 4}
    assert list(terms) == ["loss", "pull", "push"]
    assert not any(term.requires_grad for term in terms.values())


@pytest.mark.parametrize("names", [[], ["pull", "loss"]])
def test_terms_that_are_none(names):
    with pytest.raises(TCAFError, match=r"at least one term, none of them called 'loss'.*got \["):
        Losses(dict.fromkeys(names, torch.tensor(1.0)))
