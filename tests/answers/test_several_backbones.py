"""Models that answer together though they read the same modality by different backbones."""

import json
from pathlib import Path

import numpy as np
import pytest

from tcaf import ZeroShotClassifier, open_classifier
from tcaf.answers.clips import Answered, Unanswered, answer_files
from tcaf.answers.recordings import Recording, answer_recordings
from tcaf.answers.several_backbones import SeveralBackbones, SeveralFeatures, grouped
from tcaf.commands.entry import main
from tcaf.data.features import VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.extract.backbones import BACKBONES
from tcaf.extract.containers import BrokenMediaWarning, MediaError, TrackError
from tcaf.extract.stretches import Cut, Stretch
from write_clip_run import COLOURS, SHADES, SHADES_SPEC, SPEC, write_clip, write_run
from write_recording import Scene, write_recording

pytestmark = pytest.mark.usefixtures("_backbones")

RUNS = {"both": ("both", SPEC), "sight": ("visual", SHADES_SPEC), "sound": ("audio", SPEC)}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_experiment):
    """Three runs, two of which see by different backbones, and files."""
    folder = tmp_path_factory.mktemp("several")
    for name, (modalities, spec) in RUNS.items():
        (folder / name).mkdir()
        experiment = tiny_experiment(
            model={"modalities": modalities}, training={"epochs": 1, "batches_per_epoch": 3}
        )
        write_run(folder / name, experiment, spec)
    write_clip(folder / "whole.mkv")
    write_clip(folder / "deaf.mkv", sound=False)
    write_clip(folder / "blind.wav", picture=False)
    (folder / "no.mp4").write_text("no video")
    return folder


@pytest.fixture
def _backbones(monkeypatch, quick):
    monkeypatch.setitem(BACKBONES, "colours", COLOURS)
    monkeypatch.setitem(BACKBONES, "shades", SHADES)


@pytest.fixture(scope="module")
def members(world):
    return {name: ZeroShotClassifier.load(world / name / "run") for name in RUNS}


def mixed(world, *names):
    return open_classifier("+".join(str(world / name / "run") for name in names))


def chances(ranking):
    return {answer.name: answer.probability for answer in ranking.answers}


def test_few_groups():
    reads = {
        "a": (SPEC, ("visual",)),
        "b": (SHADES_SPEC, ("audio", "visual")),
        "c": (SPEC, ("audio",)),
        "d": (SHADES_SPEC, ("visual",)),
    }
    first, second = grouped(reads)
    assert (first.members, first.modalities) == (("a", "c"), ("audio", "visual"))
    assert (second.members, second.modalities) == (("b", "d"), ("audio", "visual"))
    assert (first.spec, second.spec) == (SPEC, SHADES_SPEC)


@pytest.mark.slow
@pytest.mark.parametrize("order", [("both", "sight"), ("sight", "both")])
def test_probabilities_are_mixed(world, members, order):
    mixture = mixed(world, *order)
    files = [world / name for name in ("whole.mkv", "deaf.mkv", "blind.wav", "no.mp4")]
    whole, deaf, blind, no = answer_files(mixture, files, 5, 0.0, why=True, workers=1)
    assert isinstance(no, Unanswered)
    for one, used in ((whole, order), (deaf, order), (blind, ("both",))):
        assert isinstance(one, Answered)
        alone = [chances(members[name].classify(one.file)) for name in used]
        for name, chance in chances(one.ranking).items():
            assert chance == pytest.approx(np.mean([each[name] for each in alone]), rel=1e-9)
        assert len(one.ranking.nearest) == sum(len(members[n].trained.classes.seen) for n in used)


def test_sound_and_picture_alone(world, members):
    """Each modality alone is what all models that read it say of it."""
    mixture = mixed(world, "sight", "both")
    assert mixture.tells_apart
    answer = mixture.classify(world / "whole.mkv", why=True).answers[0]
    heard = members["both"].features(world / "whole.mkv")
    deaf = VideoFeatures("v", heard.audio[:0], heard.visual)
    seen = [
        chances(members["both"].classify(deaf))[answer.name],
        chances(members["sight"].classify(world / "whole.mkv"))[answer.name],
    ]
    assert np.exp(-answer.alone["visual"].distance) == pytest.approx(np.mean(seen))


