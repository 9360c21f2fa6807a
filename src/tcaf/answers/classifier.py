"""Answers for clips: a trained model, class names of any kind, and files or features.

Owns the way from names to candidate classes and from distances to ranked answers. What a run holds
is `training.run`, the features of a file are `extract`, the arithmetic is `evaluation`.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.answers.evidence import Alone, Neighbour, alone, nearest
from tcaf.answers.files import FileBackbones
from tcaf.data.batches import Clips, FeatureBatch, LoadedClips, load_batch
from tcaf.data.features import MODALITIES, Modality, VideoFeatures
from tcaf.data.sampler import in_order
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.evaluation.conformal import NOT_TOGETHER, answer_sets, strangeness
from tcaf.evaluation.temperature import calibrated, probabilities
from tcaf.evaluation.together import distances_together
from tcaf.execution.devices import pick_device
from tcaf.plugins import load_plugin
from tcaf.systems.registry import find_system
from tcaf.text.candidates import NO_STORE, RunClasses
from tcaf.text.of_backbone import resolved
from tcaf.text.spaces import ClassText, SpaceVectors
from tcaf.training.model_file import TrainedModel, load_model
from tcaf.training.run import Run

FEW_CLIPS = 300
"""Clips below which answering them together gains little, and may lose."""

Clip = str | Path | VideoFeatures
"""A media file, or the features of a clip."""


@dataclass(frozen=True)
class Answer:
    """One candidate class of one clip.

    Args:
        name: of the class, as it was given.
        distance: from the clip in the joint space, before gamma.
        probability: that this class is right if one of the candidates is; None if the model holds
            no temperature.
        seen: whether the model was trained on the class.
        alone: what sound and picture say of the class apart, where that was asked for; empty where
            the clip or the model does not have both.
    """

    name: str
    distance: float
    probability: float | None
    seen: bool
    alone: Mapping[Modality, Alone] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the answer as JSON values."""
        found: dict[str, Any] = {
            "class": self.name,
            "probability": self.probability,
            "distance": self.distance,
            "seen": self.seen,
        }
        if self.alone is not None:
            found["alone"] = {modality: asdict(each) for modality, each in self.alone.items()}
        return found


