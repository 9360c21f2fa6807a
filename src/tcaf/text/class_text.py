"""Class names to text embeddings.

Owns the settings, which phrases stand for a class, their averaging, and what is kept with the
store. Reading files and running encoders is `sources`, `words` and `encoders`.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError

from tcaf.data.store import CACHE_PREFIX, FeatureStore
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.files.digests import file_digest
from tcaf.pretrained.fetch import files_digest
from tcaf.settings.sections import TextSettings
from tcaf.text.encoders import PACKAGED_MODEL, AlignedEncoder, SentenceEncoder, packaged_model
from tcaf.text.of_backbone import BACKBONE, NoText, find_marked, resolved
from tcaf.text.phrases import BY_CLASS_NAME as BY_CLASS_NAME
from tcaf.text.phrases import class_phrases, read_phrases
from tcaf.text.sources import NamedVectors, TextSource, read_attributes, read_named_vectors
from tcaf.text.spaces import ClassText, naming_space
from tcaf.text.word_list import read_word_list, word_list_file, word_shares, word_vectors
from tcaf.text.words import BinaryWordTable, TextWordTable, WordVectors

_CACHE_VERSION = 1
"""Raised when the same settings and phrases come to give other embeddings."""

_NEEDS = {
    "word2vec": "a word2vec file",
    "glove": "a GloVe file",
    "npy": "a .npy file of named vectors",
    "attributes": "a CSV of attributes",
}
"""The sources that read the file at `path`, and what they expect there."""

_NEEDS_MODEL = {
    "hf": "a model that embeds text beside pictures, videos or sounds, ID_OR_FOLDER[@REVISION]",
    "st": "a sentence-transformers model, ID_OR_FOLDER[@REVISION]",
}
"""The sources that open the model that `path` names, and what they expect of it."""

_KEPT = ("sentence", "hf", "st", "word2vec", "glove")
"""The sources slow enough for their embeddings to be kept with the store."""


class UnusedRowsWarning(UserWarning):
    """A table that a person wrote says something of classes that nobody asks for."""


def open_text_source(settings: TextSettings, store: FeatureStore | None = None) -> TextSource:
    """Opens what `settings` names, ready to embed phrases.

    Args:
        settings: which source, and which file of it.
        store: where `stored` embeddings lie, and whose features `backbone` goes by; the other
            sources need none.

    Raises:
        TCAFError: a setting that the source does not read, a missing or damaged file, a missing
            package, or a store without such embeddings.
    """
    settings = _of_store(settings, store)
    _check(settings)
    if settings.source == "stored":
        return _open_stored(settings, store)
    if settings.source == "none":
        return NoText()
    if settings.source in _NEEDS_MODEL:
        return _open_model(settings)
    path = Path(settings.path)
    if settings.source == "sentence":
        if settings.path:
            return SentenceEncoder(path, f"sentence encoder {path}")
        folder, version = packaged_model()
        return SentenceEncoder(folder, f"sentence encoder {PACKAGED_MODEL} {version}")
    name = f"{settings.source} file {path}"
    if settings.source == "npy":
        return NamedVectors(name, read_named_vectors(path), fold=True)
    if settings.source == "attributes":
        return NamedVectors(name, read_attributes(path))
    if settings.source == "word2vec" and ".bin" in path.suffixes:
        return WordVectors(name, BinaryWordTable(path))
    return WordVectors(name, TextWordTable(path))


def _of_store(settings: TextSettings, store: FeatureStore | None) -> TextSettings:
    """Returns settings with the source that `backbone` stands for."""
    return settings if store is None else resolved(settings, store.spec)


def _open_model(settings: TextSettings) -> TextSource:
    files = find_marked(settings.path)
    name = f"{settings.source} model {files.name}"
    if settings.source == "st":
        return SentenceEncoder(files.folder, name)
    return AlignedEncoder(files.folder, settings.modality or None, name)


def _check(settings: TextSettings) -> None:
    """Refuses settings that would be passed over in silence, and files that are not there."""
    source = settings.source
    if settings.name and source != "stored":
        raise TCAFError(f"text.name {settings.name!r} is for the source stored, not for {source}")
    if settings.path and source in ("stored", "none"):
        others = ", ".join(["sentence", *_NEEDS_MODEL, *_NEEDS])
        raise TCAFError(
            f"text.path {settings.path!r} is not read by the source {source}; set text.source to "
            f"one of {others}"
        )
    if source == BACKBONE:
        raise TCAFError(
            "the source backbone goes by the features of a store, and there is none here"
        )
    if settings.modality and source not in (BACKBONE, "hf"):
        raise TCAFError(f"text.modality is for the sources backbone and hf, not for {source}")
    worded = settings.phrases_file or settings.prompts or tuple(settings.phrases) != ("name",)
    if source in BY_CLASS_NAME and worded:
        raise TCAFError(
            f"the source {source} has one vector per class and embeds no phrases; leave "
            "text.phrases, text.phrases_file and text.prompts out, or choose another text.source"
        )
    if settings.words:
        if source in (*BY_CLASS_NAME, "npy"):
            raise TCAFError(
                f"the source {source} has no vectors of words, which text.words needs; choose "
                "another text.source, such as sentence"
            )
        word_list_file(settings.words)
    if not settings.phrases:
        raise TCAFError("text.phrases is empty; expected kinds of phrases such as name")
    needed = {**_NEEDS, **_NEEDS_MODEL}.get(source)
    if needed and not settings.path:
        raise TCAFError(f"the source {source} needs {needed}: set text.path")
    files = [(settings.path, _NEEDS[source])] if source in _NEEDS else []
    for path, what in [*files, (settings.phrases_file, "a CSV of phrases")]:
        if path and not Path(path).is_file():
            raise TCAFError(f"expected {what} at {path}, found none")


def _open_stored(settings: TextSettings, store: FeatureStore | None) -> TextSource:
    if store is None:
        raise TCAFError("the source stored reads a feature store, and there is none here")
    names = store.given_text_names
    if not names:
        raise TCAFError(
            f"store {store.path} keeps no text embeddings; set text.source to sentence, or to "
            "another source with its text.path"
        )
    if not settings.name and len(names) > 1:
        raise TCAFError(
            f"store {store.path} keeps several text embeddings; set text.name to one of "
            f"{', '.join(names)}"
        )
    name = settings.name or names[0]
    if name not in names:
        hint = did_you_mean(name, names)
        raise TCAFError(
            f"store {store.path} keeps no text embeddings {name!r}; it keeps "
            f"{', '.join(names)}{hint}"
        )
    return NamedVectors(f"the text embeddings {name!r} of store {store.path}", store.text(name))


def embed_classes(
    settings: TextSettings,
    class_names: Sequence[str],
    store: FeatureStore | None = None,
    phrases: Mapping[str, Sequence[str]] | None = None,
    *,
    source: TextSource | None = None,
) -> Float[np.ndarray, "num_classes text_dim"]:
    """Returns the text embedding of each class, in their order.

    What a slow source computes is kept with the store, where its folder can be written, and read
    from there the next time.

    Args:
        settings: the source and the phrases.
        class_names: the classes, known to the store or not.
        store: where stored embeddings and phrases lie.
        phrases: phrases of some classes, in place of all others that these have.
        source: what `open_text_source` returned for these settings, to embed many sets of classes
            in a row; nothing is then kept with the store.

    Raises:
        TCAFError: as `open_text_source` and `class_phrases`; a class, phrase or word without a
            vector; a vector that is not finite or, if it is to be normalised, zero.
    """
    vectors = _embed(settings, class_names, store, phrases, source)
    settings = _of_store(settings, store)
    return _in_words(settings, vectors, lambda: source or open_text_source(settings, store))


def average_names(
    settings: TextSettings,
    names: Mapping[str, Sequence[str]],
    vectors: Mapping[str, Float[np.ndarray, " _"]],
    store: FeatureStore | None = None,
) -> Float[np.ndarray, "num_classes text_dim"]:
    """Returns what `embed_classes` does of classes by their names alone, embedded already.

    Args:
        settings: the source, and the list of words.
        names: of each class.
        vectors: of each name, from `embed_classes` without the list of words.
        store: that names were embedded for.
    """
    settings = _of_store(settings, store)
    known = NamedVectors("names that are embedded", vectors)
    means = average_phrases(known, names, settings.normalise)
    return _in_words(settings, means, lambda: open_text_source(settings, store))


def _in_words(
    settings: TextSettings,
    vectors: Float[np.ndarray, "num_classes text_dim"],
    open_source: Callable[[], TextSource],
) -> Float[np.ndarray, "num_classes _"]:
    """Returns text embeddings compared with the list of words, where there is one."""
    if not settings.words:
        return vectors
    words = word_vectors(settings.words, text_origin(settings), open_source)
    return word_shares(vectors, words, settings.words_temperature)


def text_size(settings: TextSettings, source: TextSource) -> int:
    """Returns the size of the text embeddings that `embed_classes` makes with a source."""
    return len(read_word_list(settings.words)) if settings.words else source.dim


def _embed(
    settings: TextSettings,
    class_names: Sequence[str],
    store: FeatureStore | None,
    phrases: Mapping[str, Sequence[str]] | None,
    source: TextSource | None,
) -> Float[np.ndarray, "num_classes text_dim"]:
    """Returns the mean of each class's phrases, before words come in."""
    settings = _of_store(settings, store)
    _check(settings)
    phrases_of = class_phrases(settings, class_names, store, phrases)
    if source is not None:
        return average_phrases(source, phrases_of, settings.normalise)
    if store is None or settings.source not in _KEPT:
        return average_phrases(open_text_source(settings, store), phrases_of, settings.normalise)
    key = _cache_key(settings, phrases_of)
    if key in store.text_names:
        # A damaged file of ours is computed anew, not shown to the user.
        with suppress(ValueError):
            kept = store.text(key)
            return np.stack([kept[name] for name in class_names])
    matrix = average_phrases(open_text_source(settings, store), phrases_of, settings.normalise)
    with suppress(OSError, SafetensorError):
        store.add_text(key, dict(zip(phrases_of, matrix, strict=True)))
    return matrix


