"""The systems that can be trained and compared: TCaF, its baselines, and your own.

Owns the registry, the one place that joins a name to a model, its settings and its training
objective; and TCaF's objective on a batch. Everything above (training, protocol, runs, tables)
knows systems through it alone.

A system is a module that maps a `FeatureBatch` to an output with a `video_embedding`, class text to
`ClassEmbeddings` (`embed_text`) and both to distances (`scores`), and either an objective to
descend or a fit in closed form. `docs/your-own-model.md` adds one.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, get_type_hints

from jaxtyping import Float
from torch import Tensor, nn

from tcaf.baselines.attention_fusion import AttentionFusion
from tcaf.baselines.avca import AVCA, AVCAConfig, avca_objective
from tcaf.baselines.avgzslnet import AVGZSLNet, AVGZSLNetConfig, avgzslnet_objective
from tcaf.baselines.cjme import CJME, CJMEConfig, cjme_objective
from tcaf.baselines.perceiver import Perceiver, PerceiverConfig
from tcaf.baselines.ridge import Ridge, RidgeConfig, RidgeFit
from tcaf.batches import FeatureBatch
from tcaf.config import Experiment, InputConfig, ModelSettings, TCAFConfig, check_type
from tcaf.errors import TCAFError, did_you_mean
from tcaf.features import Modality
from tcaf.losses import TCAFLosses, tcaf_losses
from tcaf.model import TCAF, JointSpaceModel, used_modalities

Objective = Callable[[Any, FeatureBatch, Any, Float[Tensor, "num_seen text_dim"], Experiment], Any]
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


SYSTEMS: dict[str, System] = {}
"""All systems by name, in the order in which tables show them."""


PLUGIN_SHA256: dict[str, str] = {}
"""Hash of the file that a system of the user's own comes from, by its name."""


def register(system: System) -> System:
    """Adds a system to the comparison.

    Raises:
        TCAFError: the name is taken.
    """
    if system.name in SYSTEMS:
        raise TCAFError(f"there is a system {system.name!r} already; choose another name")
    SYSTEMS[system.name] = system
    return system


def find_system(name: str) -> System:
    """Returns a system by its name.

    Raises:
        TCAFError: there is none of this name.
    """
    if name not in SYSTEMS:
        hint = did_you_mean(name, SYSTEMS)
        raise TCAFError(f"there is no system {name!r} (there are {', '.join(SYSTEMS)}){hint}")
    return SYSTEMS[name]


def load_plugin(path: Path) -> list[System]:
    """Runs a Python file of the user's, which registers systems, and returns those.

    Raises:
        TCAFError: no such file, it fails, or it registers nothing.
    """
    # A name that no other module has: the file may be called anything.
    spec = importlib.util.spec_from_file_location(f"tcaf_plugin_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise TCAFError(f"expected a Python file that registers a system at {path}, found none")
    before = set(SYSTEMS)
    module = importlib.util.module_from_spec(spec)
    # Annotations in quotes are looked up in the module that has them.
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except TCAFError:
        raise
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise TCAFError(f"{path} cannot be run: {told}") from error
    added = [system for name, system in SYSTEMS.items() if name not in before]
    code = hashlib.sha256(path.read_bytes()).hexdigest()
    PLUGIN_SHA256.update({system.name: code for system in added})
    if not added:
        raise TCAFError(f"{path} registered no system; it must call tcaf.systems.register(...)")
    return added


def configure(
    experiment: Experiment, *, audio_dim: int, visual_dim: int, text_dim: int
) -> InputConfig:
    """Returns the configuration of an experiment's model for data of these dimensions.

    Raises:
        TCAFError: an option that the system does not have, or with a value that it cannot have.
    """
    system = find_system(experiment.system)
    names = [f.name for f in fields(system.config)]
    given: dict[str, Any] = {
        "audio_dim": audio_dim,
        "visual_dim": visual_dim,
        "text_dim": text_dim,
        **{n: value for n, value in vars(experiment.fidelity).items() if n in names},
    }
    if issubclass(system.config, ModelSettings):
        given |= vars(experiment.model)
    if system.averages and given.get("visual_scaling") == "l2_over_time":
        given["visual_scaling"] = "l2"  # averages have no time: every feature would become its sign
    own = [name for name in names if name not in given]
    hints = get_type_hints(system.config)
    for name, value in experiment.options.items():
        if name not in own:
            offered = ", ".join(own) or "none"
            raise TCAFError(
                f"system {system.name!r} has no option {name!r}; it has {offered}"
                f"{did_you_mean(name, own)}"
            )
        check_type(f"options.{name}", value, hints[name])
        given[name] = value
    return system.config(**given)


def modalities(experiment: Experiment) -> tuple[Modality, ...]:
    """Returns the modalities that an experiment's model reads: both, but for parts of TCaF."""
    if issubclass(find_system(experiment.system).config, ModelSettings):
        return used_modalities(experiment.model)
    return used_modalities(ModelSettings())


def tcaf_objective(
    model: JointSpaceModel,
    batch: FeatureBatch,
    negatives: FeatureBatch | None,
    text_embedding: Float[Tensor, "num_seen text_dim"],
    experiment: Experiment,
) -> TCAFLosses:
    """Computes TCaF's loss on a batch (Eq. 15); Attention Fusion and the Perceiver share it.

    Args:
        model: in training mode.
        batch: with labels that index `text_embedding`.
        negatives: not used; other systems' objectives compare with them.
        text_embedding: of the seen classes of the stage.
        experiment: which terms are on, and how faithful to the release they are.
    """
    labels = batch.labels
    assert labels is not None, "training batches carry labels"
    video = model(batch)
    text = model.embed_text(text_embedding)
    clips = None
    if experiment.fidelity.text_statistics == "clips":
        clips = model.embed_text(text_embedding[labels])
    return tcaf_losses(
        video.video_embedding,
        video.video_reconstruction,
        text.class_embedding,
        text.text_reconstruction,
        text_embedding,
        labels,
        clip_class_embedding=None if clips is None else clips.class_embedding,
        clip_text_reconstruction=None if clips is None else clips.text_reconstruction,
        terms=experiment.objective,
        reduction=experiment.fidelity.squared_error,
    )


for _system in (
    System("tcaf", "TCaF", TCAFConfig, TCAF, tcaf_objective),
    System("attention_fusion", "Attention Fusion", TCAFConfig, AttentionFusion, tcaf_objective),
    System("perceiver", "Perceiver", PerceiverConfig, Perceiver, tcaf_objective),
    System("cjme", "CJME", CJMEConfig, CJME, cjme_objective, averages=True, negatives=True),
    System(
        "avgzslnet",
        "AVGZSLNet",
        AVGZSLNetConfig,
        AVGZSLNet,
        avgzslnet_objective,
        averages=True,
        negatives=True,
    ),
    System("avca", "AVCA", AVCAConfig, AVCA, avca_objective, averages=True, negatives=True),
    System("ridge", "Ridge", RidgeConfig, Ridge, fit=RidgeFit, averages=True),
):
    register(_system)
