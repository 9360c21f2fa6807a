"""Ways to damage a file: bits and bytes, values inside JSON, tables and pickles, and content whose
checksums somebody has made right again, as whoever writes a file with intent would.

A way takes the path of a file, which it writes anew, and a stream of random numbers.
"""

import csv
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import safetensors.numpy

from tcaf.files.digests import file_sha256
from tcaf.files.sealed import SEAL, seal_json, unsealed_bytes, write_sealed
from write_tfrecord import framed

HUGE = "x" * 200_000

VALUES = (
    *(None, True, -1, 0, 1, 1.5, 1e400, -1e400, float("nan"), 10**30, 2**31, 2**63),
    *("x", "", "a\nb\x1b[2J", "\ud800", "../x", HUGE, [], [[]], {}, {"a": 1}, [None], ["x", "x"]),
)
"""What other values JSON may hold, with those that only Python's does."""

ARRAYS = (
    *(np.zeros((0, 3)), np.zeros(()), np.full((2, 3), np.nan), np.zeros((2, 3), complex)),
    *(np.zeros((3, 2, 1)), np.array(["a"]), np.array([None, {}], object), np.ones(1, bool)),
    *(np.float64(1), np.arange(3), b"\xff\xfe", {1, 2}, 1j),
)
"""What else pickles may hold."""

CELLS = ("", " ", "-1", "1e999", "nan", "x", '"', "a,b", "a;b", "\ud7ff", "0x1", "1_0", HUGE, "é́")


def mutated(content, rng):
    """Returns other bytes than a file's."""
    ways = [flip, flip, overwrite, noise, cut, double, insert]
    return rng.choice(ways)(bytearray(content), rng)


def place(content, rng):
    """Returns where to damage: every third time near the beginning, where headers are."""
    return rng.randrange(min(len(content), 512) if rng.random() < 0.3 else len(content))


