import math
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.seeding import generator
from tcaf.settings.sections import ModelSettings
from tcaf.systems.blocks import Block
from tcaf.systems.layout import TokenLayout
from tcaf.systems.tcaf import PositionEncoder

PATTERNS = ("cross", "self", "full")
SHAPES = [
    dict(zip(("attention", "class_token", "modalities"), values, strict=True))
    for values in product(PATTERNS, (True, False), ("both", "audio", "visual"))
    if values not in (("cross", False, "audio"), ("cross", False, "visual"))
]
"""All that Tables 3 and 4 vary, but for the two that leave nothing to attend to."""

lens = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)).filter(any), min_size=1, max_size=5)
shapes = st.sampled_from([s for s in SHAPES if s["modalities"] == "both"])


def unzip(pairs):
    audio, visual = zip(*pairs, strict=True)
    return audio, visual


def select(batch, clips):
    """Returns a batch of some clips of another one, in that order."""
    packed = {}
    for name in ("audio", "visual"):
        own = batch.modality(name)
        tokens, times = (whole.split(own.lens.tolist()) for whole in (own.tokens, own.times))
        packed[name] = Packed(
            torch.cat([tokens[clip] for clip in clips]),
            own.lens[clips],
            torch.cat([times[clip] for clip in clips]),
        )
    return FeatureBatch(**packed)


def same(got, expected, atol=1e-5):
    """Compares all outputs, which also says that none is NaN."""
    for name in ("video_embedding", "video_reconstruction"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=0, atol=atol)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(pairs=lens, shape=shapes, seed=st.integers(0, 99), data=st.data())
@torch.no_grad()
def test_a_clip_does_not_depend_on_the_others(small_model, random_batch, pairs, shape, seed, data):
    """Also with padding and clips in any order, and alone in a batch of 1."""
    model = small_model(**shape)
    batch = random_batch(*unzip(pairs), seed=seed)
    together = model(batch)
    order = data.draw(st.permutations(range(len(pairs))))
    moved = model(select(batch, order))
    same(moved, replace(together, **{k: v[order] for k, v in vars(together).items()}))
    for clip in range(len(pairs)):
        one = model(select(batch, [clip]))
        same(one, replace(together, **{k: v[[clip]] for k, v in vars(together).items()}))


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(pairs=lens, shape=shapes, extra=st.integers(0, 3))
@torch.no_grad()
def test_padding_is_of_no_account(small_model, random_batch, pairs, shape, extra):
    model, batch = small_model(**shape), random_batch(*unzip(pairs))
    padded = {}
    for name in ("audio", "visual"):
        longest = int(batch.modality(name).lens.max()) + extra
        # What stands in the padding must not matter either.
        tokens = torch.full((len(pairs), longest, batch.modality(name).tokens.shape[1]), 1e9)
        times = torch.full((len(pairs), longest), -1e9)
        row = 0
        for clip, length in enumerate(batch.modality(name).lens.tolist()):
            tokens[clip, :length] = batch.modality(name).tokens[row : row + length]
            times[clip, :length] = batch.modality(name).times[row : row + length]
            row += length
        padded[name] = Packed.from_padded(tokens, batch.modality(name).lens, times)
    same(model(FeatureBatch(**padded)), model(batch), atol=0)


