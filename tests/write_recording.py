"""Recordings of several scenes, each with a sound and a picture of its own or without."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np

RATE = 16_000
FPS = 10


class Scene(NamedTuple):
    """A part of a recording; without a pitch it is silent, without a colour black."""

    seconds: float
    pitch: float | None = 440.0
    colour: tuple[int, int, int] | None = (200, 40, 90)


def picture(colour):
    """A frame of 64 x 48: the colour beside its half; black without one."""
    frame = np.zeros((48, 64, 3), np.uint8)
    if colour is not None:
        frame[:] = colour
        frame[:, 32:] //= 2
    return frame


def write_recording(path, scenes, *, sound=True, sight=True):
    """Writes scenes one after the other, as MPEG-4 with AAC or PCM, or as sound or picture alone.

    Args:
        path: ends in .mkv or, for sound alone, .wav.
        scenes: in their order.
        sound: whether there is a sound track.
        sight: whether there is a picture track.
    """
    import av

    with av.open(str(path), "w") as container:
        video = audio = None
        if sight:
            video = container.add_stream("mpeg4", rate=FPS)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            video.codec_context.thread_count = 1
        if sound:
            audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        num_frames = num_samples = 0
        for scene in scenes:
            for _ in range(round(scene.seconds * FPS) if sight else 0):
                frame = av.VideoFrame.from_ndarray(picture(scene.colour), "rgb24")
                frame.pts, frame.time_base = num_frames, Fraction(1, FPS)
                container.mux(video.encode(frame))
                num_frames += 1
            for _ in range(round(scene.seconds * FPS) if sound else 0):
                time = (num_samples + np.arange(RATE // FPS)) / RATE
                wave = 0.5 * np.sin(2 * np.pi * (scene.pitch or 0.0) * time)
                block = np.round(32767 * wave).astype(np.int16)[None]
                frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
                frame.sample_rate, frame.pts = RATE, num_samples
                container.mux(audio.encode(frame))
                num_samples += RATE // FPS
        for stream in (video, audio):
            if stream is not None:
                container.mux(stream.encode(None))
    return path
