"""TextLDA: discriminant analysis whose class means are predicted from class text.

Owns the product's own system, in closed form. A clip is one vector x (`clip_vectors`). Linear
discriminant analysis whitens it by the scatter within classes, shrunk towards a sphere,

    z(x) = diag((1 - rho) e + rho mean(e))^(-1/2) U' (x - mu),    scatter = U diag(e) U',

so that a clip belongs to the class whose mean m is nearest. Of an unseen class there is no mean: it
is predicted from its text, by kernel regression from the centred unit texts of the seen classes,

    p(text) = phi(text)' Phi' (Phi Phi' + lambda I)^(-1) M,

M the whitened means. A seen class is between both, (n m + kappa p) / (n + kappa), n its clips. The
distance of a clip is 1 - cos(z, class vector).

Read-outs of sound alone and of picture alone are fitted beside that of both, and answer for clips
that lack the other. An epoch is one choice of rho, lambda and of the blocks of time, in the order
of `textlda_fit.choices`; validation chooses.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.settings.validation import Count, NotNegative, settings
from tcaf.systems import clip_vectors
from tcaf.systems.blocks import check_dims, check_text
from tcaf.systems.interface import ClassEmbeddings, InputConfig

NUM_LAGS = 31

FREQUENCY = 2.0**0.5
"""Standard deviation of the random features' frequencies."""

SAME_TEXT = 1e-5
"""What the cosine of two texts may lack of 1 and be one class."""

KERNEL_WIDTH = 0.36
"""How far the cosine of two texts falls until their kernel is 1 / e."""

LATER = ("source_text", "source_map", "source_mean")
"""Weights that files of older models lack, and which are empty there."""

READ_OUTS: Mapping[str, tuple[Modality, ...]] = {
    "both": MODALITIES,
    "visual": ("visual",),
    "audio": ("audio",),
}
"""What each read-out reads. The first that is fitted and whose modalities a clip has answers."""


@settings("options", kw_only=True)
class TextLDAConfig(InputConfig):
    """What `TextLDA` is built from.

    Args:
        kappa: how many clips a class's text is worth beside the clips that it has.
        time: whether a clip's course in time is read beside its means: `chosen` by validation, or
            `on`, or `off`. Clips of one token a modality have none.
        num_random: random features of what changes together.
    """

    kappa: NotNegative = 50.0
    time: Literal["chosen", "on", "off"] = "chosen"
    num_random: Count = 400


@dataclass(frozen=True)
class TextLDAOutput:
    """Clips in the whitened space.

    Args:
        video_embedding: z at unit length in the part of the read-out that answers, 0 in the parts
            of the others.
    """

    video_embedding: Float[Tensor, "batch joint_dim"]


@dataclass(frozen=True)
class Blocks:
    """What is needed of a batch, whatever the regulariser.

    Args:
        clips: how many there are.
        answers: by read-out, the clips that it answers for; read-outs without any are left out.
        blocks: of the vectors of all clips, by read-out.
    """

    clips: int
    answers: Mapping[str, Bool[Tensor, " batch"]]
    blocks: Mapping[str, Sequence[Float[Tensor, "batch _"]]]

    def __len__(self) -> int:
        return self.clips


