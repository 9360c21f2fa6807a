import numpy as np
import pytest

from tcaf.data.batches import load_batch
from tcaf.data.splits import NAMED_PARTS
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.sources.synthetic import (
    AUDIO_LEN,
    AUDIO_STEP_S,
    VISUAL_LEN,
    VISUAL_STEP_S,
    prepare_synthetic,
)
from tcaf.sources.world import DURATION_S, LATE_S, RELATIONS, World

SMALL = {
    "looks": 2,
    "motions": 2,
    "sounds": 2,
    "relations": RELATIONS,
    "noise": 0.4,
    "clips_per_class": 23,
    "audio_dim": 5,
    "visual_dim": 7,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return prepare_synthetic(tmp_path_factory.mktemp("world") / "store", **SMALL)


@pytest.fixture(scope="module")
def noiseless(tmp_path_factory):
    return prepare_synthetic(tmp_path_factory.mktemp("world") / "store", **{**SMALL, "noise": 0.0})


def averages(store):
    """Returns each clip's mean over time, audio and visual side by side, and its class."""
    batch = load_batch(store, np.arange(len(store)), Windows(average=True))
    return np.hstack([batch.audio.tokens.numpy(), batch.visual.tokens.numpy()]), store.class_names


def apart_from_relation(name):
    """Names end with the words of the relation, after the sound."""
    looks, sound = name.split(", ")
    return looks, sound.split()[0]


def test_without_noise_averages_depend_on_all_but_the_relation(noiseless):
    points, names = averages(noiseless)
    groups = {}
    for point, name in zip(points, names, strict=True):
        groups.setdefault(apart_from_relation(name), []).append(point)
    assert len(groups) == 2 * 2 * 2
    for members in groups.values():
        assert len(members) == 4 * 23
        np.testing.assert_allclose(np.stack(members), members[0][None].repeat(92, 0), atol=1e-6)
    centres = np.stack([members[0] for members in groups.values()])
    apart = np.linalg.norm(centres[:, None] - centres, axis=2) + np.eye(8)
    # What the classes of different looks, motions or sounds are told apart by.
    assert apart.min() > 0.02


def test_with_noise_averages_differ_by_noise_alone(store):
    points, names = averages(store)
    # Noise 0.4 per token, spread over the dimensions, averaged over tokens and 23 clips.
    spread = np.concatenate(
        [np.full(dim, 0.4 / (dim * tokens * 23) ** 0.5) for dim, tokens in ((5, 10), (7, 15))]
    )
    means = {name: points[names == name].mean(axis=0) for name in set(names)}
    for name, mean in means.items():
        for other in means:
            if apart_from_relation(name) == apart_from_relation(other):
                # Difference of two means; six standard deviations.
                assert (abs(mean - means[other]) < 6 * 2**0.5 * spread).all()


@pytest.mark.slow
def test_the_relation_is_there_to_be_found(noiseless):
    """The lag at which sound follows movement, from tokens alone: together, and 1.2 s late."""
    lags = {}
    for clip in noiseless:
        relation = clip.class_name.rpartition(", ")[2].partition(" ")[2]
        # The direction of a class's sound is its strongest token; likewise for movement.
        sounding = np.linalg.norm(clip.audio, axis=1)
        still = clip.visual[np.linalg.norm(clip.visual - clip.visual.mean(axis=0), axis=1).argmin()]
        moving = np.linalg.norm(clip.visual - still, axis=1)
        seconds = np.arange(48) * 0.2
        sound = np.interp(seconds, (np.arange(AUDIO_LEN) + 0.5) * AUDIO_STEP_S, sounding)
        move = np.interp(seconds, (np.arange(VISUAL_LEN) + 0.5) * VISUAL_STEP_S, moving)
        scores = [(np.roll(move, lag) * sound).sum() for lag in range(48)]
        lags.setdefault(relation, []).append(int(np.argmax(scores)) * 0.2)
    near_0 = [min(lag, DURATION_S - lag) < 0.7 for lag in lags["with each"]]
    near_late = [abs(lag - LATE_S) < 0.7 for lag in lags["after each"]]
    assert np.mean(near_0) > 0.8
    assert np.mean(near_late) > 0.6
    assert np.mean([min(lag, DURATION_S - lag) < 0.7 for lag in lags["between two"]]) < 0.2


def test_store_is_a_benchmark(store):
    world = World(2, 2, 2, RELATIONS, seed=0)
    split = store.split("cls")
    assert split == world.split()
    split.check_clips(store.ids, store.class_names.tolist(), store.parts.tolist())
    assert len(store) == 32 * 23
    for part in NAMED_PARTS:
        assert len(store.rows("cls", part))
    # 70 % of a training class's 23 clips for training, 15 % for validation, the rest for the test.
    first = store.class_names == split.train[0]
    counts = {part: int((store.parts[first] == part).sum()) for part in set(store.parts[first])}
    assert counts == {"stage_1_train": 17, "val_seen": 3, "test_seen": 3}
    of_val = store.class_names == split.val_unseen[0]
    counts = {part: int((store.parts[of_val] == part).sum()) for part in set(store.parts[of_val])}
    assert counts == {"val_unseen": 20, "test_seen": 3}
    assert set(store.parts[store.class_names == split.test_unseen[0]]) == {"test_unseen"}


def test_store_says_what_its_numbers_mean(store):
    assert (store.spec.audio_dim, store.spec.visual_dim) == (5, 7)
    assert (store.spec.audio_step_s, store.spec.visual_step_s) == (AUDIO_STEP_S, VISUAL_STEP_S)
    assert set(store.lens("audio")) == {AUDIO_LEN}
    assert set(store.lens("visual")) == {VISUAL_LEN}
    # Both modalities cover the clip, to the millisecond.
    assert AUDIO_LEN * AUDIO_STEP_S == pytest.approx(VISUAL_LEN * VISUAL_STEP_S) == DURATION_S
    assert store.source == {"kind": "synthetic", "seed": 0, "noise": 0.4}
    world = World(2, 2, 2, RELATIONS, seed=0)
    assert store.phrases == {of.name: {"name": [of.name]} for of in world.classes}
    text = store.text("attributes")
    assert set(text) == {of.name for of in world.classes}
    for of in world.classes:
        assert (text[of.name] == world.attributes(of)).all()


def test_noise_has_the_length_that_is_told(store, noiseless):
    for modality in ("audio", "visual"):
        rows = np.arange(len(store))
        # The same seed draws the same events only before any noise: compare spreads, not tokens.
        noisy, clean = (s.gather(rows, modality) for s in (store, noiseless))
        power = (noisy**2).sum(axis=1).mean() - (clean**2).sum(axis=1).mean()
        assert power**0.5 == pytest.approx(0.4, rel=0.1)


@pytest.mark.slow
def test_same_seed_same_store(tmp_path, store):
    again = prepare_synthetic(tmp_path / "again", **SMALL)
    assert again.fingerprint == store.fingerprint
    other = prepare_synthetic(tmp_path / "other", seed=1, **SMALL)
    assert other.fingerprint != store.fingerprint


def test_the_lag_world_stays_what_it_was(store):
    """Recorded before there was another world: the last tokens of a clip of the last class."""
    clip = store[store.row("c0031_0022")]
    audio = [-0.67114502, 0.53726882, -0.00199898, -0.47904217, 0.41760289]
    np.testing.assert_allclose(clip.audio[-1], audio, atol=1e-6)
    visual = [-0.25701934, -0.06003789, -0.41982099, 0.52890092, 0.06923266, -0.21748298]
    np.testing.assert_allclose(clip.visual[-1], [*visual, -0.23620073], atol=1e-6)


@pytest.mark.slow
def test_clips_of_a_class_do_not_depend_on_how_many_there_are(tmp_path, store):
    more = prepare_synthetic(tmp_path / "more", **{**SMALL, "clips_per_class": 29})
    for clip in ("c0000_0000", "c0031_0022"):
        assert (more[more.row(clip)].audio == store[store.row(clip)].audio).all()


@pytest.mark.slow
def test_progress_is_shown(tmp_path):
    told = []

    def track(items, description):
        told.append((len(items), description))
        return items

    prepare_synthetic(tmp_path / "store", **SMALL, track=track)
    assert told == [(32, "drawing clips")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"looks": 7}, r"looks must lie in 1\.\.6, got 7"),
        ({"motions": 0}, r"motions must lie in 1\.\.4, got 0"),
        ({"sounds": 7}, r"sounds must lie in 1\.\.6, got 7"),
        ({"relations": ()}, "relations must be some of together, late, alternating, unrelated"),
        ({"relations": ("late", "late")}, "each once"),
        ({"looks": 1, "motions": 1, "sounds": 1}, "4 combinations of attributes are too few"),
        ({"clips_per_class": 19}, "clips_per_class must be at least 20, got 19"),
        ({"clips_per_class": 0}, "clips_per_class must be at least 20, got 0"),
        ({"audio_dim": 0}, "dimensions must be at least 1, noise 0 or more; got audio_dim 0"),
        ({"noise": -0.1}, r"got audio_dim 5, visual_dim 7, noise -0\.1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_errors(tmp_path, change, message):
    with pytest.raises(TCAFError, match=message):
        prepare_synthetic(tmp_path / "store", **{**SMALL, **change})
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_a_store_that_is_there_is_kept(tmp_path):
    path = tmp_path / "store"
    first = prepare_synthetic(path, **SMALL)
    with pytest.raises(TCAFError, match="overwrite"):
        prepare_synthetic(path, **SMALL)
    assert FeatureStore.open(path).fingerprint == first.fingerprint
    assert len(prepare_synthetic(path, **{**SMALL, "clips_per_class": 20}, overwrite=True)) == 640
