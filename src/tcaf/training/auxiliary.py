"""Further labelled videos for a run: which of them may be learnt from, and which labels are kept.

Owns the rule that keeps unseen classes unseen. A label that is the name of one, in validation or
test, or by its text nearly so, is dropped with every video that carries it; so is a video that the
split's store has too. What was dropped is named in the run's provenance.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from tcaf.data.splits import Split
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.settings.experiment import Experiment, text_settings
from tcaf.systems.stages import AuxiliaryPart
from tcaf.text.class_text import BY_CLASS_NAME, embed_classes
from tcaf.text.spaces import ClassText

LEAST_VIDEOS = 2
"""Videos that a label needs to be learnt from."""

LEAST_IN_GROUP = 5
"""Videos that a label needs for the scatter around its mean."""


@dataclass(frozen=True)
class AuxiliaryVideos:
    """The further videos that a run learns from.

    Args:
        store: where they are.
        rows: which of them.
        names: of the labels that are learnt from, sorted.
        labels: of each video, indices into `names`.
        dropped: labels that are too near to an unseen class, each with that class.
        num_dropped: videos that carry one of these.
        num_known: videos that the split's store has too.
        text: of the labels, by text space.
    """

    store: FeatureStore
    rows: Int[np.ndarray, " videos"]
    names: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    dropped: Mapping[str, str]
    num_dropped: int
    num_known: int
    text: Mapping[str, Float[np.ndarray, "num_labels text_dim"]]

    @property
    def groups(self) -> Int[np.ndarray, " videos"]:
        """Of each video its rarest label with `LEAST_IN_GROUP` videos; -1 where it has none."""
        counts = Counter(label for own in self.labels for label in own)
        return np.array(
            [
                min((n for n in own if counts[n] >= LEAST_IN_GROUP), key=lambda n: (counts[n], n))
                if any(counts[n] >= LEAST_IN_GROUP for n in own)
                else -1
                for own in self.labels
            ],
            np.int64,
        )

    def part(self, windows: Windows, device: torch.device, batch_size: int) -> AuxiliaryPart:
        """Returns them as a stage reads them."""
        text = ClassText({space: torch.from_numpy(matrix) for space, matrix in self.text.items()})
        return AuxiliaryPart(
            self.store,
            self.rows,
            self.labels,
            self.groups,
            text.to(device),
            windows,
            device,
            batch_size,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns what a run's provenance says of them."""
        return {
            "store": str(self.store.path.resolve()),
            "content": _content(self.store),
            "videos": len(self.rows),
            "labels": len(self.names),
            "videos_dropped": self.num_dropped,
            "videos_known": self.num_known,
            "labels_dropped": dict(self.dropped),
        }


def _content(store: FeatureStore) -> str:
    """Returns a hash of a store's clips, labels and phrases."""
    content = [store.fingerprint, store.phrases]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def auxiliary_content(experiment: Experiment) -> str | None:
    """Returns a hash of the store of further videos that an experiment names; None without one.

    Raises:
        TCAFError: there is no such store.
    """
    path = experiment.data.auxiliary
    return _content(FeatureStore.open(path)) if path else None


def find_auxiliary(experiment: Experiment, store: FeatureStore) -> AuxiliaryVideos | None:
    """Returns the further videos that an experiment learns from; None if it names no store.

    Args:
        experiment: all settings.
        store: of the split.

    Raises:
        TCAFError: no such store, one of other features or without labels, class text that labels
            cannot have, or nothing is left to learn from.
    """
    path = experiment.data.auxiliary
    if not path:
        return None
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
    settings = text_settings(experiment)
    if settings.source in BY_CLASS_NAME or settings.phrases_file:
        raise TCAFError(
            "data.auxiliary needs a text.source that embeds any label, such as sentence, and no "
            f"text.phrases_file; got {settings.phrases_file or settings.source}"
        )
    other.verify_once()
    split = store.split(experiment.data.split)
    dropped = _near_unseen(experiment, split, store, other)
    known = set(store.ids)
    carries = [any(label in dropped for label in labels) for labels in other.labels]
    there = [id_ in known for id_ in other.ids]
    rows = [r for r in range(len(other)) if other.labels[r] and not carries[r] and not there[r]]
    counts = Counter(label for row in rows for label in set(other.labels[row]))
    own = _said(split.classes, store)
    names = sorted(
        label
        for label, count in counts.items()
        # A seen class has clips of its own, so its label is no second source.
        if count >= LEAST_VIDEOS and not _said([label], other) & own
    )
    if not names:
        raise TCAFError(
            f"data.auxiliary: no label of store {path} has {LEAST_VIDEOS} videos left, after "
            f"{len(dropped)} labels were dropped that are near to unseen classes"
        )
    number = {name: n for n, name in enumerate(names)}
    labels = [tuple(sorted({number[n] for n in other.labels[r] if n in number})) for r in rows]
    kept = [i for i, found in enumerate(labels) if found]
    return AuxiliaryVideos(
        other,
        np.array([rows[i] for i in kept], np.int64),
        tuple(names),
        tuple(labels[i] for i in kept),
        dropped,
        sum(carries),
        sum(there),
        {"text": embed_classes(settings, names, other)},
    )


def _said(names: Any, store: FeatureStore) -> set[str]:
    """Returns all that classes or labels are called, in small letters."""
    phrases = [p for n in names for p in (n, *store.phrases.get(n, {}).get("name", []))]
    return {phrase.casefold() for phrase in phrases}


def _near_unseen(
    experiment: Experiment, split: Split, store: FeatureStore, other: FeatureStore
) -> dict[str, str]:
    """Returns the labels that may not be learnt from, each with the unseen class that it is near.

    By name alone: descriptions and verticals make all music alike.
    """
    labels = sorted({label for labels in other.labels for label in labels})
    unseen = [*split.val_unseen, *split.test_unseen]
    by_name = replace(text_settings(experiment), phrases=("name",), words="")
    own, theirs = embed_classes(by_name, unseen, store), embed_classes(by_name, labels, other)
    own, theirs = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (own, theirs))
    alike = theirs @ own.T
    nearest = alike.argmax(axis=1)
    least = experiment.data.auxiliary_similarity
    found = {}
    for row, label in enumerate(labels):
        same = [name for name in unseen if _said([label], other) & _said([name], store)]
        if same or alike[row, nearest[row]] >= min(least, 1 - 1e-5):
            found[label] = same[0] if same else unseen[nearest[row]]
    return found
