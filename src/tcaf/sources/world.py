"""The rules of the synthetic world: its classes, how they are split, and when things happen.

A class is a tuple of attributes: a look, the motion of what looks so, a sound, and the relation of
sound and motion in time. Its class text is the attribute vector; an unseen class is a combination
that no seen class has, of values that seen classes have. Classes that differ only in the relation
have the same time-averaged features, and the same distribution of each modality taken alone: they
differ only in the time between movements and sounds. The hidden world has the same attributes with
other relations, which no lag between movement and sound tells; `hidden` has its clips.

Owns what is true of every form of the world. The feature form is `synthetic`, the form with
pictures and sound `rendered`.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Float

from tcaf.data.splits import Split
from tcaf.errors import TCAFError

LOOKS = ("red square", "green disc", "blue triangle", "white star", "yellow ring", "pink cross")
MOTIONS = ("jumping", "spinning", "growing", "blinking")
SOUNDS = ("beep", "drum", "hiss", "chime", "buzz", "click")

Relation = Literal["together", "late", "alternating", "unrelated"]
RELATIONS: tuple[Relation, ...] = ("together", "late", "alternating", "unrelated")
HiddenRelation = Literal[
    "up_down", "down_up", "high_low", "low_high", "spreading", "gathering", "alike", "opposite"
]
HIDDEN_RELATIONS: tuple[HiddenRelation, ...] = (
    *("up_down", "down_up", "high_low", "low_high"),
    *("spreading", "gathering", "alike", "opposite"),
)
AnyRelation = Literal[Relation, HiddenRelation]

WorldName = Literal["lag", "hidden"]
WORLD_RELATIONS: dict[WorldName, tuple[AnyRelation, ...]] = {
    "lag": RELATIONS,
    "hidden": HIDDEN_RELATIONS,
}
"""The relations of each world."""
RELATION_WORDS: dict[AnyRelation, str] = {
    "together": "with each",
    "late": "after each",
    "alternating": "between two",
    "unrelated": "apart from any",
    "up_down": "while first up then down",
    "down_up": "while first down then up",
    "high_low": "first high then low",
    "low_high": "first low then high",
    "spreading": "while ups spread",
    "gathering": "while ups gather",
    "alike": "as high as it is",
    "opposite": "as low as it is high",
}

DURATION_S = 9.6
"""How long a clip lasts, in seconds."""
LATE_S = 1.2
"""How much later than the movement a late sound comes, in seconds."""
EVENT_WIDTH_S = 0.4
"""Standard deviation of an event's bump, in seconds."""


@dataclass(frozen=True)
class WorldClass:
    """One class of the world.

    Args:
        look: index into `LOOKS`.
        motion: index into `MOTIONS`.
        sound: index into `SOUNDS`.
        relation: how the sound's events lie in time to the movement's; in the hidden world what
            comes when.
    """

    look: int
    motion: int
    sound: int
    relation: AnyRelation

    @property
    def name(self) -> str:
        """A name in words, such as `red square jumping, beep with each`."""
        words = RELATION_WORDS[self.relation]
        return f"{LOOKS[self.look]} {MOTIONS[self.motion]}, {SOUNDS[self.sound]} {words}"


