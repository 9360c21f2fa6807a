"""Word vectors: the words of a phrase, and the vectors that a word2vec or GloVe file has for them.

Owns the parting of phrases into words, which names are one, the reading of both file formats, and
the mean over a phrase's words. Which phrases stand for a class, and normalisation, are `phrases`
and `class_text`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from tcaf.errors import TCAFError, did_you_mean, missing_extra
from tcaf.files.csv_tables import is_finite_number

STOP_WORDS = frozenset({"a", "and", "of", "to"})
"""Words that the published word2vec vectors lack; left out where a file has no vector for them."""

COMMON_WORDS = 200_000
"""A correction is sought among so many words from the top of a file, its most frequent ones."""


_INNER_CAPITAL = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])")
"""Where a capital starts a word inside another."""

_SIGNS = {
    b"\x80": "a pickle, as gensim's `save` writes `.kv` files; write it by `save_word2vec_format`",
    b"\x1f\x8b": "packed by gzip; unpack it",
    b"PK\x03\x04": "packed by zip; unpack it",
    b"\xff\xfe": "text in UTF-16; write it as UTF-8",
    b"\xfe\xff": "text in UTF-16; write it as UTF-8",
}
"""Beginnings of files that are taken for word vectors in text, and what they are."""

_FIRST_LINES = 100
"""Lines of a file without a header from which the number of numbers is found."""


def as_words(name: str) -> str:
    """Returns a name as people would write it: folders are called `playing_flute`, `PlayingFlute`.

    Underscores part words; where there are none, nor spaces or hyphens, capitals do too.
    """
    if not re.search(r"[\s_-]", name.strip()):
        name = _INNER_CAPITAL.sub(" ", name)
    return " ".join(name.replace("_", " ").split()) or name


def foldings(name: str) -> set[str]:
    """Returns what a name is compared by: names that share one of these are taken for one.

    Spaces, underscores, letter case and the Unicode form do not count, nor whether capitals or
    spaces part words: UCF's `PlayingFlute` is "playing flute" too.
    """
    name = unicodedata.normalize("NFC", name)
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return {" ".join(text.casefold().replace("_", " ").split()) for text in (name, parted)}


def split_words(phrase: str) -> list[str]:
    """Returns the words of a phrase: `PlayingFlute`, `playing_flute`, `Playing-flute!` give two.

    White space, underscores, hyphens and all other punctuation part words, and so does a capital
    that starts a word inside another (`TVShow` is TV, Show; `TaiChi` is Tai, Chi). A possessive 's
    is dropped. Case is kept.
    """
    text = re.sub(r"['\u2019]s\b", " ", unicodedata.normalize("NFC", phrase))
    text = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return _INNER_CAPITAL.sub(" ", text).split()


def _is_word_line(fields: Sequence[bytes]) -> bool:
    return len(fields) > 1 and all(is_finite_number(field) for field in fields[1:])


def spellings(word: str) -> tuple[str, ...]:
    """Returns the ways in which a word is looked up, best first: as written, lower, capitalised."""
    return tuple(dict.fromkeys((word, word.lower(), word.capitalize())))


@runtime_checkable
class WordTable(Protocol):
    """A file of word vectors."""

    path: Path
    dim: int

    def find(self, words: Iterable[str]) -> dict[str, Float[np.ndarray, " text_dim"]]:
        """Returns the vector of each word that the file has under one of its `spellings`."""

    def vocabulary(self) -> Iterator[str]:
        """Yields the file's words in its order."""


