"""What tests of the page, of the engine and of the service share: a run, and where files go."""

import functools

import pytest


@pytest.fixture(scope="session")
def moody_run(tmp_path_factory, tiny_experiment):
    """A run whose frames are read by `moody`; for reading alone."""
    from write_engine import write_moody_run

    return write_moody_run(tmp_path_factory.mktemp("moody"), tiny_experiment)


@pytest.fixture
def moody(monkeypatch, quick, tmp_path):
    """Makes the backbone known, and sees that no upload stays."""
    from moody import MOODY
    from tcaf.app.uploads import Uploads
    from tcaf.extract.backbones import BACKBONES

    monkeypatch.setitem(BACKBONES, "moody", MOODY)
    (tmp_path / "uploads").mkdir()
    there = functools.partial(Uploads, parent=tmp_path / "uploads")
    monkeypatch.setattr("tcaf.app.engine.Uploads", there)
    yield
    assert not list((tmp_path / "uploads").iterdir())
