"""Candidate classes by name: the run's own, and any other that its text sources have a vector for.

Owns the way from names as people write them to text embeddings in the order of the names, in each
text space that the run's system reads. How phrases become vectors is `text`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.files.csv_tables import csv_rows
from tcaf.settings.sections import TextSettings
from tcaf.text.class_text import embed_classes, open_text_source, text_size
from tcaf.text.phrases import class_phrases
from tcaf.text.sources import TextSource
from tcaf.text.spaces import ClassText, SpaceVectors, naming_space
from tcaf.text.words import as_words, foldings

TABLES = ("stored", "attributes", "npy")
"""The text sources that are tables of named vectors; the others embed phrases."""

NAMING_COLUMNS = ("class", "name")
"""Columns of a table that hold the names of classes."""

COLUMNS = frozenset(
    {"class", "name", "names", "label", "file", "path", "phrase", "words", "index", "id", "mid"}
    | {"wnid", "theme", "cls", "main", "group", "part", "split", "subset", "set", "fold"}
    | {"partition"}
)
"""What the columns of tables of classes and clips are called."""

NO_STORE = "the store that holds it is no longer where the run found it"

SAME = 0.999
"""Least cosine of two text embeddings that are of one phrase by one source."""


@dataclass(frozen=True)
class Candidates:
    """Classes to choose from, in the order in which they were named.

    Args:
        names: as they were given, without leading and trailing spaces.
        known: what the run calls each; None for a class that it does not know.
        text: their text embeddings, in each space.
    """

    names: tuple[str, ...]
    known: tuple[str | None, ...]
    text: ClassText


class RunClasses:
    """The classes that a run knows, and new ones, whose text is embedded as theirs was.

    Args:
        settings: says where text embeddings come from, for each space that the run's system reads.
        vectors: text embedding of each class that the run knows, in each of these spaces.
        store: the feature store that the run was trained on, for the source `stored`; None if it
            is gone.
        no_store: why there is none, in one line.
    """

    def __init__(
        self,
        settings: Mapping[str, TextSettings],
        vectors: SpaceVectors,
        store: Path | None,
        no_store: str = NO_STORE,
    ) -> None:
        self._spaces = {
            space: _Space(own, vectors[space], store, no_store) for space, own in settings.items()
        }
        self._known = set.intersection(*(set(vectors[space]) for space in settings))
        self._by_folded: dict[str, list[str]] = {}
        for known in self.known:
            for folding in foldings(known):
                self._by_folded.setdefault(folding, []).append(known)

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the classes that the run knows, sorted."""
        return tuple(sorted(self._known))

    def find(self, name: str) -> str | None:
        """Returns what the run calls a class; None if it does not know it.

        Letter case does not count, nor whether words are parted by spaces, underscores or capitals,
        as in names of folders.

        Raises:
            TCAFError: several of the run's names differ from this one in no more than that.
        """
        if name in self._known:
            return name
        same = sorted({known for f in foldings(name) for known in self._by_folded.get(f, ())})
        if len(same) > 1:
            raise TCAFError(
                f"class {name!r} may be each of {shorten(same)}; spell it as one of them"
            )
        return same[0] if same else None

    def embed(
        self, names: Sequence[str], phrases: Mapping[str, Sequence[str]] | None = None
    ) -> Candidates:
        """Returns classes with their text embeddings.

        Args:
            names: at least one, each once; leading and trailing spaces do not count.
            phrases: wordings of some of them, in place of the name or of what the run knows.

        Raises:
            TCAFError: no name, an empty one, one that is there twice, phrases of another class, a
                name that a text source has no vector for, or a text source that is no longer what
                it was when the run was trained.
        """
        if isinstance(names, str):
            raise TCAFError(f"expected a list of class names, got the text {names!r}")
        names = [name.strip() for name in names]
        worded = {name.strip(): list(of_class) for name, of_class in (phrases or {}).items()}
        known = [self.find(name) for name in names]
        _check_names(names, known)
        for name in worded:
            if name not in names:
                raise TCAFError(f"phrases of {name!r}, no class here{did_you_mean(name, names)}")
        matrices = {}
        for space, own in self._spaces.items():
            with naming_space(space, self._spaces):
                matrices[space] = torch.from_numpy(own.embed(names, known, worded))
        return Candidates(tuple(names), tuple(known), ClassText(matrices))


