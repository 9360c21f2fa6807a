from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from write_pairs import clips_of

from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.seeding import generator, seeded
from tcaf.settings.experiment import Experiment
from tcaf.settings.fidelity import Fidelity
from tcaf.settings.sections import ModelSettings, TrainingSettings
from tcaf.systems.attention_fusion import AttentionFusion
from tcaf.systems.joint_space import TCAFConfig
from tcaf.systems.registry import configure
from tcaf.systems.tcaf import tcaf_objective

AUDIO_LENS, VISUAL_LENS = [2, 1, 3, 0, 5], [3, 4, 0, 2, 1]


@pytest.fixture(scope="module")
def build(small_config):
    """Builds a network in evaluation mode whose running statistics are no longer 0 and 1."""

    def make(seed=0, **settings):
        with seeded(seed, "model"):
            model = AttentionFusion(small_config(**settings)).eval()
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.3)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2)
        return model

    return make


def block(layer, row):
    """Linear, batch norm by its running statistics, ReLU."""
    norm = layer.norm
    hidden = layer.linear.weight @ row + layer.linear.bias
    hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return (hidden * norm.weight + norm.bias).clamp_min(0)


def clip_by_loop(model, batch, clip):
    """theta_o of one clip, and alpha, by the formula of the module."""
    phi, theta = {}, {}
    for name in model.modalities:
        lens = batch.modality(name).lens.tolist()
        start = sum(lens[:clip])
        tokens = batch.modality(name).tokens[start : start + lens[clip]]
        if name == "visual":
            tokens = F.normalize(tokens, dim=1)  # the small config leaves audio as it is
        total = torch.zeros(model.config.token_dim)
        for token in tokens:
            for layer in model.encoders[name]:
                token = block(layer, token)
            total = total + token
        phi[name] = total / max(len(tokens), 1)
        theta[name] = phi[name]
        for layer in model.projections[name]:
            theta[name] = block(layer, theta[name])
    logits = model.attention.weight @ torch.cat(list(phi.values())) + model.attention.bias
    exponents = [
        logit.exp() if batch.modality(name).lens[clip] else torch.tensor(0.0)
        for name, logit in zip(phi, logits, strict=True)
    ]
    alpha = [e / sum(exponents) for e in exponents]
    return sum(a * theta[name] for a, name in zip(alpha, theta, strict=True)), alpha


@torch.no_grad()
@pytest.mark.parametrize("modalities", ["both", "visual"])
def test_equals_the_formula_by_loops(build, random_batch, modalities):
    model = build(modalities=modalities)
    visual = VISUAL_LENS if modalities == "both" else [3, 4, 1, 2, 1]
    batch = random_batch(AUDIO_LENS, visual)
    output = model(batch)
    assert output.video_embedding.shape == (5, 17)
    assert output.video_reconstruction.shape == (5, 11)
    expected = [clip_by_loop(model, batch, clip)[0] for clip in range(5)]
    torch.testing.assert_close(output.video_embedding, torch.stack(expected))


@torch.no_grad()
def test_weights_by_hand(build, random_batch):
    """Logits of ln 3 and 0 whatever the clip: alpha is 3/4 and 1/4, or 1 where one is missing."""
    model = build()
    model.attention.weight.zero_()
    model.attention.bias.copy_(torch.tensor([3.0, 1.0]).log())
    batch = random_batch([2, 0, 3], [3, 4, 0])
    packed = {}
    for name in ("audio", "visual"):
        rows = torch.stack([model.encoded(batch, name).mean()[clip] for clip in range(3)])
        for layer in model.projections[name]:
            rows = torch.stack([block(layer, row) for row in rows])
        packed[name] = rows
    theta = model(batch).video_embedding
    audio, visual = packed["audio"], packed["visual"]
    torch.testing.assert_close(theta[0], 0.75 * audio[0] + 0.25 * visual[0])
    torch.testing.assert_close(theta[1], visual[1])
    torch.testing.assert_close(theta[2], audio[2])


