"""ClipClap: a joint space on features that have text spaces of their own, CLIP's and CLAP's.

Owns the network and the objective of Kurzendörfer et al. (CVPR workshops 2024) on clips averaged
over time. A clip is [v ; a], the unit means of its visual and audio features; a class is w, its
text in the space of either model, side by side: the text spaces `visual` and `audio`. With
B = linear, batch norm, ReLU, dropout, in which every part ends:

    O_enc   `video_encoder`      O_proj  `video_projection`   theta_o  `video_embedding`
    W_enc   `text_encoder`       W_proj  `text_projection`    theta_w  `class_embedding`
    D_o     `video_decoder`      D_w     `text_decoder`       w'       `text_encoding`

    w' = W_enc(w),  theta_o = O_proj(O_enc([v ; a])),  theta_w = W_proj(w')

    loss  =  cross-entropy of theta_o theta_w' over the seen classes           `cross_entropy`
          +  MSE(theta_o, theta_w)                                            `regression`
          +  MSE(D_o(theta_o), w') + MSE(D_w(theta_w), w')                    `reconstruction`

These are TCaF's terms with w' in place of w; the gradient reaches W_enc through w' too. A clip's
distance from a class is Euclidean. Sizes of inputs follow the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.errors import TCAFError
from tcaf.settings.experiment import Experiment
from tcaf.settings.validation import Count, Fraction, settings
from tcaf.systems.blocks import Block, check_dims, euclidean_distances, scaled_mean
from tcaf.systems.interface import FEATURE_SPACES, TextSpacesConfig
from tcaf.systems.joint_space import TextOutput
from tcaf.systems.losses import Losses, tcaf_losses
from tcaf.text.spaces import ClassText


@settings("options", kw_only=True)
class ClipClapConfig(TextSpacesConfig):
    """What `ClipClap` is built from.

    Args:
        hidden_dim: size of w' and of the hidden rows.
        joint_dim: size of the space shared by clips and class names.
        dropout: of every part.
    """

    hidden_dim: Count = 512
    joint_dim: Count = 64
    dropout: Fraction = 0.1


@dataclass(frozen=True)
class ClipClapOutput:
    """Clips in the joint space.

    Args:
        video_embedding: theta_o.
        video_reconstruction: D_o(theta_o).
    """

    video_embedding: Float[Tensor, "batch joint_dim"]
    video_reconstruction: Float[Tensor, "batch hidden_dim"]


@dataclass(frozen=True)
class ClipClapText(TextOutput):
    """Class names in the joint space, and back.

    Args:
        text_encoding: w', what is to be reconstructed.
    """

    text_encoding: Float[Tensor, "num_classes hidden_dim"]


class ClipClap(nn.Module):
    """Clips and class names in a joint space.

    Args:
        config: sizes and settings; dimensions of the inputs are part of it.
    """

    def __init__(self, config: ClipClapConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = MODALITIES
        hidden, joint = config.hidden_dim, config.joint_dim
        self.video_encoder = self._blocks(config.visual_dim + config.audio_dim, hidden)
        self.video_projection = self._blocks(hidden, hidden, joint)
        self.video_decoder = self._blocks(joint, hidden, hidden)
        self.text_encoder = self._blocks(sum(config.text_dims[s] for s in FEATURE_SPACES), hidden)
        self.text_projection = self._blocks(hidden, joint)
        self.text_decoder = self._blocks(joint, hidden)

    def _blocks(self, *sizes: int) -> nn.Sequential:
        dropout, momentum = self.config.dropout, self.config.batch_norm_momentum
        steps = pairwise(sizes)
        return nn.Sequential(*(Block(first, last, dropout, momentum) for first, last in steps))

    def forward(self, batch: FeatureBatch) -> ClipClapOutput:
        """Embeds clips, and decodes the embeddings; a modality that a clip lacks is 0.

        Raises:
            TCAFError: features of other dimensions than the model's, or a training batch too small
                for batch norm.
        """
        check_dims(batch, self.config)
        scaling = self.config.scaling
        return self.of_means({m: scaled_mean(batch.modality(m), scaling(m)) for m in MODALITIES})

    def of_means(self, means: Mapping[Modality, Float[Tensor, "batch _"]]) -> ClipClapOutput:
        """Does what `forward` does, with the scaled mean tokens of clips by modality."""
        both = torch.cat([means[m] for m in FEATURE_SPACES], dim=1)
        embedding = self.video_projection(self.video_encoder(both))
        return ClipClapOutput(embedding, self.video_decoder(embedding))

    def embed_text(self, text_embedding: ClassText) -> ClipClapText:
        """Embeds class names, given their text embeddings in both spaces.

        Raises:
            TCAFError: text embeddings of other dimensions than the model's.
        """
        for space in FEATURE_SPACES:
            wanted, got = self.config.text_dims[space], text_embedding[space].shape[1]
            if got != wanted:
                raise TCAFError(
                    f"expected text embeddings of size {wanted} in the space {space!r}, got {got}"
                )
        encoding = self.text_encoder(torch.cat([text_embedding[s] for s in FEATURE_SPACES], dim=1))
        embedding = self.text_projection(encoding)
        return ClipClapText(embedding, self.text_decoder(embedding), encoding)

    def scores(
        self, batch: FeatureBatch, class_embedding: Float[Tensor, "num_classes joint_dim"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the Euclidean distance of each clip from each class."""
        return euclidean_distances(self(batch).video_embedding, class_embedding)


def clipclap_objective(
    model: ClipClap,
    batch: FeatureBatch,
    negatives: FeatureBatch | None,
    text_embedding: ClassText,
    experiment: Experiment,
) -> Losses:
    """Computes the loss on a batch.

    Args:
        model: in training mode.
        batch: with labels that index the rows of `text_embedding`.
        negatives: not used; other systems' objectives compare with them.
        text_embedding: of the seen classes of the stage, in both spaces.
        experiment: which terms are on, and how squared errors are summed.
    """
    video, text = model(batch), model.embed_text(text_embedding)
    return tcaf_losses(
        video.video_embedding,
        video.video_reconstruction,
        text.class_embedding,
        text.text_reconstruction,
        text.text_encoding,
        batch.known_labels,
        terms=experiment.objective,
        reduction=experiment.fidelity.squared_error,
    )
