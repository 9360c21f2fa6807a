"""Builds the authors' lists and word vectors, small."""

import csv
from pathlib import Path

import numpy as np

METHOD = "cls_features_non_averaged"
TEXT_DIM = 7
WORDS = {
    "HandstandPushups": "Handstand Pushups",
    "Archery": "Archery",
    "PlayingFlute": "Playing Flute",
    "Playing_Cello": "Playing Cello",
    "Yo Yo": "Yo Yo",
}
LISTS = {
    "stage_1_train": ["HandStandPushups", "Archery"],
    "stage_1_val_unseen": ["PlayingFlute"],
    "stage_2_test_unseen": ["Playing_Cello"],
}


def write_lists(folder: Path, lists: dict[str, list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, classes in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{item}\n" for item in classes))


def write_words(path: Path, words: dict[str, str]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("original", "manual", "category"), *((*w, "x") for w in words.items())])


def vectors() -> dict[str, np.ndarray]:
    return {name: np.full(TEXT_DIM, float(n)) for n, name in enumerate(WORDS.values())}


def write_vectors(root: Path, content: object) -> Path:
    path = root / "features" / METHOD / "text" / "word_embeddings_x_normed.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(content, object), allow_pickle=True)
    return path
