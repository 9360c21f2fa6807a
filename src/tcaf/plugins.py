"""Running a Python file of the user's, which registers what it brings: a system, a backbone."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType

from tcaf.errors import TCAFError

_RUN: set[str] = set()
"""SHA-256 of each file that this process has run."""


def run_plugin(path: Path) -> str:
    """Runs a Python file, once for each content: again only if it has changed.

    Args:
        path: of the file, which may be called anything.

    Returns:
        The SHA-256 of the file, as hex.

    Raises:
        TCAFError: no such file, or it fails.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TCAFError(f"expected a Python file at {path}: {error.strerror}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 in _RUN:
        return sha256
    # A name that no other module has, under which annotations in quotes are looked up.
    module = ModuleType(f"tcaf_plugin_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        code = compile(content, str(path), "exec")
        exec(code, module.__dict__)  # noqa: S102 - running it is what the user asks for
    except TCAFError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise TCAFError(f"{path} cannot be run: {said}") from error
    _RUN.add(sha256)
    return sha256
