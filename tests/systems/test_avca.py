import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from write_pairs import CLASSES, CLIPS, TEXT, clips_of, pairs

from tcaf.errors import TCAFError
from tcaf.seeding import generator, seeded
from tcaf.settings.experiment import Experiment
from tcaf.systems.avca import (
    AVCA,
    AVCAConfig,
    AVCAOutput,
    CrossAttention,
    avca_losses,
    avca_objective,
)
from tcaf.systems.joint_space import TextOutput

SIZES = {
    "audio_dim": 5,
    "visual_dim": 11,
    "text_dim": 13,
    "encoder_hidden_dim": 37,
    "token_dim": 23,
    "num_heads": 3,
    "head_dim": 2,
    "feed_forward_dim": 29,
    "projection_hidden_dim": 31,
    "joint_dim": 17,
}
NO_DROPOUT = {"dropout_encoder": 0.0, "dropout_projection": 0.0, "dropout_decoder": 0.0}


def config(**settings):
    scaling = {"audio_scaling": "none", "visual_scaling": "none"}
    return AVCAConfig(**{**SIZES, **scaling, **settings})


def build(seed=0, **settings):
    with seeded(seed, "model"):
        return AVCA(config(**settings))


# One clip and one of another class, with all vectors on a line (their second number is 0), so that
# distances are differences and a squared error is half a squared difference.
W = 1.0
THETA_W, OTHER_W, RHO_W = 0.0, 2.25, 0.5
CLIP = {
    "audio_encoding": 3.0,
    "visual_encoding": -2.0,
    "audio_embedding": 1.0,
    "visual_embedding": -0.5,
    "audio_reconstruction": 2.0,
    "visual_reconstruction": 1.5,
    "decoded_audio_encoding": 1.0,
    "decoded_visual_encoding": -1.0,
}
OTHER = {
    "audio_encoding": 77.0,
    "visual_encoding": 77.0,
    "audio_embedding": 0.25,
    "visual_embedding": 3.0,
    "audio_reconstruction": -0.25,
    "visual_reconstruction": -1.5,
    "decoded_audio_encoding": 77.0,
    "decoded_visual_encoding": 77.0,
}
EXPECTED = {
    # w = 1 against rho_v = 1.5, rho_a = 2, rho_w = .5.
    "reconstruction": (0.5**2 + 1.0**2 + 0.5**2) / 2,
    # T(rho_w; rho_v, rho_v-) = 1 - 2 + 1; T(rho_w; rho_a, rho_a-) = 1.5 - .75 + 1.
    "cross_triplet": 0 + 1.75,
    # T(theta_w; theta_a, theta_a-) = 1 - .25 + 1; T(theta_w; theta_v, theta_v-) = .5 - 3 + 1 < 0;
    # T(theta_a; theta_w, theta_w-) = 1 - 1.25 + 1; T(theta_v; theta_w, theta_w-) = .5 - 2.75 + 1.
    "text_triplet": 1.75 + 0 + 0.75 + 0,
    # T(theta_a; theta_w, theta_a-) = 1 - .75 + 1; T(theta_v; theta_w, theta_v-) = .5 - 3.5 + 1;
    # T(theta_w; theta_a, theta_w-) = 1 - 2.25 + 1; T(theta_w; theta_v, theta_w-) = .5 - 2.25 + 1.
    "composite_triplet": 1.25 + 0 + 0 + 0,
    # V_rec -1 against phi_v -2, A_rec 1 against phi_a 3, theta_v and theta_a against theta_w.
    "regularisation": (1.0**2 + 2.0**2 + 0.5**2 + 1.0**2) / 2,
}
AT_MARGIN_3 = {
    **EXPECTED,
    "cross_triplet": 2 + 3.75,
    "text_triplet": 3.75 + 0.5 + 2.75 + 0.75,
    "composite_triplet": 3.25 + 0 + 1.75 + 1.25,
}


def place(number):
    return torch.tensor([[number, 0.0]])


def by_hand(**options):
    return avca_losses(
        AVCAOutput(**{name: place(number) for name, number in CLIP.items()}),
        AVCAOutput(**{name: place(number) for name, number in OTHER.items()}),
        TextOutput(place(THETA_W), place(RHO_W)),
        TextOutput(place(OTHER_W), place(77.0)),
        place(W),
        **options,
    )


@pytest.mark.parametrize(("margin", "expected"), [(1.0, EXPECTED), (3.0, AT_MARGIN_3)])
def test_a_clip_by_hand(margin, expected):
    found = {name: term.item() for name, term in by_hand(margin=margin).terms().items()}
    assert found == pytest.approx({**expected, "loss": sum(expected.values())}, abs=1e-4)


def test_the_default_margin_is_1():
    assert by_hand().total == by_hand(margin=1.0).total


