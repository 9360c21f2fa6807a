"""`tcaf predict`: answers for clips."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tcaf.commands.lines import AnswersCsv, JsonLines
from tcaf.commands.printing_answers import print_answers
from tcaf.commands.recordings import Wanted, predict_recordings
from tcaf.commands.terminal import note, show, track
from tcaf.commands.watching import watch as watch_folder
from tcaf.errors import TCAFError
from tcaf.extract.containers import FILE_TIMEOUT_S
from tcaf.progress import silent
from tcaf.settings.sections import Device

if TYPE_CHECKING:
    from tcaf.answers.interface import Classifier

SETTLE_S = 3.0
"""Seconds for which a file of a watched folder must not have changed."""


def predict(
    run: str,
    clips: list[str] | None = None,
    *,
    classes: str = "",
    classes_file: Path | None = None,
    top_k: int = 5,
    seen_bias: float = 0.0,
    together: bool = False,
    abstain: float | None = None,
    why: bool = False,
    every: float | None = None,
    hop: float | None = None,
    apart: bool = False,
    keep_all: bool = False,
    out: Path | None = None,
    format: Literal["csv", "jsonl", "vtt", "srt", "audacity", "elan"] | None = None,
    watch: Path | None = None,
    record: Path | None = None,
    settle_s: float = SETTLE_S,
    store: Path | None = None,
    file_timeout_s: float = FILE_TIMEOUT_S,
    timeline: Path | None = None,
    audio_weights: Path | None = None,
    visual_weights: Path | None = None,
    plugin: Path | None = None,
    device: Device = "auto",
    json: bool = False,
    jsonl: bool = False,
    csv: bool = False,
    workers: int | None = None,
    cluster: str = "",
) -> None:
    """Names what clips show: the best of the run's classes, or of any others that you name.

    Features are made of files by the backbones that the run's features come from. A probability
    is that of a class among those named, if one of them is right; it is calibrated on validation
    clips of the run's data, and too sure where clips or classes are of another kind. A file that
    cannot be read is reported and the others are answered; the exit status is then 2.

    Args:
        run: folder of a run, a model file, or a ready model (`tcaf models`), as in imagenet;
            several with + between them answer together.
        clips: media files, or folders of them; with --store ids of clips, parts such as test, or
            the word all.
        classes: names to choose from, seen in training or not, by default those of the run, as in
            "cat purring, dog barking". A name that the run knows and that holds commas is taken
            whole; a semicolon anywhere makes semicolons the separators.
        classes_file: the same as a file, one name a line; lines that begin with # do not count. Of
            a table with column names, those in its column class or name.
        top_k: answers a clip.
        seen_bias: added to gamma, the distance by which classes of the training are held back;
            above 0 favours other classes, below 0 those of the training.
        together: answer all clips together, each in the light of the others: better for some
            hundred clips in which the candidates really occur, about equally often (textlda).
        abstain: share of wrong answers that is allowed, such as 0.05: each clip also gets the set
            of names that are not ruled out, possibly none of them. Of clips like those of the run's
            validation that show one of the names, at most this share loses it.
        why: also say how far sound and picture alone are from each answer, with the rank that the
            answer has by them, and which classes of the training the clip is nearest to.
        every: answer recordings of any length: an answer for each stretch of so many seconds;
            neighbouring stretches with the same answer are joined. Stretches in which there is
            nothing to hear and nothing to see are left out, and with --abstain those that are none
            of the names.
        hop: with --every: seconds from the start of one stretch to the next, where they are to
            overlap; each then answers for the seconds in its middle.
        apart: with --every: join nothing.
        keep_all: with --every: keep what would be left out.
        out: with --every: write the answers to this file, in the format that its suffix says:
            .csv .jsonl .vtt (WebVTT) .srt (SubRip) .txt (labels of Audacity) .tsv (ELAN). Of
            several recordings .csv and .jsonl hold all; for the others name a folder, which gets a
            file for each, and --format.
        format: of the files in the folder --out, or of one whose suffix does not say.
        watch: answer the files of this folder as they arrive, each once, until Ctrl-C; with --every
            too. The same command goes on with those that have come meanwhile. With --out FOLDER.
        record: with --watch: the file that keeps which files are answered, and how, as JSON lines;
            by default .tcaf-watch.jsonl in the folder that is watched.
        settle_s: with --watch: seconds for which a file must not have changed before it is read.
        store: folder of a feature store that holds the clips, in place of files.
        file_timeout_s: seconds that a file may take, and as many again for each MiB of it, up to
            144 times as many; one that takes longer has no answer.
        timeline: draw each clip over time, with its answers, into this PNG file (extra plot); of
            several clips the n-th goes into NAME_n.png. A recording is drawn in bands below each
            other.
        audio_weights: file or folder of the audio backbone's weights, where it needs one.
        visual_weights: the same for the visual backbone.
        plugin: the Python file that registers the run's system, if that is one of your own.
        device: where to compute; `auto` takes a GPU where there is one.
        json: print all answers as one JSON value, at the end.
        jsonl: print all answers as JSON lines, one for each clip as soon as it is found; one
            without answers has an `error`.
        csv: print all answers as CSV, those of each file as soon as they are found.
        workers: processes that read files; by default one for each core.
        cluster: read files on the machines of a cluster of Ray (extra cluster): `local` for one of
            this machine alone, `auto` for the one that runs here, or its HOST:PORT. The files have
            to lie where all of them see them.
    """
    from tcaf.answers.clips import choose_classes
    from tcaf.answers.mixture import open_classifier
    from tcaf.execution.cluster import check_cluster, joined
    from tcaf.extract.stretches import Cut

    if sum((json, jsonl, csv)) > 1:
        raise TCAFError("--json, --jsonl and --csv exclude each other; give one of them")
    of_files = {
        "--audio_weights": audio_weights is not None,
        "--visual_weights": visual_weights is not None,
        "--file_timeout_s": file_timeout_s != FILE_TIMEOUT_S,
        "--workers": workers is not None,
        "--cluster": bool(cluster),
    }
    of_watching = {"--record": record is not None, "--settle_s": settle_s != SETTLE_S}
    not_watching = {
        "CLIPS": bool(clips),
        "--store": store is not None,
        "--together": together,
        "--json": json,
        "--timeline": timeline is not None,
    }
    of_clips = {"--store": store is not None, "--together": together, "--why": why}
    of_recordings = {
        "--hop": hop is not None,
        "--apart": apart,
        "--keep_all": keep_all,
        "--out": out is not None,
        "--format": format is not None,
    }
    if watch is None and not clips:
        raise TCAFError("name clips to answer, or a folder to answer as files arrive: --watch DIR")
    if watch is None and (given := _first(of_watching)):
        raise TCAFError(f"{given} is about a folder that is watched; add --watch DIR")
    if watch is not None and (given := _first(not_watching)):
        raise TCAFError(f"--watch and {given} exclude each other; leave one out")
    if watch is not None and why and not (jsonl or csv):
        raise TCAFError("a line for each file has no room for --why; add --jsonl or --csv")
    if store is not None and (given := _first(of_files)):
        raise TCAFError(f"{given} is about files, and with --store none is read; leave one out")
    if every is not None and (given := _first(of_clips)):
        raise TCAFError(f"{given} is about whole clips; leave it out, or --every")
    if every is None and (given := _first(of_recordings)):
        raise TCAFError(f"{given} is about recordings that are cut; add --every SECONDS")
    if format is not None and out is None:
        raise TCAFError(f"--format {format} says how files are written; add --out FILE or FOLDER")
    check_cluster(cluster)
    cut = None if every is None else Cut(every, hop)
    classifier = open_classifier(run, plugin, device, audio_weights, visual_weights)
    choose_classes(classifier, classes, classes_file)
    for each in classifier.notes:
        note(each)
    if seen_bias and len(classifier.seen_columns) in (0, len(classifier.classes)):
        kind = "all" if classifier.seen_columns else "none"
        note(f"--seen_bias changes nothing: {kind} of the classes named were trained on")
    printed = "json" if json else "jsonl" if jsonl else "csv" if csv else "table"
    wanted = Wanted(printed, out, format, timeline)
    asked: dict[str, Any] = {"top_k": top_k, "seen_bias": seen_bias, "abstain": abstain}
    asked |= {"file_timeout_s": file_timeout_s, "workers": workers}
    asked |= {"why": why} if cut is None else {"apart": apart, "keep_all": keep_all}
    words = clips or []
    with joined(cluster) as asked["place"]:
        if watch is not None:
            watch_folder(classifier, watch, record, settle_s, run, cut, wanted, asked)
        elif cut is not None:
            predict_recordings(classifier, words, cut, wanted, **asked)
        else:
            _predict_clips(classifier, words, wanted, store=store, together=together, **asked)


def _predict_clips(
    classifier: "Classifier",
    words: Sequence[str],
    wanted: Wanted,
    *,
    store: Path | None,
    together: bool,
    **asked: Any,
) -> None:
    """Answers clips, prints and draws the answers.

    Args:
        classifier: that answers.
        words: files and folders, or clips of the store.
        wanted: what becomes of the answers.
        store: see `predict`.
        together: see there.
        asked: see `answer_clips`.

    Raises:
        TCAFError: a clip has no answers; the others have theirs.
    """
    from tcaf.answers.clips import (
        Answered,
        Unanswered,
        answer_clips,
        answer_json,
        answers_json,
        check_answered,
    )
    from tcaf.reports.answer_timeline import check_timeline, draw_timelines

    if asked["why"] and not classifier.tells_apart:
        note(f"{classifier.title} does not tell apart what sound and picture say alone")
    if wanted.timeline is not None:
        check_timeline(wanted.timeline)
    streams = wanted.printed in ("csv", "jsonl")
    # A bar and rows on one terminal would overwrite each other.
    answers = answer_clips(
        classifier,
        words,
        store=store,
        together=together,
        keep_features=wanted.timeline is not None,
        **asked,
        track=silent if streams and sys.stdout.isatty() else track,
    )
    lines = JsonLines()
    table = AnswersCsv(sets=asked["abstain"] is not None, reasons=asked["why"])
    found: list[Answered | Unanswered] = []
    for one in answers:
        if wanted.printed == "jsonl":
            lines.print(answer_json(one))
        elif wanted.printed == "csv":
            table.print_header()
            if isinstance(one, Answered):
                table.print_clip(one.ranking.to_json())
        found.append(one)
    if len(found) == 1:
        check_answered(found)  # of the only clip nothing is printed but the reason
    if not streams:
        bias, allowed = asked["seen_bias"], asked["abstain"]
        value = answers_json(classifier, found, bias, together=together, abstain=allowed)
        show(value, print_answers, wanted.printed == "json")
    for one in found:
        if isinstance(one, Unanswered):
            note(f"no answer for {one.id}: {one.reason}", "")
    if wanted.timeline is not None:
        for place in draw_timelines(wanted.timeline, classifier, found):
            note(str(place), "drawn")
    check_answered(found)


def _first(options: Mapping[str, bool]) -> str:
    """Returns the first option that is given; empty if none is."""
    return next((option for option, is_given in options.items() if is_given), "")
