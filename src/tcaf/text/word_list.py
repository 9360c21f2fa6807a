"""Class text as shares of a list of words: how near a class is to each of some hundred words.

Owns the lists, the packaged one and people's own, their vectors, and the arithmetic. A text encoder
places all names in one narrow cone; over a fixed list of things that are seen and heard each name
has a profile of near words, from which directions of features are predicted better. Knows nothing
of the classes: the list is never made from the candidates.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from tcaf.errors import TCAFError, shorten
from tcaf.files.digests import cache_folder, file_digest
from tcaf.files.sealed import read_sealed, write_sealed
from tcaf.text.sources import TextSource

PACKAGED = {"english": Path(__file__).parent / "words_en.txt"}
"""The lists that come along, by name: nouns, verbs and adjectives of what is seen and heard."""

Words = tuple[str, ...]


def word_list_file(name: str) -> Path:
    """Returns the file of a list.

    Args:
        name: of a packaged list, or a path.

    Raises:
        TCAFError: there is no such file.
    """
    path = PACKAGED.get(name, Path(name))
    if not path.is_file():
        raise TCAFError(
            f"text.words: expected {' or '.join(PACKAGED)}, or a file with a word or phrase a "
            f"line, got {name!r}"
        )
    return path


def read_word_list(name: str) -> Words:
    """Reads a list of words or phrases, one a line; lines that begin with # are remarks.

    Args:
        name: of a packaged list, or a path.

    Raises:
        TCAFError: no such file, one that is no text, fewer than two words, or a word twice.
    """
    path = word_list_file(name)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TCAFError(f"expected a list of words at {path}, found no text ({error})") from None
    words = [w for line in lines if (w := line.strip()) and not w.startswith("#")]
    if twice := sorted(word for word, times in Counter(words).items() if times > 1):
        raise TCAFError(f"{path}: listed twice: {shorten(twice)}")
    if len(words) < 2:
        raise TCAFError(f"{path}: expected two words or more, one a line, found {len(words)}")
    return tuple(words)


def word_vectors(
    name: str, origin: Sequence[str], open_source: Callable[[], TextSource]
) -> Float[np.ndarray, "num_words text_dim"]:
    """Returns the unit vectors of a list's words.

    They are kept in the cache folder, where that can be written, so that a model which is given new
    names does not embed hundreds of words for each.

    Args:
        name: of the list, see `read_word_list`.
        origin: what tells the text source from any other; nothing keeps no vectors.
        open_source: returns the source; called if the vectors are not kept.

    Raises:
        TCAFError: see `read_word_list`; a word without a vector, or with one that is zero or not
            finite.
    """
    words = read_word_list(name)
    key = hashlib.sha256(json.dumps([list(origin), words]).encode()).hexdigest()[:32]
    kept = cache_folder() / "words" / f"{key}.safetensors"
    if origin and kept.is_file():
        # A damaged file of ours is computed anew, not shown to the user.
        with suppress(ValueError, OSError, KeyError, safetensors.SafetensorError):
            vectors = safetensors.numpy.load(read_sealed(kept, "words")[1])["vectors"]
            if len(vectors) == len(words):
                return vectors
    source = open_source()
    vectors = np.asarray(source.embed(words), np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if len(bad):
        told = shorten(words[i] for i in bad.tolist())
        raise TCAFError(f"text.words: {source.name} has no direction for {told}")
    vectors = (vectors / lengths).astype(np.float32)
    if origin:
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(kept, safetensors.numpy.save({"vectors": vectors}, {"words": key}))
    return vectors


def word_shares(
    text: Float[np.ndarray, "num_classes text_dim"],
    words: Float[np.ndarray, "num_words text_dim"],
    temperature: float,
) -> Float[np.ndarray, "num_classes num_words"]:
    """Returns q = sqrt(softmax over words of t . w / temperature): unit vectors, as t are.

    Args:
        text: unit vectors t of classes.
        words: unit vectors w of words.
        temperature: small values look at the nearest words alone.
    """
    logits = text.astype(np.float64) @ words.T.astype(np.float64) / temperature
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.sqrt(shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def word_list_digest(name: str) -> str:
    """Returns the SHA-256 of a list's file.

    Raises:
        TCAFError: there is no such file.
    """
    return file_digest(word_list_file(name))
