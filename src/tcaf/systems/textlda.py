"""TextLDA: discriminant analysis whose class means are predicted from class text.

Owns the product's own system, in closed form. A clip is one vector x (`textlda_vectors`). Linear
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
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.errors import TCAFError
from tcaf.systems.blocks import check_dims, check_text
from tcaf.systems.interface import ClassEmbeddings
from tcaf.systems.textlda_together import moved
from tcaf.systems.textlda_vectors import ClipVectors, Sized, TextLDAConfig

SAME_TEXT = 1e-5
"""What the cosine of two texts may lack of 1 and be one class."""

KERNEL_WIDTH = 0.36
"""How far the cosine of two texts falls until their kernel is 1 / e."""

READ_OUTS: Mapping[str, tuple[Modality, ...]] = {
    "both": MODALITIES,
    "visual": ("visual",),
    "audio": ("audio",),
}
"""What each read-out reads. The first that is fitted and whose modalities a clip has answers."""


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
        blocks: of the vectors of all clips, by read-out and name; those that the vectors read, and
            others that they may come to.
    """

    clips: int
    answers: Mapping[str, Bool[Tensor, " batch"]]
    blocks: Mapping[str, Mapping[str, Float[Tensor, "batch _"]]]

    def __len__(self) -> int:
        return self.clips


def text_kernel(
    phi: Float[Tensor, "n text_dim"], other: Float[Tensor, "m text_dim"]
) -> Float[Tensor, "n m"]:
    """Returns the Gaussian kernel of unit texts."""
    return torch.exp((phi @ other.T - 1) / KERNEL_WIDTH)


class ReadOut(Sized):
    """From the vectors of clips and the text of classes to one space.

    Empty until it is fitted, and where no clip to learn from has its modalities. Has sources where
    further labelled videos were learnt from (`textlda_auxiliary`), and is linear in text without.
    """

    mean: Float[Tensor, " dim"]
    whiten: Float[Tensor, "dim dim"]
    text_map: Float[Tensor, "text_dim dim"]
    seen_text: Float[Tensor, "num_seen text_dim"]
    seen_shift: Float[Tensor, "num_seen dim"]
    seen_counts: Float[Tensor, " num_seen"]
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
        self.register_buffer("seen_counts", torch.zeros(0))
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
        return F.normalize(vectors + self._of_seen(phi, self.seen_shift), dim=1)

    def counts(self, phi: Float[Tensor, "num_classes text_dim"]) -> Float[Tensor, " num_classes"]:
        """Returns how many clips each class was learnt from, 0 of an unseen one."""
        return self._of_seen(phi, self.seen_counts[:, None])[:, 0]

    def _of_seen(
        self, phi: Float[Tensor, "num_classes text_dim"], values: Float[Tensor, "num_seen n"]
    ) -> Float[Tensor, "num_classes n"]:
        """Returns a row of what is kept of seen classes for each class, 0 for an unseen one."""
        if not len(self.seen_text):
            # Its shape and not its length, which a trace would take for a constant.
            return phi.new_zeros(phi.shape[0], values.shape[1])
        alike, nearest = (phi @ self.seen_text.T).max(dim=1)
        return (alike > 1 - SAME_TEXT)[:, None] * values[nearest]


def _check_fit(model: "TextLDA", _: object) -> None:
    """Refuses weights that are not of one model, or of a release whose vectors held less."""
    for name, read in READ_OUTS.items():
        dim, wanted = model.read_out(name).dim, model.vectors.dim(read)
        if dim not in (0, wanted):
            raise RuntimeError(
                f"the read-out {name!r} takes vectors of {dim} numbers and is given {wanted}; "
                "models of before TextLDA read products of changes are to be trained again"
            )


class TextLDA(nn.Module):
    """Discriminant analysis with class means predicted from text.

    Args:
        config: dimensions and options.
    """

    text_mean: Float[Tensor, " text_dim"]

    def __init__(self, config: TextLDAConfig) -> None:
        super().__init__()
        self.config = config
        self.vectors = ClipVectors(config)
        self.register_buffer("text_mean", torch.zeros(config.text_dim))
        self.read_outs = nn.ModuleDict({name: ReadOut(config.text_dim) for name in READ_OUTS})
        self.register_load_state_dict_post_hook(_check_fit)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that it was fitted on; before that, both."""
        fitted = {m for name, read in READ_OUTS.items() if self.read_out(name).dim for m in read}
        return tuple(m for m in MODALITIES if m in fitted) or MODALITIES

    @property
    def reads_seconds(self) -> bool:
        """Whether it matters when tokens are: not to means and deviations."""
        return self.vectors.reads_time

    @property
    def reads_many(self) -> bool:
        """Whether it matters if a clip is one token or many with the same mean."""
        return self.vectors.reads_time or self.vectors.reads_spread

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
        check_dims(batch, self.config, self.modalities)
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
        for name in READ_OUTS:
            read_out = self.read_out(name)
            z = self.text_mean.new_zeros(len(found), read_out.dim)
            if name in found.answers:
                own = found.answers[name][:, None]
                z = torch.where(own, read_out.clips(self.vectors.vector(found.blocks[name])), z)
            parts.append(z)
        return TextLDAOutput(torch.cat(parts, dim=1))

    def embed_text(self, text_embedding: Float[Tensor, "num_classes text_dim"]) -> ClassEmbeddings:
        """Returns the vector of each class, side by side for the read-outs.

        Raises:
            TCAFError: text embeddings of another dimension than the model's.
        """
        phi = self._phi(text_embedding)
        vectors = [self.read_out(name).classes(phi) for name in READ_OUTS]
        return ClassEmbeddings(torch.cat(vectors, dim=1))

    def _phi(
        self, text_embedding: Float[Tensor, "num_classes text_dim"]
    ) -> Float[Tensor, "num_classes text_dim"]:
        check_text(text_embedding, self.config)
        return F.normalize(text_embedding - self.text_mean, dim=1)

    def classes_together(
        self,
        outputs: Sequence[TextLDAOutput],
        text_embedding: Float[Tensor, "num_classes text_dim"],
        added: Float[Tensor, " num_classes"],
    ) -> ClassEmbeddings:
        """Returns the vectors of classes moved to where clips are (`textlda_together`).

        The clips that a read-out answers move its vectors; where there are none they stay.

        Raises:
            TCAFError: see `embed_text`; a model that does not know how many clips it has learnt
                from.
        """
        phi = self._phi(text_embedding)
        vectors, first = [], 0
        for name in READ_OUTS:
            read_out = self.read_out(name)
            if read_out.dim and not len(read_out.seen_counts):
                raise TCAFError(
                    "the model of a release of before does not know how many clips of each class "
                    "it has learnt from, which clips together need; train it again"
                )
            columns = slice(first, first + read_out.dim)
            clips = [output.video_embedding[:, columns] for output in outputs]
            own = [z if bool((there := z.any(dim=1)).all()) else z[there] for z in clips]
            vectors.append(moved(own, read_out.classes(phi), read_out.counts(phi), added))
            first = columns.stop
        return ClassEmbeddings(torch.cat(vectors, dim=1))

    def scores(
        self,
        batch: "FeatureBatch | Blocks | TextLDAOutput",
        class_embedding: Float[Tensor, "num_classes joint_dim"],
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the cosine distance of each clip from each class, in the answering read-out."""
        output = batch if isinstance(batch, TextLDAOutput) else self(batch)
        return 1 - output.video_embedding @ class_embedding.T
