from dataclasses import replace

import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.reports.theme import to_svg
from tcaf.reports.timelines import attention_over_time, training_curves
from tcaf.systems.attention_map import AttentionMap
from tcaf.training.observers import EpochRecord

pytest.importorskip("matplotlib")


def record(stage, epoch, validated=True, rate=1e-3):
    scores = {"seen": 0.4, "unseen": 0.1 * epoch, "harmonic_mean": 0.16, "zsl": 0.3, "gamma": 0.2}
    losses = {"loss": 3.0 / epoch, "cross_entropy": 1.0 / epoch, "regression": 2.0 / epoch}
    return EpochRecord(stage, epoch, rate, losses, scores if validated else None, 1.0)


def two_stages():
    first = [record(1, epoch, rate=1e-3 if epoch < 4 else 1e-4) for epoch in range(1, 6)]
    return [*first, *(record(2, epoch, validated=False) for epoch in range(1, 4))]


def titled(figure):
    return {axis.get_title(loc="left"): axis for axis in figure.axes}


def drawn(axis):
    return {line.get_label(): line for line in axis.lines}


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_training_of_both_stages(width):
    # In any order.
    figure = training_curves(two_stages()[::-1], chosen_epoch=3, width=width)
    axes = titled(figure)
    assert set(axes) == {
        "stage 1: losses",
        "stage 1: validation (%)",
        "stage 1: learning rate",
        "stage 2: losses",
        "stage 2: learning rate",
    }
    losses = drawn(axes["stage 1: losses"])
    assert set(losses) == {"total", "cross-entropy", "regression", "chosen: 3"}
    assert losses["total"].get_xdata().tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(losses["total"].get_ydata(), 3 / np.arange(1, 6))
    scores = drawn(axes["stage 1: validation (%)"])
    assert set(scores) == {"S", "U", "HM", "ZSL", "chosen: 3"}
    np.testing.assert_allclose(scores["U"].get_ydata(), [10, 20, 30, 40, 50])
    np.testing.assert_allclose(
        axes["stage 1: learning rate"].lines[0].get_ydata(), [1e-3] * 3 + [1e-4] * 2
    )
    for axis in axes.values():
        assert axis.lines[-1].get_xdata() == [3, 3]
    assert axes["stage 1: losses"].get_ylim() == axes["stage 2: losses"].get_ylim()


def test_legends():
    axes = titled(training_curves(two_stages(), chosen_epoch=3))
    texts = [t.get_text() for t in axes["stage 1: validation (%)"].get_legend().get_texts()]
    assert texts == ["S", "U", "HM", "ZSL", "chosen: 3"]
    # One legend for the losses of both, at the end of the row.
    assert axes["stage 1: losses"].get_legend() is None
    assert axes["stage 2: losses"].get_legend() is not None


def test_an_epoch_chosen_by_nobody():
    axes = titled(training_curves(two_stages()))
    assert set(drawn(axes["stage 1: losses"])) == {"total", "cross-entropy", "regression"}
    # Stage 2 of 3 epochs never reached epoch 4.
    axes = titled(training_curves(two_stages(), chosen_epoch=4))
    assert "chosen: 4" in drawn(axes["stage 1: losses"])
    assert "chosen: 4" not in drawn(axes["stage 2: losses"])


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_an_epoch_of_a_closed_form_is_a_choice(width):
    """Its record has regularisers beside the loss: they name the choice and are no losses."""
    tried = [(0.5, 3.0), (0.5, 1.0), (0.2, 3.0), (0.2, 1.0)]
    records = [
        replace(
            record(1 + (number == 5), min(number, 3), number < 5, rate=0.0),
            epoch=number if number < 5 else 3,
            losses={"loss": 0.1 * number, "rho": rho, "lambda": lambda_},
        )
        for number, (rho, lambda_) in enumerate([*tried, tried[2]], start=1)
    ]
    axes = titled(training_curves(records, chosen_epoch=3, width=width))
    assert set(axes) == {"stage 1: losses", "stage 1: validation (%)", "stage 2: losses"}
    assert set(drawn(axes["stage 1: losses"])) == {"total", "chosen: rho 0.2,\nlambda 3"}
    # Named once a stage, below its lowest row.
    labels = [axis.get_xlabel() for axis in axes.values()]
    assert labels == ["", "choice of rho, lambda", "choice of rho, lambda"]
    assert axes["stage 2: losses"].lines[0].get_xdata().tolist() == [3]


def test_some_epochs_are_not_validated():
    records = [record(1, epoch, validated=epoch % 2 == 0) for epoch in range(1, 5)]
    scores = drawn(titled(training_curves(records))["stage 1: validation (%)"])
    np.testing.assert_allclose(scores["U"].get_ydata(), [np.nan, 20, np.nan, 40])


