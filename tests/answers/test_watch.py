"""A live folder: when a file has arrived, what is answered already, kills at any moment."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from tcaf.answers.watch import RECORD, Arrived, Record, arrivals
from tcaf.errors import TCAFError
from write_clip_run import write_run
from write_recording import Scene, write_recording

ASKED = {"model": "/runs/a", "classes": ["ant", "bee"], "every": 10.0}


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when somebody sleeps; what happens at a second is called then."""
    now = SimpleNamespace(seconds=1000.0, then={})

    def sleep(seconds):
        now.seconds += seconds
        now.then.pop(round(now.seconds - 1000), lambda: None)()

    fake = SimpleNamespace(time=lambda: now.seconds, monotonic=lambda: now.seconds, sleep=sleep)
    monkeypatch.setattr("tcaf.answers.watch.time", fake)
    now.sleep = sleep
    return now


def put(path, clock, content=b"x", age_s=0.0):
    """Writes a file as if it were done `age_s` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (clock.seconds - age_s,) * 2)


def answer(record, some):
    """Answers files; returns their names."""
    for file in some:
        record.add(file, {"class": "ant"})
    return [file.path.name for file in some]


def test_a_file_is_waited_for_until_it_rests(tmp_path, clock):
    growing = tmp_path / "growing.mp4"
    put(growing, clock)
    for second in (1, 2, 3, 4):
        content = bytes(second + 1)
        clock.then[second] = lambda content=content: put(growing, clock, content)
    with Record.open(tmp_path / RECORD, tmp_path, ASKED) as record:
        some = next(arrivals(tmp_path, record, 3.0, clock.sleep))
        assert answer(record, some) == ["growing.mp4"]
    # It rests from second 4 on, and 3 seconds are asked for.
    assert clock.seconds == 1007


def test_what_was_moved_in_is_read_at_the_second_look(tmp_path, clock):
    put(tmp_path / "deep" / "new.wav", clock, age_s=0.5)
    put(tmp_path / "deep" / "old.wav", clock, age_s=60)
    put(tmp_path / "older.mp4", clock, age_s=70)
    put(tmp_path / ".hidden.mp4", clock, age_s=70)
    put(tmp_path / "notes.txt", clock, age_s=70)
    with Record.open(tmp_path / RECORD, tmp_path, ASKED) as record:
        found = arrivals(tmp_path, record, 3.0, clock.sleep)
        assert answer(record, next(found)) == ["older.mp4", "old.wav"]
        assert clock.seconds == 1001
        assert answer(record, next(found)) == ["new.wav"]
        assert clock.seconds == 1003
        # Changed behind the answer: it is another one.
        put(tmp_path / "older.mp4", clock, b"other", age_s=10)
        assert answer(record, next(found)) == ["older.mp4"]


def test_a_file_of_the_future_settles_by_our_clock(tmp_path, clock):
    put(tmp_path / "a.mp4", clock, age_s=-3600)
    with Record.open(tmp_path / RECORD, tmp_path, ASKED) as record:
        next(arrivals(tmp_path, record, 3.0, clock.sleep))
    assert clock.seconds == 1003


def test_nothing_is_answered_twice_after_a_restart(tmp_path, clock):
    for name in ("a.mp4", "b.mp4"):
        put(tmp_path / name, clock, age_s=9)
    with Record.open(tmp_path / RECORD, tmp_path, ASKED) as record:
        (a, b) = next(arrivals(tmp_path, record, 3.0, clock.sleep))
        record.add(a, {"class": "ant"})
    with Record.open(tmp_path / RECORD, tmp_path, ASKED) as record:
        assert (len(record), record.has(a), record.has(b)) == (1, True, False)
        assert answer(record, next(arrivals(tmp_path, record, 3.0, clock.sleep))) == ["b.mp4"]
    first, *lines = map(json.loads, (tmp_path / RECORD).read_text().splitlines())
    assert first == {"format": "tcaf-watch", "version": 1, "asked": ASKED}
    assert [(line["file"], line["answers"]) for line in lines] == [
        ("a.mp4", {"class": "ant"}),
        ("b.mp4", {"class": "ant"}),
    ]


def test_a_name_that_is_no_utf_8_is_kept_too(tmp_path):
    file = Arrived(tmp_path / os.fsdecode(b"b\xfd.mp4"), 1, 2)
    with Record.open(tmp_path / RECORD, tmp_path, ASKED) as record:
        record.add(file, {"id": str(file.path), "answers": [{"class": "ant"}]})
    with Record.open(tmp_path / RECORD, tmp_path, ASKED) as record:
        assert record.has(file)


@pytest.mark.slow
def test_a_record_that_was_cut_off_anywhere(tmp_path):
    files = [Arrived(tmp_path / f"{n}.mp4", n, 10 * n) for n in range(3)]
    path = tmp_path / RECORD
    with Record.open(path, tmp_path, ASKED) as record:
        answer(record, files)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with Record.open(path, tmp_path, ASKED) as record:
            done = [record.has(file) for file in files]
            assert done == sorted(done, reverse=True)
            assert sum(done) == max(data[:length].count(b"\n") - 1, 0)
            answer(record, files[sum(done) :])
        assert path.read_bytes() == data


def check_refused(path, folder, message, **other):
    """Checks that a record cannot be opened."""
    record = Record.open(path, folder, {**ASKED, **other})
    with pytest.raises(TCAFError, match=message):
        record.__enter__()


def test_records_of_something_else(tmp_path):
    path = tmp_path / RECORD
    with Record.open(path, tmp_path, ASKED):
        pass
    for key, value, message in (
        ("model", "/runs/b", r"with other model \(/runs/a, now /runs/b\); name another --record"),
        ("classes", ["ant"], r"with other classes \("),
        ("hop", 5.0, r"with other hop \(None, now 5.0\)"),
    ):
        check_refused(path, tmp_path, message, **{key: value})
    for text in ("my notes", "my notes\nand more", '{"format": "another"}\n', "[]\n"):
        path.write_text(text)
        check_refused(path, tmp_path, "is no record of answers; name another --record")
        assert path.read_text() == text
    check_refused(tmp_path, tmp_path, "is a folder")


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / RECORD
    with Record.open(path, tmp_path, ASKED) as record:
        record.add(Arrived(tmp_path / "a.mp4", 1, 2), None)
    path.write_text(path.read_text() + "{}\n")
    check_refused(path, tmp_path, r"is damaged in line 3 \('file'\); remove the line")


def test_one_at_a_time(tmp_path, at_work):
    at_work(tmp_path / RECORD)
    check_refused(tmp_path / RECORD, tmp_path, "another process")


def test_no_folder(tmp_path):
    record = Record.open(tmp_path / "gone" / RECORD, tmp_path / "gone", ASKED)
    with pytest.raises(TCAFError, match="expected a folder to watch"):
        record.__enter__()
    assert not (tmp_path / "gone").exists()
    with Record.open(tmp_path / RECORD, tmp_path, ASKED) as record:
        found = arrivals(tmp_path, record, -1.0)
    with pytest.raises(TCAFError, match="settle_s must be at least 0, got -1"):
        next(found)


PLUGIN = """
from tcaf import register_backbone
from write_clip_run import COLOURS

