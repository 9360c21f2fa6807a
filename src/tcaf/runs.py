"""The run directory: what a training leaves behind, and what is needed to carry on or to predict.

    config.json            every setting, resolved
    provenance.json        versions, device, commit, seed, fingerprint of the data
    text/classes.safetensors   text embedding of every class
    metrics.jsonl          one line an epoch
    checkpoint.safetensors weights and Adam's averages after the last epoch, until the run is over
    stage_1.safetensors    the best epoch of stage 1, which chose gamma
    model.safetensors      the final weights and all that is needed to predict
    predictions.parquet    what was decided for each test clip, and how narrowly
    process.json           wall time and peak memory, of runs of `tcaf reproduce`
    result.json            scores on the test clips, once

Owns file names, checkpoints and provenance. Every file is whole or absent, whenever the process is
killed; a run taken up again ends with the same weights, bit for bit on the same CPU.
"""

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tcaf.classes import ClassSet
from tcaf.config import Experiment
from tcaf.errors import TCAFError
from tcaf.features import FeatureSpec
from tcaf.files import new_folder, read_json, replacing, write_json, write_text
from tcaf.gzsl import GZSLResult
from tcaf.predictions import Predictions, write_predictions
from tcaf.protocol import Choice, EpochDone, Finished, Progress, TwoStages, choose, pick_device
from tcaf.store import CACHE_PREFIX, FeatureStore, read_text_embeddings, write_text_embeddings
from tcaf.systems import PLUGIN_SHA256, SYSTEMS, find_system
from tcaf.text import TextSettings, embed_classes
from tcaf.training import EpochRecord, Observer

MODEL_FORMAT = "tcaf-model"
VERSION = 2

UNIMPORTANT = {"training": ("device",), "evaluation": ("batch_size",)}
"""Settings by section that may change when a run is taken up again."""


@dataclass(frozen=True)
class TrainedModel:
    """A model with everything needed to predict.

    Args:
        system: name of what the model is (`tcaf.systems`).
        model: the network, in evaluation mode.
        spec: of the features that it was trained on.
        classes: the stage's classes; `seen` are those it was trained on.
        text_embedding: of these classes, in their order.
        gamma: of calibrated stacking, chosen on validation; None for imported weights.
        experiment: the settings of the run; None for imported weights.
        temperature: of probabilities (`gzsl.probabilities`), fitted on validation clips with the
            weights of stage 1; None for imported weights and models of older releases.
    """

    system: str
    model: Any
    spec: FeatureSpec
    classes: ClassSet
    text_embedding: Float[Tensor, "num_classes text_dim"]
    gamma: float | None
    experiment: Experiment | None
    temperature: float | None = None

    def check_features(self, spec: FeatureSpec, where: str) -> None:
        """Checks that features are of the kind that the model was trained on.

        Args:
            spec: of the features; what the model does not read may be anything.
            where: what holds them, for messages.

        Raises:
            TCAFError: another size, another backbone, or other seconds per token.
        """
        for modality in self.model.modalities:
            wanted, found = self.spec.dim(modality), spec.dim(modality)
            if wanted != found:
                raise TCAFError(
                    f"the model was trained on {modality} features of size {wanted}, {where} "
                    f"holds size {found}"
                )
            name = f"{modality}_backbone"
            wanted_from, found_from = getattr(self.spec, name), getattr(spec, name)
            if wanted_from != found_from:
                raise TCAFError(
                    f"the model was trained on {modality} features of {wanted_from!r}, {where} "
                    f"holds those of {found_from!r}"
                )
            steps = self.spec.step_s(modality), spec.step_s(modality)
            if steps[0] != steps[1] and not self._averages:
                told = [
                    "one token a clip" if s is None else f"a token every {s:g} s" for s in steps
                ]
                raise TCAFError(
                    f"the model was trained on {modality} features of {told[0]}, {where} holds "
                    f"{told[1]}"
                )

    @property
    def _averages(self) -> bool:
        """Whether the model sees the mean over time of each clip."""
        experiment = self.experiment
        return experiment is not None and (
            experiment.data.average or find_system(experiment.system).averages
        )


