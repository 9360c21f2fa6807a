"""Aligned: clips and class names where one model put them both, without any training.

Owns the baseline of text-aligned features, those of a model that embeds text beside pictures,
videos or sounds (`hf:` backbones): with v a clip's mean visual token and a its mean audio token at
unit length, and v_c, a_c the text of class c in the same spaces,

    distance = w s_v (1 - v . v_c) + (1 - w) s_a (1 - a . a_c).

A clip that lacks one of the two is answered by the other alone. The weight w of the picture is one
of `WEIGHTS`, chosen by validation as the regulariser of a closed form is: an epoch is one weight.
The scales s are 1, or what a model multiplies its cosines by; then softmax(-distance) is its own
probability of each class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.errors import TCAFError
from tcaf.settings.experiment import Experiment
from tcaf.settings.validation import Positive, settings
from tcaf.systems.blocks import check_dims
from tcaf.systems.interface import ClassEmbeddings, TextSpacesConfig

WEIGHTS = (0.5, 0.6, 0.4, 0.7, 0.3, 0.8, 0.2, 0.9, 0.1, 1.0, 0.0)
"""The weights of the picture that validation chooses from; of equals the first."""


CHOSEN = "chosen"


@settings("options", kw_only=True)
class AlignedConfig(TextSpacesConfig):
    """What `Aligned` is built from.

    Args:
        visual_weight: what the picture counts beside the sound, from 0 to 1, or `chosen` by
            validation.
        visual_scale: what cosines of the picture are multiplied by.
        audio_scale: what cosines of the sound are multiplied by.
    """

    visual_weight: Annotated[float, Field(ge=0, le=1)] | Literal["chosen"] = "chosen"
    visual_scale: Positive = 1.0
    audio_scale: Positive = 1.0

    def scale(self, modality: Modality) -> float:
        """Returns what cosines of a modality are multiplied by."""
        return self.visual_scale if modality == "visual" else self.audio_scale


def num_choices(experiment: Experiment) -> int:
    """Returns how many weights validation chooses from."""
    return len(WEIGHTS) if experiment.options.get("visual_weight", CHOSEN) == CHOSEN else 1


@dataclass(frozen=True)
class AlignedOutput:
    """Clips where their model put them.

    Args:
        video_embedding: the mean token of each modality at the length of its weight times its
            scale, side by side in the order of `Aligned.modalities`.
    """

    video_embedding: Float[Tensor, "batch joint_dim"]


@dataclass(frozen=True)
class UnitMeans:
    """What is needed of a batch, whatever the weight.

    Args:
        means: the mean token of each clip at unit length, by modality; 0 where it has none.
        there: which clips have any.
    """

    means: Mapping[Modality, Float[Tensor, "batch _"]]
    there: Mapping[Modality, Bool[Tensor, " batch"]]

    def __len__(self) -> int:
        return len(next(iter(self.there.values())))


class Aligned(nn.Module):
    """Cosines of clips and class text, one for each modality, mixed.

    Args:
        config: sizes of features and text, which are the same for each modality that is read.

    Attributes:
        modalities: what is read: all but those that no clip has, whose text has size 1.

    Raises:
        TCAFError: features and class text of different sizes, which cannot be of one model, or no
            modality to read.
    """

    weight: Float[Tensor, ""]

    def __init__(self, config: AlignedConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(m for m in MODALITIES if config.text_dims[m] > 1)
        for modality in self.modalities:
            if config.dim(modality) != config.text_dims[modality]:
                raise TCAFError(
                    f"aligned compares {modality} features with class text of the same model, got "
                    f"sizes {config.dim(modality)} and {config.text_dims[modality]}; set the "
                    f"source of text_spaces.{modality} to backbone"
                )
        if not self.modalities:
            raise TCAFError("aligned reads pictures or sounds, and the features have neither")
        given = config.visual_weight
        self.register_buffer("weight", torch.tensor(WEIGHTS[0] if given == CHOSEN else given))

    def choose(self, epoch: int) -> None:
        """Takes the weight of an epoch, unless one was set."""
        if self.config.visual_weight == CHOSEN:
            self.weight.fill_(WEIGHTS[epoch - 1])

    def reduced(self, batch: FeatureBatch) -> UnitMeans:
        """Returns all that is needed of a batch.

        Raises:
            TCAFError: features of other dimensions than the model's.
        """
        check_dims(batch, self.config, self.modalities)
        packed = {m: batch.modality(m) for m in self.modalities}
        return UnitMeans(
            {m: F.normalize(each.mean(), dim=1) for m, each in packed.items()},
            {m: (each.lens > 0).to(each.tokens.device) for m, each in packed.items()},
        )

    def lengths(self, clips: UnitMeans) -> dict[Modality, Float[Tensor, " batch"]]:
        """Returns the weight times the scale of each modality, of what each clip has."""
        share = {"visual": self.weight, "audio": 1 - self.weight}
        parts = {m: share[m] * clips.there[m] for m in self.modalities}
        total = torch.stack(list(parts.values())).sum(dim=0)
        count = torch.stack(list(clips.there.values())).sum(dim=0).clamp_min(1)
        return {
            # What counts nothing answers all the same where there is nothing else.
            m: self.config.scale(m)
            * torch.where(total > 0, part / total.clamp_min(1e-12), clips.there[m] / count)
            for m, part in parts.items()
        }

    def forward(self, batch: FeatureBatch | UnitMeans) -> AlignedOutput:
        """Embeds clips, or what `reduced` returned of them."""
        clips = batch if isinstance(batch, UnitMeans) else self.reduced(batch)
        lengths = self.lengths(clips)
        rows = [lengths[m][:, None] * clips.means[m] for m in self.modalities]
        return AlignedOutput(torch.cat(rows, dim=1))

    def embed_text(self, text_embedding: Any) -> ClassEmbeddings:
        """Returns class text at unit length, space beside space.

        Raises:
            TCAFError: text embeddings of another size than the model's.
        """
        for modality in self.modalities:
            size, wanted = text_embedding[modality].shape[1], self.config.text_dims[modality]
            if size != wanted:
                raise TCAFError(
                    f"expected text embeddings of size {wanted} in the space {modality!r}, got "
                    f"{size}"
                )
        unit = [F.normalize(text_embedding[m], dim=1) for m in self.modalities]
        return ClassEmbeddings(torch.cat(unit, dim=1))

    def scores(
        self,
        batch: FeatureBatch | UnitMeans,
        class_embedding: Float[Tensor, "num_classes joint_dim"],
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the distance of each clip from each class; see the module."""
        clips = batch if isinstance(batch, UnitMeans) else self.reduced(batch)
        furthest = torch.stack(list(self.lengths(clips).values())).sum(dim=0)
        return furthest[:, None] - self(clips).video_embedding @ class_embedding.T
