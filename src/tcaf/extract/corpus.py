"""Many files to features, over several processes, whatever happens on the way.

Owns which process works on which file, and what becomes of one whose process crashed or took too
much memory, which lasts, or hung, was killed or failed, which the next run tries again. Segments of
a file that are not done are decoded together. Features gather in `work_folder`; what becomes of
them is `sources.videos`.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.execution.outcomes import Crash, Killed, OutOfMemory, OutOfTime
from tcaf.execution.processes import HERE, PATIENT, Place, answers
from tcaf.execution.worker import Send
from tcaf.extract.backbones import Backbone, check_device, move, processes_on, takes_model
from tcaf.extract.containers import FILE_MEMORY, FILE_TIMEOUT_S, BrokenMediaWarning, MediaError
from tcaf.extract.extractor import Extractor
from tcaf.extract.media import require_decoder
from tcaf.extract.work_folder import Extracted, MediaFile, Reject, WorkFolder
from tcaf.files.atomic import needing_room
from tcaf.plugins import load_plugin
from tcaf.progress import Track, silent
from tcaf.settings.sections import Device


@dataclass(frozen=True)
class Backbones:
    """Which backbones to open, in each process anew.

    Args:
        audio: name with options.
        visual: name with options.
        audio_weights: a file or folder in place of the known weights.
        visual_weights: the same for the visual backbone.
        plugin: a Python file that registers backbones, run in each process first.
        device: where their networks compute.
    """

    audio: str
    visual: str
    audio_weights: Path | None = None
    visual_weights: Path | None = None
    plugin: Path | None = None
    device: Device = "cpu"

    def run_plugin(self) -> str:
        """Makes the plugin's backbones known; returns its SHA-256, empty where there is none."""
        return load_plugin(self.plugin).sha256 if self.plugin is not None else ""

    def open(self) -> Extractor:
        """Loads them, on the CPU."""
        self.run_plugin()
        return Extractor.open(
            self.audio,
            self.visual,
            audio_weights=self.audio_weights,
            visual_weights=self.visual_weights,
        )

    def pinned(self, spec: FeatureSpec) -> "Backbones":
        """Returns the same with each model of a hub at the commit that was opened.

        Whatever happens there meanwhile, all processes open that, and ask no network for it.
        """
        audio, visual = spec.audio_backbone, spec.visual_backbone
        return replace(
            self,
            audio=audio if takes_model(audio) else self.audio,
            visual=visual if takes_model(visual) else self.visual,
        )


Job = tuple[MediaFile, ...]
"""What is decoded at once: a file, or segments of one file."""


def _jobs(files: Iterable[MediaFile]) -> list[Job]:
    """Returns files with those that are of one path together, in the order of their first."""
    by_path: dict[Path, list[MediaFile]] = {}
    for file in files:
        by_path.setdefault(file.path, []).append(file)
    return [tuple(of_path) for of_path in by_path.values()]


def _open_worker(backbones: Backbones, folder: Path) -> Callable[[Job, Send], list[Reject]]:
    """Returns what a process does with each job; rejects that come back are of this run alone."""
    extractor, work = backbones.open(), WorkFolder(folder)
    move([extractor.audio, extractor.visual], backbones.device)

    def extract(job: Job, send: Send) -> list[Reject]:
        path, state = job[0].path, job[0].state()
        notes: list[list[str]] = [[] for _ in job]
        found: Sequence[VideoFeatures | TCAFError]
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", BrokenMediaWarning)
                found = extractor.extract_segments(
                    path,
                    [(file.id, file.segment) for file in job],
                    lambda place, note: notes[place].append(note),
                )
        except TCAFError as error:
            found = [error] * len(job)
        except Exception as error:  # noqa: BLE001 - one file must not end the run
            check_device(error)
            return [_passing(file, "failed", f"{type(error).__name__}: {error}") for file in job]
        broken = [str(w.message) for w in caught if issubclass(w.category, BrokenMediaWarning)]
        for file, one, noted in zip(job, found, notes, strict=True):
            if isinstance(one, TCAFError):
                reason = one.reason if isinstance(one, MediaError) else "unusable features"
                work.reject(file, reason, str(one), state)
            else:
                work.keep(file, one, [*broken, *noted], state)
        return []

    return extract


def one_of_each_folder(paths: Iterable[Path]) -> list[Path]:
    """Returns the first path of each folder, of those that are there."""
    firsts: dict[Path, Path] = {}
    for path in paths:
        if path.parent not in firsts and path.exists():
            firsts[path.parent] = path
    return list(firsts.values())


def _passing(file: MediaFile, reason: str, detail: str) -> Reject:
    """Returns a reject that is not kept: the next run may have more luck."""
    error = MediaError(file.path, reason, detail)
    return Reject(file.id, error.reason, str(error))


def too_long(answer: OutOfTime) -> tuple[str, str]:
    """Returns the reason and the detail of a file that took too long."""
    return "takes too long", f"{answer}; --file_timeout_s gives more time"


