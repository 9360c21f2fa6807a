"""VGGish: the 128 numbers per 0.96 s that AudioSet was published in, from sound at 16 kHz.

Owns the front end (log-mel examples), the network, the 8-bit coding of its output, and the reading
of the weights of the common PyTorch port, github.com/harritaylor/torchvggish. What the paper calls
audio features are the 8-bit values (Mercea et al. 2022, Sec. 4.1; Hershey et al. 2017).

The weights themselves are in no test: the port's names, order of axes and file formats are followed
from its public code, the front end and the coding are checked against recorded numbers.

The port ends with a ReLU, as Google's own code did until 2020; the features that were published
with AudioSet are made without it (github.com/tensorflow/models, pull request 9080: "the released
embeddings were pre-activation"). `vggish` is the port, `vggish:activation=none` the latter.
"""

import pickletools
import tempfile
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from tcaf.errors import TCAFError, did_you_mean
from tcaf.execution.devices import on_cpu
from tcaf.extract.backbones import canonical_name
from tcaf.extract.waveform import Waveform, as_array, mono, resample
from tcaf.files.safe_pickle import read_pickle
from tcaf.pretrained.fetch import RANDOM, WeightsFile, find_weights, weights_mark
from tcaf.pretrained.weights import draw_weights, load_into, read_state_dict
from tcaf.seeding import seeded

SAMPLE_RATE = 16_000
"""Samples per second."""

FRAME_SAMPLES, FRAME_HOP = 400, 160
"""A frame of the spectrogram is 25 ms long; one starts every 10 ms."""

NUM_FRAMES, NUM_BANDS = 96, 64
"""An example is 96 frames of 64 mel bands."""

WINDOW_SAMPLES = (NUM_FRAMES - 1) * FRAME_HOP + FRAME_SAMPLES
"""Samples under one example: 15,600, which is 0.975 s."""

HOP_SAMPLES = NUM_FRAMES * FRAME_HOP
"""Samples from one example to the next: 15,360, which is 0.96 s."""

DIM = 128
"""Numbers per example."""

NETWORK = WeightsFile(
    "vggish-10086976.pth",
    "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
    "10086976",
    289,
)
"""The network's weights, converted from AudioSet's."""

PCA = WeightsFile(
    "vggish_pca_params-970ea276.pth",
    "https://github.com/harritaylor/torchvggish/releases/download/v0.1/"
    "vggish_pca_params-970ea276.pth",
    "970ea276",
    1,
)
"""What its output is rotated, whitened and centred with before it is coded in 8 bits."""

ACTIVATIONS = ("relu", "none")
"""What there is for the option `activation`."""

_FFT_SAMPLES = 512
_MEL_RANGE = 125.0, 7500.0
_LOG_OFFSET = 0.01
_CLIP = 2.0
# Examples at a time; the maps of more leave the processor's caches.
_BATCH = 8
_VECTORS, _MEANS = "pca_eigen_vectors", "pca_means"


def log_mel_examples(waveform: Waveform, sample_rate: int) -> Float[np.ndarray, "examples 96 64"]:
    """Returns the log-mel examples that VGGish takes.

    Magnitudes of 512-point spectra under periodic Hann windows of 25 ms, every 10 ms, summed in 64
    triangles on the mel scale from 125 to 7500 Hz, as log(x + 0.01). An example is 96 frames, none
    is in two; what is left at the end is dropped.

    Args:
        waveform: a numpy array or a tensor of the shape (samples,) or (samples, channels); int16,
            or floating in -1..1. Channels are mixed to their mean.
        sample_rate: of the waveform in samples per second; another than 16000 is changed to it by
            `waveform.resample`, which keeps what lies in the bands to 2e-5 of its amplitude.

    Raises:
        TCAFError: a sample rate below 1, another shape, or samples that are not of that kind.
    """
    samples = resample(mono(waveform), sample_rate, SAMPLE_RATE)
    # Frame j of example k starts at sample 15360 k + 160 j, and the last of its 96 frames ends
    # with sample 15360 k + 15600: example k is made of exactly that window, and is complete
    # exactly if the window is. So cutting windows first changes nothing, and long sounds need
    # not be in memory as frames.
    count = max(0, (len(samples) - WINDOW_SAMPLES) // HOP_SAMPLES + 1)
    examples = np.empty((count, NUM_FRAMES, NUM_BANDS), np.float32)
    if count:
        windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::HOP_SAMPLES]
        for start in range(0, count, _BATCH):
            examples[start : start + _BATCH] = log_mel_of_windows(windows[start : start + _BATCH])
    return examples


