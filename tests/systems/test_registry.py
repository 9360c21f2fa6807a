"""The registry: what is in it, what it refuses, and how a model gets its configuration."""

import sys
from dataclasses import dataclass, fields, replace

import pytest
from torch import nn

from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.plugins import load_plugin
from tcaf.settings.experiment import Experiment
from tcaf.settings.fidelity import Fidelity
from tcaf.settings.sections import DataSettings, ModelSettings
from tcaf.systems.avca import AVCAConfig
from tcaf.systems.cjme import CJMEConfig
from tcaf.systems.interface import InputConfig, System, TextSpacesConfig
from tcaf.systems.joint_space import TCAFConfig
from tcaf.systems.perceiver import PerceiverConfig
from tcaf.systems.reads import flattened, own_options, unread_settings, without
from tcaf.systems.registry import (
    SYSTEMS,
    configure,
    find_system,
    modalities,
    register,
)
from tcaf.systems.ridge import RidgeConfig, RidgeFit
from tcaf.systems.tcaf import tcaf_objective

DIMS = {"audio_dim": 3, "visual_dim": 5, "text_dim": 7}


@pytest.fixture(autouse=True)
def registry():
    """Leaves registry and modules as they were."""
    systems, modules = dict(SYSTEMS), set(sys.modules)
    yield SYSTEMS
    SYSTEMS.clear()
    SYSTEMS.update(systems)
    for name in set(sys.modules) - modules:
        if name.startswith("tcaf_plugin_"):
            del sys.modules[name]


@dataclass(frozen=True, kw_only=True)
class MineConfig(InputConfig):
    width: int = 11
    share: float = 0.5
    kind: str = "plain"
    on: bool = False


def mine(**changes):
    return System(**{"name": "mine", "title": "Mine", **PARTS, **changes})


PARTS = {"config": MineConfig, "model": nn.Module, "objective": tcaf_objective}


def test_order_and_what_each_is_given():
    assert {name: system.title for name, system in SYSTEMS.items()} == {
        "tcaf": "TCaF",
        "attention_fusion": "Attention Fusion",
        "perceiver": "Perceiver",
        "cjme": "CJME",
        "avgzslnet": "AVGZSLNet",
        "avca": "AVCA",
        "clipclap": "ClipClap",
        "ridge": "Ridge",
        "tcaf_cosine": "TCaF (cosine head)",
        "textlda": "TextLDA",
        "aligned": "Aligned",
    }
    assert next(iter(SYSTEMS)) == "tcaf"
    # The methods before TCaF see time averages; three of them are trained with triplets.
    assert [n for n, s in SYSTEMS.items() if s.averages] == [
        "cjme",
        "avgzslnet",
        "avca",
        "clipclap",
        "ridge",
    ]
    assert [n for n, s in SYSTEMS.items() if s.negatives] == ["cjme", "avgzslnet", "avca"]
    assert [n for n, s in SYSTEMS.items() if s.fit] == ["ridge", "textlda"]
    for name in ("tcaf", "attention_fusion", "perceiver"):
        assert SYSTEMS[name].objective is tcaf_objective


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_a_system_that_averages_is_shown_averages(name):
    system, experiment = SYSTEMS[name], Experiment(system=name)
    for training in (True, False):
        assert system.windows(experiment, training=training).average == system.averages
    assert system.reads_time(experiment) == (not system.averages)
    averaged = replace(experiment, data=DataSettings(average=True))
    assert not system.reads_time(averaged)
    assert system.windows(averaged, training=False).average


def test_windows_of_an_experiment(tiny_experiment):
    def windows(**changes):
        """In training and at evaluation."""
        own, made = find_system("tcaf"), tiny_experiment(**changes)
        return own.windows(made, training=True), own.windows(made, training=False)

    assert windows() == (Windows(place="random"), Windows())
    lengths = {"training": {"window_s": 3.0}, "evaluation": {"window_s": 5.0}}
    assert windows(**lengths) == (Windows(3.0, "random"), Windows(5.0))
    # Training has always counted seconds, also in the release.
    found = Windows(times="index", restart=True, release_audio_len=True, average=True)
    official = windows(fidelity=Fidelity.official(), data={"average": True})
    assert official == (replace(found, place="random", times="seconds"), found)


