from itertools import pairwise

import numpy as np
import pytest

from tcaf.sources.scenes import COLOURS, FPS, HEIGHT, NUM_FRAMES, SAMPLE_RATE, WIDTH, draw, play
from tcaf.sources.world import DURATION_S, LOOKS, MOTIONS, SOUNDS


def test_every_look_can_be_drawn():
    assert sorted(look.split()[0] for look in LOOKS) == sorted(COLOURS)
    firsts = []
    for look in LOOKS:
        frames = draw(look, "jumping", np.array([3.1, 7.3]), np.random.default_rng(1))
        assert frames.shape == (NUM_FRAMES, HEIGHT * 3 // 2, WIDTH)
        firsts.append(frames[0].astype(int))
    for number, first in enumerate(firsts):
        assert all(np.abs(first - other).mean() > 2 for other in firsts[:number])


def test_a_scene_depends_on_its_generator_alone():
    def clip(seed):
        rng = np.random.default_rng(seed)
        events = np.array([0.3, 5.3])
        return draw("pink cross", "spinning", events, rng), play("hiss", events, rng)

    for one, other, different in zip(clip(3), clip(3), clip(4), strict=True):
        assert (one == other).all()
        assert (one != different).any()


def test_an_event_goes_on_around_the_circle():
    """What happens at the end of a clip is seen and heard at its beginning too."""
    frames = draw("red square", "growing", np.array([9.55, 4.7]), np.random.default_rng(0))
    samples = play("beep", np.array([9.55, 4.7]), np.random.default_rng(0))
    red = (frames[:, HEIGHT:].reshape(NUM_FRAMES, 2, -1)[:, 1] > 160).sum(axis=1)
    assert red[0] == pytest.approx(red[-1], rel=0.05)
    assert red[0] > 1.8 * red[60]
    loud = np.abs(samples).reshape(-1, SAMPLE_RATE // 10).max(axis=1)
    assert min(loud[0], loud[-1]) > 10 * loud[25]


def shape_of(motion, at_s):
    """Returns area, width, height and middle row of a disc, and its light, at a time."""
    frames = draw("green disc", motion, np.array([3.1, 7.3]), np.random.default_rng(2))
    light = frames[round(at_s * FPS), :HEIGHT].astype(int)
    # Colour differences tell the disc from the grey ground.
    colour = frames[round(at_s * FPS), HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)[1] < 110
    rows, columns = np.flatnonzero(colour.any(axis=1)), np.flatnonzero(colour.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0, 0
    found = light[::2, ::2][colour].mean()
    return colour.sum(), len(columns), len(rows), rows.mean(), found


def test_motions_by_what_they_change():
    rest = shape_of("jumping", 5.2)
    # The same draws from the generator: the same shape in the same place.
    assert all(shape_of(motion, 5.2) == rest for motion in MOTIONS)
    area, width, height, row, _ = shape_of("jumping", 3.08)
    assert (area, width, height) == pytest.approx(rest[:3], rel=0.05)
    assert row < rest[3] - 10  # of half the rows
    area, width, height, row, _ = shape_of("spinning", 3.08)
    assert (height, row) == pytest.approx((rest[2], rest[3]), rel=0.05)
    assert width < 0.4 * rest[1]
    area, width, height, row, _ = shape_of("growing", 3.08)
    assert (width, height) == pytest.approx((1.5 * rest[1], 1.5 * rest[2]), rel=0.05)
    assert shape_of("blinking", 3.08)[0] == 0


def test_sounds_differ_in_their_spectra():
    """The share of power in four bands, and how peaked the sound is in time."""
    found = {}
    for sound in SOUNDS:
        samples = play(sound, np.array([2.3, 6.1]), np.random.default_rng(3))
        assert np.abs(samples).max() <= 1
        power = np.abs(np.fft.rfft(samples)) ** 2
        edges = (np.array([0, 300, 1100, 4500, 8000]) * DURATION_S).astype(int)
        bands = np.array([power[a:b].sum() for a, b in pairwise(edges)]) / power.sum()
        found[sound] = [*bands, (samples**4).mean() / (samples**2).mean() ** 2]
    assert found["drum"][0] > 0.9
    assert found["beep"][1] > 0.9
    assert found["hiss"][3] > 0.7
    assert found["chime"][2] > 0.4
    assert 0.5 < found["buzz"][0] < 0.9
    # Short pulses with silence between them, unlike a hiss.
    assert found["click"][4] > 5 * found["hiss"][4]
