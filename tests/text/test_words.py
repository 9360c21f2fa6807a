import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.text.words import (
    BinaryWordTable,
    TextWordTable,
    WordVectors,
    as_words,
    foldings,
    spellings,
    split_words,
)
from write_words import WORDS, write_bin, write_glove


@pytest.fixture(params=["bin", "glove", "header"])
def table(request, tmp_path):
    """The same six words in each of the three kinds of file."""
    if request.param == "bin":
        return BinaryWordTable(write_bin(tmp_path / "w.bin"))
    return TextWordTable(write_glove(tmp_path / "w.txt", header=request.param == "header"))


@pytest.fixture
def source(table):
    return WordVectors("words", table)


# -- words of a phrase -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("PlayingFlute", "Playing Flute"),
        ("playing_flute", "playing flute"),
        ("Blow-drying hair", "Blow drying hair"),
        ("bee, wasp, etc. buzzing", "bee wasp etc buzzing"),
        ("police car (siren)", "police car siren"),
        ("TVShow", "TV Show"),
        ("YoYo", "Yo Yo"),
        ("TV", "TV"),
        ("3D printing", "3D printing"),
        ("Formula1Racing", "Formula1 Racing"),
        ("people's choir", "people choir"),
        (
            "\u0928\u092e\u0938\u094d\u0924\u0947 caf\u00e9",
            "\u0928\u092e\u0938\u094d\u0924\u0947 caf\u00e9",
        ),
        ("cafe\u0301Bar", "caf\u00e9 Bar"),
        ("...", ""),
    ],
)
def test_a_phrase_parts_into_words(phrase, expected):
    assert split_words(phrase) == expected.split()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PlayingGuitar", "Playing Guitar"),
        ("CleanAndJerk", "Clean And Jerk"),
        ("TVShow", "TV Show"),
        ("playing_harmonica", "playing harmonica"),
        ("Playing__Flute_", "Playing Flute"),
        # Where something else parts words, a capital inside one is how it is written.
        ("charging an iPhone", "charging an iPhone"),
        ("playing_PlayStation", "playing PlayStation"),
        ("T-Shirt", "T-Shirt"),
        ("Archery", "Archery"),
        ("TV", "TV"),
        ("_", "_"),
    ],
)
def test_a_folders_name_as_words(name, expected):
    assert as_words(name) == expected
    assert as_words(expected) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("dog", " dog ", True),
        ("Dog Barking", "dog_barking", True),
        ("PlayingFlute", "playing flute", True),
        ("PlayingFlute", "playingflute", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("STRASSE", "stra\u00dfe", True),
        ("dog", "dogs", False),
        ("dog-barking", "dog barking", False),
    ],
)
def test_names_that_are_one(one, other, same):
    assert bool(foldings(one) & foldings(other)) == same


def test_a_word_is_looked_up_as_written_then_lower_then_capitalised():
    assert spellings("FLute") == ("FLute", "flute", "Flute")
    assert spellings("flute") == ("flute", "Flute")


# -- vectors of a phrase ---------------------------------------------------------------------------


def test_a_phrase_is_the_mean_of_its_words_as_the_file_has_them(source):
    # (1,0,0) and (0,1,0); "bach" is found capitalised: (0,0,2), "Cutting" in lower case: (3,0,4).
    result = source.embed(["PlayingFlute", "bach", "Cutting Bach"])
    np.testing.assert_allclose(result, [[0.5, 0.5, 0], [0, 0, 2], [1.5, 0, 3]])
    assert result.dtype == np.float32
    assert source.dim == 3


def test_a_word_as_written_comes_before_other_spellings(source):
    # (0,3,4) and (6,0,8); asked apart and in both orders, since found words are remembered.
    np.testing.assert_allclose(source.embed(["paris"]), [WORDS["paris"]])
    np.testing.assert_allclose(source.embed(["Paris"]), [WORDS["Paris"]])
    np.testing.assert_allclose(source.embed(["PARIS", "Paris"]), [WORDS["paris"], WORDS["Paris"]])


def test_a_missing_word_is_named_with_its_phrase_file_and_neighbour(table, source):
    with pytest.raises(TCAFError) as error:
        source.embed(["playing flutes"])
    message = str(error.value)
    assert "'flutes' of 'playing flutes'" in message
    assert str(table.path) in message
    assert "did you mean 'flute'?" in message
    assert "\n" not in message


def test_stop_words_are_left_out_only_if_another_word_remains(source, tmp_path):
    np.testing.assert_allclose(source.embed(["Playing of a flute"]), [[0.5, 0.5, 0]])
    with pytest.raises(TCAFError, match="the word 'of' of 'of a'"):
        source.embed(["of a"])
    with pytest.raises(TCAFError, match="'in' of 'flute in Bach'"):
        source.embed(["flute in Bach"])
    path = write_glove(tmp_path / "of.txt", {**WORDS, "of": [0.0, 0.0, 1.0]})
    with_of = WordVectors("words", TextWordTable(path)).embed(["flute of"])
    np.testing.assert_allclose(with_of, [[0, 0.5, 0.5]])


def test_a_phrase_without_a_word_is_refused(source):
    with pytest.raises(TCAFError, match="phrase '!!' has no word"):
        source.embed(["!!"])


# -- files -----------------------------------------------------------------------------------------


def test_the_words_of_a_file_in_its_order(table):
    assert list(table.vocabulary()) == list(WORDS)


