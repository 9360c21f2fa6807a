import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.data.batches import token_view
from tcaf.data.features import MODALITIES, FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.store import FeatureStore, read_text_embeddings
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.files.sealed import seal_json

SPEC = FeatureSpec(3, 5, 0.96, None, "ears", "eyes")
SPLIT = Split(("ant", "bee"), ("cat",), ("dog",))
PARTS = {"ant": "stage_1_train", "bee": "val_seen", "cat": "val_unseen", "dog": "test_unseen"}
NUM_CLIPS = 23


def make_clips(seed=0, dtype=np.float32):
    """Clips of many lengths; some have one modality only."""
    rng = np.random.default_rng(seed)
    clips = []
    for number in range(NUM_CLIPS):
        audio_len, visual_len = rng.integers(0, 7), rng.integers(0, 11)
        visual_len += audio_len == visual_len == 0
        class_name = ["ant", "bee", "cat", "dog"][number % 4]
        clips.append(
            VideoFeatures(
                f"clip-{number}",
                rng.normal(size=(audio_len, SPEC.audio_dim)).astype(dtype),
                rng.normal(size=(visual_len, SPEC.visual_dim)).astype(dtype),
                class_name,
                PARTS[class_name],
            )
        )
    return clips


def write_store(path, clips=None, *, dtype="float32", shard_bytes=331, overwrite=False):
    with new_store(path, SPEC, dtype=dtype, shard_bytes=shard_bytes, overwrite=overwrite) as writer:
        for clip in clips or make_clips():
            writer.add(clip)
        writer.splits["cls"] = SPLIT
        writer.phrases["ant"] = {"name": ["ant"], "said": ["an ant", "ants"]}
        writer.leave_out("too short", "clip-x")
        writer.source["kind"] = "test"
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("stores") / "store")


@pytest.fixture(scope="module")
def store(path):
    return FeatureStore.open(path)


@pytest.fixture
def copy(path, tmp_path):
    """A store of one's own, never opened yet: a mapped file must not be changed in place."""
    return Path(shutil.copytree(path, tmp_path / "copy"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shard_bytes", [1, 331, 2**20])
def test_reads_what_was_written(tmp_path, dtype, shard_bytes):
    path = write_store(tmp_path / "s", dtype=dtype, shard_bytes=shard_bytes)
    store = FeatureStore.open(str(path))
    clips = make_clips()
    assert len(store) == NUM_CLIPS
    assert store.dtype == dtype
    for clip, kept in zip(clips, store, strict=True):
        assert (kept.id, kept.class_name, kept.part) == (clip.id, clip.class_name, clip.part)
        assert (kept.audio_backbone, kept.visual_backbone) == ("ears", "eyes")
        for m in MODALITIES:
            assert kept.tokens(m).dtype == dtype
            np.testing.assert_array_equal(kept.tokens(m), clip.tokens(m).astype(dtype))
    assert store.ids == [clip.id for clip in clips]
    assert store.class_names.tolist() == [clip.class_name for clip in clips]
    assert store.parts.tolist() == [clip.part for clip in clips]
    for m in MODALITIES:
        assert store.lens(m).tolist() == [len(clip.tokens(m)) for clip in clips]
    assert store.spec == SPEC
    assert store.splits == {"cls": SPLIT}
    assert store.phrases == {"ant": {"name": ["ant"], "said": ["an ant", "ants"]}}
    assert store.left_out == {"too short": ["clip-x"]}
    assert store.source == {"kind": "test"}
    store.verify()


def test_has_several_shards(path):
    assert len(list(path.glob("*.arrow"))) > 5


def slow_gather(clips, rows, modality, first, lens):
    pieces = [np.zeros((0, SPEC.dim(modality)), np.float32)]
    for row, start, number in zip(rows, first, lens, strict=True):
        pieces.append(clips[row].tokens(modality)[start : start + number])
    return np.concatenate(pieces)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), modality=st.sampled_from(MODALITIES))
def test_gather_equals_a_slow_loop(store, data, modality):
    clips = make_clips()
    rows = data.draw(st.lists(st.integers(0, NUM_CLIPS - 1), max_size=13))
    whole = [len(clips[row].tokens(modality)) for row in rows]
    first = [data.draw(st.integers(0, number)) for number in whole]
    lens = [
        data.draw(st.integers(0, number - start))
        for number, start in zip(whole, first, strict=True)
    ]
    ids = np.array(rows, np.int64)
    windows = store.gather(ids, modality, np.array(first, np.int64), np.array(lens, np.int64))
    np.testing.assert_array_equal(windows, slow_gather(clips, rows, modality, first, lens))
    np.testing.assert_array_equal(
        store.gather(ids, modality), slow_gather(clips, rows, modality, [0] * len(rows), whole)
    )


