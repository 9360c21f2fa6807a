"""Log-mel statistics: by hand from the examples of the front end."""

import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.extract.backbones import AudioBackbone, open_backbone
from tcaf.extract.vggish import log_mel_examples


def test_means_then_deviations():
    backbone = open_backbone("logmel", "audio")
    assert isinstance(backbone, AudioBackbone)
    assert (backbone.name, backbone.dim, backbone.step_s) == ("logmel", 128, 0.96)
    waveform = np.random.default_rng(0).uniform(-1, 1, 15_600 + 18 * 15_360).astype(np.float32)
    waveform *= np.linspace(0, 1, len(waveform), dtype=np.float32)
    size, hop = backbone.window_samples, backbone.hop_samples
    windows = np.stack([waveform[k * hop : k * hop + size] for k in range(19)])
    tokens = backbone.embed(windows)
    assert tokens.shape == (19, 128)
    assert tokens.dtype == np.float32
    for token, example in zip(tokens, log_mel_examples(waveform, 16_000), strict=True):
        for band in (0, 31, 63):
            values = [float(frame[band]) for frame in example]
            mean = sum(values) / 96
            variance = sum((value - mean) ** 2 for value in values) / 96
            assert token[band] == pytest.approx(mean, abs=1e-5)
            assert token[64 + band] == pytest.approx(variance**0.5, abs=1e-5)
    # The sound grows louder.
    assert (np.diff(tokens[:, :64].mean(axis=1)) > 0).all()
    assert backbone.embed(windows[:0]).shape == (0, 128)


def test_silence():
    token = open_backbone("logmel", "audio").embed(np.zeros((1, 15_600), np.float32))
    np.testing.assert_allclose(token[0, :64], np.log(0.01), rtol=1e-6)
    np.testing.assert_allclose(token[0, 64:], 0, atol=1e-5)


def test_there_are_no_weights(tmp_path):
    with pytest.raises(
        TCAFError, match=r"logmel has no weights and no options; leave out .*w\.pth"
    ):
        open_backbone("logmel", "audio", tmp_path / "w.pth")
    with pytest.raises(TCAFError, match="leave out weights=random"):
        open_backbone("logmel:weights=random", "audio")