def flip(content, rng):
    for _ in range(rng.choice([1, 1, 8, 64])):
        content[place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(content)


def overwrite(content, rng):
    start = place(content, rng)
    length = rng.choice([1, 4, 8, 64])
    fill = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80", b'"', b",", b"\n", b"9"])
    content[start : start + length] = fill * length
    return bytes(content)


def noise(content, rng):
    start = place(content, rng)
    length = rng.choice([2, 16, 256, len(content)])
    content[start : start + length] = rng.randbytes(len(content[start : start + length]))
    return bytes(content)


def cut(content, rng):
    return bytes(content[: rng.randrange(len(content))])


def double(content, rng):
    start = rng.randrange(len(content))
    return bytes(content[:start] + content[start // 2 :])


def insert(content, rng):
    start = place(content, rng)
    more = [b"[" * 10**5, b"x" * 200_000, b'"', b"\r", b"\0", b"\xff\xfe", "é́".encode(), b"="]
    return bytes(content[:start] + rng.choice(more) + content[start:])


def changed(value, rng, values=VALUES):
    """Returns a value of lists and dicts with another value at a random place, or one key less."""
    holder, key, inner = None, None, value
    while isinstance(inner, dict | list) and inner and (holder is None or rng.random() < 0.8):
        holder = inner
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        inner = inner[key]
    if holder is None:
        return rng.choice(values)
    if rng.random() < 0.2:
        del holder[key]
    elif isinstance(holder, dict) and rng.random() < 0.1:
        holder[rng.choice(["x", "", HUGE])] = holder.pop(key)
    else:
        holder[key] = rng.choice(values)
    return value


def in_bytes(path, rng):
    content = path.read_bytes()
    path.write_bytes(mutated(content, rng) if content else b"x")


def in_json(path, rng):
    if rng.random() < 0.05:
        text = '{"a":' * 10**5 + "1" + "}" * 10**5
    else:
        text = json.dumps(changed(json.loads(path.read_text(encoding="utf-8")), rng))
    path.write_text(text, encoding="utf-8")


def in_sealed_json(path, rng):
    value = json.loads(path.read_text(encoding="utf-8"))
    value.pop(SEAL)
    value = changed(value, rng)
    path.write_text(json.dumps(seal_json(value) if isinstance(value, dict) else value))


def in_lines_of_json(path, rng):
    lines = path.read_text(encoding="utf-8").splitlines()
    number = rng.randrange(len(lines))
    lines[number] = json.dumps(changed(json.loads(lines[number]), rng))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def in_sealed_tensors(path, rng):
    """Changes what the metadata hold, a tensor, or bytes, under a seal that is right."""
    data = unsealed_bytes(path)
    size = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:size])["__metadata__"]
    tensors = safetensors.numpy.load(data)
    which = rng.random()
    if which < 0.5:
        key = next(iter(metadata))
        metadata[key] = json.dumps(changed(json.loads(metadata[key]), rng))
        data = safetensors.numpy.save(tensors, metadata)
    elif which < 0.8:
        name = rng.choice(sorted(tensors))
        tensor = tensors.pop(name)
        others = [tensor[:-1] if tensor.ndim else tensor[None], tensor.astype(np.float64) * np.nan]
        others += [tensor[None], tensor.astype(np.int8), tensor.reshape(-1), np.zeros((0, 3))]
        if rng.random() < 0.7:
            other = others[rng.randrange(len(others))]
            tensors[rng.choice([name, name, "x"])] = np.ascontiguousarray(other)
        data = safetensors.numpy.save(tensors, metadata)
    else:
        body = bytearray(data[size:])
        data = data[:size] + flip(body, rng)
    write_sealed(path, data)


def in_records(path, rng):
    """Changes the payload of a TFRecord, under checksums that are right."""
    content, payloads = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        payloads.append(content[12 : 12 + length])
        content = content[16 + length :]
    number = rng.randrange(len(payloads))
    payloads[number] = mutated(payloads[number], rng)
    path.write_bytes(b"".join(map(framed, payloads)))


def in_cells(path, rng):
    """Changes a cell of a table, takes it out, or has a row or column twice."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    row = rng.randrange(len(rows))
    column = rng.randrange(len(rows[row]))
    which = rng.random()
    if which < 0.6:
        rows[row][column] = rng.choice(CELLS)
    elif which < 0.7:
        del rows[row][column]
    elif which < 0.8:
        rows.append(rows[row])
    elif which < 0.9:
        rows = [cells + cells[column : column + 1] for cells in rows]
    else:
        del rows[row]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


def in_pickle(path, rng):
    value = changed(pickle.loads(path.read_bytes()), rng, VALUES + ARRAYS)
    path.write_bytes(pickle.dumps(value, protocol=rng.choice([2, 4, 5])))


def in_npy(path, rng):
    value = changed(np.load(path, allow_pickle=True).item(), rng, VALUES + ARRAYS)
    holder = np.empty((), object)
    holder[()] = value
    np.save(path, holder if rng.random() < 0.8 else rng.choice(ARRAYS[:8]), allow_pickle=True)


def in_zip(path, rng):
    """Changes a file inside a zip, whose checksums are right."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    pickled = [name for name in content if name.endswith("data.pkl")]
    name = rng.choice(pickled if rng.random() < 0.5 else sorted(content))
    if rng.random() < 0.1 or not content[name]:
        del content[name]
    else:
        content[name] = mutated(content[name], rng)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def in_listed_file(path, rng):
    """Changes a file of a store or Parquet folder, whose list then has its size and SHA-256."""
    in_bytes(path, rng)
    listed = next(
        path.parent / n for n in ("store.json", "tcaf.json") if (path.parent / n).exists()
    )
    value = json.loads(listed.read_text(encoding="utf-8"))
    value.pop(SEAL)
    for entry in value["shards"]:
        if entry["file"] == path.name:
            own = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
            entry.update({key: own[key] for key in own if key in entry})
    listed.write_text(json.dumps(seal_json(value)))


def write_mutated(whole: Path, path: Path, ways, rng):
    """Writes a damaged copy of a file."""
    path.write_bytes(whole.read_bytes())
    rng.choice(ways)(path, rng)
