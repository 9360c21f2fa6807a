"""The run directory: what a training leaves behind, and what is needed to carry on or to predict.

    config.json            every setting, resolved
    provenance.json        versions, device, commit, seed, fingerprint of the data; versions, device
                           and commit once more for each time that the run was taken up again
    text/classes.safetensors   text embedding of every class, in each text space that is read
    metrics.jsonl          one line an epoch
    checkpoint.safetensors weights and optimiser after the last epoch, until the run is over
    stage_1.safetensors    the best epoch of stage 1, which chose gamma
    model.safetensors      the final weights and all that is needed to predict
    predictions.parquet    what was decided for each test clip, and how narrowly
    process.json           wall time and peak memory, of runs of `tcaf reproduce`
    result.json            scores on the test clips, once; and the digests of the files above that
                           hold none themselves

Owns file names, checkpoints and provenance. Every file is whole or absent, whenever the process is
killed; a run taken up again ends with the same weights, bit for bit on the same CPU.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from tcaf.data.classes import ClassSet
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError, shorten
from tcaf.evaluation.conformal import Conformity
from tcaf.evaluation.decisions import FILE, ClipDecisions, read_decisions, write_decisions
from tcaf.evaluation.gzsl import GZSLResult
from tcaf.execution import ranks
from tcaf.files.atomic import json_text, new_folder, only_writer, read_json, write_json, write_text
from tcaf.files.digests import file_sha256
from tcaf.files.sealed import SEAL, DamagedError, check_json, seal_json
from tcaf.settings.experiment import Experiment
from tcaf.systems.interface import Together
from tcaf.systems.reads import flattened, read_settings
from tcaf.systems.registry import SYSTEMS, find_system
from tcaf.text.class_text import embed_in_spaces
from tcaf.text.spaces import in_space, read_class_text, write_class_text
from tcaf.training.auxiliary import auxiliary_content, auxiliary_labels
from tcaf.training.model_file import TrainedModel, load_model, save_model
from tcaf.training.model_file import load_tensors as load_tensors
from tcaf.training.model_file import save_tensors as save_tensors
from tcaf.training.numbers import check_numbers
from tcaf.training.observers import EpochRecord, Observer
from tcaf.training.protocol import Choice, EpochDone, Finished, Progress, TwoStages, choose
from tcaf.training.provenance import (
    circumstances,
    class_text_sha256,
    provenance,
    split_sha256,
)
from tcaf.training.records import CostContent, ProvenanceContent, ResultContent
from tcaf.training.start import start_content

PLAIN = ("config.json", "provenance.json", "metrics.jsonl", FILE)
"""Files without a digest of their own, which `result.json` therefore holds."""

UNIMPORTANT = ("training.device", "evaluation.batch_size")
"""Settings that may change when a run is taken up again."""


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
        if not file.is_file():
            return None
        value: dict[str, Any] = read_json(file, "the result of a run", ResultContent)
        try:
            # Those of earlier releases have neither.
            if value.keys() & {"files", SEAL}:
                check_json(value, ResultContent.model_fields)
                # Digits beyond those that a number has are no part of its value.
                if file.read_text(encoding="utf-8") != json_text(value):
                    raise DamagedError("it is not laid out as it was written")
        except ValueError as error:
            raise TCAFError(f"the result {file} is damaged ({error})") from None
        check_numbers(value, f"the result {file}")
        return value

    def _whole(self, name: str) -> Path:
        """Returns where a file is, once it is found to be what the run has written.

        Raises:
            TCAFError: the run is over, and the file another than then.
        """
        file = self.path / name
        digest = (self.result or {}).get("files", {}).get(name)
        if digest is not None and file.is_file() and file_sha256(file) != digest:
            raise TCAFError(
                f"{file} is not what the run wrote: the SHA-256 in its result.json differs; the "
                "file was damaged or edited, and only training again makes it anew"
            )
        return file

    @property
    def provenance(self) -> dict[str, Any]:
        """The content of `provenance.json`: where the result comes from."""
        file = self._whole("provenance.json")
        value: dict[str, Any] = read_json(file, "the provenance of a run", ProvenanceContent)
        return value

    def find_store(self) -> tuple[FeatureStore | None, str]:
        """Returns the store that the run was trained on, or None and in one line why."""
        origin = self.provenance
        known = origin.get("store") or ""
        if not known or not Path(known).is_dir():
            return None, f"the run's store is no longer where it was{known and f', at {known}'}"
        try:
            store = FeatureStore.open(known)
        except TCAFError as error:
            return None, f"the run's store cannot be read: {error}"
        if store.fingerprint != origin["data"]["fingerprint"]:
            return None, f"store {known} no longer holds the clips that the run was trained on"
        return store, ""

    @property
    def experiment(self) -> Experiment:
        """The settings in `config.json`; what a later release has added has its default."""
        file = self._whole("config.json")
        written = read_json(file, "the configuration of a run", dict[str, Any])
        return Experiment.from_json(written)

    @property
    def decisions(self) -> ClipDecisions:
        """What was decided for each test clip, from `predictions.parquet`."""
        return read_decisions(self._whole(FILE))

    @property
    def cost(self) -> dict[str, float] | None:
        """Wall time in seconds and peak memory in MiB of the process that trained it, if kept."""
        file = self.path / "process.json"
        return read_json(file, "the time of a run", CostContent) if file.is_file() else None

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
            if self.result is None:
                self._note_resumption(experiment)
            for unfinished in self.path.glob(".*.partial"):
                unfinished.unlink()  # a killed process was writing it
            progress = self._progress()
            if progress.records:
                # A kill may have come between the checkpoint and its line of metrics.
                self._write_metrics(progress)
            return progress
        if self.path.is_dir() and (others := sorted(each.name for each in self.path.iterdir())):
            raise TCAFError(
                f"{self.path} holds {shorten(others)} and no run; name another place with --out"
            )
        names = store.split(experiment.data.split).classes
        text_settings = find_system(experiment.system).text_settings(experiment)
        labels = auxiliary_labels(experiment, store)
        text = embed_in_spaces(text_settings, names, store, others=labels)
        # Whatever is wrong with settings or data is said before anything is written.
        protocol = TwoStages(experiment, store, text.by_name(names))
        protocol.new_stage(1)
        origin = provenance(experiment, store)
        if protocol.auxiliary is not None:
            origin["auxiliary"] = protocol.auxiliary.to_json()
        if protocol.start is not None:
            origin["start"] = protocol.start.to_json()
        with new_folder(self.path) as folder:
            write_class_text(Run(folder).text_file, text, names)
            write_json(folder / "provenance.json", origin)
            write_json(folder / "config.json", experiment.to_json())
        return Progress()

    def _note_resumption(self, experiment: Experiment) -> None:
        """Adds to the provenance what the run is carried on with."""
        origin = self.provenance
        resumed = [*origin.get("resumed", []), circumstances(experiment)]
        write_json(self.path / "provenance.json", {**origin, "resumed": resumed})

    def _check_same(self, experiment: Experiment, store: FeatureStore) -> None:
        # What the system does not read makes no difference.
        kept, asked = (flattened(read_settings(each)) for each in (self.experiment, experiment))
        for name in dict.fromkeys([*asked, *kept]):
            # Where and in how large pieces things are computed changes no result beyond rounding.
            if kept.get(name) != asked.get(name) and name not in UNIMPORTANT:
                raise TCAFError(
                    f"cannot resume {self.path}: it was started with {name} = {kept.get(name)!r}, "
                    f"now it is {asked.get(name)!r}"
                )
        started = self.provenance
        data = started.get("data", {})
        same_split = data.get("split") == split_sha256(store, experiment)
        code = SYSTEMS.sha256(experiment.system)
        if started.get("plugin") != code:
            raise TCAFError(
                f"cannot resume {self.path}: the file that registers {experiment.system!r} has "
                "changed since"
            )
        if data.get("fingerprint") != store.fingerprint or not same_split:
            raise TCAFError(f"cannot resume {self.path}: store {store.path} holds other data")
        further = started.get("auxiliary")
        if further and further["content"] != auxiliary_content(experiment):
            raise TCAFError(
                f"cannot resume {self.path}: {experiment.data.auxiliary} holds other videos "
                "than those that it was started with"
            )
        known = started.get("start")
        if known and known["content"] != start_content(experiment):
            raise TCAFError(
                f"cannot resume {self.path}: the ready model {experiment.data.start} is another "
                "than the one that it was started from"
            )
        text_settings = find_system(experiment.system).text_settings(experiment)
        hashes = class_text_sha256(experiment, store)
        for space, settings in text_settings.items():
            key = in_space("class_text", space)
            kept, now = data.get(key), hashes[key]
            # Runs of older releases hold no hash; and a run goes on with the embeddings that it
            # keeps where what they were made from is gone.
            if kept and now and kept != now:
                which = f" in the space {space!r}" if len(hashes) > 1 else ""
                raise TCAFError(
                    f"cannot resume {self.path}: what class text{which} is made from "
                    f"({settings.path or settings.source}) has changed since"
                )

    def _progress(self) -> Progress:
        file = self.path / "checkpoint.safetensors"
        if not file.is_file():
            return Progress()
        tensors, header = load_tensors(file, "the checkpoint of a run")
        where = f"the checkpoint {file}"
        try:
            lines = [json.dumps(record) for record in header["records"]]
        except (KeyError, TypeError):
            raise TCAFError(f"{where} is damaged: it has no record of epochs") from None
        return Progress(tuple(EpochRecord.from_json(line, where) for line in lines), tensors)

    def records(self) -> tuple[EpochRecord, ...]:
        """Returns the record of each epoch, from `metrics.jsonl`.

        Raises:
            TCAFError: a line is damaged.
        """
        file = self._whole("metrics.jsonl")
        lines = file.read_bytes().splitlines() if file.is_file() else []
        return tuple(
            EpochRecord.from_json(line, f"line {number} of {file}")
            for number, line in enumerate(lines, start=1)
        )

    @property
    def text_file(self) -> Path:
        """Where the text embeddings of classes are kept."""
        return self.path / "text" / "classes.safetensors"

    def text(self) -> dict[str, dict[str, Float[np.ndarray, " _"]]]:
        """Returns the text embedding of each class in each space, as they were at the start."""
        return read_class_text(self.text_file)

    def write_epoch(self, done: EpochDone) -> None:
        """Keeps the state after an epoch, then its line in `metrics.jsonl`."""
        records = [record.to_json() for record in done.progress.records]
        save_tensors(
            self.path / "checkpoint.safetensors", done.progress.tensors, {"records": records}
        )
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
            "files": {name: file_sha256(self.path / name) for name in PLAIN},
        }
        value = seal_json(value)
        write_json(self.path / "result.json", value)
        (self.path / "checkpoint.safetensors").unlink(missing_ok=True)
        return value


def result_json(result: GZSLResult) -> dict[str, Any]:
    """Returns the scores of a result as JSON values; None for what has no meaning without clips."""
    values = {**result.scores(), "curve_area": result.curve_area}
    reliability = result.reliability
    own = {"reliability": None if reliability is None else asdict(reliability)}
    return without_nan(values) | own


def without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    """Returns numbers as JSON values; None for what has no meaning without clips."""
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

    Under torchrun its processes train together, and the first one alone writes (`execution.ranks`).

    Args:
        experiment: all settings.
        store: the clips.
        out: the run directory.
        resume: carry on with the run that is there; if it is over, its result is returned.
        observer: who watches.

    Returns:
        The content of `result.json`.

    Raises:
        TCAFError: see `Run.start` and `TwoStages`; a shard of the store is damaged, or another
            process trains there.
    """
    with ranks.joined():
        with ranks.first_ahead():
            store.verify_once()
        if ranks.current().index:
            return _help_train(experiment, store)
        with only_writer(Path(out), whole=True):
            result = _train(experiment, store, Run(out), resume, observer)
        return ranks.from_first(result)


