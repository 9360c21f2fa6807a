"""`tcaf reproduce` and `tcaf report`: the paper's tables, and pages about runs."""

import sys
from pathlib import Path
from typing import Any, Literal

from tcaf.commands import printing
from tcaf.commands.options import typed_options
from tcaf.commands.terminal import note, show, track
from tcaf.errors import TCAFError


def reproduce(
    *,
    table: Literal[1, 2, 3, 4],
    store: Path,
    seeds: list[int] = [0, 1, 2],  # noqa: B006 - read only
    models: list[str] | None = None,
    partitions: int = 0,
    together: bool = False,
    config: list[str] | None = None,
    options: dict[str, str] | None = None,
    jobs: int | None = None,
    cluster: str = "",
    out: Path | None = None,
    runs: Path | None = None,
    plugin: Path | None = None,
    json: bool = False,
    settings: Any,
) -> None:
    """Reproduces a table of the paper on the clips of a store, over several seeds.

    Table 1 compares all systems, 2 the terms of the objective, 3 attention patterns with and
    without class token, 4 one modality or both. Every row is trained by the same two-stage protocol
    with the settings that its presets have for the data; settings typed go to all rows that read
    them. What is done already with the same configuration and data is not run again, an interrupted
    run is taken up, and a row that fails is kept with its reason. Writes table.md, table.csv and
    per_class.csv. Rows and seeds that earlier calls have left in the same folder stay in them, as
    long as their runs are there and a row's configuration is the same; what does not stay is named.

    With --partitions no test clip is looked at: the rows run on random partitions of the classes
    of training and validation, and partitions.md and partitions.csv, of this call alone, have their
    means. Few unseen classes make scores that hang on which they are.

    Args:
        table: number of the table in the paper.
        store: folder of a feature store.
        seeds: of the runs of each row.
        models: rows wanted, by name, such as tcaf or avca; by default all that can be run on the
            data, of sound alone without those that need a picture.
        partitions: how many random partitions to run on in place of the store's own split.
        together: also answer the test clips of each run together (textlda), which is transductive:
            together.md, a table of its own about the runs of this call.
        config: presets or TOML files, in order, over those that data and systems have.
        options: settings that single systems have, for the rows that have them, as in
            `--options.num_latents 32`.
        jobs: runs at a time, each with its share of the cores; by default one, on a cluster one for
            each machine.
        cluster: train on the machines of a cluster of Ray (extra cluster): `local` for one of this
            machine alone, `auto` for the one that runs here, or its HOST:PORT. The store and `out`
            have to lie where all of them see them.
        out: folder for the results; by default results/table_N.
        runs: folder for the runs, which several tables may share; by default runs in `out`.
        plugin: a Python file that registers a system of your own (docs/your-own-model.md).
        json: print the result as JSON.
        settings: typed ones.
    """
    from tcaf.commands.terminal import JobsObserver, console
    from tcaf.data.random_partitions import base_split
    from tcaf.data.store import FeatureStore
    from tcaf.execution.cluster import check_cluster, joined
    from tcaf.experiments.layers import dataset_of
    from tcaf.experiments.reproduce import collect, collect_by_partition, left_out, plan, run_jobs
    from tcaf.experiments.tables import paper_table
    from tcaf.files.atomic import check_folder, only_writer
    from tcaf.plugins import load_plugin
    from tcaf.reports.partitions import write_partitions
    from tcaf.reports.results import TABLE_FILES, check_results_place, write_results
    from tcaf.reports.transductive import TOGETHER_FILE, write_together

    if together and partitions:
        raise TCAFError(
            "--together is about the split's test clips, and --partitions looks at none of them"
        )
    check_cluster(cluster)
    if plugin is not None:
        load_plugin(plugin)
    opened = FeatureStore.open(store)
    opened.verify_once(track)
    found = paper_table(table)
    out = out or Path("results") / f"table_{table}"
    runs = runs or out / "runs"
    check_results_place(out)
    check_folder(runs)
    planned = plan(
        found,
        opened,
        config=config or [],
        seeds=seeds,
        runs=runs,
        models=models or [],
        options=typed_options(settings, options),
        partitions=partitions,
    )
    splits = {job.experiment.data.split for job in planned}
    # Beside rows of two splits the paper's numbers would be those of one.
    dataset = f"{dataset_of(opened)}_{splits.pop()}" if len(splits) == 1 else ""
    command = ["tcaf", *sys.argv[1:]]
    with only_writer(out):
        with joined(cluster) as place, JobsObserver(console(), planned) as observer:
            how: dict[str, Any] = {"num_jobs": jobs, "plugin": plugin, "place": place}
            outcomes = run_jobs(planned, store, observer, **how)
        if partitions:
            split = base_split(planned[0].experiment.data.split)[0]
            by_partition = collect_by_partition(outcomes)
            scores = write_partitions(out, opened, split, by_partition, command)
        else:
            scores = write_results(out, found, collect(outcomes), dataset, command)
        if together:
            write_together(out, collect(outcomes), opened, command)
    files = ["partitions.md", "partitions.csv"] if partitions else [*TABLE_FILES]
    files += [TOGETHER_FILE] * together
    show(
        [row.to_json() for row in scores],
        lambda value: printing.print_table(value, out, files),
        json,
    )
    for name, why in left_out(found, opened, planned, models or []).items():
        note(f"left out: {name}, since {why}")
    if failed := sum(outcome.error is not None for outcome in outcomes):
        raise TCAFError(f"{failed} of {len(outcomes)} runs failed; {out / files[0]} says why")


def report(
    runs: list[Path],
    *,
    out: Path = Path("report.html"),
    store: Path | None = None,
    classes: list[str] | None = None,
    clip: str = "",
    plugin: Path | None = None,
) -> None:
    """Writes one HTML file about runs: tables, pictures, configuration, provenance.

    Runs that differ in their seed alone are one row. The first configuration is shown in detail
    (classes, confusion, training, embeddings, attention) and compared with all others. The file
    needs no network and nothing beside it.

    Args:
        runs: run directories, or folders of runs such as those of `tcaf reproduce`.
        out: the file to write; it replaces an earlier one.
        store: folder of the feature store, if it is not where the runs found it.
        classes: shown in the embedding map; by default the five seen and two unseen ones with most
            clips.
        clip: id of the test clip whose attention is shown; by default one rightly named.
        plugin: the Python file that registers a system of your own, if a run is of one.
    """
    from tcaf.files.atomic import check_file, followed, make_parents, write_text
    from tcaf.plugins import load_plugin
    from tcaf.reports.page import render_page
    from tcaf.reports.report import build_report

    if plugin is not None:
        load_plugin(plugin)
    check_file(out, "<!doctype html", "HTML page")
    page = build_report(runs, store=store, classes=classes or [], clip=clip)
    make_parents(out)
    write_text(followed(out), render_page(page))
    for each in page.notes:
        note(each)
    printing.print_line(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, open it in a browser")
