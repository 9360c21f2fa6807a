"""Where text embeddings come from: encoders, tables of named vectors, word vectors.

Owns what a source is (`TextSource`), the reading of tables, and the encoders: phrases go in, one
vector each comes out, as the origin has it. Word files are `word_vectors`. Does not choose phrases,
average or normalise: that is `text`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from tcaf.errors import TCAFError, did_you_mean
from tcaf.files.csv_tables import csv_rows, is_finite_number
from tcaf.files.safe_pickle import read_npy
from tcaf.text.words import foldings


@runtime_checkable
class TextSource(Protocol):
    """Embeds phrases, known or new."""

    @property
    def name(self) -> str:
        """What the source is and which file or model it reads, for messages and records."""

    @property
    def dim(self) -> int:
        """Size of a text embedding."""

    def embed(self, phrases: Sequence[str]) -> Float[np.ndarray, "num_phrases text_dim"]:
        """Returns one vector per phrase, in their order, not normalised.

        Raises:
            TCAFError: a phrase has no vector.
        """


def _check_sizes(name: str, vectors: Mapping[str, Float[np.ndarray, "..."]]) -> None:
    if not vectors:
        raise TCAFError(f"{name} holds no vector")
    first = next(iter(vectors))
    shape = vectors[first].shape
    for key, vector in vectors.items():
        if vector.shape != shape or vector.ndim != 1:
            raise TCAFError(
                f"{name}: expected vectors of one size; {first!r} has shape {shape}, "
                f"{key!r} has {vector.shape}"
            )


class NamedVectors:
    """A table of names with a vector each: stored embeddings, the authors' file, attributes.

    Args:
        name: what the table is, for messages.
        vectors: one vector per name.
        fold: whether a name that is not in the table may match one that differs in letter case, or
            in whether spaces, underscores or capitals part its words.

    Raises:
        TCAFError: the table is empty, or its vectors differ in size.
    """

    def __init__(
        self, name: str, vectors: Mapping[str, Float[np.ndarray, "..."]], *, fold: bool = False
    ) -> None:
        _check_sizes(name, vectors)
        self.name = name
        self.dim = len(next(iter(vectors.values())))
        self._vectors = vectors
        self._by_folded = {f: key for key in vectors for f in foldings(key)} if fold else {}

    def embed(self, phrases: Sequence[str]) -> Float[np.ndarray, "num_phrases text_dim"]:
        """Returns the vector of each name.

        Raises:
            TCAFError: a name is not in the table; the message gives the nearest one.
        """
        rows = np.empty((len(phrases), self.dim), np.float32)
        for row, phrase in enumerate(phrases):
            folded = [self._by_folded[f] for f in foldings(phrase) if f in self._by_folded]
            key = phrase if phrase in self._vectors else min(folded, default=None)
            if key is None:
                hint = did_you_mean(phrase, self._vectors)
                raise TCAFError(f"no vector for {phrase!r} in {self.name}{hint}")
            rows[row] = self._vectors[key]
        return rows


def read_named_vectors(path: Path) -> dict[str, Float[np.ndarray, " text_dim"]]:
    """Reads the authors' .npy file, a pickled dict of names to vectors, without running anything.

    Raises:
        TCAFError: not a dict of names to finite vectors of one size.
    """
    content = read_npy(path)
    if not isinstance(content, dict):
        found = type(content).__name__
        raise TCAFError(f"{path}: expected a dict of names to vectors, found {found}")
    vectors = {}
    for name, value in content.items():
        try:
            vector = np.asarray(value)
        except ValueError:
            vector = np.empty(0, object)
        if not isinstance(name, str) or vector.dtype.kind not in "fiu":
            raise TCAFError(f"{path}: expected a name and its numbers, found an entry {name!r}")
        with np.errstate(over="ignore"):
            vectors[str(name)] = vector.astype(np.float32)
    _check_sizes(str(path), vectors)
    for name, vector in vectors.items():
        if not np.isfinite(vector).all():
            raise TCAFError(f"{path}: the vector of {name!r} is not finite")
    return vectors


def read_attributes(path: Path) -> dict[str, Float[np.ndarray, " text_dim"]]:
    """Reads a CSV with a header, the class in the first column and numbers in the others.

    Raises:
        TCAFError: not such a file, a cell that is no finite number, a class listed twice.
    """
    vectors: dict[str, Float[np.ndarray, " text_dim"]] = {}
    for row in csv_rows(path, others="allowed"):
        (_, name), *numbers = row.cells.items()
        if not numbers:
            raise TCAFError(f"{row.where}: expected a class and its numbers, found {name!r} alone")
        if name in vectors:
            raise TCAFError(f"{row.where}: class {name!r} is listed twice")
        for column, cell in numbers:
            if not is_finite_number(cell):
                raise TCAFError(f"{row.where}: expected a number for {column!r}, found {cell!r}")
        vectors[name] = np.array([float(cell) for _, cell in numbers], np.float32)
    return vectors
