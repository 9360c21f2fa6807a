import pytest

from tcaf.app.page_names import LISTS, MODEL, OWN, as_text, choices, names_in, picked


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        (" \n\n", []),
        ("cat purring\ndog barking\n", ["cat purring", "dog barking"]),
        ("  cat   purring \r\n\r\n dog ", ["cat purring", "dog"]),
        ("cat, dog,owl", ["cat", "dog", "owl"]),
        ("cat; a dog, barking", ["cat", "a dog, barking"]),
        ("one, two\nthree", ["one, two", "three"]),
        ("cat\ncat\ndog", ["cat", "dog"]),
        ("cat, dog, cat", ["cat", "dog"]),
        ("Bell, ring, gong", ["Bell, ring, gong"]),
        ("bell, ring, gong, owl", ["bell, ring, gong", "owl"]),
    ],
)
def test_a_box_of_names(text, names):
    assert names_in(text, ["Bell, ring, gong"]) == names


@pytest.mark.parametrize(
    ("name", "count", "one"),
    [
        ("UCF101 (actions)", 101, "Apply Eye Makeup"),
        ("VGGSound (sounds in sight)", 309, "air horn"),
        ("ActivityNet (activities)", 200, "Archery"),
        ("AudioSet (sounds)", 527, "Accelerating, revving, vroom"),
    ],
)
def test_lists_that_ship(name, count, one):
    names = LISTS[name]()
    assert (len(set(names)), one in names) == (count, True)
    # A box holds a list as it is.
    assert names_in(as_text(names), ()) == list(names)
    assert picked(name, "mine") == as_text(names)
    assert name in choices()


def test_a_box_keeps_what_was_typed():
    assert picked(OWN, "mine") == "mine"
    assert picked(MODEL, "mine") == ""
