"""Writes a small store of videos with several labels each, as further ones to learn from."""

from itertools import combinations

import numpy as np

from tcaf.data.features import VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store


def labelled_store(path, spec, words, *, twice=3, known=()):
    """Returns a store with videos of every pair of words, whose tokens are near those of both.

    Args:
        path: the folder.
        spec: of the features.
        words: the labels.
        twice: videos of each pair.
        known: further ids, whose videos have the first word alone.
    """
    rng = np.random.default_rng(0)
    places = {
        word: [rng.normal(size=dim) for dim in (spec.audio_dim, spec.visual_dim)] for word in words
    }
    videos = [
        (f"further {a} {b} {i}", (a, b)) for a, b in combinations(words, 2) for i in range(twice)
    ]
    with new_store(path, spec) as writer:
        for id_, labels in [*videos, *((id_, (words[0],)) for id_ in known)]:
            tokens = [
                np.stack([sum(places[w][m] for w in labels) + rng.normal(size=dim)] * 2)
                for m, dim in enumerate((spec.audio_dim, spec.visual_dim))
            ]
            writer.add(VideoFeatures(id_, *tokens, labels=labels))
        writer.phrases.update({word: {"name": [word]} for word in words})
    return FeatureStore.open(path)
