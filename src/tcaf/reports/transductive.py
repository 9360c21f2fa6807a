"""Scores of test clips that are answered together, which is transductive: `together.md`.

Owns their table, which stands beside no other: each answer depends on which other clips are there.
What is evaluated are the runs of a table; those of systems that cannot answer so are named.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tcaf.data.store import FeatureStore
from tcaf.evaluation.scores import SCORES
from tcaf.evaluation.statistics import mean_and_std
from tcaf.experiments.reproduce import RowResult
from tcaf.files.atomic import make_parents, write_text
from tcaf.reports.results import markdown_line, origin_sentences, percent, summarise
from tcaf.training.evaluate import evaluate_run
from tcaf.training.run import Run

TOGETHER_FILE = "together.md"


def _can(run: Run) -> bool:
    """Returns whether validation chose a gamma for clips together."""
    return bool((run.result or {})["choice"].get("together"))


def together_markdown(
    rows: Sequence[RowResult], store: FeatureStore, command: Sequence[str]
) -> str:
    """Evaluates the runs of a table with all test clips together.

    Args:
        rows: of the table, with its runs.
        store: the clips.
        command: of the call.

    Returns:
        The whole of `together.md`.

    Raises:
        TCAFError: see `evaluate_run`.
    """
    head = ["Model", *SCORES.values(), "HM one by one", "clips", "gamma", "seeds"]
    lines = [markdown_line(head), "|---" + "|---" * (len(head) - 1) + "|"]
    alone = [row.row.title for row in rows if not any(map(_can, row.runs.values()))]
    for row in rows:
        runs = {seed: run for seed, run in row.runs.items() if _can(run)}
        if not runs:
            continue
        found = [evaluate_run(run.path, store, together=True) for run in runs.values()]
        scores = [each.result.scores() for each in found]
        means = {n: mean_and_std([float(each[n]) for each in scores]) for n in SCORES}
        gammas = dict.fromkeys(f"{each.result.gamma:g}" for each in found)
        by_itself = mean_and_std(row.values("harmonic_mean"))
        cells = [row.row.title, *(percent(*means[name]) for name in SCORES), percent(*by_itself)]
        cells += [f"{found[0].clips:,}", " ".join(gammas), " ".join(map(str, runs))]
        lines.append(markdown_line(cells))
    blocks = [
        ["# Test clips answered together (transductive)"],
        [f"    {shlex.join(command)}"],
        [
            "Scores in percent, mean ± standard deviation over seeds. Each clip is answered in the "
            "light of all others, with the gamma that validation chose for that: nothing on this "
            "page stands beside numbers of clips that are answered one by one."
        ],
        lines if len(alone) < len(rows) else [],
        [f"Without a way to answer so: {', '.join(alone)}."] if alone else [],
        origin_sentences(rows, summarise(rows, "")),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def write_together(
    out: Path, rows: Sequence[RowResult], store: FeatureStore, command: Sequence[str]
) -> Path:
    """Writes `together.md` into a folder of results and returns where it is; see above."""
    file = out / TOGETHER_FILE
    make_parents(file)
    write_text(file, together_markdown(rows, store, command))
    return file
