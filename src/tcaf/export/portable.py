"""A trained model as modules of padded tensors alone, which can be traced, saved and run elsewhere.

Owns which systems there are such modules of, from clips to distances and probabilities
(`PortableModel`) and from class text to class embeddings (`PortableText`), and what tells their
inputs. Writing them to files is `graphs`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tcaf.data.features import MODALITIES, FeatureSpec, Modality
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.export.attending import embedded
from tcaf.export.clip_blocks import ClipBlocks
from tcaf.export.padded import Padded, padded_clips
from tcaf.systems.aligned import Aligned, UnitMeans
from tcaf.systems.anchored import Anchored
from tcaf.systems.attention_fusion import AttentionFusion
from tcaf.systems.avca import AVCA
from tcaf.systems.avgzslnet import AVGZSLNet
from tcaf.systems.cjme import CJME
from tcaf.systems.clipclap import ClipClap
from tcaf.systems.joint_space import ClipEncoder
from tcaf.systems.perceiver import Perceiver
from tcaf.systems.ridge import Ridge
from tcaf.systems.tcaf import TCAF
from tcaf.systems.tcaf_cosine import TCAFCosine
from tcaf.systems.textlda import READ_OUTS, TextLDA
from tcaf.text.spaces import ClassText

Clips = Mapping[Modality, Padded]
Distances = Callable[..., Tensor]


def _of_family(
    model: ClipEncoder, clips: Clips, classes: Float[Tensor, "num_classes joint_dim"]
) -> Float[Tensor, "batch num_classes"]:
    return _euclidean(embedded(model, clips), classes)


def _of_cosine_head(
    model: TCAFCosine, clips: Clips, classes: Float[Tensor, "num_classes text_dim"]
) -> Float[Tensor, "batch num_classes"]:
    return 1 - F.normalize(embedded(model, clips), dim=1) @ classes.T


def _of_averages(
    model: CJME | AVCA | ClipClap, clips: Clips, classes: Float[Tensor, "num_classes joint_dim"]
) -> Float[Tensor, "batch num_classes"]:
    return _euclidean(model.of_means(_means(model, clips)).video_embedding, classes)


def _of_avgzslnet(
    model: AVGZSLNet, clips: Clips, classes: Float[Tensor, "num_classes joint_dim"]
) -> Float[Tensor, "batch num_classes"]:
    found = model.of_means(_means(model, clips))
    audio = _euclidean(found.audio_embedding, classes)
    return audio + _euclidean(found.visual_embedding, classes)


def _of_ridge(
    model: Ridge, clips: Clips, classes: Float[Tensor, "num_classes text_dim"]
) -> Float[Tensor, "batch num_classes"]:
    batch = next(iter(clips.values())).mask.shape[0]
    parts = [
        F.normalize(clips[m].mean(), dim=1)
        if m in clips
        else model.weight.new_zeros(batch, model.config.dim(m))
        for m in MODALITIES
    ]
    return model.scores(torch.cat(parts, dim=1), classes)


def _of_aligned(
    model: Aligned, clips: Clips, classes: Float[Tensor, "num_classes joint_dim"]
) -> Float[Tensor, "batch num_classes"]:
    own = {m: clips[m] for m in model.modalities}
    means = {m: F.normalize(each.mean(), dim=1) for m, each in own.items()}
    return model.scores(UnitMeans(means, {m: e.there for m, e in own.items()}), classes)


def _of_textlda(
    model: TextLDA,
    clips: Clips,
    classes: Float[Tensor, "num_classes joint_dim"],
    blocks: ClipBlocks,
) -> Float[Tensor, "batch num_classes"]:
    left = torch.stack([each.there for each in clips.values()]).any(dim=0)
    parts, of_modality = [], {m: blocks.read(m, each) for m, each in clips.items()}
    for name, read in READ_OUTS.items():
        read_out = model.read_out(name)
        if not read_out.dim:
            continue  # it has no columns in the class embeddings either
        own = left & torch.stack([clips[m].there for m in read]).all(dim=0)
        left = left & ~own
        z = read_out.clips(blocks.vector([of_modality[m] for m in read]))
        parts.append(torch.where(own[:, None], z, 0.0))
    return 1 - torch.cat(parts, dim=1) @ classes.T


def _means(model: Any, clips: Clips) -> dict[Modality, Float[Tensor, "batch _"]]:
    return {m: clips[m].scaled_mean(model.config.scaling(m)) for m in MODALITIES}


def _euclidean(
    points: Float[Tensor, "num_points dim"], centres: Float[Tensor, "num_centres dim"]
) -> Float[Tensor, "num_points num_centres"]:
    return torch.linalg.vector_norm(points[:, None] - centres[None], dim=2)


_DISTANCES: dict[type[nn.Module], Distances] = {
    TCAF: _of_family,
    AttentionFusion: _of_family,
    Perceiver: _of_family,
    TCAFCosine: _of_cosine_head,
    CJME: _of_averages,
    AVCA: _of_averages,
    ClipClap: _of_averages,
    AVGZSLNet: _of_avgzslnet,
    Ridge: _of_ridge,
    TextLDA: _of_textlda,
    Aligned: _of_aligned,
}
"""How padded clips become distances, by what the model is."""


class PortableModel(nn.Module):
    """Whole padded clips to distances and probabilities, as `ZeroShotClassifier` computes them.

    Args:
        answering: the model, or the model with anchors; in evaluation mode.
        system: its name, for messages.
        spec: of the features.
        windows: how clips are cut and timed.
        gamma: added to the distance of seen classes.
        temperature: of probabilities; None where there are none.

    Attributes:
        tokens: the modalities whose tokens are inputs.
        masks: those whose masks are: where clips are cut, from the middle of what is longer.

    Raises:
        TCAFError: a model that there is no padded form of.
    """

    def __init__(
        self,
        answering: Any,
        system: str,
        spec: FeatureSpec,
        windows: Windows,
        gamma: float,
        temperature: float | None,
    ) -> None:
        super().__init__()
        anchored = isinstance(answering, Anchored)
        self.model = answering.model if anchored else answering
        self.raw = answering.raw if anchored else None
        self.scale = answering.scale if anchored else 0.0
        if type(self.model) not in _DISTANCES:
            names = ", ".join(sorted(kind.__name__ for kind in _DISTANCES))
            raise TCAFError(
                f"a model of the system {system!r} cannot be exported: there is a padded form of "
                f"{names}, and none of {type(self.model).__name__}"
            )
        self.spec, self.windows = spec, windows
        self.gamma, self.temperature = gamma, temperature
        # What follows from numbers of the weights is asked for here, where nothing is traced.
        vectors = self.model.vectors if isinstance(self.model, TextLDA) else None
        self.distances: Distances = _DISTANCES[type(self.model)]
        if vectors is not None:
            self.distances = partial(_of_textlda, blocks=ClipBlocks(vectors))
        self.own: tuple[Modality, ...] = tuple(self.model.modalities)
        read = {*self.own, *(self.raw.modalities if self.raw is not None else ())}
        self.tokens: tuple[Modality, ...] = tuple(m for m in MODALITIES if m in read)
        timed = [m for m in MODALITIES if spec.step_s(m) is not None]
        cut = {*self.tokens, *(timed if windows.window_s is not None else ())}
        self.masks: tuple[Modality, ...] = tuple(m for m in MODALITIES if m in cut)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out."""
        return ("distances",) if self.temperature is None else ("distances", "probabilities")

    def forward(
        self,
        clips: dict[str, Tensor],
        class_embedding: Float[Tensor, "num_classes joint_dim"],
        seen: Bool[Tensor, " num_classes"],
    ) -> tuple[Float[Tensor, "batch num_classes"], ...]:
        """Returns the distance of each clip from each class, and its probability.

        Args:
            clips: `audio` (batch, audio_len, audio_dim) and `visual`, `audio_mask` (batch,
                audio_len) and `visual_mask`: true where there is a token, the first ones of each
                clip. A clip without sound has a row of false.
            class_embedding: from `PortableText`.
            seen: the classes that gamma is added to.
        """
        padded = padded_clips(
            {m: clips[m] for m in self.tokens},
            {m: clips[f"{m}_mask"] for m in self.masks},
            self.windows,
            self.spec,
        )
        distances = self._distances(padded, class_embedding)
        if self.temperature is None:
            return (distances,)
        # In doubles, as `evaluation.temperature` does.
        calibrated = distances.double() + self.gamma * seen.double()
        return distances, (-calibrated / self.temperature).softmax(dim=1).float()

    def _distances(
        self, clips: Clips, class_embedding: Float[Tensor, "num_classes joint_dim"]
    ) -> Float[Tensor, "batch num_classes"]:
        own = {modality: clips[modality] for modality in self.own}
        if self.raw is None:
            return self.distances(self.model, own, class_embedding)
        size = sum(self.raw.config.dim(modality) for modality in self.raw.modalities)
        classes, raw = class_embedding[:, :-size], class_embedding[:, -size:]
        distances = self.distances(self.model, own, classes)
        return (distances + self.scale * _of_aligned(self.raw, clips, raw)) / 2


class PortableText(nn.Module):
    """Class text to class embeddings, which new classes are added with.

    Args:
        answering: the model, or the model with anchors; in evaluation mode.
        dims: size of a class's text embedding, by text space.
    """

    def __init__(self, answering: Any, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.answering = [answering]  # its module is registered below; with anchors it is none
        self.model = answering.model if isinstance(answering, Anchored) else answering
        self.dims = dict(dims)

    def forward(self, text: dict[str, Tensor]) -> Float[Tensor, "num_classes joint_dim"]:
        """Returns the class embedding of each class, from its text embedding in each space."""
        given = ClassText({space: text[space] for space in self.dims})
        found: Tensor = self.answering[0].embed_text(given.model_input).class_embedding
        return found
