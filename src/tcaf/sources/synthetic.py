"""The synthetic world: clips with a known truth, made in seconds, for trying and testing claims.

Its rules are `world`. Owns the worlds as features, token sequences drawn directly; what happens in
a clip of the hidden world is `hidden`. As videos the first world is `rendered`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.shards import Dtype
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.progress import Track, silent
from tcaf.sources.hidden import draw_signs
from tcaf.sources.world import (
    LOOKS,
    MOTIONS,
    SOUNDS,
    WORLD_RELATIONS,
    AnyRelation,
    World,
    WorldClass,
    WorldName,
    bumps,
    event_times,
    part_of,
)

AUDIO_STEP_S, VISUAL_STEP_S = 0.96, 0.64
AUDIO_LEN, VISUAL_LEN = 10, 15
Clip = tuple[Float[np.ndarray, "audio_len audio_dim"], Float[np.ndarray, "visual_len visual_dim"]]
MIN_CLIPS_PER_CLASS = 20
"""The fewest of which every part of a benchmark gets one."""


def _activation(
    events: Float[np.ndarray, " events"], num_tokens: int, step_s: float
) -> Float[np.ndarray, " num_tokens"]:
    """Returns how active each token is: bumps around the events that sum to their number."""
    centres = (np.arange(num_tokens) + 0.5) * step_s
    felt = bumps(centres, events)
    return (felt / felt.sum(axis=0)).sum(axis=1)


@dataclass(frozen=True)
class _Directions:
    """The directions in feature space that stand for attribute values, one row a value."""

    look: Float[np.ndarray, "looks visual_dim"]
    motion: Float[np.ndarray, "motions visual_dim"]
    sound: Float[np.ndarray, "sounds audio_dim"]
    height: Float[np.ndarray, "1 visual_dim"]
    pitch: Float[np.ndarray, "1 audio_dim"]

    @classmethod
    def draw(cls, audio_dim: int, visual_dim: int, rng: np.random.Generator) -> "_Directions":
        sizes = [(len(LOOKS), visual_dim), (len(MOTIONS), visual_dim), (len(SOUNDS), audio_dim)]
        # Last: the lag world's directions came before there was another, and stay what they are.
        sizes += [(1, visual_dim), (1, audio_dim)]
        rows = (rng.normal(size=size) for size in sizes)
        return cls(*(row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows))

    def clips(
        self, of: WorldClass, num_clips: int, noise: float, rng: np.random.Generator
    ) -> Iterator[Clip]:
        """Draws the tokens of a class's clips, one clip after the other."""
        return (self._clip(of, noise, rng) for _ in range(num_clips))

    def _clip(self, of: WorldClass, noise: float, rng: np.random.Generator) -> Clip:
        moves, sounds = event_times(of.relation, rng)
        moving = _activation(moves, VISUAL_LEN, VISUAL_STEP_S)[:, None]
        sounding = _activation(sounds, AUDIO_LEN, AUDIO_STEP_S)[:, None]
        visual = self.look[of.look] / 2 + moving * self.motion[of.motion]
        audio = sounding * self.sound[of.sound]
        # Noise of this standard deviation per token, whatever the number of dimensions.
        audio = audio + rng.normal(scale=noise / audio.shape[1] ** 0.5, size=audio.shape)
        visual = visual + rng.normal(scale=noise / visual.shape[1] ** 0.5, size=visual.shape)
        return audio, visual

    def hidden_clips(
        self, of: WorldClass, num_clips: int, noise: float, rng: np.random.Generator
    ) -> Iterator[Clip]:
        """Draws the tokens of a class's clips in the hidden world, all at once."""
        own, *rngs = rng.spawn(3)
        signs = draw_signs(of.relation, num_clips, (AUDIO_LEN, VISUAL_LEN), own)
        stills = (self.sound[of.sound] / 2, (self.look[of.look] + self.motion[of.motion]) / 2)
        both = []
        # Down is the opposite direction of up, low of high: both deviate from the mean alike.
        ups = (self.pitch[0], self.height[0])
        for sign, still, up, stream in zip(signs, stills, ups, rngs, strict=True):
            tokens = still + sign[..., None] * up
            both.append(tokens + stream.normal(scale=noise / len(up) ** 0.5, size=tokens.shape))
        return zip(*both, strict=True)


