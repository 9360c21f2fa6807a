"""What answers on the page and over HTTP: one model, opened once, for many people at a time.

Owns what any of them may ask for and how much of it, and that nobody's question changes another's
answer. Features of a file are made by processes that it may crash (`answers.readers`) and are kept
by content, so that other names and another bias are answered without decoding again. What answers
is `answers`; nothing here knows HTTP. Everything may be called from any thread.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float

from tcaf.answers.clips import Answered, answers_json
from tcaf.answers.interface import Classifier
from tcaf.answers.mixture import open_classifier
from tcaf.answers.readers import FileReaders, ReadFile
from tcaf.answers.recordings import Joiner, Span
from tcaf.app.kept import Kept
from tcaf.app.limits import Limits
from tcaf.app.provenance import model_provenance, public_model
from tcaf.app.read_clips import ReadClip, bytes_of, called, part_of, stretches_of
from tcaf.app.refusals import RefusedError, clip_name, without_places
from tcaf.app.uploads import Uploads
from tcaf.app.waiting import WaitingRoom
from tcaf.data.features import MODALITIES, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.execution.standing import NoneFreeError
from tcaf.extract.containers import MediaError
from tcaf.files.digests import file_sha256
from tcaf.settings.sections import Device
from tcaf.text.candidates import split_names

MODEL = "imagenet"
"""The model that answers where none is named: it needs no network."""

Result = TypeVar("Result")


class Engine:
    """A model that answers for clips which many people send.

    Args:
        classifier: that answers; nobody else sets its classes from now on.
        model: what it is called.
        limits: how much may be asked for.
        workers: processes that read files; by default one for each core.

    Raises:
        TCAFError: backbones that cannot be opened, a missing package, or a limit.
    """

    def __init__(
        self,
        classifier: Classifier,
        model: str,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        *,
        workers: int | None = None,
    ) -> None:
        self.limits = limits
        self.model = public_model(model)
        self._classifier = classifier
        # The candidates of a mixture are set when they are first asked for: now, by one thread.
        self._names = classifier.classes
        self._computing, self._embedding = threading.Lock(), threading.Lock()
        self._readers = FileReaders(
            classifier.backbones,
            workers=workers,
            timeout_s=limits.timeout_s,
            max_length_s=limits.max_length_s,
            memory_bytes=limits.memory_gib * 2**30,
        )
        self._room = WaitingRoom(self._readers.workers, limits.max_waiting)
        self._files: Kept[ReadFile] = Kept(int(limits.cache_mib * 2**20), bytes_of)
        self._sets: Kept[Classifier] = Kept(limits.cache_names, lambda _: 1)
        self._uploads = Uploads(limits.max_bytes)
        self._provenance = model_provenance(model, classifier)

    @classmethod
    def open(
        cls,
        model: str | Path = MODEL,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        *,
        plugin: Path | None = None,
        device: Device = "auto",
        audio_weights: Path | None = None,
        visual_weights: Path | None = None,
        workers: int | None = None,
    ) -> "Engine":
        """Opens a model for many people.

        Args:
            model: see `open_classifier`, as the following.
            limits: how much may be asked for.
            plugin: see there.
            device: see there.
            audio_weights: see there.
            visual_weights: see there.
            workers: processes that read files; by default one for each core.

        Raises:
            TCAFError: see there and the class.
        """
        opened = open_classifier(model, plugin, device, audio_weights, visual_weights)
        return cls(opened, str(model), limits, workers=workers)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes and removes what was sent; whoever waits is refused."""
        self._readers.close()
        self._uploads.close()

    def warm(self) -> None:
        """Does what the first questions would else wait for: starts processes, opens text.

        Raises:
            TCAFError: a process cannot open the backbones.
        """
        self._readers.start()
        # A run that takes none but its own names has nothing to open.
        with suppress(RefusedError):
            self.choose(["something"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The candidates where nobody names others."""
        return self._names

    @property
    def classifier(self) -> Classifier:
        """What answers where nobody names classes: to be read, never set."""
        return self._classifier

    @property
    def load(self) -> dict[str, int]:
        """How many files are read, wait, and how many could be read at a time."""
        room = self._room
        return {
            "reading": room.working,
            "waiting": room.waiting,
            "readers": self._readers.workers,
            "max_waiting": self.limits.max_waiting,
        }

    @property
    def retry_after_s(self) -> int:
        """In how many seconds it may be worth to ask again, where too many ask."""
        return self._room.busy("").retry_after_s

    @property
    def provenance(self) -> dict[str, Any]:
        """Where answers come from, as JSON values: model, features, licences, code."""
        return dict(self._provenance)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the model is and takes, as JSON values."""
        opened = self._classifier
        seen = {opened.classes[column] for column in opened.seen_columns}
        gamma, temperature = opened.calibration()
        return {
            "model": self.model,
            "modalities": list(opened.modalities),
            "features": {
                modality: {
                    "backbone": without_places(opened.spec.backbone(modality)),
                    "dim": opened.spec.dim(modality),
                    "step": opened.spec.step_s(modality),
                }
                for modality in opened.modalities
            },
            "window": opened.window_s,
            "gamma": gamma,
            "temperature": temperature,
            "tells_apart": opened.tells_apart,
            "abstains": opened.vouches_for_sets,
            "notes": [without_places(note) for note in opened.notes],
            "classes": [{"name": name, "seen": name in seen} for name in opened.classes],
            "provenance": self.provenance,
        }

    def split_names(self, text: str) -> list[str]:
        """Returns the names in a text: one a line, or on a single line with commas between them."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) == 1:
            return split_names(lines[0], self._classifier.known)
        return lines

    def receive(self, blocks: Iterable[bytes], name: str) -> ReadClip:
        """Returns a clip whose file is sent block by block.

        Raises:
            RefusedError: see `read`.
        """
        name = clip_name(name)
        with self._uploads.received(blocks, name) as upload:
            return self._read(upload.path, name, upload.digest)

    def read(self, path: Path, name: str = "") -> ReadClip:
        """Returns a clip that lies in a file; one that is kept is not decoded again.

        Args:
            path: where it lies.
            name: what whoever sent it calls it; by default the name of the file.

        Raises:
            RefusedError: too large, too long, no clip, one that cannot be used, takes too much
                time or memory, or too many wait.
        """
        name = clip_name(name or path.name)
        try:
            self._uploads.check_size(path.stat().st_size, name)
            digest = file_sha256(path)
        except OSError as error:
            raise RefusedError("unusable", f"{name}: not readable ({error.strerror})") from None
        return self._read(path, name, digest)

    def _read(self, path: Path, name: str, digest: str) -> ReadClip:
        try:
            found = self._files.get(digest, partial(self._made, path, name))
            return self._clip(name, digest, found)
        except MediaError as error:
            # Others that have sent the same file are told of it by their name for it.
            raise RefusedError.of(MediaError(name, error.reason, error.detail)) from None
        except RefusedError:
            raise
        except TCAFError as error:
            raise RefusedError("ended", str(error)) from None

    def _made(self, path: Path, name: str) -> ReadFile:
        with self._room.place():
            try:
                return self._readers.read(path, name, self.limits.patience_s)
            except NoneFreeError:
                raise self._room.busy(f"waited {self.limits.patience_s:g} s") from None

    def _clip(self, name: str, key: str, found: ReadFile) -> ReadClip:
        video = _asked(lambda: self._classifier.features(called(found.video, name)))
        return ReadClip(name, key, video, found.length_s, found.broken)

    def find(self, key: str, name: str = "clip") -> ReadClip:
        """Returns a clip that was read before.

        Raises:
            RefusedError: it is no longer kept, or never was.
        """
        found = self._files.find(key)
        if found is None:
            raise RefusedError(
                "gone", f"clip {without_places(key)[:64]!r} is not kept; send it again"
            )
        return self._clip(clip_name(name), key, found)

    def take(
        self,
        audio: Sequence[Sequence[float]] = (),
        visual: Sequence[Sequence[float]] = (),
        name: str = "clip",
        *,
        audio_backbone: str = "",
        visual_backbone: str = "",
    ) -> ReadClip:
        """Returns a clip of which features are given.

        Args:
            audio: tokens of sound in order of time; none where the clip has no sound.
            visual: tokens of the picture, likewise.
            name: of the clip.
            audio_backbone: what made the tokens of sound, where that is known.
            visual_backbone: the same for the picture.

        Raises:
            RefusedError: tokens of another number of values, too many, not finite, by another
                backbone, or none of what the model reads.
        """
        name = clip_name(name)
        spec = self._classifier.spec
        given = {"audio": audio, "visual": visual}
        tokens = {m: self._tokens(name, m, given[m], spec.dim(m)) for m in MODALITIES}
        made = (audio_backbone, visual_backbone)
        video = VideoFeatures(name, tokens["audio"], tokens["visual"], "", "", *made)
        video = _asked(lambda: self._classifier.features(video))
        digest = hashlib.sha256(b"".join(tokens[m].tobytes() + m.encode() for m in MODALITIES))
        found = ReadFile(video, None, ())
        key = digest.hexdigest()
        self._files.keep(key, found)
        return ReadClip(name, key, video)

    def _tokens(
        self, name: str, modality: str, rows: Sequence[Sequence[float]], dim: int
    ) -> Float[np.ndarray, "len dim"]:
        if len(rows) > self.limits.max_tokens:
            raise RefusedError(
                "too_large",
                f"clip {name!r}: {len(rows)} {modality} tokens, at most {self.limits.max_tokens}",
            )
        for number, row in enumerate(rows):
            if len(row) != dim:
                raise RefusedError(
                    "asked",
                    f"clip {name!r}: expected {modality} tokens of {dim} values, token {number} "
                    f"has {len(row)}",
                )
        with np.errstate(over="ignore"):  # what is beyond float32 is found to be infinite
            return np.asarray(rows, np.float32).reshape(len(rows), dim)

    def choose(self, names: Sequence[str] = ()) -> Classifier:
        """Returns what answers with some names, which nobody else's names change.

        Args:
            names: to choose from; none for the model's own.

        Raises:
            RefusedError: too many names or too long ones; see `Classifier.set_classes`.
        """
        if not names:
            return self._classifier
        limits = self.limits
        if len(names) > limits.max_names:
            raise RefusedError("asked", f"{len(names)} class names, at most {limits.max_names}")
        long = next((name for name in names if len(name) > limits.max_name_length), None)
        if long is not None:
            raise RefusedError(
                "asked",
                f"class name {long[:20]!r}... has {len(long)} characters, at most "
                f"{limits.max_name_length}",
            )
        return _asked(lambda: self._sets.get(tuple(names), partial(self._embedded, names)))

    def _embedded(self, names: Sequence[str]) -> Classifier:
        with self._embedding:
            return self._classifier.with_classes(names)

    def answer(
        self,
        clips: Sequence[ReadClip],
        names: Sequence[str] = (),
        *,
        top_k: int = 5,
        seen_bias: float = 0.0,
        together: bool = False,
        abstain: float | None = None,
        why: bool = False,
    ) -> dict[str, Any]:
        """Returns answers as `tcaf predict --json` does, with where they come from.

        Args:
            clips: to answer.
            names: to choose from; none for the model's own classes.
            top_k: see `Classifier.classify`.
            seen_bias: see there.
            together: see there.
            abstain: see there.
            why: see there.

        Raises:
            RefusedError: see there and `choose`.
        """
        chosen = self.choose(names)
        asked: dict[str, Any] = {"together": together, "abstain": abstain}
        with self._computing:
            found = _asked(
                lambda: chosen.classify(
                    [clip.video for clip in clips], top_k, seen_bias, why=why, **asked
                )
            )
        answered = [Answered(ranking) for ranking in found]
        return {
            **answers_json(chosen, answered, seen_bias, **asked),
            "clips": [clip.to_json() for clip in clips],
            "provenance": self.provenance,
        }

    def spans(
        self,
        clip: ReadClip,
        every_s: float,
        names: Sequence[str] = (),
        *,
        top_k: int = 5,
        seen_bias: float = 0.0,
        abstain: float | None = None,
        apart: bool = False,
    ) -> list[Span]:
        """Returns what is said of each stretch of a clip, from the features that there are.

        Args:
            clip: to cut.
            every_s: length of a stretch, in seconds.
            names: see `answer`, as the following.
            top_k: see there.
            seen_bias: see there.
            abstain: see there; stretches whose set is empty are of the kind `none`.
            apart: do not join neighbours with the same answer.

        Raises:
            RefusedError: see there; stretches that are shorter than a token, or tokens without a
                length.
        """
        chosen = self.choose(names)
        places = _asked(lambda: stretches_of(chosen, clip, every_s))
        videos = [part_of(clip.video, chosen, place) for place in places]
        with self._computing:
            found = _asked(lambda: chosen.classify(videos, top_k, seen_bias, abstain=abstain))
        joiner, spans = Joiner(apart), []
        for place, ranking in zip(places, found, strict=True):
            best = ranking.answers[0]
            kind: Literal["none", "answer"] = "none" if ranking.names == () else "answer"
            span = Span(clip.name, *place, kind, ranking, best.probability, best.distance)
            spans.append(joiner.push(span))
        spans.append(joiner.flush())
        return [span for span in spans if span is not None]


def _asked(make: Callable[[], Result]) -> Result:
    """Returns what a function does; its errors are about what was asked for.

    Raises:
        RefusedError: of them.
    """
    try:
        return make()
    except TCAFError as error:
        raise RefusedError.of(error) from None
