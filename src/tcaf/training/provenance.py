"""Where a result comes from: code, versions, machine, seed, data, class text."""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tcaf.data.store import CACHE_PREFIX, FeatureStore
from tcaf.errors import TCAFError
from tcaf.execution import ranks
from tcaf.execution.devices import pick_device
from tcaf.files.digests import file_digest
from tcaf.files.sealed import unsealed_bytes
from tcaf.settings.experiment import TEXT, Experiment, text_settings
from tcaf.systems.registry import SYSTEMS, find_system
from tcaf.text.class_text import text_origin
from tcaf.text.of_backbone import resolved
from tcaf.text.prompts import read_prompts
from tcaf.text.spaces import in_space
from tcaf.text.word_list import word_list_digest


def provenance(experiment: Experiment, store: FeatureStore) -> dict[str, Any]:
    """Returns where a result comes from: code, versions, machine, seed, data."""
    return {
        **circumstances(experiment),
        "plugin": SYSTEMS.sha256(experiment.system),
        "seed": experiment.seed,
        "store": str(store.path.resolve()),
        "data": {
            **store.source,
            "clips": len(store),
            "fingerprint": store.fingerprint,
            "split": split_sha256(store, experiment),
            **class_text_sha256(experiment, store),
        },
    }


def circumstances(experiment: Experiment) -> dict[str, Any]:
    """Returns what may change when a run is taken up again: code, versions, machine, device."""
    device = pick_device(experiment.training.device).type
    packages = ("tcaf", "torch", "numpy", "pyarrow", "safetensors")
    return {
        "commit": commit(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": ranks.current().count,
        "device": device,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
    }


def split_sha256(store: FeatureStore, experiment: Experiment) -> str:
    """Returns a hash of the class partition in use."""
    split = asdict(store.split(experiment.data.split))
    return hashlib.sha256(json.dumps(split, sort_keys=True).encode()).hexdigest()


def class_text_sha256(experiment: Experiment, store: FeatureStore) -> dict[str, str | None]:
    """Returns `text_sha256` of each text space that the run reads, as records name them.

    That of the space `text` is `class_text`, others are `class_text.clip`.
    """
    spaces = find_system(experiment.system).all_spaces(experiment)
    return {in_space("class_text", s): text_sha256(experiment, store, s) for s in spaces}


def text_sha256(experiment: Experiment, store: FeatureStore, space: str = TEXT) -> str | None:
    """Returns a hash of what class text is made from: files, models, what the store keeps.

    Of files and models the contents count, wherever they lie; None if one is not there.

    Args:
        experiment: all settings.
        store: the clips.
        space: the text space.
    """
    settings = resolved(text_settings(experiment, space), store.spec)
    digest = hashlib.sha256()
    try:
        origin = text_origin(settings)
        phrases = [file_digest(Path(settings.phrases_file))] if settings.phrases_file else []
        if settings.words:
            phrases.append(word_list_digest(settings.words))
        prompts = read_prompts(settings.prompts) if settings.prompts else ()
    except (TCAFError, OSError):
        return None
    if settings.path and not origin:
        return None
    for part in (*origin, *phrases):
        # A file's SHA-256 counts as bytes, so that the hashes of kept runs stay what they are.
        digest.update(bytes.fromhex(part) if len(part) == 64 else part.encode())
    kept = sorted((store.path / "text").glob("*.safetensors"))
    for file_path in kept if settings.source == "stored" else ():
        if not file_path.name.startswith(CACHE_PREFIX):
            # Without the seal, so that the hashes of kept runs stay what they are.
            digest.update(unsealed_bytes(file_path))
    if settings.source != "stored":
        digest.update(json.dumps(store.phrases, sort_keys=True).encode())
    if prompts:
        digest.update(json.dumps(prompts).encode())
    return digest.hexdigest()


def cpu_name() -> str:
    """Returns the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str | None:
    """Returns the commit of the package's checkout, marked if it was changed; None outside one."""
    here = Path(__file__).parent
    describe = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    tracked = ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name]
    try:
        subprocess.run(tracked, capture_output=True, check=True)  # noqa: S603
        done = subprocess.run(describe, capture_output=True, check=True, text=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
