"""Frames and samples to tokens with a model of the hub, beside which it embeds text.

Owns which frames and samples make a token, how they become one, and the name that features have.
What the model does with them is `pretrained.aligned_model`; its text gives class names embeddings
in the same space (`text.source` hf).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.data.features import Modality
from tcaf.errors import TCAFError
from tcaf.extract.backbones import (
    FRAMES,
    MODEL,
    canonical_name,
    parse_name,
    takes_model,
)
from tcaf.pretrained.aligned_model import NUM_FRAMES, AlignedModel, load_aligned
from tcaf.pretrained.fetch import weights_mark
from tcaf.pretrained.hub import ModelFiles, ModelName, find_model
from tcaf.pretrained.model_folder import model_files

IMAGE_FRAMES, IMAGE_S = 2, 0.64
"""Frames and seconds of a token where a model takes single pictures; the seconds as of C3D."""

LONG_S = 2.56
"""Seconds of a token where a model takes videos or sounds: most learnt from some seconds."""

BATCH = 32
"""Frames that go through the network together."""

MOST_SECONDS = 60.0


def unit(rows: Float[np.ndarray, "*shape dim"]) -> Float[np.ndarray, "*shape dim"]:
    """Returns vectors scaled to length 1; those of length 0 stay."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


def token_seconds(name: str, options: Mapping[str, str], default: float) -> float:
    """Returns how much of a clip becomes a token.

    Raises:
        TCAFError: no number of seconds above 0 and up to `MOST_SECONDS`.
    """
    text = options.get("seconds")
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MOST_SECONDS:
        raise TCAFError(
            f"{name}: expected seconds above 0 and up to {MOST_SECONDS:g}, got {text!r}"
        )
    return seconds


def token_frames(name: str, options: Mapping[str, str], default: int, fixed: int | None) -> int:
    """Returns how many frames of it are looked at.

    Args:
        name: of the backbone, for messages.
        options: of its name.
        default: without the option.
        fixed: what a model of videos was made for, if it was made for one number.

    Raises:
        TCAFError: not one of `FRAMES`, or another number than the model's.
    """
    text = options.get("frames")
    if text is None:
        return fixed or default
    if fixed is not None and text != str(fixed):
        raise TCAFError(f"{name}: the model takes {fixed} frames, got frames={text}")
    if fixed is None and text not in FRAMES:
        raise TCAFError(f"{name}: expected frames to be one of {', '.join(FRAMES)}, got {text!r}")
    return int(text)


def named(
    backbone: str,
    options: Mapping[str, str],
    files: ModelFiles,
    frames: int | None,
    seconds: float,
    defaults: tuple[int | None, float],
) -> str:
    """Returns the canonical name of a model's features: where it is from, and its content.

    Args:
        backbone: `hf` or `st`.
        options: as they were asked for.
        files: of the model.
        frames: of a token, where it is made of frames.
        seconds: of a token.
        defaults: of both, which the name leaves out.
    """
    model = str(files.name) if files.commit else options[MODEL]
    if Path(model).is_dir():
        model = str(Path(model).resolve())  # another process may work elsewhere
    told = {
        MODEL: model,
        "weights": str(weights_mark(files.folder, None, model_files(files.folder))),
    }
    if frames != defaults[0]:
        told["frames"] = str(frames)
    if seconds != defaults[1]:
        told["seconds"] = f"{seconds:g}"
    return canonical_name(backbone, told)


def files_of(options: Mapping[str, str], weights: Path | None) -> ModelFiles:
    """Returns the files of a model, in the folder that was given in place of its name's if any.

    Raises:
        TCAFError: see `find_model`; or what was given is no folder.
    """
    if weights is None:
        return find_model(options[MODEL])
    if not weights.is_dir():
        raise TCAFError(f"expected the folder of a model at {weights}, found none")
    return ModelFiles(ModelName(options[MODEL]), weights, find_model(str(weights)).licence)


def origin_of(name: str, weights: Path | None) -> dict[str, str] | None:
    """Returns what records say of the model that made features: which, its commit and its licence.

    Args:
        name: what the features are called.
        weights: a folder in place of the one that the name gives.

    Returns:
        None where the backbone opens no model by its name.
    """
    return files_of(parse_name(name)[1], weights).to_json() if takes_model(name) else None


