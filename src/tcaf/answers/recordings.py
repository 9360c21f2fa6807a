"""Recordings of any length: an answer for each stretch, neighbours with the same answer joined.

Owns what becomes of the stretches of a recording and what is left out. Their features are
`extract.stretches`, the answer for one of them is `classifier`. Nothing here grows with the length
of a recording but its answers.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tcaf.answers.files import Begun, Ended, stretches_of_files
from tcaf.answers.interface import Classifier
from tcaf.answers.ranking import Ranking
from tcaf.errors import TCAFError
from tcaf.execution.processes import HERE, Place
from tcaf.extract.containers import FILE_TIMEOUT_S
from tcaf.extract.media import require_decoder
from tcaf.extract.stretches import Cut, Stretch
from tcaf.files.remote import as_named
from tcaf.progress import Track, silent

Kind = Literal["answer", "silence", "none"]
"""What is said of a stretch: an answer, that nothing is in it, or that it is none of the names."""

LEFT_OUT: Mapping[Kind, str] = {"silence": "silent and blank", "none": "none of the names"}
"""Kinds that are left out unless they are asked for, in words."""

PARTS = 100
"""Parts of a bar over recordings."""


@dataclass(frozen=True)
class Span:
    """A part of a recording with one answer: a stretch, or neighbours that have the same.

    Args:
        id: of the recording, its path.
        start_s: where it begins, in seconds since the recording's start.
        end_s: where it ends.
        kind: whether there is an answer.
        ranking: of the stretch whose best answer has the smallest distance; None for silence.
        probability: of the best answer, in the mean over the stretches; None without temperature.
        distance: of the best answer, likewise.
        num_stretches: how many stretches are joined.
    """

    id: str
    start_s: float
    end_s: float
    kind: Kind
    ranking: Ranking | None = None
    probability: float | None = None
    distance: float | None = None
    num_stretches: int = 1

    @property
    def name(self) -> str:
        """The answer; empty where there is none."""
        return self.ranking.answers[0].name if self.ranking and self.kind == "answer" else ""

    def to_json(self) -> dict[str, Any]:
        """Returns the span as JSON values; times are in seconds, to the millisecond."""
        found: dict[str, Any] = {
            "id": self.id,
            "start": round(self.start_s, 3),
            "end": round(self.end_s, 3),
            "kind": self.kind,
            "class": self.name or None,
            "probability": self.probability if self.name else None,
            "distance": self.distance if self.name else None,
            "seen": self.ranking.answers[0].seen if self.name and self.ranking else None,
            "stretches": self.num_stretches,
        }
        if self.ranking is not None:
            value = self.ranking.to_json()
            found |= {key: value[key] for key in ("answers", "set") if key in value}
        return found


@dataclass(frozen=True)
class Recording:
    """What became of a recording; comes behind its spans.

    Args:
        file: where it lies.
        length_s: how far it was answered, in seconds.
        num_answers: how many spans have an answer.
        left_out_s: seconds without an answer, by kind.
        reason: why it ends there, in one line; empty if it is over.
        stretches: what was said of each stretch, where that is kept.
    """

    file: Path
    length_s: float = 0.0
    num_answers: int = 0
    left_out_s: Mapping[Kind, float] = field(default_factory=dict)
    reason: str = ""
    stretches: tuple[Span, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the recording as JSON values, without its spans."""
        return {
            "id": as_named(self.file),
            "length": round(self.length_s, 3),
            "left_out": {kind: round(seconds, 3) for kind, seconds in self.left_out_s.items()},
            **({"error": self.reason} if self.reason else {}),
        }


class Joiner:
    """Joins stretches that follow each other and have the same answer.

    Args:
        apart: keep each by itself.
    """

    def __init__(self, apart: bool = False) -> None:
        self._apart = apart
        self._open: Span | None = None

    def push(self, span: Span) -> Span | None:
        """Takes the next stretch; returns the span before if that is over."""
        before = self._open
        if before is None or self._apart or (before.kind, before.name) != (span.kind, span.name):
            self._open = span
            return before
        self._open = _joined(before, span)
        return None

    def flush(self) -> Span | None:
        """Returns the last span, if there is one."""
        before, self._open = self._open, None
        return before


