from dataclasses import replace

import numpy as np
import pytest
import torch

from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.ranking import Answer, Ranking
from tcaf.data.classes import ClassSet
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.reports.answer_timeline import (
    BINS,
    FRAMES,
    ClipAttention,
    ClipView,
    answer_timeline,
    check_timeline,
    clip_attention,
    save_timeline,
    view_clip,
)
from tcaf.reports.theme import light
from tcaf.systems.attention_map import AttentionMap
from tcaf.text.spaces import ClassText
from tcaf.training.model_file import TrainedModel
from write_clip_run import write_clip

pytest.importorskip("matplotlib")

ANSWERS = Ranking(
    "clips/dog.mp4",
    (
        Answer("a dog barking at a very large and very angry cat", 1.5, 0.625, False),
        Answer("ant", 1.0, 0.25, True),
        Answer("bee", 3.0, 0.125, True),
    ),
)
SPEC = FeatureSpec(5, 7, 0.96, 0.64, "ears", "eyes")
WEIGHTS = AttentionMap(
    audio_times=np.array([0.0, 0.96]),
    visual_times=np.array([0.0, 0.64, 1.28]),
    class_to_class=np.array([0.1]),
    class_to_audio=np.array([[0.2, 0.1]]),
    class_to_visual=np.array([[0.3, 0.2, 0.1]]),
    audio_to_visual=np.zeros((0, 2, 3)),
    visual_to_audio=np.zeros((0, 3, 2)),
)
ATTENTION = ClipAttention(WEIGHTS, SPEC)


@pytest.fixture
def media(monkeypatch):
    """The module of `tests/extract` that writes media files."""
    pytest.importorskip("av")
    import damaged

    return damaged


def view(num_frames=FRAMES, height=54, width=96, bins=31, sound_s=2.5, picture_s=2.5):
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(num_frames)[:, None, None]
    wave = np.linspace(0, 0.5, bins).astype(np.float32)
    return ClipView(sound_s, picture_s, frames, -wave, wave)


def test_everything_at_once():
    figure = answer_timeline(ANSWERS, ATTENTION, view())
    frames, sound, attention, answers = figure.axes
    assert figure.get_suptitle() == "clips/dog.mp4"
    assert all(axis.get_xlim() == (0, 2.5) for axis in (frames, sound, attention))
    # 6 tokens with the class token: a weight of 1/6 is an even look.
    steps = {s.get_label(): s.get_data() for s in attention.patches}
    np.testing.assert_allclose(steps["audio"].values, [1.2, 0.6])
    np.testing.assert_allclose(steps["audio"].edges, [0, 0.96, 1.92])
    np.testing.assert_allclose(steps["visual"].values, [1.8, 1.2, 0.6])
    np.testing.assert_allclose(steps["visual"].edges, [0, 0.64, 1.28, 1.92])
    texts = [text.get_text() for text in answers.texts]
    assert texts[0::2] == ["62.5 %", "25.0 %", "12.5 %"]
    assert texts[1].startswith("a dog bark")
    assert texts[1].endswith("angry cat")
    assert texts[3::2] == ["ant", "bee"]


def test_frames_fill_the_time_and_keep_their_shape():
    figure = answer_timeline(ANSWERS, ATTENTION, view())
    axis = figure.axes[0]
    images = axis.get_images()
    assert 2 <= len(images) < FRAMES
    ends = [image.get_extent()[:2] for image in images]
    starts = np.linspace(0, 2.5, len(images) + 1)
    np.testing.assert_allclose([start for start, _ in ends], starts[:-1], atol=0.02)
    np.testing.assert_allclose([end for _, end in ends], starts[1:], atol=0.02)
    # From left to right in the clip's order, each from within its own share.
    numbers = np.array([int(image.get_array()[0, 0, 0]) for image in images])
    shares = (numbers + 0.5) / FRAMES * len(images)
    np.testing.assert_array_equal(shares.astype(int), np.arange(len(images)))
    box = axis.get_window_extent()
    for image in images:
        tall, wide = image.get_array().shape[:2]
        assert wide / tall == pytest.approx(box.width / len(images) / box.height, rel=0.05)


@pytest.mark.parametrize(("sound_s", "picture_s"), [(4.0, 10.0), (10.0, 3.0), (10.0, 0.01)])
def test_tracks_are_drawn_over_their_own_lengths(sound_s, picture_s):
    figure = answer_timeline(ANSWERS, ATTENTION, view(sound_s=sound_s, picture_s=picture_s))
    frames, sound, attention, _ = figure.axes
    assert all(axis.get_xlim() == (0, 10) for axis in (frames, sound, attention))
    assert frames.get_images()[-1].get_extent()[1] == pytest.approx(picture_s, abs=0.05)
    # Drawn between the middles of the first and the last of 31 shares.
    corners = sound.collections[0].get_paths()[0].get_extents()
    assert (corners.x0, corners.x1) == pytest.approx((sound_s / 62, sound_s * 61 / 62))
    box = frames.get_window_extent()
    images = frames.get_images()
    for image in images if picture_s > 1 else ():
        tall, wide = image.get_array().shape[:2]
        shape = box.width * picture_s / 10 / len(images) / box.height
        assert wide / tall == pytest.approx(shape, rel=0.05)


