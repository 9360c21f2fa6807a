"""Layers of settings: what there is for data and systems, their order, what nobody reads."""

from dataclasses import replace

import numpy as np
import pytest

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import BENCHMARKS, load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.experiments.layers import (
    Layer,
    dataset_of,
    dataset_preset,
    experiment_layers,
    origins,
    resolve,
    system_layers,
)
from tcaf.experiments.presets import read_preset
from tcaf.systems.reads import unread_settings, without
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
    layers = [Layer(dataset, read_preset(dataset)), *system_layers(dataset, system)]
    experiment = resolve(layers)
    return experiment, configure(experiment, **DIMS)


@pytest.mark.parametrize("dataset", ["ucf_cls", "vggsound_cls", "activitynet_cls", "synthetic"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_can_be_built_on_every_data_set(dataset, system):
    experiment, _ = built(dataset, system)
    assert experiment.system == system


def test_what_a_system_changes_on_data():
    layers = system_layers("vggsound_cls", "avca")
    assert [(layer.name, layer.by_hand) for layer in layers] == [
        ("avca", False),
        ("avca", False),
        ("vggsound_cls/avca", False),
    ]
    assert layers[0].settings == {"system": "avca"}
    assert layers[2].settings == read_preset("vggsound_cls/avca")
    # The papers' settings are for `cls`; `main` has the same clips.
    assert system_layers("vggsound_main", "avca") == layers
    # UCF has no file of its own for AVCA, TCaF none at all.
    assert system_layers("ucf_cls", "avca") == system_layers(None, "avca") == layers[:2]
    assert system_layers("ucf_cls", "tcaf") == [Layer("tcaf", {"system": "tcaf"})]
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
    # But for what of the section model is about a transformer that it does not have.
    same = unread_settings(SYSTEMS[system], tcaf.to_json())
    assert without(own.to_json(), same) == {**without(tcaf.to_json(), same), "system": system}
    if system == "perceiver":
        assert built(dataset, system)[1].num_latents == 64


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
    assert (dataset_of(store), dataset_preset(store)) == (None, None)
    names = [layer.name for layer in experiment_layers(store)]
    assert names == ["tcaf", "options"]


def test_the_tiny_store_is_synthetic(tiny_store):
    assert dataset_preset(tiny_store) == "synthetic"


# --- The order ---


@pytest.fixture
def files(tmp_path):
    """Two files that set the same things, and each one thing alone."""
    for name, epochs, rest in (("a", 3, "batch_size = 5"), ("b", 4, "batches_per_epoch = 7")):
        (tmp_path / f"{name}.toml").write_text(f"[training]\nepochs = {epochs}\n{rest}\n")
    return [str(tmp_path / "a.toml"), str(tmp_path / "b.toml")]


def test_the_order_of_the_layers(tiny_store, files):
    layers = experiment_layers(
        tiny_store,
        config=[files[0], "official", files[1]],
        system="avca",
        options={"training": {"epochs": 9}},
    )
    names = [layer.name for layer in layers]
    assert names == [
        *("synthetic", "avca", "avca", "synthetic/avca"),
        *(files[0], "official", files[1], "options"),
    ]
    assert [layer.name for layer in layers if layer.by_hand] == [*files, "options"]
    training = resolve(layers).training
    assert (training.epochs, training.batch_size, training.batches_per_epoch) == (9, 5, 7)
    assert origins(layers)["training.epochs"] == "options"
    assert origins(layers)["training.batch_size"] == files[0]
    assert origins(layers)["training.learning_rate"] == "avca"
    assert origins(layers)["system"] == "avca"


def test_a_row_stands_between_files_and_options(tiny_store, files):
    row = Layer("mine", {"training": {"epochs": 2}, "model": {"attention": "full"}})
    options = {"training": {"batches_per_epoch": 11}}
    layers = experiment_layers(tiny_store, config=files[:1], row=row, options=options)
    assert [layer.name for layer in layers] == ["synthetic", "tcaf", files[0], "mine", "options"]
    experiment = resolve(layers)
    training = experiment.training
    assert (training.epochs, training.batch_size, training.batches_per_epoch) == (2, 5, 11)
    assert experiment.model.attention == "full"


@pytest.mark.parametrize(
    ("config", "system", "data", "chosen"),
    [
        ((), None, "synthetic", "tcaf"),
        (("yt8m",), None, "yt8m", "tcaf"),
        (("yt8m", "avca"), None, "yt8m", "avca"),
        (("yt8m", "avca", "yt8m/avca"), None, "yt8m", "avca"),
        (("yt8m", "yt8m/avca"), "avca", "yt8m", "avca"),
        (("avca",), "avca", "synthetic", "avca"),
    ],
)
def test_named_presets_choose_data_and_system(tiny_store, config, system, data, chosen):
    layers = experiment_layers(tiny_store, config=config, system=system)
    assert layers[0].name == data
    assert resolve(layers).system == chosen
    expected = [data, *(layer.name for layer in system_layers(data, chosen)), "options"]
    assert [layer.name for layer in layers] == expected


def test_a_file_may_name_the_system(tiny_store, tmp_path):
    (tmp_path / "mine.toml").write_text('system = "avca"\n[options]\nnum_heads = 5\n')
    layers = experiment_layers(tiny_store, config=[str(tmp_path / "mine.toml")])
    assert [layer.name for layer in layers][:4] == ["synthetic", "avca", "avca", "synthetic/avca"]
    assert resolve(layers).options["num_heads"] == 5


def test_the_split_that_is_typed_chooses_the_preset(shelf):
    store = shelf("official", tuple(sorted(load_benchmark("ucf").words)))
    options = {"data": {"split": "main"}}
    assert experiment_layers(store, options=options)[0].name == "ucf_main"
    assert experiment_layers(store)[0].name == "ucf_cls"


@pytest.mark.parametrize(
    ("source", "audio", "visual", "expected"),
    [
        ({"benchmark": "ucf"}, "vggish", "c3d:colours=release", "ucf"),
        ({"benchmark": "ucf"}, "vggish", "efficientnet_lite0", "videos"),
        ({"benchmark": "ucf"}, "logmel", "c3d", "videos"),
        ({}, "vggish", "c3d", "videos"),
    ],
)
def test_videos_of_a_benchmark_are_it_by_the_papers_networks(
    tmp_path, source, audio, visual, expected
):
    spec = replace(SPEC, audio_backbone=audio, visual_backbone=visual)
    with new_store(tmp_path / "store", spec) as writer:
        writer.source = {"kind": "videos", **source}
        writer.add(VideoFeatures("a", CLIP, CLIP, "a", "stage_1_train"))
    assert dataset_of(FeatureStore.open(tmp_path / "store")) == expected


@pytest.mark.parametrize(
    ("config", "system", "message"),
    [
        (("yt8m", "ucf_cls"), None, "several data sets: yt8m, ucf_cls"),
        (("avca", "cjme"), None, "several systems: avca, cjme"),
        (("avca",), "cjme", "--config avca and --system cjme ask for two systems"),
        (("yt8m/avca",), None, "yt8m/avca is for another system or data set than avca on synth"),
        (("syntetic",), None, r"neither a file nor a preset \(.*did you mean 'synthetic'"),
    ],
)
def test_presets_that_do_not_go_together(tiny_store, config, system, message):
    with pytest.raises(TCAFError, match=message):
        experiment_layers(tiny_store, config=config, system=system)


# --- What nobody reads ---


def test_what_a_person_wrote_must_be_read(tiny_store, tmp_path):
    (tmp_path / "mine.toml").write_text("[model]\nnum_heads = 4\n[data]\naverage = true\n")
    layers = experiment_layers(tiny_store, config=[str(tmp_path / "mine.toml")], system="avca")
    message = r"'model.num_heads', 'data.average' \(.*mine.toml\); did you mean 'options.num_heads'"
    with pytest.raises(TCAFError, match=message):
        resolve(layers)
    options = {"options": {"num_head": 3}}
    with pytest.raises(TCAFError, match=r"'options.num_head'; did you mean 'options.num_heads'\?"):
        resolve(experiment_layers(tiny_store, system="avca", options=options))


def test_what_of_a_preset_nobody_reads_is_not_kept(tiny_store):
    """The preset of the data speaks of TCaF's sizes, too."""
    experiment = resolve(experiment_layers(tiny_store, system="ridge"))
    assert experiment.changes() == {
        "system": "ridge",
        "text": {"name": "attributes"},
        "training": {"epochs": 20},
        "evaluation": {"gamma_grid": "margins"},
    }
    official = resolve(experiment_layers(tiny_store, config=["official"]))
    assert official.fidelity.layer_norm == "shared"
    assert official.fidelity.cjme_attention == "per_clip"


def test_the_preset_of_the_data_says_what_is_trained(shelf):
    store = shelf("videos")
    assert resolve(experiment_layers(store)).system == "textlda"
    tcaf = resolve(experiment_layers(store, system="tcaf"))
    assert (tcaf.system, tcaf.model.num_layers) == ("tcaf", 2)
    assert resolve(experiment_layers(shelf(""))).system == "tcaf"


def test_another_source_of_text_puts_aside_what_presets_say_of_one(shelf, tmp_path):
    store = shelf("videos")
    assert resolve(experiment_layers(store)).text.words == "english"
    attributes = {"text": {"source": "attributes", "path": "a.csv"}}
    text = resolve(experiment_layers(store, options=attributes)).text
    assert (text.source, text.path, text.words) == ("attributes", "a.csv", "")
    # What a person wrote stays, and is refused where it is of no use.
    (tmp_path / "mine.toml").write_text('[text]\nsource = "glove"\nwords = "english"\n')
    mine = experiment_layers(store, config=[str(tmp_path / "mine.toml")], options=attributes)
    assert resolve(mine).text.words == "english"
    same = {"text": {"source": "sentence"}}
    assert resolve(experiment_layers(store, options=same)).text.words == "english"
