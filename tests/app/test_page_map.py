import re

import numpy as np

from tcaf.app.page_map import map_html
from tcaf.data.classes import ClassSet
from tcaf.reports.detail import ClipMap
from tcaf.reports.embedding_map import MapPanel

POINTS = np.array([[0.0, 0.0], [10.0, 20.0], [5.0, 20.0]])
LABELS = np.array([0, 1, 1])
CLIPS = np.array([4, 0, 2])
CLASSES = ClassSet(("ant", "<bee>"), frozenset({"ant"}))
IDS = ("c0", "c1", "c2", "c3", "c4")
TAKEN = ("<bee>", "ant", "ant", "ant", "ant")


def drawn(class_points=None):
    panel = MapPanel("inputs", POINTS, LABELS, class_points)
    return map_html(ClipMap(CLASSES, (panel,), (CLIPS,)), IDS, TAKEN)


def test_each_point_says_which_clip_it_is():
    tips = re.findall(r'data-t-tip="([^"]+)"', drawn())
    assert tips == ["c4: ant", "c0: &lt;bee&gt;", "c2: &lt;bee&gt;, taken for ant"]


def test_points_fill_the_panel():
    html = drawn()
    # From 4 to 96: x 0, 10 and 5 of 10, y 0 and 20 of 20.
    assert 'cx="4.0" cy="4.0"' in html
    assert re.search(r'points="96\.0,93\.9 ', html)
    assert re.search(r'points="50\.0,93\.9 ', html)
    assert html.count("t-unseen") == 2 + 1  # the clips, and the mark in the key


def test_classes_stand_among_their_clips():
    html = drawn(np.array([[0.0, 40.0], [10.0, 0.0]]))
    assert 'data-t-tip="the class &lt;bee&gt;"' in html
    # The panel shows the class that lies beyond all clips too.
    assert re.search(r'points="96\.0,47\.9 ', html)
    assert "<b>unseen</b>" in html


def test_a_panel_without_clips_is_left_out():
    panel = MapPanel("audio inputs", np.zeros((0, 2)), np.zeros(0, np.int64))
    html = map_html(ClipMap(CLASSES, (panel,), (np.zeros(0, np.int64),)), IDS, TAKEN)
    assert "audio inputs" not in html
