"""Puts a service under load: many clients at once, for minutes; what they get and what it takes.

    python -m benchmarks.service_load CLIPS
    python -m benchmarks.service_load CLIPS --new 0 --clients 8 --seconds 150

Each client sends one clip after the other: of a share of them (`--new`) the content is one that the
service has not read yet, the others come again with other names. Whoever is told to come again does
so when told. Any answer but 200 and 429, and any that does not come, is an error; there must be
none.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

NAMES = (
    *("cat purring", "dog barking", "playing drum", "baby crying", "coughing", "swimming"),
    *("playing guitar", "rain", "applause", "sea waves", "typing", "helicopter"),
)
PARTS = 12
"""Parts of the time for which memory is told."""


def free_box(rng: random.Random) -> bytes:
    """A part of an MP4 file that every reader passes over, with a content of its own."""
    return (16).to_bytes(4, "big") + b"free" + rng.randbytes(8)


class Clients:
    """Those who ask.

    Args:
        url: of the service.
        clips: contents of MP4 files.
        until: when to end, by the monotonic clock.
        new: share of clips with a content of their own.
    """

    def __init__(self, url: str, clips: list[bytes], until: float, new: float) -> None:
        self.url, self.clips, self.until, self.new = url, clips, until, new
        self.statuses: Counter[str] = Counter()
        self.took: dict[str, list[float]] = {"new": [], "known": []}
        self.errors: list[str] = []

    async def ask(self, number: int) -> None:
        """Is one client."""
        rng = random.Random(number)
        async with httpx.AsyncClient(base_url=self.url, timeout=180) as client:
            while time.monotonic() < self.until:
                await self._ask_once(client, rng)

    async def _ask_once(self, client: httpx.AsyncClient, rng: random.Random) -> None:
        is_new = rng.random() < self.new
        content = rng.choice(self.clips) + (free_box(rng) if is_new else b"")
        names = "\n".join(rng.sample(NAMES, rng.choice((3, 4, 5))))
        since = time.monotonic()
        try:
            answer = await client.post(
                "api/v1/classify",
                files={"file": ("clip.mp4", content)},
                data={"names": names, "seen_bias": str(rng.random())},
            )
        except httpx.HTTPError as error:
            self.statuses["none"] += 1
            self.errors.append(f"{type(error).__name__}: {error}")
            return
        self.statuses[str(answer.status_code)] += 1
        if answer.status_code == 200:
            self.took["new" if is_new else "known"].append(time.monotonic() - since)
            assert answer.json()["classes"] == names.split("\n"), "somebody else's answer"
        elif answer.status_code == 429:
            await asyncio.sleep(min(int(answer.headers["retry-after"]), self.until - since))
        else:
            self.errors.append(answer.text)

    async def all(self, count: int) -> None:
        """Lets all ask at once."""
        await asyncio.gather(*(self.ask(number) for number in range(count)))


def watch(
    process: psutil.Process, found: list[tuple[float, float]], ended: threading.Event
) -> None:
    """Notes what the process that answers holds, and all of them, in MiB; shared pages once."""
    while not ended.wait(1.0):
        held = []
        for each in (process, *process.children(recursive=True)):
            try:
                held.append(each.memory_full_info().pss / 2**20)
            except psutil.Error:
                continue
        found.append((held[0], sum(held)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="folder of MP4 files")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--new", type=float, default=1 / 3, help="share of contents that are new")
    parser.add_argument("--model", default="imagenet")
    asked = parser.parse_args()
    clips = [path.read_bytes() for path in sorted(asked.clips.glob("*.mp4"))]
    command = [sys.executable, "-m", "tcaf", "serve", asked.model, "--port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        url = re.search(r"http://\S+", server.stdout.readline())[0]
        process = psutil.Process(server.pid)
        memory: list[tuple[float, float]] = []
        ended = threading.Event()
        watcher = threading.Thread(target=watch, args=(process, memory, ended))
        watcher.start()
        clients = Clients(url, clips, time.monotonic() + asked.seconds, asked.new)
        asyncio.run(clients.all(asked.clients))
        load = httpx.get(f"{url}api/v1/health").json()["load"]
        times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        ended.set()
        watcher.join()
        server.terminate()
        code = server.wait(60)
        log.seek(0)
        told = log.read()
    size = max(len(memory) // PARTS, 1)
    parts = [memory[k : k + size] for k in range(0, len(memory), size)][:PARTS]
    value = {
        "clients": asked.clients,
        "seconds": asked.seconds,
        "statuses": dict(clients.statuses),
        "errors": clients.errors[:10],
        "median_s": {k: round(statistics.median(v), 2) for k, v in clients.took.items() if v},
        "slowest_s": {k: round(max(v), 2) for k, v in clients.took.items() if v},
        "answered": {k: len(v) for k, v in clients.took.items()},
        "mib_of_all": [round(max(all_ for _, all_ in part)) for part in parts],
        "mib_of_the_one_that_answers": [round(max(own for own, _ in part)) for part in parts],
        "processor_s": round(sum(each.user + each.system for each in times)),
        "load_at_the_end": load,
        "exit": code,
        "log": told[-2000:],
    }
    print(json.dumps(value, indent=2))
    if clients.errors or code:
        raise SystemExit("errors")


if __name__ == "__main__":
    main()
