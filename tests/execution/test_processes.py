"""Processes that extract: order, crashes, ends."""

import os
import signal
from multiprocessing import active_children

import pytest

from pool_work import open_badly, open_double, open_once
from tcaf.errors import TCAFError
from tcaf.execution.processes import Crash, Killed, answers, usable_cores


@pytest.mark.slow
def test_every_task_is_answered_once():
    before = active_children()
    found = dict(answers([1, 2, 3, 5, 7], open_double, (11,), 2))
    assert found == {1: 11, 2: 22, 3: 33, 5: 55, 7: 77}
    assert active_children() == before


@pytest.mark.slow  # starts several processes
def test_a_crash_takes_nothing_else_along():
    tasks = ["a", "SIGSEGV", "b", "exit", "c"]
    found = dict(answers(tasks, open_double, (2,), 1))
    assert {found[name] for name in "abc"} == {"aa", "bb", "cc"}
    assert found["SIGSEGV"] == Crash("the process was ended by SIGSEGV")
    assert found["exit"] == Crash("the process ended with exit status 3")


@pytest.mark.slow  # starts several processes
def test_what_crashed_is_tried_once_more_in_a_new_process(tmp_path):
    found = dict(answers(["a", "b"], open_once, (tmp_path,), 1))
    first, second = (found[name] for name in "ab")
    processes = {first[0], first[1], second[0], second[1]}
    # The second task crashes the process that has answered the first one.
    assert first[1] == second[0]
    assert len(processes) == 3
    assert first[2] == usable_cores()


@pytest.mark.slow  # starts several processes
def test_an_end_from_outside_is_no_crash():
    tasks = ["SIGKILL", "SIGTERM", "a", "SIGUSR1"]
    found = dict(answers(tasks, open_double, (2,), 2))
    assert found == {
        "SIGKILL": Killed("the process was ended by SIGKILL", True),
        "SIGTERM": Killed("the process was ended by SIGTERM", False),
        "SIGUSR1": Killed("the process was ended by SIGUSR1", False),
        "a": "aa",
    }


@pytest.mark.slow  # starts several processes
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


@pytest.mark.slow  # starts several processes
@pytest.mark.parametrize(
    ("how", "why"),
    [("exit", "the process ended with exit status 7"), ("raise", "MemoryError: no room")],
)
def test_a_worker_that_cannot_start_is_an_error(how, why):
    with pytest.raises(TCAFError, match=f"no process starts: {why}"):
        list(answers([1], open_badly, (how,), 2))


@pytest.mark.slow  # starts several processes
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


@pytest.mark.slow  # starts several processes
def test_a_process_that_does_not_hear_is_ended():
    before = active_children()
    found = answers(["a", "sleep"], open_double, (2,), 2)
    assert next(found)[0] == "a"
    (worker,) = set(active_children()) - set(before)
    os.kill(worker.pid, signal.SIGSTOP)
    found.close()
    assert active_children() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="sets the cores of this process")
def test_cores_are_those_that_this_process_may_use():
    before = os.sched_getaffinity(0)
    assert usable_cores() == len(before)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
