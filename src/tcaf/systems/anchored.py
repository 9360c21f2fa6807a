"""Anchored distances: half a system's own, half those of the raw features from class text.

Owns them for any system, on features whose model embeds text in the same space, as CLIP and CLAP
do. What such a model knows of all names is easily lost in training on a few; the raw distance keeps
it. With c_m the cosine of a clip's mean feature of modality m and the class's text in the space of
that name, averaged over the modalities that the clip has,

    distance = (own + s (1 - c)) / 2

where s brings both to the same mean over the validation clips and all their candidate classes. It
is measured with the weights that validation looks at, is kept with them, and is the same for the
test and for answers, as gamma is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import FeatureSpec, Modality
from tcaf.errors import TCAFError
from tcaf.systems.interface import ALIGNED_SPACES, ClassEmbeddings, FeatureConfig, Reduces
from tcaf.text.spaces import ClassText

Means = dict[Modality, Float[Tensor, "batch _"]]
"""Of each clip its mean token by modality, at unit length; 0 for a clip without any."""


@dataclass(frozen=True)
class AnchoredClips:
    """What distances need of a batch.

    Args:
        own: what the system's own distances need: the batch, or what is left of it.
        means: what the raw ones need.
    """

    own: Any
    means: Means


def check_aligned(spec: FeatureSpec, dims: dict[str, int], where: str) -> None:
    """Checks that class text can be compared with features as they are.

    Args:
        spec: of the features.
        dims: sizes of the text embeddings, by text space.
        where: what holds the features, for messages.

    Raises:
        TCAFError: of a modality both are of different sizes.
    """
    for modality in ALIGNED_SPACES:
        if spec.dim(modality) != dims[modality]:
            raise TCAFError(
                f"evaluation.anchored compares features with class text in one space: the "
                f"{modality} features of {where} have {spec.dim(modality)} numbers (of "
                f"{spec.backbone(modality) or 'an unknown model'}), class text in the space "
                f"{modality!r} has {dims[modality]}; leave it out, or extract features with a "
                "model that embeds text too"
            )


def raw_distances(means: Means, text: ClassText) -> Float[Tensor, "batch num_classes"]:
    """Returns 1 - the cosine of features and class text, averaged over the modalities there are."""
    cosines = [mean @ F.normalize(text[modality], dim=1).T for modality, mean in means.items()]
    there = torch.stack([mean.any(dim=1) for mean in means.values()]).sum(dim=0)
    found: Tensor = 1 - torch.stack(cosines).sum(dim=0) / there.clamp_min(1)[:, None]
    return found


class Anchored:
    """A model with anchored distances, in place of the model wherever these are asked for.

    Its class embeddings are those of the model with the raw spaces' text behind them. Clips cannot
    be answered together: what moves classes knows nothing of anchors.

    Args:
        model: a `ZeroShotModel`.
        spaces: the text spaces that it reads itself.
        scale: s.
    """

    def __init__(self, model: Any, spaces: Sequence[str], scale: float) -> None:
        self.model = model
        self.spaces = tuple(spaces)
        self.scale = scale
        self.config: FeatureConfig = model.config
        self.modalities: tuple[Modality, ...] = model.modalities

    def eval(self) -> "Anchored":
        """Turns dropout off and batch statistics to the running ones."""
        self.model.eval()
        return self

    def to(self, device: torch.device | str) -> "Anchored":
        """Moves the model to a device."""
        self.model.to(device)
        return self

    def __call__(self, batch: FeatureBatch) -> Any:
        """Returns what the model makes of clips."""
        return self.model(batch)

    def embed_text(self, text_embedding: ClassText) -> ClassEmbeddings:
        """Embeds class names, given their text embeddings in all spaces."""
        own = self.model.embed_text(text_embedding.only(self.spaces).model_input).class_embedding
        return ClassEmbeddings(
            torch.cat([own, *(text_embedding[m] for m in ALIGNED_SPACES)], dim=1)
        )

    def reduced(self, batch: FeatureBatch) -> AnchoredClips:
        """Returns what is needed of a batch."""
        own = self.model.reduced(batch) if isinstance(self.model, Reduces) else batch
        means: Means = {m: F.normalize(batch.modality(m).mean(), dim=1) for m in ALIGNED_SPACES}
        return AnchoredClips(own, means)

    def parts(
        self, clips: FeatureBatch | AnchoredClips, class_embedding: Float[Tensor, "num_classes _"]
    ) -> tuple[Float[Tensor, "batch num_classes"], Float[Tensor, "batch num_classes"]]:
        """Returns the distances of clips by the model, and those of their features."""
        clips = clips if isinstance(clips, AnchoredClips) else self.reduced(clips)
        sizes = [clips.means[m].shape[1] for m in ALIGNED_SPACES]
        joint = class_embedding.shape[1] - sum(sizes)
        own, *raw = class_embedding.split([joint, *sizes], dim=1)
        text = ClassText(dict(zip(ALIGNED_SPACES, raw, strict=True)))
        return self.model.scores(clips.own, own), raw_distances(clips.means, text)

    def scores(
        self, batch: FeatureBatch | AnchoredClips, class_embedding: Float[Tensor, "num_classes _"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the anchored distance of each clip from each class."""
        own, raw = self.parts(batch, class_embedding)
        return (own + self.scale * raw) / 2
