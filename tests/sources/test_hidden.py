"""The hidden world: nothing but order, spacing of three, and pitch with height tells relations."""

from itertools import combinations

import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.sources.hidden import FREE, NUM_EVENTS, SPACING_S, draw_signs, felt, words
from tcaf.sources.synthetic import AUDIO_LEN, VISUAL_LEN, prepare_synthetic
from tcaf.sources.world import DURATION_S, HIDDEN_RELATIONS, RELATIONS, World

LENS = {"audio": AUDIO_LEN, "visual": VISUAL_LEN}
SMALL = {"looks": 2, "motions": 1, "sounds": 1, "audio_dim": 5, "visual_dim": 7, "dtype": "float32"}
CHANCE = 1 / len(HIDDEN_RELATIONS)


def by_relation(store, of, modality):
    """Returns the tokens of a modality, clips x tokens x dim, and the number of each's relation."""
    numbers = {each.name: of.relations.index(each.relation) for each in of.classes}
    tokens = np.stack([clip.tokens(modality) for clip in store])
    return tokens, np.array([numbers[name] for name in store.class_names])


def energies(tokens):
    """Returns how far each token deviates from its clip's mean."""
    return np.linalg.norm(tokens - tokens.mean(axis=1, keepdims=True), axis=2)


def across_lags(audio, visual):
    """Returns the circular cross-correlation of both energies, every 0.32 s."""
    fine = [
        np.repeat(e - e.mean(axis=1, keepdims=True), 30 // e.shape[1], 1) for e in (audio, visual)
    ]
    spectra = [np.fft.rfft(each, axis=1) for each in fine]
    return np.fft.irfft(spectra[0].conj() * spectra[1], 30, axis=1)


def probed(features, relations):
    """Returns how often a linear probe of half of the clips is right on the other half."""
    features = features.reshape(len(features), -1)
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    features = np.hstack([features, np.ones((len(features), 1))])
    train = np.random.default_rng(0).permutation(len(features)) < len(features) // 2
    x, y = features[train], np.eye(relations.max() + 1)[relations[train]]
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)
    return ((features[~train] @ weights).argmax(axis=1) == relations[~train]).mean()


