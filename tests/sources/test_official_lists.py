"""The authors' lists, built small and as they were published."""

import os
from pathlib import Path

import numpy as np
import pytest

from tcaf.data.splits import load_benchmark
from tcaf.errors import TCAFError
from tcaf.sources.official_lists import (
    match_name,
    read_splits,
    read_words,
    vectors_by_name,
    vectors_in_release_order,
)
from tcaf.text.sources import read_named_vectors
from write_official import LISTS, WORDS, vectors, write_lists, write_words

SHARED = Path(os.environ.get("TCAF_SHARED", Path(__file__).parents[3] / "shared"))


def test_names_match_exactly_before_they_match_in_another_case():
    assert match_name("ab", ["AB", "ab", "Ab"]) == "ab"
    assert match_name("aB", ["x", "AB"]) == "AB"
    assert match_name("abc", ["ab"]) is None


@pytest.mark.parametrize("place", ["class-split/cls_split", "class-split", "cls_split", "."])
def test_lists_may_lie_in_four_places(tmp_path, place):
    write_lists(tmp_path / place, LISTS)
    (tmp_path / "class-split").mkdir(exist_ok=True)
    write_words(tmp_path / "class-split" / "x_w2v_class_names.csv", WORDS)
    splits, words = read_splits(tmp_path, None)
    assert list(splits) == ["cls"]
    assert splits["cls"].train == ("HandstandPushups", "Archery")
    assert words == WORDS


@pytest.mark.parametrize("base", [".", "class-split"])
def test_main_takes_from_cls_what_it_does_not_list(tmp_path, base):
    write_lists(tmp_path / base / "cls_split", LISTS)
    write_lists(tmp_path / base / "main_split", {"stage_2_test_unseen": ["Playing_Cello", "Yo Yo"]})
    write_words(tmp_path / "x_w2v_class_names.csv", WORDS)
    splits, _ = read_splits(tmp_path, None)
    assert splits["cls"].test_unseen == ("Playing_Cello",)
    assert splits["main"].test_unseen == ("Playing_Cello", "Yo Yo")
    assert splits["main"].train == splits["cls"].train
    (tmp_path / base / "cls_split" / "stage_1_train.txt").unlink()
    with pytest.raises(TCAFError, match=r"expected the class list stage_1_train\.txt in .*cls_spl"):
        read_splits(tmp_path, None)


def test_word_names_need_two_columns(tmp_path):
    path = tmp_path / "x_w2v_class_names.csv"
    for text, message in (
        ("name,words\na,b\n", "expected the columns original, manual, found name, words"),
        ("original,manual\na,\n", "line 2: expected a manual, found none in 'a', ''"),
        ("", "expected the columns original, manual, found none"),
    ):
        path.write_text(text)
        with pytest.raises(TCAFError, match=message):
            read_words(path)
    # The authors' tables may have more columns than are read.
    path.write_text("original,manual,number\na,A b,7\n")
    assert read_words(path) == {"a": "A b"}


def test_vectors_are_looked_up_by_name_whatever_the_case():
    lower = {name.lower(): vector for name, vector in vectors().items()}
    assert {name: int(v[0]) for name, v in vectors_by_name(WORDS, lower).items()} == {
        "HandstandPushups": 0,
        "Archery": 1,
        "PlayingFlute": 2,
        "Playing_Cello": 3,
        "Yo Yo": 4,
    }
    del lower["yo yo"]
    with pytest.raises(TCAFError, match="class 'Yo Yo' has no word vector: none is called 'Yo Yo'"):
        vectors_by_name(WORDS, lower)


def test_the_release_order_needs_as_many_vectors_as_classes():
    with pytest.raises(TCAFError, match="5 classes cannot be paired with 4 word vectors"):
        vectors_in_release_order(WORDS, dict(list(vectors().items())[1:]))


@pytest.mark.skipif(
    not (SHARED / "benchmarks").is_dir(),
    reason="needs the authors' lists: benchmarks/ in $TCAF_SHARED or in ../shared",
)
@pytest.mark.parametrize(
    ("folder", "wrong", "classes", "wrong_unseen", "unseen"),
    [
        ("UCF", 79, 101, 4, 6),
        ("VGGSound", 205, 309, 38, 64),
        ("ActivityNet", 8, 200, 1, 48),
    ],
)
def test_the_release_order_on_the_authors_lists(folder, wrong, classes, wrong_unseen, unseen):
    root = SHARED / "benchmarks" / folder
    splits, words = read_splits(root, None)
    vectors = read_named_vectors(next(root.glob("word_embeddings_*_normed.npy")))
    assert len(words) == classes
    by_name, released = vectors_by_name(words, vectors), vectors_in_release_order(words, vectors)
    differ = {name for name in words if not np.array_equal(by_name[name], released[name])}
    assert len(differ) == wrong
    test_unseen = splits["cls"].test_unseen
    assert (len(differ & set(test_unseen)), len(test_unseen)) == (wrong_unseen, unseen)
    if folder == "UCF":
        np.testing.assert_array_equal(released["PlayingFlute"], vectors["Playing Guitar"])
    published = load_benchmark(folder.lower())
    assert words == published.words
    for name, split in splits.items():
        assert split.stage_2 == published.splits[name].stage_2
        assert split.stage_1 == published.splits[name].stage_1
