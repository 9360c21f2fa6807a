"""Measures what a store of millions of clips costs: made, opened, sampled, fitted.

    python benchmarks/millions.py --folder millions --clips 5000000
    python benchmarks/millions.py --folder millions --step frames

The features are made up: a token a clip and modality, of so few numbers that the store is small and
what costs is the number of clips. Each step runs in a process of its own, which tells the seconds
of processor that it took (the clock says little beside other work) and the most memory it held. The
second command reads a shard of frame-level YouTube-8M, made up too, of 300 videos of 230 seconds.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.writer import new_store

CLASSES = 1000
SHARD_BYTES = 16 * 2**20
"""Of tokens. Beside tokens as small as these a clip takes memory of its own until it is written."""

PARTS = ("val_seen", "test_seen")
TEXT = "made_up"


def make(folder: Path, clips: int) -> None:
    """Writes the store: clips lie around the mean of their class, which text foretells in part."""
    rng = np.random.default_rng(0)
    spec = FeatureSpec(16, 32, 1.0, 1.0, "made up", "made up")
    names = tuple(f"class {number:04}" for number in range(CLASSES))
    text = rng.normal(size=(CLASSES, 24)).astype(np.float32)
    means = {dim: text @ rng.normal(size=(24, dim)) / 5 for dim in (16, 32)}
    with new_store(folder, spec, shard_bytes=SHARD_BYTES) as writer:
        writer.splits["cls"] = Split(names[:800], names[800:900], names[900:])
        writer.add_text(TEXT, dict(zip(names, text, strict=True)))
        block = 10_000
        for first in range(0, clips, block):
            size = min(block, clips - first)
            kinds = rng.integers(0, 800, size)
            # One clip in a hundred is of a class never trained on, for validation or the test.
            unseen = rng.random(size) < 0.01
            kinds[unseen] = rng.integers(800, CLASSES, int(unseen.sum()))
            tokens = {
                dim: (mean[kinds] + rng.normal(size=(size, dim))).astype(np.float16)
                for dim, mean in means.items()
            }
            draws = rng.random(size)
            for i, kind in enumerate(kinds.tolist()):
                part = "val_unseen" if kind < 900 else "test_unseen"
                if kind < 800:
                    part = PARTS[int(draws[i] * 200)] if draws[i] < 0.01 else "stage_1_train"
                audio, visual = tokens[16][i : i + 1], tokens[32][i : i + 1]
                name = f"clip {first + i:08}"
                writer.add(VideoFeatures(name, audio, visual, names[kind], part))


def frames(folder: Path) -> dict[str, float]:
    """Makes a store of a shard of frame-level videos; its size and time are the videos' own."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from google_crc32c import value

    import write_tfrecord
    from tcaf.sources.youtube8m import prepare_youtube8m

    # The tests' own checksum is there to be checked against, and slow.
    write_tfrecord.crc32c = value
    videos, seconds = 300, 230
    rng = np.random.default_rng(0)
    place = folder.with_name(f"{folder.name}_frames")
    place.mkdir()
    (place / "vocabulary.csv").write_text(
        "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,"
        "WikiDescription\n0,1,/m/0,Guitar,,Arts,,,A guitar.\n"
    )
    payloads = []
    for number in range(videos):
        rgb, sound = (rng.integers(0, 256, (seconds, d), np.uint8) for d in (1024, 128))
        lists = {"rgb": [x.tobytes() for x in rgb], "audio": [x.tobytes() for x in sound]}
        values = {"id": [f"{number:04}".encode()], "labels": [0]}
        payloads.append(write_tfrecord.sequence(values, lists))
    shard = write_tfrecord.write_records(place / "train0000.tfrecord", payloads)
    before = time.process_time()
    store = prepare_youtube8m(shard, place / "store", vocabulary=place / "vocabulary.csv")
    took = time.process_time() - before
    return {
        "bytes of a video, shard": shard.stat().st_size / videos,
        "bytes of a video, store": store.summary()["bytes"] / videos,
        "a video, s of processor": took / videos,
    }


def sample(folder: Path) -> dict[str, float]:
    """Opens the store and draws batches as training does."""
    from tcaf.data.batches import load_batch
    from tcaf.data.store import FeatureStore
    from tcaf.data.windows import Windows

    found = {}
    start = time.process_time()
    store = FeatureStore.open(folder)
    found["open"] = time.process_time() - start
    start = time.process_time()
    train = store.rows("cls", "stage_1_train")
    found["rows of a part, names read"] = time.process_time() - start
    rng = np.random.default_rng(0)
    start = time.process_time()
    for _ in range(100):
        load_batch(store, np.sort(rng.choice(train, 64)), Windows())
    found["a batch of 64"] = (time.process_time() - start) / 100
    return found


def fit(folder: Path, system: str) -> dict[str, float]:
    """Trains a closed-form system by the whole protocol, with two of its choices for validation."""
    from tcaf.data.store import FeatureStore
    from tcaf.experiments.layers import experiment_layers, resolve
    from tcaf.training.run import train

    store = FeatureStore.open(folder)
    options = {"text": {"source": "stored", "name": TEXT}, "training": {"epochs": 2}}
    experiment = resolve(experiment_layers(store, config=(), system=system, options=options))
    experiment = replace(experiment, training=replace(experiment.training, device="cpu"))
    start = time.process_time()
    result = train(experiment, store, folder.with_name(f"{folder.name}_{system}"))
    return {"both stages": time.process_time() - start, "HM": result["test"]["harmonic_mean"]}


STEPS = {
    "frames": lambda folder, clips: frames(folder),
    "make": lambda folder, clips: make(folder, clips),
    "sample": lambda folder, clips: sample(folder),
    "ridge": lambda folder, clips: fit(folder, "ridge"),
    "textlda": lambda folder, clips: fit(folder, "textlda"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=5_000_000)
    parser.add_argument("--step", choices=STEPS, help="this step alone, in this process")
    asked = parser.parse_args()
    if asked.step:
        start = time.process_time()
        found = STEPS[asked.step](asked.folder, asked.clips) or {}
        found["all"] = time.process_time() - start
        found["most memory, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps(found))
        return
    for step in STEPS:
        if step == "frames" or (step == "make" and asked.folder.exists()):
            continue
        given = ["--folder", str(asked.folder), "--clips", str(asked.clips), "--step", step]
        done = subprocess.run(
            [sys.executable, __file__, *given], check=True, stdout=subprocess.PIPE
        )
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            print(f"{step:8} {name:28} {value:,.4g}", flush=True)


if __name__ == "__main__":
    main()
