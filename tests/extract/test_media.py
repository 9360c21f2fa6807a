"""Decoding: time, size, turns and mixing by hand on files written here; damage on dozens."""

import gc
import os
import pickle
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import av
import numpy as np
import pytest

from damaged import (
    MIRRORED,
    ROTATED_90,
    TONE_HZ,
    UNEVEN_TIMES,
    box,
    damaged_folder,
    tone,
    write_clip,
    write_exif,
)
from tcaf.errors import TCAFError
from tcaf.extract.backbones import FrameSize
from tcaf.extract.containers import (
    DECODER_LIMITS,
    BrokenMediaWarning,
    MediaError,
    TrackError,
    open_container,
)
from tcaf.extract.media import probe, read_audio, read_frames
from tcaf.extract.tracks import MAX_JUMP_S

SMALL = FrameSize(11, 13)
RATE = 16_000
SHARED = Path(os.environ.get("TCAF_SHARED", Path(__file__).parents[3] / "shared"))
CLIPS, CASES = SHARED / "clips", SHARED / "cases"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged")
    return path, damaged_folder(path)


def sound(path, rate=RATE):
    return np.concatenate([np.empty(0, np.float32), *read_audio(path, rate)])


def frames(path, fps=25.0, size=SMALL):
    return list(read_frames(path, fps, size))


def grey(k, width, height):
    """Frame k is grey all over, of level 10 k."""
    return np.full((height, width, 3), 10 * k, np.uint8)


def levels(path, fps=25.0, **settings):
    return [round(f.mean() / 10) for f in frames(path, fps, **settings)]


GREY = {"draw": grey, "video_codec": "ffv1", "pixels": "yuv444p", "sample_rate": None}


def test_the_header_is_told(folder):
    info = probe(folder[0] / "five_one.mp4")
    assert (info.width, info.height, info.fps, info.rotation) == (64, 48, 25.0, 0)
    assert (info.sample_rate, info.channels, info.audio_codec) == (48_000, 6, "aac")
    assert info.duration_s == pytest.approx(2, abs=0.1)
    assert (info.has_audio, info.has_video, info.video_codec) == (True, True, "h264")
    turned = probe(folder[0] / "turned_90.mp4")
    assert (turned.width, turned.height, turned.rotation) == (48, 64, 90)
    assert probe(folder[0] / "turned_270.mp4").rotation == 270
    assert probe(folder[0] / "mirrored.mp4").rotation == 0
    alone = probe(folder[0] / "eight_bit.wav")
    assert (alone.has_audio, alone.has_video, alone.width, alone.video_codec) == (
        True,
        False,
        None,
        None,
    )
    assert probe(folder[0] / "unknown_codec.mp4").audio_codec == "unknown"


def test_blocks_and_frames_have_their_types(folder):
    blocks = list(read_audio(folder[0] / "whole.mp4", RATE))
    assert all(b.dtype == np.float32 and b.ndim == 1 for b in blocks)
    shown = frames(folder[0] / "whole.mp4")
    assert {(f.shape, f.dtype.name, f.flags.c_contiguous) for f in shown} == {
        ((11, 13, 3), "uint8", True)
    }


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        # Frames of 0.1 s: at 5 per second every other, at 20 each one twice.
        (10.0, [0, 1, 2, 3, 4, 5, 6]),
        (5.0, [0, 2, 4, 6]),
        (20.0, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]),
        # At 0, 1/3, 2/3 s.
        (3.0, [0, 3, 6]),
    ],
)
def test_frames_are_those_shown_at_their_times(tmp_path, fps, expected):
    path = write_clip(tmp_path / "x.mkv", 0.7, 10, **GREY)
    assert levels(path, fps) == expected


def test_rounded_time_stamps_make_no_frame_late(tmp_path):
    # Matroska has 0.067 s for frame 2 of 30 per second, which is due at 0.0667.
    path = write_clip(tmp_path / "x.mkv", 0.8, 30, **GREY)
    assert levels(path, 30.0) == list(range(24))


def test_variable_frame_rates_follow_their_stamps(tmp_path):
    path = write_clip(tmp_path / "x.mkv", times=UNEVEN_TIMES, **GREY)
    got = levels(path)
    # By hand: the newest frame whose stamp is not after k / 25; the last one lasts 1 / 25 s.
    expected = [max(i for i, t in enumerate(UNEVEN_TIMES) if t <= k / 25 + 1e-3) for k in range(49)]
    assert got == expected[: len(got)]
    assert abs(len(got) - 1.94 * 25) <= 1


