"""Where to compute."""

import torch

from tcaf.errors import TCAFError
from tcaf.execution import ranks


def pick_device(name: str) -> torch.device:
    """Returns the device to compute on: of several ranks on a machine each has a GPU of its own.

    Raises:
        TCAFError: a GPU was asked for and there is none, or there are fewer than ranks.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise TCAFError("training.device is 'cuda', but torch finds no GPU; use 'cpu' or 'auto'")
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
