"""Several models that answer together: their calibrated probabilities, mixed.

Owns mixtures, and the one way from the names that people give to what answers: `imagenet`, a run's
folder, `imagenet+audioset`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int

from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.interface import Classifier, Surroundings
from tcaf.answers.ranking import Scores
from tcaf.answers.ready import READY
from tcaf.data.batches import Clips
from tcaf.data.features import MODALITIES, FeatureSpec, Modality
from tcaf.errors import TCAFError
from tcaf.text.words import foldings


def open_classifier(
    model: str | Path,
    plugin: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    audio_weights: str | Path | None = None,
    visual_weights: str | Path | None = None,
) -> Classifier:
    """Opens what answers for clips.

    Args:
        model: folder of a run, a model file, the name of a ready model, or several of these with
            `+` between them.
        plugin: see `ZeroShotClassifier.load`.
        device: see there.
        audio_weights: see there; of a mixture for the model that reads sound.
        visual_weights: the same for the one that reads pictures.

    Raises:
        TCAFError: see there and `Mixture`.
    """
    given: tuple[Any, ...] = (plugin, device, audio_weights, visual_weights)
    name = str(model)
    _, _, after = name.partition(":")
    # A folder may be called so, and one that is named behind `hf:`.
    if "+" not in name or name in READY or any(Path(n).exists() for n in (name, after) if n):
        return ZeroShotClassifier.load(model, *given)
    names = [part.strip() for part in name.split("+")]
    if "" in names:
        raise TCAFError(f"expected models with + between them, such as A+B, got {name!r}")
    return Mixture({each: ZeroShotClassifier.load(each, *given) for each in dict.fromkeys(names)})


class Mixture(Classifier):
    """Several models that answer together.

    A candidate's probability is the mean of those that the models give it, each over all candidates
    and with its own gamma and temperature. A model that has nothing of a clip to go by, as one that
    hears where there is no sound, is left out for it. A candidate counts as seen if a model was
    trained on it.

    Args:
        members: the models, by what people call them.

    Raises:
        TCAFError: fewer than two models, one without probabilities, or two that read the same
            modality by different backbones.
    """

    def __init__(self, members: Mapping[str, ZeroShotClassifier]) -> None:
        if len(members) < 2:
            raise TCAFError(f"a mixture needs two different models, got {', '.join(members)}")
        for name, member in members.items():
            if member.temperature is None:
                raise TCAFError(
                    f"{name} gives no probabilities, which a mixture is made of; runs that are "
                    "trained with this release do"
                )
        self.members = dict(members)
        self.title = "+".join(members)
        self.notes = tuple(dict.fromkeys(note for m in members.values() for note in m.notes))
        self.spec, self.modalities = _joined(members)
        first = next(iter(members.values()))
        self.split = first.split
        self.weights = first.weights
        self._classes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The candidates: those of all models, until others are set.

        They are set when they are first asked for: each model embeds those of the others.
        """
        if not self._classes:
            names: list[str] = []
            taken: set[str] = set()
            for name in (name for member in self.members.values() for name in member.classes):
                # Of `Cat`, `cat` and `a_cat`, `a cat` the first model's stands for both.
                if not taken & foldings(name):
                    names.append(name)
                    taken |= foldings(name)
            self.set_classes(names)
        return self._classes

    @property
    def seen_columns(self) -> list[int]:
        """Columns of the candidates that a model was trained on."""
        _ = self.classes  # sets them, where nobody has
        return sorted({c for member in self.members.values() for c in member.seen_columns})

    def set_classes(
        self, names: Sequence[str], phrases: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Sets the candidate classes of all models: see `Classifier.set_classes`."""
        for member in self.members.values():
            member.set_classes(names, phrases)
        self._classes = next(iter(self.members.values())).classes

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the classes that a model knows, sorted."""
        return tuple(sorted({name for member in self.members.values() for name in member.known}))

    @property
    def tells_apart(self) -> bool:
        """Whether sound and picture can be told apart: by models of one each, or of both."""
        return set(self.modalities) == set(MODALITIES) and all(
            member.tells_apart or len(member.modalities) == 1 for member in self.members.values()
        )

    @property
    def window_s(self) -> float | None:
        """Longest stretch that all models look at, in seconds; None: all of a clip."""
        given = [m.window_s for m in self.members.values() if m.window_s is not None]
        return min(given, default=None)

    @property
    def vouches_for_sets(self) -> bool:
        """Whether sets of names follow from validation clips: not of a mixture."""
        return False

    def calibration(self, together: int | None = None) -> tuple[float, float | None]:
        """Returns gamma 0 and temperature 1: those of the models are in the probabilities.

        Raises:
            TCAFError: clips are to be answered together.
        """
        if together is not None:
            raise TCAFError(
                f"{self.title} answers each clip by itself; a single model such as a run of "
                "textlda can answer clips together"
            )
        return 0.0, 1.0

    def check_features(self, spec: FeatureSpec, where: str) -> None:
        """Checks that features are of the kinds that are read: see `Classifier.check_features`."""
        for member in self.members.values():
            member.check_features(spec, where)

    def check_sets(self, allowed: float) -> None:
        """Refuses sets of names: they follow from clips that all models were validated on.

        Raises:
            TCAFError: always.
        """
        raise TCAFError(
            f"{self.title} is a mixture, for which no validation clips say how far a set of names "
            "holds; ask a run"
        )

    def scores(
        self,
        clips: Clips,
        rows: Int[np.ndarray, " clips"],
        seen_bias: float = 0.0,
        *,
        together: bool = False,
        only: Modality | None = None,
    ) -> Scores:
        """Scores the candidates for clips: see `Classifier.scores`."""
        assert not together, "`calibration` refuses it"
        total = torch.zeros(len(rows), len(self.classes), dtype=torch.float64)
        models = torch.zeros(len(rows), 1, dtype=torch.float64)
        for member, there in self._there(clips, rows, only):
            found = member.scores(clips, rows[there.numpy()], seen_bias, only=only).probabilities
            assert found is not None, "models without are refused"
            total[there] += found
            models[there] += 1
        chances = total / models
        tiny = torch.finfo(torch.float64).tiny
        distances = -chances.clamp_min(tiny).log()
        return Scores(distances, distances, chances)

    def surroundings(
        self,
        clips: Clips,
        rows: Int[np.ndarray, " clips"],
        scores: Scores,
        allowed: float | None,
    ) -> Surroundings:
        """Returns the training classes around clips, those of one model after those of another."""
        assert allowed is None, "`check_sets` refuses sets"
        near: list[tuple] = [()] * len(rows)
        for member, there in self._there(clips, rows, None):
            places = there.nonzero()[:, 0].tolist()
            part = Scores(scores.distances[there], scores.added[there], None)
            found = member.surroundings(clips, rows[there.numpy()], part, None)
            for place, own in zip(places, found.nearest, strict=True):
                near[place] += own
        return Surroundings(near, None)

    def _there(
        self, clips: Clips, rows: Int[np.ndarray, " clips"], only: Modality | None
    ) -> list[tuple[ZeroShotClassifier, Any]]:
        """Returns the models that have something to go by, and for which of the clips."""
        found = []
        for member in self.members.values():
            read = [m for m in member.modalities if only in (None, m)]
            if read:
                there = np.any([clips.lens(modality)[rows] > 0 for modality in read], axis=0)
                found.append((member, torch.from_numpy(there)))
        return found


def _joined(
    members: Mapping[str, ZeroShotClassifier],
) -> tuple[FeatureSpec, tuple[Modality, ...]]:
    """Returns what all models read, together.

    Raises:
        TCAFError: two read the same modality by different backbones.
    """
    owner: dict[Modality, str] = {}
    spec = next(iter(members.values())).spec
    for name, member in members.items():
        for modality in member.modalities:
            other = owner.setdefault(modality, name)
            wanted, got = (members[n].spec.backbone(modality) for n in (other, name))
            if wanted != got:
                raise TCAFError(
                    f"{other} and {name} both read {modality} features, {other} those of "
                    f"{wanted!r} and {name} those of {got!r}; a mixture needs one backbone for "
                    "each of sound and picture"
                )
            given: dict[str, Any] = {
                f"{modality}_{what}": getattr(member.spec, f"{modality}_{what}")
                for what in ("dim", "step_s", "backbone")
            }
            spec = replace(spec, **given)
    return spec, tuple(m for m in MODALITIES if m in owner)
