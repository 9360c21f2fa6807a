import math
from dataclasses import fields, replace

import pytest
import torch
from write_pairs import CLASSES, CLIPS, TEXT, clips_of, pairs

from tcaf.errors import TCAFError
from tcaf.seeding import generator, seeded
from tcaf.settings.experiment import Experiment
from tcaf.systems.cjme import (
    CJME,
    CJMEConfig,
    CJMEOutput,
    attention_target,
    cjme_losses,
    cjme_objective,
)


def config(**settings):
    sizes = {"audio_dim": 5, "visual_dim": 11, "text_dim": 13, "hidden_dim": 19, "joint_dim": 17}
    scaling = {"audio_scaling": "none", "visual_scaling": "none"}
    return CJMEConfig(**{**sizes, **scaling, **settings})


def build(seed=0, **settings):
    with seeded(seed, "model"):
        return CJME(config(**settings))


# Two clips in a joint space of 2; both names, and both clips of other classes, at the origin.
TEXT_EMBEDDING = torch.zeros(2, 2)
# The distances of audio are 3 and 0, those of visual 1 and 4; negatives are at 0.5 each.
AUDIO = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
VISUAL = torch.tensor([[0.0, 1.0], [0.0, 4.0]])
NEGATIVE = torch.tensor([[0.5, 0.0], [0.5, 0.0]])
ALPHA = torch.tensor([0.25, 0.5])
# T of audio is 3 - .5 + 1 = 3.5 and 0 - .5 + 1 = .5, of visual 1 - .5 + 1 = 1.5 and 4.5.
PER_CLIP = ((0.75 * 3.5 + 0.25 * 1.5) + (0.5 * 0.5 + 0.5 * 4.5)) / 2  # 2.75
# Mean weights .625 and .375, mean losses 2 and 3.
SEPARATE_MEANS = 0.625 * 2.0 + 0.375 * 3.0  # 2.375
# Differences (3, -1) and (0, -4): squares 9 + 1 + 0 + 16 over four elements.
ALIGNMENT = 26 / 4
# With the classes (0, 0) and (1, 0), clip 0 has audio logits (0, 3) and visual ones (0, 0): audio
# has the lower entropy, y = 0. Clip 1 has equal logits throughout, y = .5 = alpha.
CLASS_EMBEDDING = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
ATTENTION = (0.25**2 + 0.0) / 2


def by_hand(**options):
    clips, others = CJMEOutput(AUDIO, VISUAL, ALPHA), CJMEOutput(NEGATIVE, NEGATIVE, ALPHA)
    return cjme_losses(clips, others, TEXT_EMBEDDING, CLASS_EMBEDDING, **options)


@pytest.mark.parametrize(
    ("attention", "triplet"), [("per_clip", PER_CLIP), ("separate_means", SEPARATE_MEANS)]
)
def test_two_clips_by_hand(attention, triplet):
    found = by_hand(attention=attention).terms()
    expected = {"triplet": triplet, "alignment": ALIGNMENT, "attention": ATTENTION}
    expected["loss"] = sum(expected.values())
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, abs=1e-5)


def test_separate_means_are_the_square_of_all_products():
    weights, losses = ALPHA[:, None], torch.tensor([1.5, 4.5])
    others = torch.tensor([3.5, 0.5])
    square = (1 - weights) * others + weights * losses
    assert square.shape == (2, 2)
    assert by_hand(attention="separate_means").named["triplet"].item() == pytest.approx(
        square.mean().item(), abs=1e-5
    )


def test_margin_by_hand():
    # At .25, T of clip 1's audio is 0 - .5 + .25, which counts as 0.
    expected = ((0.75 * 2.75 + 0.25 * 0.75) + (0.5 * 0 + 0.5 * 3.75)) / 2
    assert by_hand(margin=0.25).named["triplet"].item() == pytest.approx(expected, abs=1e-5)


