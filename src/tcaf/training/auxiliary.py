"""Further labelled videos for a run: which of them may be learnt from, and which labels are kept.

They are those of another store, or clips of the run's own that a table gives labels to and no part
of a split has. A label that is near an unseen class (`unseen`) is dropped with every video that
carries it; so is a video that the split has too, which is told by its id: the same one, or the same
name in another folder or with another ending. What was dropped is named in the run's provenance.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.files.csv_tables import csv_rows
from tcaf.files.digests import file_digest
from tcaf.settings.experiment import Experiment
from tcaf.settings.sections import TextSettings
from tcaf.systems.training_parts import AuxiliaryPart
from tcaf.text.class_text import BY_CLASS_NAME, embed_classes
from tcaf.text.phrases import class_phrases, read_phrases
from tcaf.text.spaces import ClassText, naming_space
from tcaf.training.unseen import called, learnt_spaces, names_alone, near_unseen

LEAST_VIDEOS = 2
"""Videos that a label needs to be learnt from."""

LEAST_IN_GROUP = 5
"""Videos that a label needs for the scatter around its mean."""


@dataclass(frozen=True)
class AuxiliaryVideos:
    """The further videos that a run learns from.

    Args:
        source: the store or the table of labels that was named.
        content: a hash of it.
        store: where they are.
        rows: which of them.
        names: of the labels that are learnt from, sorted.
        labels: of each video, indices into `names`.
        dropped: labels that are too near to an unseen class, each with that class.
        num_dropped: videos that carry one of these.
        num_known: videos that the split has too, as their ids say.
        num_rare: labels of too few videos.
        missing: ids of a table that no clip of the store has.
        text: of the labels, by text space.
    """

    source: Path
    content: str
    store: FeatureStore
    rows: Int[np.ndarray, " videos"]
    names: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    dropped: Mapping[str, str]
    num_dropped: int
    num_known: int
    num_rare: int
    missing: tuple[str, ...]
    text: Mapping[str, Float[np.ndarray, "num_labels _"]]

    def rarest(self, least: int = 1) -> Int[np.ndarray, " videos"]:
        """Returns of each video its rarest label with so many videos; -1 where it has none."""
        counts = Counter(label for own in self.labels for label in own)
        frequent = ([n for n in own if counts[n] >= least] for own in self.labels)
        return np.array(
            [min(own, key=lambda n: (counts[n], n), default=-1) for own in frequent], np.int64
        )

    def part(self, windows: Windows, device: torch.device, batch_size: int) -> AuxiliaryPart:
        """Returns them as a stage reads them."""
        text = ClassText({space: torch.from_numpy(matrix) for space, matrix in self.text.items()})
        return AuxiliaryPart(
            self.store,
            self.rows,
            self.labels,
            self.rarest(),
            self.rarest(LEAST_IN_GROUP),
            text.to(device),
            windows,
            device,
            batch_size,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns what a run's provenance says of them."""
        return {
            "store": str(self.source.resolve()),
            "content": self.content,
            "videos": len(self.rows),
            "labels": len(self.names),
            "videos_dropped": self.num_dropped,
            "videos_known": self.num_known,
            "videos_missing": list(self.missing),
            "labels_rare": self.num_rare,
            "labels_dropped": dict(self.dropped),
        }


@dataclass(frozen=True)
class _Labelled:
    """Videos with labels, before any is left out.

    Args:
        store: where they are.
        labels: of each clip of the store, none of most perhaps.
        known: which clips the split has too.
        missing: see `AuxiliaryVideos`.
    """

    store: FeatureStore
    labels: Sequence[tuple[str, ...]]
    known: Bool[np.ndarray, " clips"]
    missing: tuple[str, ...] = ()

    @property
    def said(self) -> list[set[str]]:
        """All that is said of each clip that has labels: these, and its class where it has one."""
        classes = self.store.class_names.tolist()
        both = zip(self.labels, classes, strict=True)
        return [{*own, *([name] if name else [])} if own else set() for own, name in both]


def _open(path: str, store: FeatureStore) -> _Labelled:
    """Opens what `data.auxiliary` names: a table of labels, or a store of videos with labels."""
    if Path(path).is_file():
        return _read_table(Path(path), store)
    other = FeatureStore.open(path)
    if other.spec != store.spec:
        raise TCAFError(
            f"data.auxiliary: expected features of the kind that store {store.path} has, "
            f"{store.spec}, got {other.spec} in {path}"
        )
    if not any(other.labels):
        raise TCAFError(
            f"data.auxiliary: the clips of store {path} have no labels; `tcaf prepare youtube8m` "
            "and `tcaf prepare audioset` make stores that have, if no table of classes is named"
        )
    other.verify_once()
    return _Labelled(other, other.labels, _are_known(other.ids, store.ids))


def _are_known(ids: Sequence[str], others: Sequence[str]) -> Bool[np.ndarray, " ids"]:
    """Returns which ids are among others, in whatever folder and with whatever ending.

    A name that several clips of a store have, as `cat/1.mp4` and `dog/1.mp4`, says nothing.
    """
    own, theirs = ([PurePosixPath(id_).stem for id_ in each] for each in (ids, others))
    own_counts, their_counts = Counter(own), Counter(theirs)
    alike = [own_counts[name] == their_counts[name] == 1 for name in own]
    return np.isin(ids, others) | np.array(alike, bool)


