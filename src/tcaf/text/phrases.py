"""Which phrases stand for a class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.files.csv_tables import csv_rows
from tcaf.settings.sections import TextSettings
from tcaf.text.prompts import prompted, read_prompts
from tcaf.text.words import as_words

BY_CLASS_NAME = ("stored", "attributes")
"""The sources that hold one vector per class, so that phrases play no part."""


def class_phrases(
    settings: TextSettings,
    class_names: Sequence[str],
    store: FeatureStore | None = None,
    phrases: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[str]]:
    """Returns what is embedded for each class; a phrase that a class has twice counts once.

    Args:
        settings: the kinds of phrases or the file of them, and the prompts around each.
        class_names: the classes, known to the store or not.
        store: where phrases by kind lie.
        phrases: phrases of some classes, in place of all others that these have.

    Raises:
        TCAFError: no class, a class listed twice or without a phrase, or a kind that no class of
            the store has.
    """
    if not class_names:
        raise TCAFError("no class to embed; expected at least one name")
    if len(set(class_names)) != len(class_names):
        twice = sorted({name for name in class_names if class_names.count(name) > 1})
        raise TCAFError(f"class names must be unique; listed twice: {shorten(twice)}")
    given = phrases or {}
    if settings.source in BY_CLASS_NAME:
        return {name: [name] for name in class_names}
    asked = [name for name in class_names if name not in given]
    if settings.phrases_file:
        listed = _phrases_of_file(settings.phrases_file, asked)
    else:
        listed = _phrases_of_store(settings.phrases, asked, {} if store is None else store.phrases)
    templates = read_prompts(settings.prompts)
    result = {}
    for name in class_names:
        stripped = (phrase.strip() for phrase in (given[name] if name in given else listed[name]))
        found = list(dict.fromkeys(phrase for phrase in stripped if phrase))
        if not found:
            raise TCAFError(f"class {name!r} has no phrase to embed")
        result[name] = prompted(found, templates)
    return result


def read_phrases(path: Path) -> dict[str, list[str]]:
    """Reads a CSV with the columns `name` and `phrase`; a class may have several rows.

    Raises:
        TCAFError: not such a file, or a row without a name or without a phrase.
    """
    phrases: dict[str, list[str]] = {}
    for row in csv_rows(path, ("name", "phrase")):
        phrases.setdefault(row["name"], []).append(row["phrase"])
    return phrases


def _phrases_of_file(path: str, class_names: Sequence[str]) -> dict[str, list[str]]:
    table = read_phrases(Path(path))
    for name in class_names:
        if name not in table:
            raise TCAFError(f"{path} has no phrase for class {name!r}{did_you_mean(name, table)}")
    return {name: table[name] for name in class_names}


def _phrases_of_store(
    kinds: Sequence[str], class_names: Sequence[str], kept: Mapping[str, Mapping[str, list[str]]]
) -> dict[str, list[str]]:
    known = sorted({"name", *(kind for of_class in kept.values() for kind in of_class)})
    for kind in kinds:
        if kind not in known:
            hint = did_you_mean(kind, known)
            raise TCAFError(f"no phrases of the kind {kind!r}; there are {', '.join(known)}{hint}")
    result = {}
    for name in class_names:
        of_class = {"name": [name], **{k: v for k, v in kept.get(name, {}).items() if v}}
        # A name that nobody put into words may be a folder's.
        of_class["name"] = [as_words(p) if p == name else p for p in of_class["name"]]
        result[name] = [phrase for kind in kinds for phrase in of_class.get(kind, [])]
        if not result[name]:
            raise TCAFError(
                f"class {name!r} has no phrase of the kind {' or '.join(kinds)}; it has "
                f"{', '.join(of_class)}"
            )
    return result
