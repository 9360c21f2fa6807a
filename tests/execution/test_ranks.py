"""Processes of torchrun: what each knows, who speaks, and how they end together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tcaf.commands.catalogue import COMMANDS, OF_RANKS
from tcaf.commands.entry import main
from tcaf.errors import TCAFError
from tcaf.execution import ranks
from tcaf.execution.ranks import Rank
from torchrun import LIMIT_S, command, environment, said, torchrun

TORCHRUNS = {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1"}


@pytest.fixture
def as_second(monkeypatch):
    for name, value in TORCHRUNS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("number", "count"), [(64, 1), (64, 3), (7, 4), (3, 3), (0, 2)])
def test_shares_are_all_there_is(number, count):
    shares = [Rank(index, count).share(number) for index in range(count)]
    assert [n for share in shares for n in range(number)[share]] == list(range(number))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_what_torchrun_says(as_second):
    assert ranks.started() == Rank(1, 3, 1)
    assert not ranks.speaks()
    # Others have not been joined.
    assert ranks.current() == Rank()


def test_without_torchrun(monkeypatch):
    # Some machines have this one set for other reasons.
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    assert ranks.started() == ranks.current() == Rank()
    assert ranks.speaks()


@pytest.mark.parametrize("given", [{"RANK": "3"}, {"RANK": "one"}, {"WORLD_SIZE": "0"}])
def test_variables_that_make_no_rank(monkeypatch, capsys, as_second, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    message = "expected numbers in the variables RANK, WORLD_SIZE"
    with pytest.raises(TCAFError, match=message):
        ranks.started()
    assert main(["train"]) == 2
    assert message in capsys.readouterr().err


def test_alone_nothing_happens():
    tensor = torch.tensor([1.0, 2.0])
    with ranks.joined(), ranks.first_ahead():
        ranks.barrier()
        ranks.add_up(tensor)
        assert ranks.gathered(tensor) is tensor
        assert ranks.from_first("value") == "value"
        assert ranks.of_all(3.0) == [3.0]
    assert tensor.tolist() == [1, 2]


def test_being_alone_imports_no_torch():
    code = (
        "import sys; from tcaf.execution import ranks\n"
        "with ranks.joined(): ranks.barrier(); ranks.add_up(); ranks.from_first(1)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("words", [" ".join(w) for w in COMMANDS if w not in OF_RANKS])
def test_other_commands_are_refused(monkeypatch, capsys, words):
    for name, value in {**TORCHRUNS, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"tcaf: tcaf {words} is done by one process, and torchrun has started 3; start it without "
        "torchrun, which is for tcaf train\n"
    )


@pytest.mark.parametrize("arguments", [["reproduce"], ["train", "--sed", "1"]])
def test_the_others_are_silent(as_second, capfd, arguments):
    """All say the same of what is wrong with the arguments: the first one does."""
    assert main(arguments) == 2
    assert capfd.readouterr() == ("", "")


# --- Real processes ---

SIZES = {
    "num_layers": 1,
    "num_heads": 3,
    "head_dim": 2,
    "token_dim": 13,
    "joint_dim": 17,
    "encoder_hidden_dim": 19,
    "projection_hidden_dim": 23,
    "position_dim": 4,
    **{f"dropout_{n}": 0.0 for n in ("encoder", "position", "transformer")},
    **{f"dropout_{n}_projection": 0.0 for n in ("text", "video")},
}


def training(store, out, *more, epochs=3, batches=5):
    """Returns the arguments of a small training without dropout."""
    sizes = [f"--model.{name}={value}" for name, value in SIZES.items()]
    steps = [f"--training.epochs={epochs}", f"--training.batches_per_epoch={batches}"]
    fixed = ["--training.batch_size=11", "--training.learning_rate=1e-4", "--training.device=cpu"]
    place = ["--store", str(store.path), "--out", str(out), "--system", "tcaf"]
    return ["train", *place, *sizes, *steps, *fixed, "--fidelity.stage_2_epochs=release", *more]


def alone(arguments):
    run = [sys.executable, "-m", "tcaf", *arguments]
    subprocess.run(run, env=environment(), check=True, capture_output=True)


def records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def same_course(one, other):
    """Whether two runs have had the same losses and scores, and chosen the same."""
    mine, theirs = records(one), records(other)
    assert [(r["stage"], r["epoch"]) for r in mine] == [(r["stage"], r["epoch"]) for r in theirs]
    for record, expected in zip(mine, theirs, strict=True):
        assert record["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    results = [json.loads((out / "result.json").read_text()) for out in (one, other)]
    assert results[0]["test"]["gamma"] == results[1]["test"]["gamma"]
    for score in ("seen", "unseen", "harmonic_mean", "zsl"):
        assert results[0]["test"][score] == pytest.approx(results[1]["test"][score], abs=1e-9)


@pytest.fixture(scope="module")
def whole(tiny_store, tmp_path_factory):
    """A run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    alone(training(tiny_store, out))
    return out


