"""Processes on the machines of a cluster, by Ray (extra `cluster`).

Owns joining a cluster, how its cores are shared out, and whether its machines see the same files.
A process there is a `worker` as it is here, held by an actor of Ray's beside it, so that it ends in
the same ways and for the same reasons; what Ray adds is that the machine may go too. Which process
gets which task is `processes`; on which machine it runs is up to Ray. The dashboard and the usage
statistics of Ray are off where we start it.
"""

import logging
import os
import pickle
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic

from tcaf.errors import MissingExtraError, TCAFError, did_you_mean, one_line
from tcaf.execution.outcomes import Failed, Killed
from tcaf.execution.processes import HERE, Hand, Place, usable_cores
from tcaf.execution.worker import (
    Job,
    Lost,
    Message,
    Moment,
    Ready,
    Setup,
    Task,
    Worker,
    variables,
)
from tcaf.files.digests import cache_folder
from tcaf.files.urls import as_url

LOCAL = "local"
"""A cluster of this machine alone, started for as long as it is needed."""

AUTO = "auto"
"""The cluster that runs on this machine already."""

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):[0-9]{1,5}")
_SET_BY_RAY = ("OMP_NUM_THREADS",)
"""What Ray sets for its processes and would change how numbers are rounded in ours."""

_TEMPORARY = "/tmp" if os.name == "posix" else tempfile.gettempdir()  # noqa: S108
"""Where the files of our own cluster lie: names of sockets inside may have 107 characters."""

_STORE_BYTES = 512 * 2**20
"""Memory for what our own cluster carries between processes; what is more goes to disk."""

_TOKEN = secrets.token_hex(32)
"""Without it nobody can talk to a cluster that this process has started."""

_QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": "."}
"""Ray says on the standard output that a worker was lost, where our results go."""

_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Nothing is reported to Ray's makers, and no GPU is hidden from those that asked for none."""


def check_cluster(cluster: str) -> None:
    """Checks the words for a cluster.

    Raises:
        TCAFError: they are none.
    """
    if cluster in ("", LOCAL, AUTO) or _ADDRESS.fullmatch(cluster):
        return
    if cluster.startswith("ray://"):
        raise TCAFError(
            f"--cluster {cluster}: run the command on a machine of the cluster, with --cluster "
            "auto; from outside it would see other files"
        )
    hint = did_you_mean(cluster, (LOCAL, AUTO))
    raise TCAFError(
        "--cluster: expected local, auto, or HOST:PORT as Ray prints it where it starts, got "
        f"{cluster!r}{hint}"
    )


@contextmanager
def joined(cluster: str) -> Iterator[Place]:
    """Yields where processes run: here, or on the machines of a cluster until the end.

    Args:
        cluster: empty for here; `local` for a cluster of this machine alone, which ends again;
            `auto` for the one that runs on it; or HOST:PORT of one that this machine is part of.

    Raises:
        TCAFError: it is none of these, there is no cluster, or it has other versions.
        MissingExtraError: Ray is not installed.
    """
    check_cluster(cluster)
    if not cluster:
        yield HERE
        return
    before = {name: os.environ.get(name) for name in _SET_BY_RAY}
    with variables({**_SETTINGS, **_QUIET}):
        ray = _find_ray()
        with _local(ray) if cluster == LOCAL else _connected(ray, {"address": cluster}):
            yield _Cluster(ray, before)


def _find_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray is not installed; pip install 'tcaf[cluster]'") from None
    return ray


@contextmanager
def _local(ray: Any) -> Iterator[None]:
    """Starts a cluster of this machine, which nobody else can use, and ends it."""
    with (
        tempfile.TemporaryDirectory(
            prefix="tcaf-ray-", dir=_TEMPORARY, ignore_cleanup_errors=True
        ) as folder,
        # Ray's processes give way to others by default, and ours would with them.
        variables({"RAY_AUTH_TOKEN": _TOKEN, "RAY_worker_niceness": "0"}),
        _connected(
            ray,
            {
                "address": "local",
                "num_cpus": usable_cores(),
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_temp_dir": folder,
            },
        ),
    ):
        yield


