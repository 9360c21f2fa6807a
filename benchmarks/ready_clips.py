"""How often a ready model names real clips right, and how sure it is.

    python -m benchmarks.ready_clips MODEL FOLDER

reads `FOLDER/labels.csv` (columns file and class) and asks for each clip among the classes of that
table, then among the names of VGGSound's classes as well. It prints top 1 and top 5, the mean
probability of the first answer, and each clip's answers.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from benchmarks.ready_imagenet import benchmark_names

from tcaf.answers.clips import Answered, answer_files
from tcaf.answers.mixture import open_classifier


def main(model: str, folder: Path) -> None:
    """Prints the answers."""
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        labels = {folder / row["file"]: row["class"] for row in csv.DictReader(file)}
    classifier = open_classifier(model)
    own = sorted(set(labels.values()))
    for title, names in (
        ("the table's names", own),
        ("VGGSound's names", sorted({*own, *benchmark_names("vggsound.csv")})),
    ):
        classifier.set_classes(names)
        ranks, chances, lines = [], [], []
        for one in answer_files(classifier, list(labels), len(names), 0.0):
            if not isinstance(one, Answered):
                lines.append(f"  {one.id}: {one.reason}")
                continue
            right = labels[Path(one.id)]
            answers = one.ranking.answers
            ranks.append(next(n for n, a in enumerate(answers, 1) if a.name == right))
            chances.append(answers[0].probability)
            told = ", ".join(f"{a.name} {a.probability:.2f}" for a in answers[:3])
            lines.append(f"  {right:24} {ranks[-1]:3}   {told}")
        rank = np.array(ranks)
        print(
            f"{model}, {len(rank)} clips among {len(names)} of {title}: top 1 "
            f"{(rank == 1).sum()}, top 5 {(rank <= 5).sum()}; mean probability of the first "
            f"answer {np.mean(chances):.2f}"
        )
        print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
