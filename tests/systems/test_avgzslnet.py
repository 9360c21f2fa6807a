import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from write_pairs import CLASSES, CLIPS, TEXT, clips_of, pairs

from tcaf.errors import TCAFError
from tcaf.seeding import generator, seeded
from tcaf.settings.experiment import Experiment
from tcaf.systems.avgzslnet import (
    AVGZSLNet,
    AVGZSLNetConfig,
    AVGZSLNetOutput,
    avgzslnet_losses,
    avgzslnet_objective,
)
from tcaf.systems.joint_space import TextOutput

SIZES = {
    "audio_dim": 5,
    "visual_dim": 11,
    "text_dim": 13,
    "hidden_dim": 67,
    "joint_dim": 17,
    "decoder_hidden_dim": 19,
}
NO_DROPOUT = {"dropout_embedder": 0.0, "dropout_decoder": 0.0}


def config(**settings):
    scaling = {"audio_scaling": "none", "visual_scaling": "none"}
    return AVGZSLNetConfig(**{**SIZES, **scaling, **settings})


def build(seed=0, **settings):
    with seeded(seed, "model"):
        return AVGZSLNet(config(**settings))


# One clip, places on a line (the second number is 0 throughout), and one of another class.
T, OTHER_T = 0.0, 1.5
A, OTHER_A = 2.0, 0.25
V, OTHER_V = -1.0, 4.0
G_T, G_A, OTHER_G_A, G_V, OTHER_G_V = 0.5, 0.75, 1.0, -0.5, 0.25
W = 1.0
# T(t; a, a-) = 2 - .25 + 1; T(a; t, t-) = 2 - .5 + 1; T(t; v, v-) = max(0, 1 - 4 + 1);
# T(v; t, t-) = max(0, 1 - 2.5 + 1).
COMPOSITE_TRIPLET = 2.75 + 2.5 + 0 + 0
# |.5 - 1| + |.75 - 1| + |-.5 - 1|
RECONSTRUCTION = 0.5 + 0.25 + 1.5
# T(g(t); g(a), g(a-)) = .25 - .5 + 1; T(g(t); g(v), g(v-)) = 1 - .25 + 1.
CROSS_TRIPLET = 0.75 + 1.75


def place(*numbers):
    return torch.tensor([[number, 0.0] for number in numbers])


def by_hand(**options):
    return avgzslnet_losses(
        AVGZSLNetOutput(place(A), place(V), place(G_A), place(G_V)),
        AVGZSLNetOutput(place(OTHER_A), place(OTHER_V), place(OTHER_G_A), place(OTHER_G_V)),
        TextOutput(place(T), place(G_T)),
        TextOutput(place(OTHER_T), place(99.0)),
        place(W),
        **options,
    )


def test_a_clip_by_hand():
    expected = {
        "composite_triplet": COMPOSITE_TRIPLET,
        "reconstruction": RECONSTRUCTION,
        "cross_triplet": CROSS_TRIPLET,
    }
    expected["loss"] = sum(expected.values())
    found = {name: term.item() for name, term in by_hand().terms().items()}
    assert found == pytest.approx(expected, abs=1e-4)


def test_margin_by_hand():
    # 3 more for each triplet, those that counted as 0 excepted: -2 + 3 and -.5 + 3.
    found = by_hand(margin=4.0).named
    assert found["composite_triplet"].item() == pytest.approx(5.75 + 5.5 + 1 + 2.5, abs=1e-4)
    assert found["cross_triplet"].item() == pytest.approx(CROSS_TRIPLET + 6, abs=1e-4)


def test_reconstruction_is_the_mean_of_distances():
    # Distances 5 and 0 of g(t) and the same for a and v: a mean of squares would say 12.5.
    far, target = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    clips, text = AVGZSLNetOutput(far, far, far, far), TextOutput(far, far)
    found = avgzslnet_losses(clips, clips, text, text, target)
    assert found.named["reconstruction"].item() == pytest.approx(3 * 2.5)


def test_a_perfect_reconstruction_has_a_gradient():
    same = torch.ones(3, 2, requires_grad=True)
    clips, text = AVGZSLNetOutput(same, same, same, same), TextOutput(same, same)
    avgzslnet_losses(clips, clips, text, text, torch.ones(3, 2)).total.backward()
    assert bool(same.grad.isfinite().all())


def test_both_distances_count(monkeypatch, random_batch):
    audio, visual = torch.tensor([[0.0, 0.0], [6.0, 8.0]]), torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    output = AVGZSLNetOutput(audio, visual, audio, visual)
    model = build(joint_dim=2).eval()
    monkeypatch.setattr(model, "forward", lambda batch: output)
    # Of the classes (0, 0) and (6, 8): clip 0 has audio at 0 and 10, visual at 5 and 5; clip 1 has
    # audio at 10 and 0. The distance of the mean (1.5, 2) would be 2.5 and 7.5.
    classes = torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    scores = model.scores(random_batch([1] * 2, [1] * 2, audio_dim=5, visual_dim=11), classes)
    assert scores.tolist() == [[5.0, 15.0], [15.0, 5.0]]
    assert output.video_embedding.tolist() == [[1.5, 2.0], [4.5, 6.0]]


