"""Whatever a file may hold: a command ends well, or with one line and exit status 2.

Every kind of file that a command reads is damaged (`fuzzing.KINDS`), and a command that reads it is
run in this process; media files are decoded in others. What counts is how it ends: no traceback, no
second line. `make fuzz` runs many more, in processes whose time and memory are watched.
"""

import random

import pytest

for needed in ("av", "gensim", "google_crc32c", "google.protobuf", "efficientnet_lite_pytorch"):
    pytest.importorskip(needed)

from fuzzing import KINDS, damaged_copy, ended  # noqa: E402
from mutations import in_bytes, write_mutated  # noqa: E402
from write_one_of_each import write_one_of_each  # noqa: E402

ROUNDS = 6
"""Damaged files of each kind, and of media for each command."""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_one_of_each(tmp_path_factory.mktemp("whole"))


@pytest.fixture(autouse=True)
def _quick(quick):
    """Starts the processes that decode in no time."""


@pytest.mark.parametrize("kind", KINDS)
def test_damage_ends_in_one_line(kind, whole, tmp_path, monkeypatch):
    many = KINDS[kind].many
    for turn in range(ROUNDS if many == 1 else len(KINDS[kind].commands)):
        numbers = range(turn * many, turn * many + min(many, ROUNDS))
        here = tmp_path / str(turn)
        command = damaged_copy(whole, here, kind, numbers, seed=0)
        monkeypatch.chdir(here)
        found = ended(command)
        assert found.how in ("well", "refused"), (command, numbers, found.more)
        monkeypatch.undo()


ONCE = {
    tuple(command): (name, number * kind.many)
    for name, kind in KINDS.items()
    for number, command in enumerate(kind.commands)
}


@pytest.mark.parametrize(("kind", "number"), ONCE.values())
def test_whole_files_are_read(kind, number, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("fuzzing.write_mutated", lambda *given: None)
    here = tmp_path / "here"
    command = damaged_copy(whole, here, kind, [number], seed=0)
    monkeypatch.chdir(here)
    found = ended(command)
    assert found.how == "well", (command, found.more)


def test_what_ends_in_a_traceback_is_found(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("tcaf.data.store.FeatureStore.open", lambda path: {}["key"])
    here = tmp_path / "here"
    command = damaged_copy(whole, here, "shard", [0], seed=0)
    monkeypatch.chdir(here)
    found = ended(command)
    assert found.how == "traceback"
    assert "KeyError: 'key'" in found.more


def test_the_mutations_change_something(whole, tmp_path):
    content, found = (whole / "store" / "store.json").read_bytes(), set()
    rng = random.Random(0)
    for _ in range(50):
        write_mutated(whole / "store" / "store.json", tmp_path / "x", (in_bytes,), rng)
        found.add((tmp_path / "x").read_bytes())
    assert len(found - {content}) > 40
