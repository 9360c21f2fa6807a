"""One run's settings as a whole: as JSON, in layers, and what differs from the defaults.

Owns `Experiment`. Which layers there are and in what order is `experiments.layers`.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from pydantic import Field

from tcaf.errors import TCAFError, did_you_mean
from tcaf.settings.fidelity import Fidelity
from tcaf.settings.sections import (
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    ObjectiveSettings,
    TextSettings,
    TrainingSettings,
)
from tcaf.settings.validation import check_values, settings

Option = bool | int | float | str
"""A setting of one system."""

TEXT = "text"
"""The text space that the section text makes, which the systems of the paper read."""

SECTIONS: dict[str, type] = {
    "data": DataSettings,
    "text": TextSettings,
    "model": ModelSettings,
    "fidelity": Fidelity,
    "objective": ObjectiveSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
}
"""The sections by name, as TOML files and options call them."""


@settings("")
class Experiment:
    """One run: system, data, text, model, objective, training, evaluation, seed.

    Args:
        data: which clips.
        text: where class text embeddings come from.
        text_spaces: the same for further text spaces, by name, for systems that read them: in TOML
            `[text_spaces.clip]` with the fields of the section text.
        model: size and shape of TCaF, and of the systems that share its encoders.
        fidelity: paper or release, where they part.
        objective: terms of the loss.
        training: optimiser, batches, windows.
        evaluation: windows, gammas.
        seed: all randomness follows from it.
        system: name of what is trained (`systems.registry`).
        options: settings of that system alone, by name.
    """

    data: DataSettings = Field(default_factory=DataSettings)
    text: TextSettings = Field(default_factory=TextSettings)
    text_spaces: Mapping[str, TextSettings] = Field(default_factory=dict)
    model: ModelSettings = Field(default_factory=ModelSettings)
    fidelity: Fidelity = Field(default_factory=Fidelity)
    objective: ObjectiveSettings = Field(default_factory=ObjectiveSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    seed: int = 0
    system: str = "tcaf"
    options: Mapping[str, Option] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.text_spaces:
            if name == TEXT or not name.isidentifier():
                raise TCAFError(
                    f"text_spaces: expected a name like clip, other than {TEXT!r}, which is the "
                    f"section [{TEXT}], got {name!r}"
                )

    def to_json(self) -> dict[str, Any]:
        """Returns all settings as plain JSON values, by section."""
        value = asdict(self)
        for text in (value["text"], *value["text_spaces"].values()):
            text["phrases"] = list(text["phrases"])
        return value

    def changes(self) -> dict[str, Any]:
        """Returns what differs from the defaults, as a TOML file would nest it.

        What is equal here is one experiment, whatever settings later releases have added.
        """
        value, default = self.to_json(), Experiment().to_json()
        # A space is there by its source, default or not.
        spaces = {
            name: {"source": text["source"], **_differing(text, default["text"])}
            for name, text in value.pop("text_spaces").items()
        }
        return _differing(value, default) | ({"text_spaces": spaces} if spaces else {})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Experiment":
        """Rebuilds what `to_json` or `changes` returned; what is missing has its default.

        Raises:
            TCAFError: a section or field is unknown or has a value that is not allowed.
        """
        return cls.from_layers(value)

    @classmethod
    def from_layers(cls, *layers: Mapping[str, Any]) -> "Experiment":
        """Builds an experiment from the defaults and what layers change, the later ones winning.

        Args:
            layers: nested as TOML files are: `{"training": {"epochs": 3}}`.

        Raises:
            TCAFError: a section or field is unknown or has a value that is not allowed.
        """
        known = {field.name for field in fields(cls)}
        merged: dict[str, Any] = {}
        for layer in layers:
            for section, content in layer.items():
                if section not in known:
                    raise TCAFError(f"there is no setting {section}{did_you_mean(section, known)}")
                if section in (*SECTIONS, "text_spaces", "options"):
                    content = _laid_over(merged.get(section, {}), content, section)
                merged[section] = content
        sections = {n: kind(**merged[n]) for n, kind in SECTIONS.items() if n in merged}
        spaces = merged.get("text_spaces", {})
        sections["text_spaces"] = {name: _text_space(name, spaces[name]) for name in spaces}
        return cls(**{**merged, **sections})


def _laid_over(before: Mapping[str, Any], content: Any, section: str) -> dict[str, Any]:
    """Returns a section's settings with those of a later layer; of text spaces one by one."""
    if not isinstance(content, Mapping):
        raise TCAFError(f"{section} is a section of settings, got {content!r}")
    if section == "text_spaces":
        content = {
            name: _laid_over(before.get(name, {}), inner, f"{section}.{name}")
            for name, inner in content.items()
        }
    return {**before, **content}


def _text_space(name: str, given: Mapping[str, Any]) -> TextSettings:
    """Returns the settings of a text space, which have to say the source."""
    section = f"text_spaces.{name}"
    check_values(TextSettings, given, section)
    if "source" not in given:
        raise TCAFError(f"{section}.source is missing")
    return TextSettings(**given)


def _differing(value: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, own in value.items():
        if isinstance(own, Mapping) and isinstance(default.get(name), Mapping):
            if inner := _differing(own, default[name]):
                found[name] = inner
        elif name not in default or own != default[name]:
            found[name] = own
    return found


def text_settings(experiment: Experiment, space: str = TEXT) -> TextSettings:
    """Returns where class vectors of a text space come from, after `fidelity.class_vectors`.

    Raises:
        TCAFError: the experiment has no such space, or not the vectors in the release's order.
    """
    if space != TEXT:
        if space not in experiment.text_spaces:
            near = did_you_mean(space, experiment.text_spaces)
            raise TCAFError(
                f"system {experiment.system!r} reads the text space {space!r}; say where it comes "
                f"from in a section [text_spaces.{space}] of a --config file{near}"
            )
        return experiment.text_spaces[space]
    text = experiment.text
    if experiment.fidelity.class_vectors == "by_name":
        return text
    if text.source != "stored":
        raise TCAFError(
            "fidelity.class_vectors 'release_order' needs the vectors of a store made by "
            f"`tcaf prepare official`, got text.source {text.source!r}; set "
            "fidelity.class_vectors to 'by_name'"
        )
    return replace(text, name=f"{text.name or 'word2vec'}_release_order")
