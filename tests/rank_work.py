"""What the ranks of one torchrun do for `tests/systems/test_over_ranks.py`; alone it does the same.

Prints nothing; the first rank leaves its findings in the file that it is given.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from tcaf.data.batches import LoadedClips
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.evaluation import parts
from tcaf.execution import ranks
from tcaf.settings.experiment import Experiment
from tcaf.settings.fidelity import Fidelity
from tcaf.settings.sections import EvaluationSettings, ModelSettings, TrainingSettings
from tcaf.systems.avgzslnet import AVGZSLNetConfig
from tcaf.systems.blocks import Block
from tcaf.systems.interface import System
from tcaf.systems.optimisers import new_optimiser
from tcaf.systems.over_ranks import mean_over_ranks, over_ranks
from tcaf.systems.registry import SYSTEMS, configure, find_system, register
from tcaf.systems.stages import DescentStage
from tcaf.systems.tcaf import TCAF
from tcaf.systems.training_parts import TrainingPart
from tcaf.text.spaces import ClassText
from tcaf.training.protocol import TwoStages

DROPOUTS = ("encoder", "position", "transformer", "text_projection", "video_projection")
OPTIONS = {
    "cjme": {"dropout": 0.0},
    "avgzslnet": {"dropout_embedder": 0.0, "dropout_decoder": 0.0},
    "avca": {"dropout_encoder": 0.0, "dropout_projection": 0.0, "dropout_decoder": 0.0},
    "clipclap": {"dropout": 0.0},
}
"""What turns dropout off in systems that have options for it."""

RATE = 1e-4
"""Adam's first steps are as long for gradients that are rounding: a larger rate shows in losses."""


def experiment(system, **fidelity):
    """Two steps of 11 clips, which two ranks cannot halve."""
    return Experiment(
        system=system,
        options=OPTIONS.get(system, {}),
        model=ModelSettings(
            num_layers=2,
            num_heads=3,
            head_dim=2,
            token_dim=13,
            position_dim=4,
            fourier_scale=0.3,
            **{f"dropout_{name}": 0.0 for name in DROPOUTS},
        ),
        fidelity=Fidelity(audio_scaling="none", **fidelity),
        training=TrainingSettings(
            batches_per_epoch=1, batch_size=11, learning_rate=1e-3, window_s=2.0, device="cpu"
        ),
        evaluation=EvaluationSettings(batch_size=31),
    )


def weights(model):
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def distances(model, part, windows):
    """The distances of clips from classes, which unlike weights hang on no sign of an axis."""
    return parts.distances(model, part, windows).tolist()


def steps(store, made):
    """The losses of three steps, a step an epoch, the weights then, and which have averages."""
    spaces = find_system(made.system).spaces
    protocol = TwoStages(made, store, dict.fromkeys(spaces, store.text("attributes")))
    stage = protocol.new_stage(1)
    losses = [stage.run_epoch(epoch, RATE) for epoch in (1, 2, 3)]
    found = {"weights": weights(stage.model), "state": sorted(stage.state())}
    if protocol.system.fit is not None:
        found["distances"] = distances(stage.model, protocol.validation, protocol.windows)
    return {"losses": losses, **found}


def own_system():
    """A system of a user's, which knows nothing of ranks."""

    class Plain(nn.Module):
        modalities = ("audio", "visual")

        def __init__(self, config):
            super().__init__()
            self.config = config
            self.video = nn.Sequential(
                nn.Linear(config.audio_dim + config.visual_dim, 17), nn.BatchNorm1d(17)
            )
            self.text = nn.Sequential(nn.Linear(config.text_dim, 17), nn.BatchNorm1d(17))
            self.unused = nn.Linear(3, 3)

        def forward(self, batch):
            means = torch.cat([batch.audio.mean(), batch.visual.mean()], dim=1)
            return self.video(means)

        def embed_text(self, text_embedding):
            return self.text(text_embedding)

        def scores(self, batch, class_embedding):
            return torch.cdist(self(batch), class_embedding)

    def objective(model, batch, negatives, text_embedding, given):
        from tcaf.systems.losses import Losses

        logits = model(batch) @ model.embed_text(text_embedding).T
        return Losses({"own": nn.functional.cross_entropy(logits, batch.labels)})

    register(System("plain", "Plain", AVGZSLNetConfig, Plain, objective))


