"""Ready models: answers before anything is trained.

Owns the list of them, with what each needs and what is known of it. A model whose class vectors
come along, or follow from weights that do, is made by a module beside this one; others are files.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcaf.data.features import Modality
from tcaf.errors import TCAFError, did_you_mean

if TYPE_CHECKING:
    from tcaf.training.model_file import TrainedModel  # would bring torch to whoever lists them

FOLDER = Path(__file__).parent / "ready_models"
"""Where the models' files are."""


@dataclass(frozen=True)
class ReadyModel:
    """The description of a ready model, which needs none of its packages or weights.

    Args:
        modalities: what it reads of a clip.
        classes: what it was trained on, in a word or two.
        size: of what comes along, in words.
        fetched: what is fetched on first use, or `nothing`.
        licence: of weights and data.
        known: what is known of its accuracy, and where that stands.
        open: module and function that makes the model, as `tcaf.answers.imagenet:open_imagenet`.
    """

    modalities: tuple[Modality, ...]
    classes: str
    size: str
    fetched: str
    licence: str
    known: str
    open: str

    def to_json(self) -> dict[str, Any]:
        """Returns the description as JSON values."""
        return {
            "modalities": list(self.modalities),
            "classes": self.classes,
            "size": self.size,
            "fetched": self.fetched,
            "licence": self.licence,
            "known": self.known,
        }


READY: dict[str, ReadyModel] = {
    "imagenet": ReadyModel(
        ("visual",),
        "1,000 of ImageNet",
        "0.8 MB beside the extras video and text",
        "nothing",
        "Apache-2.0 (network), WordNet licence (names)",
        "46 % of 200 names it never saw (chance 0.5 %): results/ready.md",
        "tcaf.answers.imagenet:open_imagenet",
    ),
    "audioset": ReadyModel(
        ("audio",),
        "527 of AudioSet",
        "1.6 MB beside the extras video and text",
        "VGGish's weights, 289 MB",
        "CC BY 4.0 (features), CC BY-SA 4.0 (ontology), Apache-2.0 (VGGish)",
        "19 % of 105 sounds it never heard (chance 1 %): results/ready.md",
        "tcaf.answers.audioset:open_audioset",
    ),
}
"""The ready models by name."""


def is_ready(name: str | Path) -> bool:
    """Returns whether a name is that of a ready model, and of no file or folder here."""
    return str(name) in READY and not Path(name).exists()


def open_ready(name: str) -> "TrainedModel":
    """Opens a ready model.

    Raises:
        TCAFError: there is none of this name, or a package that it needs is not installed.
    """
    if name not in READY:
        told = ", ".join(READY)
        raise TCAFError(f"no ready model {name!r}; there are {told}{did_you_mean(name, READY)}")
    module, _, function = READY[name].open.partition(":")
    make: Callable[[], TrainedModel] = getattr(importlib.import_module(module), function)
    return make()
