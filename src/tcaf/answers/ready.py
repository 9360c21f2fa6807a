"""Ready models: answers before anything is trained.

Owns the list of them, with what each needs and what is known of it. How one is made is a module
beside this one. Beside those that have a name of their own go `hf:ID_OR_FOLDER[@REVISION]` and
`st:...`, any model that embeds text beside pictures, videos or sounds.

Of models of the hub, commits, licences and files were looked up in its pages and in what others
pin; no test has the weights themselves (`tcaf doctor --weights` fetches them):

- `laion/CLIP-ViT-B-32-laion2B-s34B-b79K`, MIT by its model card. OpenAI's own ViT-B/32 has pickled
  weights alone on its branch main.
- `laion/clap-htsat-fused`, Apache-2.0 by its model card; the commit is of its request number 3, in
  which the hub's own converter offers the weights in safetensors. `clap-htsat-unfused` and
  `larger_clap_general` have pickled ones alone.
- `facebook/pe-av-small`, Apache-2.0 by its model card.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcaf.data.features import Modality
from tcaf.errors import TCAFError, did_you_mean
from tcaf.extract.backbones import takes_model

if TYPE_CHECKING:
    from tcaf.training.model_file import TrainedModel  # would bring torch to whoever lists them

CLIP = "hf:laion/CLIP-ViT-B-32-laion2B-s34B-b79K@1a25a446712ba5ee05982a381eed697ef9b435cf"
CLAP = "hf:laion/clap-htsat-fused@0ebdccc578498c90ecb34353b57d2f197cae6e0a"
PE_AV = "hf:facebook/pe-av-small@dd050762bb9704ae9cd996ca45532a98f81d817e"

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
        backbones: of a model that embeds text too, what makes its features, by modality; such are
            made by name (`tcaf.answers.aligned_models`).
    """

    modalities: tuple[Modality, ...]
    classes: str
    size: str
    fetched: str
    licence: str
    known: str
    open: str = ""
    backbones: Mapping[Modality, str] = field(default_factory=dict)

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


_BY_NAME = "tcaf.answers.aligned_models:open_aligned"
_ANY = "text beside what is seen or heard"
_UNKNOWN = "not measured yet; whether its weights are right: tcaf doctor --weights"

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
    "clip": ReadyModel(
        ("visual",),
        _ANY,
        "the extras video and hub",
        "the model, 609 MB",
        "MIT",
        _UNKNOWN,
        backbones={"visual": CLIP},
    ),
    "clap": ReadyModel(
        ("audio",),
        _ANY,
        "the extras video and hub",
        "the model, 618 MB",
        "Apache-2.0",
        _UNKNOWN,
        backbones={"audio": CLAP},
    ),
    "clip+clap": ReadyModel(
        ("audio", "visual"),
        _ANY,
        "the extras video and hub",
        "both models, 1.2 GB",
        "MIT (CLIP), Apache-2.0 (CLAP)",
        _UNKNOWN,
        backbones={"visual": CLIP, "audio": CLAP},
    ),
    "pe-av": ReadyModel(
        ("audio", "visual"),
        _ANY,
        "the extras video and hub, timm and torchvision",
        "the model, of a size that is not known here",
        "Apache-2.0",
        _UNKNOWN,
        backbones={"visual": PE_AV, "audio": PE_AV},
    ),
}
"""The ready models by name."""


def is_ready(name: str | Path) -> bool:
    """Returns whether a name is that of a ready model, and of no file or folder here."""
    return (str(name) in READY or takes_model(str(name))) and not Path(name).exists()


def open_ready(name: str) -> "TrainedModel":
    """Opens a ready model.

    Raises:
        TCAFError: there is none of this name, a package that it needs is not installed, or weights
            cannot be fetched.
    """
    if takes_model(name) or (name in READY and READY[name].backbones):
        return _function(_BY_NAME)(name)
    if name not in READY:
        raise TCAFError(
            f"no ready model {name!r}; there are {', '.join(READY)}, and hf:MODEL or st:MODEL"
            f"{did_you_mean(name, READY)}"
        )
    return _function(READY[name].open)()


def _function(place: str) -> "Callable[..., TrainedModel]":
    """Returns a function by its module and name: those modules import this one."""
    module, _, function = place.partition(":")
    found: Callable[..., TrainedModel] = getattr(importlib.import_module(module), function)
    return found
