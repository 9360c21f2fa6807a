"""Where the tokens of a batch lie in the one tensor that the transformer works on.

Its rows are [class | audio | visual]: the class tokens of all clips, then the audio tokens clip
after clip, then the visual ones. Owns which of these groups sees which (Eq. 5-12, Table 3), and the
plan by which attention gathers rows into buckets of clips of similar length. A plan is arithmetic
on lengths alone, the same for every layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcaf.execution.devices import moved
from tcaf.settings.sections import AttentionPattern

Group = Literal["class", "audio", "visual"]

SEES: dict[AttentionPattern, dict[Group, tuple[Group, ...]]] = {
    "cross": {
        "class": ("class", "audio", "visual"),
        "audio": ("class", "visual"),
        "visual": ("class", "audio"),
    },
    "self": {
        "class": ("class", "audio", "visual"),
        "audio": ("class", "audio"),
        "visual": ("class", "visual"),
    },
    "full": {
        "class": ("class", "audio", "visual"),
        "audio": ("class", "audio", "visual"),
        "visual": ("class", "audio", "visual"),
    },
}
"""Which groups the queries of a group see, by pattern (A_c + A_x, A_c + A_self, and both)."""

KEY_ORDER: tuple[Group, ...] = ("audio", "class", "visual")
"""How the keys of a clip lie: what a group sees is one stretch of them, whatever the pattern."""

NARROWEST = 0.7
"""The least number of tokens of a clip in a bucket, in those of the longest clip there."""


@dataclass(frozen=True)
class Block:
    """Queries of a bucket's clips that see the same stretch of its keys: one rectangle.

    Args:
        first: where its queries begin among those of the plan.
        num_queries: of each clip, padded.
        keys: which of the bucket's keys they see.
        hidden: True for keys of a clip that are padding; None where there is no padding. Of a clip
            without any key it is False throughout.
        lonely: True for clips without any key; None where all have some.
    """

    first: int
    num_queries: int
    keys: slice
    hidden: Bool[Tensor, "clips_heads 1 num_keys"] | None
    lonely: Bool[Tensor, "clips_heads 1 1"] | None

    @property
    def num_keys(self) -> int:
        """Keys of each clip that are seen, padded; none at all in some batches."""
        return int(self.keys.stop - self.keys.start)


@dataclass(frozen=True)
class Bucket:
    """Clips of similar length, padded to the longest of them.

    Args:
        clips_heads: clips times heads.
        first: where its keys begin among keys and values of the plan; its values follow on them.
        num_keys: of each clip, padded.
        blocks: the rectangles to compute.
    """

    clips_heads: int
    first: int
    num_keys: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class AttentionPlan:
    """How rows are gathered into buckets and back. A place is a row of one head.

    Args:
        buckets: of all clips.
        joined: every row is a query, and its query, key and value stand side by side; otherwise
            queries stand in a matrix of their own, and keys beside values in another.
        num_heads: attention heads.
        query_from: the place that each query of the buckets is copied from.
        key_from: likewise each key and value.
        query_place: the place of the output that each query of the buckets belongs to.
        row_from: the query of the buckets that belongs to each place of the output.
        key_row_from: the key or value of the buckets that belongs to each place.
        padding: the queries of the buckets that no clip has; None where there are none.
        num_scores: logits in all rectangles together.
    """

    buckets: tuple[Bucket, ...]
    joined: bool
    num_heads: int
    query_from: Int[Tensor, " queries"]
    key_from: Int[Tensor, " keys_values"]
    query_place: Int[Tensor, " queries"]
    row_from: Int[Tensor, " query_places"]
    key_row_from: Int[Tensor, " key_value_places"]
    padding: Int[Tensor, " padding"] | None
    num_scores: int

    @cached_property
    def joined_row_from(self) -> Int[Tensor, " places"]:
        """Where the gradient of each place is, keys and values counted on from the queries."""
        heads = self.num_heads
        parts = self.row_from.view(-1, heads), self.key_row_from.view(-1, 2 * heads)
        return torch.cat([parts[0], parts[1] + len(self.query_from)], dim=1).flatten()


Plan = TypeVar("Plan")


class RowGroups(ABC, Generic[Plan]):
    """Which rows belong to which group, and how attention of some groups is planned.

    Args:
        sizes: rows of each group, in their order.
    """

    def __init__(self, sizes: Mapping[Group, int]) -> None:
        self.slices = self._slices(sizes)
        self.num_rows = sum(sizes.values())
        self._plans: dict[tuple[AttentionPattern, tuple[Group, ...], int], Plan] = {}

    def plan(self, pattern: AttentionPattern, queries: tuple[Group, ...], num_heads: int) -> Plan:
        """Returns how attention of some groups is computed; worked out once for all layers."""
        key = (pattern, queries, num_heads)
        if key not in self._plans:
            self._plans[key] = self._new_plan(*key)
        return self._plans[key]

    @abstractmethod
    def _new_plan(
        self, pattern: AttentionPattern, queries: tuple[Group, ...], num_heads: int
    ) -> Plan: ...

    @staticmethod
    def _slices(sizes: Mapping[Group, int]) -> dict[Group, slice]:
        ends = list(accumulate(sizes.values()))
        return {g: slice(end - sizes[g], end) for g, end in zip(sizes, ends, strict=True)}

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that there are, in the order of their rows."""
        return tuple(self.slices)

    def split(self, rows: Float[Tensor, "rows dim"]) -> dict[Group, Float[Tensor, "_ dim"]]:
        """Returns the rows of each group."""
        return {group: rows[where] for group, where in self.slices.items()}

    def rows_of(
        self, rows: Float[Tensor, "rows dim"], groups: tuple[Group, ...]
    ) -> Float[Tensor, "some_rows dim"]:
        """Returns the rows of some groups, in the order of their rows."""
        if groups == self.groups:
            return rows
        return torch.cat([rows[self.slices[group]] for group in self.groups if group in groups])

    def firsts(self, groups: tuple[Group, ...]) -> dict[Group, int]:
        """Returns where each of some groups begins in what `rows_of` returns of them."""
        sizes = {g: s.stop - s.start for g, s in self.slices.items() if g in groups}
        return {group: where.start for group, where in self._slices(sizes).items()}


