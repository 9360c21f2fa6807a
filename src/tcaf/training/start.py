"""The classes of a ready model that a run starts from: which may be learnt from, and their text.

Unseen classes stay unseen (`unseen`): a class of the model is dropped if any of its names is near
one, and named in the run's provenance. One that is called like a seen class is left out too, since
that has clips of its own.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.extract.backbones import canonical_name, parse_name
from tcaf.extract.efficientnet import classifier_rows
from tcaf.pretrained.imagenet_classes import imagenet_names
from tcaf.settings.experiment import Experiment
from tcaf.systems.training_parts import StartPart
from tcaf.text.class_text import average_names, embed_classes
from tcaf.text.spaces import ClassText, naming_space
from tcaf.training.unseen import called, learnt_spaces, names_alone, near_unseen

BACKBONE = "efficientnet_lite0"
"""The backbone at whose end the classifier of `imagenet` stands, with any number of frames."""

ANY_PHRASE = ("sentence", "hf", "st", "backbone")
"""The sources of class text that embed any name; tables of words lack many of ImageNet's."""


@dataclass(frozen=True)
class StartClasses:
    """The classes of a ready model that a run learns from.

    Args:
        model: name of the ready model.
        content: a hash of its rows and names.
        names: of the classes, in the order of the rows.
        rows: of the classifier.
        text: of the classes, by text space.
        dropped: classes that are too near to an unseen class, each with that class.
        seen: classes that are called like a seen one.
    """

    model: str
    content: str
    names: tuple[str, ...]
    rows: Float[np.ndarray, "num_classes visual_dim"]
    text: Mapping[str, Float[np.ndarray, "num_classes _"]]
    dropped: Mapping[str, str]
    seen: tuple[str, ...]

    def part(self, device: torch.device) -> StartPart:
        """Returns them as a stage reads them."""
        text = ClassText({space: torch.from_numpy(matrix) for space, matrix in self.text.items()})
        return StartPart(torch.from_numpy(self.rows).to(device), text.to(device))

    def to_json(self) -> dict[str, Any]:
        """Returns what a run's provenance says of them."""
        return {
            "model": self.model,
            "content": self.content,
            "classes": len(self.names),
            "classes_seen": list(self.seen),
            "classes_dropped": dict(self.dropped),
        }


def start_content(experiment: Experiment) -> str | None:
    """Returns a hash of the ready model that an experiment starts from; None without one.

    Raises:
        TCAFError: its package is not installed.
    """
    if not experiment.data.start:
        return None
    digest = hashlib.sha256(classifier_rows().numpy().tobytes())
    digest.update(json.dumps(imagenet_names()).encode())
    return digest.hexdigest()


def find_start(experiment: Experiment, store: FeatureStore) -> StartClasses | None:
    """Returns the classes of a ready model that an experiment learns from; None if it names none.

    Args:
        experiment: all settings.
        store: of the split.

    Raises:
        TCAFError: the store's visual features are not those of the model's network, class text that
            its classes cannot have, a package that is not installed, or no class is left.
    """
    content = start_content(experiment)
    if content is None:
        return None
    _check_features(store)
    spaces = learnt_spaces(experiment)
    for space, settings in spaces.items():
        with naming_space(space, spaces):
            if settings.source not in ANY_PHRASE:
                raise TCAFError(
                    "data.start needs a text.source that embeds the name of any class, one of "
                    f"{', '.join(ANY_PHRASE)}; got {settings.source}"
                )
    given = imagenet_names()
    every = list(dict.fromkeys(name for names in given.values() for name in names))
    as_they_are = {name: [name] for name in every}
    near = near_unseen(experiment, store, every, store, as_they_are)
    dropped = {
        first: near[next(name for name in names if name in near)]
        for first, names in given.items()
        if near.keys() & set(names)
    }
    own = called(store.split(experiment.data.split).classes, store)
    seen = tuple(
        first
        for first, names in given.items()
        if first not in dropped and own & {name.casefold() for name in names}
    )
    left = {n: names for n, names in given.items() if n not in dropped and n not in seen}
    if not left:
        raise TCAFError(
            f"data.start: no class of {experiment.data.start} is left: {len(dropped)} are near to "
            "unseen classes, by data.auxiliary_similarity"
        )
    text = {}
    for space, settings in spaces.items():
        with naming_space(space, spaces):
            vectors = embed_classes(names_alone(settings), every, store, as_they_are)
            text[space] = average_names(
                settings, left, dict(zip(every, vectors, strict=True)), store
            )
    kept = np.array([name in left for name in given])
    return StartClasses(
        experiment.data.start,
        content,
        tuple(left),
        classifier_rows().numpy()[kept],
        text,
        dropped,
        seen,
    )


def _check_features(store: FeatureStore) -> None:
    """Refuses visual features that are not those before the network's own classifier."""
    made_by = store.spec.visual_backbone
    try:
        name, options = parse_name(made_by)
    except TCAFError:  # of a plugin, or of somebody else's features
        name, options = made_by, {}
    options.pop("frames", None)
    if canonical_name(BACKBONE, options) != BACKBONE or name != BACKBONE:
        raise TCAFError(
            f"data.start imagenet needs visual features of {BACKBONE} with the weights that come "
            f"with it, got those of {made_by!r} in store {store.path}; `tcaf prepare videos "
            "--visual efficientnet_lite0` makes them"
        )
