"""The presets: which there are, in what order they apply, and what a command line adds to them."""

from dataclasses import replace

import numpy as np
import pytest

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import BENCHMARKS, load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.experiments.presets import (
    dataset_of,
    dataset_preset,
    preset_names,
    preset_path,
    read_settings,
    settings_of,
    system_layers,
    systems_folder,
    untaken_settings,
)
from tcaf.settings.experiment import Experiment
from tcaf.systems.registry import SYSTEMS, configure

DIMS = {"audio_dim": 3, "visual_dim": 5, "text_dim": 7}
SPEC = FeatureSpec(3, 3, 0.96, 0.64, "ears", "eyes")
CLIP = np.zeros((1, 3), np.float32)


@pytest.fixture
def shelf(tmp_path):
    """Makes a store of one clip a class, which says where it comes from."""

    def make(kind, names=("a",)):
        with new_store(tmp_path / "shelf", SPEC, overwrite=True) as writer:
            writer.source = {"kind": kind} if kind else {}
            for name in names:
                writer.add(VideoFeatures(name, CLIP, CLIP, name, "stage_1_train"))
        return FeatureStore.open(tmp_path / "shelf")

    return make


def built(dataset, system):
    """The experiment of a system on a data set, and the configuration of its model."""
    layers = [read_settings(dataset), *system_layers(dataset, system)]
    experiment = Experiment.from_layers(*layers)
    return experiment, configure(experiment, **DIMS)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_read(name):
    assert preset_path(name).is_file()
    settings = read_settings(name)
    # Behind its system's preset, where it has one of its own: options need to know whose they are.
    system = name.rpartition("/")[2]
    behind = [{"system": system}] if system in SYSTEMS else []
    configure(Experiment.from_layers(*behind, settings), **DIMS)


def test_names():
    names = preset_names()
    assert names == sorted(names)
    assert {"official", "synthetic", "ucf_cls", "vggsound_cls/avca", *SYSTEMS} - {*names} == {
        "tcaf"
    }, "TCaF's own settings are the defaults"


