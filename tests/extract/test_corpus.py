"""Many files over several processes: what fails, hangs or is killed, and what is taken up again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ended import still_running
from pool_work import SPEC, Obeying, media_file
from tcaf.errors import TCAFError
from tcaf.extract.corpus import _open_worker, extract_files
from tcaf.extract.work_folder import Extracted, MediaFile, Reject, WorkFolder


@pytest.fixture
def work(tmp_path):
    return WorkFolder.open(tmp_path / "out.extracted", SPEC)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("MemoryError", "MemoryError: no room for it"),
        ("OSError", "OSError: [Errno 5] Input/output error"),
        ("bug", "KeyError: 'some key'"),
    ],
)
def test_what_fails_is_told_and_tried_again(tmp_path, work, said, told):
    file = media_file(tmp_path, content=said.encode())
    (answer,) = _open_worker(Obeying(), work.path)((file,), print)
    assert (answer.id, answer.reason) == (file.id, "failed")
    assert f"{file.path}: failed ({told}" in answer.detail
    assert "\n" not in answer.detail
    assert work.find(file) is None


def test_notes_of_the_extractor_are_kept(tmp_path, work):
    file = media_file(tmp_path, content=b"silent")
    assert _open_worker(Obeying(), work.path)((file,), print) == []
    assert work.find(file).notes == ("the sound is silent",)


def files_that_say(folder, *words):
    return [media_file(folder, f"{word}.mp4", word.encode()) for word in words]


@pytest.mark.slow  # starts several processes
def test_which_rejects_last(tmp_path):
    files = files_that_say(tmp_path, "a", "SIGSEGV", "SIGKILL", "SIGTERM", "MemoryError", "b")
    folder = tmp_path / "work"
    _, found = extract_files(files, Obeying(), folder, workers=2)
    reasons = {each.id: each.reason for each in found if isinstance(each, Reject)}
    assert reasons == {
        "SIGSEGV.mp4": "decoder crashed",
        "SIGKILL.mp4": "killed, perhaps for want of memory",
        "SIGTERM.mp4": "killed",
        "MemoryError.mp4": "failed",
    }
    assert "ended by SIGKILL" in found[2].detail
    kept = WorkFolder(folder)
    assert [kept.find(file) is None for file in files] == [False, False, True, True, True, False]
    # Better luck next time.
    files[2].path.write_text("c")
    _, again = extract_files(files, Obeying(), folder, workers=1)
    assert isinstance(again[2], Extracted)
    assert again[1] == found[1]


def test_what_is_taken_up_again_is_computed_on_as_many_cores(tmp_path, monkeypatch):
    """More threads round otherwise, so that a killed run would end with other bits."""
    given = []

    def spy(tasks, open_, arguments, workers, **rest):
        given.append((len(tasks), workers))
        work = open_(*arguments)
        for task in tasks:
            yield task, work(task, print)

    monkeypatch.setattr("tcaf.extract.corpus.answers", spy)
    files = files_that_say(tmp_path, "a", "b", "c")
    extract_files(files, Obeying(), tmp_path / "work", workers=5)
    files[1].path.write_text("another")
    extract_files(files, Obeying(), tmp_path / "work", workers=5)
    assert given == [(3, 3), (1, 3)]


def test_the_largest_files_come_first(tmp_path, monkeypatch):
    given = []

    def spy(tasks, open_, arguments, workers, **rest):
        given.extend(file.id for (file,) in tasks)
        work = open_(*arguments)
        for task in tasks:
            yield task, work(task, print)

    monkeypatch.setattr("tcaf.extract.corpus.answers", spy)
    files = files_that_say(tmp_path, "a", "b", "c")
    files[1].path.write_text("b".ljust(2**20))
    _, found = extract_files(files, Obeying(), tmp_path / "work", workers=1)
    assert given == ["b.mp4", "a.mp4", "c.mp4"]
    assert [one.id for one in found] == ["a.mp4", "b.mp4", "c.mp4"]


def test_segments_of_a_file_are_one_job_and_are_taken_up_one_by_one(tmp_path, monkeypatch):
    given = []

    def spy(tasks, open_, arguments, workers, **rest):
        given.append([[file.id for file in task] for task in tasks])
        work = open_(*arguments)
        for task in tasks:
            yield task, work(task, print)

    monkeypatch.setattr("tcaf.extract.corpus.answers", spy)
    a, b = files_that_say(tmp_path, "a", "b")
    files = [b, *(MediaFile(a.name, a.path, (start, start + 1.5)) for start in (0.0, 1.0, 2.0))]
    names = ["a.mp4@0-1.5", "a.mp4@1-2.5", "a.mp4@2-3.5"]
    assert [file.id for file in files] == ["b.mp4", *names]
    _, first = extract_files(files, Obeying(), tmp_path / "work", workers=1)
    # As a run leaves it that was killed before it had kept the last of them.
    (tmp_path / "work" / "clips" / f"{files[2].key}.safetensors").unlink()
    _, again = extract_files(files, Obeying(), tmp_path / "work", workers=1)
    assert given == [[["b.mp4"], names], [["a.mp4@1-2.5"]]]
    assert again == first
    assert [found.features().id for found in again] == ["b.mp4", *names]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_file_that_takes_too_long_is_left_out(tmp_path):
    files = files_that_say(tmp_path, "a", "sleep", "b")
    folder = tmp_path / "work"
    _, found = extract_files(files, Obeying(), folder, workers=1, file_timeout_s=0.5)
    assert [type(each) for each in found] == [Extracted, Reject, Extracted]
    assert found[1].reason == "takes too long"
    assert found[1].detail == (
        f"{files[1].path}: takes too long (not done within 1 s; --file_timeout_s gives more time)"
    )
    # Another run may give it more.
    assert WorkFolder(folder).find(files[1]) is None


@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from /proc")
def test_a_file_that_takes_too_much_memory_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("tcaf.extract.corpus.FILE_MEMORY", 2.0**27)
    files = files_that_say(tmp_path, "a", "greedy", "b")
    folder = tmp_path / "work"
    _, found = extract_files(files, Obeying(), folder, workers=1)
    assert [type(each) for each in found] == [Extracted, Reject, Extracted]
    assert found[1].reason == "takes too much memory"
    assert found[1].detail == f"{files[1].path}: takes too much memory (it takes more than 0.1 GiB)"
    assert WorkFolder(folder).find(files[1]) == found[1]


def test_larger_files_may_take_longer(tmp_path):
    file = media_file(tmp_path, content=bytes(3 * 2**19))
    assert file.limit_s(10.0) == 25
    with file.path.open("ab") as more:
        more.truncate(10**10)
    assert file.limit_s(10.0) == 1440
    assert MediaFile("gone", tmp_path / "gone").limit_s(10.0) == 10
    with pytest.raises(TCAFError, match="file_timeout_s must be above 0, got 0"):
        extract_files([file], Obeying(), tmp_path / "work", workers=1, file_timeout_s=0.0)


@pytest.mark.slow  # starts several processes
def test_a_folder_that_cannot_be_written_to_ends_the_run(tmp_path):
    files = files_that_say(tmp_path, "a", "b", "c")
    work = WorkFolder.open(tmp_path / "work", SPEC)
    # Nothing can take its place; a full disk would do as well.
    (work.clips / f"{files[1].key}.safetensors").mkdir()
    with pytest.raises(IsADirectoryError, match=files[1].key):
        extract_files(files, Obeying(), work.path, workers=1)
    assert [work.find(file) is None for file in files] == [False, True, True]
    assert not list(work.rejects.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.usefixtures("quick")
def test_a_full_disk_says_what_is_kept_and_how_to_go_on(tmp_path):
    files = files_that_say(tmp_path, "a", "full disk", "b")
    work = WorkFolder(tmp_path / "work")
    place = work.clips / f"{files[1].key}.safetensors"
    with pytest.raises(TCAFError) as caught:
        extract_files(files, Obeying(), work.path, workers=1)
    assert str(caught.value) == (
        f"no space left to write {place}; 1 of 3 files are done and kept in {work.path}: make room "
        "and repeat the same command, which carries on"
    )
    files[1].path.write_text("room")
    _, found = extract_files(files, Obeying(), work.path, workers=1)
    assert all(isinstance(each, Extracted) for each in found)


RUN = """
import signal, sys
from pathlib import Path
from pool_work import SPEC, Obeying, media_file
from tcaf.extract.corpus import extract_files
from tcaf.extract.work_folder import MediaFile

