import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError

NAMES = ("ant", "bee", "cat", "dog", "eel")


def test_by_hand():
    classes = ClassSet.of(["dog", "ant"], ["eel", "bee", "cat"])
    assert classes.names == NAMES
    assert len(classes) == 5
    assert classes.seen_ids.tolist() == [0, 3]
    assert classes.unseen_ids.tolist() == [1, 2, 4]
    assert classes.ids(["dog", "bee", "dog"]).tolist() == [3, 1, 3]
    assert classes.ids([]).dtype == np.int64


def test_a_given_order_is_kept():
    classes = ClassSet(("dog", "ant", "cat"), frozenset({"cat"}))
    assert classes.ids(["cat", "dog"]).tolist() == [2, 0]
    assert classes.seen_ids.tolist() == [2]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=3), st.booleans()), max_size=13, unique_by=lambda p: p[0])
)
def test_order_of_input_is_of_no_account(pairs):
    def build(some):
        return ClassSet.of([n for n, seen in some if seen], [n for n, seen in some if not seen])

    classes = build(pairs)
    assert classes == build(pairs[::-1])
    assert list(classes.names) == sorted(name for name, _ in pairs)
    assert classes.ids(classes.names).tolist() == list(range(len(pairs)))
    both = np.concatenate([classes.seen_ids, classes.unseen_ids])
    assert sorted(both.tolist()) == list(range(len(pairs)))
    assert {classes.names[i] for i in classes.seen_ids} == {name for name, seen in pairs if seen}


def test_unknown_name_gives_the_nearest():
    classes = ClassSet.of(["Playing Flute"], ["Archery"])
    message = r"unknown class 'playing flutes' among 2 classes; did you mean 'Playing Flute'\?"
    with pytest.raises(TCAFError, match=message):
        classes.ids(["Archery", "playing flutes"])
    with pytest.raises(TCAFError, match=r"unknown class 'zzz' among 2 classes$"):
        classes.ids(["zzz"])


def test_twice_or_in_both_halves():
    with pytest.raises(TCAFError, match=r"listed twice: 'ant'$"):
        ClassSet(("ant", "bee", "ant"), frozenset())
    with pytest.raises(TCAFError, match="listed twice: 'bee'"):
        ClassSet.of(["ant", "bee"], ["bee"])


def test_seen_stranger():
    with pytest.raises(TCAFError, match="not in the class list: 'fox', 'gnu', 'hen' and 2 more"):
        ClassSet(NAMES, frozenset({"ant", "fox", "gnu", "hen", "ibis", "jay"}))
