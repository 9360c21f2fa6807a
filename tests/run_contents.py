"""What the JSON files of a run hold: whole ones, of which a test changes what it is about."""

import json


def without_digests(folder):
    """Leaves a run as earlier releases did, so that a test may change its files; returns it."""
    file = folder / "result.json"
    if file.is_file():
        kept = json.loads(file.read_text())
        rest = {name: own for name, own in kept.items() if name not in ("files", "sha256")}
        file.write_text(json.dumps(rest))
    return folder


SCORES = {
    "seen": 0.5,
    "unseen": 0.25,
    "harmonic_mean": 1 / 3,
    "zsl": 0.4,
    "gamma": 0.5,
    "gamma_on_edge": False,
}
RESULT = {
    "test": {**SCORES, "curve_area": 0.2},
    "choice": {"epoch": 3, "gamma": 0.5, "validation": SCORES},
    "seed": 0,
    "seconds": 13.0,
}
PROVENANCE = {
    "commit": "abc123",
    "command": ["tcaf", "train"],
    "started": "2026-01-02T03:04:05",
    "versions": {"tcaf": "0.1", "torch": "2.6"},
    "machine": "Abacus",
    "cpu": "Abacus",
    "cores": 5,
    "threads": 2,
    "gpu": None,
    "seed": 0,
    "data": {
        "kind": "synthetic",
        "clips": 1234,
        "fingerprint": "0123456789abcdef",
        "split": "fedcba9876543210",
    },
}
