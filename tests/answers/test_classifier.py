"""Answers for clips: ranks, probabilities, gamma, and clips that lack something."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tcaf import ZeroShotClassifier
from tcaf.commands import entry as cli
from tcaf.data.classes import ClassSet
from tcaf.data.features import VideoFeatures
from tcaf.errors import TCAFError
from tcaf.evaluation.decisions import read_decisions
from tcaf.extract.backbones import BACKBONES
from tcaf.settings.sections import TextSettings
from tcaf.systems.registry import SYSTEMS
from tcaf.text.spaces import ClassText
from tcaf.training.model_file import TrainedModel, load_model, save_model
from tcaf.training.run import train
from write_clip_run import COLOURS, write_run

TRAINING = {"epochs": 3, "batches_per_epoch": 7, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def run(tiny_store, tiny_experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("classifier") / "run"
    train(tiny_experiment(training=TRAINING, evaluation={"batch_size": 7}), tiny_store, out)
    return out


@pytest.fixture
def classifier(run):
    return ZeroShotClassifier.load(run)


@pytest.fixture(scope="module")
def clips(tiny_store):
    """Test clips, every third of them with one modality alone."""
    rows = tiny_store.rows("cls", "test")[::4]
    videos = [tiny_store[row] for row in rows.tolist()]
    videos[1::3] = [replace(video, audio=video.audio[:0]) for video in videos[1::3]]
    videos[2::3] = [replace(video, visual=video.visual[:0]) for video in videos[2::3]]
    return videos


@pytest.fixture
def backbones():
    """Leaves the backbones as they were, in their order."""
    kept = dict(BACKBONES)
    yield BACKBONES
    BACKBONES.clear()
    BACKBONES.update(kept)


def answers(ranking):
    """Answers by name."""
    return {answer.name: answer for answer in ranking.answers}


def test_it_answers_what_the_test_answered(run, classifier, tiny_store):
    kept = read_decisions(run / "predictions.parquet")
    rows = tiny_store.rows("cls", "test")
    found = classifier.classify_store(tiny_store, rows, top_k=1)
    assert [p.id for p in found] == list(kept.ids)
    decided = kept.decisions.predicted(kept.gamma)
    assert [p.answers[0].name for p in found] == [kept.classes.names[i] for i in decided]
    assert [p.answers[0].seen for p in found] == [
        kept.classes.names[i] in kept.classes.seen for i in decided
    ]
    # And the same from memory.
    again = classifier.classify([tiny_store[row] for row in rows.tolist()], top_k=1)
    assert again == found


def test_it_scores_as_evaluate_does(run, classifier, tiny_store, capsys):
    assert cli.main(["evaluate", str(run), "--store", str(tiny_store.path), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    rows = tiny_store.rows("cls", "test")
    right = {}
    for ranking, name in zip(
        classifier.classify_store(tiny_store, rows), tiny_store.class_names[rows], strict=True
    ):
        right.setdefault(name, []).append(ranking.answers[0].name == name)
    for half, is_seen in (("seen", True), ("unseen", False)):
        of_class = [
            np.mean(r)
            for n, r in right.items()
            if (n in classifier.trained.classes.seen) == is_seen
        ]
        assert np.mean(of_class) == pytest.approx(expected[half])


def test_ranks_and_probabilities_by_hand(classifier, clips):
    gamma, temperature = classifier.gamma, classifier.temperature
    assert temperature == classifier.trained.temperature
    for ranking in classifier.classify(clips, top_k=100):
        assert len(ranking.answers) == len(classifier.classes) == 12
        added = [a.distance + gamma * a.seen for a in ranking.answers]
        assert added == sorted(added)
        shares = [math.exp(-value / temperature) for value in added]
        expected = [share / sum(shares) for share in shares]
        assert [a.probability for a in ranking.answers] == pytest.approx(expected, rel=1e-6)
        assert sum(a.probability for a in ranking.answers) == pytest.approx(1)


def test_a_batch_is_one_by_one(classifier, clips):
    assert len(clips) > 7
    together = classifier.classify(clips, top_k=12)
    for clip, found in zip(clips, together, strict=True):
        alone = classifier.classify(clip, top_k=12)
        assert (alone.id, found.id) == (clip.id, clip.id)
        for name, answer in answers(alone).items():
            assert answer.distance == pytest.approx(answers(found)[name].distance, abs=1e-5)
    assert classifier.classify([]) == []


def test_order_of_classes_is_of_no_account(classifier, clips):
    before = classifier.classify(clips, top_k=12)
    shuffled = [classifier.classes[i] for i in np.random.default_rng(0).permutation(12)]
    classifier.set_classes(shuffled)
    assert classifier.classes == tuple(shuffled)
    for old, new in zip(before, classifier.classify(clips, top_k=12), strict=True):
        assert [a.name for a in old.answers] == [a.name for a in new.answers]
        for name, answer in answers(old).items():
            assert answer.probability == pytest.approx(answers(new)[name].probability, abs=1e-6)


def test_equal_classes_are_ordered_by_name(run, clips):
    trained = load_model(run)
    matrix = trained.class_text["text"]
    alike = ClassText({"text": matrix[:1].expand_as(matrix).clone()})
    same = ZeroShotClassifier(replace(trained, class_text=alike, gamma=0.0))
    found = same.classify(clips[0], top_k=12).answers
    names = sorted(trained.classes.names, key=lambda n: (n not in trained.classes.seen, n))
    assert [a.name for a in found] == names
    assert [a.probability for a in found] == pytest.approx([1 / 12] * 12)


def test_seen_bias_moves_gamma(classifier, clips):
    far = classifier.classify(clips, top_k=12, seen_bias=1e3)
    near = classifier.classify(clips, top_k=12, seen_bias=-1e3)
    num_unseen = sum(name not in classifier.trained.classes.seen for name in classifier.classes)
    assert num_unseen > 0
    for few, many in zip(far, near, strict=True):
        assert [a.seen for a in few.answers] == [False] * num_unseen + [True] * (12 - num_unseen)
        assert [a.seen for a in many.answers] == [True] * (12 - num_unseen) + [False] * num_unseen
        # Distances are the model's, whatever is added.
        assert {n: a.distance for n, a in answers(few).items()} == {
            n: a.distance for n, a in answers(many).items()
        }


def test_classes_can_be_fewer_and_called_otherwise(classifier, clips):
    before = answers(classifier.classify(clips[0], top_k=12))
    first, last = classifier.classes[0], classifier.classes[-1]
    classifier.set_classes([last.upper(), first])
    found = answers(classifier.classify(clips[0], top_k=12))
    assert set(found) == {last.upper(), first}
    assert found[first].distance == pytest.approx(before[first].distance, abs=1e-5)
    assert found[last.upper()].distance == pytest.approx(before[last].distance, abs=1e-5)
    assert found[last.upper()].seen == before[last].seen
    assert sum(a.probability for a in found.values()) == pytest.approx(1)
    assert set(classifier.known) == set(before)


def test_a_refused_name_leaves_the_classes_as_they_were(classifier, clips):
    before = classifier.classes, classifier.classify(clips[0])
    with pytest.raises(TCAFError, match="no class 'zebra'"):
        classifier.set_classes([*classifier.classes, "zebra"])
    assert (classifier.classes, classifier.classify(clips[0])) == before


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_every_system_answers_clips_without_a_modality(
    system, small_model, tiny_store, tiny_experiment, clips
):
    """Without training: what matters is that nothing breaks, alone and in a batch."""
    from tcaf.training.protocol import TwoStages

    spaces = SYSTEMS[system].spaces
    further = {space: TextSettings() for space in spaces if space != "text"}
    experiment = replace(tiny_experiment(system=system), text_spaces=further)
    names = tuple(tiny_store.text("attributes"))
    draw = np.random.default_rng(0)
    # The text of a modality has the size of its features.
    text = {
        space: {n: draw.normal(size=tiny_store.spec.dim(space)).astype(np.float32) for n in names}
        for space in further
    }
    text |= {"text": tiny_store.text("attributes")} if "text" in spaces else {}
    stage = TwoStages(experiment, tiny_store, text).new_stage(2)
    classes = ClassSet(names, frozenset(names[:7]))
    own = ClassText.of(text, names)
    made = TrainedModel(system, stage.model, tiny_store.spec, classes, own, 0.1, experiment, 0.5)
    classifier = ZeroShotClassifier(made)
    together = classifier.classify(clips, top_k=12)
    for clip, found in zip(clips, together, strict=True):
        alone = classifier.classify([clip], top_k=12)[0]
        for name, answer in answers(alone).items():
            assert answer.distance == pytest.approx(answers(found)[name].distance, abs=1e-4)


def test_a_model_of_one_modality_refuses_clips_without_it(
    tiny_store, tiny_experiment, tmp_path, clips
):
    experiment = tiny_experiment(
        model={"modalities": "audio"}, training={"epochs": 1, "batches_per_epoch": 1}
    )
    train(experiment, tiny_store, tmp_path / "run")
    heard = ZeroShotClassifier.load(tmp_path / "run")
    with pytest.raises(TCAFError, match=rf"clip '{clips[1].id}' has no audio token"):
        heard.classify(clips[:2])
    # What it does not look at may be of any size.
    other = replace(clips[0], visual=np.zeros((2, 3), np.float32))
    bare = replace(clips[0], visual=clips[0].visual[:0])
    assert heard.classify(other) == heard.classify(bare)


def test_features_of_another_backbone_are_refused(classifier, clips):
    """Even if they have the size of the model's own."""
    own = classifier.trained.spec.audio_backbone
    assert clips[0].audio_backbone == own
    for modality, message in (
        ("audio", f"expected audio features of '{own}', got those of 'logmel'"),
        ("visual", "expected visual features of '.*', got those of 'logmel'"),
    ):
        other = replace(clips[0], **{f"{modality}_backbone": "logmel"})
        with pytest.raises(TCAFError, match=f"clip '{clips[0].id}': {message}"):
            classifier.classify(other)
    # Of features whose origin nobody knows the size is all that can be looked at.
    unknown = replace(clips[0], audio_backbone="", visual_backbone="")
    assert classifier.classify(unknown) == classifier.classify(clips[0])
    # Nothing was made by the backbone of a modality that is not there.
    bare = replace(clips[0], audio=clips[0].audio[:0])
    deaf = replace(bare, audio_backbone="logmel")
    assert classifier.classify(deaf) == classifier.classify(bare)


