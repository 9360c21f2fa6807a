import pytest

from tcaf.app.page_examples import examples
from tcaf.extract.media import probe

pytest.importorskip("av")


def test_examples_are_clips_with_names():
    found = examples()
    assert len({example.file for example in found}) == len(found) >= 1
    for example in found:
        assert len(example.names) == len(set(example.names)) >= 4


def test_they_are_written_on_the_spot(tmp_path):
    shape = next(example for example in examples() if example.file == "shape.mp4")
    shape.write(tmp_path / "any name.mp4")
    info = probe(tmp_path / "any name.mp4")
    assert (info.has_audio, info.has_video) == (True, True)
