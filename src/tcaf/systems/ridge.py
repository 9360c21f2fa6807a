"""Ridge regression from averaged features to class text: no epochs, no GPU, hard to beat.

Owns the closed-form baseline that the paper lacks, of the family of ESZSL (Romera-Paredes and Torr,
ICML 2015): a linear map W from a clip's features x to the text embedding w of its class,

    W = argmin  mean ||W x + b - w||^2  +  lambda ||W||^2

with x the time average of each modality, scaled to unit length, both modalities side by side. A
clip's distance from a class is the cosine distance of W x + b from the class's text, both seen from
the mean text of the training clips: what all class names have in common tells none from another.

What an epoch is to the other systems, one lambda is to this one: epoch e solves for the e-th lambda
of a falling sequence, and the epoch with the best validation HM is the regulariser chosen.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.execution import ranks
from tcaf.settings.validation import Positive, settings
from tcaf.systems.blocks import check_dims, check_text
from tcaf.systems.gram import Gram
from tcaf.systems.interface import ClassEmbeddings, InputConfig


@settings("options", kw_only=True)
class RidgeConfig(InputConfig):
    """What `Ridge` is built from.

    Args:
        strongest: lambda of the first epoch.
        ratio: what lambda is multiplied by from one epoch to the next.
        cosine_from: where the angles of the cosine distance are measured: from the `mean_text` of
            the training clips, or from the `origin`.
    """

    strongest: Positive = 1.0
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    cosine_from: Literal["mean_text", "origin"] = "mean_text"


@dataclass(frozen=True)
class RidgeOutput:
    """Clips in the space of class text.

    Args:
        video_embedding: W x + b, seen from where angles are measured, scaled to unit length.
    """

    video_embedding: Float[Tensor, "batch text_dim"]


class Ridge(nn.Module):
    """A linear map from features to text.

    Args:
        config: sizes and the sequence of regularisers.
    """

    weight: Float[Tensor, "feature_dim text_dim"]
    bias: Float[Tensor, " text_dim"]
    centre: Float[Tensor, " text_dim"]

    def __init__(self, config: RidgeConfig) -> None:
        super().__init__()
        self.config = config
        feature_dim = config.audio_dim + config.visual_dim
        self.register_buffer("weight", torch.zeros(feature_dim, config.text_dim))
        self.register_buffer("bias", torch.zeros(config.text_dim))
        self.register_buffer("centre", torch.zeros(config.text_dim))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that it was fitted on; before that, both."""
        audio = self.config.audio_dim
        parts = zip(MODALITIES, (self.weight[:audio], self.weight[audio:]), strict=True)
        # What no clip had is 0 in all of them, and so is what is learnt of it.
        return tuple(m for m, part in parts if bool(part.any())) or MODALITIES

    def features(self, batch: FeatureBatch) -> Float[Tensor, "batch feature_dim"]:
        """Returns x: each modality's time average at unit length; 0 where it is not there.

        Raises:
            TCAFError: features of other dimensions than the model's.
        """
        read = self.modalities
        check_dims(batch, self.config, read)
        # Unit length makes any other scaling of the features immaterial.
        parts = [
            F.normalize(batch.modality(m).mean(), dim=1)
            if m in read
            else self.weight.new_zeros(len(batch), self.config.dim(m))
            for m in MODALITIES
        ]
        return torch.cat(parts, dim=1)

    def reduced(self, batch: FeatureBatch) -> Float[Tensor, "batch feature_dim"]:
        """Returns all that is needed of a batch: `features`."""
        return self.features(batch)

    def forward(self, batch: FeatureBatch | Float[Tensor, "batch feature_dim"]) -> RidgeOutput:
        """Maps clips, or what `reduced` returned of them, into the space of class text."""
        x = batch if isinstance(batch, Tensor) else self.features(batch)
        predicted = x @ self.weight + self.bias
        return RidgeOutput(F.normalize(predicted - self.centre, dim=1))

    def embed_text(self, text_embedding: Float[Tensor, "num_classes text_dim"]) -> ClassEmbeddings:
        """Returns the text embeddings as directions: the joint space is the text's own.

        Raises:
            TCAFError: text embeddings of another dimension than the model's.
        """
        check_text(text_embedding, self.config)
        return ClassEmbeddings(F.normalize(text_embedding - self.centre, dim=1))

    def scores(
        self,
        batch: FeatureBatch | Float[Tensor, "batch feature_dim"],
        class_embedding: Float[Tensor, "num_classes text_dim"],
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the cosine distance of each clip from each class."""
        return 1 - self(batch).video_embedding @ class_embedding.T


class RidgeFit:
    """All clips of a stage reduced to second moments, from which any lambda is solved at once.

    One pass over the clips and one eigendecomposition; memory does not grow with the clips.

    Args:
        model: whose weights are set.
        batches: all clips once, with labels.
        text_embedding: of the seen classes, by label.

    Raises:
        TCAFError: a batch without labels.
    """

    adds_up = True

    def __init__(
        self,
        model: Ridge,
        batches: Iterable[FeatureBatch],
        text_embedding: Float[Tensor, "num_seen text_dim"],
    ) -> None:
        self.model = model
        # Doubles: the smallest eigenvalues are lost in sums of float32.
        zero = model.weight.new_zeros((), dtype=torch.float64)
        gram = Gram(len(model.weight), zero)
        counts = zero.new_zeros(len(text_embedding))
        sums = zero.new_zeros(len(text_embedding), len(model.weight))
        for batch in batches:
            labels, x = batch.known_labels, model.features(batch)
            gram.add(x)
            counts += torch.bincount(labels, minlength=len(counts))
            sums.index_add_(0, labels, x.double())
        total = gram.total()
        ranks.add_up(total, sums, counts)
        text, clips = text_embedding.double(), counts.sum()
        self.mean_x = sums.sum(dim=0) / clips
        self.mean_w = counts @ text / clips
        covariance = total / clips - torch.outer(self.mean_x, self.mean_x)
        self.power_w = counts @ text.square().sum(dim=1) / clips - self.mean_w.square().sum()
        self.values, self.vectors = torch.linalg.eigh(covariance)
        # All clips of a class have one text: of x'w only the sums of x by class are needed.
        cross = sums.T @ text
        self.rotated = self.vectors.T @ (cross / clips - torch.outer(self.mean_x, self.mean_w))

    def solve(self, epoch: int) -> dict[str, float]:
        """Sets the weights to the solution of the epoch's lambda.

        Returns:
            `loss`, the mean squared error on the training clips, and `lambda`.
        """
        config = self.model.config
        strength = config.strongest * config.ratio ** (epoch - 1)
        # Rounding leaves eigenvalues of directions that no clip has a little below 0.
        shrunk = self.rotated / (self.values.clamp_min(0) + strength)[:, None]
        weight = self.vectors @ shrunk
        explained = 2 * (shrunk * self.rotated).sum()
        explained = explained - (self.values[:, None] * shrunk.square()).sum()
        self.model.weight.copy_(weight)
        self.model.bias.copy_(self.mean_w - self.mean_x @ weight)
        if config.cosine_from == "mean_text":
            self.model.centre.copy_(self.mean_w)
        return {"loss": float(self.power_w - explained), "lambda": strength}
