"""The two-stage protocol of generalised zero-shot learning (Sec. 4.1; Mercea et al., CVPR 2022).

Stage 1 trains on `stage_1_train` and picks epoch and gamma by the harmonic mean on `val_seen` and
`val_unseen`; the same clips say how sure answers may be, at that epoch and gamma (`Trust`), which
changes no score. Stage 2 starts anew, trains on all of these for as many epochs, and is tested
once.

Owns what chooses what. Everything a run decides follows from the records of its epochs, so a run
is taken up again from those, the weights and the optimiser's averages. Knows nothing of files.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from tcaf.data.classes import ClassSet
from tcaf.data.features import MODALITIES
from tcaf.data.resident import on_device
from tcaf.data.sampler import few_of_each
from tcaf.data.splits import NAMED_PARTS
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.evaluation.calibration import Reliability, reliability
from tcaf.evaluation.conformal import Conformity, conformity
from tcaf.evaluation.gzsl import GZSLResult, decide
from tcaf.evaluation.parts import (
    EvaluationPart,
    distances,
    equal_means,
    evaluate_part,
    read_part,
)
from tcaf.evaluation.temperature import fit_temperature, probabilities
from tcaf.evaluation.together import PartTogether, TogetherChoice
from tcaf.execution import ranks
from tcaf.execution.devices import pick_device
from tcaf.seeding import generator, seeded
from tcaf.settings.experiment import Experiment
from tcaf.systems.anchored import Anchored, raw_model
from tcaf.systems.interface import FeatureConfig, Reduces, Together, ZeroShotModel
from tcaf.systems.reads import reads_setting
from tcaf.systems.registry import configure, find_system, modalities
from tcaf.systems.stages import Stage
from tcaf.systems.training_parts import TrainingPart
from tcaf.text.spaces import ClassText, SpaceVectors
from tcaf.training.auxiliary import AuxiliaryVideos, find_auxiliary
from tcaf.training.observers import EpochRecord, Observer, Silence
from tcaf.training.start import StartClasses, find_start

ANCHOR = "anchor"
"""What the scale of raw distances is called among the scores of validation."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come: enough to carry on from.

    Args:
        records: of all epochs so far, stage 1 before stage 2.
        tensors: `Stage.state` of the stage that runs.
    """

    records: tuple[EpochRecord, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def of_stage(self, stage: int) -> tuple[EpochRecord, ...]:
        """Returns the records of one stage."""
        return tuple(record for record in self.records if record.stage == stage)


@dataclass(frozen=True)
class Choice:
    """What stage 1 chose.

    Args:
        epoch: the epoch with the best validation HM, from 1; the first of equals.
        gamma: the best gamma at that epoch.
        validation: the scores there, and the temperature.
        temperature: of probabilities, at that epoch and gamma; None for epochs of older releases.
        reliability: of these probabilities on the validation clips; None likewise.
        together: what the same weights choose for clips that are answered together; None while the
            run is not over, and for systems that cannot.
    """

    epoch: int
    gamma: float
    validation: dict[str, float | bool]
    temperature: float | None = None
    reliability: Reliability | None = None
    together: TogetherChoice | None = None

    @property
    def anchor(self) -> float | None:
        """Scale of raw distances at that epoch; None without anchors."""
        scale = self.validation.get(ANCHOR)
        return None if scale is None else float(scale)


@dataclass(frozen=True)
class Trust:
    """How sure answers may be, by the validation clips, with the weights of an epoch at its gamma.

    Args:
        temperature: of probabilities.
        reliability: of these.
        conformity: what the thresholds of sets follow from.
    """

    temperature: float
    reliability: Reliability
    conformity: Conformity


@dataclass(frozen=True)
class EpochDone:
    """An epoch is over; `progress` is what a resumed run starts from.

    Args:
        record: of the epoch.
        progress: of the run.
        best_model: stage 1's weights, if this epoch is its best so far.
        conformity: then, of the validation clips.
    """

    record: EpochRecord
    progress: Progress
    best_model: nn.Module | None
    conformity: Conformity | None = None


@dataclass(frozen=True)
class Finished:
    """The run is over.

    Args:
        model: stage 2's weights.
        choice: of stage 1.
        result: on the test clips.
    """

    model: nn.Module
    choice: Choice
    result: GZSLResult


def validation_mean(record: EpochRecord) -> float:
    """Returns the harmonic mean by which an epoch of stage 1 is chosen."""
    assert record.validation is not None, "stage 1 validates every epoch"
    return float(record.validation["harmonic_mean"])


def choose(records: tuple[EpochRecord, ...]) -> Choice:
    """Picks epoch and gamma from stage 1's records."""
    best = records[int(np.argmax([validation_mean(record) for record in records]))]
    assert best.validation is not None
    temperature = best.validation.get("temperature")
    return Choice(
        best.epoch,
        float(best.validation["gamma"]),
        best.validation,
        None if temperature is None else float(temperature),
        best.reliability,
    )


