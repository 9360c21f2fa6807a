"""The picture and the sound of a clip of the synthetic world, as frames and samples.

Owns how each attribute value looks or sounds. When things happen is `world`; the files are written
by `rendered`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from tcaf.sources.world import DURATION_S, EVENT_WIDTH_S, bumps, since

WIDTH, HEIGHT, FPS = 160, 120, 25
NUM_FRAMES = round(DURATION_S * FPS)
SAMPLE_RATE = 16_000
"""Of the sound, mono. A clip is a whole number of AAC's blocks of 1024 samples."""

COLOURS = {
    "red": (225, 25, 25),
    "green": (20, 170, 60),
    "blue": (35, 70, 235),
    "white": (250, 250, 250),
    "yellow": (250, 220, 20),
    "pink": (255, 95, 185),
}
_RADIUS = 35.0
"""Half the side of the square, in pixels; the other shapes are about as large."""
_LIFT, _GROWTH = 24.0, 0.5
"""How high a jump goes, in pixels, and what part of itself a shape gains in growing."""
_RATE_HZ = 2.5
"""Hops and blinks per second. No faster: three flashes a second may harm those who look on."""
_HALF_TURNS = 3
_LOUDNESS = 0.15
"""Root mean square of a sound at its event, of a full scale of 1."""

Mask = UInt16[np.ndarray, "stamp stamp"]
Samples = Float[np.ndarray, " samples"]

_STAMP_EXTENT, _STAMP_SIZE = 1.25, 401


def _inside(shape: str, x: Float[np.ndarray, "n n"], y: Float[np.ndarray, "n n"]) -> np.ndarray:
    """Returns which points lie in a shape of about unit radius; `y` points down."""
    wide, narrow = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    from_centre = np.hypot(x, y)
    if shape == "square":
        return wide <= 0.92
    if shape == "triangle":
        return (y <= 0.85) & (abs(x) <= (y + 1.0) / 1.85 * 1.1)
    if shape == "star":
        # A point of a pentagram is beyond one of its five lines at most.
        angles = np.pi * (0.4 * np.arange(5) - 0.5)
        along = x[..., None] * np.cos(angles) + y[..., None] * np.sin(angles)
        return (along > 1.2 * np.cos(0.4 * np.pi)).sum(axis=-1) <= 1
    if shape == "ring":
        return (from_centre >= 0.55) & (from_centre <= 1)
    if shape == "cross":
        return (narrow <= 0.36) & (wide <= 1)
    assert shape == "disc"
    return from_centre <= 1


@cache
def _stamp(shape: str) -> Mask:
    """Returns how much of each point a shape covers, 0 to 255, softened over about one pixel."""
    line = np.linspace(-_STAMP_EXTENT, _STAMP_EXTENT, _STAMP_SIZE)
    covered = _inside(shape, *np.meshgrid(line, line)).astype(np.float64)
    for axis in (0, 1):
        covered = np.mean([np.roll(covered, lag, axis) for lag in range(-2, 3)], axis=0)
    return np.round(covered * 255).astype(np.uint16)


@dataclass(frozen=True)
class _Movement:
    """What a shape does, frame by frame.

    Args:
        lift: how many pixels it is above its place.
        width: its width as a part of its own; less where it is turned away.
        size: its height and width as multiples of those at rest.
        light: how bright it is, in 0..1.
    """

    lift: Float[np.ndarray, " frames"]
    width: Float[np.ndarray, " frames"]
    size: Float[np.ndarray, " frames"]
    light: Float[np.ndarray, " frames"]


def _movement(motion: str, moves: Float[np.ndarray, " events"]) -> _Movement:
    """Returns how a motion looks: rest, and movement about as long as an event's bump."""
    times = (np.arange(NUM_FRAMES) + 0.5) / FPS
    felt, away = bumps(times, moves), since(times, moves)
    rest = np.zeros(NUM_FRAMES)
    lift, width, size, light = rest, rest + 1, rest + 1, rest + 1
    swing = np.cos(np.pi * _RATE_HZ * away)
    if motion == "jumping":
        lift = _LIFT * (felt * abs(swing)).sum(axis=1)
    elif motion == "spinning":
        # Like a coin about its upright axis. The slope of tanh is close to the bump, and a whole
        # number of half turns leads back to rest.
        turned = (1 + np.tanh(0.85 * away / EVENT_WIDTH_S)) / 2
        width = np.maximum(abs(np.cos(np.pi * _HALF_TURNS * turned.sum(axis=1))), 0.06)
    elif motion == "growing":
        size = 1 + _GROWTH * felt.sum(axis=1)
    else:
        assert motion == "blinking"
        light = 1 - (felt * swing**2).sum(axis=1)
    return _Movement(lift, width, size, light)


