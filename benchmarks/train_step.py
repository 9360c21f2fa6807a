"""Measures TCaF's training step against its matrix products alone, and against padded code.

    python -m benchmarks.train_step --out train_step.json

At the shapes of the paper's three data sets, and at that of the synthetic world: the step (forward,
losses, backward, Adam); the floor, the same matrix products forward and backward and nothing else;
the step of the padded, masked model of `padded_tcaf.py`, with a second forward a batch as in the
authors' release; and the step with one of its savings undone, or with something that was tried and
brought nothing. All take turns in one process; figures are ratios of medians.

What was tried beside that and is not here: a malloc that keeps freed memory (mallopt; nothing);
one masked square for short clips in place of two rectangles and a row (attention takes 6.3 in place
of 8.6 ms a layer at UCF's shape, but 91 in place of 67 at ActivityNet's: a second path for 3 %);
splitting the product behind the positions in place of a concatenation (a thousandth); torch.compile
of each layer's feed-forward half for any number of rows (1.31 times the floor in place of 1.27 at
UCF's shape, 1.22 in place of 1.19 at VGGSound's, and 25 s to compile, with a C++ compiler).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks.padded_tcaf import PaddedTCAF
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packed
from tcaf.data.windows import ranges
from tcaf.experiments.layers import Layer, resolve
from tcaf.experiments.presets import read_preset
from tcaf.settings.experiment import Experiment
from tcaf.systems import attention, blocks, layout
from tcaf.systems.joint_space import TCAFConfig
from tcaf.systems.losses import tcaf_losses
from tcaf.systems.optimisers import new_optimiser
from tcaf.systems.registry import configure
from tcaf.systems.tcaf import TCAF, tcaf_objective

STEPS_S = {"audio": 0.96, "visual": 0.64}
CLASSES, TEXT_DIM = 30, 300


@dataclass(frozen=True)
class Shape:
    """A batch and the model that is trained on it.

    Args:
        preset: of the model's settings.
        tokens: audio and visual tokens of all clips together.
        dims: size of an audio and of a visual feature.
        clips: in the batch.
        spread: standard deviation of the logarithm of the clips' lengths; 0 for equal ones, as
            VGGSound's ten seconds and ActivityNet's windows are.
    """

    preset: str
    tokens: tuple[int, int]
    dims: tuple[int, int] = (128, 4096)
    clips: int = 64
    spread: float = 0.0

    def lens(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the audio and visual tokens of each clip."""
        draw = np.random.default_rng(0)
        share = np.exp(self.spread * draw.normal(size=self.clips))
        return tuple(_rounded(total * share / share.sum(), total) for total in self.tokens)


def _rounded(lens: np.ndarray, total: int) -> np.ndarray:
    """Returns whole lengths of at least 1 that sum to `total`."""
    whole = np.maximum(np.floor(lens), 1).astype(np.int64)
    order = np.argsort(-lens)
    while left := total - int(whole.sum()):
        whole[order[: abs(left)]] += np.sign(left)
    return whole


SHAPES = {
    # UCF101's clips last 1 to 71 seconds, 7 on average.
    "UCF": Shape("ucf_cls", (453, 673), spread=0.5),
    "VGGSound": Shape("vggsound_cls", (640, 960)),
    "ActivityNet": Shape("activitynet_cls", (2560, 3840)),
    "synthetic": Shape("synthetic", (1280, 1920), dims=(64, 64), clips=128),
}


def new_batch(shape: Shape) -> FeatureBatch:
    """Returns clips of random features."""
    draw = torch.Generator().manual_seed(0)
    packed = {}
    for modality, lens, dim in zip(STEPS_S, shape.lens(), shape.dims, strict=True):
        tokens = torch.rand(int(lens.sum()), dim, generator=draw)
        times = torch.from_numpy(ranges(lens) * STEPS_S[modality]).float()
        packed[modality] = Packed(tokens, torch.from_numpy(lens), times)
    labels = torch.randint(CLASSES, (shape.clips,), generator=draw)
    return FeatureBatch(**packed, labels=labels)


