import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tcaf.errors import TCAFError
from tcaf.extract import clip
from tcaf.extract.backbones import FrameSize, VisualBackbone, open_backbone
from tcaf.extract.clip import Preprocessing

SIDE = 22
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
SETTINGS = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": MEAN,
    "image_std": STD,
}


@pytest.fixture(scope="module")
def model():
    """A `CLIPModel` with random weights so large that its embeddings depend on every pixel."""
    import transformers

    config = transformers.CLIPConfig(
        projection_dim=13,
        vision_config={
            "hidden_size": 12,
            "intermediate_size": 17,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": SIDE,
            "patch_size": 11,
        },
        text_config={
            "hidden_size": 10,
            "intermediate_size": 19,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 37,
            "max_position_embeddings": 11,
            "bos_token_id": 35,
            "eos_token_id": 36,
        },
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.5)
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def random_windows(num_windows, num_frames, side=SIDE, seed=0):
    shape = (num_windows, num_frames, side, side, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def direct(model, frames):
    """Returns embeddings of length 1 of frames, by transformers' own model and other arithmetic."""
    pixels = (frames.astype(np.float64) / 255 - MEAN) / STD
    with torch.no_grad():
        given = torch.from_numpy(np.moveaxis(pixels, -1, 1)).float()
        out = model.get_image_features(pixel_values=given)
    out = getattr(out, "pooler_output", out).numpy()
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def test_a_token_is_the_mean_of_what_transformers_makes_of_the_frames(model, folder):
    backbone = open_backbone("clip", "visual", folder)
    assert isinstance(backbone, VisualBackbone)
    windows = random_windows(5, 2)
    tokens = backbone.embed(windows)
    mean = (direct(model, windows[:, 0]) + direct(model, windows[:, 1])) / 2
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    assert tokens.shape == (5, backbone.dim) == (5, 13)
    assert tokens.dtype == np.float32
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    assert np.abs(tokens[0] - tokens[1]).max() > 0.05


def test_a_window_keeps_its_length_whatever_the_number_of_frames(model, folder):
    for frames in (1, 2, 4, 8, 16):
        backbone = open_backbone(f"clip:frames={frames}", "visual", folder)
        assert backbone.window_frames == frames
        assert backbone.fps == 25 * frames / 16
        assert backbone.step_s == backbone.window_frames / backbone.fps == 0.64
    still = np.repeat(random_windows(3, 1), 16, axis=1)
    np.testing.assert_allclose(backbone.embed(still), direct(model, still[:, 0]), atol=1e-5)


def test_the_company_of_a_window_does_not_change_it(folder, monkeypatch):
    backbone = open_backbone("clip", "visual", folder)
    windows = random_windows(7, 2)
    windows.setflags(write=False)
    together = backbone.embed(windows)
    monkeypatch.setattr(clip, "BATCH", 3)
    np.testing.assert_allclose(backbone.embed(windows), together, atol=1e-6)
    np.testing.assert_allclose(backbone.embed(windows[4:5])[0], together[4], atol=1e-6)
    np.testing.assert_allclose(backbone.embed(windows[:, ::-1]), together, atol=1e-6)
    assert backbone.embed(windows[:0]).shape == (0, 13)


def test_the_name_carries_frames_and_weights_but_not_other_files(folder, copy):
    names = {}
    for frames in ("", ":frames=2", ":frames=4"):
        names[frames] = open_backbone(f"clip{frames}", "visual", folder).name
    mark = names[""].removeprefix("clip:weights=")
    assert len(mark) == 12
    assert names[":frames=2"] == names[""]
    assert names[":frames=4"] == f"clip:frames=4,weights={mark}"
    for name in ("README.md", "tf_model.h5", "pytorch_model.bin", "tokenizer.json"):
        (copy / name).write_text("something else")
    assert open_backbone(names[":frames=4"], "visual", copy).name == names[":frames=4"]
    changed = {**SETTINGS, "image_mean": [0.5, 0.5, 0.5]}
    (copy / "preprocessor_config.json").write_text(json.dumps(changed))
    with pytest.raises(TCAFError, match=f"expected the weights of 'clip:weights={mark}'"):
        open_backbone(names[""], "visual", copy)
    (copy / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    state = load_file(copy / "model.safetensors")
    state["visual_projection.weight"] *= 2
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    assert open_backbone("clip", "visual", copy).name != names[""]


def test_shards_and_torch_files_are_loaded_and_marked(model, folder, copy):
    expected = open_backbone("clip", "visual", folder).embed(random_windows(2, 2))
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="5KB")
    assert len(list(copy.glob("model-*.safetensors"))) > 1
    sharded = open_backbone("clip", "visual", copy)
    np.testing.assert_allclose(sharded.embed(random_windows(2, 2)), expected, atol=1e-6)
    for path in copy.glob("model*"):
        path.unlink()
    torch.save(load_file(folder / "model.safetensors"), copy / "pytorch_model.bin")
    whole = open_backbone("clip", "visual", copy)
    np.testing.assert_allclose(whole.embed(random_windows(2, 2)), expected, atol=1e-6)
    assert whole.name != sharded.name


# Preprocessing


def preprocessing(tmp_path, file="preprocessor_config.json", **changes):
    told = {k: v for k, v in {**SETTINGS, **changes}.items() if v is not None}
    (tmp_path / file).write_text(json.dumps(told))
    return Preprocessing.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "size", "crop"),
    [
        ({}, FrameSize(22, 22, True), (22, 22)),
        ({"size": 22, "crop_size": 22}, FrameSize(22, 22, True), (22, 22)),
        ({"size": {"shortest_edge": 29}}, FrameSize(29, 29, True), (22, 22)),
        ({"size": {"height": 23, "width": 31}}, FrameSize(23, 31), (22, 22)),
        (
            {"size": {"height": 23, "width": 31}, "do_center_crop": False},
            FrameSize(23, 31),
            (23, 31),
        ),
    ],
)
def test_sizes_are_read_in_all_their_forms(tmp_path, changes, size, crop):
    read = preprocessing(tmp_path, **changes)
    assert (read.frame_size, read.crop) == (size, crop)
    assert read.scale == 1 / 255
    nested = {"image_processor": {**SETTINGS, **changes}}
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert Preprocessing.read(tmp_path) == read


