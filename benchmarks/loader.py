"""Measures how fast batches are read from a store, in the page cache and beyond the memory.

    python -m benchmarks.loader --out loader.json

Batches of 64 random clips of UCF's shape (7 and 10.5 tokens of 128 and 4096 numbers a clip) and of
ActivityNet's (40 and 60), of stores in float16 and float32, made in a temporary folder. In turn, on
one thread: `load_batch` as it is; as it was, with tokens picked one by one and converted into fresh
memory; a copy of the batch in float32, which is the least that any loader does. Times are the
processor's, first touches of memory included. The target is 64 clips in 10 ms: less than a step
takes.

A store larger than the memory is simulated: before each run the pages of its files are dropped
(posix_fadvise DONTNEED), and a fresh process reads each clip once, in random order, so that each
read is one that the page cache cannot answer, as in a store of any size. Between batches it works
for `--work_s`, as a training step does; the store is in float16. Compared are: what is waited for
without and with `expect_batch` for the batch that follows, and the same with all pages in the
cache. How much a disk delivers is the disk's: at more than that no way of reading trains.

Tried and left: a thread that reads the next batch ahead. In the page cache reading is a tenth of
the least step, so that there is nothing to hide; beyond it `expect_batch` has the system read ahead
without a thread. Asking for a batch's own pages right before they are read gained nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest import mock

import numpy as np
import torch

from tcaf.data import batches
from tcaf.data.batches import load_batch
from tcaf.data.features import MODALITIES, FeatureSpec, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows, ranges
from tcaf.data.writer import new_store

DIMS = (128, 4096)
SHAPES = {"UCF": (7, 10), "ActivityNet": (40, 60)}
"""Least audio and visual tokens of a clip; it has up to two more."""

CLIPS = {"UCF": 1024, "ActivityNet": 256}
BATCH, TARGET_MS = 64, 10.0

BEYOND = """
import json, sys, time
import numpy as np, torch
from tcaf.data.batches import expect_batch, load_batch
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
path, ahead, work_s, batch = sys.argv[1], sys.argv[2] == "ahead", float(sys.argv[3]), 64
torch.set_num_threads(1)
store, square, waited = FeatureStore.open(path), torch.randn(512, 512), []
rows = np.random.default_rng(1).permutation(len(store))
parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
if ahead:
    expect_batch(store, parts[0], Windows())
for number, part in enumerate(parts):
    start = time.perf_counter()
    if ahead and number + 1 < len(parts):
        expect_batch(store, parts[number + 1], Windows())
    load_batch(store, part, Windows())
    waited.append(1e3 * (time.perf_counter() - start))
    while time.perf_counter() < start + waited[-1] / 1e3 + work_s:
        square @ square
print(json.dumps(waited[1:]))
"""


def make(folder: Path, shape: str, dtype: Any) -> FeatureStore:
    """Writes a store; features are slices of one block of noise, which is as random."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=(2500, dim)).astype(np.float32) for dim in DIMS]
    spec = FeatureSpec(*DIMS, 0.96, 0.64, "random", "random")
    with new_store(folder, spec, dtype=dtype) as writer:
        for clip in range(CLIPS[shape]):
            first = clip * 17 % 2400
            tokens = [
                block[first : first + length + clip % 3]
                for block, length in zip(noise, SHAPES[shape], strict=True)
            ]
            writer.add(VideoFeatures(f"{clip:06}", *tokens, f"{clip % 50}", "stage_1_train"))
    return FeatureStore.open(folder)


def picked(
    store: FeatureStore, rows: np.ndarray, modality: Any, first: np.ndarray, lens: np.ndarray
) -> np.ndarray:
    """Returns what `FeatureStore.gather` does, picking token by token, as it once did."""
    owner = np.searchsorted(store._starts, rows, side="right") - 1
    within = ranges(lens)
    out = np.empty((len(within), store.spec.dim(modality)), store.dtype)
    for number in np.unique(owner):
        here, shard = owner == number, store._shards[number]
        start = np.zeros(len(rows), np.int64)
        start[here] = shard.offsets[modality][rows[here] - store._starts[number]] + first[here]
        target = np.repeat(here, lens)
        out[target] = shard.tokens[modality][(np.repeat(start, lens) + within)[target]]
    return out


