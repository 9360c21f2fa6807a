"""What a pickle may hold, and that nothing else happens when it is read."""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.files.safe_pickle import read_npy, read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Calls:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def message(path: Path, read=read_pickle) -> str:
    with pytest.raises(TCAFError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_containers_come_back_as_they_were(tmp_path, protocol):
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = [
        square,
        square.T,
        square[:, ::2],
        np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0),
        np.zeros((0, 5)),
        np.array([True, False]),
        np.array(["a", "né"]),
        np.array([b"xyz"]),
        np.array(7, np.int16),
        square.astype(np.float16),
        np.arange(300.0),
    ]
    content = {
        "arrays": arrays,
        "names": ["a", b"\xff", b"", np.str_("x"), np.bytes_(b"y"), bytearray(b"z")],
        "numbers": [25, 2.5, None, True, np.float64(0.25), np.int8(-3)],
        "sets": [{1, 2}, frozenset("ab")],
        "ordered": OrderedDict(b=1, a=2),
        "objects": np.array([None, {"k": [1]}], object),
    }
    got = read_pickle(write(tmp_path / "x.pkl", content, protocol))
    for expected, array in zip(arrays, got["arrays"], strict=True):
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        np.testing.assert_array_equal(array, expected)
    for key in ("names", "numbers", "sets"):
        assert got[key] == content[key]
    assert list(got["ordered"].items()) == [("b", 1), ("a", 2)]
    assert got["objects"][1] == {"k": [1]}
    assert type(np.asarray(got["arrays"][0])) is np.ndarray


def test_swapped_byte_order_keeps_the_values(tmp_path):
    expected = np.array([1.5, -2.0], ">f4")
    for protocol in (2, 5):
        got = read_pickle(write(tmp_path / "x.pkl", expected, protocol))
        np.testing.assert_array_equal(got, expected)


