"""What a run's settings are laid together from, in one order for every command.

    defaults < preset of the data < system < system on that data < --config files < options typed

Owns that order, what data a store holds, and the refusal of settings that the system does not read.
A preset is written for many systems, so what of it a system does not read is left out; what a
person wrote for this run is an error there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tcaf.data.random_partitions import base_split
from tcaf.data.splits import BENCHMARKS, load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.experiments.presets import preset_names, read_preset
from tcaf.settings.experiment import Experiment
from tcaf.systems.interface import FEATURE_SPACES
from tcaf.systems.reads import flattened, near_settings, unread_settings, without
from tcaf.systems.registry import SYSTEMS, find_system

OVERLAYS = ("official",)
"""Presets that are for no data and no system: they are laid where they are named."""

_KINDS = {
    "youtube8m": "yt8m",
    "audioset": "audioset",
    "synthetic": "synthetic",
    "videos": "videos",
}
"""Data sets by the kind of a store's source."""


@dataclass(frozen=True)
class Layer:
    """Settings of one origin.

    Args:
        name: of the preset or file; `options` for what was typed.
        settings: nested as TOML files are.
        by_hand: whether a person wrote them for this run.
    """

    name: str
    settings: Mapping[str, Any]
    by_hand: bool = False


def dataset_of(store: FeatureStore) -> str | None:
    """Returns the benchmark that a store holds, as presets and tables call it; None for others.

    The authors' features are known by their classes, all of which have to be published ones; videos
    of a benchmark count as it where their features are those of the paper's two networks.
    """
    kind = store.source.get("kind")
    if kind == "videos" and store.source.get("benchmark") in BENCHMARKS and _is_as_paper(store):
        return str(store.source["benchmark"])
    if kind != "official":
        return _KINDS.get(str(kind))
    names = set(store.class_names.tolist())
    for benchmark in BENCHMARKS:
        if names <= set(load_benchmark(benchmark).words):
            return benchmark
    return None


def _is_as_paper(store: FeatureStore) -> bool:
    names = store.spec.audio_backbone, store.spec.visual_backbone
    return tuple(name.partition(":")[0] for name in names) == ("vggish", "c3d")


def dataset_preset(store: FeatureStore, split: str = "cls") -> str | None:
    """Returns the preset for the data in a store; None where there is none."""
    dataset, known = dataset_of(store), preset_names()
    for name in (f"{dataset}_{split}", str(dataset)):
        if name in known:
            return name
    return None


def experiment_layers(
    store: FeatureStore | None,
    *,
    config: Sequence[str] = (),
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
    row: Layer | None = None,
) -> list[Layer]:
    """Returns the layers of a run's settings, the later ones winning.

    A preset of data among `config` takes the place of the one that the store's source suggests;
    that of a system chooses the system, whose presets come by themselves.

    Args:
        store: the clips, whose source may have a preset; None where there are none yet.
        config: presets or TOML files, in order.
        system: what to train; by default what `config` names, else what the preset of the data
            does, else TCaF.
        options: what was typed, nested as TOML files are; wins over everything.
        row: what a row of a table changes: what it is about, so it is laid over files too.

    Raises:
        TCAFError: no such preset, file or system, or presets of two data sets or systems.
    """
    options = options or {}
    known = preset_names()
    named = [name for name in config if name in known and name not in OVERLAYS]
    files = [
        Layer(name, read_preset(name), by_hand=name not in known)
        for name in config
        if name not in named
    ]
    data = _only([n for n in named if "/" not in n and n not in SYSTEMS], "data sets")
    if data is None and store is not None:
        data = dataset_preset(store, _split([*files, Layer("options", options)]))
    layers = [] if data is None else [Layer(data, read_preset(data))]
    chosen = _system(named, files, system) or _last_system(layers) or "tcaf"
    layers += system_layers(data, chosen)
    if foreign := set(named) - {layer.name for layer in layers}:
        raise TCAFError(
            f"--config {min(foreign)} is for another system or data set than "
            f"{chosen}{f' on {data}' if data else ''}"
        )
    rows = [] if row is None else [row]
    return _of_one_source([*layers, *files, *rows, Layer("options", options, True)])


