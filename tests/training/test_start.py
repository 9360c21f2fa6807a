"""Classes of a ready model that a run starts from: which are kept, and that unseen stays unseen."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tcaf import ZeroShotClassifier
from tcaf.commands import entry as cli
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.settings.sections import DataSettings, TextSettings
from tcaf.text.class_text import embed_classes
from tcaf.training import start
from tcaf.training.protocol import TwoStages
from tcaf.training.run import Run, train

WORDS = ("bell", "drum", "harp", "lute", "gong", "fife", "horn")
VISUAL_DIM = 7


def as_of(store, folder, backbone):
    """Returns a copy of a store whose visual features are said to be of another backbone."""
    spec = replace(store.spec, visual_backbone=backbone)
    with new_store(folder, spec) as writer:
        for video in store:
            writer.add(replace(video, visual_backbone=backbone))
        writer.splits.update(store.splits)
        writer.phrases.update(store.phrases)
        writer.add_text("attributes", store.text("attributes"))
    return FeatureStore.open(folder)


@pytest.fixture(scope="module")
def world(tiny_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "store"
    return as_of(tiny_store, folder, "efficientnet_lite0:frames=4")


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A table of words in which fife is nearly the first unseen class, and a network's classes."""
    folder = tmp_path_factory.mktemp("start")
    split = world.split("cls")
    unseen, seen = split.test_unseen[0], split.train[0]
    rng = np.random.default_rng(0)
    words = sorted({word for name in split.classes for word in re.findall(r"\w+", name)})
    vectors = {word: rng.normal(size=17) for word in (*words, *WORDS)}
    of_unseen = [vectors[w] / np.linalg.norm(vectors[w]) for w in re.findall(r"\w+", unseen)]
    vectors["fife"] = np.mean(of_unseen, axis=0) + 0.02 * rng.normal(size=17)
    lines = [f"{w} {' '.join(f'{x:.5f}' for x in v)}\n" for w, v in vectors.items()]
    (folder / "words.txt").write_text("".join(lines))
    names = {
        "bell": ("bell", "gong bell"),
        "drum": ("drum",),
        "harp": ("harp", "fife"),
        "lute": ("lute", unseen.upper()),
        "gong": ("gong", seen.upper()),
        "horn": ("horn", "drum horn", "drum"),
    }
    return folder / "words.txt", names, unseen


@pytest.fixture(autouse=True)
def network(made, monkeypatch):
    """Six classes of a small network; words are enough for their names."""
    rows = torch.from_numpy(np.random.default_rng(5).normal(size=(6, VISUAL_DIM))).float()
    monkeypatch.setattr(start, "classifier_rows", lambda: rows)
    monkeypatch.setattr(start, "imagenet_names", lambda: made[1])
    monkeypatch.setattr(start, "ANY_PHRASE", ("sentence", "glove"))
    return rows


@pytest.fixture
def asked(made, tiny_experiment):
    def build(text=(), **data):
        given = TextSettings(**{"source": "glove", "path": str(made[0]), **dict(text)})
        data = DataSettings(**{"start": "imagenet", "auxiliary_similarity": 0.9, **data})
        base = tiny_experiment(training={"epochs": 2})
        return replace(base, system="textlda", data=data, text=given, options={"time": "off"})

    return build


def test_classes_near_unseen_ones_are_dropped_whichever_name_it_is(made, asked, world, network):
    _, names, unseen = made
    found = start.find_start(asked(), world)
    assert found.dropped == {"harp": unseen, "lute": unseen}
    assert (found.names, found.seen) == (("bell", "drum", "horn"), ("gong",))
    np.testing.assert_array_equal(found.rows, network[[0, 1, 5]])
    own = {name: names[name] for name in found.names}
    text = embed_classes(asked().text, found.names, None, own)
    np.testing.assert_allclose(found.text["text"], text, atol=1e-6)
    names_alone = start.find_start(asked(auxiliary_similarity=1.0), world)
    assert names_alone.dropped == {"lute": unseen}
    assert start.find_start(asked(start=""), world) is None