def padded(batch: FeatureBatch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Returns the same clips padded to the longest."""
    found = {}
    for modality in STEPS_S:
        packed = batch.modality(modality)
        packing = packed.packing
        times = packing.unpack(packed.times[:, None])[:, :, 0]
        found[modality] = (packing.unpack(packed.tokens), times, packing.real)
    return found


def new_config(shape: Shape, **changes: Any) -> tuple[TCAFConfig, Experiment]:
    """Returns the model's configuration and the settings of its training."""
    preset = Layer(shape.preset, read_preset(shape.preset))
    experiment = resolve([preset, Layer("benchmark", {"model": changes})])
    audio, visual = shape.dims
    config = configure(experiment, audio_dim=audio, visual_dim=visual, text_dim=TEXT_DIM)
    assert isinstance(config, TCAFConfig)
    return config, experiment


def new_models(shape: Shape, **changes: Any) -> tuple[TCAF, PaddedTCAF]:
    """Returns both models with the same weights."""
    torch.manual_seed(0)
    config, _ = new_config(shape, **changes)
    model, other = TCAF(config), PaddedTCAF(config)
    other.load_state_dict(model.state_dict())
    return model, other


def new_text() -> Tensor:
    """Returns class text."""
    return torch.randn(CLASSES, TEXT_DIM, generator=torch.Generator().manual_seed(1))


def new_step(shape: Shape) -> Callable[[], None]:
    """Returns our training step."""
    model, _ = new_models(shape)
    _, experiment = new_config(shape)
    batch, text = new_batch(shape), new_text()
    optimiser = new_optimiser(model.train(), experiment)

    def step() -> None:
        loss = tcaf_objective(model, batch, None, text, experiment).total
        optimiser.step(loss, experiment.training.learning_rate)

    return step


def padded_losses(model: PaddedTCAF, batch: FeatureBatch, text: Tensor) -> Tensor:
    """Returns the padded model's loss."""
    labels = batch.known_labels
    return tcaf_losses(*model(padded(batch)), *model.embed_text(text), text, labels).total


def new_padded_step(shape: Shape) -> Callable[[], None]:
    """Returns the padded model's step, with the second forward of negatives that is not used."""
    _, model = new_models(shape)
    batch, text = new_batch(shape), new_text()
    negatives = padded(batch)
    optimiser = torch.optim.Adam(model.train().parameters(), lr=7e-5)

    def step() -> None:
        loss = padded_losses(model, batch, text)
        model(negatives)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def products(shape: Shape) -> Iterator[tuple[int, int, int, int]]:
    """Yields rows, input and output size of each product of a step with weights.

    And how many gradients are needed: of the features there is none, nor of fixed frequencies.
    """
    config, _ = new_config(shape)
    clips, inner = shape.clips, config.num_heads * config.head_dim
    token, hidden = config.token_dim, config.encoder_hidden_dim
    position, middle = config.position_dim, config.projection_hidden_dim
    rows = sum(shape.tokens) + clips
    for total, dim in zip(shape.tokens, shape.dims, strict=2):
        yield from ((total, dim, hidden, 1), (total, hidden, token, 2))
        yield from ((total, 2, position // 2, 0), (total, position, position, 1))
        yield total, token + position, token, 2
    for number in range(config.num_layers):
        queries = rows if number < config.num_layers - 1 else clips
        yield from ((queries, token, inner, 2), (rows, token, 2 * inner, 2))
        yield queries, inner, token, 2
        yield queries, token, config.feed_forward_dim, 2
        yield queries, config.feed_forward_dim, token, 2
    for first, last in ((token, middle), (middle, config.joint_dim)):
        yield clips, first, last, 2
    for first, last in ((config.joint_dim, middle), (middle, TEXT_DIM)):
        yield clips, first, last, 2


def rectangles(shape: Shape) -> Iterator[tuple[int, int, int, int]]:
    """Yields clips times heads, queries, keys and head size of each layer's attention.

    Of clips of the mean length, so that none is padded.
    """
    config, _ = new_config(shape)
    audio, visual = (max(1, round(total / shape.clips)) for total in shape.tokens)
    for number in range(config.num_layers):
        cross = [(audio, visual + 1), (visual, audio + 1)] if number < config.num_layers - 1 else []
        for queries, keys in [*cross, (1, audio + visual + 1)]:
            yield shape.clips * config.num_heads, queries, keys, config.head_dim


def new_floor(shape: Shape) -> tuple[Callable[[], None], int]:
    """Returns the step's matrix products, forward and backward, and their multiply-adds."""
    weighted, attended, count = [], [], 0
    joined: list[tuple[int, int, int, int]] = []
    for rows, first, last, needed in products(shape):
        if joined and joined[-1][:2] == (rows, first) and joined[-1][2] * 2 == last:
            joined[-1] = (rows, first, 3 * joined[-1][2], needed)  # queries, keys, values in one
        else:
            joined.append((rows, first, last, needed))
    for rows, first, last, needed in joined:
        sizes = ((rows, first), (last, first), (rows, last))
        weighted.append((*(torch.randn(size) for size in sizes), needed))
        count += (1 + needed) * rows * first * last
    for batch, queries, keys, dim in rectangles(shape):
        sizes = (queries, dim), (keys, dim), (keys, dim), (queries, keys)
        attended.append([torch.randn(batch, *size) for size in sizes])
        count += 6 * batch * queries * keys * dim

    def floor() -> None:
        for rows, weight, grad, needed in weighted:
            rows @ weight.T
            if needed >= 1:
                grad.T @ rows
            if needed == 2:
                grad @ weight
        for query, key, value, pairs in attended:
            torch.bmm(query, key.mT), torch.bmm(pairs, value)
            torch.bmm(query, value.mT), torch.bmm(pairs.mT, query)
            torch.bmm(pairs, key), torch.bmm(pairs.mT, query)

    return floor, count


@contextmanager
def flushed() -> Iterator[None]:
    """Takes numbers too small for full precision for 0."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def slower_adam(shape: Shape) -> Callable[[], None]:
    """Returns our step with Adam as torch has it by default."""
    adam = torch.optim.Adam
    with mock.patch.object(torch.optim, "Adam", lambda *a, fused, **k: adam(*a, **k)):
        return new_step(shape)


UNDONE: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "torch's dropout": lambda: mock.patch.object(blocks.Dropout, "forward", nn.Dropout.forward),
    "torch's attention": lambda: mock.patch.object(attention, "attend", attention.by_kernel),
    "torch's softmax": lambda: mock.patch.object(attention, "SHORT_ROW", 0),
    "one bucket": lambda: mock.patch.object(layout, "NARROWEST", 0.0),
    "denormals flushed (tried)": flushed,
}
"""What the step is measured without, or with if it was tried; each by its name."""


def measure(shape: Shape, rounds: int, *, undone: bool) -> dict[str, Any]:
    """Returns medians over rounds, in seconds, and their ratios to the floor.

    Args:
        shape: of the batch.
        rounds: in which all take turns; one before them is not counted.
        undone: also measure the step without each of its savings.
    """
    floor, multiply_adds = new_floor(shape)
    step = new_step(shape)
    turns: dict[str, tuple[Callable[[], None], Callable[[], AbstractContextManager[Any]]]] = {
        "floor": (floor, nullcontext),
        "step": (step, nullcontext),
        "padded": (new_padded_step(shape), nullcontext),
    }
    if undone:
        turns |= {name: (step, change) for name, change in UNDONE.items()}
        turns["torch's default Adam"] = (slower_adam(shape), nullcontext)
    # Of one thread its own time: what else runs on the machine is of no account then.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, (work, change) in turns.items():
            with change():
                start = clock()
                work()
                times[name].append(clock() - start)
    found = {name: median(each[1:]) for name, each in times.items()}
    with FlopCounterMode(display=False) as counter:
        step()
    return {
        "seconds": found,
        "to_floor": {name: each / found["floor"] for name, each in found.items()},
        "padded_to_step": found["padded"] / found["step"],
        "floor_flops": 2 * multiply_adds,
        "step_flops": counter.get_total_flops(),
    }


def profiled(shape: Shape, steps: int = 3) -> str:
    """Returns where a step's time goes, by torch's operators, as a table."""
    step = new_step(shape)
    step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            step()
    averages = found.key_averages()
    total = sum(each.self_cpu_time_total for each in averages)
    lines = [f"{'operator':48} {'share':>6} {'calls a step':>13}"]
    for each in sorted(averages, key=lambda each: -each.self_cpu_time_total)[:20]:
        name = each.key.removeprefix("aten::")[:48]
        share = each.self_cpu_time_total / total
        lines.append(f"{name:48} {share:6.1%} {each.count / steps:13.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found: dict[str, Any] = {"threads": asked.threads, "rounds": asked.rounds, "shapes": {}}
    for name in asked.shapes:
        # At the largest shape a round takes as long as all others: what it undoes is left out.
        undone = name != "ActivityNet"
        own = found["shapes"][name] = measure(SHAPES[name], asked.rounds, undone=undone)
        print(f"{name}: {own['padded_to_step']:.2f} times as fast as the padded step; of the floor")
        for what, ratio in own["to_floor"].items():
            print(f"    {what:28} {ratio:6.2f}")
    found["profile"] = {name: profiled(SHAPES[name]) for name in asked.shapes}
    print(next(iter(found["profile"].values())))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