def test_windows_of_a_fit(tiny_experiment):
    """Whole clips, timed as at evaluation."""
    own = mine(objective=None, fit=RidgeFit)
    window = {"window_s": 3.0}
    official = tiny_experiment(fidelity=Fidelity.official(), training=window, evaluation=window)
    expected = Windows(times="index", restart=True, release_audio_len=True)
    assert own.windows(official, training=True) == expected
    assert own.windows(official, training=False) == replace(expected, window_s=3.0)


def test_epochs_of_stage_1(tiny_experiment):
    experiment = tiny_experiment(training={"epochs": 3})
    assert find_system("tcaf").stage_1_epochs(experiment) == 3
    assert find_system("ridge").stage_1_epochs(experiment) == 3
    assert mine(objective=None, training_free=True).stage_1_epochs(experiment) == 1
    several = mine(objective=None, training_free=True, choices=lambda experiment: 5)
    assert several.stage_1_epochs(experiment) == 5
    assert list(several.stage_2_epochs(experiment, 4)) == [4]
    fitted = mine(objective=None, fit=RidgeFit, choices=lambda experiment: 2)
    assert fitted.stage_1_epochs(experiment) == 2
    assert fitted.stage_1_epochs(tiny_experiment(training={"epochs": 1})) == 1
    with pytest.raises(TCAFError, match=r"^system 'mine' has choices but is trained by an obj"):
        mine(choices=lambda experiment: 5)


def test_finding(registry):
    assert find_system("avca") is registry["avca"]
    with pytest.raises(
        TCAFError, match=r"no system 'avac' \(there are tcaf, .*did you mean 'avca'"
    ):
        find_system("avac")
    with pytest.raises(TCAFError, match=r"'x' \(there are tcaf.*aligned\)$"):
        find_system("x")


def test_registering(registry):
    system = register(mine())
    assert list(registry)[-1] == "mine"
    assert find_system("mine") is system
    other = mine(title="Another")
    with pytest.raises(TCAFError, match="there is a system 'mine' already; choose another name"):
        register(other)
    assert registry["mine"] is system


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"objective": None}, "none"),
        ({"fit": RidgeFit}, "objective and fit"),
        ({"objective": None, "fit": RidgeFit, "training_free": True}, "fit and training_free"),
    ],
)
def test_one_way_to_learn(changes, got):
    message = f"'mine' needs exactly one of objective, fit and training_free, got {got}$"
    with pytest.raises(TCAFError, match=message):
        mine(**changes)


@pytest.mark.parametrize(
    ("name", "value"), [("negatives", True), ("optimiser", lambda model, experiment: None)]
)
def test_what_goes_with_an_objective(name, value):
    with pytest.raises(TCAFError, match=f"'mine' has {name} but no objective to go with"):
        mine(objective=None, fit=RidgeFit, **{name: value})


@pytest.mark.parametrize("name", ["my-model", "my model", "", "3d"])
def test_a_name_is_one_word(name):
    with pytest.raises(TCAFError, match="one word like my_model, got"):
        mine(name=name)


def test_a_systems_configuration_is_filled_from_four_places():
    """Dimensions of the data, fidelity, the section model where it is extended, options."""
    experiment = Experiment(
        system="perceiver",
        model=ModelSettings(token_dim=13, num_layers=2),
        fidelity=Fidelity(layer_norm="shared", batch_norm_momentum=0.19, visual_scaling="none"),
        options={"num_latents": 17},
    )
    config = configure(experiment, **DIMS)
    assert type(config) is PerceiverConfig
    expected = {**vars(experiment.model), **DIMS, "num_latents": 17}
    fidelity = {n: getattr(experiment.fidelity, n) for n in SHARED}
    assert vars(config) == {**expected, **fidelity}


SHARED = ("audio_scaling", "visual_scaling", "batch_norm_momentum", "layer_norm")


