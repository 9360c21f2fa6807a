"""From a model and a part of a store to a `GZSLResult`.

Owns the loop over clips at evaluation. The arithmetic of the scores is in `gzsl.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tcaf.data.batches import in_reads, load_batch
from tcaf.data.classes import ClassSet
from tcaf.data.resident import ResidentClips
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.evaluation.calibration import reliability
from tcaf.evaluation.gzsl import GZSLResult, decide, join_decisions, score
from tcaf.evaluation.temperature import probabilities
from tcaf.systems.anchored import Anchored
from tcaf.systems.interface import Reduces, ZeroShotModel
from tcaf.text.spaces import ClassText


@dataclass(frozen=True)
class EvaluationPart:
    """Clips to evaluate on, and the candidate classes.

    Args:
        store: where the clips are.
        rows: which clips.
        classes: candidates, with their seen/unseen partition.
        class_text: text embeddings of the candidates, in their order.
        clips: the store's, where their tokens lie on a device; None reads the store.
    """

    store: FeatureStore
    rows: Int[np.ndarray, " clips"]
    classes: ClassSet
    class_text: ClassText
    clips: FeatureStore | ResidentClips | None = None

    @property
    def labels(self) -> Int[Tensor, " clips"]:
        """Class index of each clip."""
        return torch.from_numpy(self.classes.ids(self.store.class_names[self.rows].tolist()))


@torch.inference_mode()
def read_part(
    model: ZeroShotModel,
    part: EvaluationPart,
    windows: Windows,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Iterator[Any]:
    """Yields the clips of a part batch by batch, as the model's `scores` take them.

    What is left of a batch whatever the regulariser (`Reduces`) may be kept and evaluated again.

    Raises:
        TCAFError: there are no clips.
    """
    if not len(part.rows):
        raise TCAFError(f"nothing to evaluate: store {part.store.path} has no clips in this part")
    model.eval()
    clips = part.store if part.clips is None else part.clips
    for rows in in_reads(clips, part.rows, windows, batch_size):
        batch = load_batch(clips, rows, windows).to(device)
        yield model.reduced(batch) if isinstance(model, Reduces) else batch


def _by_batch(
    model: ZeroShotModel, part: EvaluationPart, batches: Iterable[Any], device: torch.device | str
) -> Iterator[Float[Tensor, "batch num_classes"]]:
    """Yields the distances of one batch of clips after the other, where the model is."""
    model.eval()
    text = part.class_text.to(device).model_input
    class_embedding = model.embed_text(text).class_embedding
    for batch in batches:
        yield model.scores(batch, class_embedding)


@torch.inference_mode()
def distances(
    model: ZeroShotModel,
    part: EvaluationPart,
    windows: Windows,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    kept: Iterable[Any] | None = None,
) -> Float[Tensor, "clips num_classes"]:
    """Returns the distance of each clip from each candidate class, on the CPU.

    The model is left in evaluation mode. The batch size changes speed and memory, and nothing
    beyond rounding.

    Raises:
        TCAFError: there are no clips.
    """
    batches = kept or read_part(model, part, windows, batch_size=batch_size, device=device)
    found = _by_batch(model, part, batches, device)
    return torch.cat([batch.cpu() for batch in found])


@torch.inference_mode()
def equal_means(
    model: Anchored,
    part: EvaluationPart,
    windows: Windows,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    kept: Iterable[Any] | None = None,
) -> float:
    """Returns what raw distances have to be multiplied by to have the mean of the model's own.

    Over all clips of the part and all candidates.

    Raises:
        TCAFError: there are no clips.
    """
    model.eval()
    batches = kept or read_part(model, part, windows, batch_size=batch_size, device=device)
    text = part.class_text.to(device).model_input
    class_embedding = model.embed_text(text).class_embedding
    own, raw = 0.0, 0.0
    for batch in batches:
        each = model.parts(batch, class_embedding)
        own, raw = own + float(each[0].double().sum()), raw + float(each[1].double().sum())
    return own / max(raw, 1e-12)


@torch.inference_mode()
def evaluate_part(
    model: ZeroShotModel,
    part: EvaluationPart,
    windows: Windows,
    *,
    gamma: float | None = None,
    gammas: Sequence[float] | None,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    kept: Iterable[Any] | None = None,
    temperature: float | None = None,
) -> GZSLResult:
    """Evaluates a model on clips.

    Args:
        model: what maps clips and class names to distances.
        part: clips and candidate classes.
        windows: how clips are cut.
        gamma: what to add to the distance of seen classes; None searches `gammas`.
        gammas: the grid; None follows the margins (`gzsl.margin_gammas`).
        batch_size: most clips of a batch; long ones are read fewer at a time.
        device: where the model is.
        kept: what `read_part` yielded for these clips; None reads anew.
        temperature: of probabilities, whose reliability is then part of the result; only with a
            gamma.

    Raises:
        TCAFError: see `distances`, `gzsl.decide` and `gzsl.score`.
    """
    seen, unseen = part.classes.seen_ids, part.classes.unseen_ids
    batches = kept or read_part(model, part, windows, batch_size=batch_size, device=device)
    found = _by_batch(model, part, batches, device)
    labels, first = part.labels, 0
    # Batch by batch: the distances of all clips from all classes need not be held at once.
    decided, confidence = [], []
    for batch in found:
        true = labels[first : first + len(batch)]
        first += len(batch)
        decided.append(decide(batch, true, seen=seen, unseen=unseen))
        if gamma is not None and temperature is not None:
            chances = probabilities(batch, seen=seen, gamma=gamma, temperature=temperature)
            confidence.append(chances.amax(dim=1).cpu())
    result = score(join_decisions(decided), gamma=gamma, gammas=gammas)
    if not confidence:
        return result
    right = result.decisions.predicted(result.gamma) == result.decisions.labels
    own = reliability(torch.cat(confidence).numpy(), right, result.decisions.labels)
    return replace(result, reliability=own)
