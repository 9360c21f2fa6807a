"""What a system is: the protocol of its model, its inputs, its entry in the registry.

Owns what everything above the systems may know of them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, runtime_checkable

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import Modality
from tcaf.errors import TCAFError
from tcaf.settings.experiment import Experiment
from tcaf.settings.fidelity import AudioScaling, VisualScaling
from tcaf.settings.validation import Count, settings
from tcaf.systems.losses import Losses


@settings("model", kw_only=True)
class InputConfig:
    """What every system's configuration holds besides its own settings: inputs, as data decides.

    Args:
        audio_dim: size of an audio feature.
        visual_dim: size of a visual feature.
        text_dim: size of a class's text embedding.
        audio_scaling: see `Fidelity`.
        visual_scaling: see `Fidelity`.
        batch_norm_momentum: see `Fidelity`.
    """

    audio_dim: Count
    visual_dim: Count
    text_dim: Count
    audio_scaling: AudioScaling = "divide_255"
    visual_scaling: VisualScaling = "l2"
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1

    def dim(self, modality: Modality) -> int:
        """Returns the feature size of a modality."""
        return self.audio_dim if modality == "audio" else self.visual_dim

    def scaling(self, modality: Modality) -> AudioScaling | VisualScaling:
        """Returns how a modality's features are scaled."""
        return self.audio_scaling if modality == "audio" else self.visual_scaling


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

    config: InputConfig
    modalities: tuple[Modality, ...]

    def embed_text(self, text_embedding: Float[Tensor, "num_classes text_dim"]) -> ClassEmbeddings:
        """Embeds class names, given their text embeddings."""
        ...

    def scores(
        self, batch: FeatureBatch, class_embedding: Float[Tensor, "num_classes joint_dim"]
    ) -> Float[Tensor, "batch num_classes"]:
        """Returns the distance of each clip from each class."""
        ...

    def eval(self) -> object:
        """Turns dropout off and batch statistics to the running ones."""
        ...


Objective = Callable[
    [Any, FeatureBatch, Any, Float[Tensor, "num_seen text_dim"], Experiment], Losses
]
"""(model, batch, negatives, text_embedding, experiment) to `Losses`, as `tcaf_objective`."""


class Fit(Protocol):
    """A closed-form solution for each epoch's regulariser."""

    def solve(self, epoch: int) -> dict[str, float]:
        """Sets the model's weights; returns what an epoch's record shows, `loss` among it."""
        ...


@dataclass(frozen=True)
class System:
    """One entry of the comparison.

    Args:
        name: as options and tables' files call it, in the manner of `attention_fusion`.
        title: as printed tables call it.
        config: frozen dataclass that extends `InputConfig`; the model is built from it. Fields that
            `Fidelity` has too are taken from there, those of `ModelSettings` from the section
            model (if `config` extends it), all others from the section options.
        model: builds the network.
        objective: the loss on a batch; None for a system with a `fit`.
        negatives: whether the objective is given a second batch, clip i of which is of a random
            other class than clip i of the first, for triplet losses.
        fit: all clips of a stage, averaged over time, to a `Fit`; None for a system with an
            objective.
        averages: the model sees nothing but the mean over time of whole clips, so that windows and
            sequences need not be read.
        settings: what the system asks of an experiment, as a TOML file would say it
            (`{"training": {"learning_rate": 1e-3}}`); systems of this package keep it in presets.
    """

    name: str
    title: str
    config: type[InputConfig]
    model: Callable[[Any], nn.Module]
    objective: Objective | None = None
    negatives: bool = False
    fit: Callable[[Any, Iterable[FeatureBatch], Tensor], Fit] | None = None
    averages: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.objective is None) == (self.fit is None):
            raise TCAFError(f"system {self.name!r} needs either an objective or a fit")
        if self.fit is not None and not self.averages:
            raise TCAFError(f"system {self.name!r}: a fit sees averages; set averages=True")
        if not self.name.isidentifier():
            raise TCAFError(f"a system's name is one word like my_model, got {self.name!r}")
