"""TCaF: temporal and cross-modal attention for audio-visual zero-shot learning.

Owns the network of Mercea et al., ECCV 2022, Sec. 3.2, from packed features to the joint space,
and nothing of losses, optimisers, files or splits. The paper's symbols:

    A_enc, V_enc   `encoders`          phi      tokens after them
    pos_t, pos_m   `positions`         x^c      `class_token`
    f_Att, g_FF    `layers`            O_proj   `video_projection`
    theta_o        `video_embedding`   rho_o    `video_reconstruction`   D_o  `video_decoder`
    W_proj         `text_projection`   theta_w  `class_embedding`
    D_w            `text_decoder`      rho_w    `text_reconstruction`
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.attention import CrossModalAttention, Group, Packing, Tokens
from tcaf.batches import FeatureBatch
from tcaf.config import AudioScaling, InputConfig, ModelSettings, TCAFConfig, VisualScaling
from tcaf.errors import TCAFError
from tcaf.features import MODALITIES, Modality
from tcaf.gzsl import euclidean_distances


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
class ClassEmbeddings:
    """Class names in the joint space.

    Args:
        class_embedding: theta_w, what clips are compared with.
    """

    class_embedding: Float[Tensor, "num_classes joint_dim"]


@dataclass(frozen=True)
class TextOutput(ClassEmbeddings):
    """Class names in the joint space, and back.

    Args:
        text_reconstruction: rho_w, theta_w decoded to a text embedding.
    """

    text_reconstruction: Float[Tensor, "num_classes text_dim"]


def used_modalities(settings: ModelSettings) -> tuple[Modality, ...]:
    """Returns the modalities that a model reads (Table 4)."""
    return tuple(m for m in MODALITIES if settings.modalities in ("both", m))


class Block(nn.Module):
    """Linear, batch norm over real rows, ReLU, dropout (one f with what follows it, Eq. 1).

    Args:
        in_dim: size of an input row.
        out_dim: size of an output row.
        dropout: rate.
        momentum: weight of a batch in the running statistics.
    """

    def __init__(self, in_dim: int, out_dim: int, dropout: float, momentum: float) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        self.norm = nn.BatchNorm1d(out_dim, momentum=momentum)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Float[Tensor, "rows in_dim"]) -> Float[Tensor, "rows out_dim"]:
        """Maps each row.

        Raises:
            TCAFError: in training, fewer than two rows: they have no batch statistics.
        """
        if not len(rows):
            # A batch in which no clip has this modality: there is nothing to take statistics of.
            return rows.new_zeros(0, self.linear.out_features)
        if self.training and len(rows) == 1:
            raise TCAFError(
                "a training batch left a single sample in a batch norm, which has no statistics; "
                "use a larger batch_size, at least two classes, and clips with more than one token"
            )
        hidden: Tensor = self.dropout(F.relu(self.norm(self.linear(rows))))
        return hidden


def scaled_tokens(
    tokens: Float[Tensor, "total dim"],
    scaling: AudioScaling | VisualScaling,
    packing: Packing,
) -> Float[Tensor, "total dim"]:
    """Scales input features as `Fidelity.audio_scaling` and `Fidelity.visual_scaling` say."""
    if scaling == "divide_255":
        return tokens / 255
    if scaling == "l2":
        return F.normalize(tokens, dim=1)
    if scaling == "l2_over_time":
        # The same floor as torch's `normalize`: a feature that is always 0 stays 0.
        norms = packing.sum(tokens.square()).sqrt().clamp_min(1e-12)
        return tokens / norms[packing.clip_of]
    return tokens


def averaged(
    batch: FeatureBatch, modality: Modality, scaling: AudioScaling | VisualScaling
) -> Float[Tensor, "batch dim"]:
    """Returns each clip's mean token, scaled; 0 for a clip without this modality.

    What the methods before TCaF see of a clip.
    """
    tokens = batch.tokens(modality)
    lens = batch.lens(modality)
    total = Packing(lens, tokens.device).sum(tokens)
    mean = total / lens.clamp_min(1).to(total.device, total.dtype)[:, None]
    return scaled_tokens(mean, scaling, Packing(torch.ones_like(lens), tokens.device))


class PositionEncoder(nn.Module):
    """Adds time and modality to tokens (Eq. 2).

    Time in seconds becomes sines and cosines of fixed random frequencies (Tancik et al. 2020; the
    release writes the time twice and draws a 2 x d_pos/2 matrix, whose rows are kept apart here so
    that its numbers carry over), then a learnt map. A learnt vector per modality is added, the sum
    is concatenated to the token and mapped back to its size.

    Args:
        config: sizes, scale, dropout.
    """

    frequencies: Float[Tensor, "2 half_position"]

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__()
        frequencies = config.fourier_scale * torch.randn(2, config.position_dim // 2)
        self.register_buffer("frequencies", frequencies)
        self.time = nn.Linear(config.position_dim, config.position_dim)
        self.modality = nn.ParameterDict(
            {m: nn.Parameter(torch.randn(config.position_dim)) for m in used_modalities(config)}
        )
        self.out = nn.ModuleDict(
            {
                m: nn.Linear(config.token_dim + config.position_dim, config.token_dim)
                for m in used_modalities(config)
            }
        )
        self.dropout = nn.Dropout(config.dropout_position)

    def forward(
        self,
        tokens: Float[Tensor, "total token_dim"],
        times: Float[Tensor, " total"],
        modality: Modality,
    ) -> Float[Tensor, "total token_dim"]:
        """Returns position-aware tokens a^p or v^p."""
        phase = 2 * math.pi * repeat(times, "total -> total two", two=2) @ self.frequencies
        fourier = torch.cat([phase.sin(), phase.cos()], dim=1)
        position = self.time(fourier) + self.modality[modality]
        aware: Tensor = self.dropout(self.out[modality](torch.cat([tokens, position], dim=1)))
        return aware


def feed_forward(config: TCAFConfig, *, norm: bool = False) -> nn.Sequential:
    """Returns g_FF (Eq. 13), with a layer norm of its own before it if asked for."""
    dropout = config.dropout_transformer
    return nn.Sequential(
        *([nn.LayerNorm(config.token_dim)] if norm else []),
        nn.Linear(config.token_dim, config.feed_forward_dim),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(config.feed_forward_dim, config.token_dim),
        nn.Dropout(dropout),
    )


class Layer(nn.Module):
    """One audio-visual transformer layer: attention, then feed-forward, each with a residual.

    Eq. 3, 4, 9 and 13.

    Args:
        config: sizes, pattern, dropout, and whether both halves share their layer norm.
    """

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.token_dim)
        self.attention = CrossModalAttention(
            config.token_dim,
            config.num_heads,
            config.head_dim,
            config.attention,
            config.dropout_transformer,
        )
        if config.layer_norm == "separate":
            self.feed_forward_norm: nn.LayerNorm | None = nn.LayerNorm(config.token_dim)
        else:
            self.feed_forward_norm = None
        self.feed_forward = feed_forward(config)

    def forward(
        self, tokens: Tokens, packings: dict[Group, Packing], queries: tuple[Group, ...]
    ) -> Tokens:
        """Returns the new tokens of the groups in `queries`."""
        groups = tuple(tokens)
        widths = [len(tokens[group]) for group in groups]
        normed = self.attention_norm(torch.cat([tokens[group] for group in groups]))
        by_group = dict(zip(groups, normed.split(widths), strict=True))
        attended = self.attention(by_group, packings, queries)
        joined = torch.cat([tokens[group] + attended[group] for group in queries])
        norm = self.feed_forward_norm or self.attention_norm
        joined = joined + self.feed_forward(norm(joined))
        return dict(zip(queries, joined.split([len(tokens[g]) for g in queries]), strict=True))


def check_dims(
    batch: FeatureBatch, config: InputConfig, modalities: tuple[Modality, ...] = MODALITIES
) -> None:
    """Checks that a batch has the features that a model was built for.

    Raises:
        TCAFError: features of another size, or no clip at all.
    """
    for modality in modalities:
        wanted, got = config.dim(modality), batch.tokens(modality).shape[1]
        if got != wanted:
            raise TCAFError(f"expected {modality} features of size {wanted}, got {got}")
    if not len(batch):
        raise TCAFError("a batch needs at least one clip, got none")


def check_text(text_embedding: Float[Tensor, "num_classes text_dim"], config: InputConfig) -> None:
    """Checks that class text has the size that a model was built for.

    Raises:
        TCAFError: it has another.
    """
    if text_embedding.shape[1] != config.text_dim:
        raise TCAFError(
            f"expected text embeddings of size {config.text_dim}, got {text_embedding.shape[1]}"
        )


class JointSpaceModel(nn.Module):
    """What TCaF shares with systems that differ only in how a clip becomes one vector.

    Encoders of the inputs, the joint space of clips and class names, and the way back to text. A
    subclass says how encoded clips come into the joint space (`embed_video`).

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
                m: nn.Sequential(
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

    def embed_video(self, batch: FeatureBatch) -> Float[Tensor, "batch joint_dim"]:
        """Returns theta_o of each clip of a checked batch."""
        raise NotImplementedError

    def forward(self, batch: FeatureBatch) -> VideoOutput:
        """Embeds clips.

        Raises:
            TCAFError: features of other dimensions than the model's, a clip with no token in any
                modality that the model uses, or a training batch too small for batch norm.
        """
        check_dims(batch, self.config, self.modalities)
        total = torch.stack([batch.lens(modality) for modality in self.modalities]).sum(dim=0)
        if bool((total == 0).any()):
            clip = int((total == 0).nonzero()[0])
            used = " or ".join(self.modalities)
            raise TCAFError(f"clip {clip} of the batch has no {used} token")
        embedding = self.embed_video(batch)
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

    def encoded(
        self, batch: FeatureBatch, modality: Modality, packing: Packing
    ) -> Float[Tensor, "total token_dim"]:
        """Returns phi: the scaled tokens of a modality after its encoder."""
        scaled = scaled_tokens(batch.tokens(modality), self.config.scaling(modality), packing)
        tokens: Tensor = self.encoders[modality](scaled)
        return tokens


class TCAF(JointSpaceModel):
    """The temporal cross-attention framework.

    Args:
        config: sizes and settings; dimensions of the inputs are part of it.
    """

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__(config)
        self.positions = PositionEncoder(config)
        self.class_token = (
            nn.Parameter(torch.randn(config.token_dim)) if config.class_token else None
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.video_projection = self.new_projection()
        self.add_decoders_and_text()

    def embed_video(self, batch: FeatureBatch) -> Float[Tensor, "batch joint_dim"]:
        """Returns theta_o: O_proj of what the transformer makes of each clip."""
        embedding: Tensor = self.video_projection(self._transform(batch))
        return embedding

    def _transform(self, batch: FeatureBatch) -> Float[Tensor, "batch token_dim"]:
        """Runs encoders, positions and transformer; returns c_o, or the mean over output tokens."""
        device = self.positions.frequencies.device
        packings: dict[Group, Packing] = {}
        tokens: Tokens = {}
        if self.class_token is not None:
            packings["class"] = Packing(torch.ones(len(batch), dtype=torch.long), device)
            tokens["class"] = self.class_token.expand(len(batch), -1)
        for modality in self.modalities:
            packings[modality] = Packing(batch.lens(modality), device)
            encoded = self.encoded(batch, modality, packings[modality])
            tokens[modality] = self.positions(encoded, batch.times(modality), modality)
        everything = tuple(tokens)
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            # Nothing reads the last layer's audio and visual tokens where there is a class token.
            only_class = number == last and self.class_token is not None
            tokens = layer(tokens, packings, ("class",) if only_class else everything)
        if self.class_token is not None:
            return tokens["class"]
        total = torch.stack([packings[m].sum(tokens[m]) for m in self.modalities]).sum(dim=0)
        count = torch.stack([batch.lens(m) for m in self.modalities]).sum(dim=0)
        return total / count.to(device, total.dtype)[:, None]
