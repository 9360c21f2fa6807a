"""The process that draws clips: what it returns, and that a clip may end it."""

import os

import numpy as np
import pytest

from tcaf.app import views
from tcaf.app.views import Viewers
from tcaf.errors import TCAFError
from write_clip_run import write_clip

pytest.importorskip("av")


@pytest.fixture
def viewers(quick):
    found = Viewers(60.0, 5, 20)
    yield found
    found.close()


def test_a_clip_is_seen_and_heard(viewers, tmp_path):
    write_clip(tmp_path / "clip.mp4", seconds=2)
    viewers.start()
    view = viewers.view(tmp_path / "clip.mp4")
    assert len(view.frames) == 5
    assert 0 < len(view.lowest) <= 20
    assert view.duration_s == pytest.approx(2.0, abs=0.2)
    assert np.isfinite(view.highest).all()


def test_what_is_no_clip_is_said(viewers, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"bad")
    with pytest.raises(TCAFError, match="not a media file"):
        viewers.view(tmp_path / "bad.mp4")


def _open_crashing(num_frames, bins):
    return lambda path, send: os._exit(9)


@pytest.mark.slow
def test_a_crash_is_a_sentence(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(views, "_open_viewer", _open_crashing)
    viewers = Viewers(60.0, 5, 20)
    try:
        with pytest.raises(TCAFError, match="cannot be drawn"):
            viewers.view(tmp_path)
    finally:
        viewers.close()
    # Whoever warms it up is not told.
    viewers.start()