def timed_epoch(
    stage: Stage,
    epoch: int,
    learning_rate: float,
    observer: Observer,
    validate: Callable[[], dict[str, float | bool]] | None,
) -> EpochRecord:
    """Runs an epoch and, where `validate` is given, a validation after it."""
    start = time.perf_counter()
    losses = stage.run_epoch(epoch, learning_rate, partial(observer.batch_done, epoch))
    validation = validate() if validate else None
    seconds = time.perf_counter() - start
    return EpochRecord(stage.number, epoch, learning_rate, losses, validation, seconds)


class TwoStages:
    """One run of the protocol.

    Args:
        experiment: all settings.
        store: the clips.
        text: text embedding of every class of the split, by name, in each text space that the
            system reads.

    Raises:
        TCAFError: a part has no clips or a clip stands where its class must not, a class has no
            text embedding, a clip has no token in the modality used, or a device is missing.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: FeatureStore,
        text: SpaceVectors,
    ) -> None:
        self.experiment = experiment
        self.system = find_system(experiment.system)
        self.store = store
        self.text = {space: text[space] for space in self.system.all_spaces(experiment)}
        self.device = pick_device(experiment.training.device)
        self.clips = on_device(store, self.device)
        self.split = store.split(experiment.data.split)
        self._check_clips()
        self.windows = self.system.windows(experiment, training=False)
        self.anchored = experiment.evaluation.anchored
        if self.anchored:
            raw_model(
                FeatureConfig(audio_dim=store.spec.audio_dim, visual_dim=store.spec.visual_dim),
                self.class_text(self.split.stage_2).dims,
            )
        self.validation = self.evaluation_part("val", self.split.stage_1)
        self.auxiliary: AuxiliaryVideos | None = None
        if not self.system.training_free:
            self.auxiliary = find_auxiliary(experiment, store)
        self.start: StartClasses | None = None
        if self.system.start_fit is not None:
            self.start = find_start(experiment, store)
        self._kept: list[Any] | None = None

    def _check_clips(self) -> None:
        store, name = self.store, self.experiment.data.split
        self.split.check_clips(store.ids, store.class_names, store.parts_of(name))
        used = modalities(self.experiment)
        for missing in set(MODALITIES) - set(store.spec.modalities):
            if self.system.needs_both:
                raise TCAFError(
                    f"system {self.system.name!r} learns from sound beside picture, and store "
                    f"{store.path} has no {missing} features; train another one, such as textlda"
                )
            if missing in used and reads_setting(self.system, "model.modalities"):
                raise TCAFError(
                    f"store {store.path} has no {missing} features; set model.modalities to "
                    f"{' '.join(store.spec.modalities)!r}"
                )
        for part in NAMED_PARTS:
            rows = store.rows(name, part)
            if not len(rows):
                raise TCAFError(
                    f"split {name!r} of store {store.path} has no clips in {part}; the two-stage "
                    "protocol needs all of " + ", ".join(NAMED_PARTS)
                )
            empty = rows[sum(store.lens(m)[rows] for m in used) == 0]
            if len(empty):
                raise TCAFError(
                    f"clip {store.ids[empty[0]]!r} and {len(empty) - 1} more in {part} have no "
                    f"{used[0]} token; use model.modalities 'both' or leave them out"
                )

    def class_text(self, classes: ClassSet) -> ClassText:
        """Returns the text embeddings of classes in their order.

        Raises:
            TCAFError: a class has none.
        """
        return ClassText.of(self.text, classes.names)

    def evaluation_part(self, part: str, classes: ClassSet) -> EvaluationPart:
        """Returns the clips of a part with their candidate classes."""
        rows = self.store.rows(self.experiment.data.split, part)
        return EvaluationPart(self.store, rows, classes, self.class_text(classes), self.clips)

    def new_stage(self, number: int) -> Stage:
        """Returns a stage with its initial weights, which follow from seed and number alone."""
        part, classes = (
            ("stage_1_train", self.split.stage_1),
            ("stage_2_train", self.split.stage_2),
        )[number - 1]
        seen = ClassSet.of(classes.seen)
        rows = self.store.rows(self.experiment.data.split, part)
        labels = seen.ids(self.store.class_names[rows].tolist())
        if self.experiment.data.clips_per_class is not None:
            draw = generator(self.experiment.seed, "clips_per_class", f"stage_{number}")
            few = few_of_each(labels, self.experiment.data.clips_per_class, draw)
            rows, labels = rows[few], labels[few]
        text = self.class_text(seen).only(self.system.spaces)
        config = configure(
            self.experiment,
            audio_dim=self.store.spec.audio_dim,
            visual_dim=self.store.spec.visual_dim,
            text_dim=text.dims,
        )
        with seeded(self.experiment.seed, "init", f"stage_{number}"):
            model = self.system.model(config)
        if not isinstance(model, nn.Module) or not isinstance(model, ZeroShotModel):
            raise TCAFError(
                f"system {self.experiment.system!r}: expected a torch module with config, "
                f"modalities, embed_text and scores, got {type(model).__name__} without all of them"
            )
        model = model.to(self.device)
        windows = self.system.windows(self.experiment, training=True)
        further = None
        if self.auxiliary is not None:
            size = self.experiment.evaluation.batch_size
            further = self.auxiliary.part(windows, self.device, size)
        known = None if self.start is None else self.start.part(self.device)
        own = TrainingPart(
            self.clips, rows, labels, text.to(self.device), windows, self.device, further, known
        )
        return self.system.stage(model, own, self.experiment, number)

    def anchor(self, model: nn.Module) -> float | None:
        """Returns the scale of raw distances by the validation clips; None without anchors."""
        if not self.anchored:
            return None
        trial = self.answering(model, 1.0)
        return equal_means(
            trial,
            self.validation,
            self.windows,
            batch_size=self.experiment.evaluation.batch_size,
            device=self.device,
            kept=self._validation_clips(trial),
        )

    def answering(self, model: nn.Module, scale: float | None) -> Any:
        """Returns what gives a model's distances: itself, or with anchors of a scale."""
        if scale is None:
            return model
        return Anchored(
            model, self.system.spaces, scale, self.class_text(self.split.stage_2).dims
        ).to(self.device)

    def evaluate(
        self,
        model: Any,
        part: EvaluationPart,
        gamma: float | None,
        temperature: float | None = None,
    ) -> GZSLResult:
        """Evaluates weights on a part; gamma None searches the grid."""
        assert isinstance(model, ZeroShotModel), "`new_stage` refuses others"
        return evaluate_part(
            model,
            part,
            self.windows,
            gamma=gamma,
            gammas=self.experiment.evaluation.gammas,
            batch_size=self.experiment.evaluation.batch_size,
            device=self.device,
            kept=self._validation_clips(model) if part is self.validation else None,
            temperature=temperature,
        )

    def _validation_clips(self, model: Any) -> list[Any] | None:
        """Returns what a model needs of the validation clips, read once for all choices."""
        if self.system.objective is not None or not isinstance(model, Reduces):
            return None
        if self._kept is None:
            assert isinstance(model, ZeroShotModel), "`new_stage` refuses others"
            size = self.experiment.evaluation.batch_size
            clips = read_part(
                model, self.validation, self.windows, batch_size=size, device=self.device
            )
            self._kept = list(clips)
        return self._kept

    def trust(self, model: Any, gamma: float) -> Trust:
        """Returns the temperature that fits the validation clips, and what follows from it."""
        assert isinstance(model, ZeroShotModel), "`new_stage` refuses others"
        part = self.validation
        found = distances(
            model,
            part,
            self.windows,
            batch_size=self.experiment.evaluation.batch_size,
            device=self.device,
            kept=self._validation_clips(model),
        )
        labels, seen = part.labels, part.classes.seen_ids
        temperature = fit_temperature(found, labels, seen=seen, gamma=gamma)
        chances = probabilities(found, seen=seen, gamma=gamma, temperature=temperature)
        decided = decide(found, labels, seen=seen, unseen=part.classes.unseen_ids)
        right = decided.predicted(gamma) == decided.labels
        return Trust(
            temperature,
            reliability(chances.amax(dim=1).numpy(), right, decided.labels),
            conformity(found, labels, seen=seen, temperature=temperature),
        )

    def together(self, model: nn.Module) -> TogetherChoice | None:
        """Returns what stage 1's chosen weights choose for clips together, if they can be.

        Read anew: what is kept of the validation clips is that of another choice.
        """
        if self.anchored or not isinstance(model, Together):
            return None
        size = self.experiment.evaluation.batch_size
        part = PartTogether(
            model.to(self.device),
            self.validation,
            self.windows,
            batch_size=size,
            device=self.device,
        )
        return part.choose()

    def learning_rate(self, stage: Stage, records: tuple[EpochRecord, ...], epoch: int) -> float:
        """Returns the learning rate of a stage's epoch, from the records before it."""
        if stage.number == 2 and self.experiment.fidelity.stage_2_schedule == "replay":
            return records[epoch - 1].learning_rate
        own = [record.validation for record in records if record.stage == stage.number]
        scores = [float(validation["harmonic_mean"]) for validation in own if validation]
        return stage.learning_rate(epoch, scores)

    def run(
        self, progress: Progress | None = None, observer: Observer | None = None
    ) -> Iterator[EpochDone | Finished]:
        """Runs both stages, or what is left of them, and tests once.

        Args:
            progress: of an interrupted run; None starts from the beginning.
            observer: who watches.

        Yields:
            `EpochDone` after each epoch, `Finished` at the end; that only on the first of several
            ranks, which alone validates and tests.
        """
        progress, observer = progress or Progress(), observer or Silence()
        epochs = range(1, 1 + self.system.stage_1_epochs(self.experiment))
        if len(progress.of_stage(1)) < len(epochs):
            _, progress = yield from self._run_stage(1, epochs, progress, observer)
        choice = choose(progress.of_stage(1))
        epochs = self.system.stage_2_epochs(self.experiment, choice.epoch)
        stage, progress = yield from self._run_stage(2, epochs, progress, observer)
        if ranks.current().index:
            return
        test = self.evaluation_part("test", self.split.stage_2)
        model = self.answering(stage.model, choice.anchor)
        result = self.evaluate(model, test, choice.gamma, choice.temperature)
        yield Finished(stage.model, choice, result)

    def _run_stage(
        self, number: int, epochs: range, progress: Progress, observer: Observer
    ) -> Generator[EpochDone, None, tuple[Stage, Progress]]:
        """Runs what is left of one stage; returns it with the progress after it."""
        stage = self.new_stage(number)
        done = max((record.epoch for record in progress.of_stage(number)), default=epochs[0] - 1)
        if progress.of_stage(number):
            stage.load_state(progress.tensors, done)
        # Of a closed form stage 2 is the chosen epoch alone: none before it was run.
        observer.stage_started(number, epochs[-1], done if progress.of_stage(number) else 0)
        trusts: list[Trust] = []

        def validate() -> dict[str, float | bool]:
            scale = self.anchor(stage.model)
            model = self.answering(stage.model, scale)
            result = self.evaluate(model, self.validation, None)
            scores = result.scores()
            if scale is not None:
                scores[ANCHOR] = scale
            before = progress.of_stage(1)
            # Of an epoch that is not chosen nobody asks for probabilities.
            if number == 1 and all(result.harmonic_mean > validation_mean(r) for r in before):
                trusts.append(self.trust(model, result.gamma))
                scores["temperature"] = trusts[-1].temperature
            return scores

        watches = number == 1 or self.experiment.fidelity.stage_2_schedule == "validation"
        watches = watches and not ranks.current().index
        for epoch in range(done + 1, epochs[-1] + 1):
            rate = self.learning_rate(stage, progress.records, epoch)
            record = timed_epoch(stage, epoch, rate, observer, validate if watches else None)
            trust = trusts.pop() if trusts else None
            if trust is not None:
                record = replace(record, reliability=trust.reliability)
            record = ranks.from_first(record)
            progress = Progress((*progress.records, record), stage.state())
            observer.epoch_done(record)
            is_best = number == 1 and choose(progress.of_stage(1)).epoch == epoch
            conforming = trust.conformity if trust is not None else None
            yield EpochDone(record, progress, stage.model if is_best else None, conforming)
        return stage, progress
