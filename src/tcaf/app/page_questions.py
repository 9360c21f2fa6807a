"""What is asked on the page, and what is told: of one clip, and of many files so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tcaf.answers.ranking import Answer, Ranking
from tcaf.answers.recordings import Kind, Span
from tcaf.app.read_clips import ReadClip
from tcaf.reports.captions import to_vtt


@dataclass(frozen=True)
class Question:
    """What is asked of a clip.

    Args:
        names: to choose from; none for the model's own classes.
        seen_bias: see `Classifier.classify`.
        top_k: see there.
        abstain: see there.
        every_s: seconds of a stretch; None to go by the clip's length.
    """

    names: tuple[str, ...] = ()
    seen_bias: float = 0.0
    top_k: int = 5
    abstain: float | None = None
    every_s: float | None = None


@dataclass(frozen=True)
class Told:
    """What is said of a clip.

    Args:
        clip: that was read.
        value: the answer, as a command prints it, with its stretches.
        spans: what is said of each stretch, neighbours with the same answer joined; none of a clip
            that is answered as a whole alone.
        facts: where the answer comes from, in words.
        notes: what whoever reads it should know, sentences.
    """

    clip: ReadClip
    value: dict[str, Any]
    spans: tuple[Span, ...]
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the clip is called."""
        return self.clip.name

    @property
    def captions(self) -> str:
        """The answer as WebVTT: of its stretches, or of the whole clip."""
        return to_vtt(self.spans or [_whole(self.clip, self.value["predictions"][0])])


@dataclass
class Batch:
    """What has become of many files so far.

    Args:
        names: of the files, in their order.
        rows: what is said of each, as JSON values: of `Ranking.to_json`, or an `error`; None before
            it is known.
        told: what is said of all, in words.
        value: all answers as a command prints them, at the end.
    """

    names: list[str]
    rows: list[dict[str, Any] | None]
    told: str = ""
    value: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many files are known."""
        return sum(row is not None for row in self.rows)


def _whole(clip: ReadClip, prediction: Mapping[str, Any]) -> Span:
    """Returns the answer of a whole clip as the only stretch of it."""
    answers = tuple(
        Answer(a["class"], a["distance"], a["probability"], a["seen"])
        for a in prediction["answers"]
    )
    names = None if "set" not in prediction else tuple(prediction["set"])
    end_s = clip.length_s or 1.0
    kind: Kind = "none" if names == () else "answer"
    ranking = Ranking(clip.name, answers, names)
    return Span(clip.name, 0.0, end_s, kind, ranking, answers[0].probability, answers[0].distance)
