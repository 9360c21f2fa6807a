"""A tiny system that reads two text spaces: the section text, and word vectors called `words`."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tcaf.systems.interface import ClassEmbeddings, System, TextSpacesConfig
from tcaf.systems.losses import Losses
from write_words import write_glove


@dataclass(frozen=True, kw_only=True)
class TwoSpacesConfig(TextSpacesConfig):
    joint_dim: int = 4


@dataclass(frozen=True)
class Output:
    video_embedding: torch.Tensor


class TwoSpaces(nn.Module):
    """Clips and the sum of what is made of a class in each space, both linear."""

    modalities = ("audio", "visual")

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.video = nn.Linear(config.audio_dim + config.visual_dim, config.joint_dim)
        self.text = nn.ModuleDict(
            {space: nn.Linear(dim, config.joint_dim) for space, dim in config.text_dims.items()}
        )

    def forward(self, batch):
        return Output(self.video(torch.cat([batch.audio.mean(), batch.visual.mean()], dim=1)))

    def embed_text(self, text):
        return ClassEmbeddings(sum(layer(text[space]) for space, layer in self.text.items()))

    def scores(self, batch, class_embedding):
        return torch.cdist(self(batch).video_embedding, class_embedding)


def objective(model, batch, negatives, text, experiment):
    classes = model.embed_text(text).class_embedding
    own = model.embed_text(text.select(batch.labels)).class_embedding
    video = model(batch).video_embedding
    return Losses(
        {
            "cross_entropy": F.cross_entropy(video @ classes.T, batch.labels),
            "regression": (video - own).square().mean(),
        }
    )


SYSTEM = System(
    "two_spaces",
    "Two spaces",
    TwoSpacesConfig,
    TwoSpaces,
    objective,
    averages=True,
    spaces=("text", "words"),
    ignores=frozenset({"objective"}),
)


def write_spaces(folder, names, seed=0):
    """Writes attributes and word vectors of classes; returns the two files."""
    rng = np.random.default_rng(seed)
    rows = [f'"{name}",{",".join(map(str, rng.normal(size=5)))}' for name in names]
    (folder / "attributes.csv").write_text("class,a,b,c,d,e\n" + "\n".join(rows) + "\n")
    words = sorted({word for name in names for word in name.replace(",", " ").split()})
    vectors = {word: rng.normal(size=3).tolist() for word in words}
    return folder / "attributes.csv", write_glove(folder / "words.txt", vectors)