def stop(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
files = [MediaFile(path.name, path) for path in sorted(Path(sys.argv[1]).iterdir())]
try:
    extract_files(files, Obeying(), Path(sys.argv[2]), workers=2)
except KeyboardInterrupt:
    sys.exit(143)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers_first", [True, False])
def test_the_end_of_all_processes_rejects_nothing(tmp_path, workers_first):
    psutil = pytest.importorskip("psutil")
    files_that_say(tmp_path / "clips", "a", "sleep", "tired")
    (tmp_path / "clips" / "tired.mp4").write_text("sleep")
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, tmp_path / "clips", tmp_path / "work"],
        cwd=Path(__file__).parents[1],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    work = WorkFolder(tmp_path / "work")
    deadline = time.monotonic() + 120
    while not list(work.clips.glob("*.safetensors")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(run.pid).children()
    if workers_first:
        for child in children:
            child.terminate()
        time.sleep(0.1)
        run.terminate()
    else:
        os.killpg(run.pid, signal.SIGTERM)
    _, error = run.communicate(timeout=60)
    assert (run.returncode, error) == (143, "")
    assert not still_running(children, timeout=10)
    assert not list(work.rejects.iterdir())


REAL_RUN = """
import sys
from pathlib import Path
from tcaf.extract.corpus import Backbones, extract_files
from tcaf.extract.work_folder import MediaFile

if __name__ == "__main__":
    backbones = Backbones("logmel", "efficientnet_lite0:frames=1")
    extract_files([MediaFile("x", Path(sys.argv[1]))], backbones, Path(sys.argv[2]), workers=1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks which files a process has open")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_worker_on_an_endless_file_ends_with_its_parent(tmp_path, end):
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("av")
    from damaged import write_clip

    path = write_clip(tmp_path / "x.wav", 0, audio_seconds=2, audio_codec="pcm_s16le")
    data = bytearray(path.read_bytes())
    # Four gigabytes of silence, which take no room on the disk, are more than a day.
    data[4:8] = (2**32 - 20).to_bytes(4, "little")
    place = data.index(b"data") + 4
    data[place : place + 4] = (2**32 - 200).to_bytes(4, "little")
    path.write_bytes(data)
    with path.open("ab") as file:
        file.truncate(2**32)
    script = tmp_path / "run.py"
    script.write_text(REAL_RUN)
    run = subprocess.Popen(
        [sys.executable, script, path, tmp_path / "work"], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    workers = []
    while not workers:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < until
        children = psutil.Process(run.pid).children()
        workers = [c for c in children if str(path) in [f.path for f in c.open_files()]]
        time.sleep(0.1)
    run.send_signal(end)
    alive = still_running(workers, timeout=2)
    for worker in alive:
        worker.kill()
    assert not alive
    assert run.communicate(timeout=10)[1] == ""
