"""Trains one configuration over several seeds and writes the table of a results file.

    python benchmarks/seeds.py --store yt8m --runs runs/yt8m --out results/yt8m.md \
        --seeds 0 1 2 -- --config yt8m

What stands behind `--` goes to `tcaf train`. Each seed is a process of its own, so that its time
and peak memory are its own; a run that is there already is not run again. The file's table is
replaced, what stands above the line `<!-- runs -->` is kept: that is where words belong.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

MARK = "<!-- runs -->"
SCORES = {"seen": "S", "unseen": "U", "harmonic_mean": "HM", "zsl": "ZSL"}


def run_seed(store: str, out: Path, seed: int, options: list[str]) -> dict:
    """Trains one seed; returns its result with wall time and peak memory of the process."""
    measured = out / "process.json"
    if not measured.is_file():
        command = [
            *(sys.executable, "-m", "tcaf.cli", "train", *options),
            *("--store", store, "--out", str(out), "--seed", str(seed), "--json"),
        ]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        # The largest child so far: equal to this one's where all do the same.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        measured.write_text(json.dumps({"seconds": seconds, "peak_mib": peak}))
    result = json.loads((out / "result.json").read_text())
    provenance = json.loads((out / "provenance.json").read_text())
    return {**result, **json.loads(measured.read_text()), "provenance": provenance}


def percent(values: list[float]) -> str:
    """Returns mean and standard deviation over seeds, in percent."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"


def table(results: list[dict]) -> list[str]:
    """Returns one row a seed, and the mean over all."""
    rows = [
        "| seed | S | U | HM | ZSL | gamma | curve area | validation HM | epoch | time | memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        test, choice = result["test"], result["choice"]
        scores = " | ".join(f"{100 * test[name]:.2f}" for name in SCORES)
        rows.append(
            f"| {result['seed']} | {scores} | {test['gamma']:g} | {test['curve_area']:.3f} | "
            f"{100 * choice['validation']['harmonic_mean']:.2f} | {choice['epoch']} | "
            f"{result['seconds']:.0f} s | {result['peak_mib']:.0f} MiB |"
        )
    means = " | ".join(percent([r["test"][name] for r in results]) for name in SCORES)
    area = statistics.mean(r["test"]["curve_area"] for r in results)
    validation = percent([r["choice"]["validation"]["harmonic_mean"] for r in results])
    rows.append(f"| mean ± std | {means} | | {area:.3f} | {validation} | | | |")
    return rows


def cpu_name() -> str:
    """Returns the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--out", type=Path, required=True, help="results file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("options", nargs="*", help="behind --: what goes to `tcaf train`")
    asked = parser.parse_args()
    results = [run_seed(asked.store, asked.runs / str(s), s, asked.options) for s in asked.seeds]
    provenance = results[-1]["provenance"]
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    seeds = " ".join(map(str, asked.seeds))
    lines = [
        MARK,
        "",
        f"    for seed in {seeds}: tcaf train {' '.join(asked.options)} --seed $seed",
        "",
        *table(results),
        "",
        f"Test scores in percent. {os.cpu_count()} cores of {cpu_name()}, "
        f"{provenance['threads']} threads; {versions}; commit {provenance['commit']}; data "
        f"{provenance['data']['fingerprint'][:12]} ({provenance['data']['clips']:,} clips). Time "
        "and memory are those of the whole process.",
        "",
    ]
    before = asked.out.read_text().split(MARK)[0] if asked.out.is_file() else ""
    asked.out.write_text(before + "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
