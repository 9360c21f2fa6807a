"""What lies in a folder: media files, links, and what is passed over."""

import os

import pytest

from tcaf.errors import TCAFError
from tcaf.sources.media_files import SUFFIXES, media_folder


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(paths, folder):
    return [str(path.relative_to(folder)) for path in paths]


def test_media_files_and_others(tmp_path):
    touch(tmp_path, "b/1.MP4", "a/2.m2ts", "a/2.VOB", "a/deep/3.aiff", "a/x.gif", "note", "B.TXT")
    touch(tmp_path, ".trash/1.mp4", "a/._1.mp4", "a/.DS_Store")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "nowhere.mp4").symlink_to("gone")
    found = media_folder(tmp_path)
    assert names(found.files, tmp_path) == [
        *("a/2.VOB", "a/2.m2ts", "a/deep/3.aiff", "b/1.MP4", "folder.mp4", "nowhere.mp4")
    ]
    assert names(found.others, tmp_path) == ["B.TXT", "a/x.gif", "note"]
    assert found.passed_over(tmp_path) == (
        f"passed over in {tmp_path}: 3 files that are no media files by their names (.gif 1, .txt "
        "1, no suffix 1: 'B.TXT', 'a/x.gif', 'note')"
    )
    assert media_folder(tmp_path / "b").passed_over(tmp_path) == ""


def test_suffixes_in_use():
    assert {".mts", ".m2ts", ".vob", ".3gp", ".3g2", ".ogv", ".opus", ".aiff", ".wma"} <= SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


def test_links_to_folders_are_followed(tmp_path):
    touch(tmp_path, "clips/dog/a.mp4", "elsewhere/cat/b.mp4", "elsewhere/cat/deep/c.mp4", "one.mp4")
    clips = tmp_path / "clips"
    (clips / "cat").symlink_to("../elsewhere/cat")
    (clips / "dog" / "linked.mp4").symlink_to(tmp_path / "one.mp4")
    found = media_folder(clips)
    expected = ["cat/b.mp4", "cat/deep/c.mp4", "dog/a.mp4", "dog/linked.mp4"]
    assert (names(found.files, clips), found.links) == (expected, [])
    # From a link to the whole as well.
    (tmp_path / "link").symlink_to("clips")
    assert names(media_folder(tmp_path / "link").files, tmp_path / "link") == expected


def test_each_folder_is_entered_once(tmp_path):
    touch(tmp_path, "clips/dog/a.mp4", "elsewhere/b.mp4", "beside/c.mp4")
    clips = tmp_path / "clips"
    (clips / "dog" / "up").symlink_to("..")
    (clips / "dog" / "self").symlink_to(".")
    (clips / "out").symlink_to(tmp_path)
    (clips / "hound").symlink_to("dog")
    (clips / "kitten").symlink_to("../elsewhere")
    (clips / "cat").symlink_to("../elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(clips)
    (tmp_path / "elsewhere" / "there").symlink_to("../beside")
    (tmp_path / "beside" / "again").symlink_to("../elsewhere")
    found = media_folder(clips)
    # What is linked from two places is taken under the first.
    assert names(found.files, clips) == ["cat/b.mp4", "cat/there/c.mp4", "dog/a.mp4"]
    assert sorted(names(found.links, clips)) == [
        *("cat/back", "cat/there/again", "dog/self", "dog/up", "hound", "kitten", "out")
    ]
    assert "7 links to folders that are taken already or lead back (" in found.passed_over(clips)


def test_a_linked_folder_that_holds_one_taken_already(tmp_path):
    touch(tmp_path, "inner/a.mp4", "outer/b.mp4")
    clips = tmp_path / "clips"
    clips.mkdir()
    (tmp_path / "inner").rename(tmp_path / "outer" / "inner")
    (clips / "a").symlink_to("../outer/inner")
    (clips / "b").symlink_to("../outer")
    assert names(media_folder(clips).files, clips) == ["a/a.mp4", "b/b.mp4"]


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(TCAFError, match=r"cannot read the folder .*locked: Permission denied"):
        media_folder(tmp_path)
