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
from collections.abc import Mapping

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import Modality
from tcaf.data.filled import FilledPacked
from tcaf.data.packed import Packed, mean_token
from tcaf.settings.experiment import Experiment
from tcaf.systems.attention import CrossModalAttention
from tcaf.systems.attention_map import AttentionMap, attention_map
from tcaf.systems.blocks import Dropout
from tcaf.systems.filled_layout import FilledLayout
from tcaf.systems.joint_space import (
    ClipEncoder,
    JointSpaceModel,
    TCAFConfig,
    feed_forward,
    used_modalities,
)
from tcaf.systems.layout import Group, TokenLayout
from tcaf.systems.losses import Losses, tcaf_losses


def tcaf_objective(
    model: JointSpaceModel,
    batch: FeatureBatch,
    negatives: FeatureBatch | None,
    text_embedding: Float[Tensor, "num_seen text_dim"],
    experiment: Experiment,
) -> Losses:
    """Computes TCaF's loss on a batch (Eq. 15); Attention Fusion and the Perceiver share it.

    Args:
        model: in training mode.
        batch: with labels that index `text_embedding`.
        negatives: not used; other systems' objectives compare with them.
        text_embedding: of the seen classes of the stage.
        experiment: which terms are on, and how faithful to the release they are.
    """
    labels = batch.known_labels
    video = model(batch)
    text = model.embed_text(text_embedding)
    clips = None
    if experiment.fidelity.text_statistics == "clips":
        clips = model.embed_text(text_embedding[labels])
    return tcaf_losses(
        video.video_embedding,
        video.video_reconstruction,
        text.class_embedding,
        text.text_reconstruction,
        text_embedding,
        labels,
        clip_class_embedding=None if clips is None else clips.class_embedding,
        clip_text_reconstruction=None if clips is None else clips.text_reconstruction,
        terms=experiment.objective,
        reduction=experiment.fidelity.squared_error,
    )


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
        self.dropout = Dropout(config.dropout_position)

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
        self,
        rows: Float[Tensor, "rows token_dim"],
        layout: TokenLayout | FilledLayout,
        queries: tuple[Group, ...],
    ) -> Float[Tensor, "query_rows token_dim"]:
        """Returns the new tokens of the groups in `queries`, of all groups' tokens."""
        attended = self.attention(self.attention_norm(rows), layout, queries)
        rows = layout.rows_of(rows, queries) + attended
        norm = self.feed_forward_norm or self.attention_norm
        return rows + self.feed_forward(norm(rows))


class Transformer(ClipEncoder):
    """What TCaF makes of a clip's encoded tokens: one token.

    Args:
        config: sizes and settings; dimensions of the inputs are part of it.
    """

    takes_filled = True

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__(config)
        self.positions = PositionEncoder(config)
        self.class_token = (
            nn.Parameter(torch.randn(config.token_dim)) if config.class_token else None
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))

    def attention_map(self, batch: FeatureBatch) -> AttentionMap:
        """Returns where the model looks in one clip, in evaluation mode.

        Raises:
            TCAFError: the batch holds another number of clips, or does not fit the model.
        """
        attentions = [layer.attention for layer in self.layers if isinstance(layer, Layer)]
        return attention_map(self, attentions, batch)

    def transform(self, batch: FeatureBatch) -> Float[Tensor, "batch token_dim"]:
        """Runs encoders, positions and transformer; returns c_o, or the mean over output tokens."""
        tokens: list[Tensor] = []
        if self.class_token is not None:
            tokens.append(self.class_token.expand(len(batch), -1))
        encoded: dict[Modality, Packed] = {}
        for modality in self.modalities:
            encoded[modality] = packed = self.encoded(batch, modality)
            tokens.append(self.positions(packed.tokens, packed.times, modality))
        rows = torch.cat(tokens)
        layout = self._layout(len(batch), encoded, rows.device)
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            # Nothing reads the last layer's audio and visual tokens where there is a class token.
            only_class = number == last and self.class_token is not None
            rows = layer(rows, layout, ("class",) if only_class else layout.groups)
        if self.class_token is not None:
            return rows
        parts = layout.split(rows)
        return mean_token(*(packed.with_tokens(parts[m]) for m, packed in encoded.items()))

    def _layout(
        self, num_clips: int, encoded: Mapping[Modality, Packed], device: torch.device
    ) -> TokenLayout | FilledLayout:
        class_token = self.class_token is not None
        filled = {m: packed for m, packed in encoded.items() if isinstance(packed, FilledPacked)}
        if filled:
            return FilledLayout(num_clips, filled, device, class_token=class_token)
        lens: dict[Group, Tensor] = {}
        if class_token:
            lens["class"] = torch.ones(num_clips, dtype=torch.long)
        return TokenLayout({**lens, **{m: packed.lens for m, packed in encoded.items()}}, device)


class TCAF(Transformer, JointSpaceModel):
    """The temporal cross-attention framework.

    Args:
        config: sizes and settings; dimensions of the inputs are part of it.
    """

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__(config)
        self.video_projection = self.new_projection()
        self.add_decoders_and_text()

    def embed_video(self, batch: FeatureBatch) -> Float[Tensor, "batch joint_dim"]:
        """Returns theta_o: O_proj of what the transformer makes of each clip."""
        embedding: Tensor = self.video_projection(self.transform(batch))
        return embedding
