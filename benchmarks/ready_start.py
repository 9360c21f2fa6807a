"""What `tcaf train --start imagenet` brings where clips are few.

    python -m benchmarks.ready_start rendered STORE OUT
    python -m benchmarks.ready_start photographs OUT

trains TextLDA with and without, on 2, 5 and 10 clips of each class, and prints a row for each
number: HM on validation, which chose everything, and on the test. *rendered* takes a store of
`tcaf prepare videos`, three seeds. *photographs* makes stores of its own from the photographs that
come with scikit-image (which has to be installed) and scikit-learn: each photograph is a class,
twenty clips pan over parts of it, and six partitions say which are unseen. Runs that are over are
read, not made again.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.ready_imagenet import PHOTOGRAPHS, photographs
from jaxtyping import Float, UInt8

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.extract.backbones import open_backbone
from tcaf.settings.experiment import Experiment
from tcaf.training.run import Run, train

CLIPS_OF_PHOTOGRAPH = 20
FRAMES = 4
PARTITIONS = range(6)
SEEDS = range(3)
WORDS = {"with words": "english", "names alone": ""}


def panned(
    picture: UInt8[np.ndarray, "height width 3"], network: Any, rng: np.random.Generator
) -> list[Float[np.ndarray, "4 1280"]]:
    """Returns the features of clips that pan over square parts of a picture."""
    from PIL import Image

    height, width = picture.shape[:2]
    clips = []
    for _ in range(CLIPS_OF_PHOTOGRAPH):
        side = int(min(height, width) * rng.uniform(0.5, 0.9))
        (left, right), (top, bottom) = (rng.uniform(0, end - side, 2) for end in (width, height))
        frames = []
        for time in np.linspace(0, 1, FRAMES):
            x, y = int(left + (right - left) * time), int(top + (bottom - top) * time)
            part = Image.fromarray(picture[y : y + side, x : x + side])
            frames.append(np.asarray(part.resize((224, 224), Image.Resampling.BICUBIC)))
        clips.append(network.embed(np.stack(frames)[:, None]))
    return clips


def photograph_stores(folder: Path) -> list[FeatureStore]:
    """Returns a store for each partition of the photographs; makes those that are not there."""
    places = [folder / f"partition_{number}" for number in PARTITIONS]
    if not all(place.is_dir() for place in places):
        network, rng = (
            open_backbone("efficientnet_lite0:frames=1", "visual"),
            np.random.default_rng(0),
        )
        clips = {
            PHOTOGRAPHS[name]: panned(picture, network, rng)
            for name, picture in photographs().items()
        }
        for number, place in zip(PARTITIONS, places, strict=True):
            write_partition(place, clips, number)
    return [FeatureStore.open(place) for place in places]


def write_partition(
    place: Path, clips: dict[str, list[Float[np.ndarray, "4 1280"]]], number: int
) -> None:
    """Writes a store in which four photographs are unseen in validation, and four in the test."""
    order = np.random.default_rng(number).permutation(sorted(clips)).tolist()
    train_names, val_names, test_names = order[8:], order[:4], order[4:8]
    spec = FeatureSpec(1, 1280, None, 0.64, "none", "efficientnet_lite0:frames=1")
    no_sound = np.zeros((0, 1), np.float32)
    with new_store(place, spec, overwrite=True) as writer:
        for name, own in clips.items():
            for index, visual in enumerate(own):
                part = "val_unseen" if name in val_names else "test_unseen"
                if name in train_names:
                    part = ["stage_1_train"] * 12 + ["val_seen"] * 4 + ["test_seen"] * 4
                    part = part[index]
                writer.add(VideoFeatures(f"{name} {index}", no_sound, visual, name, part))
        parts = (tuple(sorted(names)) for names in (train_names, val_names, test_names))
        writer.splits["cls"] = Split(*parts)


def asked(store: FeatureStore, clips: int, seed: int, start: str, words: str) -> Experiment:
    """Returns the experiment of one run; time is not read, which would hide what pictures say."""
    return Experiment.from_layers(
        {
            "system": "textlda",
            "seed": seed,
            "data": {"split": next(iter(store.splits)), "clips_per_class": clips, "start": start},
            "text": {"source": "sentence", "words": words},
            "options": {"time": "off"},
            "training": {"epochs": 24},
            "evaluation": {"gamma_grid": "margins"},
        }
    )


def compare(
    title: str, stores: list[FeatureStore], seeds: list[int], clips: int, words: str, out: Path
) -> None:
    """Prints the mean and deviation of each score over runs, with the start and without."""
    for start in ("", "imagenet"):
        scores = []
        for store, seed in zip(stores, seeds, strict=True):
            where = (
                out
                / f"{title.replace(' ', '_')}-{clips}-{start or 'bare'}-{store.path.name}-{seed}"
            )
            result = Run(where).result or train(
                asked(store, clips, seed, start, words), store, where, resume=where.is_dir()
            )
            test, chosen = result["test"], result["choice"]["validation"]
            scores.append(
                [chosen["harmonic_mean"], chosen["zsl"]]
                + [test[name] for name in ("harmonic_mean", "seen", "unseen", "zsl")]
            )
        means, spread = 100 * np.mean(scores, axis=0), 100 * np.std(scores, axis=0)
        told = " | ".join(f"{m:5.1f} ± {s:4.1f}" for m, s in zip(means, spread, strict=True))
        print(f"| {title} | {clips:2} | {start or '-':8} | {told} |", flush=True)


def main(kind: str, *places: str) -> None:
    """Prints the table."""
    *_, out = map(Path, places)
    if kind == "rendered":
        stores, seeds = [FeatureStore.open(places[0])] * len(SEEDS), list(SEEDS)
    else:
        stores = photograph_stores(out / "stores")
        seeds = list(PARTITIONS)
    print("| text | clips | start | val. HM | val. ZSL | HM | S | U | ZSL |", flush=True)
    for (title, words), clips in itertools.product(WORDS.items(), (5, 2, 10)):
        compare(title, stores, seeds, clips, words, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
