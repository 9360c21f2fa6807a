import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from write_pairs import clips_of

from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.seeding import generator, seeded
from tcaf.settings.experiment import Experiment
from tcaf.settings.sections import ModelSettings
from tcaf.systems.perceiver import Perceiver, PerceiverConfig
from tcaf.systems.registry import configure
from tcaf.systems.tcaf import tcaf_objective

LATENTS = 31
NO_DROPOUT = {
    f.name: 0.0 for f in ModelSettings.__dataclass_fields__.values() if "dropout" in f.name
}
RAGGED = ([2, 1, 3, 0, 5], [3, 4, 0, 2, 1])
DENSE = ([3] * 5, [2] * 5)
SILENT = ([0] * 5, [2, 5, 1, 3, 2])
ALL_LENS = pytest.mark.parametrize(
    "lens", [RAGGED, DENSE, SILENT], ids=["ragged", "dense", "silent"]
)


@pytest.fixture(scope="module")
def config(small_config):
    def make(**settings):
        shared = {**vars(small_config()), "num_latents": LATENTS}
        return PerceiverConfig(**{**shared, **settings})

    return make


@pytest.fixture(scope="module")
def build(config):
    """Builds a network in evaluation mode whose running statistics are no longer 0 and 1."""

    def make(seed=0, **settings):
        with seeded(seed, "model"):
            model = Perceiver(config(**settings)).eval()
            with torch.no_grad():
                # Latents that all but agree could not be told apart.
                model.latents.normal_()
                for parameter in model.parameters():
                    if parameter.ndim == 1:
                        parameter.add_(torch.randn_like(parameter), alpha=0.1)
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.3)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2)
        return model

    return make


def attend(layer, latents, source):
    """Explicit softmax, head by head; the source is normed already."""
    normed = layer.norm(latents)
    source = normed if source is None else source
    query, (key, value) = layer.to_q(normed), layer.to_kv(source).chunk(2, dim=1)
    heads = []
    for q, k, v in zip(
        *(x.chunk(layer.num_heads, dim=1) for x in (query, key, value)), strict=True
    ):
        exponents = (q @ k.T / math.sqrt(q.shape[1])).exp()
        heads.append(exponents / exponents.sum(dim=1, keepdim=True) @ v)
    return latents + layer.to_out(torch.cat(heads, dim=1))


def feed_forward(layers, rows):
    norm, first, _, _, second, _ = layers
    return second(F.gelu(first(norm(rows))))


def clip_by_loop(model, batch, clip):
    """theta_o of one clip: its own tokens alone, nothing packed, nothing masked."""
    tokens = []
    for name in model.modalities:
        lens = batch.modality(name).lens.tolist()
        start = sum(lens[:clip])
        own = slice(start, start + lens[clip])
        if not lens[clip]:
            continue
        scaled = batch.modality(name).tokens[own]
        if name == "visual":
            scaled = F.normalize(scaled, dim=1)  # the small config leaves audio as it is
        encoded = model.encoders[name](scaled)
        tokens.append(model.positions(encoded, batch.modality(name).times[own], name))
    source = torch.cat(tokens)
    latents = model.latents
    for layer in model.layers:
        latents = attend(layer.cross, latents, layer.tokens_norm(source))
        latents = latents + feed_forward(layer.cross_feed_forward, latents)
        latents = attend(layer.latent, latents, None)
        latents = latents + feed_forward(layer.latent_feed_forward, latents)
    return model.video_projection(latents.mean(dim=0, keepdim=True))[0]


@torch.no_grad()
@ALL_LENS
@pytest.mark.parametrize("settings", [{}, {"num_layers": 3, "num_heads": 2, "head_dim": 5}])
def test_equals_a_slow_loop(build, random_batch, lens, settings):
    model, batch = build(**settings), random_batch(*lens)
    output = model(batch)
    expected = torch.stack([clip_by_loop(model, batch, clip) for clip in range(5)])
    torch.testing.assert_close(output.video_embedding, expected)
    assert output.video_embedding.shape == (5, 17)
    assert output.video_reconstruction.shape == (5, 11)
    # Clips differ, so that none was taken for another.
    assert len({tuple(row) for row in expected.tolist()}) == 5