class _Sized(nn.Module):
    """A module whose buffers take the shapes of what is loaded into them: data decides those."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name, buffer in self._buffers.items():
            if name in LATER:
                state_dict.setdefault(prefix + name, buffer)
            kept = state_dict.get(prefix + name)
            if buffer is not None and kept is not None and kept.ndim == buffer.ndim:
                self._buffers[name] = buffer.new_empty(kept.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class ClipVectors(_Sized):
    """What turns clips into vectors, learnt from clips: lags, their statistics, directions.

    Without lags, vectors are means alone.

    Args:
        config: dimensions, and how many random features.
    """

    lags: Float[Tensor, " num_lags"]
    together_mean: Float[Tensor, " num_lags"]
    together_scale: Float[Tensor, ""]
    frequencies: Float[Tensor, "num_lags num_random"]
    phases: Float[Tensor, " num_random"]

    def __init__(self, config: TextLDAConfig) -> None:
        super().__init__()
        self.register_buffer("lags", torch.zeros(0))
        self.register_buffer("together_mean", torch.zeros(0))
        self.register_buffer("together_scale", torch.zeros(()))
        self.register_buffer("frequencies", FREQUENCY * torch.randn(NUM_LAGS, config.num_random))
        self.register_buffer("phases", 2 * torch.pi * torch.rand(config.num_random))
        for modality in MODALITIES:
            self.register_buffer(f"{modality}_directions", torch.zeros(0, config.dim(modality)))

    def directions(self, modality: Modality) -> Float[Tensor, "num_directions dim"]:
        """Returns the directions along which a modality's course is followed."""
        found: Tensor = getattr(self, f"{modality}_directions")
        return found

    @property
    def reads_time(self) -> bool:
        """Whether vectors hold more than means."""
        return len(self.lags) > 0

    def without_time(self) -> "ClipVectors":
        """Returns a copy whose vectors are means alone; it keeps the random numbers."""
        found = deepcopy(self)
        found.lags = self.lags[:0]
        found.together_mean = self.together_mean[:0]
        for modality in MODALITIES:
            setattr(found, f"{modality}_directions", self.directions(modality)[:0])
        return found

    def sizes(self, modalities: Sequence[Modality]) -> list[int]:
        """Returns the sizes of `blocks`."""
        means = sum(self.directions(modality).shape[1] for modality in modalities)
        if not self.reads_time:
            return [means]
        between = [len(self.lags), len(self.phases)] if len(modalities) > 1 else []
        courses = [
            clip_vectors.POLYNOMIALS * len(self.directions(modality)) for modality in modalities
        ]
        return [means, *between, *courses]

    def columns(self, modality: Modality) -> Int[Tensor, " dim"]:
        """Returns which numbers of the vector of both modalities are those of one alone."""
        audio, visual = (self.directions(each).shape[1] for each in MODALITIES)
        first = 0 if modality == "audio" else audio
        found = [torch.arange(first, first + (audio if modality == "audio" else visual))]
        if self.reads_time:
            sizes = self.sizes(MODALITIES)
            place = -2 if modality == "audio" else -1
            start = sum(sizes[:place])
            found.append(torch.arange(start, start + sizes[place]))
        return torch.cat(found).to(self.lags.device)

    def blocks(
        self, batch: FeatureBatch, modalities: Sequence[Modality]
    ) -> list[Float[Tensor, "batch _"]]:
        """Returns the blocks of the clips' vectors for a read-out: means first.

        Args:
            batch: the clips.
            modalities: that the read-out reads.
        """
        given = [batch.modality(modality) for modality in modalities]
        means = torch.cat([clip_vectors.unit_means(packed) for packed in given], dim=1)
        if not self.reads_time:
            return [means]
        courses = [
            clip_vectors.course(packed, self.directions(modality))
            for packed, modality in zip(given, modalities, strict=True)
        ]
        if len(given) == 1:
            return [means, *courses]
        lagged = self.together(batch)
        seen = (lagged - self.together_mean) * self.together_scale
        shapes = clip_vectors.random_features(seen, self.frequencies, self.phases)
        return [means, lagged, shapes, *courses]

    def together(self, batch: FeatureBatch) -> Float[Tensor, "batch num_lags"]:
        """Returns how sound and picture of each clip change together."""
        audio, visual = (clip_vectors.change(batch.modality(modality)) for modality in MODALITIES)
        return clip_vectors.together(batch.audio, batch.visual, audio, visual, self.lags)


def text_kernel(
    phi: Float[Tensor, "n text_dim"], other: Float[Tensor, "m text_dim"]
) -> Float[Tensor, "n m"]:
    """Returns the Gaussian kernel of unit texts."""
    return torch.exp((phi @ other.T - 1) / KERNEL_WIDTH)


