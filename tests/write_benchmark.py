"""Small rendered files under the names of the paper's benchmarks."""

import csv
from pathlib import Path

from tcaf.data.splits import PARTS
from tcaf.sources.benchmark_videos import load_clips
from write_clip_run import write_clip

CSV = {
    "stage_1_train": "stage_1_train.csv",
    "val_seen": "stage_1_val_seen.csv",
    "val_unseen": "stage_1_val_unseen.csv",
    "test_seen": "stage_2_test_seen.csv",
    "test_unseen": "stage_2_test_unseen.csv",
}
FOLDERS = {"ucf": "UCF", "vggsound": "VGGSound", "activitynet": "ActivityNet"}


def published(shared: Path, benchmark: str, part: str) -> list[tuple[str, str]]:
    """Returns name and class of the clips of a list as the authors published it."""
    path = shared / "benchmarks" / FOLDERS[benchmark] / "cls_split" / CSV[part]
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["filename"], row["label"]) for row in csv.DictReader(file)]


def some_of(benchmark, count=1, counts=None):
    """Returns the first clips of each class in each part.

    Args:
        benchmark: which.
        count: of clips.
        counts: of the parts that have another.
    """
    taken = {}
    chosen = []
    for clip in load_clips(benchmark):
        key = clip.class_name, clip.part
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= {**dict.fromkeys(PARTS, count), **(counts or {})}[clip.part]:
            chosen.append(clip)
    return chosen


def render(path, class_name, number, seconds=1):
    """Writes a clip whose colour and pitch are those of its class, with a little of its own."""
    code = sum(map(ord, class_name))
    colour = (40 + code % 200, 40 + 7 * code % 200, 40 + 13 * code % 200)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_clip(path, seconds=seconds, pitch=200 + code % 900 + number, colour=colour)


def write_ucf(folder, clips):
    """Writes clips as UCF-101 is unpacked, and one of a class that is in no list."""
    for number, clip in enumerate(clips):
        render(folder / clip.class_name / f"{clip.name}.avi", clip.class_name, number)
    render(folder / "Billiards" / "v_Billiards_g01_c01.avi", "Billiards", 0)
    return folder
