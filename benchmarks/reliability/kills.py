"""Commands that write are killed at random moments and given again, until they are done.

Criterion: the files end up equal to those of a run that nobody killed, nothing is left behind, what
is whole or absent is so at every kill, and the processes that the killed one had started end by
themselves within two seconds.
"""

# ruff: noqa: E501 - tables of words are read line by line

import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from benchmarks.reliability import inputs
from benchmarks.reliability.section import Section, listed

ENDS_WITHIN_S = 2.0
MOST_KILLS = 3
"""Of one job, before it is let through."""

SIGKILLS = 100
"""The fewest of the whole campaign."""


@dataclass(frozen=True)
class Job:
    """A command that writes.

    Args:
        name: in the report.
        words: its arguments; it runs in an empty folder, inputs lie at absolute paths.
        kills: how many of it.
        again: what is added to the arguments when it is given again.
        atomic: paths that are as they were or done, whenever it is killed.
        given: copied into the folder first, by name there.
        told: what it prints counts as a result.
    """

    name: str
    words: tuple[str, ...]
    kills: int
    again: tuple[str, ...] = ()
    atomic: tuple[str, ...] = ()
    given: tuple[tuple[str, Path], ...] = ()
    told: bool = False


@dataclass
class Tally:
    """What became of the kills of a job."""

    signals: Counter[str] = field(default_factory=Counter)
    caught: Counter[str] = field(default_factory=Counter)
    equal: int = 0
    locks: int = 0
    slowest_s: float = 0.0
    reference_s: float = 0.0
    faults: list[str] = field(default_factory=list)


def run(folder: Path, rng_seed: int, *, quick: bool) -> Section:
    start = time.perf_counter()
    chosen = jobs(folder / "inputs", quick)
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda job: _campaign(job, folder / "places", rng_seed), chosen)
        tallies = dict(zip(chosen, done, strict=True))
    faults = [f"{job.name}: {fault}" for job, tally in tallies.items() for fault in tally.faults]
    sent = sum((tally.signals for tally in tallies.values()), Counter())
    if not quick and sent["SIGKILL"] < SIGKILLS:
        faults.append(f"{sent['SIGKILL']} SIGKILLs came in time, expected {SIGKILLS}")
    seconds = time.perf_counter() - start
    return Section("Kills", not faults, _text(tallies, sent, faults), seconds)


