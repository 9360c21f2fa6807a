"""Stretches of a recording: which tokens and seconds are whose, silence, and what is forgotten."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcaf.data.windows import tokens_within
from tcaf.errors import TCAFError
from tcaf.extract.backbones import open_backbone
from tcaf.extract.containers import MediaError
from tcaf.extract.extractor import Extractor
from tcaf.extract.stretches import Cut, _Filled, _Tokens, stretches
from write_clip_run import Colours
from write_recording import Scene, write_recording

pytest.importorskip("av")

AUDIO, VISUAL = open_backbone("logmel", "audio"), Colours()
DIMS = {"audio": 128, "visual": 6}
CUTS = (Cut(2.0), Cut(2.5, 1.0), Cut(60.0), Cut(0.96))


def cut_up(path, cut, audio=AUDIO, visual=VISUAL):
    return list(stretches(path, "r", cut, audio, visual, DIMS))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Twelve seconds and a half, of tones and colours that change."""
    scenes = [Scene(2.5, 300 + 90 * n, (40 * n, 200 - 30 * n, 90)) for n in range(5)]
    return write_recording(tmp_path_factory.mktemp("stretches") / "r.mkv", scenes)


@pytest.mark.parametrize("cut", CUTS)
def test_tokens_are_those_of_the_whole_file(recording, cut):
    whole = Extractor(AUDIO, VISUAL).extract(recording)
    found = cut_up(recording, cut)
    for number, stretch in enumerate(found):
        assert stretch.number == number
        for modality, step_s in (("audio", 0.96), ("visual", 0.64)):
            wanted = tokens_within(cut.place(number), step_s)
            expected = whole.tokens(modality)[wanted]
            np.testing.assert_array_equal(stretch.video.tokens(modality), expected)


@pytest.mark.parametrize("cut", CUTS)
def test_they_follow_each_other_from_start_to_end(recording, cut):
    found = cut_up(recording, cut)
    assert found[0].start_s == 0
    # The last frame counts as long as any, 0.32 s.
    assert found[-1].end_s == pytest.approx(12.5, abs=0.32)
    for one, other in pairwise(found):
        assert one.end_s == pytest.approx(other.start_s)
    assert not any(stretch.is_empty for stretch in found)


def test_where_they_overlap_each_stands_for_its_middle():
    # 0-10, 4-14, 8-18, 12-20 of 20 seconds: 3 s before and behind the 4 in the middle.
    cut = Cut(10.0, 4.0)
    assert cut.place(3) == (12.0, 22.0)
    assert cut.stands_for(0, 10.0, False) == (0.0, 7.0)
    assert cut.stands_for(1, 14.0, False) == (7.0, 11.0)
    assert cut.stands_for(3, 20.0, True) == (15.0, 20.0)
    assert cut.stands_for(0, 6.5, True) == (0.0, 6.5)
    assert Cut(10.0).stands_for(2, 30.0, False) == (20.0, 30.0)


@pytest.mark.parametrize(
    ("every", "hop", "message"),
    [
        (0.0, None, "--every must be above 0 seconds, got 0"),
        (float("nan"), None, "--every must be above 0 seconds, got nan"),
        (10.0, 0.0, "--hop must be above 0 and at most --every, 10, got 0"),
        (10.0, 11.0, "--hop must be above 0 and at most --every, 10, got 11"),
    ],
)
def test_cuts_that_are_none(every, hop, message):
    with pytest.raises(TCAFError, match=message):
        Cut(every, hop)


def test_a_stretch_has_a_token_at_least():
    steps = {"audio": 0.96, "visual": 0.64}
    Cut(0.96).check_steps(steps)
    with pytest.raises(TCAFError, match=r"--every 0.9 is shorter .* one audio token .* 0.96 s"):
        Cut(0.9).check_steps(steps)
    with pytest.raises(TCAFError, match=r"--hop 0.5 is shorter .* one visual token .* 0.64 s"):
        Cut(2.0, 0.5).check_steps({"visual": 0.64})


