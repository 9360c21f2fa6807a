"""TFRecord files and the TensorFlow messages in them, without TensorFlow.

Owns the framing (a length and a payload, each followed by a masked CRC-32C), the parsing of
`tf.Example` and `tf.SequenceExample`, and where in which file each lies. Knows nothing of what a
data set keeps in them. Needs the extra `tfrecord`, which is imported on first use.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.errors import TCAFError, shorten

FRAME_BYTES = 16
"""What a record takes in a file beside its payload: a length and two checksums."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")

# Fields of each message in the order of their numbers, from tensorflow/core/example: `*` is
# repeated, `?` a choice within `oneof`, `map` has strings as keys.
_MESSAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "BytesList": (("value", "bytes*"),),
    "FloatList": (("value", "float*"),),
    "Int64List": (("value", "int64*"),),
    "Feature": (
        ("bytes_list", "BytesList?"),
        ("float_list", "FloatList?"),
        ("int64_list", "Int64List?"),
    ),
    "Features": (("feature", "map Feature"),),
    "FeatureList": (("feature", "Feature*"),),
    "FeatureLists": (("feature_list", "map FeatureList"),),
    "SequenceExample": (("context", "Features"), ("feature_lists", "FeatureLists")),
}


def _missing_extra() -> TCAFError:
    return TCAFError(
        "reading TFRecord files needs the extra 'tfrecord': pip install 'tcaf[tfrecord]'"
    )


@cache
def _crc32c() -> Callable[[bytes], int]:
    """Returns the checksum function; where it is slow, its package warns when imported."""
    try:
        import google_crc32c
    except ImportError:
        raise _missing_extra() from None
    function: Callable[[bytes], int] = google_crc32c.value
    return function


def masked_crc(payload: bytes) -> int:
    """Returns the CRC-32C of `payload` in the form TFRecord keeps it in: rotated and shifted.

    Raises:
        TCAFError: the extra `tfrecord` is missing.
    """
    crc = _crc32c()(payload)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: Path, start: int = 0) -> Iterator[bytes]:
    """Yields the payload of each record of a file; every checksum is compared.

    Args:
        path: a TFRecord file, not compressed.
        start: the byte at which to begin, where a record begins. The next one begins
            `FRAME_BYTES + len(payload)` bytes later.

    Raises:
        TCAFError: no such file, another kind of file, a file cut short, a checksum that does not
            fit, or the extra `tfrecord` is missing.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise TCAFError(f"expected a TFRecord file at {path}: {error.strerror}") from None
    with file:
        size = path.stat().st_size
        file.seek(start)
        offset = start
        while offset < size:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise _cut_short(path, offset, size)
            length, crc = _HEADER.unpack(header)
            # Before anything is allocated: what is no length must not be believed.
            if masked_crc(header[:8]) != crc:
                raise _damaged(path, offset, "length")
            end = offset + FRAME_BYTES + length
            if end > size:
                raise _cut_short(path, offset, size)
            payload = file.read(length)
            (crc,) = _CRC.unpack(file.read(_CRC.size))
            if masked_crc(payload) != crc:
                raise _damaged(path, offset, "payload")
            yield payload
            offset = end


def _cut_short(path: Path, offset: int, size: int) -> TCAFError:
    return TCAFError(
        f"{path} is cut short: the record at byte {offset} goes on after the file's end at byte "
        f"{size}; fetch the file again"
    )


def _damaged(path: Path, offset: int, what: str) -> TCAFError:
    if offset == 0 and what == "length":
        return TCAFError(
            f"{path} is no TFRecord file: the checksum at byte 8 does not fit the first 8 bytes; "
            "name another file, unpack it or fetch it again"
        )
    return TCAFError(
        f"{path} is damaged: the checksum of the {what} of the record at byte {offset} does not "
        "fit; fetch the file again"
    )


@cache
def _sequence_class() -> Any:
    """Returns protobuf's class for `tf.SequenceExample`.

    The messages live in a pool of their own, so that TensorFlow may be imported beside it.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise _missing_extra() from None
    kind = descriptor_pb2.FieldDescriptorProto
    numbers = {"bytes": kind.TYPE_BYTES, "float": kind.TYPE_FLOAT, "int64": kind.TYPE_INT64}
    file = descriptor_pb2.FileDescriptorProto(
        name="tcaf/tensorflow_example.proto", package="tensorflow", syntax="proto3"
    )

    def add_field(message: Any, name: str, number: int, type_: str) -> None:
        field = message.field.add(name=name, number=number, label=kind.LABEL_OPTIONAL)
        if type_.endswith("*"):
            field.label = kind.LABEL_REPEATED
        elif type_.endswith("?"):
            field.oneof_index = 0
        type_ = type_.rstrip("*?")
        if type_ in numbers:
            field.type = numbers[type_]
        else:
            field.type, field.type_name = kind.TYPE_MESSAGE, f".tensorflow.{type_}"

    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if any(type_.endswith("?") for _, type_ in fields):
            message.oneof_decl.add(name="kind")
        for number, (field, type_) in enumerate(fields, start=1):
            if not type_.startswith("map "):
                add_field(message, field, number, type_)
                continue
            # A map is a repeated message of two fields, whose name protobuf prescribes.
            entry_name = field.title().replace("_", "") + "Entry"
            entry = message.nested_type.add(name=entry_name)
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, label=kind.LABEL_OPTIONAL, type=kind.TYPE_STRING)
            add_field(entry, "value", 2, type_.removeprefix("map "))
            add_field(message, field, number, f"{name}.{entry_name}*")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.SequenceExample"))


