"""How long the whole protocol takes on the device that is there, at the shape of UCF-GZSL.

Two stages of 50 epochs, each of 300 batches of 64 clips, a validation after every epoch of stage 1,
on made-up features of the benchmark's clips and classes: 128 numbers a second of sound and 4,096 a
0.6 s of picture, 7 and 10.5 tokens a clip in the mean. Stage 2 is as long as stage 1 whichever
epoch is best. Writes JSON with the device's name.

    python -m benchmarks.gpu_protocol --out gpu.json
    python -m benchmarks.gpu_protocol --static-shapes --precision bfloat16 --out recorded.json
    python -m benchmarks.gpu_protocol --epochs 1 --batches 3 --share 0.05 --out try.json
    torchrun --standalone --nproc-per-node 4 -m benchmarks.gpu_protocol --out four.json

Nothing is recorded of it yet: no GPU was at hand.
"""

import argparse
import json
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.execution import ranks
from tcaf.settings.experiment import Experiment
from tcaf.sources.benchmark_videos import load_clips
from tcaf.systems.interface import System
from tcaf.training.protocol import EpochDone, Finished, TwoStages
from tcaf.training.provenance import circumstances

AUDIO_DIM, VISUAL_DIM, TEXT_DIM = 128, 4096, 300
SHORTEST_S, LONGEST_S = 2.0, 12.6
"""Of a clip: with a second of sound and 0.6 of picture a token, 7 and 10.5 tokens in the mean."""


def make_store(path: Path, share: float) -> None:
    """Makes features of UCF-GZSL's clips, or of a share of each class's, at least two a part."""
    rng = np.random.default_rng(0)
    benchmark = load_benchmark("ucf")
    spec = FeatureSpec(AUDIO_DIM, VISUAL_DIM, 1.0, 0.6, "made up", "made up")
    by_part: dict[tuple[str, str], list[str]] = {}
    for clip in load_clips("ucf"):
        by_part.setdefault((clip.class_name, clip.part), []).append(clip.name)
    with new_store(path, spec) as writer:
        writer.splits["cls"] = benchmark.splits["cls"]
        writer.source = {"kind": "made up"}
        for (name, part), clips in by_part.items():
            writer.phrases[name] = {"name": [name]}
            for id_ in clips[: max(2, round(share * len(clips)))]:
                seconds = rng.uniform(SHORTEST_S, LONGEST_S)
                audio = rng.uniform(0, 255, (round(seconds), AUDIO_DIM)).astype(np.float32)
                visual = rng.exponential(size=(round(seconds / 0.6), VISUAL_DIM))
                writer.add(VideoFeatures(id_, audio, visual.astype(np.float32), name, part))
        names = benchmark.splits["cls"].classes
        writer.add_text("made_up", {n: rng.normal(size=TEXT_DIM).astype(np.float32) for n in names})


class BothWhole(System):
    """A system whose stage 2 takes all epochs, whichever epoch is best."""

    def stage_2_epochs(self, experiment: Experiment, best: int) -> range:
        """Returns all epochs."""
        return range(1, 1 + experiment.training.epochs)


def measure(store: FeatureStore, experiment: Experiment) -> dict[str, object]:
    """Runs the protocol and returns how long its parts took, in seconds."""
    text = {"text": store.text("made_up")}
    began = time.perf_counter()
    protocol = TwoStages(experiment, store, text)
    own = protocol.system
    protocol.system = BothWhole(**{f.name: getattr(own, f.name) for f in fields(own)})
    epochs: dict[int, list[float]] = {1: [], 2: []}
    for event in protocol.run():
        if isinstance(event, EpochDone):
            epochs[event.record.stage].append(event.record.seconds)
        elif isinstance(event, Finished):
            break
    steps = sum(map(len, epochs.values())) * experiment.training.batches_per_epoch
    return {
        "seconds": time.perf_counter() - began,
        "first_epoch_s": epochs[1][0],
        "median_epoch_s": {f"stage_{n}": float(np.median(each)) for n, each in epochs.items()},
        "epochs": {f"stage_{n}": len(each) for n, each in epochs.items()},
        "steps": steps,
        "resident": protocol.clips is not store,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--share", type=float, default=1.0, help="of the clips")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="float32")
    parser.add_argument(
        "--static-shapes", action="store_true", help="recorded steps (training.static_shapes)"
    )
    given = parser.parse_args()
    whole = Experiment()
    experiment = replace(
        whole,
        training=replace(
            whole.training,
            epochs=given.epochs,
            batches_per_epoch=given.batches,
            device=given.device,
            precision=given.precision,
            static_shapes=given.static_shapes,
        ),
    )
    with ranks.joined(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        if not ranks.current().index:
            make_store(path, given.share)
        path = ranks.from_first(path)
        found = measure(FeatureStore.open(path), experiment)
        if not ranks.current().index:
            where = circumstances(experiment)
            found |= {"precision": given.precision, "static_shapes": given.static_shapes}
            found |= {"share_of_clips": given.share, "where": where}
            given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            print(json.dumps(found, indent=2))
        ranks.barrier()


if __name__ == "__main__":
    main()
