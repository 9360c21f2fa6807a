"""Puts a service under load: many clients at once, for minutes; what they get and what it takes.

Each client sends one clip after the other: every third has a content that the service has not read
yet, the others come again with other names. Whoever is told to come again does so when told. Any
answer but 200 and 429, and any that does not come, is an error; there must be none.
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
    """

    def __init__(self, url: str, clips: list[bytes], until: float) -> None:
        self.url, self.clips, self.until = url, clips, until
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
        is_new = rng.random() < 1 / 3
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


def watch(process: psutil.Process, found: list[float], ended: threading.Event) -> None:
    """Notes what all processes of the service hold, in MiB; shared pages count once."""
    while not ended.wait(1.0):
        total = 0
        for each in (process, *process.children(recursive=True)):
            try:
                total += each.memory_full_info().pss
            except psutil.Error:
                continue
        found.append(total / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="folder of MP4 files")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--model", default="imagenet")
    asked = parser.parse_args()
    clips = [path.read_bytes() for path in sorted(asked.clips.glob("*.mp4"))]
    command = [sys.executable, "-m", "tcaf", "serve", asked.model, "--port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        url = re.search(r"http://\S+", server.stdout.readline())[0]
        process = psutil.Process(server.pid)
        memory: list[float] = []
        ended = threading.Event()
        watcher = threading.Thread(target=watch, args=(process, memory, ended))
        watcher.start()
        clients = Clients(url, clips, time.monotonic() + asked.seconds)
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
    parts = [max(memory[k : k + size]) for k in range(0, len(memory), size)][:PARTS]
    value = {
        "clients": asked.clients,
        "seconds": asked.seconds,
        "statuses": dict(clients.statuses),
        "errors": clients.errors[:10],
        "median_s": {k: round(statistics.median(v), 2) for k, v in clients.took.items() if v},
        "slowest_s": {k: round(max(v), 2) for k, v in clients.took.items() if v},
        "answered": {k: len(v) for k, v in clients.took.items()},
        "mib": [round(each) for each in parts],
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
