"""Measures how fast features are extracted from video, and how much memory that takes.

    python -m benchmarks.extraction --out extraction.json
    python -m benchmarks.extraction --clips FOLDER --repeats 5

Writes a clip of 640 x 360 pixels at 25 frames per second, a moving texture with grain and a noise,
and measures in turn, several times over, how many seconds of video a second is enough for: decoding
alone, each network alone, and the whole `tcaf prepare videos`. The shortest of the times counts.
Prints Markdown. A busy machine shows in the wall time; the time of the processor is less sensitive.

Of each network, on one thread and in the processor's time, medians of what takes turns: `embed`;
the plain network, as its authors' code computes it; the floor, the network's convolutions alone, of
random maps of the same sizes in the same layout (of EfficientNet-Lite0 the convolutions of kernel 1
are products there too). How far `embed` is from the plain network is said as a share of the largest
number. And how full both cores are over a folder: how long the command's threads ran or waited for
a core, by the time that there was.

Tried and left: EfficientNet-Lite0 with torch's private fused operators of oneDNN (`convolution,
clamp` in one, weights packed beforehand; a tenth faster, other rounding) and with 8 or 16 frames at
a time (a quarter slower: maps leave the caches); C3D with 4 windows at a time (no gain); linear
layers as convolutions (5 times slower) or with transposed weights (no gain); a thread that decodes
ahead while the network computes (6 % on one file, which other work hides; nothing over a folder,
where another process's network fills the gap); VGGish's spectra by torch or by a product (slower).
onnxruntime takes 0.64 of the time of EfficientNet-Lite0's `embed`, with a difference of 8e-7, and
is left all the same: the graph is 18 MB, more than the package may have, and would have to be
exported wherever tcaf is installed, by two packages more.
"""

import argparse
import json
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
from statistics import median
from typing import Any

import av
import numpy as np
import torch

from tcaf.extract import c3d, efficientnet, vggish
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


def command(folder: Path, out: Path, visual: str) -> list[str]:
    """Returns the whole command on a folder."""
    return [
        *(sys.executable, "-W", "ignore", "-m", "tcaf", "prepare", "videos", str(folder)),
        *("--audio", "logmel", "--visual", visual, "--workers", "2"),
        *("--out", str(out), "--overwrite"),
    ]


def prepare(folder: Path, out: Path, visual: str, seconds: float) -> float:
    """Runs the whole command; returns the seconds of video in the folder."""
    subprocess.run(command(folder, out, visual), check=True, capture_output=True)
    return seconds


def wanted_s(process: int) -> dict[tuple[int, str], float]:
    """Returns how long each thread of a process and its children ran or waited for a core."""
    found: dict[tuple[int, str], float] = {}
    try:
        for folder in Path(f"/proc/{process}/task").iterdir():
            ran, waited = (folder / "schedstat").read_text().split()[:2]
            found[process, folder.name] = (int(ran) + int(waited)) / 1e9
            for child in (folder / "children").read_text().split():
                found |= wanted_s(int(child))
    except OSError:
        pass  # it has ended
    return found


