"""Measures all that is said about speed, one benchmark after another, and writes the report.

    python -m benchmarks.speed --out results/speed.md
    python -m benchmarks.speed --only loader start_up

On two cores it takes a quarter of an hour. Figures are kept as JSON in `--work`; with `--only` the
named benchmarks are run anew and the report is written from theirs and from what is there.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tcaf.files.atomic import write_text
from tcaf.training.provenance import commit, cpu_name

RUNS: Mapping[str, tuple[str, Sequence[str]]] = {
    "train_step": ("train_step", ("--shapes", "UCF", "VGGSound", "synthetic", "--rounds", "7")),
    "long_step": ("train_step", ("--shapes", "ActivityNet", "--rounds", "3")),
    "evaluation": ("evaluation", ("--rounds", "3")),
    "textlda_fit": ("textlda_fit", ("--clips", "200000")),
    "extraction": ("extraction", ("--repeats", "1")),
    "loader": ("loader", ("--rounds", "11")),
    "start_up": ("start_up", ()),
}
"""What is run, by the name of its figures: a module beside this one, and its options."""

STEP_TARGETS = {"UCF": 1.6, "VGGSound": 1.5, "ActivityNet": 1.45}
PADDED_TARGET, FIT_TARGET, EVALUATION_TARGET, LONG_MIB = 4.0, 1.3, 6.0, 2048

BEFORE_COMMIT = "56bc4d58d31d"
BEFORE: Mapping[str, float] = {
    "UCF": 2.09,
    "VGGSound": 1.76,
    "ActivityNet": 1.57,
    "synthetic": 2.31,
}
"""The step of that commit, the last before buckets of clips, on two threads over this floor."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("results/speed.md"), help="report to write"
    )
    parser.add_argument("--work", type=Path, default=Path("build/speed"), help="folder of figures")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    for name in asked.only:
        start, load = time.perf_counter(), os.getloadavg()[0]
        print(f"{name} ...", flush=True)
        path = asked.work / f"{name}.json"
        run(name, path, asked.work)
        took = time.perf_counter() - start
        circumstances = {"commit": commit() or "unknown", "s": took, "load_before": load}
        found = json.loads(path.read_text()) | {"circumstances": circumstances}
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {took:.0f} s", flush=True)
    paths = {name: asked.work / f"{name}.json" for name in RUNS}
    missing = [name for name, path in paths.items() if not path.exists()]
    if missing:
        parser.error(f"{asked.work} has no figures of {', '.join(missing)}: name them too")
    write_text(asked.out, report({name: json.loads(p.read_text()) for name, p in paths.items()}))
    print(f"written: {asked.out}")


def run(name: str, out: Path, work: Path) -> None:
    """Runs a benchmark in a process of its own, which writes its figures."""
    module, options = RUNS[name]
    command = [sys.executable, "-m", f"benchmarks.{module}", *options, "--out", str(out)]
    if module == "evaluation":
        command += ["--folder", str(work / "evaluation_store")]
    with (work / f"{name}.log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        print((work / f"{name}.log").read_text()[-2000:], file=sys.stderr)
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}")


def report(found: Mapping[str, Any]) -> str:
    """Returns the figures as Markdown, with what they were to be.

    Args:
        found: what each of `RUNS` has written.
    """
    sections: tuple[Callable[[Mapping[str, Any]], Iterator[str]], ...]
    sections = (head, step, savings, profile, evaluation, fits, extraction, reading, starts, tried)
    return "\n".join(line for section in sections for line in section(found)) + "\n"