def test_an_older_numpy_spells_its_modules_otherwise(tmp_path):
    raw = pickle.dumps(np.arange(3.0), protocol=2)
    assert b"numpy._core" in raw or b"numpy.core" in raw
    for core in (b"numpy.core", b"numpy._core"):
        path = tmp_path / "x.pkl"
        path.write_bytes(raw.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", core))
        assert read_pickle(path).tolist() == [0, 1, 2]


def test_python_2_text_and_array_content_are_latin_1(tmp_path):
    # What Python 2 wrote: byte strings (T, U), the type's flags as numbers, __builtin__.
    path = tmp_path / "x.pkl"
    path.write_bytes(
        b"\x80\x02]q\x00(U\x02a\xe9cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        b"U\x01b\x87R(K\x01K\x01\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff"
        b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x00\x00\x80\xbftbc__builtin__\nset\n]K\x05a\x85Re."
    )
    name, array, numbers = read_pickle(path)
    assert (name, array.tolist(), numbers) == ("aé", [-1.0], {5})


def attacks(target: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that make the file `target`, and the name by which each must be refused."""
    shell = f"touch {target}"
    code = f"open({str(target)!r}, 'w').close()"
    dotted = b"\x80\x04" + text("numpy") + text("ndarray.tofile") + b"\x93"
    array = pickle.dumps(np.zeros(2), protocol=2)[2:-1]
    return {
        "system": (pickle.dumps(Calls(os.system, shell)), "posix.system"),
        "system, protocol 0": (pickle.dumps(Calls(os.system, shell), 0), "posix.system"),
        "eval": (pickle.dumps(Calls(eval, code)), "builtins.eval"),
        "eval, protocol 2": (pickle.dumps(Calls(eval, code), 2), "__builtin__.eval"),
        "INST": (b"(S" + repr(code).encode() + b"\nibuiltins\neval\n.", "builtins.eval"),
        "OBJ": (b"(cbuiltins\neval\nS" + repr(code).encode() + b"\no.", "builtins.eval"),
        "numpy's test runner": (
            b"cnumpy.testing._private.utils\nrunstring\n(S" + repr(code).encode() + b"\n}tR.",
            "numpy.testing._private.utils.runstring",
        ),
        "dotted name": (
            dotted + array + text(str(target)) + b"\x86R.",
            "numpy.ndarray.tofile",
        ),
        "nested": (
            pickle.dumps({"features": [np.zeros(2), Calls(os.system, shell)]}),
            "posix.system",
        ),
        "in an object array": (
            pickle.dumps(np.array([Calls(os.system, shell), None], object)),
            "posix.system",
        ),
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_nothing_is_imported_or_run(tmp_path, name):
    target = tmp_path / "touched"
    raw, refused = attacks(target)[name]
    path = tmp_path / "x.pkl"
    path.write_bytes(raw)
    assert message(path) == (
        f"{path} would import {refused} when read; only numpy arrays and plain containers are read"
    )
    assert not target.exists()


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_the_attacks_are_real(tmp_path, name):
    # Otherwise the test above could not fail.
    target = tmp_path / "touched"
    raw, _ = attacks(target)[name]
    value = pickle.loads(raw)
    del value
    assert target.exists()


def test_nothing_runs_from_an_array_of_objects_in_an_npy_file(tmp_path):
    target, path = tmp_path / "touched", tmp_path / "x.npy"
    content = np.array({"Archery": Calls(os.system, f"touch {target}")}, object)
    np.save(path, content, allow_pickle=True)
    assert "posix.system" in message(path, read_npy)
    assert not target.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "getattr"),
        ("numpy", "ndarray.__class__"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("new\nline", "x"),
    ],
)
def test_other_names_are_refused_by_name(tmp_path, module, name):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04" + text(module) + text(name) + b"\x93.")
    assert f"would import {module}.{name} when".replace("new\nline.x", "'new\\nline.x'") in (
        message(path)
    )


def test_persistent_ids_and_extensions_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"Pname\n.")
    assert "outside the file" in message(path)
    path.write_bytes(b"\x80\x02\x82\x01.")
    assert "damaged" in message(path)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
FLOAT = b"cnumpy\ndtype\n(U\x02f4tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
OBJECT = FLOAT.replace(b"f4", b"O8").replace(b"<", b"|")
FILLED = b"(K\x01(K\x01t" + FLOAT + b"\x89C\x04\x00\x00\x80\x3ftb"
SCALAR = b"cnumpy.core.multiarray\nscalar\n("


@pytest.mark.parametrize(
    "raw",
    {
        # numpy reads past the end of a list shorter than the array, and takes bytes for pointers.
        "objects from a short list": ARRAY + b"(K\x01(K\x09t" + OBJECT + b"\x89]tb",
        "objects from bytes": ARRAY + b"(K\x01(K\x01t" + OBJECT + b"\x89C\x08AAAAAAAAtb",
        "scalar object from bytes": SCALAR + OBJECT + b"C\x08AAAAAAAAtR",
        "short content": ARRAY + b"(K\x01(K\x02t" + FLOAT + b"\x89C\x04AAAAtb",
        "filled twice": ARRAY + FILLED + FILLED,
        "structured type": ARRAY + b"(K\x01(K\x01t"
        + FLOAT.replace(b"NNN", b"NU\x01a}") + b"\x89C\x04AAAAtb",
        "void type": ARRAY + b"(K\x01(K\x01t" + FLOAT.replace(b"f4", b"V4") + b"\x89C\x04AAAAtb",
        "no type": ARRAY + b"(K\x01(K\x01tN\x89C\x04AAAAtb",
        "no code point": SCALAR + FLOAT.replace(b"f4", b"U1") + b"C\x04\xff\xff\xff\x7ftR",
        "a subclass": b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nset\n(K\x00tC\x01btR",
        "a state for a function": b"c_codecs\nencode\n}U\x09_functionNsb",
        "another codec": b"c_codecs\nencode\n(U\x01aU\x05rot13tR",
        "a size for bytes": b"cbuiltins\nbytes\n(J\x00\x00\x00\x7ftR",
        "a size for a bytearray": b"cbuiltins\nbytearray\n(J\x00\x00\x00\x7ftR",
        "numpy's constructor": b"cnumpy\nndarray\n(K\x03tR",
    }.items(),
    ids=lambda item: item[0],
)  # fmt: skip
def test_states_that_numpy_would_trust_are_refused(tmp_path, raw):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04" + raw[1] + b".")
    assert f"expected a pickle of numpy arrays at {path}, found a damaged file" in message(path)


def test_an_array_has_no_negative_size(tmp_path):
    path = tmp_path / "x.pkl"
    sizes = b"(J\xff\xff\xff\xffJ\xff\xff\xff\xfft"
    path.write_bytes(b"\x80\x04" + ARRAY + b"(K\x01" + sizes + FLOAT + b"\x89C\x04AAAAtb.")
    assert "shape is no tuple of sizes" in message(path)


def test_the_parts_of_those_states_are_sound(tmp_path):
    # So that each was refused for what its name says.
    path = tmp_path / "x.pkl"
    objects = ARRAY + b"(K\x01(K\x01t" + OBJECT + b"\x89]Natb"
    path.write_bytes(b"\x80\x04(" + ARRAY + FILLED + objects + SCALAR + FLOAT + b"C\x04AAAAtRt.")
    filled, of_objects, scalar = read_pickle(path)
    assert (filled.tolist(), of_objects.tolist()) == ([1.0], [None])
    assert type(scalar) is np.float32


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_truncated_pickle_is_damaged_wherever_it_ends(tmp_path, protocol):
    path = tmp_path / "x.pkl"
    raw = pickle.dumps({"features": [np.zeros((2, 3))], "video_names": [b"a"]}, protocol=protocol)
    for length in [*range(0, len(raw), 5), len(raw) - 1]:
        path.write_bytes(raw[:length])
        assert str(path) in message(path)


def test_garbage_and_absence_are_told_with_the_path(tmp_path):
    path = tmp_path / "x.pkl"
    assert message(path) == f"cannot read {path}: No such file or directory"
    for raw in (b"not a pickle", b"\x80\x63.", bytes(50), b"\x80\x04h\x07."):
        path.write_bytes(raw)
        assert "damaged" in message(path)


def test_npy_files(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6.0).reshape(2, 3))
    assert read_npy(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    words = {"Playing Flute": np.ones(4), "Archery": np.zeros(4)}
    np.save(path, np.array(words), allow_pickle=True)
    got = read_npy(path)
    assert list(got) == list(words)
    np.testing.assert_array_equal(got["Playing Flute"], np.ones(4))
    np.save(path, np.array([None, "a"], object), allow_pickle=True)
    assert read_npy(path).tolist() == [None, "a"]


def test_damaged_npy_files(tmp_path):
    path, buffer = tmp_path / "x.npy", io.BytesIO()
    for content in (np.arange(6.0), np.array({"a": np.ones(3)})):
        buffer = io.BytesIO()
        np.save(buffer, content, allow_pickle=True)
        raw = buffer.getvalue()
        for length in (0, 5, 20, len(raw) - 1):
            path.write_bytes(raw[:length])
            assert str(path) in message(path, read_npy)
    path.write_bytes(raw.replace(b"(), }  ", b"(3,), }"))
    assert "its header does not describe its content" in message(path, read_npy)
    path.write_bytes(raw[:6] + b"\x09" + raw[7:])
    assert "unknown" in message(path, read_npy)


def test_a_header_that_is_no_python_is_damage(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"}", b"("))
    with pytest.raises(TCAFError, match="found a damaged or unknown one"):
        read_npy(tmp_path / "a.npy")