@pytest.fixture(scope="module")
def world():
    return World(2, 1, 1, HIDDEN_RELATIONS, seed=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("hidden") / "store"
    return prepare_synthetic(path, world="hidden", clips_per_class=250, **SMALL)


@pytest.fixture(scope="module")
def views(store, world):
    """What one may see of the clips, and their relations."""
    audio, relations = by_relation(store, world, "audio")
    visual, _ = by_relation(store, world, "visual")
    return audio, visual, relations


def test_words_by_hand():
    assert len(FREE) == 6
    assert words("up_down")[:, 0].tolist() == [[1, 1, 1, -1, -1, -1]] * 6
    assert words("down_up")[:, 0].tolist() == [[-1, -1, -1, 1, 1, 1]] * 6
    assert words("high_low")[:, 1].tolist() == [[1, 1, 1, -1, -1, -1]] * 6
    assert words("low_high")[:, 1].tolist() == [[-1, -1, -1, 1, 1, 1]] * 6
    for relation in ("up_down", "down_up"):
        assert sorted(map(tuple, words(relation)[:, 1].tolist())) == sorted(FREE)
    for relation in ("high_low", "low_high"):
        assert sorted(map(tuple, words(relation)[:, 0].tolist())) == sorted(FREE)
    for relation, sign in (("alike", 1), ("opposite", -1)):
        visual, audio = words(relation).swapaxes(0, 1)
        assert (audio == sign * visual).all()
        assert sorted(map(tuple, audio.tolist())) == sorted(FREE)
    gaps = {"spreading": [1, 2, 3], "gathering": [3, 2, 1]}
    for relation, expected in gaps.items():
        found = words(relation)
        assert len(found) == 6 * 6
        for word in found[:, 0]:
            ups = np.flatnonzero(word > 0)
            around = ((np.roll(ups, -1) - ups) % NUM_EVENTS).tolist()
            assert around in [expected[by:] + expected[:by] for by in range(3)]


def test_no_words_belong_to_two_relations():
    all_words = [each.tobytes() for relation in HIDDEN_RELATIONS for each in set_of(relation)]
    assert len(all_words) == len(set(all_words))


def set_of(relation):
    return np.unique(words(relation), axis=0)


@pytest.mark.parametrize("relation", HIDDEN_RELATIONS)
def test_each_word_holds_the_same_events(relation):
    visual, audio = words(relation).swapaxes(0, 1)
    assert (visual.sum(axis=1) == 0).all()
    assert (audio.sum(axis=1) == 0).all()
    # Events three places apart lie alike to the audio tokens: 3 x 1.28 s are 4 tokens.
    assert pytest.approx(4 * DURATION_S / AUDIO_LEN) == 3 * SPACING_S
    assert pytest.approx(2 * DURATION_S / VISUAL_LEN) == SPACING_S
    assert (audio[:, :3] + audio[:, 3:] == 0).all()


def test_three_events_tell_spreading_from_gathering_and_two_do_not():
    def kinds(relation, events):
        found, counts = np.unique(words(relation)[:, 0, events], axis=0, return_counts=True)
        return dict(zip(map(tuple, found.tolist()), counts.tolist(), strict=True))

    for pair in combinations(range(NUM_EVENTS), 2):
        assert kinds("spreading", pair) == kinds("gathering", pair)
    assert kinds("spreading", (0, 1, 3)) != kinds("gathering", (0, 1, 3))
    # Nor does either modality tell alike from opposite.
    for modality in range(2):
        first, second = (np.sort(words(of)[:, modality], axis=0) for of in ("alike", "opposite"))
        assert (first == second).all()


def test_events_do_not_overlap_and_sum_to_one():
    firsts = np.random.default_rng(0).uniform(0, DURATION_S, size=997)
    for num_tokens in LENS.values():
        found = felt(firsts, num_tokens)
        assert found.shape == (997, num_tokens, NUM_EVENTS)
        assert ((found > 0).sum(axis=2) <= 1).all()
        np.testing.assert_allclose(found.sum(axis=1), 1)
    # By hand: the first event in the middle of the first visual token, none within 0.64 s.
    np.testing.assert_allclose(felt(np.array([0.32]), VISUAL_LEN)[0, :3, 0], [1, 0, 0], atol=1e-12)
    # Between two tokens, half each; and around the end of the circle.
    np.testing.assert_allclose(felt(np.array([0.0]), VISUAL_LEN)[0, [14, 0], 0], [0.5, 0.5])


def test_without_noise_strength_and_values_of_tokens_are_exactly_those_of_any_relation():
    """Same beginnings: only signs and order differ, in each modality."""
    drawn = {
        relation: draw_signs(relation, 97, (AUDIO_LEN, VISUAL_LEN), np.random.default_rng(5))
        for relation in HIDDEN_RELATIONS
    }
    for relation, signs in drawn.items():
        for sign, like in zip(signs, drawn["alike"], strict=True):
            np.testing.assert_allclose(abs(sign), abs(like), atol=1e-12)
            np.testing.assert_allclose(sign.sum(axis=1), 0, atol=1e-12)
            np.testing.assert_allclose(np.sort(sign), np.sort(like), atol=1e-12)
        for other in HIDDEN_RELATIONS:
            if other != relation:
                assert any((a != b).any() for a, b in zip(signs, drawn[other], strict=True))


@pytest.mark.slow  # thousands of clips
def test_an_oracle_tells_the_relations(store, views, world):
    """It knows directions and words, and takes those nearest to the tokens, for any beginning."""
    from tcaf.sources.synthetic import _Directions

    drawn = _Directions.draw(5, 7, np.random.default_rng([0, 2]))
    audio, visual, relations = views
    firsts = np.arange(0, DURATION_S, 0.04)
    told = [words(relation) for relation in HIDDEN_RELATIONS]
    of = np.repeat(np.arange(len(told)), [len(each) for each in told])
    found = 0.0
    for tokens, place, up in ((visual, 0, drawn.height), (audio, 1, drawn.pitch)):
        heights = (tokens - tokens.mean(axis=1, keepdims=True)) @ up[0]
        shapes = np.einsum(
            "fte,we->fwt", felt(firsts, tokens.shape[1]), np.concatenate(told)[:, place]
        )
        found = found + (
            (shapes**2).sum(axis=2)[None] - 2 * np.einsum("ct,fwt->cfw", heights, shapes)
        )
    best = found.min(axis=1).argmin(axis=1)
    accuracy = (of[best] == relations).mean()
    print(f"oracle: {accuracy:.3f}")
    assert accuracy > 0.95


@pytest.mark.parametrize(
    "view",
    ["means", "energies", "across_lags", "values", "sequences"],
)
def test_linear_probes_stay_at_chance(views, view):
    audio, visual, relations = views
    both = {"audio": audio, "visual": visual}
    loud = {name: energies(tokens) for name, tokens in both.items()}
    seen = {
        "means": lambda: np.hstack([each.mean(axis=1) for each in both.values()]),
        "energies": lambda: np.hstack([*loud.values()]),
        "across_lags": lambda: across_lags(loud["audio"], loud["visual"]),
        # Of each feature, whenever it comes: the distribution of tokens.
        "values": lambda: np.hstack(
            [np.sort(each, axis=1).reshape(4000, -1) for each in both.values()]
        ),
        "sequences": lambda: np.hstack([each.reshape(4000, -1) for each in both.values()]),
    }[view]()
    accuracy = probed(seen, relations)
    print(f"{view}: {accuracy:.3f}")
    # 2,000 clips: four standard deviations.
    assert abs(accuracy - CHANCE) < 4 * (CHANCE * (1 - CHANCE) / 2000) ** 0.5


@pytest.mark.slow  # thousands of clips
def test_the_same_probe_of_energies_across_lags_tells_relations_of_the_lag_world(tmp_path):

    store = prepare_synthetic(tmp_path / "store", clips_per_class=300, **SMALL)
    of = World(2, 1, 1, RELATIONS, seed=0)
    (audio, relations), (visual, _) = (by_relation(store, of, each) for each in ("audio", "visual"))
    accuracy = probed(across_lags(energies(audio), energies(visual)), relations)
    print(f"lag world, across lags: {accuracy:.3f}")
    assert accuracy > 0.5


@pytest.mark.slow
def test_means_tell_look_motion_and_sound(tmp_path):
    sizes = {**SMALL, "motions": 2, "sounds": 2, "noise": 0.0, "clips_per_class": 20}
    store = prepare_synthetic(tmp_path / "store", world="hidden", **sizes)
    of = World(2, 2, 2, HIDDEN_RELATIONS, seed=0)
    rest = {each.name: (each.look, each.motion, each.sound) for each in of.classes}
    means = {}
    for clip in store:
        mean = np.concatenate([clip.audio.mean(axis=0), clip.visual.mean(axis=0)])
        means.setdefault(rest[clip.class_name], []).append(mean)
    centres = np.array([each[0] for each in means.values()])
    assert len(centres) == 8
    for members in means.values():
        np.testing.assert_allclose(members, members[0][None].repeat(8 * 20, 0), atol=1e-6)
    assert (np.linalg.norm(centres[:, None] - centres, axis=2) + np.eye(8)).min() > 0.1


def test_as_large_as_the_lag_world():
    of = World(2, 1, 2, HIDDEN_RELATIONS, seed=0)
    split = of.split()
    assert (len(split.train), len(split.val_unseen), len(split.test_unseen)) == (24, 4, 4)
    assert len(of.classes[0].name) > 0
    assert of.attribute_names[-1] == "relation: opposite"


@pytest.mark.slow
def test_store_says_that_it_is_hidden(tmp_path):
    sizes = {"audio_dim": 5, "visual_dim": 7, "clips_per_class": 20}
    store = prepare_synthetic(tmp_path / "store", world="hidden", **sizes)
    assert store.source == {"kind": "synthetic", "seed": 0, "noise": 0.2, "world": "hidden"}
    of = World(2, 1, 2, HIDDEN_RELATIONS, seed=0)
    assert store.split("cls") == of.split()
    text = store.text("attributes")
    assert set(text) == {each.name for each in of.classes}
    for each in of.classes:
        assert (text[each.name] == of.attributes(each)).all()
    again = prepare_synthetic(tmp_path / "again", world="hidden", **sizes)
    assert again.fingerprint == store.fingerprint
    other = prepare_synthetic(tmp_path / "other", world="hidden", seed=1, **sizes)
    assert other.fingerprint != store.fingerprint
    more = prepare_synthetic(tmp_path / "more", world="hidden", **{**sizes, "clips_per_class": 29})
    for clip in ("c0000_0000", "c0031_0019"):
        for modality in LENS:
            tokens = [each[each.row(clip)].tokens(modality) for each in (store, more)]
            assert (tokens[0] == tokens[1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relations": ("alike", "late")}, "of the world hidden are up_down, .*; got late$"),
        ({"world": "lag", "relations": ("alike", "late")}, "of the world lag are .*; got alike$"),
        ({"relations": ("alike", "alike")}, "some of up_down, .* each once, got alike, alike"),
        ({"motions": 5}, r"motions must lie in 1\.\.4, got 5"),
    ],
)
def test_errors(tmp_path, change, message):
    with pytest.raises(TCAFError, match=message):
        prepare_synthetic(tmp_path / "store", **{"world": "hidden", **SMALL, **change})
    assert not (tmp_path / "store").exists()
