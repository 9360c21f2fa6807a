"""The presets: which there are, and that each can be read and built from."""

import pytest

from tcaf.errors import TCAFError
from tcaf.experiments.presets import data_presets, preset_names, preset_path, read_preset
from tcaf.settings.experiment import Experiment
from tcaf.systems.registry import SYSTEMS, configure


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_read(name):
    assert preset_path(name).is_file()
    settings = read_preset(name)
    # Behind its system's preset, where it has one of its own: options need to know whose they are.
    system = name.rpartition("/")[2]
    behind = [{"system": system}] if system in SYSTEMS else []
    experiment = Experiment.from_layers(*behind, settings)
    configure(experiment, audio_dim=3, visual_dim=5, text_dim=7)


def test_names():
    names = preset_names()
    assert names == sorted(names)
    assert {"official", "synthetic", "ucf_cls", "vggsound_cls/avca", *SYSTEMS} - {*names} == {
        "tcaf"
    }, "TCaF's own settings are the defaults"
    assert {name for name in names if "/" not in name} - {*SYSTEMS} == {*data_presets()}


def test_a_file_of_the_users(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[training]\nepochs = 3\n")
    assert read_preset(str(file)) == {"training": {"epochs": 3}}
    file.write_text("[training\n")
    with pytest.raises(TCAFError, match=r"mine.toml: expected a TOML file, but"):
        read_preset(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(TCAFError, match="expected a TOML file"):
        read_preset(str(file))
    with pytest.raises(TCAFError, match=r"neither a file nor a preset \(.*did you mean 'ucf_cls'"):
        read_preset("ucf_clss")