def test_the_section_model_is_tcafs_own():
    """AVCA has a token_dim too, but not TCaF's; fields of its name in fidelity are taken."""
    fidelity = Fidelity(batch_norm_momentum=0.19, avca_modality_tokens="fixed")
    experiment = Experiment(system="avca", model=ModelSettings(token_dim=13), fidelity=fidelity)
    config = configure(replace(experiment, options={"joint_dim": 17}), **DIMS)
    assert type(config) is AVCAConfig
    assert (config.token_dim, config.joint_dim) == (300, 17)
    assert config.batch_norm_momentum == 0.19
    assert (config.audio_dim, config.visual_dim, config.text_dim) == (3, 5, 7)


@pytest.mark.parametrize(
    ("name", "field", "fidelity", "other"),
    [
        ("avca", "avca_modality_tokens", "avca_modality_tokens", "fixed"),
        ("cjme", "batch_norm_momentum", "batch_norm_momentum", 0.19),
        ("ridge", "audio_scaling", "audio_scaling", "l2"),
    ],
)
def test_fidelity_reaches_the_systems(name, field, fidelity, other):
    experiment = Experiment(system=name, fidelity=Fidelity(**{fidelity: other}))
    assert getattr(configure(experiment, **DIMS), field) == other


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_field_of_a_configuration_is_reached(name):
    """Each comes from data, fidelity, model or options, and can be set there."""
    system = SYSTEMS[name]
    own = {f.name for f in fields(system.config)} - {*DIMS, "text_dims"} - set(vars(Fidelity()))
    if issubclass(system.config, ModelSettings):
        own -= set(vars(ModelSettings()))
    default = configure(Experiment(system=name), **DIMS)
    options = {option: getattr(default, option) for option in own}
    assert configure(Experiment(system=name, options=options), **DIMS) == default


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tcaf", {"width": 3}, r"system 'tcaf' has no option 'width'; it has none$"),
        # What is set elsewhere is no option.
        ("tcaf", {"token_dim": 3}, r"'tcaf' has no option 'token_dim'; it has none$"),
        ("ridge", {"audio_dim": 3}, "'ridge' has no option 'audio_dim'; it has strongest, ratio,"),
        ("ridge", {"batch_norm_momentum": 0.3}, "'ridge' has no option 'batch_norm_momentum'"),
        ("mine", {"widht": 3}, r"it has width, share, kind, on; did you mean 'width'\?"),
        ("mine", {"width": 2.5}, r"options\.width: expected int, got 2\.5"),
        ("mine", {"width": True}, r"options\.width: expected int, got True"),
        ("mine", {"width": "wide"}, r"options\.width: expected int, got 'wide'"),
        ("mine", {"share": "half"}, r"options\.share: expected float, got 'half'"),
        ("mine", {"kind": 3}, r"options\.kind: expected str, got 3"),
        ("mine", {"on": 1}, r"options\.on: expected bool, got 1"),
        ("ridge", {"cosine_from": "mean"}, r"one of 'mean_text', 'origin', got 'mean'; did you me"),
        ("ridge", {"ratio": 1.0}, r"options\.ratio must be above 0 and below 1, got 1\.0"),
    ],
)
def test_wrong_options(name, options, message):
    register(mine())
    with pytest.raises(TCAFError, match=message):
        configure(Experiment(system=name, options=options), **DIMS)


@pytest.mark.usefixtures("unchecked")
def test_a_whole_number_is_a_number():
    register(mine())
    assert configure(Experiment(system="mine", options={"share": 1}), **DIMS).share == 1


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_modalities(name):
    experiment = Experiment(system=name)
    assert modalities(experiment) == ("audio", "visual")
    # Only those that are built from the section model can do without one.
    alone = replace(experiment, model=ModelSettings(modalities="visual"))
    shared = issubclass(SYSTEMS[name].config, TCAFConfig)
    assert modalities(alone) == (("visual",) if shared else ("audio", "visual"))
    assert shared == (name in ("tcaf", "attention_fusion", "perceiver", "tcaf_cosine"))


# --- Plugins ---

PLUGIN = """
from __future__ import annotations

from dataclasses import dataclass, field

from tcaf.systems.ridge import Ridge, RidgeConfig, RidgeFit
from tcaf import System, register


@dataclass(frozen=True, kw_only=True)
class Config(RidgeConfig):
    width: Width = 3


Width = int
FITTED = {"fit": RidgeFit, "averages": True}
SETTINGS = {"training": {"epochs": 3}}
register(System("mine", "Mine", Config, Ridge, settings=SETTINGS, **FITTED))
register(System("other", "Other", RidgeConfig, Ridge, **FITTED))
"""