def test_attention_by_loops():
    """Two tokens, three heads: q, k and v of each from the layer-normed token."""
    with seeded(0, "attention"):
        block = CrossAttention(config()).eval()
        tokens = torch.randn(7, 2, 23)
    heads, dim = 3, 2
    with torch.no_grad():
        projected = F.layer_norm(tokens, [23], block.norm.weight, block.norm.bias)
        projected = projected @ block.to_qkv.weight.T
        query, key, value = projected.view(7, 2, 3, heads, dim).unbind(dim=2)
        attended = torch.zeros(7, 2, heads * dim)
        for clip in range(7):
            for head in range(heads):
                for to in range(2):
                    logits = torch.stack(
                        [query[clip, to, head] @ key[clip, of, head] for of in range(2)]
                    ) / math.sqrt(dim)
                    seen = logits.softmax(dim=0) @ value[clip, :, head]
                    attended[clip, to, head * dim : (head + 1) * dim] = seen
        middle = tokens + attended @ block.to_out[0].weight.T + block.to_out[0].bias
        norm, widen, _, _, narrow, _ = block.feed_forward
        hidden = F.layer_norm(middle, [23], norm.weight, norm.bias) @ widen.weight.T + widen.bias
        expected = middle + F.gelu(hidden) @ narrow.weight.T + narrow.bias
        torch.testing.assert_close(block(tokens), expected)


def test_the_block_s_output_is_added_to_the_encoding(monkeypatch):
    """phi' = phi + block(phi + e), seen through projections that pass it on."""
    model = build(**NO_DROPOUT).eval()
    batch, seen = pairs(0)[0], []
    for modality in ("audio", "visual"):
        monkeypatch.setattr(
            model.projections[modality], "forward", lambda x: seen.append(x) or x[:, :17]
        )
    monkeypatch.setattr(model.attention, "forward", lambda x: 10 * x)
    output = model(batch)
    # With 10 x in place of the block, phi' = phi + 10 (phi + e); e has a row for each modality.
    for index, phi in enumerate((output.audio_encoding, output.visual_encoding)):
        torch.testing.assert_close(seen[index], 11 * phi + 10 * model.modality_tokens[index])


def test_each_embedding_is_decoded():
    model = build().eval()
    output, text = model(pairs(0)[0]), model.embed_text(TEXT)
    audio, visual = output.audio_embedding, output.visual_embedding
    assert torch.equal(output.audio_reconstruction, model.text_decoder(audio))
    assert torch.equal(output.visual_reconstruction, model.text_decoder(visual))
    assert torch.equal(text.text_reconstruction, model.text_decoder(text.class_embedding))
    assert torch.equal(output.decoded_audio_encoding, model.decoders["audio"](audio))
    assert torch.equal(output.decoded_visual_encoding, model.decoders["visual"](visual))


def test_modalities_see_each_other():
    model = build().eval()
    batch = pairs(0)[0]
    before = model(batch)
    after = model(replace(batch, audio=batch.audio.with_tokens(batch.audio.tokens + 1)))
    assert torch.equal(after.visual_encoding, before.visual_encoding)
    assert not torch.allclose(after.visual_embedding, before.visual_embedding)


def test_only_the_visual_embedding_is_compared(monkeypatch, random_batch):
    rows = {f.name: torch.full((2, 2), 99.0) for f in fields(AVCAOutput)}
    rows["visual_embedding"] = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    model = build(joint_dim=2).eval()
    monkeypatch.setattr(model, "forward", lambda batch: AVCAOutput(**rows))
    classes = torch.tensor([[0.0, 0.0], [6.0, 8.0]])
    scores = model.scores(random_batch([1] * 2, [1] * 2, audio_dim=5, visual_dim=11), classes)
    assert scores.tolist() == [[0.0, 10.0], [5.0, 5.0]]


def test_modality_tokens_are_learnt_or_fixed():
    moved = {}
    for kind in ("learnt", "fixed"):
        model = build(avca_modality_tokens=kind).train()
        start = model.modality_tokens.detach().clone()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        avca_objective(model, *pairs(0), TEXT, Experiment()).total.backward()
        optimiser.step()
        moved[kind] = not torch.equal(model.modality_tokens, start)
        assert model.state_dict()["modality_tokens"].shape == (2, 23)
        assert start.std() == pytest.approx(1.0, abs=0.3)
    assert moved == {"learnt": True, "fixed": False}


def test_both_kinds_start_alike_and_share_checkpoints():
    learnt, fixed = (build(avca_modality_tokens=kind).eval() for kind in ("learnt", "fixed"))
    batch = pairs(0)[0]
    assert torch.equal(learnt(batch).video_embedding, fixed(batch).video_embedding)
    fixed.load_state_dict(build(seed=1).state_dict())


