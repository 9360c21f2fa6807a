"""Parts that several systems are built from: blocks, scaling of inputs, distances, checks."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.settings.fidelity import AudioScaling, VisualScaling
from tcaf.systems.interface import FeatureConfig, InputConfig


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
        if not rows.shape[0]:  # and not its length, which a trace would take for a constant
            # A batch in which no clip has this modality: there is nothing to take statistics of.
            return rows.new_zeros(0, self.linear.out_features)
        if self.training and len(rows) == 1:
            raise TCAFError(
                "a training batch left a single sample in a batch norm, which has no statistics; "
                "use a larger batch_size, at least two classes, and clips with more than one token"
            )
        hidden: Tensor = self.dropout(F.relu(self.norm(self.linear(rows))))
        return hidden


def scaled(packed: Packed, scaling: AudioScaling | VisualScaling) -> Float[Tensor, "total dim"]:
    """Scales input features as `Fidelity.audio_scaling` and `Fidelity.visual_scaling` say."""
    tokens = packed.tokens
    if scaling == "divide_255":
        return tokens / 255
    if scaling == "l2":
        return F.normalize(tokens, dim=1)
    if scaling == "l2_over_time":
        # The same floor as torch's `normalize`: a feature that is always 0 stays 0.
        norms = packed.packing.sum(tokens.square()).sqrt().clamp_min(1e-12)
        return tokens / norms[packed.packing.clip_of]
    return tokens


def scaled_mean(
    packed: Packed, scaling: AudioScaling | VisualScaling
) -> Float[Tensor, "batch dim"]:
    """Returns each clip's mean token, scaled; 0 for a clip without any.

    What the methods before TCaF see of a clip.
    """
    mean = packed.mean()
    alone = Packed(mean, torch.ones_like(packed.lens), mean.new_zeros(len(mean)))
    return scaled(alone, scaling)


def check_dims(
    batch: FeatureBatch, config: FeatureConfig, modalities: tuple[Modality, ...] = MODALITIES
) -> None:
    """Checks that a batch has the features that a model was built for.

    Raises:
        TCAFError: features of another size, or no clip at all.
    """
    for modality in modalities:
        wanted, got = config.dim(modality), batch.modality(modality).tokens.shape[1]
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


def euclidean_distances(
    points: Float[Tensor, "num_points dim"], centres: Float[Tensor, "num_centres dim"]
) -> Float[Tensor, "num_points num_centres"]:
    """Returns all Euclidean distances, exact to rounding (no matrix-product shortcut)."""
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
