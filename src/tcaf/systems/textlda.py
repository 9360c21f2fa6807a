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
of `choices`; validation chooses.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import MODALITIES, Modality
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.settings.validation import Count, NotNegative, settings
from tcaf.systems import clip_vectors
from tcaf.systems.blocks import check_dims, check_text
from tcaf.systems.interface import ClassEmbeddings, InputConfig

SHRINKAGES = (0.5, 0.05, 0.1, 0.2, 0.35, 0.65)
"""rho: how far the scatter is taken for a sphere; the default first, as in the others."""

SMOOTHINGS = (1.0, 0.1, 0.3, 3.0)
"""lambda: how little a class's text is trusted to differ from that of others."""

NUM_LAGS = 31
LONGEST_LAG_S = 10.0
NUM_DIRECTIONS = 16
"""Directions along which the course of a modality is followed."""

FREQUENCY = 2.0**0.5
"""Standard deviation of the random features' frequencies."""

CLIPS_OF_BATCH = 32
"""Clips of each batch from which the directions of change are learnt."""

SAME_TEXT = 1e-5
"""What the cosine of two texts may lack of 1 and be one class."""

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
class Choice:
    """What an epoch stands for.

    Args:
        rho: shrinkage of the scatter.
        lambda_: ridge of the regression from text.
        time: whether the blocks of time are read.
    """

    rho: float
    lambda_: float
    time: bool


def choices(config: TextLDAConfig) -> list[Choice]:
    """Returns what validation chooses among, one an epoch; those that read time come first."""
    time = {"chosen": (True, False), "on": (True,), "off": (False,)}[config.time]
    return [Choice(rho, lam, t) for t, rho, lam in product(time, SHRINKAGES, SMOOTHINGS)]


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


