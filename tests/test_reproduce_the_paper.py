"""`docs/reproduce-the-paper.md`: its numbers, and its commands on trees of small rendered files."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from doc_pages import commands_of
from tcaf.commands import entry as cli
from tcaf.data.splits import BENCHMARKS, PARTS, load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.experiments.layers import dataset_of
from tcaf.sources.benchmark_videos import load_clips
from tcaf.text.words import split_words
from write_benchmark import render, some_of, write_ucf
from write_words import write_bin

DOCS = Path(__file__).parents[1] / "docs"
PAGE = "reproduce-the-paper.md"
TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
LIGHT = {"vggish": "logmel", "c3d": "efficientnet_lite0:frames=1,weights=random"}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_numbers_of_the_lists(benchmark):
    row = re.search(rf"^\| `{benchmark}` \| (.*?) \| (.*?) \|$", TEXT, re.M)
    counts = Counter(clip.part for clip in load_clips(benchmark))
    assert row[1] == ", ".join(str(counts[part] or "not published") for part in PARTS)
    split = load_benchmark(benchmark).splits["main"]
    lists = (split.train, split.val_unseen, split.test_unseen)
    assert row[2] == " + ".join(str(len(names)) for names in lists)


@pytest.mark.slow
def test_what_is_said_of_groups_and_of_videos():
    def torn(benchmark, group, training=("stage_1_train", "val_seen", "val_unseen")):
        parts = {}
        for clip in load_clips(benchmark):
            parts.setdefault(group(clip.name), set()).add(clip.part)
        tested = [each for each in parts.values() if each & {"test_seen", "test_unseen"}]
        return sum(not each.isdisjoint(training) for each in tested), len(parts)

    few, every = torn("ucf", lambda name: name.rpartition("_c")[0])
    assert f"{few} of the {every:,} takes" in TEXT
    first, _ = torn("ucf", lambda name: name.rpartition("_c")[0], ["stage_1_train"])
    assert f"({first} in\nthat of stage 1)" in TEXT
    few, every = torn("activitynet", lambda name: name.rpartition("_")[0])
    first, _ = torn("activitynet", lambda name: name.rpartition("_")[0], ["stage_1_train"])
    assert f"Of {first} videos some clips are in the training of stage 1 " in TEXT
    assert f"of {few}, some in that of stage 2" in TEXT
    numbers = {}
    for clip in load_clips("activitynet"):
        id, _, number = clip.name.rpartition("_")
        numbers.setdefault(id, set()).add(int(number))
    whole = sum(known == set(range(len(known))) for known in numbers.values())
    assert f"of {every:,} videos {whole:,} have clips" in TEXT


def vectors(path):
    """Writes vectors for all words of the three benchmarks' classes."""
    names = [words for b in BENCHMARKS for words in load_benchmark(b).words.values()]
    words = sorted({word for name in names for word in split_words(name)})
    drawn = np.random.default_rng(0).normal(size=(len(words), 300))
    write_bin(path, dict(zip(words, drawn, strict=True)))


def run(words):
    """Runs a command of the document with networks that need no download."""
    return cli.main([LIGHT.get(word, word) for word in words if word != "tcaf"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    vectors(tmp_path / "word2vec.bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parts_of(store):
    return dict(zip(store.ids, zip(store.class_names, store.parts, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ucf(folder):
    clips = some_of("ucf")
    write_ucf(folder / "UCF-101", clips)
    prepare, train, evaluate, _ = commands_of(PAGE, "UCF-101")
    assert run(prepare) == 0
    store = FeatureStore.open(folder / "ucf")
    expected = {f"{c.class_name}/{c.name}.avi": (c.class_name, c.part) for c in clips}
    assert parts_of(store) == expected
    assert store.splits == load_benchmark("ucf").splits
    assert sum(map(len, store.left_out.values())) == 6816 - len(clips)
    assert dataset_of(store) == "videos"
    assert run([*train, "--training.epochs", "1", "--training.batches_per_epoch", "20"]) == 0
    assert run(evaluate) == 0
    result = json.loads((folder / "runs" / "ucf" / "result.json").read_text())
    assert result
    more = ["--training.epochs", "1", "--training.batches_per_epoch", "2"]
    (sentence,) = commands_of(PAGE, "Word vectors")
    assert run([*sentence, *more]) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_vggsound(folder):
    clips = some_of("vggsound", 1, {"val_seen": 0, "test_seen": 0})[::9]
    clips += [c for c in some_of("vggsound") if c.part in ("val_seen", "test_seen")][::30]
    rows = [(c.name[:11], int(c.name[12:]), c.class_name, "train") for c in clips]
    seen = sorted({c.class_name for c in clips if c.part == "val_seen"})
    rows += [(f"train-{n:05}", n, name, "train") for n, name in enumerate(2 * seen)]
    for number, (id, start, name, _) in enumerate(rows):
        render(folder / "vggsound" / f"{id}_{start:06}.mp4", name, number)
    with (folder / "vggsound.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    prepare, train = commands_of(PAGE, "VGGSound")
    assert run(prepare) == 0
    store = FeatureStore.open(folder / "vggsound-store")
    expected = {f"{c.name}.mp4": (c.class_name, c.part) for c in clips}
    expected |= {f"{i}_{s:06}.mp4": (n, "stage_1_train") for i, s, n, _ in rows[len(clips) :]}
    assert parts_of(store) == expected
    assert store.splits == load_benchmark("vggsound").splits
    assert run([*train, "--training.epochs", "1", "--training.batches_per_epoch", "2"]) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_activitynet(folder):
    """Whole videos of 12 s, of which each clip is a stretch of 2 s at its number's place."""
    firsts = [c for c in some_of("activitynet") if int(c.name.rpartition("_")[2]) < 5]
    chosen = [c for part in PARTS for c in firsts if c.part == part][::8]
    by_video = {}
    for clip in load_clips("activitynet"):
        by_video.setdefault(clip.name.rpartition("_")[0], []).append(clip)
    videos = sorted({clip.name.rpartition("_")[0] for clip in chosen})
    database = {}
    words = {n.replace(" ", ""): n for n in load_benchmark("activitynet").words.values()}
    for number, id in enumerate(videos):
        last = max(int(clip.name.rpartition("_")[2]) for clip in by_video[id])
        labels = {int(c.name.rpartition("_")[2]): c.class_name for c in by_video[id]}
        said = [
            {
                "label": words.get(labels.get(k, ""), labels.get(k, "none")),
                "segment": [k * 0.5, k * 0.5 + 2],
            }
            for k in range(last + 1)
        ]
        database[id] = {"subset": "training", "annotations": said}
        render(folder / "activitynet" / f"v_{id}.mp4", by_video[id][0].class_name, number, 12)
    path = folder / "activity_net.v1-3.min.json"
    path.write_text(json.dumps({"database": database, "version": "VERSION 1.3"}))
    prepare, train = commands_of(PAGE, "ActivityNet")
    assert run(prepare) == 0
    store = FeatureStore.open(folder / "activitynet-store")
    expected = {}
    for id in videos:
        for clip in by_video[id]:
            start = int(clip.name.rpartition("_")[2]) * 0.5
            if start + 2 <= 12:
                name = f"v_{id}.mp4@{start:.10g}-{start + 2:.10g}"
                expected[name] = (clip.class_name, clip.part)
    found = parts_of(store)
    assert {name: found[name] for name in expected} == expected
    assert store.splits == load_benchmark("activitynet").splits
    assert run([*train, "--training.epochs", "1", "--training.batches_per_epoch", "2"]) == 0
