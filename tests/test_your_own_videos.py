"""`docs/your-own-videos.md`: its tables and numbers are those of the code."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from tcaf.commands import entry as cli
from tcaf.experiments.layers import experiment_layers, resolve
from tcaf.extract.backbones import BACKBONES, parse_name
from tcaf.extract.c3d import COLOURS as C3D_COLOURS
from tcaf.sources.partition import PARTS_OF
from tcaf.sources.videos import prepare_videos

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "your-own-videos.md").read_text(encoding="utf-8")
FIDELITY = (DOCS / "fidelity.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in TEXT.splitlines() if line.startswith("    tcaf ")]
SETTINGS = re.search(r"```toml\n(.*?)```", TEXT, re.S)[1]


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Reads a command line in a folder that holds the settings of the document; runs nothing."""
    (tmp_path / "settings.toml").write_text(SETTINGS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def parsed(line):
        command, bound = cli.parse(shlex.split(line)[1:])
        return command.__name__, bound.arguments

    return parsed


def test_every_kind_of_command_is_shown():
    assert {line.split()[1] for line in COMMANDS} == {
        *("prepare", "train", "evaluate", "predict", "reproduce", "doctor")
    }


def test_the_settings_are_taken(parse):
    (line,) = [line for line in COMMANDS if "vggsound_cls" in line]
    _, given = parse(line)
    experiment = resolve(experiment_layers(None, config=given["config"]))
    assert experiment.training.epochs == 20
    fidelity = experiment.fidelity
    assert (fidelity.audio_scaling, fidelity.visual_scaling) == ("divide_255", "l2")
    assert (experiment.text.source, experiment.model.num_layers) == ("sentence", 8)


@pytest.mark.parametrize("bias", ["0.02", "-0.02"])
def test_the_biases_that_are_said(parse, bias):
    assert f"`--seen_bias {bias}`" in TEXT
    assert parse(f"tcaf predict run new.mp4 --seen_bias {bias}")[1]["seen_bias"] == float(bias)


def test_the_tables_tell_what_is_known_of_each_backbone():
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]
    told = {row[0].strip("`"): row[1:5] for row in rows if row[0].strip("`") in BACKBONES}
    assert set(told) == set(BACKBONES)
    for name, (numbers, step, weights, licence) in told.items():
        info = BACKBONES[name]
        every = "the model's" if info.step_s is None else f"{info.step_s} s"
        assert (numbers, step) == (info.dim.replace("the model", "the model's"), every)
        assert licence == info.licence
        # Which data and how many megabytes, if any are fetched.
        assert set(re.findall(r"\d+ MB|AudioSet|Sports-1M|ImageNet|none", info.weights)) == set(
            re.findall(r"\d+ MB|AudioSet|Sports-1M|ImageNet|none", weights)
        )


def test_numbers_of_the_rule():
    defaults = inspect.signature(prepare_videos).parameters
    assert defaults["unseen"].default == 0.2
    assert defaults["audio"].default == "logmel"
    assert defaults["visual"].default == "efficientnet_lite0"
    assert list(PARTS_OF["train"].values()) == [0.7, 0.15, 0.15]
    assert PARTS_OF["val_unseen"]["test_seen"] == 0.15


def test_names_of_backbones_are_names():
    known = "|".join(BACKBONES)
    shown = re.findall(rf"`((?:{known}):[^`]+)`", TEXT + FIDELITY)
    assert len(shown) >= 6
    for name in shown:
        parse_name(name)
    colours = {parse_name(name)[1].get("colours") for name in shown if name.startswith("c3d:")}
    assert set(C3D_COLOURS) <= colours