@contextmanager
def _connected(ray: Any, how: Mapping[str, Any]) -> Iterator[None]:
    """Connects this process to a cluster, and lets go of it."""
    if ray.is_initialized():
        raise TCAFError("this process is part of a cluster of Ray already; end it: ray.shutdown()")
    logging.getLogger("ray").setLevel(logging.ERROR)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**how, configure_logging=False, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        ray.shutdown()
        reason = one_line(str(error)).partition(". ")[0]
        raise TCAFError(f"no cluster of Ray at {how['address']}: {reason}") from None
    finally:
        # Ray would end this process by its own way.
        with suppress(ValueError):  # no thread but the first may
            signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def fitting_threads(cores: Sequence[int], workers: int) -> int:
    """Returns the most threads with which so many workers find room at the same time, from 1 on.

    Args:
        cores: of each machine; no worker is on two.
        workers: how many there are to be.
    """
    fits = (n for n in range(max(cores), 1, -1) if sum(c // n for c in cores) >= workers)
    return next(fits, 1)


@dataclass
class _Cluster:
    """The machines that Ray knows; see `Place`.

    Args:
        ray: the module.
        environment: the variables that Ray sets for its processes, as they are here.
    """

    ray: Any
    environment: Mapping[str, str | None]

    def _machines(self) -> list[dict[str, Any]]:
        found = [m for m in self.ray.nodes() if m["Alive"] and m["Resources"].get("CPU", 0) >= 1]
        if not found:
            raise TCAFError("the cluster has no machine with a core for us")
        return found

    def _cores(self) -> list[int]:
        return [int(machine["Resources"]["CPU"]) for machine in self._machines()]

    @property
    def cores(self) -> int:
        return sum(self._cores())

    @property
    def machines(self) -> int:
        return len(self._machines())

    def threads(self, workers: int) -> int:
        return fitting_threads(self._cores(), workers)

    def start(self, job: Job[Task], setup: Setup) -> Hand[Task]:
        how = {"num_cpus": setup.threads, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        actor = self.ray.remote(Host).options(**how, runtime_env=_runtime())
        host = actor.remote(setup, str(Path.cwd()), list(sys.path), dict(self.environment))
        return _Remote(self.ray, host, job)

    def wait(self, hands: Sequence[Any], timeout_s: float | None) -> Sequence[Any]:
        pending = [hand.pending for hand in hands]
        ready, _ = self.ray.wait(pending, num_returns=1, timeout=timeout_s)
        return [hand for hand in hands if hand.pending in ready]

    def check_shared(self, reads: Iterable[Path], writes: Path | None = None) -> None:
        with _probe(writes) as probe:
            paths = [path for path in (*reads, *probe) if as_url(path) is None]
            wanted = [(str(path.absolute()), _size(path)) for path in paths]
            wrong = [self._look_on(machine, wanted) for machine in self._machines()]
        if told := next((each for each in wrong if each), ""):
            raise TCAFError(told)

    def _look_on(self, machine: Mapping[str, Any], wanted: Sequence[tuple[str, int | None]]) -> str:
        """Returns what is wrong with a machine, in one line; empty if nothing is."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        name = machine["NodeManagerHostname"]
        there = NodeAffinitySchedulingStrategy(machine["NodeID"], soft=False)
        how = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
        look = self.ray.remote(look_for).options(**how, runtime_env=_runtime())
        try:
            there_version, missing = self.ray.get(look.remote(list(wanted)))
        except self.ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            return f"machine {name} of the cluster cannot run tcaf: {one_line(reason)}"
        if there_version != version("tcaf"):
            return (
                f"machine {name} of the cluster has tcaf {there_version}, this one has "
                f"{version('tcaf')}; install the same on all"
            )
        if missing:
            return (
                f"machine {name} of the cluster does not see {_named(missing)} as this one does; "
                "what is read and written has to lie in a folder that all machines share, under "
                f"the same path{_cache_hint(missing)}"
            )
        return ""


_PROBE = ".tcaf-shared-"


def _named(missing: str) -> str:
    """Returns the name of what a machine does not see; of our probe, that of its folder."""
    path = Path(missing)
    return str(path.parent) if path.name.startswith(_PROBE) else missing


def _cache_hint(missing: str) -> str:
    """Returns how what is fetched gets there too, where that is what is missing."""
    inside = Path(missing).is_relative_to(cache_folder().absolute())
    return "; TCAF_CACHE says where fetched files are kept" if inside else ""


def _size(path: Path) -> int | None:
    """Returns the size of a file in bytes; None for a folder, or where there is nothing."""
    return path.stat().st_size if path.is_file() else None


@contextmanager
def _probe(writes: Path | None) -> Iterator[list[Path]]:
    """Leaves a file meanwhile where is to be written: a folder of the same name proves nothing."""
    if writes is None:
        yield []
        return
    place = writes.absolute()
    folder = next(each for each in (place, *place.parents) if each.is_dir())
    with tempfile.NamedTemporaryFile(dir=folder, prefix=_PROBE) as file:
        yield [Path(file.name)]


def look_for(wanted: Sequence[tuple[str, int | None]]) -> tuple[str, str]:
    """Returns the version of tcaf here, and the first path that is not here; empty if all are.

    Args:
        wanted: absolute paths, and the sizes of files among them in bytes.
    """
    for name, size in wanted:
        path = Path(name)
        if not path.exists() or (size is not None and _size(path) != size):
            return version("tcaf"), name
    return version("tcaf"), ""


def _runtime() -> dict[str, Any]:
    return {"env_vars": dict(_SETTINGS)}


class _Task:
    """A task that is taken out by the process that works on it, and by none on the way."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return pickle.loads, (self._pickled,)


class Host:
    """Holds a worker on a machine of the cluster. Runs in a process of Ray.

    Args:
        setup: of the worker.
        folder: in which the command runs, from which relative paths go; used where it is here.
        path: where the command finds modules; added to what is known here, as for any process.
        environment: variables as they are where the command runs; None for those not set.
    """

    def __init__(
        self,
        setup: Setup,
        folder: str,
        path: Sequence[str],
        environment: Mapping[str, str | None],
    ) -> None:
        with suppress(OSError):
            os.chdir(folder)
        sys.path += [each for each in path if each not in sys.path]
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self._setup = setup
        self._worker: Worker[_Task] | None = None

    def hear(self, pickled: bytes | None = None) -> bytes:
        """Hands over a task, if one is given, and returns the next message, pickled.

        An end of the process is a message too, of which `worker` has the words.
        """
        if pickled is not None and self._worker is None:
            self._worker = Worker.start(Job(_Task(pickled)), self._setup)
        elif pickled is not None:
            assert self._worker is not None, "just found"
            self._worker.give(Job(_Task(pickled)))
        assert self._worker is not None, "the first call has a task"
        return self._worker.hear()


@dataclass
class _Remote(Generic[Task]):
    """A `Host`, and what is expected of it; see `Hand`."""

    ray: Any
    host: Any
    job: Job[Task]
    ready: bool = False
    since: float = float("inf")
    pending: Any = field(init=False)

    def __post_init__(self) -> None:
        self.give(self.job)

    def give(self, job: Job[Task]) -> None:
        self.job = job
        if self.ready:
            self.since = time.monotonic()
        self.pending = self.host.hear.remote(pickle.dumps(job.task))

    def receive(self) -> Message:
        failures = self.ray.exceptions
        try:
            content = self.ray.get(self.pending)
        except failures.OutOfMemoryError:
            return Killed("Ray has ended the process, whose machine is full", wants_memory=True)
        except failures.RayTaskError as error:
            return Failed(RuntimeError(one_line(str(error).strip().splitlines()[-1])), str(error))
        except failures.RayError:
            return Lost("its machine, or Ray's process on it, has gone")
        message: Message = pickle.loads(content)  # noqa: S301 - our own process
        if isinstance(message, Ready):
            self.ready, self.since = True, time.monotonic()
        if isinstance(message, Ready | Moment):
            self.pending = self.host.hear.remote()
        return message

    def kill(self) -> None:
        # The worker ends with the process that holds it.
        self.ray.kill(self.host)

    def dismiss(self) -> None:
        self.kill()
