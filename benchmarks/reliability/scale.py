"""Much of everything: files, hours, clips, class names; what it takes in time and memory."""

import itertools
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from benchmarks.reliability.commands import Ended, measured, run_tcaf
from benchmarks.reliability.section import Section

sys.path += [str(Path(__file__).parents[2] / "tests"), str(Path(__file__).parents[1])]

from store_scale import make

from damaged import write_clip

BACKBONES = ("--audio", "logmel", "--visual", "clip:frames=1")
SIDE = 32
"""Pixels of the pictures that the smallest CLIP model takes."""

MAX_GROWTH_MIB = 150.0
"""By how much more memory a worker may take for hours than for a minute."""

OPEN = """
import sys, time, psutil
from tcaf.data.store import FeatureStore
start = time.perf_counter()
store = FeatureStore.open(sys.argv[1])
opened = time.perf_counter() - start
looks = []
for _ in range(2):
    start = time.perf_counter()
    store.verify_once()
    looks.append(time.perf_counter() - start)
told = f"first look {looks[0]:.2f} s, second {looks[1]:.2f} s"
print(f"{len(store):,} clips: opened in {opened:.2f} s, {told}")
"""


def _row(what: str, ended: Ended) -> str:
    numbers = f"{ended.seconds:.1f} | {ended.parent_mib:.0f} | {ended.worker_mib:.0f}"
    return f"| {what} | {ended.status} | {numbers} |"


def _write_clip_model(folder: Path) -> Path:
    """Writes a CLIP model of random weights, so small that decoding takes the time."""
    import transformers

    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    size["num_attention_heads"] = 1
    vision = size | {"image_size": SIDE, "patch_size": SIDE // 2}
    text = size | {"vocab_size": 9, "bos_token_id": 7, "eos_token_id": 8}
    config = transformers.CLIPConfig(projection_dim=16, vision_config=vision, text_config=text)
    transformers.CLIPModel(config).save_pretrained(folder)
    settings = {
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def _long(path: Path, seconds: int) -> Path:
    """A picture of 64 x 48 five times a second and a tone, both of little data."""
    return write_clip(path, seconds, 5, 8_000, video_codec="mpeg4", audio_codec="pcm_u8")


def run(folder: Path, rng_seed: int, *, quick: bool) -> Section:
    """Makes much of each kind and hands it to the commands."""
    start = time.perf_counter()
    num_files, minutes, num_clips = (100, 6, 5_000) if quick else (5_000, 120, 200_000)
    rows, passed = [], True

    weights = ("--visual_weights", _write_clip_model(folder / "clip"))
    extract = ("prepare", "videos", *BACKBONES, *weights, "--out")
    few = folder / "few"
    for name in ("ash", "birch", "cedar", "elm", "fir", "oak", "pine", "yew"):
        (few / name).mkdir(parents=True)
        write_clip(few / name / "0.avi", 0.6, 5, 8_000, video_codec="mpeg4", audio_codec="pcm_u8")
        for copy in range(1, max(num_files // 8, 4)):
            shutil.copy(few / name / "0.avi", few / name / f"{copy}.avi")
    store = folder / "store"
    ended = run_tcaf(*extract, store, few, timeout_s=900)
    rows.append(_row(f"`prepare videos`, {num_files:,} files of 0.6 s", ended))
    passed &= ended.status == 0

    peaks = []
    for length in (1, minutes // 3, minutes):
        place = folder / f"long {length}"
        place.mkdir()
        _long(place / "x.avi", 60 * length)
        out = folder / f"long store {length}"
        ended = run_tcaf(*extract, out, place, timeout_s=900)
        rows.append(_row(f"`prepare videos`, one file of {length} min", ended))
        peaks.append(ended.worker_mib)
        passed &= ended.status == 0
    passed &= peaks[2] - peaks[0] < MAX_GROWTH_MIB

    make(folder / "big", num_clips, 8, 16)
    ended = measured([sys.executable, "-c", OPEN, str(folder / "big")])
    rows.append(_row(ended.line, ended))
    passed &= ended.status == 0

    trained = run_tcaf("train", "--store", store, "--out", folder / "run")
    passed &= trained.status == 0
    words = np.random.default_rng(rng_seed).permutation(
        [f"{a} {b}" for a, b in itertools.product(map(str, range(50)), map(chr, range(97, 123)))]
        + [f"{a} at {b}" for a, b in itertools.product(range(50), map(chr, range(97, 123)))]
    )
    names = folder / "names.txt"
    names.write_text("\n".join(words[:2_000]) + "\n", encoding="utf-8")
    clip = few / "ash" / "0.avi"
    ended = run_tcaf("predict", folder / "run", clip, "--classes_file", names, *weights)
    rows.append(_row("`predict`, one file, 2,000 class names", ended))
    passed &= ended.status == 0

    text = "\n".join(
        [
            "Criterion: every command ends well, and a worker takes no more than "
            f"{MAX_GROWTH_MIB:.0f} MiB more for the long file than for a minute.",
            "",
            f"Backbones `{BACKBONES[1]}` and `{BACKBONES[3]}` (a model of few weights); files of "
            "64 x 48 pixels, 5 pictures and 8,000 samples a second; a worker for each core. Clips "
            "of the large store have 10 tokens of 8 and 15 of 16. Peaks in MiB, of the command and "
            "of its largest worker.",
            "",
            "| what | status | s | command | worker |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )
    return Section("Scale", bool(passed), text, time.perf_counter() - start)
