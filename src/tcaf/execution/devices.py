"""Where to compute, how precisely, and how tensors come there."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from tcaf.errors import TCAFError
from tcaf.execution import ranks

GPU_BYTES = 2 << 30
"""Memory of a GPU that a process which makes features of files may take: networks, maps, torch."""

Precision = Literal["float32", "tf32", "bfloat16"]


def pick_device(name: str) -> torch.device:
    """Returns the device to compute on: of several ranks on a machine each has a GPU of its own.

    Raises:
        TCAFError: a GPU was asked for and there is none, or there are fewer than ranks.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise TCAFError("the device is 'cuda', but torch finds no GPU; use 'cpu' or 'auto'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    rank = ranks.current()
    if name == "cpu" or rank.count == 1:
        return torch.device(name)
    if rank.local >= torch.cuda.device_count():
        raise TCAFError(
            f"there are more processes on this machine than its {torch.cuda.device_count()} GPUs; "
            "let torchrun start as many, or set training.device to 'cpu'"
        )
    return torch.device("cuda", rank.local)


def fitting_processes(device: torch.device, processes: int) -> int:
    """Returns how many of so many processes have room on a device, each with networks of its own.

    A CPU has room for all; a GPU for one, and a further one for each `GPU_BYTES` that are free.
    """
    if device.type != "cuda":
        return processes
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(processes, free // GPU_BYTES))


def on_cpu(tensor: Shaped[Tensor, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """Returns a tensor of any device as float32 numbers, once they are there."""
    found: np.ndarray = tensor.float().cpu().numpy()
    return found


def moved(tensor: Shaped[Tensor, "*shape"], device: torch.device | str) -> Tensor:
    """Returns a tensor on a device, without waiting for what the device has to do before.

    From memory that is not pinned a copy to a GPU waits for all that was asked of it.
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Lets products of float32 be computed in tf32 while the body runs, if that is asked for.

    Only some GPUs have it; elsewhere nothing changes.
    """
    before = torch.get_float32_matmul_precision()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def forward_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Returns what a forward pass is to run in: products in bfloat16, sums in float32, or as is."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


class Glimpse:
    """Numbers that are looked at when a device has come to them, not waited for.

    Args:
        numbers: on any device; they are copied as they are now.
    """

    def __init__(self, numbers: Shaped[Tensor, " n"]) -> None:
        self._event: torch.cuda.Event | None = None
        if numbers.device.type != "cuda":
            self._numbers = numbers.detach().clone()
            return
        self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        self._numbers.copy_(numbers.detach(), non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    @property
    def is_ready(self) -> bool:
        """Whether the numbers are here."""
        return self._event is None or self._event.query()

    def look(self) -> list[float]:
        """Returns the numbers; waits for them where they are not ready."""
        if self._event is not None:
            self._event.synchronize()
        return self._numbers.tolist()
