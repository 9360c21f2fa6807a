"""Makes a store of features that share a space with class text, as those of CLIP and CLAP do.

    python benchmarks/aligned_features.py --out aligned
    tcaf reproduce --table 1 --store aligned --config aligned/spaces.toml ...

Class text is random, apart for picture and sound. A clip is the mean of its class's text and of
noise, behind a linear map that is the same for all classes: what training can learn for classes
that it has not seen. Half of the classes are heard and the other half are seen more plainly. So the
store can show that a system learns such a map, and what anchors keep of the raw features; it can
not show how large either is on features of a real model.
"""

import argparse
from pathlib import Path

import numpy as np

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store

DIMS = {"visual": 48, "audio": 32}
CLASSES, CLIPS, TOKENS = 80, 30, 3
NOISE = {"plain": 0.9, "faint": 1.8}
TILT = 0.8
"""How far the map that all clips share is from leaving them as they are."""

SPACES = """[text]
source = "stored"
name = "visual_text"

[text_spaces.visual]
source = "stored"
name = "visual_text"

[text_spaces.audio]
source = "stored"
name = "audio_text"
"""


def unit(rows: np.ndarray) -> np.ndarray:
    """Returns rows scaled to length 1."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def part_of(split: Split, name: str, clip: int) -> str:
    """Returns where a clip of a class goes: of seen classes a tenth each to validation and test."""
    if name in split.test_unseen:
        return "test_unseen"
    if name in split.val_unseen:
        return "val_unseen"
    return {0: "val_seen", 1: "test_seen"}.get(clip % 10, "stage_1_train")


def make_store(out: Path, seed: int) -> FeatureStore:
    """Writes the store, and `spaces.toml` in it."""
    rng = np.random.default_rng(seed)
    names = [f"class {number:02d}" for number in range(CLASSES)]
    split = Split(
        train=tuple(names[:50]), val_unseen=tuple(names[50:65]), test_unseen=tuple(names[65:])
    )
    text = {m: unit(rng.normal(size=(CLASSES, dim))) for m, dim in DIMS.items()}
    maps = {
        m: np.eye(dim) + TILT * rng.normal(size=(dim, dim)) / dim**0.5 for m, dim in DIMS.items()
    }
    spec = FeatureSpec(DIMS["audio"], DIMS["visual"], 0.96, 0.96, "made", "made")
    with new_store(out, spec, dtype="float32") as writer:
        writer.splits["cls"] = split
        writer.source = {"kind": "made"}
        for modality, vectors in text.items():
            rows = dict(zip(names, vectors.astype(np.float32), strict=True))
            writer.add_text(f"{modality}_text", rows)
        for number, name in enumerate(names):
            writer.phrases[name] = {"name": [name]}
            for clip in range(CLIPS):
                tokens = {}
                for modality, dim in DIMS.items():
                    plain = (number % 2 == 0) == (modality == "visual")
                    noise = NOISE["plain" if plain else "faint"] * unit(rng.normal(size=(1, dim)))
                    noise = noise + 0.3 * rng.normal(size=(TOKENS, dim)) / dim**0.5
                    tokens[modality] = unit((text[modality][number] + noise) @ maps[modality])
                writer.add(
                    VideoFeatures(
                        f"{name}/{clip}",
                        tokens["audio"].astype(np.float32),
                        tokens["visual"].astype(np.float32),
                        name,
                        part_of(split, name, clip),
                    )
                )
    (out / "spaces.toml").write_text(SPACES)
    return FeatureStore.open(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    made = make_store(given.out, given.seed)
    print(f"{len(made)} clips of {CLASSES} classes in {given.out}")
