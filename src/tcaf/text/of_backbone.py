"""The text of the model that made a store's features.

Owns the way from a backbone's name to the text source that goes with it, so that nobody has to name
one model twice.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from tcaf.data.features import NO_BACKBONE, FeatureSpec
from tcaf.errors import TCAFError
from tcaf.settings.sections import TextSettings

BACKBONE = "backbone"
"""The source that this module replaces."""

_WITH_TEXT = re.compile(r"(hf|st):(.*?)(?:,(?:frames|seconds|weights)=.*)?", re.DOTALL)


class NoText:
    """A text space that says nothing: one number, the same for each phrase."""

    name = "the text space that says nothing"
    dim = 1

    def embed(self, phrases: Sequence[str]) -> Float[np.ndarray, "num_phrases 1"]:
        """Returns 1 for each phrase."""
        return np.ones((len(phrases), 1), np.float32)


def resolved(settings: TextSettings, spec: FeatureSpec) -> TextSettings:
    """Returns settings in which the source `backbone` is the one that it stands for.

    Args:
        settings: any; those with another source come back as they are. Of a modality that no clip
            has the source becomes `none`.
        spec: of the features.

    Raises:
        TCAFError: no modality is named, or its features are of a model that embeds no text.
    """
    if settings.source != BACKBONE:
        return settings
    if settings.path:
        raise TCAFError(
            f"text.path {settings.path!r} is not read by the source backbone, whose model is that "
            "of the features; set text.source to hf or st, or leave it out"
        )
    if not settings.modality:
        raise TCAFError("the source backbone needs text.modality: visual or audio")
    name = spec.backbone(settings.modality)
    if name == NO_BACKBONE:
        return replace(settings, source="none", modality="")
    found = _WITH_TEXT.fullmatch(name)
    if found is None:
        raise TCAFError(
            f"the {settings.modality} features are of {name!r}, which embeds no text; the source "
            "backbone needs features of hf:MODEL or st:MODEL (`tcaf backbones`); set the source to "
            "none in a --config file, and aligned leaves the modality out"
        )
    if found[1] == "st":
        return replace(settings, source="st", path=found[2], modality="")
    return replace(settings, source="hf", path=found[2])
