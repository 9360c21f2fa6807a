import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from tcaf.errors import TCAFError
from tcaf.settings.fidelity import Fidelity
from tcaf.systems.release_checkpoint import IGNORED, _names, model_from_state_dict, read_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
DUPLICATE, POSITION = "audiovisual_embeddings.", "position_encoder_block."


@pytest.fixture(scope="module")
def weights():
    with np.load(GOLDEN / "weights.npz") as file:
        return {name: np.asarray(file[name]) for name in file.files}


def with_duplicates(weights):
    """As the release saves it: the position encoder a second time."""
    position = {n: w for n, w in weights.items() if n.startswith(POSITION)}
    return {**weights, **{n.replace(POSITION, DUPLICATE): w for n, w in position.items()}}


def test_every_weight_arrives_once(weights):
    model = model_from_state_dict(weights, num_heads=2)
    wanted = [part for parts in _names(model).values() for part in parts]
    assert len(set(wanted)) == len(wanted)
    table = POSITION + "modal_embedding"
    given = {name for name in weights if not name.startswith(IGNORED)} - {f"{table}.weight"}
    assert set(wanted) == given | {f"{table}.audio", f"{table}.visual"}
    own = model.state_dict()
    assert set(_names(model)) == set(own)
    for name, parts in _names(model).items():
        if not name.startswith("positions.modality"):
            joined = np.concatenate([np.atleast_1d(weights[part]).ravel() for part in parts])
            assert (own[name].flatten().numpy() == joined).all(), name
    audio, visual = weights[f"{table}.weight"]
    assert (own["positions.modality.audio"].numpy() == audio).all()
    assert (own["positions.modality.visual"].numpy() == visual).all()


def test_query_key_and_value_are_joined_in_this_order(weights):
    model = model_from_state_dict(weights, num_heads=2)
    parts = model.layers[1].attention.to_qkv.weight.chunk(3)
    for letter, part in zip("qkv", parts, strict=True):
        expected = weights[f"Audio_visual_transformer.layers.1.attn.to_{letter}.weight"]
        assert (part.detach().numpy() == expected).all()


def test_config_from_shapes(weights):
    config = model_from_state_dict(weights, num_heads=2, attention="full").config
    sizes = (config.audio_dim, config.visual_dim, config.text_dim, config.num_layers)
    assert sizes == (12, 32, 300, 2)
    assert (config.num_heads, config.head_dim, config.token_dim) == (2, 8, 300)
    assert (config.joint_dim, config.encoder_hidden_dim) == (64, 24)
    assert (config.projection_hidden_dim, config.feed_forward_dim) == (20, 16)
    assert (config.position_dim, config.attention, config.class_token) == (8, "full", True)
    official = Fidelity.official()
    for name in ("audio_scaling", "visual_scaling", "layer_norm", "batch_norm_momentum"):
        assert getattr(config, name) == getattr(official, name)
    rates = [value for name, value in vars(config).items() if name.startswith("dropout")]
    assert rates == [0.0] * 5
    assert model_from_state_dict(weights, num_heads=4).config.head_dim == 4


def test_result_is_in_evaluation_mode(weights):
    model = model_from_state_dict(weights, num_heads=2)
    assert not any(module.training for module in model.modules())


def same_model(one, other):
    return all(torch.equal(value, other.state_dict()[n]) for n, value in one.state_dict().items())


def test_tensors_and_duplicates_give_the_same_model(weights):
    model = model_from_state_dict(weights, num_heads=2)
    tensors = {name: torch.from_numpy(value) for name, value in with_duplicates(weights).items()}
    assert same_model(model, model_from_state_dict(tensors, num_heads=2))
    lean = {n: w for n, w in weights.items() if "pad_embedding" not in n}
    assert same_model(model, model_from_state_dict(lean, num_heads=2))


def test_the_callers_weights_are_left_alone(weights):
    before = {name: value.copy() for name, value in weights.items()}
    model = model_from_state_dict(weights, num_heads=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert list(weights) == list(before)
    assert all((weights[name] == value).all() for name, value in before.items())


QUERY = "Audio_visual_transformer.layers.0.attn.to_q.weight"


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (
            "W_proj.fc.0.weight",
            r"lacks 'W_proj\.fc\.0\.weight'; did you mean 'W_proj\.fc\.1\.weight'",
        ),
        ("D_o.fc.5.bias", r"lacks 'D_o\.fc\.5\.bias'; did you mean 'D_o\.fc\.\d\.\w+'\?"),
        (POSITION + "modal_embedding.weight", r"lacks 'position_encoder_block\.modal_embedding\."),
        (QUERY, r"lacks 'Audio_visual_transformer\.layers\.0\.attn\.to_q\.weight'; did you mean"),
    ],
)
def test_a_missing_weight(weights, gone, message):
    left = {name: value for name, value in weights.items() if name != gone}
    with pytest.raises(TCAFError, match=message):
        model_from_state_dict(left, num_heads=2)


def test_an_unknown_weight(weights):
    with pytest.raises(TCAFError, match=r"weights that TCaF lacks: 'D_x\.fc\.0\.weight'$"):
        model_from_state_dict({**weights, "D_x.fc.0.weight": np.zeros(3)}, num_heads=2)


def test_a_weight_that_does_not_fit(weights):
    name = "O_proj.fc.4.bias"
    message = r"checkpoint's video_projection\.1\.linear\.bias has shape \(63,\), expected \(64,\)"
    with pytest.raises(TCAFError, match=message):
        model_from_state_dict({**weights, name: weights[name][:-1]}, num_heads=2)


@pytest.mark.parametrize("num_heads", [0, 3, -2])
def test_heads_that_do_not_divide(weights, num_heads):
    with pytest.raises(TCAFError, match=f"num_heads must divide 16.*got {num_heads}"):
        model_from_state_dict(weights, num_heads=num_heads)


def test_not_a_checkpoint_of_the_release():
    with pytest.raises(TCAFError, match=r"lacks 'Audio_visual_transformer\.layers\.0"):
        model_from_state_dict({}, num_heads=2)


@pytest.mark.parametrize("wrapping", [None, "model", "state_dict", "model_state_dict"])
def test_reading_a_file(tmp_path, weights, wrapping):
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    content = tensors if wrapping is None else {"epoch": 3, wrapping: tensors}
    torch.save(content, tmp_path / "a.pt")
    read = read_checkpoint(tmp_path / "a.pt")
    assert list(read) == list(weights)
    assert all(torch.equal(read[name], value) for name, value in tensors.items())


class Trap:
    """Raises if it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Trap()}, "is no checkpoint of plain tensors: it is damaged, or holds more$"),
        ([1, 2], "holds no state dict, but list"),
        ({}, "holds no state dict, but dict"),
        ({"model": {}}, "holds no state dict, but dict"),
        ({"a": torch.zeros(2), "b": 3}, "holds no state dict: 'b' are no tensors"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(TCAFError, match=message) as raised:
        read_checkpoint(tmp_path / "a.pt")
    assert str(tmp_path / "a.pt") in str(raised.value)


def test_damaged_or_missing_file(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"not a file of torch")
    with pytest.raises(TCAFError, match=r"a\.pt is no checkpoint of plain tensors"):
        read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(TCAFError, match=r"expected a checkpoint at .*b\.pt, found nothing"):
        read_checkpoint(tmp_path / "b.pt")


def test_nothing_is_executed_whatever_the_version_of_torch():
    assert "weights_only=True" in inspect.getsource(read_checkpoint)
