"""Measures how long tcaf takes to start: the import, a help text, an answer for a stored clip.

    python -m benchmarks.start_up --out start_up.json

Makes a small store and a run of ridge regression in a temporary folder, then starts each of the
following in turn, several times over, each in a fresh Python: nothing, `import tcaf`, `tcaf
--help`, `import torch`, `tcaf predict` on a stored clip, and the same beside `import pandas`, which
Arrow's `to_numpy` brought along before. Medians of seconds by the clock and of the processor, and
how many modules are imported; what is heavy among these is listed for `predict`. Ratios of the
processor's time to that of `import torch` depend least on what else the machine does.

Tried and left: importing torch without its exporter and compiler parts (torch imports them itself).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

TARGETS_S = {"import tcaf": 0.2, "tcaf --help": 0.5, "tcaf predict": 3.0}

COUNTED = """
import sys
before = set(sys.modules)
try:
    {code}
except SystemExit:
    pass
print(len(set(sys.modules) - before), file=sys.stderr)
"""

RUN = "from tcaf.commands.entry import main; main({arguments})"


def commands(folder: Path) -> dict[str, str]:
    """Writes a store and a run; returns what is started, as Python code by name."""
    store, run = folder / "store", folder / "run"
    for words in (
        ["prepare", "synthetic", "--out", store, "--clips_per_class", "20"],
        ["train", "--system", "ridge", "--store", store, "--out", run],
    ):
        subprocess.run(
            [sys.executable, "-m", "tcaf", *map(str, words)], check=True, capture_output=True
        )
    from tcaf import FeatureStore

    clip = FeatureStore.open(store).ids[0]
    predict = ["predict", str(run), "--store", str(store), clip]
    answer = RUN.format(arguments=predict)
    return {
        "python": "pass",
        "import tcaf": "import tcaf",
        "tcaf --help": RUN.format(arguments=["--help"]),
        "import torch": "import torch",
        "tcaf predict": answer,
        "tcaf predict, with pandas": f"import pandas; {answer}",
    }


def start(code: str) -> tuple[float, float, int]:
    """Runs code in a fresh Python; returns seconds, of the processor too, and modules imported."""
    command = [sys.executable, "-W", "ignore", "-c", COUNTED.format(code=code)]
    begin, times = time.perf_counter(), os.times()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    took, now = time.perf_counter() - begin, os.times()
    processor = now.children_user + now.children_system
    processor -= times.children_user + times.children_system
    return took, processor, int(done.stderr.splitlines()[-1])


def heaviest(code: str, number: int = 12) -> list[dict[str, Any]]:
    """Returns the modules that take longest by themselves, with their milliseconds."""
    command = [sys.executable, "-W", "ignore", "-X", "importtime", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [
        line.removeprefix("import time:").split("|")
        for line in done.stderr.splitlines()
        if line.startswith("import time:") and "self [us]" not in line
    ]
    found = sorted(((int(own), name.strip()) for own, _, name in rows), reverse=True)
    return [{"module": name, "ms": own / 1e3} for own, name in found[:number]]


def measure(rounds: int) -> dict[str, Any]:
    """Returns medians by what is started, and the heaviest modules of an answer."""
    with tempfile.TemporaryDirectory() as name:
        codes = commands(Path(name))
        taken: dict[str, list[tuple[float, float, int]]] = {name: [] for name in codes}
        for _ in range(rounds):
            for name, code in codes.items():
                taken[name].append(start(code))
        found: dict[str, Any] = {"rounds": rounds, "starts": {}}
        for name, each in taken.items():
            wall, processor, modules = (median(column) for column in zip(*each, strict=True))
            own = {"s": wall, "processor_s": processor, "modules": round(modules)}
            if name in TARGETS_S:
                own["target_s"] = TARGETS_S[name]
            found["starts"][name] = own
        torch_s = found["starts"]["import torch"]["processor_s"]
        for own in found["starts"].values():
            own["to_import_torch"] = own["processor_s"] / torch_s
        found["heaviest_of_predict"] = heaviest(codes["tcaf predict"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    found = measure(asked.rounds)
    print("| | s | processor s | modules | of import torch | target s |\n|---|---|---|---|---|---|")
    for name, own in found["starts"].items():
        print(
            f"| {name} | {own['s']:.3f} | {own['processor_s']:.3f} | {own['modules']} "
            f"| {own['to_import_torch']:.2f} | {own.get('target_s', '')} |"
        )
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
