"""tcaf: audio-visual zero-shot video classification.

The names below are the public face of the package: features of clips come from a `FeatureStore`,
travel as a `FeatureBatch`, and meet class names in the joint space of a model such as `TCAF`;
`evaluate` scores the result, `ZeroShotClassifier` answers for media files with any class names.
Each is loaded when it is first asked for (PEP 562), so that importing the package costs nothing.
Everything else may move.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcaf.answers.classifier import ZeroShotClassifier
    from tcaf.answers.mixture import open_classifier
    from tcaf.data.batches import FeatureBatch
    from tcaf.data.classes import ClassSet
    from tcaf.data.features import FeatureSpec, VideoFeatures
    from tcaf.data.splits import Split
    from tcaf.data.store import FeatureStore
    from tcaf.data.writer import new_store
    from tcaf.errors import TCAFError
    from tcaf.evaluation.gzsl import GZSLResult, evaluate
    from tcaf.extract.backbones import BackboneInfo, register_backbone
    from tcaf.extract.vggish import log_mel_examples, quantise
    from tcaf.settings.experiment import Experiment
    from tcaf.settings.fidelity import Fidelity
    from tcaf.systems.interface import ClassEmbeddings, InputConfig, System, TextSpacesConfig
    from tcaf.systems.joint_space import TCAFConfig
    from tcaf.systems.losses import Losses, tcaf_losses
    from tcaf.systems.registry import register
    from tcaf.systems.release_checkpoint import model_from_state_dict
    from tcaf.systems.tcaf import TCAF
    from tcaf.training.evaluate import evaluate_run
    from tcaf.training.model_file import load_model

_HOMES = {
    "ClassEmbeddings": "systems.interface",
    "BackboneInfo": "extract.backbones",
    "ClassSet": "data.classes",
    "Experiment": "settings.experiment",
    "FeatureBatch": "data.batches",
    "FeatureSpec": "data.features",
    "FeatureStore": "data.store",
    "Fidelity": "settings.fidelity",
    "GZSLResult": "evaluation.gzsl",
    "InputConfig": "systems.interface",
    "Losses": "systems.losses",
    "Split": "data.splits",
    "System": "systems.interface",
    "TCAF": "systems.tcaf",
    "TCAFConfig": "systems.joint_space",
    "TCAFError": "errors",
    "TextSpacesConfig": "systems.interface",
    "VideoFeatures": "data.features",
    "ZeroShotClassifier": "answers.classifier",
    "evaluate": "evaluation.gzsl",
    "evaluate_run": "training.evaluate",
    "load_model": "training.model_file",
    "log_mel_examples": "extract.vggish",
    "model_from_state_dict": "systems.release_checkpoint",
    "new_store": "data.writer",
    "open_classifier": "answers.mixture",
    "quantise": "extract.vggish",
    "register": "systems.registry",
    "register_backbone": "extract.backbones",
    "tcaf_losses": "systems.losses",
}
"""The module that each public name lives in."""

__all__ = [
    "TCAF",
    "BackboneInfo",
    "ClassEmbeddings",
    "ClassSet",
    "Experiment",
    "FeatureBatch",
    "FeatureSpec",
    "FeatureStore",
    "Fidelity",
    "GZSLResult",
    "InputConfig",
    "Losses",
    "Split",
    "System",
    "TCAFConfig",
    "TCAFError",
    "TextSpacesConfig",
    "VideoFeatures",
    "ZeroShotClassifier",
    "evaluate",
    "evaluate_run",
    "load_model",
    "log_mel_examples",
    "model_from_state_dict",
    "new_store",
    "open_classifier",
    "quantise",
    "register",
    "register_backbone",
    "tcaf_losses",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tcaf' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tcaf.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