def _read_table(path: Path, store: FeatureStore) -> _Labelled:
    """Reads a CSV with the columns `id` and `labels`, several labels with `|` or `;` between."""
    given: dict[str, tuple[str, ...]] = {}
    for row in csv_rows(path, ("id", "labels")):
        labels = [label.strip() for label in re.split(r"[|;]", row["labels"])]
        if not all(labels):
            raise TCAFError(
                f"{row.where}: expected labels with | or ; between them, got {row['labels']!r}"
            )
        if row["id"] in given:
            raise TCAFError(f"{row.where}: clip {row['id']!r} is listed twice")
        given[row["id"]] = tuple(dict.fromkeys(labels))
    missing = tuple(sorted(given.keys() - set(store.ids)))
    if len(missing) == len(given):
        raise TCAFError(
            f"data.auxiliary: {path} lists {len(given)} clips, the first {next(iter(given))!r}, "
            f"and none of them is in store {store.path}"
        )
    # Whatever split a run is on: clips of another one's test are nobody's to learn from.
    known = np.array([id_ in given for id_ in store.ids]) & (store.parts != "")
    return _Labelled(store, [given.get(id_, ()) for id_ in store.ids], known, missing)


def _content(store: FeatureStore) -> str:
    """Returns a hash of a store's clips, labels and phrases."""
    content = [store.fingerprint, store.phrases]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def auxiliary_content(experiment: Experiment) -> str | None:
    """Returns a hash of the further videos that an experiment names; None where it names none.

    Raises:
        TCAFError: there is no such store or table.
    """
    path = experiment.data.auxiliary
    if not path:
        return None
    return file_digest(Path(path)) if Path(path).is_file() else _content(FeatureStore.open(path))


def auxiliary_labels(experiment: Experiment, store: FeatureStore) -> set[str]:
    """Returns all labels of the further videos that an experiment names, those dropped too.

    Args:
        experiment: all settings.
        store: of the split.

    Raises:
        TCAFError: see `find_auxiliary`.
    """
    path = experiment.data.auxiliary
    return {label for own in _open(path, store).labels for label in own} if path else set()


def find_auxiliary(experiment: Experiment, store: FeatureStore) -> AuxiliaryVideos | None:
    """Returns the further videos that an experiment learns from; None if it names none.

    Args:
        experiment: all settings.
        store: of the split.

    Raises:
        TCAFError: no such store or table, a store of other features or without labels, a damaged
            table, class text that labels cannot have, or nothing is left to learn from.
    """
    path = experiment.data.auxiliary
    if not path:
        return None
    further = _open(path, store)
    spaces = learnt_spaces(experiment)
    for space, settings in spaces.items():
        with naming_space(space, spaces):
            if settings.source in BY_CLASS_NAME:
                raise TCAFError(
                    "data.auxiliary needs a text.source that embeds any label, such as sentence; "
                    f"got {settings.source}, which holds vectors of classes alone"
                )
    split = store.split(experiment.data.split)
    other, said = further.store, further.said
    dropped = near_unseen(experiment, store, sorted(set().union(*said)), other)
    carries = [bool(own & dropped.keys()) for own in said]
    rows = [
        row
        for row, labels in enumerate(further.labels)
        if labels and not carries[row] and not further.known[row]
    ]
    counts = Counter(label for row in rows for label in set(further.labels[row]))
    own = called(split.classes, store)
    # A seen class has clips of its own, so its label is no second source.
    others = [label for label in counts if not called([label], other) & own]
    names = sorted(label for label in others if counts[label] >= LEAST_VIDEOS)
    if not names:
        raise TCAFError(
            f"data.auxiliary: no label of {path} has {LEAST_VIDEOS} videos left, after "
            f"{len(dropped)} labels were dropped that are near to unseen classes"
        )
    number = {name: n for n, name in enumerate(names)}
    found = [tuple(sorted(number[n] for n in further.labels[r] if n in number)) for r in rows]
    text = {}
    for space, settings in spaces.items():
        with naming_space(space, spaces):
            text[space] = _label_text(settings, names, other)
    return AuxiliaryVideos(
        Path(path),
        auxiliary_content(experiment) or "",
        other,
        np.array([row for row, labels in zip(rows, found, strict=True) if labels], np.int64),
        tuple(names),
        tuple(labels for labels in found if labels),
        dropped,
        sum(carries),
        int(further.known.sum()),
        len(others) - len(names),
        further.missing,
        text,
    )


def _label_text(
    settings: TextSettings, labels: Sequence[str], other: FeatureStore
) -> Float[np.ndarray, "num_labels text_dim"]:
    """Returns the text of labels; of one without a row in a file of phrases, that of its name."""
    named: dict[str, list[str]] = {}
    if settings.phrases_file:
        listed = read_phrases(Path(settings.phrases_file))
        if unlisted := [label for label in labels if label not in listed]:
            named = class_phrases(names_alone(settings), unlisted, other)
    return embed_classes(settings, labels, other, named)
