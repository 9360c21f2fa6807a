"""Frames to tokens with the visual half of a CLIP model (Radford et al. 2021), from its folder.

Owns the preprocessing, which is done by hand from `preprocessor_config.json`, and how the frames of
a window become one token. Loading is `text_sources.load_tower`, whose text half gives class names
embeddings in the same space (`text.source` clip).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tcaf.errors import TCAFError
from tcaf.extract.backbones import FrameSize, canonical_name, frames_option
from tcaf.files.atomic import read_json
from tcaf.pretrained.fetch import weights_mark
from tcaf.pretrained.towers import load_tower, model_files, need_folder

WINDOW_S = 0.64
"""Seconds per token, as of the other visual backbones: 16 frames at 25 per second."""

BATCH = 64
"""Frames that go through the network together."""


@dataclass(frozen=True)
class Preprocessing:
    """What a CLIP model expects of pictures.

    Args:
        frame_size: how they are scaled.
        crop: height and width of the middle part that is kept, in pixels.
        scale: what 0..255 is multiplied by.
        mean: taken away from each of red, green and blue, after scaling.
        std: what the rest is divided by.
    """

    frame_size: FrameSize
    crop: tuple[int, int]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> "Preprocessing":
        """Reads the settings of the image processor in a model's folder.

        Raises:
            TCAFError: they are not there, or not such as a CLIP model has.
        """
        path = folder / "preprocessor_config.json"
        if not path.is_file() and (folder / "processor_config.json").is_file():
            path = folder / "processor_config.json"
        settings = read_json(path, "the settings of an image processor")
        try:
            return cls._of(settings.get("image_processor", settings))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TCAFError(
                f"{path}: expected the settings of a CLIP image processor, with size, crop_size, "
                f"image_mean and image_std ({type(error).__name__}: {error})"
            ) from None

    @classmethod
    def _of(cls, settings: Mapping[str, Any]) -> "Preprocessing":
        size, crop = settings["size"], settings.get("crop_size", settings["size"])
        # Older files give the side of a square as a plain number.
        edge = size if isinstance(size, int) else size.get("shortest_edge")
        frames = FrameSize(edge, edge, True) if edge else FrameSize(size["height"], size["width"])
        if isinstance(crop, int):
            crop = {"height": crop, "width": crop}
        kept = (frames.height, frames.width)
        if settings.get("do_center_crop", True):
            kept = (int(crop["height"]), int(crop["width"]))
        if kept[0] > frames.height or kept[1] > frames.width:
            raise ValueError(f"crop_size {kept} is larger than size {size}")
        mean, std = (tuple(float(x) for x in settings[key]) for key in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"image_mean {mean}, image_std {std}")
        return cls(frames, kept, float(settings.get("rescale_factor", 1 / 255)), mean, std)

    def __call__(
        self, frames: UInt8[Tensor, "num_frames height width 3"]
    ) -> Float[Tensor, "num_frames 3 crop_height crop_width"]:
        """Returns frames as the network takes them."""
        top, left = (
            (side - kept) // 2 for side, kept in zip(frames.shape[1:3], self.crop, strict=True)
        )
        cut = frames[:, top : top + self.crop[0], left : left + self.crop[1]].float() * self.scale
        return ((cut - torch.tensor(self.mean)) / torch.tensor(self.std)).permute(0, 3, 1, 2)


class ClipBackbone:
    """Embeds windows of frames; each frame counts alike.

    A token is the mean of its frames' embeddings, each of length 1, scaled to length 1: its dot
    product with a text embedding of length 1 is CLIP's own similarity, averaged over frames.

    Args:
        folder: of a transformers CLIP model.
        frames: how many frames of a window are looked at, at even distances from its start.

    Raises:
        TCAFError: transformers is not installed, or the folder holds no such model.
    """

    step_s = WINDOW_S
    takes_incomplete_windows = False

    def __init__(self, folder: Path, frames: int) -> None:
        self._model = load_tower(folder, "clip", "vision")
        self._prepare = Preprocessing.read(folder)
        own = self._model.config.image_size
        expected = (own, own) if isinstance(own, int) else tuple(own)
        if self._prepare.crop != expected:
            raise TCAFError(
                f"the image processor in {folder} makes pictures of {self._prepare.crop}, the "
                f"model takes {expected}; they do not belong together"
            )
        mark = weights_mark(folder, None, model_files(folder))
        self.name = canonical_name("clip", {"frames": str(frames), "weights": str(mark)})
        self.dim = int(self._model.config.projection_dim)
        self.window_frames = frames
        self.fps = frames / WINDOW_S
        self.frame_size = self._prepare.frame_size

    def embed(
        self, windows: UInt8[np.ndarray, "num_windows window_frames height width 3"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns one token per window, of length 1; see the class."""
        if not len(windows):
            return np.empty((0, self.dim), np.float32)
        # Torch warns of arrays that it could write to but must not.
        frames = torch.from_numpy(np.require(windows, requirements=["C", "W"])).flatten(0, 1)
        with torch.inference_mode():
            embedded = [
                self._model(pixel_values=self._prepare(part)).image_embeds
                for part in frames.split(BATCH)
            ]
            each = torch.nn.functional.normalize(torch.cat(embedded), dim=1)
            mean = each.unflatten(0, windows.shape[:2]).mean(dim=1)
            return torch.nn.functional.normalize(mean, dim=1).numpy()


def open_backbone(options: Mapping[str, str], weights: Path | None) -> ClipBackbone:
    """Loads the visual half of a CLIP model.

    Args:
        options: `frames`, 2 by default.
        weights: the model's folder.

    Raises:
        TCAFError: no folder, not such a model, a missing package, or an impossible `frames`.
    """
    frames = frames_option("clip", options)
    return ClipBackbone(need_folder("clip", "--visual_weights", options, weights), frames)
