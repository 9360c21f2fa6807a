"""Scores of a trained run on clips of a store.

Owns what `tcaf evaluate` does, for whoever asks: a command, a page, a notebook.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tcaf.data.classes import ClassSet
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.evaluation.conformal import NOT_TOGETHER, Coverage, answer_sets, coverage, strangeness
from tcaf.evaluation.gzsl import GZSLResult
from tcaf.evaluation.parts import EvaluationPart, distances, evaluate_part
from tcaf.evaluation.together import PartTogether
from tcaf.execution.devices import pick_device
from tcaf.files.remote import local_path
from tcaf.settings.sections import Device
from tcaf.systems.registry import find_system
from tcaf.training.model_file import load_model
from tcaf.training.run import result_json, without_nan


@dataclass(frozen=True)
class RunEvaluation:
    """Scores of a run on one part of a store.

    Args:
        part: which clips: `test` or `val`.
        clips: how many there are.
        classes: the candidates, with their seen/unseen partition.
        result: the scores.
        together: whether clips were answered together: the scores are transductive.
        sets: how sets of answers fared, where they were asked for.
    """

    part: str
    clips: int
    classes: ClassSet
    result: GZSLResult
    together: bool = False
    sets: Coverage | None = None

    def per_class(self) -> dict[str, dict[str, Any]]:
        """Returns, for each class that has clips, whether it is seen, its clips and accuracy."""
        counts = self.result.confusion.sum(axis=1)
        rows = zip(self.classes.names, counts, self.result.per_class_accuracy, strict=True)
        return {
            name: {
                "seen": name in self.classes.seen,
                "clips": int(count),
                "accuracy": float(accuracy),
            }
            for name, count, accuracy in rows
            if count
        }

    def to_json(self) -> dict[str, Any]:
        """Returns part, clips and scores as JSON values."""
        value = {"part": self.part, "clips": self.clips, **result_json(self.result)}
        if self.together:
            value["curve_area"] = None  # at another gamma classes would have moved elsewhere
        if self.sets is not None:
            value["sets"] = without_nan(asdict(self.sets))
        return value | {"transductive": self.together}


def evaluate_run(
    run: str | Path,
    store: str | Path | FeatureStore,
    *,
    part: Literal["test", "val"] = "test",
    gamma: float | None = None,
    search_gamma: bool = False,
    abstain: float | None = None,
    together: bool = False,
    device: Device = "auto",
) -> RunEvaluation:
    """Evaluates a trained model on clips of a store.

    The part `test` takes the final weights, `val` those of stage 1's best epoch, which has not
    seen these clips. Gamma is the one chosen on validation unless another is given.

    Args:
        run: folder of a run, or a model file.
        store: a feature store with the same features, or its folder.
        part: which clips.
        gamma: what to add to the distance of seen classes.
        search_gamma: take the gamma with the best harmonic mean on these very clips; on test clips
            that is an upper bound, not a result.
        abstain: also make sets that may leave out the true class of this share of the clips, and
            count how often they do; not of clips together.
        together: answer all clips together, with the gamma that validation chose for that
            (`evaluation.together`); such scores are transductive, a table of their own.
        device: where to compute.

    Raises:
        TCAFError: no such run or store, a damaged one, features of another kind, no gamma,
            a model that was trained on the clips asked for, or one that cannot answer clips
            together; or see `TrainedModel.thresholds`.
    """
    if gamma is not None and search_gamma:
        raise TCAFError("--gamma and --search_gamma exclude each other; give one of them")
    if together and abstain is not None:
        raise TCAFError(NOT_TOGETHER)
    path = local_path(run)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    opened.verify_once()
    if part == "val" and path.is_dir():
        path = path / "stage_1.safetensors"
    trained = load_model(path)
    trained.check_features(opened.spec, f"store {opened.path}")
    experiment = trained.settings
    split = opened.split(experiment.data.split)
    if part == "val" and trained.classes.seen & set(split.val_unseen):
        raise TCAFError(
            f"{run} was trained on the validation clips; give the run's folder, or its "
            "stage_1.safetensors, for --part val"
        )
    rows = opened.rows(experiment.data.split, part)
    kept = trained.for_together(len(rows), str(run))[0] if together else trained.gamma
    gamma = kept if gamma is None else gamma
    if gamma is None and not search_gamma:
        raise TCAFError(f"{run} holds no gamma; give --gamma, or --search_gamma to look for one")
    thresholds = None if abstain is None else trained.thresholds(abstain)
    place = pick_device(device)
    model = trained.answering.to(place)
    clips = EvaluationPart(opened, rows, trained.classes, trained.class_text)
    windows = find_system(trained.system).windows(experiment, training=False)
    batch_size = experiment.evaluation.batch_size
    if together:
        batch = PartTogether(model, clips, windows, batch_size=batch_size, device=place)
        result = batch.search() if gamma is None or search_gamma else batch.evaluate(gamma)
    else:
        result = evaluate_part(
            model,
            clips,
            windows,
            gamma=None if search_gamma else gamma,
            gammas=experiment.evaluation.gammas,
            batch_size=batch_size,
            device=place,
            temperature=trained.temperature,
        )
    sets = None
    if abstain is not None and thresholds is not None:
        assert trained.temperature is not None, "`thresholds` refuses models without"
        found = distances(model, clips, windows, batch_size=batch_size, device=place)
        seen = trained.classes.seen_ids
        strange = strangeness(found, found[:, seen], trained.temperature)
        sets = coverage(answer_sets(strange, seen, thresholds), clips.labels, seen, abstain)
    return RunEvaluation(part, len(rows), trained.classes, result, together, sets)