@pytest.mark.slow
def test_two_processes_train_one_run(tiny_store, whole, tmp_path):
    out = tmp_path / "run"
    ended = torchrun(2, tmp_path / "logs", "-m", "tcaf", *training(tiny_store, out, "--json"))
    assert ended.code == 0, ended.err
    assert json.loads(ended.out[0])["test"]
    assert ended.out[1] == ended.err[1] == ""
    # No word of torch's own, and each epoch said once.
    lines = ended.err[0].splitlines()
    assert lines[0].startswith("settings: ")
    assert sum(" 1/3 " in f" {line} " for line in lines) == 2
    assert not [line for line in lines if "reducer" in line or "arning: `" in line]
    assert sorted(path.name for path in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert json.loads((out / "provenance.json").read_text())["processes"] == 2
    same_course(out, whole)


PLUGIN = """
import os
import time
from dataclasses import replace
from pathlib import Path

from tcaf import TCAFError, register
from tcaf.systems.registry import find_system

steps = 0

def objective(*given):
    global steps
    steps += 1
    if os.environ.get("VICTIM", "nobody") == os.environ.get("RANK"):
        if os.environ["FATE"] == "error":
            raise TCAFError("the disc is full here")
        if steps == 8:
            Path(os.environ["FATE"]).write_text(str(os.getpid()))
            time.sleep(600)
    return find_system("tcaf").objective(*given)

register(replace(find_system("tcaf"), name="own", title="Own", objective=objective))
"""


@pytest.fixture
def own_training(tiny_store, tmp_path):
    """The arguments of a training whose objective brings harm to the rank that is its victim."""
    plugin = tmp_path / "own.py"
    plugin.write_text(PLUGIN)
    arguments = training(tiny_store, tmp_path / "run", "--plugin", str(plugin))
    arguments[arguments.index("tcaf")] = "own"
    return arguments


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_an_error_of_one_ends_all_with_its_line(own_training, tmp_path, monkeypatch, victim):
    monkeypatch.setenv("VICTIM", str(victim))
    monkeypatch.setenv("FATE", "error")
    ended = torchrun(2, tmp_path / "logs", "-m", "tcaf", *own_training)
    assert ended.code == 1
    assert "exitcode  : 2" in ended.told
    errors = [[line for line in err.splitlines() if "tcaf: " in line] for err in ended.err]
    assert errors[victim] == ["tcaf: the disc is full here"]
    assert errors[1 - victim] == []
    assert not any("Traceback" in err or "interrupted" in err for err in ended.err)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_an_error_that_all_have_is_said_once(tiny_store, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("")
    ended = torchrun(2, tmp_path / "logs", "-m", "tcaf", *training(tiny_store, out))
    assert "exitcode  : 2" in ended.told
    (line,) = [line for err in ended.err for line in err.splitlines() if "tcaf: " in line]
    assert "holds 'mine.txt' and no run" in line


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "count"), [(1, 1), (0, 2)])
def test_a_rank_is_killed_and_the_run_resumed(
    own_training, whole, tmp_path, monkeypatch, victim, count
):
    """In the middle of an epoch, the first or another; then by one process, or by two."""
    out, logs, pid = tmp_path / "run", tmp_path / "logs", tmp_path / "pid"
    monkeypatch.setenv("VICTIM", str(victim))
    monkeypatch.setenv("FATE", str(pid))
    started = command(2, logs, "-m", "tcaf", *own_training)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(started, env=environment(), text=True, **pipes) as process:
        until = time.monotonic() + LIMIT_S / 2
        while not (pid.is_file() and pid.read_text()) and time.monotonic() < until:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        os.kill(int(pid.read_text()), signal.SIGKILL)
        process.communicate(timeout=LIMIT_S / 2)
    assert process.returncode == 1
    assert len(records(out)) == 1
    assert (out / "checkpoint.safetensors").is_file()
    # The other one ends, and says no more than that.
    left = said(2, logs, "stderr")[1 - victim]
    assert "Traceback" not in left
    assert "has ended without a word" in left or "interrupted" in left

    monkeypatch.delenv("VICTIM")
    if count == 1:
        alone([*own_training, "--resume"])
    else:
        ended = torchrun(2, tmp_path / "more", "-m", "tcaf", *own_training, "--resume")
        assert ended.code == 0, ended.err
    same_course(out, whole)
    (resumed,) = json.loads((out / "provenance.json").read_text())["resumed"]
    assert resumed["processes"] == count
