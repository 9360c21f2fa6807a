"""A real file of each suffix that a media file may have, where an encoder is here, as shown."""

import numpy as np
import pytest

from damaged import write_clip
from tcaf.extract.backbones import FrameSize
from tcaf.extract.media import probe, read_audio, read_frames
from tcaf.sources.media_files import SUFFIXES

av = pytest.importorskip("av")


def sound(codec, rate=48_000, layout="stereo", **more):
    return {"seconds": 0, "audio_seconds": 2, "audio_codec": codec, "sample_rate": rate} | {
        "layout": layout,
        **more,
    }


def both(picture, codec, rate=48_000, **more):
    return sound(codec, rate) | {"seconds": 2, "video_codec": picture, **more}


FLAC = sound("flac", sample_format="s16")
WMV = both("wmv2", "wmav2", 44_100)
MPEG_2 = both("mpeg2video", "mp2")
H263 = both("h263", "aac", size=(176, 144))

WRITTEN = {
    "3g2": ("", H263),
    "3gp": ("", H263),
    "asf": ("", WMV),
    "avi": ("", both("mpeg4", "pcm_s16le")),
    "divx": ("avi", both("mpeg4", "libmp3lame")),
    "dv": ("", both("dvvideo", "pcm_s16le", size=(720, 576))),
    "f4v": ("", both("libx264", "aac")),
    "flv": ("", both("flv", "libmp3lame", 44_100)),
    "m2ts": ("", both("libx264", "ac3")),
    "m2v": ("mpeg2video", both("mpeg2video", "", None)),
    "m4v": ("m4v", both("mpeg4", "", None)),
    "mkv": ("", both("libx264", "aac")),
    "mov": ("", both("mpeg4", "pcm_s16le")),
    "mp4": ("", both("libx264", "aac")),
    "mpe": ("mpeg", both("mpeg1video", "mp2")),
    "mpeg": ("", MPEG_2),
    "mpg": ("", MPEG_2),
    "mts": ("mpegts", both("libx264", "ac3", container_options={"mpegts_m2ts_mode": "1"})),
    "mxf": ("", both("mpeg2video", "pcm_s16le", pixels="yuv422p")),
    "ogm": ("ogg", both("libvpx", "vorbis")),
    "ogv": ("", both("libvpx", "vorbis")),
    "rm": ("", both("rv10", "ac3", 44_100, size=(176, 144))),
    "rmvb": ("rm", both("rv20", "ac3", 44_100, size=(176, 144))),
    "ts": ("", both("libx264", "aac")),
    "vob": ("", both("mpeg2video", "ac3")),
    "webm": ("", both("libvpx", "libopus")),
    "wmv": ("asf", WMV),
    "aac": ("adts", sound("aac")),
    "ac3": ("", sound("ac3")),
    "aif": ("aiff", sound("pcm_s16be")),
    "aiff": ("", sound("pcm_s16be")),
    "amr": ("", sound("libopencore_amrnb", 8_000, "mono")),
    "caf": ("", sound("pcm_s16le")),
    "flac": ("", FLAC),
    "m4a": ("ipod", sound("aac")),
    "mka": ("matroska", sound("libopus")),
    "mp3": ("", sound("libmp3lame")),
    "oga": ("", FLAC),
    "ogg": ("", sound("vorbis")),
    "opus": ("", sound("libopus")),
    "wav": ("", sound("pcm_s16le")),
    "wma": ("asf", sound("wmav2", 44_100)),
    "wv": ("", sound("wavpack")),
}
"""By suffix FFmpeg's name of the container, where the suffix alone does not say it, and what is in
it."""


def test_every_suffix_is_tried():
    assert {f".{suffix}" for suffix in WRITTEN} == SUFFIXES


@pytest.mark.parametrize("suffix", WRITTEN)
def test_it_is_read_to_the_end(tmp_path, suffix):
    container, content = WRITTEN[suffix]
    codecs = {content.get("video_codec"), content["audio_codec"]} - {None, ""}
    if missing := codecs - av.codecs_available:
        pytest.skip(f"this FFmpeg has no {missing}")
    path = write_clip(tmp_path / f"x.{suffix}", container=container or None, **content)
    has_sound, has_picture = content["sample_rate"] is not None, content["seconds"] > 0
    info = probe(path)
    assert (info.has_audio, info.has_video) == (has_sound, has_picture)
    samples = np.concatenate([np.empty(0, np.float32), *read_audio(path, 16_000)])
    assert len(samples) / 16_000 == pytest.approx(2 * has_sound, abs=0.1)
    if has_sound:
        assert samples[8_000:24_000].std() == pytest.approx(0.5 / np.sqrt(2), rel=0.2)
    if has_picture:
        shown = list(read_frames(path, 5.0, FrameSize(10, 10)))
        # FFmpeg writes no time into the pictures of RealMedia, so that they are one.
        assert len(shown) in ((1,) if container == "rm" or suffix == "rm" else (10, 11))
        np.testing.assert_allclose(shown[-1][1, 1], (255, 0, 0), atol=25)
        np.testing.assert_allclose(shown[-1][-2, 1], (0, 0, 255), atol=25)