@torch.no_grad()
def test_the_order_of_tokens_is_of_no_account(build, random_batch):
    model, batch = build(), random_batch(AUDIO_LENS, VISUAL_LENS)
    backwards = {}
    for name in ("audio", "visual"):
        parts = batch.modality(name).tokens.split(batch.modality(name).lens.tolist())
        tokens = torch.cat([part.flip(0) for part in parts])
        backwards[name] = replace(
            batch.modality(name), tokens=tokens, times=batch.modality(name).times * 7 + 3
        )
    turned = replace(batch, **backwards)
    assert not torch.equal(turned.audio.tokens, batch.audio.tokens)
    torch.testing.assert_close(model(turned).video_embedding, model(batch).video_embedding)
    # But which clip a token belongs to is not.
    other = replace(batch, audio=replace(batch.audio, lens=torch.tensor([1, 2, 3, 0, 5])))
    assert not torch.allclose(model(other).video_embedding, model(batch).video_embedding)


@torch.no_grad()
@pytest.mark.parametrize(
    "lens", [(AUDIO_LENS, VISUAL_LENS), ([3] * 5, [2] * 5), ([0] * 5, [2] * 5)]
)
def test_a_clip_alone_is_the_clip_in_a_batch(build, random_batch, lens):
    model, batch = build(), random_batch(*lens)
    together = model(batch).video_embedding
    parts = {
        n: batch.modality(n).tokens.split(batch.modality(n).lens.tolist())
        for n in ("audio", "visual")
    }
    for clip in range(5):
        packed = {}
        for name in ("audio", "visual"):
            packed[name] = Packed(
                parts[name][clip],
                batch.modality(name).lens[clip : clip + 1],
                torch.zeros(len(parts[name][clip])),
            )
        alone = model(FeatureBatch(**packed)).video_embedding[0]
        torch.testing.assert_close(alone, together[clip])


def test_a_clip_without_what_is_used(build, random_batch):
    with pytest.raises(TCAFError, match="clip 1 of the batch has no audio token"):
        build(modalities="audio")(random_batch([2, 0], [2, 2]))


def test_it_knows_nothing_of_the_transformer(build):
    names = {name.split(".")[0] for name, _ in build().named_parameters()}
    assert names == {
        *("encoders", "projections", "attention"),
        *("video_decoder", "text_projection", "text_decoder"),
    }
    one, other = build(), build(num_layers=7, num_heads=5, attention="full", class_token=False)
    assert all(torch.equal(value, other.state_dict()[n]) for n, value in one.state_dict().items())


# --- Training ---

CLASSES, CLIPS = 7, 97
TEXT = F.normalize(torch.randn(CLASSES, 11, generator=generator(0, "text")), dim=1)


def separable(labels, seed):
    """One to three tokens a modality around a place of the clip's class."""
    return clips_of(labels, seed, visual_dim=7, shortest=1)


def test_every_parameter_gets_a_gradient(build):
    model = build().train()
    batch = separable(torch.arange(CLIPS) % CLASSES, 1)
    tcaf_objective(model, batch, None, TEXT, Experiment()).total.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.slow
def test_it_learns(small_config):
    """7 classes: 14 % by chance."""
    off = [f.name for f in ModelSettings.__dataclass_fields__.values() if "dropout" in f.name]
    with seeded(0, "model"):
        model = AttentionFusion(small_config(**dict.fromkeys(off, 0.0)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for step in range(80):
        labels = torch.randint(CLASSES, (CLIPS,), generator=generator(step, "labels"))
        loss = tcaf_objective(model, separable(labels, step), None, TEXT, Experiment()).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    labels = torch.arange(CLIPS) % CLASSES
    with torch.no_grad():
        classes = model.embed_text(TEXT).class_embedding
        nearest = model.scores(separable(labels, 999), classes).argmin(dim=1)
    assert (nearest == labels).float().mean() > 0.85


def test_it_is_built_from_tcafs_settings():
    experiment = Experiment(
        system="attention_fusion",
        model=ModelSettings(token_dim=13, joint_dim=17),
        fidelity=Fidelity(audio_scaling="none"),
        training=TrainingSettings(epochs=3),
    )
    config = configure(experiment, audio_dim=5, visual_dim=7, text_dim=11)
    assert type(config) is TCAFConfig
    assert (config.token_dim, config.joint_dim, config.audio_scaling) == (13, 17, "none")
    assert asdict(config) == asdict(
        configure(replace(experiment, system="tcaf"), audio_dim=5, visual_dim=7, text_dim=11)
    )
    with pytest.raises(TCAFError, match="'attention_fusion' has no option 'num_latents'; it has n"):
        configure(
            replace(experiment, options={"num_latents": 3}), audio_dim=5, visual_dim=7, text_dim=11
        )
