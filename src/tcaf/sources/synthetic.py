"""The synthetic world: clips with a known truth, made in seconds, for trying and testing claims.

A class is a tuple of attributes: what is seen (look), how it moves (motion), what is heard (sound),
and how sound and motion relate in time (relation). Its side information is the attribute vector;
unseen classes are unseen combinations of seen values. Classes that differ only in the relation have
the same time-averaged features, and the same distribution of each modality taken alone: only the
time between what is seen and what is heard tells them apart.

Owns the world's rules and its feature form: token sequences, drawn directly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from tcaf.errors import TCAFError
from tcaf.features import FeatureSpec, VideoFeatures
from tcaf.progress import Track, silent
from tcaf.shards import Dtype
from tcaf.splits import Split
from tcaf.store import FeatureStore
from tcaf.store_writer import new_store

LOOKS = ("red square", "green disc", "blue triangle", "white star", "yellow ring", "pink cross")
MOTIONS = ("jumping", "spinning", "growing", "blinking")
SOUNDS = ("beep", "drum", "hiss", "chime", "buzz", "click")

Relation = Literal["together", "late", "alternating", "unrelated"]
RELATIONS: tuple[Relation, ...] = ("together", "late", "alternating", "unrelated")
RELATION_WORDS: dict[Relation, str] = {
    "together": "with each",
    "late": "after each",
    "alternating": "between two",
    "unrelated": "apart from any",
}

AUDIO_STEP_S, VISUAL_STEP_S = 0.96, 0.64
AUDIO_LEN, VISUAL_LEN = 10, 15
DURATION_S = AUDIO_LEN * AUDIO_STEP_S
LATE_S = 1.2
"""How much later than the movement a late sound is heard, in seconds."""
EVENT_WIDTH_S = 0.4
"""Standard deviation of an event's bump, in seconds."""


@dataclass(frozen=True)
class WorldClass:
    """One class of the world.

    Args:
        look: index into `LOOKS`.
        motion: index into `MOTIONS`.
        sound: index into `SOUNDS`.
        relation: how the sound's events lie in time to the movement's.
    """

    look: int
    motion: int
    sound: int
    relation: Relation

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
        relations: which temporal relations.
        seed: all randomness follows from it.

    Raises:
        TCAFError: more values than the world has, or too few combinations to split.
    """

    looks: int
    motions: int
    sounds: int
    relations: tuple[Relation, ...]
    seed: int

    def __post_init__(self) -> None:
        for name, values in (("looks", LOOKS), ("motions", MOTIONS), ("sounds", SOUNDS)):
            if not 1 <= getattr(self, name) <= len(values):
                raise TCAFError(f"{name} must lie in 1..{len(values)}, got {getattr(self, name)}")
        if not self.relations or len(set(self.relations)) != len(self.relations):
            raise TCAFError(f"relations must be some of {', '.join(RELATIONS)}, each once")
        if len(self.classes) < 6:
            raise TCAFError(
                f"{len(self.classes)} combinations of attributes are too few to hold out unseen "
                "classes for validation and test; at least 6 are needed"
            )

    @property
    def classes(self) -> list[WorldClass]:
        """All combinations of attributes."""
        values = (range(self.looks), range(self.motions), range(self.sounds), self.relations)
        return [WorldClass(*combination) for combination in product(*values)]

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
    relation: Relation, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
    """Draws when a clip moves and when it sounds: two events each, in seconds.

    Time is a circle of `DURATION_S`: an event late at the end of a clip is heard at its start. So
    each modality's times are uniform, and its gaps alike, whatever the relation.
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
        other = rng.uniform(0, DURATION_S)
        sounds = np.array([other, other + rng.uniform(0.35, 0.65) * DURATION_S])
    return moves % DURATION_S, sounds % DURATION_S


def _activation(
    events: Float[np.ndarray, " events"], num_tokens: int, step_s: float
) -> Float[np.ndarray, " num_tokens"]:
    """Returns how active each token is: bumps around the events that sum to their number."""
    centres = (np.arange(num_tokens) + 0.5) * step_s
    away = np.abs(centres[:, None] - events)
    away = np.minimum(away, DURATION_S - away)
    bumps = np.exp(-0.5 * (away / EVENT_WIDTH_S) ** 2)
    return (bumps / bumps.sum(axis=0)).sum(axis=1)


