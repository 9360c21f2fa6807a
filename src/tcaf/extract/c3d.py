"""C3D: 4096 numbers per 16 frames, from a 3D convolutional network trained on Sports-1M.

Owns the network (Tran et al. 2015), what frames undergo before it, and the reading of its weights
from the files of PyTorch ports. The published weights are in no test of this package: their names
and shapes are followed from the public code of the ports, so look at the first features yourself.

`colours` says what frames undergo. The network was trained in Caffe on OpenCV's frames, so all of
them hand it blue, green, red; the ports convert its weights without turning the first layer round.

- `paper`: 0..255 less C3D's own mean, here that of each channel of its mean cube (the channels vary
  by a few grey levels over the cube, which nobody ships with the weights any more). With it the
  ports' weights classify Sports-1M well (github.com/DavideA/c3d-pytorch, issue 1).
- `release`: what the authors' extraction does for UCF and VGGSound, see `docs/fidelity.md`: each
  value x becomes (256 - x) mod 256, is scaled to 0..1, and normalised with mean and deviation of
  Kinetics, which were meant for red, green, blue. The authors invert before scaling down to
  128 x 171, here it is done after; only the edges of pure black differ.
- `release_activitynet`: the same, not inverted.

With either of the latter the last window of a clip may be incomplete: zeros follow its frames after
normalisation, as in the release. Otherwise windows are whole.

`precision=bfloat16` computes in half as many bits. On processors that multiply bfloat16 it takes
about half the time; numbers move by up to a hundredth of the largest, so that the name tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from tcaf.errors import TCAFError, did_you_mean
from tcaf.execution.devices import on_cpu
from tcaf.extract.backbones import FrameSize, canonical_name
from tcaf.pretrained.fetch import RANDOM, WeightsFile, find_weights, weights_mark
from tcaf.pretrained.weights import draw_weights, load_into, read_state_dict
from tcaf.seeding import seeded

NUM_FRAMES = 16
"""Frames that a token is made from."""

SIDE = 112
"""Height and width in pixels of what the network sees, the middle of a frame."""

DIM = 4096
"""Numbers per window."""

WEIGHTS = WeightsFile(
    "c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
    "https://download.openmmlab.com/mmaction/recognition/c3d/"
    "c3d_sports1m_pretrain_20201016-dcc47ddc.pth",
    "dcc47ddc",
    312,
)
"""The Sports-1M weights as OpenMMLab converted them."""

PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What there is for the option `precision`."""

_FRAME_SIZE = FrameSize(128, 171)
_BATCH = 2


@dataclass(frozen=True)
class Colours:
    """What the values of a frame undergo.

    Args:
        is_inverted: whether x first becomes (256 - x) mod 256.
        mean: of blue, green and red in 0..255, subtracted.
        std: of the three in 0..255, divided by.
        pads_last: whether a last window may be incomplete, continued with zeros.
    """

    is_inverted: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pads_last: bool


_KINETICS_MEAN = (0.43216 * 255, 0.394666 * 255, 0.37645 * 255)
_KINETICS_STD = (0.22803 * 255, 0.22145 * 255, 0.216989 * 255)

COLOURS: dict[str, Colours] = {
    "paper": Colours(False, (90.25, 97.66, 101.41), (1.0, 1.0, 1.0), False),
    "release": Colours(True, _KINETICS_MEAN, _KINETICS_STD, True),
    "release_activitynet": Colours(False, _KINETICS_MEAN, _KINETICS_STD, True),
}
"""What there is for the option `colours`."""


