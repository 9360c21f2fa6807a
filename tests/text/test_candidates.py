"""Class names as people write them, and their text embeddings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.settings.sections import TextSettings
from tcaf.text.candidates import RunClasses, read_names, split_names
from tcaf.text.class_text import embed_classes
from write_words import WORDS, write_glove

OWN = {
    "ant": np.array([1.0, 2.0, 3.0], np.float32),
    "Bee": np.array([0.0, 5.0, 0.0], np.float32),
    "dog, wet": np.array([7.0, 0.0, 1.0], np.float32),
}


def known(vectors, store=None):
    """The classes of a run whose text embeddings came with the clips."""
    return RunClasses({"text": TextSettings()}, {"text": vectors}, store)


@pytest.fixture
def words(tmp_path):
    """Classes of a run whose text comes from word vectors."""
    path = write_glove(tmp_path / "words.txt")
    settings = TextSettings("glove", path=str(path), phrases=("verticals",), normalise=False)
    return RunClasses({"text": settings}, {"text": OWN}, None)


def test_names_of_the_run_take_its_own_vectors(words):
    found = words.embed(["Bee", " ant "])
    assert (found.names, found.known) == (("Bee", "ant"), ("Bee", "ant"))
    np.testing.assert_array_equal(found.text["text"], [OWN["Bee"], OWN["ant"]])


def test_letter_case_is_of_no_account_unless_it_decides(words):
    found = words.embed(["BEE"])
    assert (found.names, found.known) == (("BEE",), ("Bee",))
    both = known({"polish": OWN["ant"], "Polish": OWN["Bee"]})
    assert both.embed(["Polish", "polish"]).known == ("Polish", "polish")
    with pytest.raises(TCAFError, match=r"'POLISH' may be each of 'Polish', 'polish'"):
        both.embed(["POLISH"])


def test_underscores_are_spaces_unless_they_decide():
    own = {"playing_flute": OWN["ant"], "a_b": OWN["ant"], "a b": OWN["Bee"]}
    text = known(own)
    assert text.embed(["Playing flute"]).known == ("playing_flute",)
    assert text.embed(["a b", "a_b"]).known == ("a b", "a_b")
    with pytest.raises(TCAFError, match="'A b' may be each of 'a b', 'a_b'"):
        text.embed(["A b"])


@pytest.mark.parametrize("name", ["playing flute", "PlayingFlute", "PLAYINGFLUTE", "Playing_flute"])
def test_capitals_part_words(name):
    text = known({"PlayingFlute": OWN["ant"], "Flute": OWN["Bee"]})
    assert text.embed([name]).known == ("PlayingFlute",)


def test_new_names_are_phrases(words):
    # The kinds of phrases that the run asked for do not matter: a new name has none.
    found = words.embed(["playing flute", "ant", "cutting"])
    assert found.known == (None, "ant", None)
    # The mean of (1, 0, 0) and (0, 1, 0).
    np.testing.assert_allclose(found.text["text"], [[0.5, 0.5, 0], OWN["ant"], [3, 0, 4]])


def test_a_new_name_is_embedded_as_words(words, monkeypatch):
    asked = []

    class Source:
        name, dim = "source", 3

        def embed(self, phrases):
            asked.extend(phrases)
            return np.ones((len(phrases), 3), np.float32)

    monkeypatch.setitem(vars(words._spaces["text"]), "_source", Source())
    assert words.embed(["PlayingGuitar", "an iPhone"]).names == ("PlayingGuitar", "an iPhone")
    assert asked == ["Playing Guitar", "an iPhone"]


def test_phrases_stand_for_a_name(words):
    found = words.embed(["ant", "sawing"], {"sawing": ["cutting", "flute"], "ant": ["Bach"]})
    np.testing.assert_allclose(found.text["text"], [[0, 0, 2], [1.5, 0.5, 2]])
    assert found.known == ("ant", None)


@pytest.mark.parametrize(
    ("names", "phrases", "message"),
    [
        ([], None, "no class to choose from"),
        (["ant", " "], None, "class name 2 of 2 is empty"),
        (["flute", "flute"], None, "there twice: 'flute'$"),
        (["ANT", "ant"], None, "there twice: 'ANT', 'ant'"),
        (["flute", "Flute "], None, "there twice: 'flute', 'Flute'"),
        (["BachFlute", "bach_flute"], None, "there twice: 'BachFlute', 'bach_flute'"),
        (["caf\u00e9", "cafe\u0301"], None, "there twice: 'caf\u00e9', 'cafe\u0301'"),
        ("ant", None, "expected a list of class names, got the text 'ant'"),
        (["ant"], {"amt": ["x"]}, "phrases of 'amt', no class here; did you mean 'ant'"),
        (["xylophone"], None, "xylophone"),
    ],
)
def test_what_is_no_class_is_refused(words, unchecked, names, phrases, message):
    with pytest.raises(TCAFError, match=message):
        words.embed(names, phrases)


def test_a_table_has_the_names_that_it_has(tiny_store):
    table = tiny_store.text("attributes")
    name, other = list(table)[:2]
    classes = known({name: table[name]}, tiny_store.path)
    found = classes.embed([other, name])
    assert found.known == (None, name)
    expected = [table[n] / np.linalg.norm(table[n]) for n in (other,)]
    np.testing.assert_allclose(found.text["text"][:1], expected, rtol=1e-6)
    with pytest.raises(TCAFError, match=r"no class 'a red square.*text\.source sentence takes any"):
        classes.embed(["a red square"])
    with pytest.raises(TCAFError, match="embeds no phrases"):
        classes.embed([name], {name: ["x"]})


@pytest.fixture
def trained(tmp_path):
    """Builds the classes of a run on word vectors, as they were when it was trained."""
    path = tmp_path / "words.txt"

    def build(own, store=None, is_gone=False, **settings):
        write_glove(path)
        settings = TextSettings("glove", path=str(path), **settings)
        vectors = embed_classes(settings, own, store)
        place = None if store is None or is_gone else store.path
        by_name = dict(zip(own, vectors, strict=True))
        return RunClasses({"text": settings}, {"text": by_name}, place), path

    return build


TURNED = {word: vector[1:] + vector[:1] for word, vector in WORDS.items()}
"""The same words in another space."""


def test_a_text_source_may_not_have_changed(trained):
    classes, path = trained(["paris", "Bach"])
    assert classes.embed(["flute"]).known == (None,)
    classes, path = trained(["paris", "Bach"])
    write_glove(path, TURNED)
    assert classes.embed(["Bach"]).known == ("Bach",)
    with pytest.raises(TCAFError, match=r"words\.txt has changed .*class 'paris' another text emb"):
        classes.embed(["Bach", "flute"])
    with pytest.raises(TCAFError, match="has changed since the run was trained"):
        classes.embed(["Bach"], {"Bach": ["flute"]})
    # Vectors of further words leave those of the run as they were.
    write_glove(path, {**WORDS, "zebra": [1.0, 1.0, 1.0]})
    assert classes.embed(["zebra"]).known == (None,)


def test_a_text_source_may_not_have_another_size(trained, unchecked):
    # Whatever the phrases were.
    for phrases in (("name",), ("name", "name")):
        classes, path = trained(["paris"], phrases=phrases)
        path.write_text("paris 1 2\nflute 3 4\n")
        with pytest.raises(TCAFError, match=r"of size 3, glove file .* makes ones of size 2$"):
            classes.embed(["paris", "flute"])


def test_a_class_is_compared_by_its_own_wording(trained, tmp_path):
    with new_store(tmp_path / "store", FeatureSpec(2, 3, 0.96, 0.64, "ears", "eyes")) as writer:
        rows = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
        writer.add(VideoFeatures("c", *rows, "Flute", "stage_1_train"))
        writer.phrases["Flute"] = {"name": ["cutting"]}
    store = FeatureStore.open(tmp_path / "store")
    classes, path = trained(["Flute"], store)
    assert classes.embed(["Bach"]).known == (None,)
    changed, path = trained(["Flute"], store)
    write_glove(path, TURNED)
    with pytest.raises(TCAFError, match="gives class 'Flute' another text embedding"):
        changed.embed(["Bach"])
    # Once the store is gone nobody knows the wording.
    gone, path = trained(["Flute"], store, is_gone=True)
    assert gone.embed(["Bach"]).known == (None,)


def test_a_name_that_an_older_release_embedded_as_one_word(tmp_path):
    with new_store(tmp_path / "store", FeatureSpec(2, 3, 0.96, 0.64, "ears", "eyes")) as writer:
        rows = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
        writer.add(VideoFeatures("c", *rows, "PlayingFlute", "stage_1_train"))
        writer.phrases["PlayingFlute"] = {"name": ["PlayingFlute"]}
    settings = TextSettings("sentence")

    def of_a_run(wording):
        phrases = {"PlayingFlute": [wording]}
        (vector,) = embed_classes(settings, ["PlayingFlute"], phrases=phrases)
        by_name = {"PlayingFlute": vector}
        return RunClasses({"text": settings}, {"text": by_name}, tmp_path / "store")

    for wording in ("PlayingFlute", "Playing Flute"):
        assert of_a_run(wording).embed(["dog"]).known == (None,)
    with pytest.raises(TCAFError, match="gives class 'PlayingFlute' another text embedding"):
        of_a_run("cutting").embed(["dog"])


def test_a_store_that_is_gone():
    classes = known(OWN)
    assert classes.embed(["ant"]).known == ("ant",)
    with pytest.raises(TCAFError, match=r"no class 'amt'.*no longer.*did you mean 'ant'"):
        classes.embed(["amt"])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a b, c", ["a b", "c"]),
        ("ant,DOG, WET , bee,", ["ant", "DOG, WET", "bee"]),
        ("dog, wet, dog", ["dog, wet", "dog"]),
        ("dog, wetter", ["dog", "wetter"]),
        ("one, two; three", ["one, two", "three"]),
        (" , ,", []),
        ("", []),
        ("dog, wet, very", ["dog, wet, very"]),
    ],
)
def test_names_in_one_line(text, names):
    assert split_names(text, ["ant", "dog, wet", "dog, wet, very"]) == names


@given(st.lists(st.text("ab c", min_size=1).filter(str.strip), min_size=1))
def test_names_without_commas_come_back(names):
    assert split_names(",".join(names), []) == [name.strip() for name in names]
    assert split_names("; ".join([*names, ""]), []) == [name.strip() for name in names]


def test_names_of_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\ufeffant\n\n# a comment\n  dog, wet \n", encoding="utf-8")
    assert read_names(path) == ["ant", "dog, wet"]
    path.write_text("# nothing\n")
    with pytest.raises(TCAFError, match="one a line, found none"):
        read_names(path)
    with pytest.raises(TCAFError, match="expected a file of class names"):
        read_names(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('class,subset\ncyan drone,train\n"dog, wet",val_unseen\n', ["cyan drone", "dog, wet"]),
        ("File;Class;Part\na.mp4;ant;train\nb.mp4;ant;test\nc.mp4;bee;train\n", ["ant", "bee"]),
        ("index,mid,name,subset\n14,/m/03,Screaming,train\n", ["Screaming"]),
        ("sep=;\nclass;subset\nant;train\n", ["ant"]),
        ("Name\tPhrase\nant\ta small one\nant\tan insect\n", ["ant"]),
        ("class,how hard\nant,3\n", ["ant"]),
        ("Index,TrainVideoCount,Name\n0,7,Game\n", ["Game"]),
        # Of these lines none is a row of column names.
        ("dog, barking\nclass, school\n", ["dog, barking", "class, school"]),
        ("class\nname\n", ["class", "name"]),
        ("tench, Tinca tinca\nant\n", ["tench, Tinca tinca", "ant"]),
    ],
)
def test_names_of_a_table(tmp_path, text, names):
    path = tmp_path / "names.csv"
    path.write_text(text)
    assert read_names(path) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,label\n0,ant\n", "a column class or name, found the columns 'index', 'label'"),
        ("class,subset\nant,train\ndog, wet,train\n", "line 3: expected 2 cells"),
        ("class,subset\n", "expected rows, found none"),
        ("class,subset\n,train\n", "line 2: expected a class, found none"),
    ],
)
def test_tables_that_name_no_classes(tmp_path, text, message):
    path = tmp_path / "names.csv"
    path.write_text(text)
    with pytest.raises(TCAFError, match=message):
        read_names(path)
