"""Processes that work on tasks: order, moments, crashes, ends."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from multiprocessing import active_children
from pathlib import Path

import pytest

from ended import still_running
from pool_work import (
    open_badly,
    open_counting,
    open_double,
    open_environment,
    open_once,
    open_reporting,
    open_slowly,
)
from tcaf.errors import TCAFError
from tcaf.execution.outcomes import Crash, Failed, Killed, OutOfMemory, OutOfTime
from tcaf.execution.processes import PATIENT, answers, events, usable_cores
from tcaf.execution.worker import Moment


@pytest.fixture(params=["quick", pytest.param("real", marks=pytest.mark.slow)])
def processes(request):
    """Runs a test with processes that start quickly and, among the slow tests, with real ones."""
    if request.param == "quick":
        request.getfixturevalue("quick")


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
def test_every_task_is_answered_once():
    before = active_children()
    found = dict(answers([1, 2, 3, 5, 7], open_double, (11,), 2))
    assert found == {1: 11, 2: 22, 3: 33, 5: 55, 7: 77}
    assert active_children() == before


@pytest.mark.usefixtures("processes")
def test_a_crash_takes_nothing_else_along():
    tasks = ["a", "SIGSEGV", "b", "exit", "c"]
    found = dict(answers(tasks, open_double, (2,), 1))
    assert {found[name] for name in "abc"} == {"aa", "bb", "cc"}
    assert found["SIGSEGV"] == Crash("the process was ended by SIGSEGV")
    assert found["exit"] == Crash("the process ended with exit status 3")


@pytest.mark.usefixtures("processes")
def test_what_crashed_is_tried_once_more_in_a_new_process(tmp_path):
    found = dict(answers(["a", "b"], open_once, (tmp_path,), 1))
    first, second = (found[name] for name in "ab")
    processes = {first[0], first[1], second[0], second[1]}
    # The second task crashes the process that has answered the first one.
    assert first[1] == second[0]
    assert len(processes) == 3
    assert first[2] == usable_cores()


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
def test_an_end_from_outside_is_no_crash():
    tasks = ["SIGKILL", "SIGTERM", "a", "SIGUSR1"]
    found = dict(answers(tasks, open_double, (2,), 2))
    assert found == {
        "SIGKILL": Killed("the process was ended by SIGKILL", True),
        "SIGTERM": Killed("the process was ended by SIGTERM", False),
        "SIGUSR1": Killed("the process was ended by SIGUSR1", False),
        "a": "aa",
    }


@pytest.mark.usefixtures("processes")
def test_what_a_process_raises_is_raised_here():
    before = active_children()
    found = answers(["a", "full", "b"], open_double, (2,), 1)
    assert next(found) == ("a", "aa")
    with pytest.raises(OSError, match="No space left") as caught:
        next(found)
    assert (caught.value.errno, caught.value.filename) == (28, "features")
    with pytest.raises(RuntimeError, match="KeyError: 'some key'"):
        list(answers(["bug"], open_double, (2,), 1))
    assert active_children() == before


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("how", "why"),
    [("exit", "the process ended with exit status 7"), ("raise", "MemoryError: no room")],
)
def test_a_worker_that_cannot_start_is_an_error(how, why):
    with pytest.raises(TCAFError, match=f"no process starts: {why}"):
        list(answers([1], open_badly, (how,), 2))


@pytest.mark.usefixtures("processes")
def test_leaving_early_ends_the_processes():
    before = active_children()
    found = answers(["a", "sleep", "sleep"], open_double, (2,), 2)
    assert next(found)[0] == "a"
    assert len(active_children()) > len(before)
    found.close()
    assert active_children() == before


def test_no_workers():
    with pytest.raises(TCAFError, match="--workers must be at least 1, got 0"):
        list(answers([1], open_double, (2,), 0))


@pytest.mark.usefixtures("processes")
def test_a_process_that_does_not_hear_is_ended():
    before = active_children()
    found = answers(["a", "sleep"], open_double, (2,), 2)
    assert next(found)[0] == "a"
    (worker,) = set(active_children()) - set(before)
    os.kill(worker.pid, signal.SIGSTOP)
    found.close()
    assert active_children() == before


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
def test_a_task_that_takes_too_long_is_given_up():
    """Once, and its process with it; the others go on, and those without a limit take their time.

    The time in which a process gets ready does not count.
    """
    before = active_children()
    limits = {"sleep": 0.3}
    done = answers(
        ["a", "sleep", "b", "c"], open_double, (2,), 1, limit=lambda task: limits.get(task, 300)
    )
    assert list(done) == [("a", "aa"), ("sleep", OutOfTime(0.3)), ("b", "bb"), ("c", "cc")]
    assert active_children() == before
    assert dict(answers(["a"], open_slowly, (), 1, limit=lambda task: 0.3)) == {"a": "a"}
    assert str(OutOfTime(90.4)) == "not done within 90 s"


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from /proc")
def test_a_task_that_takes_too_much_memory_is_given_up():
    """Once, and its process with it; what the process had before does not count."""
    before = active_children()
    done = answers(["a", "greedy", "b"], open_double, (2,), 1, limit_bytes=2.0**27)
    assert list(done) == [("a", "aa"), ("greedy", OutOfMemory(2.0**27)), ("b", "bb")]
    assert active_children() == before
    assert str(OutOfMemory(2.0**32)) == "it takes more than 4.0 GiB"


@pytest.mark.usefixtures("processes")
def test_moments_come_before_the_answer():
    news = []
    done = answers([2, 3], open_reporting, (), 1, watch=lambda *moment: news.append(moment))
    with closing(done):
        for task, answer in done:
            news.append((task, "answer", answer[0]))
    assert news == [
        # The process takes a task before it is ready, and the next one before we have the answer.
        *((2, None), (2, 0), (2, 1), (3, None), (2, "answer", 2)),
        *((3, 0), (3, 1), (3, 2), (3, "answer", 3)),
    ]


@pytest.mark.slow
def test_processes_have_an_environment_of_their_own(monkeypatch):
    monkeypatch.setenv("TCAF_TEST_KEPT", "mine")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    added = {**PATIENT, "TCAF_TEST_KEPT": "other"}
    found = dict(answers([*added], open_environment, (), 1, environment=added))
    assert found == {"OMP_WAIT_POLICY": "passive", "TCAF_TEST_KEPT": "mine"}
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("fresh", [False, True])
def test_a_new_process_for_each_task(fresh):
    done = list(answers([1, 2, 3], open_reporting, (), 1, fresh=fresh))
    assert [task for task, _ in done] == [1, 2, 3]
    assert len({process for _, (_, process) in done}) == (3 if fresh else 1)


@pytest.mark.usefixtures("processes")
def test_a_crash_is_not_tried_again_where_nobody_wants_it(tmp_path):
    ((task, answer),) = answers(["a"], open_once, (tmp_path,), 1, tries=1)
    assert (task, answer) == ("a", Crash("the process was ended by SIGSEGV"))
    assert str(answer) == "the process was ended by SIGSEGV"


@pytest.mark.usefixtures("processes")
def test_failures_as_answers():
    """Of their tasks alone, and the process goes on."""
    tasks = ["full", "bug", "wrong", "SIGKILL", "a"]
    found = dict(answers(tasks, open_double, (2,), 1, raises=False))
    assert found["a"] == "aa"
    errors = {name: found[name].error for name in ("full", "bug", "wrong")}
    assert (type(errors["full"]), errors["full"].errno) == (OSError, 28)
    assert (type(errors["bug"]), str(errors["bug"])) == (RuntimeError, "KeyError: 'some key'")
    assert (type(errors["wrong"]), str(errors["wrong"])) == (TCAFError, "expected b, got a")
    assert 'raise KeyError("some key")' in found["bug"].trace
    killed = "the process was ended by SIGKILL, perhaps for want of memory"
    assert str(found["SIGKILL"]) == killed


@pytest.mark.usefixtures("processes")
def test_no_process_starts_as_an_answer():
    found = dict(answers([1, 2], open_badly, ("exit",), 2, raises=False))
    assert found == dict.fromkeys([1, 2], Crash("the process ended with exit status 7"))
    found = dict(answers([1, 2], open_badly, ("raise",), 1, raises=False))
    assert all(isinstance(answer, Failed) for answer in found.values())
    assert [str(answer.error) for answer in found.values()] == ["MemoryError: no room"] * 2


@pytest.mark.usefixtures("processes")
def test_moments_come_before_the_answer_as_they_are_sent():
    with closing(events([3, 2], open_counting, (), 1)) as found:
        assert next(found) == (3, Moment(0))
        rest = list(found)
    assert rest == [(3, Moment(1)), (3, Moment(2)), (3, 9), (2, Moment(0)), (2, Moment(1)), (2, 6)]
    assert list(answers([3, 2], open_counting, (), 1)) == [(3, 9), (2, 6)]


PARENT = """
import sys
from contextlib import closing

