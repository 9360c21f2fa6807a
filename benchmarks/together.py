"""Measures what answering clips together gains, by how many clips there are and of what mix.

    python benchmarks/together.py RUN --store STORE --part test --sizes 32 100 300 1000

Draws clips of a part at random: in their natural mix, and of a few random classes alone, as in a
folder where most candidates do not occur. Prints the share of clips answered right, each clip by
itself and all together, as a table in Markdown. For the part val give a run's stage_1.safetensors,
which has not seen its clips.
"""

import argparse
import warnings

import numpy as np

from tcaf import FeatureStore, ZeroShotClassifier
from tcaf.seeding import derive_seed

SKEWED_CLASSES = 5


def draw(rng: np.random.Generator, names: np.ndarray, size: int, skewed: bool) -> np.ndarray:
    """Draws clips, at most as many as there are, by their place in `names`."""
    places = np.arange(len(names))
    if skewed:
        some = rng.permutation(np.unique(names))[:SKEWED_CLASSES]
        places = places[np.isin(names, some)]
    return np.sort(rng.permutation(places)[:size])


def main() -> None:
    """Draws, answers and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--store", required=True)
    parser.add_argument("--part", default="test")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 100, 300, 1000])
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", message="few clips to answer together")
    store, classifier = FeatureStore.open(asked.store), ZeroShotClassifier.load(asked.run)
    rows = store.rows(classifier.experiment.data.split, asked.part)
    names = store.class_names[rows]

    def right(places: np.ndarray, together: bool) -> np.ndarray:
        found = classifier.classify_store(store, rows[places], 1, together=together)
        return np.array([r.answers[0].name for r in found]) == names[places]

    alone = right(np.arange(len(rows)), together=False)
    print("| mix | clips | one by one | together | gain | draws that lose |")
    print("|---|---|---|---|---|---|")
    for skewed in (False, True):
        mix = f"{SKEWED_CLASSES} classes alone" if skewed else "natural"
        for size in asked.sizes:
            rng = np.random.default_rng(derive_seed(asked.seed, mix, size))
            drawn = [draw(rng, names, size, skewed) for _ in range(asked.draws)]
            one = np.array([alone[places].mean() for places in drawn])
            all_ = np.array([right(places, together=True).mean() for places in drawn])
            clips = np.mean([len(places) for places in drawn])
            gain = 100 * (all_ - one)
            print(
                f"| {mix} | {clips:.0f} | {100 * one.mean():.1f} | {100 * all_.mean():.1f} "
                f"| {gain.mean():+.1f} ± {gain.std():.1f} | {100 * (gain < 0).mean():.0f} % |"
            )


if __name__ == "__main__":
    main()