@pytest.mark.parametrize("dataset", ["ucf_cls", "vggsound_cls", "activitynet_cls", "synthetic"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_can_be_built_on_every_data_set(dataset, system):
    experiment, _ = built(dataset, system)
    assert experiment.system == system


def test_order_of_the_layers():
    layers = system_layers("vggsound_cls", "avca")
    assert layers == [
        {"system": "avca"},
        {},
        read_settings("avca"),
        read_settings("vggsound_cls/avca"),
    ]
    # UCF has no file of its own for AVCA, TCaF none at all.
    assert system_layers("ucf_cls", "avca") == layers[:3]
    assert system_layers("ucf_cls", "tcaf") == [{"system": "tcaf"}, {}]
    with pytest.raises(TCAFError, match=r"there is no system 'avcaa'.*did you mean 'avca'"):
        system_layers("ucf_cls", "avcaa")


def test_what_a_system_asks_for_comes_before_its_presets(monkeypatch):
    asks = replace(SYSTEMS["avca"], settings={"training": {"epochs": 3, "beta1": 0.5}})
    monkeypatch.setitem(SYSTEMS, "avca", asks)
    experiment, _ = built("ucf_cls", "avca")
    assert (experiment.training.epochs, experiment.training.beta1) == (50, 0.5)


@pytest.mark.parametrize("system", ["avca", "avgzslnet", "cjme"])
def test_training_of_the_baselines(system):
    """500 batches of 256 an epoch, 50 epochs, Adam at 1e-3 with a plateau, on the paper's data."""
    for dataset in ("ucf_cls", "vggsound_cls", "activitynet_cls"):
        training = built(dataset, system)[0].training
        assert (training.epochs, training.batches_per_epoch, training.batch_size) == (50, 500, 256)
        assert (training.learning_rate, training.schedule) == (1e-3, "plateau")
        assert training.sampling == "balanced"
        assert training.weight_decay == (1e-5 if system == "avca" else 0)


@pytest.mark.parametrize(
    ("dataset", "encoder", "projection", "decoder"),
    [
        ("ucf_cls", 0.2, 0.3, 0.5),
        ("activitynet_cls", 0.2, 0.2, 0.1),
        ("vggsound_cls", 0.0, 0.0, 0.0),
    ],
)
def test_avca_as_published(dataset, encoder, projection, decoder):
    _, config = built(dataset, "avca")
    found = (config.dropout_encoder, config.dropout_projection, config.dropout_decoder)
    assert found == (encoder, projection, decoder)
    assert config.batch_norm_momentum == 0.99
    assert (config.num_heads, config.head_dim, config.feed_forward_dim) == (3, 100, 64)
    assert (config.token_dim, config.joint_dim) == (300, 64)


def test_cjme_as_published():
    dropouts = {name: built(name, "cjme")[1].dropout for name in ("ucf_cls", "activitynet_cls")}
    assert dropouts == {"ucf_cls": 0.2, "activitynet_cls": 0.2}
    assert built("vggsound_cls", "cjme")[1].dropout == 0
    assert built("ucf_cls", "cjme")[1].joint_dim == 64


@pytest.mark.parametrize("system", ["attention_fusion", "perceiver"])
@pytest.mark.parametrize("dataset", ["ucf_cls", "vggsound_cls", "activitynet_cls"])
def test_trained_as_tcaf_is(dataset, system):
    own, tcaf = built(dataset, system)[0], built(dataset, "tcaf")[0]
    assert {**vars(own), "system": "tcaf"} == vars(tcaf)
    if system == "perceiver":
        assert built(dataset, system)[1].num_latents == 64


def test_a_file_of_the_users(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[training]\nepochs = 3\n")
    assert read_settings(str(file)) == {"training": {"epochs": 3}}
    file.write_text("[training\n")
    with pytest.raises(TCAFError, match=r"mine.toml: expected a TOML file, but"):
        read_settings(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(TCAFError, match="expected a TOML file"):
        read_settings(str(file))
    with pytest.raises(TCAFError, match=r"neither a file nor a preset \(.*did you mean 'ucf_cls'"):
        read_settings("ucf_clss")


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_authors_data_is_known_by_its_classes(benchmark, shelf):
    names = tuple(sorted(load_benchmark(benchmark).words))
    store = shelf("official", names)
    assert dataset_of(store) == benchmark
    assert dataset_preset(store) == f"{benchmark}_cls"
    assert dataset_preset(store, "main") == f"{benchmark}_main"
    assert dataset_of(shelf("official", names[3:17])) == benchmark
    assert dataset_of(shelf("official", (*names[3:17], "A class of nobody's"))) is None


@pytest.mark.parametrize(
    ("kind", "dataset", "preset"),
    [("synthetic", "synthetic", "synthetic"), ("youtube8m", "yt8m", "yt8m")],
)
def test_other_data_is_known_by_its_source(kind, dataset, preset, shelf):
    store = shelf(kind)
    assert (dataset_of(store), dataset_preset(store)) == (dataset, preset)
    assert dataset_preset(store, "main") == preset


@pytest.mark.parametrize("kind", [None, "mine", "official"])
def test_data_that_no_preset_is_made_for(kind, shelf):
    store = shelf(kind)
    assert dataset_of(store) is None
    with pytest.raises(TCAFError, match=f"no preset is made for the data in .*shelf .{kind}.*TOML"):
        dataset_preset(store)


def test_the_tiny_store_is_synthetic(tiny_store):
    assert dataset_preset(tiny_store) == "synthetic"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("true", True),
        ("cosine", "cosine"),
        ('"cosine"', "cosine"),
        (" a b ", "a b"),
        ("[2, 3]", [2, 3]),
        ('["name", "said"]', ["name", "said"]),
        ("", ""),
        ("a=b", "a=b"),
    ],
)
def test_values_of_settings(text, value):
    found = settings_of([f"training.epochs={text}"], [])
    assert found == {"": {"training": {"epochs": value}}}
    assert type(found[""]["training"]["epochs"]) is type(value)


def test_settings_for_all_rows_and_for_one():
    given = (
        *("training.epochs=2", "avca.training.epochs=3", "training.batch_size=5"),
        *("avca.options.num_heads=7", "seed=11"),
    )
    assert settings_of(given, ["avca", "tcaf"]) == {
        "": {"training": {"epochs": 2, "batch_size": 5}, "seed": 11},
        "avca": {"training": {"epochs": 3}, "options": {"num_heads": 7}},
    }
    # What is no row is a section.
    assert settings_of(["avca.training.epochs=3"], ["tcaf"]) == {
        "": {"avca": {"training": {"epochs": 3}}}
    }
    assert settings_of([" training.epochs =2"], []) == {"": {"training": {"epochs": 2}}}
    assert settings_of([], ["avca"]) == {}


@pytest.mark.parametrize("text", ["nonsense", "=3", " = 3", "training.epochs"])
def test_settings_that_are_none(text):
    with pytest.raises(TCAFError, match=f"expected --set section.name=value, got '{text}'"):
        settings_of([text], ["avca"])


def test_a_section_is_no_value():
    with pytest.raises(TCAFError, match=r"--set training\.epochs=3: training has a value of"):
        settings_of(["training=3", "training.epochs=3"], [])


def test_settings_that_were_not_taken_are_told():
    assert untaken_settings(Experiment()) == []
    told = untaken_settings(Experiment(system="cjme"))
    assert "training.learning_rate = 0.001" in told
    assert not any(setting.startswith("training.epochs") for setting in told)  # 50 anyway
    taken = Experiment.from_layers(*system_layers("ucf_cls", "cjme"))
    assert untaken_settings(taken) == []
    changed = Experiment.from_layers(
        *system_layers("ucf_cls", "cjme"), {"training": {"learning_rate": 3e-3}}
    )
    assert untaken_settings(changed) == []


def test_the_folder_of_systems_presets_follows_data_or_name(tiny_store, tmp_path):
    copy = tmp_path / "vggsound_cls.toml"
    copy.write_text(preset_path("vggsound_cls").read_text(encoding="utf-8"))
    for name in ("vggsound_cls", str(copy), "vggsound_main"):
        assert systems_folder([name], tiny_store) == "vggsound_cls"
    # The tiny store is synthetic.
    assert systems_folder(["mine.toml"], tiny_store) == "synthetic"