def test_a_plugin_registers_systems(tmp_path, registry):
    file = tmp_path / "model.py"  # may be called like any module
    file.write_text(PLUGIN)
    load_plugin(file)
    assert list(registry)[-2:] == ["mine", "other"]
    assert registry["mine"].settings == {"training": {"epochs": 3}}
    # Annotations in quotes are those of the plugin's own module.
    experiment = Experiment(system="mine", options={"width": 5})
    assert configure(experiment, **DIMS).width == 5
    with pytest.raises(TCAFError, match=r"options\.width: expected int, got 'wide'"):
        configure(replace(experiment, options={"width": "wide"}), **DIMS)
    assert "model" not in sys.modules


def test_a_plugin_loaded_twice_is_the_same(tmp_path, registry):
    file = tmp_path / "model.py"
    file.write_text(PLUGIN)
    load_plugin(file)
    before = dict(registry)
    load_plugin(tmp_path / "." / "model.py")
    assert list(registry.items()) == list(before.items())
    assert all(registry[name] is before[name] for name in before)


def test_a_changed_plugin_replaces_what_it_registered(tmp_path, registry):
    """Also within one second and at the same length, which Python's cache would not notice."""
    file = tmp_path / "model.py"
    file.write_text(PLUGIN)
    load_plugin(file)
    code = SYSTEMS.sha256("mine")
    file.write_text(PLUGIN.replace('"Mine"', '"Ours"').replace('"other"', '"third"'))
    load_plugin(file)
    assert list(registry)[-2:] == ["mine", "third"]
    assert find_system("mine").title == "Ours"
    assert "other" not in registry
    assert SYSTEMS.sha256("other") is None
    # By its hash a run notices that it was made with another file.
    assert SYSTEMS.sha256("mine") == SYSTEMS.sha256("third") != code
    experiment = Experiment(system="mine", options={"width": 5})
    assert configure(experiment, **DIMS).width == 5


def test_two_plugins_of_one_file_name(tmp_path, registry):
    """Each finds its own annotations."""
    for folder, name, kind in (("a", "mine", "int"), ("b", "ours", "str")):
        (tmp_path / folder).mkdir()
        text = PLUGIN.replace('"mine"', f'"{name}"').replace("Width = int", f"Width = {kind}")
        (tmp_path / folder / "model.py").write_text(text.replace('"other"', f'"other_{name}"'))
        load_plugin(tmp_path / folder / "model.py")
    assert configure(Experiment(system="mine", options={"width": 5}), **DIMS).width == 5
    with pytest.raises(TCAFError, match=r"options\.width: expected str, got 5"):
        configure(Experiment(system="ours", options={"width": 5}), **DIMS)


@pytest.mark.parametrize("name", ["mine", "tcaf"])
def test_a_plugin_takes_no_name_of_another(tmp_path, registry, name):
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(PLUGIN)
    second.write_text(PLUGIN.replace('"mine"', '"new"').replace('"other"', f'"{name}"'))
    load_plugin(first)
    before = dict(registry)
    with pytest.raises(TCAFError, match=f"there is a system '{name}' already; choose another name"):
        load_plugin(second)
    # What it registered until then is not left behind.
    assert list(registry.items()) == list(before.items())


def test_a_plugin_that_is_broken_by_a_change(tmp_path, registry):
    file = tmp_path / "model.py"
    file.write_text(PLUGIN)
    code = load_plugin(file).sha256
    first = registry["mine"]
    file.write_text(PLUGIN + "\n1 / 0\n")
    with pytest.raises(TCAFError, match="cannot be run: ZeroDivisionError"):
        load_plugin(file)
    assert registry["mine"] is first
    assert SYSTEMS.sha256("mine") == code


