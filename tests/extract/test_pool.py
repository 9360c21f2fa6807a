"""Processes that extract: order, crashes, ends."""

from multiprocessing import active_children

import pytest
from pool_work import open_badly, open_double

from tcaf.errors import TCAFError
from tcaf.extract.pool import Crash, answers


def test_every_task_is_answered_once():
    before = active_children()
    found = dict(answers([1, 2, 3, 5, 7], open_double, (11,), 2))
    assert found == {1: 11, 2: 22, 3: 33, 5: 55, 7: 77}
    assert active_children() == before


@pytest.mark.slow  # starts several processes
def test_a_crash_takes_nothing_else_along():
    tasks = ["a", "segfault", "b", "exit", "c"]
    found = dict(answers(tasks, open_double, (2,), 1))
    assert {found[name] for name in "abc"} == {"aa", "bb", "cc"}
    assert found["segfault"] == Crash("the process was ended by SIGSEGV")
    assert found["exit"] == Crash("the process ended with exit status 3")


@pytest.mark.slow  # starts several processes
def test_a_worker_that_cannot_start_is_an_error():
    with pytest.raises(TCAFError, match="no process starts: the process ended with exit status 7"):
        list(answers([1], open_badly, (), 2))


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