def _joined(one: Span, other: Span) -> Span:
    """Returns two spans as one, with means over all stretches."""
    count = one.num_stretches + other.num_stretches

    def mean(a: float | None, b: float | None) -> float | None:
        if a is None or b is None:
            return None
        return (a * one.num_stretches + b * other.num_stretches) / count

    best = min((one.ranking, other.ranking), key=_nearness)
    return replace(
        one,
        end_s=other.end_s,
        ranking=best,
        probability=mean(one.probability, other.probability),
        distance=mean(one.distance, other.distance),
        num_stretches=count,
    )


def _nearness(ranking: Ranking | None) -> float:
    return ranking.answers[0].distance if ranking is not None else 0.0


def remarks(classifier: Classifier, cut: Cut, abstain: float | None) -> list[str]:
    """Returns what somebody should know who has recordings answered so, in words."""
    told = []
    window_s = classifier.window_s
    if window_s is not None and window_s < cut.every_s:
        told.append(
            f"the model looks at the middle {window_s:g} s of each stretch of {cut.every_s:g} s; "
            f"--every {window_s:g} lets it see everything"
        )
    if abstain is None:
        told.append(
            "a stretch that is none of the names gets the nearest one all the same; --abstain 0.05 "
            "leaves it out"
            if classifier.vouches_for_sets
            else "a stretch that is none of the names gets the nearest one all the same: the model "
            "holds no scores of validation clips by which it could be told"
        )
    return told


def answer_recordings(
    classifier: Classifier,
    files: Sequence[Path],
    cut: Cut,
    *,
    top_k: int = 5,
    seen_bias: float = 0.0,
    abstain: float | None = None,
    apart: bool = False,
    keep_all: bool = False,
    keep_stretches: bool = False,
    file_timeout_s: float = FILE_TIMEOUT_S,
    workers: int | None = None,
    place: Place = HERE,
    track: Track = silent,
) -> Iterator[Span | Recording]:
    """Yields the answers of recordings, those of each as soon as they are known, then its end.

    Recordings are in the order of the files; several processes may be ahead with later ones. One
    that fails in the middle has its answers up to there, and stops no other.

    Args:
        classifier: that answers.
        files: in the order of the answers.
        cut: into which stretches.
        top_k: see `Classifier.classify`.
        seen_bias: see there.
        abstain: see there; stretches whose set is empty are none of the names, and left out.
        apart: do not join neighbours with the same answer.
        keep_all: yield also the spans that are left out: those in all of which there is nothing to
            hear and nothing to see (`extract.stretches`), and those that are none of the names.
        keep_stretches: what a picture of the recording needs.
        file_timeout_s: see `features_of_files`.
        workers: see there.
        place: see there.
        track: shows how many hundredths are done; recordings count by the sizes of their files.

    Raises:
        TCAFError: what concerns all files: backbones that cannot be opened, stretches shorter than
            a token, a missing package, or what `Classifier.classify` refuses.
    """
    asked: dict[str, Any] = {"top_k": top_k, "seen_bias": seen_bias, "abstain": abstain}
    classifier.classify([], **asked)
    require_decoder()
    states = [_State(file, Joiner(apart), keep_all, keep_stretches) for file in files]
    bar = _Bar(track, files)
    how = (file_timeout_s, workers, place)
    found = stretches_of_files(files, classifier.backbones, cut, *how)
    current = 0
    with closing(found):
        for number, event in found:
            state = states[number]
            if isinstance(event, Begun):
                bar.begin(number, event.length_s)
            elif isinstance(event, Ended):
                state.end(event.reason)
                bar.end(number)
            elif not state.has_ended:
                try:
                    state.push(_answer(classifier, event, asked))
                except TCAFError as error:
                    state.end(str(error))
                bar.move(number, event.end_s)
            while current < len(states):
                yield from states[current].take()
                if not states[current].has_ended:
                    break
                current += 1
    bar.close()


def _answer(classifier: Classifier, stretch: Stretch, asked: Mapping[str, Any]) -> Span:
    """Returns what is said of a stretch."""
    place = (stretch.video.id, stretch.start_s, stretch.end_s)
    if stretch.is_empty:
        return Span(*place, "silence")
    ranking = classifier.classify(stretch.video, **asked)
    best = ranking.answers[0]
    kind: Kind = "none" if ranking.names == () else "answer"
    return Span(*place, kind, ranking, best.probability, best.distance)