def log_mel_of_windows(
    windows: Float[np.ndarray, "num_windows 15600"],
) -> Float[np.ndarray, "num_windows 96 64"]:
    """Returns the log-mel example of each window of samples in -1..1 (`log_mel_examples`)."""
    frames = np.lib.stride_tricks.sliding_window_view(windows, FRAME_SAMPLES, axis=1)
    frames = frames[:, ::FRAME_HOP]
    # float64: a quiet band beside a loud one keeps its digits under the logarithm.
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES)
    magnitudes = np.abs(np.fft.rfft(frames * hann, _FFT_SAMPLES))
    # By torch, which keeps to the threads that it is given; numpy's own wait by spinning.
    bands = torch.from_numpy(magnitudes) @ torch.from_numpy(_mel_triangles())
    return np.log(bands.numpy() + _LOG_OFFSET).astype(np.float32)


def _mel(hertz: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns pitches in mel, HTK's formula."""
    return 1127.0 * np.log1p(hertz / 700.0)


@lru_cache(maxsize=1)
def _mel_triangles() -> Float[np.ndarray, "257 64"]:
    """Returns the weight of each spectral line in each band: triangles that are straight in mel."""
    lines = _mel(np.linspace(0.0, SAMPLE_RATE / 2, _FFT_SAMPLES // 2 + 1))[:, None]
    lowest, highest = _mel(np.array(_MEL_RANGE))
    corners = np.linspace(lowest, highest, NUM_BANDS + 2)
    low, peak, high = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (lines - low) / (peak - low), (high - lines) / (high - peak)
    return np.maximum(0.0, np.minimum(rising, falling))


def quantise(
    embedding: Float[np.ndarray, "examples 128"] | Float[Tensor, "examples 128"],
    pca_eigen_vectors: Float[np.ndarray, "128 128"] | Float[Tensor, "128 128"],
    pca_means: Float[np.ndarray, "128 *one"] | Float[Tensor, "128 *one"],
) -> UInt8[np.ndarray, "examples 128"]:
    """Returns the 8-bit coding of AudioSet: PCA, then -2..2 in 256 steps.

    Args:
        embedding: what the network returns.
        pca_eigen_vectors: one per row, whitening included.
        pca_means: subtracted first; (128,) or (128, 1).

    Each may be a numpy array or a tensor.
    """
    centred = as_array(embedding).astype(np.float64) - as_array(pca_means).reshape(-1)
    vectors = as_array(pca_eigen_vectors).astype(np.float64)
    rotated = np.clip(centred @ vectors.T, -_CLIP, _CLIP)
    # Cut, not rounded, as AudioSet's own code does; the PyTorch port rounds.
    return ((rotated + _CLIP) * (255.0 / (2 * _CLIP))).astype(np.uint8)


class VGGish(nn.Module):
    """The network: six convolutions and three linear layers, each with a ReLU, the last too.

    Source: Hershey et al. 2017; layers are numbered as in the PyTorch port, whose `embeddings` are
    `fc` here.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for size, is_pooled in (
            (64, True),
            (128, True),
            (256, False),
            (256, True),
            (512, False),
            (512, True),
        ):
            # A maximum's ReLU is the maximum of ReLUs; pooled first, it is of a quarter.
            layers += [nn.Conv2d(width, size, 3, padding=1)]
            layers += [nn.MaxPool2d(2)] if is_pooled else []
            layers += [nn.ReLU(inplace=True)]
            width = size
        self.features = nn.Sequential(*layers)
        self.fc = nn.Sequential(
            nn.Linear(512 * (NUM_FRAMES // 16) * (NUM_BANDS // 16), 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, DIM),
            nn.ReLU(inplace=True),
        )

    def forward(self, examples: Float[Tensor, "batch 96 64"]) -> Float[Tensor, "batch 128"]:
        """Returns the embedding of each log-mel example, before PCA; no number is negative."""
        return self.fc[-1](self.before_activation(examples))

    def before_activation(
        self, examples: Float[Tensor, "batch 96 64"]
    ) -> Float[Tensor, "batch 128"]:
        """Returns the embedding of each log-mel example before the last ReLU."""
        return self.fc[:-1](self.maps(examples))

    def maps(self, examples: Float[Tensor, "batch 96 64"]) -> Float[Tensor, "batch 12288"]:
        """Returns what the linear layers see of log-mel examples."""
        maps = self.features(examples[:, None])
        # TensorFlow, whose weights these are, keeps channels last.
        return rearrange(maps, "batch channel time band -> batch (time band channel)")


class VGGishBackbone:
    """Makes 128 numbers of 0..255 of each 0.975 s of sound, every 0.96 s.

    Windows of 15,600 samples every 15,360 give what the front end gives on the whole sound
    (`log_mel_examples`). Values are whole numbers; one may differ by 1 where a network's rounding
    does, as between processors or batches of other sizes.

    Args:
        name: canonical.
        network: in eval mode, its memory with channels last.
        pca_eigen_vectors: see `quantise`.
        pca_means: see `quantise`.
        activated: whether the embedding goes through the last ReLU before it is coded.
    """

    dim = DIM
    sample_rate = SAMPLE_RATE
    window_samples = WINDOW_SAMPLES
    hop_samples = HOP_SAMPLES
    step_s = HOP_SAMPLES / SAMPLE_RATE

    def __init__(
        self,
        name: str,
        network: VGGish,
        pca_eigen_vectors: Float[np.ndarray, "128 128"],
        pca_means: Float[np.ndarray, "128 *one"],
        *,
        activated: bool = True,
    ) -> None:
        self.name = name
        self.network = network
        self.activated = activated
        self.pca = pca_eigen_vectors, pca_means

    @torch.inference_mode()
    def embed(
        self, windows: Float[np.ndarray, "num_windows 15600"]
    ) -> Float[np.ndarray, "num_windows 128"]:
        """Returns the 8-bit values of each window as float32; samples lie in -1..1."""
        first: Any = self.network.fc[0]
        maps = first.weight.new_empty(len(windows), first.in_features)
        for start in range(0, len(windows), _BATCH):
            examples = log_mel_of_windows(windows[start : start + _BATCH])
            given = torch.from_numpy(examples).to(maps.device)
            maps[start : start + _BATCH] = self.network.maps(given)
        # At once: reading the weights of linear layers takes longer than a batch's products.
        linear = self.network.fc if self.activated else self.network.fc[:-1]
        return quantise(on_cpu(linear(maps)), *self.pca).astype(np.float32)

    def move_to(self, device: torch.device) -> None:
        """Moves the network to a device."""
        self.network.to(device)


def open_backbone(options: Mapping[str, str], weights: Path | None) -> VGGishBackbone:
    """Loads VGGish.

    Args:
        options: those of its name: `activation`, relu or none, of the embedding; `weights=random`
            draws weights from a fixed seed.
        weights: a file of the network's weights with `pca_eigen_vectors` and `pca_means` in it, or
            a folder that holds both files of the port under their names; by default the port's
            files, fetched on first use.

    Raises:
        TCAFError: weights that cannot be had, or are not those of VGGish; another activation.
    """
    activation = options.get("activation", ACTIVATIONS[0])
    if activation not in ACTIVATIONS:
        raise TCAFError(
            f"vggish: expected activation to be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            f"{did_you_mean(activation, ACTIVATIONS)}"
        )
    told, activated = {"activation": activation}, activation == ACTIVATIONS[0]
    # Drawn or read right after: the default initialisation would only take time.
    with torch.device("meta"):
        network = VGGish()
    network.to_empty(device="cpu").eval()
    mark: str | None = RANDOM
    if options.get("weights") == RANDOM:
        pca: _Pca = _draw_weights(network)
    else:
        state, pca, mark = _read_weights(weights)
        load_into(network, state, f"the weights of VGGish in {weights or 'the cache'}")
    # After they are drawn: numbers would be drawn in the order of the memory.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    name = canonical_name("vggish", {**told, "weights": mark} if mark else told)
    return VGGishBackbone(name, network, *pca, activated=activated)


def _draw_weights(
    network: VGGish,
) -> tuple[Float[np.ndarray, "128 128"], Float[np.ndarray, " 128"]]:
    """Gives the network random weights and returns a random rotation and no means for the PCA."""
    with seeded(0, "vggish"):
        draw_weights(network)
        rotation = nn.init.orthogonal_(torch.empty(DIM, DIM)).numpy()
    return rotation, np.zeros(DIM, np.float32)


_Pca = tuple[Float[np.ndarray, "128 128"], Float[np.ndarray, "128 *one"]]


def _read_weights(
    weights: Path | None,
) -> tuple[dict[str, Shaped[Tensor, "..."]], _Pca, str | None]:
    """Returns the network's weights by its own names, the PCA, and the mark of both."""
    if weights is not None and not weights.is_dir():
        path = find_weights(NETWORK, weights)
        state = _renamed(read_state_dict(path))
        held = {key: state.pop(key).numpy() for key in (_VECTORS, _MEANS) if key in state}
        expected = (
            f"{path}: expected {_VECTORS} (128, 128) and {_MEANS} (128,) beside the network's "
            f"weights, or give a folder with {NETWORK.name} and {PCA.name}"
        )
        return state, _checked_pca(held, expected), weights_mark(path, None)
    network, pca = (
        find_weights(file, weights / file.name if weights else None) for file in (NETWORK, PCA)
    )
    known = weights_mark(network, NETWORK) is None and weights_mark(pca, PCA) is None
    mark = None if known or weights is None else weights_mark(weights, None, only=[network, pca])
    expected = f"{pca}: expected {_VECTORS} (128, 128) and {_MEANS} (128,)"
    state = _renamed(read_state_dict(network))
    return state, _checked_pca(_read_pca(pca), expected), mark


def _renamed(
    state: Mapping[str, Shaped[Tensor, "..."]],
) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns weights by this module's names: the port says `embeddings.0` for `fc.0`."""
    return {
        key.removeprefix("pproc.").replace("embeddings.", "fc."): value
        for key, value in state.items()
    }


def _read_pca(path: Path) -> Mapping[str, Shaped[np.ndarray, "..."]]:
    """Reads a PCA; the port's file has numpy arrays in torch's wrapping."""
    try:
        return {key: value.numpy() for key, value in _renamed(read_state_dict(path)).items()}
    except TCAFError:
        content = _read_wrapped_arrays(path)
    if not isinstance(content, Mapping):
        return {}
    return {str(key): np.asarray(value) for key, value in content.items()}


def _read_wrapped_arrays(path: Path) -> object:
    """Returns the pickled content of a torch file that refers to no tensor; nothing is run."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
                content = archive.read(name)
        else:
            with path.open("rb") as file:
                # The format before 1.6 is a row of pickles; the content follows three of torch's.
                for _ in range(3):
                    for _ in pickletools.genops(file):
                        pass
                content = file.read()
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise TCAFError(f"{path}: expected a torch file, found a damaged one ({error})") from None
    with tempfile.TemporaryDirectory() as folder:
        unwrapped = Path(folder) / path.name
        unwrapped.write_bytes(content)
        try:
            return read_pickle(unwrapped)
        except TCAFError as error:
            raise TCAFError(str(error).replace(str(unwrapped), str(path))) from None


def _checked_pca(held: Mapping[str, Shaped[np.ndarray, "..."]], expected: str) -> _Pca:
    """Returns vectors and means; raises a TCAFError that starts with `expected`."""
    shapes = {key: value.shape for key, value in held.items()}
    fits = shapes.get(_VECTORS) == (DIM, DIM) and shapes.get(_MEANS) in ((DIM,), (DIM, 1))
    if not fits or any(held[key].dtype.kind != "f" for key in (_VECTORS, _MEANS)):
        found = ", ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:3])
        raise TCAFError(f"{expected}; found {found or 'neither'}")
    return held[_VECTORS], held[_MEANS]
