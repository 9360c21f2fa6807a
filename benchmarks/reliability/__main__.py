"""The reliability campaign: what is killed, damaged, attacked and loaded, and how it comes through.

    python -m benchmarks.reliability --out results/reliability.md

Runs each part and writes its section of the report; `--only` replaces the sections of single parts.
Ends with status 1 where a part does not meet its criterion.
"""

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.metadata import version
from pathlib import Path

from benchmarks.reliability.section import Section

from tcaf.execution.processes import usable_cores
from tcaf.files.atomic import write_text
from tcaf.training.provenance import cpu_name

PARTS = ("kills", "flips", "damage", "hostile", "scale")
"""Modules beside this one, in the order of the report."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.reliability", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/reliability.md"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="an empty or new folder; a temporary one if none")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, parted by commas")
    parser.add_argument("--quick", action="store_true", help="a few rounds of each, to try it")
    asked = parser.parse_args()
    chosen = asked.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    # Processes in the background inherit an ignored Ctrl-C, which one of the parts sends.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    blocks = _read(asked.out) if len(chosen) < len(PARTS) else {}
    passed = True
    with tempfile.TemporaryDirectory() as temporary:
        # Nothing that is remembered goes into the cache of whoever runs this.
        os.environ["TCAF_CACHE"] = str(Path(temporary) / "cache")
        for part in (each for each in PARTS if each in chosen):
            folder = (asked.work or Path(temporary)).resolve() / part
            folder.mkdir(parents=True)
            print(f"{part} ...", flush=True)
            section = _run(part, folder, asked.seed, asked.quick)
            print(f"{part}: {_verdict(section)}", flush=True)
            blocks[part] = _block(section, asked.seed, asked.quick)
            passed &= section.passed
            _write(asked.out, blocks)
    return 0 if passed else 1


def _run(part: str, folder: Path, seed: int, quick: bool) -> Section:
    start = time.perf_counter()
    try:
        module = importlib.import_module(f"benchmarks.reliability.{part}")
        section: Section = module.run(folder, seed, quick=quick)
        return section
    except Exception:  # noqa: BLE001 - the other parts are still of interest
        trace = traceback.format_exc()
        print(trace, file=sys.stderr, flush=True)
        text = f"Came to no end:\n\n```\n{trace.splitlines()[-1]}\n```"
        return Section(part.capitalize(), False, text, time.perf_counter() - start)


def _verdict(section: Section) -> str:
    return f"{'passed' if section.passed else 'FAILED'}, {section.seconds:.0f} s"


def _block(section: Section, seed: int, quick: bool) -> str:
    how = f"seed {seed}, commit {_commit()}{', --quick' if quick else ''}"
    return f"## {section.title}\n\n**{_verdict(section)}** ({how})\n\n{section.text.strip()}\n"


def _commit() -> str:
    """Returns the commit, marked where more has changed than results, as this report is one."""
    describe = ["git", "describe", "--always", "--abbrev=12"]
    changes = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results"]
    commit, changed = (
        subprocess.run(each, capture_output=True, text=True).stdout.strip()
        for each in (describe, changes)
    )
    return (commit or "unknown") + ("-dirty" if changed else "")


_MARK = re.compile(r"^<!-- (\w+) -->\n", re.MULTILINE)


def _read(path: Path) -> dict[str, str]:
    """Returns the sections of a report by part; none where there is no report."""
    if not path.is_file():
        return {}
    _, *rest = _MARK.split(path.read_text(encoding="utf-8").partition("<!-- end -->")[0])
    return {name: text.strip() + "\n" for name, text in zip(rest[::2], rest[1::2], strict=True)}


def _write(path: Path, blocks: dict[str, str]) -> None:
    head = [
        "# Reliability\n",
        "    make campaign\n",
        "runs all parts, `python -m benchmarks.reliability --only kills` one of them anew. Kills,",
        "bits and files are drawn from the seed; how far a process has come when it is killed also",
        "depends on the machine.\n",
    ]
    body = [f"<!-- {part} -->\n{blocks[part]}" for part in PARTS if part in blocks]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "pyarrow"))
    foot = f"<!-- end -->\n{usable_cores()} cores of {cpu_name()}; {versions}.\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join([*head, *body, foot]))


if __name__ == "__main__":
    sys.exit(main())
