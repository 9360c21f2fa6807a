"""ClipClap: loss and inference by hand, in formulas, and that it learns."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.seeding import generator, seeded
from tcaf.settings.experiment import Experiment
from tcaf.settings.sections import ObjectiveSettings
from tcaf.systems.clipclap import ClipClap, ClipClapConfig, clipclap_objective
from tcaf.text.spaces import ClassText

VISUAL, AUDIO, CLASSES, CLIPS = 7, 5, 11, 23
LABELS = torch.arange(CLIPS) * 3 % CLASSES
TEXT = ClassText(
    {
        space: F.normalize(torch.randn(CLASSES, dim, generator=generator(0, space)), dim=1)
        for space, dim in (("visual", 13), ("audio", 3))
    }
)


def build(seed=0, **options):
    sizes = {"audio_dim": AUDIO, "visual_dim": VISUAL, "text_dims": TEXT.dims}
    scaling = {"audio_scaling": "l2", "visual_scaling": "l2"}
    small = {"hidden_dim": 17, "joint_dim": 19, "dropout": 0.0}
    with seeded(seed, "model"):
        return ClipClap(ClipClapConfig(**{**sizes, **scaling, **small, **options}))


def clips(labels=LABELS, seed=0):
    """Clips of one to three tokens around a place of their class."""
    counts = torch.arange(len(labels)) % 3 + 1
    packed = {}
    for name, dim in (("audio", AUDIO), ("visual", VISUAL)):
        places = torch.randn(CLASSES, dim, generator=generator(0, "places", name))
        noise = 0.1 * torch.randn(int(counts.sum()), dim, generator=generator(seed, name))
        tokens = places[labels.repeat_interleave(counts)] + noise
        packed[name] = Packed(tokens, counts, torch.zeros(len(tokens)))
    return FeatureBatch(**packed, labels=labels)


def through(blocks, rows):
    """Linear, batch norm of these rows, ReLU, block by block."""
    for block in blocks:
        rows = rows @ block.linear.weight.T + block.linear.bias
        rows = (rows - rows.mean(dim=0)) / (rows.var(dim=0, correction=0) + 1e-5).sqrt()
        rows = (rows * block.norm.weight + block.norm.bias).clamp_min(0)
    return rows


def test_the_loss_is_that_of_the_formulas():
    model, batch = build().train(), clips()
    found = clipclap_objective(model, batch, None, TEXT, Experiment()).named
    sides = []
    for packed in (batch.visual, batch.audio):
        tokens = packed.tokens.split(packed.lens.tolist())
        means = torch.stack([each.mean(dim=0) for each in tokens])
        sides.append(means / means.norm(dim=1, keepdim=True))
    theta_o = through(model.video_projection, through(model.video_encoder, torch.cat(sides, 1)))
    w = through(model.text_encoder, torch.cat([TEXT["visual"], TEXT["audio"]], dim=1))
    theta_w = through(model.text_projection, w)
    logits = theta_o @ theta_w.T
    chances = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    expected = {
        "cross_entropy": -chances[torch.arange(CLIPS), LABELS].log().mean(),
        "regression": (theta_o - theta_w[LABELS]).square().mean(),
        "reconstruction": (through(model.video_decoder, theta_o) - w[LABELS]).square().mean()
        + (through(model.text_decoder, theta_w) - w)[LABELS].square().mean(),
    }
    assert {n: v.item() for n, v in found.items()} == pytest.approx(
        {n: v.item() for n, v in expected.items()}, rel=1e-4
    )
    assert [len(part) for part in (model.video_projection, model.video_decoder)] == [2, 2]
    # w' is a target that moves: the gradient of a reconstruction alone reaches W_enc by it.
    alone = ObjectiveSettings(cross_entropy=False, regression=False)
    loss = clipclap_objective(model, batch, None, TEXT, replace(Experiment(), objective=alone))
    loss.total.backward()
    assert model.text_encoder[0].linear.weight.grad.abs().sum() > 0


def test_distances_are_euclidean_and_embeddings_not_negative():
    model, batch = build().eval(), clips()
    places, classes = model(batch).video_embedding, model.embed_text(TEXT).class_embedding
    assert bool((places >= 0).all())
    assert bool((classes >= 0).all())
    found = model.scores(batch, classes)
    for clip in (0, 7, 22):
        for label in (0, 4, 10):
            pairs = zip(places[clip].tolist(), classes[label].tolist(), strict=True)
            expected = math.sqrt(sum((a - b) ** 2 for a, b in pairs))
            assert found[clip, label].item() == pytest.approx(expected, abs=1e-5)


def test_what_has_the_wrong_size():
    model = build()
    with pytest.raises(TCAFError, match="expected visual features of size 8, got 7"):
        build(visual_dim=8)(clips())
    short = ClassText({"visual": TEXT["visual"][:, 1:], "audio": TEXT["audio"]})
    with pytest.raises(TCAFError, match=r"embeddings of size 13 in the space 'visual', got 12"):
        model.embed_text(short)


@pytest.mark.slow
def test_it_learns():
    model, experiment = build(), Experiment()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    batch, new = clips(), clips(seed=1)
    for _ in range(150):
        optimiser.zero_grad()
        clipclap_objective(model.train(), batch, None, TEXT, experiment).total.backward()
        optimiser.step()
    classes = model.eval().embed_text(TEXT).class_embedding
    right = model.scores(new, classes).argmin(dim=1) == LABELS
    assert right.float().mean() > 0.9
