"""The folder in which the features of many files gather until all are done.

    OUT.extracted/job.json             what is extracted, with which backbones
    OUT.extracted/clips/NAME.safetensors   the features of one file, or segment of it
    OUT.extracted/rejects/NAME.json        why there are none of another

Owns this folder. A file is done when its name is there, whole: a run that was killed goes on where
it was, does nothing twice and finds nothing half-written. A file that has changed since (size or
time; of a rejected one permissions too) is done again. Who fills it is `corpus`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.extract.containers import MAX_TIMEOUTS
from tcaf.extract.media import Segment
from tcaf.files.atomic import parse_json, read_json, write_json
from tcaf.files.sealed import read_sealed, write_sealed

VERSION = 1


def id_with_segment(name: str, segment: Segment | None) -> str:
    """Returns what a clip is called: the name of its file or video, of a segment `NAME@START-END`.

    Args:
        name: of the file or video.
        segment: the stretch of it that the clip is; None for all of it.
    """
    if segment is None:
        return name
    start, end = segment
    return f"{name}@{start:.10g}-{end:.10g}"


@dataclass(frozen=True)
class MediaFile:
    """A file to extract, or a segment of it.

    Args:
        name: of the file.
        path: where it lies.
        segment: the stretch that is meant; None for all of it.
    """

    name: str
    path: Path
    segment: Segment | None = None

    @property
    def id(self) -> str:
        """Of the clip that it becomes: the file's name, of a segment `NAME@START-END`."""
        return id_with_segment(self.name, self.segment)

    @property
    def key(self) -> str:
        """A name for files about it, safe for any file system."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:32]

    def limit_s(self, file_timeout_s: float) -> float:
        """Returns how long work on the file may take, in seconds (`FILE_TIMEOUT_S`)."""
        size = self.state().get("bytes", 0)
        return file_timeout_s * min(1 + size / 2**20, MAX_TIMEOUTS)

    def state(self) -> dict[str, int]:
        """What changes when the file does; empty where there is none."""
        try:
            status = self.path.stat()
        except (OSError, ValueError):  # no name may hold a zero byte
            return {}
        times = {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
        return {"bytes": status.st_size, **times}


def _content(state: dict[str, int]) -> dict[str, int]:
    """Returns what of a state is of the content alone: permissions and names may change."""
    return {key: value for key, value in state.items() if key != "ctime_ns"}


@dataclass(frozen=True)
class Reject:
    """A file without features.

    Args:
        id: of the clip that it would be.
        reason: one of few phrases, by which rejects are counted.
        detail: one line on this file.
    """

    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Extracted:
    """A file with features, which are read when asked for.

    Args:
        id: of the clip.
        path: of the file that holds its features.
        missing: modalities that the file does not have.
        notes: what is amiss with a file that is kept all the same, one line each.
        backbones: names of what made the audio and the visual tokens.
    """

    id: str
    path: Path
    missing: tuple[Modality, ...]
    notes: tuple[str, ...]
    backbones: tuple[str, str]

    def features(self, class_name: str = "", part: str = "") -> VideoFeatures:
        """Reads the features.

        Raises:
            TCAFError: the file that holds them is damaged.
        """
        try:
            tensors = safetensors.numpy.load(read_sealed(self.path, "tcaf")[1])
        except ValueError as error:
            raise TCAFError(
                f"the features kept at {self.path} are damaged: {error}; run the command again, "
                "and they are made anew"
            ) from None
        audio, visual = (tensors[modality] for modality in MODALITIES)
        return VideoFeatures(self.id, audio, visual, class_name, part, *self.backbones)


@dataclass(frozen=True)
class WorkFolder:
    """The folder in which features gather until all files are done.

    Args:
        path: one that `open` made or found.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, spec: FeatureSpec, plugin_sha256: str = "") -> "WorkFolder":
        """Makes the folder, or takes up an unfinished one.

        Args:
            path: of the folder.
            spec: what the features mean.
            plugin_sha256: of the file that registered the backbones, if one did.

        Raises:
            TCAFError: it holds features of other backbones, or something else.
        """
        work = cls(path)
        job = {"format": "tcaf-extraction", "version": VERSION, "spec": asdict(spec)}
        job |= {"plugin_sha256": plugin_sha256} if plugin_sha256 else {}
        file = path / "job.json"
        if path.exists() and not file.is_file() and any(path.iterdir()):
            raise TCAFError(f"{path} exists and is no unfinished extraction; name another --out")
        if file.is_file() and (found := read_json(file, "an unfinished extraction")) != job:
            kept = [found.get("spec", {}).get(f"{m}_backbone") for m in MODALITIES]
            now = [spec.backbone(m) for m in MODALITIES]
            changed = " of another plugin file" if now == kept else ""
            raise TCAFError(
                f"{path} holds an unfinished extraction with {kept[0]} and {kept[1]}{changed}, now "
                f"it is {now[0]} and {now[1]}; remove it or name another --out"
            )
        for folder in (work.clips, work.rejects):
            folder.mkdir(parents=True, exist_ok=True)
            for unfinished in folder.glob(".*.partial"):
                unfinished.unlink()  # a killed process was writing it
        write_json(file, job)
        return work

    @property
    def clips(self) -> Path:
        """Where features lie."""
        return self.path / "clips"

    @property
    def rejects(self) -> Path:
        """Where reasons lie."""
        return self.path / "rejects"

    def find(self, file: MediaFile) -> Extracted | Reject | None:
        """Returns what became of a file; None if it is not done, or has changed since."""
        clip, reject = self.clips / f"{file.key}.safetensors", self.rejects / f"{file.key}.json"
        try:
            if clip.is_file():
                record = parse_json(read_sealed(clip, "tcaf")[0])
                if record["state"] == _content(file.state()):
                    missing, notes = tuple(record["missing"]), tuple(record["notes"])
                    return Extracted(file.id, clip, missing, notes, tuple(record["backbones"]))
            elif reject.is_file():
                record = read_json(reject, "a reject")
                if record["state"] == file.state():
                    return Reject(file.id, record["reason"], record["detail"])
        except (TCAFError, KeyError, ValueError):
            pass  # damaged by others: done again
        return None

    def keep(
        self,
        file: MediaFile,
        clip: VideoFeatures,
        notes: Sequence[str],
        state: dict[str, int] | None = None,
    ) -> None:
        """Keeps the features of a file.

        Args:
            file: they are of.
            clip: the features.
            notes: what is amiss with it, one line each.
            state: of the file before it was read; by default the present one.
        """
        state = _content(file.state() if state is None else state)
        missing = [modality for modality in MODALITIES if not len(clip.tokens(modality))]
        record = {"id": file.id, "state": state, "missing": missing, "notes": list(notes)}
        record["backbones"] = [clip.backbone(modality) for modality in MODALITIES]
        tensors: dict[str, np.ndarray] = {}
        for modality in MODALITIES:
            tensors[modality] = np.ascontiguousarray(clip.tokens(modality))
        (self.rejects / f"{file.key}.json").unlink(missing_ok=True)
        data = safetensors.numpy.save(tensors, {"tcaf": json.dumps(record)})
        write_sealed(self.clips / f"{file.key}.safetensors", data)

    def reject(
        self, file: MediaFile, reason: str, detail: str, state: dict[str, int] | None = None
    ) -> None:
        """Keeps why a file has no features.

        Args:
            file: it is about.
            reason: one of few phrases.
            detail: one line.
            state: of the file before it was read; by default the present one.
        """
        state = file.state() if state is None else state
        record = {"id": file.id, "state": state, "reason": reason, "detail": detail}
        (self.clips / f"{file.key}.safetensors").unlink(missing_ok=True)
        write_json(self.rejects / f"{file.key}.json", record)
