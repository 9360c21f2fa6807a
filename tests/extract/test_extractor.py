"""The cutting of streams into windows."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damaged import box, picture, spoil, tone, write_clip
from tcaf.extract import extractor
from tcaf.extract.backbones import AudioBackbone, FrameSize, VisualBackbone
from tcaf.extract.containers import BrokenMediaWarning, MediaError
from tcaf.extract.extractor import WINDOWS, Extractor, audio_tokens, visual_tokens

SIZE = FrameSize(5, 7)


@dataclass
class FirstAndLast:
    """An audio backbone whose token is the first and last sample of its window."""

    window_samples: int = 13
    hop_samples: int = 11
    name: str = "first_and_last"
    dim: int = 2
    sample_rate: int = 110
    step_s: float = 0.1
    batches: list[int] = field(default_factory=list)

    def embed(self, windows):
        assert windows.shape[1] == self.window_samples
        self.batches.append(len(windows))
        return windows[:, [0, -1]].astype(np.float32)


@dataclass
class Corners:
    """A visual backbone whose token is the first pixel of the first and of the last frame."""

    window_frames: int = 3
    name: str = "corners"
    dim: int = 2
    fps: float = 5.0
    step_s: float = 0.6
    frame_size: FrameSize = SIZE
    takes_incomplete_windows: bool = False
    batches: list[int] = field(default_factory=list)

    def embed(self, windows):
        assert windows.shape[2:] == (5, 7, 3)
        self.batches.append(len(windows))
        return windows[:, [0, -1], 0, 0, 0].astype(np.float32)


def blocks_of(samples, cuts):
    return np.split(samples, sorted(cut % (len(samples) + 1) for cut in cuts))


def frames_of(count):
    return (np.full((5, 7, 3), k % 251, np.uint8) for k in range(count))


def test_they_are_backbones():
    assert isinstance(FirstAndLast(), AudioBackbone)
    assert isinstance(Corners(), VisualBackbone)


@given(st.integers(13, 700), st.lists(st.integers(0, 1000), max_size=9))
def test_audio_windows_equal_those_of_the_whole_track(num_samples, cuts):
    samples = np.arange(num_samples, dtype=np.float32)
    backbone = FirstAndLast()
    tokens = audio_tokens(backbone, blocks_of(samples, cuts))
    starts = np.arange(0, num_samples - 12, 11)
    assert np.array_equal(tokens, np.stack([samples[starts], samples[starts + 12]], axis=1))
    assert max(backbone.batches) <= WINDOWS


@given(st.integers(3, 170))
def test_frame_windows_equal_those_of_the_whole_track(count):
    backbone = Corners()
    tokens = visual_tokens(backbone, frames_of(count))
    starts = np.arange(0, count - 2, 3)
    assert np.array_equal(tokens, np.stack([starts % 251, (starts + 2) % 251], axis=1))
    assert max(backbone.batches) <= WINDOWS


def test_a_short_sound_goes_on_in_silence():
    tokens = audio_tokens(FirstAndLast(), [np.full(5, 0.5, np.float32)])
    assert tokens.tolist() == [[0.5, 0.0]]


def test_a_short_picture_goes_on_with_its_last_frame():
    assert visual_tokens(Corners(), frames_of(2)).tolist() == [[0.0, 1.0]]


def test_what_is_left_over_is_dropped():
    assert len(visual_tokens(Corners(), frames_of(8))) == 2
    assert len(audio_tokens(FirstAndLast(), [np.zeros(13 + 10, np.float32)])) == 1


def test_a_backbone_may_ask_for_what_is_left_over():
    backbone = Corners(takes_incomplete_windows=True)
    assert visual_tokens(backbone, frames_of(8)).tolist() == [[0, 2], [3, 5], [6, 7]]


@pytest.mark.parametrize("blocks", [[], [np.empty(0, np.float32)]])
def test_no_sound_is_an_empty_sequence(blocks):
    assert audio_tokens(FirstAndLast(), blocks).shape == (0, 2)


def test_no_picture_is_an_empty_sequence():
    assert visual_tokens(Corners(), []).shape == (0, 2)


EXTRACTOR = Extractor(FirstAndLast(), Corners())


def replaced(path, *pairs):
    """Replaces bytes of a file by as many others."""
    data = path.read_bytes()
    for old, new in pairs:
        assert old in data
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


NO_SOUND_DECODER = (b"mp4a", b"zzzz"), (b"esds", b"zzzz")
NO_PICTURE_DECODER = (b"avc1", b"zzzz"), (b"avcC", b"zzzz")


def test_a_file_becomes_a_clip(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 1.2)
    clip = EXTRACTOR.extract(path)
    assert clip.id == "a.mp4"
    assert (clip.audio_backbone, clip.visual_backbone) == ("first_and_last", "corners")
    # AAC's blocks of 64 ms end at 1.28 s: (140 samples - 13) / 11 + 1; 6 frames / 3.
    assert (clip.audio.shape, clip.visual.shape) == ((12, 2), (2, 2))
    assert EXTRACTOR.extract(path, "dog/a").id == "dog/a"


@pytest.mark.parametrize(
    ("pairs", "told", "lost", "lens"),
    [
        (NO_SOUND_DECODER, r"no decoder \(for the audio track\)", "audio", (0, 2)),
        (NO_PICTURE_DECODER, r"no decoder \(for the video track\)", "visual", (12, 0)),
    ],
)
def test_a_track_without_a_decoder_leaves_the_other_one(tmp_path, pairs, told, lost, lens):
    whole = EXTRACTOR.extract(write_clip(tmp_path / "a.mp4", 1.2))
    path = replaced(tmp_path / "a.mp4", *pairs)
    with pytest.warns(BrokenMediaWarning, match=told) as caught:
        clip = EXTRACTOR.extract(path)
    assert len(caught) == 1
    assert (len(clip.audio), len(clip.visual)) == lens
    kept = {"audio": "visual", "visual": "audio"}[lost]
    assert np.array_equal(clip.tokens(kept), whole.tokens(kept))


def test_a_track_of_which_no_frame_decodes_leaves_the_other_one(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 1.2)
    whole = EXTRACTOR.extract(path)
    data = path.read_bytes()
    # Sizes of the packets of the first track, which is the picture.
    start, end = box(data, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
    path.write_bytes(spoil(data, start + 20, end))
    with pytest.warns(BrokenMediaWarning, match="no frame decodes"):
        clip = EXTRACTOR.extract(path)
    assert clip.visual.shape == (0, 2)
    assert np.array_equal(clip.audio, whole.audio)


def test_two_unusable_tracks_are_an_unusable_file(tmp_path):
    path = replaced(write_clip(tmp_path / "a.mp4"), *NO_SOUND_DECODER, *NO_PICTURE_DECODER)
    with (
        pytest.warns(BrokenMediaWarning, match="no decoder") as caught,
        pytest.raises(MediaError, match=r"a\.mp4: neither sound nor picture"),
    ):
        EXTRACTOR.extract(path)
    assert len(caught) == 2


def test_a_file_that_is_none_is_no_matter_of_one_track(tmp_path):
    (tmp_path / "a.mp4").write_text("no clip" * 1000)
    with pytest.raises(MediaError, match="not a media file"):
        EXTRACTOR.extract(tmp_path / "a.mp4")


def notes_of(path):
    notes = []
    EXTRACTOR.extract(path, note=notes.append)
    return notes


SILENCE = "the sound is silent"
CANCELS = "the two channels of the sound cancel each other out in their mean"
STILLNESS = "the picture stands still"
NO_SOUND = "no audio track"
NO_PICTURE = "no visual track"


def opposite(count, rate, channels, start):
    return tone(count, rate, channels, start) * (1, -1)


def nearly_opposite(count, rate, channels, start):
    """As lossy codecs leave it: the mean is no silence."""
    return tone(count, rate, channels, start) * (1, -0.85)


def beside(count, rate, channels, start):
    """One channel alone, as of a recorder with one of two microphones."""
    return tone(count, rate, channels, start) * (1, 0)


def noisy(k, width, height):
    """Grey, with noise of 0 to 15 levels."""
    return 100 + np.random.default_rng(k).integers(0, 16, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ({}, []),
        ({"make": lambda *a: 0 * tone(*a)}, [SILENCE]),
        # Half a step of 16 bits, as of a recorder without a microphone.
        ({"make": lambda *a: tone(*a, loudness=2**-14)}, [SILENCE]),
        ({"make": lambda *a: tone(*a, loudness=0.02)}, []),
        ({"make": opposite, "layout": "stereo"}, [CANCELS, SILENCE]),
        ({"make": nearly_opposite, "layout": "stereo"}, [CANCELS]),
        ({"make": opposite, "layout": "stereo", "audio_codec": "pcm_u8"}, [CANCELS, SILENCE]),
        ({"make": beside, "layout": "stereo", "audio_codec": "pcm_u8"}, []),
        ({"make": beside, "layout": "stereo"}, []),
        ({"draw": lambda k, w, h: picture(0, w, h)}, [STILLNESS]),
        ({"draw": noisy}, [STILLNESS]),
        ({"seconds": 0}, [NO_PICTURE]),
        ({"sample_rate": None, "seconds": 0.04}, [NO_SOUND]),
    ],
)
def test_what_is_odd_about_a_track_is_noted(tmp_path, settings, notes):
    codecs = {"audio_codec": "pcm_s16le", "video_codec": "ffv1", "pixels": "yuv444p"}
    path = write_clip(
        tmp_path / "x.mkv", **{"seconds": 0.4, "audio_seconds": 0.4, **codecs, **settings}
    )
    assert notes_of(path) == notes


def test_one_frame_that_is_shown_for_long_stands_still(tmp_path):
    path = write_clip(
        tmp_path / "x.mkv", 2, 0.5, video_codec="ffv1", pixels="yuv444p", sample_rate=None
    )
    assert notes_of(path) == [NO_SOUND, STILLNESS]


TENTHS = Extractor(FirstAndLast(130, 110, sample_rate=1100), Corners())

LOSSLESS = {"audio_codec": "pcm_s16le", "video_codec": "ffv1", "pixels": "yuv444p"}


def moving(k, width, height):
    """A column that goes on from frame to frame, on a grey of its own."""
    frame = np.full((height, width, 3), 5 * k % 200, np.uint8)
    frame[:, k % width] = 255
    return frame


def chirp(num_samples, sample_rate, channels, start=0):
    times = np.arange(start, start + num_samples) / sample_rate
    return np.repeat(0.4 * np.sin(300 * times**2)[:, None], channels, axis=1)


def written(path, start_s, end_s, rate):
    """Writes the stretch of a recording, without loss; its frames and samples are those there."""
    first, sample = round(start_s * 25), round(start_s * rate)

    def later_sound(count, rate, channels, start):
        return chirp(count, rate, channels, start + sample)

    return write_clip(
        path,
        end_s - start_s,
        sample_rate=rate,
        draw=lambda k, width, height: moving(k + first, width, height),
        make=later_sound,
        **LOSSLESS,
    )


SPANS = [(0.0, 2.4), (1.28, 3.2), (2.4, 2.56), (0.0, 2.4), (3.52, 4.0)]


@pytest.mark.parametrize(
    ("rate", "tolerance"), [(16_000, 1e-5), pytest.param(44_100, 0.02, marks=pytest.mark.slow)]
)
def test_a_segment_is_as_if_it_alone_were_the_file(tmp_path, rate, tolerance, monkeypatch):
    """Overlapping, shorter than a window, twice the same: by files that hold nothing else."""
    pytest.importorskip("efficientnet_lite_pytorch")
    opened = []
    for name in ("read_audio", "frames_at"):
        read = getattr(extractor, name)
        monkeypatch.setattr(extractor, name, lambda *a, read=read: opened.append(a) or read(*a))
    extract = Extractor.open("logmel", "efficientnet_lite0:frames=2,weights=random")
    whole = written(tmp_path / "whole.mkv", 0, 4, rate)
    notes = []
    found = extract.extract_segments(
        whole, [(str(k), span) for k, span in enumerate(SPANS)], lambda *note: notes.append(note)
    )
    assert (len(opened), notes) == (2, [])
    for k, span in enumerate(SPANS):
        alone = extract.extract(written(tmp_path / f"{k}.mkv", *span, rate))
        assert found[k].id == str(k)
        assert found[k].audio.shape == alone.audio.shape
        # The loudness of a band, in units of its own, and what the network makes of frames.
        assert np.abs(found[k].audio - alone.audio).max() <= tolerance * np.abs(alone.audio).max()
        assert np.allclose(found[k].visual, alone.visual, rtol=1e-4, atol=1e-5)
    whole = extract.extract(whole)
    assert not np.allclose(found[1].visual, whole.visual[:3], rtol=0.01)


def test_frames_and_samples_of_a_segment_by_hand(tmp_path):
    """The backbones want 5 of 25 frames, and 130 of 1100 samples a second each 110."""
    grey = lambda k, width, height: np.full((height, width, 3), 5 * k % 200, np.uint8)  # noqa: E731
    path = write_clip(tmp_path / "x.mkv", 2, sample_rate=1100, draw=grey, **LOSSLESS)
    spans = [("a", (0.5, 1.9)), ("b", (1.03, 1.1)), ("c", (1.5, 3.0)), ("d", (2.0, 3.0))]
    notes = []
    found = TENTHS.extract_segments(path, spans, lambda *note: notes.append(note))
    # Of 0.5, 0.7, ... 1.7 s, which are the frames 12, 17, ... 42, two windows of three.
    levels = lambda *frames: [[5 * k % 200 for k in frames[i : i + 2]] for i in (0, 2)]  # noqa: E731
    assert np.abs(found[0].visual - levels(12, 22, 27, 37)).max() <= 2
    # Shorter than a window, the frame at 1.03 s alone, which is frame 25.
    assert np.abs(found[1].visual - 5 * 25 % 200).max() <= 2
    samples = np.round(tone(2200, 1100, 1)[:, 0] * 32767) / 32768
    # From sample 550 on, 130 samples every 110; 1540 of them are 13 windows.
    starts = 550 + 110 * np.arange(13)
    assert np.allclose(
        found[0].audio, np.stack([samples[starts], samples[starts + 129]], 1), atol=1e-4
    )
    # Samples 1133 to 1209: fewer than 130.
    assert np.allclose(found[1].audio, [[samples[1133], 0]], atol=1e-4)
    # 0.5 s of sound, and frames at 1.5, 1.7 and 1.9 s that stand for 0.6 s.
    assert len(found[2].visual) == 1
    assert notes == [(2, "the file ends 0.9 s before the segment does")]
    assert isinstance(found[3], MediaError)
    assert str(found[3]) == (
        f"{path}: nothing in the segment (d: neither sound nor picture lasts as long)"
    )


def test_a_segment_behind_one_track_has_the_other(tmp_path):
    path = write_clip(tmp_path / "x.mkv", 2, audio_seconds=1.0, sample_rate=1100, **LOSSLESS)
    notes = []
    (found,) = TENTHS.extract_segments(path, [("a", (1.2, 2.0))], lambda *n: notes.append(n))
    assert (len(found.audio), len(found.visual)) == (0, 1)
    assert notes == [(0, "no audio in the segment")]
    (tmp_path / "y.mkv").write_text("no")
    with pytest.raises(MediaError, match="not a media file"):
        TENTHS.extract_segments(tmp_path / "y.mkv", [("a", (1.2, 2.0))], print)


def test_behind_the_last_segment_nothing_is_decoded(tmp_path):
    """The end of the file is damaged, which reading it would tell."""
    path = write_clip(tmp_path / "x.mkv", 4, sample_rate=1100, draw=moving, **LOSSLESS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (found,) = TENTHS.extract_segments(path, [("a", (0.2, 1.0))], lambda *_: None)
    assert (len(found.audio), len(found.visual)) == (7, 1)
    with pytest.warns(BrokenMediaWarning, match="damaged"):
        TENTHS.extract(path)


def test_what_is_odd_about_a_segment_is_noted_of_it_alone(tmp_path):
    def half_silent(count, rate, channels, start):
        return (
            tone(count, rate, channels, start) * (np.arange(start, start + count) >= 1100)[:, None]
        )

    path = write_clip(
        tmp_path / "x.mkv",
        2,
        sample_rate=1100,
        make=half_silent,
        draw=lambda k, w, h: moving(min(k, 25), w, h),
        **LOSSLESS,
    )
    notes = []
    spans = [("a", (0.0, 0.9)), ("b", (1.1, 2.0))]
    TENTHS.extract_segments(path, spans, lambda *note: notes.append(note))
    assert notes == [(0, SILENCE), (1, STILLNESS)]
