"""tcaf: audio-visual zero-shot video classification.

Features of clips come from a `FeatureStore`, travel as a `FeatureBatch`, and meet class names in
the joint space of a model such as `TCAF`; `gzsl.evaluate` scores the result. `ZeroShotClassifier`
answers for media files with any class names.
"""

from tcaf import gzsl, losses
from tcaf.batches import FeatureBatch
from tcaf.classes import ClassSet
from tcaf.classifier import ZeroShotClassifier
from tcaf.config import Experiment, Fidelity, TCAFConfig
from tcaf.errors import TCAFError
from tcaf.features import FeatureSpec, VideoFeatures
from tcaf.gzsl import GZSLResult
from tcaf.model import TCAF
from tcaf.store import FeatureStore

__all__ = [
    "TCAF",
    "ClassSet",
    "Experiment",
    "FeatureBatch",
    "FeatureSpec",
    "FeatureStore",
    "Fidelity",
    "GZSLResult",
    "TCAFConfig",
    "TCAFError",
    "VideoFeatures",
    "ZeroShotClassifier",
    "gzsl",
    "losses",
]
