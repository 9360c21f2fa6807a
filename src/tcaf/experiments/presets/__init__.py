"""The configurations that come with the package: one TOML file a row of somebody's table.

Owns their names and the order in which they are laid over one another: what a data set asks for
(`ucf_cls`), then what a system asks for (`avca`), then what the system asks for on that data set
(`ucf_cls/avca`), where there is such a file.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tcaf.data.splits import BENCHMARKS, load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError, did_you_mean
from tcaf.settings.experiment import Experiment
from tcaf.systems.registry import find_system

_FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """Returns the names of all presets; those in a data set's folder as `ucf_cls/avca`."""
    paths = _FOLDER.rglob("*.toml")
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in paths)


def preset_path(name: str) -> Path:
    """Returns the file of a preset."""
    return _FOLDER / f"{name}.toml"


def read_settings(name: str) -> dict[str, Any]:
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
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TCAFError(f"--config {name}: expected a TOML file, but {error}") from None


def system_layers(dataset: str, system: str) -> list[dict[str, Any]]:
    """Returns what a system changes on a data set, in the order in which it is applied."""
    layers = [{"system": system}, dict(find_system(system).settings)]
    known = preset_names()
    names = (system, f"{dataset}/{system}")
    return [*layers, *(read_settings(name) for name in names if name in known)]


def untaken_settings(experiment: Experiment) -> list[str]:
    """Returns what the system's own preset says, `name = value`, if none of it is in force.

    Empty where at least one of its settings is: then it was taken, and others changed on purpose.
    """
    asked = experiment.to_json()
    wanted: dict[tuple[str, str], Any] = {}
    for layer in system_layers("", experiment.system)[1:]:
        for section, settings in layer.items():
            if isinstance(settings, Mapping):
                wanted |= {(section, name): value for name, value in settings.items()}
    # What is the default anyway tells nothing.
    default = Experiment().to_json()
    telling = {(s, n): v for (s, n), v in wanted.items() if default[s].get(n) != v}
    if any(asked[section].get(name) == value for (section, name), value in telling.items()):
        return []
    return [f"{section}.{name} = {value}" for (section, name), value in telling.items()]


def dataset_of(store: FeatureStore) -> str | None:
    """Returns the benchmark that a store holds, as presets and tables call it; None for others.

    The authors' features are told apart by their classes, all of which have to be published ones.
    """
    kind = store.source.get("kind")
    if kind != "official":
        return {"youtube8m": "yt8m", "synthetic": "synthetic", "videos": "videos"}.get(str(kind))
    names = set(store.class_names.tolist())
    for benchmark in BENCHMARKS:
        if names <= set(load_benchmark(benchmark).words):
            return benchmark
    return None


def systems_folder(config: Sequence[str], store: FeatureStore) -> str:
    """Returns the folder of presets that systems have for the data; a name without one if none.

    The first configuration may name it (`yt8m`); else the data in the store does.

    Args:
        config: presets or TOML files for the data.
        store: the clips.
    """
    folders = {name.partition("/")[0] for name in preset_names() if "/" in name}
    first, dataset = Path(config[0]).stem, dataset_of(store)
    # The papers' settings are for `cls`; `main` has the same clips.
    for name in (first, f"{first.removesuffix('_main')}_cls", f"{dataset}_cls", str(dataset)):
        if name in folders:
            return name
    return first


def dataset_preset(store: FeatureStore, split: str = "cls") -> str:
    """Returns the preset for the data in a store.

    Raises:
        TCAFError: there is none.
    """
    dataset = dataset_of(store)
    name = f"{dataset}_{split}" if f"{dataset}_{split}" in preset_names() else str(dataset)
    if name not in preset_names():
        raise TCAFError(
            f"no preset is made for the data in {store.path} ({store.source.get('kind')}); name "
            "one with --config, or a TOML file of your own"
        )
    return name


def settings_of(assignments: Sequence[str], rows: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads settings such as `training.epochs=2`, or `avca.training.epochs=2` for one row.

    Args:
        assignments: a dotted name, an equals sign, and a value as TOML writes it; quotes around a
            single word may be left out.
        rows: names that an assignment may begin with.

    Returns:
        Nested settings by row; those for all rows under the empty name.

    Raises:
        TCAFError: no such form.
    """
    found: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise TCAFError(f"expected --set section.name=value, got {assignment!r}")
        row, _, rest = name.strip().partition(".")
        row, path = (row, rest) if row in rows else ("", name.strip())
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        layer = found.setdefault(row, {})
        *sections, last = path.split(".")
        for section in sections:
            layer = layer.setdefault(section, {})
            if not isinstance(layer, dict):
                raise TCAFError(f"--set {assignment}: {section} has a value of its own already")
        layer[last] = value
    return found
