"""From what was typed to answers: which clips are meant, and the answers of those that can be read.

Owns the steps of `tcaf predict` between its arguments and its output, for whoever asks: the
command, a page, a service. What answers is `classifier`.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from tcaf.answers.files import features_of_files
from tcaf.answers.interface import Classifier
from tcaf.answers.ranking import Ranking
from tcaf.data.features import VideoFeatures
from tcaf.data.splits import PARTS, UNIONS
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.execution.processes import HERE, Place
from tcaf.extract.containers import FILE_TIMEOUT_S
from tcaf.extract.media import require_decoder
from tcaf.files.remote import as_named, local_path
from tcaf.progress import Track, silent
from tcaf.sources.media_files import SUFFIXES, media_folder
from tcaf.text.candidates import read_names, split_names


@dataclass(frozen=True)
class Answered:
    """A clip with its answers.

    Args:
        ranking: the answers.
        video: what they were found from, where that is to be drawn.
        file: that the features were made of; None for a clip of a store.
    """

    ranking: Ranking
    video: VideoFeatures | None = None
    file: Path | None = None

    @property
    def id(self) -> str:
        """Of the clip; the path of a file."""
        return self.ranking.id


@dataclass(frozen=True)
class Unanswered:
    """A file without answers.

    Args:
        id: its path.
        reason: one line.
    """

    id: str
    reason: str


def choose_classes(
    classifier: Classifier, classes: str = "", classes_file: Path | None = None
) -> None:
    """Sets the classes to choose from as people name them; without names they stay as they are.

    Args:
        classifier: whose classes are set.
        classes: names in one line (`candidates.split_names`); those that the run knows may hold
            commas.
        classes_file: a file of names, one a line (`candidates.read_names`), in their place.

    Raises:
        TCAFError: names both in a line and in a file, or see `Classifier.set_classes`.
    """
    if classes and classes_file is not None:
        raise TCAFError("--classes and --classes_file exclude each other; give one of them")
    if classes_file is not None:
        classifier.set_classes(read_names(classes_file))
    elif classes:
        classifier.set_classes(split_names(classes, classifier.known))


def find_media(words: Sequence[str]) -> list[Path]:
    """Returns the files that paths name: files as they are, of folders all media files inside.

    What addresses name is fetched (`local_path`).

    Files of a folder are those with a media file's suffix, in any depth, also behind links to
    folders, sorted; hidden ones do not count, and a warning says what else is passed over. A file
    that is named twice counts once.

    Raises:
        TCAFError: a folder holds no media file.
    """
    found: dict[Path, None] = {}
    for word in words:
        path = local_path(word)
        if not path.is_dir():
            found[path] = None
            continue
        inside = media_folder(path)
        files = [file for file in inside.files if not file.is_dir()]
        if not files:
            told = " ".join(sorted(suffix.lstrip(".") for suffix in SUFFIXES))
            raise TCAFError(f"folder {path} holds no media file; they end in one of {told}")
        if passed_over := inside.passed_over(path):
            warnings.warn(passed_over, stacklevel=2)
        found |= dict.fromkeys(files)
    return list(found)


def select_rows(store: FeatureStore, words: Sequence[str], split: str) -> Int[np.ndarray, " clips"]:
    """Returns the rows of a store that words name: ids of clips, parts of a split, or `all`.

    An id wins over a part of the same name. A clip that is named twice counts once.

    Raises:
        TCAFError: a word is none of these, or names no clip.
    """
    rows: dict[int, None] = {}
    ids = frozenset(store.ids)
    for word in words:
        known = word in ids
        if not known and word == "all":
            found = list(range(len(store)))
        elif not known and word in (*PARTS, *UNIONS):
            found = store.rows(split, word).tolist()
        else:
            found = [store.row(word)]
        rows |= dict.fromkeys(found)
    if not rows:
        raise TCAFError(f"store {store.path} has no clips in {' '.join(words)}")
    return np.array(list(rows), np.int64)


def answer_store(
    classifier: Classifier,
    store: FeatureStore,
    rows: Int[np.ndarray, " clips"],
    top_k: int,
    seen_bias: float,
    *,
    together: bool = False,
    abstain: float | None = None,
    why: bool = False,
    keep_features: bool = False,
) -> list[Answered]:
    """Answers clips of a store.

    Args:
        classifier: that answers.
        store: of the clips.
        rows: which of them.
        top_k: see `Classifier.classify`.
        seen_bias: see there.
        together: see there.
        abstain: see there.
        why: see there.
        keep_features: what `draw_timelines` needs, and much memory for many clips.

    Raises:
        TCAFError: see `Classifier.classify_store`.
    """
    found = classifier.classify_store(
        store, rows, top_k, seen_bias, together=together, abstain=abstain, why=why
    )
    return [
        Answered(ranking, store[row] if keep_features else None)
        for ranking, row in zip(found, rows.tolist(), strict=True)
    ]


def answer_files(
    classifier: Classifier,
    files: Sequence[Path],
    top_k: int,
    seen_bias: float,
    *,
    together: bool = False,
    abstain: float | None = None,
    why: bool = False,
    keep_features: bool = False,
    file_timeout_s: float = FILE_TIMEOUT_S,
    workers: int | None = None,
    place: Place = HERE,
    track: Track = silent,
) -> Iterator[Answered | Unanswered]:
    """Yields what became of each file, as soon as it is known; one that fails stops no other.

    They are in the order of the files, which several processes read at a time. Of files that are
    answered together nothing is known before all are read.

    Args:
        classifier: that answers.
        files: in the order of the answers.
        top_k: see `Classifier.classify`.
        seen_bias: see there.
        together: see there.
        abstain: see there.
        why: see there.
        keep_features: what `draw_timelines` needs, and much memory for many files.
        file_timeout_s: see `features_of_files`.
        workers: see there.
        place: see there.
        track: shows how many files are done.

    Raises:
        TCAFError: what concerns all files: backbones that cannot be opened, a missing package, or
            what `Classifier.classify` refuses.
    """
    asked: dict[str, Any] = {"together": together, "abstain": abstain, "why": why}
    classifier.classify([], top_k, seen_bias, **asked)
    require_decoder()

    def answered(
        group: Sequence[tuple[int, VideoFeatures | str]],
    ) -> Iterator[tuple[int, Answered | Unanswered]]:
        videos = [video for _, video in group if not isinstance(video, str)]
        try:
            rankings = iter(classifier.classify(videos, top_k, seen_bias, **asked))
        except TCAFError as error:
            if together:
                raise
            group = [(number, str(error)) for number, _ in group]
        for number, video in group:
            file = files[number]
            if isinstance(video, str):
                yield number, Unanswered(as_named(file), " ".join(video.split()))
            else:
                yield number, Answered(next(rankings), video if keep_features else None, file)

    # Opened here first: what is wrong with weights is said before any process starts.
    found = features_of_files(files, classifier.backbones, file_timeout_s, workers, place)
    with closing(found):
        read = (
            (number, _video(classifier, features))
            for _, (number, features) in zip(track(files, "predicting"), found, strict=True)
        )
        # One at a time: next to the decoding, a larger batch would gain nothing.
        groups = [sorted(read, key=itemgetter(0))] if together else ([one] for one in read)
        yield from _by_number(one for group in groups for one in answered(group))


def _by_number(
    found: Iterable[tuple[int, Answered | Unanswered]],
) -> Iterator[Answered | Unanswered]:
    """Yields what comes with the numbers from 0 on in their order, each as soon as it may."""
    waiting: dict[int, Answered | Unanswered] = {}
    wanted = 0
    for number, one in found:
        waiting[number] = one
        while wanted in waiting:
            yield waiting.pop(wanted)
            wanted += 1


def _video(classifier: Classifier, features: VideoFeatures | str) -> VideoFeatures | str:
    """Returns features as the model takes them, or what is wrong with them."""
    try:
        return features if isinstance(features, str) else classifier.features(features)
    except TCAFError as error:
        return str(error)


def answer_clips(
    classifier: Classifier,
    words: Sequence[str],
    *,
    store: Path | None = None,
    top_k: int = 5,
    seen_bias: float = 0.0,
    together: bool = False,
    abstain: float | None = None,
    why: bool = False,
    keep_features: bool = False,
    file_timeout_s: float = FILE_TIMEOUT_S,
    workers: int | None = None,
    place: Place = HERE,
    track: Track = silent,
) -> Iterable[Answered | Unanswered]:
    """Answers the clips that words name: files and folders, or clips of a store.

    Args:
        classifier: that answers.
        words: see `find_media`; with a store see `select_rows`, in the split of the run.
        store: folder of the feature store that holds the clips, in place of files.
        top_k: see `Classifier.classify`.
        seen_bias: see there.
        together: see there.
        abstain: see there.
        why: see there.
        keep_features: what `draw_timelines` needs, and much memory for many clips.
        file_timeout_s: see `features_of_files`.
        workers: see there.
        place: see there.
        track: shows how many files are done.

    Returns:
        What became of each clip, in their order; files are read while answers are asked for.

    Raises:
        TCAFError: words that name no clip, at once; see `answer_store` and `answer_files`.
    """
    if store is None:
        return answer_files(
            classifier,
            find_media(words),
            top_k,
            seen_bias,
            together=together,
            abstain=abstain,
            why=why,
            keep_features=keep_features,
            file_timeout_s=file_timeout_s,
            workers=workers,
            place=place,
            track=track,
        )
    opened = FeatureStore.open(store)
    opened.verify_once(track)
    rows = select_rows(opened, words, classifier.split)
    return answer_store(
        classifier,
        opened,
        rows,
        top_k,
        seen_bias,
        together=together,
        abstain=abstain,
        why=why,
        keep_features=keep_features,
    )


def check_answered(found: Sequence[Answered | Unanswered]) -> None:
    """Checks that all clips have answers.

    Raises:
        TCAFError: the only clip has none, with the reason; or some of several have none, with how
            many.
    """
    failed = [one for one in found if isinstance(one, Unanswered)]
    if len(failed) == len(found) == 1:
        raise TCAFError(failed[0].reason)
    if failed:
        raise TCAFError(f"{len(failed)} of {len(found)} clips have no answer")


def answer_json(one: Answered | Unanswered) -> dict[str, Any]:
    """Returns what became of a clip as JSON values."""
    if isinstance(one, Unanswered):
        return {"id": one.id, "error": one.reason}
    return one.ranking.to_json()


def answers_json(
    classifier: Classifier,
    found: Sequence[Answered | Unanswered],
    seen_bias: float,
    *,
    together: bool = False,
    abstain: float | None = None,
) -> dict[str, Any]:
    """Returns all answers as one JSON value, and what they were chosen from.

    Answers to clips together are marked as transductive.
    """
    answered = sum(isinstance(one, Answered) for one in found)
    gamma, temperature = classifier.calibration(answered if together else None)
    sets = {} if abstain is None else {"abstain": abstain}
    return {
        "classes": list(classifier.classes),
        "gamma": gamma + seen_bias,
        "temperature": temperature,
        "transductive": together,
        **sets,
        "predictions": [one.ranking.to_json() for one in found if isinstance(one, Answered)],
        "failed": {one.id: one.reason for one in found if isinstance(one, Unanswered)},
    }
