"""`tcaf train`, `settings`, `evaluate` and `import-checkpoint`: runs and their scores."""

from pathlib import Path
from typing import Any, Literal

from tcaf.commands import printing
from tcaf.commands.options import nested, typed_options
from tcaf.commands.terminal import note, show, track
from tcaf.errors import TCAFError
from tcaf.execution import ranks
from tcaf.settings.sections import AttentionPattern, Device


def train(
    *,
    store: Path,
    out: Path,
    system: str | None = None,
    config: list[str] | None = None,
    seed: int | None = None,
    options: dict[str, str] | None = None,
    auxiliary: Path | None = None,
    start: Literal["imagenet"] | None = None,
    plugin: Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    json: bool = False,
    settings: Any,
) -> None:
    """Trains a system by the two-stage protocol and tests it once.

    Stage 1 picks the epoch and gamma by validation; stage 2 retrains on training and validation
    clips for as many epochs; then the test clips are looked at. A run that was interrupted, in
    whatever way, is carried on by the same command with --resume and ends with the same weights.
    `torchrun --nproc-per-node 4 -m tcaf train ...` trains with four processes, on a GPU each where
    there are; batches are those of one process (docs/ranks-and-devices.md).

    Settings come in layers, the later ones winning: defaults (the paper's for UCF), the preset of
    the data in the store, that of the system, that of the system on this data, --config files in
    order, options typed. `tcaf settings` shows the result. Text spaces beside the section text
    (`[text_spaces.clip]`) come from --config files alone.

    Args:
        store: folder of a feature store, from `tcaf prepare`.
        out: folder of the run.
        system: what to train: tcaf, attention_fusion, perceiver, cjme, avgzslnet, avca, clipclap,
            ridge, tcaf_cosine, textlda, aligned or your own; by default textlda for videos, else
            tcaf.
        config: presets or TOML files in order: PRESETS.
        seed: all randomness follows from it; 0 by default.
        options: settings of the system alone, as in `--options.dropout 0.2`.
        auxiliary: further labelled videos: a store, or a CSV of id and labels of clips of `store`
            that are in no part; the setting data.auxiliary.
        start: a ready model whose classes are learnt from too; the setting data.start.
        plugin: a Python file that registers a system of your own (docs/your-own-model.md).
        resume: carry on with the run in `out`.
        tensorboard: also write curves for TensorBoard into `out` (extra `track`).
        json: print the result as JSON.
        settings: typed ones.
    """
    from tcaf.commands.terminal import TerminalObserver, console
    from tcaf.data.store import FeatureStore
    from tcaf.experiments.layers import experiment_layers, resolve
    from tcaf.plugins import load_plugin
    from tcaf.systems.registry import find_system
    from tcaf.training.observers import Observer, Observers, TensorBoardObserver
    from tcaf.training.run import Run
    from tcaf.training.run import train as run_training

    if plugin is not None:
        load_plugin(plugin)
    opened = FeatureStore.open(store)
    with ranks.first_ahead():
        opened.verify_once(track)
    typed = typed_options(settings, options, seed)
    if auxiliary is not None:
        typed["data"] = {**typed.get("data", {}), "auxiliary": str(auxiliary)}
    if start is not None:
        typed["data"] = {**typed.get("data", {}), "start": start}
    layers = experiment_layers(opened, config=config or (), system=system, options=typed)
    experiment = resolve(layers)
    names = dict.fromkeys(layer.name for layer in layers if layer.settings)
    heading = f"settings: {', '.join(names)}"
    chosen, epochs = find_system(experiment.system), experiment.training.epochs
    tried = chosen.stage_1_epochs(experiment)
    if not chosen.training_free and tried < epochs:
        heading += f"; {tried} choices to try, in place of {epochs} epochs (training.epochs)"
    with TerminalObserver(console(), heading) as terminal:
        observer: Observer = terminal
        if tensorboard and not ranks.current().index:
            observer = Observers(terminal, TensorBoardObserver(out / "tensorboard"))
        result = run_training(experiment, opened, out, resume=resume, observer=observer)
    if ranks.current().index:
        return
    if further := Run(out).provenance.get("auxiliary"):
        note(printing.auxiliary_note(further))
    if known := Run(out).provenance.get("start"):
        note(printing.start_note(known))
    if result["choice"]["validation"]["gamma_on_edge"]:
        printing.warn_on_edge(result["choice"]["gamma"], "validation", "--evaluation.gamma_max")
    show(result, lambda value: printing.print_result(value, out, store), json)


