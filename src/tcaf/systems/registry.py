"""The systems that can be trained and compared: TCaF, its baselines, and your own.

Owns the registry, the one place that joins a name to a model, its settings and its way to learn.
Everything above (training, protocol, runs, tables) knows systems through it alone.

A system is a module that maps a `FeatureBatch` to an output with a `video_embedding`, class text to
`ClassEmbeddings` (`embed_text`) and both to distances (`scores`); and an objective to descend, a
fit in closed form, or nothing to learn. `docs/your-own-model.md` adds one.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tcaf.data.features import Modality
from tcaf.errors import TCAFError, did_you_mean
from tcaf.plugins import Registry
from tcaf.settings.experiment import Experiment
from tcaf.settings.sections import ModelSettings
from tcaf.settings.validation import check_values
from tcaf.systems.aligned import Aligned, AlignedConfig, num_choices
from tcaf.systems.attention_fusion import AttentionFusion
from tcaf.systems.avca import AVCA, AVCAConfig, avca_objective
from tcaf.systems.avgzslnet import AVGZSLNet, AVGZSLNetConfig, avgzslnet_objective
from tcaf.systems.cjme import CJME, CJMEConfig, cjme_objective
from tcaf.systems.clipclap import ClipClap, ClipClapConfig, clipclap_objective
from tcaf.systems.interface import FEATURE_SPACES, FeatureConfig, System, TextSpacesConfig
from tcaf.systems.joint_space import TCAFConfig, used_modalities
from tcaf.systems.perceiver import Perceiver, PerceiverConfig
from tcaf.systems.ridge import Ridge, RidgeConfig, RidgeFit
from tcaf.systems.tcaf import TCAF, tcaf_objective
from tcaf.systems.tcaf_cosine import TCAFCosine, TCAFCosineConfig, tcaf_cosine_objective
from tcaf.systems.textlda import TextLDA
from tcaf.systems.textlda_auxiliary import AuxiliaryFit
from tcaf.systems.textlda_fit import TextLDAFit
from tcaf.systems.textlda_fit import num_choices as num_textlda_choices
from tcaf.systems.textlda_start import StartFit
from tcaf.systems.textlda_vectors import TextLDAConfig

SYSTEMS: Registry[System] = Registry("system")
"""All systems by name, in the order in which tables show them."""


def register(system: System) -> System:
    """Adds a system to the comparison.

    Raises:
        TCAFError: the name is taken.
    """
    return SYSTEMS.add(system.name, system)


def find_system(name: str) -> System:
    """Returns a system by its name.

    Raises:
        TCAFError: there is none of this name.
    """
    if name not in SYSTEMS:
        hint = did_you_mean(name, SYSTEMS)
        raise TCAFError(f"there is no system {name!r} (there are {', '.join(SYSTEMS)}){hint}")
    return SYSTEMS[name]


def configure(
    experiment: Experiment, *, audio_dim: int, visual_dim: int, text_dim: int | Mapping[str, int]
) -> FeatureConfig:
    """Returns the configuration of an experiment's model for data of these dimensions.

    Args:
        experiment: all settings.
        audio_dim: size of an audio feature.
        visual_dim: size of a visual feature.
        text_dim: size of a class's text embedding, in all text spaces or by space.

    Raises:
        TCAFError: an option that the system does not have, or with a value that it cannot have.
    """
    system = find_system(experiment.system)
    names = [f.name for f in fields(system.config)]
    if isinstance(text_dim, int):
        text_dim = dict.fromkeys(system.spaces, text_dim)
    given: dict[str, Any] = {
        "audio_dim": audio_dim,
        "visual_dim": visual_dim,
        **{n: value for n, value in vars(experiment.fidelity).items() if n in names},
    }
    if issubclass(system.config, TextSpacesConfig):
        given["text_dims"] = dict(text_dim)
    else:
        (given["text_dim"],) = text_dim.values()
    if issubclass(system.config, ModelSettings):
        given |= vars(experiment.model)
    if not system.reads_time(experiment) and given.get("visual_scaling") == "l2_over_time":
        given["visual_scaling"] = "l2"  # averages have no time: every feature would become its sign
    own = [name for name in names if name not in given]
    for name, value in experiment.options.items():
        if name not in own:
            offered = ", ".join(own) or "none"
            raise TCAFError(
                f"system {system.name!r} has no option {name!r}; it has {offered}"
                f"{did_you_mean(name, own)}"
            )
        given[name] = value
    check_values(system.config, given, "options")
    return system.config(**given)


def modalities(experiment: Experiment) -> tuple[Modality, ...]:
    """Returns the modalities that an experiment's model reads: both, but for parts of TCaF."""
    if issubclass(find_system(experiment.system).config, ModelSettings):
        return used_modalities(experiment.model)
    return used_modalities(ModelSettings())