def all_groups(model, batch):
    """The transformer of the paper: every layer computes every token; the class token is read."""
    original = [layer.forward for layer in model.layers]
    for layer in model.layers:
        layer.forward = lambda rows, layout, _, layer=layer: type(layer).forward(
            layer, rows, layout, layout.groups
        )
    last = model.layers[-1].register_forward_hook(
        lambda _, args, rows: args[1].split(rows)["class"]
    )
    try:
        return model(batch)
    finally:
        last.remove()
        for layer, forward in zip(model.layers, original, strict=True):
            layer.forward = forward


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("num_layers", [1, 3])
@torch.no_grad()
def test_the_last_layer_computes_the_class_token_alone(
    small_model, random_batch, pattern, num_layers
):
    model = small_model(attention=pattern, num_layers=num_layers)
    batch = random_batch([2, 0, 3, 1], [1, 5, 0, 2])
    widths = []
    hook = model.layers[-1].feed_forward.register_forward_hook(
        lambda module, arguments, output: widths.append(len(output))
    )
    found, expected = model(batch), all_groups(model, batch)
    hook.remove()
    assert widths == [4, 4 + 6 + 8]
    same(found, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_missing_modalities_give_finite_numbers_and_gradients(small_model, random_batch, shape):
    settings_ = [{}, {"layer_norm": "shared", "visual_scaling": "l2_over_time"}]
    batches = {
        "both": ([2, 0, 3], [0, 4, 1]),
        "audio": ([2, 1, 3], [0, 0, 0]),
        "visual": ([0, 0, 0], [3, 2, 1]),
    }
    for used, (audio, visual) in batches.items():
        if shape["modalities"] == "both" or used == shape["modalities"]:
            for some in settings_:
                check_finite(small_model(**shape, **some), random_batch(audio, visual))


def check_finite(model, batch):
    with torch.no_grad():
        assert all(value.isfinite().all() for value in vars(model(batch)).values())
    model.train()
    found = model(batch)
    (found.video_embedding.square().sum() + found.video_reconstruction.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(buffer.isfinite().all() for buffer in model.buffers())


@pytest.mark.parametrize("scaling", ["divide_255", "l2", "none"])
@pytest.mark.parametrize("visual_scaling", ["l2", "l2_over_time", "none"])
def test_silence_and_darkness_are_finite(small_model, random_batch, scaling, visual_scaling):
    batch = random_batch([2, 3], [1, 4])
    zeros = {m: replace(p, tokens=p.tokens * 0) for m, p in vars(batch).items() if p is not None}
    model = small_model(audio_scaling=scaling, visual_scaling=visual_scaling)
    check_finite(model, replace(batch, **zeros))


@pytest.mark.parametrize("pattern", ["self", "full"])
@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize(("used", "other"), [("audio", "visual"), ("visual", "audio")])
@torch.no_grad()
def test_one_modality_ignores_the_other(
    small_model, random_batch, pattern, class_token, used, other
):
    model = small_model(attention=pattern, class_token=class_token, modalities=used)
    batch = random_batch([2, 1, 3], [1, 4, 2])
    none = torch.zeros(3, dtype=torch.long)
    gone = {other: Packed(torch.full((0, 99), torch.nan), none, torch.zeros(0))}
    same(model(replace(batch, **gone)), model(batch), atol=0)
    assert set(model.encoders) == {used}
    # And the one that is used does matter.
    packed = batch.modality(used)
    changed = replace(batch, **{used: packed.with_tokens(-packed.tokens)})
    assert (model(changed).video_embedding - model(batch).video_embedding).abs().max() > 1e-3


@pytest.mark.parametrize("pattern", PATTERNS)
@torch.no_grad()
def test_times_and_both_modalities_matter(small_model, random_batch, pattern):
    model, batch = small_model(attention=pattern), random_batch([2, 1, 3], [1, 4, 2])
    before = model(batch).video_embedding
    for name, field in product(("audio", "visual"), ("tokens", "times")):
        packed = batch.modality(name)
        moved = replace(packed, **{field: getattr(packed, field) + 0.37})
        changed = replace(batch, **{name: moved})
        assert (model(changed).video_embedding - before).abs().max() > 1e-4, (name, field)


@torch.no_grad()
def test_scaling_by_loops(small_model, random_batch):
    """The scaled tokens enter the encoders; what enters is compared."""
    batch = random_batch([2, 0, 3], [3, 4, 1])
    entered = {}

    def entering(**scaling):
        model = small_model(**scaling)
        for name, encoder in model.encoders.items():
            encoder.register_forward_pre_hook(
                lambda module, arguments, name=name: entered.update({name: arguments[0]})
            )
        model(batch)
        return entered["audio"], entered["visual"]

    audio, visual = entering(audio_scaling="divide_255", visual_scaling="none")
    assert torch.equal(audio, batch.audio.tokens / 255)
    assert torch.equal(visual, batch.visual.tokens)
    audio, visual = entering(audio_scaling="l2", visual_scaling="l2")
    torch.testing.assert_close(audio.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(
        visual * batch.visual.tokens.norm(dim=1)[:, None], batch.visual.tokens
    )
    audio, visual = entering(audio_scaling="none", visual_scaling="l2_over_time")
    assert torch.equal(audio, batch.audio.tokens)
    for start, stop in ((0, 3), (3, 7), (7, 8)):
        for column in range(7):
            feature = batch.visual.tokens[start:stop, column]
            length = sum(x.item() ** 2 for x in feature) ** 0.5
            torch.testing.assert_close(visual[start:stop, column], feature / length)


@torch.no_grad()
def test_position_by_hand(small_config):
    encoder = PositionEncoder(small_config(token_dim=1, position_dim=2, fourier_scale=1.0)).eval()
    # One frequency of 1/12 Hz, split over the two copies of time: 1 s is a phase of 30 degrees.
    encoder.frequencies.copy_(torch.tensor([[1 / 24], [1 / 24]]))
    encoder.time.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    encoder.time.bias.copy_(torch.tensor([0.25, 0.0]))
    encoder.modality["audio"].copy_(torch.tensor([0.0, 0.5]))
    # token + 10 x (sin + 0.25) + 100 x (2 cos + 0.5)
    encoder.out["audio"].weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
    encoder.out["audio"].bias.zero_()
    found = encoder(torch.tensor([[7.0], [7.0]]), torch.tensor([0.0, 1.0]), "audio")
    at_0 = 7 + 10 * 0.25 + 100 * 2.5
    at_1 = 7 + 10 * (0.5 + 0.25) + 100 * (2 * math.cos(math.pi / 6) + 0.5)
    assert found.flatten().tolist() == pytest.approx([at_0, at_1])


@pytest.mark.slow
def test_fourier_scale_is_the_spread_of_frequencies(small_config):
    config = small_config(position_dim=9998, fourier_scale=7.0)
    frequencies = PositionEncoder(config).frequencies
    assert frequencies.shape == (2, 4999)
    # Six standard deviations of a standard deviation from 9998 numbers.
    assert abs(frequencies.std() / 7 - 1) < 6 / (2 * 9998) ** 0.5


def test_block_is_linear_norm_relu():
    block = Block(3, 5, dropout=0.0, momentum=0.19).train()
    rows = torch.randn(7, 3, generator=generator(0, "rows"))
    hidden = (rows @ block.linear.weight.T + block.linear.bias).detach()
    mean, var = hidden.mean(dim=0), hidden.var(dim=0, unbiased=False)
    expected = ((hidden - mean) / (var + 1e-5).sqrt()).clamp_min(0)
    torch.testing.assert_close(block(rows).detach(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.norm.running_mean, 0.19 * mean)
    torch.testing.assert_close(block.norm.running_var, 0.81 + 0.19 * hidden.var(dim=0))


def test_no_rows_leave_no_trace():
    block = Block(3, 5, dropout=0.0, momentum=0.5).train()
    assert block(torch.zeros(0, 3)).shape == (0, 5)
    assert torch.equal(block.norm.running_mean, torch.zeros(5))


@pytest.mark.parametrize(("audio", "visual"), [([5], [7]), ([1, 0], [2, 3]), ([3, 4], [0, 1])])
def test_a_single_row_in_a_batch_norm(small_model, random_batch, audio, visual):
    model, batch = small_model().train(), random_batch(audio, visual)
    with pytest.raises(TCAFError, match=r"single sample in a batch norm.*larger batch_size"):
        model(batch)
    model.eval()(batch)
    with pytest.raises(TCAFError, match="at least two classes"):
        model.train().embed_text(torch.ones(1, 11))


@torch.no_grad()
def test_layer_norms(small_model):
    separate, shared = small_model(), small_model(layer_norm="shared")
    for model, count in ((separate, 2), (shared, 1)):
        norms = [m for m in model.layers[0].modules() if isinstance(m, torch.nn.LayerNorm)]
        assert len(norms) == count
    # A layer with attention that gives nothing: x + FF(norm(x)), through the norm that is meant.
    for model in (separate, shared):
        layer = model.layers[0]
        layer.attention.to_out.weight.zero_()
        layer.attention.to_out.bias.zero_()
        norm = layer.feed_forward_norm if model is separate else layer.attention_norm
        norm.weight.fill_(2)
        token = torch.arange(13.0)[None]
        layout = TokenLayout({"class": torch.tensor([1])}, torch.device("cpu"))
        found = layer(token, layout, ("class",))
        normed = (token - token.mean()) / (token.var(correction=0) + 1e-5).sqrt() * 2
        torch.testing.assert_close(found, token + layer.feed_forward(normed))


@torch.no_grad()
def test_without_class_token_the_mean_over_output_tokens_is_read(small_model, random_batch):
    model = small_model(class_token=False)
    entered, left = [], []
    model.video_projection.register_forward_pre_hook(
        lambda m, arguments: entered.append(*arguments)
    )
    model.layers[-1].register_forward_hook(lambda m, arguments, output: left.append(output))
    model(random_batch([2, 0, 1], [1, 3, 0]))
    audio, visual = left[0].split([3, 4])
    means = [(audio[0] + audio[1] + visual[0]) / 3, visual[1:4].mean(dim=0), audio[2]]
    torch.testing.assert_close(entered[0], torch.stack(means))
    assert model.class_token is None


@torch.no_grad()
def test_text_goes_its_own_way(small_model):
    model = small_model()
    words = torch.randn(3, 11, generator=generator(0, "words"))
    found = model.embed_text(words)
    expected = model.text_projection(words)
    assert torch.equal(found.class_embedding, expected)
    assert torch.equal(found.text_reconstruction, model.text_decoder(expected))
    order = [2, 0, 1]
    moved = model.embed_text(words[order]).class_embedding
    torch.testing.assert_close(moved, expected[order])


@torch.no_grad()
def test_scores_are_distances(small_model, random_batch):
    model, batch = small_model(), random_batch([2, 1], [1, 4])
    classes = torch.randn(3, 17, generator=generator(0, "classes"))
    video = model(batch).video_embedding
    for clip, number in product(range(2), range(3)):
        expected = (video[clip] - classes[number]).square().sum().sqrt()
        torch.testing.assert_close(model.scores(batch, classes)[clip, number], expected)


@pytest.mark.slow
def test_dropout_rates_go_where_their_names_say(small_model):
    model = small_model(
        dropout_encoder=0.11,
        dropout_position=0.12,
        dropout_transformer=0.13,
        dropout_text_projection=0.14,
        dropout_video_projection=0.15,
    )

    def rates(*modules):
        return {m.p for part in modules for m in part.modules() if hasattr(m, "p")}

    assert rates(model.encoders) == {0.11}
    assert rates(model.positions) == {0.12}
    assert rates(model.layers) == {0.13}
    assert rates(model.text_projection, model.text_decoder) == {0.14}
    assert rates(model.video_projection, model.video_decoder) == {0.15}


def test_the_papers_size(small_config):
    """By record: parameters of the default sizes with the paper's features."""
    from tcaf.systems.joint_space import TCAFConfig
    from tcaf.systems.tcaf import TCAF

    model = TCAF(TCAFConfig(audio_dim=128, visual_dim=4096, text_dim=300, layer_norm="shared"))
    assert sum(p.numel() for p in model.parameters()) == PAPER_PARAMETERS
    assert ModelSettings().num_layers == len(model.layers) == 6


# Encoders (128 + 4096) x 512 and twice 512 x 300, with biases and batch norms; positions twice
# 364 x 300; six layers of 3 x 300 x 512 + 512 x 300 + 2 x 300 x 128 with biases and one norm;
# O_proj and D_o, W_proj and D_w.
PAPER_PARAMETERS = (
    (128 * 512 + 3 * 512 + 512 * 300 + 3 * 300)
    + (4096 * 512 + 3 * 512 + 512 * 300 + 3 * 300)
    + (64 * 64 + 64 + 2 * 64 + 2 * (364 * 300 + 300))
    + 300
    + 6 * (4 * 300 * 512 + 300 + 2 * 300 * 128 + 128 + 300 + 2 * 300)
    + (300 * 512 + 3 * 512 + 512 * 64 + 3 * 64)
    + (64 * 512 + 3 * 512 + 512 * 300 + 3 * 300)
    + (300 * 64 + 3 * 64 + 64 * 300 + 3 * 300)
)


@pytest.mark.parametrize(
    ("audio", "visual", "dims", "message"),
    [
        ([2, 1], [1, 2], {"audio_dim": 3}, "expected audio features of size 5, got 3"),
        ([2, 1], [1, 2], {"visual_dim": 3}, "expected visual features of size 7, got 3"),
        ([], [], {}, "at least one clip, got none"),
        ([2, 0, 1], [1, 0, 0], {}, "clip 1 of the batch has no audio or visual token"),
    ],
)
def test_errors(small_model, random_batch, audio, visual, dims, message):
    with pytest.raises(TCAFError, match=message):
        small_model()(random_batch(audio, visual, **dims))


def test_error_of_the_one_modality(small_model, random_batch):
    model = small_model(attention="self", modalities="visual")
    with pytest.raises(TCAFError, match="clip 2 of the batch has no visual token"):
        model(random_batch([2, 1, 1], [1, 2, 0]))


def test_error_of_text(small_model):
    with pytest.raises(TCAFError, match="expected text embeddings of size 11, got 13"):
        small_model().embed_text(torch.ones(2, 13))


@pytest.mark.slow
def test_a_clip_of_fifty_minutes_needs_little_memory():
    """By matrix products, with the weights of all pairs of tokens, it would be 1.8 GiB."""
    code = r"""
import re, torch
from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packed
from tcaf.systems.joint_space import TCAFConfig
from tcaf.systems.tcaf import TCAF

def tokens(num, dim, step_s):
    return Packed(torch.rand(num, dim), torch.tensor([num]), torch.arange(num) * step_s)

model = TCAF(TCAFConfig(audio_dim=128, visual_dim=4096, text_dim=300)).eval()
with torch.inference_mode():
    found = model(FeatureBatch(tokens(3000, 128, 0.96), tokens(4700, 4096, 0.64)))
assert found.video_embedding.isfinite().all()
# The largest of this program: what getrusage says goes on from the process that has started it.
print(int(re.search(r"VmHWM:\s+(\d+)", open('/proc/self/status').read())[1]) / 2**20)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 1.2
