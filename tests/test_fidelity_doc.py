"""`docs/fidelity.md` names settings and what the presets take: it must be so."""

import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from tcaf.settings.experiment import Experiment
from tcaf.settings.fidelity import Fidelity

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")


def rows():
    """Setting, value of `paper` and value of `official`, of each row that names a setting."""
    lines = [line for line in TEXT.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[4].strip("`"): row[5:] for row in cells if len(row) == 7 and row[0] != "#"}


def shown(value):
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_every_row_of_the_release_is_told():
    told = {line.split("|")[1].strip() for line in TEXT.splitlines() if line.startswith("| ")}
    assert {str(number) for number in range(1, 26)} <= told


@pytest.mark.parametrize("name", [field.name for field in fields(Fidelity)])
def test_fields_and_presets(name):
    paper, official = rows()[f"fidelity.{name}"]
    assert paper == shown(getattr(Fidelity(), name))
    assert official == shown(getattr(Fidelity.official(), name))


def test_other_settings_have_the_defaults_that_are_told():
    settings = asdict(Experiment())
    for setting, (paper, official) in rows().items():
        section, name = setting.split(".")
        if setting == "model.dropout_encoder":
            preset = ROOT / "src" / "tcaf" / "experiments" / "presets" / "activitynet_cls.toml"
            value = tomllib.loads(preset.read_text(encoding="utf-8"))[section][name]
            assert paper == shown(value)
        elif section != "fidelity":
            assert paper == official == shown(settings[section][name])


def test_the_preset_file_is_the_same_as_the_class_method():
    preset = ROOT / "src" / "tcaf" / "experiments" / "presets" / "official.toml"
    told = tomllib.loads(preset.read_text(encoding="utf-8"))
    assert asdict(Fidelity(**told["fidelity"])) == asdict(Fidelity.official())
    assert set(told) == {"fidelity"}
