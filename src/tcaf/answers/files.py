"""Files to the features that a model takes, here or in processes that can be ended.

Owns with which backbones that is done. What becomes of a file's features is `classifier`.
"""

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.execution.outcomes import Crash, Failure, Killed, OutOfMemory, OutOfTime
from tcaf.execution.processes import HERE, PATIENT, Place, events
from tcaf.execution.worker import Moment, Send
from tcaf.extract.backbones import (
    BACKBONES,
    AudioBackbone,
    Backbone,
    BackboneInfo,
    VisualBackbone,
    check_device,
    move,
    open_backbone,
)
from tcaf.extract.containers import FILE_MEMORY, FILE_TIMEOUT_S, BrokenMediaWarning, MediaError
from tcaf.extract.corpus import num_workers, one_of_each_folder, too_long
from tcaf.extract.extractor import Extractor, audio_tokens, visual_tokens
from tcaf.extract.media import probe, read_audio, read_frames
from tcaf.extract.stretches import Cut, Stretch, stretches
from tcaf.extract.work_folder import MediaFile
from tcaf.files.remote import as_named
from tcaf.plugins import load_plugin
from tcaf.settings.sections import Device


@dataclass(frozen=True)
class FileBackbones:
    """What makes features of files for a model.

    Args:
        spec: of the features that the model takes.
        modalities: those that it reads.
        weights: file or folder of each backbone's weights, where it needs one.
        device: where their networks compute.
    """

    spec: FeatureSpec
    modalities: tuple[Modality, ...]
    weights: Mapping[Modality, Path | None]
    device: Device = "cpu"

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what is opened: each process opens its own, a plugin's once it has run it."""
        own = ("opened", "moved")
        return {name: value for name, value in vars(self).items() if name not in own}

    @cached_property
    def opened(self) -> dict[Modality, Backbone]:
        """The backbones of the modalities that the model reads, on the CPU until they are `moved`.

        Raises:
            TCAFError: features that no backbone here makes, missing weights, or a missing package.
        """
        for modality, path in self.weights.items():
            if path is not None and modality not in self.modalities:
                raise TCAFError(
                    f"--{modality}_weights {path}: the model reads no {modality} features; leave "
                    "it out"
                )
        for modality in self.modalities:
            name = self.spec.backbone(modality)
            if name.partition(":")[0] not in BACKBONES:
                raise TCAFError(
                    f"the run was trained on {modality} features of {name!r}, which cannot be made "
                    f"of files here (there are {', '.join(BACKBONES)}); give features in place of "
                    "files: `tcaf predict --store`, or VideoFeatures with tokens of size "
                    f"{self.spec.dim(modality)}"
                )
        return {
            modality: open_backbone(self.spec.backbone(modality), modality, self.weights[modality])
            for modality in self.modalities
        }

    @cached_property
    def moved(self) -> dict[Modality, Backbone]:
        """The same where they are to compute, those that can.

        Raises:
            TCAFError: see `opened`, or there is no such device.
        """
        move(self.opened.values(), self.device)
        return self.opened

    def num_workers(self, asked: int | None, place: Place = HERE) -> int:
        """Returns how many processes make features of files; see `corpus.num_workers`.

        Raises:
            TCAFError: see `moved`.
        """
        return num_workers(asked, place, self.device, self.opened.values())

    @property
    def opened_spec(self) -> FeatureSpec:
        """What the features mean that the opened backbones make.

        Raises:
            TCAFError: see `opened`.
        """
        spec = self.spec
        for modality, backbone in self.opened.items():
            made: dict[str, Any] = {
                f"{modality}_dim": backbone.dim,
                f"{modality}_step_s": backbone.step_s,
                f"{modality}_backbone": backbone.name,
            }
            spec = replace(spec, **made)
        return spec

    def extract(self, path: Path, id: str) -> VideoFeatures:
        """Returns the features of a file; of a modality that the model does not read, none.

        Raises:
            TCAFError: see `opened`; or the file cannot be read or decoded.
        """
        audio, visual = self.moved.get("audio"), self.moved.get("visual")
        if isinstance(audio, AudioBackbone) and isinstance(visual, VisualBackbone):
            return Extractor(audio, visual).extract(path, id)
        # What is wrong with the only track that counts is wrong with the file.
        tokens = {m: np.zeros((0, self.spec.dim(m)), np.float32) for m in MODALITIES}
        if isinstance(audio, AudioBackbone):
            tokens["audio"] = audio_tokens(audio, read_audio(path, audio.sample_rate))
        if isinstance(visual, VisualBackbone):
            frames = read_frames(path, visual.fps, visual.frame_size)
            tokens["visual"] = visual_tokens(visual, frames)
        return VideoFeatures(id, tokens["audio"], tokens["visual"])

    def check(self, cut: Cut) -> None:
        """Checks that each stretch has a token (`Cut.check_steps`).

        Raises:
            TCAFError: see there and `opened`.
        """
        cut.check_steps({m: backbone.step_s for m, backbone in self.opened.items()})

    def stretches(self, path: Path, id: str, cut: Cut) -> Iterator[Stretch]:
        """Yields the features of a recording, stretch by stretch, as `extract` makes them.

        Raises:
            TCAFError: see `opened`, `check` and `extract.stretches`.
        """
        self.check(cut)
        audio, visual = self.moved.get("audio"), self.moved.get("visual")
        assert audio is None or isinstance(audio, AudioBackbone), "as it was opened"
        assert visual is None or isinstance(visual, VisualBackbone), "as it was opened"
        dims = {modality: self.spec.dim(modality) for modality in MODALITIES}
        return stretches(path, id, cut, audio, visual, dims)

    def known_here(self) -> tuple[list[Path], dict[str, BackboneInfo]]:
        """Returns how another process gets to know the backbones: plugins to run, and entries."""
        names = [self.spec.backbone(modality).partition(":")[0] for modality in self.modalities]
        plugins = [BACKBONES.origins[name].path for name in names if name in BACKBONES.origins]
        infos = {n: BACKBONES[n] for n in names if n in BACKBONES and n not in BACKBONES.origins}
        return plugins, infos


