import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.store import FeatureStore
from tcaf.data.writer import append_store, new_store
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
    (
        replace(clip("bad"), visual_backbone="ears"),
        "'bad': expected visual features of 'eyes', got those of 'ears'",
    ),
    (clip("good"), "'good' was added twice"),
    (clip("\ud800"), r"expected a name in Unicode, got '\\ud800', half a character"),
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


def test_halves_of_characters_are_written_out_where_clips_are_left_out(tmp_path):
    store = FeatureStore.open(write(tmp_path / "out", clip(), left_out=[("odd", "a\udc80")]))
    assert store.left_out == {"odd": ["a\\udc80"]}


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
    with pytest.raises(TCAFError, match=r"holds a feature store already; name .* pass --overwrite"):
        write(tmp_path / "out", clip("new"))
    assert FeatureStore.open(tmp_path / "out").ids == ["old"]
    write(tmp_path / "out", clip("new"), overwrite=True)
    assert FeatureStore.open(tmp_path / "out").ids == ["new"]


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(TCAFError, match=r"is no feature store; name another place$"):
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


@pytest.mark.slow
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


def files(path):
    """Every file of a store, and what is in it."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()}


def append(path, *clips, **options):
    with append_store(path, **options) as writer:
        for one in clips:
            writer.add(one)


@pytest.fixture
def two(tmp_path):
    """A store of two clips in two shards, with a split and a clip that was left out."""
    with new_store(tmp_path / "two", SPEC, dtype="float32", shard_bytes=1) as writer:
        writer.add(clip("a"))
        writer.add(clip("b", audio_value=3))
        writer.splits["cls"] = Split(("ant",), ("bee",), ("cat",))
        writer.leave_out("too short", "x")
        writer.phrases["ant"] = {"name": ["ant"]}
        writer.source["kind"] = "test"
    return tmp_path / "two"


def test_appended_clips_come_after_the_old_ones(two):
    before, opened = files(two), FeatureStore.open(two)
    with append_store(two, shard_bytes=1) as writer:
        # 1 + 1e-5 is 1 in float16: the store's own type is kept.
        writer.add(clip("c", audio_value=1 + 1e-5))
        writer.add(clip("d"))
        writer.leave_out("too short", "y")
        writer.phrases["bee"] = {"name": ["bee"]}
    store = FeatureStore.open(two)
    store.verify()
    assert store.ids == ["a", "b", "c", "d"]
    assert store[2].audio[-1, 1] == np.float32(1 + 1e-5)
    assert store.splits == opened.splits
    assert store.left_out == {"too short": ["x", "y"]}
    assert set(store.phrases) == {"ant", "bee"}
    assert store.source == {"kind": "test"}
    after = files(two)
    assert {name: after[name] for name in before if name != "store.json"} == {
        name: content for name, content in before.items() if name != "store.json"
    }
    assert set(after) - set(before) == {"shard-00002.arrow", "shard-00003.arrow"}
    # Who had it open goes on reading what there was.
    assert (opened.ids, opened[1].audio[-1, 1]) == (["a", "b"], 3)


def test_a_store_that_grew_equals_one_written_at_once(two, tmp_path):
    append(two, clip("c"), clip("d"), shard_bytes=1)
    clips = [clip("a"), clip("b", audio_value=3), clip("c"), clip("d")]
    at_once = write(tmp_path / "once", *clips, dtype="float32", shard_bytes=1)
    assert FeatureStore.open(two).fingerprint == FeatureStore.open(at_once).fingerprint


def test_known_clips_are_refused_or_passed_over(two):
    before = files(two)
    with pytest.raises(TCAFError, match=r"clip 'b' is in store .*two already"):
        append(two, clip("c"), clip("b"), shard_bytes=1)
    assert files(two) == before
    append(two, clip("b", audio_value=7), clip("c"), skip_known=True)
    store = FeatureStore.open(two)
    assert store.ids == ["a", "b", "c"]
    assert store[1].audio[-1, 1] == 3
    with pytest.raises(TCAFError, match="clip 'd' was added twice"):
        append(two, clip("d"), clip("d"), skip_known=True)


@pytest.mark.parametrize(("bad", "message"), BAD[:5])
def test_a_bad_clip_leaves_the_store_as_it_was(two, bad, message):
    if "float16" in message:
        bad, message = clip("bad", audio_value=1e39, dtype=np.float64), "does not fit float32"
    before = files(two)
    with pytest.raises(TCAFError, match=message):
        append(two, clip("c"), bad, shard_bytes=1)
    assert files(two) == before


def test_nothing_but_what_is_said_of_the_store_may_change(two):
    before = FeatureStore.open(two).fingerprint
    with append_store(two) as writer:
        writer.splits["cls"] = Split(("ant",), ("bee",), ("cat", "dog"))
    store = FeatureStore.open(two)
    assert store.split("cls").test_unseen == ("cat", "dog")
    assert store.fingerprint == before


def test_only_a_store_is_added_to(tmp_path):
    with pytest.raises(TCAFError, match=r"no feature store at .*gone"):
        append(tmp_path / "gone", clip())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "shard-1.arrow").touch()
    with pytest.raises(TCAFError, match="expected the list of shards"):
        append(tmp_path / "photos", clip())
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["shard-1.arrow"]


@pytest.mark.skipif(os.name != "posix", reason="locks of files")
def test_one_process_at_a_time_adds(two):
    with append_store(two) as writer:
        writer.add(clip("c"))
        with pytest.raises(TCAFError, match=r"another process \(pid \d+ .*\) is at work on .*two"):
            append(two, clip("d"))
    assert FeatureStore.open(two).ids == ["a", "b", "c"]


APPENDER = """
import sys, time
import numpy as np
from tcaf.data.features import VideoFeatures
from tcaf.data.writer import append_store

with append_store(sys.argv[1], shard_bytes=1) as writer:
    writer.add(VideoFeatures("c", np.ones((2, 3), "f4"), np.ones((7, 5), "f4")))
    (writer.folder / ".store.json.7.partial").touch()
    print(len(list(writer.folder.glob("*.arrow"))), flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_while_adding(two):
    before = files(two)
    command = [sys.executable, "-c", APPENDER, str(two)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "3\n"
        finally:
            process.send_signal(signal.SIGKILL)
    left = files(two)
    assert set(left) - set(before) == {"shard-00002.arrow", ".store.json.7.partial"}
    assert {name: left[name] for name in before} == before
    store = FeatureStore.open(two)
    store.verify()
    assert store.ids == ["a", "b"]
    # The next has the place to itself, and clears what was left.
    append(two, clip("d"), clip("e"))
    store = FeatureStore.open(two)
    store.verify()
    assert store.ids == ["a", "b", "d", "e"]
    assert sorted(files(two)) == [f"shard-0000{i}.arrow" for i in range(3)] + ["store.json"]