@pytest.mark.parametrize("name", ["none.py", "folder", "folder.py"])
def test_a_plugin_that_is_none(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(TCAFError, match=rf"registers a system or backbone at .*{name}: "):
        load_plugin(tmp_path / name)


def test_a_plugin_that_registers_nothing(tmp_path, registry):
    file = tmp_path / "idle.py"
    file.write_text("x = 3\n")
    before = list(registry)
    with pytest.raises(TCAFError, match=r"idle\.py registered nothing; it must call"):
        load_plugin(file)
    assert list(registry) == before


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (
            "import nothing_of_the_kind",
            "ModuleNotFoundError: No module named 'nothing_of_the_kind'",
        ),
        ("def", "SyntaxError: invalid syntax"),
    ],
)
def test_a_plugin_that_fails(tmp_path, code, said):
    file = tmp_path / "broken.py"
    file.write_text(code)
    with pytest.raises(TCAFError, match=rf"broken\.py cannot be run: {said}"):
        load_plugin(file)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_an_average_is_not_scaled_over_time(name):
    """Of a single token every feature would become its sign."""
    experiment = Experiment(system=name, fidelity=Fidelity(visual_scaling="l2_over_time"))
    found = configure(experiment, **DIMS).visual_scaling
    assert found == ("l2" if SYSTEMS[name].averages else "l2_over_time")
    averaged = replace(experiment, data=DataSettings(average=True))
    assert configure(averaged, **DIMS).visual_scaling == "l2"


def test_options_of_the_ranges():
    """What is checked in the sections is checked in options too."""
    with pytest.raises(TCAFError, match=r"options\.dropout must be at least 0 and below 1, got 1"):
        CJMEConfig(**DIMS, dropout=1.0)
    with pytest.raises(TCAFError, match=r"options\.strongest must be above 0, got -1"):
        RidgeConfig(**DIMS, strongest=-1.0)


# --- Text spaces ---


@dataclass(frozen=True, kw_only=True)
class SpacesConfig(TextSpacesConfig):
    width: int = 11


def test_the_sizes_of_several_text_spaces_reach_the_configuration():
    system = mine(config=SpacesConfig, spaces=("text", "clip"))
    register(system)
    experiment = Experiment(system="mine", options={"width": 13})
    found = configure(experiment, **{**DIMS, "text_dim": {"text": 7, "clip": 11}})
    assert (found.text_dims, found.width, found.audio_dim) == ({"text": 7, "clip": 11}, 13, 3)
    # Where sizes do not matter, as in the plan of a table, one stands for all.
    assert configure(experiment, **DIMS).text_dims == {"text": 7, "clip": 7}
    assert own_options(system) == ["width"]
    assert modalities(experiment) == ("audio", "visual")


def test_a_single_space_of_another_name_has_a_text_dim():
    register(mine(spaces=("clip",)))
    found = configure(Experiment(system="mine"), **{**DIMS, "text_dim": {"clip": 11}})
    assert found.text_dim == 11


@pytest.mark.parametrize(
    ("spaces", "read"),
    [
        (("text",), ["text.source", "fidelity.class_vectors"]),
        (("clip",), ["text_spaces.clip.source"]),
        (
            ("text", "clip"),
            ["text.source", "fidelity.class_vectors", "text_spaces.clip.source"],
        ),
    ],
)
def test_what_is_read_of_text(spaces, read):
    config = MineConfig if len(spaces) == 1 else SpacesConfig
    text = {"source": "clip"}
    settings = {
        "text": text,
        "fidelity": {"class_vectors": "by_name"},
        "text_spaces": {"clip": text, "clap": text},
    }
    system = mine(config=config, spaces=spaces)
    unread = unread_settings(system, settings)
    found = flattened(settings)
    assert sorted([*read, *unread]) == sorted(found)
    assert list(flattened(without(settings, unread))) == [n for n in found if n in read]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spaces": "clip"}, r"expected different names of text spaces, .* got 'clip'"),
        ({"spaces": ()}, r"expected different names of text spaces, .* got \(\)"),
        ({"spaces": ("clip", "clip")}, r"names of text spaces, .* got \('clip', 'clip'\)"),
        ({"spaces": ("a b",)}, r"different names of text spaces, .* got \('a b',\)"),
        ({"spaces": ("text", "clip")}, "2 text spaces: MineConfig must extend TextSpacesConfig"),
        ({"config": SpacesConfig}, "1 text space: SpacesConfig must extend InputConfig"),
    ],
)
def test_wrong_text_spaces(changes, message):
    with pytest.raises(TCAFError, match=f"system 'mine'.*{message}"):
        mine(**changes)
