"""On a GPU: training, resuming, evaluating; skipped where there is none.

What is compared with the CPU is compared within the rounding of float32 sums in another order. Most
run on the CPU too, in the slow tier: what never ran there would not be right on a GPU either.
"""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from other_values import NO_DROPOUT
from run_by_run import reference_kernel
from tcaf.data.filled import FilledPacked, size_for
from tcaf.data.resident import ResidentClips
from tcaf.systems.filled_attention import by_rectangles, by_sequences, varlen_kernel
from tcaf.systems.filled_layout import FilledLayout
from tcaf.training.evaluate import evaluate_run
from tcaf.training.observers import Silence
from tcaf.training.protocol import TwoStages
from tcaf.training.run import Run, train

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
on_a_gpu = pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])

SYSTEMS = ("tcaf", "attention_fusion", "perceiver", "tcaf_cosine", "cjme", "avgzslnet", "avca")
OPTIONS = {
    "cjme": {"dropout": 0.0},
    "avgzslnet": {"dropout_embedder": 0.0, "dropout_decoder": 0.0},
    "avca": {"dropout_encoder": 0.0, "dropout_projection": 0.0, "dropout_decoder": 0.0},
}


@pytest.fixture(
    params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=GPU)]
)
def device(request):
    return request.param


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
def test_losses_are_those_of_the_cpu(tiny_store, on, device, system):
    found, expected = (epochs(tiny_store, on(each, system)) for each in (device, "cpu"))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("system", ["ridge", "textlda"])
def test_fits_are_those_of_the_cpu(tiny_store, on, device, system):
    found, expected = (epochs(tiny_store, on(each, system)) for each in (device, "cpu"))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize(("precision", "rel"), [("tf32", 5e-3), ("bfloat16", 5e-2)])
def test_coarser_products(tiny_store, on, device, precision, rel):
    coarse = epochs(tiny_store, on(device, precision=precision))
    fine = epochs(tiny_store, on(device))
    assert [e["loss"] for e in coarse] == pytest.approx([e["loss"] for e in fine], rel=rel)


RECORDED = {"static_shapes": True, "batches_per_epoch": 12}
"""Enough batches that most of them are played."""


@pytest.mark.parametrize(
    ("system", "precision", "rel"),
    [("tcaf", "float32", 1e-3), ("tcaf_cosine", "float32", 1e-3), ("tcaf", "bfloat16", 0.1)],
)
def test_recorded_steps_are_plain_ones(tiny_store, on, device, system, precision, rel):
    """Over a learning rate that changes, with which all is recorded anew."""
    stages = []
    for fixed in (True, False):
        training = {**RECORDED, "static_shapes": fixed, "precision": precision}
        made = on(device, system, **training)
        # Sizes for the kernel of variable length, in a layer before the last.
        made = replace(made, model=replace(made.model, num_layers=2, head_dim=8))
        stages.append(protocol(tiny_store, made).new_stage(1))
    for number, rate in enumerate((1e-4, 1e-4, 1e-5), start=1):
        one, other = (stage.run_epoch(number, rate) for stage in stages)
        assert one == pytest.approx(other, rel=rel)
        assert stages[0].fixed._recorded


def test_a_recording_draws_dropout_anew_by_the_seed(tiny_store, tiny_experiment, device):
    made = tiny_experiment(training={"device": device, **RECORDED})
    stage = protocol(tiny_store, made).new_stage(1)
    stage.run_epoch(1, 0.0)
    batch = stage.part.load(np.arange(11))
    for _ in range(2):
        stage.fixed.step(batch, 0.0)

    def losses():
        torch.manual_seed(7)
        return [float(stage.fixed.step(batch, 0.0)["loss"]) for _ in range(3)]

    assert stage.fixed._recorded
    assert losses() == losses()
    assert len(set(losses())) == 3


