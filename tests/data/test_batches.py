from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.data.batches import (
    FeatureBatch,
    JoinedClips,
    LoadedClips,
    expect_batch,
    in_reads,
    load_batch,
)
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.packed import Packed
from tcaf.data.sampler import Sampler, few_of_each, in_order
from tcaf.data.windows import Windows, ranges
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.seeding import generator

SPEC = FeatureSpec(3, 5, 0.96, 0.64, "ears", "eyes")
NO_TIME = replace(SPEC, audio_step_s=None, visual_step_s=None)
LENS = [(10, 15), (0, 7), (3, 0), (1, 1), (40, 60), (20, 11)]


def make_videos(lens=LENS):
    """Clips whose tokens say where they come from: clip number x 1000 + token, then columns."""
    videos = []
    for number, (audio_len, visual_len) in enumerate(lens):
        audio, visual = (
            number * 1000 + np.arange(length)[:, None] + np.arange(dim) / 8
            for length, dim in ((audio_len, 3), (visual_len, 5))
        )
        videos.append(
            VideoFeatures(f"v{number}", audio.astype(np.float32), visual.astype(np.float32))
        )
    return videos


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("batches") / "store"
    with new_store(path, SPEC, dtype="float32", shard_bytes=997) as writer:
        for video in make_videos():
            writer.add(replace(video, class_name="ant", part="stage_1_train"))
    from tcaf.data.store import FeatureStore

    return FeatureStore.open(path)


def test_ranges_by_hand():
    assert ranges(np.array([3, 0, 2])).tolist() == [0, 1, 2, 0, 1]
    assert ranges(np.array([], np.int64)).tolist() == []


def test_from_videos_by_hand():
    batch = FeatureBatch.from_videos(make_videos([(2, 1), (0, 3)]), SPEC)
    assert len(batch) == 2
    assert batch.audio.tokens.tolist() == [[0, 0.125, 0.25], [1, 1.125, 1.25]]
    assert batch.audio.lens.tolist() == [2, 0]
    assert batch.audio.times.tolist() == pytest.approx([0, 0.96])
    assert batch.visual.tokens[:, 0].tolist() == [0, 1000, 1001, 1002]
    assert batch.visual.lens.tolist() == [1, 3]
    assert batch.visual.times.tolist() == pytest.approx([0, 0, 0.64, 1.28])
    assert batch.labels is None


def test_one_token_for_the_whole_clip_lies_at_0():
    batch = FeatureBatch.from_videos(make_videos([(1, 1), (1, 1)]), NO_TIME)
    assert batch.audio.times.tolist() == batch.visual.times.tolist() == [0, 0]


def test_float16_becomes_float32():
    video = make_videos([(2, 1)])[0]
    half = replace(video, audio=video.audio.astype(np.float16))
    assert FeatureBatch.from_videos([half], SPEC).audio.tokens.dtype == torch.float32


def test_moving_a_batch():
    batch = replace(FeatureBatch.from_videos(make_videos(), SPEC), labels=torch.arange(6))
    moved = batch.to("meta")
    for packed in (moved.audio, moved.visual):
        assert packed.tokens.device.type == packed.times.device.type == "meta"
        # Shapes follow from the lengths, so that they stay where they can be read.
        assert packed.lens.device.type == "cpu"
    assert moved.labels.device.type == "meta"
    assert batch.to("cpu").labels is batch.labels
    assert FeatureBatch.from_videos(make_videos(), SPEC).to("meta").labels is None


# Windows of 2 s: 2 / 0.96 and 2 / 0.64, rounded up, are 3 audio and 4 visual tokens.
TWO_SECONDS = Windows(window_s=2.0)


