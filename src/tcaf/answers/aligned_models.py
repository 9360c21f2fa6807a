"""Models that answer without any training: those that embed text beside pictures or sounds.

Owns how any of them becomes a `TrainedModel` of the system `aligned`. Which are offered by a short
name is `ready`; fetching and loading is `pretrained`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from tcaf.answers.ready import READY
from tcaf.data.classes import ClassSet
from tcaf.data.features import MODALITIES, NO_BACKBONE, FeatureSpec, Modality
from tcaf.errors import TCAFError
from tcaf.extract.backbones import Backbone, open_backbone, parse_name
from tcaf.pretrained.aligned_model import load_aligned
from tcaf.pretrained.hub import find_model
from tcaf.pretrained.sentence_model import load_sentence_model
from tcaf.settings.experiment import Experiment
from tcaf.settings.sections import TextSettings
from tcaf.systems.aligned import Aligned
from tcaf.systems.interface import FEATURE_SPACES
from tcaf.systems.registry import configure
from tcaf.text.class_text import embed_classes, open_text_source
from tcaf.text.of_backbone import resolved
from tcaf.text.spaces import ClassText
from tcaf.training.model_file import TrainedModel

PROMPTS: Mapping[Modality, str] = {"visual": "general", "audio": "general_heard"}
"""The sentences that names are put into, by modality."""

CLASSES = (
    *("people talking", "singing", "playing the guitar", "playing the piano", "playing the drums"),
    *("dancing", "running", "cycling", "swimming", "playing football", "cooking", "typing"),
    *("a dog", "a cat", "a bird", "a car", "a train", "an aeroplane", "the sea", "rain"),
)
"""What the models answer as long as nobody names classes."""

VISUAL_WEIGHT = 0.5
"""What the picture counts beside the sound."""


def open_aligned(name: str) -> TrainedModel:
    """Opens a model that needs no training, fetching what is not there yet.

    Its probabilities are softmax(s cosine) over the candidates, s the model's own logit scale, and
    of two models the geometric mean of theirs; a model that was not trained on cosines (PE-AV)
    gives distances alone. There are no seen classes, hence no gamma, no sets and nothing of
    calibration.

    Args:
        name: one of `READY` that has backbones; or `hf:ID_OR_FOLDER[@REVISION]` or `st:...`, a
            model of any kind that embeds text beside pictures, videos or sounds, or beside both.

    Raises:
        TCAFError: no such name or model, one that cannot be fetched or loaded, or no package for
            it.
    """
    opened = _opened(name)
    scales = {m: _scale(backbone.name, m) for m, backbone in opened.items()}
    settings: dict[str, TextSettings] = {
        space: TextSettings(source="backbone", modality=space, prompts=PROMPTS[space])
        for space in FEATURE_SPACES
    }
    options: dict[str, Any] = {"visual_weight": VISUAL_WEIGHT}
    options |= {f"{m}_scale": scale for m, scale in scales.items() if scale is not None}
    experiment = Experiment(system="aligned", text_spaces=settings, options=options)
    spec = _spec(opened)
    classes = ClassSet.of((), CLASSES)
    matrices = {
        space: torch.from_numpy(_embedded(resolved(each, spec), classes.names))
        for space, each in settings.items()
    }
    text = ClassText(matrices)
    config = configure(
        experiment, audio_dim=spec.audio_dim, visual_dim=spec.visual_dim, text_dim=text.dims
    )
    return TrainedModel(
        system="aligned",
        model=Aligned(config).eval(),  # type: ignore[arg-type]
        spec=spec,
        classes=classes,
        class_text=text,
        gamma=0.0,
        experiment=experiment,
        temperature=None if None in scales.values() else 1.0,
    )


def _opened(name: str) -> dict[Modality, Backbone]:
    """Returns the backbones of a model."""
    if name in READY:
        return {m: open_backbone(n, m) for m, n in READY[name].backbones.items()}
    kind, options = parse_name(name)
    folder = find_model(options["model"]).folder
    if kind == "hf":
        found = set(load_aligned(folder).halves)
    else:
        takes = set(getattr(load_sentence_model(folder), "modalities", ()))
        kinds = {"audio": {"audio"}, "visual": {"image", "video"}}
        found = {m for m in MODALITIES if takes & kinds[m]}
        if not found:
            raise TCAFError(f"the model in {folder} takes neither pictures nor sounds")
    return {m: open_backbone(name, m) for m in MODALITIES if m in found}


def _scale(name: str, modality: Modality) -> float | None:
    """Returns what a model multiplies the cosines of its features by; None where it does not."""
    kind, options = parse_name(name)
    if kind != "hf":
        return None
    return load_aligned(find_model(options["model"]).folder).half(modality).logit_scale


def _spec(opened: Mapping[Modality, Backbone]) -> FeatureSpec:
    """Returns what features of files mean; of a modality that is not read there are none."""
    audio, visual = opened.get("audio"), opened.get("visual")
    return FeatureSpec(
        audio.dim if audio else 1,
        visual.dim if visual else 1,
        audio.step_s if audio else None,
        visual.step_s if visual else None,
        audio.name if audio else NO_BACKBONE,
        visual.name if visual else NO_BACKBONE,
    )


def _embedded(
    settings: TextSettings, names: Sequence[str]
) -> Float[np.ndarray, "num_classes text_dim"]:
    return embed_classes(settings, names, source=open_text_source(settings))
