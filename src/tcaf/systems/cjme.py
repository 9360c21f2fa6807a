"""CJME: one joint space for audio, video frames and class names, and a choice of modality.

Owns the network and the training objective of Parida et al. (WACV 2020) on clips averaged over
time, as Mercea et al. (CVPR and ECCV 2022) compare with it. Knows nothing of optimisers, files or
splits. The paper's symbols, with + for a clip and - for one of another class:

    f_a, f_v   `embedders`          a, v    `audio_embedding`, `visual_embedding`
    f_t        `text_embedder`      t       `class_embedding`
    alpha      `visual_weight`      f_attn  `modality_attention`

    loss  =  mean[(1 - alpha) T(t+; a+, a-) + alpha T(t+; v+, v-)]      `triplet`
          +  MSE(a+, v+)                                                `alignment`
          +  MSE(alpha, y)                                              `attention`

y marks the modality that is surer of its class (`attention_target`). A clip is compared with the
classes by one of its modalities, the one with more weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.settings.experiment import Experiment
from tcaf.settings.validation import Count, Fraction, settings
from tcaf.systems.averaging import AveragingModel, TripletConfig
from tcaf.systems.blocks import Block, check_text
from tcaf.systems.interface import ClassEmbeddings
from tcaf.systems.losses import Losses, squared_error, triplets
from tcaf.systems.over_ranks import mean_over_ranks

CJMEAttention = Literal["per_clip", "separate_means"]

CLEAR_LEAD = 0.1
"""By how many nats a modality's entropy must be the lower one to count as surer."""


@settings("options", kw_only=True)
class CJMEConfig(TripletConfig):
    """What `CJME` is built from.

    Args:
        hidden_dim: hidden size of f_a and f_v; f_t's is that of the text embedding.
        dropout: of f_a, f_v and f_t.
        cjme_attention: see `Fidelity`.
    """

    hidden_dim: Count = 1024
    dropout: Fraction = 0.2
    cjme_attention: CJMEAttention = "per_clip"


@dataclass(frozen=True)
class CJMEOutput:
    """Clips in the joint space, once for each modality.

    Args:
        audio_embedding: a.
        visual_embedding: v.
        visual_weight: alpha, the weight of v; that of a is 1 - alpha.
    """

    audio_embedding: Float[Tensor, "batch joint_dim"]
    visual_embedding: Float[Tensor, "batch joint_dim"]
    visual_weight: Float[Tensor, " batch"]

    @property
    def video_embedding(self) -> Float[Tensor, "batch joint_dim"]:
        """(1 - alpha) a + alpha v with alpha rounded, that is, a or v; v where they weigh the same.

        This is what is compared with class embeddings.
        """
        is_visual = rearrange(self.visual_weight >= 0.5, "batch -> batch 1")
        return torch.where(is_visual, self.visual_embedding, self.audio_embedding)


class CJME(AveragingModel):
    """Coordinated joint multimodal embeddings.

    Args:
        config: sizes and settings; dimensions of the inputs are part of it.
    """

    config: CJMEConfig

    def __init__(self, config: CJMEConfig) -> None:
        super().__init__(config)
        self.embedders = nn.ModuleDict(
            {m: _embedder(config.dim(m), config.hidden_dim, config) for m in MODALITIES}
        )
        self.text_embedder = _embedder(config.text_dim, config.text_dim, config)
        both = config.audio_dim + config.visual_dim
        self.modality_attention = nn.Sequential(
            nn.BatchNorm1d(both, momentum=config.batch_norm_momentum),
            nn.Linear(both, 1),
            nn.Sigmoid(),
        )

    def forward(self, batch: FeatureBatch) -> CJMEOutput:
        """Embeds clips, and weighs their modalities.

        Raises:
            TCAFError: features of other dimensions than the model's, or a training batch too small
                for batch norm.
        """
        return self.of_means(self.means(batch))

    def of_means(self, means: Mapping[Modality, Float[Tensor, "batch _"]]) -> CJMEOutput:
        """Does what `forward` does, with the scaled mean tokens of clips by modality."""
        # The embedders come first: their batch norms refuse a single clip in words.
        embeddings = {m: self.embedders[m](mean) for m, mean in means.items()}
        weight = self.modality_attention(torch.cat(list(means.values()), dim=1))
        return CJMEOutput(
            audio_embedding=embeddings["audio"],
            visual_embedding=embeddings["visual"],
            visual_weight=rearrange(weight, "batch 1 -> batch"),
        )

    def embed_text(self, text_embedding: Float[Tensor, "num_classes text_dim"]) -> ClassEmbeddings:
        """Embeds class names, given their text embeddings.

        Raises:
            TCAFError: text embeddings of another dimension than the model's.
        """
        check_text(text_embedding, self.config)
        return ClassEmbeddings(self.text_embedder(text_embedding))