def test_a_late_picture_shows_its_first_frame_from_the_start(tmp_path):
    path = write_clip(
        tmp_path / "x.mkv", 0.4, 25, video_start_s=0.2, **GREY | {"sample_rate": RATE}
    )
    assert levels(path) == [0] * 5 + list(range(10))


@pytest.mark.parametrize("name", ["turned_90", "turned_180", "turned_270", "mirrored", "whole"])
@pytest.mark.parametrize("keep_aspect", [False, True])
def test_turned_frames_stand_upright(folder, name, keep_aspect):
    # Written: red above blue in the left half, grey in the right.
    corners = {
        "whole": ("red", "grey", "blue", "grey"),
        "turned_90": ("blue", "red", "grey", "grey"),
        "turned_180": ("grey", "blue", "grey", "red"),
        "turned_270": ("grey", "grey", "red", "blue"),
        "mirrored": ("grey", "red", "grey", "blue"),
    }[name]
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255), "grey": (40, 40, 40)}
    frame = frames(folder[0] / f"{name}.mp4", size=FrameSize(13, 17, keep_aspect))[5]
    assert frame.shape == (13, 17, 3)
    places = ((1, 1), (1, -2), (-2, 1), (-2, -2))
    for place, colour in zip(places, corners, strict=True):
        np.testing.assert_allclose(frame[place], colours[colour], atol=6)


def test_the_turn_is_the_one_of_the_track_header(tmp_path):
    path = write_clip(tmp_path / "x.mp4", 0.2, matrix=ROTATED_90, sample_rate=None)
    data = path.read_bytes()
    start, _ = box(data, b"moov", b"trak", b"tkhd")
    # Version 0 has 40 bytes between the box's head and the matrix a, b, u, c, d, v, x, y, w.
    matrix = np.frombuffer(data, ">i4", 9, start + 8 + 40)
    assert (matrix / 65536)[[0, 1, 3, 4]].tolist() == list(ROTATED_90)
    with av.open(str(path)) as container:
        # FFmpeg counts against the clock.
        assert next(container.decode(video=0)).rotation % 360 == 270
    assert probe(path).rotation == 90
    both = [x * y for x, y in zip(MIRRORED, (1, 1, -1, -1), strict=True)]
    path = write_clip(tmp_path / "y.mp4", 0.2, matrix=both, sample_rate=None)
    assert probe(path).rotation == 180