def prepare(
    windows: UInt8[np.ndarray, "num_windows num_frames 128 171 3"], colours: Colours
) -> Float[Tensor, "num_windows 3 16 112 112"]:
    """Returns what the network sees of windows of 1 to 16 RGB frames; zeros follow the frames.

    The tensor's memory keeps channels last, as the frames do.
    """
    top, left = ((size - SIDE) // 2 for size in windows.shape[2:4])
    cut = windows[:, :, top : top + SIDE, left : left + SIDE, ::-1]
    if colours.is_inverted:
        # Eight bits without a sign wrap: 0 stays 0, as in the release.
        cut = np.negative(cut)
    prepared = np.zeros((len(windows), NUM_FRAMES, SIDE, SIDE, 3), np.float32)
    values = prepared[:, : cut.shape[1]]
    np.subtract(cut, np.array(colours.mean, np.float32), out=values, dtype=np.float32)
    values /= np.array(colours.std, np.float32)
    return torch.from_numpy(prepared).permute(0, 4, 1, 2, 3)


class C3D(nn.Module):
    """The network, up to the second linear layer.

    Source: Tran et al. 2015, Fig. 3; names as in Caffe. Dropout is left out, it trains only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64)
        self.conv2 = _conv(64, 128)
        self.conv3a = _conv(128, 256)
        self.conv3b = _conv(256, 256)
        self.conv4a = _conv(256, 512)
        self.conv4b = _conv(512, 512)
        self.conv5a = _conv(512, 512)
        self.conv5b = _conv(512, 512)
        self.fc6 = nn.Linear(8192, DIM)
        self.fc7 = nn.Linear(DIM, DIM)
        # The first pool spares time; the last rounds 7 x 7 up to 4 x 4.
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.pool = nn.MaxPool3d(2)
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, windows: Float[Tensor, "batch 3 16 112 112"]) -> Float[Tensor, "batch 4096"]:
        """Returns the second linear layer's output after its ReLU; no number is negative."""
        return self.linear(self.maps(windows))

    def maps(self, windows: Float[Tensor, "batch 3 16 112 112"]) -> Float[Tensor, "batch 8192"]:
        """Returns what the linear layers see."""
        # A maximum's ReLU is the maximum of ReLUs, and takes an eighth of the time.
        x = self.relu(self.pool1(self.conv1(windows)))
        x = self.relu(self.pool(self.conv2(x)))
        x = self.relu(self.pool(self.conv3b(self.relu(self.conv3a(x)))))
        x = self.relu(self.pool(self.conv4b(self.relu(self.conv4a(x)))))
        x = self.relu(self.pool5(self.conv5b(self.relu(self.conv5a(x)))))
        return x.flatten(start_dim=1)

    def linear(self, maps: Float[Tensor, "batch 8192"]) -> Float[Tensor, "batch 4096"]:
        """Returns the second linear layer's output after its ReLU, of `maps`."""
        return self.relu(self.fc7(self.relu(self.fc6(maps))))


def _conv(in_dim: int, out_dim: int) -> nn.Conv3d:
    return nn.Conv3d(in_dim, out_dim, kernel_size=3, padding=1)


class C3DBackbone:
    """Makes 4096 numbers of 16 frames at 25 a second.

    Args:
        name: canonical.
        network: in eval mode, as `arranged` returns it.
        colours: what frames undergo.
    """

    dim = DIM
    fps = 25.0
    window_frames = NUM_FRAMES
    step_s = NUM_FRAMES / 25.0
    frame_size = _FRAME_SIZE

    def __init__(self, name: str, network: C3D, colours: Colours) -> None:
        self.name = name
        self.network = network
        self.colours = colours
        self.takes_incomplete_windows = colours.pads_last

    @torch.inference_mode()
    def embed(
        self, windows: UInt8[np.ndarray, "num_windows num_frames 128 171 3"]
    ) -> Float[np.ndarray, "num_windows 4096"]:
        """Returns the token of each window of RGB frames in 0..255.

        Raises:
            TCAFError: fewer than 16 frames where windows have to be whole.
        """
        num_frames = windows.shape[1]
        least = 1 if self.takes_incomplete_windows else NUM_FRAMES
        if not least <= num_frames <= NUM_FRAMES:
            raise TCAFError(f"{self.name} takes windows of 16 frames, found {num_frames}")
        weight = self.network.fc6.weight
        maps = weight.new_empty(len(windows), weight.shape[1])
        for start in range(0, len(windows), _BATCH):
            prepared = prepare(windows[start : start + _BATCH], self.colours)
            given = prepared.to(weight.device, weight.dtype)
            maps[start : start + _BATCH] = self.network.maps(given)
        # At once: reading the weights of linear layers takes longer than two windows' products.
        return on_cpu(self.network.linear(maps))

    def move_to(self, device: torch.device) -> None:
        """Moves the network to a device."""
        self.network.to(device)


def arranged(network: C3D, dtype: torch.dtype = torch.float32) -> C3D:
    """Returns the network arranged to be fast on a processor: channels last in memory."""
    # The stubs of torch do not know that `to` takes a memory format.
    return network.to(dtype=dtype, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def open_backbone(options: Mapping[str, str], weights: Path | None) -> C3DBackbone:
    """Loads C3D.

    Args:
        options: those of its name: `colours`, `precision`, and `weights=random` to draw weights
            from a fixed seed.
        weights: a file with the names of Caffe (`conv1.weight` to `fc7.weight`) or of OpenMMLab; by
            default OpenMMLab's, fetched on first use.

    Raises:
        TCAFError: no such colours or precision, or weights that cannot be had or are not those of
            C3D.
    """
    colours, precision = options.get("colours", "paper"), options.get("precision", "float32")
    for option, given, known in (
        ("colours", colours, COLOURS),
        ("precision", precision, PRECISIONS),
    ):
        if given not in known:
            raise TCAFError(
                f"c3d: expected {option} of {', '.join(known)}, got {given!r}"
                f"{did_you_mean(given, known)}"
            )
    # Drawn or read right after: the default initialisation would only take time.
    with torch.device("meta"):
        network = C3D()
    network.to_empty(device="cpu").eval()
    mark: str | None = RANDOM
    if options.get("weights") == RANDOM:
        with seeded(0, "c3d"):
            draw_weights(network)
    else:
        path = find_weights(WEIGHTS, weights)
        load_into(network, _renamed(read_state_dict(path)), f"the weights of C3D in {path}")
        mark = weights_mark(path, WEIGHTS)
    named = {"colours": colours, "precision": precision} | ({"weights": mark} if mark else {})
    network = arranged(network, PRECISIONS[precision])
    return C3DBackbone(canonical_name("c3d", named), network, COLOURS[colours])


def _renamed(
    state: Mapping[str, Shaped[Tensor, "..."]],
) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns weights by the names of Caffe, without what comes after `fc7`.

    OpenMMLab says `conv1a.conv.weight` for `conv1.weight`, and `backbone.` before all of it where
    a classifier (`cls_head`) lies in the same file.
    """
    names = {}
    for key, value in state.items():
        name = key.removeprefix("backbone.").replace(".conv.", ".")
        for single in ("conv1", "conv2"):
            name = name.replace(f"{single}a.", f"{single}.")
        if not name.startswith(("fc8.", "cls_head.")):
            names[name] = value
    return names
