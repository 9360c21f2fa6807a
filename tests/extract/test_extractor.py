"""The cutting of streams into windows."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damaged import box, picture, spoil, tone, write_clip
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
        ({"seconds": 0}, []),
        ({"sample_rate": None, "seconds": 0.04}, []),
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
    assert notes_of(path) == [STILLNESS]
