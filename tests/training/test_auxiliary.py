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
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.files.digests import file_digest
from tcaf.settings.sections import DataSettings, TextSettings
from tcaf.systems.registry import SYSTEMS
from tcaf.text.class_text import embed_in_spaces
from tcaf.training.auxiliary import auxiliary_content, find_auxiliary
from tcaf.training.protocol import TwoStages
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
        assert (found.rarest(5) >= 0).all()
        assert found.num_known == 7
    assert strict.num_dropped == 3 * (7 + 6)


def test_a_clip_of_the_split_is_known_in_another_folder_too(made, asked, world, tmp_path):
    first, second, third = world.ids[:3]
    # The first by its id, the second by its name; a name that two clips have tells nothing.
    ids = (first, f"videos/{second}.mp4", f"a/{third}.mp4", f"b/{third}.mp4")
    labelled_store(tmp_path / "moved", world.spec, WORDS, known=ids)
    found = find_auxiliary(asked(auxiliary=str(tmp_path / "moved")), world)
    assert found.num_known == 2
    assert {found.store.ids[row] for row in found.rows} & set(ids) == set(ids[2:])


def test_groups_are_the_rarest_frequent_label(made, asked, world):
    found = find_auxiliary(asked(), world)
    # Label 0 has six videos, label 1 five, label 2 two, and one video has the last alone.
    labels = ((0, 1),) * 4 + ((0,), (0, 2), (1, 2), (2,))
    few = replace(found, labels=(*labels[:7], (2,)))
    assert few.rarest(5).tolist() == [1, 1, 1, 1, 0, 0, 1, -1]
    assert few.rarest().tolist() == [1, 1, 1, 1, 0, 2, 2, 2]
    # Of labels that are as rare as each other the first.
    assert replace(found, labels=((1, 2), (0, 2), (0, 1))).rarest().tolist() == [1, 0, 0]


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def some_apart(world, tmp_path_factory):
    """The world with twelve clips more that are in no part: three of an unseen class."""
    folder = tmp_path_factory.mktemp("some_apart") / "store"
    split = world.split("cls")
    with new_store(folder, world.spec) as writer:
        for video in world:
            writer.add(video)
        for number in range(12):
            name = split.val_unseen[0] if number < 3 else ""
            own = replace(world[number], id=f"more {number}", class_name=name, part="")
            writer.add(own)
        writer.splits.update(world.splits)
        writer.phrases.update(world.phrases)
    return FeatureStore.open(folder)


@pytest.mark.slow
def test_a_table_gives_labels_to_clips_in_no_part(asked, some_apart, made, tmp_path):
    unseen = made[2]
    table = tmp_path / "labels.csv"
    # 0 to 2 are of an unseen class whatever is said of them; 3 and 4 carry one's name.
    lines = [f"more {n},bell|drum" for n in (0, 1, 2)]
    lines += [f'more {n},"bell;{unseen.upper()}"' for n in (3, 4)]
    lines += ["more 5,bell | drum|bell", "more 6,drum;harp", "more 7,bell;harp", "more 8,gong"]
    known = some_apart.rows("cls", "stage_1_train")[0]
    lines += [f"{some_apart.ids[known]},bell", "nobody,bell"]
    table.write_text("id,labels\n" + "\n".join(lines) + "\n")
    found = find_auxiliary(asked(auxiliary=str(table), auxiliary_similarity=1.0), some_apart)
    assert found.names == ("bell", "drum", "harp")
    assert [some_apart.ids[row] for row in found.rows] == ["more 5", "more 6", "more 7"]
    assert found.labels == ((0, 1), (1, 2), (0, 2))
    assert found.dropped == {unseen.upper(): unseen, made_name(some_apart): made_name(some_apart)}
    counts = (found.num_dropped, found.num_known, found.num_rare, found.missing)
    assert counts == (5, 1, 1, ("nobody",))
    assert found.content == file_digest(table)
    train(asked(auxiliary=str(table), auxiliary_similarity=1.0), some_apart, tmp_path / "run")
    kept = Run(tmp_path / "run").provenance["auxiliary"]
    assert (kept["videos"], kept["videos_missing"]) == (3, ["nobody"])