def _help_train(experiment: Experiment, store: FeatureStore) -> dict[str, Any]:
    """Does what the ranks after the first do, and returns the result of the first."""
    begun: tuple[Any, Progress] | None = ranks.from_first(None)
    if begun is not None:
        text, progress = begun
        for _ in TwoStages(experiment, store, text).run(progress):
            pass
    result: dict[str, Any] = ranks.from_first({})
    return result


def _train(
    experiment: Experiment, store: FeatureStore, run: Run, resume: bool, observer: Observer | None
) -> dict[str, Any]:
    if resume and run.result is not None:
        run.start(experiment, store, resume=True)
        (run.path / "checkpoint.safetensors").unlink(missing_ok=True)
        ranks.from_first(None)
        return run.result
    progress = run.start(experiment, store, resume=resume)
    text = run.text()
    ranks.from_first((text, progress))
    protocol = TwoStages(experiment, store, text)

    def keep(
        name: str,
        model: nn.Module,
        choice: Choice,
        classes: ClassSet,
        conformity: Conformity | None,
    ) -> None:
        text = protocol.class_text(classes)
        trained = TrainedModel(
            experiment.system,
            model,
            store.spec,
            classes,
            text,
            choice.gamma,
            experiment,
            choice.temperature,
            conformity,
            choice.together,
            choice.anchor,
        )
        save_model(run.path / name, trained)

    for event in protocol.run(progress, observer):
        if isinstance(event, EpochDone):
            if event.best_model is not None:
                choice = choose(event.progress.of_stage(1))
                classes = protocol.split.stage_1
                keep("stage_1.safetensors", event.best_model, choice, classes, event.conformity)
            run.write_epoch(event)
            progress = event.progress
        else:
            finished = event
            # Of the chosen epoch, which may lie before an interruption.
            first = load_model(run.path / "stage_1.safetensors")
            if isinstance(event.model, Together):
                choice = replace(event.choice, together=protocol.together(first.model))
                classes = protocol.split.stage_1
                keep("stage_1.safetensors", first.model, choice, classes, first.conformity)
                finished = replace(event, choice=choice)
            classes = protocol.split.stage_2
            keep("model.safetensors", event.model, finished.choice, classes, first.conformity)
            rows = store.rows(experiment.data.split, "test")
            decided = ClipDecisions(
                tuple(store.ids[row] for row in rows),
                protocol.split.stage_2,
                event.result.decisions,
                event.result.gamma,
            )
            write_decisions(run.path / FILE, decided)
            return run.write_result(finished, experiment, progress.records)
    raise AssertionError("the protocol ends with `Finished`")
