import zlib

import pytest

from tcaf.errors import TCAFError
from tcaf.sources.id_parts import check_partition, part_of_id, split_of


def test_the_bounds_of_the_percents():
    by_percent = {zlib.crc32(f"i{i}".encode()) % 100: f"i{i}" for i in range(2003)}
    assert sorted(by_percent) == list(range(100))
    for partition, at in (
        ("train", {0: "stage_1_train", 69: "stage_1_train", 70: "val_seen", 84: "val_seen"}),
        ("train", {85: "test_seen", 99: "test_seen"}),
        ("val_unseen", {0: "val_unseen", 84: "val_unseen", 85: "test_seen", 99: "test_seen"}),
        ("test_unseen", {0: "test_unseen", 99: "test_unseen"}),
    ):
        for percent, part in at.items():
            assert part_of_id(by_percent[percent], partition) == part


def test_a_split_is_sorted():
    split = split_of({"b": "train", "c": "test_unseen", "a": "train", "d": "val_unseen"})
    assert (split.train, split.val_unseen, split.test_unseen) == (("a", "b"), ("d",), ("c",))


def test_a_partition_that_there_is_not():
    assert check_partition("train", "a class") == "train"
    with pytest.raises(TCAFError, match=r"a class has the partition 'tain'; .* mean 'train'"):
        check_partition("tain", "a class")
