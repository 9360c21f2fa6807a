"""Every bit of a sealed file counts."""

import json
import os
import warnings

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save

from tcaf.files.sealed import (
    DamagedError,
    UnsealedWarning,
    check_json,
    read_sealed,
    seal_json,
    unsealed_bytes,
    write_sealed,
)

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float16)}
VALUE = {"name": "ü", "steps": [0.96, None, 1e-7], "inside": {"z": 1, "a": [True, "x"]}}
KEYS = tuple(VALUE)


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("words", ["", "x", 'xy"\\', '"sha256":"' + "0" * 64])
def test_there_and_back(words, tmp_path):
    path = tmp_path / "t"
    plain = save(TENSORS, {"own": words})
    write_sealed(path, plain)
    found, data = read_sealed(path, "own")
    assert found == words
    for tensors in (load(data), load_file(path)):  # as any other safetensors file is read
        assert set(tensors) == {"a", "b"}
        for name, array in TENSORS.items():
            np.testing.assert_array_equal(tensors[name], array)
    assert unsealed_bytes(path) == plain
    before = path.read_bytes()
    write_sealed(path, plain)
    assert path.read_bytes() == before


def test_any_flipped_bit_of_tensors_header_padding_or_seal_is_noticed(tmp_path):
    path = tmp_path / "t"
    write_sealed(path, save(TENSORS, {"own": "x"}))
    data = path.read_bytes()
    assert b"}} " in data  # there is padding to flip
    missed = []
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(data)):
            os.pwrite(file.fileno(), flipped(data, bit), 0)
            try:
                load(read_sealed(path, "own")[1])
                missed.append(bit)
            except (ValueError, KeyError, SafetensorError):
                pass
    assert missed == []


def test_cut_or_longer_files_are_noticed(tmp_path):
    path = tmp_path / "t"
    write_sealed(path, save(TENSORS, {"own": "x"}))
    data = path.read_bytes()
    for other in (b"", data[:7], data[:8], data[:20], data[:-1], data + b"\0"):
        path.write_bytes(other)
        with pytest.raises((DamagedError, json.JSONDecodeError)):
            read_sealed(path, "own")


def test_files_of_earlier_releases_are_read_with_a_warning(tmp_path):
    path = tmp_path / "t"
    path.write_bytes(save(TENSORS, {"own": "x"}))
    with pytest.warns(UnsealedWarning, match="hold no digest"):
        found, data = read_sealed(path, "own")
    assert (found, data, unsealed_bytes(path)) == ("x", path.read_bytes(), path.read_bytes())
    path.write_bytes(save(TENSORS, {"own": "x", "sha257": "0" * 64}))
    with pytest.raises(ValueError, match="'own' and nothing else"):
        read_sealed(path, "own")


def test_any_flipped_bit_of_a_sealed_json_file_is_noticed_or_means_the_same():
    value = seal_json(VALUE)
    check_json(value, KEYS)
    data = json.dumps(value, indent=2, ensure_ascii=False).encode()
    silent = 0
    for bit in range(8 * len(data)):
        try:
            found = json.loads(flipped(data, bit))
            if isinstance(found, dict):
                check_json(found, KEYS)
                assert found == value
                silent += 1
        except ValueError:
            pass
    assert silent == 1  # the E of 1e-07


def test_a_seal_is_over_what_is_read_back():
    value = {"x": {10: (1, 2), 9: None}}  # read back the keys are text, and 10 comes first
    check_json(json.loads(json.dumps(seal_json(value))), ("x",))


def test_json_of_earlier_releases_is_read_with_a_warning():
    with pytest.warns(UnsealedWarning):
        check_json(VALUE, KEYS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        check_json(VALUE, KEYS)
        check_json(VALUE, KEYS)
    assert len(caught) == 1  # a command says it once
    for other in ({**VALUE, "sha257": "x"}, {"name": "x"}):
        with pytest.raises(ValueError, match=r"key '(sha257|inside)' is"):
            check_json(other, KEYS)