def test_a_text_file_is_read_up_to_what_is_needed_and_then_remembered(tmp_path, monkeypatch):
    table = TextWordTable(write_glove(tmp_path / "w.txt"))
    read = []
    lines = table._lines
    monkeypatch.setattr(table, "_lines", lambda: (read.append(line[0]) or line for line in lines()))
    assert sorted(table.find(["flute", "playing"])) == ["flute", "playing"]
    assert read == [1, 2]
    table.find(["flute", "flute", "playing"])
    assert read == [1, 2]


def test_a_word_that_a_text_file_lacks_is_remembered_too(tmp_path, monkeypatch):
    table = TextWordTable(write_glove(tmp_path / "w.txt"))
    assert table.find(["drum"]) == {}
    monkeypatch.setattr(table, "_lines", lambda: pytest.fail("the file is read again"))
    assert table.find(["drum"]) == {}


def test_a_word_cut_inside_a_character_does_not_stop_a_binary_file(tmp_path):
    path = write_bin(tmp_path / "w.bin", {"xx": [9.0, 9.0, 9.0], **WORDS})
    path.write_bytes(path.read_bytes().replace(b"xx ", b"x\xc3 "))
    np.testing.assert_array_equal(BinaryWordTable(path).find(["flute"])["flute"], [0, 1, 0])


def test_text_files_may_have_words_with_spaces_trailing_spaces_and_empty_lines(tmp_path):
    path = tmp_path / "g.txt"
    path.write_text(". 1 2 3 \n. . . 4 5 6\nno 7 a@b.com 7 8 9\n\na 1 1 1 \na 2 2 2\n")
    np.testing.assert_array_equal(TextWordTable(path).find(["A"])["A"], [1, 1, 1])


def test_a_byte_order_mark_belongs_to_no_word(tmp_path):
    path = tmp_path / "g.txt"
    for head in ("", "2 3\n"):
        path.write_text(f"{head}the 1 2 3\nof 4 5 6\n", encoding="utf-8-sig")
        table = TextWordTable(path)
        assert (table.dim, list(table.vocabulary())) == (3, ["the", "of"])
        np.testing.assert_array_equal(table.find(["the"])["the"], [1, 2, 3])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        # Three numbers each, as most lines have.
        (". . . 1 2 3\na 4 5 6\n", [". . .", "a"]),
        ("no 7 x 1 2 3\na 4 5 6\n", ["no 7 x", "a"]),
        ("at 7 1 2 3\na 4 5 6\nb 7 8 9\n", None),
        ("2 3\n. . 1 2 3\na 4 5 6\n", [". .", "a"]),
    ],
)
def test_the_first_word_may_have_spaces(tmp_path, content, words):
    path = tmp_path / "g.txt"
    path.write_text(content)
    table = TextWordTable(path)
    assert table.dim == 3
    if words:
        assert list(table.vocabulary()) == words
        np.testing.assert_array_equal(table.find(["a"])["a"], [4, 5, 6])
    else:
        with pytest.raises(TCAFError, match="line 1: expected a word and 3 numbers, found 4"):
            table.find(["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x95", r"is a pickle, as gensim's `save` writes `\.kv`"),
        (b"\x1f\x8b\x08", "is packed by gzip; unpack it"),
        (b"PK\x03\x04", "is packed by zip; unpack it"),
        ("a 1 2".encode("utf-16"), "is text in UTF-16; write it as UTF-8"),
        (b"2 3\na \x00\x00\x80?", r"a binary word2vec file ends in \.bin"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, message):
    path = tmp_path / "w.kv"
    path.write_bytes(content)
    with pytest.raises(TCAFError, match=rf"w\.kv.*{message}"):
        TextWordTable(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 1 2 3\nb 1 2\nc 1 2 3\n", "line 2: expected a word and 3 numbers, found 2 numbers"),
        ("a 1 2 3\nb 1 2 3 4\nc 1 2 3\n", "line 2: expected a word and 3 numbers, found 4"),
        ("2 3\na 1 2 3\nc 1 x 3\n", "line 3: expected a number, found 'x'"),
        ("a 1 2 3\nc 1 nan 3\n", "line 2: expected a number, found 'nan'"),
        ("a 1 2 3\nc 1 1e300 3\n", "line 2: expected a number, found '1e300'"),
        ("9 3\na 1 2 3\n", "cut short: its header says 9 words, found 1"),
        ("a\nb\n", "expected text lines of a word and its numbers"),
        ("", "expected text lines of a word and its numbers"),
    ],
)
def test_a_damaged_text_file_gives_file_and_line(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_text(content)
    with pytest.raises(TCAFError, match=message) as error:
        TextWordTable(path).find(["c"])
    assert "bad.txt" in str(error.value)


def test_a_damaged_binary_file_is_refused(tmp_path):
    path = write_bin(tmp_path / "w.bin")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TCAFError, match=r"w\.bin: expected a word2vec \.bin file"):
        BinaryWordTable(path)
    path.write_text("flute 1 2 3\n")
    with pytest.raises(TCAFError, match=r"w\.bin: expected a word2vec \.bin file"):
        BinaryWordTable(path)
    write_bin(path, {"flute": [1.0, np.nan, 0.0]})
    with pytest.raises(TCAFError, match=r"w\.bin: the vector of 'flute' is not finite"):
        BinaryWordTable(path).find(["Flute"])


@pytest.mark.parametrize("head", [b"9999999999 3\n", b"6 99999\n", b"x 3\n", b"-6 3\n"])
def test_no_room_is_made_for_what_a_binary_file_does_not_hold(head, tmp_path):
    pytest.importorskip("gensim")
    path = write_bin(tmp_path / "words.bin")
    path.write_bytes(head + path.read_bytes().partition(b"\n")[2])
    with pytest.raises(TCAFError, match=r"words\.bin: expected a word2vec \.bin file"):
        BinaryWordTable(path)