_NO_TRANSFORMER = frozenset(
    {
        *("model.num_layers", "model.num_heads", "model.head_dim", "model.feed_forward_dim"),
        *("model.position_dim", "model.fourier_scale", "model.attention", "model.class_token"),
        *("model.dropout_position", "model.dropout_transformer", "fidelity.layer_norm"),
    }
)
"""What TCaF's settings say of its transformer alone."""

_NO_TIME = frozenset({"fidelity.evaluation_times", "fidelity.window_times"})
"""When a token is."""

_NO_JOINT_SPACE = frozenset({"objective", "model.joint_dim", "model.dropout_text_projection"})
"""What TCaF learns of class text, and the terms that go with it."""

_PERCEIVER = frozenset({"model.attention", "model.class_token", "fidelity.layer_norm"})
_TRIPLETS = frozenset({"objective"})
_UNSCALED = frozenset(
    {"fidelity.audio_scaling", "fidelity.visual_scaling", "fidelity.batch_norm_momentum"}
)

_AVERAGED: dict[str, Any] = {
    "averages": True,
    "negatives": True,
    "needs_both": True,
    "ignores": _TRIPLETS,
}

for _system in (
    System("tcaf", "TCaF", TCAFConfig, TCAF, tcaf_objective),
    System(
        "attention_fusion",
        "Attention Fusion",
        TCAFConfig,
        AttentionFusion,
        tcaf_objective,
        ignores=_NO_TRANSFORMER | _NO_TIME,
    ),
    System(
        "perceiver", "Perceiver", PerceiverConfig, Perceiver, tcaf_objective, ignores=_PERCEIVER
    ),
    System("cjme", "CJME", CJMEConfig, CJME, cjme_objective, **_AVERAGED),
    System("avgzslnet", "AVGZSLNet", AVGZSLNetConfig, AVGZSLNet, avgzslnet_objective, **_AVERAGED),
    System("avca", "AVCA", AVCAConfig, AVCA, avca_objective, **_AVERAGED),
    System(
        "clipclap",
        "ClipClap",
        ClipClapConfig,
        ClipClap,
        clipclap_objective,
        averages=True,
        needs_both=True,
        spaces=FEATURE_SPACES,
        ignores=frozenset({"fidelity.text_statistics"}),
    ),
    System("ridge", "Ridge", RidgeConfig, Ridge, fit=RidgeFit, averages=True, ignores=_UNSCALED),
    System(
        "tcaf_cosine",
        "TCaF (cosine head)",
        TCAFCosineConfig,
        TCAFCosine,
        tcaf_cosine_objective,
        ignores=_NO_JOINT_SPACE,
    ),
    System(
        "textlda",
        "TextLDA",
        TextLDAConfig,
        TextLDA,
        fit=TextLDAFit,
        auxiliary_fit=AuxiliaryFit,
        start_fit=StartFit,
        choices=num_textlda_choices,
        ignores=_UNSCALED,
    ),
    System(
        "aligned",
        "Aligned",
        AlignedConfig,
        Aligned,
        training_free=True,
        choices=num_choices,
        spaces=FEATURE_SPACES,
        ignores=_UNSCALED | _NO_TIME | {"data.average"},
    ),
):
    register(_system)
