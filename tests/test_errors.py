import pytest

from tcaf.errors import TCAFError, did_you_mean, one_line, printable, shorten


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u0928\u092e\u200d \U0001f415 a\u3000b\u200cc", None),
        ("a\x1b[31mb\x07", r"a\x1b[31mb\x07"),
        ("a\tb\rc\x00\x7f\x85\x9b", r"a\tb\rc\x00\x7f\x85\x9b"),
        ("mp4.\u202efdp\u2066\u200f\u2028", r"mp4.\u202efdp\u2066\u200f\u2028"),
        ("old \udcff", r"old \udcff"),
        ("two\nlines", None),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text, shown):
    assert printable(text) == (shown or text)


def test_a_message_is_one_line():
    assert one_line(" a  b\n   c\n\nd\x1b ") == r"a  b c d\x1b"