def _of_one_source(layers: Sequence[Layer]) -> list[Layer]:
    """Returns the layers without what presets say of another text source than the one in force.

    A file of vectors, a word list or prompts of one source are nothing to another; what a person
    wrote stays. Each text space has a source of its own.
    """
    spaces = {space for layer in layers for space in layer.settings.get("text_spaces", {})}
    for path in (("text",), *(("text_spaces", space) for space in sorted(spaces))):
        said = [_section(layer.settings, path) for layer in layers]
        sources = [section.get("source") for section in said]
        last = next((source for source in reversed(sources) if source), None)
        layers = [
            layer
            if layer.by_hand or source in (None, last)
            else replace(layer, settings=without(layer.settings, _named(section, path)))
            for layer, source, section in zip(layers, sources, said, strict=True)
        ]
    return list(layers)


def _section(settings: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """Returns a section, or a section within one; nothing where it is not one."""
    for name in path:
        inner = settings.get(name, {})
        settings = inner if isinstance(inner, Mapping) else {}
    return settings


def _named(section: Mapping[str, Any], path: Sequence[str]) -> list[str]:
    return [".".join((*path, name)) for name in section]


def system_layers(data: str | None, name: str) -> list[Layer]:
    """Returns what a system changes on a data set, in the order in which it is applied.

    Args:
        data: preset of the data; systems' settings for `cls` serve its `main` too.
        name: of the system.
    """
    system = find_system(name)
    layers = [Layer(name, {**system.settings, "system": name})]
    folder = str(data).removesuffix("_main")
    folders = {known.partition("/")[0] for known in preset_names() if "/" in known}
    if folder not in folders:
        folder = f"{folder}_cls"
    names = (name, f"{folder}/{name}")
    return layers + [Layer(each, read_preset(each)) for each in names if each in preset_names()]


def resolve(layers: Sequence[Layer]) -> Experiment:
    """Lays settings over the defaults.

    Raises:
        TCAFError: a setting that there is not, with a value that it cannot have, or that a person
            wrote and the system does not read.
    """
    # A wrong value that a person wrote is an error, whether the system reads the setting or not.
    system = find_system(Experiment.from_layers(*(layer.settings for layer in layers)).system)
    anchored = are_anchored(layers)
    unread_of = [unread_settings(system, layer.settings, anchored=anchored) for layer in layers]
    for layer, unread in zip(layers, unread_of, strict=True):
        if layer.by_hand and unread:
            where = "" if layer.name == "options" else f" ({layer.name})"
            near = did_you_mean(unread[0], near_settings(system, unread[0]))
            if unread[0].split(".")[:2] in (["text_spaces", space] for space in FEATURE_SPACES):
                near = "; leave it out, or set evaluation.anchored, which does"
            raise TCAFError(
                f"system {system.name!r} does not read {shorten(unread)}{where}"
                f"{near or '; leave it out'}"
            )
    pairs = zip(layers, unread_of, strict=True)
    return Experiment.from_layers(*(without(layer.settings, unread) for layer, unread in pairs))


def are_anchored(layers: Sequence[Layer]) -> bool:
    """Returns whether layers ask for anchored distances, which read further text spaces."""
    said = [layer.settings.get("evaluation", {}).get("anchored") for layer in layers]
    return bool(next((each for each in reversed(said) if each is not None), False))


def origins(layers: Sequence[Layer]) -> dict[str, str]:
    """Returns which layer each setting comes from, by its name such as `training.epochs`."""
    return {name: layer.name for layer in layers for name in flattened(layer.settings)}


def _only(names: Sequence[str], what: str) -> str | None:
    """Returns the one name there may be."""
    unique = list(dict.fromkeys(names))
    if len(unique) > 1:
        raise TCAFError(f"--config names presets of several {what}: {', '.join(unique)}")
    return unique[0] if unique else None


def _system(named: Sequence[str], files: Sequence[Layer], given: str | None) -> str | None:
    """Returns the system that options, presets of systems or files name."""
    of_systems = [name.rpartition("/")[2] for name in named]
    preset = _only([name for name in of_systems if name in SYSTEMS], "systems")
    if given and preset and given != preset:
        raise TCAFError(f"--config {preset} and --system {given} ask for two systems")
    return given or _last_system(files) or preset


def _last_system(layers: Sequence[Layer]) -> str | None:
    """Returns the system that the last layer which names one does."""
    written = [str(layer.settings["system"]) for layer in layers if "system" in layer.settings]
    return written[-1] if written else None


def _split(layers: Sequence[Layer]) -> str:
    """Returns the split that layers choose, of a random partition the one that it is of."""
    found = [layer.settings.get("data", {}) for layer in layers]
    return base_split(str(next((d["split"] for d in reversed(found) if "split" in d), "cls")))[0]