class _State:
    """How far a recording is, and what of it waits to be taken.

    Args:
        file: of the recording.
        joiner: of its stretches.
        keep_all: hand out what is left out too.
        keep_stretches: keep what was said of each stretch.
    """

    def __init__(self, file: Path, joiner: Joiner, keep_all: bool, keep_stretches: bool) -> None:
        self.has_ended = False
        self._joiner, self._keep_all, self._keep_stretches = joiner, keep_all, keep_stretches
        self._recording = Recording(file)
        self._left_out_s: dict[Kind, float] = {}
        self._stretches: list[Span] = []
        self._ready: deque[Span | Recording] = deque()

    def push(self, stretch: Span) -> None:
        """Takes what is said of the next stretch."""
        self._recording = replace(self._recording, length_s=stretch.end_s)
        if self._keep_stretches:
            self._stretches.append(stretch)
        self._note(self._joiner.push(stretch))

    def _note(self, span: Span | None) -> None:
        if span is None:
            return
        if span.kind == "answer":
            count = self._recording.num_answers + 1
            self._recording = replace(self._recording, num_answers=count)
        else:
            length_s = self._left_out_s.get(span.kind, 0.0) + span.end_s - span.start_s
            self._left_out_s[span.kind] = length_s
        if span.kind == "answer" or self._keep_all:
            self._ready.append(span)

    def end(self, reason: str) -> None:
        """Ends the recording, unless it has ended."""
        if self.has_ended:
            return
        self.has_ended = True
        self._note(self._joiner.flush())
        ended = replace(
            self._recording,
            left_out_s=self._left_out_s,
            reason=" ".join(reason.split()),
            stretches=tuple(self._stretches),
        )
        self._ready.append(ended)

    def take(self) -> Iterator[Span | Recording]:
        """Yields what is ready, and forgets it."""
        while self._ready:
            yield self._ready.popleft()


class _Bar:
    """Moves a bar of hundredths, in which recordings count by the sizes of their files.

    Args:
        track: draws it.
        files: the recordings.
    """

    def __init__(self, track: Track, files: Sequence[Path]) -> None:
        self._parts = iter(track(range(PARTS), "percent of the recordings"))
        self._sizes = [max(_size(file), 1) for file in files]
        self._lengths_s: list[float | None] = [None] * len(files)
        self._done = [0.0] * len(files)
        self._drawn = -1
        self._draw()

    def begin(self, number: int, length_s: float | None) -> None:
        """Notes how long a recording is."""
        self._lengths_s[number] = length_s

    def move(self, number: int, position_s: float) -> None:
        """Notes how far a recording is."""
        if length_s := self._lengths_s[number]:
            self._done[number] = min(position_s / length_s, 1.0)
            self._draw()

    def end(self, number: int) -> None:
        """Notes that a recording is over."""
        self._done[number] = 1.0
        self._draw()

    def close(self) -> None:
        """Draws that all is done."""
        for _ in self._parts:
            pass

    def _draw(self) -> None:
        done = sum(d * size for d, size in zip(self._done, self._sizes, strict=True))
        wanted = int(PARTS * done / max(sum(self._sizes), 1))
        # A part counts as done when the next one is asked for.
        while self._drawn < min(wanted, PARTS - 1):
            next(self._parts, None)
            self._drawn += 1


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except (OSError, ValueError):
        return 0


def recordings_json(
    classifier: Classifier,
    cut: Cut,
    found: Sequence[Span | Recording],
    seen_bias: float,
    abstain: float | None,
) -> dict[str, Any]:
    """Returns all answers as one JSON value, and what they were chosen from."""
    spans: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        if isinstance(one, Span):
            spans.setdefault(one.id, []).append(one.to_json())
    recordings = [one for one in found if isinstance(one, Recording)]
    gamma, temperature = classifier.calibration()
    return {
        "classes": list(classifier.classes),
        "gamma": gamma + seen_bias,
        "temperature": temperature,
        "every": cut.every_s,
        "hop": cut.hop_s,
        **({} if abstain is None else {"abstain": abstain}),
        "recordings": [
            {**one.to_json(), "spans": spans.get(as_named(one.file), [])} for one in recordings
        ],
    }
