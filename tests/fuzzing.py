"""Which files commands read, how each may be damaged, and how a command on a damaged one ends.

`test_fuzz.py` runs a few of these in its own process, `benchmarks/reliability/damage.py` thousands
in others that it watches.
"""

import csv
import io
import json
import random
import re
import shutil
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from mutations import (
    in_bytes,
    in_cells,
    in_json,
    in_lines_of_json,
    in_listed_file,
    in_npy,
    in_pickle,
    in_records,
    in_sealed_json,
    in_sealed_tensors,
    in_zip,
    write_mutated,
)
from tcaf.commands.entry import main
from write_official import METHOD
from write_one_of_each import AUDIO, MEDIA, VISUAL

MANY = 100
"""Damaged media files that one command is given, as it starts a process for them."""

LONGEST = 4000
"""Characters of a line that somebody may still read."""


FAULT = re.compile(r": (failed|takes too long|decoder crashed|killed)\b")
"""What is said of a file that ended its process, or in which something raised what nobody meant."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        file: that is damaged, in the folder of `write_one_of_each`.
        commands: that read it, taken in turns.
        ways: of damaging it (`mutations`), one of which is drawn.
        share: how often it is damaged, in proportion.
        many: how many damaged files a command is given; more than one lie in the folder `inbox`.
    """

    file: str
    commands: tuple[list[str], ...]
    ways: tuple = (in_bytes,)
    share: int = 1
    many: int = 1

    def command(self, number):
        return self.commands[number // self.many % len(self.commands)]


JSON = (in_bytes, in_json, in_json)
SEALED_JSON = (in_bytes, in_sealed_json, in_sealed_json)
TENSORS = (in_bytes, in_sealed_tensors, in_sealed_tensors)
LINES = (in_bytes, in_lines_of_json)
TABLE = (in_bytes, in_cells)
LISTED = (in_bytes, in_listed_file, in_listed_file)

TRAIN = ["train", "--store", "store", "--config", "mine.toml", "--out", "new"]
RESUME = [*TRAIN[:-1], "run", "--resume"]
GO_ON = [*TRAIN[:-1], "stopped", "--resume"]
INSPECT = ["inspect", "store"]
REPORT = ["report", "run"]
EVALUATE = ["evaluate", "run", "--store", "store"]
PREDICT = ["predict", "run", "test", "--store", "store"]
OFFICIAL = ["prepare", "official", "official", "--out", "new"]
TABLES = ["--vocabulary", "youtube8m/vocabulary.csv", "--classes", "youtube8m/classes.csv"]
YOUTUBE8M = ["prepare", "youtube8m", "youtube8m/videos", "--out", "new", *TABLES]
FRAMES = [*YOUTUBE8M[:2], "youtube8m/frames", *YOUTUBE8M[3:]]
SOUNDS = ["--vocabulary", "audioset/vocabulary.csv", "--classes", "audioset/classes.csv"]
AUDIOSET = ["prepare", "audioset", "audioset", "--out", "new", *SOUNDS]
RELEASE = ["--store", "release/store", "--num_heads", "2", "--out", "new"]
BACKBONES = ["--audio", AUDIO, "--visual", VISUAL, "--workers", "1", "--out", "new"]
VIDEOS = ["prepare", "videos", "clips", *BACKBONES]
LIMIT = ["--file_timeout_s", "20"]
INBOX = (
    ["prepare", "videos", "inbox", *BACKBONES, *LIMIT],
    ["predict", "clip_run", "inbox", "--json", *LIMIT],
)
BACK = ["store", "from-parquet", "copy", "--out", "new"]
AGAIN = ["reproduce", "--table", "1", "--store", "store", "--config", "mine.toml", "--models"]
AGAIN = [*AGAIN, "ridge", "--seeds", "0", "--out", "table"]


def text_of(source, path, *more):
    given = ("--text.source", source, "--text.name", "", "--text.path", path)
    return [*TRAIN, *given, *more]


def labelled(name):
    return [*VIDEOS, "--labels", name]


KINDS = {
    "store.json": Kind("store/store.json", (INSPECT, PREDICT, TRAIN), SEALED_JSON, 3),
    "shard": Kind("store/shard-00000.arrow", (INSPECT, PREDICT, TRAIN), LISTED, 4),
    "class text": Kind("store/text/attributes.safetensors", (INSPECT, TRAIN), TENSORS, 2),
    "model": Kind(
        "run/model.safetensors",
        (EVALUATE, PREDICT, ["evaluate", "run/model.safetensors", *EVALUATE[2:]]),
        TENSORS,
        4,
    ),
    "stage 1": Kind("run/stage_1.safetensors", ([*EVALUATE, "--part", "val"],), TENSORS, 2),
    "run's text": Kind("run/text/classes.safetensors", (PREDICT, EVALUATE, REPORT), TENSORS, 2),
    "checkpoint": Kind("stopped/checkpoint.safetensors", (GO_ON,), TENSORS, 2),
    "config.json": Kind("run/config.json", (RESUME, EVALUATE, REPORT), JSON, 2),
    "provenance": Kind("run/provenance.json", (RESUME, REPORT), JSON),
    "metrics": Kind("run/metrics.jsonl", (REPORT,), LINES),
    "metrics so far": Kind("stopped/metrics.jsonl", (GO_ON,), LINES),
    "result": Kind("run/result.json", (RESUME, REPORT), JSON),
    "predictions": Kind("run/predictions.parquet", (REPORT,)),
    "rows": Kind("table/rows.json", (AGAIN,), JSON),
    "toml": Kind("mine.toml", (["settings", "--config", "mine.toml"],), share=2),
    "attributes": Kind("attributes.csv", (text_of("attributes", "attributes.csv"),), TABLE, 2),
    "phrases": Kind(
        "phrases.csv",
        (text_of("glove", "words.txt", "--text.phrases_file", "phrases.csv"),),
        TABLE,
        2,
    ),
    "prompts": Kind(
        "templates.txt", (text_of("glove", "words.txt", "--text.prompts", "templates.txt"),)
    ),
    "GloVe": Kind("words.txt", (text_of("glove", "words.txt"),), share=2),
    "word2vec": Kind("words.bin", (text_of("word2vec", "words.bin"),), share=2),
    "npy": Kind("vectors.npy", (text_of("npy", "vectors.npy"),), (in_bytes, in_npy), 2),
    "names": Kind("names.txt", ([*PREDICT, "--classes_file", "names.txt"],)),
    "tcaf.json": Kind("copy/tcaf.json", (BACK,), SEALED_JSON, 2),
    "parquet": Kind("copy/shard-00000.parquet", (BACK,), LISTED, 4),
    "parquet's text": Kind("copy/text/attributes.safetensors", (BACK,), TENSORS),
    "tfrecord, videos": Kind(
        "youtube8m/videos/one.tfrecord", (YOUTUBE8M,), (in_bytes, in_records, in_records), 4
    ),
    "tfrecord, frames": Kind(
        "youtube8m/frames/one.tfrecord", (FRAMES,), (in_bytes, in_records, in_records), 4
    ),
    "tfrecord, sound": Kind(
        "audioset/one.tfrecord", (AUDIOSET,), (in_bytes, in_records, in_records), 2
    ),
    "AudioSet's vocabulary": Kind("audioset/vocabulary.csv", (AUDIOSET,), TABLE),
    "AudioSet's classes": Kind("audioset/classes.csv", (AUDIOSET,), TABLE),
    "vocabulary": Kind("youtube8m/vocabulary.csv", (YOUTUBE8M,), TABLE, 2),
    "YouTube-8M's classes": Kind("youtube8m/classes.csv", (YOUTUBE8M,), TABLE, 2),
    "pickle, sound": Kind(
        f"official/features/{METHOD}/audio/stage_1_train/Archery.pkl",
        (OFFICIAL,),
        (in_bytes, in_pickle),
        4,
    ),
    "pickle, picture": Kind(
        f"official/features/{METHOD}/video/stage_1_val_unseen/PlayingFlute.pkl",
        (OFFICIAL,),
        (in_bytes, in_pickle),
        4,
    ),
    "official vectors": Kind(
        f"official/features/{METHOD}/text/word_embeddings_x_normed.npy",
        (OFFICIAL,),
        (in_bytes, in_npy),
        3,
    ),
    "class list": Kind("official/class-split/cls_split/stage_1_train.txt", (OFFICIAL,)),
    "official words": Kind("official/ucf_w2v_class_names.csv", (OFFICIAL,), TABLE, 2),
    "release": Kind(
        "release/release.pt",
        (["import-checkpoint", "release/release.pt", *RELEASE],),
        (in_bytes, in_zip),
        3,
    ),
    "imported model": Kind(
        "release/model/model.safetensors",
        (["evaluate", "release/model", "--store", "release/store"],),
        TENSORS,
        2,
    ),
    "labels.csv": Kind("labels.csv", (labelled("labels.csv"),), TABLE, 2),
    "labels.tsv": Kind("labels.tsv", (labelled("labels.tsv"),), TABLE, 2),
    "annotations": Kind("labels.json", (labelled("labels.json"),), JSON, 2),
    "kinetics": Kind("kinetics.csv", (labelled("kinetics.csv"),), TABLE, 2),
    "ave": Kind("Annotations.txt", (labelled("Annotations.txt"),), TABLE, 2),
    "ucf101": Kind("trainlist01.txt", (labelled("trainlist01.txt"),), (in_bytes,), 2),
    "classes": Kind(
        "classes.csv", ([*labelled("labels.csv"), "--classes", "classes.csv"],), TABLE, 2
    ),
    **{ending: Kind(f"media/clip.{ending}", INBOX, share=5, many=MANY) for ending in MEDIA},
}
"""By name, each kind with the commands that read it."""


def damaged_copy(whole, here, kind, numbers, seed):
    """Copies what a kind's command needs to a new folder, with damaged files; returns the command.

    Each damage follows from the kind, its number and the seed alone.
    """
    own = KINDS[kind]
    command = own.command(numbers[0])
    here.mkdir()
    for word in {Path(word).parts[0] for word in (*command, own.file) if word}:
        if (whole / word).is_dir():
            shutil.copytree(whole / word, here / word)
        elif (whole / word).is_file():
            shutil.copy2(whole / word, here / word)
    if "new" in command and "clips" in command:
        shutil.copytree(whole / "new.extracted", here / "new.extracted")
    for number in numbers:
        name = f"inbox/{number}{Path(own.file).suffix}" if own.many > 1 else own.file
        rng = random.Random(f"{seed} {kind} {number}")
        write_mutated(whole / own.file, here / name, own.ways, rng)
    return command


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        how: `well`, `refused` in one line, or, for all else, `traceback`.
        more: what it said.
        num_refused: files that it left out.
    """

    how: str
    more: str = ""
    num_refused: int = 0


def ended(command):
    """Runs a command in the current folder; returns how it ended."""
    output, error = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(error):
            status = main(command)
    except (Exception, SystemExit):  # noqa: BLE001 - what ended it is the question
        return Ended("traceback", traceback.format_exc())
    said = error.getvalue()
    last = said.splitlines()[-1] if said else ""
    if status not in (0, 2) or "Traceback" in said:
        return Ended("traceback", f"exit status {status}: {said}")
    if status == 2 and (not last.startswith("tcaf: ") or len(last) > LONGEST):
        return Ended("traceback", f"not in one line: {said[:LONGEST]}")
    if "inbox" not in command:
        return Ended("refused", last) if status else Ended("well")
    left_out = _left_out(command, output.getvalue())
    if fault := next(filter(FAULT.search, left_out), None):
        return Ended("traceback", fault)
    return Ended("well", "", len(left_out))


def _left_out(command, output):
    """Returns why files of the folder `inbox` were left out."""
    if command[0] == "predict":
        return list(json.loads(output)["failed"].values())
    rejects = Path("new/rejects.csv")
    if not rejects.exists():
        return []
    with rejects.open(newline="", encoding="utf-8") as file:
        return [row["detail"] for row in csv.DictReader(file)]