class HubFrames:
    """Embeds windows of frames with a model that takes pictures or videos.

    Each picture's embedding counts at length 1; a token is their mean, at length 1: its dot product
    with a text embedding of length 1 is the model's own cosine, averaged over frames.

    Args:
        name: canonical.
        model: what embeds.
        frames: of a window, at even distances from its start.
        seconds: from one window to the next.
    """

    takes_incomplete_windows = False
    frame_size = None

    def __init__(self, name: str, model: AlignedModel, frames: int, seconds: float) -> None:
        self.name = name
        self._model = model
        self.window_frames, self.step_s, self.fps = frames, seconds, frames / seconds
        self.dim = model.dim("visual")

    def embed(
        self, windows: UInt8[np.ndarray, "num_windows window_frames height width 3"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns one token per window, of length 1; see the class."""
        at_once = max(1, BATCH // windows.shape[1])
        found = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(windows), at_once):
            each = unit(self._model.embed_frames(windows[start : start + at_once]))
            found.append(unit(each.mean(axis=1)))
        return np.concatenate(found)

    def move_to(self, device: Any) -> None:
        """Takes the model that is on a device (`torch.device`)."""
        self._model = load_aligned(self._model.folder, str(device))


class HubSamples:
    """Embeds windows of sound that lie side by side; tokens have length 1.

    Models that learnt from longer sounds do with a window as their own processor does with short
    clips; CLAP's repeats it.

    Args:
        name: canonical.
        model: what embeds.
        seconds: of a window.
    """

    def __init__(self, name: str, model: AlignedModel, seconds: float) -> None:
        self.name = name
        self._model = model
        self.sample_rate = model.sample_rate
        self.window_samples = self.hop_samples = round(seconds * self.sample_rate)
        self.step_s = self.hop_samples / self.sample_rate
        self.dim = model.dim("audio")

    def embed(
        self, windows: Float[np.ndarray, "num_windows window_samples"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns one token per window."""
        at_once = BATCH // 4
        parts = (windows[i : i + at_once] for i in range(0, len(windows), at_once))
        found = [unit(self._model.embed_samples(part)) for part in parts]
        return np.concatenate([np.empty((0, self.dim), np.float32), *found])

    def move_to(self, device: Any) -> None:
        """Takes the model that is on a device (`torch.device`)."""
        self._model = load_aligned(self._model.folder, str(device))


def _opened(
    options: Mapping[str, str], weights: Path | None, modality: Modality
) -> tuple[ModelFiles, AlignedModel]:
    files = files_of(options, weights)
    model = load_aligned(files.folder)
    model.half(modality)
    return files, model


def open_visual(options: Mapping[str, str], weights: Path | None) -> HubFrames:
    """Loads a model that embeds pictures or videos.

    Args:
        options: `model`; `frames` and `seconds` of a token, by default 2 in 0.64 s of pictures, and
            of videos as many as the model takes (else 16) in 2.56 s.
        weights: a folder in place of the one that `model` names.

    Raises:
        TCAFError: no such model, one that embeds no picture, a missing package, or frames or
            seconds that cannot be.
    """
    files, model = _opened(options, weights, "visual")
    is_video = model.half("visual").kind == "video"
    fixed = model.num_frames if is_video else None
    defaults = (fixed or NUM_FRAMES, LONG_S) if is_video else (IMAGE_FRAMES, IMAGE_S)
    frames = token_frames("hf", options, defaults[0], fixed)
    seconds = token_seconds("hf", options, defaults[1])
    name = named("hf", options, files, frames, seconds, defaults)
    return HubFrames(name, model, frames, seconds)


def open_audio(options: Mapping[str, str], weights: Path | None) -> HubSamples:
    """Loads a model that embeds sounds.

    Args:
        options: `model`; `seconds` of a token, 2.56 by default.
        weights: a folder in place of the one that `model` names.

    Raises:
        TCAFError: no such model, one that embeds no sound or shorter ones only, a missing package,
            or seconds that cannot be.
    """
    files, model = _opened(options, weights, "audio")
    if "frames" in options:
        raise TCAFError("hf: frames are of pictures; sound has none")
    seconds = token_seconds("hf", options, LONG_S)
    longest = model.max_samples
    if longest is not None and longest < round(seconds * model.sample_rate):
        # The processor would cut a random part out of each window.
        raise TCAFError(
            f"the model in {files.folder} takes {longest / model.sample_rate:g} s at most; "
            f"expected one for windows of {seconds:g} s, or give seconds=..."
        )
    name = named("hf", options, files, None, seconds, (None, LONG_S))
    return HubSamples(name, model, seconds)
