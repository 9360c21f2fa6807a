"""Processes that stay: who waits for them, what they keep, and how they end."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import active_children

import pytest

from pool_work import open_asleep, open_badly, open_counting, open_double, open_reporting
from tcaf.errors import TCAFError
from tcaf.execution.outcomes import Crash, Failed, Killed, OutOfMemory, OutOfTime
from tcaf.execution.standing import NoneFreeError, StandingProcesses
from tcaf.execution.worker import Moment


@pytest.fixture(autouse=True)
def _quick(quick):
    pass


@pytest.fixture
def standing():
    """Builds processes, which are closed at the end."""
    opened = []

    def build(*arguments, **how):
        opened.append(StandingProcesses(*arguments, **how))
        return opened[-1]

    yield build
    for each in opened:
        each.close()


def test_a_process_answers_one_task_after_the_other(standing):
    two = standing(open_reporting, (), 2)
    (first, one), (second, other) = two.do(2), two.do(0)
    assert (first, second) == (2, 0)
    assert one == other
    assert len(active_children()) == 1


def test_threads_have_a_process_each_and_their_own_answers(standing):
    two = standing(open_double, (3,), 2)
    with ThreadPoolExecutor(7) as threads:
        assert list(threads.map(two.do, range(40))) == [3 * number for number in range(40)]
    assert len(active_children()) == 2


def test_moments_come_before_the_answer(standing):
    one = standing(open_counting, (), 1)
    assert list(one.events(2)) == [Moment(0), Moment(1), 6]


def test_a_crash_costs_its_task_and_no_other(standing):
    one = standing(open_double, (2,), 1)
    assert one.do("a") == "aa"
    assert one.do("SIGSEGV") == Crash("the process was ended by SIGSEGV")
    assert one.do("exit") == Crash("the process ended with exit status 3")
    assert one.do("SIGKILL") == Killed("the process was ended by SIGKILL", True)
    assert one.do("a") == "aa"


def test_what_the_function_raises_is_an_answer_and_its_process_is_replaced(standing):
    one = standing(open_double, (2,), 1)
    failed = one.do("wrong")
    assert isinstance(failed, Failed)
    assert str(failed.error) == "expected b, got a"
    assert active_children() == []
    assert one.do("b") == "bb"
    (process,) = active_children()
    assert one.do("b") == "bb"
    assert active_children() == [process]


def test_a_process_that_was_ended_while_it_waited_is_replaced(standing):
    one = standing(open_double, (2,), 1)
    one.do("a")
    (before,) = active_children()
    before.kill()
    before.join()
    assert one.do("b") == "bb"
    assert active_children() != [before]


@pytest.mark.slow
def test_a_task_has_its_time_and_memory(standing):
    limits = {"sleep": 0.3}
    one = standing(
        open_double, (2,), 1, limit=lambda task: limits.get(task, 60.0), limit_bytes=2.0**26
    )
    one.do("a")
    assert one.do("sleep") == OutOfTime(0.3)
    assert one.do("greedy") == OutOfMemory(2.0**26)
    assert one.do("b") == "bb"


def test_patience_ends(standing):
    one = standing(open_counting, (), 1)
    busy = one.events(10**6)
    assert next(busy) == Moment(0)
    with pytest.raises(NoneFreeError, match=r"^no process has become free within 0\.1 s$"):
        one.do(1, 0.1)
    busy.close()
    assert one.do(1, 0.1) == 3


def test_leaving_a_task_ends_its_process(standing):
    one = standing(open_counting, (), 1)
    found = one.events(10**6)
    assert next(found) == Moment(0)
    found.close()
    assert not active_children()
    assert one.do(1) == 3


@pytest.mark.parametrize(
    ("how", "told"), [("raise", "MemoryError: no room"), ("exit", "the process ended with exit")]
)
def test_what_cannot_be_opened_is_an_error_each_time(standing, how, told):
    one = standing(open_badly, (how,), 1)
    for _ in range(2):
        with pytest.raises(TCAFError, match=f"^no process starts: {told}"):
            one.do("a")


def test_closing_ends_who_waits_and_who_works(standing, tmp_path):
    one = standing(open_asleep, (str(tmp_path),), 1)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(one.do, number) for number in range(2)]
        until(lambda: list(tmp_path.iterdir()))
        one.close()
        found = [each.exception() or each.result() for each in waiting]
    killed, refused = sorted(found, key=lambda each: isinstance(each, Exception))
    assert killed == Killed("the process was ended by SIGKILL", True)
    assert str(refused) == "no process starts: they are closed"
    assert not active_children()
    assert threading.active_count() < 5


def until(is_so):
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_process_is_too_few():
    with pytest.raises(TCAFError, match="--workers must be at least 1, got 0"):
        StandingProcesses(open_double, (2,), 0)