@dataclass(frozen=True)
class Ranking:
    """The best answers for one clip.

    Args:
        id: of the clip; the path of a file.
        answers: best first, by distance plus gamma where seen.
        names: all candidates that are not ruled out, in the order of the answers; empty for none of
            them, None where no set was asked for.
        nearest: classes of the training, the nearest first, where they were asked for.
    """

    id: str
    answers: tuple[Answer, ...]
    names: tuple[str, ...] | None = None
    nearest: tuple[Neighbour, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the ranking as JSON values."""
        ranked = enumerate(self.answers, start=1)
        found = {"id": self.id, "answers": [{"rank": r, **a.to_json()} for r, a in ranked]}
        if self.names is not None:
            found["set"] = list(self.names)
        if self.nearest is not None:
            found["nearest_training"] = [
                {"class": each.name, "distance": each.distance} for each in self.nearest
            ]
        return found


class ZeroShotClassifier:
    """A trained model that answers which of some classes a clip shows.

    Any system works: TCaF, those it is compared with, and your own. The classes are those of the
    run until `set_classes` names others.

    A clip without sound or without picture is answered from what it has: TCaF, Attention Fusion and
    the Perceiver then see the tokens of one modality alone, systems that average over time see
    zeros for the other, as in training. Only a model of a single modality refuses a clip that
    lacks it.

    Probabilities are softmax(-(distance + gamma if seen) / temperature) over all candidates. The
    temperature was fitted on validation clips of the run's data, with the weights of stage 1;
    where clips or classes are of another kind they may be too sure.

    Args:
        trained: the model.
        text: text embeddings of further classes that the run knows, made as the model's own, by
            name for each text space.
        store: the feature store that the run was trained on, where a text source may look for names
            that the run does not know.
        no_store: why there is none, in one line.
        device: where to compute.
        audio_weights: file or folder of the audio backbone's weights, where it needs one.
        visual_weights: the same for the visual backbone.

    Attributes:
        trained: the model.
        classes: the candidates; everything that is by class has their order.
        gamma: added to the distance of seen classes; 0 where the model holds none.
        temperature: of probabilities, or None.
        notes: what somebody who reads the answers should know, in words.

    Raises:
        TCAFError: a model that was saved without its settings, or a device that is missing.
    """

    def __init__(
        self,
        trained: TrainedModel,
        *,
        text: SpaceVectors | None = None,
        store: Path | None = None,
        no_store: str = NO_STORE,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        audio_weights: str | Path | None = None,
        visual_weights: str | Path | None = None,
    ) -> None:
        self.experiment = trained.settings
        self.trained = trained
        self.device = pick_device(device)
        self.model = trained.answering.to(self.device).eval()
        system = find_system(trained.system)
        self.windows = system.windows(self.experiment, training=False)
        self.gamma = 0.0 if trained.gamma is None else trained.gamma
        self.temperature = trained.temperature
        self.notes: tuple[str, ...] = ()
        if trained.gamma is None:
            self.notes += ("the model holds no gamma: seen classes are not held back",)
        if trained.temperature is None:
            self.notes += ("the model holds no temperature: there are no probabilities",)
        weights: dict[Modality, str | Path | None]
        weights = {"audio": audio_weights, "visual": visual_weights}
        self._weights = {m: None if w is None else Path(w) for m, w in weights.items()}
        own = trained.class_text.by_name(trained.classes.names)
        known = {space: {**(text or {}).get(space, {}), **own[space]} for space in own}
        settings = system.text_settings(self.experiment)
        self._text = RunClasses(
            {space: resolved(each, trained.spec) for space, each in settings.items()},
            known,
            store,
            no_store,
        )
        self.classes: tuple[str, ...] = ()
        self.set_classes(trained.classes.names)

    @classmethod
    def load(
        cls,
        run: str | Path,
        plugin: str | Path | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        audio_weights: str | Path | None = None,
        visual_weights: str | Path | None = None,
    ) -> "ZeroShotClassifier":
        """Opens a run directory or a model file.

        Args:
            run: the folder, or the file.
            plugin: the Python file that registers the run's system, if that is one of your own.
            device: where to compute.
            audio_weights: see the class.
            visual_weights: see the class.

        Raises:
            TCAFError: no model there, a damaged one, or one of a system that is not known.
        """
        if plugin is not None:
            load_plugin(Path(plugin))
        trained = load_model(run)
        kept = Run(run if Path(run).is_dir() else Path(run).parent)
        store, why = None, NO_STORE
        if (kept.path / "provenance.json").is_file():
            store, why = kept.find_store()
        return cls(
            trained,
            text=kept.text() if kept.text_file.is_file() else None,
            store=None if store is None else store.path,
            no_store=why,
            device=device,
            audio_weights=audio_weights,
            visual_weights=visual_weights,
        )

    @torch.inference_mode()
    def set_classes(
        self, names: Sequence[str], phrases: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Sets the candidate classes; their text is embedded once, here.

        A name that the run knows, in the same letter case or another, with spaces or underscores,
        takes the run's own text embedding. Any other is embedded by the run's text source, as the
        phrase that it is; if the model reads several text spaces, in each by that space's source.

        Args:
            names: at least one; leading and trailing spaces do not count.
            phrases: wordings of some of these classes, which are embedded and averaged in place of
                the name or of what the run knows.

        Raises:
            TCAFError: no name, an empty one, one that is there twice, phrases of another class, a
                name that the text source has no vector for, or a text source that is no longer
                what it was when the run was trained.
        """
        found = self._text.embed(names, phrases)
        text = found.text.to(self.device).model_input
        self._candidates = text
        self._class_embedding = self.model.embed_text(text).class_embedding
        seen = self.trained.classes.seen
        self._seen = [column for column, known in enumerate(found.known) if known in seen]
        self.classes = found.names

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the classes that the run knows, seen or not, sorted."""
        return self._text.known

    @cached_property
    def backbones(self) -> FileBackbones:
        """What makes features of files, opened.

        Raises:
            TCAFError: features that no backbone here makes, missing weights, or a missing package.
        """
        backbones = FileBackbones(self.trained.spec, self.model.modalities, self._weights)
        spec = self.trained.spec
        for modality, backbone in backbones.opened.items():
            made: dict[str, Any] = {
                f"{modality}_dim": backbone.dim,
                f"{modality}_step_s": backbone.step_s,
                f"{modality}_backbone": backbone.name,
            }
            spec = replace(spec, **made)
        self.trained.check_features(spec, "the extractor")
        return backbones

    def features(self, clip: Clip) -> VideoFeatures:
        """Returns the features of a clip as the model takes them; files are decoded here.

        Raises:
            TCAFError: a file that cannot be read or decoded, features of another size, or a clip
                without a modality that the model cannot do without.
        """
        video = clip
        if not isinstance(video, VideoFeatures):
            video = self.backbones.extract(Path(video), str(video))
        spec, used = self.trained.spec, self.model.modalities
        if "audio" not in used and video.audio.shape[1:] != (spec.audio_dim,):
            video = replace(video, audio=np.zeros((0, spec.audio_dim), np.float32))
        if "visual" not in used and video.visual.shape[1:] != (spec.visual_dim,):
            video = replace(video, visual=np.zeros((0, spec.visual_dim), np.float32))
        if not any(len(video.tokens(modality)) for modality in used):
            raise TCAFError(_lacks(video.id, used))
        video.check(spec)
        return video

    def batch(self, video: VideoFeatures) -> FeatureBatch:
        """Returns one clip as the model is given it, on its device."""
        clips = LoadedClips([video], self.trained.spec)
        return load_batch(clips, np.arange(1), self.windows).to(self.device)

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
        loaded = LoadedClips(videos, self.trained.spec)
        rows = np.arange(len(videos))
        return self._answer(loaded, rows, ids, top_k, seen_bias, together, abstain, why)

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
        self.trained.check_features(store.spec, f"store {store.path}")
        used = self.model.modalities
        empty = rows[sum(store.lens(modality)[rows] for modality in used) == 0]
        if len(empty):
            raise TCAFError(_lacks(store.ids[empty[0]], used))
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
        gamma, temperature = self.calibration(len(rows) if together else None)
        gamma += seen_bias
        distances = self._distances(clips, rows, gamma if together else None)
        broken = np.flatnonzero(~distances.isfinite().all(dim=1).numpy())
        if len(broken):
            raise TCAFError(f"clip {ids[broken[0]]!r} has a NaN or infinite distance")
        added = calibrated(distances, seen=self._seen, gamma=gamma).numpy()
        chances = None
        if temperature is not None:
            chances = probabilities(
                distances, seen=self._seen, gamma=gamma, temperature=temperature
            ).numpy()
        # Of equals a seen class comes first, as at evaluation; then names decide, not their order.
        unseen = np.ones(len(self.classes), bool)
        unseen[self._seen] = False
        by_name = np.argsort(np.argsort(np.array(self.classes), kind="stable"))
        ties = (np.broadcast_to(key, added.shape) for key in (by_name, unseen))
        order = np.lexsort((*ties, added), axis=1)
        ranked = order[:, :top_k]
        found = [
            Ranking(
                id_,
                tuple(
                    Answer(
                        self.classes[column],
                        float(distances[clip, column]),
                        None if chances is None else float(chances[clip, column]),
                        not unseen[column],
                    )
                    for column in ranked[clip]
                ),
            )
            for clip, id_ in enumerate(ids)
        ]
        if abstain is None and not why:
            return found
        training = self._scores(clips, rows, self._training_embedding)
        if abstain is not None:
            assert temperature is not None, "`thresholds` refuses models without"
            strange = strangeness(distances, training, temperature)
            sets = answer_sets(strange, self._seen, self.trained.thresholds(abstain)).numpy()
            for clip, columns in enumerate(order):
                names = tuple(self.classes[c] for c in columns if sets[clip, c])
                found[clip] = replace(found[clip], names=names)
        return self._with_reasons(found, clips, rows, ranked, gamma, training) if why else found

    def _with_reasons(
        self,
        rankings: list[Ranking],
        clips: Clips,
        rows: Int[np.ndarray, " clips"],
        ranked: Int[np.ndarray, "clips num_answers"],
        gamma: float,
        training: Float[Tensor, "clips num_training"],
    ) -> list[Ranking]:
        """Returns rankings with what speaks for their answers.

        Args:
            rankings: of the clips.
            clips: where they are.
            rows: which of them.
            ranked: columns of the answers of each.
            gamma: what seen classes are ranked with.
            training: distances from the classes of the training.
        """
        both = np.all([clips.lens(modality)[rows] > 0 for modality in MODALITIES], axis=0)
        apart: list[dict[Modality, list[Alone]]] = [{} for _ in rankings]
        for modality in MODALITIES if self.tells_apart and both.any() else ():
            distances = self._scores(clips, rows[both], self._class_embedding, only=modality)
            added = calibrated(distances, seen=self._seen, gamma=gamma)
            for number, clip in enumerate(np.flatnonzero(both).tolist()):
                apart[clip][modality] = alone(distances[number], added[number])
        near = nearest(training, self._training_names)
        found = []
        for clip, ranking in enumerate(rankings):
            answers = tuple(
                replace(answer, alone={m: each[column] for m, each in apart[clip].items()})
                for answer, column in zip(ranking.answers, ranked[clip].tolist(), strict=True)
            )
            found.append(replace(ranking, answers=answers, nearest=near[clip]))
        return found

    @property
    def tells_apart(self) -> bool:
        """Whether the model can say what sound and picture tell apart.

        Systems that average over time cannot: a modality that is missing is zeros to them, which is
        as much of a sign as any.
        """
        averages = find_system(self.trained.system).averages
        return set(self.model.modalities) == set(MODALITIES) and not averages

    @property
    def _training_names(self) -> list[str]:
        classes = self.trained.classes
        return [name for name in classes.names if name in classes.seen]

    @cached_property
    def _training_embedding(self) -> Float[Tensor, "num_training joint_dim"]:
        """The classes of the training in the joint space, in the order of their names."""
        if not self._training_names:  # a model without training
            return self._class_embedding[:0]
        own = self.trained.class_text.by_name(self.trained.classes.names)
        text = ClassText.of(own, self._training_names).to(self.device).model_input
        with torch.inference_mode():
            found: Tensor = self.model.embed_text(text).class_embedding
        return found

    @torch.inference_mode()
    def _scores(
        self,
        clips: Clips,
        rows: Int[np.ndarray, " clips"],
        class_embedding: Float[Tensor, "num_classes joint_dim"],
        *,
        only: Modality | None = None,
    ) -> Float[Tensor, "clips num_classes"]:
        found = [torch.zeros(0, len(class_embedding))]
        for some in in_order(rows, self.experiment.evaluation.batch_size):
            batch = load_batch(clips, some, self.windows).to(self.device)
            batch = batch if only is None else batch.only(only)
            found.append(self.model.scores(batch, class_embedding).cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def _distances(
        self, clips: Clips, rows: Int[np.ndarray, " clips"], gamma_together: float | None
    ) -> Float[Tensor, "clips num_classes"]:
        if gamma_together is None:
            return self._scores(clips, rows, self._class_embedding)
        batches = (
            load_batch(clips, some, self.windows).to(self.device)
            for some in in_order(rows, self.experiment.evaluation.batch_size)
        )
        found = distances_together(
            self.model,
            [self.model(batch) for batch in batches],
            self._candidates,
            seen=self._seen,
            gamma=gamma_together,
        )
        return torch.cat([torch.zeros(0, len(self.classes)), *(each.cpu() for each in found)])

    def calibration(self, together: int | None = None) -> tuple[float, float | None]:
        """Returns gamma and temperature: `gamma` and `temperature`, or those of clips together.

        Args:
            together: how many clips are answered together; None for clip by clip.

        Raises:
            TCAFError: a model that cannot answer clips together.
        """
        if together is None:
            return self.gamma, self.temperature
        return self.trained.for_together(together)

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
            self.trained.thresholds(abstain)


def _lacks(clip: str, used: Sequence[Modality]) -> str:
    return f"clip {clip!r} has no {' or '.join(used)} token, which is all that the model reads"
