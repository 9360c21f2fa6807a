"""Where to compute."""

import torch

from tcaf.errors import TCAFError


def pick_device(name: str) -> torch.device:
    """Returns the device to compute on.

    Raises:
        TCAFError: a GPU was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise TCAFError("training.device is 'cuda', but torch finds no GPU; use 'cpu' or 'auto'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
