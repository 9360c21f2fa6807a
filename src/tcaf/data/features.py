"""The features of one clip, and what their numbers mean.

Owns `FeatureSpec` and `VideoFeatures`. Knows nothing of files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from tcaf.errors import TCAFError

Modality = Literal["audio", "visual"]
MODALITIES: tuple[Modality, Modality] = ("audio", "visual")

SENSES: Mapping[Modality, str] = {"audio": "sound", "visual": "picture"}
"""What people call the modalities."""

NO_BACKBONE = "none"
"""Backbone of a modality that no clip of a store has; its dimension is 1, and it has no step."""


@dataclass(frozen=True)
class FeatureSpec:
    """What the numbers of a store mean.

    Args:
        audio_dim: size of one audio token.
        visual_dim: size of one visual token.
        audio_step_s: seconds from one audio token to the next; None where a clip has one token
            that stands for its whole length.
        visual_step_s: the same for visual tokens.
        audio_backbone: name of the network or transform that made the audio tokens.
        visual_backbone: name of the one that made the visual tokens.

    Raises:
        TCAFError: a size or a number of seconds that is not above 0.
    """

    audio_dim: int
    visual_dim: int
    audio_step_s: float | None
    visual_step_s: float | None
    audio_backbone: str
    visual_backbone: str

    def __post_init__(self) -> None:
        for modality in MODALITIES:
            dim, step_s = self.dim(modality), self.step_s(modality)
            if dim < 1:
                raise TCAFError(f"{modality}_dim must be at least 1, got {dim}")
            if step_s is not None and not (0 < step_s < math.inf):
                raise TCAFError(f"{modality}_step_s must be a finite number above 0, got {step_s}")

    def dim(self, modality: Modality) -> int:
        """Returns the token size of a modality."""
        return self.audio_dim if modality == "audio" else self.visual_dim

    def step_s(self, modality: Modality) -> float | None:
        """Returns the seconds per token of a modality."""
        return self.audio_step_s if modality == "audio" else self.visual_step_s

    def backbone(self, modality: Modality) -> str:
        """Returns the name of what made the tokens of a modality."""
        return self.audio_backbone if modality == "audio" else self.visual_backbone

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that clips may have."""
        return tuple(m for m in MODALITIES if self.backbone(m) != NO_BACKBONE)


@dataclass(frozen=True)
class VideoFeatures:
    """One clip: its tokens in order of time, and what is known of it.

    Args:
        id: unique name.
        audio: audio tokens; an empty sequence where the clip has no sound.
        visual: visual tokens; an empty sequence where the clip has no picture.
        class_name: the class, if known.
        part: one of `splits.PARTS`, if the clip belongs to a benchmark.
        audio_backbone: name of what made the audio tokens, if known.
        visual_backbone: name of what made the visual tokens, if known.
        labels: all that the clip shows, where several labels are known in place of one class.
    """

    id: str
    audio: Float[np.ndarray, "audio_len audio_dim"]
    visual: Float[np.ndarray, "visual_len visual_dim"]
    class_name: str = ""
    part: str = ""
    audio_backbone: str = ""
    visual_backbone: str = ""
    labels: tuple[str, ...] = ()

    def tokens(self, modality: Modality) -> Float[np.ndarray, "len dim"]:
        """Returns the tokens of a modality."""
        return self.audio if modality == "audio" else self.visual

    def backbone(self, modality: Modality) -> str:
        """Returns the name of what made the tokens of a modality; empty if not known."""
        return self.audio_backbone if modality == "audio" else self.visual_backbone

    def check(self, spec: FeatureSpec) -> None:
        """Checks the clip against what a store holds.

        Raises:
            TCAFError: features of another backbone, where both names are known, wrong dimensions,
                no token at all, NaN or infinite values.
        """
        for modality in MODALITIES:
            tokens, dim = self.tokens(modality), spec.dim(modality)
            expected, found = spec.backbone(modality), self.backbone(modality)
            # Where there is no token, it does not matter what would have made it.
            if len(tokens) and expected and found and found != expected:
                raise TCAFError(
                    f"clip {self.id!r}: expected {modality} features of {expected!r}, got those of "
                    f"{found!r}"
                )
            if tokens.ndim != 2 or tokens.shape[1] != dim:
                raise TCAFError(
                    f"clip {self.id!r}: expected {modality} tokens of shape (len, {dim}), "
                    f"got {tuple(tokens.shape)}"
                )
            finite = np.isfinite(tokens)
            if not finite.all():
                token, column = np.argwhere(~finite)[0]
                raise TCAFError(
                    f"clip {self.id!r}: {modality} token {token} has the value "
                    f"{tokens[token, column]} in column {column}; features must be finite"
                )
        if not len(self.audio) and not len(self.visual):
            raise TCAFError(f"clip {self.id!r} is empty: no audio token and no visual token")