def test_centre_window_by_hand(store):
    # Clip 0 lasts 9.6 s, so that its window is 3.8 to 5.8 s: the middles of audio tokens 4 (4.32 s)
    # and 5 and of visual tokens 6 (4.16 s), 7 and 8 lie in it. Clip 3 has one token of each and
    # fits. Clip 5 lasts 19.2 s and its window is 8.6 to 10.6 s: audio tokens 9 (9.12 s) and 10; its
    # picture ends at 7.04 s, so the last token is taken.
    batch = load_batch(store, np.array([0, 3, 5]), TWO_SECONDS)
    assert batch.audio.tokens[:, 0].tolist() == [4, 5, 3000, 5009, 5010]
    assert batch.audio.lens.tolist() == [2, 1, 2]
    audio_times = [3.84, 4.8, 0, 8.64, 9.6]
    assert batch.audio.times.tolist() == pytest.approx(audio_times)
    assert batch.visual.tokens[:, 0].tolist() == [6, 7, 8, 3000, 5010]
    assert batch.visual.lens.tolist() == [3, 1, 1]
    assert batch.visual.times.tolist() == pytest.approx([3.84, 4.48, 5.12, 0, 6.4])


@pytest.mark.parametrize(
    ("change", "audio", "visual"),
    [
        ({}, [3.84, 4.8], [3.84, 4.48, 5.12]),
        ({"restart": True}, [0, 0.96], [0, 0.64, 1.28]),
        ({"times": "index"}, [4, 5], [6, 7, 8]),
        ({"times": "index", "restart": True}, [0, 1], [0, 1, 2]),
        ({"average": True}, [0], [0]),
    ],
)
def test_token_times_by_hand(store, change, audio, visual):
    batch = load_batch(store, np.array([0]), replace(TWO_SECONDS, **change))
    assert batch.audio.times.tolist() == pytest.approx(audio)
    assert batch.visual.times.tolist() == pytest.approx(visual)


def test_windows_of_the_paper():
    """60 and 300 visual tokens of 0.64 s are 40 and 200 audio tokens of 0.96 s, exactly."""
    lens = np.array([500])
    for seconds, audio, visual, released in ((38.4, 40, 60, 37), (192.0, 200, 300, 184)):
        for starts in (0.0, 0.96 * 2, 0.64 * 7):
            at = np.array([starts])
            assert Windows(seconds).cut("audio", SPEC, lens, at)[1] == audio
            assert Windows(seconds).cut("visual", SPEC, lens, at)[1] == visual
            release = Windows(seconds, release_audio_len=True)
            assert release.cut("audio", SPEC, lens, at)[1] == released
            assert release.cut("visual", SPEC, lens, at)[1] == visual


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 80), st.integers(1, 20), st.floats(0, 1), st.sampled_from(["audio", "visual"])
)
def test_windows_by_loops(length, tokens, place, modality):
    """Windows take the tokens whose middle lies in them; one token is left at least."""
    step_s = SPEC.step_s(modality)
    window_s = tokens * step_s
    start = place * max(length * step_s - window_s, 0)
    inside = [
        token
        for token in range(length)
        if start - 1e-6 * step_s <= (token + 0.5) * step_s < start + window_s - 1e-6 * step_s
    ]
    windows = Windows(window_s)
    first, lens = windows.cut(modality, SPEC, np.array([length]), np.array([start]))
    assert list(range(first[0], first[0] + lens[0])) == inside
    assert lens[0] == min(length, tokens) or place > 0


def test_every_place_of_a_random_window_occurs():
    """A clip one token longer than the window starts at either; none is left out for ever."""
    generator = torch.Generator().manual_seed(0)
    for length in (11, 12, 15):
        lens = np.full(2000, length)
        windows = Windows(10 * 0.64, place="random")
        starts = windows.starts(lens * 0.64, generator)
        first, kept = windows.cut("visual", SPEC, lens, starts)
        assert set(first.tolist()) == set(range(length - 10 + 1))
        assert set(kept.tolist()) == {10}


