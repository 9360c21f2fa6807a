"""Where an answer comes from, as far as everybody may know: model, features, licences, code.

Owns that nothing of it names a place on this machine. What a training keeps is
`training.provenance`.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from tcaf.answers.interface import Classifier
from tcaf.answers.mixture import Mixture
from tcaf.answers.ready import READY, is_ready
from tcaf.app.refusals import without_places
from tcaf.extract.backbones import BACKBONES
from tcaf.training.provenance import commit


def public_model(model: str) -> str:
    """Returns what a model is called: its name, or that of its folder or file."""
    return "+".join(_public(part) for part in _parts(model))


def _parts(model: str) -> list[str]:
    if "+" not in model or model in READY or Path(model).exists():
        return [model]
    return [part.strip() for part in model.split("+")]


def _public(part: str) -> str:
    if is_ready(part):
        return without_places(part)
    return Path(part).resolve().name


def model_provenance(model: str, classifier: Classifier) -> dict[str, Any]:
    """Returns where the answers of a model come from, as JSON values.

    Args:
        model: what it was opened by.
        classifier: the model.
    """
    groups = classifier.groups if isinstance(classifier, Mixture) else [classifier]
    backbones = {
        modality: list(
            dict.fromkeys(g.spec.backbone(modality) for g in groups if modality in g.modalities)
        )
        for modality in classifier.modalities
    }
    licences = {_public(part): READY[part].licence for part in _parts(model) if part in READY} | {
        without_places(name): BACKBONES[kind].licence
        for names in backbones.values()
        for name in names
        if (kind := name.partition(":")[0]) in BACKBONES
    }
    return {
        "model": public_model(model),
        "features": {m: [without_places(n) for n in names] for m, names in backbones.items()},
        "licences": [f"{what}: {licence}" for what, licence in licences.items()],
        "tcaf": version("tcaf"),
        "commit": commit(),
        "torch": version("torch"),
    }
