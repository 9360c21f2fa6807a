import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tcaf.errors import TCAFError
from tcaf.extract import clap
from tcaf.extract.backbones import AudioBackbone, open_backbone

RATE = 48_000
WINDOW = 46_080


@pytest.fixture(scope="module", params=["plain", "fused"])
def model(request):
    """A `ClapModel` and its features; one that treats long clips in a way of its own, one not."""
    import transformers

    fused = request.param == "fused"
    config = transformers.ClapConfig(
        projection_dim=13,
        audio_config={
            "num_mel_bins": 16,
            "spec_size": 64,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "patch_embeds_hidden_size": 8,
            "hidden_size": 16,
            "window_size": 4,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "num_hidden_layers": 2,
            "enable_fusion": fused,
        },
        text_config={
            "hidden_size": 10,
            "intermediate_size": 19,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 37,
            "max_position_embeddings": 11,
        },
    )
    torch.manual_seed(0)
    model = transformers.ClapModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.5)
    features = transformers.ClapFeatureExtractor(
        feature_size=16, max_length_s=2, truncation="fusion" if fused else "rand_trunc"
    )
    return model, features


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("clap")
    for part in model:
        part.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def backbone(folder):
    return open_backbone("clap", "audio", folder)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def tones(*pitches):
    times = np.arange(WINDOW) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * p * times) for p in pitches]).astype(np.float32)


def test_tokens_are_those_of_transformers(model, backbone):
    whole, features = model
    windows = tones(440, 3001, 9001)
    given = features(list(windows), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        expected = whole.get_audio_features(
            input_features=given["input_features"].float(),
            is_longer=torch.zeros(3, 1, dtype=torch.bool),
        )
    expected = getattr(expected, "pooler_output", expected).numpy()
    tokens = backbone.embed(windows)
    assert isinstance(backbone, AudioBackbone)
    assert tokens.shape == (3, backbone.dim) == (3, 13)
    assert tokens.dtype == np.float32
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 1, atol=1e-5)
    assert np.abs(tokens[0] - tokens[2]).max() > 0.05


def test_windows_lie_side_by_side(backbone):
    assert (backbone.sample_rate, backbone.window_samples, backbone.hop_samples) == (
        RATE,
        WINDOW,
        WINDOW,
    )
    assert backbone.step_s == 0.96


def test_neither_chance_nor_company_changes_a_token(backbone, monkeypatch):
    windows = tones(440, 3001, 9001, 211, 5003)
    together = backbone.embed(windows)
    for seed in range(3):
        # The extractor declares a random clip to be long.
        np.random.seed(seed)  # noqa: NPY002
        np.testing.assert_array_equal(backbone.embed(windows), together)
    monkeypatch.setattr(clap, "BATCH", 2)
    np.testing.assert_allclose(backbone.embed(windows), together, atol=1e-5)
    assert backbone.embed(windows[:0]).shape == (0, 13)
    silence = backbone.embed(np.zeros((1, WINDOW), np.float32))
    assert np.isfinite(silence).all()


def test_the_name_carries_the_weights_but_not_other_files(backbone, copy):
    mark = backbone.name.removeprefix("clap:weights=")
    assert len(mark) == 12
    (copy / "README.md").write_text("something else")
    (copy / "vocab.json").write_text("{}")
    assert open_backbone(backbone.name, "audio", copy).name == backbone.name
    state = load_file(copy / "model.safetensors")
    state["audio_projection.linear1.weight"] *= 2
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(TCAFError, match=f"expected the weights of 'clap:weights={mark}'"):
        open_backbone(backbone.name, "audio", copy)


def test_another_rate_changes_the_samples_of_a_window(copy):
    path = copy / "preprocessor_config.json"
    told = {**json.loads(path.read_text()), "sampling_rate": 44_100, "nb_max_samples": 88_200}
    path.write_text(json.dumps(told))
    other = open_backbone("clap", "audio", copy)
    assert (other.sample_rate, other.window_samples, other.step_s) == (44_100, 42_336, 0.96)
    assert other.embed(np.zeros((2, 42_336), np.float32)).shape == (2, 13)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clap", r"needs the folder .*--audio_weights FOLDER; get one by hf download laion/clap"),
        ("clap:weights=random", r"no random weights.*--audio_weights FOLDER$"),
    ],
)
def test_without_a_folder_it_says_what_it_needs(text, message):
    with pytest.raises(TCAFError, match=message):
        open_backbone(text, "audio")


def test_damaged_folders_are_told(copy, monkeypatch):
    def refused(match):
        with pytest.raises(TCAFError, match=match) as error:
            open_backbone("clap", "audio", copy)
        assert "\n" not in str(error.value)

    path = copy / "preprocessor_config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "max_length_s": 0.5}))
    refused(r"takes 0\.5 s at most")
    path.write_text(json.dumps({**told, "feature_size": 17}))
    refused("makes 17 mel bins, the model takes 16")
    path.write_text("{")
    refused("the feature extractor in .* does not load")
    path.unlink()
    refused("the feature extractor in .* does not load")
    (copy / "model.safetensors").unlink()
    refused("audio half in .* does not load")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(r"not installed; pip install 'tcaf\[text\]'")
    (copy / "config.json").write_text('{"model_type": "clip"}')
    refused("a transformers CLAP model at .*, found one of the type 'clip'")