def test_text_is_reconstructed_at_unit_length():
    model = build()
    output, text = model(pairs(0)[0]), model.embed_text(TEXT)
    for decoded in (
        output.audio_reconstruction,
        output.visual_reconstruction,
        text.text_reconstruction,
    ):
        torch.testing.assert_close(decoded.norm(dim=1), torch.ones(len(decoded)))


def test_embeddings_may_be_negative():
    model = build()
    output = model(pairs(0)[0])
    text = model.embed_text(TEXT).class_embedding
    assert max(x.min() for x in (output.audio_embedding, output.visual_embedding, text)) < -0.1


def test_clips_are_matched_with_their_own_class():
    batch, negatives = pairs(0)
    model = build(**NO_DROPOUT).train()
    terms = avgzslnet_objective(model, batch, negatives, TEXT, Experiment()).terms()
    order = torch.randperm(CLASSES, generator=generator(0, "permutation"))
    moved = [replace(b, labels=order.argsort()[b.labels]) for b in (batch, negatives)]
    found = avgzslnet_objective(model, *moved, TEXT[order], Experiment()).terms()
    torch.testing.assert_close(found, terms)
    for half in ((moved[0], negatives), (batch, moved[1])):
        wrong = avgzslnet_objective(model, *half, TEXT[order], Experiment()).terms()
        assert wrong["composite_triplet"] != pytest.approx(
            terms["composite_triplet"].item(), rel=1e-4
        )


def test_the_other_clips_are_the_negatives():
    batch, negatives = pairs(0)
    model = build(**NO_DROPOUT).train()
    terms = avgzslnet_objective(model, batch, negatives, TEXT, Experiment()).terms()
    found = avgzslnet_objective(model, batch, pairs(1)[1], TEXT, Experiment()).terms()
    same = {name for name in terms if found[name] == pytest.approx(terms[name].item(), rel=1e-6)}
    assert same == {"reconstruction"}


def test_the_margin_is_read():
    terms = [
        avgzslnet_objective(
            build(margin=margin, **NO_DROPOUT), *pairs(0), TEXT, Experiment()
        ).terms()
        for margin in (1.0, 1e3)
    ]
    # Every triplet counts at 1000, and its distances are far smaller.
    assert terms[1]["composite_triplet"] == pytest.approx(4e3, rel=0.01)
    assert terms[1]["cross_triplet"] == pytest.approx(2e3, rel=0.01)
    assert terms[1]["reconstruction"] == terms[0]["reconstruction"]


def test_gradients_reach_every_parameter():
    model = build().train()
    avgzslnet_objective(model, *pairs(0), TEXT, Experiment()).total.backward()
    for name, parameter in model.named_parameters():
        # What is added before batch norm is taken off by it: the true gradient is 0.
        least = 0.0 if name.endswith("linear.bias") else 1e-6
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() >= least, name


def test_each_embedding_is_decoded():
    model = build().eval()
    output, text = model(pairs(0)[0]), model.embed_text(TEXT)
    assert torch.equal(output.audio_reconstruction, model.decode(output.audio_embedding))
    assert torch.equal(output.visual_reconstruction, model.decode(output.visual_embedding))
    assert torch.equal(text.text_reconstruction, model.decode(text.class_embedding))


def test_one_decoder_for_all_three():
    model = build()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        model.decoder[-1].bias[3] = 2.0
        output, text = model(pairs(0)[0]), model.embed_text(TEXT)
    unit = F.one_hot(torch.tensor([3]), 13).float()
    for decoded in (
        output.audio_reconstruction,
        output.visual_reconstruction,
        text.text_reconstruction,
    ):
        torch.testing.assert_close(decoded, unit.expand(len(decoded), -1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dropout_embedder", 1.0),
        ("dropout_decoder", -0.1),
        ("hidden_dim", 0),
        ("joint_dim", 0),
        ("decoder_hidden_dim", 0),
        ("margin", math.nan),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(TCAFError, match=name):
        config(**{name: value})


def test_every_setting_is_read():
    """Each size and setting moves the built network; the margin is read by the objective."""
    changes = {**dict.fromkeys(SIZES, 3), "batch_norm_momentum": 0.3}
    changes |= {"dropout_embedder": 0.25, "dropout_decoder": 0.25}
    for name, value in changes.items():
        assert repr(build(**{name: value})) != repr(build()), name
    elsewhere = {"margin", "audio_scaling", "visual_scaling"}
    assert {f.name for f in fields(AVGZSLNetConfig)} == set(changes) | elsewhere


def test_the_paper_s_sizes():
    model = AVGZSLNet(AVGZSLNetConfig(audio_dim=128, visual_dim=4096, text_dim=300))
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert shapes == [
        *((1024, 128), (64, 1024)),
        *((1024, 4096), (64, 1024)),
        *((300, 300), (64, 300)),
        *((64, 64), (300, 64)),
    ]
    rates = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == [0.8, 0.8, 0.8, 0.5]


@pytest.mark.slow
def test_it_learns():
    model = build(**NO_DROPOUT).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        optimiser.zero_grad()
        avgzslnet_objective(model, *pairs(step), TEXT, Experiment()).total.backward()
        optimiser.step()
    model.eval()
    batch = clips_of(torch.arange(CLIPS) % CLASSES, seed=77_777)
    with torch.no_grad():
        scores = model.scores(batch, model.embed_text(TEXT).class_embedding)
    assert (scores.argmin(dim=1) == batch.labels).float().mean() > 0.8
