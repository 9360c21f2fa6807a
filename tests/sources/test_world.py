import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.sources.world import (
    DURATION_S,
    EVENT_WIDTH_S,
    HIDDEN_RELATIONS,
    LATE_S,
    LOOKS,
    MOTIONS,
    RELATIONS,
    SOUNDS,
    WORLD_RELATIONS,
    World,
    WorldClass,
    bumps,
    event_times,
    part_of,
    since,
)


def small_world(seed=0, **change):
    sizes = {"looks": 3, "motions": 2, "sounds": 3, "relations": RELATIONS, "seed": seed}
    return World(**{**sizes, **change})


@pytest.mark.parametrize("relation", RELATIONS)
def test_each_modality_alone_is_uniform_in_time(relation):
    rng = np.random.default_rng(0)
    draws = np.array([event_times(relation, rng) for _ in range(1999)])
    assert draws.shape == (1999, 2, 2)
    for modality in range(2):
        for event in range(2):
            times = np.sort(draws[:, modality, event])
            assert times[0] >= 0
            assert times[-1] < DURATION_S
            # Kolmogorov and Smirnov: 1.95 / sqrt(n) is passed once in a thousand.
            ideal = np.arange(1, 2000) / 1999
            assert abs(times / DURATION_S - ideal).max() < 1.95 / 1999**0.5


def circular(difference):
    return (difference + DURATION_S / 2) % DURATION_S - DURATION_S / 2


def test_event_times_by_relation():
    rng = np.random.default_rng(1)
    for _ in range(97):
        moves, sounds = event_times("together", rng)
        assert (moves == sounds).all()
        moves, sounds = event_times("late", rng)
        assert circular(sounds - moves) == pytest.approx([LATE_S] * 2)
        moves, sounds = event_times("alternating", rng)
        assert circular(sounds - moves) == pytest.approx([DURATION_S / 4] * 2)
        # Around the circle movement and sound take turns.
        turns = np.argsort(np.concatenate([moves, sounds])) // 2
        assert turns.tolist() in ([0, 1, 0, 1], [1, 0, 1, 0])


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("modality", [0, 1])
def test_gaps_of_each_modality_alone_are_uniform(relation, modality):
    rng = np.random.default_rng(2)
    times = np.array([event_times(relation, rng)[modality] for _ in range(1999)])
    gaps = np.sort((times[:, 1] - times[:, 0]) % DURATION_S) / DURATION_S
    assert gaps[0] >= 0.35 - 1e-9
    assert gaps[-1] <= 0.65 + 1e-9
    ideal = 0.35 + 0.3 * np.arange(1, 2000) / 1999
    assert (abs(gaps - ideal) / 0.3).max() < 1.95 / 1999**0.5


@pytest.mark.parametrize("seed", range(7))
def test_split_keeps_every_value_in_training(seed):
    world = small_world(seed)
    by_name = {of.name: of for of in world.classes}
    split = world.split()
    assert set(split.classes) == set(by_name)
    assert len(split.val_unseen) == len(split.test_unseen) == 72 // 8
    train = [by_name[name] for name in split.train]
    for attribute in ("look", "motion", "sound", "relation"):
        values = {getattr(of, attribute) for of in train}
        assert values == {getattr(of, attribute) for of in world.classes}


def test_split_of_the_smallest_world():
    world = World(6, 1, 1, ("late",), seed=0)
    with pytest.raises(TCAFError, match="too few combinations of attributes to hold out unseen"):
        world.split()
    split = World(3, 2, 1, ("late",), seed=0).split()
    assert (len(split.train), len(split.val_unseen), len(split.test_unseen)) == (4, 1, 1)


def test_split_depends_on_the_seed_alone():
    assert small_world(3).split() == small_world(3).split()
    assert len({small_world(seed).split() for seed in range(7)}) == 7


def test_names_are_unique():
    names = [
        of.name
        for relations in WORLD_RELATIONS.values()
        for of in World(len(LOOKS), len(MOTIONS), len(SOUNDS), relations, seed=0).classes
    ]
    assert len(set(names)) == len(names) == 6 * 4 * 6 * (4 + 8)
    assert WorldClass(0, 0, 0, "together").name == "red square jumping, beep with each"
    hidden = WorldClass(0, 0, 0, "up_down")
    assert hidden.name == "red square jumping, beep while first up then down"


def test_relations_of_two_worlds_do_not_mix():
    for relations in (("late", "alike"), ("alike", "late")):
        with pytest.raises(TCAFError, match="those of the other world do not mix"):
            small_world(relations=relations)
    assert small_world().name == "lag"
    assert small_world(relations=HIDDEN_RELATIONS).name == "hidden"


def test_attributes_by_hand():
    world = small_world(relations=("late", "together"))
    vector = world.attributes(WorldClass(2, 0, 1, "together"))
    #           looks    motions  sounds   relations; four ones, so that each is 1/2
    assert (vector * 2).tolist() == [0, 0, 1, 1, 0, 0, 1, 0, 0, 1]
    assert vector.dtype == np.float32
    matrix = np.stack([world.attributes(of) for of in world.classes])
    assert len(np.unique(matrix, axis=0)) == len(world.classes)


def test_attribute_names_by_hand():
    world = small_world(relations=("late", "together"))
    names = np.array(world.attribute_names)
    ones = world.attributes(WorldClass(2, 0, 1, "together")) > 0
    assert names[ones].tolist() == [
        "look: blue triangle",
        "motion: jumping",
        "sound: drum",
        "relation: together",
    ]


def test_time_is_a_circle():
    times, events = np.array([0.1, 4.0]), np.array([9.5, 1.0, 4.0])
    # 0.1 is 0.2 s after 9.5, once around the circle of 9.6 s.
    np.testing.assert_allclose(since(times, events), [[0.2, -0.9, -3.9], [4.1, 3.0, 0.0]])
    felt = bumps(times, events)
    assert felt[1, 2] == 1
    assert felt[0, 0] == pytest.approx(np.exp(-0.5 * (0.2 / EVENT_WIDTH_S) ** 2))
    assert felt[0, 2] < 1e-9


@pytest.mark.parametrize("num_clips", range(7, 43))
def test_every_part_gets_a_clip(num_clips):
    world = World(3, 2, 1, ("late",), seed=0)
    split = world.split()
    parts = {
        part_of(split, of.name, index / num_clips)
        for of in world.classes
        for index in range(num_clips)
        if of.name not in split.val_unseen
    }
    assert parts == {"stage_1_train", "val_seen", "test_seen", "test_unseen"}