class _Space:
    """One text space of a run.

    Args:
        settings: of the space.
        vectors: text embedding of each class that the run knows.
        store: see `RunClasses`.
        no_store: see there.
    """

    def __init__(
        self,
        settings: TextSettings,
        vectors: Mapping[str, Float[np.ndarray, " text_dim"]],
        store: Path | None,
        no_store: str,
    ) -> None:
        self._named_alone = tuple(settings.phrases) == ("name",) and not settings.phrases_file
        if settings.source not in TABLES:
            # Of a new class nothing but its name is known, or the phrases that come with it.
            settings = replace(settings, phrases=("name",), phrases_file="")
        self.settings = settings
        self._vectors = vectors
        self._store = store
        self._no_store = no_store

    def embed(
        self,
        names: Sequence[str],
        known: Sequence[str | None],
        phrases: Mapping[str, Sequence[str]],
    ) -> Float[np.ndarray, "num_classes text_dim"]:
        """Returns the text embeddings of classes; those that the run knows keep theirs.

        Args:
            names: of the classes.
            known: what the run calls each; None for a class that it does not know.
            phrases: wordings of some of them, in place of the name or of what the run knows.
        """
        new = [n for n, own in zip(names, known, strict=True) if own is None or n in phrases]
        made = dict(zip(new, self._embed_new(new, phrases), strict=True)) if new else {}
        rows = [
            made[name] if name in made else self._vectors[str(own)]
            for name, own in zip(names, known, strict=True)
        ]
        return np.stack(rows)

    def _embed_new(
        self, names: list[str], phrases: Mapping[str, Sequence[str]]
    ) -> Float[np.ndarray, "num_names text_dim"]:
        """Embeds names that the run does not know, or that have other wordings."""
        worded = {name: phrases.get(name, [as_words(name)]) for name in names}
        settings = self.settings
        if settings.source not in TABLES:
            return embed_classes(settings, names, phrases=worded, source=self._source)
        if phrases:
            raise TCAFError(
                f"the run's text source {settings.source!r} embeds no phrases; a run trained with "
                "text.source sentence does"
            )
        rows = []
        for name in names:
            try:
                rows.append(embed_classes(settings, [name], source=self._source)[0])
            except TCAFError as error:
                hint = did_you_mean(name, self._vectors)
                raise TCAFError(
                    f"the run knows no class {name!r}, and its text source {settings.source!r} has "
                    f"no vector for it ({error}); a run trained with text.source sentence takes "
                    f"any name{hint}"
                ) from None
        return np.stack(rows)

    @cached_property
    def _source(self) -> TextSource:
        if self.settings.source == "stored" and self._store is None:
            raise TCAFError(self._no_store)
        store = None if self._store is None else FeatureStore.open(self._store)
        source = open_text_source(self.settings, store)
        self._check_same(source, store)
        return source

    def _check_same(self, source: TextSource, store: FeatureStore | None) -> None:
        """Refuses a source whose vectors lie in another space than those of the run's classes."""
        known = sorted(self._vectors)
        size = len(self._vectors[known[0]])
        made_size = text_size(self.settings, source)
        if made_size != size:
            raise TCAFError(
                f"the run was trained on text embeddings of size {size}, {source.name} makes ones "
                f"of size {made_size}"
            )
        # Without the store, a name that is not as people write it may have had another wording.
        kept = {} if store is None else store.phrases
        worded = [name for name in known if name in kept or name in foldings(name)]
        if not self._named_alone or not worded:
            return
        name = worded[0]
        wanted = self._vectors[name]

        def is_same(phrases: Mapping[str, Sequence[str]]) -> bool:
            made = embed_classes(self.settings, [name], phrases=phrases, source=source)[0]
            return bool(made @ wanted >= SAME * np.linalg.norm(made) * np.linalg.norm(wanted))

        try:
            if is_same(class_phrases(self.settings, [name], store)):
                return
        except TCAFError:
            return  # word vectors that lack a word may be right for others
        # Older releases embedded `PlayingFlute` as it is, by the same source.
        with suppress(TCAFError):
            if is_same({name: [name]}):
                return
        raise TCAFError(
            f"{source.name} has changed since the run was trained: it gives class {name!r} "
            "another text embedding; put back what was there, or train anew"
        )


