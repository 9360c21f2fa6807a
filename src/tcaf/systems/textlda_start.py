"""TextLDA fitted beside the classes that a network knows already, so that few clips are enough.

Owns how those enter the fit. A linear softmax classifier is a discriminant analysis: its row w
speaks for the class whose visual mean lies Sigma w from that of all classes, Sigma the scatter
within classes. So the rows of the network's own classifier, centred, are further *sources* beside
those of `textlda_auxiliary`, as if of many clips. Their deviations in the columns of visual means
are

    D = a W Sigma_rho,    a such that they are as long, whitened, as those of the seen classes,

Sigma_rho the shrunk scatter in these columns. What network and clips are centred at differs; each
source counts from the mean of its own kind. All other columns of a vector (sound, time) know the
sources with clips alone. Validation chooses whether the rows are sources at all.
"""

from collections.abc import Iterable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.data.batches import FeatureBatch
from tcaf.systems.textlda import READ_OUTS, ReadOut, TextLDA
from tcaf.systems.textlda_auxiliary import AuxiliaryFit, AuxiliaryScatter, noisy_kernel
from tcaf.systems.textlda_fit import SHRINKAGES, SMOOTHINGS, Choice, Moments, Scatter, kinds
from tcaf.systems.textlda_vectors import ClipVectors, TextLDAConfig
from tcaf.systems.training_parts import AuxiliaryPart, StartPart

CLIPS_OF_ROW = 1000.0
"""Clips that a row counts as: ImageNet has about as many pictures of each class."""


def start_choices(config: TextLDAConfig) -> list[Choice]:
    """Returns what validation chooses among: as many as without a start, of every other rho."""
    tried = product(kinds(config), (True, False), SHRINKAGES[::2], SMOOTHINGS)
    return [
        Choice(rho, lambda_, time, spread, start) for (time, spread), start, rho, lambda_ in tried
    ]