@torch.no_grad()
@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_one_modality(build, random_batch, modality):
    model, batch = build(modalities=modality), random_batch([2, 1, 3, 4, 5], [3, 4, 1, 2, 1])
    expected = torch.stack([clip_by_loop(model, batch, clip) for clip in range(5)])
    torch.testing.assert_close(model(batch).video_embedding, expected)
    other = "visual" if modality == "audio" else "audio"
    packed = batch.modality(other)
    deaf = replace(batch, **{other: packed.with_tokens(packed.tokens * 0)})
    assert torch.equal(model(deaf).video_embedding, model(batch).video_embedding)


@torch.no_grad()
@ALL_LENS
def test_padding_never_matters(build, random_batch, lens):
    """A clip alone is the clip beside a much longer one."""
    model, batch = build(), random_batch(*lens)
    long = random_batch([13], [17], seed=1)
    joined = {}
    for name in ("audio", "visual"):
        joined[name] = Packed(
            *(
                torch.cat([getattr(b.modality(name), kind) for b in (batch, long)])
                for kind in ("tokens", "lens", "times")
            )
        )
    beside = model(FeatureBatch(**joined)).video_embedding
    torch.testing.assert_close(beside[:5], model(batch).video_embedding)


@torch.no_grad()
def test_order_and_time_of_tokens(build, random_batch):
    """Tokens are a set, but their times are part of them."""
    model, batch = build(), random_batch(*RAGGED)
    packed, late = {}, {}
    for name in ("audio", "visual"):
        own = batch.modality(name)
        tokens, times = (
            torch.cat([part.flip(0) for part in values.split(own.lens.tolist())])
            for values in (own.tokens, own.times)
        )
        packed[name] = replace(own, tokens=tokens, times=times)
        late[name] = replace(own, times=times)
    turned = replace(batch, **packed)
    torch.testing.assert_close(model(turned).video_embedding, model(batch).video_embedding)
    moved = model(replace(batch, **late)).video_embedding
    assert not torch.allclose(moved, model(batch).video_embedding, atol=1e-4)


def test_a_clip_without_any_token(build, random_batch):
    with pytest.raises(TCAFError, match="clip 1 of the batch has no audio or visual token"):
        build()(random_batch([2, 0], [2, 0]))


def test_as_the_paper_has_it():
    """64 latents of TCaF's token size, as many layers, heads and hidden units as TCaF."""
    experiment = Experiment(system="perceiver")
    config = configure(experiment, audio_dim=128, visual_dim=4096, text_dim=300)
    with torch.device("meta"):
        model = Perceiver(config)
    assert model.latents.shape == (64, 300)
    assert len(model.layers) == 6
    layer = model.layers[0]
    assert layer.cross.to_q.weight.shape == layer.latent.to_q.weight.shape == (512, 300)
    assert layer.latent_feed_forward[1].weight.shape == (128, 300)
    assert (config.num_heads, config.head_dim) == (8, 64)


def test_latents_begin_small_and_differ(config):
    model = Perceiver(config(num_latents=997))
    assert model.latents.std().item() == pytest.approx(0.02, rel=0.05)
    assert len(model.latents.unique(dim=0)) == 997


def test_the_number_of_latents_is_an_option():
    dims = {"audio_dim": 5, "visual_dim": 7, "text_dim": 11}
    of = Experiment(system="perceiver")
    assert configure(replace(of, options={"num_latents": 3}), **dims).num_latents == 3
    with pytest.raises(TCAFError, match=r"options\.num_latents must be at least 1, got 0"):
        configure(replace(of, options={"num_latents": 0}), **dims)
    with pytest.raises(TCAFError, match=r"options\.num_latents: expected int, got 2\.5"):
        configure(replace(of, options={"num_latents": 2.5}), **dims)
    with pytest.raises(TCAFError, match=r"no option 'num_latent'.*did you mean 'num_latents'"):
        configure(replace(of, options={"num_latent": 3}), **dims)


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


def test_a_training_batch_in_which_no_clip_has_audio(build, random_batch):
    model = build().train()
    batch = replace(random_batch(*SILENT), labels=torch.arange(5))
    loss = tcaf_objective(model, batch, None, TEXT, Experiment()).total
    loss.backward()
    assert loss.isfinite()
    assert model.latents.grad.any()


@pytest.mark.slow
def test_it_learns(config):
    """7 classes: 14 % by chance."""
    with seeded(0, "model"):
        model = Perceiver(config(num_latents=5, **NO_DROPOUT))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for step in range(40):
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
