"""Sound in memory: channels and sample rates."""

import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.extract.waveform import mono, resample


def tone(hertz, rate, seconds=0.5):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


RATES = [8000, 11_025, 22_050, 32_000, 44_100, 48_000, 15_990]


@pytest.mark.parametrize("rate", RATES)
def test_tones_are_kept(rate):
    """To 2e-5, up to 0.468 of the lower rate, away from the ends of the sound."""
    for hertz in (0.0078, 0.11, 0.25, 0.467):
        wave = tone(hertz * min(rate, 16_000), rate)
        found = resample(wave, rate, 16_000)
        expected = tone(hertz * min(rate, 16_000), 16_000)
        assert len(found) == len(expected) == 8000
        inside = np.s_[2000:-2000]
        np.testing.assert_allclose(found[inside], expected[inside], atol=2e-5)


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
@pytest.mark.parametrize("hertz", [8520, 10_000])
def test_what_the_new_rate_does_not_hold_is_gone(rate, hertz):
    found = resample(tone(hertz, rate), rate, 16_000)
    # It would come out at 16,000 less this pitch, as loud as it was.
    assert np.abs(found[2000:-2000]).max() < 2e-5


def test_a_sound_keeps_its_place():
    """A click 4410 samples from the start is 0.1 s from it: sample 1600 of 16,000 a second."""
    click = np.zeros(44_100)
    click[4410] = 1
    found = resample(click, 44_100, 16_000)
    assert (len(found), found.argmax()) == (16_000, 1600)
    # A sinc whose sum is that of the samples, of which there are fewer.
    assert found.sum() == pytest.approx(16_000 / 44_100, abs=1e-4)
    np.testing.assert_allclose(found[1600 - 99 : 1600], found[1601:1700][::-1], atol=1e-7)


@pytest.mark.parametrize("num_samples", [0, 1, 2, 440, 441, 442])
def test_lengths(num_samples):
    # Sample n is at n / 16000 s and there if that lies before the end.
    expected = int(np.sum(np.arange(1000) / 16_000 < num_samples / 44_100 - 1e-9))
    assert len(resample(np.ones(num_samples), 44_100, 16_000)) == expected


def test_blocks_make_no_difference():
    noise = np.random.default_rng(0).uniform(-1, 1, 20_000)
    whole = resample(noise, 44_100, 16_000)
    # 441 samples are 160: from there on it is the same sound, but for what came before.
    rest = resample(noise[441:], 44_100, 16_000)
    assert len(whole) > 3 * 2048
    np.testing.assert_allclose(rest[200:], whole[360:], atol=1e-6)


def test_the_same_rate_changes_nothing():
    noise = np.random.default_rng(0).uniform(-1, 1, 77).astype(np.float32)
    assert resample(noise, 16_000, 16_000) is noise
    assert mono(noise) is noise
    with pytest.raises(TCAFError, match="at least 1, got -5"):
        resample(noise, -5, 16_000)
