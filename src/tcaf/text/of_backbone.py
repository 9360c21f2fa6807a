"""The text of the model that made a store's features.

Owns the way from a backbone's name to the text source that goes with it, so that nobody has to name
one model twice, and that it is the text of the very weights that made the features.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from tcaf.data.features import NO_BACKBONE, FeatureSpec
from tcaf.errors import TCAFError
from tcaf.pretrained.fetch import weights_mark
from tcaf.pretrained.hub import ModelFiles, find_model, is_commit
from tcaf.pretrained.model_folder import model_files
from tcaf.settings.sections import TextSettings

BACKBONE = "backbone"
"""The source that this module replaces."""

_WITH_TEXT = re.compile(
    r"(hf|st):(.*?)(?:,(?:frames|seconds)=[^,]*)*(?:,weights=([^,]*))?", re.DOTALL
)
_MARK = ",weights="


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

    Returns:
        With the mark of the weights behind the model's path, unless its commit says as much.

    Raises:
        TCAFError: no modality is named, or its features are of a model that embeds no text; a path
            where they do not say which weights made them.
    """
    if settings.source != BACKBONE:
        return settings
    if not settings.modality:
        raise TCAFError("the source backbone needs text.modality: visual or audio")
    name = spec.backbone(settings.modality)
    found = _WITH_TEXT.fullmatch(name)
    if settings.path and not (found and found[3]):
        raise TCAFError(
            f"text.path {settings.path!r} is not read by the source backbone, whose model is that "
            "of the features; set text.source to hf or st, or leave it out"
        )
    if name == NO_BACKBONE:
        return replace(settings, source="none", modality="")
    if found is None:
        raise TCAFError(
            f"the {settings.modality} features are of {name!r}, which embeds no text; the source "
            "backbone needs features of hf:MODEL or st:MODEL (`tcaf backbones`); set the source to "
            "none in a --config file, and aligned leaves the modality out"
        )
    path = settings.path or found[2]
    if found[3] and (settings.path or not is_commit(found[2].rpartition("@")[2])):
        path += f"{_MARK}{found[3]}"
    return replace(
        settings,
        source="st" if found[1] == "st" else "hf",
        path=path,
        modality="" if found[1] == "st" else settings.modality,
    )


def find_marked(path: str) -> ModelFiles:
    """Returns the files of a model, after a look at its weights if a mark stands behind its name.

    Args:
        path: as `resolved` returns it, or a person wrote it.

    Raises:
        TCAFError: see `find_model`; or the weights are others than those that made the features.
    """
    model, at, mark = path.rpartition(_MARK)
    if not at:
        return find_model(path)
    files = find_model(model)
    own = weights_mark(files.folder, None, model_files(files.folder))
    if own != mark:
        raise TCAFError(
            f"the features are of a model with the weights {mark}, and {model} has {own}; set "
            "text.path to the folder of the model that made them"
        )
    return files
