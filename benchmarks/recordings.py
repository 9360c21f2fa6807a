"""Measures `tcaf predict` on long recordings and on many clips.

    python benchmarks/recordings.py RUN --hours 2
    python benchmarks/recordings.py RUN --clips 300 --repeats 2
    python benchmarks/recordings.py RUN --lines 1000

The first writes a recording of small frames and watches the memory that all processes together hold
while it is answered stretch by stretch (PSS: pages that several share count once). The second
compares answering a folder of clips with extracting their features alone, in turn: wall time, and
the time of the processor, which a busy machine disturbs less. The third notes when each line of
`--jsonl` comes. Prints Markdown. RUN is a folder or a ready model, whose backbones are used.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil

from tcaf.answers.mixture import open_classifier

FPS, RATE, WIDTH, HEIGHT = 5, 16_000, 96, 72
SCENE_S = 50
TCAF = (sys.executable, "-m", "tcaf")


def frame_at(time_s: float, scene: int) -> np.ndarray:
    """Draws a disc that moves over grey; every ninth scene is black."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    if scene % 9 == 4:
        return frame
    frame[:] = 40
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    left = WIDTH / 2 + 25 * np.sin(1.5 * time_s)
    top = HEIGHT / 2 + 12 * np.cos((1 + scene % 3) * time_s)
    colour = np.random.default_rng(scene).integers(60, 255, 3)
    frame[(columns - left) ** 2 + (rows - top) ** 2 < 180] = colour
    return frame


def sound_at(second: int, scene: int) -> np.ndarray:
    """Makes a second of a tone that comes and goes; every ninth scene is silent."""
    times = second + np.arange(RATE) / RATE
    pitch, beat = 200 * (1 + scene % 5), 1 + scene % 3
    loudness = 0.0 if scene % 9 == 4 else 0.4
    wave = loudness * np.sin(2 * np.pi * pitch * times) * (np.sin(2 * np.pi * beat * times) > 0)
    return wave[None].astype(np.float32)


def write(path: Path, seconds: int, first_scene: int = 0) -> None:
    """Writes a recording of scenes of `SCENE_S` seconds."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FPS)
        video.width, video.height, video.pix_fmt, video.bit_rate = WIDTH, HEIGHT, "yuv420p", 60_000
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for second in range(seconds):
            scene = first_scene + second // SCENE_S
            for k in range(FPS):
                picture = frame_at(second + k / FPS, scene)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = second * FPS + k, Fraction(1, FPS)
                container.mux(video.encode(frame))
            block = av.AudioFrame.from_ndarray(sound_at(second, scene), "flt", "mono")
            block.sample_rate, block.pts = RATE, second * RATE
            container.mux(audio.encode(block))
        for stream in (video, audio):
            container.mux(stream.encode(None))


def held_bytes(process: psutil.Process) -> int:
    """Returns what a process and those that it has started hold together."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):  # it has ended meanwhile
            total += each.memory_full_info().pss
    return total


def long_recording(run: str, folder: Path, hours: float) -> None:
    """Prints the memory held while a long recording is answered."""
    path = folder / "long.mkv"
    write(path, round(3600 * hours))
    began = time.monotonic()
    command = [*TCAF, "predict", run, str(path), "--every", "10", "--hop", "5", "--jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        root = psutil.Process(process.pid)
        held = [(json.loads(line)["end"], held_bytes(root)) for line in process.stdout]
    wall, size = time.monotonic() - began, path.stat().st_size / 2**20
    print(f"{hours:g} hours ({size:.0f} MiB): {len(held)} spans in {wall:.0f} s")
    print("\n| answered up to | memory of all processes |\n|---|---|")
    for share in range(8):
        end_s, size = held[(len(held) - 1) * share // 7]
        print(f"| {end_s / 60:.0f} min | {size / 2**20:.0f} MiB |")
    print(f"| most | {max(most for _, most in held) / 2**20:.0f} MiB |")


def timed(command: list[str]) -> tuple[float, float]:
    """Runs a command; returns its wall time and the processor's, in seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, spent


def write_clips(folder: Path, count: int, seconds: int) -> Path:
    """Writes clips of different scenes into a folder."""
    clips = folder / "clips"
    clips.mkdir()
    for number in range(count):
        write(clips / f"{number:04}.mp4", seconds, number)
    return clips


def commands(run: str, clips: Path, out: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields the two commands that are compared."""
    spec = open_classifier(run).backbones.spec
    backbones = ["--audio", spec.audio_backbone, "--visual", spec.visual_backbone]
    extract = [*TCAF, "prepare", "videos", str(clips), *backbones, "--out", str(out), "--overwrite"]
    yield "tcaf prepare videos", extract
    yield "tcaf predict --jsonl", [*TCAF, "predict", run, str(clips), "--jsonl"]


def against_extraction(run: str, folder: Path, count: int, seconds: int, repeats: int) -> None:
    """Prints how long answering clips takes beside extracting their features."""
    clips = write_clips(folder, count, seconds)
    asked = list(commands(run, clips, folder / "store"))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in asked}
    for _ in range(repeats):
        for name, command in asked:
            times[name].append(timed(command))
    print(f"{count} clips of {seconds} s\n\n| | wall | processor |\n|---|---|---|")
    for name, found in times.items():
        wall, spent = (min(values) for values in zip(*found, strict=True))
        print(f"| `{name}` | {wall:.1f} s | {spent:.1f} s |")


def streaming(run: str, folder: Path, count: int, seconds: int) -> None:
    """Prints when lines of JSON come."""
    clips = write_clips(folder, count, seconds)
    began, came = time.monotonic(), []
    command = [*TCAF, "predict", run, str(clips), "--jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            json.loads(line)
            came.append(time.monotonic() - began)
    gaps = np.diff(came)
    print(f"{len(came)} lines for {count} clips of {seconds} s\n\n| line | after |\n|---|---|")
    for number in (1, count // 4, count // 2, 3 * count // 4, count):
        print(f"| {number} | {came[number - 1]:.1f} s |")
    print(f"\nlongest wait between two lines {gaps.max():.2f} s, median {np.median(gaps):.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a run, a model file or a ready model")
    parser.add_argument("--hours", type=float, help="length of a recording, to watch memory")
    parser.add_argument("--clips", type=int, help="number of clips, against extraction")
    parser.add_argument("--lines", type=int, help="number of clips, of which lines are timed")
    parser.add_argument("--seconds", type=int, default=2, help="of a clip")
    parser.add_argument("--repeats", type=int, default=2)
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        if asked.hours:
            long_recording(asked.run, Path(name), asked.hours)
        elif asked.clips:
            against_extraction(asked.run, Path(name), asked.clips, asked.seconds, asked.repeats)
        elif asked.lines:
            streaming(asked.run, Path(name), asked.lines, asked.seconds)
        else:
            parser.error("name one of --hours, --clips, --lines")
    print(f"\nLoad average {load:.1f} before, {os.getloadavg()[0]:.1f} after.")


if __name__ == "__main__":
    main()