def made_name(store):
    """The unseen class that clips in no part are of."""
    return store.split("cls").val_unseen[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("more 5,bell||drum\n", r"labels\.csv, line 2: expected labels with \| or ; between them"),
        ("more 5,bell\nmore 5,drum\n", r"line 3: clip 'more 5' is listed twice"),
        ("who,bell\nelse,drum\n", r"lists 2 clips, the first 'who', and none of them is in store"),
        ("more 5,\n", "line 2: expected a labels, found none"),
    ],
)
def test_tables_that_are_refused(lines, message, asked, some_apart, tmp_path):
    (tmp_path / "labels.csv").write_text("id,labels\n" + lines)
    with pytest.raises(TCAFError, match=message):
        find_auxiliary(asked(auxiliary=str(tmp_path / "labels.csv")), some_apart)


def test_labels_without_a_phrase_in_a_file_have_their_name(made, asked, world, tmp_path):
    names = world.split("cls").classes
    lines = [f'"{name}","{name}"' for name in names]
    table = tmp_path / "phrases.csv"
    table.write_text("name,phrase\n" + "\n".join([*lines, "harp,drum"]) + "\n")
    experiment = asked(auxiliary_similarity=1.0)
    plain = find_auxiliary(experiment, world)
    experiment = replace(experiment, text=replace(experiment.text, phrases_file=str(table)))
    found = find_auxiliary(experiment, world)
    assert found.names == plain.names
    rows = [plain.names.index("drum" if name == "harp" else name) for name in plain.names]
    np.testing.assert_allclose(found.text["text"], plain.text["text"][rows])
    # The row of a label is one that is read: no warning, which would be an error.
    Run(tmp_path / "run").start(experiment, world, resume=False)


@pytest.mark.parametrize(
    "system",
    [name for name, own in SYSTEMS.items() if own.auxiliary_fit is None and not own.training_free],
)
def test_labels_are_further_classes_to_other_systems(system, asked, world, tmp_path):
    asking = replace(asked(auxiliary_similarity=1.0), system=system, options={})
    spaces = dict.fromkeys(SYSTEMS[system].spaces, asking.text)
    asking = replace(asking, text_spaces={s: t for s, t in spaces.items() if s != "text"})
    text = embed_in_spaces(spaces, world.split("cls").classes, world)
    protocol = TwoStages(asking, world, text.by_name(world.split("cls").classes))
    stage = protocol.new_stage(1)
    further, part = protocol.auxiliary, stage.part
    seen = len(protocol.split.stage_1.seen)
    own = TwoStages(replace(asking, data=DataSettings()), world, protocol.text).new_stage(1).part
    assert len(part.rows) == len(own.rows) + len(further.rows)
    assert part.labels[: len(own.rows)].tolist() == own.labels.tolist()
    assert (part.labels[len(own.rows) :] - seen).tolist() == further.rarest().tolist()
    for space, own_text in own.class_text.items():
        expected = np.concatenate([own_text, further.text[space]])
        np.testing.assert_array_equal(part.class_text[space], expected)
    chosen = np.array([len(own.rows) + 2, 0, len(own.rows)])
    batch = part.load(chosen)
    assert batch.known_labels.tolist() == part.labels[chosen].tolist()
    video = further.store[int(further.rows[2])]
    if batch.audio.lens[0] == len(video.audio):  # systems of averages read the mean alone
        np.testing.assert_array_equal(batch.audio.tokens[: len(video.audio)], video.audio)
    assert np.isfinite(stage.run_epoch(1, 1e-3)["loss"])


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
        (
            {},
            {"source": "stored", "path": ""},
            "needs a text.source that embeds any label, such as sentence; got stored",
        ),
        ({"auxiliary_similarity": 1e-9}, {}, "no label of .* has 2 videos left, after"),
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


@pytest.mark.slow
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
    ridge = ("--out", tmp_path / "ridge", "--system", "ridge")
    status, output = tcaf("train", *further, *few, *ridge)
    assert status == 0
    assert f"near an unseen class, which are fife ({unseen}), " in output.err
