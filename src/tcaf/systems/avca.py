"""AVCA: audio and visual attend to each other once, as two tokens, before the joint space.

Owns the network and the training objective of Mercea et al. (CVPR 2022) on clips averaged over
time. Knows nothing of optimisers, files or splits. The paper's symbols, where m is a or v (audio or
visual), and a prime says after attention:

    A_enc, V_enc    `encoders`           phi_m      `audio_encoding`, `visual_encoding`
    e               `modality_tokens`    phi'_m     phi_m plus the output of `attention`
    A_proj, V_proj  `projections`        theta_m    `audio_embedding`, `visual_embedding`
    W_proj          `text_projection`    theta_w    `class_embedding`
    D               `text_decoder`       rho_m      `audio_reconstruction`, `visual_reconstruction`
    A_rec, V_rec    `decoders`           rho_w      `text_reconstruction`

The loss (`avca_losses`) sums triplets in the joint space and among reconstructed text, and squared
errors of what is reconstructed. The visual embedding alone is compared with the classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.settings.validation import Count, Fraction, settings
from tcaf.systems.averaging import AveragingModel, TripletConfig, triplet_objective
from tcaf.systems.blocks import Block, Dropout, check_text
from tcaf.systems.joint_space import TextOutput
from tcaf.systems.losses import Losses, squared_error, triplet


@settings("options", kw_only=True)
class AVCAConfig(TripletConfig):
    """What `AVCA` is built from.

    Args:
        encoder_hidden_dim: hidden size of A_enc and V_enc.
        token_dim: size of phi_m.
        num_heads: attention heads.
        head_dim: size of one attention head.
        feed_forward_dim: hidden size of the transformer block's feed-forward function.
        projection_hidden_dim: hidden size of A_proj and V_proj.
        dropout_encoder: of A_enc, V_enc and the transformer block, r_enc.
        dropout_projection: of A_proj and V_proj, r_proj.
        dropout_decoder: of W_proj, D, A_rec and V_rec, r_dec.
        avca_modality_tokens: see `Fidelity`.
    """

    encoder_hidden_dim: Count = 512
    token_dim: Count = 300
    num_heads: Count = 3
    head_dim: Count = 100
    feed_forward_dim: Count = 64
    projection_hidden_dim: Count = 512
    dropout_encoder: Fraction = 0.2
    dropout_projection: Fraction = 0.3
    dropout_decoder: Fraction = 0.5
    avca_modality_tokens: Literal["learnt", "fixed"] = "learnt"


@dataclass(frozen=True)
class AVCAOutput:
    """Clips on their way through the network, once for each modality.

    Args:
        audio_encoding: phi_a, before attention.
        visual_encoding: phi_v.
        audio_embedding: theta_a.
        visual_embedding: theta_v.
        audio_reconstruction: rho_a, theta_a decoded to a text embedding.
        visual_reconstruction: rho_v.
        decoded_audio_encoding: A_rec(theta_a), which is to be phi_a.
        decoded_visual_encoding: V_rec(theta_v).
    """

    audio_encoding: Float[Tensor, "batch token_dim"]
    visual_encoding: Float[Tensor, "batch token_dim"]
    audio_embedding: Float[Tensor, "batch joint_dim"]
    visual_embedding: Float[Tensor, "batch joint_dim"]
    audio_reconstruction: Float[Tensor, "batch text_dim"]
    visual_reconstruction: Float[Tensor, "batch text_dim"]
    decoded_audio_encoding: Float[Tensor, "batch token_dim"]
    decoded_visual_encoding: Float[Tensor, "batch token_dim"]

    @property
    def video_embedding(self) -> Float[Tensor, "batch joint_dim"]:
        """theta_v, what is compared with class embeddings."""
        return self.visual_embedding


class CrossAttention(nn.Module):
    """One pre-norm transformer block over the two tokens of a clip.

    Each token sees itself and the other one.

    Args:
        config: sizes and dropout.
    """

    def __init__(self, config: AVCAConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        inner = config.num_heads * config.head_dim
        self.norm = nn.LayerNorm(config.token_dim)
        self.to_qkv = nn.Linear(config.token_dim, 3 * inner, bias=False)
        self.to_out = nn.Sequential(
            nn.Linear(inner, config.token_dim), Dropout(config.dropout_encoder)
        )
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(config.token_dim),
            nn.Linear(config.token_dim, config.feed_forward_dim),
            nn.GELU(),
            Dropout(config.dropout_encoder),
            nn.Linear(config.feed_forward_dim, config.token_dim),
            Dropout(config.dropout_encoder),
        )

    def forward(
        self, tokens: Float[Tensor, "batch len token_dim"]
    ) -> Float[Tensor, "batch len token_dim"]:
        """Returns the tokens after attention and feed-forward, both with a residual."""
        query, key, value = rearrange(
            self.to_qkv(self.norm(tokens)),
            "batch len (qkv heads dim) -> qkv batch heads len dim",
            qkv=3,
            heads=self.num_heads,
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.to_out(rearrange(attended, "b heads len dim -> b len (heads dim)"))
        return tokens + self.feed_forward(tokens)


class AVCA(AveragingModel):
    """Audio-visual cross-attention.

    Args:
        config: sizes and settings; dimensions of the inputs are part of it.
    """

    modality_tokens: Float[Tensor, "2 token_dim"]

    def __init__(self, config: AVCAConfig) -> None:
        super().__init__(config)
        token, joint, momentum = config.token_dim, config.joint_dim, config.batch_norm_momentum
        hidden, rate = config.encoder_hidden_dim, config.dropout_encoder
        self.encoders = nn.ModuleDict(
            {m: _two_blocks(config.dim(m), hidden, token, rate, momentum) for m in MODALITIES}
        )
        start = torch.randn(len(MODALITIES), token)
        if config.avca_modality_tokens == "learnt":
            self.modality_tokens = nn.Parameter(start)
        else:
            self.register_buffer("modality_tokens", start)
        self.attention = CrossAttention(config)
        hidden, rate = config.projection_hidden_dim, config.dropout_projection
        self.projections = nn.ModuleDict(
            {m: _two_blocks(token, hidden, joint, rate, momentum) for m in MODALITIES}
        )
        rate = config.dropout_decoder
        self.text_projection = Block(config.text_dim, joint, rate, momentum)
        self.text_decoder = Block(joint, config.text_dim, rate, momentum)
        self.decoders = nn.ModuleDict({m: Block(joint, token, rate, momentum) for m in MODALITIES})

    def forward(self, batch: FeatureBatch) -> AVCAOutput:
        """Embeds clips, and decodes the embeddings to text and to their encodings.

        Raises:
            TCAFError: features of other dimensions than the model's, or a training batch too small
                for batch norm.
        """
        return self.of_means(self.means(batch))

    def of_means(self, means: Mapping[Modality, Float[Tensor, "batch _"]]) -> AVCAOutput:
        """Does what `forward` does, with the scaled mean tokens of clips by modality."""
        phi = torch.stack([self.encoders[m](means[m]) for m in MODALITIES], dim=1)
        attended = phi + self.attention(phi + self.modality_tokens)
        # In the order of MODALITIES: audio, visual.
        audio, visual = (
            self.projections[m](x) for m, x in zip(MODALITIES, attended.unbind(dim=1), strict=True)
        )
        return AVCAOutput(
            audio_encoding=phi[:, 0],
            visual_encoding=phi[:, 1],
            audio_embedding=audio,
            visual_embedding=visual,
            audio_reconstruction=self.text_decoder(audio),
            visual_reconstruction=self.text_decoder(visual),
            decoded_audio_encoding=self.decoders["audio"](audio),
            decoded_visual_encoding=self.decoders["visual"](visual),
        )

    def embed_text(self, text_embedding: Float[Tensor, "num_classes text_dim"]) -> TextOutput:
        """Embeds class names, given their text embeddings, and decodes them.

        Raises:
            TCAFError: text embeddings of another dimension than the model's.
        """
        check_text(text_embedding, self.config)
        embedding = self.text_projection(text_embedding)
        return TextOutput(embedding, self.text_decoder(embedding))


def _two_blocks(
    in_dim: int, hidden_dim: int, out_dim: int, dropout: float, momentum: float
) -> nn.Sequential:
    return nn.Sequential(
        Block(in_dim, hidden_dim, dropout, momentum), Block(hidden_dim, out_dim, dropout, momentum)
    )


def avca_losses(
    clips: AVCAOutput,
    others: AVCAOutput,
    text: TextOutput,
    other_text: TextOutput,
    text_embedding: Float[Tensor, "batch text_dim"],
    *,
    margin: float = 1.0,
) -> Losses:
    """Computes the objective from embeddings.

    Its terms are `reconstruction` l_rec, `cross_triplet` l_ct, `text_triplet` l_w,
    `composite_triplet` l_t and `regularisation` l_r.

    Args:
        clips: what the network makes of clips.
        others: the same for clips of other classes, the negatives.
        text: theta_w and rho_w of the class of each of `clips`.
        other_text: theta_w of the class of each of `others`.
        text_embedding: w, of the class of each of `clips`.
        margin: of the triplet losses.
    """
    w, other_w, rho_w = text.class_embedding, other_text.class_embedding, text.text_reconstruction
    a, other_a = clips.audio_embedding, others.audio_embedding
    v, other_v = clips.visual_embedding, others.visual_embedding
    rho_a, other_rho_a = clips.audio_reconstruction, others.audio_reconstruction
    rho_v, other_rho_v = clips.visual_reconstruction, others.visual_reconstruction
    return Losses(
        {
            "reconstruction": squared_error(rho_v, text_embedding)
            + squared_error(rho_a, text_embedding)
            + squared_error(rho_w, text_embedding),
            "cross_triplet": triplet(rho_w, rho_v, other_rho_v, margin)
            + triplet(rho_w, rho_a, other_rho_a, margin),
            "text_triplet": triplet(w, a, other_a, margin)
            + triplet(w, v, other_v, margin)
            + triplet(a, w, other_w, margin)
            + triplet(v, w, other_w, margin),
            "composite_triplet": triplet(a, w, other_a, margin)
            + triplet(v, w, other_v, margin)
            + triplet(w, a, other_w, margin)
            + triplet(w, v, other_w, margin),
            "regularisation": squared_error(clips.decoded_visual_encoding, clips.visual_encoding)
            + squared_error(clips.decoded_audio_encoding, clips.audio_encoding)
            + squared_error(v, w)
            + squared_error(a, w),
        }
    )


avca_objective = triplet_objective(avca_losses)