def embed_in_spaces(
    settings: Mapping[str, TextSettings],
    class_names: Sequence[str],
    store: FeatureStore,
    *,
    others: Collection[str] = (),
) -> ClassText:
    """Returns the text embeddings of classes in each of some text spaces.

    Args:
        settings: of each space.
        class_names: the classes.
        store: where stored embeddings and phrases lie.
        others: who else a file of phrases may have rows for.

    Raises:
        TCAFError: see `embed_classes`; of several spaces it says which.
    """
    matrices = {}
    for space, own in settings.items():
        with naming_space(space, settings):
            _warn_of_unused_rows(own, {*class_names, *others})
            matrices[space] = torch.from_numpy(embed_classes(own, class_names, store))
    return ClassText(matrices)


def _warn_of_unused_rows(settings: TextSettings, names: Collection[str]) -> None:
    """Warns of classes in a file of phrases which nobody asks for, as misspelt ones.

    Of tables of vectors such rows may be asked for later, by name.
    """
    if not settings.phrases_file:
        return
    unused = sorted(set(read_phrases(Path(settings.phrases_file))) - set(names))
    if unused:
        warnings.warn(
            f"{settings.phrases_file} has rows of {len(unused)} classes that are not among those "
            f"of the split, which nothing reads: {shorten(unused)}",
            UnusedRowsWarning,
            stacklevel=2,
        )


