"""Log-mel statistics: an audio backbone without weights, for work offline and as a lower bound.

Owns the statistics; the log-mel front end is that of `vggish`, with its windows.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tcaf.errors import TCAFError
from tcaf.extract.vggish import (
    HOP_SAMPLES,
    NUM_BANDS,
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    log_mel_of_windows,
)

_BATCH = 16


class LogMelBackbone:
    """Makes the mean and standard deviation of 64 log-mel bands of each 0.975 s, every 0.96 s.

    A token is the 64 means over the window's 96 frames, then the 64 deviations. The natural
    logarithm lies in -4.6 (silence) to about 5.
    """

    name = "logmel"
    dim = 2 * NUM_BANDS
    sample_rate = SAMPLE_RATE
    window_samples = WINDOW_SAMPLES
    hop_samples = HOP_SAMPLES
    step_s = HOP_SAMPLES / SAMPLE_RATE

    def embed(
        self, windows: Float[np.ndarray, "num_windows 15600"]
    ) -> Float[np.ndarray, "num_windows 128"]:
        """Returns the token of each window; samples lie in -1..1."""
        tokens = np.empty((len(windows), self.dim), np.float32)
        for start in range(0, len(windows), _BATCH):
            examples = log_mel_of_windows(windows[start : start + _BATCH])
            rows = tokens[start : start + _BATCH]
            rows[:, :NUM_BANDS] = examples.mean(axis=1)
            rows[:, NUM_BANDS:] = examples.std(axis=1)
        return tokens


def open_backbone(options: Mapping[str, str], weights: Path | None) -> LogMelBackbone:
    """Returns the backbone.

    Raises:
        TCAFError: weights or options are given; this backbone has none.
    """
    if weights is not None or options:
        given = weights or ",".join(f"{key}={value}" for key, value in options.items())
        raise TCAFError(f"logmel has no weights and no options; leave out {given}")
    return LogMelBackbone()
