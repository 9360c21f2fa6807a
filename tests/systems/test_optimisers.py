import math

import pytest
import torch
from torch import nn

from tcaf.errors import TCAFError
from tcaf.settings.experiment import Experiment, TrainingSettings
from tcaf.settings.fidelity import Fidelity
from tcaf.systems.optimisers import Optimiser, new_optimiser, new_schedule, plateau_rate


def settings(patience=3, **training):
    return Experiment(
        training=TrainingSettings(**training), fidelity=Fidelity(plateau_epochs=patience)
    )


def rates(experiment, epochs, scores=()):
    """The learning rate of each epoch, of which the earlier ones had these scores."""
    schedule = new_schedule(experiment)
    return [schedule(epoch, scores[: epoch - 1]) for epoch in range(1, epochs + 1)]


@pytest.mark.parametrize(
    ("scores", "steps"),
    [
        ([], 0),
        ([0.1, 0.2, 0.3], 0),
        ([0.3, 0.2, 0.2], 0),
        ([0.3, 0.2, 0.2, 0.3], 1),  # an equal score is no improvement
        ([0.3, 0.2, 0.2, 0.4, 0.1, 0.1], 0),  # a new best starts the count anew
        ([0.3] + [0.1] * 5, 1),
        ([0.3] + [0.1] * 6, 2),  # after a step three more epochs are waited for
        ([0.3, 0.2, 0.25, 0.29], 1),  # rising, but below the best
        ([0.0] * 3, 0),
        ([0.0] * 4, 1),
    ],
)
def test_plateau_by_hand(scores, steps):
    assert plateau_rate(scores, 0.7, 0.1, patience=3) == pytest.approx(0.7 * 0.1**steps)


def test_plateau_waits_for_as_many_epochs_as_are_given():
    scores = [0.3] + [0.1] * 4
    assert [plateau_rate(scores, 8.0, 0.5, patience=n) for n in (1, 2, 3, 4, 5)] == [
        0.5,
        2.0,
        4.0,
        4.0,
        8.0,
    ]


def test_plateau_agrees_with_torch():
    scores = torch.rand(97, generator=torch.Generator().manual_seed(0)).tolist()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    # torch steps when more than `patience` epochs were bad, and must count equals as bad.
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=3, threshold=0.0, eps=0.0
    )
    for epoch, value in enumerate(scores, start=1):
        scheduler.step(value)
        rate = optimizer.param_groups[0]["lr"]
        assert plateau_rate(scores[:epoch], 1.0, 0.5, patience=4) == rate


def test_constant():
    made = settings(schedule="constant", learning_rate=0.7)
    assert rates(made, 9, [0.5] + [0.1] * 8) == [0.7] * 9


def test_cosine_by_hand():
    """Four epochs stand at 0, 45, 90 and 135 degrees; a fifth one would be at 180, a rate of 0."""
    made = settings(schedule="cosine", learning_rate=8.0, epochs=4)
    root = math.sqrt(0.5)
    assert rates(made, 4) == pytest.approx([8, 4 * (1 + root), 4, 4 * (1 - root)])
    # Validation is not looked at.
    assert rates(made, 4, [0.5, 0.1, 0.1]) == rates(made, 4)


def test_cosine_after_a_warm_up_by_hand():
    """Thirds of the rate, then two epochs at 0 and 90 degrees."""
    made = settings(schedule="cosine", learning_rate=9.0, epochs=4, warmup_epochs=2)
    assert rates(made, 4) == pytest.approx([3, 6, 9, 4.5])


def test_a_plateau_after_a_warm_up():
    """The scores of the warm-up do not count: the fourth epoch is the first."""
    made = settings(2, learning_rate=8.0, plateau_factor=0.5, epochs=9, warmup_epochs=3)
    scores = [0.9, 0.1, 0.1, 0.3, 0.2, 0.2, 0.2]
    assert rates(made, 8, scores) == [2, 4, 6, 8, 8, 8, 4, 4]


def test_a_warm_up_as_long_as_the_training():
    with pytest.raises(
        TCAFError, match=r"warmup_epochs must be below training\.epochs \(5\), got 5"
    ):
        TrainingSettings(epochs=5, warmup_epochs=5)


def weight(value):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_weight_decay_by_hand():
    """At a gradient of 1, weight 3, decay 0.5 and rate 0.1.

    Adam's first step is the rate whatever the gradient, decay included: 3 - 0.1. AdamW takes the
    decay from the weight first: 3 (1 - 0.1 x 0.5) - 0.1.
    """
    for optimiser, expected in (("adam", 2.9), ("adamw", 2.75)):
        model = weight(3.0)
        made = new_optimiser(model, settings(optimiser=optimiser, weight_decay=0.5))
        made.step(model.weight.sum(), 0.1)
        assert model.weight.item() == pytest.approx(expected)


def test_clipping_by_hand():
    """Gradients 3 and 4 have norm 5; clipped to 1 they are 0.6 and 0.8, clipped to 10 unchanged."""
    for norm, expected in ((1.0, [-0.6, -0.8]), (10.0, [-3.0, -4.0]), (None, [-3.0, -4.0])):
        one, other = weight(0.0), weight(0.0)
        weights = [one.weight, other.weight]
        made = Optimiser(torch.optim.SGD(weights, lr=9.0), lambda epoch, scores: 1.0, norm)
        made.step(3 * one.weight.sum() + 4 * other.weight.sum(), 1.0)
        assert [w.item() for w in weights] == pytest.approx(expected)


def test_the_clipping_that_is_asked_for():
    assert new_optimiser(weight(0.0), settings()).clip_norm is None
    assert new_optimiser(weight(0.0), settings(clip_norm=0.3)).clip_norm == 0.3


def test_a_state_without_averages():
    """Plain gradient descent keeps none."""
    model = weight(1.0)
    made = Optimiser(torch.optim.SGD(model.parameters(), lr=1.0), lambda epoch, scores: 1.0)
    made.step(model.weight.sum(), 1.0)
    assert made.state() == {}
    made.load_state({})
    made.step(model.weight.sum(), 1.0)
    assert model.weight.item() == -1
