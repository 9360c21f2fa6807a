"""How TextLDA comes to its weights: one pass over the clips, then every choice at once.

Owns the moments of clips' vectors, the scatter that follows from them, what the course in time is
read along, and the choices of regularisers among which validation decides.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.execution import ranks
from tcaf.settings.experiment import Experiment
from tcaf.systems import clip_vectors
from tcaf.systems.gram import Gram
from tcaf.systems.textlda import READ_OUTS, ReadOut, TextLDA
from tcaf.systems.textlda_vectors import NUM_LAGS, ClipVectors, TextLDAConfig

SHRINKAGES = (0.5, 0.05, 0.1, 0.2, 0.35, 0.65)
"""rho: how far the scatter is taken for a sphere; the default first, as in the others."""

SMOOTHINGS = (1.0, 0.1, 0.3, 3.0)
"""lambda: how little a class's text is trusted to differ from that of others."""

LONGEST_LAG_S = 10.0
NUM_DIRECTIONS = 16
"""Directions along which the course of a modality is followed."""

MAPS = ("text_map", "source_text", "source_map", "source_mean")
"""Weights of a read-out that predict means from text; a solution has some of them."""

CLIPS_OF_BATCH = 32
"""Clips of each batch from which the directions of change are learnt."""


@dataclass(frozen=True)
class Choice:
    """What an epoch stands for.

    Args:
        rho: shrinkage of the scatter.
        lambda_: ridge of the regression from text.
        time: whether the blocks of time are read.
        spread: whether deviations over time are.
        start: whether the classes of a ready model are sources too.
    """

    rho: float
    lambda_: float
    time: bool
    spread: bool = False
    start: bool = False


def choices(config: TextLDAConfig) -> list[Choice]:
    """Returns what validation chooses among, one an epoch; those that read more come first."""
    return [
        Choice(rho, lam, time, spread)
        for (time, spread), rho, lam in product(kinds(config), SHRINKAGES, SMOOTHINGS)
    ]


def num_choices(experiment: Experiment) -> int:
    """Returns how many choices there are with an experiment's options.

    Raises:
        TCAFError: an option has a value that it cannot have.
    """
    options: dict[str, Any] = dict(experiment.options)
    # Sizes of features do not count.
    return len(choices(TextLDAConfig(audio_dim=1, visual_dim=1, text_dim=1, **options)))


def kinds(config: TextLDAConfig) -> list[tuple[bool, bool]]:
    """Returns whether time and whether deviations are read, of which validation may choose."""
    offered = {"chosen": (True, False), "on": (True,), "off": (False,)}
    return list(product(offered[config.time], offered[config.spread]))


class Moments:
    """Counts, class sums and second moments of vectors, gathered batch by batch in doubles.

    Args:
        dim: size of a vector.
        num_classes: how many classes there are.
        like: says where to compute.
    """

    def __init__(self, dim: int, num_classes: int, like: Tensor) -> None:
        zero = like.new_zeros((), dtype=torch.float64)
        self.counts = zero.new_zeros(num_classes)
        self.sums = zero.new_zeros(num_classes, dim)
        self._gram = Gram(dim, like)

    def add(self, x: Float[Tensor, "clips dim"], labels: Int[Tensor, " clips"]) -> None:
        """Adds clips."""
        self.counts += torch.bincount(labels, minlength=len(self.counts))
        self.sums.index_add_(0, labels, x.double())
        self._gram.add(x)

    @property
    def gram(self) -> Float[Tensor, "dim dim"]:
        """Second moments: the sum of x x' over the clips so far."""
        return self._gram.total()

    def add_up(self) -> None:
        """Adds the clips of all other ranks."""
        ranks.add_up(self.counts, self.sums, self.gram)

    def within(self) -> Float[Tensor, "dim dim"]:
        """Returns the scatter of vectors around the mean of their class."""
        own = self.counts > 0
        sums, counts = self.sums[own], self.counts[own]
        return (self.gram - (sums / counts[:, None]).T @ sums) / counts.sum()

    def plus(self, other: "Moments", columns: Int[Tensor, " dim"]) -> "Moments":
        """Returns these of fewer columns, with those of further clips.

        Args:
            other: of the further clips, of `columns` alone.
            columns: which columns.
        """
        found = type(self)(len(columns), len(self.counts), self.counts)
        found.counts += self.counts + other.counts
        found.sums += self.sums[:, columns] + other.sums
        found.gram.add_(self.gram[columns][:, columns] + other.gram)
        return found