def test_whole_clips(store):
    batch = load_batch(store, np.array([4, 1, 1]), Windows())
    assert batch.audio.lens.tolist() == [40, 0, 0]
    assert batch.visual.lens.tolist() == [60, 7, 7]
    assert batch.visual.tokens[:, 0].tolist() == [
        *range(4000, 4060),
        *range(1000, 1007),
        *range(1000, 1007),
    ]
    # Without seconds per token there is nothing to cut by.
    first, lens = TWO_SECONDS.cut("audio", NO_TIME, np.array([1, 9]), np.array([0.0, 5.0]))
    assert (first.tolist(), lens.tolist()) == ([0, 0], [1, 9])


@pytest.mark.parametrize(
    "windows",
    [Windows(), Windows(window_s=3.1), Windows(average=True), Windows(5.0, "random", "index")],
)
def test_clips_in_memory_are_batched_as_those_of_a_store(store, windows):
    loaded = LoadedClips([store[row] for row in range(len(store))], SPEC)
    rows = np.array([4, 1, 4, 0, 2])
    made = load_batch(loaded, rows, windows, generator=generator(0, "windows"))
    kept = load_batch(store, rows, windows, generator=generator(0, "windows"))
    for name in ("tokens", "lens", "times"):
        for modality in ("audio", "visual"):
            one, other = made.modality(modality), kept.modality(modality)
            assert torch.equal(getattr(one, name), getattr(other, name)), (modality, name)


@pytest.mark.parametrize(
    ("windows", "most", "reads"),
    [
        # Tokens of both modalities: 25, 7, 3, 2, 100, 31.
        (Windows(), 40, [[0, 1, 2, 3], [4], [5]]),
        (Windows(), 34, [[0, 1], [2, 3], [4], [5]]),
        (Windows(), 10_000, [[0, 1, 2, 3], [4, 5]]),
        # Within 1.92 s no clip has more than 2 + 3 tokens: 5, 3, 2, 2, 5, 5.
        (Windows(window_s=1.92), 12, [[0, 1, 2, 3], [4, 5]]),
        (Windows(window_s=1.92, place="random"), 12, [[0, 1, 2, 3], [4, 5]]),
        # A mean is made of all tokens.
        (Windows(average=True), 34, [[0, 1], [2, 3], [4], [5]]),
    ],
)
def test_reads_of_so_many_tokens_by_hand(store, monkeypatch, windows, most, reads):
    monkeypatch.setattr("tcaf.data.batches.MOST_TOKENS", most)
    found = in_reads(store, np.arange(6), windows, batch_size=4)
    assert [rows.tolist() for rows in found] == reads
    assert list(in_reads(store, np.arange(0), windows, batch_size=4)) == []


class Watched:
    """A store of which is kept what was expected of it and then asked."""

    def __init__(self, store):
        self.store, self.spec, self.lens = store, store.spec, store.lens
        self.expected, self.asked = [], []

    def expect(self, rows, modality, first, lens):
        self.expected.append((modality, rows.tolist(), first.tolist(), lens.tolist()))
        return self.store.expect(rows, modality, first, lens)

    def gather(self, rows, modality, first, lens):
        self.asked.append((modality, rows.tolist(), first.tolist(), lens.tolist()))
        return self.store.gather(rows, modality, first, lens)


@pytest.mark.parametrize("windows", [Windows(), Windows(3.1), Windows(5.0, "random")])
def test_what_is_expected_is_what_is_asked_for(store, windows):
    in_memory = LoadedClips([store[row] for row in range(3)], SPEC)
    watched = Watched(store)
    clips = JoinedClips(watched, in_memory)
    soon, now = (generator(0, "windows") for _ in range(2))
    for rows in (np.array([4, 1, 4, 0, 8, 2]), np.array([0, 7]), np.array([6, 4, 4])):
        expect_batch(clips, rows, windows, generator=soon)
        load_batch(clips, rows, windows, generator=now)
    assert watched.expected == watched.asked
    assert len(watched.asked) == 6


def test_labels_go_with_the_batch(store):
    batch = load_batch(store, np.array([4, 1]), Windows(), labels=np.array([7, 3]))
    assert batch.labels.tolist() == [7, 3]