from pool_work import open_asleep
from tcaf.execution import processes

if sys.argv[2] == "elsewhere":
    sys.platform = "elsewhere"
if __name__ == "__main__":
    tasks = ["in native code"] if sys.platform == "linux" else ["in python"]
    with closing(processes.answers([*tasks, "next"], open_asleep, (sys.argv[1],), 2)) as done:
        list(done)
"""


@pytest.mark.slow
@pytest.mark.parametrize("system", ["linux", "elsewhere"])
def test_workers_end_with_their_parent(tmp_path, system):
    psutil = pytest.importorskip("psutil")
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path, system],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("asleep *"))) < 2:
        assert parent.poll() is None, parent.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    workers = [psutil.Process(int(path.name.split()[1])) for path in tmp_path.glob("asleep *")]
    assert all(worker.is_running() for worker in workers)
    parent.kill()
    alive = still_running(workers, timeout=2)
    for worker in alive:
        worker.kill()
    assert not alive
    # Read to its end: the workers have written nothing either.
    assert parent.communicate(timeout=10)[1] == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="sets the cores of this process")
def test_cores_are_those_that_this_process_may_use():
    before = os.sched_getaffinity(0)
    assert usable_cores() == len(before)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


SLOW_IMPORT = """
import multiprocessing, sys, time
from pathlib import Path

if multiprocessing.parent_process() is not None:
    (Path(sys.argv[1]) / "importing").touch()
    time.sleep(20)

def open_(): ...
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has to get its turn")
def test_workers_that_still_import_end_with_their_parent(tmp_path):
    (tmp_path / "slow_import.py").write_text(SLOW_IMPORT)
    code = (
        "from slow_import import open_; from tcaf.execution.processes import answers\n"
        "list(answers([1], open_, (), 1))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    pipes = {"stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", code, str(tmp_path)]
    parent = subprocess.Popen(command, env=environment, **pipes)
    while not (tmp_path / "importing").exists():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    # The pipe closes when the last of them has ended.
    parent.communicate(timeout=5)
