"""Measures how a large store opens and how fast clips are fetched from it.

    python benchmarks/store_scale.py --folder big --clips 200000

Measures too what the first look costs, that reads every byte, and a second one. Makes a store of
random features (10 audio tokens of 128, 15 visual ones of 1024 by default, 6.7 GB
for 200,000 clips) unless it is there, then opens it in a fresh process and fetches random clips.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.writer import new_store

MEASURE = """
import json, sys, time
import numpy, psutil
from tcaf.data.store import FeatureStore
from tcaf.data.batches import load_batch
from tcaf.data.windows import Windows

process = psutil.Process()
before = process.memory_info().rss
start = time.perf_counter()
store = FeatureStore.open(sys.argv[1])
clips = len(store)
opened = time.perf_counter() - start
held = process.memory_info().rss - before
looks = []
for _ in range(2):
    start = time.perf_counter()
    store.verify_once()
    looks.append(time.perf_counter() - start)
start = time.perf_counter()
train = store.rows("cls", "stage_1_train")
indexed = time.perf_counter() - start
rng = numpy.random.default_rng(0)
batches = [rng.integers(0, clips, 64) for _ in range(21)]
times = {"clip by clip": [], "one batch": []}
for rows in batches:
    for row in rows:
        store[int(row)].visual.sum()  # warms the cache
    start = time.perf_counter()
    for row in rows:
        clip = store[int(row)]
        clip.audio.copy(), clip.visual.copy()
    times["clip by clip"].append(time.perf_counter() - start)
    start = time.perf_counter()
    load_batch(store, rows, Windows())
    times["one batch"].append(time.perf_counter() - start)
print(json.dumps({
    "clips": clips, "open_s": opened, "open_mib": held / 2**20, "index_s": indexed,
    "first_look_s": looks[0], "second_look_s": looks[1],
    "resident_mib": process.memory_info().rss / 2**20,
    **{f"64 clips, {name}, ms": sorted(t)[len(t) // 2] * 1e3 for name, t in times.items()},
}))
"""


def make(folder: Path, clips: int, audio_dim: int, visual_dim: int) -> None:
    """Writes the store; features are slices of one block of noise, which is as random."""
    rng = np.random.default_rng(0)
    audio = rng.normal(size=(5000, audio_dim)).astype(np.float16)
    visual = rng.normal(size=(5000, visual_dim)).astype(np.float16)
    spec = FeatureSpec(audio_dim, visual_dim, 0.96, 0.64, "random", "random")
    classes = [f"class {number:03}" for number in range(300)]
    with new_store(folder, spec) as writer:
        writer.splits["cls"] = Split(
            tuple(classes[:200]), tuple(classes[200:250]), tuple(classes[250:])
        )
        parts = ["stage_1_train"] * 200 + ["val_unseen"] * 50 + ["test_unseen"] * 50
        for number in range(clips):
            first, kind = number % 4980, number % 300
            writer.add(
                VideoFeatures(
                    f"clip {number:07}",
                    audio[first : first + 10],
                    visual[first : first + 15],
                    classes[kind],
                    parts[kind],
                )
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=200_000)
    parser.add_argument("--audio_dim", type=int, default=128)
    parser.add_argument("--visual_dim", type=int, default=1024)
    asked = parser.parse_args()
    if not asked.folder.exists():
        start = time.perf_counter()
        make(asked.folder, asked.clips, asked.audio_dim, asked.visual_dim)
        print(f"made in {time.perf_counter() - start:.0f} s")
    command = [sys.executable, "-c", MEASURE, str(asked.folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for name, value in json.loads(done.stdout).items():
        print(f"{name:28} {value:,.3f}")


if __name__ == "__main__":
    main()