@pytest.mark.parametrize("row", [-1, NUM_CLIPS, 10**9])
def test_gather_refuses_rows_that_are_not_there(store, row):
    with pytest.raises(IndexError, match=f"row {row} of a store of 23 clips"):
        store.gather(np.array([2, row]), "visual")
    with pytest.raises(IndexError, match=f"row {row} of"):
        store.gather(np.array([row]), "audio", np.array([0]), np.array([0]))


@pytest.mark.parametrize(("first", "more"), [(-1, 0), (1, 0), (0, 1), (10**6, -(10**6)), (0, -99)])
def test_gather_never_returns_tokens_of_another_clip(store, first, more):
    whole = store.lens("visual")[[4, 2]]
    firsts, lens = np.array([0, first]), whole + np.array([0, more])
    with pytest.raises(IndexError, match=f"from {first} on of row 2, which has {whole[1]}"):
        store.gather(np.array([4, 2]), "visual", firsts, lens)


def test_gather_copies(store):
    packed = store.gather(np.array([2, 2]), "visual")
    packed[:] = 0
    np.testing.assert_array_equal(store[2].visual, make_clips()[2].visual)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tensor_equals_the_clip(tmp_path, dtype):
    store = FeatureStore.open(write_store(tmp_path / "s", dtype=dtype))
    for row, clip in enumerate(make_clips()):
        for m in MODALITIES:
            tensor = token_view(store, row, m)
            assert tensor.dtype == getattr(torch, dtype)
            assert tensor.shape == clip.tokens(m).shape
            np.testing.assert_array_equal(tensor.numpy(), clip.tokens(m).astype(dtype))


def mapped_ranges(folder):
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(str(folder)):
            start, stop = (int(end, 16) for end in fields[0].split("-"))
            yield range(start, stop)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory map from /proc")
def test_tokens_are_views_of_the_mapped_file(path, store):
    ranges = list(mapped_ranges(path.resolve()))
    assert ranges
    for row in range(NUM_CLIPS):
        for m in MODALITIES:
            tensor, array = token_view(store, row, m), store[row].tokens(m)
            if not tensor.numel():
                continue
            address = tensor.data_ptr()
            assert address == token_view(store, row, m).data_ptr()
            assert address == array.__array_interface__["data"][0]
            last = address + tensor.nbytes - 1
            assert any(address in mapped and last in mapped for mapped in ranges)
            assert not array.flags.writeable
    # The check can fail: a copy lies elsewhere.
    copied = token_view(store, 1, "visual").clone().data_ptr()
    assert not any(copied in mapped for mapped in ranges)


