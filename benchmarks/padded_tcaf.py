"""TCaF as such code is usually written: clips padded to the longest, one masked square a layer.

The yardstick of `train_step.py` and `evaluation.py`, and nothing else. Its weights have the names
of `tcaf.systems.tcaf.TCAF`, so that those of one load into the other. In evaluation mode both give
the same; in training mode for clips of equal length, since batch norm here takes its statistics
over padding too, as the authors' release does.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcaf.systems.joint_space import TCAFConfig

MODALITIES = ("audio", "visual")


class Block(nn.Module):
    """Linear, batch norm, ReLU, dropout, over rows or over padded sequences."""

    def __init__(self, in_dim: int, out_dim: int, dropout: float, momentum: float) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        self.norm = nn.BatchNorm1d(out_dim, momentum=momentum)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps each row."""
        x = self.linear(x)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if x.ndim == 3 else self.norm(x)
        return self.dropout(F.relu(x))


class Positions(nn.Module):
    """Time and modality, added to padded tokens."""

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__()
        dim = config.position_dim
        self.register_buffer("frequencies", torch.zeros(2, dim // 2))
        self.time = nn.Linear(dim, dim)
        self.modality = nn.ParameterDict({m: nn.Parameter(torch.zeros(dim)) for m in MODALITIES})
        joined = config.token_dim + dim
        self.out = nn.ModuleDict({m: nn.Linear(joined, config.token_dim) for m in MODALITIES})
        self.dropout = nn.Dropout(config.dropout_position)

    def forward(self, tokens: Tensor, times: Tensor, modality: str) -> Tensor:
        """Returns position-aware tokens."""
        phase = 2 * math.pi * torch.stack([times, times], dim=2) @ self.frequencies
        fourier = torch.cat([phase.sin(), phase.cos()], dim=2)
        position = self.time(fourier) + self.modality[modality]
        return self.dropout(self.out[modality](torch.cat([tokens, position], dim=2)))


class Attention(nn.Module):
    """Multi-head attention over the whole square, masked before the softmax."""

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.num_heads = config.num_heads
        self.to_qkv = nn.Linear(config.token_dim, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.token_dim)
        self.dropout = nn.Dropout(config.dropout_transformer)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Returns what each token attends to; `mask` is True where a query sees a key."""
        batch, length, _ = x.shape
        query, key, value = (
            part.view(batch, length, self.num_heads, -1).transpose(1, 2)
            for part in self.to_qkv(x).chunk(3, dim=2)
        )
        logits = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        weights = logits.masked_fill(~mask[:, None], -torch.inf).softmax(dim=3)
        return self.dropout(self.to_out((weights @ value).transpose(1, 2).flatten(2)))


class Layer(nn.Module):
    """Attention and feed-forward, each with a residual."""

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__()
        dim, rate = config.token_dim, config.dropout_transformer
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, config.feed_forward_dim),
            nn.GELU(),
            nn.Dropout(rate),
            nn.Linear(config.feed_forward_dim, dim),
            nn.Dropout(rate),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Returns the new tokens."""
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.feed_forward(self.feed_forward_norm(x))


class PaddedTCAF(nn.Module):
    """TCaF with a class token, cross-attention and both modalities, on padded clips."""

    def __init__(self, config: TCAFConfig) -> None:
        super().__init__()
        hidden, momentum = config.encoder_hidden_dim, config.batch_norm_momentum
        rate = config.dropout_encoder

        def two(first: int, middle: int, last: int, rate: float) -> nn.Sequential:
            return nn.Sequential(
                Block(first, middle, rate, momentum), Block(middle, last, rate, momentum)
            )

        self.config = config
        self.encoders = nn.ModuleDict(
            {m: two(config.dim(m), hidden, config.token_dim, rate) for m in MODALITIES}
        )
        self.positions = Positions(config)
        self.class_token = nn.Parameter(torch.zeros(config.token_dim))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        hidden, rate = config.projection_hidden_dim, config.dropout_video_projection
        self.video_projection = two(config.token_dim, hidden, config.joint_dim, rate)
        self.video_decoder = two(config.joint_dim, hidden, config.text_dim, rate)
        rate = config.dropout_text_projection
        self.text_projection = Block(config.text_dim, config.joint_dim, rate, momentum)
        self.text_decoder = Block(config.joint_dim, config.text_dim, rate, momentum)

    def forward(self, clips: dict[str, tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Returns theta_o and rho_o.

        Args:
            clips: by modality the padded features, the times, and which places are real.
        """
        batch = len(clips["audio"][0])
        parts = [self.class_token.expand(batch, 1, -1)]
        for modality in MODALITIES:
            features, times, _ = clips[modality]
            scaling = self.config.scaling(modality)
            if scaling != "none":
                features = (
                    features / 255 if scaling == "divide_255" else F.normalize(features, dim=2)
                )
            parts.append(self.positions(self.encoders[modality](features), times, modality))
        real = [torch.ones(batch, 1, dtype=torch.bool), clips["audio"][2], clips["visual"][2]]
        group = torch.cat([torch.full((part.shape[1],), i) for i, part in enumerate(parts)])
        # The class token sees all and is seen by all; audio sees visual and visual sees audio.
        sees = (group[:, None] != group) | (group == 0)
        mask = sees & torch.cat(real, dim=1)[:, None]
        x = torch.cat(parts, dim=1)
        for layer in self.layers:
            x = layer(x, mask)
        embedding = self.video_projection(x[:, 0])
        return embedding, self.video_decoder(embedding)

    def embed_text(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Returns theta_w and rho_w."""
        embedding = self.text_projection(text)
        return embedding, self.text_decoder(embedding)
