"""Real media files, whole, odd and damaged, written with PyAV."""

import struct
from fractions import Fraction

import av
import numpy as np

TONE_HZ = 441.0
TICKS = 60_000
"""Time stamps per second of pictures; MPEG-4 holds no more than 65535."""

ROTATED_90 = (0, 1, -1, 0)
ROTATED_180 = (-1, 0, 0, -1)
ROTATED_270 = (0, -1, 1, 0)
MIRRORED = (-1, 0, 0, 1)
"""The first two by two numbers of display matrices, for a turn clockwise and a mirror image."""


def picture(k, width, height):
    """Frame k: left half red above blue, right half grey, its level 8 k, in RGB."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[:] = 8 * k % 256
    frame[: (height + 1) // 2, : (width + 1) // 2] = (255, 0, 0)
    frame[(height + 1) // 2 :, : (width + 1) // 2] = (0, 0, 255)
    return frame


def tone(num_samples, sample_rate, channels, start=0, loudness=0.5):
    """A sine of `TONE_HZ`, the same in all channels, interleaved as packed formats want it."""
    times = np.arange(start, start + num_samples) / sample_rate
    wave = loudness * np.sin(2 * np.pi * TONE_HZ * times)
    return np.repeat(wave[:, None], channels, axis=1)


def as_samples(wave, name):
    """Turns samples in -1..1 into a frame's array in a sample format."""
    packed = {
        "u8": (np.uint8, 127, 128),
        "s16": (np.int16, 32767, 0),
        "s32": (np.int32, 2**31 - 1, 0),
    }
    kind = name.rstrip("p")
    if kind in packed:
        dtype, scale, middle = packed[kind]
        wave = np.round(wave * scale + middle).astype(dtype)
    else:
        wave = wave.astype({"flt": np.float32, "dbl": np.float64}[kind])
    return np.ascontiguousarray(wave.T) if name.endswith("p") else wave.reshape(1, -1)


def _add_video(container, codec, fps, size, pixels, matrix):
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height = size
    stream.pix_fmt = pixels
    if codec == "libx264":
        stream.options = {"preset": "ultrafast", "crf": "12", "x264-params": "log-level=none"}
    elif codec == "libvpx-vp9":
        stream.options = {"deadline": "realtime", "cpu-used": "8"}
    stream.codec_context.thread_count = 1
    # AVI has no stamps but numbers its frames, as MPEG-1 and MPEG-2 do.
    is_counted = container.format.name == "avi" or codec in ("mpeg1video", "mpeg2video")
    stream.codec_context.time_base = 1 / Fraction(fps) if is_counted else Fraction(1, TICKS)
    if matrix is not None:
        a, b, c, d = (x << 16 for x in matrix)
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
    return stream