def test_reading_allocates_nothing_in_arrow(store):
    before = pa.total_allocated_bytes()
    kept = [token_view(store, row, m) for row in range(NUM_CLIPS) for m in MODALITIES]
    assert pa.total_allocated_bytes() == before
    assert len(kept) == 2 * NUM_CLIPS


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs posix_fadvise")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_expected_is_read_ahead(tmp_path, monkeypatch, dtype):
    store = FeatureStore.open(write_store(tmp_path / "store", dtype=dtype))
    advised = []

    def read(descriptor, start, length, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        advised.append(os.pread(descriptor, length, start))

    monkeypatch.setattr(os, "posix_fadvise", read)
    rows = np.array([21, 3, 8, 3, 0])
    for modality in MODALITIES:
        advised.clear()
        whole = store.lens(modality)[rows]
        first = np.minimum(whole, np.array([1, 0, 2, 3, 0]))
        store.expect(rows, modality, first, whole - first)
        # The bytes that are read ahead are those that are gathered then.
        gathered = store.gather(rows, modality, first, whole - first)
        assert b"".join(advised) == gathered.tobytes()
        assert len(advised) == int((whole > first).sum()) > 2


def test_parts_and_unions(store):
    assert store.rows("cls", "stage_1_train").tolist() == [0, 4, 8, 12, 16, 20]
    assert store.rows("cls", "val").tolist() == [r for r in range(NUM_CLIPS) if r % 4 in (1, 2)]
    assert store.rows("cls", "stage_2_train").tolist() == [
        r for r in range(NUM_CLIPS) if r % 4 != 3
    ]
    assert store.rows("cls", "test_seen").tolist() == []
    with pytest.raises(TCAFError, match=r"no split 'clss'; it has cls; did you mean 'cls'\?"):
        store.rows("clss", "val")
    with pytest.raises(TCAFError, match=r"no part 'val_sen'.*did you mean 'val_seen'\?"):
        store.rows("cls", "val_sen")


def test_row_of_a_clip(store):
    assert [store.row(clip_id) for clip_id in store.ids] == list(range(NUM_CLIPS))
    with pytest.raises(TCAFError, match=r"no clip 'clip_7'; did you mean 'clip-7'\?"):
        store.row("clip_7")


@pytest.mark.parametrize("row", [-1, NUM_CLIPS, 10**9])
def test_no_such_row(store, row):
    with pytest.raises(IndexError, match=f"row {row} of a store of 23 clips"):
        store[row]
    with pytest.raises(IndexError):
        token_view(store, row, "audio")


def test_summary(store):
    clips, summary = make_clips(), store.summary()
    assert (summary["clips"], summary["classes"]) == (NUM_CLIPS, 4)
    audio = [len(clip.audio) for clip in clips]
    assert summary["lengths"]["audio"] == {
        "tokens": sum(audio),
        "shortest": min(audio),
        "median": sorted(audio)[11],
        "longest": max(audio),
        "clips_without": audio.count(0),
    }
    assert summary["splits"]["cls"]["stage_2_train"] == {"clips": 18, "classes": 3}
    assert summary["left_out"] == {"too short": ["clip-x"]}
    assert summary["phrases"] == ["name", "said"]
    assert json.loads(json.dumps(summary)) == summary


def test_fingerprint_is_of_the_content(store, tmp_path):
    assert FeatureStore.open(write_store(tmp_path / "same")).fingerprint == store.fingerprint
    clips = make_clips()
    clips[17].visual[0, 0] += 1
    other = FeatureStore.open(write_store(tmp_path / "other", clips))
    assert other.fingerprint != store.fingerprint


# -- damage ----------------------------------------------------------------------------------------


def rewrite(path, content):
    """Replaces a file by another, as an outside program would: never in place."""
    path.unlink()
    path.write_bytes(content)


def test_truncated_shard(copy):
    shard = copy / "shard-00002.arrow"
    size = shard.stat().st_size
    rewrite(shard, shard.read_bytes()[:-1])
    with pytest.raises(TCAFError, match=rf"shard-00002.*expected {size} bytes, found {size - 1}"):
        FeatureStore.open(copy)


def test_deleted_shard(copy):
    (copy / "shard-00001.arrow").unlink()
    with pytest.raises(TCAFError, match=r"shard-00001\.arrow is missing"):
        FeatureStore.open(copy)


def test_garbage_of_the_same_size(copy):
    shard = copy / "shard-00000.arrow"
    rewrite(shard, bytes(shard.stat().st_size))
    with pytest.raises(TCAFError, match=r"shard-00000\.arrow is corrupt"):
        FeatureStore.open(copy)


def test_flipped_bit_in_a_token_is_found_by_verify(copy):
    shard = copy / "shard-00003.arrow"
    content = bytearray(shard.read_bytes())
    clip = make_clips()[FeatureStore.open(copy)._starts[3]]
    position = content.index(clip.visual.tobytes())
    content[position] ^= 1
    rewrite(shard, content)
    damaged = FeatureStore.open(copy)
    with pytest.raises(TCAFError, match=r"shard-00003\.arrow is corrupt.*SHA-256"):
        damaged.verify()


@pytest.mark.slow
def test_no_flipped_byte_kills_the_process(copy):
    # A wrong offset into a mapped file would be a bus error, which no test survives.
    shard = copy / "shard-00000.arrow"
    whole = shard.read_bytes()
    refused = 0
    for position in range(0, len(whole), 13):
        content = bytearray(whole)
        content[position] ^= 0x80
        rewrite(shard, content)
        try:
            store = FeatureStore.open(copy)
        except TCAFError:
            refused += 1
        else:
            assert len(list(store)) == NUM_CLIPS
            with pytest.raises(TCAFError):
                store.verify()
    assert refused > 10


def test_shards_of_two_stores_do_not_mix(copy, tmp_path):
    spec = FeatureSpec(3, 5, 0.48, None, "ears", "eyes")
    with new_store(tmp_path / "other", spec, dtype="float32", shard_bytes=331) as writer:
        for clip in make_clips():
            writer.add(clip)
    # The same columns and the same size, but other seconds per token: the shard's metadata tells.
    other = (tmp_path / "other" / "shard-00000.arrow").read_bytes()
    assert len(other) == (copy / "shard-00000.arrow").stat().st_size
    rewrite(copy / "shard-00000.arrow", other)
    with pytest.raises(TCAFError, match=r"shard-00000\.arrow does not fit store\.json"):
        FeatureStore.open(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has format version 2, this tcaf reads version 1"),
        ({"format": "other"}, "does not describe a feature store"),
        ({"spec": {"audio_dim": 3}}, r"store\.json is damaged"),
        ({"dtype": "float16"}, "does not fit store"),
        ({"other": 1}, r"store\.json is damaged: key 'other' is unknown"),
    ],
)
def test_changed_manifest(copy, change, message):
    manifest = json.loads((copy / "store.json").read_text())
    del manifest["sha256"]
    (copy / "store.json").write_text(json.dumps(seal_json(manifest | change)))
    with pytest.raises(TCAFError, match=message):
        FeatureStore.open(copy)


