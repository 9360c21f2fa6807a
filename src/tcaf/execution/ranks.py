"""The processes that train one model together, as `torchrun` starts them.

Owns what a process knows of its rank, the process group and what goes through it, and how the
processes end together: one of them says in one line what is wrong, all leave. The first rank writes
and speaks for all. Everything here does nothing where a process is alone, without importing torch.

Knows nothing of models; what is computed over the rows of all ranks is `systems.over_ranks`.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from tcaf.errors import TCAFError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""How long a rank waits for another, which may be at work on validation or class text alone. One
that has ended is noticed at once, and torchrun ends those that wait for it."""

MEETING = timedelta(minutes=5)
"""How long the processes wait for one another at the start."""


@dataclass(frozen=True)
class Rank:
    """One of the processes that work together.

    Args:
        index: its number, from 0; the first writes and speaks.
        count: how many there are.
        local: its number on its machine.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    def share(self, number: int) -> slice:
        """Returns which of so many things in order are this rank's: sizes differ by one at most."""
        edges = [index * number // self.count for index in (self.index, self.index + 1)]
        return slice(*edges)


@dataclass
class _Group:
    """The process group while there is one.

    Args:
        rank: of this process.
        store: keys that all processes see, which outlives the group's connections.
        rows: a group of its own for statistics of rows: these are exchanged while gradients are,
            in an order that is not the same on all ranks.
    """

    rank: Rank
    store: Any
    rows: Any


_group: _Group | None = None
_has_floor = False


class EndedElsewhereError(Exception):
    """Another process has ended the training, and says why."""


def started() -> Rank:
    """Returns the rank that torchrun has started this process as; alone without torchrun.

    Raises:
        TCAFError: its variables contradict one another.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if given["RANK"] is None or given["WORLD_SIZE"] is None:
        return Rank()
    try:
        rank = Rank(int(given["RANK"]), int(given["WORLD_SIZE"]), int(given["LOCAL_RANK"] or 0))
    except ValueError:
        rank = Rank(-1)
    if not 0 <= rank.index < rank.count:
        raise TCAFError(
            "expected numbers in the variables RANK, WORLD_SIZE and LOCAL_RANK, as torchrun sets "
            f"them, got {given}"
        )
    return rank


def current() -> Rank:
    """Returns this process's rank among those that it has joined; alone outside of `joined`."""
    return Rank() if _group is None else _group.rank


def speaks() -> bool:
    """Returns whether this process says things to the user: the first one, or who fails first."""
    try:
        return _has_floor or started().index == 0
    except TCAFError:
        return True  # of variables that make no rank, for one


@contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that torchrun has started, for as long as the body lasts.

    Whatever ends the body early ends it on all ranks. The first to fail raises what it was, so that
    it can say so; the others raise `EndedElsewhereError`.

    Raises:
        TCAFError: the others do not come, or one of them was ended from outside.
    """
    global _group
    if _group is not None or started().count == 1:
        yield
        return
    _group = _meet(started())
    try:
        yield
        barrier()
        _leave()
    except BaseException as error:
        # torchrun ends what is left as soon as one has ended: nobody is to be cut off in speaking.
        with suppress(ValueError):  # a thread may not
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not _takes_floor(_group.store):
            raise EndedElsewhereError from None
        if _is_of_group(error):
            raise TCAFError(
                "another process of this training has ended without a word; the same command with "
                "--resume carries on, with any number of processes"
            ) from None
        raise
    finally:
        _group = None


def _meet(rank: Rank) -> _Group:
    # What torch's own code notes of its connections and of unused weights is for its developers.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, index, count = next(rendezvous("env://", timeout=MEETING))
        dist.init_process_group(
            backend,
            store=PrefixStore("tcaf", store),
            rank=index,
            world_size=count,
            timeout=PATIENCE,
        )
        rows = dist.new_group(timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TCAFError(
            f"process {rank.index} of {rank.count} does not reach the others: {error}"
        ) from None
    return _Group(rank, store, rows)


def _leave() -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


def _takes_floor(store: Any) -> bool:
    """Returns whether no other process has failed before, and lets this one speak then."""
    global _has_floor
    _has_floor = True
    # Without the process that kept the keys nobody is left to have spoken.
    with suppress(RuntimeError):
        _has_floor = store.add("tcaf/ended", 1) == 1
    return _has_floor


def _is_of_group(error: BaseException) -> bool:
    """Returns whether an error is that another process cannot be reached any more."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (
        # What gloo raises has no class of its own.
        isinstance(error, RuntimeError)
        and any(word in str(error) for word in ("gloo", "Connection closed by peer"))
    )


def barrier() -> None:
    """Waits until all ranks have come here."""
    of_all(0.0)


@contextmanager
def first_ahead() -> Iterator[None]:
    """Runs the body on the first rank, and then on the others, which find what it has left."""
    if current().index:
        barrier()
    yield
    if not current().index:
        barrier()


def from_first(value: T) -> T:
    """Returns on all ranks what the first one gives; picklable."""
    if _group is None:
        return value
    import torch
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def of_all(value: float | int) -> list[Any]:
    """Returns on all ranks the numbers that they give, in their order."""
    if _group is None:
        return [value]
    import torch

    own = torch.tensor([value], dtype=torch.float64)
    return gathered(own, alike=True).tolist()


def add_up(*tensors: "Tensor") -> None:
    """Adds to tensors, in place, those of all other ranks."""
    if _group is None:
        return
    import torch.distributed as dist

    for tensor in tensors:
        if tensor.numel():
            dist.all_reduce(tensor)


def gathered(own: "Tensor", *, alike: bool = False) -> "Tensor":
    """Returns the tensors of all ranks, one behind the other along the first axis.

    Args:
        own: of this rank; of the same shape on all but for the first axis.
        alike: the first axis is as long on all ranks too.
    """
    if _group is None:
        return own
    lens = [len(own)] * _group.rank.count if alike else [int(n) for n in of_all(len(own))]
    # Collectives want one shape from all.
    padded = own.new_zeros(max(lens), *own.shape[1:])
    padded[: len(own)] = own
    return _concatenated(padded, lens, None)


def gathered_rows(own: "Tensor") -> "Tensor":
    """Returns the statistics of rows of all ranks, which are of one shape; see `_Group.rows`."""
    if _group is None:
        return own
    return _concatenated(own.contiguous(), [len(own)] * _group.rank.count, _group.rows)


def _concatenated(own: "Tensor", lens: list[int], group: Any) -> "Tensor":
    import torch
    import torch.distributed as dist

    found = [torch.empty_like(own) for _ in lens]
    dist.all_gather(found, own, group=group)
    return torch.cat([one[:length] for one, length in zip(found, lens, strict=True)])


def add_up_rows(own: "Tensor") -> "Tensor":
    """Returns the sum over ranks of what belongs to statistics of rows, such as their gradient."""
    if _group is None:
        return own
    import torch.distributed as dist

    total = own.clone()
    dist.all_reduce(total, group=_group.rows)
    return total
