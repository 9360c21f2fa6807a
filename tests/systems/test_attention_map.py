import math

import numpy as np
import pytest
import torch
from einops import rearrange

from tcaf.errors import TCAFError
from tcaf.seeding import generator
from tcaf.systems.attention import CrossModalAttention
from tcaf.systems.attention_map import HasAttentionMap, attention_weights
from tcaf.systems.layout import SEES, TokenLayout
from tcaf.systems.ridge import Ridge, RidgeConfig

CPU = torch.device("cpu")
PATTERNS = ("cross", "self", "full")
LN3 = math.log(3)


def attention(pattern, dim=7, heads=3, head_dim=5):
    made = CrossModalAttention(dim, heads, head_dim, pattern, dropout=0.0).eval()
    for number, parameter in enumerate(made.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator(number, "weights"))
    return made


def some_tokens(class_token=True, audio=3, visual=5, dim=7):
    """The tokens of one clip, and where they lie."""
    lens = {"class": 1, "audio": audio, "visual": visual}
    if not class_token:
        del lens["class"]
    layout = TokenLayout({group: torch.tensor([num]) for group, num in lens.items()}, CPU)
    return torch.randn(layout.num_rows, dim, generator=generator(0, "tokens")), layout


@torch.no_grad()
def test_two_tokens_by_hand():
    # As in test_attention.py: a query sees a key with weight exp(x_query x_key), normalised; the
    # class token is 0, audio 1, visual ln 3.
    made = attention("cross", dim=1, heads=1, head_dim=1)
    made.to_qkv.weight.fill_(1)
    _, layout = some_tokens(audio=1, visual=1)
    rows = torch.tensor([[0.0], [1.0], [LN3]])
    found = attention_weights(made, rows, layout, layout.groups)
    # The class token's query is 0: all three alike.
    assert [found["class"][k].item() for k in layout.groups] == pytest.approx([1 / 3] * 3)
    # audio: class exp(0) = 1, visual exp(ln 3) = 3; visual: class 1, audio exp(ln 3) = 3.
    assert list(found["audio"]) == ["class", "visual"]
    assert found["audio"]["visual"].item() == pytest.approx(3 / 4)
    assert found["visual"]["audio"].item() == pytest.approx(3 / 4)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("class_token", [True, False])
@torch.no_grad()
def test_weights_sum_to_one_over_what_is_seen(pattern, class_token):
    rows, layout = some_tokens(class_token)
    tokens = layout.split(rows)
    found = attention_weights(attention(pattern), rows, layout, layout.groups)
    assert set(found) == set(tokens)
    for group, weights in found.items():
        assert tuple(weights) == tuple(k for k in SEES[pattern][group] if k in tokens)
        joined = torch.cat(list(weights.values()), dim=2)
        assert joined.shape[:2] == (3, len(tokens[group]))
        torch.testing.assert_close(joined.sum(dim=2), torch.ones(3, len(tokens[group])))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("class_token", [True, False])
@torch.no_grad()
def test_weights_give_the_layers_output(pattern, class_token):
    made, (rows, layout) = attention(pattern), some_tokens(class_token)
    tokens = layout.split(rows)
    queries = ("class",) if class_token else ("audio", "visual")
    for wanted in (queries, layout.groups):
        output = made(rows, layout, wanted)
        expected = dict(
            zip(wanted, output.split([len(tokens[group]) for group in wanted]), strict=True)
        )
        found = attention_weights(made, rows, layout, wanted)
        for group in wanted:
            attended = 0
            for other, weights in found[group].items():
                value = tokens[other] @ made.to_qkv.weight[30:].T
                attended = attended + weights @ rearrange(value, "l (h d) -> h l d", h=3)
            output = made.to_out(rearrange(attended, "h l d -> l (h d)"))
            torch.testing.assert_close(output, expected[group])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_map_of_a_clip(small_model, random_batch, pattern):
    model, batch = small_model(num_layers=3, attention=pattern), random_batch([4], [6])
    found = model.attention_map(batch)
    np.testing.assert_allclose(found.audio_times, np.arange(4) * 0.96, rtol=1e-6)
    np.testing.assert_allclose(found.visual_times, np.arange(6) * 0.64, rtol=1e-6)
    total = found.class_to_class + found.class_to_audio.sum(1) + found.class_to_visual.sum(1)
    np.testing.assert_allclose(total, np.ones(3), rtol=1e-6)
    assert found.class_to_audio.shape == (3, 4)
    # The last layer computes the class token alone.
    crossing = 0 if pattern == "self" else 2
    assert found.audio_to_visual.shape == (crossing, 4, 6)
    assert found.visual_to_audio.shape == (crossing, 6, 4)
    if pattern == "cross":
        # What is left of an audio query's weight is on the class token.
        assert (found.audio_to_visual.sum(axis=2) < 1).all()