def show_settings(
    *,
    store: Path | None = None,
    system: str | None = None,
    config: list[str] | None = None,
    seed: int | None = None,
    options: dict[str, str] | None = None,
    plugin: Path | None = None,
    all: bool = False,
    json: bool = False,
    settings: Any,
) -> None:
    """Shows the settings that `tcaf train` would take, as a TOML file, and where each comes from.

    Lists what any layer says, and not the defaults. The output is a file for --config.

    Args:
        store: folder of a feature store, whose data may have a preset.
        system: what to train: tcaf, attention_fusion, perceiver, cjme, avgzslnet, avca, clipclap,
            ridge, tcaf_cosine, textlda, aligned or your own; by default textlda for videos, else
            tcaf.
        config: presets or TOML files in order: PRESETS.
        seed: all randomness follows from it; 0 by default.
        options: settings of the system alone, as in `--options.dropout 0.2`.
        plugin: a Python file that registers a system of your own (docs/your-own-model.md).
        all: also list settings that have their defaults, of those that the system reads.
        json: print these as JSON.
        settings: typed ones.
    """
    from tcaf.data.store import FeatureStore
    from tcaf.experiments.layers import experiment_layers, origins, resolve
    from tcaf.plugins import load_plugin
    from tcaf.systems.reads import only, read_settings

    if plugin is not None:
        load_plugin(plugin)
    layers = experiment_layers(
        None if store is None else FeatureStore.open(store),
        config=config or (),
        system=system,
        options=typed_options(settings, options, seed),
    )
    experiment = resolve(layers)
    value, found = read_settings(experiment), origins(layers)
    if not (all or json):
        value = only(value, found)
    show(value, lambda shown: printing.print_settings(shown, found), json)


def evaluate(
    run: Path,
    *,
    store: Path,
    part: Literal["test", "val"] = "test",
    gamma: float | None = None,
    search_gamma: bool = False,
    abstain: float | None = None,
    together: bool = False,
    per_class: bool = False,
    plugin: Path | None = None,
    device: Device = "auto",
    json: bool = False,
) -> None:
    """Evaluates a trained model on clips of a store.

    The part `test` takes the final weights, `val` those of stage 1's best epoch, which has not
    seen these clips. Gamma is the one chosen on validation unless another is given. What cannot be
    computed, such as U without clips of unseen classes, is shown as "-" and null in JSON.

    Args:
        run: folder of a run, or a model file.
        store: folder of a feature store with the same features.
        part: which clips.
        gamma: what to add to the distance of seen classes.
        search_gamma: take the gamma with the best harmonic mean on these very clips; on test clips
            that is an upper bound, not a result.
        abstain: also make sets of answers that may leave out the true class of this share of the
            clips, such as 0.05, and count how often they do.
        together: answer all clips together, each in the light of the others (textlda). Such scores
            are transductive: they stand in no table beside others.
        per_class: also list the accuracy of each class.
        plugin: the Python file that registers the run's system, if that is one of your own.
        device: where to compute; `auto` takes a GPU where there is one.
        json: print the result as JSON.
    """
    from tcaf.data.store import FeatureStore
    from tcaf.plugins import load_plugin
    from tcaf.training.evaluate import evaluate_run

    if gamma is not None and search_gamma:
        raise TCAFError("--gamma and --search_gamma exclude each other; give one of them")
    if plugin is not None:
        load_plugin(plugin)
    opened = FeatureStore.open(store)
    opened.verify_once(track)
    found = evaluate_run(
        run,
        opened,
        part=part,
        gamma=gamma,
        search_gamma=search_gamma,
        abstain=abstain,
        together=together,
        device=device,
    )
    if found.result.gamma_on_edge:
        printing.warn_on_edge(found.result.gamma, part, "--gamma")
    value = found.to_json() | ({"per_class": found.per_class()} if per_class else {})
    show(value, printing.print_evaluation, json)


def import_checkpoint(
    checkpoint: Path,
    *,
    store: Path,
    out: Path,
    num_heads: int = 8,
    attention: AttentionPattern = "cross",
    gamma: float | None = None,
    split: str = "cls",
    class_vectors: Literal["by_name", "release_order"] = "release_order",
    json: bool = False,
    settings: Any,
) -> None:
    """Turns weights of the authors' release into a model that `tcaf evaluate` reads.

    The file is read without executing anything in it. The model behaves as the release at
    evaluation: shared layer norms, visual features normalised over time, token index for time.
    Class text is word2vec as kept in the store, unless --text.source or --text.name says otherwise.

    Args:
        checkpoint: a `.pt` file with the release's state dict.
        store: folder of a feature store with the features that it was trained on.
        out: folder to make for the model.
        num_heads: attention heads, which no weight's shape tells; 8 in the paper.
        attention: the pattern that it was trained with.
        gamma: of calibrated stacking, if known.
        split: class partition in the store.
        class_vectors: `release_order` gives classes the vectors that the release gave them.
        json: print the result as JSON.
        settings: typed ones.
    """
    from tcaf.data.store import FeatureStore
    from tcaf.settings.sections import TextSettings
    from tcaf.training.release import import_release

    given = nested(settings).get("text", {})
    kept = {"name": "word2vec"} if given.get("source", "stored") == "stored" else {}
    text = TextSettings(**{**kept, **given})
    made = import_release(
        checkpoint,
        FeatureStore.open(store),
        out,
        num_heads=num_heads,
        attention=attention,
        gamma=gamma,
        split=split,
        text=text,
        class_vectors=class_vectors,
    )
    weights = sum(parameter.numel() for parameter in made.model.parameters())
    value = {"path": str(out / "model.safetensors"), "weights": weights, "store": str(store)}
    show(value, lambda found: printing.print_imported(found, out), json)
