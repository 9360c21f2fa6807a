"""What answers for clips: a trained model, or several, with any class names, and files or features.

Owns the steps that all have in common: features of files, and from scores to ranked answers. What
scores is `classifier`, for a model, and `mixture`; what a run holds is `training.run`.
"""

import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from jaxtyping import Bool, Int

from tcaf.answers.evidence import Alone, Neighbour, alone
from tcaf.answers.files import FileBackbones
from tcaf.answers.ranking import Ranking, Scores, ranked_columns, rankings
from tcaf.data.batches import Clips, LoadedClips
from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.evaluation.conformal import NOT_TOGETHER

FEW_CLIPS = 300
"""Clips below which answering them together gains little, and may lose."""

Clip = str | Path | VideoFeatures
"""A media file, or the features of a clip."""


@dataclass(frozen=True)
class Surroundings:
    """What lies around clips besides the candidates.

    Args:
        nearest: classes of the training of each clip, the nearest first.
        allowed: of each candidate whether it is in the clip's set of names; None where no sets were
            asked for.
    """

    nearest: Sequence[tuple[Neighbour, ...]]
    allowed: Bool[np.ndarray, "clips num_classes"] | None


class Classifier(ABC):
    """Answers which of some classes a clip shows.

    Attributes:
        title: what answers, in a word or two.
        notes: what somebody who reads the answers should know, in words.
        spec: of the features that are read.
        modalities: those that are read.
        split: of a store whose parts are asked for by name.
        weights: file or folder of each backbone's weights, where it needs one.
        extracts_on: where the backbones compute.
    """

    title: str
    notes: tuple[str, ...]
    spec: FeatureSpec
    modalities: tuple[Modality, ...]
    split: str
    weights: Mapping[Modality, Path | None]
    extracts_on: Literal["cpu", "cuda"]

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The candidates; everything that is by class has their order."""

    @property
    @abstractmethod
    def seen_columns(self) -> Sequence[int]:
        """Columns of the candidates that were trained on."""

    @abstractmethod
    def set_classes(
        self, names: Sequence[str], phrases: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Sets the candidate classes; their text is embedded once, here.

        A name that is known, in the same letter case or another, with spaces or underscores, takes
        the text embedding that it was trained with. Any other is embedded by the same text source,
        as the phrase that it is; where several text spaces are read, in each by that space's
        source.

        Args:
            names: at least one; leading and trailing spaces do not count.
            phrases: wordings of some of these classes, which are embedded and averaged in place of
                the name or of what is known.

        Raises:
            TCAFError: no name, an empty one, one that is there twice, phrases of another class, a
                name that the text source has no vector for, or a text source that is no longer
                what it was at the training.
        """

    def with_classes(
        self, names: Sequence[str], phrases: Mapping[str, Sequence[str]] | None = None
    ) -> "Classifier":
        """Returns what answers with other candidates and shares all else; this stays as it is.

        Args:
            names: see `set_classes`.
            phrases: see there.

        Raises:
            TCAFError: see there.
        """
        other = self._apart_from_classes()
        other.set_classes(names, phrases)
        return other

    def _apart_from_classes(self) -> "Classifier":
        """Returns a copy whose candidates can be set without setting those of this one."""
        return copy.copy(self)

    @property
    @abstractmethod
    def known(self) -> tuple[str, ...]:
        """Names of the classes that are known, seen or not, sorted."""

    @property
    @abstractmethod
    def tells_apart(self) -> bool:
        """Whether it can say what sound and picture tell apart."""

    @property
    @abstractmethod
    def window_s(self) -> float | None:
        """Longest stretch from the middle of a clip that is looked at, in seconds; None: all."""

    @property
    @abstractmethod
    def vouches_for_sets(self) -> bool:
        """Whether there are validation clips that sets of names can follow from."""

    @abstractmethod
    def calibration(self, together: int | None = None) -> tuple[float, float | None]:
        """Returns gamma and temperature.

        Args:
            together: how many clips are answered together; None for clip by clip.

        Raises:
            TCAFError: clips cannot be answered together.
        """

    @abstractmethod
    def check_features(self, spec: FeatureSpec, where: str) -> None:
        """Checks that features are of the kind that is read (`TrainedModel.check_features`).

        Raises:
            TCAFError: another size, another backbone, or other seconds per token.
        """

    @abstractmethod
    def check_sets(self, allowed: float) -> None:
        """Checks that sets of names can be vouched for.

        Raises:
            TCAFError: they cannot.
        """

    @abstractmethod
    def scores(
        self,
        clips: Clips,
        rows: Int[np.ndarray, " clips"],
        seen_bias: float = 0.0,
        *,
        together: bool = False,
        only: Modality | None = None,
    ) -> Scores:
        """Scores the candidates for clips.

        Args:
            clips: where they are.
            rows: which of them.
            seen_bias: see `classify`.
            together: see there.
            only: one modality, as if clips had no other.
        """

    @abstractmethod
    def surroundings(
        self,
        clips: Clips,
        rows: Int[np.ndarray, " clips"],
        scores: Scores,
        allowed: float | None,
    ) -> Surroundings:
        """Returns what lies around clips besides the candidates.

        Args:
            clips: where they are.
            rows: which of them.
            scores: of them.
            allowed: share of wrong answers for sets of names; None for no sets.
        """

    @cached_property
    def backbones(self) -> FileBackbones:
        """What makes features of files, opened.

        Raises:
            TCAFError: features that no backbone here makes, missing weights, or a missing package.
        """
        backbones = FileBackbones(self.spec, self.modalities, self.weights, self.extracts_on)
        self.check_features(backbones.opened_spec, "the extractor")
        return backbones

    def features(self, clip: Clip) -> VideoFeatures:
        """Returns the features of a clip as they are read; files are decoded here.

        Raises:
            TCAFError: a file that cannot be read or decoded, features of another size, or a clip
                without a modality that it cannot do without.
        """
        video = clip
        if not isinstance(video, VideoFeatures):
            video = self.backbones.extract(Path(video), str(video))
        spec, used = self.spec, self.modalities
        if "audio" not in used and video.audio.shape[1:] != (spec.audio_dim,):
            video = replace(video, audio=np.zeros((0, spec.audio_dim), np.float32))
        if "visual" not in used and video.visual.shape[1:] != (spec.visual_dim,):
            video = replace(video, visual=np.zeros((0, spec.visual_dim), np.float32))
        if not any(len(video.tokens(modality)) for modality in used):
            raise TCAFError(lacks(video.id, used))
        video.check(spec)
        return video

    def loaded(self, videos: Sequence[VideoFeatures]) -> Clips:
        """Returns what `features` returned of some clips, as `scores` reads them.

        Raises:
            TCAFError: a clip that does not fit.
        """
        return LoadedClips(videos, self.spec)

    # A text is a file; that it is a sequence of texts too is of no account.
    @overload
    def classify(  # type: ignore[overload-overlap]
        self,
        clips: Clip,
        top_k: int = 5,
        seen_bias: float = 0.0,
        *,
        together: bool = False,
        abstain: float | None = None,
        why: bool = False,
    ) -> Ranking: ...

    @overload
    def classify(
        self,
        clips: Sequence[Clip],
        top_k: int = 5,
        seen_bias: float = 0.0,
        *,
        together: bool = False,
        abstain: float | None = None,
        why: bool = False,
    ) -> list[Ranking]: ...

    def classify(
        self,
        clips: Clip | Sequence[Clip],
        top_k: int = 5,
        seen_bias: float = 0.0,
        *,
        together: bool = False,
        abstain: float | None = None,
        why: bool = False,
    ) -> Ranking | list[Ranking]:
        """Ranks the classes for one clip, or for each of a list.

        Args:
            clips: media files, or features such as those of `features` or of a store.
            top_k: how many answers to give, if there are as many classes.
            seen_bias: added to gamma: a positive number favours classes that the model was not
                trained on, a negative one those that it was.
            together: answer each clip in the light of all others (transductive): class vectors
                move to where the clips are. That takes some hundred clips, in which the candidates
                really occur, about as often as each other; below `FEW_CLIPS` it warns.
            abstain: share of wrong answers that is allowed: each clip also gets the set of names
                that are not ruled out, which leaves out the true one, if it is a candidate, in at
                most this share of clips that are like those of the run's validation
                (`evaluation.conformal`). It may be empty: none of these.
            why: also say what sound and picture tell apart, and which classes of the training the
                clip is nearest to.

        Raises:
            TCAFError: see `features`; `top_k` is not positive, or `seen_bias` not finite; a model
                that cannot answer clips together, or none of whose sets could be vouched for.
        """
        self._check_asked(top_k, seen_bias, together, abstain)
        if isinstance(clips, str | Path | VideoFeatures):
            asked: dict[str, Any] = {"together": together, "abstain": abstain, "why": why}
            return self.classify([clips], top_k, seen_bias, **asked)[0]
        videos = [self.features(clip) for clip in clips]
        if not videos:
            return []
        ids = [video.id for video in videos]
        rows = np.arange(len(videos))
        return self._answer(
            self.loaded(videos), rows, ids, top_k, seen_bias, together, abstain, why
        )

    def classify_store(
        self,
        store: FeatureStore,
        rows: Int[np.ndarray, " clips"],
        top_k: int = 5,
        seen_bias: float = 0.0,
        *,
        together: bool = False,
        abstain: float | None = None,
        why: bool = False,
    ) -> list[Ranking]:
        """Ranks the classes for clips of a store, as `classify` does.

        Raises:
            TCAFError: features of another backbone or size than the run's, or a clip without a
                modality that the model cannot do without.
        """
        self._check_asked(top_k, seen_bias, together, abstain)
        self.check_features(store.spec, f"store {store.path}")
        used = self.modalities
        empty = rows[sum(store.lens(modality)[rows] for modality in used) == 0]
        if len(empty):
            raise TCAFError(lacks(store.ids[empty[0]], used))
        ids = [store.ids[row] for row in rows]
        return self._answer(store, rows, ids, top_k, seen_bias, together, abstain, why)

    def _answer(
        self,
        clips: Clips,
        rows: Int[np.ndarray, " clips"],
        ids: list[str],
        top_k: int,
        seen_bias: float,
        together: bool,
        abstain: float | None,
        why: bool,
    ) -> list[Ranking]:
        if together and len(rows) < FEW_CLIPS:
            warnings.warn(
                f"few clips to answer together, {len(rows)}: from {FEW_CLIPS} on, about equally "
                "many of each candidate, answers are better than clip by clip; of fewer they may "
                "be worse",
                stacklevel=3,
            )
        scores = self.scores(clips, rows, seen_bias, together=together)
        broken = np.flatnonzero(~scores.distances.isfinite().all(dim=1).numpy())
        if len(broken):
            raise TCAFError(f"clip {ids[broken[0]]!r} has a NaN or infinite distance")
        order = ranked_columns(scores, self.classes, self.seen_columns)
        ranked = order[:, :top_k]
        found = rankings(ids, ranked, scores, self.classes, self.seen_columns)
        if abstain is None and not why:
            return found
        around = self.surroundings(clips, rows, scores, abstain)
        if around.allowed is not None:
            for clip, columns in enumerate(order):
                names = tuple(self.classes[c] for c in columns if around.allowed[clip, c])
                found[clip] = replace(found[clip], names=names)
        if why:
            apart = self._apart(clips, rows, seen_bias)
            found = [
                _with_reasons(*each)
                for each in zip(found, ranked.tolist(), apart, around.nearest, strict=True)
            ]
        return found

    def _apart(
        self, clips: Clips, rows: Int[np.ndarray, " clips"], seen_bias: float
    ) -> list[dict[Modality, list[Alone]]]:
        """Returns what sound and picture say of each candidate, for clips that have both."""
        both = np.all([clips.lens(modality)[rows] > 0 for modality in MODALITIES], axis=0)
        apart: list[dict[Modality, list[Alone]]] = [{} for _ in rows]
        for modality in MODALITIES if self.tells_apart and both.any() else ():
            scores = self.scores(clips, rows[both], seen_bias, only=modality)
            for number, clip in enumerate(np.flatnonzero(both).tolist()):
                apart[clip][modality] = alone(scores.distances[number], scores.added[number])
        return apart

    def _check_asked(
        self, top_k: int, seen_bias: float, together: bool, abstain: float | None
    ) -> None:
        if top_k < 1 or not math.isfinite(seen_bias):
            raise TCAFError(
                f"expected top_k from 1 on and a finite seen_bias, got {top_k} and {seen_bias:g}"
            )
        self.calibration(0 if together else None)
        if abstain is not None:
            if together:
                raise TCAFError(NOT_TOGETHER)
            self.check_sets(abstain)


def _with_reasons(
    ranking: Ranking,
    columns: Sequence[int],
    apart: Mapping[Modality, Sequence[Alone]],
    near: tuple[Neighbour, ...],
) -> Ranking:
    """Returns a ranking with what speaks for its answers, whose columns are given."""
    answers = tuple(
        replace(answer, alone={m: each[column] for m, each in apart.items()})
        for answer, column in zip(ranking.answers, columns, strict=True)
    )
    return replace(ranking, answers=answers, nearest=near)


def lacks(clip: str, used: Sequence[Modality]) -> str:
    """Says that a clip has nothing that is read."""
    return f"clip {clip!r} has no {' or '.join(used)} token, which is all that the model reads"
