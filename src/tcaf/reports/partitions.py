"""Scores over random partitions of the classes: `partitions.md` and `partitions.csv`.

Owns their columns and wording. Fifteen unseen classes are few, and which fifteen they are moves
scores by more than most systems differ; so each row is the mean over partitions, and its deviation
is theirs. Seeds, where there are several, are averaged within a partition first.
"""

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tcaf.data.random_partitions import partition_name
from tcaf.data.store import FeatureStore
from tcaf.evaluation.scores import SCORES
from tcaf.evaluation.statistics import mean_and_std
from tcaf.experiments.reproduce import RowResult
from tcaf.files.atomic import make_parents, write_text
from tcaf.reports.results import (
    AREA,
    Scores,
    markdown_line,
    origin_sentences,
    percent,
    summarise,
)

ByPartition = Mapping[int, Sequence[Scores]]
"""The rows of each partition, over seeds."""


def over_partitions(found: ByPartition) -> list[Scores]:
    """Returns each row's mean over partitions, best first, with the deviation between partitions.

    Its `seeds` are those that all partitions with runs have; why others failed stands with each
    partition.

    Args:
        found: rows by partition.
    """
    first = next(iter(found.values()))
    rows = []
    for place, row in enumerate(first):
        own = {number: scores[place] for number, scores in found.items()}
        done = [each for each in own.values() if each.means]
        names = (*SCORES, AREA) if done else ()
        spreads = {n: mean_and_std([each.means[n] for each in done]) for n in names}
        rows.append(
            replace(
                row,
                means={n: mean for n, (mean, _) in spreads.items()},
                stds={n: std for n, (_, std) in spreads.items()},
                gammas=tuple(gamma for each in done for gamma in each.gammas),
                on_edge=any(each.on_edge for each in done),
                epochs=tuple(epoch for each in done for epoch in each.epochs),
                seconds=tuple(second for each in done for second in each.seconds),
                peak_mib=max((each.peak_mib for each in done), default=math.nan),
                seeds=tuple(sorted(set.intersection(*(set(each.seeds) for each in done))))
                if done
                else (),
                errors={},
                paper=None,
            )
        )
    return sorted(rows, key=lambda row: -row.means.get("harmonic_mean", -1.0))


def partitions_csv(found: ByPartition) -> str:
    """Returns a line for each row and partition as CSV: scores as fractions, means over seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = (*SCORES, AREA)
    writer.writerow(["model", "partition", *names, "epochs", "gammas", "seeds", "error"])
    for number, scores in found.items():
        for row in scores:
            values = [row.means.get(name, math.nan) for name in names]
            writer.writerow(
                [
                    *(row.model, number),
                    *("" if math.isnan(value) else f"{value:.6f}" for value in values),
                    " ".join(map(str, row.epochs)),
                    " ".join(f"{gamma:g}" for gamma in row.gammas),
                    " ".join(map(str, row.seeds)),
                    "; ".join(f"seed {seed}: {text}" for seed, text in row.errors.items()),
                ]
            )
    return out.getvalue()


def _rows(rows: Sequence[Scores], found: ByPartition) -> list[str]:
    head = ["Model", *SCORES.values(), "curve area", "lowest HM", "highest HM", "seeds"]
    lines = [markdown_line([*head, "time a run"]), "|---" * (len(head) + 1) + "|"]
    for row in rows:
        own = _means(found, row.model).values()
        if not own:
            lines.append(markdown_line([row.title, *["failed"] * len(SCORES), "", "", "", "", ""]))
            continue
        cells = [percent(row.means[name], row.stds[name]) for name in SCORES]
        cells += [f"{row.means[AREA]:.3f}", percent(min(own)), percent(max(own))]
        seconds = f"{sum(row.seconds) / len(row.seconds):.0f} s" if row.seconds else ""
        cells += [" ".join(map(str, row.seeds)), seconds]
        lines.append(markdown_line([row.title, *cells]))
    return lines


def _means(found: ByPartition, model: str) -> dict[int, float]:
    """Returns the HM of a row on each partition where a run of it is done."""
    return {
        number: row.means["harmonic_mean"]
        for number, scores in found.items()
        for row in scores
        if row.model == model and row.means
    }


def _differences(rows: Sequence[Scores], found: ByPartition) -> list[str]:
    """Returns how far the best row is ahead of each other, partition by partition."""
    done = [row for row in rows if row.means]
    lines = []
    for other in done[1:]:
        best = done[0]
        first, second = (_means(found, row.model) for row in (best, other))
        apart = [first[number] - second[number] for number in first if number in second]
        if not apart:
            continue
        mean, std = mean_and_std(apart)
        ahead = sum(value > 0 for value in apart)
        lines.append(
            f"- {best.title} less {other.title}, HM on the same partition: "
            f"{percent(mean, std)}, ahead on {ahead} of {len(apart)}."
        )
    return lines


def _classes(store: FeatureStore, split: str, numbers: Sequence[int]) -> list[str]:
    lines = ["Held out, by the number of the partition, from which all of it follows:", ""]
    for number in numbers:
        own = store.split(partition_name(split, number))
        lines.append(f"{number}. {', '.join(own.test_unseen)}")
    return lines


def partitions_markdown(
    store: FeatureStore,
    split: str,
    rows: Mapping[int, Sequence[RowResult]],
    found: ByPartition,
    scores: Sequence[Scores],
    command: Sequence[str],
) -> str:
    """Returns the whole of `partitions.md`."""
    one = store.split(partition_name(split, next(iter(found))))
    sizes = [len(own) for own in (one.train, one.val_unseen, one.test_unseen)]
    failures = [
        f"- {row.title}, partition {number}, seed {seed}: {text}"
        for number, of_partition in found.items()
        for row in of_partition
        for seed, text in row.errors.items()
    ]
    blocks = [
        ["# Random partitions of the classes"],
        [f"    {shlex.join(command)}"],
        [
            f"{len(found)} random partitions of the {sum(sizes)} classes of training and "
            f"validation of the split {split}: {sizes[2]} held out as unseen ones of the test; of "
            f"the other {sizes[0] + sizes[1]}, {sizes[1]} are unseen in validation, which chooses "
            "epoch and gamma. Neither test clips nor test classes of the split have a part in it.",
        ],
        [
            "Scores in percent: mean ± standard deviation over partitions; where there are several "
            "seeds, each partition is their mean."
        ],
        _rows(scores, found),
        _differences(scores, found),
        ["Failed:", "", *failures] if failures else [],
        _classes(store, split, list(found)),
        origin_sentences([row for of_partition in rows.values() for row in of_partition], scores),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def write_partitions(
    out: Path,
    store: FeatureStore,
    split: str,
    rows: Mapping[int, Sequence[RowResult]],
    command: Sequence[str],
) -> list[Scores]:
    """Writes `partitions.md` and `partitions.csv` of one call, and returns the rows' means.

    Args:
        out: the folder.
        store: the clips.
        split: whose classes were partitioned.
        rows: what became of the runs, by partition.
        command: of this call.

    Raises:
        TCAFError: the folder cannot be made.
    """
    found = {number: summarise(of_partition, "") for number, of_partition in rows.items()}
    scores = over_partitions(found)
    make_parents(out / "partitions.md")
    write_text(out / "partitions.csv", partitions_csv(found))
    text = partitions_markdown(store, split, rows, found, scores, command)
    write_text(out / "partitions.md", text)
    return scores
