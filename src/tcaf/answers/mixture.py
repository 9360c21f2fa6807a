"""Several models that answer together: their calibrated probabilities, mixed.

Owns mixtures, and the one way from the names that people give to what answers: `imagenet`, a run's
folder, `imagenet+audioset`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.files import FileBackbones
from tcaf.answers.interface import Classifier, Clip, Surroundings
from tcaf.answers.ranking import Scores
from tcaf.answers.ready import READY
from tcaf.answers.several_backbones import (
    Group,
    LoadedGroups,
    SeveralBackbones,
    SeveralFeatures,
    grouped,
)
from tcaf.data.batches import Clips
from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.settings.sections import Device
from tcaf.text.words import foldings


def open_classifier(
    model: str | Path,
    plugin: str | Path | None = None,
    device: Device = "auto",
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

    Models that read the same modality by different backbones do so side by side: each file is read
    for each of the `groups` of backbones that go together. A store has the features of one such
    group alone, so that a mixture of several answers files.

    Args:
        members: the models, by what people call them.

    Raises:
        TCAFError: fewer than two models, one without probabilities, or weights given for one of
            several backbones of a modality.
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
        self.groups = grouped({name: (m.spec, m.modalities) for name, m in members.items()})
        self.spec = self.groups[0].spec
        self.modalities = tuple(
            m for m in MODALITIES if any(m in group.modalities for group in self.groups)
        )
        first = next(iter(members.values()))
        self.split = first.split
        self.weights = first.weights
        self.extracts_on = first.extracts_on
        self._check_weights()
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

    def _apart_from_classes(self) -> "Mixture":
        """Returns a copy whose members have candidates of their own."""
        other = copy.copy(self)
        other.members = {name: copy.copy(member) for name, member in self.members.items()}
        return other

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
        """Checks that features are of the kinds that are read: see `Classifier.check_features`.

        Raises:
            TCAFError: see there, or no features of one kind would do.
        """
        if len(self.groups) > 1:
            raise TCAFError(
                f"{where} has features by one backbone for each of sound and picture, but "
                f"{self._differing()}; give files"
            )
        for member in self.members.values():
            member.check_features(spec, where)

    @cached_property
    def backbones(self) -> FileBackbones:
        """What makes features of files: see `Classifier.backbones`."""
        made = [
            FileBackbones(g.spec, g.modalities, self._weights_of(g), self.extracts_on)
            for g in self.groups
        ]
        for group, each in zip(self.groups, made, strict=True):
            for name in group.members:
                self.members[name].check_features(each.opened_spec, "the extractor")
        first, *others = made
        if not others:
            return first
        return SeveralBackbones(
            first.spec, first.modalities, first.weights, first.device, tuple(others)
        )

    def features(self, clip: Clip) -> VideoFeatures:
        """Returns the features of a clip as they are read: see `Classifier.features`."""
        if len(self.groups) == 1:
            return super().features(clip)
        if not isinstance(clip, VideoFeatures):
            clip = self.backbones.extract(Path(clip), str(clip))
        if not isinstance(clip, SeveralFeatures):
            raise TCAFError(
                f"clip {clip.id!r} has features by one backbone for each of sound and picture, but "
                f"{self._differing()}; give a file"
            )
        return clip

    def loaded(self, videos: Sequence[VideoFeatures]) -> Clips:
        """Returns clips as `scores` reads them: see `Classifier.loaded`."""
        several = [video for video in videos if isinstance(video, SeveralFeatures)]
        if len(self.groups) == 1 or len(several) < len(videos):
            return super().loaded(videos)
        return LoadedGroups(several, [group.spec for group in self.groups])

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
        for share in self._shares(clips, rows, only):
            found = share.member.scores(share.clips, share.rows, seen_bias, only=only).probabilities
            assert found is not None, "models without are refused"
            total[share.there] += found
            models[share.there] += 1
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
        for share in self._shares(clips, rows, None):
            places = share.there.nonzero()[:, 0].tolist()
            part = Scores(scores.distances[share.there], scores.added[share.there], None)
            found = share.member.surroundings(share.clips, share.rows, part, None)
            for place, own in zip(places, found.nearest, strict=True):
                near[place] += own
        return Surroundings(near, None)

    def _shares(
        self, clips: Clips, rows: Int[np.ndarray, " clips"], only: Modality | None
    ) -> list["_Share"]:
        """Returns the models that have something to go by, and of which clips."""
        found = []
        for number, group in enumerate(self.groups):
            of_group, own = clips, rows
            has_any = np.ones(len(rows), bool)
            if isinstance(clips, LoadedGroups):
                of_group, places = clips.of_group(number)
                own = places[rows]
                has_any = own >= 0
            for member in (self.members[name] for name in group.members):
                read = [m for m in member.modalities if only in (None, m)]
                if not read:
                    continue
                there = has_any.copy()
                lens = [of_group.lens(modality)[own[has_any]] for modality in read]
                there[has_any] = np.any([each > 0 for each in lens], axis=0)
                found.append(_Share(member, of_group, own[there], torch.from_numpy(there)))
        return found

    def _differing(self) -> str:
        """Says which models read a modality by different backbones."""
        for modality in MODALITIES:
            read = {
                group.spec.backbone(modality): name
                for group in self.groups
                for name in group.members
                if modality in self.members[name].modalities
            }
            if len(read) > 1:
                told = " and ".join(f"{name} those of {made!r}" for made, name in read.items())
                return f"of {modality} features {self.title} reads several: {told}"
        raise AssertionError("several groups differ in a modality")

    def _weights_of(self, group: Group) -> dict[Modality, Path | None]:
        return {m: w if m in group.modalities else None for m, w in self.weights.items()}

    def _check_weights(self) -> None:
        """Checks that it is clear for which backbone weights are given.

        Raises:
            TCAFError: it is not.
        """
        for modality, path in self.weights.items():
            if path is not None and sum(modality in group.modalities for group in self.groups) > 1:
                raise TCAFError(
                    f"--{modality}_weights {path} could be meant for several: {self._differing()}; "
                    f"put {modality} weights where each backbone finds its own"
                )


@dataclass(frozen=True)
class _Share:
    """What one model of a mixture has to go by.

    Args:
        member: the model.
        clips: as it reads them.
        rows: those of the clips asked for that it has something of.
        there: which of the clips asked for these are.
    """

    member: ZeroShotClassifier
    clips: Clips
    rows: Int[np.ndarray, " some"]
    there: Bool[Tensor, " clips"]
