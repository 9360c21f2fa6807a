"""One trained model that answers for clips with any class names.

Owns the way from names to candidate classes and from those to distances. What a run holds is
`training.run`, the features of a file are `extract`, the arithmetic is `evaluation`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.answers.evidence import nearest
from tcaf.answers.interface import Classifier, Surroundings
from tcaf.answers.ranking import Scores
from tcaf.answers.ready import READY, is_ready, open_ready
from tcaf.data.batches import Clips, FeatureBatch, LoadedClips, in_reads, load_batch
from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.errors import TCAFError, did_you_mean
from tcaf.evaluation.conformal import answer_sets, strangeness
from tcaf.evaluation.temperature import calibrated, probabilities
from tcaf.evaluation.together import distances_together
from tcaf.execution.devices import pick_device
from tcaf.files.remote import local_path
from tcaf.plugins import load_plugin
from tcaf.settings.sections import Device
from tcaf.systems.registry import find_system
from tcaf.text.candidates import NO_STORE, RunClasses
from tcaf.text.of_backbone import resolved
from tcaf.text.spaces import ClassText, SpaceVectors
from tcaf.training.model_file import TrainedModel, load_model
from tcaf.training.run import Run


class ZeroShotClassifier(Classifier):
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
        gamma: added to the distance of seen classes; 0 where the model holds none.
        temperature: of probabilities, or None.
        text_settings: where class text comes from, for each text space.
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
        device: Device = "auto",
        audio_weights: str | Path | None = None,
        visual_weights: str | Path | None = None,
    ) -> None:
        self.experiment = trained.settings
        self.trained = trained
        self.title = trained.system
        self.device = pick_device(device)
        self.extracts_on = "cuda" if self.device.type == "cuda" else "cpu"
        self.model = trained.answering.to(self.device).eval()
        system = find_system(trained.system)
        self.spec = trained.spec
        self.modalities = self.model.modalities
        self.split = self.experiment.data.split
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
        self.weights = {m: None if w is None else Path(w) for m, w in weights.items()}
        own = trained.class_text.by_name(trained.classes.names)
        known = {space: {**(text or {}).get(space, {}), **own[space]} for space in own}
        settings = system.text_settings(self.experiment)
        self.text_settings = {space: resolved(s, trained.spec) for space, s in settings.items()}
        self._text = RunClasses(
            self.text_settings,
            known,
            store,
            no_store,
        )
        self.set_classes(trained.classes.names)

    @classmethod
    def load(
        cls,
        run: str | Path,
        plugin: str | Path | None = None,
        device: Device = "auto",
        audio_weights: str | Path | None = None,
        visual_weights: str | Path | None = None,
    ) -> "ZeroShotClassifier":
        """Opens a run directory, a model file or a ready model.

        Args:
            run: the folder, the file, or the name of a ready model (`answers.ready`) if there is
                no folder or file of that name here.
            plugin: the Python file that registers the run's system, if that is one of your own.
            device: where to compute.
            audio_weights: see the class.
            visual_weights: see the class.

        Raises:
            TCAFError: no model there, a damaged one, or one of a system that is not known.
        """
        if plugin is not None:
            load_plugin(Path(plugin))
        given: dict[str, Any] = {
            "device": device,
            "audio_weights": audio_weights,
            "visual_weights": visual_weights,
        }
        run = local_path(run)
        if is_ready(run):
            found = cls(open_ready(str(run)), **given)
            found.title = str(run)
            return found
        if not Path(run).exists():
            raise TCAFError(
                f"expected a trained model at {run}, found nothing; ready models are "
                f"{', '.join(READY)}{did_you_mean(str(run), READY)}"
            )
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
            **given,
        )

    @torch.inference_mode()
    def set_classes(
        self, names: Sequence[str], phrases: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Sets the candidate classes: see `Classifier.set_classes`."""
        found = self._text.embed(names, phrases)
        self._class_text = found.text
        text = found.text.to(self.device).model_input
        self._candidates = text
        self._class_embedding = self.model.embed_text(text).class_embedding
        seen = self.trained.classes.seen
        self._seen = [column for column, known in enumerate(found.known) if known in seen]
        self._classes = found.names

    @property
    def classes(self) -> tuple[str, ...]:
        """The candidates; everything that is by class has their order."""
        return self._classes

    @property
    def class_text(self) -> ClassText:
        """The text embeddings of the candidates."""
        return self._class_text

    @property
    def class_embedding(self) -> Float[Tensor, "num_classes joint_dim"]:
        """The candidates in the joint space, on the model's device."""
        return self._class_embedding

    def embed_names(self, names: Sequence[str]) -> ClassText:
        """Returns the text embeddings of names, made as those of candidates; these stay.

        Raises:
            TCAFError: see `Classifier.set_classes`.
        """
        return self._text.embed(names).text

    @property
    def seen_columns(self) -> Sequence[int]:
        """Columns of the candidates that the model was trained on."""
        return self._seen

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the classes that the run knows, seen or not, sorted."""
        return self._text.known

    def batch(self, video: VideoFeatures) -> FeatureBatch:
        """Returns one clip as the model is given it, on its device."""
        clips = LoadedClips([video], self.spec)
        return load_batch(clips, np.arange(1), self.windows).to(self.device)

    @property
    def tells_apart(self) -> bool:
        """Whether the model can say what sound and picture tell apart.

        Systems that average over time cannot: a modality that is missing is zeros to them, which is
        as much of a sign as any.
        """
        averages = find_system(self.trained.system).averages
        return set(self.modalities) == set(MODALITIES) and not averages

    @property
    def window_s(self) -> float | None:
        """Longest stretch from the middle of a clip that is looked at, in seconds; None: all."""
        return self.windows.window_s

    @property
    def vouches_for_sets(self) -> bool:
        """Whether the model holds what sets of names follow from."""
        return self.trained.conformity is not None and self.temperature is not None

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
        gamma, temperature = self.calibration(len(rows) if together else None)
        gamma += seen_bias
        if together:
            distances = self._together(clips, rows, gamma)
        else:
            distances = self._distances(clips, rows, self._class_embedding, only)
        seen = self.seen_columns
        chances = None
        if temperature is not None:
            chances = probabilities(distances, seen=seen, gamma=gamma, temperature=temperature)
        return Scores(distances, calibrated(distances, seen=seen, gamma=gamma), chances)

    @torch.inference_mode()
    def _distances(
        self,
        clips: Clips,
        rows: Int[np.ndarray, " clips"],
        class_embedding: Float[Tensor, "num_classes joint_dim"],
        only: Modality | None = None,
    ) -> Float[Tensor, "clips num_classes"]:
        found = [torch.zeros(0, len(class_embedding))]
        for some in in_reads(clips, rows, self.windows, self.experiment.evaluation.batch_size):
            batch = load_batch(clips, some, self.windows).to(self.device)
            batch = batch if only is None else batch.only(only)
            found.append(self.model.scores(batch, class_embedding).cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def _together(
        self, clips: Clips, rows: Int[np.ndarray, " clips"], gamma: float
    ) -> Float[Tensor, "clips num_classes"]:
        batches = (
            load_batch(clips, some, self.windows).to(self.device)
            for some in in_reads(clips, rows, self.windows, self.experiment.evaluation.batch_size)
        )
        found = distances_together(
            self.model,
            [self.model(batch) for batch in batches],
            self._candidates,
            seen=self.seen_columns,
            gamma=gamma,
        )
        return torch.cat([torch.zeros(0, len(self.classes)), *(each.cpu() for each in found)])

    def surroundings(
        self,
        clips: Clips,
        rows: Int[np.ndarray, " clips"],
        scores: Scores,
        allowed: float | None,
    ) -> Surroundings:
        """Returns what lies around clips: see `Classifier.surroundings`."""
        training = self._distances(clips, rows, self._training_embedding)
        sets = None
        if allowed is not None:
            assert self.temperature is not None, "`check_sets` refuses models without"
            strange = strangeness(scores.distances, training, self.temperature)
            limits = self.trained.thresholds(allowed)
            sets = answer_sets(strange, self.seen_columns, limits).numpy()
        return Surroundings(nearest(training, self._training_names), sets)

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

    def check_features(self, spec: FeatureSpec, where: str) -> None:
        """Checks that features are of the kind that is read: see `Classifier.check_features`."""
        self.trained.check_features(spec, where)

    def check_sets(self, allowed: float) -> None:
        """Checks that sets of names can be vouched for: see `Classifier.check_sets`."""
        self.trained.thresholds(allowed)
