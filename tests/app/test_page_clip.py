"""The page's first tab where several things are asked at once: the last one is what is shown."""

import asyncio
import threading
import warnings
from pathlib import Path

import pytest

from tcaf.errors import TCAFError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Gradio itself imports
    gr = pytest.importorskip("gradio")

from tcaf.app import page_clip
from tcaf.app.page_clip import ClipTab

# The desk below is none that shapes know.
pytestmark = pytest.mark.usefixtures("unchecked")

ASKED = ("cat purring", 5, 0, 0, 0.0)
"""What stands in the boxes: names, how many answers, mistakes, seconds of a stretch, the bias."""

CLIPS = Path("clips")


class Placed:
    url = "/media/clip"

    def __init__(self, name):
        self.name = name


class Desk:
    """Tells for an answer which clip and which bias it is of; answers of held clips wait."""

    workers, reach, bias_step, known = 1, 1.0, 0.05, ()
    can_abstain, about_abstaining, about_stretches = False, "", ""

    def __init__(self):
        self.held, self.asked = {}, threading.Event()

    def hold(self, name):
        self.held[name] = threading.Event()
        self.asked.clear()

    def take(self, session, path, name):
        return Placed(name)

    def is_read(self, session, placed):
        return False

    def answer(self, session, placed, question):
        if placed.name == "broken":
            raise TCAFError("not a media file")
        if placed.name in self.held:
            self.asked.set()
            assert self.held[placed.name].wait(30)
        return f"{placed.name} {question.seen_bias:g}"

    def over_time(self, session, placed):
        raise TCAFError("nothing to draw")


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def tab(desk, monkeypatch):
    monkeypatch.setattr(page_clip, "_said", lambda told: (told, "", "", ""))

    # Gradio asks which event loop runs, and where none does makes one that it never closes.
    async def made():
        with gr.Blocks():
            return ClipTab(desk)

    return asyncio.run(made())


class Beside(threading.Thread):
    """Asks beside the test, of a clip that is held."""

    def __init__(self, desk, name, ask):
        super().__init__(daemon=True)
        self._desk, self._name, self._ask, self.found = desk, name, ask, None
        desk.hold(name)
        self.start()
        assert desk.asked.wait(30)

    def run(self):
        self.found = self._ask()

    def let_go(self):
        self._desk.held[self._name].set()
        self.join(30)
        return self.found


def is_skipped(part):
    return isinstance(part, dict)


def bring(tab, name):
    """Returns all that is said of a clip, each time for all parts of the tab."""
    request = gr.Request(session_hash="one")
    return list(tab._in_turn(tab._bring)(request, str(CLIPS / name), None, *ASKED))


def answers(told):
    return [parts[0] for parts in told if not is_skipped(parts[0])]


def move(tab, current, bias):
    return tab._moved("one", current, *ASKED[:-1], bias)


def test_a_clip_is_answered_then_drawn(tab):
    first, second = bring(tab, "a")
    assert first[0] == "a 0"
    assert first[-1].placed.name == "a"
    assert is_skipped(second[0])
    assert "nothing to draw" in second[-1].rows


def test_the_bias_moves_an_answer(tab):
    current = bring(tab, "a")[-1][-1]
    assert move(tab, current, -1.0)[0] == "a -1"
    assert answers(bring(tab, "b")) == ["b -1"]


def test_a_bias_that_is_moved_while_a_clip_is_read_is_that_of_its_answer(tab, desk):
    asking = Beside(desk, "a", lambda: bring(tab, "a"))
    assert all(map(is_skipped, move(tab, None, -1.0)))
    assert answers(asking.let_go()) == ["a -1"]


def test_a_bias_that_was_moved_for_the_clip_before_does_not_cover_the_next(tab, desk):
    current = bring(tab, "a")[-1][-1]
    moving = Beside(desk, "a", lambda: move(tab, current, -1.0))
    assert answers(bring(tab, "b")) == ["b -1"]
    assert all(map(is_skipped, moving.let_go()))


def test_a_clip_that_takes_long_does_not_cover_one_that_came_later(tab, desk):
    asking = Beside(desk, "long", lambda: bring(tab, "long"))
    assert answers(bring(tab, "short")) == ["short 0"]
    assert answers(asking.let_go()) == []


def test_a_problem_does_not_cover_what_came_later(tab, desk, monkeypatch):
    def take(session, path, name):
        if name == "broken":
            desk.asked.set()
            assert desk.held[name].wait(30)
        return Placed(name)

    monkeypatch.setattr(desk, "take", take)
    asking = Beside(desk, "broken", lambda: bring(tab, "broken"))
    assert answers(bring(tab, "short")) == ["short 0"]
    assert answers(asking.let_go()) == []


def test_a_clip_that_was_taken_away_does_not_come_back(tab, desk):
    asking = Beside(desk, "a", lambda: bring(tab, "a"))
    assert "t-empty" in tab._clear("one")[0]
    assert answers(asking.let_go()) == []


def test_a_session_that_has_gone_is_forgotten(tab):
    move(tab, None, -1.0)
    tab.forget("one")
    assert answers(bring(tab, "a")) == ["a 0"]
