"""Features of one file by several backbones for the same modality, side by side.

Owns what a mixture of models needs whose members do not read the same features: *groups*, each of
at most one backbone for sound and one for pictures, and clips that have features of each group.
With which backbone one group is made is `files`.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from tcaf.answers.files import FileBackbones
from tcaf.data.batches import LoadedClips
from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.execution.processes import HERE, Place
from tcaf.extract.backbones import Backbone, BackboneInfo
from tcaf.extract.containers import BrokenMediaWarning, MediaError, TrackError
from tcaf.extract.stretches import Cut, Stretch


@dataclass(frozen=True)
class Group:
    """Features that can be made together: of at most one backbone for each modality.

    Args:
        spec: what they mean.
        modalities: those that there are.
        members: names of the models that read them.
    """

    spec: FeatureSpec
    modalities: tuple[Modality, ...]
    members: tuple[str, ...]

    def takes(self, spec: FeatureSpec, modalities: Sequence[Modality]) -> bool:
        """Returns whether a model with these features can read those of the group too."""
        both = [m for m in modalities if m in self.modalities]
        return all(spec.backbone(m) == self.spec.backbone(m) for m in both)

    def joined(self, name: str, spec: FeatureSpec, modalities: Sequence[Modality]) -> "Group":
        """Returns the group with one more model."""
        given: dict[str, Any] = {
            f"{modality}_{what}": getattr(spec, f"{modality}_{what}")
            for modality in modalities
            for what in ("dim", "step_s", "backbone")
        }
        read = tuple(m for m in MODALITIES if m in (*self.modalities, *modalities))
        return Group(replace(self.spec, **given), read, (*self.members, name))


def grouped(models: Mapping[str, tuple[FeatureSpec, tuple[Modality, ...]]]) -> list[Group]:
    """Puts models into as few groups as there are, going from the first to the last.

    Args:
        models: what each reads, by name.
    """
    groups: list[Group] = []
    for name, (spec, modalities) in models.items():
        for number, group in enumerate(groups):
            if group.takes(spec, modalities):
                groups[number] = group.joined(name, spec, modalities)
                break
        else:
            groups.append(Group(spec, (), ()).joined(name, spec, modalities))
    return groups


@dataclass(frozen=True)
class SeveralFeatures(VideoFeatures):
    """A clip by several groups of backbones: itself by the first, `others` by those that follow.

    A group that finds nothing that it reads in a file has no token of it.

    Args:
        others: the same clip by the other groups, in their order.
    """

    others: tuple[VideoFeatures, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[VideoFeatures]) -> "SeveralFeatures":
        """Joins the features of one clip, in the order of the groups."""
        return cls(**vars(parts[0]), others=tuple(parts[1:]))

    @property
    def parts(self) -> tuple[VideoFeatures, ...]:
        """The features by each group."""
        first = {name: value for name, value in vars(self).items() if name != "others"}
        return (VideoFeatures(**first), *self.others)


@dataclass(frozen=True)
class LoadedGroups:
    """Clips in memory that have features of several groups.

    Args:
        videos: the clips.
        specs: of the groups.

    Raises:
        TCAFError: a clip does not fit.
    """

    videos: Sequence[SeveralFeatures]
    specs: Sequence[FeatureSpec]

    def __post_init__(self) -> None:
        _ = self._parts

    @property
    def spec(self) -> FeatureSpec:
        """What the numbers of the first group mean."""
        return self.specs[0]

    @cached_property
    def _parts(self) -> list[tuple[LoadedClips, Int[np.ndarray, " num_clips"]]]:
        found = []
        for number, spec in enumerate(self.specs):
            each = [video.parts[number] for video in self.videos]
            there = np.array([len(v.audio) + len(v.visual) > 0 for v in each], bool)
            some = [video for video, is_there in zip(each, there, strict=True) if is_there]
            found.append((LoadedClips(some, spec), np.where(there, np.cumsum(there) - 1, -1)))
        return found

    def of_group(self, number: int) -> tuple[LoadedClips, Int[np.ndarray, " num_clips"]]:
        """Returns the clips that a group has something of, and the row of each clip among them.

        The row is -1 where it has nothing.
        """
        return self._parts[number]

    def lens(self, modality: Modality) -> Int[np.ndarray, " num_clips"]:
        """Returns the number of tokens of each clip, by the group that has the most."""
        most = [max(len(part.tokens(modality)) for part in v.parts) for v in self.videos]
        return np.array(most, np.int64)

    def gather(self, *_: Any) -> Any:
        """Refuses: tokens are those of a group (`of_group`)."""
        raise AssertionError("tokens are read from the clips of a group")


@dataclass(frozen=True)
class SeveralBackbones(FileBackbones):
    """What makes features of files by several groups: the first is itself, then `others`.

    Each group reads a file by itself. What keeps one from a file, such as that it has no picture,
    matters only if no group has anything.

    Args:
        others: the other groups.
    """

    others: tuple[FileBackbones, ...] = field(default=())

    @cached_property
    def groups(self) -> tuple[FileBackbones, ...]:
        """All groups, each with its own backbones."""
        own = FileBackbones(self.spec, self.modalities, self.weights, self.device)
        return (own, *self.others)

    @cached_property
    def moved(self) -> dict[Modality, Backbone]:
        """The backbones of the first group; moves those of all."""
        first, *_ = [group.moved for group in self.groups]
        return first

    def num_workers(self, asked: int | None, place: Place = HERE) -> int:
        """Returns how many processes have room for the backbones of all groups."""
        return min(group.num_workers(asked, place) for group in self.groups)

    @cached_property
    def opened(self) -> dict[Modality, Backbone]:
        """The backbones of the first group; opens those of all."""
        first, *_ = [group.opened for group in self.groups]
        return first

    def extract(self, path: Path, id: str) -> SeveralFeatures:
        """Returns the features of a file by each group.

        Raises:
            TCAFError: as of one group, where all of them fail.
        """
        found: list[VideoFeatures] = []
        errors: list[MediaError] = []
        for group in self.groups:
            try:
                found.append(group.extract(path, id))
            except MediaError as error:
                errors.append(error)
                found.append(_nothing(id, group.spec))
        if len(errors) == len(found):
            raise errors[0]
        _warn(errors)
        return SeveralFeatures.of(found)

    def check(self, cut: Cut) -> None:
        """Checks that each stretch has a token by each group (`Cut.check_steps`)."""
        for group in self.groups:
            group.check(cut)

    def stretches(self, path: Path, id: str, cut: Cut) -> Iterator[Stretch]:
        """Yields the features of a recording, stretch by stretch, by each group.

        Raises:
            TCAFError: as of one group, once no group has anything more and one of them failed.
        """
        waiting = [_Ahead(group.stretches(path, id, cut)) for group in self.groups]
        for number in count():
            now = [each.take() for each in waiting]
            given = [stretch for stretch in now if stretch is not None]
            if not given:
                break
            goes_on = any(each.goes_on for each in waiting)
            # The last stretch of a group ends with its tracks, and another's may be longer.
            place_end_s = cut.place(number)[1]
            ends_s = (
                cut.stands_for(number, place_end_s, False)[1]
                if goes_on
                else max(stretch.end_s for stretch in given)
            )
            parts = [
                stretch.video if stretch is not None else _nothing(id, group.spec)
                for stretch, group in zip(now, self.groups, strict=True)
            ]
            is_empty = all(stretch.is_empty for stretch in given)
            video = SeveralFeatures.of(parts)
            yield Stretch(number, given[0].start_s, ends_s, video, is_empty)
        errors = [each.error for each in waiting if each.error is not None]
        if len(errors) == len(waiting):
            raise errors[0]
        _warn(errors)

    def known_here(self) -> tuple[list[Path], dict[str, BackboneInfo]]:
        """Returns how another process gets to know the backbones of all groups."""
        plugins: dict[Path, None] = {}
        infos: dict[str, BackboneInfo] = {}
        for group in self.groups:
            of_group, entries = group.known_here()
            plugins |= dict.fromkeys(of_group)
            infos |= entries
        return list(plugins), infos


class _Ahead:
    """A stream of stretches of which the next one is known.

    Args:
        stream: that may fail.
    """

    def __init__(self, stream: Iterator[Stretch]) -> None:
        self._stream = stream
        self.error: MediaError | None = None
        self._next = self._read()

    @property
    def goes_on(self) -> bool:
        """Whether there is another."""
        return self._next is not None

    def take(self) -> Stretch | None:
        """Returns the next stretch; None if there is none."""
        found = self._next
        self._next = self._read() if found is not None else None
        return found

    def _read(self) -> Stretch | None:
        try:
            return next(self._stream, None)
        except MediaError as error:
            self.error = error
            return None


def _warn(errors: Sequence[MediaError]) -> None:
    """Warns of tracks that a group cannot use though another has something of the file."""
    for error in errors:
        if isinstance(error, TrackError):
            warnings.warn(BrokenMediaWarning(str(error)), stacklevel=3)


def _nothing(id: str, spec: FeatureSpec) -> VideoFeatures:
    """Returns a clip of which a group has no token."""
    empty = {m: np.zeros((0, spec.dim(m)), np.float32) for m in MODALITIES}
    return VideoFeatures(id, empty["audio"], empty["visual"])
