"""Small inputs of every kind that the commands take, made by the commands and the tests' builders.

Also how a command is run: in this process, or in one of its own.
"""

import os
import pickle
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).parents[2]
sys.path += [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "sources")]

TINY = """
[model]
num_layers = 1
num_heads = 2
head_dim = 4
token_dim = 16
joint_dim = 16
encoder_hidden_dim = 16
projection_hidden_dim = 16
feed_forward_dim = 16
position_dim = 4
[training]
epochs = 8
batches_per_epoch = 12
batch_size = 16
device = "cpu"
"""

VOCABULARY = """Index,Name,Vertical1,Vertical2,Vertical3,WikiDescription
2,Dog,Animals,,,A dog barks.
3,Drifting,Sports,,,Drifting is a technique.
5,Cake,Food,,,
7,Harp,,,,A harp has strings.
"""
CLASSES = """label,name,partition
2,Dog,train
5,Cake,train
3,Drifting,val_unseen
7,Harp,test_unseen
"""


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a command: one thread a process, so that two do not compete."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def tcaf(*words: str | Path, cwd: Path | None = None) -> None:
    """Runs a command that has to succeed."""
    command = [sys.executable, "-m", "tcaf", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)


def make_store(folder: Path, clips_per_class: int = 20) -> None:
    size = ("--audio_dim", "8", "--visual_dim", "12", "--clips_per_class", str(clips_per_class))
    tcaf("prepare", "synthetic", "--out", folder, *size)


def make_tiny(path: Path) -> None:
    path.write_text(TINY, encoding="utf-8")


def make_words(path: Path, names: Sequence[str], lines: int = 20_000) -> None:
    """Writes a GloVe file that takes a moment to read."""
    rng = np.random.default_rng(0)
    words = sorted({word for name in names for word in name.replace(",", " ").split()})
    rows = [(*words, *(f"x{number}" for number in range(lines)))]
    with path.open("w", encoding="utf-8") as file:
        for word in rows[0]:
            file.write(f"{word} {' '.join(f'{value:.4f}' for value in rng.normal(size=20))}\n")


def make_youtube8m(folder: Path, videos: int = 400) -> None:
    """Writes video-level files as they are published, and the two tables."""
    from write_tfrecord import example, write_records

    folder.mkdir()
    (folder / "vocabulary.csv").write_text(VOCABULARY, encoding="utf-8")
    (folder / "classes.csv").write_text(CLASSES, encoding="utf-8")
    (folder / "shards").mkdir()
    rng = np.random.default_rng(0)
    payloads = []
    for number in range(videos):
        labels = [int(rng.choice([2, 3, 5, 7]))]
        means = {"mean_audio": rng.normal(size=16), "mean_rgb": rng.normal(size=32)}
        payloads.append(example({"id": [f"v{number}".encode()], "labels": labels} | means))
    for shard in range(4):
        write_records(folder / "shards" / f"validate{shard:04}.tfrecord", payloads[shard::4])


def make_official(root: Path) -> None:
    """Writes a folder as the authors publish theirs."""
    from write_official import (
        LISTS,
        METHOD,
        WORDS,
        vectors,
        write_lists,
        write_vectors,
        write_words,
    )

    write_lists(root / "class-split" / "cls_split", LISTS)
    write_words(root / "ucf_w2v_class_names.csv", WORDS)
    write_vectors(root, vectors())
    train, val, test = LISTS.values()
    stages = {
        "stage_1_train": train,
        "stage_1_val_seen": train,
        "stage_1_val_unseen": val,
        "stage_2_test_seen": [*train, *val],
        "stage_2_test_unseen": test,
    }
    for stage, names in stages.items():
        for name in names:
            for kind, suffix, dim in (("audio", "wav", 8), ("video", "avi", 12)):
                path = root / "features" / METHOD / kind / stage / f"{name}.pkl"
                path.parent.mkdir(parents=True, exist_ok=True)
                clips = [f"{stage}-{name}-{number}.{suffix}" for number in range(40)]
                rng = np.random.default_rng(zlib.crc32(path.name.encode()))
                content: dict[str, Any] = {
                    "features": [rng.normal(size=(5, dim)).astype(np.float32) for _ in clips],
                    "video_names": clips,
                    "fps": [25] * len(clips),
                }
                path.write_bytes(pickle.dumps(content))


def make_release(folder: Path) -> None:
    """Writes recorded weights as the release saves its own, and a store that fits them."""
    from tcaf.data.features import FeatureSpec, VideoFeatures
    from tcaf.data.splits import Split
    from tcaf.data.writer import new_store

    folder.mkdir()
    with np.load(REPOSITORY / "tests" / "golden" / "weights.npz") as file:
        state = {name: torch.from_numpy(np.array(file[name])) for name in file.files}
    torch.save({"model": state, "epoch": 3}, folder / "release.pt")
    rng = np.random.default_rng(0)
    with new_store(folder / "store", FeatureSpec(12, 32, 0.96, 0.64, "vggish", "c3d")) as writer:
        for number, (name, part) in enumerate((("T", "test_seen"), ("U", "test_unseen"))):
            audio, visual = rng.uniform(0, 255, (3, 12)), rng.normal(size=(5, 32))
            writer.add(VideoFeatures(f"c{number}", audio, visual, name, part))
        writer.splits["cls"] = Split(("T",), ("V",), ("U",))
        vectors = {name: rng.normal(size=300).astype(np.float32) for name in "TVU"}
        writer.add_text("word2vec", vectors)
        writer.add_text("word2vec_release_order", dict(zip("VUT", vectors.values(), strict=True)))


def make_videos(folder: Path) -> None:
    """Renders a small world as videos; `labels.csv` in it gives each its part."""
    sizes = ("--looks", "2", "--motions", "2", "--sounds", "2", "--relations", "together")
    tcaf("render", "--out", folder, *sizes, "--clips_per_class", "7")
