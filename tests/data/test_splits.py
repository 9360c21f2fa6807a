from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.data.splits import BENCHMARKS, NAMED_PARTS, PARTS, UNIONS, Split, load_benchmark
from tcaf.errors import TCAFError

SPLIT = Split(("bee", "ant"), ("cat",), ("eel", "dog"))


def test_stages():
    assert SPLIT.classes == ("ant", "bee", "cat", "dog", "eel")
    assert SPLIT.stage_1.names == ("ant", "bee", "cat")
    assert SPLIT.stage_1.seen == {"ant", "bee"}
    assert SPLIT.stage_2.names == SPLIT.classes
    assert SPLIT.stage_2.seen == {"ant", "bee", "cat"}
    assert Split.from_json(asdict(SPLIT)) == SPLIT


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ((["a"], ["b", "a"], []), "split overlap: 'a' in both train and val_unseen"),
        ((["a", "c"], ["b"], ["c"]), "split overlap: 'c' in both train and test_unseen"),
        ((["a"], ["b", "c"], ["c", "b"]), "'b', 'c' in both val_unseen and test_unseen"),
    ],
)
def test_overlapping_classes(lists, message):
    with pytest.raises(TCAFError, match=message):
        Split(*map(tuple, lists))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_class_twice_in_one_list(position):
    lists = [("a",), ("b",), ("c",)]
    lists[position] = ("x", "y", "x")
    key = ("train", "val_unseen", "test_unseen")[position]
    with pytest.raises(TCAFError, match=f"{key} lists 'x' more than once"):
        Split(*lists)


def test_classes_of_parts():
    assert {part: SPLIT.part_classes(part) for part in PARTS} == {
        "stage_1_train": ("ant", "bee"),
        "val_seen": ("ant", "bee"),
        "val_unseen": ("cat",),
        "test_seen": ("ant", "bee", "cat"),
        "test_unseen": ("dog", "eel"),
    }
    with pytest.raises(TCAFError, match=r"no part 'test_sen'.*did you mean 'test_seen'\?"):
        SPLIT.part_classes("test_sen")


clips = st.lists(
    st.tuples(
        st.sampled_from(["ant", "bee", "cat", "dog", "eel", "fox"]), st.sampled_from([*PARTS, ""])
    ),
    max_size=29,
)


@settings(max_examples=40, deadline=None)
@given(clips)
def test_selection_equals_a_slow_loop(pairs):
    names, parts = [name for name, _ in pairs], [part for _, part in pairs]
    for part in (*PARTS, *UNIONS):
        singles = UNIONS.get(part, (part,))
        expected = [p in singles and name in SPLIT.part_classes(p) for name, p in pairs]
        for kind in (list, np.array, lambda values: np.array(values, object)):
            if pairs:
                assert SPLIT.select(part, kind(names), kind(parts)).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(clips)
def test_unions_are_sums_of_their_parts(pairs):
    names, parts = (np.array([pair[i] for pair in pairs], object) for i in (0, 1))
    counts = {part: int(SPLIT.select(part, names, parts).sum()) for part in (*PARTS, *UNIONS)}
    for union, singles in UNIONS.items():
        assert counts[union] == sum(counts[single] for single in singles)


def test_a_class_outside_the_split_is_never_selected():
    assert not SPLIT.select("test_unseen", ["fox", "ant"], ["test_unseen"] * 2).any()
    with pytest.raises(TCAFError, match="no part 'tests'"):
        SPLIT.select("tests", ["ant"], ["test_seen"])


def test_named_parts():
    assert NAMED_PARTS == (
        "stage_1_train",
        "val_seen",
        "val_unseen",
        "stage_2_train",
        "test_seen",
        "test_unseen",
    )


def test_check_clips():
    SPLIT.check_clips(
        ["1", "2", "3", "4", "5"],
        ["ant", "bee", "cat", "cat", "dog"],
        ["stage_1_train", "val_seen", "val_unseen", "test_seen", "test_unseen"],
    )
    # An unseen test class of another split of the same clips is no leak.
    SPLIT.check_clips(["1"], ["fox"], ["test_unseen"])
    with pytest.raises(TCAFError, match="split overlap: '2' listed more than once"):
        SPLIT.check_clips(["1", "2", "2"], ["ant"] * 3, ["stage_1_train", "val_seen", "test_seen"])