def test_a_single_token_is_as_long_as_it_stands_for():
    short = replace(
        WEIGHTS,
        audio_times=np.array([0.0]),
        class_to_audio=np.array([[0.3]]),
        visual_times=np.array([0.64]),
        class_to_visual=np.array([[0.6]]),
        audio_to_visual=np.zeros((0, 1, 1)),
        visual_to_audio=np.zeros((0, 1, 1)),
    )

    def edges(spec, seen=None):
        axis = answer_timeline(ANSWERS, ClipAttention(short, spec), seen).axes[-2]
        steps = {s.get_label(): s.get_data().edges.tolist() for s in axis.patches}
        return steps["audio"], steps["visual"], axis.get_xlim(), axis.get_xlabel()

    assert edges(SPEC) == ([0, 0.96], [0.64, 1.28], (0, 1.28), "seconds")
    # One that stands for the whole clip is as long as the clip, as far as that is known.
    whole = replace(SPEC, audio_step_s=None)
    assert edges(whole) == ([0, 1.28], [0.64, 1.28], (0, 1.28), "seconds")
    assert edges(whole, view()) == ([0, 2.5], [0.64, 1.28], (0, 2.5), "seconds")
    unknown = replace(whole, visual_step_s=None)
    assert edges(unknown) == ([0, 1], [0, 1], (0, 1), "the whole clip")


def test_bars_are_as_long_as_their_probabilities():
    axis = answer_timeline(ANSWERS).axes[0]
    lengths = [bar.get_width() for bar in axis.patches]
    assert lengths == [1, 0.625, 1, 0.25, 1, 0.125]
    from matplotlib.colors import to_hex

    colours = [to_hex(bar.get_facecolor()) for bar in axis.patches[1::2]]
    assert colours == [light("unseen"), light("seen"), light("seen")]
    kinds = [text.get_text() for text in axis.get_legend().get_texts()]
    assert kinds == ["seen", "unseen"]


def test_without_probabilities_bars_are_distances():
    bare = replace(ANSWERS, answers=tuple(replace(a, probability=None) for a in ANSWERS.answers))
    axis = answer_timeline(bare).axes[0]
    assert axis.get_title(loc="left") == "distance, nearest first"
    assert [bar.get_width() for bar in axis.patches] == [3, 1.5, 3, 1.0, 3, 3.0]
    assert [text.get_text() for text in axis.texts][0::2] == ["1.500", "1.000", "3.000"]


@pytest.mark.parametrize(
    ("attention", "seen", "rows"),
    [
        (None, None, 0),
        (ATTENTION, None, 1),
        (None, view(), 2),
        (None, view(num_frames=0), 1),
        (ATTENTION, view(bins=0), 2),
    ],
)
def test_what_there_is_not_is_left_out(attention, seen, rows):
    figure = answer_timeline(ANSWERS, attention, seen)
    assert len(figure.axes) == rows + 1
    if rows:
        end = 2.5 if seen is not None else 1.92
        assert figure.axes[rows - 1].get_xlim() == pytest.approx((0, end))
        assert figure.axes[rows - 1].get_xlabel() == "seconds"


def test_a_clip_is_read(tmp_path):
    pytest.importorskip("av")
    found = view_clip(write_clip(tmp_path / "c.mp4", seconds=3))
    assert found.duration_s == pytest.approx(3, abs=0.15)
    assert found.frames.shape == (FRAMES, 108, 144, 3)
    # Frames grow brighter from half to full.
    red = found.frames[..., 0].mean(axis=(1, 2))
    assert (np.diff(red) > -3).all()
    assert red[0] == pytest.approx(100, abs=8)
    assert red[-1] == pytest.approx(200, abs=10)
    assert len(found.highest) == len(found.lowest) <= BINS
    middle = slice(10, -10)
    np.testing.assert_allclose(found.highest[middle], 0.5, atol=0.1)
    np.testing.assert_allclose(found.lowest[middle], -0.5, atol=0.1)


@pytest.mark.parametrize("missing", ["sound", "picture"])
def test_a_clip_without_one_track(tmp_path, missing):
    pytest.importorskip("av")
    found = view_clip(write_clip(tmp_path / "c.mp4", seconds=2, **{missing: False}))
    assert (len(found.lowest) == 0) == (missing == "sound")
    assert (len(found.frames) == 0) == (missing == "picture")
    assert found.duration_s == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(("picture_s", "sound_s"), [(3, 1), (1, 3)])
