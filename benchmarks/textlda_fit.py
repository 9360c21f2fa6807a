"""Measures a fit of TextLDA against the least that it has to do, and new class names at prediction.

    python benchmarks/textlda_fit.py --folder big --clips 200000

Makes a store of random features, a token of 128 and one of 1024 a clip (1,152 numbers), unless it
is there. In one process and run, so that the load of the machine is the same for all: reading every
batch; reading with each batch's X'X, of unit vectors in float32; a fit with one choice solved,
which is compared with that. Then the vectors of new class names from their text, and distances.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tcaf.data.batches import load_batch
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.data.writer import new_store
from tcaf.systems.registry import find_system

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

    def __iter__(self):
        for start in range(0, len(self.store), BATCH):
            rows = np.arange(start, min(start + BATCH, len(self.store)))
            yield load_batch(self.store, rows, Windows(), labels=self.labels[rows])


def seconds(work) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=200_000)
    parser.add_argument("--names", type=int, default=10_000)
    given = parser.parse_args()
    if not given.folder.exists():
        make_store(given.folder, given.clips)
    batches = Batches(FeatureStore.open(given.folder))
    system = find_system("textlda")
    text = F.normalize(torch.randn(CLASSES + given.names, TEXT), dim=1)
    model = system.model(system.config(audio_dim=AUDIO, visual_dim=VISUAL, text_dim=TEXT))

    def read():
        for _ in batches:
            pass

    def read_and_multiply():
        gram = torch.zeros(AUDIO + VISUAL, AUDIO + VISUAL, dtype=torch.float64)
        for batch in batches:
            means = [F.normalize(p.mean(), dim=1) for p in (batch.audio, batch.visual)]
            x = torch.cat(means, dim=1)
            gram += (x.T @ x).double()

    def fit():
        system.fit(model, batches, text[:CLASSES]).solve(1)

    read()
    found = {"clips": len(batches.store), "read_s": seconds(read)}
    found["read_and_gram_s"] = seconds(read_and_multiply)
    found["fit_s"] = seconds(fit)
    found["ratio"] = found["fit_s"] / found["read_and_gram_s"]
    one = next(iter(batches))
    found["names"] = given.names
    found["names_s"] = seconds(
        lambda: model.scores(one, model.embed_text(text[CLASSES:]).class_embedding)
    )
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
