"""TextLDA fitted with further labelled videos, each under any number of labels.

Owns how those enter the fit. The classes that are seen and the labels of the further videos are the
*sources*: each has a text, a mean of clips and a number of clips n. A class's mean is predicted
from the sources by regression with a Gaussian kernel k of centred unit texts,

    p(text) = m + k(text)' (K + lambda diag(1 + 10 / n))^(-1) (M - m),    k = exp((cos - 1) / 0.36),

m the mean of the whitened source means M. The scatter within classes is mixed from that of the
classes and that of the further videos around the mean of their rarest frequent label.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.data.batches import FeatureBatch
from tcaf.systems.textlda import READ_OUTS, ReadOut, TextLDA, text_kernel
from tcaf.systems.textlda_fit import (
    Choice,
    Course,
    Moments,
    Scatter,
    TextLDAFit,
    read_moments,
    share_moments,
)
from tcaf.systems.textlda_vectors import ClipVectors
from tcaf.systems.training_parts import AuxiliaryPart

OWN_SHARE = 0.2
"""Share of the classes' own scatter in the one that whitens."""

CLIPS_OF_NOISE = 10.0
"""A source's noise is that of its mean's: 1 + this / its clips."""


def noisy_kernel(
    text: Float[Tensor, "n text_dim"], counts: Float[Tensor, " n"], lambda_: float
) -> Float[Tensor, "n n"]:
    """Returns the kernel of sources with their noise on its diagonal."""
    return text_kernel(text, text) + (lambda_ * (1 + CLIPS_OF_NOISE / counts)).diag()


class _Sums(Moments):
    """Counts and sums alone, of clips that have several labels."""

    def add(self, x: Float[Tensor, "clips dim"], labels: Int[Tensor, " clips"]) -> None:
        """Adds clips."""
        self.counts += torch.bincount(labels, minlength=len(self.counts))
        self.sums.index_add_(0, labels, x.double())


def further_moments(
    further: AuxiliaryPart | None, vectors: ClipVectors, like: Tensor
) -> dict[str, tuple[Moments, Moments]]:
    """Reads videos with labels once.

    Args:
        further: the videos; None stands for none.
        vectors: what turns them into vectors.
        like: says where to compute.

    Returns:
        For each read-out the moments around groups, and the counts and sums of labels.
    """
    number = 0 if further is None else len(further.class_text.model_input)
    around, labels = (
        {name: kind(vectors.dim(read), number, like) for name, read in READ_OUTS.items()}
        for kind in (Moments, _Sums)
    )
    for batch, clip, label in () if further is None else further.batches():
        groups = batch.known_labels
        for name, own, x in read_moments(vectors, batch):
            grouped = groups[own] >= 0
            around[name].add(x[grouped], groups[own][grouped])
            place, here = own.cumsum(dim=0) - 1, own[clip]
            labels[name].add(x[place[clip[here]]], label[here])
    for each in (*around.values(), *labels.values()):
        each.add_up()
    share_moments(vectors, around)
    share_moments(vectors, labels)
    return {name: (around[name], labels[name]) for name in READ_OUTS}


