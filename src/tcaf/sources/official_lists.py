"""The lists in the folders that the authors of AVCA and TCaF distribute.

Owns class lists, names in words, and word vectors, by name and in the release's order. The features
beside them are `official`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tcaf.data.splits import Split, load_benchmark
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.files.csv_tables import csv_rows

LISTS = {
    "train": "stage_1_train.txt",
    "val_unseen": "stage_1_val_unseen.txt",
    "test_unseen": "stage_2_test_unseen.txt",
}


def match_name(name: str, names: Iterable[str]) -> str | None:
    """Returns the one of `names` that is `name`, or is so but for letter case, or None."""
    known = sorted(names)
    if name in known:
        return name
    return next((other for other in known if other.casefold() == name.casefold()), None)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise TCAFError(f"{path} is not UTF-8 text: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def find_one(folders: Sequence[Path], pattern: str) -> Path | None:
    """Returns the file that matches `pattern` in the first folder that has one, or None.

    Raises:
        TCAFError: that folder has several.
    """
    for folder in folders:
        found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
        if len(found) > 1:
            names = shorten(path.name for path in found)
            raise TCAFError(f"expected one {pattern} in {folder}, found {names}")
        if found:
            return found[0]
    return None


def find_lists(root: Path) -> dict[str, list[Path]]:
    """Returns, for each split, the folders in which its class lists are looked for, in order.

    `main_split` may hold only what differs from `cls_split`.
    """
    for base in (root / "class-split", root):
        folders = {
            name: folder
            for name, folder in (
                ("main", base / "main_split"),
                ("cls", base),
                ("cls", base / "cls_split"),
            )
            if any((folder / file).is_file() for file in LISTS.values())
        }
        if folders:
            fallback = [folders["cls"]] if "cls" in folders else []
            return {
                name: list(dict.fromkeys([folders[name], *fallback])) for name in sorted(folders)
            }
    return {}


def read_split(folders: Sequence[Path]) -> Split:
    """Reads a split's class lists, each from the first of `folders` that has it.

    Raises:
        TCAFError: a list is missing, or a class is in two lists.
    """
    lists = {}
    for key, file in LISTS.items():
        path = next((folder / file for folder in folders if (folder / file).is_file()), None)
        if path is None:
            raise TCAFError(f"expected the class list {file} in {folders[-1]}, found none")
        lists[key] = tuple(_lines(path))
    return Split(**lists)


def read_words(path: Path) -> dict[str, str]:
    """Reads a `*_w2v_class_names.csv`: the class as in file names, to its name in words.

    Raises:
        TCAFError: not such a table, or a cell of the columns `original` and `manual` is empty.
    """
    rows = csv_rows(path, ("original", "manual"), others="allowed")
    return {row["original"]: row["manual"] for row in rows}


def _spelled(split: Split, words: Mapping[str, str]) -> Split:
    def spell(name: str) -> str:
        found = match_name(name, words)
        if found is None:
            hint = did_you_mean(name, words)
            raise TCAFError(f"class {name!r} of the class lists has no name in words{hint}")
        return found

    lists: dict[str, tuple[str, ...]] = asdict(split)
    return Split(**{key: tuple(dict.fromkeys(map(spell, names))) for key, names in lists.items()})


def read_splits(root: Path, benchmark: str | None) -> tuple[dict[str, Split], dict[str, str]]:
    """Reads the splits by name, and each class's name in words, which decides how it is spelled.

    The lists in the folder come first; those of `benchmark` stand in for what is missing.

    Raises:
        TCAFError: neither the folder nor `benchmark` gives them, or they do not fit each other.
    """
    published = load_benchmark(benchmark) if benchmark else None
    lists, names = find_lists(root), find_one([root, root / "class-split"], "*_w2v_class_names.csv")
    for found, what in ((lists, "class lists in class-split"), (names, "*_w2v_class_names.csv")):
        if not found and not published:
            raise TCAFError(
                f"{root} has no {what}; put them there or name the published ones with "
                "--benchmark ucf, vggsound or activitynet"
            )
    words = read_words(names) if names else published.words if published else {}
    splits = {name: read_split(folders) for name, folders in lists.items()}
    if not splits and published:
        splits = published.splits
    return {name: _spelled(split, words) for name, split in splits.items()}, words


def vectors_by_name(
    words: Mapping[str, str], vectors: Mapping[str, Float[np.ndarray, " text_dim"]]
) -> dict[str, Float[np.ndarray, " text_dim"]]:
    """Returns the vector of each class of `words`, looked up by its name in words.

    Raises:
        TCAFError: a class has no vector; the message gives the nearest name.
    """
    chosen = {}
    for class_name, name in words.items():
        found = match_name(name, vectors)
        if found is None:
            raise TCAFError(
                f"class {class_name!r} has no word vector: none is called {name!r}"
                f"{did_you_mean(name, vectors)}"
            )
        chosen[class_name] = vectors[found]
    return chosen


def vectors_in_release_order(
    words: Mapping[str, str], vectors: Mapping[str, Float[np.ndarray, " text_dim"]]
) -> dict[str, Float[np.ndarray, " text_dim"]]:
    """Returns the vector that the authors' release gives each class (fidelity row 1).

    Vectors are sorted by name in words, classes by name as in file names; a class takes the vector
    at its own position, which is another class's wherever the two orders differ.

    Raises:
        TCAFError: there are not as many vectors as classes.
    """
    if len(words) != len(vectors):
        raise TCAFError(f"{len(words)} classes cannot be paired with {len(vectors)} word vectors")
    return dict(zip(sorted(words), (vectors[name] for name in sorted(vectors)), strict=True))
