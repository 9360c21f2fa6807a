"""Training steps over batches of fixed shapes: recorded once a shape on a GPU, and played again.

Owns when a step is taken as it is, when it is recorded, and what a recording holds on to. On a GPU
a step is some hundred kernels, which take less time than to ask for them one by one; a recording
(a CUDA graph) asks once for all. On a CPU the same batches are computed without a recording.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import Modality
from tcaf.data.filled import FixedShape, as_new
from tcaf.systems.losses import Losses
from tcaf.systems.optimisers import Optimiser

WARM_UP = 3
"""Steps that are taken before one is recorded: libraries make what they need in the first.

Of each shape the first one is taken too.
"""

MOST_SHAPES = 24
"""Shapes whose steps are recorded; of further ones steps are taken as they are."""

Terms = dict[str, Float[Tensor, ""]]
"""Terms of a loss, detached; `loss` is their sum."""


@runtime_checkable
class TakesFilled(Protocol):
    """A model that can be trained on batches that are filled up."""

    takes_filled: bool
    modalities: tuple[Modality, ...]


class Recorder:
    """Records nothing, the step is taken anew each time: for a CPU."""

    @property
    def is_ready(self) -> bool:
        """Whether steps may be recorded from now on."""
        return True

    def warm(self, step: Callable[[], Terms]) -> Terms:
        """Takes a step as it is."""
        return step()

    def record(self, step: Callable[[], Terms]) -> Callable[[], Terms]:
        """Returns what takes the step, over the same memory, whenever it is called."""
        return step

    def forget(self) -> None:
        """Lets go of what recordings share, once there are none any more."""


class CudaGraphs(Recorder):
    """Records steps as CUDA graphs, which share their memory: one is played at a time."""

    def __init__(self) -> None:
        self._warmed = 0
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    @property
    def is_ready(self) -> bool:
        """Whether enough steps were taken."""
        return self._warmed >= WARM_UP

    def warm(self, step: Callable[[], Terms]) -> Terms:
        """Takes a step as it is, on a stream of its own, as a recording will be made."""
        self._warmed += 1
        stream = self._stream = self._stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = step()
        torch.cuda.current_stream().wait_stream(stream)
        return found

    def record(self, step: Callable[[], Terms]) -> Callable[[], Terms]:
        """Records a step, which is not taken by that, and returns what plays it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            terms = step()
        self._pool = graph.pool()

        def play() -> Terms:
            graph.replay()
            return terms

        return play

    def forget(self) -> None:
        """Lets go of the memory: torch refuses one that no recording holds any more."""
        self._pool = None


@dataclass(frozen=True)
class _Recorded:
    held: FeatureBatch
    play: Callable[[], Terms]


class FixedSteps:
    """Takes steps of a stage over batches of fixed shapes.

    Args:
        losses: of a batch.
        optimiser: what turns them into a step.
        modalities: that the model reads.
        device: where it is.
        recorder: how steps are recorded; by default as the device can.
    """

    def __init__(
        self,
        losses: Callable[[FeatureBatch], Losses],
        optimiser: Optimiser,
        modalities: Sequence[Modality],
        device: torch.device,
        recorder: Recorder | None = None,
    ) -> None:
        self._losses, self._optimiser, self._modalities = losses, optimiser, modalities
        self._recorder = recorder or (CudaGraphs() if device.type == "cuda" else Recorder())
        self._recorded: dict[FixedShape, _Recorded] = {}
        self._seen: set[FixedShape] = set()
        self._learning_rate = 0.0

    def step(self, batch: FeatureBatch, learning_rate: float) -> Terms:
        """Takes a step and returns the terms of the loss."""
        if learning_rate != self._learning_rate:
            # It is part of what was recorded.
            self.forget()
            self._learning_rate = learning_rate
        shape = FixedShape.of(batch, self._modalities)
        if shape is None:
            return self._taken(batch)
        recorded = self._recorded.get(shape)
        if recorded is None:
            held = shape.new_batch(batch)
            shape.fill(held, batch)
            is_new = shape not in self._seen
            self._seen.add(shape)
            if is_new or not self._recorder.is_ready or len(self._recorded) >= MOST_SHAPES:
                return self._recorder.warm(lambda: self._taken(held))
            # What follows from lengths follows from those that are there when it is played.
            play = self._recorder.record(lambda: self._taken(as_new(held)))
            recorded = self._recorded[shape] = _Recorded(held, play)
        else:
            shape.fill(recorded.held, batch)
        # Of a recording the next step writes where this one did.
        return {name: value.clone() for name, value in recorded.play().items()}

    def forget(self) -> None:
        """Lets go of what was recorded: the learning rate or the averages are others now."""
        self._recorded.clear()
        # Gradients lie in the recordings' memory.
        self._optimiser.steps.zero_grad()
        self._recorder.forget()

    def _taken(self, batch: FeatureBatch) -> Terms:
        losses = self._losses(batch)
        self._optimiser.step(losses.total, self._learning_rate)
        return losses.terms()
