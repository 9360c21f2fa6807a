"""The model file: weights, and everything needed to predict with them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, from_numpy

from tcaf.data.classes import ClassSet
from tcaf.data.features import FeatureSpec
from tcaf.data.shards import SpecContent
from tcaf.errors import TCAFError, one_line
from tcaf.evaluation.conformal import HALVES, Conformity
from tcaf.evaluation.together import TogetherChoice
from tcaf.files.atomic import check_content, parse_json
from tcaf.files.remote import local_path
from tcaf.files.sealed import read_sealed, write_sealed
from tcaf.settings.experiment import Experiment
from tcaf.systems.anchored import Anchored
from tcaf.systems.interface import FEATURE_SPACES, ReadsTime, Together
from tcaf.systems.registry import SYSTEMS, find_system
from tcaf.text.spaces import ClassText, in_space
from tcaf.training.numbers import check_numbers

MODEL_FORMAT = "tcaf-model"
VERSION = 2


class TogetherContent(BaseModel):
    """What the header holds for clips that are answered together."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

    gamma: float
    temperature: float
    validation: dict[str, float | bool]
    clips: int = Field(ge=1)


class HeaderContent(BaseModel):
    """What the header of a model file is checked against."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    system: str
    config: dict[str, Any]
    spec: SpecContent
    classes: list[str]
    seen: list[str]
    gamma: float | None
    experiment: dict[str, Any] | None
    anchor: float | None = None
    together: TogetherContent | None = None


@dataclass(frozen=True)
class TrainedModel:
    """A model with everything needed to predict.

    Args:
        system: name of what the model is (`tcaf.systems.registry`).
        model: the network, in evaluation mode.
        spec: of the features that it was trained on.
        classes: the stage's classes; `seen` are those it was trained on.
        class_text: text embeddings of these classes, in their order.
        gamma: of calibrated stacking, chosen on validation; None for imported weights.
        experiment: the settings of the run; None for imported weights.
        temperature: of probabilities (`gzsl.probabilities`), fitted on validation clips with the
            weights of stage 1; None for imported weights and models of older releases.
        conformity: what the thresholds of sets follow from, of the same clips and weights; None
            likewise.
        together: gamma and temperature of clips that are answered together; None for systems that
            cannot, and models of older releases.
        anchor: scale of raw distances (`systems.anchored`); None where distances are not anchored.
    """

    system: str
    model: Any
    spec: FeatureSpec
    classes: ClassSet
    class_text: ClassText
    gamma: float | None
    experiment: Experiment | None
    temperature: float | None = None
    conformity: Conformity | None = None
    together: TogetherChoice | None = None
    anchor: float | None = None

    @property
    def answering(self) -> Any:
        """What gives distances: the model, or the model with anchors."""
        if self.anchor is None:
            return self.model
        spaces = find_system(self.system).spaces
        return Anchored(self.model, spaces, self.anchor, self.class_text.dims)

    @property
    def own_text(self) -> ClassText:
        """The class text that the model itself reads."""
        return self.class_text.only(find_system(self.system).spaces)

    @property
    def settings(self) -> Experiment:
        """The settings of the run.

        Raises:
            TCAFError: the model holds none.
        """
        if self.experiment is None:
            raise TCAFError("the model was saved without its settings, which say how to cut clips")
        return self.experiment

    def thresholds(self, allowed: float) -> tuple[float, float]:
        """Returns what sets of answers go by (`Conformity.thresholds`).

        Raises:
            TCAFError: see there, or the model holds nothing that they could follow from.
        """
        if self.conformity is None or self.temperature is None:
            raise TCAFError(
                "the model holds no scores of validation clips, which sets of answers need; train "
                "again with this release"
            )
        return self.conformity.thresholds(allowed)

    def for_together(self, clips: int, where: str = "the model") -> tuple[float, float]:
        """Returns gamma and temperature of clips that are answered together.

        Args:
            clips: how many they are.
            where: what holds the model, for messages.

        Raises:
            TCAFError: the system cannot answer so, or the model is of an older release.
        """
        if self.anchor is not None:
            raise TCAFError(
                f"{where} has anchored distances, and clips are not answered together by these"
            )
        if not isinstance(self.model, Together):
            raise TCAFError(
                f"the system {self.system!r} answers each clip by itself and has no way to answer "
                "clips together, as textlda has"
            )
        if self.together is None:
            raise TCAFError(
                f"{where} holds no gamma for clips together: it was not validated on any, or is a "
                "run of an older release, to be trained again"
            )
        chosen = self.together
        alone = chosen.gamma if self.gamma is None else self.gamma
        one = chosen.temperature if self.temperature is None else self.temperature
        return chosen.at(clips, alone, chosen.gamma), chosen.at(clips, one, chosen.temperature)

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
            # One token may stand for the whole clip, or seconds per token differ.
            matters = self._reads_many if None in steps else self._reads_seconds
            if steps[0] != steps[1] and matters:
                told = [
                    "one token a clip" if s is None else f"a token every {s:g} s" for s in steps
                ]
                raise TCAFError(
                    f"the model was trained on {modality} features of {told[0]}, {where} holds "
                    f"{told[1]}"
                )

    @property
    def _reads_seconds(self) -> bool:
        """Whether seconds per token matter to the model."""
        own = isinstance(self.model, ReadsTime)
        return self.model.reads_seconds if own else self._reads_sequences

    @property
    def _reads_many(self) -> bool:
        """Whether it matters to the model if a clip is one token or many."""
        own = isinstance(self.model, ReadsTime)
        return self.model.reads_many if own else self._reads_sequences

    @property
    def _reads_sequences(self) -> bool:
        """Whether the system sees more of a clip than its mean."""
        experiment = self.experiment
        return experiment is None or find_system(self.system).reads_time(experiment)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Any) -> None:
    """Writes tensors with a JSON header into one safetensors file, whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_sealed(path, safetensors.torch.save(contiguous, {"header": json.dumps(header)}))


