import gzip
import struct
import sys

import numpy as np
import pytest

pytest.importorskip("google_crc32c")
pytest.importorskip("google.protobuf")

from tcaf.errors import TCAFError
from tcaf.sources import tfrecord
from tcaf.sources.tfrecord import FRAME_BYTES, SequenceRecord, masked_crc, read_records
from write_tfrecord import crc32c, example, framed, masked, sequence, write_records

PAYLOADS = [b"first", b"", b"x" * 1009, bytes(range(251))]


def test_reference_checksum_is_crc32c():
    # The check value of CRC-32C in every catalogue of such codes.
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("payload", PAYLOADS)
def test_masked_crc_equals_the_slow_one(payload):
    assert struct.pack("<I", masked_crc(payload)) == masked(payload)


def test_reads_what_was_written(tmp_path):
    path = write_records(tmp_path / "a.tfrecord", PAYLOADS)
    assert list(read_records(path)) == PAYLOADS


def test_empty_file_has_no_record(tmp_path):
    assert list(read_records(write_records(tmp_path / "a.tfrecord", []))) == []


def test_starts_at_any_record(tmp_path):
    path = write_records(tmp_path / "a.tfrecord", PAYLOADS)
    offset = 0
    for number, payload in enumerate(PAYLOADS):
        assert list(read_records(path, offset)) == PAYLOADS[number:]
        offset += FRAME_BYTES + len(payload)
    assert offset == path.stat().st_size


def test_every_cut_is_seen(tmp_path):
    payloads = [b"one", b"three", b"sevens"]
    whole = b"".join(map(framed, payloads))
    ends = {19, 19 + 21, 19 + 21 + 22}  # 16 bytes of framing each
    path = tmp_path / "cut.tfrecord"
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        if size in ends:
            assert list(read_records(path)) == payloads[: sorted(ends).index(size) + 1]
            continue
        start = max(end for end in {0, *ends} if end < size)
        with pytest.raises(TCAFError, match=f"record at byte {start} goes on .* byte {size};"):
            list(read_records(path))


def test_flipped_bits_are_seen(tmp_path):
    whole = b"".join(map(framed, [b"one", b"three"]))
    path = tmp_path / "flipped.tfrecord"
    for byte in range(len(whole)):
        for bit in (0, 5):
            damaged = bytearray(whole)
            damaged[byte] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(TCAFError, match=r"flipped\.tfrecord is (no TFRecord|damaged)"):
                list(read_records(path))


def test_damage_names_file_and_byte(tmp_path):
    whole = bytearray(b"".join(map(framed, [b"one", b"three"])))
    whole[19 + 12] ^= 1
    (tmp_path / "a.tfrecord").write_bytes(whole)
    records = read_records(tmp_path / "a.tfrecord")
    assert next(records) == b"one"
    with pytest.raises(TCAFError, match=r"a\.tfrecord .* payload of the record at byte 19 "):
        next(records)


def test_absurd_length_allocates_nothing(tmp_path):
    length = struct.pack("<Q", 2**61)
    (tmp_path / "a.tfrecord").write_bytes(length + masked(length) + b"abc")
    with pytest.raises(TCAFError, match="cut short"):
        list(read_records(tmp_path / "a.tfrecord"))


@pytest.mark.parametrize(
    "content",
    [
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        gzip.compress(framed(b"a"), mtime=0),
    ],
)
def test_other_kinds_of_file(tmp_path, content):
    (tmp_path / "a.tfrecord").write_bytes(content)
    with pytest.raises(TCAFError, match=r"a\.tfrecord is no TFRecord file"):
        list(read_records(tmp_path / "a.tfrecord"))


def test_missing_file(tmp_path):
    with pytest.raises(TCAFError, match=r"a\.tfrecord: No such file"):
        list(read_records(tmp_path / "a.tfrecord"))


def test_example_by_hand():
    mean = np.array([0.5, -2, 3], np.float32)
    record = SequenceRecord(example({"id": [b"ab"], "labels": [3, 300, -1], "mean": mean}))
    assert record.strings("id") == [b"ab"]
    assert record.integers("labels") == [3, 300, -1]
    assert record.floats("mean").dtype == np.float32
    np.testing.assert_array_equal(record.floats("mean"), mean)
    assert record.names == ["id", "labels", "mean"]


def test_sequence_by_hand():
    steps = [b"\x00\xff", b"", b"\x07\x08"]
    record = SequenceRecord(sequence({"id": [b"ab"]}, {"rgb": steps, "audio": []}))
    assert record.steps("rgb") == steps
    assert record.steps("audio") == []
    assert record.strings("id") == [b"ab"]
    assert record.names == ["audio", "id", "rgb"]


def test_absent_or_of_another_kind_is_empty():
    record = SequenceRecord(sequence({"id": [b"ab"]}, {"rgb": [b"x"]}))
    assert record.integers("id") == []
    assert record.strings("rgb") == []
    assert record.steps("id") == []
    assert record.floats("nothing").shape == (0,)
    # Asking creates nothing, as protobuf's own maps would.
    assert record.names == ["id", "rgb"]


def test_no_message():
    with pytest.raises(TCAFError, match=r"no tf\.Example"):
        SequenceRecord(b"\xff\xff\xff")


@pytest.mark.parametrize("package", ["google_crc32c", "google.protobuf"])
def test_missing_extra(monkeypatch, tmp_path, package):
    path = write_records(tmp_path / "a.tfrecord", [example({})])
    for cached in (tfrecord._crc32c, tfrecord._sequence_class):
        cached.cache_clear()
    if package == "google.protobuf":
        monkeypatch.delattr("google.protobuf.descriptor_pb2", raising=False)
        monkeypatch.setitem(sys.modules, "google.protobuf.descriptor_pb2", None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TCAFError, match=r"pip install 'tcaf\[tfrecord\]'"):
        SequenceRecord(next(read_records(path)))
