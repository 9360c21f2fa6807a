"""Addresses and paths told apart."""

from pathlib import Path

import pytest

from tcaf.errors import TCAFError
from tcaf.files.atomic import check_folder, only_writer
from tcaf.files.urls import as_url, check_local


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/a/store", "hf://datasets/me/world", "memory://x", "https://host:8000/clip.mp4"],
)
def test_addresses_also_as_paths(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert as_url(url) == url
    assert as_url(Path(url)) == url


def test_files_have_an_empty_host():
    assert as_url("file:///to/x y") == "file:///to/x y"
    assert as_url(Path("file:///to/x y")) == "file:///to/x y"


@pytest.mark.parametrize("path", ["store", "/to/store", "a:b", "hf:openai/clip", "hf:/to/m", ""])
def test_paths(path):
    """A text with one slash is a name: of a model's folder behind `hf:`, for example."""
    assert as_url(path) is None


def test_a_folder_of_that_name_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert as_url(Path("s3:/bucket")) is None


@pytest.mark.parametrize("named", ["s3://bucket/out", Path("s3://bucket/out")])
def test_nothing_is_written_to_an_address(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TCAFError, match="cannot write to s3://bucket/out: results are written"):
        check_local(named)
    with pytest.raises(TCAFError, match="cannot write to s3://bucket/out"):
        check_folder(Path(named))
    with pytest.raises(TCAFError, match="cannot write"), only_writer(Path(named)):
        pass
    assert not list(tmp_path.iterdir())
