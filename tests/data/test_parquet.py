import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tcaf.data.features import MODALITIES, FeatureSpec, VideoFeatures
from tcaf.data.parquet import from_parquet, to_parquet
from tcaf.data.splits import Split
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.files.sealed import seal_json

SPEC = FeatureSpec(3, 5, 0.96, None, "ears", "eyes")
NUM_CLIPS = 17


def write_store(path, dtype="float16", shard_bytes=251):
    rng = np.random.default_rng(0)
    with new_store(path, SPEC, dtype=dtype, shard_bytes=shard_bytes) as writer:
        for number in range(NUM_CLIPS):
            audio = rng.normal(size=(number % 5, 3)).astype(np.float32)
            visual = rng.normal(size=((number + 1) % 7 + (number % 5 == 0), 5)).astype(np.float32)
            class_name, part = ("ant", "stage_1_train") if number % 2 else ("über", "test_unseen")
            writer.add(VideoFeatures(f"clip-{number}", audio, visual, class_name, part))
        writer.splits["cls"] = Split(("ant",), ("cat",), ("über",))
        writer.phrases["ant"] = {"name": ["ant"], "said": ["an ant", "ants"]}
        writer.leave_out("too short", "clip-x")
        writer.source.update(kind="test", shards=3)
        writer.add_text("words", {"über": np.arange(7.0, dtype="f4"), "ant": np.ones(7, "f4")})
    return path


