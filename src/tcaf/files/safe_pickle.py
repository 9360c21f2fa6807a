"""Reads pickles that hold numpy arrays and plain containers, without running what they say.

Owns the one place of the package where anything is unpickled. A pickle is a program: it names
functions to import and calls them. Here a name is looked up in `_ALLOWED`, an exact table whose
entries are this module's own functions, which check what they are given; nothing is imported, no
attribute is followed, and every other name is refused by name.

Guarded: importing and calling anything else; an array built from bytes that are no array of that
shape and type (numpy trusts such a state, and an object array over raw bytes would follow them as
pointers), so structured, void and date types are refused and lengths are checked.

Not guarded: memory and time. A hostile file may claim more than the machine has, or nest so deep
that the interpreter ends. Read foreign files where that does no harm.

Arrays may come as a private subclass of `numpy.ndarray`; `numpy.asarray` makes them plain without
a copy. Text of Python 2 is decoded as latin-1.
"""

import math
import pickle
import re
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from tcaf.errors import TCAFError

_PLAIN_TYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d{0,8}|O8?")
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    BufferError,
)
"""What the standard unpickler raises on bytes that are no whole pickle."""


class _Callable:
    """A function that a pickle may call but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a function is given a state")


class _Type:
    """Stands for a `numpy.dtype` while a pickle is read: a plain type and its byte order."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or not _PLAIN_TYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"arrays of type {code!r:.40} are not read")
        self._code = code
        self._order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, base type, field names, fields, sizes and flags ...): the code
        # already says sizes and flags, and one given twice could contradict it.
        order, *structure = state[1:5]
        if order not in ("<", ">", "=", "|") or structure != [None, None, None]:
            raise pickle.UnpicklingError("arrays of structured types are not read")
        self._order = order

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._order + self._code)


def _settled(type_: object) -> np.dtype[Any]:
    if not isinstance(type_, _Type):
        raise pickle.UnpicklingError("an array has no type")
    return type_.dtype()


def _check_content(shape: object, dtype: np.dtype[Any], raw: Any) -> None:
    """Checks that `raw` is exactly the content of an array of that shape and type."""
    if type(shape) is not tuple or any(type(size) is not int or size < 0 for size in shape):
        raise pickle.UnpicklingError("an array's shape is no tuple of sizes")
    if dtype.hasobject:
        whole = type(raw) is list and len(raw) == math.prod(shape)
    else:
        size = math.prod(shape) * dtype.itemsize
        whole = isinstance(raw, bytes | bytearray) and len(raw) == size
    if not whole:
        raise pickle.UnpicklingError(f"an array of shape {shape} does not match its content")
    if dtype.kind == "U":
        # numpy copies code points unseen; the interpreter fails when a string is taken out.
        raw.decode("utf-32-be" if dtype.str[0] == ">" else "utf-32-le", "surrogatepass")


class _Array(np.ndarray):
    """An array whose state is checked before numpy sees it."""

    _filled = False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self._filled:
            # Filling frees the memory that views of the first content would still point to.
            raise pickle.UnpicklingError("an array is filled twice")
        _, shape, type_, fortran, raw = state
        dtype = _settled(type_)
        if isinstance(raw, str):
            raw = raw.encode("latin1")
        _check_content(shape, dtype, raw)
        self._filled = True
        super().__setstate__((1, shape, dtype, bool(fortran), raw))  # type: ignore[arg-type]


_NDARRAY = object()
"""Stands for `numpy.ndarray`, whose constructor a pickle could otherwise call."""


def _reconstruct(subtype: object, *_: object) -> _Array:
    if subtype is not _NDARRAY:
        raise pickle.UnpicklingError("subclasses of numpy.ndarray are not read")
    return _Array(0, np.uint8)


