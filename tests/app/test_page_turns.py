"""Which of a session's questions is answered on the page."""

from tcaf.app.page_turns import Turns


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


def test_an_answer_with_another_bias_is_not_shown():
    turns = Turns()
    turn = turns.begin("one")
    shown = turns.move("one", -1.0)
    assert not turns.show("one", turn, 0.0)
    assert turns.is_shown("one", shown)
    assert turns.show("one", turn, -1.0)
    assert not turns.is_shown("one", shown)


def test_an_answer_that_came_late_does_not_count_as_shown():
    turns = Turns()
    first, _ = turns.begin("one"), turns.begin("one")
    shown = turns.move("one", 0.0)
    assert turns.show("one", first, 0.0)
    assert turns.is_shown("one", shown)


def test_a_session_is_forgotten():
    turns = Turns()
    turns.move("one", -1.0)
    turns.end("one")
    turns.end("one")
    assert turns.bias("one", 0.5) == 0.5
