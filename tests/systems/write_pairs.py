"""Clips with their classes; for systems that train on triplets, as many of other classes too."""

import torch

from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packed
from tcaf.seeding import generator

CLASSES, CLIPS = 7, 97
AUDIO_DIM, VISUAL_DIM, TEXT_DIM = 5, 11, 13
TEXT = torch.nn.functional.normalize(
    torch.randn(CLASSES, TEXT_DIM, generator=generator(0, "text")), dim=1
)


def clips_of(labels, seed, visual_dim=VISUAL_DIM, shortest=2):
    """Audio and visual tokens around the place of each clip's class: `shortest`, up to 2 more."""
    lens = torch.randint(shortest, shortest + 3, (len(labels),), generator=generator(seed, "lens"))
    packed = {}
    for name, dim in (("audio", AUDIO_DIM), ("visual", visual_dim)):
        places = torch.randn(CLASSES, dim, generator=generator(0, name))
        noise = torch.randn(int(lens.sum()), dim, generator=generator(seed, name))
        packed[name] = Packed(
            places[labels.repeat_interleave(lens)] + 0.3 * noise,
            lens,
            torch.zeros(int(lens.sum())),
        )
    return FeatureBatch(**packed, labels=labels)


def pairs(seed):
    """Returns clips, and as many of other classes."""
    draw = generator(seed, "labels")
    labels = torch.randint(CLASSES, (CLIPS,), generator=draw)
    others = (labels + torch.randint(1, CLASSES, (CLIPS,), generator=draw)) % CLASSES
    return clips_of(labels, seed), clips_of(others, seed + 10_000)
