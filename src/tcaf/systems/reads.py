"""Which settings a system reads: what it does not read, nobody may set for it.

Owns the rules; what is particular to a system stands in its entry (`System.ignores`).
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import fields
from typing import Any

from tcaf.settings.experiment import TEXT, Experiment
from tcaf.settings.fidelity import Fidelity
from tcaf.settings.sections import ModelSettings
from tcaf.systems.interface import FEATURE_SPACES, InputConfig, System, TextSpacesConfig
from tcaf.systems.registry import find_system

_WINDOWS = frozenset(
    {
        *("data.average", "training.window_s", "evaluation.window_s"),
        *("fidelity.evaluation_times", "fidelity.window_times", "fidelity.audio_window"),
    }
)
"""How sequences are cut and timed: nothing to systems that see averages."""

_TCAF_OBJECTIVE = frozenset({"fidelity.text_statistics", "fidelity.squared_error"})
"""What goes with the terms of the section objective."""

_SCHEDULE = frozenset(
    {"fidelity.plateau_epochs", "fidelity.stage_2_schedule", "fidelity.stage_2_epochs"}
)
"""What goes with learning rates."""

_OF_SYSTEMS = frozenset(
    {
        *("fidelity.audio_scaling", "fidelity.visual_scaling", "fidelity.batch_norm_momentum"),
        *("fidelity.layer_norm", "fidelity.cjme_attention", "fidelity.avca_modality_tokens"),
    }
)
"""Sides of paper or release that reach a model through its configuration, where that has them."""


def own_options(system: System) -> list[str]:
    """Returns the names of the options that a system alone has."""
    kinds = (InputConfig, TextSpacesConfig, Fidelity)
    given = {each.name for kind in kinds for each in fields(kind)}
    if issubclass(system.config, ModelSettings):
        given |= {each.name for each in fields(ModelSettings)}
    return [each.name for each in fields(system.config) if each.name not in given]


def reads_setting(system: System, name: str, *, anchored: bool = False) -> bool:
    """Returns whether a system's run depends on a setting.

    Args:
        system: the entry.
        name: of the setting, as `training.epochs`, `options.num_latents` or
            `text_spaces.clip.source`.
        anchored: whether distances are, which reads the text spaces of features too.
    """
    section, _, field = name.partition(".")
    if name.startswith("data.auxiliary"):
        return not system.training_free
    if name == "data.start":
        return system.start_fit is not None
    if section == "options":
        return field in own_options(system)
    if name in system.ignores or section in system.ignores:
        return False
    if section == "text_spaces":
        return field.partition(".")[0] in (*system.spaces, *(FEATURE_SPACES if anchored else ()))
    if section == TEXT or name == "fidelity.class_vectors":
        return TEXT in system.spaces
    own = {each.name for each in fields(system.config)}
    descends = system.objective is not None
    if section == "model":
        return issubclass(system.config, ModelSettings)
    if name in _OF_SYSTEMS:
        return field in own
    if name in _WINDOWS:
        return not system.averages and (descends or section != "training")
    if name == "data.clips_per_class":
        return not system.training_free
    if section == "objective" or name in _TCAF_OBJECTIVE:
        return descends and "objective" not in system.ignores
    if name == "training.static_shapes":
        return descends and getattr(system.model, "takes_filled", False)
    if section == "training":
        return descends or field == "device" or (field == "epochs" and not system.training_free)
    return descends if name in _SCHEDULE else True


def unread_settings(
    system: System, settings: Mapping[str, Any], *, anchored: bool = False
) -> list[str]:
    """Returns the settings, by dotted name, that a system does not read; see `reads_setting`."""
    names = flattened(settings)
    return [name for name in names if not reads_setting(system, name, anchored=anchored)]


def near_settings(system: System, name: str) -> list[str]:
    """Returns settings that the system reads and that may have been meant by one that it does not.

    Args:
        system: the entry.
        name: of the setting that it does not read.
    """
    section, _, field = name.rpartition(".")
    spaces = [space for space in system.spaces if space != TEXT]
    if section.startswith("text_spaces."):
        return [f"text_spaces.{space}.{field}" for space in spaces]
    return [f"options.{option}" for option in own_options(system)]


def only(settings: Mapping[str, Any], names: Container[str], within: str = "") -> dict[str, Any]:
    """Returns those of nested settings that are named.

    Args:
        settings: nested as TOML files are.
        names: as `training.epochs`.
        within: what the names begin with, as `training.`.
    """
    kept: dict[str, Any] = {}
    for name, content in settings.items():
        if isinstance(content, Mapping):
            if inner := only(content, names, f"{within}{name}."):
                kept[name] = inner
        elif f"{within}{name}" in names:
            kept[name] = content
    return kept


def flattened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested settings by dotted name, as `training.epochs`."""
    found: dict[str, Any] = {}
    for name, content in settings.items():
        if isinstance(content, Mapping):
            found |= {f"{name}.{inner}": value for inner, value in flattened(content).items()}
        else:
            found[name] = content
    return found


def without(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Returns settings without some, named as `section.field`."""
    return only(settings, flattened(settings).keys() - set(names))


def _unread(experiment: Experiment, value: Mapping[str, Any]) -> list[str]:
    anchored = experiment.evaluation.anchored
    return unread_settings(find_system(experiment.system), value, anchored=anchored)


def read_settings(experiment: Experiment) -> dict[str, Any]:
    """Returns the settings that the experiment's system reads, nested as TOML files are."""
    value = experiment.to_json()
    return without(value, _unread(experiment, value))


def read_changes(experiment: Experiment) -> dict[str, Any]:
    """Returns what differs from the defaults, of the settings that the system reads.

    What is equal here is one run: settings that later releases add, and those that nobody reads,
    make no difference.
    """
    value = experiment.changes()
    return without(value, _unread(experiment, value))