def test_random_windows():
    durations = np.array([9.6, 1.0, 20.0])
    windows = replace(TWO_SECONDS, place="random")
    starts = np.stack([windows.starts(durations, generator(0, number)) for number in range(499)])
    assert (starts[:, 1] == 0).all()
    for column, slack in ((0, 7.6), (2, 18.0)):
        assert (starts[:, column] >= 0).all()
        assert (starts[:, column] < slack).all()
        # Uniform: mean and spread of 499 draws, within six standard deviations of the mean.
        assert abs(starts[:, column].mean() / slack - 0.5) < 6 / (12 * 499) ** 0.5
        assert starts[:, column].min() < slack / 50
        assert starts[:, column].max() > slack * 49 / 50
    assert (windows.starts(durations, generator(0, 3)) == starts[3]).all()


def test_random_window_is_one_for_both_modalities(store):
    windows = Windows(window_s=1.92, place="random")
    for number in range(31):
        batch = load_batch(store, np.array([0, 4]), windows, generator=generator(0, number))
        for clip in range(2):
            audio, visual = (
                packed.times.split(packed.lens.tolist())[clip][0]
                for packed in (batch.audio, batch.visual)
            )
            # Both begin with the first token that starts in the window.
            assert abs(audio - visual) < 0.96


def test_averages_by_loops(store):
    rows = np.array([0, 1, 2, 5])
    whole = load_batch(store, rows, TWO_SECONDS)
    batch = load_batch(store, rows, replace(TWO_SECONDS, average=True))
    assert batch.audio.lens.tolist() == [1, 0, 1, 1]
    assert batch.visual.lens.tolist() == [1, 1, 0, 1]
    for name in ("audio", "visual"):
        expected, row = [], 0
        for length in whole.modality(name).lens.tolist():
            if length:
                tokens = whole.modality(name).tokens[row : row + length]
                expected.append((sum(token for token in tokens) / length).tolist())
            row += length
        assert batch.modality(name).tokens.tolist() == pytest.approx(np.array(expected))
        assert batch.modality(name).times.tolist() == [0] * len(expected)


LABELS = np.array([3] * 13 + [0] * 2 + [7] * 5)
"""Classes 0, 3 and 7 with 2, 13 and 5 clips."""


@pytest.mark.parametrize("sampling", ["balanced", "uniform"])
def test_sampling_frequencies(sampling):
    drawn = Sampler(LABELS, sampling).draw(97, 31, generator(0, "draw"))
    assert drawn.shape == (97, 31)
    total, counts = drawn.size, Counter(drawn.flatten().tolist())
    for clip, label in enumerate(LABELS):
        share = 1 / 20 if sampling == "uniform" else 1 / 3 / np.count_nonzero(label == LABELS)
        # Six standard deviations of a binomial.
        assert abs(counts[clip] - total * share) < 6 * (total * share * (1 - share)) ** 0.5
    # Batches differ from each other.
    assert len({tuple(batch) for batch in drawn.tolist()}) == 97


def test_sampling_follows_the_generator():
    for sampling in ("balanced", "uniform"):
        sampler = Sampler(LABELS, sampling)
        first = sampler.draw(3, 7, generator(0))
        assert (sampler.draw(3, 7, generator(0)) == first).all()
        assert (sampler.draw(3, 7, generator(1)) != first).any()


def test_others_are_of_other_classes():
    """Each of the two other classes for half of a class's clips, and each of their clips alike."""
    sampler = Sampler(LABELS)
    chosen = Sampler(LABELS, "uniform").draw(97, 101, generator(0, "draw"))
    others = sampler.draw_others(chosen, generator(0, "others"))
    assert others.shape == (97, 101)
    for label in (0, 3, 7):
        drawn = others[LABELS[chosen] == label]
        assert not (LABELS[drawn] == label).any()
        counts = Counter(drawn.tolist())
        for clip, other in enumerate(LABELS):
            share = 0 if other == label else 1 / 2 / np.count_nonzero(other == LABELS)
            spread = (len(drawn) * share * (1 - share)) ** 0.5
            assert abs(counts[clip] - len(drawn) * share) <= 6 * spread