@pytest.mark.parametrize("name", ["../shard-00000.arrow", "/etc/hosts", "..", "a/b", "..\\a", ""])
def test_shards_lie_inside_the_store(copy, name):
    manifest = json.loads((copy / "store.json").read_text())
    del manifest["sha256"]
    manifest["shards"][0]["file"] = name
    (copy / "store.json").write_text(json.dumps(seal_json(manifest)))
    with pytest.raises(TCAFError, match="expected names of files in this folder, found"):
        FeatureStore.open(copy)


@pytest.mark.parametrize("key", ["spec", "dtype", "shards", "splits", "phrases", "left_out"])
def test_manifest_without_a_key(copy, key):
    manifest = json.loads((copy / "store.json").read_text())
    del manifest[key], manifest["sha256"]
    (copy / "store.json").write_text(json.dumps(seal_json(manifest)))
    with pytest.raises(TCAFError, match=rf"store\.json is damaged: key '{key}' is missing"):
        FeatureStore.open(copy)


def test_no_store(tmp_path, copy):
    with pytest.raises(TCAFError, match=r"no feature store at .*`tcaf prepare` makes one"):
        FeatureStore.open(tmp_path / "none")
    (tmp_path / "foreign").mkdir()
    with pytest.raises(TCAFError, match=r"store\.json, found nothing"):
        FeatureStore.open(tmp_path / "foreign")
    for text in ("", "{", "[1]", '"x"'):
        (copy / "store.json").write_text(text)
        with pytest.raises(TCAFError, match=r"store\.json"):
            FeatureStore.open(copy)


# -- text embeddings -------------------------------------------------------------------------------


def test_text_embeddings(copy):
    store = FeatureStore.open(copy)
    assert store.text_names == []
    words = {"bee": np.arange(7, dtype=np.float32), "ant": np.full(7, 0.5, np.float32)}
    store.add_text("words", words)
    store.add_text("again", {"bee": np.zeros(2, np.float32)})
    store.add_text("again", {"ant": np.ones(3, np.float32)})
    assert store.text_names == ["again", "words"]
    kept = FeatureStore.open(copy).text("words")
    assert list(kept) == ["bee", "ant"]
    for name, vector in words.items():
        np.testing.assert_array_equal(kept[name], vector)
    assert list(store.text("again")) == ["ant"]
    with pytest.raises(TCAFError, match="no text embeddings 'w'; it keeps again, words"):
        store.text("w")


def test_summary_lists_what_was_given_and_not_what_was_computed(copy):
    store = FeatureStore.open(copy)
    for name in ("words", "cache-123", "cached"):
        store.add_text(name, {"ant": np.ones(3, np.float32)})
    assert store.text_names == ["cache-123", "cached", "words"]
    assert store.given_text_names == ["cached", "words"]
    assert store.summary()["text"] == ["cached", "words"]


def test_text_embeddings_of_no_class(copy):
    store = FeatureStore.open(copy)
    with pytest.raises(TCAFError, match="no class to keep text embeddings 'words' of"):
        store.add_text("words", {})
    assert store.text_names == []


def test_damaged_text_embeddings(tmp_path):
    (tmp_path / "t.safetensors").write_bytes(b"junk" * 7)
    with pytest.raises(TCAFError, match=r"t\.safetensors are damaged"):
        read_text_embeddings(tmp_path / "t.safetensors")
