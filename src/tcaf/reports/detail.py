"""One run in detail: where its clips lie in the learnt space, and where the model looked in one.

Owns the choice of classes and clips for these pictures, and their reading from the store. Drawing
is `embedding_map` and `timelines`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int

from tcaf.data.batches import FeatureBatch, load_batch
from tcaf.data.classes import ClassSet
from tcaf.data.features import MODALITIES
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.evaluation.decisions import ClipDecisions
from tcaf.evaluation.gzsl import GZSLResult
from tcaf.reports.contents import PageFigure
from tcaf.reports.embedding_map import MapPanel, embedding_map
from tcaf.reports.projection import choose_classes, choose_clips, tsne, tsne_with_classes
from tcaf.reports.timelines import attention_over_time
from tcaf.settings.experiment import Experiment
from tcaf.systems.attention_map import HasAttentionMap
from tcaf.systems.registry import find_system
from tcaf.training.model_file import TrainedModel, load_model
from tcaf.training.run import Run

CLIPS_PER_CLASS = 40
"""Clips of a class in the embedding map: enough to see a cluster, few enough to see a clip."""


@dataclass(frozen=True)
class Series:
    """Runs of one configuration on the same data, one a seed.

    Args:
        name: what people read.
        runs: by seed, ascending.
        experiment: of the first run.
    """

    name: str
    runs: Mapping[int, Run]
    experiment: Experiment

    @property
    def first(self) -> Run:
        """The run of the smallest seed."""
        return next(iter(self.runs.values()))

    @cached_property
    def fingerprint(self) -> str:
        """Of the clips that the runs were trained on."""
        return str(self.first.provenance["data"]["fingerprint"])

    @cached_property
    def clip_decisions(self) -> tuple[ClipDecisions, ...]:
        """What each run decided about the test clips."""
        return tuple(run.decisions for run in self.runs.values())

    @cached_property
    def results(self) -> tuple[GZSLResult, ...]:
        """Each run's test scores, from its decisions."""
        return tuple(decided.result for decided in self.clip_decisions)


@dataclass(frozen=True)
class ClipMap:
    """Where clips of a few classes lie on a plane.

    Args:
        classes: what labels of the panels index.
        panels: the clips' inputs, and what the model makes of both.
        clips: of each panel the number of each point's clip in the run's decisions.
    """

    classes: ClassSet
    panels: tuple[MapPanel, ...]
    clips: tuple[Int[np.ndarray, " clips"], ...]