def _check_names(names: Sequence[str], known: Sequence[str | None]) -> None:
    """Refuses names that would be no candidates, or two columns of one class."""
    if not names:
        raise TCAFError("no class to choose from; expected at least one name")
    if "" in names:
        raise TCAFError(f"class name {names.index('') + 1} of {len(names)} is empty")
    first: dict[str, str] = {}
    for name, own in zip(names, known, strict=True):
        for key in [own] if own else sorted(foldings(name)):
            if key in first:
                told = shorten(dict.fromkeys((first[key], name)))
                raise TCAFError(f"class names must be unique; there twice: {told}")
            first[key] = name


def split_names(text: str, known: Iterable[str]) -> list[str]:
    """Splits class names written in one line.

    A semicolon anywhere makes semicolons the separators. Otherwise they are commas; where the text
    goes on with one of the `known` names that holds commas itself, that name is taken whole, the
    longest first, letter case aside.

    Args:
        text: such as `cat purring, dog barking`.
        known: names that may hold commas.
    """
    if ";" in text:
        return [part.strip() for part in text.split(";") if part.strip()]
    whole = sorted((name for name in known if "," in name), key=lambda name: (-len(name), name))
    either = [*(re.escape(name) for name in whole), "[^,]*"]
    pattern = re.compile(rf"\s*({'|'.join(either)})\s*(?:,|$)", re.IGNORECASE)
    names, at = [], 0
    while at < len(text):
        match = pattern.match(text, at)
        assert match is not None, "the last alternative matches up to the next comma or the end"
        names.append(match[1].strip())
        at = match.end()
    return [name for name in names if name]


def read_names(path: Path) -> list[str]:
    """Reads class names, one a line; empty lines and lines that begin with # do not count.

    A name may hold commas. A file whose first line names the columns of a table (`COLUMNS`) is one:
    the names are those of its column `class` or `name`, each once.

    Raises:
        TCAFError: no such file, not text, no name in it, or a table without such a column.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TCAFError(f"expected a file of class names at {path}: {error}") from None
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise TCAFError(f"{path}: expected class names, one a line, found none")
    if not _is_table(names[0]):
        return names
    rows = csv_rows(path, others="allowed")
    spelt = {column.casefold(): column for column in rows[0].cells}
    column = next((spelt[c] for c in NAMING_COLUMNS if c in spelt), None)
    if column is None:
        raise TCAFError(
            f"{path}: expected class names, one a line, or a table with a column "
            f"{' or '.join(NAMING_COLUMNS)}, found the columns {shorten(rows[0].cells, 5)}"
        )
    found = list(dict.fromkeys(row[column] for row in rows))
    if "" in found:
        where = next(row.where for row in rows if not row[column])
        raise TCAFError(f"{where}: expected a {column}, found none")
    return found


def _is_table(line: str) -> bool:
    """Returns whether the first line of a file names columns, in place of being a class name.

    Of names of classes with commas, none has two of the words that columns are called, nor one of
    them before a comma without a space.
    """
    cells = re.split("[,;\\t]", line.casefold())
    known = [cell for cell in cells if cell.strip(' "') in COLUMNS]
    is_tight = len(cells) > 1 and not any(cell.startswith(" ") for cell in cells)
    return line.lower().startswith("sep=") or len(known) > 1 or (is_tight and cells[0] in known)