def read_moments(
    vectors: ClipVectors, batch: FeatureBatch
) -> Iterator[tuple[str, Bool[Tensor, " batch"], Float[Tensor, "clips dim"]]]:
    """Yields, for each read-out, which clips of a batch are read for it, and their vectors.

    Clips of both modalities are read for both alone; `share_moments` gives the others theirs.
    """
    audio, visual = ((batch.modality(m).lens > 0).to(vectors.lags.device) for m in MODALITIES)
    chosen = {"both": audio & visual, "visual": visual & ~audio, "audio": audio & ~visual}
    for name, own in chosen.items():
        if bool(own.any()):
            x = vectors.vector(vectors.blocks(batch, READ_OUTS[name]))
            yield name, own, x if bool(own.all()) else x[own]


def share_moments(vectors: ClipVectors, moments: dict[str, Moments]) -> None:
    """Adds the clips of both modalities to the read-outs of one, by columns of their moments."""
    for modality in MODALITIES:
        shared = vectors.columns(modality)
        moments[modality] = moments["both"].plus(moments[modality], shared)


@dataclass
class Course:
    """What the course of clips in time is read along, learnt from clips.

    Keeps two numbers for each token, beside what does not grow with the clips.

    Args:
        config: of the model.
    """

    config: TextLDAConfig

    def __post_init__(self) -> None:
        self.longest_s = 0.0
        self.most_tokens = 0
        self.changes: list[tuple[Packed, Packed]] = []
        self.scatter = {
            m: torch.zeros(self.config.dim(m), self.config.dim(m), dtype=torch.float64)
            for m in MODALITIES
        }

    @property
    def found(self) -> bool:
        """Whether any clip has a course, and time goes on in one."""
        return self.longest_s > 0 and self.most_tokens >= clip_vectors.LEAST_TOKENS

    def add_up(self) -> None:
        """Adds the clips of all other ranks, but for the changes, which `teach` joins."""
        self.longest_s = max(ranks.of_all(self.longest_s))
        self.most_tokens = round(max(ranks.of_all(self.most_tokens)))
        ranks.add_up(*self.scatter.values())

    def add(self, batch: FeatureBatch) -> None:
        """Adds clips."""
        self.longest_s = max(self.longest_s, clip_vectors.longest_span(batch.audio, batch.visual))
        changes = []
        for modality in MODALITIES:
            packed = batch.modality(modality)
            longest = int(packed.lens.max())
            self.most_tokens = max(self.most_tokens, longest)
            if longest < clip_vectors.LEAST_TOKENS:
                changes.append(packed.with_tokens(packed.tokens.new_zeros(len(packed.tokens), 1)))
            else:
                apart = clip_vectors.deviations(packed)
                changes.append(packed.with_tokens(clip_vectors.change(packed, apart)[:, None]))
                every = -(-len(batch) // CLIPS_OF_BATCH)
                some = apart[packed.packing.clip_of % every == 0]
                self.scatter[modality] += (some.T @ some).double().cpu()
        self.changes.append((changes[0], changes[1]))

    def teach(self, vectors: ClipVectors) -> None:
        """Sets the lags, what is usual at them, and the directions."""
        like = vectors.lags
        longest = min(self.longest_s, LONGEST_LAG_S)
        vectors.lags = torch.linspace(-longest, longest, NUM_LAGS).to(like)
        each = [
            clip_vectors.together(
                audio, visual, audio.tokens[:, 0], visual.tokens[:, 0], vectors.lags
            )
            for audio, visual in self.changes
        ]
        # A rank may have no batch of its own.
        lagged = ranks.gathered(torch.cat([like.new_zeros(0, NUM_LAGS), *each]).double())
        vectors.together_mean = lagged.mean(dim=0).to(like)
        spread = lagged.var(dim=0, unbiased=False).sum().sqrt()
        vectors.together_scale = (1 / spread if spread > 0 else spread).to(like)
        for modality, scatter in self.scatter.items():
            leading = torch.linalg.eigh(scatter).eigenvectors[:, -NUM_DIRECTIONS:]
            setattr(vectors, f"{modality}_directions", leading.T.flip(0).contiguous().to(like))


class Scatter:
    """Class means of a read-out's vectors and their scatter within classes, for every choice.

    Args:
        moments: of the clips.
        sizes: of the blocks of a vector, each of which is brought to one scale.
    """

    def __init__(self, moments: Moments, sizes: Sequence[int]) -> None:
        self.own = moments.counts > 0
        self.counts = moments.counts[self.own]
        self.class_means = moments.sums[self.own] / self.counts[:, None]
        self.mean = self.class_means.mean(dim=0)
        within = self.within(moments)
        power = within.diagonal().clamp_min(0)
        total = torch.stack([block.sum() for block in power.split(list(sizes))])
        size = torch.stack([b.sum() for b in moments.gram.diagonal().split(list(sizes))])
        # A block that does not vary within classes has no scale: it drops out.
        live = total > 1e-9 * size / self.counts.sum()
        scale = torch.where(live, total, 1).rsqrt() * live
        self.scale = scale.repeat_interleave(torch.tensor(list(sizes), device=scale.device))
        scaled = self.scale[:, None] * within * self.scale
        values, self.vectors = torch.linalg.eigh(scaled)
        self.values = values.clamp_min(0)
        live = self.values[self.values > 1e-9 * self.values[-1]]
        # Where no block varies within classes all have dropped out, and nothing is left to scale.
        self.usual = live.mean() if len(live) else torch.ones_like(self.values[-1])

    def within(self, moments: Moments) -> Float[Tensor, "dim dim"]:
        """Returns the scatter of vectors within classes."""
        return moments.within()

    def whiten(self, rho: float) -> Float[Tensor, "dim dim"]:
        """Returns what takes centred vectors to the whitened space, for a shrinkage."""
        spread = (1 - rho) * self.values + rho * self.usual
        return self.scale[:, None] * self.vectors * spread.rsqrt()

    def fill(
        self,
        read_out: ReadOut,
        phi: Float[Tensor, "num_seen text_dim"],
        choice: Choice,
        kappa: float,
    ) -> float:
        """Sets a read-out to the solution of a choice.

        Args:
            read_out: to be set.
            phi: centred unit text of the seen classes.
            choice: of regularisers.
            kappa: clips that a class's text is worth.

        Returns:
            The mean cosine distance of seen classes' predicted means from their own.
        """
        whiten = self.whiten(choice.rho)
        whitened = (self.class_means - self.mean) @ whiten
        text = phi[self.own]
        kernel = text @ text.T
        kernel.diagonal().add_(choice.lambda_)
        text_map = text.T @ torch.linalg.solve(kernel, whitened)
        predicted = text @ text_map
        return self.keep(read_out, whiten, text, whitened, predicted, kappa, {"text_map": text_map})

    def keep(
        self,
        read_out: ReadOut,
        whiten: Float[Tensor, "dim dim"],
        text: Float[Tensor, "num_seen text_dim"],
        whitened: Float[Tensor, "num_seen dim"],
        predicted: Float[Tensor, "num_seen dim"],
        kappa: float,
        maps: Mapping[str, Tensor],
    ) -> float:
        """Sets a read-out's weights; `maps` are those that predict means from text.

        Args:
            read_out: to be set.
            whiten: from `whiten`.
            text: centred unit text of the seen classes that have clips.
            whitened: their means.
            predicted: their means as text predicts them.
            kappa: see `fill`.
            maps: by the name of the weight.

        Returns:
            What `fill` does.
        """
        weight = (self.counts / (self.counts + kappa))[:, None]
        # What another choice has left is no map of this one.
        empty = ReadOut(text.shape[1]).to(text.device)
        for name, value in {
            **{name: getattr(empty, name) for name in MAPS},
            "mean": self.mean,
            "whiten": whiten,
            "seen_text": text,
            "seen_shift": weight * (whitened - predicted),
            "seen_counts": self.counts,
            **maps,
        }.items():
            setattr(read_out, name, value.to(read_out.mean.dtype).contiguous())
        return float(1 - F.cosine_similarity(predicted, whitened).mean())


class TextLDAFit:
    """All clips of a stage reduced to second moments, from which every choice is solved at once.

    One pass over the clips, another where their course in time is read, and as many again where
    deviations are read as well as not.

    Args:
        model: whose weights are set.
        batches: all clips with labels, each time anew.
        text_embedding: of the seen classes, by label.

    Raises:
        TCAFError: a batch without labels, clips of fewer than two classes, or one of each.
    """

    adds_up = True

    def __init__(
        self,
        model: TextLDA,
        batches: Iterable[FeatureBatch],
        text_embedding: Float[Tensor, "num_seen text_dim"],
    ) -> None:
        self.model = model
        self.batches = batches
        self.choices = choices(model.config)
        text = text_embedding.double()
        self.text_mean = self.source_text(text).mean(dim=0)
        self.phi = F.normalize(text - self.text_mean, dim=1)
        self.course = None if model.config.time == "off" else Course(model.config)
        self.vectors = model.vectors
        self.taught: ClipVectors | None = None
        spread = self.choices[0].spread
        self.solved = {(False, spread): self._solvable(spread, self.course)}
        if self.course and not self.course.found:
            self.course = None

    def solve(self, epoch: int) -> dict[str, float]:
        """Sets the weights to the solution of the epoch's choice.

        Returns:
            `loss`, the mean distance of the predicted means of seen classes from their own, and
            what was chosen.

        Raises:
            TCAFError: there are not as many choices.
        """
        if epoch > len(self.choices):
            raise TCAFError(
                f"textlda tries {len(self.choices)} choices, one an epoch; set training.epochs to "
                f"at most as many, got epoch {epoch}"
            )
        choice = self.choices[epoch - 1]
        time = choice.time and self.course is not None
        kind = time, choice.spread
        if kind not in self.solved:
            found = self._read_time(choice.spread) if time else self._solvable(choice.spread, None)
            self.solved[kind] = found
        self.model.vectors, scatters = self.solved[kind]
        self.model.text_mean.copy_(self.text_mean)
        kappa = self.model.config.kappa
        losses = [
            scatter.fill(self.model.read_out(name), self.phi, choice, kappa)
            for name, scatter in scatters.items()
        ]
        return {
            "loss": losses[0],
            "rho": choice.rho,
            "lambda": choice.lambda_,
            "time": float(time),
            **({"spread": float(choice.spread)} if self.model.config.spread != "off" else {}),
        }

    def _solvable(
        self, spread: bool, course: Course | None
    ) -> tuple[ClipVectors, dict[str, Scatter]]:
        """Returns vectors without time, and what read-outs learn from them."""
        vectors = self.vectors.without_time(spread)
        return vectors, self._read_outs(vectors, course)

    def _read_time(self, spread: bool) -> tuple[ClipVectors, dict[str, Scatter]]:
        """Returns vectors with time, and what read-outs learn from them."""
        if self.taught is None:
            assert self.course is not None
            self.taught = self.vectors.without_time(spread)
            self.course.teach(self.taught)
            self.course.changes.clear()
        vectors = self.taught.with_spread(spread)
        return vectors, self._read_outs(vectors, None)

    def source_text(
        self, text: Float[Tensor, "num_seen text_dim"]
    ) -> Float[Tensor, "num_sources text_dim"]:
        """Returns the text whose mean is taken for what all text has in common."""
        return text

    def scatter(self, name: str, vectors: ClipVectors, moments: Moments) -> Scatter:
        """Returns what a read-out learns from the moments of its clips."""
        return Scatter(moments, [*vectors.sizes(READ_OUTS[name]).values()])

    def _read_outs(self, vectors: ClipVectors, course: Course | None) -> dict[str, Scatter]:
        """Reads all clips once, and returns what each read-out learns from."""
        like = self.phi
        moments = {
            name: Moments(vectors.dim(read), len(self.phi), like)
            for name, read in READ_OUTS.items()
        }
        for batch in self.batches:
            labels = batch.known_labels
            for name, own, x in read_moments(vectors, batch):
                moments[name].add(x, labels[own])
            if course is not None:
                course.add(batch)
        for each in moments.values():
            each.add_up()
        if course is not None:
            course.add_up()
        share_moments(vectors, moments)
        # Of one clip a class the scatter is rounding, which must not be taken for one.
        enough = {
            name: own
            for name, own in moments.items()
            if int((own.counts > 0).sum()) > 1 and int(own.counts.max()) > 1
        }
        if not enough:
            raise TCAFError(
                "textlda learns from clips of two classes or more, at least two of one class, got "
                "fewer"
            )
        return {name: self.scatter(name, vectors, own) for name, own in enough.items()}