@pytest.mark.parametrize("pattern", ["cross", "self", "full"])
def test_attention_of_variable_length(pattern, device):
    """Against rectangles, with gradients; clips without a modality among the others."""
    device = torch.device(device)
    kernel = reference_kernel if device.type == "cpu" else varlen_kernel(device)
    if kernel is None:
        pytest.skip("this card, or this torch, has no such kernel")
    packed = {}
    for modality, lens in (("audio", [3, 0, 7, 2, 5]), ("visual", [4, 6, 0, 9, 1])):
        rows = torch.zeros(size_for(sum(lens) + 1), 1, device=device)
        own = torch.tensor(lens, device=device)
        packed[modality] = FilledPacked(rows, own, rows[:, 0], size_for(max(lens)))
    layout = FilledLayout(5, packed, device, class_token=True)
    plan = layout.plan(pattern, layout.groups, 2)
    real = torch.cat([torch.arange(5), 5 + torch.arange(17), 25 + torch.arange(20)]).to(device)
    given = torch.randn(layout.num_rows, 3 * 2 * 16, device=device).bfloat16()
    weights = torch.randn(len(real), 2 * 16, device=device).bfloat16()
    found = []
    for compute in (
        lambda rows: by_sequences(plan, plan.sequences, rows, kernel),
        lambda rows: by_rectangles(plan, rows, rows),
    ):
        rows = given.clone().requires_grad_()
        out = compute(rows)[real]
        (out * weights).sum().backward()
        found.append((out.detach(), rows.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=0.03, rtol=0.03)


@on_a_gpu
def test_the_store_is_on_the_gpu(tiny_store, on, device, monkeypatch):
    """And a store that does not fit gives the same batches."""
    resident = protocol(tiny_store, on(device))
    assert isinstance(resident.clips, ResidentClips)
    monkeypatch.setattr("tcaf.data.resident.SHARE", 0.0)
    pinned = protocol(tiny_store, on(device))
    assert pinned.clips is tiny_store
    chosen = np.array([3, 0, 7, 3])
    one, other = (each.new_stage(1).part.load(chosen) for each in (resident, pinned))
    for name in ("audio", "visual"):
        found, expected = getattr(one, name), getattr(other, name)
        assert found.tokens.is_cuda
        assert expected.tokens.is_cuda
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.times, expected.times)


@on_a_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(("system", "fixed"), [("tcaf", False), ("tcaf", True), ("avca", False)])
def test_nothing_in_an_epoch_waits_for_the_gpu(tiny_store, on, device, system, fixed):
    """Torch says so itself; what is read at an epoch's end waits once."""
    settings = {**RECORDED, "static_shapes": fixed}
    stage = protocol(tiny_store, on(device, system, **settings)).new_stage(1)
    stage.run_epoch(1, 1e-4)
    batch = np.arange(11)
    for _ in range(2):
        stage._descend(batch, batch[::-1].copy(), torch.Generator(), 1e-4)
    try:
        torch.cuda.set_sync_debug_mode("error")
        stage._descend(batch, batch[::-1].copy(), torch.Generator(), 1e-4)
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


def test_a_run_is_resumed_and_evaluated(tiny_store, on, device, tmp_path):
    """By the GPU that it began on, and by the CPU, which rounds otherwise."""
    made = on(device, epochs=3)
    expected = train(made, tiny_store, tmp_path / "whole")
    for number, place in enumerate((device, "cpu")):
        out = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            train(made, tiny_store, out, observer=StopAfter(2))
        train(on(place, epochs=3), tiny_store, out, resume=True)
        records, whole = Run(out).records(), Run(tmp_path / "whole").records()
        for one, other in zip(records, whole, strict=True):
            assert one.losses == pytest.approx(other.losses, rel=1e-3)
    scores = [
        evaluate_run(tmp_path / "whole", tiny_store, device=place).result.harmonic_mean
        for place in (device, "cpu")
    ]
    assert scores[0] == pytest.approx(expected["test"]["harmonic_mean"], abs=1e-6)
    assert scores[1] == pytest.approx(scores[0], abs=0.05)


@on_a_gpu
def test_two_gpus(tiny_store, on, device, tmp_path, toml):
    if torch.cuda.device_count() < 2:
        pytest.skip("a single GPU")
    config = toml(tmp_path / "settings.toml", on(device))
    out = tmp_path / "run"
    arguments = ["train", "--store", str(tiny_store.path), "--out", str(out), "--config", config]
    how = ["--standalone", "--nproc-per-node", "2", "-m", "tcaf"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *how, *map(str, arguments)]
    subprocess.run(torchrun, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    alone = epochs(tiny_store, on(device))
    for record, losses in zip(Run(out).records(), alone, strict=False):
        assert record.losses == pytest.approx(losses, rel=1e-4)
