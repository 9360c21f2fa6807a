"""Frames and samples to tokens with a sentence-transformers model that takes more than text.

Owns how windows are handed to such a model. Its text gives class names embeddings in the same space
(`text.source` st). sentence-transformers takes pictures, videos and sounds from release 5.4 on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.errors import TCAFError
from tcaf.extract.hub_models import (
    IMAGE_FRAMES,
    IMAGE_S,
    LONG_S,
    files_of,
    named,
    token_frames,
    token_seconds,
    unit,
)
from tcaf.pretrained.aligned_model import NUM_FRAMES
from tcaf.pretrained.hub import ModelFiles
from tcaf.pretrained.sentence_model import load_sentence_model

BATCH = 32
"""Pictures that go through the network together."""


def _encoded(model: Any, inputs: list[Any], batch_size: int) -> Float[np.ndarray, "count dim"]:
    found = model.encode(
        inputs, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
    )
    return unit(np.asarray(found, np.float32))


class SentenceFrames:
    """Embeds windows of frames, each picture or each window by itself, as `HubFrames` does.

    Args:
        name: canonical.
        folder: of the model that encodes.
        takes_videos: whether a window goes in as one video, in place of its frames as pictures.
        frames: of a window.
        seconds: from one window to the next.
    """

    takes_incomplete_windows = False
    frame_size = None

    def __init__(
        self, name: str, folder: Path, takes_videos: bool, frames: int, seconds: float
    ) -> None:
        self.name = name
        self._folder, self._takes_videos = folder, takes_videos
        self._model = load_sentence_model(folder)
        self.window_frames, self.step_s, self.fps = frames, seconds, frames / seconds
        self.dim = self.embed(np.zeros((1, frames, 64, 64, 3), np.uint8)).shape[1]

    def embed(
        self, windows: UInt8[np.ndarray, "num_windows window_frames height width 3"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns one token per window, of length 1."""
        from PIL import Image

        if not len(windows):
            return np.empty((0, self.dim), np.float32)
        frames = [Image.fromarray(f) for f in windows.reshape(-1, *windows.shape[2:])]
        count = windows.shape[1]
        if self._takes_videos:
            videos = [frames[i : i + count] for i in range(0, len(frames), count)]
            return _encoded(self._model, videos, 1)
        each = _encoded(self._model, frames, BATCH)
        return unit(each.reshape(-1, count, each.shape[1]).mean(axis=1))

    def move_to(self, device: Any) -> None:
        """Takes the model that is on a device (`torch.device`)."""
        self._model = load_sentence_model(self._folder, str(device))


class SentenceSamples:
    """Embeds windows of sound that lie side by side; tokens have length 1.

    Args:
        name: canonical.
        folder: of the model that encodes.
        sample_rate: of the sound that it takes.
        seconds: of a window.
    """

    def __init__(self, name: str, folder: Path, sample_rate: int, seconds: float) -> None:
        self.name = name
        self._folder, self.sample_rate = folder, sample_rate
        self._model = load_sentence_model(folder)
        self.window_samples = self.hop_samples = round(seconds * sample_rate)
        self.step_s = self.hop_samples / sample_rate
        self.dim = self.embed(np.zeros((1, self.window_samples), np.float32)).shape[1]

    def embed(
        self, windows: Float[np.ndarray, "num_windows window_samples"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns one token per window."""
        if not len(windows):
            return np.empty((0, self.dim), np.float32)
        sounds = [{"array": w, "sampling_rate": self.sample_rate} for w in windows]
        return _encoded(self._model, sounds, BATCH // 4)

    def move_to(self, device: Any) -> None:
        """Takes the model that is on a device (`torch.device`)."""
        self._model = load_sentence_model(self._folder, str(device))


def _loaded(
    options: Mapping[str, str], weights: Path | None, *wanted: str
) -> tuple[ModelFiles, Any, str]:
    """Returns a model's files, the model, and the first of the inputs wanted that it takes."""
    files = files_of(options, weights)
    model = load_sentence_model(files.folder)
    takes = list(getattr(model, "modalities", ["text"]))
    found = [kind for kind in wanted if kind in takes]
    if not found:
        raise TCAFError(
            f"the model in {files.folder} takes {', '.join(map(str, takes))}; expected one that "
            f"takes {' or '.join(wanted)} (sentence-transformers from 5.4 on)"
        )
    return files, model, found[0]


def open_visual(options: Mapping[str, str], weights: Path | None) -> SentenceFrames:
    """Loads a model that encodes pictures, or else videos.

    Args:
        options: as of `hub_models.open_visual`.
        weights: a folder in place of the one that `model` names.

    Raises:
        TCAFError: no such model, one that takes no picture, a missing package, or frames or seconds
            that cannot be.
    """
    files, _, kind = _loaded(options, weights, "image", "video")
    defaults = (NUM_FRAMES, LONG_S) if kind == "video" else (IMAGE_FRAMES, IMAGE_S)
    frames = token_frames("st", options, defaults[0], None)
    seconds = token_seconds("st", options, defaults[1])
    name = named("st", options, files, frames, seconds, defaults)
    return SentenceFrames(name, files.folder, kind == "video", frames, seconds)


def open_audio(options: Mapping[str, str], weights: Path | None) -> SentenceSamples:
    """Loads a model that encodes sounds.

    Args:
        options: `model`; `seconds` of a token, 2.56 by default.
        weights: a folder in place of the one that `model` names.

    Raises:
        TCAFError: no such model, one that takes no sound, a missing package, or seconds that cannot
            be.
    """
    files, model, _ = _loaded(options, weights, "audio")
    if "frames" in options:
        raise TCAFError("st: frames are of pictures; sound has none")
    seconds = token_seconds("st", options, LONG_S)
    processor = model[0].processor
    rate = getattr(getattr(processor, "feature_extractor", processor), "sampling_rate", None)
    if rate is None:
        raise TCAFError(f"the model in {files.folder} does not say at which rate it takes sound")
    name = named("st", options, files, None, seconds, (None, LONG_S))
    return SentenceSamples(name, files.folder, int(rate), seconds)
