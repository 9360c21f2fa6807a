"""On a GPU: training, resuming, evaluating; skipped where there is none.

What is compared with the CPU is compared within the rounding of float32 sums in another order.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tcaf.data.resident import ResidentClips
from tcaf.training.evaluate import evaluate_run
from tcaf.training.observers import Silence
from tcaf.training.protocol import TwoStages
from tcaf.training.run import Run, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

SYSTEMS = ("tcaf", "attention_fusion", "perceiver", "tcaf_cosine", "cjme", "avgzslnet", "avca")
NO_DROPOUT = {
    f"dropout_{name}": 0.0
    for name in ("encoder", "position", "transformer", "text_projection", "video_projection")
}
OPTIONS = {
    "cjme": {"dropout": 0.0},
    "avgzslnet": {"dropout_embedder": 0.0, "dropout_decoder": 0.0},
    "avca": {"dropout_encoder": 0.0, "dropout_projection": 0.0, "dropout_decoder": 0.0},
}


@pytest.fixture
def on(tiny_experiment):
    """Builds an experiment without dropout on a device."""

    def build(device, system="tcaf", **training):
        return tiny_experiment(
            system=system,
            options=OPTIONS.get(system, {}),
            model=NO_DROPOUT,
            training={"device": device, "learning_rate": 1e-4, **training},
        )

    return build


def protocol(store, experiment):
    return TwoStages(experiment, store, {"text": store.text("attributes")})


def epochs(store, experiment):
    stage = protocol(store, experiment).new_stage(1)
    return [stage.run_epoch(number, 1e-4) for number in (1, 2)]


@pytest.mark.parametrize("system", SYSTEMS)
def test_losses_are_those_of_the_cpu(tiny_store, on, system):
    found, expected = (epochs(tiny_store, on(device, system)) for device in ("cuda", "cpu"))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("system", ["ridge", "textlda"])
def test_fits_are_those_of_the_cpu(tiny_store, on, system):
    found, expected = (epochs(tiny_store, on(device, system)) for device in ("cuda", "cpu"))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize(("precision", "rel"), [("tf32", 5e-3), ("bfloat16", 5e-2)])
def test_coarser_products(tiny_store, on, precision, rel):
    coarse = epochs(tiny_store, on("cuda", precision=precision))
    fine = epochs(tiny_store, on("cuda"))
    assert [e["loss"] for e in coarse] == pytest.approx([e["loss"] for e in fine], rel=rel)


@pytest.mark.parametrize("system", ["tcaf", "tcaf_cosine"])
def test_recorded_steps_are_plain_ones(tiny_store, on, system):
    recorded = epochs(tiny_store, on("cuda", system, static_shapes=True))
    for one, other in zip(recorded, epochs(tiny_store, on("cuda", system)), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_steps_are_recorded_and_draw_dropout_anew(tiny_store, tiny_experiment):
    """A recording that drew once would repeat itself; the same seed repeats the epoch."""
    made = tiny_experiment(training={"device": "cuda", "static_shapes": True})
    one, other = (protocol(tiny_store, made).new_stage(1) for _ in range(2))
    first = [stage.run_epoch(1, 0.0)["loss"] for stage in (one, other)]
    assert one.fixed._recorded
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    assert one.run_epoch(2, 0.0)["loss"] != pytest.approx(first[0], rel=1e-5)


def test_attention_of_variable_length(tiny_store, on):
    """In bfloat16, where the card has it, against rectangles."""
    from tcaf.systems import filled_attention

    made = on("cuda", precision="bfloat16", static_shapes=True)
    found = epochs(tiny_store, made)
    if filled_attention.varlen_kernel(torch.device("cuda")) is None:
        pytest.skip("this card, or this torch, has no such kernel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filled_attention, "varlen_kernel", lambda device: None)
        other = epochs(tiny_store, made)
    assert [e["loss"] for e in found] == pytest.approx([e["loss"] for e in other], rel=2e-2)


def test_the_store_is_on_the_gpu(tiny_store, on, monkeypatch):
    """And a store that does not fit gives the same batches."""
    resident = protocol(tiny_store, on("cuda"))
    assert isinstance(resident.clips, ResidentClips)
    monkeypatch.setattr("tcaf.data.resident.SHARE", 0.0)
    pinned = protocol(tiny_store, on("cuda"))
    assert pinned.clips is tiny_store
    chosen = np.array([3, 0, 7, 3])
    one, other = (each.new_stage(1).part.load(chosen) for each in (resident, pinned))
    for name in ("audio", "visual"):
        found, expected = getattr(one, name), getattr(other, name)
        assert found.tokens.is_cuda
        assert expected.tokens.is_cuda
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.times, expected.times)


@pytest.mark.parametrize("system", ["tcaf", "avca"])
def test_nothing_in_an_epoch_waits_for_the_gpu(tiny_store, on, system):
    """Torch says so itself; what is read at an epoch's end waits once."""
    stage = protocol(tiny_store, on("cuda", system)).new_stage(1)
    stage.run_epoch(1, 1e-4)
    batch = np.arange(11)
    text = stage.part.class_text.model_input
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = stage.part.load(batch)
        others = stage.part.load(batch[::-1].copy()) if stage.negatives else None
        terms = stage.step(found, others, text)
        stage.optimiser.step(sum(terms.values()), 1e-4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class StopAfter(Silence):
    def __init__(self, epochs):
        self.left = epochs

    def epoch_done(self, record):
        self.left -= 1

    def batch_done(self, epoch, batch, num_batches, losses):
        if not self.left:
            raise KeyboardInterrupt


def test_a_run_is_resumed_and_evaluated(tiny_store, on, tmp_path):
    """By the GPU that it began on, and by the CPU, which rounds otherwise."""
    made = on("cuda", epochs=3)
    expected = train(made, tiny_store, tmp_path / "whole")
    for device in ("cuda", "cpu"):
        out = tmp_path / device
        with pytest.raises(KeyboardInterrupt):
            train(made, tiny_store, out, observer=StopAfter(2))
        train(on(device, epochs=3), tiny_store, out, resume=True)
        records, whole = Run(out).records(), Run(tmp_path / "whole").records()
        for one, other in zip(records, whole, strict=True):
            assert one.losses == pytest.approx(other.losses, rel=1e-3)
    scores = [
        evaluate_run(tmp_path / "whole", tiny_store, device=device).result.harmonic_mean
        for device in ("cuda", "cpu")
    ]
    assert scores[0] == pytest.approx(expected["test"]["harmonic_mean"], abs=1e-6)
    assert scores[1] == pytest.approx(scores[0], abs=0.05)


def test_two_gpus(tiny_store, on, tmp_path, toml):
    if torch.cuda.device_count() < 2:
        pytest.skip("a single GPU")
    config = toml(tmp_path / "settings.toml", on("cuda"))
    out = tmp_path / "run"
    arguments = ["train", "--store", str(tiny_store.path), "--out", str(out), "--config", config]
    how = ["--standalone", "--nproc-per-node", "2", "-m", "tcaf"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *how, *map(str, arguments)]
    subprocess.run(torchrun, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    alone = epochs(tiny_store, on("cuda"))
    for record, losses in zip(Run(out).records(), alone, strict=False):
        assert record.losses == pytest.approx(losses, rel=1e-4)
