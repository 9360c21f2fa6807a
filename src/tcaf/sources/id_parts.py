"""Benchmarks whose parts follow from the ids of clips and from what their classes are.

Owns the rule that YouTube-8M's and AudioSet's benchmarks share: each clip has a percent of its own,
which decides within its class's partition, whatever else is there. What makes a clip one of a class
is each reader's own.
"""

import zlib
from collections.abc import Mapping

from tcaf.data.splits import SUBSETS, Split
from tcaf.errors import TCAFError, did_you_mean


def check_partition(partition: str, where: str) -> str:
    """Returns what a class belongs to.

    Args:
        partition: as a table has it.
        where: how a message begins.

    Raises:
        TCAFError: there is no such partition.
    """
    if partition not in SUBSETS:
        raise TCAFError(
            f"{where} has the partition {partition!r}; there are {', '.join(SUBSETS)}"
            f"{did_you_mean(partition, SUBSETS)}"
        )
    return partition


def split_of(partitions: Mapping[str, str]) -> Split:
    """Returns the split of classes by name, each list sorted."""
    lists = {p: [n for n, q in partitions.items() if q == p] for p in SUBSETS}
    return Split(**{partition: tuple(sorted(names)) for partition, names in lists.items()})


def part_of_id(clip_id: str, partition: str) -> str:
    """Returns the part in which a clip stands: its id decides within its class's partition."""
    percent = zlib.crc32(clip_id.encode()) % 100
    if partition == "train":
        return "stage_1_train" if percent < 70 else "val_seen" if percent < 85 else "test_seen"
    if partition == "val_unseen":
        return "val_unseen" if percent < 85 else "test_seen"
    return "test_unseen"