def load_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], Any]:
    """Reads what `save_tensors` wrote.

    Raises:
        TCAFError: the file is missing, damaged, or something else.
    """
    if not path.is_file():
        raise TCAFError(f"expected {what} at {path}, found nothing")
    try:
        header, data = read_sealed(path, "header")
        # They come in any order.
        return dict(sorted(safetensors.torch.load(data).items())), parse_json(header)
    except (safetensors.SafetensorError, KeyError, OSError, TypeError, ValueError) as error:
        raise TCAFError(
            f"expected {what} at {path}, found a damaged file ({error}); copy it again, or train "
            "again"
        ) from None


def save_model(path: Path, trained: TrainedModel, *, compact: bool = False) -> None:
    """Writes a model and all that is needed to predict with it into one file.

    Args:
        path: of the file.
        trained: the model.
        compact: write matrices in float16, which is half as large; they are read back in the type
            that they had, with three digits.

    Raises:
        TCAFError: compact, and a number is beyond float16.
    """
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
        "anchor": trained.anchor,
        "together": asdict(trained.together) if trained.together else None,
        "experiment": trained.experiment.to_json() if trained.experiment else None,
    }
    weights = {f"model.{name}": value for name, value in trained.model.state_dict().items()}
    text = {in_space("text_embedding", space): t for space, t in trained.class_text.items()}
    if compact:
        weights, text = ({n: _halved(n, t) for n, t in each.items()} for each in (weights, text))
    kept = trained.conformity
    scores = {f"conformity.{h}": from_numpy(getattr(kept, h)) for h in HALVES} if kept else {}
    save_tensors(path, {**weights, **text, **scores}, header)


def _halved(name: str, tensor: Tensor) -> Tensor:
    """Returns a matrix in float16; vectors and numbers, among them counts, as they are."""
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    found = tensor.half()
    if not bool(found.isfinite().all()):
        peak = float(tensor.abs().max())
        raise TCAFError(f"a compact model holds numbers up to 65504; {name} has {peak:g}")
    return found


