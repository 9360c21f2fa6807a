"""Measures fits in closed form against the least that they have to do, and what float32 costs.

    python -m benchmarks.textlda_fit --out textlda_fit.json
    python benchmarks/textlda_fit.py --folder big --clips 200000

Makes a store of random features, a token of 128 and one of 1024 a clip (1,152 numbers), in a
temporary folder, or in `--folder` unless it is there. In one process and in turn, so that the load
of the machine is the same for all: reading every batch; the floor, reading with X'X of unit vectors
in blocks of float32 as large as is fast; fits of ridge and of TextLDA with one choice solved; ridge
as it was, with products of doubles for X'X and x'w; eigenvalues alone, which no number of clips
changes. Ratios of medians are to the floor, and to the floor with eigenvalues. Then how far the
eigenvalues of X'X / clips move by float32, and how far ridge's answers do by its smallest lambda;
then the vectors of new class names from their text, and distances.

Tried and left: sums by class of float32 blocks (no faster than in doubles, clip by clip); x'w by a
product of one-hot labels (15 times as long as sums by class); blocks of 8,192 clips (not faster,
and 2 times as far from doubles).
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tcaf.data.batches import FeatureBatch, load_batch
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.data.writer import new_store
from tcaf.systems.gram import BLOCK, Gram
from tcaf.systems.registry import find_system
from tcaf.systems.ridge import Ridge, RidgeConfig, RidgeFit

AUDIO, VISUAL, TEXT, CLASSES, BATCH = 128, 1024, 384, 300, 256


def make_store(path: Path, clips: int) -> None:
    """Writes a store of random clips of random classes."""
    rng = np.random.default_rng(0)
    spec = FeatureSpec(AUDIO, VISUAL, None, None, "random", "random")
    with new_store(path, spec) as writer:
        for clip in range(clips):
            tokens = [rng.random((1, dim), np.float32) for dim in (AUDIO, VISUAL)]
            writer.add(VideoFeatures(f"{clip}", *tokens, f"{clip % CLASSES}", "stage_1_train"))


class Batches:
    """All clips of a store in order, with labels, each time anew."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.labels = store.class_names.astype(int)

    def __iter__(self) -> Iterator[FeatureBatch]:
        for start in range(0, len(self.store), BATCH):
            rows = np.arange(start, min(start + BATCH, len(self.store)))
            yield load_batch(self.store, rows, Windows(), labels=self.labels[rows])


def vectors(batch: FeatureBatch) -> torch.Tensor:
    """Returns what both systems make of clips: unit means, side by side."""
    means = [F.normalize(packed.mean(), dim=1) for packed in (batch.audio, batch.visual)]
    return torch.cat(means, dim=1)


def in_doubles(batches: Batches, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns X'X and x'w as ridge once computed them, in doubles clip by clip."""
    gram = torch.zeros(AUDIO + VISUAL, AUDIO + VISUAL, dtype=torch.float64)
    cross = torch.zeros(AUDIO + VISUAL, TEXT, dtype=torch.float64)
    for batch in batches:
        x = vectors(batch).double()
        gram += x.T @ x
        cross += x.T @ text[batch.known_labels].double()
    return gram, cross


def in_blocks(batches: Batches) -> torch.Tensor:
    """Returns X'X in blocks of float32, summed in doubles: the floor."""
    total = torch.zeros(AUDIO + VISUAL, AUDIO + VISUAL, dtype=torch.float64)
    waiting: list[torch.Tensor] = []
    for batch in batches:
        waiting.append(vectors(batch))
        if len(waiting) * BATCH >= BLOCK:
            block = torch.cat(waiting)
            total += block.T @ block
            waiting = []
    for rest in waiting:
        total += rest.T @ rest
    return total


def read(batches: Batches) -> None:
    """Reads every batch."""
    for _ in batches:
        pass


def ridge_of(batches: Batches, text: torch.Tensor) -> RidgeFit:
    """Fits ridge regression."""
    sizes = {"audio_dim": AUDIO, "visual_dim": VISUAL, "text_dim": TEXT}
    fit = RidgeFit(Ridge(RidgeConfig(**sizes)), batches, text)
    fit.solve(1)
    return fit


def precision(batches: Batches, text: torch.Tensor) -> dict[str, float]:
    """Returns how far float32 moves eigenvalues, and weights of the 20th lambda, from doubles."""
    clips = len(batches.store)
    gram, cross = in_doubles(batches, text)
    found = Gram(AUDIO + VISUAL, gram)
    for batch in batches:
        found.add(vectors(batch))
    own, exact = (torch.linalg.eigvalsh(each / clips) for each in (found.total(), gram))
    fit = ridge_of(batches, text)
    fit.solve(20)
    covariance = gram / clips - torch.outer(fit.mean_x, fit.mean_x)
    covariance.diagonal().add_(fit.model.config.strongest * fit.model.config.ratio**19)
    weight = torch.linalg.solve(covariance, cross / clips - torch.outer(fit.mean_x, fit.mean_w))
    off = (fit.model.weight.double() - weight).norm() / weight.norm()
    return {
        "largest_eigenvalue": float(exact[-1]),
        "smallest_eigenvalue": float(exact[0]),
        "eigenvalues_off_by": float((own - exact).abs().max()),
        "weights_off_by_of_their_norm": float(off),
    }


def seconds(work: Callable[[], Any]) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def measure(folder: Path, clips: int, names: int, rounds: int) -> dict[str, Any]:
    """Returns seconds, ratios and precision."""
    if not folder.exists():
        make_store(folder, clips)
    batches = Batches(FeatureStore.open(folder))
    system = find_system("textlda")
    text = F.normalize(torch.randn(CLASSES + names, TEXT), dim=1)
    model = system.model(system.config(audio_dim=AUDIO, visual_dim=VISUAL, text_dim=TEXT))
    seen = text[:CLASSES]
    gram = in_blocks(batches)
    work: dict[str, Callable[[], Any]] = {
        "read": lambda: read(batches),
        "floor": lambda: in_blocks(batches),
        "eigenvalues": lambda: torch.linalg.eigh(gram),
        "ridge": lambda: ridge_of(batches, seen),
        "ridge_before": lambda: torch.linalg.eigh(in_doubles(batches, seen)[0]),
        "textlda": lambda: system.fit(model, batches, seen).solve(1),
    }
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, each in work.items():
            taken[name].append(seconds(each))
    found: dict[str, Any] = {"clips": len(batches.store), "rounds": rounds}
    found |= {f"{name}_s": median(each) for name, each in taken.items()}
    floor, eigenvalues = found["floor_s"], found["eigenvalues_s"]
    for name in ("ridge", "ridge_before", "textlda"):
        found[f"{name}_to_floor"] = found[f"{name}_s"] / floor
        found[f"{name}_to_floor_with_eigenvalues"] = found[f"{name}_s"] / (floor + eigenvalues)
    found["precision"] = precision(batches, seen)
    one = next(iter(batches))
    found["names"] = names
    found["names_s"] = seconds(
        lambda: model.scores(one, model.embed_text(text[CLASSES:]).class_embedding)
    )
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="of the store, which is kept")
    parser.add_argument("--clips", type=int, default=60_000)
    parser.add_argument("--names", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON to write")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name) / "store"
        found = measure(folder, given.clips, given.names, given.rounds)
    print(json.dumps(found, indent=1))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