@pytest.mark.parametrize(
    ("modality", "other", "codec", "head", "kind"),
    [
        ("audio", "colours", b"mp4a", b"esds", "audio"),
        ("visual", "logmel", b"avc1", b"avcC", "video"),
    ],
)
def test_only_what_the_model_reads_is_made_of_files(
    modality, other, codec, head, kind, tmp_path, tiny_experiment, backbones
):
    pytest.importorskip("av")
    import damaged

    training = {"epochs": 1, "batches_per_epoch": 1}
    write_run(tmp_path, tiny_experiment(model={"modalities": modality}, training=training))
    classifier = ZeroShotClassifier.load(tmp_path / "run")
    backbones["colours"] = COLOURS
    del backbones[other]
    clip = damaged.write_clip(tmp_path / "a.mp4", 2)
    features = classifier.features(clip)
    assert list(classifier.backbones.opened) == [modality]
    # 2 s, and the rest of AAC's last block: two tokens of 0.96 s, three of 0.64 s.
    lens = {"audio": (2, 0), "visual": (0, 3)}[modality]
    assert (features.audio.shape, features.visual.shape) == ((lens[0], 128), (lens[1], 6))
    assert (features.id, classifier.classify(clip).id) == (str(clip), str(clip))
    clip.write_bytes(clip.read_bytes().replace(codec, b"zzzz").replace(head, b"zzzz"))
    with pytest.raises(TCAFError, match=rf"no decoder \(for the {kind} track\)"):
        classifier.classify(clip)
    half = {"audio": {"sample_rate": None}, "visual": {"seconds": 0, "audio_seconds": 1}}
    bare = damaged.write_clip(tmp_path / "b.mp4", **half[modality])
    with pytest.raises(TCAFError, match=f"has no {modality} token, which is all"):
        classifier.classify(bare)


