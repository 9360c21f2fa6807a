"""C3D: what frames undergo by hand, the network by its published shapes and a plain one."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tcaf.errors import TCAFError
from tcaf.extract import c3d
from tcaf.extract.backbones import BACKBONES, FrameSize, VisualBackbone
from tcaf.extract.backbones import open_backbone as open_by_name


@pytest.fixture(scope="module")
def backbone():
    return open_by_name("c3d:weights=random", "visual")


def frames(*shape, seed=0):
    size = (*shape, 128, 171, 3)
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize(
    ("colours", "red", "green", "blue"),
    [
        ("paper", 200 - 101.41, 0 - 97.66, 7 - 90.25),
        # 200 becomes 56, 0 stays 0, 7 becomes 249; Kinetics' numbers for red meet blue.
        (
            "release",
            (56 / 255 - 0.37645) / 0.216989,
            (0 / 255 - 0.394666) / 0.22145,
            (249 / 255 - 0.43216) / 0.22803,
        ),
        (
            "release_activitynet",
            (200 / 255 - 0.37645) / 0.216989,
            (0 / 255 - 0.394666) / 0.22145,
            (7 / 255 - 0.43216) / 0.22803,
        ),
    ],
)
def test_colours_by_hand(colours, red, green, blue):
    windows = np.zeros((2, 16, 128, 171, 3), np.uint8)
    windows[:] = 200, 0, 7
    prepared = c3d.prepare(windows, c3d.COLOURS[colours])
    assert prepared.shape == (2, 3, 16, 112, 112)
    for channel, expected in enumerate((blue, green, red)):
        np.testing.assert_allclose(prepared[:, channel], expected, rtol=1e-5)


def test_the_middle_is_seen():
    windows = frames(1, 16)
    mean = c3d.COLOURS["paper"].mean
    prepared = c3d.prepare(windows, c3d.COLOURS["paper"])
    # (128 - 112) / 2 = 8 rows and (171 - 112) / 2 = 29 columns are cut off before.
    for time, row, column in ((0, 0, 0), (5, 111, 3), (15, 17, 111)):
        pixel = windows[0, time, 8 + row, 29 + column].astype(float)
        for channel in range(3):
            expected = pixel[2 - channel] - mean[channel]
            assert float(prepared[0, channel, time, row, column]) == pytest.approx(
                expected, abs=1e-4
            )


@pytest.mark.parametrize("colours", ["release", "release_activitynet"])
def test_zeros_follow_an_incomplete_window_after_normalisation(colours):
    whole = c3d.prepare(frames(2, 16), c3d.COLOURS[colours])
    short = c3d.prepare(frames(2, 16)[:, :5], c3d.COLOURS[colours])
    assert torch.equal(short[:, :, :5], whole[:, :, :5])
    assert not short[:, :, 5:].any()


def test_shapes_are_the_published_ones():
    with torch.device("meta"):
        own = c3d.C3D().state_dict()
    shapes = {key: tuple(value.shape) for key, value in own.items()}
    widths = {"conv1": (64, 3), "conv2": (128, 64), "conv3a": (256, 128), "conv3b": (256, 256)}
    widths |= {
        "conv4a": (512, 256),
        "conv4b": (512, 512),
        "conv5a": (512, 512),
        "conv5b": (512, 512),
    }
    expected = {f"{name}.weight": (*width, 3, 3, 3) for name, width in widths.items()}
    expected |= {f"{name}.bias": width[:1] for name, width in widths.items()}
    expected |= {"fc6.weight": (4096, 8192), "fc6.bias": (4096,)}
    expected |= {"fc7.weight": (4096, 4096), "fc7.bias": (4096,)}
    assert shapes == expected


@pytest.mark.slow
def test_backbone(backbone):
    assert isinstance(backbone, VisualBackbone)
    assert backbone.name == "c3d:weights=random"
    assert (backbone.dim, backbone.step_s) == (int(BACKBONES["c3d"].dim), 0.64)
    assert (backbone.fps, backbone.window_frames) == (25, 16)
    assert backbone.frame_size == FrameSize(128, 171)
    assert not backbone.takes_incomplete_windows
    tokens = backbone.embed(frames(1, 16))
    assert tokens.shape == (1, 4096)
    assert tokens.dtype == np.float32
    assert backbone.network.conv3a.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert tokens.min() == 0
    assert 0.2 < (tokens > 0).mean() < 0.8
    assert backbone.embed(frames(0, 16)).shape == (0, 4096)
    with pytest.raises(TCAFError, match="c3d:weights=random takes windows of 16 frames, found 7"):
        backbone.embed(frames(1, 7))


@pytest.mark.slow
@torch.inference_mode()
def test_network_is_a_plain_chain(backbone):
    weights = (value.contiguous() for value in backbone.network.state_dict().values())
    windows = frames(3, 16)
    x = c3d.prepare(windows, c3d.COLOURS["paper"]).contiguous()
    for pooled in ((1, 2, 2), 2, None, 2, None, 2, None, "last"):
        x = F.conv3d(x, next(weights), next(weights), padding=1).clamp(min=0)
        if pooled == "last":
            # Maps of 7 x 7 hold nothing below 0, so zeros around them change no maximum.
            x = F.max_pool3d(F.pad(x, (1, 1, 1, 1)), 2)
        elif pooled:
            x = F.max_pool3d(x, pooled)
    x = x.reshape(3, 8192)
    for _ in range(2):
        x = (x @ next(weights).T + next(weights)).clamp(min=0)
    np.testing.assert_allclose(backbone.embed(windows), x, rtol=0, atol=1e-5 * float(x.max()))


@pytest.mark.slow
def test_windows_in_a_batch_do_not_change_a_token(backbone):
    windows = frames(3, 16)
    together = backbone.embed(windows)
    alone = np.concatenate([backbone.embed(window[None]) for window in windows])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * together.max())


@pytest.mark.slow
def test_bfloat16_is_close_and_tells_its_name(backbone):
    halved = open_by_name("c3d:weights=random,precision=bfloat16", "visual")
    assert halved.name == "c3d:precision=bfloat16,weights=random"
    windows = frames(2, 16)
    tokens, exact = halved.embed(windows), backbone.embed(windows)
    assert tokens.dtype == np.float32
    difference = np.abs(tokens - exact).max() / exact.max()
    assert 1e-5 < difference < 0.01


def stand_in(rename):
    """Weights that are each a constant: of any size, but few bytes in a file."""
    with torch.device("meta"):
        own = c3d.C3D().state_dict()
    return {
        rename(key): torch.full((1,), k / 1024).expand(value.shape)
        for k, (key, value) in enumerate(own.items())
    }


def openmmlab(key):
    layer, kind = key.split(".")
    layer = {"conv1": "conv1a", "conv2": "conv2a"}.get(layer, layer)
    return f"{layer}.conv.{kind}" if layer.startswith("conv") else key


@pytest.mark.parametrize(
    ("rename", "more"),
    [
        (str, "fc8.weight"),
        (openmmlab, None),
        (lambda key: "backbone." + openmmlab(key), "cls_head.fc_cls.weight"),
    ],
)
def test_names_of_the_ports(rename, more):
    state = stand_in(rename)
    if more:
        state[more] = torch.zeros(7, 4096)
    renamed = c3d._renamed(state)
    assert list(renamed) == list(stand_in(str))
    assert [float(value.flatten()[0]) for value in renamed.values()] == pytest.approx(
        [k / 1024 for k in range(len(renamed))]
    )


@pytest.mark.slow
def test_a_file_of_weights(tmp_path):
    torch.save({"state_dict": stand_in(openmmlab)}, tmp_path / "w.pth")
    loaded = c3d.open_backbone({"colours": "release"}, tmp_path / "w.pth")
    options, _, mark = loaded.name.partition(",weights=")
    assert options == "c3d:colours=release"
    assert len(mark) == 12
    assert loaded.takes_incomplete_windows
    for k, value in enumerate(loaded.network.state_dict().values()):
        assert value.min() == value.max() == k / 1024


def test_what_a_user_can_get_wrong(tmp_path):
    with pytest.raises(
        TCAFError, match=r"paper, release, .* got 'relaese'; did you mean 'release'"
    ):
        open_by_name("c3d:colours=relaese", "visual", tmp_path)
    with pytest.raises(TCAFError, match="precision of float32, bfloat16, got 'bflaot16'; did you"):
        open_by_name("c3d:precision=bflaot16", "visual", tmp_path)
    torch.save({"conv1.weight": torch.ones(7, 3, 3, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(TCAFError, match=r"weights of C3D in .*w.pth are not .*missing: conv1.bias"):
        c3d.open_backbone({}, tmp_path / "w.pth")