def head(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields what was run, on what."""
    how = [each["circumstances"] for each in found.values()]
    commits = sorted({each["commit"] for each in how})
    minutes = sum(each["s"] for each in how) / 60
    loads = [each["load_before"] for each in how]
    yield from (
        "# Speed",
        "",
        "    make bench",
        "",
        f"{os.cpu_count()} cores of {cpu_name()}, no GPU; torch {torch.__version__}; commit "
        f"{', '.join(commits)}; {minutes:.0f} minutes in all. The machine's load before each part "
        f"was {min(loads):.1f} to {max(loads):.1f}.",
        "",
        "Figures are ratios of medians of what takes turns in one process, unless a unit is named. "
        "The *floor* is what cannot be done without: the matrix products of a step, the "
        "convolutions of a network, reading and X'X of a fit. What was aimed at is in brackets.",
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a table, after an empty one."""
    yield ""
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def at_most(value: float, target: float) -> str:
    """Returns a figure with what it was to be at most; in bold where it is more."""
    told = f"{value:.2f}" if value <= target else f"**{value:.2f}**"
    return f"{told} [{target:g}]"


def at_least(value: float, target: float) -> str:
    """Returns a figure with what it was to be at least; in bold where it is less."""
    told = f"{value:.1f}" if value >= target else f"**{value:.1f}**"
    return f"{told} [{target:g}]"


def shapes_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures of a step by shape."""
    return found["train_step"]["shapes"] | found["long_step"]["shapes"]


def step(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields a training step against its floor and against padded code."""
    yield from (
        "",
        "## A training step of TCaF",
        "",
        f"Forward, losses, backward and Adam on {found['train_step']['threads']} threads, against "
        "its matrix products, forward and backward, and nothing else. Padded: the same model as "
        "such code is usually written, with masks and a second forward a batch "
        "(`benchmarks/padded_tcaf.py`). Before: the step of commit "
        f"{BEFORE_COMMIT}, which gathered and scattered rows, against the same floor. Where all "
        "clips are equally long, as VGGSound's and ActivityNet's windows are, padding costs "
        "nothing: what is left is the second forward, masks, and a square of all tokens.",
    )
    rows = []
    for name, own in shapes_of(found).items():
        ratio = own["to_floor"]["step"]
        told = at_most(ratio, STEP_TARGETS[name]) if name in STEP_TARGETS else f"{ratio:.2f}"
        faster = own["padded_to_step"]
        is_target = name in STEP_TARGETS
        before = f"{BEFORE[name]:.2f}" if name in BEFORE else ""
        rows.append(
            [
                name,
                told,
                before,
                f"{1e3 * own['seconds']['step']:.0f}",
                at_least(faster, PADDED_TARGET) if is_target else f"{faster:.1f}",
                f"{own['step_flops'] / own['floor_flops']:.3f}",
            ]
        )
    columns = ("shape", "of the floor", "before", "ms", "padded takes", "operations of the floor's")
    yield from table(columns, rows)


def savings(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields what each saving of the step brings."""
    shapes = found["train_step"]["shapes"]
    yield from (
        "",
        "### What each saving brings",
        "",
        "The step with one of its savings undone, or with what was tried, in shares of the step.",
    )
    names = [n for n in next(iter(shapes.values()))["seconds"] if n not in ("floor", "step")]
    rows = [
        [name, *(f"{o['seconds'][name] / o['seconds']['step']:.3f}" for o in shapes.values())]
        for name in names
        if name != "padded"
    ]
    yield from table(("with", *shapes), rows)


def profile(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields where the time of a step goes."""
    name, told = next(iter(found["train_step"]["profile"].items()))
    yield from ("", f"### Where a step's time goes ({name})", "", "```", told, "```")


def evaluation(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields evaluation against padded code, and its memory."""
    own = found["evaluation"]
    before = own["before_peak_mib"]
    yield from (
        "",
        "## Evaluation",
        "",
        f"{own['clips']:,} clips of UCF's lengths, from the store to the best of all gammas: "
        f"{own['all_clips_s']:.0f} s, peak memory {own['all_clips_peak_mib']:.0f} MiB "
        f"({before:.0f} of them before). One clip of 3,000 + 4,700 tokens: "
        f"{own['long_clip_s']:.1f} s, {own['long_clip_peak_mib']:.0f} MiB "
        f"[{LONG_MIB}]. A clip at a time takes, padded to the longest, "
        f"{at_least(own['padded_to_ours'], EVALUATION_TARGET)} times as long, and without padding "
        f"{own['one_by_one_to_ours']:.1f} times.",
    )


def fits(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields fits in closed form against reading and X'X."""
    own = found["textlda_fit"]
    yield from (
        "",
        "## Fits in closed form",
        "",
        f"{own['clips']:,} clips of 1,152 numbers. The floor is reading them with X'X in float32; "
        "eigenvalues, which no number of clips changes, are in the floor of the second column.",
    )
    names = {"ridge": "ridge", "textlda": "TextLDA", "ridge_before": "ridge, before: in doubles"}
    rows = [
        [
            told,
            f"{own[f'{name}_to_floor']:.2f}",
            at_most(own[f"{name}_to_floor_with_eigenvalues"], FIT_TARGET)
            if name != "ridge_before"
            else f"{own[f'{name}_to_floor_with_eigenvalues']:.2f}",
        ]
        for name, told in names.items()
    ]
    yield from table(("fit", "of the floor", "of the floor with eigenvalues"), rows)
    yield from ("", f"{own['names']:,} new class names are scored in {own['names_s']:.1f} s.")


def extraction(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields networks against their convolutions, and pipelines against real time."""
    own = found["extraction"]
    yield from (
        "",
        "## Extraction",
        "",
        "Networks on one thread by the processor's time; off by: the largest difference to the "
        "plain network, as a share of the largest number.",
    )
    rows = [
        [
            name,
            f"{100 * each['of_convolutions_speed']:.0f} % "
            f"[{100 * each['target_of_convolutions_speed']:.0f}]",
            f"{each['plain_to_embed']:.2f}",
            f"{each['off_by_of_largest']:.0e}",
        ]
        for name, each in own["networks"].items()
    ]
    columns = ("network", "of its convolutions' speed", "plain network takes", "off by")
    yield from table(columns, rows)
    rows = [
        [step, f"{each['by_the_clock']:.3g}", f"{each['by_the_processor']:.3g}"]
        for step, each in own["times_real_time"].items()
    ]
    columns = ("640 x 360 at 25 frames per second", "x real time", "a second of processor")
    yield from table(columns, rows)
    if "cores_full" in own:
        full = own["cores_full"]
        yield from (
            "",
            f"Over a folder of clips both cores are full to {100 * full['of_the_command']:.0f} %, "
            "the start of the command included.",
        )


def reading(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields how batches are read."""
    yield from (
        "",
        "## Reading batches",
        "",
        "64 random clips, one thread, by the processor's time. Beyond memory: how much longer a "
        "step of 150 ms takes with pages that must be read from the disk, without and with asking "
        "for the batch after it. Copy: one of the batch in float32 takes.",
    )
    rows = []
    shapes = (item for item in found["loader"].items() if item[0] != "circumstances")
    for name, own in shapes:
        cache, past = own["in_cache"], own.get("beyond_memory")
        beyond = f"{past['slower_without']:.2f}, {past['slower_ahead']:.2f}" if past else ""
        rows.append(
            [
                name,
                at_most(cache["now_ms"], cache["target_ms"]),
                f"{cache['before_to_now']:.2f}",
                f"{1 / cache['now_to_copy']:.2f}",
                beyond,
            ]
        )
    yield from table(("store", "ms", "before took", "copy", "beyond memory"), rows)


def starts(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields how long the start of commands takes."""
    yield from ("", "## Start-up", "", "Each in a fresh Python, medians.")
    rows = []
    for name, own in found["start_up"]["starts"].items():
        told = at_most(own["s"], own["target_s"]) if "target_s" in own else f"{own['s']:.2f}"
        modules = f"{own['modules']:,}"
        rows.append([name, told, f"{own['processor_s']:.2f}", modules])
    yield from table(("", "s", "of the processor", "modules"), rows)


def tried(_: Mapping[str, Any]) -> Iterator[str]:
    """Yields what brought nothing, as the benchmarks tell it."""
    yield from ("", "## What was tried and left")
    for module in dict.fromkeys(module for module, _ in RUNS.values()):
        told = importlib.import_module(f"benchmarks.{module}").__doc__ or ""
        for paragraph in told.split("\n\n"):
            if re.match(r"Tried|What was tried", paragraph):
                yield from ("", f"`{module}`: {' '.join(paragraph.split())}")


if __name__ == "__main__":
    main()
