"""A clip over time as HTML: places in percent, drawings, stretches, hostile names."""

import base64
import re

import numpy as np
import pytest

from tcaf.answers.ranking import Answer, Ranking
from tcaf.answers.recordings import Span
from tcaf.app.page_timeline import player_html, stretches_html, timeline_html
from tcaf.data.features import FeatureSpec
from tcaf.reports.answer_timeline import ClipAttention, ClipView
from tcaf.systems.attention_map import AttentionMap

pytest.importorskip("PIL")

SPEC = FeatureSpec(5, 7, 2.0, 1.0, "a", "v")


def view(sound_s=4.0, picture_s=2.0, frames=3):
    low = np.linspace(-0.5, -0.1, 20)
    return ClipView(
        sound_s if sound_s else 0.0,
        picture_s,
        np.full((frames, 6, 8, 3), 90, np.uint8),
        low if sound_s else low[:0],
        -low if sound_s else low[:0],
    )


def span(start_s, name="ant", kind="answer", seen=True):
    ranking = Ranking("r", (Answer(name, 1.0, 0.5, seen),))
    ranking = None if kind == "silence" else ranking
    return Span("r", start_s, start_s + 2.0, kind, ranking, 0.5, 1.0)


def test_rows_stand_where_their_tracks_are():
    html = timeline_html(view())
    assert 'data-t-length="4.000"' in html
    # The picture track is half as long as the sound.
    assert re.findall(r'class="t-part" style="([^"]+)"', html) == [
        "left:0.00%;width:50.00%",
        "left:0.00%;width:100.00%",
    ]
    assert html.count("<img ") == 3
    assert 'max="4.00"' in html


def test_frames_are_pictures_in_the_page():
    found = re.search(r'src="data:image/jpeg;base64,([^"]+)"', timeline_html(view()))
    assert base64.b64decode(found[1]).startswith(b"\xff\xd8")


def test_what_there_is_not_is_left_out():
    assert "<img" not in timeline_html(view(picture_s=0.0, frames=0))
    assert "polygon" not in timeline_html(view(sound_s=0.0))
    assert timeline_html(view(sound_s=0.0, picture_s=0.0, frames=0)) == ""


def test_the_waveform_reaches_from_edge_to_edge():
    points = re.search(r'<polygon points="([^"]+)"', timeline_html(view()))[1]
    heights = [float(point.split(",")[1]) for point in points.split()]
    # The loudest, 0.5, is the whole height.
    assert (min(heights), max(heights)) == (0.0, 100.0)


def test_where_the_model_looks():
    weights = AttentionMap(
        audio_times=np.array([0.0, 2.0]),
        visual_times=np.array([0.0, 1.0]),
        class_to_class=np.array([0.2]),
        class_to_audio=np.array([[0.6, 0.0]]),
        class_to_visual=np.array([[0.1, 0.1]]),
        audio_to_visual=np.zeros((0, 2, 2)),
        visual_to_audio=np.zeros((0, 2, 2)),
    )
    html = timeline_html(view(), ClipAttention(weights, SPEC))
    lines = dict(re.findall(r'<polyline class="(t-\w+)" points="([^"]+)"', html))
    across = [float(point.split(",")[0]) for point in lines["t-audio"].split()]
    # Tokens of two seconds in a clip of four.
    assert across == [0, 500, 500, 1000]
    tops = [float(point.split(",")[1]) for point in lines["t-audio"].split()]
    # 0.6 of 5 tokens is 3 times an even look, which leaves a tenth of room above.
    assert tops[0] == pytest.approx(100 * (1 - 3 / 3.3), abs=0.1)
    assert tops[-1] == 100
    assert "weight on sound" in html


def test_stretches_are_buttons_that_seek():
    html = stretches_html([span(0.0), span(2.0, "bee", seen=False), span(4.0, kind="silence")], "V")
    assert re.findall(r'data-t-seek="([^"]+)"', html) == ["0.000", "2.000", "4.000"]
    assert re.findall(r'class="t-span (\w+)"', html) == ["seen", "unseen", "nothing"]
    assert "left:33.33%;width:33.33%" in html
    assert "0:02–0:04" in html
    assert "silent and blank" in html
    code = re.search(r'data-t-captions="data:text/vtt;base64,([^"]+)"', html)[1]
    assert base64.b64decode(code) == b"V"
    assert stretches_html([], "") == ""


def test_names_are_no_html():
    html = stretches_html([span(0.0, '"><script>')], "") + player_html('"><script>', True)
    assert "<script>" not in html


def test_a_clip_without_a_picture_has_a_player_of_sound():
    assert player_html("/media/x", True).startswith("<video")
    assert player_html("/media/x", False).startswith("<audio")
