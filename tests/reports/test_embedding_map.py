import numpy as np
import pytest

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError
from tcaf.reports.embedding_map import MapPanel, embedding_map
from tcaf.reports.theme import SERIES, light

to_hex = pytest.importorskip("matplotlib.colors").to_hex

CLASSES = ClassSet(("archery", "costs $5 & $6 <b>", "flute"), frozenset({"archery", "flute"}))
LABELS = np.array([0, 0, 1, 2, 2, 2, 1])
POINTS = np.arange(14.0).reshape(7, 2)


def panels():
    squares = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    # A clip without sound is missing from the map of audio.
    audio = MapPanel("audio", POINTS[:6], LABELS[:6])
    return [audio, MapPanel("video embeddings", POINTS, LABELS, squares)]


def test_every_clip_is_drawn_in_its_class():
    figure = embedding_map(panels(), CLASSES)
    audio, video = figure.axes
    assert [axis.get_title(loc="left") for axis in (audio, video)] == ["audio", "video embeddings"]
    assert [len(dots.get_offsets()) for dots in audio.collections] == [2, 1, 3]
    clips, squares = video.collections[::2], video.collections[1::2]
    for number, (dots, square) in enumerate(zip(clips, squares, strict=True)):
        np.testing.assert_array_equal(dots.get_offsets(), POINTS[number == LABELS])
        assert square.get_offsets().tolist() == [[2 * number + 1, 2 * number + 2]]
        assert to_hex(dots.get_facecolor()[0]) == SERIES[number]
        assert to_hex(square.get_facecolor()[0]) == SERIES[number]
        assert square.get_sizes()[0] > 3 * dots.get_sizes()[0]


def test_unseen_classes_are_marked():
    figure = embedding_map(panels(), CLASSES)
    seen, unseen, also_seen = figure.axes[0].collections
    assert to_hex(unseen.get_edgecolor()[0]) == light("ink")
    assert to_hex(seen.get_edgecolor()[0]) == light("paper")
    shapes = [len(dots.get_paths()[0].vertices) for dots in (seen, unseen, also_seen)]
    assert shapes[0] == shapes[2] != shapes[1]
    texts = figure.legends[0].get_texts()
    # Seen classes first, whatever their order.
    assert [text.get_text() for text in texts] == [
        "archery",
        "flute",
        "costs $5 & $6 <b>",
        "bold, ringed: unseen",
        "class embedding",
    ]
    assert [text.get_fontweight() for text in texts[:3]] == ["normal", "normal", "bold"]


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_panels_stand_beside_or_below(width):
    figure = embedding_map(panels(), CLASSES, width=width)
    figure.draw_without_rendering()
    first, second = (axis.get_position() for axis in figure.axes)
    beside = second.x0 >= first.x1
    below = second.y1 <= first.y0
    assert (beside, below) == ((True, False) if width == "wide" else (False, True))
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= min(axis.get_window_extent().y0 for axis in figure.axes)


def test_many_classes_look_different():
    names = tuple(f"class {number:02}" for number in range(20))
    classes = ClassSet(names, frozenset(names[:17]))
    panel = MapPanel("clips", np.zeros((20, 2)), np.arange(20))
    figure = embedding_map([panel], classes)
    looks = {
        (to_hex(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
        for dots in figure.axes[0].collections
    }
    assert len(looks) == 20


def test_a_map_needs_a_panel():
    with pytest.raises(TCAFError, match="at least one panel"):
        embedding_map([], CLASSES)
