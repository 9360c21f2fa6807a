import pytest

from tcaf.errors import TCAFError, did_you_mean, shorten


def test_is_a_value_error():
    with pytest.raises(ValueError, match=r"^what$"):
        raise TCAFError("what")


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("val_sen", ["val_seen", "val_unseen"], "; did you mean 'val_seen'?"),
        ("VAL_SEEN", ["val_seen", "test"], "; did you mean 'val_seen'?"),
        ("zzz", ["no", "maybe"], ""),
        ("x", [], ""),
    ],
)
def test_did_you_mean(name, options, hint):
    assert did_you_mean(name, options) == hint


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "'a'"),
        (["a", "b", "c"], "'a', 'b', 'c'"),
        (list("abcde"), "'a', 'b', 'c' and 2 more"),
    ],
)
def test_shorten(names, text):
    assert shorten(iter(names)) == text


def test_shorten_to_a_limit():
    assert shorten("abc", limit=1) == "'a' and 2 more"
