"""What a system is: the protocol of its model, its inputs, its entry in the registry.

Owns what everything above the systems may know of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Protocol, runtime_checkable

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import Modality
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.settings.experiment import TEXT, Experiment, text_settings
from tcaf.settings.fidelity import AudioScaling, VisualScaling
from tcaf.settings.sections import TextSettings
from tcaf.settings.validation import Count, settings
from tcaf.systems.optimisers import NewOptimiser, new_optimiser
from tcaf.systems.stages import (
    ClosedFormStage,
    DescentStage,
    NewAuxiliaryFit,
    NewFit,
    NewStartFit,
    Objective,
    Stage,
    TrainingFreeStage,
)
from tcaf.systems.training_parts import TrainingPart

FEATURE_SPACES: tuple[Modality, ...] = ("visual", "audio")
"""The text spaces of features as they are, called as the modality that each is the space of."""


@settings("model", kw_only=True)
class FeatureConfig:
    """What every system's configuration holds of features, as data decides.

    Args:
        audio_dim: size of an audio feature.
        visual_dim: size of a visual feature.
        audio_scaling: see `Fidelity`.
        visual_scaling: see `Fidelity`.
        batch_norm_momentum: see `Fidelity`.
    """

    audio_dim: Count
    visual_dim: Count
    audio_scaling: AudioScaling = "divide_255"
    visual_scaling: VisualScaling = "l2"
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1

    def dim(self, modality: Modality) -> int:
        """Returns the feature size of a modality."""
        return self.audio_dim if modality == "audio" else self.visual_dim

    def scaling(self, modality: Modality) -> AudioScaling | VisualScaling:
        """Returns how a modality's features are scaled."""
        return self.audio_scaling if modality == "audio" else self.visual_scaling


@settings("model", kw_only=True)
class InputConfig(FeatureConfig):
    """What a configuration holds besides a system's own settings: inputs, as data decides.

    Args:
        text_dim: size of a class's text embedding.
    """

    text_dim: Count


@settings("model", kw_only=True)
class TextSpacesConfig(FeatureConfig):
    """The same for a system that reads several text spaces.

    Args:
        text_dims: size of a class's text embedding, by space.
    """

    text_dims: Mapping[str, Count]


@dataclass(frozen=True)
class ClassEmbeddings:
    """Class names in the joint space.

    Args:
        class_embedding: theta_w, what clips are compared with.
    """

    class_embedding: Float[Tensor, "num_classes joint_dim"]


