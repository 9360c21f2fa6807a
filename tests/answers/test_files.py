"""Features of files from another process: crashes, time, damage, backbones of one's own."""

import pickle
from contextlib import closing

import numpy as np
import pytest

from moody import MOODY
from tcaf.answers.files import FileBackbones, features_of_files
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.extract.backbones import BACKBONES
from tcaf.extract.containers import BrokenMediaWarning
from write_clip_run import write_clip

pytest.importorskip("av")

SPEC = FeatureSpec(128, 6, 0.96, 0.64, "logmel", "moody")
MOODY_ALONE = FileBackbones(SPEC, ("visual",), {"audio": None, "visual": None})


@pytest.fixture(autouse=True)
def _moody(monkeypatch, quick):
    monkeypatch.setitem(BACKBONES, "moody", MOODY)


def write_clips(folder, **colours):
    return [
        write_clip(folder / f"{name}.mp4", sound=False, colour=colour)
        for name, colour in colours.items()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_file_keeps_no_other_back(tmp_path, workers):
    grey, blue, green = (200, 200, 200), (0, 0, 255), (0, 255, 0)
    files = write_clips(tmp_path, a=grey, sleeps=blue, b=grey, crashes=green, c=grey)
    (tmp_path / "text.mp4").write_text("no clip")
    files.insert(2, tmp_path / "text.mp4")
    with closing(features_of_files(files, MOODY_ALONE, 1.0, workers)) as found:
        features = dict(found)
    a, sleeps, text, b, crashes, c = (features[number] for number in range(6))
    for video, file in ((a, files[0]), (b, files[3]), (c, files[5])):
        assert isinstance(video, VideoFeatures)
        assert np.array_equal(video.visual, MOODY_ALONE.extract(file, "").visual)
    assert sleeps == (
        f"{files[1]}: takes too long (not done within 1 s; --file_timeout_s gives more time)"
    )
    assert text.startswith(f"{files[2]}: not a media file")
    assert crashes == f"{files[4]}: decoder crashed (the process was ended by SIGSEGV)"


def test_damage_is_warned_of_here(tmp_path):
    import damaged

    whole = damaged.write_clip(
        tmp_path / "x.webm", video_codec="libvpx", audio_codec="libopus", sample_rate=48_000
    )
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.warns(BrokenMediaWarning, match=r"x.webm: damaged picture from"):
        ((_, video),) = features_of_files([whole], MOODY_ALONE)
    assert len(video.visual) == 2


def test_what_cannot_be_opened_is_an_error(tmp_path):
    unknown = FileBackbones(
        FeatureSpec(128, 6, 0.96, 0.64, "logmel", "lost"), ("visual",), {"visual": None}
    )
    with pytest.raises(TCAFError, match="'lost', which cannot be made of files here"):
        list(features_of_files([tmp_path / "x.mp4"], unknown))
    with pytest.raises(TCAFError, match="file_timeout_s must be above 0, got -1"):
        list(features_of_files([], MOODY_ALONE, -1.0))


PLUGIN = """
import write_clip_run
from tcaf import BackboneInfo, register_backbone

class Mine(write_clip_run.Colours):
    name = "mine"

register_backbone(
    "mine", BackboneInfo("visual", lambda o, w: Mine(), "6", 0.64, "none", "none needed")
)
"""


def test_backbones_of_a_plugin(tmp_path, monkeypatch):
    from tcaf.plugins import Registry, load_plugin

    monkeypatch.setattr("tcaf.plugins._REGISTRIES", [])
    own = Registry("backbone", BACKBONES)
    for module in ("answers.files", "extract.backbones"):
        monkeypatch.setattr(f"tcaf.{module}.BACKBONES", own)
    (tmp_path / "mine.py").write_text(PLUGIN)
    load_plugin(tmp_path / "mine.py")
    spec = FeatureSpec(128, 6, 0.96, 0.64, "logmel", "mine")
    backbones = FileBackbones(spec, ("visual",), {"visual": None})
    ((_, video),) = features_of_files(write_clips(tmp_path, a=(9, 9, 9)), backbones)
    assert video.visual.shape == (5, 6)


def test_what_is_opened_goes_to_no_other_process():
    """Networks are large, and a plugin's classes are known there only once it has been run."""
    backbones = FileBackbones(SPEC, ("visual",), {"audio": None, "visual": None})
    assert "visual" in backbones.opened
    again = pickle.loads(pickle.dumps(backbones))
    assert again == backbones
    assert "opened" not in vars(again)
    assert "visual" in again.opened