def jobs(folder: Path, quick: bool) -> list[Job]:
    """Makes the inputs and returns the jobs, those that take longest first."""
    folder.mkdir()
    store, big, tiny, words = (folder / n for n in ("store", "big", "tiny.toml", "words.txt"))
    youtube, official, release = (folder / name for name in ("youtube", "official", "release"))
    inputs.make_store(store)
    inputs.make_store(big, 400)
    inputs.make_tiny(tiny)
    inputs.make_youtube8m(youtube)
    inputs.make_official(official)
    inputs.make_release(release)
    world = json.loads((store / "store.json").read_text())
    inputs.make_words(words, sorted(world["phrases"]))
    inputs.tcaf("store", "to-parquet", big, "--out", folder / "parquet")
    for system in ("tcaf", "ridge"):
        more = ("--config", tiny) if system == "tcaf" else ()
        run = folder / "runs" / system
        inputs.tcaf("train", "--store", store, "--system", system, "--out", run, *more)
    videos, some, all_ = folder / "videos", folder / "some.csv", folder / "all.csv"
    inputs.make_videos(videos)
    _make_labels(videos, some, {0, 5, 6})
    _make_labels(videos, all_, {0, 1, 2, 5, 6})
    extract = ("prepare", "videos", str(videos), "--visual", "efficientnet_lite0:frames=1")
    extract = (*extract, "--workers", "2", "--out", "store")
    inputs.tcaf(*extract, "--labels", some, cwd=folder / "runs")
    shutil.move(folder / "runs" / "store", folder / "few")

    def store_at(path: Path) -> tuple[str, ...]:
        return ("--store", str(path))

    train = ("train", "--out", "run", *store_at(store), "--config", str(tiny))
    table = ("reproduce", "--table", "1", *store_at(store), "--models", "tcaf", "ridge")
    table = (*table, "--seeds", "0", "--jobs", "2", "--config", str(tiny), "--out", "table")
    tables = ("--vocabulary", str(youtube / "vocabulary.csv"))
    tables = (*tables, "--classes", str(youtube / "classes.csv"))
    small = ("--looks", "2", "--motions", "2", "--sounds", "2", "--relations", "together")
    synthetic = ("prepare", "synthetic", "--clips_per_class", "600", "--out", "store")
    run, given = str(folder / "runs" / "tcaf"), (("store", folder / "few"),)
    resume, st = ("--resume",), ("store",)
    glove = ("--text.source", "glove", "--text.name", "", "--text.path", str(words))
    own = (*train[:3], "--store", "store", "--config", str(tiny), *glove)
    found = [
        Job("reproduce --jobs 2", table, 7),
        Job("prepare videos --workers 2", (*extract, "--labels", str(some)), 8, (), st),
        Job(
            "prepare videos --append",
            (*extract, "--labels", str(all_), "--append"),
            8,
            given=given,
        ),
        Job("train (tcaf)", train, 12, resume),
        Job("train (text kept with the store)", own, 6, resume, given=(("store", store),)),
        Job(
            "report",
            ("report", str(folder / "runs"), "--out", "report.html"),
            4,
            (),
            ("report.html",),
        ),
        Job("train (ridge)", (*train[:5], "--system", "ridge"), 8, resume),
        Job(
            "render",
            ("render", *small, "--clips_per_class", "7", "--out", "world"),
            8,
            (),
            ("world",),
        ),
        Job(
            "predict --timeline",
            ("predict", run, "c0005_0019", *store_at(store), "--timeline", "answer.png", "--csv"),
            5,
            atomic=("answer.png",),
            told=True,
        ),
        Job(
            "import-checkpoint",
            (
                *("import-checkpoint", str(release / "release.pt"), *store_at(release / "store")),
                *("--num_heads", "2", "--out", "model"),
            ),
            8,
            atomic=("model",),
        ),
        Job("evaluate", ("evaluate", run, *store_at(store), "--json"), 4, told=True),
        Job("prepare synthetic", synthetic, 10, (), st),
        Job("prepare synthetic --overwrite", (*synthetic, "--overwrite"), 8, given=given),
        Job(
            "store from-parquet",
            ("store", "from-parquet", str(folder / "parquet"), "--out", "store"),
            10,
            (),
            st,
        ),
        Job(
            "store to-parquet", ("store", "to-parquet", str(big), "--out", "copy"), 8, (), ("copy",)
        ),
        Job("store embed", ("store", "embed", run, *store_at(store), "--out", "store"), 8, (), st),
        Job(
            "prepare youtube8m",
            ("prepare", "youtube8m", str(youtube / "shards"), *tables, "--out", "store"),
            8,
            (),
            st,
        ),
        Job(
            "prepare official", ("prepare", "official", str(official), "--out", "store"), 6, (), st
        ),
    ]
    if quick:
        found = [Job(**{**vars(job), "kills": 1}) for job in found if job.kills >= 7]
    return found


def _make_labels(videos: Path, path: Path, numbers: set[int]) -> None:
    """Writes a table of some clips of four classes, with every part among them."""
    header, *rows = (videos / "labels.csv").read_text(encoding="utf-8").splitlines()
    classes = dict.fromkeys(row.split('"')[1].split("/")[0] for row in rows)
    unseen = [
        line.split('"')[1]
        for line in (videos / "split.csv").read_text(encoding="utf-8").splitlines()
        if line.endswith("unseen")
    ]
    seen = [name for name in classes if name not in unseen][:2]
    kept = [
        row
        for row in rows
        if row.split('"')[1].split("/")[0] in {*seen, *unseen}
        and int(row.split('"')[1][-5]) in numbers
    ]
    path.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")


def _campaign(job: Job, places: Path, seed: int) -> Tally:
    """Kills a job as often as it has to be killed."""
    rng, tally = random.Random(f"{seed} {job.name}"), Tally()
    whole = Trial(job, places / job.name / "whole")
    try:
        wrote_s, tally.reference_s = whole.reference()
        for number in range(2 * job.kills):
            if tally.signals.total() >= job.kills:
                break
            trial = Trial(job, places / job.name / str(number))
            trial.go_through(whole, rng, wrote_s, tally)
            if not tally.faults:
                shutil.rmtree(trial.place)
    except Exception as error:  # noqa: BLE001 - told in the report
        tally.faults.append(f"{type(error).__name__}: {error}")
    print(f"  {job.name}: {dict(tally.signals)}, {len(tally.faults)} faults", flush=True)
    return tally


