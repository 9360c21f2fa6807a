"""What the page asks for and is told: the engine's answers, with all that is shown beside them.

Owns the way from a session's clip to what is said of it; nothing here knows Gradio or HTML.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from tcaf.answers.interface import FEW_CLIPS
from tcaf.answers.mixture import Mixture
from tcaf.answers.recordings import Span
from tcaf.app.engine import Engine
from tcaf.app.page_questions import Batch, Question, Told
from tcaf.app.read_clips import ReadClip
from tcaf.app.refusals import RefusedError
from tcaf.app.shelf import Placed, Shelf
from tcaf.app.views import Viewers
from tcaf.data.features import MODALITIES, SENSES
from tcaf.errors import TCAFError
from tcaf.progress import describe_time
from tcaf.reports.answer_timeline import ClipAttention, ClipView, clip_attention

LONG_S = 30.0
"""Seconds from which a clip counts as a recording, which is answered stretch by stretch too."""

STRETCHES = 12
"""Stretches that a recording is cut into, if nobody says how long they are."""

LEAST_S = 5.0
"""Seconds of such a stretch at least."""

FRAMES, STROKES = 24, 600
"""Frames and strokes of the waveform that are kept of a clip."""

BUSY_S = 1.0
"""Seconds until a file of many is brought again where others wait."""


class Desk:
    """What answers for the page.

    Args:
        engine: that answers.
        shelf: where clips of sessions lie.
    """

    def __init__(self, engine: Engine, shelf: Shelf) -> None:
        self._engine, self._shelf = engine, shelf
        self._viewers = Viewers(engine.limits.timeout_s, FRAMES, STROKES)
        self._lock = threading.Lock()
        self._keys: dict[str, dict[str, str]] = {}
        opened = engine.classifier
        self.can_abstain = opened.vouches_for_sets
        self.known = opened.known

    @property
    def title(self) -> str:
        """What answers, in a word or two."""
        return self._engine.model

    @property
    def workers(self) -> int:
        """How many clips are read at a time."""
        return self._engine.load["readers"]

    @property
    def max_waiting(self) -> int:
        """How many questions may wait."""
        return self._engine.limits.max_waiting + self.workers

    @property
    def reads(self) -> str:
        """What the model goes by, in words."""
        return " and ".join(SENSES[m] for m in self._engine.classifier.modalities)

    @property
    def max_bytes(self) -> int:
        """Bytes of a clip, at most."""
        return self._engine.limits.max_bytes

    @property
    def limits(self) -> str:
        """What a clip may be, in words."""
        limits = self._engine.limits
        return f"up to {limits.max_mib:g} MiB and {describe_time(limits.max_length_s)}"

    @property
    def reach(self) -> float:
        """How far the bias reaches either way: at its ends it outweighs what the model holds."""
        opened = self._engine.classifier
        members = list(opened.members.values()) if isinstance(opened, Mixture) else [opened]
        most = 2 * max(abs(each.calibration()[0]) for each in members)
        return math.ceil(most / _step(most)) * _step(most) if most > 0 else 1.0

    @property
    def bias_step(self) -> float:
        """How far the bias goes at a time: a round number."""
        return _step(self.reach)

    @property
    def about_abstaining(self) -> str:
        """What is said beside the share of mistakes."""
        if self.can_abstain:
            return "of clips like those of the model's validation; 0: always name one"
        return f"{self.title} holds no scores of validation clips that this could follow from"

    @property
    def about_stretches(self) -> str:
        """What is said beside the length of a stretch."""
        return (
            f"recordings of more than {LONG_S:g} s are answered stretch by stretch too; 0: by the "
            "clip's length"
        )

    @property
    def together(self) -> str:
        """Why clips cannot be answered together, in words; empty where they can."""
        try:
            self._engine.classifier.calibration(FEW_CLIPS)
        except TCAFError as error:
            return str(error)
        return ""

    def __enter__(self) -> "Desk":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def take(self, session: str, path: Path, name: str) -> Placed:
        """Takes over a file that was brought.

        Raises:
            TCAFError: it is too large, or no longer there.
        """
        limits = self._engine.limits
        if path.exists() and path.stat().st_size > limits.max_bytes:
            raise TCAFError(f"{name}: too large (more than {limits.max_mib:g} MiB)")
        return self._shelf.take(session, path, name)

    def make(self, session: str, name: str, write: Callable[[Path], None]) -> Placed:
        """Makes a clip of a session's.

        Raises:
            TCAFError: it cannot be made.
        """
        return self._shelf.make(session, name, write)

    def end(self, session: str) -> None:
        """Forgets a session: its clips are removed."""
        self._shelf.end(session)
        with self._lock:
            self._keys.pop(session, None)

    def close(self) -> None:
        """Ends what was begun, and removes all clips."""
        self._viewers.close()
        self._shelf.close()

    def warm(self) -> None:
        """Starts, beside all else, what the first question would wait for."""
        threading.Thread(target=self._viewers.start, name="warm", daemon=True).start()

    def is_read(self, session: str, placed: Placed) -> bool:
        """Returns whether a clip was read, so that it can be asked about again."""
        with self._lock:
            return placed.token in self._keys.get(session, {})

    def _read(self, session: str, placed: Placed) -> ReadClip:
        """Returns a clip; one that was read in this session is not read again.

        Raises:
            TCAFError: it cannot be used; see `Engine.read`.
        """
        with self._lock:
            key = self._keys.setdefault(session, {}).get(placed.token)
        if key is not None:
            try:
                return self._engine.find(key, placed.name)
            except RefusedError as refusal:
                if refusal.kind != "gone":
                    raise
        if not placed.path.exists():
            raise TCAFError(f"{placed.name} is no longer here: bring it again")
        found = self._engine.read(placed.path, placed.name)
        with self._lock:
            self._keys.setdefault(session, {})[placed.token] = found.key
        return found

    def answer(self, session: str, placed: Placed, question: Question) -> Told:
        """Returns what is said of a clip.

        Raises:
            TCAFError: the clip or the question cannot be used, in one line.
        """
        clip = self._read(session, placed)
        chosen = self._engine.choose(question.names)
        value = self._engine.answer(
            [clip],
            question.names,
            top_k=question.top_k,
            seen_bias=question.seen_bias,
            abstain=question.abstain,
            why=True,
        )
        every_s = self._stretch_s(clip, question)
        spans: list[Span] = []
        if every_s is not None:
            spans = self._engine.spans(
                clip,
                every_s,
                question.names,
                top_k=question.top_k,
                seen_bias=question.seen_bias,
                abstain=question.abstain,
            )
            value = {**value, "every": every_s, "spans": [span.to_json() for span in spans]}
        notes = [*chosen.notes, *clip.broken, *self._remarks(chosen, clip, question)]
        facts = self._facts(clip, value)
        return Told(clip, value, tuple(spans), facts, tuple(notes))

    def _stretch_s(self, clip: ReadClip, question: Question) -> float | None:
        """Returns the seconds of a stretch; None for a clip that is answered as a whole alone."""
        if question.every_s is not None:
            return question.every_s
        if clip.length_s is None or clip.length_s <= LONG_S:
            return None
        window_s = self._engine.classifier.window_s
        wanted_s = max(LEAST_S, math.ceil(clip.length_s / STRETCHES))
        return wanted_s if window_s is None else min(wanted_s, window_s)

    def _remarks(self, chosen: Any, clip: ReadClip, question: Question) -> Iterator[str]:
        """Yields what is to be said of an answer, in sentences."""
        seen, total = len(chosen.seen_columns), len(chosen.classes)
        if question.seen_bias and seen in (0, total):
            kind = "all" if seen else "none"
            yield f"The bias changes nothing: {kind} of the names are of seen classes."
        if not self.can_abstain:
            yield (
                f"{self.title} cannot say “none of these”: the nearest name comes first even where "
                "no name fits."
            )
        there = {m for m in MODALITIES if len(clip.video.tokens(m))}
        missing = [m for m in chosen.modalities if m not in there]
        if missing:
            told = " and ".join(SENSES[m] for m in missing)
            yield f"The clip has no {told}: it is answered from what it has."
        if not chosen.tells_apart and len(chosen.modalities) == 1:
            yield f"{self.title} goes by the {self.reads} alone."

    def _facts(self, clip: ReadClip, value: Mapping[str, Any]) -> dict[str, str]:
        """Returns where an answer comes from, in words."""
        origin = value["provenance"]
        features = "; ".join(
            f"{SENSES[modality]}: {', '.join(names)}"
            for modality, names in origin["features"].items()
        )
        temperature = value["temperature"]
        length = "" if clip.length_s is None else f", {clip.length_s:.1f} s"
        tokens = ", ".join(
            f"{len(clip.video.tokens(m))} of {SENSES[m]}"
            for m in MODALITIES
            if len(clip.video.tokens(m))
        )
        return {
            "Model": origin["model"],
            "Features": features,
            "Clip": f"{clip.name}{length}; tokens: {tokens}",
            "SHA-256": clip.key,
            "Names": f"{len(value['classes']):,} to choose from",
            "gamma": f"{value['gamma']:g}",
            "Temperature": "" if temperature is None else f"{temperature:g}",
            "Licences": "; ".join(origin["licences"]),
            "Code": f"tcaf {origin['tcaf']}"
            + (f", commit {origin['commit']}" if origin["commit"] else "")
            + f", torch {origin['torch']}",
        }

    def over_time(self, session: str, placed: Placed) -> tuple[ClipView, ClipAttention | None]:
        """Returns what there is over time in a clip: frames, sound, where the model looked.

        Raises:
            TCAFError: it cannot be read once more.
        """
        clip = self._read(session, placed)
        view = self._viewers.view(placed.path)
        return view, clip_attention(self._engine.classifier, clip.video)

    def many(
        self, files: Sequence[tuple[Path, str]], question: Question, *, together: bool = False
    ) -> Iterator[Batch]:
        """Yields what has become of many files, whenever something is known of another.

        Args:
            files: where each lies, and what it is called.
            question: about each.
            together: answer all in the light of each other, once all are read.

        Raises:
            TCAFError: the question cannot be used.
        """
        self._engine.choose(question.names)
        batch = Batch([name for _, name in files], [None] * len(files))
        clips: dict[int, ReadClip] = {}
        yield batch
        for number, found in self._read_all(files):
            if isinstance(found, str):
                batch.rows[number] = {"id": batch.names[number], "error": found}
            else:
                clips[number] = found
                if not together:
                    self._answer_into(batch, {number: found}, question)
            batch.told = f"{batch.done} of {len(files)} answered"
            if together:
                batch.told = f"{len(clips)} of {len(files)} read; they are answered together"
            yield batch
        if together and clips:
            self._answer_into(batch, clips, question, together=True)
        self._finish(batch, clips, question, together)
        yield batch

    def _answer_into(
        self,
        batch: Batch,
        clips: Mapping[int, ReadClip],
        question: Question,
        *,
        together: bool = False,
    ) -> None:
        numbers = sorted(clips)
        try:
            value = self._engine.answer(
                [clips[n] for n in numbers],
                question.names,
                top_k=question.top_k,
                seen_bias=question.seen_bias,
                abstain=None if together else question.abstain,
                together=together,
            )
        except TCAFError as error:
            for number in numbers:
                batch.rows[number] = {"id": batch.names[number], "error": str(error)}
            return
        batch.value = {k: v for k, v in value.items() if k not in ("predictions", "clips")}
        for number, prediction in zip(numbers, value["predictions"], strict=True):
            batch.rows[number] = prediction

    def _finish(
        self, batch: Batch, clips: Mapping[int, ReadClip], question: Question, together: bool
    ) -> None:
        rows = [row for row in batch.rows if row is not None]
        failed = {row["id"]: row["error"] for row in rows if "error" in row}
        batch.value |= {
            "predictions": [row for row in rows if "error" not in row],
            "failed": failed,
        }
        told = f"{len(rows) - len(failed)} of {len(rows)} answered"
        if together:
            told += " together"
        if failed:
            told += f", {len(failed)} cannot be used"
        batch.told = told

    def _read_all(self, files: Sequence[tuple[Path, str]]) -> Iterator[tuple[int, ReadClip | str]]:
        """Yields by number the clips as they are read, or why they cannot be, in a sentence."""

        def read(number: int) -> ReadClip | str:
            path, name = files[number]
            while True:
                try:
                    return self._engine.read(path, name)
                except RefusedError as refusal:
                    if refusal.kind != "busy":
                        return str(refusal)
                except TCAFError as error:
                    return str(error)
                time.sleep(BUSY_S)

        pool = ThreadPoolExecutor(self.workers, "reading")
        try:
            open_: dict[Future[ReadClip | str], int] = {
                pool.submit(read, number): number for number in range(len(files))
            }
            while open_:
                done, _ = wait(open_, return_when=FIRST_COMPLETED)
                for future in done:
                    yield open_.pop(future), future.result()
        finally:
            # Whoever has left waits for no more of them.
            pool.shutdown(wait=False, cancel_futures=True)


def _step(reach: float) -> float:
    return float(10.0 ** math.floor(math.log10(reach)) / 20)