class WordVectors:
    """Embeds a phrase as the mean of its words' vectors.

    Every word of the phrase needs a vector; only `STOP_WORDS` that the file lacks are left out,
    and these only if another word remains.

    Args:
        name: what the source is, for messages.
        table: where vectors are looked up.
    """

    def __init__(self, name: str, table: WordTable) -> None:
        self.name = name
        self.dim = table.dim
        self._table = table

    def embed(self, phrases: Sequence[str]) -> Float[np.ndarray, "num_phrases text_dim"]:
        """Returns the mean over the words of each phrase.

        Raises:
            TCAFError: a word has no vector (the message gives the nearest common word), or a
                phrase has no word.
        """
        words_of = [split_words(phrase) for phrase in phrases]
        found = self._table.find({word for words in words_of for word in words})
        rows = np.empty((len(phrases), self.dim), np.float32)
        for row, (phrase, words) in enumerate(zip(phrases, words_of, strict=True)):
            kept = [w for w in words if w in found or w.lower() not in STOP_WORDS] or words
            if not kept:
                raise TCAFError(f"phrase {phrase!r} has no word to look up in {self._table.path}")
            missing = next((word for word in kept if word not in found), None)
            if missing is not None:
                raise TCAFError(
                    f"no vector for the word {missing!r} of {phrase!r} in {self._table.path}"
                    f"{self._nearest(missing)}"
                )
            rows[row] = np.mean([found[word] for word in kept], axis=0, dtype=np.float64)
        return rows

    def _nearest(self, missing: str) -> str:
        """Returns the hint for a missing word; few candidates, since comparing them is slow."""
        start = missing[0].casefold()
        return did_you_mean(
            missing,
            (
                word
                for word in islice(self._table.vocabulary(), COMMON_WORDS)
                if word[:1].casefold() == start and abs(len(word) - len(missing)) <= 2
            ),
        )


def _check_size(path: Path) -> None:
    """Checks that a word2vec file is as long as its header says, before room is made for it.

    Raises:
        TCAFError: it is shorter, or its first line is no header.
    """
    with path.open("rb") as file:
        head = file.readline(100)
    sizes = head.split()
    if len(sizes) != 2 or not all(size.isdigit() for size in sizes):
        raise TCAFError(f"{path}: expected a word2vec .bin file, found no numbers of words first")
    num_words, dim = map(int, sizes)
    if path.stat().st_size < len(head) + num_words * (4 * dim + 1):
        raise TCAFError(
            f"{path}: expected a word2vec .bin file of {num_words} words with {dim} numbers each, "
            f"found {path.stat().st_size} bytes; fetch it again"
        )


class BinaryWordTable:
    """A word2vec file in the binary format, held in memory whole: 3.6 GB for GoogleNews.

    Raises:
        TCAFError: gensim is not installed, or the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            from gensim.models import KeyedVectors
        except ImportError:
            raise missing_extra("gensim, which reads word2vec .bin files,") from None
        if path.suffix == ".bin":
            _check_size(path)
        try:
            # The original tool cuts long words in the middle of a character.
            vectors = KeyedVectors.load_word2vec_format(
                str(path), binary=True, unicode_errors="replace"
            )
        except Exception as error:  # noqa: BLE001 - whatever a foreign file makes gensim raise
            raise TCAFError(f"{path}: expected a word2vec .bin file ({error})") from None
        self.path = path
        self.dim = int(vectors.vector_size)
        self._vectors = vectors

    def find(self, words: Iterable[str]) -> dict[str, Float[np.ndarray, " text_dim"]]:
        """Returns the vector of each word that the file has under one of its `spellings`.

        Raises:
            TCAFError: a vector has a value that is not finite.
        """
        found = {}
        for word in words:
            spelling = next((s for s in spellings(word) if s in self._vectors), None)
            if spelling is None:
                continue
            found[word] = np.asarray(self._vectors[spelling], np.float32)
            if not np.isfinite(found[word]).all():
                raise TCAFError(f"{self.path}: the vector of {spelling!r} is not finite")
        return found

    def vocabulary(self) -> Iterator[str]:
        """Yields the file's words in its order."""
        # Words that the file has twice leave gaps at the end.
        return (word for word in self._vectors.index_to_key if word is not None)