def test_nothing_is_heard_and_nothing_seen(tmp_path):
    scenes = [
        Scene(2.0),
        Scene(4.0, None, None),
        Scene(2.0, 440.0, None),
        Scene(2.0, None),
    ]
    path = write_recording(tmp_path / "r.mkv", scenes)
    empty = [stretch.is_empty for stretch in cut_up(path, Cut(2.0))]
    assert empty == [False, True, True, False, False]
    # Of what the model reads.
    heard = [stretch.is_empty for stretch in cut_up(path, Cut(2.0), visual=None)]
    assert heard == [False, True, True, False, True]
    seen = [stretch.is_empty for stretch in cut_up(path, Cut(2.0), audio=None)]
    assert seen == [False, True, True, True, False]


def test_where_they_overlap_what_each_answers_for_is_looked_at(tmp_path):
    path = write_recording(tmp_path / "r.mkv", [Scene(4.0), Scene(4.0, None, None), Scene(4.0)])
    empty = {
        (stretch.start_s, stretch.end_s)
        for stretch in cut_up(path, Cut(4.0, 2.0))
        if stretch.is_empty
    }
    # 2-6, 4-8 and 6-10 answer for 3-5, 5-7 and 7-9; but for the second they hold something.
    assert empty == {(5.0, 7.0)}


def test_one_track_may_end_before_the_other(tmp_path):
    path = write_recording(tmp_path / "long.mkv", [Scene(6.0)])
    short = write_recording(tmp_path / "short.wav", [Scene(3.0)], sight=False)
    assert [len(s.video.audio) for s in cut_up(short, Cut(2.0))] == [2, 1]
    assert cut_up(short, Cut(2.0))[-1].end_s == pytest.approx(3.0)
    assert [len(s.video.audio) for s in cut_up(path, Cut(2.0), audio=None)] == [0, 0, 0]


def test_a_file_without_what_is_wanted(tmp_path):
    path = write_recording(tmp_path / "r.wav", [Scene(2.0)], sight=False)
    with pytest.raises(MediaError, match=r"r.wav: no picture \(the model reads visual alone\)"):
        cut_up(path, Cut(1.0), audio=None)


def test_a_short_file_is_one_stretch(tmp_path):
    path = write_recording(tmp_path / "r.mkv", [Scene(0.3)])
    (found,) = cut_up(path, Cut(10.0))
    assert (found.start_s, found.end_s) == (0.0, pytest.approx(0.3, abs=0.05))
    assert (len(found.video.audio), len(found.video.visual)) == (1, 1)


def test_damage_ends_a_recording_where_it_is(tmp_path, recording):
    path = tmp_path / "cut.mkv"
    data = recording.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = cut_up(path, Cut(1.0))
    assert 5.0 < found[-1].end_s < 7.5
    assert any("damaged" in str(each.message) for each in caught)


@given(st.lists(st.integers(0, 7), max_size=40), st.integers(1, 9), st.integers(1, 9))
def test_what_lies_behind_is_forgotten(batches, every, hop):
    total = sum(batches)
    rows = np.arange(total, dtype=np.float32)[:, None]
    stream = iter(np.split(rows, np.cumsum(batches)[:-1]) if batches else [])
    tokens, hop = _Tokens(stream, 1.0, _Filled()), min(hop, every)
    for start in range(0, total + every, hop):
        found = [int(token[0]) for token in tokens.take(float(start), float(start + every))]
        assert found == list(range(start, min(start + every, total)))
        assert len(tokens._held) <= every + 7
        assert tokens.goes_on_behind(float(start + every)) == (start + every < total)


def test_tenths_of_a_second_are_forgotten_too():
    filled = _Filled()
    for second in np.arange(1000.0).tolist():
        filled.note(second, second + 1, is_empty=second % 2 == 1)
        assert filled.is_within(second, second + 1) == (second % 2 == 0)
        assert len(filled._bins) <= 10
    assert filled.length_s == 1000