def test_tracks_keep_their_own_lengths(tmp_path, media, picture_s, sound_s):
    found = view_clip(media.write_clip(tmp_path / "c.mp4", picture_s, audio_seconds=sound_s))
    # Frames are looked at 16 times a second, sound comes in blocks of 64 ms.
    assert found.picture_s == pytest.approx(picture_s, abs=0.07)
    assert found.sound_s == pytest.approx(sound_s, abs=0.07)
    assert found.duration_s == max(found.picture_s, found.sound_s)
    # Loud to the end: the silence behind is no part of the track.
    assert found.highest[: -len(found.highest) // 20].min() > 0.3


@pytest.mark.parametrize(
    ("codec", "head", "rows"), [(b"mp4a", b"esds", 1), (b"avc1", b"avcC", 1), (b"none", b"none", 2)]
)
def test_a_track_without_a_decoder_is_left_out(tmp_path, media, codec, head, rows):
    path = media.write_clip(tmp_path / "c.mp4", 1)
    path.write_bytes(path.read_bytes().replace(codec, b"zzzz").replace(head, b"zzzz"))
    found = view_clip(path)
    assert (len(found.lowest) == 0, found.sound_s == 0) == ((codec == b"mp4a",) * 2)
    assert (len(found.frames) == 0, found.picture_s == 0) == ((codec == b"avc1",) * 2)
    assert found.duration_s == pytest.approx(1, abs=0.1)
    assert len(answer_timeline(ANSWERS, None, found).axes) == rows + 1


def classifier(model, experiment, **settings):
    """An untrained classifier with settings of its input."""
    text = ClassText({"text": torch.eye(3, model.config.text_dim)})
    classes = ClassSet(("a", "b", "c"), frozenset("a"))
    trained = TrainedModel("tcaf", model, SPEC, classes, text, 0.2, experiment(**settings), 1.0)
    return ZeroShotClassifier(trained)


def clip(audio_len=10, visual_len=15):
    rng = np.random.default_rng(0)
    audio, visual = (
        rng.normal(size=(length, dim)).astype(np.float32)
        for length, dim in ((audio_len, 5), (visual_len, 7))
    )
    return VideoFeatures("c", audio, visual)


def test_attention_stands_at_seconds_of_the_clip(small_model, tiny_experiment):
    # 4 s from 2.8 s on, whose tokens the model counts from 0; the first middle in it is at 2.88 s.
    fidelity = {"evaluation_times": "index", "window_times": "restart"}
    own = classifier(
        small_model(), tiny_experiment, fidelity=fidelity, evaluation={"window_s": 4.0}
    )
    both = clip_attention(own, clip())
    assert both.spec == SPEC
    found = both.weights
    assert found.visual_times[0] == pytest.approx(4 * 0.64)
    np.testing.assert_allclose(np.diff(found.audio_times), 0.96, rtol=1e-5)
    assert found.class_to_visual.shape[1] == len(found.visual_times)
    total = found.class_to_class + found.class_to_audio.sum(1) + found.class_to_visual.sum(1)
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_an_average_stands_for_the_whole_clip(small_model, tiny_experiment):
    found = clip_attention(
        classifier(small_model(), tiny_experiment, data={"average": True}), clip()
    )
    assert (found.spec.audio_step_s, found.spec.visual_step_s) == (None, None)
    assert found.weights.class_to_visual.shape[1] == len(found.weights.visual_times) == 1


def test_no_class_token_no_attention(small_model, tiny_experiment):
    own = classifier(small_model(class_token=False), tiny_experiment)
    assert clip_attention(own, clip()) is None


def test_a_picture_is_written_whole(tmp_path):
    path = tmp_path / "new" / "Größe 狗.png"
    named = replace(ANSWERS, answers=(replace(ANSWERS.answers[0], name="狗 $x$"),))
    save_timeline(path, answer_timeline(named))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_places_where_no_picture_goes(tmp_path):
    check_timeline(tmp_path / "t.PNG")
    (tmp_path / "folder.png").mkdir()
    for wrong in ("t.jpg", "t", "folder.png"):
        with pytest.raises(TCAFError, match="expected a PNG file"):
            check_timeline(tmp_path / wrong)


def test_what_is_no_picture_is_not_replaced_by_the_nth_clip(tmp_path):
    (tmp_path / "t[1]_2.png").write_bytes(b"\x89PNG of before")
    (tmp_path / "t[1]_3.png").touch()
    (tmp_path / "t[1]_x.png").write_text("no picture")
    check_timeline(tmp_path / "t[1].png")
    (tmp_path / "t[1]_11.png").write_text("no picture")
    with pytest.raises(TCAFError, match=r"t\[1\]_11\.png"):
        check_timeline(tmp_path / "t[1].png")