def assert_equal(first, second):
    for name in ("ids", "spec", "splits", "phrases", "left_out", "source", "text_names"):
        assert getattr(first, name) == getattr(second, name), name
    assert first.class_names.tolist() == second.class_names.tolist()
    assert first.parts.tolist() == second.parts.tolist()
    for name in first.text_names:
        assert list(first.text(name)) == list(second.text(name))
        for class_name, vector in first.text(name).items():
            np.testing.assert_array_equal(vector, second.text(name)[class_name])
    for one, other in zip(first, second, strict=True):
        for m in MODALITIES:
            np.testing.assert_array_equal(one.tokens(m), other.tokens(m))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store and its Parquet folder."""
    folder = tmp_path_factory.mktemp("made")
    to_parquet(write_store(folder / "store"), folder / "parquet")
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made / "parquet", tmp_path / "parquet")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("shard_bytes", "num_files"), [(1, 17), (251, 3), (2**20, 1)])
def test_there_and_back_is_the_identity(tmp_path, dtype, shard_bytes, num_files):
    bytes_ = shard_bytes * (2 if dtype == "float32" else 1)
    store = FeatureStore.open(write_store(tmp_path / "store", dtype, bytes_))
    to_parquet(tmp_path / "store", tmp_path / "parquet")
    assert len(list((tmp_path / "parquet").glob("*.parquet"))) == num_files
    back = from_parquet(tmp_path / "parquet", tmp_path / "back")
    assert_equal(store, back)
    assert back.fingerprint == store.fingerprint
    assert back.dtype == dtype
    back.verify()


def test_labels_come_along(tmp_path):
    """A shard without labels beside two with."""
    with new_store(tmp_path / "store", SPEC, shard_bytes=30) as writer:
        for number, labels in enumerate([(), ("bell", "harp"), ("über",)]):
            tokens = np.ones((2, 3)), np.ones((2, 5))
            writer.add(VideoFeatures(f"clip {number}", *tokens, labels=labels))
    to_parquet(tmp_path / "store", tmp_path / "parquet")
    back = from_parquet(tmp_path / "parquet", tmp_path / "back")
    store = FeatureStore.open(tmp_path / "store")
    for each in (store, back):
        assert each.labels == [(), ("bell", "harp"), ("über",)]
        assert each[1].labels == ("bell", "harp")
        assert each.summary()["labels"] == 3
        assert each.summary()["classes"] == 0
    assert len(list((tmp_path / "store").glob("*.arrow"))) == 3
    assert store.fingerprint == back.fingerprint


def test_other_dtype(made, tmp_path):
    store = FeatureStore.open(made / "store")
    wide = from_parquet(made / "parquet", tmp_path / "wide", dtype="float32")
    assert wide.dtype == "float32"
    assert_equal(store, wide)
    to_parquet(tmp_path / "wide", tmp_path / "parquet")
    narrow = from_parquet(tmp_path / "parquet", tmp_path / "narrow", dtype="float16")
    assert narrow.fingerprint == store.fingerprint


def test_what_other_tools_see(made):
    store = FeatureStore.open(made / "store")
    tables = [pq.read_table(path) for path in sorted((made / "parquet").glob("*.parquet"))]
    table = pa.concat_tables(tables)
    assert table.column_names == ["id", "class", "part", "audio", "visual"]
    assert table["id"].to_pylist() == store.ids
    assert table["class"].to_pylist() == store.class_names.tolist()
    for m in MODALITIES:
        assert table.schema.field(m).type.value_type.value_type == pa.float16()
        for row, tokens in enumerate(table[m].to_pylist()):
            assert tokens == store[row].tokens(m).tolist()


def test_reads_in_several_batches(made, tmp_path, monkeypatch):
    monkeypatch.setattr("tcaf.data.parquet._ROW_GROUP", 2)
    to_parquet(made / "store", tmp_path / "parquet")
    first = pq.ParquetFile(tmp_path / "parquet" / "shard-00000.parquet")
    assert first.num_row_groups > 2
    first.close()
    back = from_parquet(tmp_path / "parquet", tmp_path / "back")
    assert back.fingerprint == FeatureStore.open(made / "store").fingerprint


def test_damaged_store_is_not_passed_on(tmp_path):
    shard = write_store(tmp_path / "store") / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.unlink()
    shard.write_bytes(content)
    with pytest.raises(TCAFError, match=r"shard-00001\.arrow is corrupt"):
        to_parquet(tmp_path / "store", tmp_path / "parquet")
    assert not (tmp_path / "parquet").exists()


def test_changed_or_missing_file(copy, tmp_path):
    path = copy / "shard-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(TCAFError, match=r"shard-00001\.parquet has changed: its SHA-256"):
        from_parquet(copy, tmp_path / "back")
    path.unlink()
    with pytest.raises(TCAFError, match=r"shard-00001\.parquet is missing"):
        from_parquet(copy, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "does not describe a Parquet folder"),
        ({"version": 2}, "has format version 2, this tcaf reads version 1"),
        ({"spec": {}}, r"tcaf\.json is damaged"),
        ({"splits": []}, r"tcaf\.json is damaged"),
        (
            {"shards": [{"file": "../a", "sha256": ""}]},
            r"files in this folder, found '../a'",
        ),
        ({"shards": [{"file": "a"}]}, r"tcaf\.json is damaged: shards\.0\.sha256: Field required"),
    ],
)
def test_changed_sidecar(copy, tmp_path, change, message):
    content = json.loads((copy / "tcaf.json").read_text())
    del content["sha256"]
    (copy / "tcaf.json").write_text(json.dumps(seal_json(content | change)))
    with pytest.raises(TCAFError, match=message):
        from_parquet(copy, tmp_path / "back")


def test_not_such_a_folder(made, tmp_path):
    with pytest.raises(TCAFError, match=r"tcaf\.json, found nothing"):
        from_parquet(made / "store", tmp_path / "back")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TCAFError, match=r"store\.json, found nothing"):
        to_parquet(tmp_path / "empty", tmp_path / "other")


def test_it_is_opened_as_a_store(made, tmp_path, monkeypatch):
    """As those that were fetched are; it is turned into one once."""
    monkeypatch.setenv("TCAF_CACHE", str(tmp_path / "cache"))
    opened, own = FeatureStore.open(made / "parquet"), FeatureStore.open(made / "store")
    assert (opened.fingerprint, opened.splits) == (own.fingerprint, own.splits)
    assert opened.path.is_relative_to(tmp_path / "cache")
    before = (opened.path / "store.json").stat().st_mtime_ns
    assert FeatureStore.open(made / "parquet").path == opened.path
    assert (opened.path / "store.json").stat().st_mtime_ns == before


def test_overwriting(made, tmp_path):
    out = tmp_path / "out"
    to_parquet(made / "store", out)
    with pytest.raises(TCAFError, match="holds a Parquet folder of tcaf already"):
        to_parquet(made / "store", out)
    (out / "stale").touch()
    to_parquet(made / "store", out, overwrite=True)
    assert not (out / "stale").exists()
    (out / "tcaf.json").unlink()
    with pytest.raises(TCAFError, match=r"is no Parquet folder of tcaf; name another place$"):
        to_parquet(made / "store", out, overwrite=True)
    # A store is no such folder either, so that the two never replace each other.
    with pytest.raises(TCAFError, match="is no Parquet folder of tcaf"):
        to_parquet(made / "store", made / "store", overwrite=True)


@pytest.mark.parametrize("content", [b"", b"PAR1" * 9])
def test_a_damaged_file_whose_digest_is_right(content, tmp_path, tiny_store):
    to_parquet(tiny_store.path, tmp_path / "p")
    value = json.loads((tmp_path / "p" / "tcaf.json").read_text())
    del value["sha256"]
    (tmp_path / "p" / value["shards"][0]["file"]).write_bytes(content)
    value["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (tmp_path / "p" / "tcaf.json").write_text(json.dumps(seal_json(value)))
    with pytest.raises(TCAFError, match=r"\.parquet is damaged: .*; fetch it again"):
        from_parquet(tmp_path / "p", tmp_path / "back")
