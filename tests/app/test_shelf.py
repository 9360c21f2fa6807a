"""Clips of sessions: whose they are, how they are found, and that none stays."""

import pytest

from tcaf.app.shelf import Placed, Shelf
from tcaf.errors import TCAFError


@pytest.fixture
def shelf():
    with Shelf() as found:
        yield found
    assert not found.folder.exists()


def brought(tmp_path, content=b"clip", name="a b.mp4"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_a_clip_is_found_by_its_address_alone(shelf, tmp_path):
    path = brought(tmp_path)
    one, other = shelf.take("one", path, path.name), shelf.take("two", path, path.name)
    assert one.url != other.url
    assert shelf.find(one.token) == one
    assert one.path.read_bytes() == b"clip"
    assert one.path.suffix == ".mp4"
    assert shelf.find("something") is None
    assert len(one.token) >= 32


def test_what_was_brought_may_go(shelf, tmp_path):
    path = brought(tmp_path)
    placed = shelf.take("one", path, path.name)
    path.unlink()
    assert placed.path.read_bytes() == b"clip"


def test_a_session_ends_and_the_other_stays(shelf, tmp_path):
    path = brought(tmp_path)
    one, other = shelf.take("one", path, path.name), shelf.take("two", path, path.name)
    shelf.end("one")
    assert (shelf.find(one.token), one.path.exists()) == (None, False)
    assert shelf.find(other.token).path.exists()
    shelf.end("never begun")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.mp4", "video/mp4"),
        ("a.wav", "audio/"),
        ("a.html", "application/octet-stream"),
        ("a.svg", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_nothing_is_called_what_a_browser_would_run(shelf, tmp_path, name, kind):
    placed = shelf.take("one", brought(tmp_path, name=name), name)
    assert placed.media_type.startswith(kind)


@pytest.mark.parametrize("name", ["../../up.mp4", "/etc/passwd", "a/b.mp4", "x.m/p4", "..", ""])
def test_no_name_leads_out_of_the_folder(shelf, tmp_path, name):
    placed = shelf.take("../one", brought(tmp_path), name)
    assert shelf.folder in placed.path.resolve().parents


def test_the_oldest_go_where_there_is_no_room(tmp_path):
    with Shelf(room=10) as shelf:
        first, second, third = (
            shelf.take("one", brought(tmp_path, bytes(4)), "a.mp4") for _ in range(3)
        )
        assert [each.path.exists() for each in (first, second, third)] == [False, True, True]
        assert shelf.find(first.token) is None
        # A clip that is larger by itself is kept for as long as it is the newest.
        large = shelf.take("one", brought(tmp_path, bytes(20)), "a.mp4")
        assert large.path.exists()
        assert not third.path.exists()


def test_what_cannot_be_kept_is_said(shelf, tmp_path):
    with pytest.raises(TCAFError, match=r"cannot keep gone\.mp4: No such file"):
        shelf.take("one", tmp_path / "gone.mp4", "gone.mp4")
    assert not list(shelf.folder.glob("*/*"))


def test_what_is_made_has_an_address_too(shelf):
    placed = shelf.make("one", "made.mp4", lambda path: path.write_bytes(b"made"))
    assert isinstance(placed, Placed)
    assert shelf.find(placed.token).path.read_bytes() == b"made"
