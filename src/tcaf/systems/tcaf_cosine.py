"""TCaF with a cosine head: its clips are mapped into the space of class text, which stays as it is.

Owns a change within TCaF's family, this project's: encoders and transformer are the same, but
nothing is learnt of class text. What is learnt of a few dozen names need not hold for another; the
text encoder's own space does. The clip's token is mapped to a vector o of that space, a class is
its text w as seen from the mean over the seen classes of the stage, and the loss is the
cross-entropy over these of

    cos(o, w - mean w) / temperature

in place of regression and reconstruction. The distance of a clip from a class is 1 - cos.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.settings.experiment import Experiment
from tcaf.settings.validation import Positive, settings
from tcaf.systems.blocks import Block, check_text
from tcaf.systems.interface import ClassEmbeddings
from tcaf.systems.joint_space import TCAFConfig
from tcaf.systems.losses import Losses
from tcaf.systems.tcaf import Transformer


@settings("options", kw_only=True)
class TCAFCosineConfig(TCAFConfig):
    """What `TCAFCosine` is built from.

    Args:
        temperature: what cosines are divided by in the loss; small values look at the nearest
            classes alone.
    """

    temperature: Positive = 0.1


@dataclass(frozen=True)
class TCAFCosineOutput:
    """Clips in the space of class text.

    Args:
        video_embedding: at unit length.
    """

    video_embedding: Float[Tensor, "batch text_dim"]


class TCAFCosine(Transformer):
    """TCaF's clips in the space of class text.

    Args:
        config: sizes and settings.
    """

    text_mean: Float[Tensor, " text_dim"]

    def __init__(self, config: TCAFCosineConfig) -> None:
        super().__init__(config)
        self.temperature = config.temperature
        hidden, momentum = config.projection_hidden_dim, config.batch_norm_momentum
        self.video_projection = nn.Sequential(
            Block(config.token_dim, hidden, config.dropout_video_projection, momentum),
            # Text has both signs, which a last rectifier would not reach.
            nn.Linear(hidden, config.text_dim),
        )
        self.register_buffer("text_mean", torch.zeros(config.text_dim))

    def embed_video(self, batch: FeatureBatch) -> Float[Tensor, "batch text_dim"]:
        """Returns o at unit length."""
        return F.normalize(self.video_projection(self.transform(batch)), dim=1)

    def forward(self, batch: FeatureBatch) -> TCAFCosineOutput:
        """Maps clips into the space of class text; refuses what `embed` does."""
        return TCAFCosineOutput(self.embed(batch))

    def embed_text(self, text_embedding: Float[Tensor, "num_classes text_dim"]) -> ClassEmbeddings:
        """Returns each class's text as seen from the mean, at unit length.

        In training the classes are the seen ones, whose mean is kept.

        Raises:
            TCAFError: text embeddings of another dimension than the model's.
        """
        check_text(text_embedding, self.config)
        if self.training:
            self.text_mean.copy_(text_embedding.mean(dim=0))
        return ClassEmbeddings(F.normalize(text_embedding - self.text_mean, dim=1))

    def scores(
        self, batch: FeatureBatch, class_embedding: Float[Tensor, "num_classes text_dim"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the cosine distance of each clip from each class."""
        return 1 - self(batch).video_embedding @ class_embedding.T


def tcaf_cosine_objective(
    model: TCAFCosine,
    batch: FeatureBatch,
    negatives: FeatureBatch | None,
    text_embedding: Float[Tensor, "num_seen text_dim"],
    experiment: Experiment,
) -> Losses:
    """Computes the cross-entropy of a batch over the seen classes.

    Args:
        model: in training mode.
        batch: with labels that index `text_embedding`.
        negatives: not used; other systems' objectives compare with them.
        text_embedding: of the seen classes of the stage.
        experiment: not used; the temperature is part of the model.
    """
    text = model.embed_text(text_embedding).class_embedding
    cosines = model(batch).video_embedding @ text.T
    loss = F.cross_entropy(cosines / model.temperature, batch.known_labels)
    return Losses({"cross_entropy": loss})
