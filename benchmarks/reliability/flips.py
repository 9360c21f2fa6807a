"""Single bits are flipped in every kind of file that is kept, and a command reads it.

Criterion: files that carry a digest are refused at every flip, in one line that names the file and
with status 2. Of files without a digest it is counted what happens.
"""

# ruff: noqa: E501 - tables of words are read line by line

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.reliability import inputs
from benchmarks.reliability.section import Section, listed

from tcaf.files.digests import SETTLED_NS

FLIPS, QUICK_FLIPS = 100, 5
PROCESSES = 2


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        name: in the report.
        file: below the folder of the inputs.
        words: of a command that reads it.
        made: what the command makes where it succeeds, to be removed.
    """

    name: str
    file: str
    words: tuple[str, ...]
    made: str = ""


@dataclass
class Counts:
    """What became of the flips in one file."""

    named: int = 0
    same: int = 0
    differs: int = 0
    wrong: int = 0
    example: str = ""


EVALUATE = ("evaluate", "run", "--store", "store", "--json")
TRAIN = ("train", "--store", "store", "--config", "tiny.toml")
REPORT = ("report", "run", "--out", "report.html")
BACK = ("store", "from-parquet", "copy", "--out", "back")

KINDS = (
    Kind("shard", "store/shard-00000.arrow", EVALUATE),
    Kind("store.json", "store/store.json", EVALUATE),
    Kind("text embeddings", "store/text/attributes.safetensors", (*TRAIN, "--out", "new"), "new"),
    Kind("model", "run/model.safetensors", EVALUATE),
    Kind("model of stage 1", "run/stage_1.safetensors", (*EVALUATE, "--part", "val")),
    Kind(
        "text of a run",
        "run/text/classes.safetensors",
        ("predict", "run", "test", "--store", "store", "--csv"),
    ),
    Kind(
        "text of an open run",
        "open/text/classes.safetensors",
        (*TRAIN, "--out", "open", "--resume"),
    ),
    Kind(
        "checkpoint of an open run",
        "open/checkpoint.safetensors",
        (*TRAIN, "--out", "open", "--resume"),
    ),
    Kind("Parquet copy", "copy/shard-00000.parquet", BACK, "back"),
    Kind("its tcaf.json", "copy/tcaf.json", BACK, "back"),
    Kind("its text embeddings", "copy/text/attributes.safetensors", BACK, "back"),
    Kind("result.json", "run/result.json", REPORT),
    Kind("provenance.json", "run/provenance.json", REPORT),
    Kind("config.json", "run/config.json", REPORT),
    Kind("predictions.parquet", "run/predictions.parquet", REPORT),
    Kind("metrics.jsonl", "run/metrics.jsonl", REPORT),
)


def run(folder: Path, rng_seed: int, *, quick: bool) -> Section:
    start = time.perf_counter()
    whole = folder / "whole"
    whole.mkdir()
    _make(whole)
    before = Path.cwd()
    rows, faults = [], []
    numbers = range(len(KINDS))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context, _settle, (whole,)) as pool:
        done = pool.map(_flip_kind, numbers, [rng_seed] * len(KINDS), [quick] * len(KINDS))
        for kind, counts in zip(KINDS, done, strict=True):
            flips = QUICK_FLIPS if quick else FLIPS
            print(f"  {kind.name}: {counts}", flush=True)
            if counts.named < flips:
                faults.append(f"{kind.name}: {counts.example}")
            cells = (f"`{' '.join(kind.words[:2])}`", flips, counts.named, counts.same)
            rows.append((kind, (*cells, counts.differs + counts.wrong)))
    os.chdir(whole)
    try:
        rounds = 1 if quick else 5
        remembered = _flip_remembered(np.random.default_rng([rng_seed, 99]), rounds)
    finally:
        os.chdir(before)
    if remembered < rounds:
        faults.append(f"of shards found right before, {rounds - remembered} flips went unnoticed")
    text = _text(rows, remembered, rounds, faults)
    return Section("Flipped bits", not faults, text, time.perf_counter() - start)


def _settle(whole: Path) -> None:
    """Gives a process files of its own, and one thread."""
    import torch

    torch.set_num_threads(1)
    own = whole.with_name(f"process {os.getpid()}")
    shutil.copytree(whole, own)
    os.chdir(own)


def _flip_kind(number: int, rng_seed: int, quick: bool) -> Counts:
    kind = KINDS[number]
    rng = np.random.default_rng([rng_seed, number])
    return _flip(kind, rng, QUICK_FLIPS if quick else FLIPS)


def _make(folder: Path) -> None:
    """Makes a store, its Parquet copy, a run that is over and one that is not."""
    inputs.make_store(folder / "store")
    inputs.make_tiny(folder / "tiny.toml")
    inputs.tcaf(*TRAIN, "--out", "open", "--evaluation.batch_size", "64", cwd=folder)
    shutil.move(folder / "open", folder / "run")
    inputs.tcaf("store", "to-parquet", "store", "--out", "copy", cwd=folder)
    command = [sys.executable, "-m", "tcaf", *TRAIN, "--out", "open", "--training.epochs", "999"]
    process = subprocess.Popen(
        command, cwd=folder, env=inputs.environment(), stderr=subprocess.DEVNULL
    )
    while not (folder / "open" / "checkpoint.safetensors").exists():
        assert process.poll() is None, "it trains long enough"
        time.sleep(0.05)
    process.kill()
    process.wait()
    # The command that takes it up names the number of epochs.
    text = (folder / "tiny.toml").read_text(encoding="utf-8")
    (folder / "tiny.toml").write_text(text.replace("epochs = 8", "epochs = 999"), encoding="utf-8")


def _command(words: tuple[str, ...]) -> tuple[int, str, str]:
    """Runs a command in this process; returns its status, what it printed, what it said."""
    from tcaf.commands.entry import main

    out, said = io.StringIO(), io.StringIO()
    captured = contextlib.redirect_stdout(out), contextlib.redirect_stderr(said)
    with captured[0], captured[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = main(words)
    return status, out.getvalue(), said.getvalue()


def _result(kind: Kind, output: str) -> str:
    """Returns what a command told a person: the page that it wrote, or else what it printed."""
    page = Path("report.html")
    return page.read_text(encoding="utf-8") if kind.words == REPORT else output


def _flip(kind: Kind, rng: np.random.Generator, flips: int) -> Counts:
    path, counts = Path(kind.file), Counts()
    data = path.read_bytes()
    usual = ""
    if kind.words[0] in ("report", "evaluate"):
        status, output, said = _command(kind.words)
        assert status == 0, said
        usual = _result(kind, output)
    try:
        for bit in rng.choice(8 * len(data), flips, replace=False):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            status, output, said = _command(kind.words)
            *_, last = said.splitlines() or [""]
            if status == 2 and last.startswith("tcaf: ") and path.name in last:
                counts.named += 1
                continue
            if status not in (0, 2):
                counts.wrong += 1
            elif status == 0 and usual and _result(kind, output) == usual:
                counts.same += 1
            else:
                counts.differs += 1
            counts.example = f"bit {bit}: status {status}, {last[:200]}"
            shutil.rmtree(kind.made or "nothing", ignore_errors=True)
    finally:
        path.write_bytes(data)
    return counts


def _flip_remembered(rng: np.random.Generator, rounds: int) -> int:
    """Flips bits of a shard that was found right and is remembered; each look is a fresh process.

    Returns how many were noticed.
    """
    path, noticed = Path("store/shard-00000.arrow"), 0
    data = path.read_bytes()
    remembered = Path(os.environ["TCAF_CACHE"]) / "verified.json"
    for _ in range(rounds):
        path.write_bytes(data)
        time.sleep(SETTLED_NS / 1e9 + 0.1)
        inputs.tcaf(*EVALUATE)
        assert str(path.resolve()) in json.loads(remembered.read_text(encoding="utf-8"))
        bit = int(rng.integers(8 * len(data)))
        with path.open("r+b") as file:
            file.seek(bit // 8)
            file.write(bytes([data[bit // 8] ^ 1 << bit % 8]))
        time.sleep(SETTLED_NS / 1e9 + 0.1)
        command = [sys.executable, "-m", "tcaf", *EVALUATE]
        done = subprocess.run(command, env=inputs.environment(), capture_output=True, text=True)
        noticed += done.returncode == 2 and path.name in done.stderr
    path.write_bytes(data)
    return noticed


def _text(
    rows: list[tuple[Kind, tuple[object, ...]]], remembered: int, rounds: int, faults: list[str]
) -> str:
    lines = [
        "One random bit of a file is flipped, then a command reads it. Criterion: every",
        "flip ends in status 2 and one line that names the file.",
        "",
        "| file | read by | flips | noticed | unnoticed, same result | unnoticed, another result |",
        "|---|---|---|---|---|---|",
    ]
    for kind, cells in rows:
        lines.append(f"| {kind.name} | {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "Commands run in two processes that stay. A shard that a process had found right and that is",
        f"remembered in verified.json was changed in place {rounds} times and read by a fresh process:",
        f"{remembered} noticed.",
        "",
        "Not covered: what people wrote (tables, TOML files, weights, media), which carries no",
        "digest; process.json and rows.json, which hold times and places; features in",
        "OUT.extracted, which carry a digest and are made anew where it is broken.",
    ]
    return "\n".join([*lines, *listed(faults)])
