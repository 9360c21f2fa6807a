"""A space shared by clips and class names: what TCaF has in common with systems like it.

Owns encoders, projections, decoders and the text side (Mercea et al., ECCV 2022, Sec. 3.2). How
encoded clips become one vector is each system's own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.data.filled import FilledPacked, is_filled
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.settings.fidelity import LayerNormKind
from tcaf.settings.sections import ModelSettings
from tcaf.settings.validation import settings
from tcaf.systems.blocks import (
    Block,
    Blocks,
    Dropout,
    check_dims,
    check_text,
    euclidean_distances,
    scaled,
)
from tcaf.systems.interface import ClassEmbeddings, InputConfig


@settings("model", kw_only=True)
class TCAFConfig(InputConfig, ModelSettings):
    """All that `TCAF` is built from: its settings, and what data and fidelity decide.

    Args:
        layer_norm: see `Fidelity`.
    """

    layer_norm: LayerNormKind = "separate"


def used_modalities(settings: ModelSettings) -> tuple[Modality, ...]:
    """Returns the modalities that a model reads (Table 4)."""
    return tuple(m for m in MODALITIES if settings.modalities in ("both", m))


@dataclass(frozen=True)
class VideoOutput:
    """Clips in the joint space.

    Args:
        video_embedding: theta_o, what is compared with class embeddings.
        video_reconstruction: rho_o, theta_o decoded to a text embedding.
    """

    video_embedding: Float[Tensor, "batch joint_dim"]
    video_reconstruction: Float[Tensor, "batch text_dim"]


@dataclass(frozen=True)
class TextOutput(ClassEmbeddings):
    """Class names in the joint space, and back.

    Args:
        text_reconstruction: rho_w, theta_w decoded to a text embedding.
    """

    text_reconstruction: Float[Tensor, "num_classes text_dim"]


def feed_forward(config: TCAFConfig, *, norm: bool = False) -> nn.Sequential:
    """Returns g_FF (Eq. 13), with a layer norm of its own before it if asked for."""
    dropout = config.dropout_transformer
    return nn.Sequential(
        *([nn.LayerNorm(config.token_dim)] if norm else []),
        nn.Linear(config.token_dim, config.feed_forward_dim),
        nn.GELU(),
        Dropout(dropout),
        nn.Linear(config.feed_forward_dim, config.token_dim),
        Dropout(dropout),
    )


class ClipEncoder(nn.Module):
    """Encoders of the inputs. A subclass says how a clip becomes one vector (`embed_video`).

    Args:
        config: sizes and settings; dimensions of the inputs are part of it.
    """

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = used_modalities(config)
        hidden, dropout = config.encoder_hidden_dim, config.dropout_encoder
        momentum = config.batch_norm_momentum
        self.encoders = nn.ModuleDict(
            {
                m: Blocks(
                    Block(config.dim(m), hidden, dropout, momentum),
                    Block(hidden, config.token_dim, dropout, momentum),
                )
                for m in self.modalities
            }
        )

    def new_projection(self) -> nn.Sequential:
        """Returns a new O_proj, from a token into the joint space."""
        config = self.config
        hidden, dropout = config.projection_hidden_dim, config.dropout_video_projection
        return nn.Sequential(
            Block(config.token_dim, hidden, dropout, config.batch_norm_momentum),
            Block(hidden, config.joint_dim, dropout, config.batch_norm_momentum),
        )

    def embed(self, batch: FeatureBatch) -> Float[Tensor, "batch joint_dim"]:
        """Returns theta_o of each clip.

        Raises:
            TCAFError: features of other dimensions than the model's, a clip with no token in any
                modality that the model uses, or a training batch too small for batch norm.
        """
        check_dims(batch, self.config, self.modalities)
        # Of a batch of a fixed shape it was looked at before it was filled up.
        if is_filled(batch):
            return self.embed_video(batch)
        total = torch.stack([batch.modality(m).lens for m in self.modalities]).sum(dim=0)
        if bool((total == 0).any()):
            clip = int((total == 0).nonzero()[0])
            used = " or ".join(self.modalities)
            raise TCAFError(f"clip {clip} of the batch has no {used} token")
        return self.embed_video(batch)

    def embed_video(self, batch: FeatureBatch) -> Float[Tensor, "batch joint_dim"]:
        """Returns theta_o of each clip of a checked batch."""
        raise NotImplementedError

    def encoded(self, batch: FeatureBatch, modality: Modality) -> Packed:
        """Returns phi: the scaled tokens of a modality after its encoder."""
        packed = batch.modality(modality)
        inputs = scaled(packed, self.config.scaling(modality))
        real = packed.packing.real_rows if isinstance(packed, FilledPacked) else None
        return packed.with_tokens(self.encoders[modality](inputs, real))


class JointSpaceModel(ClipEncoder):
    """What TCaF shares with systems that differ only in how a clip becomes one vector.

    The joint space of clips and class names, and the way back to text.
    """

    def add_decoders_and_text(self) -> None:
        """Adds D_o, W_proj and D_w; called last, so that initial weights follow the clip's way."""
        config = self.config
        hidden, dropout = config.projection_hidden_dim, config.dropout_video_projection
        momentum = config.batch_norm_momentum
        self.video_decoder = nn.Sequential(
            Block(config.joint_dim, hidden, dropout, momentum),
            Block(hidden, config.text_dim, dropout, momentum),
        )
        dropout = config.dropout_text_projection
        self.text_projection = Block(config.text_dim, config.joint_dim, dropout, momentum)
        self.text_decoder = Block(config.joint_dim, config.text_dim, dropout, momentum)

    def forward(self, batch: FeatureBatch) -> VideoOutput:
        """Embeds clips; refuses what `embed` does."""
        embedding = self.embed(batch)
        return VideoOutput(embedding, self.video_decoder(embedding))

    def embed_text(self, text_embedding: Float[Tensor, "num_classes text_dim"]) -> TextOutput:
        """Embeds class names, given their text embeddings.

        Raises:
            TCAFError: text embeddings of another dimension than the model's.
        """
        check_text(text_embedding, self.config)
        embedding = self.text_projection(text_embedding)
        return TextOutput(embedding, self.text_decoder(embedding))

    def scores(
        self, batch: FeatureBatch, class_embedding: Float[Tensor, "num_classes joint_dim"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the distance of each clip from each class; the nearest is the answer (Eq. 14)."""
        return euclidean_distances(self(batch).video_embedding, class_embedding)
