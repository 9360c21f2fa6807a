"""Many files: resuming, changed files, rejects."""

import json
from pathlib import Path

import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.extract.corpus import Extracted, MediaFile, Reject, WorkFolder
from tcaf.features import FeatureSpec, VideoFeatures

SPEC = FeatureSpec(3, 5, 0.96, 0.64, "listen", "look")


def media_file(folder, name="a/b.mp4", content=b"content"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return MediaFile(name, path)


def clip_of(file, audio_len=2):
    rng = np.random.default_rng(1)
    return VideoFeatures(
        file.id,
        rng.normal(size=(audio_len, 3)).astype(np.float32),
        rng.normal(size=(7, 5)).astype(np.float32),
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
    assert np.array_equal(clip.audio, clip_of(file).audio)
    assert np.array_equal(clip.visual, clip_of(file).visual)


def test_a_missing_modality_is_noted(tmp_path, work):
    file = media_file(tmp_path)
    work.keep(file, clip_of(file, audio_len=0), [])
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
    kept.write_bytes(kept.read_bytes()[:20])
    assert work.find(file) is None
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
