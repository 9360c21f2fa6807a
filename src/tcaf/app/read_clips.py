"""Clips that have been read: their features, under the name that whoever sent them gives them.

Owns how the features of a whole clip are cut into stretches, which gives the tokens that decoding
it stretch by stretch would give.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from tcaf.answers.interface import Classifier
from tcaf.answers.mixture import Mixture
from tcaf.answers.readers import ReadFile
from tcaf.answers.several_backbones import SeveralFeatures
from tcaf.app.refusals import RefusedError
from tcaf.data.features import MODALITIES, FeatureSpec, VideoFeatures
from tcaf.data.windows import tokens_within


@dataclass(frozen=True)
class ReadClip:
    """A clip that has been read.

    Args:
        name: what whoever sent it calls it.
        key: by which it can be asked for again as long as it is kept.
        video: its features, whose id is the name.
        length_s: seconds that its header says; None where it does not.
        broken: what is amiss with it though it is used, one line each.
    """

    name: str
    key: str
    video: VideoFeatures = field(repr=False)
    length_s: float | None = None
    broken: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns what is known of the clip as JSON values."""
        return {
            "id": self.name,
            "key": self.key,
            "length": self.length_s,
            "tokens": {modality: len(self.video.tokens(modality)) for modality in MODALITIES},
            "broken": list(self.broken),
        }


def called(video: VideoFeatures, name: str) -> VideoFeatures:
    """Returns features under another name."""
    if isinstance(video, SeveralFeatures):
        return SeveralFeatures.of([replace(part, id=name) for part in video.parts])
    return replace(video, id=name)


def _parts(video: VideoFeatures) -> tuple[VideoFeatures, ...]:
    return video.parts if isinstance(video, SeveralFeatures) else (video,)


def bytes_of(found: ReadFile) -> int:
    """Returns how much memory the features of a file take."""
    parts = _parts(found.video)
    return sum(part.tokens(m).nbytes for part in parts for m in MODALITIES) + 1024


def _specs(classifier: Classifier, video: VideoFeatures) -> list[FeatureSpec]:
    """Returns what the tokens of each part of a clip mean."""
    if isinstance(video, SeveralFeatures) and isinstance(classifier, Mixture):
        return [group.spec for group in classifier.groups]
    return [classifier.spec]


def stretches_of(
    classifier: Classifier, clip: ReadClip, every_s: float
) -> list[tuple[float, float]]:
    """Returns where the stretches of a clip begin and end, in seconds; each has a token.

    Raises:
        RefusedError: stretches that are shorter than a token, or tokens without a length.
    """
    if not 0 < every_s < math.inf:
        raise RefusedError("asked", f"stretches must be longer than 0 seconds, got {every_s:g}")
    parts = zip(_parts(clip.video), _specs(classifier, clip.video), strict=True)
    tracks = [(len(part.tokens(m)), spec.step_s(m)) for part, spec in parts for m in MODALITIES]
    lengths = [(count, step_s) for count, step_s in tracks if count]
    steps = [step_s for _, step_s in lengths if step_s is not None]
    if len(steps) < len(lengths):
        raise RefusedError("asked", f"clip {clip.name!r} has tokens that stand for all of it")
    if every_s < max(steps):
        raise RefusedError(
            "asked",
            f"stretches of {every_s:g} s are shorter than what one token stands for, "
            f"{max(steps):g} s",
        )
    made_s = max(count * step_s for count, step_s in lengths if step_s is not None)
    end_s = made_s if clip.length_s is None else min(made_s, clip.length_s)
    # What is left at the end goes with the stretch before if it has no token of its own.
    count = max(1, math.ceil((end_s - min(steps) / 2) / every_s))
    places = [(number * every_s, (number + 1) * every_s) for number in range(count)]
    return [*places[:-1], (places[-1][0], max(end_s, places[-1][0] + min(steps)))]


def part_of(
    video: VideoFeatures, classifier: Classifier, place: tuple[float, float]
) -> VideoFeatures:
    """Returns the features of a stretch."""
    found = [
        replace(
            part,
            audio=part.audio[tokens_within(place, spec.audio_step_s)],
            visual=part.visual[tokens_within(place, spec.visual_step_s)],
        )
        for part, spec in zip(_parts(video), _specs(classifier, video), strict=True)
    ]
    return SeveralFeatures.of(found) if isinstance(video, SeveralFeatures) else found[0]
