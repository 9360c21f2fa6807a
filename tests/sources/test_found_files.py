"""Which file a listed clip is in, by the names that downloaders give."""

import pytest

from tcaf.errors import TCAFError
from tcaf.extract.work_folder import MediaFile, Reject
from tcaf.sources.found_files import FoundFiles, check_reach, stems_of
from tcaf.sources.published import Listed


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return FoundFiles(folder)


def listed(name="abc_defg-hi", segment=(10.0, 20.0), **more):
    return Listed("t.csv, line 1", name, "dog", segment=segment, cut_names=True, **more)


@pytest.mark.parametrize(
    "name",
    [
        "abc_defg-hi_000010.mp4",
        "abc_defg-hi_000010_000020.mkv",
        "dog/abc_defg-hi_10.webm",
        "abc_defg-hi_10_20.MP4",
        "deep/er/abc_defg-hi_10.0_20.0.mp4",
        "abc_defg-hi-10-20.mp4",
        "abc_defg-hi_10000_20000.mp4",
        "Yabc_defg-hi_10.wav",
        "v_abc_defg-hi_000010.avi",
    ],
)
def test_a_file_of_the_stretch_alone(tmp_path, name):
    files = touch(tmp_path, name, "abc_defg-hi_000030.mp4", "abc_defg-hi.mp4")
    assert files.find(listed()) == MediaFile(name, tmp_path / name)
    assert files.unlisted() == ["abc_defg-hi.mp4", "abc_defg-hi_000030.mp4"]


@pytest.mark.parametrize("name", ["abc_defg-hi.mp4", "v_abc_defg-hi.mkv", "x/Yabc_defg-hi.m4a"])
def test_a_file_of_the_whole_video(tmp_path, name):
    files = touch(tmp_path, name)
    assert files.find(listed()) == MediaFile(name, tmp_path / name, (10.0, 20.0))
    assert files.find(listed(), trimmed=True) == MediaFile(name, tmp_path / name)
    assert files.find(listed(segment=None)) == MediaFile(name, tmp_path / name)
    assert files.unlisted() == []


def test_a_stretch_of_other_times_is_not_taken(tmp_path):
    files = touch(tmp_path, "abc_defg-hi_000030.mp4", "abc_defg-hi_000100.mp4", "abc_defg-hi_1.mp4")
    missing = files.find(listed())
    assert missing == Reject(
        "abc_defg-hi@10-20", "no such file", f"{tmp_path}: no media file is called abc_defg-hi"
    )
    assert len(files.unlisted()) == 3


def test_tables_of_whole_videos_have_no_files_of_stretches(tmp_path):
    """The number behind the id of ActivityNet's clips is not that of a second."""
    files = touch(tmp_path, "abc_10.mp4", "abc.mp4")
    clip = Listed("an.json, abc", "abc", "dog", segment=(10.0, 20.0))
    assert files.find(clip) == MediaFile("abc.mp4", tmp_path / "abc.mp4", (10.0, 20.0))


def test_files_by_name(tmp_path):
    files = touch(tmp_path, "dog/1-A.flac", "cat/1-A.wav", "cat/2.wav", "x/y/3.mp4")
    find = lambda name: files.find(listed(name, None, is_file=True))  # noqa: E731
    assert find("cat/1-A.wav").name == "cat/1-A.wav"
    # By another suffix in the same folder, then anywhere.
    assert find("dog/1-A.wav").name == "dog/1-A.flac"
    assert find("2.avi").name == "cat/2.wav"
    assert find("z/3.avi").name == "x/y/3.mp4"
    several = find("1-A.avi")
    assert several.reason == "several files"
    assert several.detail == "1-A.avi may be each of 'cat/1-A.wav', 'dog/1-A.flac'"
    assert find("4.avi").reason == "no such file"
    assert files.unlisted() == []


def test_names_begin_with_the_most_telling():
    names = list(stems_of("x", (1.5, 11.5)))
    assert names.index("x_000002_000012") < names.index("x_000002")
    assert {"x_1.5_11.5", "x_1500_11500", "x-1.5"} <= set(names)


def test_stretches_that_do_not_lie_in_the_files_are_refused(tmp_path):
    from damaged import write_clip

    long = write_clip(tmp_path / "long.wav", 0, num_samples=16_000, audio_codec="pcm_s16le")
    (tmp_path / "none.wav").touch()
    inside = MediaFile("long.wav", long, (0.0, 1.4))
    outside = MediaFile("long.wav", long, (30.0, 40.0))
    whole = MediaFile("long.wav", long)
    damaged = MediaFile("none.wav", tmp_path / "none.wav", (0.0, 1.0))
    check_reach([], tmp_path)
    check_reach([inside, outside, damaged], tmp_path)
    check_reach([whole] * 5 + [outside, inside], tmp_path)
    with pytest.raises(
        TCAFError, match=r"2 of 3 files of .* 'long.wav@30-40'|long.wav@30-40 of one"
    ):
        check_reach([inside, outside, outside], tmp_path)
    with pytest.raises(TCAFError, match=r"20 of 20 files .* say --trimmed"):
        check_reach([outside] * 400, tmp_path)