@pytest.mark.slow
@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_one_epoch(width):
    figure = training_curves([record(1, 1)], chosen_epoch=1, width=width)
    assert drawn(figure.axes[0])["total"].get_marker() == "o"
    # Ticks of the learning rate are plain numbers.
    assert "mathdefault" not in to_svg(figure, "a", "")


def test_a_training_without_validation():
    figure = training_curves([record(2, epoch, validated=False) for epoch in (1, 2)])
    assert set(titled(figure)) == {"stage 2: losses", "stage 2: learning rate"}
    # No room is kept for what is not there.
    assert figure.get_figheight() < training_curves(two_stages()).get_figheight() - 2


@pytest.mark.slow
def test_a_closed_form_has_no_learning_rate():
    figure = training_curves([record(1, epoch, rate=0.0) for epoch in (1, 2)])
    assert set(titled(figure)) == {"stage 1: losses", "stage 1: validation (%)"}


def test_curves_need_an_epoch():
    with pytest.raises(TCAFError, match="at least one epoch"):
        training_curves([])


def made(layers=2, audio=3, visual=4, crossing=1):
    """Weights that grow with the token; the class token keeps half of its own."""

    def rows(num, share):
        weights = np.arange(1.0, num + 1) if num else np.zeros(0)
        return share * weights / max(weights.sum(), 1) * np.ones((layers, 1))

    return AttentionMap(
        np.arange(audio) * 0.96,
        np.arange(visual) * 0.64,
        np.full(layers, 0.5),
        rows(audio, 0.2),
        rows(visual, 0.3),
        np.full((crossing, audio, visual), 0.2) * (1 + np.arange(visual)),
        np.full((crossing, visual, audio), 0.1),
    )


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_attention_of_a_clip(width):
    figure = attention_over_time(made(), width=width)
    line, audio, visual, cross = figure.axes
    assert line.get_title(loc="left") == "class token in layer 2 (1: even weight)"
    steps = {patch.get_label(): patch.get_data() for patch in line.patches}
    assert set(steps) == {"audio (0.96 s)", "visual (0.64 s)"}
    # 1 + 3 + 4 tokens: audio 0.2 x (1, 2, 3) / 6 x 8; a token lasts until the next.
    np.testing.assert_allclose(steps["audio (0.96 s)"].values, np.array([1, 2, 3]) * 0.2 / 6 * 8)
    np.testing.assert_allclose(steps["audio (0.96 s)"].edges, [0, 0.96, 1.92, 2.88])
    np.testing.assert_allclose(steps["visual (0.64 s)"].edges, [0, 0.64, 1.28, 1.92, 2.56])
    # Both strips share the seconds and the scale: visual's last is the most, 0.3 x 4 / 10 x 8.
    for axis in (line, audio, visual):
        assert axis.get_xlim() == pytest.approx((0, 2.88))
    assert audio.images[0].get_array().shape == (2, 3, 4)
    np.testing.assert_allclose(audio.images[0].get_array()[0, 2, 3], 0.8 / 0.96)
    np.testing.assert_allclose(visual.images[0].get_array()[1, :, 3], [0.25, 0.5, 0.75, 1])
    assert audio.images[0].get_extent() == pytest.approx([0, 2.88, 2.5, 0.5])
    assert cross.images[0].get_array().shape == (3, 4, 4)
    np.testing.assert_allclose(cross.images[0].get_array()[0, :, 3], [0.25, 0.5, 0.75, 1])
    assert cross.images[0].get_extent() == pytest.approx([0, 2.56, 2.88, 0])
    assert cross.get_title(loc="left") == "audio to visual, layer 1, full colour: 80%"


def test_another_layer():
    figure = attention_over_time(made(layers=5), layer=3)
    assert figure.axes[0].get_title(loc="left").startswith("class token in layer 3")
    for layer in (0, 6):
        with pytest.raises(TCAFError, match=f"layers 1 to 5, got {layer}"):
            attention_over_time(made(layers=5), layer=layer)


@pytest.mark.parametrize("width", ["wide", "narrow"])
@pytest.mark.parametrize(
    ("parts", "axes"),
    [
        ({"crossing": 0}, 3),
        ({"audio": 0}, 2),
        ({"layers": 0}, 1),
        ({"audio": 1, "visual": 1}, 4),
    ],
)
def test_what_is_missing_is_left_out(parts, axes, width):
    assert len(attention_over_time(made(**parts), width=width).axes) == axes


def test_an_empty_map():
    with pytest.raises(TCAFError, match="the attention map is empty"):
        attention_over_time(made(layers=0, crossing=0))


def test_of_a_model(small_model, random_batch):
    found = small_model(num_layers=3).attention_map(random_batch([5], [7]))
    figure = attention_over_time(found)
    assert figure.axes[1].images[0].get_array().shape == (3, 5, 4)
    assert "layer 2" in figure.axes[3].get_title(loc="left")
