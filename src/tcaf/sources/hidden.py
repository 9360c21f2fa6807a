"""What happens in a clip of the hidden world, whose relations no course of energy tells.

Six events come at even spacing, then a pause, on the circle of `DURATION_S`; each is seen and heard
at once. What is seen is up or down (its height), what is heard high or low (its pitch), each three
times. Which comes when is a word of six signs for each modality. The class's relation says which
words:

- order: `up_down` and `down_up` in what is seen, `high_low` and `low_high` in what is heard.
- spacing of three: the three ups, counted around the six places, come at ever larger gaps
  (`spreading`: 1, 2, 3) or ever smaller ones (`gathering`), from any place on. Any two events are
  distributed alike in both; only three are not.
- pitch and height: any word, `alike` in both modalities or `opposite`.

The other modality's word is drawn from `FREE`, which tells nothing. All else is the same for all
relations, but for noise: when events come, how far each deviates from the clip's mean, the mean
over time, and the tokens of a modality when their order is forgotten.
"""

from itertools import product

import numpy as np
from jaxtyping import Float, Int

from tcaf.sources.world import DURATION_S, AnyRelation, since

NUM_EVENTS = 6
SPACING_S = 1.28
"""Seconds between events. It is two visual tokens: each event lies alike to the tokens.

An event is felt half as long before and after, so that no two overlap: where two like ones add up
and two unlike ones cancel, energy would tell the word.
"""

Word = tuple[int, ...]
_ORDER: Word = (1, 1, 1, -1, -1, -1)
FREE: tuple[Word, ...] = tuple(
    half + tuple(-sign for sign in half)
    for half in product((1, -1), repeat=NUM_EVENTS // 2)
    if len(set(half)) > 1
)
"""Words of a modality that tells nothing.

Events three places apart differ, in `_ORDER` too, and they are those that lie alike to the audio
tokens. So a word changes the order of the audio tokens, not which there are.
"""
_SPREADING = [tuple(np.roll((1, 1, -1, 1, -1, -1), by).tolist()) for by in range(NUM_EVENTS)]


def words(relation: AnyRelation) -> Int[np.ndarray, "words 2 events"]:
    """Lists the words of a relation, visual and audio, all of which are as likely.

    Args:
        relation: of the hidden world.

    Returns:
        1 where an event is up or high, -1 where it is down or low.
    """
    if relation in ("alike", "opposite"):
        free = np.array(FREE)
        return np.stack([free, free if relation == "alike" else -free], axis=1)
    told: dict[AnyRelation, list[Word]] = {
        "up_down": [_ORDER],
        "down_up": [_ORDER[::-1]],
        "high_low": [_ORDER],
        "low_high": [_ORDER[::-1]],
        "spreading": _SPREADING,
        "gathering": [word[::-1] for word in _SPREADING],
    }
    if relation in ("high_low", "low_high"):
        return np.array([*product(FREE, told[relation])])
    return np.array([*product(told[relation], FREE)])


def felt(
    firsts: Float[np.ndarray, " clips"], num_tokens: int
) -> Float[np.ndarray, "clips tokens events"]:
    """Returns how strongly each event is felt at each token; over the tokens it sums to 1.

    Args:
        firsts: when the first event of each clip comes, in seconds.
        num_tokens: of a clip, one after the other.
    """
    centres = (np.arange(num_tokens) + 0.5) * DURATION_S / num_tokens
    events = firsts[:, None] + np.arange(NUM_EVENTS) * SPACING_S
    away = since(centres, events.reshape(-1)).reshape(num_tokens, *events.shape).swapaxes(0, 1)
    near = np.where(abs(away) < SPACING_S / 2, np.cos(np.pi * away / SPACING_S) ** 2, 0)
    return near / near.sum(axis=1, keepdims=True)


def draw_signs(
    relation: AnyRelation, num_clips: int, lens: tuple[int, int], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "clips audio_len"], Float[np.ndarray, "clips visual_len"]]:
    """Draws how high each token is heard and seen, below 0 where it is low; at rest it is 0.

    A clip does not depend on how many there are.

    Args:
        relation: of the hidden world.
        num_clips: how many to draw.
        lens: audio and visual tokens of a clip.
        rng: draws when the events begin, and the words.
    """
    beginning, choosing = rng.spawn(2)
    firsts = beginning.uniform(0, DURATION_S, size=num_clips)
    choice = words(relation)
    visual, audio = choice[choosing.integers(len(choice), size=num_clips)].swapaxes(0, 1)
    courses = zip((audio, visual), lens, strict=True)
    audio_signs, visual_signs = (
        np.einsum("cte,ce->ct", felt(firsts, num_tokens), word) for word, num_tokens in courses
    )
    return audio_signs, visual_signs
