"""The paper's benchmarks from videos: every clip in the part that the published lists give it."""

import csv
import json
import os
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tcaf.data.splits import BENCHMARKS, PARTS, load_benchmark
from tcaf.errors import TCAFError
from tcaf.sources import benchmark_videos
from tcaf.sources.benchmark_videos import find_benchmark, load_clips, read_vectors
from write_benchmark import FOLDERS, published

SHARED = Path(os.environ.get("TCAF_SHARED", "../shared"))
shared = pytest.mark.skipif(not (SHARED / "benchmarks").is_dir(), reason="the authors' lists")

COUNTS = {
    "ucf": (3174, 353, 1467, 555, 1267),
    # The list for training was not published.
    "vggsound": (0, 7817, 3102, 9032, 3450),
    "activitynet": (9204, 1023, 4307, 1615, 4199),
}


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@cache
def some_classes():
    kept = ("playing oboe", "Capoeira", "air horn", "Archery", "HandstandPushups")
    return {b: [c for c in load_clips(b) if c.class_name in kept] for b in BENCHMARKS}


@pytest.fixture
def few(monkeypatch):
    """The lists of a few classes, as types are checked of each of twenty thousand clips."""
    monkeypatch.setattr(benchmark_videos, "load_clips", some_classes().__getitem__)
    return some_classes()


def parts_of(listing):
    return {clip.listed: (clip.class_name, clip.part) for clip in listing.clips}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_lists_that_come_with_the_package(benchmark):
    clips = load_clips(benchmark)
    assert tuple(Counter(c.part for c in clips)[part] for part in PARTS) == COUNTS[benchmark]
    assert len({clip.name for clip in clips}) == len(clips)
    split = load_benchmark(benchmark).splits["main"]
    split.check_clips(*zip(*((c.name, c.class_name, c.part) for c in clips), strict=True))
    tested = {clip.class_name for clip in clips if clip.part == "test_unseen"}
    assert tested == set(split.test_unseen)


@shared
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_they_are_those_that_the_authors_published(benchmark):
    ours = {part: set() for part in PARTS}
    for clip in load_clips(benchmark):
        ours[clip.part].add((clip.name, clip.class_name))
    for part in PARTS:
        if benchmark != "vggsound" or part != "stage_1_train":
            theirs = published(SHARED, benchmark, part)
            assert ours[part] == {(n, c.replace("HandStandP", "HandstandP")) for n, c in theirs}
    if benchmark != "vggsound":
        path = SHARED / "benchmarks" / FOLDERS[benchmark] / "cls_split" / "stage_2_train.csv"
        with path.open(newline="") as file:
            second = {row["filename"] for row in csv.DictReader(file)}
        assert second == {
            n for p in ("stage_1_train", "val_seen", "val_unseen") for n, _ in ours[p]
        }


def test_what_the_lists_of_vggsound_say_of_those_that_are_missing():
    """They hold a tenth each; all of a class's clips in VGGSound, and test clips of unseen ones.

    A class of the test has the 50 clips that VGGSound tests it on; so has one of validation, a
    tenth of them as seen ones in the test.
    """
    split = load_benchmark("vggsound").splits["main"]
    counts = Counter((clip.class_name, clip.part) for clip in load_clips("vggsound"))
    assert {counts[name, "test_unseen"] for name in split.test_unseen} == {50}
    unseen = [counts[n, "val_unseen"] + counts[n, "test_seen"] for n in split.val_unseen]
    assert max(unseen) <= 50
    seen = {part: sum(counts[name, part] for name in split.train) for part in PARTS}
    # Stage 1 keeps 10 % for validation, of what the 10 % for the test leave.
    assert seen["val_seen"] / seen["test_seen"] == pytest.approx(0.9, abs=0.001)


@pytest.mark.slow
def test_ucf_as_it_is_unpacked(tmp_path):
    clips = load_clips("ucf")
    names = [f"UCF-101/{clip.class_name}/{clip.name}.avi" for clip in clips]
    touch(tmp_path, *names, "UCF-101/Billiards/v_Billiards_g01_c01.avi")
    found = find_benchmark(tmp_path, "ucf")
    assert parts_of(found) == {clip.name: (clip.class_name, clip.part) for clip in clips}
    assert found.rejects == ()
    assert found.unlisted == ("UCF-101/Billiards/v_Billiards_g01_c01.avi",)
    assert found.remarks == ()
    one = next(clip for clip in found.clips if clip.listed == "v_HandStandPushups_g01_c01")
    assert (one.group, one.file.segment) == ("HandStandPushups_g01", None)


def test_what_is_not_there_is_named(tmp_path, few):
    # Archives spell this folder otherwise; suffixes are those of whoever converted the files.
    touch(tmp_path, "HandstandPushups/v_HandStandPushups_g01_c01.mkv", "v_Archery_g01_c01.mp4")
    found = find_benchmark(tmp_path, "ucf")
    assert len(found.clips) == 2
    assert len(found.rejects) == len(few["ucf"]) - 2
    assert {reject.reason for reject in found.rejects} == {"no such file"}
    assert found.remarks == (
        f"2 of the {len(few['ucf'])} clips in the lists of ucf are there: stage_1_train 2 of 218, "
        "val_seen 0 of 24, test_seen 0 of 27",
    )
    assert "v_Archery_g01_c02" in {reject.id for reject in found.rejects}