@pytest.mark.slow
def test_recordings(world, members, tmp_path):
    """Also where one track goes on for longer, and one model has nothing from there on."""
    path = tmp_path / "r.mkv"
    write_recording(path, [Scene(4.0), Scene(5.0, 900.0, (10, 240, 30))])
    cut = Cut(2.0)
    mixture = mixed(world, "sight", "both")
    asked = {"keep_all": True, "apart": True, "workers": 1}
    *spans, end = answer_recordings(mixture, [path], cut, **asked)
    *own, own_end = answer_recordings(members["both"], [path], cut, **asked)
    assert isinstance(end, Recording)
    assert end.reason == own_end.reason == ""
    assert [(s.start_s, s.end_s) for s in spans] == [(s.start_s, s.end_s) for s in own]
    *sighted, _ = answer_recordings(members["sight"], [path], cut, **asked)
    for span, *each in zip(spans, own, sighted, strict=True):
        expected = np.mean([chances(s.ranking)[span.ranking.answers[0].name] for s in each])
        assert span.probability == pytest.approx(expected)
    # A recording of sound alone: the model that only sees is left out.
    *spans, end = answer_recordings(mixture, [world / "blind.wav"], cut, **asked)
    assert (len(spans), end.reason) == (2, "")
    *spans, end = answer_recordings(mixture, [world / "no.mp4"], cut, **asked)
    assert not spans
    assert "no.mp4" in end.reason


class Given:
    """A group of backbones whose stretches are given, in place of those of a file."""

    spec, modalities, weights = SPEC, ("visual",), {"audio": None, "visual": None}

    def __init__(self, ends, error=None, empty=()):
        self.ends, self.error, self.empty = ends, error, empty

    def stretches(self, path, id, cut):
        for number, end_s in enumerate(self.ends):
            video = VideoFeatures(id, np.ones((0, 128), np.float32), np.ones((1, 6), np.float32))
            yield Stretch(number, number * cut.every_s, end_s, video, number in self.empty)
        if self.error is not None:
            raise self.error


def stretches_of(*groups):
    made = SeveralBackbones(SPEC, ("visual",), Given.weights)
    vars(made)["groups"] = groups
    return made.stretches(Path("r.mkv"), "r", Cut(2.0))


def test_the_last_stretch_is_that_of_the_longer_track():
    # The first ends 0.3 s behind its second stretch, the other goes on to 5.1 s.
    found = list(stretches_of(Given([2.0, 4.3], empty={0, 1}), Given([2.0, 4.0, 5.1], empty={1})))
    assert [(s.start_s, s.end_s) for s in found] == [(0, 2), (2, 4), (4, 5.1)]
    assert [s.is_empty for s in found] == [False, True, False]
    assert [[len(part.visual) for part in s.video.parts] for s in found] == [[1, 1], [1, 1], [0, 1]]
    (only,) = stretches_of(Given([1.5]), Given([1.7]))
    assert only.end_s == 1.7


def test_a_track_that_breaks_off_ends_one_group_alone():
    error = TrackError(Path("r.mkv"), "broken")
    with pytest.warns(BrokenMediaWarning, match=r"r\.mkv: broken"):
        found = list(stretches_of(Given([2.0], error), Given([2.0, 4.0])))
    assert [s.end_s for s in found] == [2, 4]
    # No picture at all is nothing to warn of: the other has something.
    nothing = MediaError(Path("r.mkv"), "no picture")
    assert len(list(stretches_of(Given([], nothing), Given([2.0, 4.0])))) == 2
    with pytest.raises(MediaError, match="no picture"):
        list(stretches_of(Given([], nothing), Given([], error)))
    came = stretches_of(Given([2.0], error), Given([2.0], error))
    assert next(came).end_s == 2
    with pytest.raises(TrackError, match="broken"):
        next(came)


def test_a_store_and_features_of_one_backbone_are_refused(world):
    mixture = mixed(world, "both", "sight")
    told = r"of visual features .* reads several: .*both.* those of 'colours' and .* of 'shades'"
    store = FeatureStore.open(world / "both" / "store")
    with pytest.raises(TCAFError, match=told + "; give files"):
        mixture.classify_store(store, np.arange(2))
    with pytest.raises(TCAFError, match=told + "; give a file"):
        mixture.classify(store[0])


def test_it_is_clear_for_whom_weights_are(world, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"")
    runs = "+".join(str(world / name / "run") for name in ("both", "sight"))
    with pytest.raises(TCAFError, match=r"--visual_weights .* could be meant for several"):
        open_classifier(runs, visual_weights=tmp_path / "w.pt")


def test_the_command(world, capsys):
    runs = f"{world / 'sight' / 'run'}+{world / 'both' / 'run'}"
    assert not main(["predict", runs, str(world / "whole.mkv"), "--json", "--classes", "ant; eel"])
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    assert sum(answer["probability"] for answer in found["answers"]) == pytest.approx(1)
    assert main(["predict", runs, "all", "--store", str(world / "both" / "store")]) == 2
    assert "reads several" in capsys.readouterr().err


def test_parts_and_back():
    parts = [VideoFeatures("v", np.ones((2, 3), np.float32), np.ones((k, 5))) for k in (1, 2, 3)]
    found = SeveralFeatures.of(parts)
    assert [len(part.visual) for part in found.parts] == [1, 2, 3]