@dataclass(frozen=True)
class Begun:
    """The first sign of a recording.

    Args:
        length_s: what its header says, in seconds; None if it does not.
    """

    length_s: float | None


@dataclass(frozen=True)
class Ended:
    """The last sign of a recording.

    Args:
        reason: why it has no further stretches, in one line; empty if it is over.
    """

    reason: str = ""


@dataclass(frozen=True)
class _Done:
    """What became of a file in the process.

    Args:
        video: its features, where they were wanted as a whole.
        reason: why there are none, or none any more, in one line.
        broken: what is amiss with it though it is used, one line each.
    """

    video: VideoFeatures | None = None
    reason: str = ""
    broken: tuple[str, ...] = ()


_File = tuple[int, Path, str]
"""Number of a file among those asked for, of which one may be there twice; its path and name."""


def open_here(
    backbones: FileBackbones, plugins: Sequence[Path], infos: Mapping[str, BackboneInfo]
) -> None:
    """Opens the backbones in a process that knows none but the package's own.

    Args:
        backbones: what to open.
        plugins: files to run, which make backbones known.
        infos: of backbones that are found by name of their module.
    """
    for plugin in plugins:
        load_plugin(plugin)
    BACKBONES.update(infos)
    # Not while a file's time runs.
    _ = backbones.moved


def _open_worker(
    backbones: FileBackbones,
    plugins: Sequence[Path],
    infos: Mapping[str, BackboneInfo],
    cut: Cut | None,
) -> Callable[[_File, Send], _Done]:
    """Returns what the process does with each file.

    Args:
        backbones: with which.
        plugins: files to run, which make backbones known.
        infos: of backbones that are found by name of their module.
        cut: sends the stretches of each file as they come, in place of all features at the end.
    """
    open_here(backbones, plugins, infos)

    def extract(file: _File, send: Send) -> _Done:
        _, path, name = file
        video, reason = None, ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", BrokenMediaWarning)
            try:
                if cut is None:
                    video = backbones.extract(path, name)
                else:
                    send(Begun(probe(path).duration_s))
                    for stretch in backbones.stretches(path, name, cut):
                        send(stretch)
            except TCAFError as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - one file must not end the others' answers
                check_device(error)
                reason = str(MediaError(path, "failed", f"{type(error).__name__}: {error}"))
        # Once each: several backbones may find the same track broken.
        broken = dict.fromkeys(
            str(w.message) for w in caught if issubclass(w.category, BrokenMediaWarning)
        )
        return _Done(video, reason, tuple(broken))

    return extract