class AuxiliaryScatter(Scatter):
    """What a read-out learns from its clips and from further ones.

    Args:
        moments: of the clips, by class.
        sizes: of the blocks of a vector.
        around: moments of the further clips, by rarest frequent label.
        labels: counts and sums of the further clips, by label.
        label_phi: centred unit text of the labels.
    """

    def __init__(
        self,
        moments: Moments,
        sizes: Sequence[int],
        around: Moments,
        labels: Moments,
        label_phi: Float[Tensor, "num_labels text_dim"],
    ) -> None:
        self.around = around
        super().__init__(moments, sizes)
        # Without further sources text is taken linearly, as by a fit on clips alone.
        self.by_kernel = len(labels.counts) > 0
        there = labels.counts > 0
        self.label_counts = labels.counts[there]
        self.label_means = labels.sums[there] / self.label_counts[:, None]
        self.label_phi = label_phi[there]
        self.solutions: dict[float, Float[Tensor, "num_sources dim"]] = {}

    def within(self, moments: Moments) -> Float[Tensor, "dim dim"]:
        """Returns the mixed scatter; that of the clips alone if no further one has a group."""
        own = super().within(moments)
        if not bool(self.around.counts.any()):
            return own
        return OWN_SHARE * own + (1 - OWN_SHARE) * self.around.within()

    def fill(
        self,
        read_out: ReadOut,
        phi: Float[Tensor, "num_seen text_dim"],
        choice: Choice,
        kappa: float,
    ) -> float:
        """Sets a read-out to the solution of a choice: see `Scatter.fill`."""
        if not self.by_kernel:
            return super().fill(read_out, phi, choice, kappa)
        text = self.source_text(phi)
        return self.predict_from(read_out, text, self.source_map(text, choice), choice, kappa)

    def predict_from(
        self,
        read_out: ReadOut,
        text: Float[Tensor, "num_sources text_dim"],
        source_map: Float[Tensor, "num_sources dim"],
        choice: Choice,
        kappa: float,
    ) -> float:
        """Sets a read-out whose means are predicted from sources, the seen classes first.

        Args:
            read_out: to be set.
            text: centred unit text of the sources.
            source_map: what each of them adds to a mean, before whitening.
            choice: of regularisers.
            kappa: see `fill`.
        """
        whiten = self.whiten(choice.rho)
        source_map = source_map @ whiten
        source_mean = (self.source_means.mean(dim=0) - self.mean) @ whiten
        num_seen = len(self.counts)
        whitened = (self.class_means - self.mean) @ whiten
        predicted = source_mean + text_kernel(text[:num_seen], text) @ source_map
        maps = {
            "source_text": text,
            "source_map": source_map,
            "source_mean": source_mean,
        }
        return self.keep(read_out, whiten, text[:num_seen], whitened, predicted, kappa, maps)

    @property
    def source_means(self) -> Float[Tensor, "num_sources dim"]:
        """The means of classes and labels."""
        return torch.cat([self.class_means, self.label_means])

    def source_text(
        self, phi: Float[Tensor, "num_seen text_dim"]
    ) -> Float[Tensor, "num_sources text_dim"]:
        """Returns the centred unit text of the sources, classes first."""
        return torch.cat([phi[self.own], self.label_phi])

    def source_map(
        self, text: Float[Tensor, "num_sources text_dim"], choice: Choice
    ) -> Float[Tensor, "num_sources dim"]:
        """Returns what each source adds to a mean, before whitening, by the kernel of its text.

        Whitening is linear: it is put behind the solution, which all shrinkages share.
        """
        if choice.lambda_ not in self.solutions:
            means, counts = self.source_means, torch.cat([self.counts, self.label_counts])
            kernel = noisy_kernel(text, counts, choice.lambda_)
            self.solutions[choice.lambda_] = torch.linalg.solve(kernel, means - means.mean(dim=0))
        return self.solutions[choice.lambda_]


class AuxiliaryFit(TextLDAFit):
    """All clips of a stage and all further ones reduced to moments: see `TextLDAFit`.

    Args:
        auxiliary: the further videos; None stands for none.
        model: whose weights are set.
        batches: all clips with labels, each time anew.
        text_embedding: of the seen classes, by label.
    """

    def __init__(
        self,
        auxiliary: AuxiliaryPart | None,
        model: TextLDA,
        batches: Iterable[FeatureBatch],
        text_embedding: Float[Tensor, "num_seen text_dim"],
    ) -> None:
        self.auxiliary = auxiliary
        text = text_embedding[:0] if auxiliary is None else auxiliary.class_text.model_input
        self.label_text = text.double()
        super().__init__(model, batches, text_embedding)

    def source_text(
        self, text: Float[Tensor, "num_seen text_dim"]
    ) -> Float[Tensor, "num_sources text_dim"]:
        """Returns the text of classes and labels."""
        return torch.cat([text, self.label_text])

    def scatter(self, name: str, vectors: ClipVectors, moments: Moments) -> Scatter:
        """Returns what a read-out learns from its clips and the further ones."""
        around, labels = self.further[name]
        phi = F.normalize(self.label_text - self.text_mean, dim=1)
        sizes = [*vectors.sizes(READ_OUTS[name]).values()]
        return AuxiliaryScatter(moments, sizes, around, labels, phi)

    def _read_outs(self, vectors: ClipVectors, course: Course | None) -> dict[str, Scatter]:
        self.further = further_moments(self.auxiliary, vectors, self.label_text)
        return super()._read_outs(vectors, course)