def average_phrases(
    source: TextSource, phrases_of: Mapping[str, Sequence[str]], normalise: bool
) -> Float[np.ndarray, "num_classes text_dim"]:
    """Returns the mean vector of each class's phrases; the source is called once.

    Args:
        source: embeds phrases.
        phrases_of: at least one phrase per class.
        normalise: scale each phrase's vector and each mean to length 1.

    Raises:
        TCAFError: a vector is not finite, or is to be normalised and zero.
    """
    # Sorted, so that an encoder's batches, hence its last digits, do not depend on class order.
    unique = sorted({phrase for phrases in phrases_of.values() for phrase in phrases})
    vectors = np.asarray(source.embed(unique), np.float64)
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        told = shorten(unique[i] for i in broken.tolist())
        raise TCAFError(f"vectors that are not finite in {source.name}: {told}")
    if normalise:
        vectors = _unit(vectors, unique, 0.0, source.name)
    row_of = {phrase: row for row, phrase in enumerate(unique)}
    counts = np.array([len(phrases) for phrases in phrases_of.values()])
    rows = np.array([row_of[p] for phrases in phrases_of.values() for p in phrases])
    starts = np.cumsum(counts) - counts
    means = np.add.reduceat(vectors[rows], starts, axis=0) / counts[:, None]
    if normalise:
        # Unit vectors that cancel leave rounding errors, whose direction means nothing.
        means = _unit(means, list(phrases_of), 1e-6, source.name)
    return np.asarray(means, np.float32)


