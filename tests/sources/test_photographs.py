import pytest

from tcaf.errors import MissingExtraError
from tcaf.extract.media import probe, read_frames
from tcaf.sources.photographs import PHOTOGRAPHS, SECONDS, pan_photograph


@pytest.mark.slow
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_clip_moves_over_a_photograph(name, tmp_path):
    for module in ("av", "sklearn", "PIL"):
        pytest.importorskip(module)
    pan_photograph(name, tmp_path / "clip.mp4")
    info = probe(tmp_path / "clip.mp4")
    assert info.duration_s == pytest.approx(SECONDS, abs=0.1)
    assert not info.has_audio
    first, *_, last = read_frames(tmp_path / "clip.mp4", 1.0, None)
    assert abs(first.astype(int) - last).mean() > 10


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tcaf\[video,plot\]'"):
        pan_photograph("temple", tmp_path / "clip.mp4")