def _save(path: Path, tensors: Mapping[str, Tensor], header: Any) -> None:
    """Writes tensors with a JSON header into one safetensors file, whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        safetensors.torch.save_file(contiguous, temporary, metadata={"header": json.dumps(header)})


def _load(path: Path, what: str) -> tuple[dict[str, Tensor], Any]:
    """Reads what `_save` wrote.

    Raises:
        TCAFError: the file is missing, damaged, or something else.
    """
    if not path.is_file():
        raise TCAFError(f"expected {what} at {path}, found nothing")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["header"])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, OSError, json.JSONDecodeError) as error:
        raise TCAFError(f"expected {what} at {path}, found a damaged file ({error})") from None


def save_model(path: Path, trained: TrainedModel) -> None:
    """Writes a model and all that is needed to predict with it into one file."""
    header = {
        "format": MODEL_FORMAT,
        "version": VERSION,
        "system": trained.system,
        "config": asdict(trained.model.config),
        "spec": asdict(trained.spec),
        "classes": list(trained.classes.names),
        "seen": sorted(trained.classes.seen),
        "gamma": trained.gamma,
        "temperature": trained.temperature,
        "experiment": trained.experiment.to_json() if trained.experiment else None,
    }
    weights = {f"model.{name}": value for name, value in trained.model.state_dict().items()}
    _save(path, {**weights, "text_embedding": trained.text_embedding}, header)


def load_model(path: str | Path) -> TrainedModel:
    """Reads a model from a run directory or a model file.

    Raises:
        TCAFError: nothing there, a damaged file, or one of another version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    tensors, header = _load(path, "a trained model")
    if not isinstance(header, dict) or header.get("format") != MODEL_FORMAT:
        raise TCAFError(f"{path} is no trained model; a run keeps it in model.safetensors")
    if header.get("version") != VERSION:
        raise TCAFError(
            f"model {path} has format version {header.get('version')}, this tcaf reads {VERSION}"
        )
    if header["system"] not in SYSTEMS:
        raise TCAFError(
            f"model {path} is of the system {header['system']!r}, which is not known here; name "
            "the file that registers it with --plugin"
        )
    system = find_system(header["system"])
    prefix = "model."
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    try:
        model = system.model(system.config(**header["config"]))
        model.load_state_dict(weights)
    except (TypeError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise TCAFError(f"model {path} does not fit the system {system.name!r}: {told}") from None
    model.eval()
    stored = header["experiment"]
    return TrainedModel(
        system=system.name,
        model=model,
        spec=FeatureSpec(**header["spec"]),
        classes=ClassSet(tuple(header["classes"]), frozenset(header["seen"])),
        text_embedding=tensors["text_embedding"],
        gamma=header["gamma"],
        experiment=Experiment.from_json(stored) if stored else None,
        temperature=header.get("temperature"),
    )


def provenance(experiment: Experiment, store: FeatureStore) -> dict[str, Any]:
    """Returns where a result comes from: code, versions, machine, seed, data."""
    on_gpu = pick_device(experiment.training.device).type == "cuda"
    packages = ("tcaf", "torch", "numpy", "pyarrow", "safetensors")
    return {
        "commit": _commit(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "plugin": PLUGIN_SHA256.get(experiment.system),
        "seed": experiment.seed,
        "store": str(store.path.resolve()),
        "data": {
            **store.source,
            "clips": len(store),
            "fingerprint": store.fingerprint,
            "split": split_sha256(store, experiment),
        },
    }


def split_sha256(store: FeatureStore, experiment: Experiment) -> str:
    """Returns a hash of the class partition in use."""
    split = asdict(store.split(experiment.data.split))
    return hashlib.sha256(json.dumps(split, sort_keys=True).encode()).hexdigest()


def text_sha256(experiment: Experiment, store: FeatureStore) -> str:
    """Returns a hash of what class text is made from: files named, and what the store keeps."""
    settings = text_settings(experiment)
    digest = hashlib.sha256()
    for path in (settings.path, settings.phrases_file):
        if path and Path(path).is_file():
            with Path(path).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    kept = sorted((store.path / "text").glob("*.safetensors"))
    for file_path in kept if settings.source == "stored" else ():
        if not file_path.name.startswith(CACHE_PREFIX):
            digest.update(file_path.read_bytes())
    if settings.source != "stored":
        digest.update(json.dumps(store.phrases, sort_keys=True).encode())
    return digest.hexdigest()


def cpu_name() -> str:
    """Returns the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
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


def text_settings(experiment: Experiment) -> TextSettings:
    """Returns where class vectors come from, after `fidelity.class_vectors`."""
    text = experiment.text
    if experiment.fidelity.class_vectors == "by_name":
        return text
    if text.source != "stored":
        raise TCAFError(
            "fidelity.class_vectors 'release_order' needs the vectors of a store made by "
            f"`tcaf prepare official`, got text.source {text.source!r}; set it to 'by_name'"
        )
    return replace(text, name=f"{text.name or 'word2vec'}_release_order")


class Run:
    """One run directory.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of `result.json`; None while the run is not over."""
        file = self.path / "result.json"
        return read_json(file, "the result of a run") if file.is_file() else None

    def start(self, experiment: Experiment, store: FeatureStore, *, resume: bool) -> Progress:
        """Makes the folder, or checks that the one there is of the same run.

        Returns:
            How far the run has come.

        Raises:
            TCAFError: there is a run already and `resume` is false, or it has other settings or
                other data, or the text embeddings cannot be made.
        """
        config = self.path / "config.json"
        if config.is_file():
            if not resume:
                raise TCAFError(
                    f"{self.path} holds a run already; carry on with --resume, or name "
                    "another place with --out"
                )
            self._check_same(experiment, store)
            for unfinished in self.path.glob(".*.partial"):
                unfinished.unlink()  # a killed process was writing it
            progress = self._progress()
            if progress.records:
                # A kill may have come between the checkpoint and its line of metrics.
                self._write_metrics(progress)
            return progress
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()
        names = store.split(experiment.data.split).classes
        text = embed_classes(text_settings(experiment), names, store)
        # Whatever is wrong with settings or data is said before anything is written.
        TwoStages(experiment, store, dict(zip(names, text, strict=True))).new_stage(1)
        with new_folder(self.path) as folder:
            write_text_embeddings(folder, "classes", dict(zip(names, text, strict=True)))
            write_json(folder / "provenance.json", provenance(experiment, store))
            write_json(folder / "config.json", experiment.to_json())
        return Progress()

    def _check_same(self, experiment: Experiment, store: FeatureStore) -> None:
        kept = read_json(self.path / "config.json", "the configuration of a run")
        asked = experiment.to_json()
        for section, fields in asked.items():
            old = kept.get(section)
            # Where and in how large pieces things are computed changes no result beyond rounding.
            for name in UNIMPORTANT.get(section, ()):
                fields = {**fields, name: (old or {}).get(name)}
            if old != fields:
                if isinstance(fields, dict) and isinstance(old, dict):
                    name = next(k for k in fields if fields[k] != old.get(k))
                    section, fields, old = f"{section}.{name}", fields[name], old.get(name)
                raise TCAFError(
                    f"cannot resume {self.path}: it was started with {section} = {old!r}, "
                    f"now it is {fields!r}"
                )
        started = read_json(self.path / "provenance.json", "the provenance of a run")
        data = started.get("data", {})
        same_split = data.get("split") == split_sha256(store, experiment)
        code = PLUGIN_SHA256.get(experiment.system)
        if started.get("plugin") != code:
            raise TCAFError(
                f"cannot resume {self.path}: the file that registers {experiment.system!r} has "
                "changed since"
            )
        if data.get("fingerprint") != store.fingerprint or not same_split:
            raise TCAFError(f"cannot resume {self.path}: store {store.path} holds other data")

    def _progress(self) -> Progress:
        file = self.path / "checkpoint.safetensors"
        if not file.is_file():
            return Progress()
        tensors, header = _load(file, "the checkpoint of a run")
        return Progress(tuple(EpochRecord(**record) for record in header["records"]), tensors)

    def records(self) -> tuple[EpochRecord, ...]:
        """Returns the record of each epoch, from `metrics.jsonl`."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return tuple(EpochRecord(**json.loads(line)) for line in lines)

    def text(self) -> dict[str, Float[np.ndarray, " text_dim"]]:
        """Returns the text embedding of each class, as it was when the run started."""
        return read_text_embeddings(self.path / "text" / "classes.safetensors")

    def write_epoch(self, done: EpochDone) -> None:
        """Keeps the state after an epoch, then its line in `metrics.jsonl`."""
        records = [record.to_json() for record in done.progress.records]
        _save(self.path / "checkpoint.safetensors", done.progress.tensors, {"records": records})
        self._write_metrics(done.progress)

    def _write_metrics(self, progress: Progress) -> None:
        lines = (json.dumps(record.to_json()) + "\n" for record in progress.records)
        write_text(self.path / "metrics.jsonl", "".join(lines))

    def write_result(
        self, finished: Finished, experiment: Experiment, records: tuple[EpochRecord, ...]
    ) -> dict[str, Any]:
        """Writes `result.json`, the last file of a run, and returns its content."""
        value = {
            "test": result_json(finished.result),
            "choice": asdict(finished.choice),
            "seed": experiment.seed,
            "epochs": {f"stage_{n}": sum(r.stage == n for r in records) for n in (1, 2)},
            "seconds": round(sum(record.seconds for record in records), 3),
        }
        write_json(self.path / "result.json", value)
        (self.path / "checkpoint.safetensors").unlink(missing_ok=True)
        return value


def result_json(result: GZSLResult) -> dict[str, Any]:
    """Returns the scores of a result as JSON values; None for what has no meaning without clips."""
    values = {**result.scores(), "curve_area": result.curve_area}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def train(
    experiment: Experiment,
    store: FeatureStore,
    out: str | Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Runs the two-stage protocol into a run directory.

    Args:
        experiment: all settings.
        store: the clips.
        out: the run directory.
        resume: carry on with the run that is there; if it is over, its result is returned.
        observer: who watches.

    Returns:
        The content of `result.json`.

    Raises:
        TCAFError: see `Run.start` and `TwoStages`.
    """
    run = Run(out)
    if resume and run.result is not None:
        run.start(experiment, store, resume=True)
        (run.path / "checkpoint.safetensors").unlink(missing_ok=True)
        return run.result
    progress = run.start(experiment, store, resume=resume)
    protocol = TwoStages(experiment, store, run.text())

    def keep(name: str, model: nn.Module, choice: Choice, classes: ClassSet) -> None:
        text = protocol.text_matrix(classes)
        trained = TrainedModel(
            experiment.system,
            model,
            store.spec,
            classes,
            text,
            choice.gamma,
            experiment,
            choice.temperature,
        )
        save_model(run.path / name, trained)

    for event in protocol.run(progress, observer):
        if isinstance(event, EpochDone):
            if event.best_model is not None:
                choice = choose(event.progress.of_stage(1))
                keep("stage_1.safetensors", event.best_model, choice, protocol.split.stage_1)
            run.write_epoch(event)
            progress = event.progress
        else:
            keep("model.safetensors", event.model, event.choice, protocol.split.stage_2)
            rows = store.rows(experiment.data.split, "test")
            predictions = Predictions(
                tuple(store.ids[row] for row in rows),
                protocol.split.stage_2,
                event.result.decisions,
                event.result.gamma,
            )
            write_predictions(run.path / "predictions.parquet", predictions)
            return run.write_result(event, experiment, progress.records)
    raise AssertionError("the protocol ends with `Finished`")
