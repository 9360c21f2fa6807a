"""What CJME, AVGZSLNet and AVCA have in common: averaged clips, and triplets to train on.

Owns the reading of clips averaged over time, and the objective that compares each clip with one of
another class. How means become embeddings is each system's own.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.settings.experiment import Experiment
from tcaf.settings.validation import Count, Positive, settings
from tcaf.systems.blocks import check_dims, euclidean_distances, scaled_mean
from tcaf.systems.interface import InputConfig
from tcaf.systems.losses import Losses
from tcaf.systems.stages import Objective


@settings("options", kw_only=True)
class TripletConfig(InputConfig):
    """What the configurations of the three systems share.

    Args:
        joint_dim: size of the space shared by both modalities and class names.
        margin: of the triplet losses.
    """

    joint_dim: Count = 64
    margin: Positive = 1.0


class AveragingModel(nn.Module):
    """A network that sees both modalities of a clip as their means over time.

    Args:
        config: sizes and settings; dimensions of the inputs are part of it.
    """

    def __init__(self, config: TripletConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = MODALITIES

    def means(self, batch: FeatureBatch) -> dict[Modality, Float[Tensor, "batch _"]]:
        """Returns each clip's mean token by modality, scaled; 0 for a clip without any.

        Raises:
            TCAFError: features of other dimensions than the model's, or no clip at all.
        """
        check_dims(batch, self.config)
        scaling = self.config.scaling
        return {m: scaled_mean(batch.modality(m), scaling(m)) for m in self.modalities}

    def scores(
        self, batch: FeatureBatch, class_embedding: Float[Tensor, "num_classes joint_dim"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the distance of each clip's `video_embedding` from each class."""
        return euclidean_distances(self(batch).video_embedding, class_embedding)


def triplet_objective(losses: Callable[..., Losses]) -> Objective:
    """Returns the objective of a system whose loss compares clips with others and their text.

    Args:
        losses: what the model makes of clips, of others and of the class names of both, the text
            embedding of each clip's class and the keyword `margin`, to the loss.
    """

    def objective(
        model: Any,
        batch: FeatureBatch,
        negatives: FeatureBatch,
        text_embedding: Float[Tensor, "num_seen text_dim"],
        experiment: Experiment,
    ) -> Losses:
        wanted = text_embedding[batch.known_labels]
        return losses(
            model(batch),
            model(negatives),
            model.embed_text(wanted),
            model.embed_text(text_embedding[negatives.known_labels]),
            wanted,
            margin=model.config.margin,
        )

    return objective
