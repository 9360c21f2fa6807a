import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import write_aligned
import write_clip_run
from hub_server import COMMIT, hub_on_loopback
from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.clips import answer_files
from tcaf.data.features import FeatureSpec
from tcaf.errors import TCAFError
from tcaf.experiments.layers import experiment_layers, resolve
from tcaf.extract import extractor, hub_models
from tcaf.extract.backbones import (
    AudioBackbone,
    VisualBackbone,
    canonical_name,
    open_backbone,
    parse_name,
)
from tcaf.extract.corpus import Backbones
from tcaf.extract.extractor import visual_tokens
from tcaf.extract.hub_models import origin_of
from tcaf.extract.media import read_frames
from tcaf.pretrained.aligned_model import load_aligned
from tcaf.pretrained.fetch import weights_mark
from tcaf.pretrained.model_folder import model_files
from tcaf.sources.videos import prepare_videos
from tcaf.training.run import train
from write_aligned import RATE, random_windows, tones


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_aligned.write_clip(tmp_path_factory.mktemp("clip") / "a, b=c")[1]


@pytest.fixture(scope="module")
def xclip(tmp_path_factory):
    return write_aligned.write_xclip(tmp_path_factory.mktemp("xclip") / "model")[1]


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    return write_aligned.write_clap(tmp_path_factory.mktemp("clap") / "model")[1]


def mark(folder):
    return weights_mark(folder, None, model_files(folder))


def test_a_name_holds_the_model_before_the_options():
    parsed = {
        "hf:org/m": {"model": "org/m"},
        "hf:org/m@refs/pr/4,frames=4": {"model": "org/m@refs/pr/4", "frames": "4"},
        "hf:/a, b=c,frames=4,weights=12": {"model": "/a, b=c", "frames": "4", "weights": "12"},
        "st:C:/x": {"model": "C:/x"},
    }
    for text, options in parsed.items():
        name = text[:2]
        assert parse_name(text) == (name, options)
        assert canonical_name(name, options) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf", r"^backbone 'hf' needs a model: hf:ID_OR_FOLDER\[@REVISION\]$"),
        ("hf:,frames=2", "^backbone 'hf' needs a model"),
        ("hf:org/m,frames=", "got 'frames='; did"),
        ("hf:org/m,frames=2,colour=red", "got 'colour=red'"),
        ("hf:./nowhere", "^expected the folder of a model at ./nowhere, found none$"),
        ("hf:org/m,weights=random", "^backbone 'hf' has no random weights"),
    ],
)
def test_a_name_that_cannot_be_is_refused(text, message):
    with pytest.raises(TCAFError, match=message):
        open_backbone(text, "visual")


def test_a_token_is_the_mean_of_its_pictures_at_length_1(clip):
    backbone = open_backbone(f"hf:{clip}", "visual")
    assert isinstance(backbone, VisualBackbone)
    assert (backbone.window_frames, backbone.step_s, backbone.fps) == (2, 0.64, 3.125)
    assert backbone.frame_size is None
    windows = random_windows(3, 2)
    each = load_aligned(clip).embed_frames(windows)
    each = each / np.linalg.norm(each, axis=2, keepdims=True)
    mean = each.mean(axis=1)
    tokens = backbone.embed(windows)
    assert tokens.shape == (3, backbone.dim) == (3, 13)
    np.testing.assert_allclose(
        tokens, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6
    )
    assert backbone.embed(windows[:0]).shape == (0, 13)


def test_the_company_of_a_window_does_not_change_it(clip, monkeypatch):
    backbone = open_backbone(f"hf:{clip},frames=4", "visual")
    windows = random_windows(5, 4)
    together = backbone.embed(windows)
    monkeypatch.setattr(hub_models, "BATCH", 4)
    np.testing.assert_allclose(backbone.embed(windows), together, atol=1e-6)
    np.testing.assert_allclose(backbone.embed(windows[3:4])[0], together[3], atol=1e-6)