def few_with_sound(lens):
    """The losses and weights of steps on clips of which these have so many audio tokens."""
    rng = np.random.default_rng(3)
    spec = FeatureSpec(5, 7, 0.96, 0.64, "a", "v")
    videos = [
        VideoFeatures(
            str(number),
            rng.normal(size=(length, 5)).astype(np.float32),
            rng.normal(size=(2 + number % 3, 7)).astype(np.float32),
            "",
            "",
            "a",
            "v",
        )
        for number, length in enumerate(lens)
    ]
    made = experiment("tcaf")
    made = replace(made, training=replace(made.training, batch_size=len(lens), window_s=None))
    config = configure(made, audio_dim=5, visual_dim=7, text_dim=4)
    torch.manual_seed(1)
    text = ClassText({"text": torch.randn(3, 4)})
    model = TCAF(config)
    part = TrainingPart(
        LoadedClips(videos, spec),
        np.arange(len(lens)),
        np.arange(len(lens)) % 3,
        text,
        Windows(),
        torch.device("cpu"),
    )
    stage = DescentStage(
        model,
        part,
        1,
        made,
        find_system("tcaf").objective,
        new_optimiser(model, made),
        negatives=False,
    )
    # Every clip once, in order: which rank has sound is then known.
    stage.sampler = SimpleNamespace(draw=lambda number, size, draw: np.arange(size)[None])
    losses = [stage.run_epoch(epoch, RATE) for epoch in (1, 2)]
    return {"losses": losses, "weights": weights(model), "state": sorted(stage.state())}


def norms():
    """What a block makes of rows split unevenly, three times; and the gradients of all."""
    rank = ranks.current()
    torch.manual_seed(2)
    block = over_ranks(Block(3, 5, 0.0, 0.1)) if rank.count > 1 else Block(3, 5, 0.0, 0.1)
    found = {}
    # All rows on the first rank; a row on one; an odd number of rows.
    for name, edges in (("first", [0, 7, 7]), ("single", [0, 1, 7]), ("odd", [0, 4, 7])):
        torch.manual_seed(5)
        rows = torch.randn(7, 3, requires_grad=True)
        weight = torch.randn(7, 5)
        own = slice(*edges[rank.index : rank.index + 2]) if rank.count > 1 else slice(0, 7)
        out = block(rows[own])
        loss = (out * weight[own]).sum() + mean_over_ranks((out * out).sum(dim=1)) / rank.count
        block.zero_grad()
        loss.backward()
        gradients = [rows.grad.clone(), *(p.grad.clone() for p in block.parameters())]
        ranks.add_up(*gradients)
        found[name] = [
            ranks.gathered(out.detach()).tolist(),
            *(gradient.tolist() for gradient in gradients),
            *(buffer.tolist() for buffer in block.buffers()),
        ]
    return found


def main(store, out):
    opened = FeatureStore.open(store)
    own_system()
    with ranks.joined():
        found = {"norms": norms()}
        for system in [name for name, own in SYSTEMS.items() if not own.training_free]:
            found[system] = steps(opened, experiment(system))
        release = {"cjme_attention": "separate_means", "text_statistics": "clips"}
        for system in ("tcaf", "cjme"):
            found[f"{system} of the release"] = steps(opened, experiment(system, **release))
        # The second rank's share has no sound, one clip of the first alone has, nobody has.
        for name, lens in (
            ("half", [2, 3, 4, 0, 0, 0]),
            ("one", [3, 0, 0, 0, 0, 0]),
            ("none", [0] * 6),
        ):
            found[f"sound: {name}"] = few_with_sound(lens)
        if not ranks.current().index:
            torch.save(found, out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
