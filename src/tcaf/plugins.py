"""Python files of the user's, which add systems and backbones to those that there are.

Owns the running of such a file, and registries, whose entries know the file that they came from.
"""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from tcaf.errors import TCAFError

T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """A file of the user's.

    Args:
        path: where it lies.
        sha256: of its content, as hex.
    """

    path: Path
    sha256: str


_REGISTRIES: list["Registry[Any]"] = []

_running: list[Plugin] = []
"""The file that is being run, if any."""


class Registry(dict[str, T]):
    """Entries by name, in order. What a plugin adds, only the same file replaces, once changed.

    Args:
        what: an entry is called.
        entries: those of this package.
    """

    def __init__(self, what: str, entries: Mapping[str, T] | None = None) -> None:
        super().__init__(entries or {})
        self.what = what
        self.origins: dict[str, Plugin] = {}
        _REGISTRIES.append(self)

    def add(self, name: str, entry: T) -> T:
        """Adds an entry and returns it.

        Raises:
            TCAFError: the name is taken.
        """
        if name in self:
            raise TCAFError(f"there is a {self.what} {name!r} already; choose another name")
        self[name] = entry
        if _running:
            self.origins[name] = _running[-1]
        return entry

    def sha256(self, name: str) -> str | None:
        """Returns the hash of the file that an entry comes from; None for one of this package."""
        origin = self.origins.get(name)
        return None if origin is None else origin.sha256

    def names_of(self, path: Path) -> list[str]:
        """Returns the names of the entries that a file has added."""
        return [name for name, origin in self.origins.items() if origin.path == path]

    def forget(self, path: Path) -> None:
        """Removes the entries that a file has added."""
        for name in self.names_of(path):
            del self.origins[name]
            self.pop(name, None)


def load_plugin(path: Path) -> Plugin:
    """Runs a Python file of the user's, which registers systems or backbones.

    A file that was loaded before is not run again unless it has changed: then its new entries take
    the place of its old ones.

    Args:
        path: of the file, which may be called anything.

    Raises:
        TCAFError: no such file, it fails, it registers nothing, or a name that another holds; the
            registries stay as they were.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise TCAFError(
            f"expected a Python file that registers a system or backbone at {path}: "
            f"{error.strerror}"
        ) from None
    plugin = Plugin(path.resolve(), hashlib.sha256(source).hexdigest())
    if any(registry.origins[n] == plugin for registry, n in _entries(plugin.path)):
        return plugin
    before = [(registry, dict(registry), dict(registry.origins)) for registry in _REGISTRIES]
    for registry in _REGISTRIES:
        registry.forget(plugin.path)
    _running.append(plugin)
    try:
        _run(plugin, source)
        if not _entries(plugin.path):
            raise TCAFError(
                f"{path} registered nothing; it must call tcaf.register(...) or "
                "tcaf.register_backbone(...)"
            )
    except BaseException:
        for registry, entries, origins in before:
            registry.clear()
            registry.update(entries)
            registry.origins = origins
        raise
    finally:
        _running.pop()
    return plugin


def _entries(path: Path) -> list[tuple[Registry[Any], str]]:
    """Returns what a file has added and is still there."""
    return [(r, name) for r in _REGISTRIES for name in r.names_of(path) if name in r]


def _run(plugin: Plugin, source: bytes) -> None:
    """Runs these very bytes: an import could take older ones from Python's cache."""
    # A name that no other module has: annotations in quotes are looked up under it.
    module = ModuleType(f"tcaf_plugin_{plugin.path.stem}_{plugin.sha256[:16]}")
    module.__file__ = str(plugin.path)
    sys.modules[module.__name__] = module
    try:
        code = compile(source, str(plugin.path), "exec")
        exec(code, vars(module))  # noqa: S102 - running it is what the user asks for
    except TCAFError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise TCAFError(f"{plugin.path} cannot be run: {said}") from error