class StartScatter(AuxiliaryScatter):
    """What a read-out of pictures learns from its clips and from a network's classifier.

    Args:
        moments: of the clips, by class.
        sizes: of the blocks of a vector.
        around: moments of further clips, by rarest frequent label.
        labels: counts and sums of further clips, by label.
        label_phi: centred unit text of the labels.
        rows: of the classifier, centred.
        row_phi: centred unit text of its classes.
        columns: of a vector, which hold the visual means.
    """

    def __init__(
        self,
        moments: Moments,
        sizes: Sequence[int],
        around: Moments,
        labels: Moments,
        label_phi: Float[Tensor, "num_labels text_dim"],
        rows: Float[Tensor, "num_rows visual_dim"],
        row_phi: Float[Tensor, "num_rows text_dim"],
        columns: Int[Tensor, " visual_dim"],
    ) -> None:
        super().__init__(moments, sizes, around, labels, label_phi)
        self.rows = rows
        self.row_phi = row_phi
        self.columns = columns
        self.joint: dict[float, Float[Tensor, "num_sources twice_visual_dim"]] = {}
        self.by_row: dict[float, Float[Tensor, "visual_dim visual_dim"]] = {}

    def fill(
        self,
        read_out: ReadOut,
        phi: Float[Tensor, "num_seen text_dim"],
        choice: Choice,
        kappa: float,
    ) -> float:
        """Sets a read-out to the solution of a choice: see `Scatter.fill`."""
        if not choice.start:
            return super().fill(read_out, phi, choice, kappa)
        text = torch.cat([self.source_text(phi), self.row_phi])
        return self.predict_from(read_out, text, self.joint_map(text, choice), choice, kappa)

    def joint_map(
        self, text: Float[Tensor, "num_sources text_dim"], choice: Choice
    ) -> Float[Tensor, "num_sources dim"]:
        """Returns what each source adds to a mean, rows last: see `AuxiliaryScatter.source_map`."""
        with_clips = len(text) - len(self.rows)
        own = self.source_map(text[:with_clips], choice)
        from_clips, from_rows = self._of_visual_means(text, choice.lambda_).chunk(2, dim=1)
        found = own.new_zeros(len(text), own.shape[1])
        found[:with_clips] = own
        found[:, self.columns] = from_clips + from_rows @ self.deviations_by_row(choice.rho)
        return found

    def deviations_by_row(self, rho: float) -> Float[Tensor, "visual_dim visual_dim"]:
        """Returns a Sigma_rho, by which a row of the classifier becomes a deviation of means."""
        if rho not in self.by_row:
            self.by_row[rho] = self._deviations_by_row(rho)
        return self.by_row[rho]

    def _deviations_by_row(self, rho: float) -> Float[Tensor, "visual_dim visual_dim"]:
        axes = self.vectors[self.columns]
        spread = (1 - rho) * self.values + rho * self.usual
        sigma = (axes * spread) @ axes.T
        whiten = axes * spread.rsqrt()
        scale = self.scale[self.columns]
        own = (self.class_means - self.mean)[:, self.columns] * scale @ whiten
        theirs = self.rows @ sigma @ whiten
        power = theirs.square().sum(dim=1).mean()
        ratio = own.square().sum(dim=1).mean() / torch.where(power > 0, power, 1)
        # A block without scale has dropped out, and no deviation of it is asked for.
        return ratio.sqrt() * sigma * torch.where(scale > 0, 1 / scale, 0)

    def _of_visual_means(
        self, text: Float[Tensor, "num_sources text_dim"], lambda_: float
    ) -> Float[Tensor, "num_sources twice_visual_dim"]:
        """Returns the regression's solution for means of clips, and for rows as they are.

        Sigma is linear too: it is put behind, so that all shrinkages share the solution.
        """
        if lambda_ not in self.joint:
            means = self.source_means[:, self.columns]
            many = self.counts.new_full((len(self.rows),), CLIPS_OF_ROW)
            counts = torch.cat([self.counts, self.label_counts, many])
            given = torch.block_diag(means - means.mean(dim=0), self.rows)
            self.joint[lambda_] = torch.linalg.solve(noisy_kernel(text, counts, lambda_), given)
        return self.joint[lambda_]


class StartFit(AuxiliaryFit):
    """All clips of a stage beside the classes of a network: see `TextLDAFit`.

    Args:
        start: the network's classes.
        auxiliary: further labelled videos, if there are any.
        model: whose weights are set.
        batches: all clips with labels, each time anew.
        text_embedding: of the seen classes, by label.
    """

    def __init__(
        self,
        start: StartPart,
        auxiliary: AuxiliaryPart | None,
        model: TextLDA,
        batches: Iterable[FeatureBatch],
        text_embedding: Float[Tensor, "num_seen text_dim"],
    ) -> None:
        rows = start.rows.double()
        self.rows = rows - rows.mean(dim=0)
        self.row_text = start.class_text.model_input.double()
        super().__init__(auxiliary, model, batches, text_embedding)
        self.choices = start_choices(model.config)

    def solve(self, epoch: int) -> dict[str, float]:
        """Sets the weights to the solution of the epoch's choice: see `TextLDAFit.solve`."""
        solved = super().solve(epoch)
        return {**solved, "start": float(self.choices[epoch - 1].start)}

    def scatter(self, name: str, vectors: ClipVectors, moments: Moments) -> Scatter:
        """Returns what a read-out learns from its clips and, of pictures, from the network."""
        if "visual" not in READ_OUTS[name]:
            return super().scatter(name, vectors, moments)
        around, labels = self.further[name]
        label_phi, row_phi = (
            F.normalize(text - self.text_mean, dim=1) for text in (self.label_text, self.row_text)
        )
        visual_dim = self.rows.shape[1]
        first = 0 if name == "visual" else self.model.config.audio_dim
        columns = torch.arange(first, first + visual_dim, device=self.rows.device)
        sizes = [*vectors.sizes(READ_OUTS[name]).values()]
        return StartScatter(moments, sizes, around, labels, label_phi, self.rows, row_phi, columns)