def test_the_name_tells_model_content_and_what_is_not_usual(clip, xclip, clap):
    own = {folder: f"hf:{folder},%sweights={mark(folder)}" for folder in (clip, xclip, clap)}
    for text, modality, folder, told in (
        ("", "visual", clip, ""),
        (",frames=2,seconds=0.64", "visual", clip, ""),
        (",seconds=1.0,frames=8", "visual", clip, "frames=8,seconds=1,"),
        (",frames=3", "visual", xclip, ""),
        (",seconds=2.560", "audio", clap, ""),
        (",seconds=0.5", "audio", clap, "seconds=0.5,"),
    ):
        backbone = open_backbone(f"hf:{folder}{text}", modality)
        assert backbone.name == own[folder] % told
        # What features are called opens what made them.
        assert open_backbone(backbone.name, modality).name == backbone.name


def test_videos_take_as_many_frames_as_they_were_made_for(xclip):
    backbone = open_backbone(f"hf:{xclip}", "visual")
    assert (backbone.window_frames, backbone.step_s) == (3, 2.56)
    windows = random_windows(2, 3)
    tokens = backbone.embed(windows)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 1, atol=1e-6)
    assert np.abs(tokens - backbone.embed(windows[:, ::-1])).max() > 1e-3, "order counts"
    with pytest.raises(TCAFError, match=r"^hf: the model takes 3 frames, got frames=4$"):
        open_backbone(f"hf:{xclip},frames=4", "visual")


def test_windows_of_sound_lie_side_by_side(clap):
    backbone = open_backbone(f"hf:{clap}", "audio")
    assert isinstance(backbone, AudioBackbone)
    assert backbone.sample_rate == RATE
    assert backbone.window_samples == backbone.hop_samples == 20_480
    assert backbone.step_s == 2.56
    tokens = backbone.embed(tones(440, 1001, 3001))
    assert tokens.shape == (3, backbone.dim) == (3, 13)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 1, atol=1e-6)
    assert np.abs(tokens[0] - tokens[2]).max() > 0.01