def test_the_middle_is_cut_out_and_colours_are_normalised(tmp_path):
    read = preprocessing(tmp_path, size={"shortest_edge": 5}, crop_size=3, rescale_factor=0.01)
    frames = torch.arange(75, dtype=torch.uint8).reshape(1, 5, 5, 3)
    out = read(frames)
    assert out.shape == (1, 3, 3, 3)
    # Row 1, column 1 has the values 18, 19, 20; the last pixel, row 3, column 3, has 54, 55, 56.
    first = [(0.18 - 0.5) / 0.2, (0.19 - 0.4) / 0.3, (0.20 - 0.3) / 0.25]
    last = [(0.54 - 0.5) / 0.2, (0.55 - 0.4) / 0.3, (0.56 - 0.3) / 0.25]
    np.testing.assert_allclose(out[0, :, 0, 0], first, atol=1e-6)
    np.testing.assert_allclose(out[0, :, 2, 2], last, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": None},
        {"size": {"longest_edge": 22}},
        {"size": "22"},
        {"crop_size": 23},
        {"image_mean": None},
        {"image_std": [0, 1, 1]},
        {"image_std": [1, 1]},
        {"image_mean": 0.5},
    ],
)
def test_other_settings_are_refused(tmp_path, changes):
    with pytest.raises(TCAFError, match=r"preprocessor_config\.json: expected the settings of a C"):
        preprocessing(tmp_path, **changes)


# What cannot be opened


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip", r"needs the folder .*--visual_weights FOLDER; get one by hf download openai/clip"),
        ("clip:weights=random", r"no random weights.*--visual_weights FOLDER$"),
        ("clip:frames=3", "one of 1, 2, 4, 8, 16, got '3'"),
        ("clip:frames=02", "got '02'"),
    ],
)
def test_without_a_folder_it_says_what_it_needs(text, message):
    with pytest.raises(TCAFError, match=message):
        open_backbone(text, "visual")


def test_damaged_folders_are_told(copy, monkeypatch):
    def refused(match):
        with pytest.raises(TCAFError, match=match) as error:
            open_backbone("clip", "visual", copy)
        assert "\n" not in str(error.value)

    settings_file = copy / "preprocessor_config.json"
    settings_file.write_text(json.dumps({**SETTINGS, "crop_size": 21}))
    refused(r"makes pictures of \(21, 21\), the model takes \(22, 22\)")
    settings_file.unlink()
    refused("expected the settings of an image processor at")
    state = load_file(copy / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    refused(r"vision half in .* no weights.* for 'visual_projection\.weight'")
    (copy / "model.safetensors").write_bytes(b"")
    refused("vision half in .* does not load")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(r"not installed; pip install 'tcaf\[text\]'")
    (copy / "config.json").unlink()
    refused(r"found no config\.json there; get one by hf")