def _video_packets(stream, times, draw):
    width, height = stream.codec_context.width, stream.codec_context.height
    for k, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(draw(k, width, height), format="rgb24")
        frame = frame.reformat(format=stream.codec_context.pix_fmt)
        frame.time_base = Fraction(1, TICKS)
        frame.pts = round(time * TICKS)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _audio_packets(stream, num_samples, start_s, make, skip):
    rate, name = stream.codec_context.sample_rate, stream.codec_context.format.name
    layout = stream.codec_context.layout
    block = stream.codec_context.frame_size or 1024
    for start in range(0, num_samples, block):
        count = min(block, num_samples - start)
        if skip and skip[0] <= start / rate < skip[1]:
            continue
        wave = make(count, rate, layout.nb_channels, start)
        frame = av.AudioFrame.from_ndarray(as_samples(wave, name), format=name, layout=layout.name)
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = start + round(start_s * rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def write_clip(
    path,
    seconds=2.0,
    fps=25,
    sample_rate=16_000,
    size=(64, 48),
    *,
    layout="mono",
    video_codec="libx264",
    audio_codec="aac",
    pixels="yuv420p",
    sample_format=None,
    audio_seconds=None,
    num_samples=None,
    video_start_s=0.0,
    audio_start_s=0.0,
    times=None,
    matrix=None,
    draw=picture,
    make=tone,
    skip=None,
    container=None,
    container_options=None,
    pixel_aspect=None,
):
    """Writes a clip of moving bars and a tone; returns its path.

    Args:
        path: its ending says the container.
        seconds: of picture, and of sound unless `audio_seconds` or `num_samples` is given; 0 for
            no picture.
        fps: frames per second.
        sample_rate: samples per second; None for no sound.
        size: width and height.
        layout: of the channels.
        video_codec, audio_codec, pixels, sample_format: encoders and their formats.
        audio_seconds, num_samples: length of the sound.
        video_start_s, audio_start_s: first time stamps.
        times: time stamps of all frames, in place of regular ones.
        matrix: a, b, c, d of the display matrix.
        draw: frame number, width and height to RGB.
        make: number of samples, rate, channels and start to samples in -1..1.
        skip: seconds between which no sound is written though time goes on.
        container: FFmpeg's name of it, where the path's ending does not say it.
        container_options: of the muxer.
        pixel_aspect: width of a pixel over its height.
    """
    if times is None:
        times = [video_start_s + k / fps for k in range(round(seconds * fps))]
    if num_samples is None:
        length = seconds if audio_seconds is None else audio_seconds
        num_samples = round(length * (sample_rate or 0))
    with av.open(str(path), "w", format=container, options=container_options or {}) as opened:
        video = audio = None
        if times:
            video = _add_video(opened, video_codec, fps, size, pixels, matrix)
            if pixel_aspect is not None:
                video.codec_context.sample_aspect_ratio = pixel_aspect
        if num_samples:
            audio = opened.add_stream(audio_codec, rate=sample_rate, layout=layout)
            if audio_codec == "vorbis":
                audio.codec_context.options = {"strict": "experimental"}
            if audio_codec == "wmav2":
                audio.codec_context.bit_rate = 96_000
            if sample_format:
                audio.codec_context.format = sample_format
            audio.codec_context.open()
        packets = []
        if video is not None:
            packets += _video_packets(video, times, draw)
        if audio is not None:
            packets += _audio_packets(audio, num_samples, audio_start_s, make, skip)
        # Muxers interleave by themselves only within limits.
        packets.sort(key=lambda p: p.dts * p.time_base)
        for packet in packets:
            opened.mux(packet)
    return path


def boxes(data, start=0, end=None):
    """Yields the kind, start and end of each box of an MP4 file."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size = struct.unpack(">I", data[start : start + 4])[0]
        if size < 8:
            return
        yield data[start + 4 : start + 8], start, min(start + size, end)
        start += size


def box(data, *path):
    """Returns start and end of the first box along a path such as b"moov", b"trak"."""
    start, end = 0, len(data)
    for depth, kind in enumerate(path):
        inside = boxes(data, start + 8 if depth else 0, end)
        start, end = next((s, e) for k, s, e in inside if k == kind)
    return start, end


def spoil(data, start, end, seed=0):
    """Replaces bytes by noise."""
    noise = np.random.default_rng(seed).integers(0, 256, end - start, np.uint8).tobytes()
    return data[:start] + noise + data[end:]


def _write_cut(folder, whole, fast):
    data, front = whole.read_bytes(), fast.read_bytes()
    # In `whole` the index is at the end, in `front` it comes before the packets.
    (folder / "cut_at_the_end.mp4").write_bytes(front[: len(front) * 6 // 10])
    (folder / "cut_in_the_header.mp4").write_bytes(front[:200])
    (folder / "no_moov.mp4").write_bytes(data[: box(data, b"moov")[0]])
    start, end = box(data, b"mdat")
    part = (end - start) // 10
    (folder / "spoilt_middle.mp4").write_bytes(spoil(data, start + 4 * part, start + 6 * part))
    (folder / "spoilt_everything.mp4").write_bytes(spoil(data, start + 8, end))
    start, end = box(data, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
    (folder / "spoilt_index.mp4").write_bytes(spoil(data, start + 20, end))
    (folder / "unknown_codec.mp4").write_bytes(
        data.replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz")
    )
    return {
        "cut_at_the_end.mp4": "the last 40 % are missing",
        "cut_in_the_header.mp4": "all but 200 bytes are missing",
        "no_moov.mp4": "the index is missing, as after a crash of the recorder",
        "spoilt_middle.mp4": "a fifth of the packets is noise",
        "spoilt_everything.mp4": "all packets are noise",
        "spoilt_index.mp4": "sizes of the picture's packets are noise",
        "unknown_codec.mp4": "no decoder for the sound",
    }


def _write_other(folder):
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is no video.\n" * 50, encoding="utf-8")
    (folder / "noise.mp4").write_bytes(spoil(b"", 0, 0) + spoil(bytes(5003), 0, 5003, seed=3))
    (folder / "folder.mp4").mkdir()
    (folder / "nowhere.mp4").symlink_to(folder / "nothing.mp4")
    for name, codec, pixels in (("jpeg", "mjpeg", "yuvj420p"), ("png", "png", "rgb24")):
        context = av.CodecContext.create(codec, "w")
        context.width, context.height, context.pix_fmt = 64, 48, pixels
        context.time_base = Fraction(1, 25)
        frame = av.VideoFrame.from_ndarray(picture(3, 64, 48), format="rgb24").reformat(
            format=pixels
        )
        data = b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])
        (folder / f"{name}.mp4").write_bytes(data)
    return {
        "empty.mp4": "zero bytes",
        "text.mp4": "text",
        "noise.mp4": "random bytes",
        "folder.mp4": "a folder",
        "nowhere.mp4": "a link to nothing",
        "jpeg.mp4": "a JPEG picture",
        "png.mp4": "a PNG picture",
    }


UNEVEN_TIMES = [0.0, 0.05, 0.4, 0.44, 0.48, 0.9, 1.3, 1.31, 1.9]
"""Time stamps of the file of variable frame rate, in seconds; the last frame has no set length."""

ODD = {
    "whole.mp4": ({}, "nothing is wrong with it"),
    "no_sound.mp4": ({"sample_rate": None}, "no sound track"),
    "no_picture.mp4": ({"seconds": 0, "audio_seconds": 2}, "no picture track"),
    "one_frame.mp4": ({"seconds": 0.04, "audio_seconds": 2}, "one frame"),
    "one_sample.wav": (
        {"seconds": 0, "num_samples": 1, "audio_codec": "pcm_s16le"},
        "one sample of sound alone",
    ),
    "eight_bit.wav": ({"seconds": 0, "audio_seconds": 2, "audio_codec": "pcm_u8"}, "8-bit sound"),
    "five_one.mp4": ({"layout": "5.1", "sample_rate": 48_000}, "5.1 sound"),
    "stereo.mkv": ({"layout": "stereo", "audio_codec": "flac", "sample_format": "s16"}, "stereo"),
    "mono_8k.mp4": ({"sample_rate": 8_000}, "8000 samples per second"),
    "mono_96k.mp4": ({"sample_rate": 96_000}, "96000 samples per second"),
    "turned_90.mp4": ({"matrix": ROTATED_90}, "to be turned 90 degrees clockwise"),
    "turned_180.mp4": ({"matrix": ROTATED_180}, "to be turned 180 degrees"),
    "turned_270.mp4": ({"matrix": ROTATED_270}, "to be turned 270 degrees clockwise"),
    "mirrored.mp4": ({"matrix": MIRRORED}, "to be mirrored"),
    "uneven.mkv": ({"times": UNEVEN_TIMES}, "variable frame rate"),
    "odd_size.mkv": (
        {"size": (67, 43), "video_codec": "ffv1", "pixels": "yuv444p"},
        "odd width and height",
    ),
    "very_wide.mkv": (
        {"size": (2003, 3), "video_codec": "ffv1", "pixels": "yuv444p", "seconds": 0.4},
        "2003 pixels wide, 3 high",
    ),
    "very_tall.avi": (
        {
            "size": (1, 997),
            "video_codec": "png",
            "pixels": "rgb24",
            "seconds": 0.4,
            "audio_codec": "pcm_s16le",
        },
        "1 pixel wide, 997 high",
    ),
    "longer_sound.mp4": ({"seconds": 1, "audio_seconds": 3}, "sound goes on after the picture"),
    "longer_picture.mp4": ({"seconds": 3, "audio_seconds": 1}, "the picture goes on"),
    "late_picture.mkv": ({"video_start_s": 0.6}, "the picture starts 0.6 s late"),
    "late_sound.mkv": ({"audio_start_s": 0.7, "audio_codec": "pcm_s16le"}, "sound starts late"),
    "gap.mkv": (
        {"skip": (0.512, 1.024), "audio_codec": "pcm_s16le"},
        "no sound for half a second",
    ),
    "ten_bit.mkv": ({"video_codec": "ffv1", "pixels": "yuv422p10le"}, "10-bit pixels"),
    "see_through.mkv": ({"video_codec": "ffv1", "pixels": "bgra"}, "pixels with alpha"),
    "grey.mkv": ({"video_codec": "ffv1", "pixels": "gray"}, "grey pixels"),
    "whole.avi": ({"video_codec": "mpeg4", "audio_codec": "pcm_s16le"}, "an AVI file"),
    "whole.webm": (
        {"video_codec": "libvpx", "audio_codec": "libopus", "sample_rate": 48_000},
        "a WebM file",
    ),
    "whole.ts": ({"sample_rate": 48_000, "layout": "stereo"}, "an MPEG transport stream"),
    "a b%20c%d:[é]?'“日本”\n.mp4": ({}, "a name with odd characters"),
}
"""Odd files by name: arguments of `write_clip`, and what is odd."""


def damaged_folder(folder):
    """Writes odd and damaged files into a folder; returns what each of them is, by name."""
    told = {}
    for name, (arguments, what) in ODD.items():
        write_clip(folder / name, **arguments)
        told[name] = what
    fast = write_clip(folder / "fast.mp4", container_options={"movflags": "faststart"})
    told |= _write_cut(folder, folder / "whole.mp4", fast)
    data = (folder / "whole.webm").read_bytes()
    (folder / "cut_at_the_end.webm").write_bytes(data[: len(data) // 2])
    data = (folder / "whole.avi").read_bytes()
    (folder / "cut_at_the_end.avi").write_bytes(data[: (data.index(b"movi") + len(data)) // 2])
    half = "the second half is missing"
    told |= {"fast.mp4": "the index comes first"}
    told |= {"cut_at_the_end.webm": half, "cut_at_the_end.avi": half}
    return told | _write_other(folder)


def write_exif(path, orientation=1, num_frames=10, colour=(192, 48, 40)):
    """Writes MJPEG of 5 frames per second, one colour all over but for a black left edge,
    white on top, with EXIF in each, which PyAV has no name for; `orientation` as EXIF counts.
    Returns the path."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        image = np.full((64, 96, 3), colour, np.uint8)
        image[:, :8] = 0
        image[:16, :8] = 255
        for k in range(num_frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = k, Fraction(1, 5)
            for packet in stream.encode(frame):
                data = bytes(packet)
                assert data[:2] == b"\xff\xd8"
                again = av.Packet(data[:2] + segment + data[2:])
                again.pts = again.dts = packet.pts
                again.time_base, again.stream, again.is_keyframe = packet.time_base, stream, True
                container.mux(again)
    return path