def prepare_synthetic(
    out: Path,
    *,
    world: WorldName = "lag",
    looks: int = 2,
    motions: int | None = None,
    sounds: int = 2,
    relations: Sequence[AnyRelation] | None = None,
    clips_per_class: int = 600,
    audio_dim: int = 32,
    visual_dim: int = 64,
    noise: float = 0.2,
    seed: int = 0,
    dtype: Dtype = "float16",
    overwrite: bool = False,
    track: Track = silent,
) -> FeatureStore:
    """Makes the synthetic world as a feature store: classes with a known truth, made in seconds.

    Each clip lasts 9.6 s and holds two movements and two sounds, as 10 audio tokens of 0.96 s and
    15 visual ones of 0.64 s. In the world `hidden` it holds six events that are seen and heard at
    once, up or down and high or low; their order tells classes apart, their strength does not. Of a
    training class's clips, 70 % are for training, 15 % for validation, 15 % for testing; an eighth
    of the classes is unseen until validation, an eighth until the test. Class text is the attribute
    vector, kept with the store as `attributes`. The world `lag` as videos is made by `tcaf render`.

    Args:
        out: folder of the store to make.
        world: where relations lie: in the lag between movement and sound (lag), or in the order
            within a modality, the spacing of three events, and pitch and height moving together or
            against each other, all with the same energy (hidden).
        looks: how many things can be seen, 1 to 6.
        motions: how many ways to move, 1 to 4. Unless given 2, in the world hidden 1.
        sounds: how many sounds, 1 to 6.
        relations: how sound and movement relate in time: together, late, alternating, unrelated; in
            the world hidden up_down, down_up, high_low, low_high (order), spreading, gathering
            (three), alike, opposite (pitch and height). Unless given all of the world.
        clips_per_class: clips of each class, 20 or more.
        audio_dim: size of an audio feature.
        visual_dim: size of a visual feature.
        noise: length of the noise added to each token; an event at its peak has length about 1.
        seed: of the world and its clips.
        dtype: how tokens are kept on disk.
        overwrite: replace a store that is there already.
        track: shows progress.

    Raises:
        TCAFError: a number is out of range, a relation is of the other world, or `out` exists.
    """
    hidden = world == "hidden"
    motions = (1 if hidden else 2) if motions is None else motions
    relations = WORLD_RELATIONS[world] if relations is None else tuple(relations)
    if strange := [each for each in relations if each not in WORLD_RELATIONS[world]]:
        raise TCAFError(
            f"relations of the world {world} are {', '.join(WORLD_RELATIONS[world])}; got "
            f"{', '.join(strange)}"
        )
    rules = World(looks, motions, sounds, relations, seed)
    if min(audio_dim, visual_dim) < 1 or not 0 <= noise < np.inf:
        raise TCAFError(
            f"dimensions must be at least 1, noise 0 or more; got audio_dim {audio_dim}, "
            f"visual_dim {visual_dim}, noise {noise}"
        )
    if clips_per_class < MIN_CLIPS_PER_CLASS:
        raise TCAFError(
            f"clips_per_class must be at least {MIN_CLIPS_PER_CLASS}, got {clips_per_class}"
        )
    split = rules.split()
    directions = _Directions.draw(audio_dim, visual_dim, np.random.default_rng([seed, 2]))
    steps, names = (AUDIO_STEP_S, VISUAL_STEP_S), ("synthetic_audio", "synthetic_visual")
    spec = FeatureSpec(audio_dim, visual_dim, *steps, *names)
    with new_store(out, spec, dtype=dtype, overwrite=overwrite) as writer:
        writer.splits["cls"] = split
        writer.source = {"kind": "synthetic", "seed": seed, "noise": noise}
        if hidden:
            writer.source["world"] = world
        for number, of in enumerate(track(rules.classes, "drawing clips")):
            rng = np.random.default_rng([seed, 3, number])
            writer.phrases[of.name] = {"name": [of.name]}
            clips = (directions.hidden_clips if hidden else directions.clips)(
                of, clips_per_class, noise, rng
            )
            for index, (audio, visual) in enumerate(clips):
                part = part_of(split, of.name, index / clips_per_class)
                id_ = f"c{number:04d}_{index:04d}"
                writer.add(VideoFeatures(id_, audio, visual, of.name, part))
        writer.add_text("attributes", {of.name: rules.attributes(of) for of in rules.classes})
    return FeatureStore.open(out)
