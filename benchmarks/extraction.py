"""Measures how fast features are extracted from video, and how much memory that takes.

    python benchmarks/extraction.py
    python benchmarks/extraction.py --clips FOLDER --repeats 5

Writes a clip of 640 x 360 pixels at 25 frames per second, a moving texture with grain and a noise,
and measures in turn, several times over, how many seconds of video a second is enough for: decoding
alone, each network alone, and the whole `tcaf prepare videos`. The shortest of the times counts.
Prints Markdown. A busy machine shows in the wall time; the time of the processor is less sensitive.
"""

import argparse
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import torch

from tcaf.extract.backbones import FrameSize, open_backbone
from tcaf.extract.media import read_audio, read_frames

FPS = 25
SAMPLE_RATE = 16_000
SIZE = FrameSize(224, 224, keep_aspect=True)

BACKBONES = {
    "audio": ("logmel", "vggish:weights=random"),
    "visual": (
        "efficientnet_lite0:frames=4",
        "efficientnet_lite0:frames=16",
        "c3d:weights=random",
    ),
}

WHOLE = ("efficientnet_lite0:frames=4", "efficientnet_lite0:frames=16")
"""Visual backbones of the whole command; the audio one is logmel."""

MEASURE = """
import re, sys
from pathlib import Path
from tcaf.extract.extractor import Extractor
clip = Extractor.open("logmel", "efficientnet_lite0:frames=1").extract(sys.argv[1])
# Not ru_maxrss, which a process inherits from the one that started it.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(len(clip.audio), len(clip.visual), peak / 1024)
"""


def texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draws clouds: noise of all scales, the coarse ones the strongest, in RGB."""
    spectrum = np.fft.rfft2(rng.normal(size=(3, height, width)))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    scaled = np.fft.irfft2(spectrum / (np.hypot(rows, columns) + 1 / width) ** 1.3, (height, width))
    scaled = scaled / scaled.std() * 45 + 128
    return scaled.transpose(1, 2, 0).clip(0, 255).astype(np.uint8)


def pictures(seconds: float, width: int, height: int) -> Iterator[np.ndarray]:
    """Yields frames: one texture that moves to and fro before another one, and grain over both."""
    rng = np.random.default_rng(0)
    far, near = texture(height + 200, width + 200, rng), texture(height + 200, width + 200, rng)
    grain = rng.normal(scale=3, size=(height + 64, width + 64, 1))
    for k in range(round(seconds * FPS)):
        frame = np.empty((height, width, 3), np.uint8)
        x, y = (round(100 + 99 * turn(k / 60)) for turn in (np.sin, np.cos))
        frame[:] = far[y : y + height, x : x + width]
        x, y = (round(100 + 99 * turn(k / 23)) for turn in (np.cos, np.sin))
        inside = np.s_[height // 4 : height // 4 * 3, width // 4 : width // 4 * 3]
        frame[inside] = near[y : y + height, x : x + width][inside]
        x, y = rng.integers(0, 64, 2)
        yield (frame + grain[y : y + height, x : x + width]).clip(0, 255).astype(np.uint8)


def write_clip(path: Path, seconds: float, width: int = 640, height: int = 360) -> None:
    """Writes the clip, H.264 and AAC."""
    rng = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"crf": "23", "preset": "veryfast", "x264-params": "log-level=none"}
        audio = container.add_stream("aac", rate=44_100, layout="stereo")
        packets = []
        for picture in pictures(seconds, width, height):
            packets += video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        packets += video.encode(None)
        for start in range(0, round(seconds * 44_100), 1024):
            wave = rng.normal(scale=0.1, size=(2, 1024)).clip(-1, 1).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 44_100, start
            packets += audio.encode(frame)
        packets += audio.encode(None)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            container.mux(packet)


def write_long(path: Path, seconds: int) -> None:
    """Writes a file of tiny frames, one a second, and uncompressed sound, bit by bit."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=1)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for k in range(seconds):
            shade = np.full((32, 48, 3), k % 200, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
            frame = av.AudioFrame.from_ndarray(
                np.full((1, 8000), k % 97, np.int16), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = 8000, 8000 * k
            container.mux(audio.encode(frame))
        container.mux(video.encode(None))


def decode(path: Path, threads: int) -> float:
    """Decodes both tracks as an extraction does; returns their seconds."""
    for _ in read_audio(path, SAMPLE_RATE):
        pass
    return sum(1 for _ in read_frames(path, FPS, SIZE, threads=threads)) / FPS


def embedding(name: str, modality: str, path: Path) -> Callable[[int], float]:
    """Returns what embeds windows of a clip and returns the seconds that they stand for."""
    backbone = open_backbone(name, modality)
    count = 4 if name.startswith("c3d") else 16
    if modality == "audio":
        samples = np.concatenate(list(read_audio(path, backbone.sample_rate)))
        views = np.lib.stride_tricks.sliding_window_view(samples, backbone.window_samples)
        windows = np.ascontiguousarray(views[:: backbone.hop_samples][:count])
    else:
        num = count * backbone.window_frames
        frames = read_frames(path, backbone.fps, backbone.frame_size)
        stacked = np.stack([frame for frame, _ in zip(frames, range(num), strict=False)])
        stacked = stacked[: len(stacked) // backbone.window_frames * backbone.window_frames]
        windows = stacked.reshape(-1, backbone.window_frames, *stacked.shape[1:])

    def embed(threads: int) -> float:
        torch.set_num_threads(threads)
        backbone.embed(windows)
        return len(windows) * backbone.step_s

    return embed


def prepare(folder: Path, out: Path, visual: str, seconds: float) -> float:
    """Runs the whole command; returns the seconds of video in the folder."""
    command = [
        *(
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tcaf",
            "prepare",
            "videos",
            str(folder),
        ),
        *("--audio", "logmel", "--visual", visual, "--workers", "2"),
        *("--out", str(out), "--overwrite"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return seconds


def processor_s() -> float:
    """Returns the seconds of processor that this process and its ended children have had."""
    whom = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(who)[:2]) for who in whom)


Step = tuple[str, Callable[[], float]]


def measure(steps: list[Step], repeats: int) -> dict[str, tuple[float, float]]:
    """Returns seconds of video per second and per second of processor, the best of each step."""
    best: dict[str, tuple[float, float]] = {}
    for repeat in range(repeats):
        for name, run in steps:
            print(f"{repeat + 1}: {name}", file=sys.stderr)
            wall, processor = time.perf_counter(), processor_s()
            seconds = run()
            found = (
                seconds / (time.perf_counter() - wall),
                seconds / (processor_s() - processor),
            )
            before = best.get(name, (0.0, 0.0))
            best[name] = (max(found[0], before[0]), max(found[1], before[1]))
    return best


def peaks(folder: Path, lengths: tuple[int, ...]) -> Iterator[tuple[int, str, str, float]]:
    """Yields length, tokens of sound and picture, and peak memory in MiB of an extraction."""
    for seconds in lengths:
        path = folder / f"{seconds}.mkv"
        write_long(path, seconds)
        command = [sys.executable, "-c", MEASURE, str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        audio_len, visual_len, peak = done.stdout.split()
        yield seconds, audio_len, visual_len, float(peak)


def machine() -> str:
    """Describes what it ran on."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    model = found[1] if found else platform.processor()
    return f"{os.cpu_count()} cores of {model}; torch {torch.__version__}, PyAV {av.__version__}"


def steps_of(folder: Path, clip: Path, seconds: int, others: list[Path]) -> Iterator[Step]:
    """Yields what is measured.

    Args:
        folder: for what is written on the way.
        clip: that has been written.
        seconds: its length.
        others: clips that are decoded too.
    """
    for path in [clip, *others]:
        for threads in (1, 2):
            name = f"decode {path.stem}, {threads} decoder threads"
            yield name, lambda p=path, t=threads: decode(p, t)
    for modality, names in BACKBONES.items():
        for name in names:
            embed = embedding(name, modality, clip)
            for threads in (1, 2):
                yield f"{name}, {threads} threads", lambda e=embed, t=threads: e(t)
    many = folder / "many"
    many.mkdir()
    for k in range(4):
        shutil.copy(clip, many / f"{k}.mp4")
    for visual in WHOLE:
        name = f"prepare videos: logmel, {visual}, 2 workers"
        yield name, lambda v=visual: prepare(many, folder / "store", v, 4.0 * seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, help="folder of clips that are decoded too")
    parser.add_argument("--seconds", type=int, default=30, help="of the clip that is written")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hour", type=int, default=3600, help="seconds of the long file")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "360p.mp4"
        write_clip(clip, asked.seconds)
        others = sorted(asked.clips.glob("*.mp4")) if asked.clips else []
        best = measure(list(steps_of(folder, clip, asked.seconds, others)), asked.repeats)
        rate = clip.stat().st_size * 8 / asked.seconds / 1e6
        print(f"{machine()}. The clip has {rate:.2f} Mbit/s.\n")
        print("| | x real time | a second of processor |\n|---|---|---|")
        for step, (wall, processor) in best.items():
            print(f"| {step} | {wall:.3g} | {processor:.3g} |")
        print("\n| length | tokens | peak memory |\n|---|---|---|")
        for seconds, audio_len, visual_len, peak in peaks(folder, (10, asked.hour)):
            print(f"| {seconds} s | {audio_len} and {visual_len} | {peak:.0f} MiB |")
    print(f"\nLoad average {load:.1f} before, {os.getloadavg()[0]:.1f} after.")


if __name__ == "__main__":
    main()