def gradient(k, width, height):
    """Red says the column, green the row."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.arange(width) * 255 // max(width - 1, 1)
    frame[..., 1] = np.arange(height)[:, None] * 255 // max(height - 1, 1)
    return frame


@pytest.mark.parametrize("size", [(211, 97), (97, 211), (101, 101)])
@pytest.mark.parametrize("target", [(13, 13), (13, 17), (23, 11)])
def test_the_middle_is_kept_at_the_scale_of_the_short_side(tmp_path, size, target):
    path = write_clip(
        tmp_path / "x.mkv",
        0.04,
        size=size,
        draw=gradient,
        video_codec="ffv1",
        pixels="bgra",
        sample_rate=None,
    )
    height, width = target
    frame = frames(path, size=FrameSize(height, width, keep_aspect=True))[0].astype(float)
    scale = max(height / min(size), width / size[0], height / size[1])
    for axis, (side, length, channel) in enumerate(((size[1], height, 1), (size[0], width, 0))):
        ramp = frame[..., channel].mean(1 - axis) / 255 * (side - 1)
        middle = (side - 1) / 2
        expected = middle + (np.arange(length) - (length - 1) / 2) / scale
        # Whole pixels, at even places, and edges that are not mirrored by the filter.
        np.testing.assert_allclose(ramp, expected, atol=2.6)


@pytest.mark.parametrize("size", [FrameSize(224, 224, True), FrameSize(112, 112), FrameSize(5, 7)])
@pytest.mark.parametrize("name", ["very_wide.mkv", "very_tall.avi", "odd_size.mkv"])
def test_any_shape_becomes_any_size(folder, name, size):
    shown = frames(folder[0] / name, size=size)
    assert {f.shape for f in shown} == {(size.height, size.width, 3)}


@pytest.mark.parametrize("name", ["ten_bit.mkv", "see_through.mkv", "whole.webm", "whole.avi"])
def test_colours_of_all_pixel_formats(folder, name):
    frame = frames(folder[0] / name)[5]
    np.testing.assert_allclose(frame[1, 1], (255, 0, 0), atol=25)
    np.testing.assert_allclose(frame[-2, 1], (0, 0, 255), atol=25)
    np.testing.assert_allclose(frame[1, -2], (40, 40, 40), atol=10)


def test_repeated_frames_are_scaled_once(tmp_path):
    path = write_clip(tmp_path / "x.mkv", 0.2, 10, **GREY)
    first, second, third, _ = frames(path, 20.0)
    assert first is second
    assert second is not third


def wav(path, samples, rate=RATE, layout="stereo", codec="pcm_f32le"):
    """Writes these samples, one row per time."""
    return write_clip(
        path,
        0,
        sample_rate=rate,
        layout=layout,
        audio_codec=codec,
        num_samples=len(samples),
        make=lambda count, rate, channels, start: samples[start : start + count],
    )


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_s16le", "pcm_u8"])
def test_stereo_is_the_mean_of_two(tmp_path, codec):
    loud = np.ones((3001, 1))
    alike = sound(wav(tmp_path / "a.wav", np.hstack([loud, loud]), codec=codec))
    np.testing.assert_allclose(alike, 1, atol=0.02)
    apart = sound(wav(tmp_path / "b.wav", np.hstack([loud, -loud]), codec=codec))
    np.testing.assert_allclose(apart, 0, atol=0.02)
    left = sound(wav(tmp_path / "c.wav", np.hstack([loud, 0 * loud]), codec=codec))
    np.testing.assert_allclose(left, 0.5, atol=0.02)
    assert len(left) == 3001


def test_five_channels_and_one_add_up_to_one(tmp_path):
    for channel, weight in enumerate((0.207, 0.207, 0.293, 0, 0.146, 0.146)):
        samples = np.zeros((2003, 6))
        samples[:, channel] = 1
        got = sound(wav(tmp_path / f"{channel}.wav", samples, layout="5.1"))
        np.testing.assert_allclose(got, weight, atol=1e-3)


@pytest.mark.parametrize("rate", [8_000, 11_025, 48_000, 96_000])
@pytest.mark.parametrize("layout", ["mono", "stereo", "7.1"])
def test_a_tone_stays_itself_at_any_rate(tmp_path, rate, layout):
    path = tmp_path / "x.wav"
    write_clip(path, 0, sample_rate=rate, layout=layout, audio_seconds=0.9, audio_codec="pcm_s16le")
    got = sound(path)
    assert abs(len(got) - 0.9 * RATE) <= 1
    expected = tone(len(got), RATE, 1)[:, 0]
    np.testing.assert_allclose(got[200:-200], expected[200:-200], atol=0.01)


def test_what_overshoots_is_cut(tmp_path):
    got = sound(wav(tmp_path / "x.wav", np.full((1999, 1), 1.7), layout="mono"))
    assert got.max() == 1


def test_what_is_no_number_is_silence(tmp_path):
    got = sound(wav(tmp_path / "x.wav", np.full((1999, 1), np.nan), layout="mono"))
    assert not got.any()


def onset(samples):
    return np.flatnonzero(np.abs(samples) > 0.01)[0] / RATE


def test_late_sound_begins_with_silence(folder):
    got = sound(folder[0] / "late_sound.mkv")
    assert onset(got) == pytest.approx(0.7, abs=0.002)
    assert len(got) / RATE == pytest.approx(2.7, abs=0.002)


def test_a_gap_is_silence_and_what_follows_is_in_time(folder):
    got = sound(folder[0] / "gap.mkv")
    assert len(got) / RATE == pytest.approx(2, abs=0.002)
    assert not got[int(0.52 * RATE) : int(1.01 * RATE)].any()
    times = np.arange(int(1.1 * RATE), int(1.9 * RATE))
    expected = 0.5 * np.sin(2 * np.pi * TONE_HZ * times / RATE)
    # The gap ends at a stamp of whole milliseconds.
    assert np.corrcoef(got[times], expected)[0, 1] > 0.9


def test_tracks_end_by_themselves(folder):
    path = folder[0] / "longer_sound.mp4"
    assert len(frames(path)) == 25
    assert len(sound(path)) / RATE == pytest.approx(3, abs=0.07)
    path = folder[0] / "longer_picture.mp4"
    assert len(frames(path)) == 75
    assert len(sound(path)) / RATE == pytest.approx(1, abs=0.07)


@pytest.mark.parametrize("jump_s", [4 * 3600.0, -4 * 3600.0])
def test_hours_between_stamps_are_not_believed(tmp_path, jump_s):
    start = 5 * 3600.0
    times = [start + 0.1 * k + (jump_s if k >= 3 else 0) for k in range(7)]
    path = write_clip(tmp_path / "x.nut", fps=10, times=times, **GREY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BrokenMediaWarning)
        assert len(levels(path, 10.0)) <= 8


def test_sound_hours_after_the_picture_is_not_believed(tmp_path):
    path = tmp_path / "x.mkv"
    write_clip(path, 0.5, audio_start_s=9000.0, audio_codec="pcm_s16le")
    assert len(sound(path)) == 0.5 * RATE
    path = write_clip(tmp_path / "y.mkv", 0.5, video_start_s=9000.0, audio_codec="pcm_s16le")
    assert abs(len(frames(path)) - 0.5 * 25) <= 1


def test_a_damaged_rate_makes_no_endless_picture(folder, tmp_path):
    data = bytearray((folder[0] / "whole.avi").read_bytes())
    # The stream header of the pictures: scale and rate come 20 bytes into it; a frame lasts years.
    place = data.index(b"strh") + 8 + 20
    data[place : place + 8] = (2**31 - 1).to_bytes(4, "little") + (7).to_bytes(4, "little")
    path = tmp_path / "x.avi"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BrokenMediaWarning)
        assert len(frames(path)) < 100


def tell_length(path, seconds):
    """Writes another length into the head of a Matroska file."""
    data = bytearray(path.read_bytes())
    # Element 0x4489 of 8 bytes, a number of milliseconds.
    place = data.index(b"\x44\x89\x88") + 3
    data[place : place + 8] = struct.pack(">d", seconds * 1000)
    path.write_bytes(data)


def test_steps_beyond_the_told_length_do_not_add_up(tmp_path):
    # 22 steps of 200 s each alone would be believed.
    path = write_clip(tmp_path / "x.mkv", times=[200.0 * k for k in range(23)], **GREY)
    tell_length(path, 7)
    with pytest.warns(BrokenMediaWarning, match=r"damaged picture from 200.0 s on"):
        shown = levels(path, 5.0)
    # The first step ends 193 s beyond the length; a second would make that 393.
    assert len(shown) <= (7 + MAX_JUMP_S) * 5 + 23
    assert shown[:1000] == [0] * 1000
    tell_length(path, 4400)
    assert len(levels(path, 5.0)) >= 4400 * 5


def test_a_gap_in_a_file_that_tells_no_length(tmp_path):
    times = [*(0.1 * k for k in range(11)), *(289.0 + 0.1 * k for k in range(13))]
    live = {"container_options": {"live": "1"}}
    path = write_clip(tmp_path / "x.mkv", fps=10, times=times, **GREY, **live)
    assert probe(path).duration_s is None
    shown = levels(path, 10.0)
    assert shown == [*range(10), *[10] * 2880, *range(11, 24)]


@pytest.mark.slow
def test_stills_last_as_long_as_the_sound_goes_on(tmp_path):
    # 18 steps of 20 s are 360 s.
    path = write_clip(
        tmp_path / "x.mkv",
        times=[20.0 * k for k in range(19)],
        audio_seconds=361,
        **GREY | {"sample_rate": 8000},
        container_options={"live": "1"},
    )
    assert probe(path).duration_s is None
    shown = levels(path, 1.0)
    assert shown[:360] == [k // 20 for k in range(360)]
    assert len(shown) == 361


@pytest.mark.parametrize("name", ["whole.mp4", "whole.webm", "whole.avi", "uneven.mkv"])
def test_damage_makes_no_hours_of_seconds(folder, tmp_path, name):
    data = np.frombuffer((folder[0] / name).read_bytes(), np.uint8)
    path = tmp_path / name
    for seed in range(11):
        rng = np.random.default_rng(seed)
        spoilt = data.copy()
        places = rng.integers(12, len(data), 37)
        spoilt[places] = rng.integers(0, 256, 37)
        path.write_bytes(spoilt.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BrokenMediaWarning)
            try:
                told_s, num_shown = probe(path).duration_s, len(frames(path, 5.0))
            except MediaError:
                continue
        assert num_shown <= ((told_s or 0) + MAX_JUMP_S) * 5 + 50


def test_a_track_that_begins_on_the_way(folder, tmp_path):
    data = bytearray((folder[0] / "whole.ts").read_bytes())
    # Packets of 188 bytes; the second and third hold a flag for beginnings and the track's number.
    starts = [k for k in range(0, len(data), 188) if data[k + 1 : k + 3] == b"\x41\x01"]
    data[starts[-1] + 2] = 0x23
    path = tmp_path / "x.ts"
    path.write_bytes(data)
    assert abs(len(frames(path)) - 50) <= 1
    assert len(sound(path)) / RATE == pytest.approx(2, abs=0.2)


def test_a_gap_that_the_length_agrees_with_is_silence(tmp_path):
    # 0.512 s of sound, then nothing until 500 s.
    settings = {"sample_rate": 8000, "audio_seconds": 501, "skip": (0.512, 500.0)}
    path = write_clip(tmp_path / "x.mkv", 0, audio_codec="pcm_s16le", **settings)
    got = sound(path, 8000)
    assert len(got) / 8000 == pytest.approx(501, abs=0.2)
    assert not got[8000 : 499 * 8000].any()
    assert np.abs(got[int(500.3 * 8000) :]).max() > 0.4


@pytest.mark.slow
def test_a_gap_that_the_picture_fills_is_silence(tmp_path):
    # No length is stated, and the gap is longer than any that is believed for the length alone.
    settings = {"sample_rate": 8000, "audio_codec": "pcm_s16le", "skip": (1.024, 3700.0)}
    path = write_clip(
        tmp_path / "x.mkv",
        times=range(3703),
        fps=1,
        size=(16, 16),
        audio_seconds=3702,
        video_codec="ffv1",
        container_options={"live": "1"},
        **settings,
    )
    num_samples = sum(len(block) for block in read_audio(path, 8000))
    assert num_samples / 8000 == pytest.approx(3702, abs=0.2)


def test_frames_of_an_uneven_picture_last_no_longer_than_the_file(tmp_path):
    # Five frames in 720 s: by the average each lasts 144 s.
    times = [0, 4, 70, 70.4, 700]
    path = write_clip(tmp_path / "x.mkv", times=times, fps=1 / 144, **GREY)
    tell_length(path, 720)
    shown = levels(path, 5.0)
    assert shown == [0] * 20 + [1] * 330 + [2] * 2 + [3] * 3148 + [4] * 100


@pytest.mark.parametrize("name", ["x.mkv", "x.avi", "x.mov"])
def test_metadata_without_a_name_costs_no_picture(tmp_path, name):
    path = write_exif(tmp_path / name)
    with av.open(str(path)) as container, pytest.raises(ValueError, match="not a valid Type"):
        _ = next(container.decode(video=0)).side_data
    for keep_aspect in (False, True):
        shown = frames(path, 5.0, FrameSize(11, 13, keep_aspect))
        assert len(shown) == 10
        np.testing.assert_allclose(shown[3][5, 6], (192, 48, 40), atol=3)


def test_exif_turns_frames(tmp_path):
    # Orientation 6: what is at the left of the file is shown on top.
    path = write_exif(tmp_path / "x.mkv", orientation=6)
    frame = frames(path, 5.0, FrameSize(20, 20))[0]
    assert frame[0, 10].max() < 60 < frame[10, 0].max()
    assert (probe(path).rotation, probe(path).width) == (90, 64)


# Where the file's upper left corner and left edge are shown, as EXIF numbers orientations.
@pytest.mark.parametrize(
    ("orientation", "corner", "edge"),
    [
        *((1, (0, 0), (19, 0)), (2, (0, 19), (19, 19)), (3, (19, 19), (0, 19))),
        *((4, (19, 0), (0, 0)), (5, (0, 0), (0, 19)), (6, (0, 19), (0, 0))),
        *((7, (19, 19), (19, 0)), (8, (19, 0), (19, 19))),
    ],
)
def test_exif_mirrors_frames(tmp_path, orientation, corner, edge):
    path = write_exif(tmp_path / "x.mkv", orientation=orientation)
    frame = frames(path, 5.0, FrameSize(20, 20))[0]
    assert frame[corner].min() > 200
    assert frame[edge].max() < 60


@pytest.mark.parametrize("turn", [None, ROTATED_90])
def test_pixels_that_are_not_square_are_as_wide_as_they_are(tmp_path, turn):
    # 64 x 48 pixels, each twice as wide as high, are 128 x 48: the middle 48 are columns 20 to 44.
    settings = {"draw": gradient, "video_codec": "mpeg4", "pixels": "yuv420p", "matrix": turn}
    path = write_clip(tmp_path / "x.mp4", 0.2, sample_rate=None, pixel_aspect=2, **settings)
    info = probe(path)
    assert (info.width, info.height) == ((48, 128) if turn else (128, 48))
    frame = frames(path, size=FrameSize(12, 12, keep_aspect=True))[0]
    ramp = frame[..., 0].mean(1 if turn else 0)
    expected = (20 + 24 * (np.arange(12) + 0.5) / 12 - 0.5) * 255 / 63
    np.testing.assert_allclose(ramp, expected, atol=12)


def test_an_absurd_shape_of_pixels_is_not_believed(tmp_path):
    path = write_clip(tmp_path / "x.avi", 0.2, sample_rate=None, video_codec="mpeg4")
    square = frames(path, size=FrameSize(12, 12, keep_aspect=True))[0]
    settings = {"video_codec": "mpeg4", "pixel_aspect": 250}
    path = write_clip(tmp_path / "y.avi", 0.2, sample_rate=None, **settings)
    assert np.array_equal(frames(path, size=FrameSize(12, 12, keep_aspect=True))[0], square)


ENCRYPTED = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_an_absurd_rate_of_samples_is_a_damaged_header(tmp_path, rate):
    path = wav(tmp_path / "x.wav", np.zeros((3001, 1)), layout="mono")
    data = bytearray(path.read_bytes())
    place = data.index(b"fmt ") + 12
    data[place : place + 4] = rate.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(TrackError, match=rf"damaged header \({rate} samples per second\)"):
        sound(path)


def test_pictures_that_are_too_large_are_not_decoded_on_opening(tmp_path, monkeypatch):
    # What a pixel of PNG is stands in the picture alone.
    path = write_clip(tmp_path / "x.avi", 0.4, video_codec="png", pixels="rgb24", sample_rate=None)
    with open_container(path) as (container, _):
        assert container.streams.video[0].codec_context.pix_fmt == "rgb24"
    monkeypatch.setitem(DECODER_LIMITS, "max_pixels", str(64 * 48 - 1))
    with open_container(path) as (container, _):
        assert container.streams.video[0].codec_context.pix_fmt is None
    with pytest.warns(BrokenMediaWarning), pytest.raises(TrackError, match="no frame decodes"):
        frames(path)


def test_an_encrypted_file_is_called_that(tmp_path):
    path = write_clip(tmp_path / "x.mp4", 0.4, container_options=ENCRYPTED)
    for read in (sound, frames):
        with pytest.raises(MediaError) as caught:
            read(path)
        assert (caught.value.reason, type(caught.value)) == ("encrypted", MediaError)
    # Bought music of old names its codec so.
    path = write_clip(tmp_path / "y.m4a", 0, audio_seconds=0.4)
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"drms"))
    with pytest.raises(MediaError, match="encrypted"):
        sound(path)


def test_sound_that_changes_its_form_on_the_way(tmp_path):
    data = b""
    for rate in (44_100, 48_000):
        settings = {"sample_rate": rate, "layout": "stereo", "audio_codec": "vorbis"}
        data += write_clip(tmp_path / "x.ogg", 0, audio_seconds=2, **settings).read_bytes()
    path = tmp_path / "y.ogg"
    path.write_bytes(data)
    with pytest.warns(BrokenMediaWarning, match=r"the sound changes its form at 2.0 s; the rest"):
        assert len(sound(path)) / RATE == pytest.approx(2, abs=0.1)


cases = pytest.mark.skipif(
    not CASES.is_dir(), reason="needs the cases: cases/ in $TCAF_SHARED or in ../shared"
)


@cases
@pytest.mark.slow
def test_cases_of_the_field():
    assert len(sound(CASES / "gap440.mkv")) / RATE == pytest.approx(460, abs=0.1)
    assert len(frames(CASES / "screen.mkv", 1.0)) == 720
    for name in ("mjpeg_exif.mkv", "mjpeg_exif.avi", "mjpeg_exif.mov"):
        shown = frames(CASES / name, 5.0)
        assert len(shown) == 10
        np.testing.assert_allclose(np.mean(shown, axis=(0, 1, 2)), (192, 48, 40), atol=2)
    assert len(sound(CASES / "chained_same.ogg")) / RATE == pytest.approx(4, abs=0.1)
    with pytest.warns(BrokenMediaWarning, match="changes its form at 2.0 s"):
        sound(CASES / "chained.ogg")


@pytest.mark.parametrize("keep_aspect", [False, True])
def test_pixels_that_cannot_be_scaled(tmp_path, keep_aspect):
    # FFmpeg writes this format, of two pixels a byte, but does not read it.
    path = write_clip(
        tmp_path / "x.nut", 0.2, video_codec="rawvideo", pixels="bgr4", sample_rate=None
    )
    with pytest.raises(TrackError, match=r"picture cannot be scaled \(bgr4: ") as caught:
        frames(path, size=FrameSize(11, 13, keep_aspect))
    assert caught.value.reason == "picture cannot be scaled"


def test_channels_that_cannot_be_mixed(tmp_path):
    path = wav(tmp_path / "x.wav", np.ones((4001, 6)), layout="5.1", codec="pcm_s16le")
    data = bytearray(path.read_bytes())
    # WAVE_FORMAT_EXTENSIBLE: channels at 2 in the format chunk, bytes per time at 12.
    place = data.index(b"fmt ") + 8
    data[place + 2 : place + 4] = (22).to_bytes(2, "little")
    data[place + 12 : place + 14] = (44).to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.warns(BrokenMediaWarning), pytest.raises(MediaError, match="channels"):
        sound(path)


def test_a_missing_track_yields_nothing(folder):
    assert list(read_audio(folder[0] / "no_sound.mp4", RATE)) == []
    assert frames(folder[0] / "no_picture.mp4") == []


def test_a_cover_is_no_picture_track(tmp_path):
    path = tmp_path / "x.mp3"
    write_clip(path, 0, audio_seconds=0.5, sample_rate=44_100, audio_codec="libmp3lame")
    data = path.read_bytes()
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 8, 8, "rgb24", 1
    cover = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8))
    png = b"".join(bytes(p) for p in [*context.encode(cover), *context.encode(None)])
    # ID3v2.3: a frame APIC of Latin-1 text, front cover, no description.
    body = b"\0image/png\0\x03\0" + png
    frame = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    size = len(frame)
    sizes = bytes((size >> shift) & 127 for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x03\0\0" + sizes + frame + data)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1, "the cover is there"
    assert not probe(path).has_video
    assert frames(path) == []
    assert len(sound(path)) / RATE == pytest.approx(0.5, abs=0.1)


BAD = {
    "empty.mp4": "an empty file",
    "text.mp4": "not a media file",
    "noise.mp4": "not a media file",
    "folder.mp4": "a folder",
    "nowhere.mp4": "no such file",
    "missing.mp4": "no such file",
    "jpeg.mp4": "a picture, not a clip",
    "png.mp4": "a picture, not a clip",
    "no_moov.mp4": "damaged header",
    "cut_in_the_header.mp4": "damaged header",
}


@pytest.mark.parametrize(("name", "reason"), BAD.items())
def test_files_that_cannot_be_used_say_why(folder, name, reason):
    path = folder[0] / name
    readers = (probe, sound, frames)
    for read in readers:
        with pytest.raises(MediaError) as caught:
            read(path)
        assert caught.value.reason == reason
        assert str(caught.value).startswith(f"{path}: {reason}")
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, TCAFError)


def test_no_address_is_opened(tmp_path):
    playlist = tmp_path / "x.mp4"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError):
        probe(playlist)
    with pytest.raises(MediaError, match="no such file"):
        probe("http://127.0.0.1:9/x.mp4")


def test_a_track_of_which_nothing_decodes(folder):
    path = folder[0] / "spoilt_everything.mp4"
    for read, reason in ((sound, "no sound decodes"), (frames, "no frame decodes")):
        with pytest.warns(BrokenMediaWarning), pytest.raises(MediaError) as caught:
            read(path)
        assert caught.value.reason == reason
    with pytest.raises(MediaError, match="no decoder"):
        sound(folder[0] / "unknown_codec.mp4")
    assert len(frames(folder[0] / "unknown_codec.mp4")) == 50


@pytest.mark.parametrize(
    ("name", "least_s", "most_s"),
    [
        ("cut_at_the_end.mp4", 0.8, 1.2),
        ("cut_at_the_end.webm", 0.8, 1.1),
        ("cut_at_the_end.avi", 0.8, 1.3),
        ("spoilt_middle.mp4", 1.5, 2.1),
    ],
)
def test_what_decodes_of_a_damaged_file_is_kept(folder, name, least_s, most_s):
    path = folder[0] / name
    with pytest.warns(BrokenMediaWarning, match=r"damaged picture from \d") as caught:
        assert least_s <= len(frames(path)) / 25 <= most_s
    assert str(path) in str(caught[0].message)
    assert len(caught) == 1
    with pytest.warns(BrokenMediaWarning, match=r"damaged sound from \d"):
        assert least_s <= len(sound(path)) / RATE <= most_s


@pytest.mark.slow
def test_every_odd_file_gives_what_its_header_tells_in_silence(folder, capfd):
    path, told = folder
    assert len(told) >= 40
    usable = 0
    for name in told:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BrokenMediaWarning)
            try:
                heard, shown = len(sound(path / name)) / RATE, len(frames(path / name)) / 25
            except MediaError:
                continue
        usable += 1
        if "cut" not in name:
            longest = probe(path / name).duration_s
            assert max(heard, shown) == pytest.approx(longest, abs=0.09 + 1 / 25), name
    assert usable >= 33
    # FFmpeg writes to the descriptor itself.
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_files_are_closed_when_reading_stops_early(folder):
    path = folder[0] / "whole.mp4"
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(7):
        next(read_audio(path, RATE))
        next(read_frames(path, 25.0, SMALL))
        held = read_frames(path, 25.0, SMALL)
        next(held)
        held.close()
        probe(path)
        with pytest.raises(MediaError):
            probe(folder[0] / "text.mp4")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_error_comes_whole_through_a_pipe(tmp_path):
    error = MediaError(tmp_path / "a\nb.mp4", "not a media file", "two\nlines")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason, again.path) == (str(error), error.reason, error.path)
    assert "\n" not in str(error)


def test_rates_are_above_zero(folder):
    with pytest.raises(TCAFError, match="sample rate"):
        sound(folder[0] / "whole.mp4", 0)
    with pytest.raises(TCAFError, match="frames per second"):
        frames(folder[0] / "whole.mp4", 0.0)


real = pytest.mark.skipif(
    not CLIPS.is_dir(), reason="needs real clips: clips/ in $TCAF_SHARED or in ../shared"
)


@real
@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(CLIPS.glob("*.mp4")), ids=lambda p: p.stem)
def test_real_clips_have_the_length_that_they_tell(path):
    with av.open(str(path)) as container:
        lengths = {s.type: float(s.duration * s.time_base) for s in container.streams}
    assert len(sound(path)) / RATE == pytest.approx(lengths["audio"], abs=0.1)
    assert len(frames(path)) / 25 == pytest.approx(lengths["video"], abs=1 / 25)


@real
@pytest.mark.slow
def test_frames_come_twenty_times_faster_than_real_time():
    path = CLIPS / "vggsound_-Qowmc0P9ic_000034.mp4"
    began = time.process_time()
    shown = len(frames(path, size=FrameSize(112, 112)))
    # Of two cores; other processes do not count.
    assert (time.process_time() - began) / 2 < shown / 25 / 20


MEASURE = """
import re, sys
from pathlib import Path
from tcaf.extract.backbones import FrameSize
from tcaf.extract.media import read_audio, read_frames
samples = sum(len(b) for b in read_audio(sys.argv[1], 16000))
frames = sum(1 for _ in read_frames(sys.argv[1], 2.0, FrameSize(112, 112)))
# Not ru_maxrss, which a process inherits from the one that started it.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(samples / 16000, frames / 2, peak / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path):
    used = {}
    for seconds in (10, 3600):
        path = write_clip(
            tmp_path / f"{seconds}.mkv",
            seconds,
            fps=1,
            size=(48, 32),
            sample_rate=8000,
            audio_codec="pcm_s16le",
        )
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True
        )
        heard, shown, used[seconds] = map(float, done.stdout.split())
        assert heard == pytest.approx(seconds, abs=0.2)
        assert shown == pytest.approx(seconds, abs=0.6)
    assert used[3600] < 1000
    assert used[3600] - used[10] < 20
