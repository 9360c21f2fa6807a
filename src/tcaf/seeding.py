"""One seed, and a separate stream of random numbers for each purpose.

Owns how a purpose's stream follows from the run's seed, so that a stage resumed at epoch 7 draws
exactly what an uninterrupted one draws there: no generator state needs to be kept.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Returns the 63-bit seed of one purpose, such as `derive_seed(0, "windows", "stage_1", 7)`."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Returns a CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Runs the body with torch's global stream set for one purpose, and restores it afterwards.

    For what torch draws from its global stream only: initial weights and dropout. The streams of
    the CPU and of every CUDA device are set and restored.
    """
    # `torch.manual_seed` seeds every GPU; left to itself, `fork_rng` warns where there are several.
    gpus = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=gpus, device_type="cuda"):
        torch.manual_seed(derive_seed(seed, *purpose))
        yield
