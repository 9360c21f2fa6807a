"""Makes the lists of clips that come with the package, of those that the authors published.

    python benchmarks/published_lists.py FOLDER

FOLDER holds UCF, VGGSound and ActivityNet as the releases of AVCA and TCaF have them, each with
`cls_split/stage_1_train.csv` and the like. Writes `src/tcaf/benchmarks/NAME_clips.csv.xz`, a row
for each class and part with the names of its clips, and says how many there are.
"""

import csv
import io
import lzma
import sys
from pathlib import Path

from tcaf.data.splits import BENCHMARKS, PARTS

FOLDERS = {"ucf": "UCF", "vggsound": "VGGSound", "activitynet": "ActivityNet"}
FILES = {
    "stage_1_train": "stage_1_train.csv",
    "val_seen": "stage_1_val_seen.csv",
    "val_unseen": "stage_1_val_unseen.csv",
    "test_seen": "stage_2_test_seen.csv",
    "test_unseen": "stage_2_test_unseen.csv",
}


def listed(folder: Path) -> dict[tuple[str, str], list[str]]:
    """Returns the clips by class and part; a list that was not published has none."""
    found: dict[tuple[str, str], list[str]] = {}
    for part in PARTS:
        path = folder / "cls_split" / FILES[part]
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    found.setdefault((row["label"], part), []).append(row["filename"])
    return {key: sorted(clips) for key, clips in sorted(found.items())}


def main() -> None:
    """Writes the lists of all benchmarks."""
    for name in BENCHMARKS:
        found = listed(Path(sys.argv[1]) / FOLDERS[name])
        text = io.StringIO()
        rows = [(label, part, " ".join(clips)) for (label, part), clips in found.items()]
        csv.writer(text, lineterminator="\n").writerows([("class", "part", "clips"), *rows])
        path = Path(__file__).parents[1] / "src" / "tcaf" / "benchmarks" / f"{name}_clips.csv.xz"
        path.write_bytes(lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME))
        counts = {p: sum(len(c) for (_, q), c in found.items() if p == q) for p in PARTS}
        print(name, path.stat().st_size, "bytes", counts)


if __name__ == "__main__":
    main()