@pytest.mark.parametrize(
    ("folder", "text", "modality", "message"),
    [
        ("clap", "", "visual", r"ClapModel, embeds audio, not visual$"),
        ("clap", ",seconds=5", "audio", r"takes 4 s at most; expected one for windows of 5 s"),
        ("clap", ",frames=2", "audio", "^hf: frames are of pictures; sound has none$"),
        ("clip", ",frames=3", "visual", "expected frames to be one of 1, 2, 4, 8, 16, got '3'$"),
        ("clip", ",seconds=0", "visual", "^hf: expected seconds above 0 and up to 60, got '0'$"),
        ("clip", ",seconds=soon", "visual", "got 'soon'$"),
        ("clip", ",seconds=nan", "visual", "got 'nan'$"),
        ("clip", ",weights=5d1c0f3a9b77", "visual", "those found are those of 'hf:.*weights="),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, text, modality, message, request):
    with pytest.raises(TCAFError, match=message):
        open_backbone(f"hf:{request.getfixturevalue(folder)}{text}", modality)


def test_a_copy_elsewhere_is_the_same_model(clip, tmp_path):
    name = open_backbone(f"hf:{clip}", "visual").name
    copy = shutil.copytree(clip, tmp_path / "copy")
    assert open_backbone(name, "visual", copy).name == name
    other = write_aligned.write_clip(tmp_path / "other", seed=1)[1]
    with pytest.raises(TCAFError, match=rf"^expected the weights of '{name}', {other} are thos"):
        open_backbone(name, "visual", other)
    with pytest.raises(TCAFError, match=r"^expected the folder of a model at .*/none, found none$"):
        open_backbone(name, "visual", tmp_path / "none")


def test_a_model_of_the_hub_is_called_by_its_commit(clip, monkeypatch, tmp_path):
    served = shutil.copytree(clip, tmp_path / "served")
    (served / "README.md").write_text("---\nlicense: mit\n---\n")
    with hub_on_loopback(monkeypatch, tmp_path / "cache") as hub:
        hub.models["org/clip"] = served
        backbone = open_backbone("hf:org/clip", "visual")
        hub.requests.clear()
        assert open_backbone(backbone.name, "visual").name == backbone.name
        origin = origin_of(backbone.name, None)
        assert hub.requests == []
    assert backbone.name == f"hf:org/clip@{COMMIT},weights={mark(clip)}"
    assert origin == {"model": "org/clip", "commit": COMMIT, "licence": "mit"}
    assert origin_of("vggish", None) is None
    windows = random_windows(2, 2)
    expected = open_backbone(f"hf:{clip}", "visual").embed(windows)
    np.testing.assert_array_equal(backbone.embed(windows), expected)
    FeatureSpec(1, backbone.dim, None, backbone.step_s, "none", backbone.name)


def test_another_process_loads_the_model_from_its_folder(clip, clap):
    for folder, modality in ((clip, "visual"), (clap, "audio")):
        backbone = open_backbone(f"hf:{folder}", modality)
        given = pickle.dumps(backbone)
        assert len(given) < 2000
        windows = random_windows(1, 2) if modality == "visual" else tones(440)
        np.testing.assert_array_equal(pickle.loads(given).embed(windows), backbone.embed(windows))


def test_all_processes_open_the_commit_that_was_opened_first():
    spec = FeatureSpec(1, 2, None, 0.64, "logmel", f"hf:org/m@{COMMIT},weights=12")
    asked = Backbones("logmel", "hf:org/m", plugin=Path("mine.py"))
    assert asked.pinned(spec) == Backbones(
        "logmel", f"hf:org/m@{COMMIT},weights=12", plugin=Path("mine.py")
    )


def test_frames_come_as_large_as_they_are(clip, tmp_path, monkeypatch):
    write_clip_run.write_clip(tmp_path / "film.mp4", seconds=3)
    frames = list(read_frames(tmp_path / "film.mp4", 3.125, None))
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    backbone = open_backbone(f"hf:{clip}", "visual")
    tokens = visual_tokens(backbone, frames)
    assert tokens.shape == (len(frames) // 2, 13)
    expected = backbone.embed(np.stack(frames[: 2 * len(tokens)]).reshape(-1, 2, 48, 64, 3))
    np.testing.assert_allclose(tokens, expected, atol=1e-6)
    # Of large frames fewer windows are in memory at a time.
    monkeypatch.setattr(extractor, "MOST_BYTES", 3 * 2 * frames[0].nbytes)
    seen = []
    embed = backbone.embed
    monkeypatch.setattr(
        backbone, "embed", lambda windows: seen.append(len(windows)) or embed(windows)
    )
    np.testing.assert_allclose(visual_tokens(backbone, frames), tokens, atol=1e-6)
    assert seen == [3, 2]
    assert visual_tokens(backbone, []).shape == (0, 13)


@pytest.mark.slow  # starts processes that import transformers
def test_from_files_to_answers_for_other_names(clip, clap, tmp_path):
    for i, name in enumerate(["red circle", "blue square", "a cat", "a drum", "a dog"]):
        folder = tmp_path / "clips" / name
        folder.mkdir(parents=True)
        for k in range(12):
            colour = ((40 * i + 5 * k) % 256, 20 * k, 90)
            write_clip_run.write_clip(folder / f"{i}_{k}.mp4", pitch=300 + 100 * i, colour=colour)
    store = prepare_videos(
        tmp_path / "clips",
        tmp_path / "store",
        audio=f"hf:{clap}",
        visual=f"hf:{clip}",
        workers=1,
        dtype="float32",
    )
    assert store.source["models"]["visual"] == {"model": str(clip), "commit": "", "licence": ""}
    experiment = resolve(experiment_layers(store, system="aligned"))
    train(experiment, store, tmp_path / "run")
    classifier = ZeroShotClassifier.load(tmp_path / "run")
    classifier.set_classes(["green circle", "noise", "a cat"])
    film = tmp_path / "clips" / "a cat" / "2_3.mp4"
    (answered,) = answer_files(classifier, [film], 3, 0.0)
    by_file = {a.name: a.distance for a in answered.ranking.answers}
    by_store = classifier.classify(store[store.row("a cat/2_3.mp4")])
    for answer in by_store.answers:
        assert by_file[answer.name] == pytest.approx(answer.distance, abs=1e-4)