@dataclass(frozen=True)
class _Directions:
    """The directions in feature space that stand for attribute values, one row a value."""

    look: Float[np.ndarray, "looks visual_dim"]
    motion: Float[np.ndarray, "motions visual_dim"]
    sound: Float[np.ndarray, "sounds audio_dim"]

    @classmethod
    def draw(cls, audio_dim: int, visual_dim: int, rng: np.random.Generator) -> "_Directions":
        sizes = ((len(LOOKS), visual_dim), (len(MOTIONS), visual_dim), (len(SOUNDS), audio_dim))
        rows = (rng.normal(size=size) for size in sizes)
        return cls(*(row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows))

    def clip(
        self, of: WorldClass, noise: float, rng: np.random.Generator
    ) -> tuple[
        Float[np.ndarray, "audio_len audio_dim"], Float[np.ndarray, "visual_len visual_dim"]
    ]:
        """Draws the tokens of one clip."""
        moves, sounds = event_times(of.relation, rng)
        moving = _activation(moves, VISUAL_LEN, VISUAL_STEP_S)[:, None]
        sounding = _activation(sounds, AUDIO_LEN, AUDIO_STEP_S)[:, None]
        visual = self.look[of.look] / 2 + moving * self.motion[of.motion]
        audio = sounding * self.sound[of.sound]
        # Noise of this standard deviation per token, whatever the number of dimensions.
        audio = audio + rng.normal(scale=noise / audio.shape[1] ** 0.5, size=audio.shape)
        visual = visual + rng.normal(scale=noise / visual.shape[1] ** 0.5, size=visual.shape)
        return audio, visual


def prepare_synthetic(
    out: Path,
    *,
    looks: int = 2,
    motions: int = 2,
    sounds: int = 2,
    relations: Sequence[Relation] = RELATIONS,
    clips_per_class: int = 600,
    audio_dim: int = 32,
    visual_dim: int = 64,
    noise: float = 0.2,
    seed: int = 0,
    dtype: Dtype = "float16",
    overwrite: bool = False,
    track: Track = silent,
) -> FeatureStore:
    """Makes the synthetic world as feature sequences: classes with a known truth.

    Each clip lasts 9.6 s (10 audio tokens of 0.96 s, 15 visual ones of 0.64 s) and holds two
    movements and two sounds. Of a training class's clips, 70 % are for training, 15 % for
    validation, 15 % for testing; an eighth of the classes is unseen until validation, an eighth
    until the test. Class text is the attribute vector, kept with the store as `attributes`.

    Args:
        out: folder of the store to make.
        looks: how many things can be seen, 1 to 6.
        motions: how many ways to move, 1 to 4.
        sounds: how many sounds, 1 to 6.
        relations: how sound and movement relate in time: together, late, alternating, unrelated.
        clips_per_class: clips of each class.
        audio_dim: size of an audio feature.
        visual_dim: size of a visual feature.
        noise: length of the noise added to each token; an event at its peak has length about 1.
        seed: of the world and its clips.
        dtype: how tokens are kept on disk.
        overwrite: replace a store that is there already.
        track: shows progress.

    Raises:
        TCAFError: a number is out of range, or `out` exists.
    """
    if clips_per_class < 20:
        raise TCAFError(f"clips_per_class must be at least 20, got {clips_per_class}")
    if seed < 0 or min(audio_dim, visual_dim) < 1 or not 0 <= noise < np.inf:
        raise TCAFError(
            "seed must be at least 0, dimensions at least 1, noise 0 or more; got seed "
            f"{seed}, audio_dim {audio_dim}, visual_dim {visual_dim}, noise {noise}"
        )
    world = World(looks, motions, sounds, tuple(relations), seed)
    split = world.split()
    directions = _Directions.draw(audio_dim, visual_dim, np.random.default_rng([seed, 2]))
    spec = FeatureSpec(
        audio_dim, visual_dim, AUDIO_STEP_S, VISUAL_STEP_S, "synthetic_audio", "synthetic_visual"
    )
    with new_store(out, spec, dtype=dtype, overwrite=overwrite) as writer:
        writer.splits["cls"] = split
        writer.source = {"kind": "synthetic", "seed": seed, "noise": noise}
        for number, of in enumerate(track(world.classes, "drawing clips")):
            rng = np.random.default_rng([seed, 3, number])
            writer.phrases[of.name] = {"name": [of.name]}
            for index in range(clips_per_class):
                audio, visual = directions.clip(of, noise, rng)
                part = _part(split, of.name, index / clips_per_class)
                writer.add(
                    VideoFeatures(f"c{number:04d}_{index:04d}", audio, visual, of.name, part)
                )
        writer.add_text("attributes", {of.name: world.attributes(of) for of in world.classes})
    return FeatureStore.open(out)


def _part(split: Split, name: str, position: float) -> str:
    """Returns the part of a clip, from its class and where it stands among the class's clips."""
    if name in split.test_unseen:
        return "test_unseen"
    if name in split.val_unseen:
        return "val_unseen" if position < 0.85 else "test_seen"
    if position < 0.7:
        return "stage_1_train"
    return "val_seen" if position < 0.85 else "test_seen"
