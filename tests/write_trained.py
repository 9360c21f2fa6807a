"""Small models of every system, without training where weights may as well be random.

And how they answer: from clips as they are, and as graphs take them.
"""

from dataclasses import replace

import numpy as np
import torch

from tcaf.data.batches import LoadedClips, load_batch
from tcaf.data.classes import ClassSet
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.windows import Windows
from tcaf.export.portable import PortableModel
from tcaf.seeding import seeded
from tcaf.settings.sections import TextSettings
from tcaf.systems.registry import SYSTEMS, configure
from tcaf.text.spaces import ClassText
from tcaf.training.model_file import TrainedModel

SPEC = FeatureSpec(5, 7, 0.96, 0.64, "mine", "mine")
CLASSES = ClassSet.of(
    ("cat purring", "dog barking", "playing drum"), ("owl hooting", "rain falling")
)


def clips(lens, seed=0, spec=SPEC):
    """Clips with these numbers of audio and visual tokens: pairs, either may be 0."""
    rng = np.random.default_rng(seed)
    return [
        VideoFeatures(
            f"clip {number}",
            rng.normal(size=(audio, spec.audio_dim)).astype(np.float32),
            rng.normal(size=(visual, spec.visual_dim)).astype(np.float32),
        )
        for number, (audio, visual) in enumerate(lens)
    ]


def write_trained(system, experiment, *, anchor=None, missing=None, epoch=1, **options):
    """Makes a model of a system.

    Args:
        system: its name.
        experiment: settings of any other.
        anchor: scale of raw distances.
        missing: a modality that no clip to learn from has.
        epoch: what a fit solves for.
        options: the system's own settings.
    """
    spaces = tuple(SYSTEMS[system].spaces)
    dims = {"visual": SPEC.visual_dim, "audio": SPEC.audio_dim, "text": 11}
    needed = dict.fromkeys([*spaces, *(("visual", "audio") if anchor else ())])
    experiment = replace(
        experiment,
        system=system,
        options={**experiment.options, **options},
        evaluation=replace(experiment.evaluation, anchored=anchor is not None),
        text_spaces={space: TextSettings() for space in needed if space != "text"},
    )
    rng = np.random.default_rng(3)
    text = {s: torch.from_numpy(rng.normal(size=(5, dims[s])).astype(np.float32)) for s in needed}
    with seeded(0, system):
        config = configure(
            experiment,
            audio_dim=SPEC.audio_dim,
            visual_dim=SPEC.visual_dim,
            text_dim={space: dims[space] for space in spaces},
        )
        model = SYSTEMS[system].model(config)
        _with_statistics(model)
    if SYSTEMS[system].fit is not None:
        _fit(system, model, text["text"], missing, epoch)
    return TrainedModel(
        system,
        model.eval(),
        SPEC,
        CLASSES,
        ClassText(text),
        0.3,
        experiment,
        0.7,
        anchor=anchor,
    )


def _with_statistics(model):
    """Gives running statistics that are no longer 0 and 1."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.3)
        elif name.endswith(("running_var", "text_mean")):
            buffer.uniform_(0.5, 2)


def _fit(system, model, text, missing, epoch):
    lens = [(4 + i % 5, 6 + i % 3) for i in range(60)]
    if missing:
        lens = [(0, v) if missing == "audio" else (a, 0) for a, v in lens]
    labels = np.arange(60) % 3
    videos = clips(lens, seed=8)
    batch = load_batch(LoadedClips(videos, SPEC), np.arange(60), Windows(), labels=labels)
    fit = SYSTEMS[system].fit(model, [batch], text[:3])
    fit.solve(epoch)


def padded(videos, portable, rest=np.nan):
    """Clips as a graph takes them; whatever lies beside them is not to be read."""
    found = {}
    for modality in portable.masks:
        tokens = [video.tokens(modality) for video in videos]
        longest = max(1, *map(len, tokens))
        rows = np.full((len(videos), longest, SPEC.dim(modality)), rest, np.float32)
        mask = np.zeros(rows.shape[:2], bool)
        for i, own in enumerate(tokens):
            rows[i, : len(own)], mask[i, : len(own)] = own, True
        found[f"{modality}_mask"] = torch.from_numpy(mask)
        if modality in portable.tokens:
            found[modality] = torch.from_numpy(rows)
    return found


def portable_of(classifier):
    return PortableModel(
        classifier.model,
        classifier.trained.system,
        classifier.spec,
        classifier.windows,
        classifier.gamma,
        classifier.temperature,
    )


def answered(classifier, videos):
    """Distances and probabilities by the packed way."""
    found = classifier.scores(LoadedClips(videos, SPEC), np.arange(len(videos)))
    return found.distances, found.probabilities
