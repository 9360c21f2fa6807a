"""The yardsticks of `benchmarks/` compute what TCaF computes: else their ratios say nothing."""

from dataclasses import replace

import pytest
import torch
from benchmarks.train_step import (
    SHAPES,
    Shape,
    measure,
    new_batch,
    new_config,
    new_floor,
    new_models,
    new_step,
    new_text,
    padded,
    padded_losses,
)
from torch.utils.flop_counter import FlopCounterMode

from tcaf.systems.tcaf import tcaf_objective

RAGGED = Shape("synthetic", (31, 43), dims=(5, 7), clips=7, spread=0.5)
EQUAL = replace(RAGGED, tokens=(21, 35), spread=0.0)


@torch.no_grad()
def test_the_padded_model_gives_the_same():
    model, other = new_models(RAGGED)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.3)
    other.load_state_dict(model.state_dict())
    batch = new_batch(RAGGED)
    assert len(set(batch.audio.lens.tolist())) > 2
    found = model.double().eval()(_double(batch))
    clips = {
        m: (features.double(), times.double(), real)
        for m, (features, times, real) in padded(batch).items()
    }
    expected = other.double().eval()(clips)
    torch.testing.assert_close(found.video_embedding, expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.video_reconstruction, expected[1], rtol=1e-10, atol=1e-10)


def _double(batch):
    parts = {
        m: replace(p, tokens=p.tokens.double(), times=p.times.double())
        for m, p in (("audio", batch.audio), ("visual", batch.visual))
    }
    return replace(batch, **parts)


def test_the_padded_model_learns_the_same():
    """In training, without dropout: of clips of one length, where no batch norm sees padding."""
    model, other = (each.double().train() for each in new_models(EQUAL))
    batch, text = _double(new_batch(EQUAL)), new_text().double()
    _, experiment = new_config(EQUAL)
    loss = tcaf_objective(model, batch, None, text, experiment).total
    loss.backward()
    expected = padded_losses(other, batch, text)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = {name: weight.grad for name, weight in other.named_parameters()}
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [EQUAL, RAGGED])
def test_the_floor_has_the_steps_products(shape):
    """All of them, and of clips of one length nothing else."""
    step = new_step(shape)
    _, multiply_adds = new_floor(shape)
    with FlopCounterMode(display=False) as counter:
        step()
    least = 2 * multiply_adds
    if shape is EQUAL:
        # The floor has no product with class text and its loss.
        text = _products_with_text(shape)
        assert counter.get_total_flops() == least + text
    else:
        assert counter.get_total_flops() > 0.97 * least


def _products_with_text(shape):
    config, _ = new_config(shape)
    joint, classes, text = config.joint_dim, 30, 300
    # W_proj forward and its weight; D_w forward and both; dot products of clips and classes.
    own = 2 * classes * text * joint + 3 * classes * joint * text
    return 2 * (own + 3 * shape.clips * joint * classes)


def test_lengths_sum_to_those_of_the_data():
    for shape in SHAPES.values():
        assert tuple(int(lens.sum()) for lens in shape.lens()) == shape.tokens
        assert all(lens.min() >= 1 for lens in shape.lens())


@pytest.mark.slow
def test_a_measurement_has_all_its_ratios():
    found = measure(RAGGED, 1, undone=True)
    assert {"floor", "step", "padded", "one bucket"} <= set(found["to_floor"])
    assert found["padded_to_step"] == pytest.approx(
        found["to_floor"]["padded"] / found["to_floor"]["step"]
    )