class TokenLayout(RowGroups[AttentionPlan]):
    """Where each group's tokens lie in the rows of a batch.

    Args:
        lens: tokens of each clip by group, on the CPU; a group that is not there has no tokens.
        device: where the rows are.
    """

    def __init__(self, lens: Mapping[Group, Int[Tensor, " batch"]], device: torch.device) -> None:
        self.lens = {group: lens[group].numpy() for group in SEES["full"] if group in lens}
        self.device = device
        super().__init__({group: int(each.sum()) for group, each in self.lens.items()})

    def _new_plan(
        self, pattern: AttentionPattern, queries: tuple[Group, ...], num_heads: int
    ) -> AttentionPlan:
        return _Planner(self, pattern, queries, num_heads).plan()

    @cached_property
    def buckets(self) -> list[Int[np.ndarray, " clips"]]:
        """The clips of each bucket: all that have tokens, the longest first, alike in length.

        Of two clips in a bucket the shorter has at least `NARROWEST` of the longer one's tokens. On
        a GPU all clips are one: padding costs it less than to be given more to do.
        """
        narrowest = NARROWEST if self.device.type == "cpu" else 0.0
        width = np.sum(list(self.lens.values()), axis=0)
        order = np.argsort(-width, kind="stable")
        found, width = [], width[order]
        start, end = 0, int(np.count_nonzero(width))
        while start < end:
            stop = min(int(np.searchsorted(-width, -narrowest * width[start], side="right")), end)
            found.append(order[start:stop])
            start = stop
        return found