def _yuv(colour: Sequence[float]) -> Float[np.ndarray, "3"]:
    """Turns RGB in 0..255 into what video files keep (ITU-R BT.601, limited range)."""
    matrix = [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
    return np.array([16, 128, 128]) + np.array(matrix) @ np.array(colour) / 255


def _places(
    centre: Float[np.ndarray, " frames"], radius: Float[np.ndarray, " frames"], length: int
) -> np.ndarray:
    """Returns which row of the stamp lies at each of `length` pixels, for each frame."""
    offsets = (np.arange(length) + 0.5 - centre[:, None]) / radius[:, None]
    middle = (_STAMP_SIZE - 1) / 2
    places = np.round(offsets / _STAMP_EXTENT * middle + middle)
    return places.clip(0, _STAMP_SIZE - 1).astype(np.intp)


def _blend(
    weights: UInt16[np.ndarray, "frames height width"],
    ground: UInt16[np.ndarray, "#height #width"],
    colour: float,
) -> UInt8[np.ndarray, "frames height width"]:
    # 255 * 255 is the largest value on the way: 16 bits hold it.
    mixed = ground * (255 - weights) + np.uint16(round(colour)) * weights
    return (mixed // 255).astype(np.uint8)


def draw(
    look: str, motion: str, moves: Float[np.ndarray, " events"], rng: np.random.Generator
) -> UInt8[np.ndarray, "frames rows width"]:
    """Draws the frames of a clip: a large shape before a grey, grainy ground.

    Args:
        look: one of `LOOKS`.
        motion: one of `MOTIONS`.
        moves: when it moves, in seconds.
        rng: draws the shape's place, size and shade, and the ground; they stay the same throughout.

    Returns:
        `NUM_FRAMES` pictures in the layout `yuv420p`: `HEIGHT` rows of light, then `HEIGHT / 2` of
        the two differences of colour.
    """
    colour_name, shape = look.split()
    movement = _movement(motion, moves)
    states = np.stack([movement.lift, movement.width, movement.size, movement.light], axis=1)
    # At rest, half of the time, a frame is like the last one: each is drawn once.
    states, which = np.unique(states.round(3), axis=0, return_inverse=True)
    lift, width, size, light = states.T
    centre = (WIDTH / 2 + rng.uniform(-14, 14), HEIGHT / 2 + 4 + rng.uniform(-3, 3))
    radius = _RADIUS * rng.uniform(0.92, 1.06) * size
    rows = _places(centre[1] - lift, radius, HEIGHT)
    columns = _places(centre[0] + 0 * lift, radius * width, WIDTH)
    stamp = _stamp(shape)
    # Row by row, then column by column: several times faster than both at once.
    weights = np.stack([stamp.take(r, 0).take(c, 1) for r, c in zip(rows, columns, strict=True)])
    if motion == "blinking":
        weights = weights * np.round(light * 255).astype(np.uint16)[:, None, None] // 255
    colour = _yuv([rng.uniform(0.9, 1) * part for part in COLOURS[colour_name]])
    slope = np.linspace(-10, 10, HEIGHT)[:, None] * rng.uniform(-1, 1)
    grain = rng.uniform(55, 105) + slope + rng.normal(scale=4, size=(HEIGHT, WIDTH))
    corners = [weights[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    halved = np.add.reduce(corners, dtype=np.uint16) // 4
    planes = [_blend(weights, grain.clip(16, 235).astype(np.uint16), colour[0])]
    planes += [_blend(halved, np.full((1, 1), 128, np.uint16), part) for part in colour[1:]]
    flat = [plane.reshape(len(states), -1, WIDTH) for plane in planes]
    return np.concatenate(flat, axis=1)[which.reshape(-1)]


def _struck(away: Samples, period_s: float, decay_s: float) -> tuple[Samples, Samples]:
    """Returns the seconds since the last stroke, one at each event, and what is left of it."""
    since_stroke = (away + period_s / 100) % period_s
    return since_stroke, np.exp(-since_stroke / decay_s)


def _beep(away: Samples, pitch: float, rng: np.random.Generator) -> Samples:
    return np.sin(2 * np.pi * 900 * pitch * away)


def _drum(away: Samples, pitch: float, rng: np.random.Generator) -> Samples:
    stroke, left = _struck(away, 0.2, 0.05)
    return left * np.sin(2 * np.pi * pitch * (70 * stroke - 3 * np.exp(-stroke / 0.02)))


def _hiss(away: Samples, pitch: float, rng: np.random.Generator) -> Samples:
    return np.diff(rng.normal(size=len(away) + 2), n=2)


def _chime(away: Samples, pitch: float, rng: np.random.Generator) -> Samples:
    # The partials of a free bar, whose ratios are far from whole numbers.
    partials = np.array([[1.0], [2.756], [5.404]]) * 1300 * pitch
    stroke, left = _struck(away, 0.4, 0.15)
    return left * np.sin(2 * np.pi * partials * stroke).sum(axis=0)


def _buzz(away: Samples, pitch: float, rng: np.random.Generator) -> Samples:
    return 2 * (110 * pitch * away % 1) - 1


def _click(away: Samples, pitch: float, rng: np.random.Generator) -> Samples:
    _, left = _struck(away, 0.1, 0.003)
    return left * rng.normal(size=len(away))


_VOICES: dict[str, Callable[[Samples, float, np.random.Generator], Samples]] = {
    "beep": _beep,
    "drum": _drum,
    "hiss": _hiss,
    "chime": _chime,
    "buzz": _buzz,
    "click": _click,
}


def play(sound: str, sounds: Float[np.ndarray, " events"], rng: np.random.Generator) -> Samples:
    """Makes the sound of a clip: faint noise, and one of `SOUNDS` around the events.

    Args:
        sound: one of `SOUNDS`.
        sounds: when it comes, in seconds.
        rng: draws pitch, loudness and noise.

    Returns:
        Samples in -1..1, `SAMPLE_RATE` of them per second.
    """
    times = np.arange(round(DURATION_S * SAMPLE_RATE)) / SAMPLE_RATE
    away = since(times, sounds)
    nearest = np.where(abs(away[:, 0]) <= abs(away[:, 1]), away[:, 0], away[:, 1])
    voice = _VOICES[sound](nearest, rng.uniform(0.95, 1.05), rng)
    # The other event is too far away to be felt.
    voice = voice / np.sqrt(np.mean(voice**2)) * np.exp(-0.5 * (nearest / EVENT_WIDTH_S) ** 2)
    noise = rng.normal(scale=rng.uniform(0.001, 0.003), size=len(times))
    # Clicks are short: loud enough to be as loud as the others, they would not fit.
    return np.tanh(_LOUDNESS * rng.uniform(0.7, 1) * voice + noise)