register_backbone("colours", COLOURS)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_experiment):
    """A run, and the plugin that brings its backbone."""
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("watch")
    write_run(folder, tiny_experiment(training={"epochs": 1, "batches_per_epoch": 3}))
    (folder / "colours.py").write_text(PLUGIN)
    return folder


@pytest.fixture
def watching(run, tmp_path):
    """Starts processes that watch a folder; gives each its lines as they come."""
    (tmp_path / "in").mkdir()
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    with ExitStack() as stack:

        def start(*options, settle_s=0.5):
            command = [sys.executable, "-m", "tcaf", "predict", str(run / "run")]
            command += [
                "--watch",
                str(tmp_path / "in"),
                "--settle_s",
                str(settle_s),
                "--workers",
                "1",
            ]
            command += ["--plugin", str(run / "colours.py"), *map(str, options)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            environment = {**os.environ, "PYTHONPATH": path}
            process = stack.enter_context(subprocess.Popen(command, env=environment, **pipes))
            stack.callback(process.kill)
            return process

        yield start


def recorded(folder):
    """What the record says, by file."""
    path = folder / RECORD
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["file"] for line in lines[1:]]


def move_in(path):
    """Puts a recording into a folder at one go."""
    elsewhere = path.parents[1] / path.name
    write_recording(elsewhere, [Scene(2.0)], sight=False).replace(path)


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_asked_to_end(watching, tmp_path, number):
    psutil = pytest.importorskip("psutil")
    folder = tmp_path / "in"
    process = watching("--jsonl")
    wait_for(lambda: (folder / RECORD).exists(), process)
    move_in(folder / "a.wav")
    line = json.loads(process.stdout.readline())
    assert line["id"] == str(folder / "a.wav")
    wait_for(lambda: recorded(folder) == ["a.wav"], process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert output == ""
    assert "files answered; the same command goes on with what comes" in error
    assert "Traceback" not in error
    assert not psutil.wait_procs(children, timeout=10)[1]
    # With what has come meanwhile.
    move_in(folder / "b.wav")
    process = watching("--jsonl")
    assert json.loads(process.stdout.readline())["id"] == str(folder / "b.wav")
    wait_for(lambda: recorded(folder) == ["a.wav", "b.wav"], process)


@pytest.mark.slow
def test_killed_at_any_moment_each_file_is_answered_once(watching, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    names = [f"{n}.mkv" for n in range(6)]
    for name in names:
        write_recording(folder / name, [Scene(3.0)])
    options = ("--every", 1, "--out", out, "--format", "vtt")
    for wanted in range(1, 6):
        process = watching(*options)
        wait_for(lambda wanted=wanted: len(recorded(folder)) >= wanted, process)
        time.sleep(0.005 * wanted)
        process.kill()
        process.wait()
        for path in out.glob("*.vtt"):
            assert path.read_text().startswith("WEBVTT\n\n00:00:00.000 --> ")
    process = watching(*options)
    wait_for(lambda: len(recorded(folder)) == len(names), process)
    time.sleep(2)
    assert sorted(recorded(folder)) == names
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.vtt" for name in names]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


@pytest.mark.slow
def test_a_file_that_is_being_written_is_waited_for(watching, tmp_path):
    folder = tmp_path / "in"
    whole = write_recording(tmp_path / "whole.wav", [Scene(8.0)], sight=False).read_bytes()
    # Where much else runs, a pause between two pieces may take seconds.
    process = watching("--every", 1, "--jsonl", "--apart", settle_s=4)
    wait_for(lambda: (folder / RECORD).exists(), process)
    with (folder / "a.wav").open("wb", buffering=0) as file:
        for start in range(0, len(whole), len(whole) // 20 + 1):
            file.write(whole[start : start + len(whole) // 20 + 1])
            time.sleep(0.2)
            assert not recorded(folder)
    wait_for(lambda: recorded(folder) == ["a.wav"], process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    ends = [json.loads(line)["end"] for line in output.splitlines()]
    assert ends[-1] == pytest.approx(8.0, abs=0.1)
    assert len(ends) == len(set(ends))