def test_a_list_of_words_counts_for_them_too(made, asked, world, tmp_path):
    (tmp_path / "list.txt").write_text("bell\ngong\nfife\n")
    settings = {"words": str(tmp_path / "list.txt"), "words_temperature": 0.3}
    found = start.find_start(asked(settings), world)
    own = {name: made[1][name] for name in found.names}
    text = embed_classes(asked(settings).text, found.names, None, own)
    assert text.shape == (3, 3)
    np.testing.assert_allclose(found.text["text"], text, atol=1e-6)


@pytest.mark.slow
def test_a_run_learns_from_them_and_says_so(made, asked, world, tmp_path, monkeypatch, network):
    train(asked(), world, tmp_path / "run")
    train(asked(start=""), world, tmp_path / "bare")
    kept = Run(tmp_path / "run").provenance["start"]
    assert kept == {
        "model": "imagenet",
        "content": start.start_content(asked()),
        "classes": 3,
        "classes_seen": ["gong"],
        "classes_dropped": {"harp": made[2], "lute": made[2]},
    }
    assert "start" not in Run(tmp_path / "bare").provenance
    read = [ZeroShotClassifier.load(tmp_path / name).classify(world[3]) for name in ("run", "bare")]
    assert read[0] != read[1]
    assert train(asked(), world, tmp_path / "run", resume=True)
    monkeypatch.setattr(start, "classifier_rows", lambda: network + 1)
    with pytest.raises(TCAFError, match=r"cannot resume .* ready model imagenet is another than"):
        train(asked(), world, tmp_path / "run", resume=True)


def test_both_stages_are_given_them(asked, world):
    experiment = asked()
    names = world.split("cls").classes
    text = dict(zip(names, embed_classes(experiment.text, names, world), strict=True))
    protocol = TwoStages(experiment, world, {"text": text})
    for number, classes in ((1, protocol.split.stage_1), (2, protocol.split.stage_2)):
        stage = protocol.new_stage(number)
        stage.run_epoch(1, 0.0)
        assert len(stage.model.read_out("visual").source_text) == len(classes.seen) + 3


@pytest.mark.parametrize(
    ("backbone", "text", "data", "message"),
    [
        ("c3d", {}, {}, r"needs visual features of efficientnet_lite0 .* those of 'c3d' in store"),
        ("efficientnet_lite0:weights=random", {}, {}, "got those of 'efficientnet_lite0:weights="),
        ("efficientnet_lite0:frames=1,weights=0a1b2c3d", {}, {}, "with the weights that come with"),
        ("somebody's", {}, {}, 'got those of "somebody\'s"'),
        (
            "efficientnet_lite0",
            {"source": "stored", "path": ""},
            {},
            "one of sentence, glove; got stored",
        ),
        ("efficientnet_lite0", {"source": "npy"}, {}, "one of sentence, glove; got npy"),
        (
            "efficientnet_lite0",
            {},
            {"auxiliary_similarity": 1e-9},
            "no class of imagenet is left: 6 are near to unseen",
        ),
    ],
)
def test_what_cannot_be_started_from(backbone, text, data, message, asked, tiny_store, tmp_path):
    store = as_of(tiny_store, tmp_path / "store", backbone)
    with pytest.raises(TCAFError, match=message):
        start.find_start(asked(text, **data), store)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_from_the_command_line(made, world, tmp_path, capsys):
    def tcaf(*arguments):
        text = ("--text.source", "glove", "--text.path", made[0])
        few = ("--training.epochs", "1", "--data.auxiliary_similarity", "0.9", "--json")
        given = ("--store", world.path, "--start", "imagenet", *text, *few, *arguments)
        return cli.main(["train", *map(str, given)]), capsys.readouterr()

    short = ("--options.time", "off", "--system", "textlda")
    status, output = tcaf(*short, "--out", tmp_path / "run")
    assert (status, json.loads(output.out)["seed"]) == (0, 0)
    said = " ".join(output.err.split())
    assert "start: 3 classes of imagenet; not used: 2 near an unseen class: 'harp" in said
    assert f"'harp ({made[2]})', 'lute ({made[2]})'; 1 called like a seen one: 'gong' (all" in said
    status, output = tcaf("--system", "ridge", "--out", tmp_path / "ridge")
    assert status == 2
    assert "data.start" in output.err
    assert not (tmp_path / "ridge").exists()