def fullness(folder: Path, out: Path, visual: str, look_s: float = 0.2) -> list[float]:
    """Returns, look by look, which share of two cores a run of the command could use.

    That is 1 while two of its threads run or wait for a core that other work holds.
    """
    running = subprocess.Popen(
        command(folder, out, visual), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    before, since, shares = wanted_s(running.pid), time.perf_counter(), []
    while running.poll() is None:
        time.sleep(look_s)
        found, now = wanted_s(running.pid), time.perf_counter()
        used = sum(total - before.get(thread, 0.0) for thread, total in found.items())
        shares.append(min(1.0, used / (now - since) / 2))
        before, since = found, now
    assert running.returncode == 0
    return shares


Networks = tuple[Callable[[], Any], Callable[[], Any], Callable[[], Any]]
"""Of a backbone: `embed`, the plain network, its convolutions alone."""


def convolutions(
    network: torch.nn.Module, inputs: Any, memory_format: torch.memory_format
) -> Callable[[], Any]:
    """Returns what runs a network's convolutions alone, on random maps of their inputs' sizes."""
    shapes: list[tuple[torch.nn.Module, torch.Tensor]] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        x = torch.rand(given[0].shape, dtype=given[0].dtype)
        # Of EfficientNet-Lite0 channels come last as they are.
        x = x if is_last(module) else x.contiguous(memory_format=memory_format)
        shapes.append((module, x))

    def is_last(module: torch.nn.Module) -> bool:
        return isinstance(module, (efficientnet.Pointwise, efficientnet.Spatial))

    kinds = (torch.nn.Conv2d, torch.nn.Conv3d, efficientnet.Pointwise, efficientnet.Spatial)
    hooks = [m.register_forward_pre_hook(note) for m in network.modules() if isinstance(m, kinds)]
    network(inputs)
    for hook in hooks:
        hook.remove()

    def run() -> None:
        for module, x in shapes:
            module(x)  # kept, its memory would be new each time

    return run


def networks() -> Iterator[tuple[str, float, float, Networks]]:
    """Yields name, seconds of video, share of convolutions done at once, and what is measured."""
    rng = np.random.default_rng(0)
    c3d_one = open_backbone("c3d:weights=random", "visual")
    plain = c3d.C3D().eval()
    plain.load_state_dict({k: v.contiguous() for k, v in c3d_one.network.state_dict().items()})
    windows = rng.integers(0, 256, (4, 16, 8, 9, 3), dtype=np.uint8).repeat(16, 2).repeat(19, 3)
    few = c3d.prepare(windows[:2], c3d_one.colours)
    yield (
        "c3d",
        4 * c3d_one.step_s,
        2.0,
        (
            lambda: c3d_one.embed(windows),
            lambda: torch.cat(
                [plain(c3d.prepare(w, c3d_one.colours).contiguous()) for w in np.split(windows, 2)]
            ).numpy(),
            convolutions(c3d_one.network, few, torch.channels_last_3d),
        ),
    )
    halved = open_backbone("c3d:weights=random,precision=bfloat16", "visual")
    yield (
        "c3d:precision=bfloat16",
        4 * halved.step_s,
        2.0,
        (
            lambda: halved.embed(windows),
            lambda: c3d_one.embed(windows),
            convolutions(halved.network, few.bfloat16(), torch.channels_last_3d),
        ),
    )
    sound = open_backbone("vggish:weights=random", "audio")
    ears = vggish.VGGish().eval()
    ears.load_state_dict({k: v.contiguous() for k, v in sound.network.state_dict().items()})
    samples = rng.uniform(-0.7, 0.7, (16, sound.window_samples)).astype(np.float32)
    examples = torch.from_numpy(vggish.log_mel_of_windows(samples[:8]))

    def heard() -> Any:
        found = ears(torch.from_numpy(vggish.log_mel_of_windows(samples))).numpy()
        return vggish.quantise(found, *sound.pca).astype(np.float32)

    yield (
        "vggish",
        16 * sound.step_s,
        2.0,
        (
            lambda: sound.embed(samples),
            heard,
            convolutions(sound.network.features, examples[:, None], torch.channels_last),
        ),
    )
    eyes = open_backbone("efficientnet_lite0", "visual")
    whole = efficientnet.packaged_network()
    frames = rng.integers(0, 256, (1, 16, 7, 7, 3), dtype=np.uint8).repeat(32, 2).repeat(32, 3)

    def looked() -> Any:
        maps = [
            whole.extract_features(efficientnet.prepare(f).permute(0, 3, 1, 2).contiguous())
            for f in np.split(frames[0], 4)
        ]
        return torch.cat(maps).mean(dim=(0, 2, 3)).numpy()[None]

    yield (
        "efficientnet_lite0",
        eyes.step_s,
        4.0,
        (
            lambda: eyes.embed(frames),
            looked,
            convolutions(eyes.network, efficientnet.prepare(frames[0, :4]), torch.channels_last),
        ),
    )


@torch.inference_mode()
def floors(repeats: int) -> dict[str, dict[str, float]]:
    """Returns seconds of the processor for a second of video, and ratios, by backbone."""
    torch.set_num_threads(1)
    found = {}
    for name, seconds, parts, (embed, plain, alone) in networks():
        taken: dict[str, list[float]] = {"embed": [], "plain": [], "convolutions": []}
        tokens, expected = embed(), plain()
        for repeat in range(repeats):
            print(f"{repeat + 1}: {name}", file=sys.stderr)
            for kind, work in zip(taken, (embed, plain, alone), strict=True):
                start = time.process_time()
                for _ in range(int(parts) if kind == "convolutions" else 1):
                    work()
                taken[kind].append((time.process_time() - start) / seconds)
        own = {f"{kind}_s": median(each) for kind, each in taken.items()}
        found[name] = own | {
            "of_convolutions_speed": own["convolutions_s"] / own["embed_s"],
            "plain_to_embed": own["plain_s"] / own["embed_s"],
            "off_by_of_largest": float(np.abs(tokens - expected).max() / np.abs(expected).max()),
            "target_of_convolutions_speed": 0.7,
        }
    return found


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
    parser.add_argument("--seconds", type=int, default=12, help="of the clip that is written")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--hour", type=int, default=60, help="seconds of the long file")
    parser.add_argument("--out", type=Path, help="JSON to write")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    found: dict[str, Any] = {"networks": floors(asked.repeats + 1)}
    print("| one thread, s of processor a s of video | embed | plain | convolutions | of theirs |")
    print("|---|---|---|---|---|")
    for name, own in found["networks"].items():
        speeds = " | ".join(
            f"{own[f'{kind}_s']:.3f}" for kind in ("embed", "plain", "convolutions")
        )
        print(f"| {name} | {speeds} | {100 * own['of_convolutions_speed']:.0f} % |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "360p.mp4"
        write_clip(clip, asked.seconds)
        others = sorted(asked.clips.glob("*.mp4")) if asked.clips else []
        best = measure(list(steps_of(folder, clip, asked.seconds, others)), asked.repeats)
        rate = clip.stat().st_size * 8 / asked.seconds / 1e6
        print(f"\n{machine()}. The clip has {rate:.2f} Mbit/s.\n")
        print("| | x real time | a second of processor |\n|---|---|---|")
        for step, (wall, processor) in best.items():
            print(f"| {step} | {wall:.3g} | {processor:.3g} |")
        found["times_real_time"] = {
            step: {"by_the_clock": wall, "by_the_processor": processor}
            for step, (wall, processor) in best.items()
        }
        if Path("/proc/self/schedstat").is_file():
            shares = fullness(folder / "many", folder / "store", WHOLE[-1])
            full = [share for share in shares if share > 0.9]
            found["cores_full"] = {
                "of_the_command": sum(shares) / len(shares),
                "looks_with_both_busy": len(full) / len(shares),
            }
            print(f"\nTwo cores full to {100 * sum(shares) / len(shares):.0f} %, start included.")
        print("\n| length | tokens | peak memory |\n|---|---|---|")
        for seconds, audio_len, visual_len, peak in peaks(folder, (10, asked.hour)):
            print(f"| {seconds} s | {audio_len} and {visual_len} | {peak:.0f} MiB |")
    print(f"\nLoad average {load:.1f} before, {os.getloadavg()[0]:.1f} after.")
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