class SequenceRecord:
    """One `tf.SequenceExample`: values of the whole, and lists with an entry for each step.

    Reads a `tf.Example` as well: its bytes are those of a sequence with no list. A value that is
    absent, or of another kind than asked for, is empty.

    Args:
        payload: what `read_records` yields.

    Raises:
        TCAFError: `payload` is no such message, or the extra `tfrecord` is missing.
    """

    def __init__(self, payload: bytes) -> None:
        message_class = _sequence_class()
        from google.protobuf.message import DecodeError

        try:
            message = message_class.FromString(payload)
        except DecodeError:
            raise TCAFError("the record is no tf.Example or tf.SequenceExample") from None
        self._context = message.context.feature
        self._lists = message.feature_lists.feature_list

    @property
    def names(self) -> list[str]:
        """Names of the values and of the lists, sorted."""
        return sorted([*self._context, *self._lists])

    def integers(self, name: str) -> list[int]:
        """Returns the integers kept under a name."""
        return list(self._context[name].int64_list.value) if name in self._context else []

    def floats(self, name: str) -> Float[np.ndarray, " num_values"]:
        """Returns the numbers kept under a name."""
        values = self._context[name].float_list.value if name in self._context else ()
        return np.array(values, np.float32)

    def strings(self, name: str) -> list[bytes]:
        """Returns the byte strings kept under a name."""
        return list(self._context[name].bytes_list.value) if name in self._context else []

    def steps(self, name: str) -> list[bytes]:
        """Returns the byte string of each step of a list; empty where a step has none."""
        steps = self._lists[name].feature if name in self._lists else ()
        return [b"".join(step.bytes_list.value) for step in steps]


@dataclass(frozen=True)
class PlacedRecord:
    """A sequence and where it lies, for messages and to read it again.

    Args:
        path: of the file.
        offset: byte at which its record begins.
        record: the sequence.
    """

    path: Path
    offset: int
    record: SequenceRecord

    @property
    def where(self) -> str:
        """File and byte, for messages."""
        return f"{self.path}, byte {self.offset}"

    def id(self, name: str, what: str) -> str:
        """Returns the one text that is kept under a name.

        Args:
            name: of the value.
            what: whose records have it, for messages, as `YouTube-8M`.

        Raises:
            TCAFError: there is none, or more than one, or it is no text.
        """
        values = self.record.strings(name)
        if len(values) != 1:
            raise TCAFError(
                f"{self.where}: expected a record of {what} with one {name!r}, found "
                f"{len(values)} (it has {shorten(self.record.names) or 'nothing'})"
            )
        try:
            return values[0].decode()
        except UnicodeDecodeError:
            raise TCAFError(f"{self.where}: the {name} {values[0]!r} is no text") from None

    def codes(self, name: str) -> UInt8[np.ndarray, "len dim"]:
        """Returns the bytes of each step of a list, a number each; (0, 0) where there are none.

        Raises:
            TCAFError: steps of different sizes.
        """
        steps = self.record.steps(name)
        sizes = sorted({len(step) for step in steps}) or [0]
        if len(sizes) > 1:
            raise TCAFError(
                f"{self.where}: the steps of {name!r} differ in size: {sizes[0]} and {sizes[-1]} "
                "bytes"
            )
        count = len(steps) if sizes[0] else 0
        return np.frombuffer(b"".join(steps), np.uint8).reshape(count, sizes[0])


def shard_paths(shards: Path) -> list[Path]:
    """Returns a .tfrecord file, or those of a folder in the order of their names.

    Raises:
        TCAFError: there is none.
    """
    if shards.is_file():
        return [shards]
    paths = sorted(shards.glob("*.tfrecord"))
    if not paths:
        raise TCAFError(f"expected a .tfrecord file or a folder of them at {shards}, found none")
    return paths


def read_sequences(path: Path) -> Iterator[PlacedRecord]:
    """Yields each sequence of a file.

    Raises:
        TCAFError: see `read_records`, or a record is no sequence.
    """
    offset = 0
    for payload in read_records(path):
        yield _placed(payload, path, offset)
        offset += FRAME_BYTES + len(payload)


def sequence_at(path: Path, offset: int) -> PlacedRecord:
    """Returns the sequence that begins at a byte, where `read_sequences` has found one.

    Raises:
        TCAFError: see there.
    """
    return _placed(next(read_records(path, offset)), path, offset)


def _placed(payload: bytes, path: Path, offset: int) -> PlacedRecord:
    try:
        return PlacedRecord(path, offset, SequenceRecord(payload))
    except TCAFError as error:
        raise TCAFError(f"{path}, byte {offset}: {error}") from None
