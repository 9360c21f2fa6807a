"""The synthetic world: clips with a known truth, made in seconds, for trying and testing claims.

Its rules are `world`. Owns the world as features, token sequences drawn directly; as videos it is
`rendered`.
"""

from collections.abc import Sequence
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
from tcaf.sources.world import (
    LOOKS,
    MOTIONS,
    RELATIONS,
    SOUNDS,
    Relation,
    World,
    WorldClass,
    bumps,
    event_times,
    part_of,
)

AUDIO_STEP_S, VISUAL_STEP_S = 0.96, 0.64
AUDIO_LEN, VISUAL_LEN = 10, 15
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
    """Makes the synthetic world as a feature store: classes with a known truth, made in seconds.

    Each clip lasts 9.6 s and holds two movements and two sounds, as 10 audio tokens of 0.96 s and
    15 visual ones of 0.64 s. Of a training class's clips, 70 % are for training, 15 % for
    validation, 15 % for testing; an eighth of the classes is unseen until validation, an eighth
    until the test. Class text is the attribute vector, kept with the store as `attributes`. The
    same world as videos is made by `tcaf render`.

    Args:
        out: folder of the store to make.
        looks: how many things can be seen, 1 to 6.
        motions: how many ways to move, 1 to 4.
        sounds: how many sounds, 1 to 6.
        relations: how sound and movement relate in time: together, late, alternating, unrelated.
        clips_per_class: clips of each class, 20 or more.
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
    world = World(looks, motions, sounds, tuple(relations), seed)
    if min(audio_dim, visual_dim) < 1 or not 0 <= noise < np.inf:
        raise TCAFError(
            f"dimensions must be at least 1, noise 0 or more; got audio_dim {audio_dim}, "
            f"visual_dim {visual_dim}, noise {noise}"
        )
    if clips_per_class < MIN_CLIPS_PER_CLASS:
        raise TCAFError(
            f"clips_per_class must be at least {MIN_CLIPS_PER_CLASS}, got {clips_per_class}"
        )
    split = world.split()
    directions = _Directions.draw(audio_dim, visual_dim, np.random.default_rng([seed, 2]))
    steps, names = (AUDIO_STEP_S, VISUAL_STEP_S), ("synthetic_audio", "synthetic_visual")
    spec = FeatureSpec(audio_dim, visual_dim, *steps, *names)
    with new_store(out, spec, dtype=dtype, overwrite=overwrite) as writer:
        writer.splits["cls"] = split
        writer.source = {"kind": "synthetic", "seed": seed, "noise": noise}
        for number, of in enumerate(track(world.classes, "drawing clips")):
            rng = np.random.default_rng([seed, 3, number])
            writer.phrases[of.name] = {"name": [of.name]}
            for index in range(clips_per_class):
                audio, visual = directions.clip(of, noise, rng)
                part = part_of(split, of.name, index / clips_per_class)
                id_ = f"c{number:04d}_{index:04d}"
                writer.add(VideoFeatures(id_, audio, visual, of.name, part))
        writer.add_text("attributes", {of.name: world.attributes(of) for of in world.classes})
    return FeatureStore.open(out)
