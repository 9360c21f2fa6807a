"""The 1,000 classes that ImageNet's networks tell apart: their names, and the text of these.

Owns both lists, in the order of a classifier's rows. The rows are the network's
(`extract.efficientnet`).
"""

import csv
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NAMES = Path(__file__).with_name("imagenet.csv")
"""The classes in the order of a classifier's rows: name, and all its names parted by `|`."""

TEXT = Path(__file__).with_name("imagenet_text.safetensors")
"""The mean text embedding of each class's names, by the packaged sentence encoder."""


@cache
def imagenet_names() -> dict[str, tuple[str, ...]]:
    """Returns all names of each class, by its first one, in the order of a classifier's rows."""
    with NAMES.open(encoding="utf-8", newline="") as file:
        return {row["name"]: tuple(row["names"].split("|")) for row in csv.DictReader(file)}


def imagenet_text() -> Float[Tensor, "1000 384"]:
    """Returns the text of each class at unit length, in the order of a classifier's rows."""
    kept = safetensors.numpy.load_file(TEXT)["text"].astype(np.float32)
    return F.normalize(torch.from_numpy(kept), dim=1)
