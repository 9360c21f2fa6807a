"""Pictures of recordings: bands, rows, colours, what is cut at their borders."""

from pathlib import Path

import numpy as np
import pytest

from tcaf.answers.ranking import Answer, Ranking
from tcaf.answers.recordings import Recording, Span
from tcaf.reports.answer_timeline import ClipView
from tcaf.reports.recording_timeline import (
    MAX_BANDS,
    MAX_CLASSES,
    bands_of,
    draw_recording,
    recording_timeline,
)
from write_recording import Scene, write_recording

pytest.importorskip("matplotlib")


def recording(names, every_s=10.0, probability=0.6):
    """A stretch for each name; None is silence, an empty name none of the names."""
    stretches = []
    for number, name in enumerate(names):
        place = ("r.mkv", every_s * number, every_s * (number + 1))
        if name is None:
            stretches.append(Span(*place, "silence"))
            continue
        left = None if probability is None else 0.5 * (1 - probability)
        answers = (
            Answer(name or "ant", 1.0, probability, name != "unknown"),
            Answer("bee" if name != "bee" else "ant", 2.0, left, True),
        )
        kind = "answer" if name else "none"
        stretches.append(Span(*place, kind, Ranking("r", answers), probability, 1.0))
    return Recording(Path("r.mkv"), every_s * len(names), stretches=tuple(stretches))


def view(length_s, num_frames=16, bins=180):
    frames = np.zeros((num_frames, 54, 96, 3), np.uint8)
    wave = np.linspace(0, 0.5, bins).astype(np.float32)
    return ClipView(length_s, length_s, frames, -wave, wave)


def labels(axis):
    return [text.get_text() for text in axis.get_yticklabels()]


def pixels(axis):
    (mesh,) = axis.collections
    return mesh.get_array().reshape(len(labels(axis)), -1, 4)


@pytest.mark.parametrize(
    ("length_s", "bands", "seconds"),
    [
        (0.4, 1, 1.0),
        (134.4, 1, 134.4),
        (600.0, 1, 600.0),
        (606.0, 1, 606.0),  # 1 % beyond the band
        (630.0, 2, 600.0),
        (7200.0, 6, 1200.0),
        (7212.0, 6, 1202.0),  # 1 % beyond the last one: each is 2 s longer
        (7300.0, 5, 1800.0),
        (86_400.0, 6, 14_400.0),
        (1e6, 6, 172_800.0),
    ],
)
def test_how_long_bands_are(length_s, bands, seconds):
    assert bands_of(length_s) == (bands, pytest.approx(seconds))
    assert bands <= MAX_BANDS


def test_everything_in_one_band():
    names = ["ant", "ant", None, "unknown", "", "unknown", "unknown"]
    figure = recording_timeline(recording(names), view(70.0))
    frames, sound, classes = figure.axes
    assert all(axis.get_xlim() == (0.0, 70.0) for axis in figure.axes)
    assert len(frames.images) == 16
    assert len(sound.collections) == 1
    # The class that was named for longest is on top; bee was never named.
    assert labels(classes) == ["unknown", "ant", "silent and blank", "none of the names"]
    opacity = pixels(classes)[..., 3]
    # 0.25 + 0.75 x 0.6 where it is the best.
    np.testing.assert_allclose(opacity[0], [0, 0, 0, 0.7, 0, 0.7, 0.7])
    np.testing.assert_allclose(opacity[1], [0.7, 0.7, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(opacity[2:], [[0, 0, 0.6, 0, 0, 0, 0], [0, 0, 0, 0, 0.6, 0, 0]])
    ticks = [text.get_text() for text in classes.get_xticklabels() if text.get_text()]
    assert {"0:00", "0:30", "1:00"} <= set(ticks)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "seen",
        "unseen",
        "the more opaque, the more probable",
    ]


def test_a_runner_up_is_pale():
    figure = recording_timeline(recording(["ant", "bee"]))
    (classes,) = figure.axes
    # In the first stretch bee has a probability of 0.2: 0.45 x 0.2.
    np.testing.assert_allclose(pixels(classes)[..., 3], [[0.7, 0.09], [0.09, 0.7]])


def test_without_probabilities_the_best_is_full():
    (classes,) = recording_timeline(recording(["ant", "bee"], probability=None)).axes
    np.testing.assert_allclose(pixels(classes)[..., 3], [[1, 0], [0, 1]])


@pytest.mark.slow
def test_two_hours_are_six_bands():
    names = [f"class {n % 30}" if n % 7 else None for n in range(720)]
    figure = recording_timeline(recording(names), view(7200.0, 48, 5400))
    classes = figure.axes[2::3]
    assert [axis.get_xlim() for axis in classes] == [(1200 * n, 1200 * (n + 1)) for n in range(6)]
    for axis in classes:
        *own, others, silent = labels(axis)
        assert len(own) == MAX_CLASSES
        assert (others, silent) == ("22 others", "silent and blank")
        assert pixels(axis).shape == (10, 120, 4)
        # In each stretch something is to be seen.
        assert (pixels(axis)[..., 3].max(axis=0) > 0).all()
    assert all(len(axis.images) == 8 for axis in figure.axes[::3])
    assert figure.get_figheight() < 20


def test_nothing_but_silence():
    (classes,) = recording_timeline(recording([None])).axes
    assert labels(classes) == ["silent and blank"]


def test_from_a_file_to_a_picture(tmp_path):
    pytest.importorskip("av")
    file = write_recording(tmp_path / "r.mkv", [Scene(2.0)])
    made = recording(["ant"], every_s=2.0)
    made = Recording(file, made.length_s, stretches=made.stretches)
    one = draw_recording(tmp_path / "new" / "p.png", made)
    three = draw_recording(tmp_path / "new" / "p.png", made, 3)
    assert [path.name for path in (one, three)] == ["p.png", "p_3.png"]
    assert one.read_bytes().startswith(b"\x89PNG")
