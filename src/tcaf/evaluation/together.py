"""Clips answered together: each in the light of all others, which is transductive.

Owns the distances of clips of a batch that is looked at as a whole, its scores, and what is chosen
for it on validation: a gamma and a temperature of its own. How classes move is the system's
(`interface.Together`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tcaf.data.windows import Windows
from tcaf.evaluation.gzsl import (
    Decisions,
    GZSLResult,
    Ids,
    decide,
    join_decisions,
    margin_gammas,
    score,
)
from tcaf.evaluation.parts import EvaluationPart, read_part
from tcaf.evaluation.temperature import fit_temperature

STRIDE = 4
"""Of the gammas every fourth is tried, then those around the best: each costs all rounds."""


@dataclass(frozen=True)
class TogetherChoice:
    """What validation chose for clips that are answered together.

    Args:
        gamma: of calibrated stacking.
        temperature: of probabilities.
        validation: the scores of the validation clips, all together.
        clips: how many these are.
    """

    gamma: float
    temperature: float
    validation: dict[str, float | bool]
    clips: int

    def at(self, clips: int, alone: float, among: float) -> float:
        """Returns a number for so many clips: the fewer, the nearer to that of clip by clip.

        Few clips do not move the classes, and want the gamma of a model whose classes stay. On a
        straight line up to as many clips as validation had, and the same beyond.

        Args:
            clips: how many are answered together.
            alone: the number for a clip by itself.
            among: the number for `self.clips`.
        """
        return alone + (among - alone) * min(1.0, clips / self.clips)


@torch.inference_mode()
def distances_together(
    model: Any, outputs: Sequence[Any], text_embedding: Any, *, seen: Ids, gamma: float
) -> Iterator[Float[Tensor, "batch num_classes"]]:
    """Yields the distances of clips from classes that have moved to where all clips are.

    Args:
        model: a `Together`.
        outputs: what it returned of all clips, batch by batch.
        text_embedding: of all candidates, where the model is.
        seen: columns of the seen classes.
        gamma: what holds these back while classes move; it is not in the distances.
    """
    before = model.embed_text(text_embedding).class_embedding
    added = before.new_zeros(len(before))
    added[torch.as_tensor(seen, dtype=torch.int64, device=added.device)] = gamma
    moved = model.classes_together(outputs, text_embedding, added).class_embedding
    for output in outputs:
        yield model.scores(output, moved)


class PartTogether:
    """The clips of a part, read once, to be evaluated together at any gamma.

    Args:
        model: a `Together`.
        part: clips and candidate classes.
        windows: how clips are cut.
        batch_size: clips in a batch, of no account to the result.
        device: where the model is.

    Raises:
        TCAFError: there are no clips.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Any,
        part: EvaluationPart,
        windows: Windows,
        *,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model
        self.part = part
        batches = read_part(model, part, windows, batch_size=batch_size, device=device)
        self.outputs = [model(batch) for batch in batches]
        self.text = part.class_text.to(device).model_input

    def distances(self, gamma: float) -> Iterator[Float[Tensor, "batch num_classes"]]:
        """Yields the distances of one batch of clips after the other."""
        seen = self.part.classes.seen_ids
        return distances_together(self.model, self.outputs, self.text, seen=seen, gamma=gamma)

    def evaluate(self, gamma: float) -> GZSLResult:
        """Returns the scores at a gamma."""
        return score(self._decide(self.distances(gamma)), gamma=gamma)

    @torch.inference_mode()
    def search(self) -> GZSLResult:
        """Returns the scores at the gamma with the best harmonic mean.

        The range is that of the margins of clips that are answered one by one.

        Raises:
            TCAFError: there are no clips of seen classes, or none of unseen ones.
        """
        classes = self.model.embed_text(self.text).class_embedding
        alone = self._decide(self.model.scores(output, classes) for output in self.outputs)
        score(alone, gammas=None)  # which refuses a missing half
        gammas = margin_gammas(alone)
        tried = {gamma: self.evaluate(gamma) for gamma in gammas[::STRIDE]}

        def best() -> float:
            return max(sorted(tried), key=lambda gamma: tried[gamma].harmonic_mean)

        place = gammas.index(best())
        near = gammas[max(0, place - STRIDE + 1) : place + STRIDE]
        tried |= {gamma: self.evaluate(gamma) for gamma in near if gamma not in tried}
        return tried[best()]

    def choose(self) -> TogetherChoice:
        """Returns what these clips choose, being those of validation.

        Raises:
            TCAFError: see `search`.
        """
        result = self.search()
        found = torch.cat([batch.cpu() for batch in self.distances(result.gamma)])
        temperature = fit_temperature(
            found, self.part.labels, seen=self.part.classes.seen_ids, gamma=result.gamma
        )
        return TogetherChoice(result.gamma, temperature, result.scores(), len(self.part.rows))

    @torch.inference_mode()
    def _decide(self, distances: Iterable[Float[Tensor, "batch num_classes"]]) -> Decisions:
        seen, unseen = self.part.classes.seen_ids, self.part.classes.unseen_ids
        labels, decided = self.part.labels, []
        for batch in distances:
            true, labels = labels[: len(batch)], labels[len(batch) :]
            decided.append(decide(batch, true, seen=seen, unseen=unseen))
        return join_decisions(decided)
