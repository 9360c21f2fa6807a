"""Where features gather: what comes back, changed files, rejects, damage."""

import json
from pathlib import Path

import numpy as np
import pytest

from pool_work import SPEC, media_file
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.extract.work_folder import Extracted, MediaFile, Reject, WorkFolder


def clip_of(file, audio_len=2):
    rng = np.random.default_rng(1)
    return VideoFeatures(
        file.id,
        rng.normal(size=(audio_len, 3)).astype(np.float32),
        rng.normal(size=(7, 5)).astype(np.float32),
        audio_backbone="listen",
        visual_backbone="look",
    )


@pytest.fixture
def work(tmp_path):
    return WorkFolder.open(tmp_path / "out.extracted", SPEC)


def test_features_come_back(tmp_path, work):
    file = media_file(tmp_path)
    assert work.find(file) is None
    work.keep(file, clip_of(file), ["a note"])
    found = WorkFolder.open(work.path, SPEC).find(file)
    assert isinstance(found, Extracted)
    assert (found.id, found.missing, found.notes) == (file.id, (), ("a note",))
    clip = found.features("dog", "val_seen")
    assert (clip.id, clip.class_name, clip.part) == (file.id, "dog", "val_seen")
    assert (clip.audio_backbone, clip.visual_backbone) == ("listen", "look")
    assert np.array_equal(clip.audio, clip_of(file).audio)
    assert np.array_equal(clip.visual, clip_of(file).visual)


def test_a_missing_modality_comes_back(tmp_path, work):
    file = media_file(tmp_path)
    work.keep(file, clip_of(file, audio_len=0), ["no audio track"])
    found = work.find(file)
    assert isinstance(found, Extracted)
    assert (found.missing, found.notes) == (("audio",), ("no audio track",))


def test_rejects_come_back(tmp_path, work):
    file = media_file(tmp_path)
    work.reject(file, "not a media file", "more")
    assert work.find(file) == Reject(file.id, "not a media file", "more")
    missing = MediaFile("gone.mp4", tmp_path / "gone.mp4")
    work.reject(missing, "no file", "more")
    assert work.find(missing) == Reject("gone.mp4", "no file", "more")


@pytest.mark.parametrize("rejected", [True, False])
def test_a_file_that_changed_is_done_again(tmp_path, work, rejected):
    file = media_file(tmp_path)
    if rejected:
        work.reject(file, "not a media file", "more")
    else:
        work.keep(file, clip_of(file), [])
    media_file(tmp_path, content=b"other content")
    assert work.find(file) is None


@pytest.mark.parametrize("rejected", [True, False])
def test_permissions_count_for_rejects_alone(tmp_path, work, rejected):
    file = media_file(tmp_path)
    if rejected:
        work.reject(file, "not readable", "more")
    else:
        work.keep(file, clip_of(file), [])
    before = file.path.stat().st_ctime_ns
    while file.path.stat().st_ctime_ns == before:  # clocks of file systems are coarse
        file.path.chmod(0o600)
    assert (work.find(file) is None) == rejected


def test_a_reject_is_of_the_file_before_it_was_read(tmp_path, work):
    file = media_file(tmp_path)
    state = file.state()
    media_file(tmp_path, content=b"more has come meanwhile")
    work.reject(file, "damaged header", "more", state)
    assert work.find(file) is None


def test_a_full_disk_is_an_error_of_the_system(tmp_path):
    resource = pytest.importorskip("resource")
    file = media_file(tmp_path)
    work = WorkFolder.open(tmp_path / "work", SPEC)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (101, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            work.keep(file, clip_of(file), [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(work.clips.iterdir())


def test_the_last_outcome_counts(tmp_path, work):
    file = media_file(tmp_path)
    work.keep(file, clip_of(file), [])
    work.reject(file, "not a media file", "more")
    assert isinstance(work.find(file), Reject)
    work.keep(file, clip_of(file), [])
    assert isinstance(work.find(file), Extracted)


def test_a_damaged_outcome_is_done_again(tmp_path, work):
    file = media_file(tmp_path)
    work.keep(file, clip_of(file), [])
    (kept,) = work.clips.iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[:20], whole[:-1] + bytes([whole[-1] ^ 1])):
        kept.write_bytes(whole)
        found = work.find(file)
        kept.write_bytes(damaged)
        assert work.find(file) is None
        with pytest.raises(TCAFError, match=f"the features kept at {kept} are damaged"):
            found.features()
    kept.unlink()
    (work.rejects / f"{file.key}.json").write_text("{")
    assert work.find(file) is None


def test_what_a_killed_process_was_writing_goes(work):
    unfinished = work.clips / ".x.safetensors.12.partial"
    unfinished.write_bytes(b"half")
    WorkFolder.open(work.path, SPEC)
    assert not unfinished.exists()


def test_other_backbones_are_refused(work):
    other = FeatureSpec(3, 5, 0.96, 0.64, "listen", "stare")
    with pytest.raises(TCAFError, match="with listen and look, now it is listen and stare"):
        WorkFolder.open(work.path, other)


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(TCAFError, match="no unfinished extraction"):
        WorkFolder.open(tmp_path / "photos", SPEC)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_damaged_job(work):
    Path(work.path / "job.json").write_text("{")
    with pytest.raises(TCAFError, match="an unfinished extraction"):
        WorkFolder.open(work.path, SPEC)


def test_keys_are_safe_names():
    keys = {MediaFile(name, Path(name)).key for name in ("a/b.mp4", "ä\n.mp4", "A/b.mp4")}
    assert len(keys) == 3
    assert all(key.isalnum() for key in keys)
    assert json.dumps(sorted(keys)).isascii()