class _Planner:
    """Works out one plan: in numpy, since it is many small steps."""

    def __init__(
        self,
        layout: TokenLayout,
        pattern: AttentionPattern,
        queries: tuple[Group, ...],
        num_heads: int,
    ) -> None:
        self.layout = layout
        self.pattern = pattern
        self.heads = num_heads
        self.order: list[Group] = [group for group in KEY_ORDER if group in layout.lens]
        self.queries = tuple(group for group in layout.groups if group in queries)
        self.joined = self.queries == layout.groups
        self.first_rows = {
            group: layout.slices[group].start + np.cumsum(each) - each
            for group, each in layout.lens.items()
        }
        self.query_from: list[np.ndarray] = []
        self.query_real: list[np.ndarray] = []
        self.key_from: list[np.ndarray] = []
        self.key_real: list[np.ndarray] = []
        self.num_queries = self.num_keys = self.num_scores = 0

    def plan(self) -> AttentionPlan:
        heads, layout = self.heads, self.layout
        buckets = tuple(self._bucket(clips) for clips in layout.buckets)
        num_query_rows = sum(int(layout.lens[group].sum()) for group in self.queries)
        query_from, query_real = _joined(self.query_from), _joined(self.query_real)
        key_from, key_real = _joined(self.key_from), _joined(self.key_real)
        row_from = np.empty(num_query_rows * heads, np.int64)
        row_from[query_from[query_real]] = np.flatnonzero(query_real)
        key_row_from = np.empty(layout.num_rows * 2 * heads, np.int64)
        key_row_from[key_from[key_real]] = np.flatnonzero(key_real)
        query_place = query_from
        if self.joined:
            # Of a row's 3 x heads places the first third is the query.
            query_from = query_place + query_place // heads * 2 * heads
            key_from = key_from + (key_from // (2 * heads) + 1) * heads
        padding = np.flatnonzero(~query_real)
        return AttentionPlan(
            buckets=buckets,
            joined=self.joined,
            num_heads=heads,
            query_from=self._tensor(query_from),
            key_from=self._tensor(key_from),
            query_place=self._tensor(query_place),
            row_from=self._tensor(row_from),
            key_row_from=self._tensor(key_row_from),
            padding=self._tensor(padding) if len(padding) else None,
            num_scores=self.num_scores,
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return moved(torch.from_numpy(array), self.layout.device)

    def _bucket(self, clips: Int[np.ndarray, " clips"]) -> Bucket:
        """Adds the places of a bucket and returns its shape."""
        lens = {group: self.layout.lens[group][clips] for group in self.order}
        longest = {group: int(each.max()) for group, each in lens.items()}
        each = [self._rows(group, clips, longest[group]) for group in self.order]
        rows, real = (np.concatenate(parts, axis=1) for parts in zip(*each, strict=True))
        ends = np.cumsum([longest[group] for group in self.order]).tolist()
        at = {g: slice(e - longest[g], e) for g, e in zip(self.order, ends, strict=True)}
        # A clip's padding repeats a token of its own, so that no clip reads what another one holds.
        if rows.size:
            own = rows[np.arange(len(clips)), real.argmax(axis=1)]
            rows = np.where(real, rows, own[:, None])
        # Keys, then values: clips, heads, tokens.
        self.key_from += [self._places(rows, 2, which) for which in (0, 1)]
        self.key_real += [self._by_head(real)] * 2
        first, self.num_keys = self.num_keys, self.num_keys + 2 * self.heads * rows.size
        blocks = tuple(self._blocks(clips, at, real))
        return Bucket(len(clips) * self.heads, first, rows.shape[1], blocks)

    def _blocks(
        self, clips: np.ndarray, at: dict[Group, slice], real: Bool[np.ndarray, "clips keys"]
    ) -> Iterator[Block]:
        def seen(group: Group) -> tuple[int, int]:
            others = [at[other] for other in SEES[self.pattern][group] if other in at]
            return (min(o.start for o in others), max(o.stop for o in others)) if others else (0, 0)

        # The widest first: its gradients are written, those of others added to them.
        wanted = [group for group in self.order if group in self.queries]
        wanted.sort(key=lambda group: seen(group)[0] - seen(group)[1])
        for (start, stop), groups in groupby(wanted, key=seen):
            each = [self._rows(g, clips, at[g].stop - at[g].start, queries=True) for g in groups]
            rows, there = (np.concatenate(parts, axis=1) for parts in zip(*each, strict=True))
            if not rows.size:
                continue
            self.query_from.append(self._places(rows, 1, 0))
            self.query_real.append(self._by_head(there))
            first, self.num_queries = self.num_queries, self.num_queries + rows.size * self.heads
            self.num_scores += rows.size * self.heads * (stop - start)
            keys = real[:, start:stop]
            lonely = (keys.sum(axis=1) == 0)[:, None]
            hidden = ~keys & ~lonely
            yield Block(
                first,
                rows.shape[1],
                slice(start, stop),
                self._mask(hidden) if hidden.any() else None,
                self._mask(lonely) if lonely.any() else None,
            )

    def _mask(self, mask: Bool[np.ndarray, "clips keys"]) -> Bool[Tensor, "clips_heads 1 keys"]:
        return self._tensor(np.repeat(mask, self.heads, axis=0)[:, None])

    def _rows(
        self, group: Group, clips: np.ndarray, longest: int, *, queries: bool = False
    ) -> tuple[Int[np.ndarray, "clips longest"], Bool[np.ndarray, "clips longest"]]:
        """Returns the rows of a group's tokens and which are real; padding repeats any row."""
        place = np.arange(longest)
        real = place < self.layout.lens[group][clips, None]
        first = self.first_rows[group]
        if queries and not self.joined:
            own = self.layout.firsts(self.queries)[group]
            first = first - self.layout.slices[group].start + own
        return np.where(real, first[clips, None] + place, 0), real

    def _places(
        self, rows: Int[np.ndarray, "clips tokens"], kinds: int, which: int
    ) -> Int[np.ndarray, " places"]:
        """Returns the places of rows of `kinds` x heads of them, of the kind `which`."""
        head = np.arange(self.heads)[:, None]
        return (rows[:, None] * (kinds * self.heads) + which * self.heads + head).ravel()

    def _by_head(self, real: Bool[np.ndarray, "clips tokens"]) -> Bool[np.ndarray, " places"]:
        return np.repeat(real[:, None], self.heads, axis=1).ravel()


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