class TextWordTable:
    """A GloVe file, or a word2vec one in the text format: a word and its numbers on each line.

    Such files hold gigabytes: a search for words not asked for before reads through the file and
    keeps the vectors of the wanted words alone. A first line of two integers is word2vec's header.

    Raises:
        TCAFError: the first line is not a word with its numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, Float[np.ndarray, " text_dim"]] = {}
        self._absent: set[str] = set()
        with path.open("rb") as file:
            head = file.read(4)
        for sign, what in _SIGNS.items():
            if head.startswith(sign):
                raise TCAFError(f"{path} is {what}")
        self._num_words: int | None = None
        first = [line.split() for _, line in islice(self._lines(), _FIRST_LINES)]
        if first and len(first[0]) == 2 and all(field.isdigit() for field in first[0]):
            self._num_words, self.dim = map(int, first.pop(0))
        else:
            # The first word may have spaces inside, hence most of the lines decide.
            counts = Counter(len(fields) - 1 for fields in first if _is_word_line(fields))
            self.dim = counts.most_common(1)[0][0] if counts else 0
        if not first or not self.dim or not _is_word_line(first[0][-self.dim - 1 :]):
            hint = "; a binary word2vec file ends in .bin" if self._num_words else ""
            raise TCAFError(f"{path}: expected text lines of a word and its numbers{hint}")

    def find(self, words: Iterable[str]) -> dict[str, Float[np.ndarray, " text_dim"]]:
        """Returns the vector of each word that the file has under one of its `spellings`.

        Raises:
            TCAFError: a line is malformed, or the file ends before its header says.
        """
        wanted = list(words)
        known = self._found.keys() | self._absent
        first = {word for word in wanted if word not in known}
        if first:
            self._search(first, {s for word in wanted for s in spellings(word)} - known)
        found = {}
        for word in wanted:
            for spelling in spellings(word):
                if spelling in self._found:
                    found[word] = self._found[spelling]
                    break
        return found

    def _search(self, first: set[str], spelled: set[str]) -> None:
        """Reads lines until every spelling in `first` was met, at worst all of them."""
        wanted = {spelling.encode(): spelling for spelling in spelled}
        lines = 0
        for number, line in self._lines():
            lines += 1
            end = self._end_of_word(number, line)
            # Of words listed twice the first counts, as it does for gensim.
            spelling = wanted.pop(line[:end], None)
            if spelling is None:
                continue
            self._found[spelling] = self._numbers(number, line[end + 1 :])
            first.discard(spelling)
            if not first:
                return
        if self._num_words is not None and lines < self._num_words:
            raise TCAFError(
                f"{self.path} is cut short: its header says {self._num_words} words, found {lines}"
            )
        self._absent |= set(wanted.values())

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yields the number and content of each line that holds a word."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
                stripped = line.rstrip()
                if stripped and (number > 1 or self._num_words is None):
                    yield number, stripped

    def _end_of_word(self, number: int, line: bytes) -> int:
        """Returns where the numbers start, having counted them."""
        extra = line.count(b" ") - self.dim
        if extra == 0:
            return line.index(b" ")
        # A few of GloVe's words have spaces inside (". . .", "at name@domain.com").
        fields = line.split(b" ")
        inside = fields[1 : extra + 1]
        if extra < 0 or all(is_finite_number(field) for field in inside):
            raise TCAFError(
                f"{self.path}, line {number}: expected a word and {self.dim} numbers, "
                f"found {len(fields) - 1} numbers"
            )
        return len(b" ".join(fields[: extra + 1]))

    def _numbers(self, number: int, text: bytes) -> Float[np.ndarray, " text_dim"]:
        fields = text.split(b" ")
        wrong = next((field for field in fields if not is_finite_number(field)), None)
        if wrong is not None:
            shown = wrong.decode(errors="replace")
            raise TCAFError(f"{self.path}, line {number}: expected a number, found {shown!r}")
        return np.array([float(field) for field in fields], np.float32)

    def vocabulary(self) -> Iterator[str]:
        """Yields the file's words in its order."""
        for number, line in self._lines():
            yield line[: self._end_of_word(number, line)].decode(errors="replace")
