"""Files to the features that a model takes, here or in a process that can be ended.

Owns with which backbones that is done. What becomes of a file's features is `classifier`.
"""

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.execution.processes import (
    PATIENT,
    Crash,
    Killed,
    OutOfMemory,
    OutOfTime,
    Send,
    answers,
)
from tcaf.extract.backbones import (
    BACKBONES,
    AudioBackbone,
    Backbone,
    BackboneInfo,
    VisualBackbone,
    open_backbone,
)
from tcaf.extract.containers import FILE_MEMORY, FILE_TIMEOUT_S, BrokenMediaWarning, MediaError
from tcaf.extract.corpus import MediaFile, too_long
from tcaf.extract.extractor import Extractor, audio_tokens, visual_tokens
from tcaf.extract.media import read_audio, read_frames
from tcaf.plugins import load_plugin


@dataclass(frozen=True)
class FileBackbones:
    """What makes features of files for a model.

    Args:
        spec: of the features that the model takes.
        modalities: those that it reads.
        weights: file or folder of each backbone's weights, where it needs one.
    """

    spec: FeatureSpec
    modalities: tuple[Modality, ...]
    weights: Mapping[Modality, Path | None]

    @cached_property
    def opened(self) -> dict[Modality, Backbone]:
        """The backbones of the modalities that the model reads.

        Raises:
            TCAFError: features that no backbone here makes, missing weights, or a missing package.
        """
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

    def extract(self, path: Path, id: str) -> VideoFeatures:
        """Returns the features of a file; of a modality that the model does not read, none.

        Raises:
            TCAFError: see `opened`; or the file cannot be read or decoded.
        """
        audio, visual = self.opened.get("audio"), self.opened.get("visual")
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

    def known_here(self) -> tuple[list[Path], dict[str, BackboneInfo]]:
        """Returns how another process gets to know the backbones: plugins to run, and entries."""
        names = [self.spec.backbone(modality).partition(":")[0] for modality in self.modalities]
        plugins = [BACKBONES.origins[name].path for name in names if name in BACKBONES.origins]
        infos = {n: BACKBONES[n] for n in names if n in BACKBONES and n not in BACKBONES.origins}
        return plugins, infos


@dataclass(frozen=True)
class _Unusable:
    """Why a file has no features, in one line."""

    reason: str


def _open_worker(
    backbones: FileBackbones, plugins: Sequence[Path], infos: Mapping[str, BackboneInfo]
) -> Callable[[Path, Send], tuple[VideoFeatures, list[str]] | _Unusable]:
    """Returns what the process does with each file: its features, and what is amiss with it."""
    for plugin in plugins:
        load_plugin(plugin)
    BACKBONES.update(infos)
    _ = backbones.opened

    def extract(path: Path, send: Send) -> tuple[VideoFeatures, list[str]] | _Unusable:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", BrokenMediaWarning)
                video = backbones.extract(path, str(path))
        except TCAFError as error:
            return _Unusable(str(error))
        except Exception as error:  # noqa: BLE001 - one file must not end the others' answers
            return _Unusable(str(MediaError(path, "failed", f"{type(error).__name__}: {error}")))
        broken = [w for w in caught if issubclass(w.category, BrokenMediaWarning)]
        return video, [str(each.message) for each in broken]

    return extract


def features_of_files(
    files: Sequence[Path], backbones: FileBackbones, file_timeout_s: float = FILE_TIMEOUT_S
) -> Generator[VideoFeatures | str, None, None]:
    """Yields the features of each file, in order, or in one line why it has none.

    The files are read in another process, one after the other, a file ahead of whoever takes them:
    one that crashes it or takes too long keeps no other back. Close it where it is left early.

    Args:
        files: to read.
        backbones: with which; those of a plugin, or that are found by name of their module.
        file_timeout_s: seconds that a file may take, and as many again for each MiB of it.

    Raises:
        TCAFError: the process cannot open the backbones, or the limit is not above 0.
    """
    if not file_timeout_s > 0:
        raise TCAFError(f"file_timeout_s must be above 0, got {file_timeout_s:g}")
    limits = {path: MediaFile(str(path), path).limit_s(file_timeout_s) for path in files}
    arguments = (backbones, *backbones.known_here())
    found = answers(
        files,
        _open_worker,
        arguments,
        1,
        limit=limits.__getitem__,
        limit_bytes=FILE_MEMORY,
        environment=PATIENT,
    )
    with closing(found):
        for path, answer in found:
            if isinstance(answer, OutOfTime):
                yield str(MediaError(path, *too_long(answer)))
            elif isinstance(answer, Killed):
                yield str(MediaError(path, f"killed{answer.hint}", answer.reason))
            elif isinstance(answer, OutOfMemory):
                yield str(MediaError(path, "takes too much memory", str(answer)))
            elif isinstance(answer, Crash):
                yield str(MediaError(path, "decoder crashed", answer.reason))
            elif isinstance(answer, _Unusable):
                yield answer.reason
            elif isinstance(answer, tuple):
                video, broken = answer
                for each in broken:
                    warnings.warn(each, BrokenMediaWarning, stacklevel=2)
                yield video