def _frombuffer(raw: Any, type_: object, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    dtype = _settled(type_)
    # Content of objects must be a list, which np.frombuffer refuses, as it refuses object types.
    if order == "K" and axes is not None:
        _check_content(tuple(shape), dtype, raw)
        return np.frombuffer(raw, dtype).reshape(shape).transpose(axes)
    _check_content(shape, dtype, raw)
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _scalar(type_: object, raw: object) -> Any:
    if isinstance(raw, str):
        raw = raw.encode("latin1")
    return _frombuffer(raw, type_, (), "C")[()]


def _encode(text: object, encoding: object) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("_codecs.encode is only used for bytes kept as latin-1 text")
    return text.encode("latin1")


def _bytes(raw: object = b"") -> bytes:
    if type(raw) is not bytes:
        raise pickle.UnpicklingError("bytes are made of something else")
    return raw


def _bytearray(raw: object = b"") -> bytearray:
    return bytearray(_bytes(raw))


def _allowed() -> dict[tuple[str, str], object]:
    builtin = {
        "set": set,
        "frozenset": frozenset,
        "bytes": _Callable(_bytes),
        "bytearray": _Callable(_bytearray),
    }
    table: dict[tuple[str, str], object] = {
        ("numpy", "ndarray"): _NDARRAY,
        ("numpy", "dtype"): _Callable(lambda code, *_: _Type(code)),
        ("_codecs", "encode"): _Callable(_encode),
        # A dict keeps its order, and unlike an OrderedDict takes no attributes from a pickle.
        ("collections", "OrderedDict"): dict,
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = _Callable(_reconstruct)
        table[f"{core}.multiarray", "scalar"] = _Callable(_scalar)
        table[f"{core}.numeric", "_frombuffer"] = _Callable(_frombuffer)
    for module in ("builtins", "__builtin__"):
        table.update({(module, name): value for name, value in builtin.items()})
    return table


_ALLOWED = _allowed()


class _Unpickler(pickle.Unpickler):
    """Looks names up in `_ALLOWED` instead of importing them."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            name = f"{module_name}.{global_name}"[:100]
            shown = name if name.isprintable() else ascii(name)
            raise TCAFError(
                f"{self._path} would import {shown} when read; "
                "only numpy arrays and plain containers are read"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise TCAFError(
            f"{self._path} refers to objects outside the file; "
            "only numpy arrays and plain containers are read"
        )


def _load(file: BinaryIO, path: Path) -> Any:
    try:
        return _Unpickler(file, path).load()
    except TCAFError:
        raise
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        shown = reason if reason.isprintable() else ascii(reason)
        raise TCAFError(
            f"expected a pickle of numpy arrays at {path}, found a damaged file ({shown:.120})"
        ) from None


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise TCAFError(f"cannot read {path}: {error.strerror}") from None


def read_pickle(path: Path) -> Any:
    """Reads a pickle of numpy arrays and plain containers, of any protocol.

    Raises:
        TCAFError: no such file, a damaged file, or one that names anything else to import.
    """
    with _open(path) as file:
        return _load(file, path)


def read_npy(path: Path) -> Any:
    """Reads a `.npy` file; one that holds objects is read as `read_pickle` would.

    Returns:
        The array, or what a 0-d array of objects holds (`numpy.save` keeps a dict that way).

    Raises:
        TCAFError: no such file, a damaged file, or one that names anything else to import.
    """
    with _open(path) as file:
        try:
            version = npy_format.read_magic(file)
            header = {
                (1, 0): npy_format.read_array_header_1_0,
                (2, 0): npy_format.read_array_header_2_0,
            }[version]
            shape, _, dtype = header(file)
            if not dtype.hasobject:
                file.seek(0)
                return np.load(file, allow_pickle=False)
        except (*_DAMAGE, SyntaxError, tokenize.TokenError) as error:  # its header is Python
            raise TCAFError(
                f"expected a .npy file at {path}, found a damaged or unknown one ({error})"
            ) from None
        content = np.asarray(_load(file, path))
    if content.shape != shape or content.dtype != dtype:
        raise TCAFError(f"{path} is damaged: its header does not describe its content")
    return content.item() if shape == () else content
