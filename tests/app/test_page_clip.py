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
from tcaf.app.refusals import RefusedError

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
        return self.held[name]

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
        self._ask, self.found = ask, None
        self._goes_on = desk.hold(name)
        self.start()
        assert desk.asked.wait(30)

    def run(self):
        self.found = self._ask()

    def let_go(self):
        self._goes_on.set()
        self.join(30)
        return self.found


def is_skipped(part):
    return isinstance(part, dict)


def bring(tab, name):
    """Returns all that is said of a clip, each time for all parts of the tab."""
    request = gr.Request(session_hash="one")
    return list(tab._in_turn(tab._bring, brings=True)(request, str(CLIPS / name), *ASKED))


def ask(tab, names="", **how):
    """Returns what is said of the session's clip, asked about other names."""
    request = gr.Request(session_hash="one")
    return list(tab._in_turn(tab._again, **how)(request, names, *ASKED[1:]))


def answers(told):
    return [parts[0] for parts in told if not is_skipped(parts[0])]


def move(tab, bias):
    return tab._moved("one", *ASKED[:-1], bias)


def test_a_clip_is_answered_then_drawn(tab):
    first, second = bring(tab, "a")
    assert first[0] == "a 0"
    assert is_skipped(second[0])
    assert "nothing to draw" in second[4]
    again = ask(tab)
    assert len(again) == 1, "it is drawn once"
    assert "nothing to draw" in again[0][4]


def test_the_bias_moves_an_answer(tab):
    bring(tab, "a")
    assert move(tab, -1.0)[0] == "a -1"
    assert answers(bring(tab, "b")) == ["b -1"]


def test_a_bias_that_is_moved_while_a_clip_is_read_is_that_of_its_answer(tab, desk):
    asking = Beside(desk, "a", lambda: bring(tab, "a"))
    assert all(map(is_skipped, move(tab, -1.0)))
    assert answers(asking.let_go()) == ["a -1"]


def test_a_bias_that_was_moved_for_the_clip_before_does_not_cover_the_next(tab, desk):
    bring(tab, "a")
    moving = Beside(desk, "a", lambda: move(tab, -1.0))
    assert answers(bring(tab, "b")) == ["b -1"]
    assert all(map(is_skipped, moving.let_go()))


@pytest.mark.parametrize("then", ["nothing", "a problem"])
def test_a_bias_that_was_moved_does_not_cover_what_is_no_answer(tab, desk, then):
    bring(tab, "a")
    moving = Beside(desk, "a", lambda: move(tab, -1.0))
    if then == "nothing":
        assert "t-empty" in tab._clear("one")[0]
    else:
        assert "not a media file" in bring(tab, "broken")[0][0]
    assert all(map(is_skipped, moving.let_go()))
    assert all(map(is_skipped, move(tab, 1.0)))


def test_a_clip_that_takes_long_does_not_cover_one_that_came_later(tab, desk):
    asking = Beside(desk, "long", lambda: bring(tab, "long"))
    assert answers(bring(tab, "short")) == ["short 0"]
    assert answers(asking.let_go()) == []
    assert answers(ask(tab)) == ["short 0"]


@pytest.mark.parametrize("how", [{}, {"only_with_clip": True}])
def test_who_asks_while_a_clip_is_read_is_answered_about_it(tab, desk, how):
    """By the button, or by another list of names; the first clip, and one after another."""
    for name in ("a", "b"):
        first = Beside(desk, name, lambda name=name: bring(tab, name))
        second = Beside(desk, name, lambda: ask(tab, "cat", **how))
        assert answers(second.let_go()) == [f"{name} 0"]
        assert answers(first.let_go()) == []


def test_who_asks_while_a_clip_comes_waits_for_it(tab, desk, monkeypatch):
    comes = threading.Event()

    def take(session, path, name):
        desk.asked.set()
        assert comes.wait(30)
        return Placed(name)

    monkeypatch.setattr(desk, "take", take)
    bringing = Beside(desk, "a", lambda: bring(tab, "a"))
    found = []
    asking = threading.Thread(target=lambda: found.extend(ask(tab)))
    asking.start()
    asking.join(0.1)
    assert asking.is_alive()
    comes.set()
    bringing.let_go()
    asking.join(30)
    assert answers(found) == ["a 0"] or answers(bringing.found) == ["a 0"]


def test_a_list_that_is_picked_without_a_clip_asks_nothing(tab, desk):
    assert answers(ask(tab, only_with_clip=True)) == []
    assert "no clip yet" in ask(tab)[0][0]


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


def test_a_clip_that_cannot_be_read_is_not_asked_about_again(tab, desk, monkeypatch):
    bring(tab, "broken")
    assert "no clip yet" in ask(tab)[0][0]
    monkeypatch.setattr(desk, "is_read", lambda session, placed: True)
    bring(tab, "broken")
    assert "not a media file" in ask(tab)[0][0]


def test_a_clip_that_could_not_be_read_yet_is_asked_about_again(tab, desk, monkeypatch):
    def refuse(session, placed, question):
        raise RefusedError("busy", "others are before you")

    with monkeypatch.context() as patch:
        patch.setattr(desk, "answer", refuse)
        assert "others are before you" in bring(tab, "a")[0][0]
    assert answers(ask(tab)) == ["a 0"]


def test_a_clip_that_was_taken_away_does_not_come_back(tab, desk):
    asking = Beside(desk, "a", lambda: bring(tab, "a"))
    assert "t-empty" in tab._clear("one")[0]
    assert answers(asking.let_go()) == []
    assert "no clip yet" in ask(tab)[0][0]


def test_a_session_that_has_gone_is_forgotten(tab):
    bring(tab, "a")
    move(tab, -1.0)
    tab.forget("one")
    assert "no clip yet" in ask(tab)[0][0]
    assert answers(bring(tab, "a")) == ["a 0"]