def test_others_follow_the_generator():
    sampler = Sampler(LABELS)
    chosen = sampler.draw(3, 7, generator(0))
    first = sampler.draw_others(chosen, generator(1))
    assert (sampler.draw_others(chosen, generator(1)) == first).all()
    assert (sampler.draw_others(chosen, generator(2)) != first).any()


def test_others_of_two_classes_by_hand():
    """With one clip a class there is no choice."""
    chosen = np.array([[0, 1, 1], [1, 0, 0]])
    others = Sampler(np.array([5, 2])).draw_others(chosen, generator(0))
    assert others.tolist() == [[1, 0, 0], [0, 1, 1]]


def test_others_of_a_single_class():
    sampler = Sampler(np.array([3, 3, 3]))
    with pytest.raises(TCAFError, match="triplets need clips of at least two classes, got one"):
        sampler.draw_others(np.array([[0, 1]]), generator(0))


@pytest.mark.parametrize("count", [1, 3, 5, 100])
def test_a_few_of_each_class(count):
    chosen = few_of_each(LABELS, count, generator(0))
    assert (np.diff(chosen) > 0).all()
    there = Counter(LABELS.tolist())
    assert Counter(LABELS[chosen].tolist()) == {c: min(n, count) for c, n in there.items()}
    assert (few_of_each(LABELS, count, generator(0)) == chosen).all()
    assert {*chosen.tolist()} <= {*few_of_each(LABELS, count + 1, generator(0)).tolist()}


def test_the_few_are_drawn_alike():
    labels = np.array([4, 4, 2, 4, 2, 4])
    drawn = Counter(
        position for seed in range(400) for position in few_of_each(labels, 1, generator(seed))
    )
    # Of 400 draws a quarter or a half each, give or take five standard deviations.
    for position, share in zip(range(6), (1 / 4, 1 / 4, 1 / 2, 1 / 4, 1 / 2, 1 / 4), strict=True):
        assert abs(drawn[position] - 400 * share) < 5 * (400 * share * (1 - share)) ** 0.5


def test_in_order_by_hand():
    batches = [rows.tolist() for rows in in_order(np.array([5, 3, 8, 1, 2]), 2)]
    assert batches == [[5, 3], [8, 1], [2]]
    assert list(in_order(np.array([], np.int64), 2)) == []


def packed(lens):
    lens = torch.tensor(lens)
    return Packed(torch.zeros(int(lens.sum()), 5), lens, torch.zeros(int(lens.sum())))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureBatch.from_videos([], SPEC), "at least one clip, got none"),
        (
            lambda: FeatureBatch.from_videos(make_videos([(1, 2)]), replace(SPEC, audio_dim=7)),
            r"clip 'v0': expected audio tokens of shape \(len, 7\), got \(1, 3\)",
        ),
        (
            lambda: FeatureBatch(packed([4]), packed([0, 4])),
            "as many audio as visual lengths, got 1 and 2",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors(make, message):
    with pytest.raises(TCAFError, match=message):
        make()


@given(st.lists(st.integers(0, 8), min_size=1, max_size=13))
@settings(max_examples=20, deadline=None)
def test_clips_of_two_origins_are_those_of_one(store, rows):
    """The first six rows are a store's, three more are clips in memory."""
    lens = [*LENS, (2, 1), (0, 5), (4, 0)]
    other = LoadedClips(make_videos(lens)[6:], SPEC)
    joined, whole = JoinedClips(store, other), LoadedClips(make_videos(lens), SPEC)
    windows = Windows(window_s=7.0)
    one, all_ = (load_batch(clips, np.array(rows), windows) for clips in (joined, whole))
    for modality in ("audio", "visual"):
        assert joined.lens(modality).tolist() == whole.lens(modality).tolist()
        for part in ("tokens", "lens", "times"):
            torch.testing.assert_close(*(getattr(b.modality(modality), part) for b in (one, all_)))
