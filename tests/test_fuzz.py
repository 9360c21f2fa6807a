"""Whatever a file may hold: a command ends well, or with one line and exit status 2.

Every kind of file that a command reads is mutated (bits, bytes, cuts, repeats, deep and huge
structures, JSON values of other types), and a command that reads it is run in this process. What
counts is how it ends: no traceback, no second line. `make fuzz` runs more rounds.
"""

import json
import os
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from tcaf.commands.entry import main
from tcaf.training.run import train
from write_words import write_glove

ROUNDS = int(os.environ.get("TCAF_FUZZ_ROUNDS", "6"))
"""Mutations of each kind of file."""

SEED = int(os.environ.get("TCAF_FUZZ_SEED", "0"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_store, tiny_experiment, toml):
    """A folder with one good file of each kind."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(tiny_store.path, folder / "store")
    training = {"epochs": 2, "batches_per_epoch": 2}
    experiment = tiny_experiment(training=training)
    train(experiment, tiny_store, folder / "run")
    toml(folder / "mine.toml", experiment)
    # An unfinished run: what a kill between two epochs leaves.
    stopped = shutil.copytree(folder / "run", folder / "stopped")
    for name in ("result.json", "model.safetensors", "predictions.parquet"):
        (stopped / name).unlink()
    names = sorted(set(tiny_store.class_names.tolist()))
    words = sorted({word for name in names for word in name.replace(",", " ").split()})
    write_glove(folder / "words.txt", {word: [0.5, len(word), 1.0] for word in words})
    rows = [f'"{name}",{number},1' for number, name in enumerate(names)]
    (folder / "attributes.csv").write_text("class,a,b\n" + "\n".join(rows) + "\n")
    phrases = [f'"{name}",{name.split()[0]}' for name in names]
    (folder / "phrases.csv").write_text("name,phrase\n" + "\n".join(phrases) + "\n")
    (folder / "names.txt").write_text("\n".join(names[:3]) + "\n")
    np.save(folder / "vectors.npy", np.array({n: np.ones(3) for n in names}, object))
    assert main(["store", "to-parquet", str(folder / "store"), "--out", str(folder / "copy")]) == 0
    return folder


TRAIN = ["train", "--store", "store", "--config", "mine.toml", "--out", "new"]


def text_of(source, path):
    return [*TRAIN, "--text.source", source, "--text.name", "", "--text.path", path]


KINDS = {
    "store.json": ("store/store.json", [["inspect", "store"], TRAIN]),
    "shard": ("store/shard-00000.arrow", [["inspect", "store"], TRAIN]),
    "text": ("store/text/attributes.safetensors", [TRAIN]),
    "model": ("run/model.safetensors", [["evaluate", "run", "--store", "store"]]),
    "stage 1": (
        "run/stage_1.safetensors",
        [["evaluate", "run", "--store", "store", "--part", "val"]],
    ),
    "run text": ("run/text/classes.safetensors", [["predict", "run", "test", "--store", "store"]]),
    "config.json": ("run/config.json", [["report", "run"], [*TRAIN[:-1], "run", "--resume"]]),
    "provenance": ("run/provenance.json", [["report", "run"], [*TRAIN[:-1], "run", "--resume"]]),
    "metrics": ("run/metrics.jsonl", [["report", "run"]]),
    "result": ("run/result.json", [["report", "run"], [*TRAIN[:-1], "run", "--resume"]]),
    "predictions": ("run/predictions.parquet", [["report", "run"]]),
    "toml": ("mine.toml", [["settings", "--config", "mine.toml"]]),
    "attributes": ("attributes.csv", [text_of("attributes", "attributes.csv")]),
    "phrases": (
        "phrases.csv",
        [[*text_of("glove", "words.txt"), "--text.phrases_file", "phrases.csv"]],
    ),
    "words": ("words.txt", [text_of("glove", "words.txt")]),
    "npy": ("vectors.npy", [text_of("npy", "vectors.npy")]),
    "names": (
        "names.txt",
        [["predict", "run", "test", "--store", "store", "--classes_file", "names.txt"]],
    ),
    "parquet": ("copy/tcaf.json", [["store", "from-parquet", "copy", "--out", "back"]]),
}
"""The file that is mutated, and commands that read it."""

VALUES = (None, True, -1, 0, 1.5, 1e400, float("nan"), "x", "", [], [[]], {}, {"a": 1}, 10**30)


def mutated(content, rng):
    """Returns other bytes than a file's."""
    ways = [flip, overwrite, cut, double, insert]
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        pass
    else:
        ways += [other_value] * 5 + [deep]
    return rng.choice(ways)(bytearray(content), rng)


def flip(content, rng):
    for _ in range(rng.choice([1, 1, 1, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def overwrite(content, rng):
    start = rng.randrange(len(content))
    length = rng.choice([1, 4, 64])
    content[start : start + length] = rng.choice([b"\0", b"\xff", b'"', b",", b"\n", b"9"]) * length
    return bytes(content)


def cut(content, rng):
    return bytes(content[: rng.randrange(len(content))])


def double(content, rng):
    start = rng.randrange(len(content))
    return bytes(content[:start] + content[start // 2 :])


def insert(content, rng):
    start = rng.randrange(len(content))
    more = rng.choice([b"[" * 10**5, b"x" * 200_000, b'"', b"\r", b"\xff\xfe", "é́".encode(), b"="])
    return bytes(content[:start] + more + content[start:])


def deep(content, rng):
    return b'{"a":' * 10**5 + b"1" + b"}" * 10**5


def other_value(content, rng):
    """Puts another value at a random place of a JSON file, or takes a key away."""
    value = json.loads(content)
    holder, key = None, None
    inner = value
    while isinstance(inner, dict | list) and inner and (holder is None or rng.random() < 0.7):
        holder = inner
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        inner = inner[key]
    if holder is None:
        return b"[]"
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(value).encode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_damage_ends_in_one_line(kind, whole, tmp_path, monkeypatch, capsys):
    file, commands = KINDS[kind]
    content = (whole / file).read_bytes()
    rng = random.Random(f"{SEED} {kind}")
    for number in range(ROUNDS):
        here = tmp_path / str(number)
        shutil.copytree(whole, here)
        monkeypatch.chdir(here)
        damage = mutated(content, rng)
        (here / file).write_bytes(damage)
        for command in commands:
            capsys.readouterr()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                status = main(command)
            error = capsys.readouterr().err
            assert status in (0, 2), (number, command)
            if status == 2:
                last = error.splitlines()[-1]
                assert last.startswith("tcaf: "), error
                assert len(last) < 4000, "a line that nobody reads"
        monkeypatch.undo()
        shutil.rmtree(here)


def test_the_mutations_change_something(whole):
    rng = random.Random(0)
    content = Path(whole / "store" / "store.json").read_bytes()
    found = {mutated(content, rng) for _ in range(50)}
    assert len(found) > 40
    assert content not in found
