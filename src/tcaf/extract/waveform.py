"""Sound that is in memory already: arrays of any kind to mono samples of one rate.

Files are `media`, which resamples with FFmpeg; this needs no extra.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int16, Shaped
from torch import Tensor

from tcaf.errors import TCAFError

Waveform = (
    Float[np.ndarray, " samples"]
    | Float[np.ndarray, "samples channels"]
    | Int16[np.ndarray, " samples"]
    | Int16[np.ndarray, "samples channels"]
    | Float[Tensor, " samples"]
    | Float[Tensor, "samples channels"]
    | Int16[Tensor, " samples"]
    | Int16[Tensor, "samples channels"]
)
"""Sound: floating samples in -1..1 or int16, one channel or several side by side in columns."""

MAX_CHANNELS = 64
"""More columns than this are samples: the array lies on its side."""

_ZERO_CROSSINGS = 52
_KAISER_BETA = 10.06
_BLOCK = 2048


def as_array(values: object) -> Shaped[np.ndarray, "..."]:
    """Returns a tensor, on whatever device, as a numpy array; an array is itself.

    Raises:
        TCAFError: neither.
    """
    if isinstance(values, Tensor):
        held = values.detach().cpu()
        # numpy has no type for it.
        return (held.float() if held.dtype == torch.bfloat16 else held).numpy()
    if not isinstance(values, np.ndarray):
        raise TCAFError(f"expected a numpy array or a tensor, got {type(values).__name__}")
    return values


def mono(waveform: Waveform) -> Float[np.ndarray, " samples"]:
    """Returns sound as floating samples of one channel: the mean of all channels.

    Raises:
        TCAFError: another shape, samples that are not of these kinds, or outside of -1..1.
    """
    samples = as_array(waveform)
    if samples.ndim not in (1, 2) or 0 in samples.shape[1:]:
        raise TCAFError(
            f"expected samples of shape (samples,) or (samples, channels), found {samples.shape}"
        )
    if samples.ndim == 2 and samples.shape[1] > MAX_CHANNELS:
        raise TCAFError(
            f"expected samples of shape (samples, channels), found {samples.shape}, which has "
            f"{samples.shape[1]} channels; transpose it"
        )
    if samples.dtype == np.int16:
        samples = samples / np.float32(32768)
    elif samples.dtype.kind != "f":
        raise TCAFError(f"expected int16 or floating samples, found {samples.dtype}")
    elif not (np.abs(samples) <= 1).all():
        raise TCAFError(
            f"expected floating samples in -1..1, found {samples.min():g} to {samples.max():g}; "
            "divide those of 16 bits by 32768"
        )
    return samples if samples.ndim == 1 else samples.mean(axis=1)


def resample(
    samples: Float[np.ndarray, " samples"], sample_rate: int, wanted: int
) -> Float[np.ndarray, " resampled"]:
    """Returns sound at another sample rate: sample n is what sounds at n / wanted.

    A sinc of 52 zero crossings on each side under a Kaiser window. Seen from the lower of the two
    rates, what lies below 0.468 of it is kept to 2e-5 of its amplitude, and what lies above 0.532
    weakened to 2e-5 (94 dB): at 16 kHz, up to 7.5 kHz and from 8.5 kHz on. Beyond both ends of the
    sound is silence.

    Raises:
        TCAFError: a sample rate below 1.
    """
    if min(sample_rate, wanted) < 1:
        raise TCAFError(f"expected a sample rate of at least 1, got {min(sample_rate, wanted)}")
    if sample_rate == wanted:
        return samples
    cutoff = min(1.0, wanted / sample_rate)
    half = math.ceil(_ZERO_CROSSINGS / cutoff)
    taps = np.arange(-half, half + 1)
    padded = np.pad(samples.astype(np.float64), half)
    resampled = np.empty(-(-len(samples) * wanted // sample_rate), np.float32)
    for start in range(0, len(resampled), _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, len(resampled)), dtype=np.int64)
        # In whole numbers: a place in the old samples, and how far behind it, in 1 / wanted.
        nearest, behind = np.divmod(numbers * sample_rate, wanted)
        phases, phase_of = np.unique(behind, return_inverse=True)
        away = taps - phases[:, None] / wanted
        window = np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1 - (away / half) ** 2)))
        kernels = cutoff * np.sinc(cutoff * away) * window / np.i0(_KAISER_BETA)
        around = padded[nearest[:, None] + (taps + half)]
        resampled[start : start + len(numbers)] = (around * kernels[phase_of]).sum(axis=1)
    return resampled
