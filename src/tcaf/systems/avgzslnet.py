"""AVGZSLNet: a joint space from which one decoder must recover the class's text.

Owns the network and the training objective of Mazumder et al. (WACV 2021) on clips averaged over
time, as Mercea et al. (CVPR and ECCV 2022) compare with it. Knows nothing of optimisers, files or
splits. The paper's symbols, with + for a clip and - for one of another class:

    f_a, f_v   `embedders`          a, v         `audio_embedding`, `visual_embedding`
    f_t        `text_embedder`      t            `class_embedding`
    g          `decoder`            g(a), g(v)   `audio_reconstruction`, `visual_reconstruction`
    w          `text_embedding`     g(t)         `text_reconstruction`

    loss  =  T(t+; a+, a-) + T(a+; t+, t-) + T(t+; v+, v-) + T(v+; t+, t-)      `composite_triplet`
          +  sum over x in {t, a, v} of mean ||g(x+) - w+||                     `reconstruction`
          +  T(g(t+); g(a+), g(a-)) + T(g(t+); g(v+), g(v-))                    `cross_triplet`

A clip's distance from a class is the sum of the distances of both its embeddings.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.settings.validation import Count, Fraction, settings
from tcaf.systems.averaging import AveragingModel, TripletConfig, triplet_objective
from tcaf.systems.blocks import Block, check_text, euclidean_distances
from tcaf.systems.joint_space import TextOutput
from tcaf.systems.losses import Losses, triplet


@settings("options", kw_only=True)
class AVGZSLNetConfig(TripletConfig):
    """What `AVGZSLNet` is built from.

    Args:
        hidden_dim: hidden size of f_a and f_v; f_t's is that of the text embedding.
        decoder_hidden_dim: hidden size of g.
        dropout_embedder: of f_a, f_v and f_t.
        dropout_decoder: of g.
    """

    hidden_dim: Count = 1024
    decoder_hidden_dim: Count = 64
    dropout_embedder: Fraction = 0.8
    dropout_decoder: Fraction = 0.5


@dataclass(frozen=True)
class AVGZSLNetOutput:
    """Clips in the joint space, once for each modality, and back as text.

    Args:
        audio_embedding: a.
        visual_embedding: v.
        audio_reconstruction: g(a), of unit length.
        visual_reconstruction: g(v), of unit length.
    """

    audio_embedding: Float[Tensor, "batch joint_dim"]
    visual_embedding: Float[Tensor, "batch joint_dim"]
    audio_reconstruction: Float[Tensor, "batch text_dim"]
    visual_reconstruction: Float[Tensor, "batch text_dim"]

    @property
    def video_embedding(self) -> Float[Tensor, "batch joint_dim"]:
        """The point between a and v: one vector a clip, for pictures; `scores` uses both."""
        return (self.audio_embedding + self.visual_embedding) / 2


class AVGZSLNet(AveragingModel):
    """Embeddings of both modalities and of class names, with a decoder that they share.

    Args:
        config: sizes and settings; dimensions of the inputs are part of it.
    """

    def __init__(self, config: AVGZSLNetConfig) -> None:
        super().__init__(config)
        joint, text, momentum = config.joint_dim, config.text_dim, config.batch_norm_momentum
        dropout = config.dropout_embedder
        self.embedders = nn.ModuleDict(
            {
                m: _network(config.dim(m), config.hidden_dim, joint, dropout, momentum)
                for m in MODALITIES
            }
        )
        self.text_embedder = _network(text, text, joint, dropout, momentum)
        self.decoder = _network(
            joint, config.decoder_hidden_dim, text, config.dropout_decoder, momentum
        )

    def forward(self, batch: FeatureBatch) -> AVGZSLNetOutput:
        """Embeds clips, and decodes the embeddings to text.

        Raises:
            TCAFError: features of other dimensions than the model's, or a training batch too small
                for batch norm.
        """
        return self.of_means(self.means(batch))

    def of_means(self, means: Mapping[Modality, Float[Tensor, "batch _"]]) -> AVGZSLNetOutput:
        """Does what `forward` does, with the scaled mean tokens of clips by modality."""
        audio, visual = (self.embedders[m](means[m]) for m in MODALITIES)
        return AVGZSLNetOutput(audio, visual, self.decode(audio), self.decode(visual))

    def embed_text(self, text_embedding: Float[Tensor, "num_classes text_dim"]) -> TextOutput:
        """Embeds class names, given their text embeddings, and decodes them.

        Raises:
            TCAFError: text embeddings of another dimension than the model's.
        """
        check_text(text_embedding, self.config)
        embedding = self.text_embedder(text_embedding)
        return TextOutput(embedding, self.decode(embedding))

    def decode(self, embedding: Float[Tensor, "rows joint_dim"]) -> Float[Tensor, "rows text_dim"]:
        """Returns g(x), of unit length like the text it stands for."""
        return F.normalize(self.decoder(embedding), dim=1)

    def scores(
        self, batch: FeatureBatch, class_embedding: Float[Tensor, "num_classes joint_dim"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns d(a, t) + d(v, t) of each clip and class."""
        output = self(batch)
        audio = euclidean_distances(output.audio_embedding, class_embedding)
        return audio + euclidean_distances(output.visual_embedding, class_embedding)


def _network(
    in_dim: int, hidden_dim: int, out_dim: int, dropout: float, momentum: float
) -> nn.Sequential:
    """Returns f_a, f_v, f_t or g: one hidden layer, and a linear map without a ReLU."""
    return nn.Sequential(
        Block(in_dim, hidden_dim, dropout, momentum), nn.Linear(hidden_dim, out_dim)
    )


def _distance(
    left: Float[Tensor, "batch dim"], right: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """Returns the Euclidean distance of each row, averaged over the batch."""
    return torch.linalg.vector_norm(left - right, dim=1).mean()


def avgzslnet_losses(
    clips: AVGZSLNetOutput,
    others: AVGZSLNetOutput,
    text: TextOutput,
    other_text: TextOutput,
    text_embedding: Float[Tensor, "batch text_dim"],
    *,
    margin: float = 1.0,
) -> Losses:
    """Computes the objective from embeddings.

    Args:
        clips: a+, v+, g(a+), g(v+).
        others: a-, v-, g(a-), g(v-).
        text: t+ and g(t+), of the class of each of `clips`.
        other_text: t-, of the class of each of `others`.
        text_embedding: w+, what is to be reconstructed.
        margin: of the triplet losses.
    """
    t, other_t, g_t = text.class_embedding, other_text.class_embedding, text.text_reconstruction
    a, other_a = clips.audio_embedding, others.audio_embedding
    v, other_v = clips.visual_embedding, others.visual_embedding
    g_a, other_g_a = clips.audio_reconstruction, others.audio_reconstruction
    g_v, other_g_v = clips.visual_reconstruction, others.visual_reconstruction
    return Losses(
        {
            "composite_triplet": triplet(t, a, other_a, margin)
            + triplet(a, t, other_t, margin)
            + triplet(t, v, other_v, margin)
            + triplet(v, t, other_t, margin),
            "reconstruction": _distance(g_t, text_embedding)
            + _distance(g_a, text_embedding)
            + _distance(g_v, text_embedding),
            "cross_triplet": triplet(g_t, g_a, other_g_a, margin)
            + triplet(g_t, g_v, other_g_v, margin),
        }
    )


avgzslnet_objective = triplet_objective(avgzslnet_losses)
