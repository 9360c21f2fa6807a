"""Parts that several systems are built from: blocks, scaling of inputs, distances, checks."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.settings.fidelity import AudioScaling, VisualScaling
from tcaf.systems.interface import FeatureConfig, InputConfig
from tcaf.systems.over_ranks import SINGLE_ROW, RankBatchNorm, keep_statistics, normalised

DROPOUT_STEPS = 1 << 16
"""Of a probability of dropout: 16 random bits decide on an element."""


class Dropout(nn.Dropout):
    """Sets elements to 0 at random in training, and scales the others to the same mean.

    On a CPU torch's own takes ten times as long: it draws an element at a time. Here one draw of 64
    bits, from torch's global stream too, decides on four elements, so that the rate is one of
    65,536 steps.

    Args:
        p: the rate.
    """

    def forward(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns the values, in training without some of them."""
        steps = round(self.p * DROPOUT_STEPS)
        if not self.training or not steps:
            return values
        if values.device.type != "cpu" or steps == DROPOUT_STEPS:
            return F.dropout(values, self.p)
        words = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: values.numel()].view(values.shape)
        kept = torch.ge(bits, steps - DROPOUT_STEPS // 2, out=torch.empty_like(values))
        return values * kept.mul_(DROPOUT_STEPS / (DROPOUT_STEPS - steps))


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
        self.norm: nn.BatchNorm1d | RankBatchNorm = nn.BatchNorm1d(out_dim, momentum=momentum)
        self.dropout = Dropout(dropout)

    def forward(
        self, rows: Float[Tensor, "rows in_dim"], real: Bool[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "rows out_dim"]:
        """Maps each row.

        Args:
            rows: to map.
            real: which of them belong to clips, where not all do: at least two.

        Raises:
            TCAFError: in training, fewer than two rows: they have no batch statistics.
        """
        if not self.training:
            real = None  # rows are by themselves
        # Of several ranks all take part in the statistics, and count the rows of all.
        if real is None and not (self.training and isinstance(self.norm, RankBatchNorm)):
            if not rows.shape[0]:  # and not its length, a constant to a trace
                # A batch in which no clip has this modality has nothing to take statistics of.
                return rows.new_zeros(0, self.linear.out_features)
            if self.training and len(rows) == 1:
                raise TCAFError(SINGLE_ROW)
        rows = self.linear(rows)
        if real is None:
            normed = self.norm(rows)
        else:
            assert isinstance(self.norm, nn.BatchNorm1d), "one process alone fills batches up"
            normed = batch_norm_over(self.norm, rows, real)
        hidden: Tensor = self.dropout(F.relu(normed))
        return hidden


class Blocks(nn.Sequential):
    """Blocks one after another, over rows of which some may belong to no clip."""

    def forward(
        self, rows: Float[Tensor, "rows in_dim"], real: Bool[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "rows out_dim"]:
        """Maps each row; see `Block.forward`."""
        for block in self:
            rows = block(rows, real)
        return rows


def batch_norm_over(
    norm: nn.BatchNorm1d, rows: Float[Tensor, "rows dim"], real: Bool[Tensor, " rows"]
) -> Float[Tensor, "rows dim"]:
    """Normalises rows in training by the statistics of some of them, which it keeps as torch does.

    Args:
        norm: in training.
        rows: to normalise.
        real: whose statistics are taken: at least two, which nobody looks at.
    """
    values, weights = rows.to(norm.weight.dtype), real.to(norm.weight.dtype)[:, None]
    count = weights.sum()
    mean = (values * weights).sum(dim=0) / count
    var = ((values - mean).square() * weights).sum(dim=0) / count
    keep_statistics(norm, count, mean.detach(), var.detach())
    return normalised(norm, values, mean, var).to(rows.dtype)


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
