"""Files that carry the SHA-256 of their own content: a flipped bit anywhere in them is found.

Owns the seal of safetensors files, which is over all their bytes and lies in their own header, and
that of JSON values, which is over the rest of the value. A file that was written in one go is read
and verified in one go, so nothing is remembered. Files of earlier releases have no seal; they are
read, with a warning. Knows nothing of what is in them.
"""

import hashlib
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tcaf.files.atomic import parse_json, replacing

SEAL = "sha256"

_START = b'{"__metadata__":{'
_KEY = f'"{SEAL}":"'.encode()
_END = b'",'
_PLACE = slice(8 + len(_START) + len(_KEY), 8 + len(_START) + len(_KEY) + 64)
"""Where the digits lie in a sealed safetensors file, behind the length of its header."""


class DamagedError(ValueError):
    """A file is not what was written."""


class UnsealedWarning(UserWarning):
    """A file carries no digest, so that damage to it would go unnoticed."""


def _warn_unsealed() -> None:
    # The same words for each file: Python shows them once.
    warnings.warn(
        "files of an earlier release hold no digest of their content, so that damage to them goes "
        "unnoticed; preparing the store or training the run again adds it",
        UnsealedWarning,
        stacklevel=1,
    )


def _digest(head: bytearray, body: memoryview) -> bytes:
    """Returns the SHA-256 of a file, digits; in `head` zeros stand where they are to lie."""
    hashed = hashlib.sha256(head)
    hashed.update(body)
    return hashed.hexdigest().encode()


def write_sealed(path: Path, serialised: bytes) -> None:
    """Writes a safetensors file with its seal, whole or not at all.

    Args:
        path: of the file.
        serialised: what `save` of `safetensors.torch` or `.numpy` returned, with metadata.
    """
    size = 8 + int.from_bytes(serialised[:8], "little")
    header = serialised[8:size].rstrip(b" ")
    assert header.startswith(_START), "tensors are saved with metadata"
    header = _START + _KEY + b"0" * 64 + _END + header[len(_START) :]
    header += b" " * (-len(header) % 8)
    head = bytearray(len(header).to_bytes(8, "little") + header)
    body = memoryview(serialised)[size:]
    head[_PLACE] = _digest(head, body)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(head)
        file.write(body)


def _is_sealed(data: bytes) -> bool:
    return data[8 : _PLACE.start] == _START + _KEY


def read_sealed(path: Path, key: str) -> tuple[str, bytes]:
    """Reads a safetensors file and verifies its seal.

    Args:
        path: of the file.
        key: of the metadata, which hold nothing else.

    Returns:
        What the metadata hold under the key, and the bytes, for `load` of `safetensors`.

    Raises:
        ValueError: the file is damaged or of another kind.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    if _is_sealed(data):
        head = bytearray(data[:size])
        head[_PLACE] = b"0" * 64
        if _digest(head, memoryview(data)[size:]) != data[_PLACE]:
            raise DamagedError("its content is not what was written: the SHA-256 differs")
    header = parse_json(data[8:size].decode("utf-8"))
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or set(metadata) - {SEAL} != {key}:
        raise DamagedError(f"expected metadata with {key!r} and nothing else")
    if not _is_sealed(data):
        _warn_unsealed()
    return metadata[key], data


def unsealed_bytes(path: Path) -> bytes:
    """Returns a safetensors file as it would be without its seal, as earlier releases wrote it."""
    data = path.read_bytes()
    if not _is_sealed(data):
        return data
    size = 8 + int.from_bytes(data[:8], "little")
    header = _START + data[_PLACE.stop + len(_END) : size].rstrip(b" ")
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[size:]


def _json_digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def seal_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with its seal: over the rest, however that is laid out in a file."""
    plain = json.loads(json.dumps(value))
    return {**plain, SEAL: _json_digest(plain)}


def check_json(value: Mapping[str, Any], keys: Collection[str]) -> None:
    """Verifies the seal of a JSON object.

    Args:
        value: as it was read.
        keys: that it has to have.

    Raises:
        ValueError: the seal is broken, or there are other keys.
    """
    rest = {name: own for name, own in value.items() if name != SEAL}
    if SEAL in value and _json_digest(rest) != value[SEAL]:
        raise DamagedError("its content is not what was written: the SHA-256 differs")
    if odd := sorted(set(rest) ^ set(keys)):
        raise DamagedError(f"key {odd[0]!r} is {'unknown' if odd[0] in rest else 'missing'}")
    if SEAL not in value:
        _warn_unsealed()