def _extract_waiting(
    waiting: Sequence[MediaFile],
    backbones: Backbones,
    work: WorkFolder,
    workers: int,
    file_timeout_s: float,
    place: Place,
    track: Track,
) -> dict[str, Reject]:
    """Extracts files into the folder; returns, by id, the rejects of this run alone."""
    passing: dict[str, Reject] = {}
    jobs = _jobs(waiting)
    # Found once: on a disk that hangs, looking at a file would hang too.
    limits = {job: job[0].limit_s(file_timeout_s) for job in jobs}
    # The largest first, to a MiB: at the end no process waits long for another's last file.
    jobs.sort(key=lambda job: limits[job] // file_timeout_s, reverse=True)
    found = answers(
        jobs,
        _open_worker,
        (backbones, work.path),
        workers,
        limit=limits.__getitem__,
        limit_bytes=FILE_MEMORY,
        environment=PATIENT,
        place=place,
    )
    with closing(found) as done:
        for _, (job, answer) in zip(track(jobs, "extracting"), done, strict=True):
            if isinstance(answer, list):
                passing |= {reject.id: reject for reject in answer}
                continue
            for file in job:
                if isinstance(answer, OutOfTime):
                    passing[file.id] = _passing(file, *too_long(answer))
                elif isinstance(answer, Killed):
                    passing[file.id] = _passing(file, f"killed{answer.hint}", answer.reason)
                elif isinstance(answer, OutOfMemory):
                    error = MediaError(file.path, "takes too much memory", str(answer))
                    work.reject(file, error.reason, str(error))
                elif isinstance(answer, Crash) and work.find(file) is None:
                    error = MediaError(file.path, "decoder crashed", answer.reason)
                    work.reject(file, error.reason, str(error))
    return passing


def num_workers(asked: int | None, place: Place, device: Device, opened: Iterable[Backbone]) -> int:
    """Returns how many processes make features.

    Args:
        asked: how many are asked for; None for one for each core, on this machine's GPU as many as
            it has room for.
        place: where they run.
        device: where their networks compute.
        opened: the backbones of each process.

    Raises:
        TCAFError: there is no such device on this machine.
    """
    # What other machines have room for is not known here.
    fitting = processes_on(device, opened, place.cores) if place is HERE else place.cores
    return fitting if asked is None else asked


def extract_files(
    files: Sequence[MediaFile],
    backbones: Backbones,
    folder: Path,
    *,
    workers: int | None = None,
    file_timeout_s: float = FILE_TIMEOUT_S,
    expected: FeatureSpec | None = None,
    place: Place = HERE,
    track: Track = silent,
) -> tuple[FeatureSpec, list[Extracted | Reject]]:
    """Extracts all files that are not done yet; returns the spec and what became of each, in order.

    Args:
        files: what to extract.
        backbones: with which.
        folder: where features gather (see above); one that a killed run left is taken up.
        workers: processes; each loads the backbones and has its share of the cores. By default one
            for each core, on this machine's GPU as many as it has room for.
        file_timeout_s: seconds that a file may take, and as many again for each MiB of it.
        expected: what the features must mean; by default what the backbones give.
        place: where the processes run.
        track: shows progress.

    Raises:
        TCAFError: a backbone cannot be opened or is not the one expected, or the folder is of
            another extraction; or the disk is full, and what is done stays.
        MissingExtraError: PyAV is not installed.
        OSError: the folder cannot be written to.
    """
    if not file_timeout_s > 0:
        raise TCAFError(f"file_timeout_s must be above 0, got {file_timeout_s:g}")
    require_decoder()
    # They are opened here first, so that a fault of weights is reported once, before any process.
    extractor = backbones.open()
    spec, opened = extractor.spec, [extractor.audio, extractor.visual]
    workers = num_workers(workers, place, backbones.device, opened)
    backbones = backbones.pinned(spec)
    if expected is not None and spec != expected:
        raise TCAFError(
            f"expected the backbones {expected.audio_backbone} and {expected.visual_backbone}, "
            f"whose features the store has, got {spec.audio_backbone} and {spec.visual_backbone}"
        )
    given = (backbones.audio_weights, backbones.visual_weights, backbones.plugin)
    reads = [*one_of_each_folder(file.path for file in files), *(path for path in given if path)]
    place.check_shared(reads, folder)

    def kept() -> str:
        done = sum(WorkFolder(folder).find(file) is not None for file in files)
        return f"{done} of {len(files)} files are done and kept in {folder}"

    with needing_room(folder, kept):
        how = (workers, file_timeout_s, place, track)
        return spec, _extract_all(files, backbones, folder, spec, *how)


def _extract_all(
    files: Sequence[MediaFile],
    backbones: Backbones,
    folder: Path,
    spec: FeatureSpec,
    workers: int,
    file_timeout_s: float,
    place: Place,
    track: Track,
) -> list[Extracted | Reject]:
    """Extracts what is not done yet; returns what became of each file."""
    work = WorkFolder.open(folder, spec, backbones.run_plugin())
    found = {file.id: work.find(file) for file in files}
    waiting = [file for file in files if found[file.id] is None]
    # By all files, not by those that wait: a process with more cores rounds otherwise, and a run
    # that is taken up again ends with the same bits.
    workers = min(workers, len(_jobs(files)))
    passing = {}
    if waiting:
        how = (workers, file_timeout_s, place, track)
        passing = _extract_waiting(waiting, backbones, work, *how)
    for file in waiting:
        found[file.id] = work.find(file) or passing.get(file.id)
    return [found[file.id] or _changed(file) for file in files]


def _changed(file: MediaFile) -> Reject:
    return _passing(file, "changed meanwhile", "while it was read")