class Trial:
    """One folder in which a job is given until it is done."""

    def __init__(self, job: Job, place: Path) -> None:
        self.job = job
        self.place = place
        self.output = ""
        place.mkdir(parents=True)
        (place / "cache").mkdir()
        for name, source in job.given:
            shutil.copytree(source, place / name)
        self.before = _tree(place)

    def start(self, again: bool) -> tuple[subprocess.Popen, str]:
        """Starts the command; returns it and the mark of its processes."""
        mark = uuid.uuid4().hex
        words = (*self.job.words, *(self.job.again if again else ()))
        # Its cache is looked at too; what a worker prints must not keep a pipe open.
        own = inputs.environment(CAMPAIGN=mark, TCAF_CACHE=str(self.place / "cache"))
        log = self.place.with_name(f"{self.place.name}.log")
        with log.open("w") as file, log.with_suffix(".out").open("w") as out:
            command = [sys.executable, "-m", "tcaf", *words]
            process = subprocess.Popen(
                command, cwd=self.place, env=own, stdout=out, stderr=file, start_new_session=True
            )
        return process, mark

    def said(self) -> tuple[str, str]:
        """Returns what the last command printed as its result, and as messages."""
        log = self.place.with_name(f"{self.place.name}.log")
        return log.with_suffix(".out").read_text(), log.read_text()

    def reference(self) -> tuple[float, float]:
        """Lets the command through; returns when it first wrote, and its time, in seconds."""
        start = time.monotonic()
        process, _ = self.start(again=False)
        wrote_s = None
        names = set(self.before)
        while process.poll() is None:
            if wrote_s is None and set(_paths(self.place)) != names:
                wrote_s = time.monotonic() - start
            time.sleep(0.01)
        duration_s = time.monotonic() - start
        self.output, messages = self.said()
        assert process.returncode == 0, messages
        self.after = _tree(self.place)
        return wrote_s or 0.0, duration_s

    def go_through(self, whole: "Trial", rng: random.Random, wrote_s: float, tally: Tally) -> None:
        """Kills the command a few times, then lets it through and compares."""
        duration_s = tally.reference_s
        wanted = rng.choices(range(1, MOST_KILLS + 1), (6, 3, 1))[0]
        again = False
        for _ in range(wanted):
            # Half of them where files are being written.
            after_s = rng.uniform(rng.choice((0.0, wrote_s)), duration_s)
            number = rng.choices((signal.SIGKILL, signal.SIGTERM, signal.SIGINT), (18, 1, 1))[0]
            if not self._kill(after_s, number, whole, again, tally):
                break
            again = True
        process, mark = self.start(again)
        process.wait(600)
        output, messages = self.said()
        there = process.returncode == 2 and "already" in messages
        if process.returncode != 0 and not there:
            tally.faults.append(
                f"given again it ended with {process.returncode}: {messages[-300:]}"
            )
            return
        if self.job.told and output != whole.output:
            tally.faults.append("what it printed differs")
        self._compare(whole, tally)
        self._check_ended(mark, "a whole command", tally)

    def _kill(
        self, after_s: float, number: signal.Signals, whole: "Trial", again: bool, tally: Tally
    ) -> bool:
        """Starts the command and ends it; returns whether it was still running."""
        process, mark = self.start(again)
        with suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
            return False
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            tally.faults.append(f"10 s after {number.name} it was still there")
        tally.signals[number.name] += 1
        self._check_ended(mark, f"{number.name} after {after_s:.2f} s", tally)
        if number != signal.SIGKILL:
            # Before the handler is there, the signal has its usual effect.
            allowed = {128 + number, -number, 0}
            if process.returncode not in allowed or "Traceback" in self.said()[1]:
                tally.faults.append(
                    f"{number.name} after {after_s:.2f} s: status {process.returncode}, "
                    f"{self.said()[1][-300:]!r}"
                )
        now = _tree(self.place)
        for name in self.job.atomic:
            if _below(now, name) not in (_below(self.before, name), _below(whole.after, name)):
                tally.faults.append(f"{name} is neither as before nor whole after {after_s:.2f} s")
        visible = {n: v for n, v in now.items() if not n.endswith(".lock")}
        state = "midway"
        if visible == self.before:
            state = "nothing written"
        elif visible == whole.after:
            state = "all written"
        tally.caught[state] += 1
        return True

    def _check_ended(self, mark: str, what: str, tally: Tally) -> None:
        """Waits until no process with the mark is left."""
        start = time.monotonic()
        while left := list(_marked(mark)):
            if time.monotonic() - start > ENDS_WITHIN_S:
                tally.faults.append(f"{what}: {len(left)} processes live on")
                for process in left:
                    with suppress(psutil.Error):
                        process.kill()
                return
            time.sleep(0.02)
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - start)

    def _compare(self, whole: "Trial", tally: Tally) -> None:
        found, wanted = _tree(self.place), whole.after
        locks = [name for name in found.keys() - wanted.keys() if name.endswith(".lock")]
        for name in locks:
            # Killed after the last rename and before it let go: nobody holds it.
            del found[name]
            tally.locks += 1
            with (self.place / name).open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    tally.faults.append(f"{name} is still held")
        if found == wanted:
            tally.equal += 1
            return
        names = sorted(found.keys() | wanted.keys())
        differing = [name for name in names if found.get(name) != wanted.get(name)]
        tally.faults.append(
            f"not as without a kill: {', '.join(differing[:5])}, trial {self.place.name}"
        )


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (
                process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("CAMPAIGN") == mark
            ):
                yield process