def test_clips_are_matched_with_their_own_class():
    batch, negatives = pairs(0)
    model = build(**NO_DROPOUT).train()
    terms = avca_objective(model, batch, negatives, TEXT, Experiment()).terms()
    order = torch.randperm(CLASSES, generator=generator(0, "permutation"))
    moved = [replace(b, labels=order.argsort()[b.labels]) for b in (batch, negatives)]
    found = avca_objective(model, *moved, TEXT[order], Experiment()).terms()
    torch.testing.assert_close(found, terms)
    for half in ((moved[0], negatives), (batch, moved[1])):
        wrong = avca_objective(model, *half, TEXT[order], Experiment()).terms()
        assert wrong["text_triplet"] != pytest.approx(terms["text_triplet"].item(), rel=1e-4)


def test_the_other_clips_are_the_negatives():
    batch, negatives = pairs(0)
    model = build(**NO_DROPOUT).train()
    terms = avca_objective(model, batch, negatives, TEXT, Experiment()).terms()
    found = avca_objective(model, batch, pairs(1)[1], TEXT, Experiment()).terms()
    same = {name for name in terms if found[name] == pytest.approx(terms[name].item(), rel=1e-6)}
    assert same == {"reconstruction", "regularisation"}


def test_the_margin_is_read():
    terms = [
        avca_objective(build(margin=margin, **NO_DROPOUT), *pairs(0), TEXT, Experiment()).terms()
        for margin in (1.0, 1e4)
    ]
    # Every triplet counts at 10000, and its distances are far smaller.
    for name, count in (("cross_triplet", 2), ("text_triplet", 4), ("composite_triplet", 4)):
        assert terms[1][name] == pytest.approx(count * 1e4, rel=0.01)
    assert terms[1]["reconstruction"] == terms[0]["reconstruction"]


@pytest.mark.parametrize("kind", ["learnt", "fixed"])
def test_gradients_reach_every_parameter(kind):
    model = build(avca_modality_tokens=kind).train()
    avca_objective(model, *pairs(0), TEXT, Experiment()).total.backward()
    names = [name for name, _ in model.named_parameters()]
    assert ("modality_tokens" in names) == (kind == "learnt")
    for name, parameter in model.named_parameters():
        # What is added before batch norm is taken off by it: the true gradient is 0.
        least = 0.0 if name.endswith("linear.bias") else 1e-6
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() >= least, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout_encoder": 1.0}, "dropout_encoder"),
        ({"dropout_projection": -0.1}, "dropout_projection"),
        ({"dropout_decoder": 1.5}, "dropout_decoder"),
        ({"num_heads": 0}, "num_heads"),
        ({"token_dim": 0}, "token_dim"),
        ({"avca_modality_tokens": "learned"}, "did you mean 'learnt'"),
    ],
)
def test_settings_out_of_range(unchecked, settings, message):
    with pytest.raises(TCAFError, match=message):
        config(**settings)


def test_every_setting_is_read():
    """Each size and setting moves the built network; the margin is read by the objective."""
    changes = {**dict.fromkeys(SIZES, 5), "audio_dim": 3, "batch_norm_momentum": 0.3}
    changes |= {"dropout_encoder": 0.7, "dropout_projection": 0.7, "dropout_decoder": 0.7}
    for name, value in changes.items():
        assert repr(build(**{name: value})) != repr(build()), name
    elsewhere = {"margin", "avca_modality_tokens", "audio_scaling", "visual_scaling"}
    assert {f.name for f in fields(AVCAConfig)} == set(changes) | elsewhere


def test_the_paper_s_sizes():
    model = AVCA(AVCAConfig(audio_dim=128, visual_dim=4096, text_dim=300))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.ndim == 2}
    projection = ((512, 300), (64, 512))
    assert list(shapes.values()) == [
        (2, 300),
        *((512, 128), (300, 512)),
        *((512, 4096), (300, 512)),
        *((900, 300), (300, 300), (64, 300), (300, 64)),
        *projection,
        *projection,
        *((64, 300), (300, 64), (300, 64), (300, 64)),
    ]
    assert "attention.to_qkv.bias" not in model.state_dict()
    rates = {
        name: {m.p for m in part.modules() if isinstance(m, torch.nn.Dropout)}
        for name, part in model.named_children()
    }
    assert rates == {
        "encoders": {0.2},
        "attention": {0.2},
        "projections": {0.3},
        "text_projection": {0.5},
        "text_decoder": {0.5},
        "decoders": {0.5},
    }


@pytest.mark.slow
def test_it_learns():
    model = build(**NO_DROPOUT).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(80):
        optimiser.zero_grad()
        avca_objective(model, *pairs(step), TEXT, Experiment()).total.backward()
        optimiser.step()
    model.eval()
    batch = clips_of(torch.arange(CLIPS) % CLASSES, seed=77_777)
    with torch.no_grad():
        scores = model.scores(batch, model.embed_text(TEXT).class_embedding)
    assert (scores.argmin(dim=1) == batch.labels).float().mean() > 0.8
