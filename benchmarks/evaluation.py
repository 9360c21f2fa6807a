"""Measures evaluation: 10,000 clips of ragged lengths, from the store to the best of all gammas.

    python -m benchmarks.evaluation --folder clips --out evaluation.json

Makes a store of clips of UCF's lengths and sizes (30 classes, random features) in the folder unless
it is there. Our evaluation of some of them, and that of the padded model of `padded_tcaf.py`, a
clip at a time, take turns: with each clip padded to the longest of all, and without any padding.
Figures are ratios of medians of the time of a clip. Then all clips are evaluated, with the peak of
memory; and one clip of 3,000 audio and 4,700 visual tokens.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from benchmarks.padded_tcaf import PaddedTCAF
from benchmarks.train_step import SHAPES, STEPS_S, new_models

from tcaf.data.batches import FeatureBatch, load_batch
from tcaf.data.classes import ClassSet
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.packed import Packed
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.data.writer import new_store
from tcaf.evaluation.gzsl import GAMMAS, decide, score
from tcaf.evaluation.parts import EvaluationPart, evaluate_part
from tcaf.systems.blocks import euclidean_distances
from tcaf.systems.tcaf import TCAF
from tcaf.text.spaces import ClassText

CLASSES, SEEN = 30, 20
LONG = {"audio": 3000, "visual": 4700}


def make_store(folder: Path, clips: int) -> None:
    """Writes clips of UCF's lengths; features are slices of one block of noise, as random."""
    shape = replace(SHAPES["UCF"], clips=clips)
    share = clips / SHAPES["UCF"].clips
    shape = replace(shape, tokens=tuple(round(total * share) for total in shape.tokens))
    rng = np.random.default_rng(0)
    noise = [rng.random((5000, dim), np.float32).astype(np.float16) for dim in shape.dims]
    spec = FeatureSpec(*shape.dims, *STEPS_S.values(), "random", "random")
    with new_store(folder, spec) as writer:
        for number, lens in enumerate(zip(*shape.lens(), strict=True)):
            first = number % 4000
            tokens = [block[first : first + num] for block, num in zip(noise, lens, strict=True)]
            name = f"class {number % CLASSES:02}"
            writer.add(VideoFeatures(f"clip {number:05}", *tokens, name, "test_seen"))


def new_part(store: FeatureStore, rows: np.ndarray) -> EvaluationPart:
    """Returns clips to evaluate, two thirds of their classes seen ones."""
    names = tuple(f"class {number:02}" for number in range(CLASSES))
    text = torch.randn(CLASSES, 300, generator=torch.Generator().manual_seed(0))
    return EvaluationPart(
        store,
        rows,
        ClassSet(names, frozenset(names[:SEEN])),
        ClassText({"text": text}),
    )


def padded_clip(store: FeatureStore, row: int, longest: dict[str, int]) -> dict[str, Any]:
    """Returns one clip with its padding, as the padded model reads it."""
    batch = load_batch(store, np.array([row]), Windows())
    found = {}
    for modality in STEPS_S:
        packed = batch.modality(modality)
        more = longest.get(modality, len(packed.tokens)) - len(packed.tokens)
        tokens = torch.nn.functional.pad(packed.tokens, (0, 0, 0, more))
        times = torch.nn.functional.pad(packed.times, (0, more))
        real = torch.arange(len(tokens)) < len(packed.tokens)
        found[modality] = (tokens[None], times[None], real[None])
    return found


@torch.inference_mode()
def one_by_one(model: PaddedTCAF, part: EvaluationPart, longest: dict[str, int]) -> Any:
    """Evaluates clips one at a time by the padded model."""
    classes = model.eval().embed_text(part.class_text["text"])[0]
    rows = part.rows.tolist()
    videos = [model(padded_clip(part.store, row, longest))[0] for row in rows]
    distances = euclidean_distances(torch.cat(videos), classes)
    seen, unseen = part.classes.seen_ids, part.classes.unseen_ids
    return score(decide(distances, part.labels, seen=seen, unseen=unseen), gammas=GAMMAS)


def ours(model: TCAF, part: EvaluationPart) -> Any:
    """Evaluates clips as `tcaf evaluate` does."""
    return evaluate_part(model, part, Windows(), gammas=GAMMAS)


def compare(store: FeatureStore, rounds: int, few: int) -> dict[str, Any]:
    """Returns the time of a clip in each way, and how much faster ours is."""
    model, padded = new_models(SHAPES["UCF"])
    longest = {modality: int(store.lens(modality).max()) for modality in STEPS_S}
    draw = np.random.default_rng(0)
    many = new_part(store, draw.choice(len(store), min(len(store), few * 16), replace=False))
    some = replace(many, rows=many.rows[:few])
    turns: dict[str, tuple[Callable[[], Any], EvaluationPart]] = {
        "ours": (lambda: ours(model, many), many),
        "padded": (lambda: one_by_one(padded, some, longest), some),
        "one by one": (lambda: one_by_one(padded, some, {}), some),
    }
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, (work, part) in turns.items():
            start = clock()
            work()
            times[name].append((clock() - start) / len(part.rows))
    found = {name: median(each[1:]) for name, each in times.items()}
    return {
        "seconds_a_clip": found,
        "padded_to_ours": found["padded"] / found["ours"],
        "one_by_one_to_ours": found["one by one"] / found["ours"],
        "longest": longest,
    }


def peak_mib() -> float:
    """Returns the most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.inference_mode()
def long_clip(model: TCAF) -> float:
    """Embeds one clip of 50 minutes; returns the seconds that it takes."""
    packed = {}
    for modality, num in LONG.items():
        tokens = torch.rand(num, 128 if modality == "audio" else 4096)
        times = torch.arange(num) * STEPS_S[modality]
        packed[modality] = Packed(tokens, torch.tensor([num]), times)
    start = time.perf_counter()
    embedding = model.eval()(FeatureBatch(**packed)).video_embedding
    assert bool(embedding.isfinite().all())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="of the store", required=True)
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=64, help="clips that the slow ways take a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if not asked.folder.exists():
        make_store(asked.folder, asked.clips)
    store = FeatureStore.open(asked.folder)
    model, _ = new_models(SHAPES["UCF"])
    found: dict[str, Any] = {"threads": asked.threads, "clips": len(store)}
    before = peak_mib()
    found["long_clip_s"] = long_clip(model)
    found["long_clip_peak_mib"] = peak_mib()
    found["before_peak_mib"] = before
    start = time.perf_counter()
    ours(model, new_part(store, np.arange(len(store))))
    found["all_clips_s"] = time.perf_counter() - start
    found["all_clips_peak_mib"] = peak_mib()
    found |= compare(store, asked.rounds, asked.few)
    for name, value in found.items():
        print(f"{name:22} {value:,.2f}" if isinstance(value, float) else f"{name:22} {value}")
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