def _work_on(
    files: Sequence[Path],
    backbones: FileBackbones,
    file_timeout_s: float,
    workers: int | None,
    cut: Cut | None,
    place: Place,
) -> Generator[tuple[int, Moment | _Done], None, None]:
    """Yields by number of the file its moments and what became of it, as they come.

    Raises:
        TCAFError: see `features_of_files`.
    """
    if not file_timeout_s > 0:
        raise TCAFError(f"file_timeout_s must be above 0, got {file_timeout_s:g}")
    given = [path for path in backbones.weights.values() if path is not None]
    plugins, infos = backbones.known_here()
    place.check_shared([*one_of_each_folder(files), *given, *plugins])
    limits = {path: MediaFile(str(path), path).limit_s(file_timeout_s) for path in files}
    found = events(
        [(number, path, as_named(path)) for number, path in enumerate(files)],
        _open_worker,
        (backbones, plugins, infos, cut),
        min(backbones.num_workers(workers, place), max(len(files), 1)),
        limit=lambda file: limits[file[1]],
        limit_bytes=FILE_MEMORY,
        environment=PATIENT,
        place=place,
    )
    with closing(found):
        for (number, path, _), event in found:
            if isinstance(event, Moment):
                yield number, event
                continue
            done = event if isinstance(event, _Done) else _Done(reason=_failure(path, event))
            for each in done.broken:
                warnings.warn(each, BrokenMediaWarning, stacklevel=3)
            yield number, done


def _failure(path: Path, event: Failure) -> str:
    """Returns in one line why a process has not come to the end of a file."""
    if isinstance(event, OutOfTime):
        return str(MediaError(path, *too_long(event)))
    return str(failure(path, event))


def failure(path: str | Path, event: Failure) -> MediaError:
    """Returns what is said of a file where a process has not come to its end."""
    if isinstance(event, OutOfTime):
        return MediaError(path, "takes too long", str(event))
    if isinstance(event, Killed):
        return MediaError(path, f"killed{event.hint}", event.reason)
    if isinstance(event, OutOfMemory):
        return MediaError(path, "takes too much memory", str(event))
    assert isinstance(event, Crash), "what a worker raises is raised here too"
    return MediaError(path, "decoder crashed", event.reason)


def features_of_files(
    files: Sequence[Path],
    backbones: FileBackbones,
    file_timeout_s: float = FILE_TIMEOUT_S,
    workers: int | None = None,
    place: Place = HERE,
) -> Generator[tuple[int, VideoFeatures | str], None, None]:
    """Yields each file's number with its features, or in one line why it has none, as they come.

    The files are read in other processes, ahead of whoever takes their features: one that crashes
    its process or takes too long keeps no other back. Close it where it is left early.

    Args:
        files: to read.
        backbones: with which; those of a plugin, or that are found by name of their module.
        file_timeout_s: seconds that a file may take, and as many again for each MiB of it.
        workers: processes that read, each with its share of the cores; by default one for each
            core, and no more than there are files.
        place: where the processes run.

    Raises:
        TCAFError: the processes cannot open the backbones, or a limit is not above 0.
    """
    with closing(_work_on(files, backbones, file_timeout_s, workers, None, place)) as found:
        for number, done in found:
            if isinstance(done, _Done):
                yield number, done.reason if done.video is None else done.video


def stretches_of_files(
    files: Sequence[Path],
    backbones: FileBackbones,
    cut: Cut,
    file_timeout_s: float = FILE_TIMEOUT_S,
    workers: int | None = None,
    place: Place = HERE,
) -> Generator[tuple[int, Begun | Stretch | Ended], None, None]:
    """Yields by number of the file its beginning, its stretches in order, and its end.

    The processes wait for whoever takes the stretches, so that none gather. What came before a
    failure is valid; see `features_of_files` for the rest.

    Raises:
        TCAFError: see there, or stretches are shorter than a token.
    """
    backbones.check(cut)
    given = [0] * len(files)
    with closing(_work_on(files, backbones, file_timeout_s, workers, cut, place)) as found:
        for number, event in found:
            if isinstance(event, _Done):
                yield number, Ended(event.reason)
            elif not isinstance(event.content, Stretch):
                yield number, event.content
            elif event.content.number == given[number]:
                given[number] += 1
                yield number, event.content
            # Else the process before has crashed on the file, after it had sent this.