def load_model(path: str | Path) -> TrainedModel:
    """Reads a model from a run directory or a model file, or from the address of one.

    Raises:
        TCAFError: nothing there or what cannot be fetched, a damaged file, one of another version,
            or one with numbers that cannot be.
    """
    path = local_path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    tensors, header = load_tensors(path, "a trained model")
    if not isinstance(header, dict) or header.get("format") != MODEL_FORMAT:
        raise TCAFError(f"{path} is no trained model; a run keeps it in model.safetensors")
    if header.get("version") != VERSION:
        raise TCAFError(
            f"model {path} has format version {header.get('version')}, this tcaf reads {VERSION}"
        )
    try:
        check_content(header, HeaderContent)
    except ValueError as error:
        raise TCAFError(f"model {path} is damaged: {error}") from None
    if header["system"] not in SYSTEMS:
        raise TCAFError(
            f"model {path} is of the system {header['system']!r}, which is not known here; name "
            "the file that registers it with --plugin"
        )
    together = header.get("together")
    names = ("gamma", "temperature", "anchor")
    numbers = {name: header.get(name) for name in names}
    check_numbers({**numbers, "together": together}, f"model {path}")
    system = find_system(header["system"])
    prefix = "model."
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    try:
        model = system.model(system.config(**header["config"]))
        model.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        told = one_line(str(error))
        raise TCAFError(f"model {path} does not fit the system {system.name!r}: {told}") from None
    model.eval()
    anchors = () if header.get("anchor") is None else FEATURE_SPACES
    spaces = dict.fromkeys([*system.spaces, *anchors])
    keys = {space: in_space("text_embedding", space) for space in spaces}
    if missing := [space for space, key in keys.items() if key not in tensors]:
        raise TCAFError(
            f"model {path} holds no class text in the space {missing[0]!r}, which the system "
            f"{system.name!r} reads"
        )
    for key in keys.values():
        shape = tuple(tensors[key].shape)
        if len(shape) != 2 or shape[0] != len(header["classes"]):
            raise TCAFError(
                f"model {path} is damaged: {len(header['classes'])} classes with text of shape "
                f"{shape}"
            )
    stored = header["experiment"]
    return TrainedModel(
        system=system.name,
        model=model,
        spec=FeatureSpec(**header["spec"]),
        classes=ClassSet(tuple(header["classes"]), frozenset(header["seen"])),
        class_text=ClassText({space: tensors[key].float() for space, key in keys.items()}),
        gamma=_real(header["gamma"]),
        experiment=Experiment.from_json(stored) if stored else None,
        temperature=_real(header.get("temperature")),
        conformity=_conformity(tensors, path),
        together=_together(together) if together else None,
        anchor=_real(header.get("anchor")),
    )


def _together(value: Mapping[str, Any]) -> TogetherChoice:
    numbers = {name: float(value[name]) for name in ("gamma", "temperature")}
    return TogetherChoice(**{**value, **numbers})


def _real(value: Any) -> float | None:
    """Returns a number of JSON, where whole ones are integers of any size, as the real it is."""
    return None if value is None else float(value)


def _conformity(tensors: Mapping[str, Tensor], path: Path) -> Conformity | None:
    found = {h: tensors[f"conformity.{h}"] for h in HALVES if f"conformity.{h}" in tensors}
    if not found:
        return None
    scores = {half: tensor.double().numpy() for half, tensor in found.items()}
    if len(scores) < len(HALVES) or not all(
        one.ndim == 1 and len(one) and np.isfinite(one).all() and (np.diff(one) >= 0).all()
        for one in scores.values()
    ):
        raise TCAFError(
            f"model {path} is damaged: expected scores of validation clips of both halves, finite "
            "and ascending"
        )
    return Conformity(**scores)