def test_who_is_surer_of_its_class():
    # Logits (0, x) over two classes: x = 0 has the entropy ln 2 = .693, x = 3 has
    # .0474 * 3.049 + .9526 * .0486 = .191, and x = 1 has .2689 * 1.3133 + .7311 * .3133 = .582.
    classes = torch.tensor([[0.0], [1.0]])
    audio = torch.tensor([[0.0], [3.0], [0.0], [1.0], [0.7]])
    visual = torch.tensor([[3.0], [0.0], [1.0], [0.0], [0.0]])
    # x = .7 has .3318 * 1.1032 + .6682 * .4032 = .635: a lead of .058, too small to count.
    target = attention_target(audio, visual, classes)
    assert target.tolist() == [1.0, 0.0, 1.0, 0.0, 0.5]


def test_the_target_is_the_same_for_any_class_order():
    draw = generator(0, "order")
    audio, visual = torch.randn(2, 23, 3, generator=draw)
    classes = torch.randn(5, 3, generator=draw)
    target = attention_target(audio, visual, classes)
    assert set(target.tolist()) == {0.0, 0.5, 1.0}
    assert torch.equal(attention_target(audio, visual, classes[[2, 0, 4, 1, 3]]), target)


def test_the_target_carries_no_gradient():
    audio = AUDIO.clone().requires_grad_()
    classes = CLASS_EMBEDDING.clone().requires_grad_()
    assert not attention_target(audio, VISUAL, classes).requires_grad


def test_a_clip_is_compared_by_its_weightier_modality(monkeypatch, random_batch):
    audio = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    visual = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    output = CJMEOutput(audio, visual, torch.tensor([0.49, 0.5, 0.51]))
    model = build(joint_dim=2).eval()
    monkeypatch.setattr(model, "forward", lambda batch: output)
    # The classes are 0 and 10 from the origin, and 5 and 5 from (3, 4).
    classes = torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    scores = model.scores(random_batch([1] * 3, [1] * 3, audio_dim=5, visual_dim=11), classes)
    assert scores.tolist() == [[0.0, 10.0], [5.0, 5.0], [5.0, 5.0]]
    assert torch.equal(output.video_embedding, torch.stack([audio[0], visual[1], visual[2]]))


def test_alpha_sees_the_features_themselves(random_batch):
    """alpha = sigmoid(Lin(BN([a; v]))), with batch norm at its start and a linear map by hand."""
    model = build().eval()
    batch = random_batch([1] * 3, [1] * 3, audio_dim=5, visual_dim=11)
    norm, linear = model.modality_attention[0], model.modality_attention[1]
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[0, 4] = 2.0  # the last audio feature
        linear.weight[0, 5] = -3.0  # the first visual feature
        linear.bias.fill_(0.5)
        alpha = model(batch).visual_weight
    features = batch.audio.tokens[:, 4] * 2 - batch.visual.tokens[:, 0] * 3
    expected = torch.sigmoid(features / math.sqrt(1 + norm.eps) + 0.5)
    torch.testing.assert_close(alpha, expected)


def test_embeddings_are_not_negative():
    model = build()
    output = model(pairs(0)[0])
    text = model.embed_text(TEXT).class_embedding
    assert min(x.min() for x in (output.audio_embedding, output.visual_embedding, text)) == 0


def test_fidelity_changes_the_objective():
    batch, negatives = pairs(0)
    found = {}
    for attention in ("per_clip", "separate_means"):
        model = build(cjme_attention=attention, dropout=0.0).train()
        found[attention] = cjme_objective(model, batch, negatives, TEXT, Experiment()).terms()
    per_clip, separate = found.values()
    assert per_clip["triplet"] != pytest.approx(separate["triplet"].item(), rel=1e-4)
    assert [per_clip[n] for n in ("alignment", "attention")] == [
        separate[n] for n in ("alignment", "attention")
    ]


