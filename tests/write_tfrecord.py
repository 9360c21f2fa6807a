"""TFRecord files made byte by byte, from the format's description and without the code under test.

https://www.tensorflow.org/tutorials/load_data/tfrecord, protobuf's wire format, and CRC-32C
(polynomial 0x1EDC6F41, reflected) from a table.
"""

import struct

import numpy as np


def _table_entry(byte):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_table_entry(byte) for byte in range(256)]


def crc32c(payload):
    crc = 0xFFFFFFFF
    for byte in payload:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(payload):
    crc = crc32c(payload)
    rotated = (crc >> 15) | (crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def framed(payload):
    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def write_records(path, payloads):
    path.write_bytes(b"".join(map(framed, payloads)))
    return path


def _varint(value):
    value %= 2**64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number, payload):
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _feature(values):
    if isinstance(values, np.ndarray):
        return _field(2, _field(1, values.astype("<f4").tobytes()))
    if values and isinstance(values[0], int):
        return _field(3, _field(1, b"".join(map(_varint, values))))
    return _field(1, b"".join(_field(1, value) for value in values))


def _map(entries):
    return b"".join(
        _field(1, _field(1, name.encode()) + _field(2, value)) for name, value in entries.items()
    )


def example(values):
    """A tf.Example; floats come as arrays, integers and bytes as lists."""
    return _field(1, _map({name: _feature(value) for name, value in values.items()}))


def sequence(values, lists):
    """A tf.SequenceExample; each list holds the bytes of its steps."""
    steps = {
        name: b"".join(_field(1, _feature([step])) for step in steps)
        for name, steps in lists.items()
    }
    return example(values) + _field(2, _map(steps))