def _embedder(in_dim: int, hidden_dim: int, config: CJMEConfig) -> nn.Sequential:
    """Returns f_a, f_v or f_t."""
    return nn.Sequential(
        Block(in_dim, hidden_dim, config.dropout, config.batch_norm_momentum),
        nn.Linear(hidden_dim, config.joint_dim),
        nn.ReLU(),
    )


def attention_target(
    audio_embedding: Float[Tensor, "batch joint_dim"],
    visual_embedding: Float[Tensor, "batch joint_dim"],
    class_embedding: Float[Tensor, "num_seen joint_dim"],
) -> Float[Tensor, " batch"]:
    """Returns y, what alpha is taught: 1 where v is surer of its class than a, 0 the other way.

    Sure is a low entropy of softmax(x E^T) over the seen classes E. Where the two entropies differ
    by `CLEAR_LEAD` or less, y is 0.5. Nothing is learnt through y.
    """

    def entropy(embedding: Tensor) -> Tensor:
        log_share = (embedding @ class_embedding.T).detach().log_softmax(dim=1)
        return -(log_share.exp() * log_share).sum(dim=1)

    lead = entropy(audio_embedding) - entropy(visual_embedding)
    return 0.5 + 0.5 * (lead > CLEAR_LEAD).to(lead) - 0.5 * (lead < -CLEAR_LEAD).to(lead)


def cjme_losses(
    clips: CJMEOutput,
    others: CJMEOutput,
    text: Float[Tensor, "batch joint_dim"],
    class_embedding: Float[Tensor, "num_seen joint_dim"],
    *,
    attention: CJMEAttention = "per_clip",
    margin: float = 1.0,
) -> Losses:
    """Computes the objective from embeddings.

    Args:
        clips: a+, v+ and alpha.
        others: a- and v-.
        text: t+, the class name of each of `clips`.
        class_embedding: E, all seen classes.
        attention: see `Fidelity.cjme_attention`.
        margin: of the triplet loss.
    """
    audio = triplets(text, clips.audio_embedding, others.audio_embedding, margin)
    visual = triplets(text, clips.visual_embedding, others.visual_embedding, margin)
    alpha = clips.visual_weight
    if attention == "per_clip":
        triplet = ((1 - alpha) * audio + alpha * visual).mean()
    else:
        # A column of weights times a row of losses is every weight times every loss.
        weight = mean_over_ranks(alpha)
        triplet = (1 - weight) * mean_over_ranks(audio) + weight * mean_over_ranks(visual)
    y = attention_target(clips.audio_embedding, clips.visual_embedding, class_embedding)
    return Losses(
        {
            "triplet": triplet,
            "alignment": squared_error(clips.audio_embedding, clips.visual_embedding),
            "attention": (alpha - y).square().mean(),
        }
    )


def cjme_objective(
    model: CJME,
    batch: FeatureBatch,
    negatives: FeatureBatch,
    text_embedding: Float[Tensor, "num_seen text_dim"],
    experiment: Experiment,
) -> Losses:
    """Computes CJME's loss on a batch.

    Args:
        model: in training mode.
        batch: with labels that index `text_embedding`.
        negatives: clip i is of another class than clip i of `batch`.
        text_embedding: of the seen classes of the stage.
        experiment: not read; all settings are the model's own.
    """
    labels = batch.known_labels
    clips, others = model(batch), model(negatives)
    text = model.embed_text(text_embedding[labels]).class_embedding
    # As in the release, the classes are embedded in training mode too, dropout included.
    with torch.no_grad():
        classes = model.embed_text(text_embedding).class_embedding
    config = model.config
    return cjme_losses(
        clips, others, text, classes, attention=config.cjme_attention, margin=config.margin
    )
