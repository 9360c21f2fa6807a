"""Sound to tokens with the audio half of a CLAP model (Wu et al. 2023), from its folder.

Owns the windows and the features that the model takes. Loading is `text_sources.load_tower`, whose
text half gives class names embeddings in the same space (`text.source` clap).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from tcaf.errors import TCAFError
from tcaf.extract.backbones import canonical_name
from tcaf.pretrained.fetch import weights_mark
from tcaf.pretrained.towers import load_tower, model_files, need_folder

WINDOW_S = 0.96
"""Seconds per token, as of VGGish."""

BATCH = 8
"""Windows that go through the network together; each becomes the model's full length, 10 s."""


class ClapBackbone:
    """Embeds windows of sound that lie side by side.

    A window is much shorter than what CLAP models are trained on; as their own processor does with
    short clips, it is repeated up to their length (`padding` in preprocessor_config.json). Tokens
    have length 1.

    Args:
        folder: of a transformers CLAP model.

    Raises:
        TCAFError: transformers is not installed, or the folder holds no such model.
    """

    def __init__(self, folder: Path) -> None:
        self._model = load_tower(folder, "clap", "audio")
        self._features = _load_features(folder)
        bins = self._model.config.num_mel_bins
        if self._features.feature_size != bins:
            raise TCAFError(
                f"the feature extractor in {folder} makes {self._features.feature_size} mel bins, "
                f"the model takes {bins}; they do not belong together"
            )
        mark = weights_mark(folder, None, model_files(folder))
        self.name = canonical_name("clap", {"weights": str(mark)})
        self.dim = int(self._model.config.projection_dim)
        self.sample_rate = int(self._features.sampling_rate)
        self.window_samples = self.hop_samples = round(WINDOW_S * self.sample_rate)
        self.step_s = self.hop_samples / self.sample_rate
        if self._features.nb_max_samples < self.window_samples:
            # The extractor would cut a random part out of each window.
            raise TCAFError(
                f"the model in {folder} takes {self._features.max_length_s} s at most; expected "
                f"one for windows of {WINDOW_S} s"
            )

    def embed(
        self, windows: Float[np.ndarray, "num_windows window_samples"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns one token per window, of length 1."""
        rows = [self._embed(windows[i : i + BATCH]) for i in range(0, len(windows), BATCH)]
        return np.concatenate(rows) if rows else np.empty((0, self.dim), np.float32)

    def _embed(
        self, windows: Float[np.ndarray, "num_windows window_samples"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        features = self._features(
            list(windows), sampling_rate=self.sample_rate, return_tensors="pt"
        )["input_features"]
        # Models with fusion treat long clips in a way of their own. With none among them, the
        # extractor declares one at random to be long; its answer would differ from run to run.
        is_longer = torch.zeros(len(windows), 1, dtype=torch.bool)
        with torch.inference_mode():
            embedded = self._model(input_features=features.float(), is_longer=is_longer)
            return torch.nn.functional.normalize(embedded.audio_embeds, dim=1).numpy()


def _load_features(folder: Path) -> Any:
    """Loads what turns samples into spectrograms; transformers makes them with numpy alone."""
    from transformers import ClapFeatureExtractor

    try:
        return ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - whatever a foreign folder makes transformers raise
        reason = str(error).strip() or type(error).__name__
        raise TCAFError(
            f"the feature extractor in {folder} does not load: {reason.splitlines()[0]}"
        ) from None


def open_backbone(options: Mapping[str, str], weights: Path | None) -> ClapBackbone:
    """Loads the audio half of a CLAP model.

    Args:
        options: none but `weights`.
        weights: the model's folder.

    Raises:
        TCAFError: no folder, not such a model, or a missing package.
    """
    return ClapBackbone(need_folder("clap", "--audio_weights", options, weights))