@dataclass(frozen=True)
class World:
    """The classes of a world and how they are split.

    Args:
        looks: how many looks.
        motions: how many motions.
        sounds: how many sounds.
        relations: which temporal relations, all of one world.
        seed: all randomness follows from it.

    Raises:
        TCAFError: more values than the world has, relations of two worlds, too few combinations to
            split, a negative seed.
    """

    looks: int
    motions: int
    sounds: int
    relations: tuple[AnyRelation, ...]
    seed: int

    def __post_init__(self) -> None:
        for name, values in (("looks", LOOKS), ("motions", MOTIONS), ("sounds", SOUNDS)):
            if not 1 <= getattr(self, name) <= len(values):
                raise TCAFError(f"{name} must lie in 1..{len(values)}, got {getattr(self, name)}")
        known = WORLD_RELATIONS[self.name]
        once = len(set(self.relations)) == len(self.relations)
        if not self.relations or not once or not set(self.relations) <= set(known):
            got = ", ".join(self.relations) or "none"
            raise TCAFError(
                f"relations must be some of {', '.join(known)}, each once, got {got}; those of the "
                "other world do not mix with them"
            )
        if self.seed < 0:
            raise TCAFError(f"seed must be at least 0, got {self.seed}")
        if len(self.classes) < 6:
            raise TCAFError(
                f"{len(self.classes)} combinations of attributes are too few to hold out unseen "
                "classes for validation and test; at least 6 are needed"
            )

    @property
    def name(self) -> WorldName:
        """Which world it is, by its first relation."""
        return "hidden" if set(self.relations[:1]) & set(HIDDEN_RELATIONS) else "lag"

    @property
    def classes(self) -> list[WorldClass]:
        """All combinations of attributes."""
        values = (range(self.looks), range(self.motions), range(self.sounds), self.relations)
        return [WorldClass(*combination) for combination in product(*values)]

    @property
    def attribute_names(self) -> list[str]:
        """What each number of `attributes` stands for, such as `look: red square`."""
        kinds = (
            ("look", LOOKS[: self.looks]),
            ("motion", MOTIONS[: self.motions]),
            ("sound", SOUNDS[: self.sounds]),
            ("relation", self.relations),
        )
        return [f"{kind}: {value}" for kind, values in kinds for value in values]

    def attributes(self, of: WorldClass) -> Float[np.ndarray, " attributes"]:
        """Returns the side information of a class: one 1 per attribute, scaled to length 1."""
        sizes = (self.looks, self.motions, self.sounds, len(self.relations))
        places = (of.look, of.motion, of.sound, self.relations.index(of.relation))
        ones = [np.eye(size)[place] for size, place in zip(sizes, places, strict=True)]
        vector = np.concatenate(ones).astype(np.float32)
        return vector / np.linalg.norm(vector)

    def split(self) -> Split:
        """Draws which combinations are unseen: an eighth for validation, an eighth for test.

        A combination is held out only while the training classes keep every single value.
        """
        classes = self.classes
        wanted = max(len(classes) // 8, 1)
        train = set(classes)
        held_out: list[WorldClass] = []
        for index in np.random.default_rng([self.seed, 1]).permutation(len(classes)):
            rest = train - {classes[index]}
            if len(held_out) < 2 * wanted and self._covers(rest):
                train = rest
                held_out.append(classes[index])
        if len(held_out) < 2:
            raise TCAFError("too few combinations of attributes to hold out unseen classes")
        half = len(held_out) // 2
        names = [[c.name for c in part] for part in (held_out[:half], held_out[half:])]
        return Split(tuple(sorted(c.name for c in train)), *(tuple(sorted(n)) for n in names))

    def _covers(self, classes: set[WorldClass]) -> bool:
        return (
            len({c.look for c in classes}) == self.looks
            and len({c.motion for c in classes}) == self.motions
            and len({c.sound for c in classes}) == self.sounds
            and len({c.relation for c in classes}) == len(self.relations)
        )


def event_times(
    relation: AnyRelation, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
    """Draws when a clip moves and when it sounds: two events each, in seconds.

    Time is a circle of `DURATION_S`: an event that is late at the end of a clip comes at its
    start. So the times of each modality are uniform, and the gaps between them have one
    distribution, whatever the relation.
    """
    first = rng.uniform(0, DURATION_S)
    gap = rng.uniform(0.35, 0.65) * DURATION_S
    moves = np.array([first, first + gap])
    if relation == "together":
        sounds = moves
    elif relation == "late":
        sounds = moves + LATE_S
    elif relation == "alternating":
        # Before the next movement, at least 0.35 of the circle away. Not in the middle: the two
        # middles lie half a circle apart, so that the gap between sounds alone would tell.
        sounds = moves + DURATION_S / 4
    else:
        assert relation == "unrelated"
        other = rng.uniform(0, DURATION_S)
        sounds = np.array([other, other + rng.uniform(0.35, 0.65) * DURATION_S])
    return moves % DURATION_S, sounds % DURATION_S


def since(
    times: Float[np.ndarray, " times"], events: Float[np.ndarray, " events"]
) -> Float[np.ndarray, "times events"]:
    """Returns the seconds from each event to each time, the shorter way around the circle.

    Args:
        times: in seconds, on the circle of `DURATION_S`.
        events: when they happen, in seconds.

    Returns:
        Negative before the event; between minus and plus half of `DURATION_S`.
    """
    half = DURATION_S / 2
    return (times[:, None] - events + half) % DURATION_S - half


def bumps(
    times: Float[np.ndarray, " times"], events: Float[np.ndarray, " events"]
) -> Float[np.ndarray, "times events"]:
    """Returns how strongly each event is felt at each time, in 0..1: 1 at the event itself.

    Args:
        times: in seconds, on the circle of `DURATION_S`.
        events: when they happen, in seconds.
    """
    away = since(times, events)
    return np.exp(-0.5 * (away / EVENT_WIDTH_S) ** 2)


def part_of(split: Split, name: str, position: float) -> str:
    """Returns the part of a clip, from its class and where it stands among the class's clips."""
    if name in split.test_unseen:
        return "test_unseen"
    if name in split.val_unseen:
        return "val_unseen" if position < 0.85 else "test_seen"
    if position < 0.7:
        return "stage_1_train"
    return "val_seen" if position < 0.85 else "test_seen"
