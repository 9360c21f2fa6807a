"""Class text of the sizes of features, near which clips of its class are."""

import numpy as np

from tcaf.settings.sections import TextSettings
from tcaf.systems.interface import FEATURE_SPACES


def aligned_text(store, names=None, noise=0.3):
    """Returns by text space each class's text: the unit mean of its clips, and some noise."""
    rng = np.random.default_rng(0)
    found = {}
    for modality in FEATURE_SPACES:
        found[modality] = {}
        for name in names or store.split("cls").classes:
            rows = np.flatnonzero(store.class_names == name)[:5].tolist()
            tokens = [store[row].tokens(modality).astype(np.float32) for row in rows]
            mean = np.concatenate(tokens).mean(axis=0)
            mean = mean / np.linalg.norm(mean) + noise * rng.normal(size=len(mean))
            found[modality][name] = mean.astype(np.float32)
    return found


def keep_aligned_text(store):
    """Keeps such text with a store; returns the settings of the text spaces that take it."""
    for modality, vectors in aligned_text(store).items():
        store.add_text(f"{modality}_text", vectors)
    return {m: TextSettings(source="stored", name=f"{m}_text") for m in FEATURE_SPACES}
