"""Anchored distances: half a system's own, half those of the features as they are from class text.

Owns them for any system, on features whose model embeds text in the same space, as CLIP and CLAP
do. What such a model knows of all names is easily lost in training on a few; the raw distance keeps
it. Raw is what `aligned` has without training, picture and sound counting alike, and

    distance = (own + s raw) / 2

where s brings both to the same mean over the validation clips and all their candidate classes. It
is measured with the weights that validation looks at, is kept with them, and is the same for the
test and for answers, as gamma is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import Modality
from tcaf.errors import TCAFError
from tcaf.systems.aligned import Aligned, AlignedConfig, UnitMeans
from tcaf.systems.interface import FEATURE_SPACES, ClassEmbeddings, FeatureConfig, Reduces
from tcaf.text.spaces import ClassText


@dataclass(frozen=True)
class AnchoredClips:
    """What distances need of a batch.

    Args:
        own: what the system's own distances need: the batch, or what is left of it.
        raw: what the raw ones need.
    """

    own: Any
    raw: UnitMeans


def raw_model(config: FeatureConfig, text_dims: Mapping[str, int]) -> Aligned:
    """Returns what gives raw distances.

    Args:
        config: of the system's model, for the sizes of features.
        text_dims: sizes of class text, by text space.

    Raises:
        TCAFError: features and class text are of different sizes.
    """
    sizes: dict[str, int] = {space: text_dims[space] for space in FEATURE_SPACES}
    try:
        return Aligned(
            AlignedConfig(
                audio_dim=config.audio_dim,
                visual_dim=config.visual_dim,
                text_dims=sizes,
                visual_weight=0.5,
            )
        )
    except TCAFError as error:
        raise TCAFError(f"evaluation.anchored: {error}") from None


class Anchored:
    """A model with anchored distances, in place of the model wherever these are asked for.

    Its class embeddings are those of the model with those of the raw distance beside them. Clips
    cannot be answered together: what moves classes knows nothing of anchors.

    Args:
        model: a `ZeroShotModel`.
        spaces: the text spaces that it reads itself.
        scale: s.
        text_dims: sizes of class text, by text space.

    Raises:
        TCAFError: see `raw_model`.
    """

    def __init__(
        self, model: Any, spaces: Sequence[str], scale: float, text_dims: Mapping[str, int]
    ) -> None:
        self.model = model
        self.spaces = tuple(spaces)
        self.scale = scale
        self.config: FeatureConfig = model.config
        self.modalities: tuple[Modality, ...] = model.modalities
        self.raw = raw_model(model.config, text_dims)

    def eval(self) -> "Anchored":
        """Turns dropout off and batch statistics to the running ones."""
        self.model.eval()
        return self

    def to(self, device: torch.device | str) -> "Anchored":
        """Moves the models to a device."""
        self.model.to(device)
        self.raw.to(device)
        return self

    def __call__(self, batch: FeatureBatch) -> Any:
        """Returns what the model makes of clips."""
        return self.model(batch)

    def embed_text(self, text_embedding: ClassText) -> ClassEmbeddings:
        """Embeds class names, given their text embeddings in all spaces."""
        own = self.model.embed_text(text_embedding.only(self.spaces).model_input)
        raw = self.raw.embed_text(text_embedding)
        return ClassEmbeddings(torch.cat([own.class_embedding, raw.class_embedding], dim=1))

    def reduced(self, batch: FeatureBatch) -> AnchoredClips:
        """Returns what is needed of a batch."""
        own = self.model.reduced(batch) if isinstance(self.model, Reduces) else batch
        return AnchoredClips(own, self.raw.reduced(batch))

    def parts(
        self, clips: FeatureBatch | AnchoredClips, class_embedding: Float[Tensor, "num_classes _"]
    ) -> tuple[Float[Tensor, "batch num_classes"], Float[Tensor, "batch num_classes"]]:
        """Returns the distances of clips by the model, and the raw ones."""
        clips = clips if isinstance(clips, AnchoredClips) else self.reduced(clips)
        size = sum(self.raw.config.dim(modality) for modality in self.raw.modalities)
        own, raw = class_embedding.split([class_embedding.shape[1] - size, size], dim=1)
        return self.model.scores(clips.own, own), self.raw.scores(clips.raw, raw)

    def scores(
        self, batch: FeatureBatch | AnchoredClips, class_embedding: Float[Tensor, "num_classes _"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the anchored distance of each clip from each class."""
        own, raw = self.parts(batch, class_embedding)
        return (own + self.scale * raw) / 2