@runtime_checkable
class ZeroShotModel(Protocol):
    """What TCaF and every system compared with it offer, besides being a torch module.

    Called on a batch it returns an output with a `video_embedding`, one vector a clip.
    """

    config: FeatureConfig
    modalities: tuple[Modality, ...]

    def embed_text(self, text_embedding: Any) -> ClassEmbeddings:
        """Embeds class names, given their text embeddings (`ClassText.model_input`).

        Args:
            text_embedding: of each class, `Float[Tensor, "num_classes text_dim"]`; a `ClassText` of
                such matrices for a system that reads several text spaces.
        """
        ...

    def scores(
        self, batch: FeatureBatch, class_embedding: Float[Tensor, "num_classes joint_dim"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the distance of each clip from each class."""
        ...

    def eval(self) -> object:
        """Turns dropout off and batch statistics to the running ones."""
        ...


@runtime_checkable
class Reduces(Protocol):
    """A model that needs less of a clip than its tokens, and the same for every regulariser.

    Its `scores` takes what `reduced` returns in place of a batch, so that validation reads each
    clip once.
    """

    def reduced(self, batch: FeatureBatch) -> Any:
        """Returns what is needed of a batch."""
        ...


@runtime_checkable
class ReadsTime(Protocol):
    """A model that says itself how much of a clip's time it reads, after its fit.

    Of others their system says it (`System.reads_time`).
    """

    @property
    def reads_seconds(self) -> bool:
        """Whether it matters when tokens are."""
        ...

    @property
    def reads_many(self) -> bool:
        """Whether it matters if a clip is one token or many with the same mean."""
        ...


@runtime_checkable
class Together(Protocol):
    """A model that can answer many clips at once, each in the light of all others (transductive).

    Its `scores` takes what the model returned of a batch in place of the batch.
    """

    def classes_together(
        self, outputs: Sequence[Any], text_embedding: Any, added: Float[Tensor, " num_classes"]
    ) -> ClassEmbeddings:
        """Embeds class names as `embed_text` does, and as clips suggest.

        Args:
            outputs: what the model returned of all clips, batch by batch.
            text_embedding: see `ZeroShotModel.embed_text`; of all candidates.
            added: what is added to the distance of each class: gamma of seen ones.
        """
        ...


@dataclass(frozen=True)
class System:
    """One entry of the comparison: a model, and how it comes to its weights.

    Exactly one of three: it descends an `objective`, is fitted in closed form by a `fit`, or is
    `training_free`. The rest of the package asks the methods below and knows of no kind.

    Args:
        name: as options and tables' files call it, in the manner of `attention_fusion`.
        title: as printed tables call it.
        config: frozen dataclass that extends `InputConfig`, or `TextSpacesConfig` for several text
            spaces; the model is built from it. Fields that `Fidelity` has too are taken from there,
            those of `ModelSettings` from the section model (if `config` extends it), all others
            from the section options.
        model: builds the network.
        objective: the loss on a batch.
        negatives: whether the objective is given a second batch, clip i of which is of a random
            other class than clip i of the first, for triplet losses.
        optimiser: makes the model's optimiser and schedule; by default they follow from the section
            training (`new_optimiser`).
        fit: all clips of a stage, whole, to a `Fit`: one solution for each epoch's regulariser. If
            it has an attribute `adds_up` that is true, it and those below add up over the ranks of
            a training (`execution.ranks`) what they learn from clips, and each rank reads its share
            of them; otherwise each reads all.
        auxiliary_fit: the same with further labelled videos, in place of what other systems do with
            these: their labels are further classes (`TrainingPart.with_further_classes`).
        start_fit: the same with the classes of a ready model; systems without it refuse data.start.
        training_free: the model is ready as it is built; validation chooses gamma.
        choices: how many models validation chooses from, one an epoch, where that is not for
            `training.epochs` alone to say: of a training-free system whose model can be one of
            several (`Chooses`), or of a fit, of which no more epochs are run than there are.
        spaces: the text spaces that it reads: `text` is the section text, others are those of
            `Experiment.text_spaces`. Of a single one, model, objective and fit are given the matrix
            of text embeddings; of several a `ClassText`, the matrices by space.
        needs_both: it learns from sound beside picture, so that data with one of them is nothing to
            it.
        averages: the model sees nothing but the mean over time of whole clips, so that windows and
            sequences need not be read.
        ignores: settings that it does not read though systems of its kind do, as `model.attention`,
            or whole sections, as `objective`; `systems.reads` has the rules.
        settings: what the system asks of an experiment, as a TOML file would say it
            (`{"training": {"learning_rate": 1e-3}}`); systems of this package keep it in presets.

    Raises:
        TCAFError: an entry that contradicts itself.
    """

    name: str
    title: str
    config: type[FeatureConfig]
    model: Callable[[Any], nn.Module]
    objective: Objective | None = None
    negatives: bool = False
    optimiser: NewOptimiser | None = None
    fit: NewFit | None = None
    auxiliary_fit: NewAuxiliaryFit | None = None
    start_fit: NewStartFit | None = None
    training_free: bool = False
    needs_both: bool = False
    choices: Callable[[Experiment], int] | None = None
    averages: bool = False
    spaces: tuple[str, ...] = (TEXT,)
    ignores: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {
            "objective": self.objective is not None,
            "fit": self.fit is not None,
            "training_free": self.training_free,
        }
        if sum(given.values()) != 1:
            got = " and ".join(name for name, there in given.items() if there) or "none"
            raise TCAFError(
                f"system {self.name!r} needs exactly one of objective, fit and training_free, got "
                f"{got}"
            )
        for name in ("negatives", "optimiser"):
            if getattr(self, name) and self.objective is None:
                raise TCAFError(f"system {self.name!r} has {name} but no objective to go with")
        if self.choices is not None and self.objective is not None:
            raise TCAFError(f"system {self.name!r} has choices but is trained by an objective")
        if not self.name.isidentifier():
            raise TCAFError(f"a system's name is one word like my_model, got {self.name!r}")
        given_spaces: Any = self.spaces
        # Of one word in place of a tuple the letters would be taken for names.
        names = () if isinstance(given_spaces, str) else self.spaces
        if not names or len(set(names)) < len(names) or not all(map(str.isidentifier, names)):
            raise TCAFError(
                f"system {self.name!r}: expected different names of text spaces, such as "
                f"('text', 'clip'), got {self.spaces!r}"
            )
        wanted = InputConfig if len(names) == 1 else TextSpacesConfig
        if not issubclass(self.config, wanted):
            raise TCAFError(
                f"system {self.name!r} reads {len(names)} text space{'s' * (len(names) > 1)}: "
                f"{self.config.__name__} must extend {wanted.__name__}"
            )

    def text_settings(self, experiment: Experiment) -> dict[str, TextSettings]:
        """Returns where class vectors come from, for each text space that a run reads.

        Raises:
            TCAFError: the experiment does not have one of them.
        """
        spaces = self.all_spaces(experiment)
        # What an anchor is compared with need not be named: it is the text of the features' model.
        known: dict[str, TextSettings] = {
            m: TextSettings(source="backbone", modality=m) for m in FEATURE_SPACES if m in spaces
        }
        experiment = replace(experiment, text_spaces={**known, **experiment.text_spaces})
        return {space: text_settings(experiment, space) for space in spaces}

    def all_spaces(self, experiment: Experiment) -> tuple[str, ...]:
        """Returns the text spaces that a run reads: the system's own, then those of anchors."""
        anchors = FEATURE_SPACES if experiment.evaluation.anchored else ()
        return tuple(dict.fromkeys([*self.spaces, *anchors]))

    def reads_time(self, experiment: Experiment) -> bool:
        """Returns whether the model sees more of a clip than the mean over time."""
        return not (self.averages or experiment.data.average)

    def windows(self, experiment: Experiment, *, training: bool) -> Windows:
        """Returns how clips are cut and timed.

        Descent sees a random stretch of each clip, in seconds; a fit the whole clip, timed as at
        evaluation.

        Args:
            experiment: all settings.
            training: for the clips to learn from, not those to be evaluated.
        """
        if self.averages:
            return Windows(average=True)
        fidelity = experiment.fidelity
        whole = Windows(
            times=fidelity.evaluation_times,
            restart=fidelity.window_times == "restart",
            release_audio_len=fidelity.audio_window == "release",
            average=experiment.data.average,
        )
        if not training:
            return replace(whole, window_s=experiment.evaluation.window_s)
        if self.objective is None:
            return whole
        window_s = experiment.training.window_s
        return replace(whole, window_s=window_s, place="random", times="seconds")

    def stage(
        self, model: nn.Module, part: TrainingPart, experiment: Experiment, number: int
    ) -> Stage:
        """Returns a stage of the protocol: how the model learns, from its initial weights.

        Args:
            model: with initial weights, already on its device.
            part: what to learn from, cut as `windows` says.
            experiment: all settings.
            number: 1 or 2; part of every random stream's name.

        Raises:
            TCAFError: there are no clips to learn from.
        """
        part.check(number)
        if self.auxiliary_fit is None:
            part = part.with_further_classes()
        if getattr(self.fit, "adds_up", False):
            part = part.over_ranks()
        if self.objective is not None:
            return DescentStage(
                model,
                part,
                number,
                experiment,
                self.objective,
                (self.optimiser or new_optimiser)(model, experiment),
                negatives=self.negatives,
            )
        if self.fit is not None:
            return ClosedFormStage(model, part, number, experiment, self.fit_of(part))
        return TrainingFreeStage(model, number, experiment)

    def fit_of(self, part: TrainingPart) -> NewFit:
        """Returns the fit to what there is to learn from besides clips."""
        assert self.fit is not None, "asked of systems that are fitted"
        if self.start_fit is not None and part.start is not None:
            return partial(self.start_fit, part.start, part.auxiliary)
        if self.auxiliary_fit is not None and part.auxiliary is not None:
            return partial(self.auxiliary_fit, part.auxiliary)
        return self.fit

    def stage_1_epochs(self, experiment: Experiment) -> int:
        """Returns how long stage 1 lasts: an epoch for each choice where there are no more."""
        if self.training_free:
            return 1 if self.choices is None else self.choices(experiment)
        epochs = experiment.training.epochs
        return epochs if self.choices is None else min(epochs, self.choices(experiment))

    def stage_2_epochs(self, experiment: Experiment, best: int) -> range:
        """Returns the epochs of stage 2: all up to the last, of a fit the chosen regulariser alone.

        Args:
            experiment: all settings.
            best: the epoch that stage 1 chose.
        """
        if self.objective is None:
            return range(best, best + 1)
        release = experiment.fidelity.stage_2_epochs == "release"
        return range(1, 1 + (experiment.training.epochs if release and best == 1 else best))