def _paths(folder: Path) -> list[str]:
    return [os.path.relpath(Path(at) / n, folder) for at, d, f in os.walk(folder) for n in (*d, *f)]


def _below(tree: dict[str, str], name: str) -> dict[str, str]:
    return {
        path: value for path, value in tree.items() if path == name or path.startswith(name + "/")
    }


def _tree(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file in a folder by its path, hidden ones too."""
    found = {}
    for name in _paths(folder):
        path = folder / name
        with suppress(FileNotFoundError):
            found[name] = "folder" if path.is_dir() else _digest(path)
    return found


def _digest(path: Path) -> str:
    data = path.read_bytes()
    if strip := TIMED.get(path.name):
        with suppress(ValueError):
            data = strip(data)
    return hashlib.sha256(data).hexdigest()


def _without(*names: str) -> Callable[[bytes], bytes]:
    def strip(data: bytes) -> bytes:
        values = [json.loads(line) for line in data.splitlines()] if "line" in names else None
        value: Any = json.loads(data) if values is None else values
        for each in value if isinstance(value, list) else [value]:
            for name in names:
                each.pop(name, None)
        return json.dumps(value).encode()

    return strip


def _without_times(data: bytes) -> bytes:
    data = re.sub(rb"\d+ s \| \d+ MiB", b"", data)
    return re.sub(rb"last run begun.*", b"", data)


TIMED: dict[str, Callable[[bytes], bytes]] = {
    "provenance.json": _without("started", "resumed", "command", "store", "sha256"),
    "result.json": _without("seconds", "files", "sha256"),
    "metrics.jsonl": _without("line", "seconds"),
    "process.json": lambda data: b"",
    "table.md": _without_times,
    "verified.json": lambda data: b"",
}
"""What of a file does not count since it is a time, by the file's name."""


def _text(tallies: dict[Job, Tally], sent: Counter[str], faults: list[str]) -> str:
    slowest_s = max(tally.slowest_s for tally in tallies.values())
    signals = ", ".join(f"{count} {name}" for name, count in sorted(sent.items()))
    lines = [
        f"{sent.total()} signals ({signals}) to the leading process of commands at random",
        "moments, half of them between the first file that the command writes and its end. Each is",
        "then given again (`train` with `--resume`), killed up to three times and at last let through.",
        "",
        "Criterion: the files are bit for bit those of a run that nobody killed; nothing is left",
        "beside them, no folder, no lock that is held, no process (workers have two seconds to",
        f"end; the slowest took {slowest_s:.2f} s); what is to be whole or absent is so at every",
        "kill.",
        "",
        "| command | time | signals | nothing written | midway | all written | ended equal |",
        "|---|---|---|---|---|---|---|",
    ]
    for job, tally in tallies.items():
        counts = [tally.caught[state] for state in ("nothing written", "midway", "all written")]
        cells = [f"{tally.reference_s:.1f} s", tally.signals.total(), *counts, tally.equal]
        lines.append(f"| {job.name} | {' | '.join(map(str, cells))} |")
    locks = sum(tally.locks for tally in tallies.values())
    lines += [
        "",
        "Not compared, since they are times or places: `started`, `resumed`, `store` and `command`",
        "(which holds `--resume`) of provenance.json, `seconds` of result.json and metrics.jsonl,",
        "all of process.json, times in table.md, what is remembered in verified.json; nor the seals",
        "over these. Lock files that nobody holds, of commands killed between their last rename and",
        f"their end: {locks}.",
        "",
        "Left out: `inspect`, `settings`, `backbones` and `doctor` write nothing;",
        "`--install-completion` writes into files of the shell; curves of `train --tensorboard`",
        "are appended to by TensorBoard's own writer; fetching of weights needs a network.",
    ]
    return "\n".join([*lines, *listed(faults)])
