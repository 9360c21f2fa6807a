"""Processes that wait for files and make features of them, one file at a time.

Owns what is refused of a file that somebody else has sent, who may have chosen its name and every
byte of it. Many files that are known from the start are `files`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tcaf.answers.files import FileBackbones, failure, open_here
from tcaf.data.features import Modality, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.execution.outcomes import Failed
from tcaf.execution.processes import PATIENT
from tcaf.execution.standing import StandingProcesses
from tcaf.execution.worker import Send
from tcaf.extract.backbones import BackboneInfo
from tcaf.extract.containers import FILE_MEMORY, BrokenMediaWarning, MediaError
from tcaf.extract.media import probe, require_decoder

TOO_LONG = "too long"
"""Reason of a clip that lasts longer than it may."""

SLACK_S = 2.0
"""Seconds by which a clip may be longer than its header says before that counts."""


@dataclass(frozen=True)
class ReadFile:
    """The features of a file.

    Args:
        video: the features.
        length_s: seconds that the header says; None if it does not.
        broken: what is amiss with the file though it is used, one line each.
    """

    video: VideoFeatures
    length_s: float | None
    broken: tuple[str, ...]


@dataclass(frozen=True)
class _Asked:
    """A file to read.

    Args:
        path: where it lies.
        name: what it is called in words.
    """

    path: Path
    name: str


class FileReaders:
    """Processes that make features of files for as long as they are open.

    What a file does to its process (crash, hang, want of memory, an unforeseen error) ends that
    process and nothing else. The first file waits until a process has started, unless `start` was
    called before.

    Args:
        backbones: with which.
        workers: processes, each with its share of the cores; by default one for each core.
        timeout_s: seconds that a file may take, whatever its size.
        max_length_s: seconds that a clip may last.
        memory_bytes: that a file may take beyond what the process has before it.

    Raises:
        TCAFError: backbones that cannot be opened, a missing package, or a limit that is not above
            0.
    """

    def __init__(
        self,
        backbones: FileBackbones,
        *,
        workers: int | None = None,
        timeout_s: float,
        max_length_s: float,
        memory_bytes: float = FILE_MEMORY,
    ) -> None:
        for name, limit in (("timeout_s", timeout_s), ("max_length_s", max_length_s)):
            if not limit > 0:
                raise TCAFError(f"{name} must be above 0, got {limit:g}")
        require_decoder()
        # Opened here first: what is wrong with weights is said before any process starts.
        _ = backbones.opened
        self._processes: StandingProcesses[_Asked | None, ReadFile | MediaError | None]
        self._processes = StandingProcesses(
            _open_reader,
            (backbones, *backbones.known_here(), max_length_s),
            backbones.num_workers(workers),
            limit=lambda _: timeout_s,
            limit_bytes=memory_bytes,
            environment=PATIENT,
        )

    def __enter__(self) -> "FileReaders":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def workers(self) -> int:
        """How many files are read at a time."""
        return self._processes.workers

    def start(self) -> None:
        """Starts the processes, so that the first files need not wait for that.

        Raises:
            TCAFError: one cannot open the backbones.
        """
        # Each is at work on nothing while the next one is asked for.
        with ThreadPoolExecutor(self.workers) as threads:
            for _ in threads.map(self._processes.do, [None] * self.workers):
                pass

    def read(self, path: Path, name: str, patience_s: float | None = None) -> ReadFile:
        """Returns the features of a file, once a process is free.

        Args:
            path: where it lies.
            name: what it is called in errors and as the clip's id.
            patience_s: how long to wait until a process is free, in seconds; None for ever.

        Raises:
            NoneFreeError: none has become free.
            MediaError: the file cannot be used, or takes too long or too much memory.
            TCAFError: no process starts, or the readers are closed.
        """
        found = self._processes.do(_Asked(path, name), patience_s)
        if isinstance(found, MediaError):
            raise found
        if isinstance(found, Failed):
            raise MediaError(name, "failed", str(found.error))
        if not isinstance(found, ReadFile):
            assert found is not None, "nothing is the answer to nothing alone"
            raise failure(name, found)
        return found

    def close(self) -> None:
        """Ends the processes; what they have in hand is killed."""
        self._processes.close()


def _open_reader(
    backbones: FileBackbones,
    plugins: Sequence[Path],
    infos: Mapping[str, BackboneInfo],
    max_length_s: float,
) -> Callable[[_Asked | None, Send], ReadFile | MediaError | None]:
    """Returns what the process does with each file."""
    open_here(backbones, plugins, infos)

    def read(asked: _Asked | None, send: Send) -> ReadFile | MediaError | None:
        if asked is None:
            return None
        try:
            return _read(backbones, asked, max_length_s)
        except MediaError as error:
            # By its own name: where it lies is nobody's business.
            return MediaError(asked.name, error.reason, error.detail)

    return read


def _read(backbones: FileBackbones, asked: _Asked, max_length_s: float) -> ReadFile:
    """Returns the features of a file.

    Raises:
        MediaError: it cannot be used, or lasts too long.
    """
    length_s = probe(asked.path).duration_s
    if length_s is not None and length_s > max_length_s:
        raise _too_long(asked, length_s, max_length_s)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", BrokenMediaWarning)
        video = backbones.extract(asked.path, asked.name)
    # Headers may be silent, or lie.
    found_s = max((_seconds(backbones, video, m) for m in backbones.modalities), default=0.0)
    if found_s > max_length_s + SLACK_S:
        raise _too_long(asked, found_s, max_length_s)
    told = dict.fromkeys(
        str(w.message).replace(str(asked.path), asked.name)
        for w in caught
        if issubclass(w.category, BrokenMediaWarning)
    )
    return ReadFile(video, length_s, tuple(told))


def _seconds(backbones: FileBackbones, video: VideoFeatures, modality: Modality) -> float:
    step_s = backbones.spec.step_s(modality)
    return 0.0 if step_s is None else len(video.tokens(modality)) * step_s


def _too_long(asked: _Asked, length_s: float, max_length_s: float) -> MediaError:
    return MediaError(asked.name, TOO_LONG, f"{length_s:.0f} s; at most {max_length_s:g} s")