class ReadOut(_Sized):
    """From the vectors of clips and the text of classes to one space.

    Empty until it is fitted, and where no clip to learn from has its modalities.
    """

    mean: Float[Tensor, " dim"]
    whiten: Float[Tensor, "dim dim"]
    text_map: Float[Tensor, "text_dim dim"]
    seen_text: Float[Tensor, "num_seen text_dim"]
    seen_shift: Float[Tensor, "num_seen dim"]

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("whiten", torch.zeros(0, 0))
        self.register_buffer("text_map", torch.zeros(text_dim, 0))
        self.register_buffer("seen_text", torch.zeros(0, text_dim))
        self.register_buffer("seen_shift", torch.zeros(0, 0))

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
        self.gram = zero.new_zeros(dim, dim)

    def add(self, x: Float[Tensor, "clips dim"], labels: Int[Tensor, " clips"]) -> None:
        """Adds clips."""
        self.counts += torch.bincount(labels, minlength=len(self.counts))
        self.sums.index_add_(0, labels, x.double())
        # Float32 within a batch of some hundred clips, doubles between batches.
        self.gram += (x.T @ x).double()

    def plus(self, other: "Moments", columns: Int[Tensor, " dim"]) -> "Moments":
        """Returns these of fewer columns, with those of further clips.

        Args:
            other: of the further clips, of `columns` alone.
            columns: which columns.
        """
        found = Moments(0, len(self.counts), self.counts)
        found.counts = self.counts + other.counts
        found.sums = self.sums[:, columns] + other.sums
        found.gram = self.gram[columns][:, columns] + other.gram
        return found


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
        self.changes: list[tuple[Packed, Packed]] = []
        self.scatter = {
            m: torch.zeros(self.config.dim(m), self.config.dim(m), dtype=torch.float64)
            for m in MODALITIES
        }

    @property
    def found(self) -> bool:
        """Whether any clip has a course."""
        return any(
            bool((packed.lens >= clip_vectors.LEAST_TOKENS).any())
            for pair in self.changes
            for packed in pair
        )

    def add(self, batch: FeatureBatch) -> None:
        """Adds clips."""
        self.longest_s = max(self.longest_s, clip_vectors.longest_span(batch.audio, batch.visual))
        changes = []
        for modality in MODALITIES:
            packed = batch.modality(modality)
            apart = clip_vectors.deviations(packed)
            changes.append(packed.with_tokens(clip_vectors.change(packed, apart)[:, None]))
            if int(packed.lens.max()) >= clip_vectors.LEAST_TOKENS:
                every = -(-len(batch) // CLIPS_OF_BATCH)
                some = apart[packed.packing.clip_of % every == 0]
                self.scatter[modality] += (some.T @ some).double().cpu()
        self.changes.append((changes[0], changes[1]))

    def teach(self, vectors: ClipVectors) -> None:
        """Sets the lags, what is usual at them, and the directions."""
        like = vectors.lags
        longest = min(self.longest_s, LONGEST_LAG_S)
        vectors.lags = torch.linspace(-longest, longest, NUM_LAGS).to(like)
        lagged = torch.cat(
            [
                clip_vectors.together(
                    audio, visual, audio.tokens[:, 0], visual.tokens[:, 0], vectors.lags
                )
                for audio, visual in self.changes
            ]
        ).double()
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
        sums = moments.sums[self.own]
        self.class_means = sums / self.counts[:, None]
        self.mean = self.class_means.mean(dim=0)
        within = (moments.gram - self.class_means.T @ sums) / self.counts.sum()
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
        self.usual = self.values[self.values > 1e-9 * self.values[-1]].mean()

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
        spread = (1 - choice.rho) * self.values + choice.rho * self.usual
        whiten = self.scale[:, None] * self.vectors * spread.rsqrt()
        whitened = (self.class_means - self.mean) @ whiten
        text = phi[self.own]
        kernel = text @ text.T
        kernel.diagonal().add_(choice.lambda_)
        text_map = text.T @ torch.linalg.solve(kernel, whitened)
        predicted = text @ text_map
        weight = (self.counts / (self.counts + kappa))[:, None]
        for name, value in {
            "mean": self.mean,
            "whiten": whiten,
            "text_map": text_map,
            "seen_text": text,
            "seen_shift": weight * (whitened - predicted),
        }.items():
            setattr(read_out, name, value.to(read_out.mean.dtype).contiguous())
        return float(1 - F.cosine_similarity(predicted, whitened).mean())


class TextLDAFit:
    """All clips of a stage reduced to second moments, from which every choice is solved at once.

    One pass over the clips, and another where their course in time is read.

    Args:
        model: whose weights are set.
        batches: all clips with labels, each time anew.
        text_embedding: of the seen classes, by label.

    Raises:
        TCAFError: a batch without labels, or clips of fewer than two classes.
    """

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
        self.text_mean = text.mean(dim=0)
        self.phi = F.normalize(text - self.text_mean, dim=1)
        self.course = None if model.config.time == "off" else Course(model.config)
        self.means = model.vectors.without_time()
        self.solved = {False: (self.means, self._read_outs(self.means, self.course))}
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
        if time not in self.solved:
            assert self.course is not None
            vectors = self.means.without_time()
            self.course.teach(vectors)
            self.course.changes.clear()
            self.solved[True] = vectors, self._read_outs(vectors, None)
        self.model.vectors, scatters = self.solved[time]
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
        }

    def _read_outs(self, vectors: ClipVectors, course: Course | None) -> dict[str, Scatter]:
        """Reads all clips once, and returns what each read-out learns from."""
        like = self.phi
        moments = {
            name: Moments(sum(vectors.sizes(read)), len(self.phi), like)
            for name, read in READ_OUTS.items()
        }
        for batch in self.batches:
            labels = batch.known_labels
            audio, visual = ((batch.modality(m).lens > 0).to(like.device) for m in MODALITIES)
            # Clips of both serve the read-outs of one as well, by columns of their moments.
            chosen = {"both": audio & visual, "visual": visual & ~audio, "audio": audio & ~visual}
            for name, own in chosen.items():
                if bool(own.any()):
                    x = torch.cat(vectors.blocks(batch, READ_OUTS[name]), dim=1)
                    moments[name].add(x[own], labels[own])
            if course is not None:
                course.add(batch)
        for modality in MODALITIES:
            shared = vectors.columns(modality)
            moments[modality] = moments["both"].plus(moments[modality], shared)
        counts = torch.stack([own.counts for own in moments.values()]).sum(dim=0)
        if int((counts > 0).sum()) < 2:
            raise TCAFError("textlda learns from clips of two classes or more, got fewer")
        return {
            name: Scatter(own, vectors.sizes(READ_OUTS[name]))
            for name, own in moments.items()
            if int((own.counts > 0).sum()) > 1
        }
