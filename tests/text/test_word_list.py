import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.settings.sections import TextSettings
from tcaf.text.class_text import embed_classes
from tcaf.text.sources import NamedVectors
from tcaf.text.word_list import read_word_list, word_shares, word_vectors
from write_words import write_glove


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TCAF_CACHE", str(tmp_path / "cache"))


def source(**changes):
    return NamedVectors(
        "table", {"red": np.array([2.0, 0.0]), "blue": np.array([0.0, 3.0]), **changes}
    )


@pytest.fixture
def listed(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("# colours\nred\n\n  blue \n", encoding="utf-8")
    return str(file)


def test_the_packaged_list():
    words = read_word_list("english")
    assert 500 < len(words) == len(set(words)) < 5000
    assert {"dog", "barking", "piano"} <= set(words)
    assert not any(word.startswith("#") or word != word.strip() for word in words)


def test_a_list_of_ones_own(listed):
    assert read_word_list(listed) == ("red", "blue")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"red\nred\nblue\n", "listed twice: 'red'"),
        (b"red\n", "expected two words or more, one a line, found 1"),
        (b"\xff\xfe\x00", "expected a list of words at .*, found no text"),
    ],
)
def test_lists_that_are_none(tmp_path, content, told):
    (tmp_path / "odd.txt").write_bytes(content)
    with pytest.raises(TCAFError, match=told):
        read_word_list(str(tmp_path / "odd.txt"))


def test_a_list_that_is_not_there():
    with pytest.raises(TCAFError, match=r"text\.words: expected english, or a file .*'englisch'"):
        read_word_list("englisch")


def test_shares_by_hand():
    """At temperature 1, similarities 1 and 0 are shares e / (e + 1) and 1 / (e + 1)."""
    found = word_shares(np.array([[1.0, 0.0]]), np.eye(2), 1.0)
    shares = np.array([np.e, 1.0]) / (np.e + 1)
    np.testing.assert_allclose(found, np.sqrt([shares]), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_a_small_temperature_does_not_overflow():
    assert word_shares(np.array([[1.0, 0.0]]), np.eye(2), 1e-6).tolist() == [[1.0, 0.0]]


def test_vectors_have_length_1_and_are_kept(listed):
    opened = []

    def open_source():
        opened.append(1)
        return source()

    first = word_vectors(listed, ["origin"], open_source)
    again = word_vectors(listed, ["origin"], open_source)
    assert first.tolist() == again.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert len(opened) == 1
    word_vectors(listed, ["another"], open_source)
    assert len(opened) == 2


def test_a_damaged_file_of_vectors_is_made_anew(listed, tmp_path):
    first = word_vectors(listed, ["origin"], source)
    (kept,) = (tmp_path / "cache" / "words").iterdir()
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert word_vectors(listed, ["origin"], source).tolist() == first.tolist()


def test_a_word_without_a_direction(listed):
    with pytest.raises(TCAFError, match="table has no direction for 'blue'"):
        word_vectors(listed, [], lambda: source(blue=np.zeros(2)))


def test_class_text_becomes_shares(tmp_path, listed):
    words = {"red": [1.0, 0.0], "blue": [0.0, 1.0], "violet": [1.0, 1.0], "dark": [0.0, 1.0]}
    path = write_glove(tmp_path / "glove.txt", words)
    settings = TextSettings(source="glove", path=str(path), words=listed, words_temperature=0.5)
    found = embed_classes(settings, ["violet", "dark red"])
    np.testing.assert_allclose(found, np.full((2, 2), np.sqrt(0.5)), rtol=1e-6)
    blue = embed_classes(settings, ["dark"])
    expected = word_shares(np.array([[0.0, 1.0]]), np.eye(2), 0.5)
    np.testing.assert_allclose(blue, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["stored", "attributes", "npy"])
def test_sources_of_names_alone_have_no_words(name, listed, tmp_path):
    path = "" if name == "stored" else str(write_glove(tmp_path / "file"))
    with pytest.raises(TCAFError, match=f"source {name} has no vectors of words"):
        embed_classes(TextSettings(source=name, path=path, words=listed), ["red"])


def test_words_go_by_directions():
    with pytest.raises(TCAFError, match=r"text\.words compares directions"):
        TextSettings(words="english", normalise=False)