def test_what_does_not_fit_is_named(classifier, clips, tiny_store):
    wide = replace(clips[0], visual=np.zeros((2, 3), np.float32))
    with pytest.raises(TCAFError, match=rf"{clips[0].id}.*visual tokens of shape \(len, 7\)"):
        classifier.classify(wide)
    nothing = VideoFeatures("void", np.zeros((0, 5)), np.zeros((0, 7)))
    with pytest.raises(TCAFError, match="'void' has no audio or visual token"):
        classifier.classify(nothing)
    for wrong in ({"top_k": 0}, {"seen_bias": math.nan}):
        with pytest.raises(TCAFError, match="expected top_k from 1 on and a finite seen_bias"):
            classifier.classify([], **wrong)


@pytest.mark.slow
def test_weights_of_what_is_not_read_are_refused(tmp_path, tiny_experiment):
    write_run(tmp_path, tiny_experiment(model={"modalities": "audio"}))
    classifier = ZeroShotClassifier.load(tmp_path / "run", visual_weights="mine.pth")
    with pytest.raises(TCAFError, match=r"--visual_weights mine\.pth: the model reads no visual"):
        classifier.classify("clip.mp4")


def test_features_that_no_backbone_makes_want_no_files(classifier):
    with pytest.raises(TCAFError, match=r"audio features of 'synthetic_audio'.*--store"):
        classifier.classify("clip.mp4")