def converted(values: np.ndarray) -> torch.Tensor:
    """Returns numbers in float32, in memory of torch's own, as they once were."""
    return torch.from_numpy(values).to(torch.float32)


def in_cache(store: FeatureStore, rounds: int) -> dict[str, Any]:
    """Returns medians in ms of the processor; what is measured takes turns, in the page cache."""
    rng = np.random.default_rng(0)
    taken: dict[str, list[float]] = {"now": [], "before": [], "copy": []}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.thread_time()
        found = work()
        taken[name].append(1e3 * (time.thread_time() - start))
        return found

    for _ in range(rounds):
        rows = rng.integers(0, len(store), BATCH)
        load_batch(store, rows, Windows())
        batch = timed("now", lambda: load_batch(store, rows, Windows()))  # noqa: B023
        with (
            mock.patch.object(FeatureStore, "gather", picked),
            mock.patch.object(batches, "_float32", converted),
        ):
            timed("before", lambda: load_batch(store, rows, Windows()))  # noqa: B023
        held = [batch.modality(modality).tokens.numpy() for modality in MODALITIES]
        timed("copy", lambda: [tokens.copy() for tokens in held])  # noqa: B023
    found = {f"{name}_ms": median(each) for name, each in taken.items()}
    mib = sum(tokens.nbytes for tokens in held) / 2**20
    return {
        **found,
        "mib": mib,
        "before_to_now": found["before_ms"] / found["now_ms"],
        "now_to_copy": found["now_ms"] / found["copy_ms"],
        "target_ms": TARGET_MS,
    }


def drop(folder: Path) -> None:
    """Drops the pages of a folder's files from the cache; no process may have them mapped."""
    for path in folder.iterdir():
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)  # pages that are not on the disk yet stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def beyond(folder: Path, work_s: float, rounds: int) -> dict[str, Any]:
    """Returns how long a batch is waited for, on average in ms, by how it is read."""
    waited: dict[str, list[float]] = {"without": [], "ahead": [], "in_cache": []}
    for _ in range(rounds):
        for name, each in waited.items():
            if name != "in_cache":
                drop(folder)
            how = "ahead" if name != "without" else name
            command = [sys.executable, "-W", "ignore", "-c", BEYOND, str(folder), how, str(work_s)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            each.append(fmean(json.loads(done.stdout)))
    found = {f"{name}_ms": median(each) for name, each in waited.items()}
    step_ms = 1e3 * work_s
    return {
        **found,
        "work_ms": step_ms,
        "slower_without": (found["without_ms"] + step_ms) / (found["in_cache_ms"] + step_ms),
        "slower_ahead": (found["ahead_ms"] + step_ms) / (found["in_cache_ms"] + step_ms),
    }


def measure(rounds: int, work_s: float) -> dict[str, Any]:
    """Returns what was found, by shape and dtype."""
    found: dict[str, Any] = {}
    for shape in SHAPES:
        for dtype in ("float16", "float32"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name) / "store"
                own = found[f"{shape}, {dtype}"] = {
                    "in_cache": in_cache(make(folder, shape, dtype), rounds)
                }
                if hasattr(os, "posix_fadvise") and dtype == "float16":
                    own["beyond_memory"] = beyond(folder, work_s, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--work_s", type=float, default=0.15, help="seconds of work a batch")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(asked.rounds, asked.work_s)
    print("| | MiB | ms | before ms | copy ms | beyond: without, ahead, in cache ms |")
    print("|---|---|---|---|---|---|")
    for name, own in found.items():
        cache, past = own["in_cache"], own.get("beyond_memory", {})
        ways = ("without", "ahead", "in_cache") if past else ()
        waits = ", ".join(f"{past[f'{way}_ms']:.1f}" for way in ways)
        print(
            f"| {name} | {cache['mib']:.0f} | {cache['now_ms']:.2f} | {cache['before_ms']:.2f} "
            f"| {cache['copy_ms']:.2f} | {waits} |"
        )
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
