"""What keeps unseen classes unseen, where a run learns from more than its own clips.

Owns the rule: a label that is the name of an unseen class, in validation or test, or by its text
nearly so, may not be learnt from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tcaf.data.store import FeatureStore
from tcaf.settings.experiment import Experiment
from tcaf.settings.sections import TextSettings
from tcaf.systems.registry import find_system
from tcaf.text.class_text import embed_classes
from tcaf.text.spaces import naming_space


def names_alone(settings: TextSettings) -> TextSettings:
    """Returns settings by which a class's text is that of its name, compared with no words."""
    return replace(settings, phrases=("name",), phrases_file="", words="")


def called(names: Iterable[str], store: FeatureStore) -> set[str]:
    """Returns all that classes or labels are called, in small letters."""
    phrases = [p for n in names for p in (n, *store.phrases.get(n, {}).get("name", []))]
    return {phrase.casefold() for phrase in phrases}


def learnt_spaces(experiment: Experiment) -> dict[str, TextSettings]:
    """Returns where text comes from in the spaces that are learnt from, which anchors' are not."""
    system = find_system(experiment.system)
    settings = system.text_settings(experiment)
    return {space: settings[space] for space in system.spaces}


def near_unseen(
    experiment: Experiment,
    store: FeatureStore,
    labels: Sequence[str],
    other: FeatureStore,
    phrases: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """Returns the labels that may not be learnt from, each with the unseen class that it is near.

    By name alone: descriptions, verticals and prompts make all music alike. Of several text spaces
    it is enough to be near in one; one with a single number, as where a modality is left out, tells
    nothing apart and does not count.

    Args:
        experiment: all settings.
        store: of the split.
        labels: what may be learnt from.
        other: the store whose phrases labels have.
        phrases: of labels, in place of those.

    Raises:
        TCAFError: a label without text.
    """
    split = store.split(experiment.data.split)
    unseen = [*split.val_unseen, *split.test_unseen]
    alike = np.full((len(labels), len(unseen)), -1.0)
    spaces = learnt_spaces(experiment)
    for space, settings in spaces.items():
        with naming_space(space, spaces):
            by_name = replace(names_alone(settings), prompts="")
            own, theirs = (
                embed_classes(by_name, unseen, store),
                embed_classes(by_name, labels, other, phrases),
            )
        if own.shape[1] == 1:
            continue
        own, theirs = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (own, theirs))
        alike = np.maximum(alike, theirs @ own.T)
    nearest = alike.argmax(axis=1)
    least = experiment.data.auxiliary_similarity
    names = {name: called([name], store) for name in unseen}
    found = {}
    for row, label in enumerate(labels):
        own_names = called([label], other)
        same = [name for name in unseen if own_names & names[name]]
        if same or alike[row, nearest[row]] >= min(least, 1 - 1e-5):
            found[label] = same[0] if same else unseen[nearest[row]]
    return found
