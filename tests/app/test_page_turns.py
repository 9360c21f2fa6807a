"""What the page remembers of each session."""

import threading

import pytest

from tcaf.app import page_turns
from tcaf.app.page_turns import Current, Turns
from tcaf.app.shelf import Placed


@pytest.fixture
def clip(tmp_path):
    def build(name="a"):
        return Current(Placed(tmp_path / name, name, name))

    return build


def test_the_question_that_began_last_is_the_last():
    turns = Turns()
    first, second = turns.begin("one"), turns.begin("one")
    other = turns.begin("other")
    assert not turns.is_last("one", first)
    assert turns.is_last("one", second)
    assert turns.is_last("other", other)


def test_the_bias_is_where_it_was_moved_to():
    turns = Turns()
    assert turns.bias("one", 0.5) == 0.5
    turns.move("one", -1.0)
    assert turns.bias("one", 0.5) == -1.0
    assert turns.bias("other", 0.5) == 0.5


def test_an_answer_with_another_bias_is_not_shown(clip):
    turns, one = Turns(), clip()
    turn = turns.begin("one")
    shown, before = turns.move("one", -1.0)
    assert before is None
    assert not turns.show("one", turn, one, 0.0)
    assert turns.is_shown("one", shown)
    assert turns.show("one", turn, one, -1.0)
    assert not turns.is_shown("one", shown)
    assert turns.move("one", 0.0) == (turn, one)


def test_an_answer_that_came_late_does_not_count_as_shown(clip):
    turns = Turns()
    first, _ = turns.begin("one"), turns.begin("one")
    shown, _ = turns.move("one", 0.0)
    assert turns.show("one", first, clip(), 0.0)
    turns.show_none("one", first)
    assert turns.is_shown("one", shown)


def test_the_clip_is_the_one_that_was_brought_last(clip):
    turns, one, other = Turns(), clip("a"), clip("b")
    first, second = (turns.begin("one", brings=True) for _ in range(2))
    turns.hold("one", second, other)
    turns.hold("one", first, one)
    asked = turns.begin("one")
    turns.hold("one", asked, one)
    assert turns.clip("one") is other


def test_who_asks_for_a_clip_that_is_coming_waits(clip, monkeypatch):
    turns, one = Turns(), clip()
    turn = turns.begin("one", brings=True)
    coming = threading.Timer(0.05, turns.hold, ("one", turn, one))
    coming.start()
    assert turns.clip("one") is one
    coming.join()
    monkeypatch.setattr(page_turns, "COMING_S", 0.01)
    turns.begin("one", brings=True)
    assert turns.clip("one") is None


def test_more_is_known_of_a_clip_only_while_it_is_there(clip):
    turns, one, other, more = Turns(), clip("a"), clip("b"), clip("c")
    turn = turns.begin("one", brings=True)
    turns.hold("one", turn, one)
    turns.show("one", turn, one, 0.0)
    turns.replace("one", other, more)
    assert turns.clip("one") is one
    turns.replace("one", one, more)
    assert turns.clip("one") is more
    assert turns.move("one", 0.0)[1] is more


def test_a_session_is_forgotten():
    turns = Turns()
    turns.move("one", -1.0)
    turn = turns.begin("one")
    turns.end("one")
    turns.end("one")
    assert turns.bias("one", 0.5) == 0.5
    # What was still at work then is nobody's, also once the session is back.
    turns.show_none("one", turn)
    assert not turns.is_last("one", turn)
    assert not turns._sessions
    assert turns.begin("one") > turn
    assert not turns.is_last("one", turn)
