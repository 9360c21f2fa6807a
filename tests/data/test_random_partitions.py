"""Random partitions of a split's classes: what is held out, and that no test clip gets in."""

from collections import Counter

import numpy as np
import pytest

from tcaf.data.random_partitions import base_split, deal_parts, draw_partition, partition_name
from tcaf.data.splits import PARTS, Split
from tcaf.errors import TCAFError

SPLIT = Split(
    tuple(f"train {i}" for i in range(13)), tuple("val " + c for c in "abcde"), ("test 1", "test 2")
)


def dealt(partition, ids, classes, source=None):
    """Clips by part and class."""
    parts = deal_parts(partition, 1, ids, classes, source or {})
    return Counter(zip(parts.tolist(), classes, strict=True))


def test_names():
    assert partition_name("cls", 3) == "cls@3"
    assert base_split("cls@3") == ("cls", 3)
    assert base_split("a@b@12") == ("a@b", 12)
    for own in ("cls", "cls@", "cls@0", "cls@x", "@1", "cls@01"):
        assert base_split(own) == (own, 0)


def test_classes_are_dealt_anew():
    found = [draw_partition(SPLIT, number) for number in (1, 2, 1)]
    assert found[0] == found[2] != found[1]
    for partition in found:
        # 5 of 18 held out; of the 13 left 13 x 5 / 18 = 3.6, so 4, unseen in validation.
        assert [len(partition.train), len(partition.val_unseen), len(partition.test_unseen)] == [
            *(9, 4, 5)
        ]
        assert set(partition.classes) == {*SPLIT.train, *SPLIT.val_unseen}
    held_out = Counter(n for k in range(1, 400) for n in draw_partition(SPLIT, k).test_unseen)
    assert set(held_out) == {*SPLIT.train, *SPLIT.val_unseen}
    assert max(abs(count - 399 * 5 / 18) for count in held_out.values()) < 45


@pytest.mark.parametrize("split", [Split(("a", "b", "c"), (), ()), Split(("a", "b"), ("c",), ())])
def test_too_few_classes(split):
    with pytest.raises(TCAFError, match="random partition needs classes of validation, and 2 to"):
        draw_partition(split, 1)


def test_clips_are_dealt_in_shares():
    partition = Split(("a",), ("b",), ("c",))
    classes = ["a"] * 40 + ["b"] * 20 + ["c"] * 7
    found = dealt(partition, [f"clip {i}" for i in range(67)], classes)
    assert found == {
        ("stage_1_train", "a"): 28,
        ("val_seen", "a"): 6,
        ("test_seen", "a"): 6,
        ("val_unseen", "b"): 17,
        ("test_seen", "b"): 3,
        ("test_unseen", "c"): 7,
    }


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({}, "a/v_Archery_g{take:02}_c{clip}.avi"),
        ({}, "film {take}.mp4@{clip}.0-{clip}.5"),
        ({"group": r"day(\d+)_"}, "day{take}_{clip}.mp4"),
        ({"appended": [{"group": r"day\d+"}]}, "day{take}_{clip}.mp4"),
    ],
)
def test_clips_of_one_video_stay_together(source, name):
    takes = np.repeat(np.arange(9), 4)
    ids = [name.format(take=take, clip=i % 4) for i, take in enumerate(takes)]
    parts = deal_parts(Split(("a",), (), ()), 1, ids, ["a"] * 36, source)
    assert {len(set(parts[takes == take])) for take in range(9)} == {1}
    assert set(parts) == {"stage_1_train", "val_seen", "test_seen"}


def test_a_stores_test_has_no_part(tiny_store):
    own = tiny_store.split("cls")
    learnt = {*own.train, *own.val_unseen}
    untouched = np.isin(tiny_store.parts.astype(str), ["test_seen", "test_unseen"])
    found = [tiny_store.parts_of(f"cls@{number}") for number in (1, 2)]
    for number, parts in enumerate(found, start=1):
        partition = tiny_store.split(f"cls@{number}")
        partition.check_clips(tiny_store.ids, tiny_store.class_names, parts)
        assert not parts[untouched].any()
        assert parts[~untouched].all()
        for part in PARTS:
            rows = tiny_store.rows(f"cls@{number}", part)
            assert len(rows)
            assert set(tiny_store.class_names[rows]) <= learnt
            assert rows.tolist() == np.flatnonzero(parts == part).tolist()
    assert (found[0] != found[1]).any()
    assert tiny_store.parts_of("cls") is tiny_store.parts


def test_no_such_split(tiny_store):
    with pytest.raises(TCAFError, match="no split 'clss'; it has cls; did you mean 'cls'"):
        tiny_store.split("clss@2")
    with pytest.raises(TCAFError, match="no split 'cls@0'; it has cls"):
        tiny_store.parts_of("cls@0")