def _unit(
    vectors: Float[np.ndarray, "rows text_dim"], names: Sequence[str], least: float, where: str
) -> Float[np.ndarray, "rows text_dim"]:
    """Returns the rows scaled to length 1; a length up to `least` is an error."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    zero = np.flatnonzero(lengths[:, 0] <= least)
    if len(zero):
        told = shorten(names[i] for i in zero.tolist())
        raise TCAFError(f"zero vectors, which cannot be normalised, in {where}: {told}")
    return np.asarray(vectors / lengths)


def _cache_key(settings: TextSettings, phrases_of: Mapping[str, Sequence[str]]) -> str:
    """Returns the name under which these embeddings are kept: all that they depend on, hashed."""
    content: dict[str, Any] = {
        "version": _CACHE_VERSION,
        "source": settings.source,
        "origin": text_origin(settings),
        "normalise": settings.normalise,
        "phrases": phrases_of,
    }
    content |= {"modality": settings.modality} if settings.modality else {}
    text = json.dumps(content, sort_keys=True)
    return CACHE_PREFIX + hashlib.sha256(text.encode()).hexdigest()[:32]


def text_origin(settings: TextSettings) -> list[str]:
    """Returns what tells the file or model that a source reads from any other: its content.

    Of a folder all files count but hidden ones, Python's caches and notes in Markdown, which no
    encoder reads; of a model of the hub those that are fetched, whatever lies beside them.

    Returns:
        The SHA-256 of the content, behind name and version of a model that comes as a package;
        nothing for a source that reads none, or where none is there.

    Raises:
        TCAFError: the package of the sentence encoder is not installed, or a model cannot be had.
    """
    path, package, fetched = Path(settings.path), [], None
    if settings.source == "sentence" and not settings.path:
        path, version = packaged_model()
        package = [PACKAGED_MODEL, version]
    elif settings.source in _NEEDS_MODEL:
        model = find_marked(settings.path)
        path, fetched = model.folder, model.files()
    elif not settings.path:
        return []
    if not path.is_dir():
        return [file_digest(path)] if path.is_file() else []
    files = [
        file
        for file in (path.rglob("*") if fetched is None else fetched)
        if file.is_file()
        and file.suffix.lower() != ".md"
        and not any(part.startswith((".", "__")) for part in file.relative_to(path).parts)
    ]
    return [*package, files_digest(path, files)]
