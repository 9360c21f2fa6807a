"""Further labelled videos of a run: what is kept of them, and that unseen classes stay unseen."""

import json
import re
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest

from tcaf import ZeroShotClassifier
from tcaf.commands import entry as cli
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.settings.sections import DataSettings, TextSettings
from tcaf.training.auxiliary import auxiliary_content, find_auxiliary
from tcaf.training.run import Run, train
from write_labelled import labelled_store

WORDS = ("bell", "drum", "harp", "lute", "gong", "fife")


@pytest.fixture(scope="module")
def world(tiny_store, tmp_path_factory):
    """A copy, since embeddings of class text are kept with the store."""
    folder = tmp_path_factory.mktemp("world") / "store"
    copytree(tiny_store.path, folder)
    return FeatureStore.open(folder)


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A table of words in which fife is nearly the first unseen class, and further videos."""
    folder = tmp_path_factory.mktemp("auxiliary")
    split = world.split("cls")
    unseen, seen = split.test_unseen[0], split.train[0]
    rng = np.random.default_rng(0)
    names = sorted({word for name in split.classes for word in re.findall(r"\w+", name)})
    vectors = {word: rng.normal(size=17) for word in (*names, *WORDS)}
    of_unseen = [
        vectors[word] / np.linalg.norm(vectors[word]) for word in re.findall(r"\w+", unseen)
    ]
    vectors["fife"] = np.mean(of_unseen, axis=0) + 0.02 * rng.normal(size=17)
    lines = [f"{w} {' '.join(f'{x:.5f}' for x in v)}\n" for w, v in vectors.items()]
    (folder / "words.txt").write_text("".join(lines))
    labels = (*WORDS, unseen, seen)
    store = labelled_store(folder / "further", world.spec, labels, known=world.ids[:7])
    return folder, store, unseen, seen


@pytest.fixture
def asked(made, tiny_experiment):
    def build(**data):
        text = TextSettings(source="glove", path=str(made[0] / "words.txt"))
        data = DataSettings(**{"auxiliary": str(made[0] / "further"), **data})
        base = tiny_experiment(training={"epochs": 2})
        return replace(base, system="textlda", data=data, text=text, options={"num_random": 7})

    return build


def test_labels_near_unseen_classes_are_dropped_with_their_videos(made, asked, world):
    _, store, unseen, seen = made
    strict = find_auxiliary(asked(auxiliary_similarity=0.9), world)
    assert strict.dropped == {"fife": unseen, unseen: unseen}
    names_alone = find_auxiliary(asked(auxiliary_similarity=1.0), world)
    assert names_alone.dropped == {unseen: unseen}
    for found in (strict, names_alone):
        left = [*(set(WORDS) - set(found.dropped))]
        assert list(found.names) == sorted(left)
        videos = [store[row] for row in found.rows.tolist()]
        assert not any(set(video.labels) & set(found.dropped) for video in videos)
        assert not {video.id for video in videos} & set(world.ids)
        # Three videos of every pair of labels that are left, those with the seen class among them.
        pairs = (len(left) + 1) * len(left) // 2
        assert len(videos) == 3 * pairs
        for video, own in zip(videos, found.labels, strict=True):
            assert {found.names[n] for n in own} == set(video.labels) - {seen}
        assert (found.groups >= 0).all()
        assert found.num_known == 7
    assert strict.num_dropped == 3 * (7 + 6)


def test_groups_are_the_rarest_frequent_label(made, asked, world):
    found = find_auxiliary(asked(), world)
    # Label 0 has six videos, label 1 five, label 2 two, and one video has the last alone.
    labels = ((0, 1),) * 4 + ((0,), (0, 2), (1, 2), (2,))
    assert replace(found, labels=(*labels[:7], (2,))).groups.tolist() == [1, 1, 1, 1, 0, 0, 1, -1]


def test_a_run_learns_from_them_and_says_so(made, asked, world, tmp_path):
    folder, _, unseen, _ = made
    train(asked(auxiliary_similarity=0.9), world, tmp_path / "run")
    train(asked(auxiliary=""), world, tmp_path / "bare")
    found = Run(tmp_path / "run").provenance["auxiliary"]
    assert found["labels_dropped"] == {"fife": unseen, unseen: unseen}
    assert (found["labels"], found["videos_known"]) == (5, 7)
    assert found["content"] == auxiliary_content(asked())
    assert "auxiliary" not in Run(tmp_path / "bare").provenance
    read = [ZeroShotClassifier.load(tmp_path / name).classify(world[3]) for name in ("run", "bare")]
    assert read[0] != read[1]
    assert train(asked(auxiliary_similarity=0.9), world, tmp_path / "run", resume=True)
    labelled_store(folder / "other", world.spec, WORDS)
    (folder / "further").rename(folder / "away")
    (folder / "other").rename(folder / "further")
    try:
        with pytest.raises(TCAFError, match=r"cannot resume .*further holds other videos"):
            train(asked(auxiliary_similarity=0.9), world, tmp_path / "run", resume=True)
    finally:
        (folder / "further").rename(folder / "other")
        (folder / "away").rename(folder / "further")


@pytest.mark.parametrize(
    ("data", "text", "message"),
    [
        ({"auxiliary": "nowhere"}, {}, "no feature store at nowhere"),
        (
            {"auxiliary": "own"},
            {},
            "the clips of store .* have no labels; `tcaf prepare youtube8m`",
        ),
        ({"auxiliary": "others"}, {}, "data.auxiliary: expected features of the kind"),
        ({}, {"source": "stored", "path": ""}, "needs a text.source that embeds any label"),
        ({"auxiliary_similarity": 1e-9}, {}, "no label of store .* has 2 videos left, after"),
    ],
)
def test_what_cannot_be_learnt_from(data, text, message, asked, world, tmp_path):
    if data.get("auxiliary") == "own":
        data = {"auxiliary": str(world.path)}
    if data.get("auxiliary") == "others":
        spec = replace(world.spec, audio_dim=3)
        data = {"auxiliary": str(labelled_store(tmp_path / "others", spec, WORDS).path)}
    experiment = asked(**data)
    experiment = replace(experiment, text=replace(experiment.text, **text))
    with pytest.raises(TCAFError, match=message):
        find_auxiliary(experiment, world)


@pytest.mark.usefixtures("unchecked")
def test_from_the_command_line(made, world, tmp_path, capsys):
    folder, _, unseen, _ = made

    def tcaf(command, *arguments):
        text = ("--text.source", "glove", "--text.path", folder / "words.txt")
        status = cli.main([command, *map(str, ("--store", world.path, *text, *arguments))])
        return status, capsys.readouterr()

    further, out = ("--auxiliary", folder / "further"), ("--out", tmp_path / "run")
    few = ("--training.epochs", "1", "--data.auxiliary_similarity", "0.9", "--json")
    status, output = tcaf("train", *further, *out, *few, "--system", "textlda")
    assert (status, json.loads(output.out)["seed"]) == (0, 0)
    assert f"near an unseen class, which are fife ({unseen}), " in output.err
    status, output = tcaf("train", *further, *out, "--system", "ridge")
    error = "tcaf: system 'ridge' does not read 'data.auxiliary'; leave it out\n"
    assert (status, output.err) == (2, error)
    rows = ("--table", "1", "--models", "textlda", "ridge", "--seeds", "0")
    status, output = tcaf("reproduce", *rows, "--data.auxiliary", folder / "further")
    assert status == 2
    assert "row 'ridge' does not learn from data.auxiliary" in output.err