def test_the_other_clips_are_the_negatives():
    batch, negatives = pairs(0)
    model = build(dropout=0.0).train()
    terms = cjme_objective(model, batch, negatives, TEXT, Experiment()).terms()
    found = cjme_objective(model, batch, pairs(1)[1], TEXT, Experiment()).terms()
    same = {name for name in terms if found[name] == pytest.approx(terms[name].item(), rel=1e-6)}
    assert same == {"alignment", "attention"}


def test_the_margin_is_read():
    batch, negatives = pairs(0)
    terms = [
        cjme_objective(
            build(margin=margin, dropout=0.0), batch, negatives, TEXT, Experiment()
        ).terms()["triplet"]
        for margin in (1.0, 100.0)
    ]
    # At 100 every triplet counts, and weights sum to 1: each one's loss is at least 90.
    assert terms[0] < 10
    assert terms[1] > 90


def test_clips_are_matched_with_their_own_class():
    batch, negatives = pairs(0)
    model = build(dropout=0.0).train()
    terms = cjme_objective(model, batch, negatives, TEXT, Experiment()).terms()
    order = torch.randperm(CLASSES, generator=generator(0, "permutation"))
    moved = replace(batch, labels=order.argsort()[batch.labels])
    moved = cjme_objective(model, moved, negatives, TEXT[order], Experiment())
    torch.testing.assert_close(moved.terms(), terms)
    wrong = cjme_objective(model, batch, negatives, TEXT[order], Experiment()).terms()
    assert wrong["triplet"] != pytest.approx(terms["triplet"].item(), rel=1e-4)


def test_gradients_reach_every_parameter():
    model = build().train()
    cjme_objective(model, *pairs(0), TEXT, Experiment()).total.backward()
    for name, parameter in model.named_parameters():
        # What is added before batch norm is taken off by it: the true gradient is 0.
        least = 0.0 if name.endswith("linear.bias") else 1e-6
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() >= least, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": 1.0}, "dropout"),
        ({"hidden_dim": 0}, "hidden_dim"),
        ({"joint_dim": 0}, "joint_dim"),
        ({"margin": -1.0}, "margin"),
        ({"cjme_attention": "per_class"}, "did you mean 'per_clip'"),
    ],
)
def test_settings_out_of_range(unchecked, settings, message):
    with pytest.raises(TCAFError, match=message):
        config(**settings)


def test_every_setting_is_read():
    """Each size and setting moves the built network; the others are read by the objective."""
    changes = {"hidden_dim": 29, "joint_dim": 31, "dropout": 0.7, "batch_norm_momentum": 0.3}
    changes |= {"audio_dim": 3, "visual_dim": 3, "text_dim": 3}
    for name, value in changes.items():
        assert repr(build(**{name: value})) != repr(build()), name
    elsewhere = {"margin", "cjme_attention", "audio_scaling", "visual_scaling"}
    assert {f.name for f in fields(CJMEConfig)} == set(changes) | elsewhere


def test_the_paper_s_sizes():
    model = CJME(CJMEConfig(audio_dim=128, visual_dim=4096, text_dim=300))
    shapes = [tuple(p.shape) for n, p in model.named_parameters() if n.endswith("weight")]
    assert [s for s in shapes if len(s) == 2] == [
        *((1024, 128), (64, 1024)),
        *((1024, 4096), (64, 1024)),
        *((300, 300), (64, 300)),
        (1, 4224),
    ]
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.2] * 3


@pytest.mark.slow
def test_it_learns():
    model = build(dropout=0.0, hidden_dim=67).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        optimiser.zero_grad()
        cjme_objective(model, *pairs(step), TEXT, Experiment()).total.backward()
        optimiser.step()
    model.eval()
    batch = clips_of(torch.arange(CLIPS) % CLASSES, seed=77_777)
    with torch.no_grad():
        scores = model.scores(batch, model.embed_text(TEXT).class_embedding)
    assert (scores.argmin(dim=1) == batch.labels).float().mean() > 0.8
