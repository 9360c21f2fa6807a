"""From words to answers: which classes, which clips, and what became of them.

Files are tested through the command, in commands/test_predict.py.
"""

import pytest

from tcaf import ZeroShotClassifier
from tcaf.answers.clips import Unanswered, answer_clips, check_answered, choose_classes
from tcaf.errors import TCAFError
from write_clip_run import write_clip, write_run


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_experiment):
    folder = tmp_path_factory.mktemp("clips")
    # Of sound alone, so that the tone of a WAV file is a clip.
    model, training = {"modalities": "audio"}, {"epochs": 1, "batches_per_epoch": 1}
    write_run(folder, tiny_experiment(model=model, training=training))
    return folder


@pytest.fixture
def classifier(world):
    return ZeroShotClassifier.load(world / "run")


def test_classes_come_from_a_line_or_a_file(classifier, tmp_path):
    every = classifier.classes
    choose_classes(classifier)
    assert classifier.classes == every
    # A name of the run that holds a comma is one name.
    choose_classes(classifier, "Dog, Wet, ant")
    assert classifier.classes == ("Dog, Wet", "ant")
    names = tmp_path / "names.txt"
    names.write_text("# two\neel\nbee\n")
    choose_classes(classifier, classes_file=names)
    assert classifier.classes == ("eel", "bee")
    with pytest.raises(TCAFError, match="--classes and --classes_file exclude each other"):
        choose_classes(classifier, "ant", names)
    with pytest.raises(TCAFError, match="no class to choose from"):
        choose_classes(classifier, " , ")
    assert classifier.classes == ("eel", "bee")


def test_clips_of_a_store(classifier, world):
    from tcaf.data.store import FeatureStore

    store = FeatureStore.open(world / "store")
    found = list(answer_clips(classifier, ["val_unseen", "ant_0"], store=store.path, top_k=2))
    rows = [*store.rows("cls", "val_unseen").tolist(), store.row("ant_0")]
    assert [one.id for one in found] == [store.ids[row] for row in rows]
    expected = classifier.classify([store[row] for row in rows], top_k=2)
    assert [[a.name for a in one.ranking.answers] for one in found] == [
        [a.name for a in ranking.answers] for ranking in expected
    ]
    check_answered(found)
    with pytest.raises(TCAFError, match="has no clip 'ant_O'"):
        answer_clips(classifier, ["ant_O"], store=store.path)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_files_are_read_one_by_one_and_tracked(classifier, tmp_path):
    pytest.importorskip("av")
    good, bad = tmp_path / "a.wav", tmp_path / "b.wav"
    write_clip(good, picture=False)
    bad.write_bytes(b"no clip at all")
    read = []

    def track(items, description):
        assert (list(items), description) == ([good, bad, good.with_name("c.wav")], "predicting")
        for item in items:
            read.append(item)
            yield item

    good.with_name("c.wav").write_bytes(good.read_bytes())
    answers = iter(answer_clips(classifier, [str(tmp_path)], seen_bias=1e6, workers=1, track=track))
    assert next(answers).ranking.answers[0].name == "eel"
    assert read == [good]
    second, third = answers
    assert isinstance(second, Unanswered)
    assert third.id == str(good.with_name("c.wav"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TCAFError, match="holds no media file"):
        answer_clips(classifier, [str(tmp_path / "empty")])


def test_what_has_no_answer_is_counted():
    lost = Unanswered("a.mp4", "it is damaged")
    check_answered([])
    with pytest.raises(TCAFError, match=r"^it is damaged$"):
        check_answered([lost])
    with pytest.raises(TCAFError, match=r"^2 of 2 clips have no answer$"):
        check_answered([lost, lost])
