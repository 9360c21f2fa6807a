import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError

SPEC = FeatureSpec(3, 5, 0.5, 0.25, "ears", "eyes")


def clip(clip_id="good", audio=(2, 3), visual=(7, 5), audio_value=1.0, dtype=np.float32):
    audio_tokens = np.ones(audio, dtype)
    if audio_tokens.size:
        audio_tokens[-1, 1] = audio_value
    return VideoFeatures(clip_id, audio_tokens, np.full(visual, 0.5, dtype), "ant", "val_seen")


def write(path, *clips, left_out=(), error=None, **options):
    with new_store(path, SPEC, **options) as writer:
        for one in clips:
            writer.add(one)
        for reason, name in left_out:
            writer.leave_out(reason, name)
        if error:
            raise error
    return path


BAD = [
    (clip("bad", audio_value=np.nan), "'bad': audio token 1 has the value nan in column 1"),
    (clip("bad", audio_value=np.inf), "'bad': audio token 1 has the value inf in column 1"),
    (clip("bad", audio_value=-70000), "'bad': audio value 70000 does not fit float16; .*float32"),
    (clip("bad", audio=(0, 3), visual=(0, 5)), "'bad' is empty"),
    (clip("bad", visual=(2, 7)), r"'bad': expected visual tokens of shape \(len, 5\), got \(2, 7"),
    (clip("good"), "'good' was added twice"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
@pytest.mark.parametrize("shard_bytes", [1, 2**20])
def test_bad_clip_leaves_nothing(tmp_path, bad, message, shard_bytes):
    with pytest.raises(TCAFError, match=message):
        write(tmp_path / "out", clip(), bad, shard_bytes=shard_bytes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_clip_leaves_the_older_store(tmp_path, bad, message):
    write(tmp_path / "out", clip("old"))
    before = FeatureStore.open(tmp_path / "out").fingerprint
    with pytest.raises(TCAFError, match=message):
        write(tmp_path / "out", clip(), bad, shard_bytes=1, overwrite=True)
    store = FeatureStore.open(tmp_path / "out")
    assert (store.ids, store.fingerprint) == (["old"], before)
    store.verify()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_too_large_for_float32(tmp_path):
    with pytest.raises(TCAFError, match=r"audio value 1e\+39 does not fit float32$"):
        write(tmp_path / "o", clip(audio_value=1e39, dtype=np.float64), dtype="float32")
    assert not (tmp_path / "o").exists()


def test_largest_float16_fits(tmp_path):
    path = write(tmp_path / "out", clip(audio_value=65504))
    assert FeatureStore.open(path)[0].audio[-1, 1] == 65504


def test_one_modality_is_enough(tmp_path):
    deaf, blind = clip("deaf", audio=(0, 3)), clip("blind", visual=(0, 5))
    store = FeatureStore.open(write(tmp_path / "out", deaf, blind))
    assert [len(c.audio) for c in store] == [0, 2]
    assert [len(c.visual) for c in store] == [7, 0]


def test_no_clip(tmp_path):
    with pytest.raises(TCAFError, match=r"^no clip to store$"):
        write(tmp_path / "out")
    left_out = [("too short", "a"), ("no sound", "b"), ("too short", "c")]
    message = r"^no clip to store: 2 left out: too short; 1 left out: no sound$"
    with pytest.raises(TCAFError, match=message):
        write(tmp_path / "out", left_out=left_out)
    assert list(tmp_path.iterdir()) == []


def test_another_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", clip(), shard_bytes=1, error=KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shard_bytes", "clips_in"), [(1, [1] * 7), (163, [2, 2, 2, 1]), (999, [7])]
)
def test_shards_are_cut_by_bytes(tmp_path, shard_bytes, clips_in):
    # A clip has 2 * 3 + 7 * 5 = 41 numbers of 2 bytes: 82 bytes, two of them 164.
    clips = [clip(f"c{i}") for i in range(7)]
    path = write(tmp_path / "out", *clips, shard_bytes=shard_bytes)
    shards = json.loads((path / "store.json").read_text())["shards"]
    assert [shard["clips"] for shard in shards] == clips_in
    assert [shard["file"] for shard in shards] == [
        f"shard-{i:05d}.arrow" for i in range(len(clips_in))
    ]
    assert sorted(p.name for p in path.glob("*.arrow")) == [shard["file"] for shard in shards]
    assert FeatureStore.open(path).ids == [c.id for c in clips]


def test_no_overwriting_by_accident(tmp_path):
    write(tmp_path / "out", clip("old"))
    with pytest.raises(TCAFError, match="exists already"):
        write(tmp_path / "out", clip("new"))
    assert FeatureStore.open(tmp_path / "out").ids == ["old"]
    write(tmp_path / "out", clip("new"), overwrite=True)
    assert FeatureStore.open(tmp_path / "out").ids == ["new"]


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(TCAFError, match="is no feature store; it will not be overwritten"):
        write(tmp_path / "home", clip(), overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_an_open_store_outlives_its_replacement(tmp_path):
    write(tmp_path / "out", clip("old", audio_value=3))
    store = FeatureStore.open(tmp_path / "out")
    write(tmp_path / "out", clip("new", audio_value=5), overwrite=True)
    assert store[0].audio[-1, 1] == 3


def test_text_comes_with_the_store(tmp_path):
    with new_store(tmp_path / "out", SPEC) as writer:
        writer.add(clip())
        writer.add_text("words", {"ant": np.arange(3, dtype=np.float32)})
    store = FeatureStore.open(tmp_path / "out")
    np.testing.assert_array_equal(store.text("words")["ant"], [0, 1, 2])


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from tcaf import FeatureSpec, VideoFeatures, new_store

spec = FeatureSpec(3, 5, 0.5, 0.25, "ears", "eyes")
with new_store(sys.argv[1], spec, shard_bytes=1) as fresh:
    with new_store(sys.argv[2], spec, shard_bytes=1, overwrite=True) as again:
        for writer in (fresh, again):
            writer.add(VideoFeatures("new", np.ones((2, 3), "f4"), np.ones((7, 5), "f4")))
        print(*(len(list(w.folder.glob("*.arrow"))) for w in (fresh, again)), flush=True)
        time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_writer(tmp_path):
    fresh, again = tmp_path / "fresh", tmp_path / "again"
    write(again, clip("old"))
    command = [sys.executable, "-c", WRITER, str(fresh), str(again)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "1 1\n"
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(TCAFError, match="no feature store"):
        FeatureStore.open(fresh)
    store = FeatureStore.open(again)
    store.verify()
    assert store.ids == ["old"]
    # What the killed process left does not disturb the next, even one of the same number.
    leftover = tmp_path / f".fresh.{process.pid}.partial"
    assert (leftover / "shard-00000.arrow").is_file()
    leftover.rename(tmp_path / f".fresh.{os.getpid()}.partial")
    assert FeatureStore.open(write(fresh, clip("new"))).ids == ["new"]
    assert sorted(p.name for p in fresh.iterdir()) == ["shard-00000.arrow", "store.json"]