def test_check_clips_wants_known_parts():
    # A clip without a part belongs to no benchmark.
    SPLIT.check_clips(["1", "2"], ["ant", "fox"], ["val_seen", ""])
    with pytest.raises(
        TCAFError, match=r"'2' stands in 'val_sen', which is no part; .*did you mean 'val_seen'\?"
    ):
        SPLIT.check_clips(["1", "2"], ["ant", "ant"], ["val_seen", "val_sen"])
    with pytest.raises(TCAFError, match="'1' stands in 'val', which is no part"):
        SPLIT.check_clips(["1"], ["ant"], ["val"])


@pytest.mark.parametrize("dtype", [str, object])
def test_check_clips_takes_arrays(dtype):
    def check(*columns):
        SPLIT.check_clips(*(np.array(column, dtype) for column in columns))

    check(["1", "2"], ["ant", "bee"], ["stage_1_train", "val_seen"])
    with pytest.raises(TCAFError, match="clip '2' of class 'cat' stands in val_seen"):
        check(["1", "2"], ["ant", "cat"], ["stage_1_train", "val_seen"])
    with pytest.raises(TCAFError, match="'1' listed more than once"):
        check(["1", "1"], ["ant", "ant"], ["val_seen", "val_seen"])
    with pytest.raises(TCAFError, match="clip '1' stands in 'train'"):
        check(["1"], ["ant"], ["train"])


@pytest.mark.parametrize(
    ("class_name", "part"),
    [
        ("cat", "stage_1_train"),
        ("dog", "stage_1_train"),
        ("cat", "val_seen"),
        ("ant", "val_unseen"),
        ("eel", "val_unseen"),
        ("dog", "test_seen"),
        ("fox", "stage_1_train"),
    ],
)
def test_leaks(class_name, part):
    with pytest.raises(
        TCAFError, match=rf"clip '1' of class '{class_name}' stands in {part},.*\(2 such clips\)"
    ):
        SPLIT.check_clips(
            ["0", "1", "2"], ["ant", class_name, class_name], ["test_seen", part, part]
        )


# As Mercea et al. (CVPR and ECCV 2022) released them.
@pytest.mark.parametrize(
    ("benchmark", "split", "counts", "num_listed"),
    [
        ("ucf", "main", (30, 12, 9), 101),
        ("ucf", "cls", (30, 12, 6), 101),
        ("vggsound", "main", (138, 69, 69), 309),
        ("vggsound", "cls", (138, 69, 64), 309),
        ("activitynet", "main", (99, 51, 50), 200),
        ("activitynet", "cls", (99, 51, 48), 200),
    ],
)
def test_published_lists(benchmark, split, counts, num_listed):
    loaded = load_benchmark(benchmark)
    lists = loaded.splits[split]
    assert (len(lists.train), len(lists.val_unseen), len(lists.test_unseen)) == counts
    assert len(set(lists.classes)) == sum(counts)
    assert len(loaded.words) == num_listed
    assert set(lists.classes) <= set(loaded.words)
    assert all(loaded.words.values())
    # Building the stages finds a class that is listed twice.
    assert len(lists.stage_2) == sum(counts)
    assert len(lists.stage_1) == counts[0] + counts[1]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_two_splits_differ_in_unseen_test_classes_alone(benchmark):
    cls, main = (load_benchmark(benchmark).splits[name] for name in ("cls", "main"))
    assert (cls.train, cls.val_unseen) == (main.train, main.val_unseen)
    assert set(cls.test_unseen) < set(main.test_unseen)


def test_words_of_a_class():
    assert load_benchmark("ucf").words["ApplyEyeMakeup"] == "Apply Eye Makeup"


def test_no_such_benchmark():
    with pytest.raises(TCAFError, match=r"no benchmark 'UCF101'; .*did you mean 'ucf'\?"):
        load_benchmark("UCF101")
