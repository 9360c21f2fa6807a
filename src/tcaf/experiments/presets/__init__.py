"""The configurations that come with the package: one TOML file a row of somebody's table.

Owns their names and the reading of them: what a data set asks for (`ucf_cls`), what a system asks
for (`avca`), what the system asks for on that data set (`ucf_cls/avca`). How they are laid over
one another is `experiments.layers`.
"""

import tomllib
from pathlib import Path
from typing import Any

from tcaf.errors import TCAFError, did_you_mean

_FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """Returns the names of all presets; those in a data set's folder as `ucf_cls/avca`."""
    paths = _FOLDER.rglob("*.toml")
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in paths)


def data_presets() -> list[str]:
    """Returns the presets that are for data or for any; those of systems come with the system."""
    names = [name for name in preset_names() if "/" not in name]
    return [name for name in names if read_preset(name).get("system") != name]


def preset_path(name: str) -> Path:
    """Returns the file of a preset."""
    return _FOLDER / f"{name}.toml"


def read_preset(name: str) -> dict[str, Any]:
    """Reads the settings of a preset, or of a TOML file of the user's.

    Raises:
        TCAFError: neither a file nor a preset, or no TOML.
    """
    path = preset_path(name) if name in preset_names() else Path(name)
    if not path.is_file():
        names = preset_names()
        raise TCAFError(
            f"--config {name!r} is neither a file nor a preset ({', '.join(names)})"
            f"{did_you_mean(name, names)}"
        )
    return read_toml(path)


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        TCAFError: no such file, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise TCAFError(f"--config {path}: expected a TOML file, but lists within lists") from None
    except ValueError as error:
        raise TCAFError(f"--config {path}: expected a TOML file, but {error}") from None
    except OSError as error:
        raise TCAFError(f"--config {path}: expected a TOML file, {error.strerror}") from None