@torch.no_grad()
def test_map_is_the_mean_over_heads(small_model, random_batch):
    model, batch = small_model(num_layers=1), random_batch([2], [3])
    seen = {}
    hook = model.layers[0].attention.register_forward_pre_hook(
        lambda _, args: seen.update(rows=args[0])
    )
    model(batch)
    hook.remove()
    query, key, _ = (seen["rows"] @ model.layers[0].attention.to_qkv.weight.T).chunk(3, dim=1)
    # 3 heads of size 2; the class token is row 0.
    heads = [(query[0, h : h + 2] @ key[:, h : h + 2].T / 2**0.5).softmax(dim=0) for h in (0, 2, 4)]
    expected = torch.stack(heads).mean(dim=0).numpy()
    found = model.attention_map(batch)
    np.testing.assert_allclose(found.class_to_class[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found.class_to_audio[0], expected[1:3], rtol=1e-5)
    np.testing.assert_allclose(found.class_to_visual[0], expected[3:], rtol=1e-5)
    # A single layer has a class token and nothing else.
    assert found.audio_to_visual.shape == (0, 2, 3)


def test_the_model_is_left_as_it_was(small_model, random_batch):
    model, batch = small_model(), random_batch([4], [6])
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model.attention_map(batch)
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert not any(layer.attention._forward_hooks for layer in model.layers)
    # Evaluation mode: no dropout, so that the same comes again.
    np.testing.assert_array_equal(first.class_to_audio, model.attention_map(batch).class_to_audio)


def test_hooks_go_when_the_model_refuses(small_model, random_batch):
    model = small_model()
    with pytest.raises(TCAFError, match="audio features of size"):
        model.attention_map(random_batch([4], [6], audio_dim=9))
    assert not any(layer.attention._forward_hooks for layer in model.layers)


def test_without_class_token(small_model, random_batch):
    found = small_model(class_token=False).attention_map(random_batch([4], [6]))
    assert found.class_to_class.shape == (0,)
    assert found.class_to_audio.shape == (0, 4)
    # All layers compute all tokens.
    assert found.audio_to_visual.shape == (2, 4, 6)
    np.testing.assert_allclose(found.audio_to_visual.sum(axis=2), np.ones((2, 4)), rtol=1e-6)


def test_one_modality(small_model, random_batch):
    model = small_model(modalities="audio", attention="self")
    found = model.attention_map(random_batch([4], [6]))
    np.testing.assert_allclose(found.class_to_class + found.class_to_audio.sum(1), 1, rtol=1e-6)
    assert not found.class_to_visual.any()
    assert found.audio_to_visual.size == 0


def test_clip_without_sound(small_model, random_batch):
    found = small_model().attention_map(random_batch([0], [6]))
    assert found.class_to_audio.shape == (2, 0)
    np.testing.assert_allclose(found.class_to_class + found.class_to_visual.sum(1), 1, rtol=1e-6)


def test_one_clip_only(small_model, random_batch):
    with pytest.raises(TCAFError, match="of one clip, got a batch of 2"):
        small_model().attention_map(random_batch([4, 4], [6, 6]))


def test_which_models_are_asked(small_model):
    assert isinstance(small_model(), HasAttentionMap)
    ridge = Ridge(RidgeConfig(audio_dim=3, visual_dim=5, text_dim=7))
    assert not isinstance(ridge, HasAttentionMap)
