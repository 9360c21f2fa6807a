"""Models that answer together."""

from dataclasses import replace

import numpy as np
import pytest

from tcaf import ZeroShotClassifier, open_classifier
from tcaf.answers.mixture import Mixture
from tcaf.data.classes import ClassSet
from tcaf.data.features import VideoFeatures
from tcaf.errors import TCAFError
from tcaf.training.run import train

TRAINING = {"epochs": 1, "batches_per_epoch": 3, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def runs(tiny_store, tiny_experiment, tmp_path_factory):
    """One run that hears and one that sees."""
    folder = tmp_path_factory.mktemp("mixture")
    for modality in ("audio", "visual"):
        model = {"modalities": modality}
        train(tiny_experiment(model=model, training=TRAINING), tiny_store, folder / modality)
    return folder


@pytest.fixture(scope="module")
def mixture(runs):
    return open_classifier(f"{runs / 'audio'}+{runs / 'visual'}")


@pytest.fixture(scope="module")
def clips(tiny_store):
    """Test clips: whole, without sound, without picture, by turns."""
    videos = [tiny_store[row] for row in tiny_store.rows("cls", "test")[::5].tolist()]
    videos[1::3] = [replace(video, audio=video.audio[:0]) for video in videos[1::3]]
    videos[2::3] = [replace(video, visual=video.visual[:0]) for video in videos[2::3]]
    return videos


def probabilities(classifier, clip, **asked):
    found = classifier.classify(clip, top_k=len(classifier.classes), **asked)
    return {answer.name: answer.probability for answer in found.answers}


def test_probabilities_are_mixed(mixture, runs, clips):
    members = [ZeroShotClassifier.load(runs / name) for name in ("audio", "visual")]
    assert mixture.classes == members[0].classes
    for bias in (0.0, 0.3):
        for number, clip in enumerate(clips[:6]):
            # Clip 1 has no sound, clip 2 no picture: the other model answers alone.
            used = [members, members[1:], members[:1]][number % 3]
            each = [probabilities(member, clip, seen_bias=bias) for member in used]
            found = probabilities(mixture, clip, seen_bias=bias)
            for name, probability in found.items():
                expected = np.mean([one[name] for one in each])
                assert probability == pytest.approx(expected, rel=1e-12)
            assert sum(found.values()) == pytest.approx(1)


def test_answers_are_ranked_by_them(mixture, clips):
    for ranking in mixture.classify(clips, top_k=4):
        chances = [answer.probability for answer in ranking.answers]
        assert chances == sorted(chances, reverse=True)
        distances = np.exp([-answer.distance for answer in ranking.answers])
        np.testing.assert_allclose(distances, chances)


def test_a_store_is_answered_as_its_clips(mixture, tiny_store):
    rows = tiny_store.rows("cls", "test")[:7]
    videos = [tiny_store[row] for row in rows.tolist()]
    assert mixture.classify_store(tiny_store, rows) == mixture.classify(videos)
    other = replace(tiny_store.spec, audio_backbone="other")
    with pytest.raises(TCAFError, match="trained on audio features of"):
        mixture.check_features(other, "the store")


def test_new_names_are_set_for_all(mixture, runs, clips):
    known = mixture.classes
    some = known[:3]
    mixture.set_classes(some)
    assert (mixture.classes, set(probabilities(mixture, clips[0]))) == (some, set(some))
    seen = ZeroShotClassifier.load(runs / "audio").trained.classes.seen
    assert [known[c] for c in mixture.seen_columns] == [n for n in some if n in seen]
    mixture.set_classes(known)


def test_what_each_says_alone(mixture, runs, clips):
    """Sound alone is what the model that hears says."""
    assert mixture.tells_apart
    whole, deaf = mixture.classify([clips[0], clips[1]], why=True)
    heard = probabilities(ZeroShotClassifier.load(runs / "audio"), clips[0])
    for answer in whole.answers:
        alone = answer.alone["audio"]
        assert np.exp(-alone.distance) == pytest.approx(heard[answer.name])
        assert alone.rank == 1 + sum(p > heard[answer.name] for p in heard.values())
    assert deaf.answers[0].alone == {}
    # Five classes of the training by each model that has something to go by.
    assert (len(whole.nearest), len(deaf.nearest)) == (10, 5)


def test_no_sets_and_nothing_together(mixture, clips):
    with pytest.raises(TCAFError, match="is a mixture, for which no validation clips"):
        mixture.classify(clips, abstain=0.1)
    with pytest.raises(TCAFError, match="answers each clip by itself"):
        mixture.classify(clips, together=True)


def test_a_clip_with_nothing_is_refused(mixture):
    nothing = VideoFeatures("void", np.zeros((0, 5), np.float32), np.zeros((0, 7), np.float32))
    with pytest.raises(TCAFError, match="'void' has no audio or visual token"):
        mixture.classify(nothing)


def test_a_probability_of_nought_is_no_infinite_distance(mixture, clips):
    """A softmax may end at 0."""
    sharp = {
        name: ZeroShotClassifier(replace(member.trained, temperature=1e-5))
        for name, member in mixture.members.items()
    }
    found = Mixture(sharp).classify(clips[0], top_k=len(mixture.classes)).answers
    assert all(np.isfinite(answer.distance) for answer in found)
    assert min(answer.probability for answer in found) == 0


def test_what_cannot_be_mixed(runs):
    audio = ZeroShotClassifier.load(runs / "audio")
    with pytest.raises(TCAFError, match=r"needs two different models, got a$"):
        Mixture({"a": audio})
    with pytest.raises(TCAFError, match="needs two different models"):
        open_classifier(f"{runs / 'audio'}+{runs / 'audio'}")
    with pytest.raises(TCAFError, match=r"expected models with \+ between them"):
        open_classifier(f"{runs / 'audio'}+")
    unsure = ZeroShotClassifier(replace(audio.trained, temperature=None))
    with pytest.raises(TCAFError, match="c gives no probabilities, which a mixture is made of"):
        Mixture({"a": audio, "c": unsure})


def test_models_of_a_hub_may_come_first(runs):
    with pytest.raises(TCAFError, match=r"expected the folder of a model at .*nowhere, found none"):
        open_classifier(f"hf:./nowhere+{runs / 'audio'}")


def test_of_two_spellings_of_a_class_the_first_stands_for_both(runs):
    audio, visual = (ZeroShotClassifier.load(runs / name) for name in ("audio", "visual"))
    first = visual.classes[0]
    names = (first.replace(" ", "_").upper(), *visual.classes[1:])
    assert names[0] != first
    text = visual.trained.class_text
    classes = ClassSet(
        names,
        frozenset(
            n
            for n, old in zip(names, visual.classes, strict=True)
            if old in visual.trained.classes.seen
        ),
    )
    other = ZeroShotClassifier(replace(visual.trained, classes=classes, class_text=text))
    assert Mixture({"a": audio, "b": other}).classes == audio.classes


def test_a_folder_with_a_plus_in_its_name_is_one_run(runs):
    (runs / "audio").rename(runs / "au+dio")
    try:
        assert isinstance(open_classifier(runs / "au+dio"), ZeroShotClassifier)
    finally:
        (runs / "au+dio").rename(runs / "audio")