def test_a_model_without_gamma_or_temperature_says_so(run, tmp_path, clips):
    bare = replace(load_model(run), gamma=None, temperature=None)
    save_model(tmp_path / "model.safetensors", bare)
    classifier = ZeroShotClassifier.load(tmp_path / "model.safetensors")
    assert [note.partition(":")[0] for note in classifier.notes] == [
        "the model holds no gamma",
        "the model holds no temperature",
    ]
    found = classifier.classify(clips[0], top_k=12).answers
    assert [a.probability for a in found] == [None] * 12
    distances = [a.distance for a in found]
    assert distances == sorted(distances)
    with pytest.raises(TCAFError, match="saved without its settings"):
        ZeroShotClassifier(replace(bare, experiment=None))


def test_a_model_file_alone_knows_its_classes(run, tmp_path, clips, classifier):
    shutil.copy(run / "model.safetensors", tmp_path / "m.safetensors")
    alone = ZeroShotClassifier.load(tmp_path / "m.safetensors")
    assert alone.classify(clips) == classifier.classify(clips)
    # Stage 1's model knows the test classes too where the run is beside it.
    stage_1 = ZeroShotClassifier.load(run / "stage_1.safetensors")
    assert len(stage_1.classes) < len(stage_1.known) == 12


def test_json(classifier, clips):
    found = classifier.classify(clips[0], top_k=2)
    value = json.loads(json.dumps(found.to_json()))
    assert value["id"] == clips[0].id
    assert [a["rank"] for a in value["answers"]] == [1, 2]
    first = found.answers[0]
    assert value["answers"][0] == {
        "rank": 1,
        "class": first.name,
        "probability": first.probability,
        "distance": first.distance,
        "seen": first.seen,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "settings"),
    [
        ("ridge", {}),
        ("textlda", {}),
        ("attention_fusion", {"model": {"modalities": "audio"}}),
    ],
)
def test_a_model_of_sound_alone(
    system, settings, sound_store, tiny_store, tiny_experiment, tmp_path
):
    """It answers clips of the store that it knows, and those of one with pictures alike."""
    experiment = tiny_experiment(training={**TRAINING, "epochs": 2}, **settings)
    train(replace(experiment, system=system), sound_store, tmp_path / "run")
    classifier = ZeroShotClassifier.load(tmp_path / "run")
    assert classifier.model.modalities == ("audio",)
    rows = sound_store.rows("cls", "test")[::9]
    found = classifier.classify_store(sound_store, rows)
    clips = [tiny_store[row] for row in rows.tolist()]
    assert classifier.classify(clips) == found
    assert classifier.classify_store(tiny_store, rows) == found
    with pytest.raises(TCAFError, match="has no audio token, which is all that the model reads"):
        classifier.classify(replace(clips[0], audio=clips[0].audio[:0]))
