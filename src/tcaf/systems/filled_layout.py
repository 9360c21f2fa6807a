"""Where the tokens of a batch of a fixed shape lie, worked out on the device from its lengths.

The counterpart of `layout.TokenLayout` for `data.filled`: the same rows [class | audio | visual],
the same patterns, but every tensor of a plan is as large for each batch of the shape, and nothing
is looked at by the CPU. Owns two ways of laying attention out: rectangles of all clips, and
sequences one after another for kernels of variable length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tcaf.data.features import Modality
from tcaf.data.filled import FilledPacked, FilledPacking
from tcaf.settings.sections import AttentionPattern
from tcaf.systems.layout import KEY_ORDER, SEES, Group, RowGroups


@dataclass(frozen=True)
class Rectangle:
    """Queries of all clips that see the same stretch of each clip's keys.

    Args:
        rows: the row of each query of a clip; padding repeats a row of the clip's own.
        keys: which of a clip's keys they see.
        seen: which of these there are; of a clip without any all.
        lonely: clips without any key; None where the class token is one.
    """

    rows: Int[Tensor, "clips num_queries"]
    keys: slice
    seen: Bool[Tensor, "clips num_keys"]
    lonely: Bool[Tensor, " clips"] | None


@dataclass(frozen=True)
class Sequences:
    """Queries one after another, of each group of each clip, and for each such run its own keys.

    Args:
        key_rows: the row of each key.
        query_ends: where runs of queries begin and end: 0, then each end.
        key_ends: likewise for their keys.
        most_queries: in a run.
        most_keys: of a run.
    """

    key_rows: Int[Tensor, " keys"]
    query_ends: Int[Tensor, " runs_1"]
    key_ends: Int[Tensor, " runs_1"]
    most_queries: int
    most_keys: int


@dataclass(frozen=True)
class FilledPlan:
    """How attention of some groups is laid out.

    Args:
        rectangles: that hold all queries.
        key_rows: the row of each key of a clip; padding repeats a row of the clip's own.
        row_from: where each query's output is, in the rectangles one after another.
        joined: see `layout.AttentionPlan`.
        num_heads: attention heads.
        sequences: the other way; None where some queries may see nothing, or not all are asked.
    """

    rectangles: tuple[Rectangle, ...]
    key_rows: Int[Tensor, "clips num_keys"]
    row_from: Int[Tensor, " query_rows"]
    joined: bool
    num_heads: int
    sequences: Sequences | None


class FilledLayout(RowGroups[FilledPlan]):
    """Where each group's tokens lie in the rows of a batch of a fixed shape.

    Args:
        clips: how many.
        packed: tokens by modality.
        class_token: whether each clip has one.
        device: where the rows are.
    """

    def __init__(
        self,
        clips: int,
        packed: Mapping[Modality, FilledPacked],
        device: torch.device,
        *,
        class_token: bool,
    ) -> None:
        self.clips, self.device = clips, device
        self.packings: dict[Group, FilledPacking] = {}
        if class_token:
            ones = torch.ones(clips, dtype=torch.int64, device=device)
            self.packings["class"] = FilledPacking(ones, device, clips, 1)
        self.packings |= {modality: each.packing for modality, each in packed.items()}
        super().__init__({group: each.num_rows for group, each in self.packings.items()})

    def _new_plan(
        self, pattern: AttentionPattern, queries: tuple[Group, ...], num_heads: int
    ) -> FilledPlan:
        queries = tuple(group for group in self.groups if group in queries)
        joined = queries == self.groups
        order = [group for group in KEY_ORDER if group in self.packings]
        rooms = [self.packings[group].room for group in order]
        at = {g: slice(e - r, e) for g, e, r in zip(order, accumulate(rooms), rooms, strict=True)}
        real = torch.cat([self.packings[group].real for group in order], dim=1)
        places = {group: self._places(group, self.slices[group].start) for group in order}
        key_rows = torch.cat([places[group] for group in order], dim=1)
        own = key_rows.gather(1, real.to(torch.int64).argmax(dim=1, keepdim=True))
        firsts = self.firsts(queries)
        rectangles, row_from, start = [], {}, 0
        for group in queries:
            seen_groups = [other for other in SEES[pattern][group] if other in at]
            seen = [at[other] for other in seen_groups]
            keys = slice(min(s.start for s in seen), max(s.stop for s in seen))
            packing = self.packings[group]
            there, lonely = real[:, keys], None
            if "class" not in seen_groups:
                lonely = ~there.any(dim=1)
                there = there | lonely[:, None]
            # Another row of the clip's own where it has none of this group.
            rows = self._places(group, firsts[group])
            spare = own if joined else rows[:, :1]
            rows = torch.where(packing.real, rows, spare)
            rectangles.append(Rectangle(rows, keys, there, lonely))
            row_from[group] = start + packing.clip_of * packing.room + packing.place_of
            start += self.clips * packing.room
        return FilledPlan(
            tuple(rectangles),
            torch.where(real, key_rows, own),
            torch.cat([row_from[group] for group in queries]),
            joined,
            num_heads,
            self._sequences(pattern) if joined and "class" in self.packings else None,
        )

    def _places(self, group: Group, start: int) -> Int[Tensor, "clips room"]:
        """Returns the row of each place of a group's, of which only some hold a token."""
        packing = self.packings[group]
        rows = packing.first[:, None] + torch.arange(packing.room, device=self.device)
        return start + rows.clamp_max(packing.num_rows - 1)

    def _sequences(self, pattern: AttentionPattern) -> Sequences:
        """Lays all queries out in the order of their rows, each run with its keys.

        The rows behind the tokens of a modality are a run of their own, with one key; the last such
        run has all keys that are left over, so that each key belongs to some run.
        """
        one = torch.ones(1, dtype=torch.int64, device=self.device)
        queries, stretches, starts, sizes = [], [], [], []
        for group, packing in self.packings.items():
            seen = [other for other in KEY_ORDER if other in SEES[pattern][group]]
            parts = [self.packings[other] for other in seen if other in self.packings]
            queries.append(packing.lens)
            stretches.append(torch.stack([part.lens for part in parts], dim=1))
            rows = [self.slices[g].start + self.packings[g].first for g in seen if g in self.slices]
            starts.append(torch.stack(rows, dim=1))
            sizes.append(sum(part.num_rows for part in parts))
            if group != "class":
                queries.append(packing.num_rows - packing.lens.sum(dim=0, keepdim=True))
                stretches.append(one[:, None])
                starts.append(torch.zeros_like(one)[:, None])
                sizes.append(1)
        num_keys = sum(sizes)
        counts = [each.sum(dim=1) for each in stretches]
        left = num_keys - torch.cat(counts)[:-1].sum(dim=0, keepdim=True)
        counts[-1], stretches[-1] = left, left[:, None]
        lens = torch.cat([each.flatten() for each in stretches])
        ends = lens.cumsum(dim=0)
        key = torch.arange(num_keys, device=self.device)
        run = torch.searchsorted(ends, key, right=True)
        key_rows = torch.cat([each.flatten() for each in starts])[run] + key - (ends - lens)[run]
        behind = [packing.num_rows // 4 + 1 for packing in self.packings.values()]
        rooms = [packing.room for packing in self.packings.values()]
        return Sequences(
            key_rows.clamp_max(self.num_rows - 1),
            _ends(torch.cat(queries)),
            _ends(torch.cat(counts)),
            max(*rooms, *behind),
            max(sum(rooms), num_keys // 4 + len(sizes) + 1),
        )


def _ends(lens: Int[Tensor, " runs"]) -> Int[Tensor, " runs_1"]:
    """Returns 0 and the end of each run, as kernels take them."""
    return torch.nn.functional.pad(lens.cumsum(dim=0), (1, 0)).to(torch.int32)