@dataclass(frozen=True)
class Detail:
    """The run that is shown in detail, with its clips where they are at hand.

    Args:
        series: that it belongs to.
        run: the first of these.
        store: the clips; None if they are nowhere to be had.
        classes: names of the classes in the embedding map; none for those with most clips.
        clip: id of the clip whose attention is shown; empty for one that is chosen.
    """

    series: Series
    run: Run
    store: FeatureStore | None
    classes: tuple[str, ...] = ()
    clip: str = ""

    @cached_property
    def trained(self) -> TrainedModel:
        """The run's model."""
        return load_model(self.run.path)

    @property
    def clip_decisions(self) -> ClipDecisions:
        """The run's decisions."""
        return self.series.clip_decisions[0]

    @property
    def name(self) -> str:
        """What captions call it."""
        return f"{self.series.name}, seed {(self.run.result or {})['seed']}"

    def load(self, clips: Sequence[int]) -> FeatureBatch:
        """Reads test clips, by their number in the decisions, as the model is evaluated."""
        assert self.store is not None
        row_of = {name: row for row, name in enumerate(self.store.ids)}
        ids = [self.clip_decisions.ids[i] for i in clips]
        missing = [id_ for id_ in ids if id_ not in row_of]
        if missing:
            raise TCAFError(f"store {self.store.path} has no clip {missing[0]!r}")
        rows = np.array([row_of[id_] for id_ in ids], np.int64)
        windows = find_system(self.trained.system).windows(self.series.experiment, training=False)
        return load_batch(self.store, rows, windows)

    @torch.no_grad()
    def clip_map(self) -> ClipMap:
        """Lays out the clips of a few classes: their inputs, and what the model makes of them.

        Raises:
            TCAFError: clips that the store lacks, unknown classes, or a model whose output has no
                video embedding.
        """
        classes, labels = self.clip_decisions.classes, self.clip_decisions.decisions.labels
        chosen = choose_classes(classes, labels, self.classes or None)
        clips, shown = choose_clips(classes, labels, chosen, per_class=CLIPS_PER_CLASS, seed=0)
        batch = self.load(clips.tolist())
        panels, of_panel = [], []
        for modality in MODALITIES:
            packed = batch.modality(modality)
            there = (packed.lens > 0).numpy()
            inputs = packed.mean().numpy()[there]
            panels.append(MapPanel(f"{modality} inputs", tsne(inputs, 0), shown[there]))
            of_panel.append(clips[there])
        text = self.trained.own_text.select(classes.ids(chosen.names)).model_input
        output = self.trained.model(batch)
        if not hasattr(output, "video_embedding"):
            raise TCAFError(f"what {self.series.name} returns has no video_embedding")
        video = output.video_embedding.numpy()
        names = self.trained.model.embed_text(text).class_embedding.numpy()
        points, squares = tsne_with_classes(video, names, 0)
        panels.append(MapPanel("learnt video embeddings", points, shown, squares))
        return ClipMap(chosen, tuple(panels), (*of_panel, clips))

    def embedding_map(self) -> PageFigure:
        """Draws Figure 3 of the paper for this run."""
        found = self.clip_map()
        return PageFigure.of(
            "embeddings",
            lambda width: embedding_map(found.panels, found.classes, width=width),
            title="Inputs and learnt embeddings",
            caption=f"t-SNE of test clips, {self.name}: features averaged over time, and what the "
            "model makes of both. Squares are the classes' own embeddings.",
            alt=f"Three maps of clips of {len(found.classes)} classes.",
        )

    def attention(self) -> PageFigure:
        """Draws where the model looked in one clip.

        Raises:
            TCAFError: the model has no such attention, the clips have no time, or no such clip.
        """
        if not isinstance(self.trained.model, HasAttentionMap):
            raise TCAFError(f"{self.series.name} has no attention over time to show")
        number = self._clip_number()
        name = self.clip_decisions.ids[number]
        true = self.clip_decisions.classes.names[self.clip_decisions.decisions.labels[number]]
        batch = self.load([number])
        if int(batch.audio.lens[0] + batch.visual.lens[0]) < 3:
            raise TCAFError("clips of one token per modality have no time to attend over")
        found = self.trained.model.attention_map(batch)
        return PageFigure.of(
            "attention",
            lambda width: attention_over_time(found, width=width),
            title="Attention over time",
            caption=f"Where {self.name} looks in clip {name} of class {true}: weights "
            "averaged over heads.",
            alt=f"Attention of the class token, and of audio to visual tokens, in clip {name}.",
        )

    def _clip_number(self) -> int:
        """Returns the clip wanted, or one of an unseen class: the one most clearly called unseen.

        Clips that are named rightly come first; without clips of unseen classes it is a seen one.
        """
        if self.clip:
            if self.clip not in self.clip_decisions.ids:
                raise TCAFError(f"no test clip has the id {self.clip!r}")
            return self.clip_decisions.ids.index(self.clip)
        decisions = self.clip_decisions.decisions
        right = decisions.predicted(self.clip_decisions.gamma) == decisions.labels
        choices = (right & ~decisions.is_seen, ~decisions.is_seen, right)
        wanted = next((choice for choice in choices if choice.any()), ~right)
        return int(np.where(wanted, decisions.margin, np.inf).argmin())