def vggsound_table(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def train_names(count, class_name="playing oboe"):
    return [(f"train-{n:05}", 10 * n, class_name, "train") for n in range(count)]


def test_vggsound_flat_with_its_own_table(tmp_path, few):
    listed = [clip for clip in few["vggsound"] if clip.class_name == "playing oboe"]
    rows = [(clip.name[:11], int(clip.name[12:]), clip.class_name, "train") for clip in listed]
    more = [*train_names(3), ("test-000001", 7, "playing oboe", "test")]
    outside = [("air-0000001", 5, "air conditioning noise", "train")]
    table = vggsound_table(tmp_path / "vggsound.csv", *rows, *more, *outside)
    names = [f"{id}_{start:06}.mp4" for id, start, *_ in (*rows, *more[1:])]
    folder = touch(tmp_path / "clips", *names, "air-0000001_000005.mp4")
    found = find_benchmark(folder, "vggsound", [table])
    parts = parts_of(found)
    assert {clip.name: parts[clip.name][1] for clip in listed} == {c.name: c.part for c in listed}
    # Of either of VGGSound's parts; one of the three files is missing.
    extra = {name for name, (_, part) in parts.items() if part == "stage_1_train"}
    assert extra == {"train-00001_000010", "train-00002_000020", "test-000001_000007"}
    assert "train-00000_000000" in {reject.id for reject in found.rejects}
    assert found.unlisted == ("air-0000001_000005.mp4",)
    assert any(remark.startswith("1 rows of ") for remark in found.remarks)
    assert any("3 clips are for training in stage 1" in remark for remark in found.remarks)


@pytest.mark.usefixtures("few")
def test_vggsound_in_folders_of_its_classes(tmp_path):
    touch(tmp_path, "playing_oboe/-0iEMffOYwo_000005.mp4", "playing oboe/new-0000001_000003.webm")
    touch(tmp_path, "playing oboe/notes_x.mp4", "air horn/new-0000002_000003.mp4")
    found = find_benchmark(tmp_path, "vggsound")
    assert parts_of(found) == {
        "-0iEMffOYwo_000005": ("playing oboe", "val_seen"),
        "new-0000001_000003": ("playing oboe", "stage_1_train"),
    }
    # A class that is unseen has the clips of the lists alone.
    touch(tmp_path, "playing oboe/bare-000003.mp4")
    assert len(find_benchmark(tmp_path, "vggsound").clips) == 2
    trimmed = find_benchmark(tmp_path, "vggsound", trimmed=True)
    assert parts_of(trimmed)["bare-000003"] == ("playing oboe", "stage_1_train")
    assert found.unlisted == ("air horn/new-0000002_000003.mp4", "playing oboe/notes_x.mp4")


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("trimmed", [False, True])
def test_no_clip_of_a_list_is_trained_on_under_another_name(tmp_path, trimmed):
    touch(tmp_path, *(f"playing oboe/-0iEMffOYwo{times}.mp4" for times in ("_000005", "_5_15")))
    touch(tmp_path, "playing oboe/new-0000001_000003.mp4", "playing oboe/Y-0iEMffOYwo.mp4")
    found = find_benchmark(tmp_path, "vggsound", trimmed=trimmed)
    assert {clip.file.name: clip.part for clip in found.clips} == {
        "playing oboe/-0iEMffOYwo_5_15.mp4": "val_seen",
        "playing oboe/new-0000001_000003.mp4": "stage_1_train",
    }
    (remark,) = (r for r in found.remarks if "are no clips for training" in r)
    assert remark.startswith(f"{1 + trimmed} files ")
    assert "'playing oboe/-0iEMffOYwo_000005.mp4'" in remark


@pytest.mark.usefixtures("few")
def test_a_video_is_trained_on_once_and_found_by_all_known_names(tmp_path):
    names = ("Ynew-0000001_000003.mp4", "v_new-0000002_3_13.mp4", "new-0000003_000003.mp4")
    touch(tmp_path, *(f"playing oboe/{name}" for name in names))
    touch(tmp_path, "playing oboe/Ynew-0000003_3.wav")
    found = find_benchmark(tmp_path, "vggsound")
    assert set(parts_of(found)) == {"new-0000001_000003", "new-0000002_3_13"}
    (reject,) = (reject for reject in found.rejects if reject.id == "new-0000003")
    assert reject.reason == "several files"
    assert "'playing oboe/Ynew-0000003_3.wav'" in reject.detail


@pytest.mark.usefixtures("few")
def test_vggsound_flat_without_a_table_is_refused(tmp_path):
    touch(tmp_path, "-0iEMffOYwo_000005.mp4")
    with pytest.raises(TCAFError, match=r"no clip of vggsound for training; .* --labels vggsound"):
        find_benchmark(tmp_path, "vggsound")


def annotations(path, **database):
    entries = {
        id: {"subset": "training", "annotations": said, "duration": 9}
        for id, said in database.items()
    }
    path.write_text(json.dumps({"database": entries, "version": "1.3"}))
    return path


@pytest.mark.usefixtures("few")
def test_activitynet_as_whole_videos(tmp_path):
    """Capoeira's video 38ZxXyECPPU has clips 0, 1, 3 to 7 in the lists."""
    said = [{"label": "Capoeira", "segment": [10.5 * k, 10.5 * k + 5]} for k in range(6)]
    said[3] = {"label": "Canoeing", "segment": [0, 1]}
    said[4] = {"label": "Capoeira", "segment": [3, 2]}
    path = annotations(tmp_path / "an.json", **{"38ZxXyECPPU": said})
    folder = touch(tmp_path / "videos", "v_38ZxXyECPPU.mp4", "v_other.mp4")
    found = find_benchmark(folder, "activitynet", [path])
    assert {c.listed: (c.part, c.file.segment, c.group) for c in found.clips} == {
        "38ZxXyECPPU_0": ("stage_1_train", (0, 5), "38ZxXyECPPU"),
        "38ZxXyECPPU_1": ("val_seen", (10.5, 15.5), "38ZxXyECPPU"),
        "38ZxXyECPPU_5": ("stage_1_train", (52.5, 57.5), "38ZxXyECPPU"),
    }
    reasons = {reject.id: reject.reason for reject in found.rejects if "38ZxX" in reject.id}
    assert reasons == {
        "38ZxXyECPPU_3": "annotation of another class",
        "38ZxXyECPPU_4": "impossible segment",
        "38ZxXyECPPU_6": "no such annotation",
        "38ZxXyECPPU_7": "no such annotation",
    }
    assert found.unlisted == ("v_other.mp4",)
    assert f"{path}: not used are the keys duration, version" in found.remarks


def test_activitynet_as_clips(tmp_path, few):
    touch(tmp_path, "v_38ZxXyECPPU_0.mp4", "38ZxXyECPPU_1.mkv", "v_38ZxXyECPPU.mp4")
    found = find_benchmark(tmp_path, "activitynet")
    assert {c.listed: (c.part, c.file.segment, c.group) for c in found.clips} == {
        "38ZxXyECPPU_0": ("stage_1_train", None, "38ZxXyECPPU"),
        "38ZxXyECPPU_1": ("val_seen", None, "38ZxXyECPPU"),
    }
    reasons = Counter(reject.reason for reject in found.rejects)
    assert reasons == {"no such file": len(few["activitynet"]) - 7, "no stretch known": 5}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("benchmark", "names", "options", "told"),
    [
        ("ucf", ["a.mp4"], {}, r"none of the \d+ clips of ucf is there, such as v_A"),
        ("ucf", ["a.mp4"], {"labels": [Path("x.csv")]}, "class and part of every clip; leave --la"),
        ("ucf", ["a.mp4"], {"trimmed": True}, "--trimmed is of VGGSound's files"),
        ("vggsound", ["a.mp4"], {"labels": [Path("x.csv")]}, "laid out as vggsound, found own"),
        (
            "activitynet",
            ["v_38ZxXyECPPU.mp4"],
            {},
            r"whole videos, such as v_38Zx.*--labels activity",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path, benchmark, names, options, told):
    touch(tmp_path, *names)
    with pytest.raises(TCAFError, match=told):
        find_benchmark(tmp_path, benchmark, **options)


def test_no_folder(tmp_path):
    with pytest.raises(TCAFError, match="expected a folder with media files"):
        find_benchmark(tmp_path / "gone", "ucf")


@shared
def test_the_authors_vectors():
    path = SHARED / "benchmarks" / "UCF" / "word_embeddings_ucf_normed.npy"
    found = read_vectors("ucf", path)
    assert set(found) == {"word2vec", "word2vec_release_order"}
    assert set(found["word2vec"]) == set(load_benchmark("ucf").words)
    assert np.linalg.norm(found["word2vec"]["Archery"]) == pytest.approx(1, abs=1e-4)


def test_vectors_of_words_are_averaged_and_of_length_1(tmp_path):
    words = sorted({w for name in load_benchmark("ucf").words.values() for w in name.split()})
    lines = [f"{word} {k % 7 + 1} {k % 3} 2" for k, word in enumerate(words)]
    (tmp_path / "w.txt").write_text("\n".join([f"{len(words)} 3", *lines]))
    vectors = {line.split()[0]: np.array(line.split()[1:], float) for line in lines}
    found = read_vectors("ucf", tmp_path / "w.txt")
    expected = vectors["Baby"] + vectors["Crawling"]
    assert np.allclose(found["word2vec"]["BabyCrawling"], expected / np.linalg.norm(expected))
    assert read_vectors("ucf", None) == {}
    with pytest.raises(TCAFError, match=r"gone\.npy"):
        read_vectors("ucf", tmp_path / "gone.npy")