class ReadOut(_Sized):
    """From the vectors of clips and the text of classes to one space.

    Empty until it is fitted, and where no clip to learn from has its modalities. Has sources where
    further labelled videos were learnt from (`textlda_auxiliary`), and is linear in text without.
    """

    mean: Float[Tensor, " dim"]
    whiten: Float[Tensor, "dim dim"]
    text_map: Float[Tensor, "text_dim dim"]
    seen_text: Float[Tensor, "num_seen text_dim"]
    seen_shift: Float[Tensor, "num_seen dim"]
    source_text: Float[Tensor, "num_sources text_dim"]
    source_map: Float[Tensor, "num_sources dim"]
    source_mean: Float[Tensor, " dim"]

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("whiten", torch.zeros(0, 0))
        self.register_buffer("text_map", torch.zeros(text_dim, 0))
        self.register_buffer("seen_text", torch.zeros(0, text_dim))
        self.register_buffer("seen_shift", torch.zeros(0, 0))
        self.register_buffer("source_text", torch.zeros(0, text_dim))
        self.register_buffer("source_map", torch.zeros(0, 0))
        self.register_buffer("source_mean", torch.zeros(0))

    @property
    def dim(self) -> int:
        """Size of its space."""
        return len(self.mean)

    def clips(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Returns z of clips at unit length."""
        return F.normalize((x - self.mean) @ self.whiten, dim=1)

    def classes(self, phi: Float[Tensor, "num_classes text_dim"]) -> Float[Tensor, "classes dim"]:
        """Returns the class vectors at unit length.

        Args:
            phi: centred text at unit length; a seen class is known by it.
        """
        if len(self.source_text):
            vectors = self.source_mean + text_kernel(phi, self.source_text) @ self.source_map
        else:
            vectors = phi @ self.text_map
        if len(self.seen_text):
            alike, nearest = (phi @ self.seen_text.T).max(dim=1)
            own = (alike > 1 - SAME_TEXT)[:, None]
            vectors = vectors + own * self.seen_shift[nearest]
        return F.normalize(vectors, dim=1)


class TextLDA(nn.Module):
    """Discriminant analysis with class means predicted from text.

    Args:
        config: dimensions and options.
    """

    text_mean: Float[Tensor, " text_dim"]

    def __init__(self, config: TextLDAConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = MODALITIES
        self.vectors = ClipVectors(config)
        self.register_buffer("text_mean", torch.zeros(config.text_dim))
        self.read_outs = nn.ModuleDict({name: ReadOut(config.text_dim) for name in READ_OUTS})

    def read_out(self, name: str) -> ReadOut:
        """Returns the read-out of both modalities, or of one."""
        found = self.read_outs[name]
        assert isinstance(found, ReadOut)
        return found

    def reduced(self, batch: FeatureBatch) -> "Blocks":
        """Returns the blocks of each clip's vector, for the read-out that answers it.

        Raises:
            TCAFError: features of other dimensions than the model's.
        """
        check_dims(batch, self.config)
        there = {m: (batch.modality(m).lens > 0).to(self.text_mean.device) for m in MODALITIES}
        left = there["audio"] | there["visual"]
        answers, blocks = {}, {}
        for name, read in READ_OUTS.items():
            own = left & torch.stack([there[modality] for modality in read]).all(dim=0)
            if self.read_out(name).dim and bool(own.any()):
                answers[name], blocks[name] = own, self.vectors.blocks(batch, read)
                left = left & ~own
        return Blocks(len(batch), answers, blocks)

    def forward(self, batch: "FeatureBatch | Blocks") -> TextLDAOutput:
        """Maps clips into the whitened space.

        Args:
            batch: the clips, or what `reduced` returned of them while time was read as well.

        Raises:
            TCAFError: features of other dimensions than the model's.
        """
        found = self.reduced(batch) if isinstance(batch, FeatureBatch) else batch
        parts = []
        for name, read in READ_OUTS.items():
            read_out = self.read_out(name)
            z = self.text_mean.new_zeros(len(found), read_out.dim)
            if name in found.answers:
                # Without time the means are all, which come first.
                blocks = found.blocks[name][: len(self.vectors.sizes(read))]
                own = found.answers[name][:, None]
                z = torch.where(own, read_out.clips(torch.cat(list(blocks), dim=1)), z)
            parts.append(z)
        return TextLDAOutput(torch.cat(parts, dim=1))

    def embed_text(self, text_embedding: Float[Tensor, "num_classes text_dim"]) -> ClassEmbeddings:
        """Returns the vector of each class, side by side for the read-outs.

        Raises:
            TCAFError: text embeddings of another dimension than the model's.
        """
        check_text(text_embedding, self.config)
        phi = F.normalize(text_embedding - self.text_mean, dim=1)
        vectors = [self.read_out(name).classes(phi) for name in READ_OUTS]
        return ClassEmbeddings(torch.cat(vectors, dim=1))

    def scores(
        self,
        batch: "FeatureBatch | Blocks",
        class_embedding: Float[Tensor, "num_classes joint_dim"],
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the cosine distance of each clip from each class, in the answering read-out."""
        return 1 - self(batch).video_embedding @ class_embedding.T
