"""The command line: what it prints, how it exits, and that a mistake leaves nothing behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from tcaf.commands import about, options
from tcaf.commands import entry as cli
from tcaf.commands.catalogue import COMMANDS, GROUPS
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.experiments.presets import preset_names
from tcaf.systems.registry import SYSTEMS
from two_spaces import SYSTEM as TWO_SPACES


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_store, tiny_experiment, toml):
    """A folder with a store, a configuration and a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    shutil.copytree(tiny_store.path, folder / "store")
    training = {"epochs": 3, "batches_per_epoch": 5, "learning_rate": 3e-3}
    toml(folder / "tiny.toml", tiny_experiment(training=training))
    arguments = ["--config", folder / "tiny.toml", "--store", folder / "store"]
    status = cli.main([str(a) for a in ("train", *arguments, "--out", folder / "run")])
    assert status == 0
    return folder


@pytest.fixture
def tcaf(capsys, monkeypatch):
    """Runs a command; returns its exit status, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


def complaint(result):
    """Returns the one line of a command that failed."""
    status, output, error = result
    assert (status, output) == (2, "")
    assert error.startswith("tcaf: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("command", [(), *((word,) for word in GROUPS), *COMMANDS])
def test_help_explains_every_option(tcaf, command):
    status, output, _ = tcaf(*command, "--help-all")
    assert status == 0
    assert output.startswith(f"Usage: {' '.join(('tcaf', *command))}")
    assert "<class" not in output
    assert "typing" not in output
    assert "default: (" not in output
    # Every option is followed by its explanation, on its own line or the next.
    bare = re.findall(r"│ [ *]+ (--[\w.]+)(?: --no-[\w.-]+)? +│\n│ [ *]+ --", output)
    assert not bare


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_line_of_help_is_that_of_the_docstring(words):
    document = cli.load_command(words).__doc__
    assert " ".join(document.partition("\n\n")[0].split()) == COMMANDS[words].help


def test_help_fits_on_two_screens_and_can_show_all(tcaf, monkeypatch):
    _, short, _ = tcaf("train", "--help")
    _, long, _ = tcaf("train", "--help-all")
    assert short.count("\n") <= 80
    for name in ("--training.epochs", "--text.source", "[default: 50]", "[choices: both, audio"):
        assert name in short
    assert "--fidelity.layer_norm" not in short
    assert "--fidelity.layer_norm" in long
    assert "(at least 0 and below 1)" in long
    assert all(system in short for system in SYSTEMS)
    assert "yt8m" in short


SLOW = ("torch", "numpy", "pyarrow", "pandas", "transformers", "matplotlib")

COUNT = """
import sys
from tcaf.commands.entry import main
try:
    status = main(ARGUMENTS)
except SystemExit as stop:
    status = stop.code
print(status, sorted(set(SLOW) & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["train", "--epocs", "3"], 2),
        (["train", "--store", "a", "--out", "b", "--training.epochs", "x"], 2),
        (["trian"], 2),
        (["predict", "--help"], 0),
        (["evaluate", "run", "--stroe", "x"], 2),
        (["reproduce", "--help-all"], 0),
    ],
)
def test_nobody_waits_for_torch_to_read_a_help_text(arguments, status):
    code = COUNT.replace("ARGUMENTS", repr(arguments)).replace("SLOW", repr(SLOW))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == f"{status} []"


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_mistyped_option_of_any_command_waits_for_no_torch(words):
    arguments = [*words, "--nonsense", "3"]
    code = COUNT.replace("ARGUMENTS", repr(arguments)).replace("SLOW", "['torch', 'transformers']")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tcaf: unknown option '--nonsense'" in done.stderr
    assert done.stderr.splitlines()[-1] == "2 []"


@pytest.mark.parametrize(
    ("code", "most"),
    [
        ("import tcaf", 45),
        ("import tcaf.commands.entry as e; e.main(['--help'])", 400),
    ],
)
def test_what_starts_imports_little(code, most):
    """Modules are counted, since seconds depend on what else the machine does."""
    count = (
        f"import sys\nbefore = set(sys.modules)\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
    )
    count += "print(len(set(sys.modules) - before), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True)
    assert 0 < int(done.stderr.splitlines()[-1]) < most


@pytest.mark.slow
def test_an_answer_for_stored_clips_imports_no_more_than_it_needs(world):
    """torch takes most of the start; pandas would take half as long again."""
    slow = (*set(SLOW) - {"torch", "numpy", "pyarrow"}, "av", "scipy", "sklearn", "torchvision")
    arguments = ["predict", str(world / "run"), "--store", str(world / "store"), "test"]
    code = COUNT.replace("ARGUMENTS", repr(arguments)).replace("SLOW", repr(slow))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "0 []"


def test_options_take_hyphens_and_underscores(world):
    for name in ("--per_class", "--per-class"):
        _, bound = cli.parse(["evaluate", "run", "--store", "s", name])
        assert bound.arguments["per_class"] is True
    for name in ("--training.learning_rate", "--training.learning-rate"):
        _, bound = cli.parse(["train", "--store", "s", "--out", "o", name, "0.5"])
        assert options.nested(bound.arguments["settings"]) == {"training": {"learning_rate": 0.5}}


@pytest.mark.slow
def test_a_completion_script_names_commands_and_options(tmp_path, monkeypatch):
    script = cli.build_app(list(COMMANDS)).generate_completion(shell="bash")
    assert "import-checkpoint" in script
    assert "--training.epochs" in script


def test_inspect_shows_what_is_inside(tcaf, world):
    status, output, _ = tcaf("inspect", world / "store")
    assert status == 0
    for expected in ("240 clips", "12 classes", "stage_1_train", "attributes", "0.96 s", "0.64 s"):
        assert expected in output


def test_inspect_json_is_the_summary(tcaf, world):
    _, output, _ = tcaf("inspect", world / "store", "--json", "--verify")
    assert json.loads(output) == FeatureStore.open(world / "store").summary()


def test_inspect_verify_finds_a_flipped_bit(tcaf, tmp_path, world):
    shutil.copytree(world / "store", tmp_path / "s")
    shard = next((tmp_path / "s").glob("*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert "SHA-256" in complaint(tcaf("inspect", tmp_path / "s", "--verify"))


@pytest.mark.slow
def test_train_prints_a_line_an_epoch_and_the_result(tcaf, world, tmp_path):
    status, output, error = tcaf(
        *("train", "--config", world / "tiny.toml", "--store", world / "store"),
        *("--out", tmp_path / "run", "--training.epochs", "2"),
    )
    assert status == 0
    assert re.search(r"1/2  loss [\d.]+  ce [\d.]+  reg [\d.]+  rec [\d.]+  S +[\d.]+  U", error)
    assert "stage 2" in error
    assert "left" in error
    assert re.search(r"validation, epoch [12]", output)
    assert f"next: tcaf evaluate {tmp_path / 'run'}" in output.replace("\n", "")


@pytest.mark.slow
def test_train_json_is_the_result_file(tcaf, world, tmp_path):
    _, output, _ = tcaf(
        *("train", "--config", world / "tiny.toml", "--store", world / "store"),
        *("--out", tmp_path / "run", "--json"),
    )
    assert json.loads(output) == json.loads((tmp_path / "run" / "result.json").read_text())
    same = json.loads((world / "run" / "result.json").read_text())
    assert json.loads(output)["test"] == same["test"]


def test_evaluate_repeats_the_result(tcaf, world):
    kept = json.loads((world / "run" / "result.json").read_text())
    _, output, _ = tcaf("evaluate", world / "run", "--store", world / "store", "--json")
    test = json.loads(output)
    reliability = kept["test"].pop("reliability")
    assert {name: test[name] for name in kept["test"]} == pytest.approx(kept["test"])
    for name, expected in reliability.items():
        assert test["reliability"][name] == pytest.approx(expected), name
    _, output, _ = tcaf(
        "evaluate", world / "run", "--store", world / "store", "--part", "val", "--json"
    )
    validation, expected = json.loads(output), kept["choice"]["validation"]
    assert validation["harmonic_mean"] == pytest.approx(expected["harmonic_mean"])


def test_gamma_is_given_or_searched_not_both(tcaf, world):
    arguments = ("evaluate", world / "run", "--store", world / "store", "--gamma", "1")
    assert "exclude each other" in complaint(tcaf(*arguments, "--search_gamma"))


def test_what_does_not_fit_into_memory_gets_one_line(tcaf, world, tmp_path):
    arguments = ("train", "--config", world / "tiny.toml", "--store", world / "store")
    status, output, error = tcaf(
        *arguments, "--model.token_dim", "999999999", "--out", tmp_path / "run"
    )
    assert (status, output) == (2, "")
    assert "does not fit into memory" in error.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_clips_that_were_trained_on_are_no_validation(tcaf, world):
    final = world / "run" / "model.safetensors"
    error = complaint(tcaf("evaluate", final, "--store", world / "store", "--part", "val"))
    assert "was trained on the validation clips" in error


def test_evaluate_lists_classes(tcaf, world):
    _, output, _ = tcaf("evaluate", world / "run", "--store", world / "store", "--per_class")
    split = FeatureStore.open(world / "store").split("cls")
    assert all(name.split(",")[0] in output for name in split.test_unseen)
    assert "unseen" in output


def test_a_gamma_can_be_given_or_searched(tcaf, world):
    arguments = ("evaluate", world / "run", "--store", world / "store", "--json")
    huge = json.loads(tcaf(*arguments, "--gamma", "1000")[1])
    assert huge["seen"] == 0
    assert huge["unseen"] == pytest.approx(huge["zsl"])
    searched = json.loads(tcaf(*arguments, "--search_gamma")[1])
    assert searched["harmonic_mean"] >= json.loads(tcaf(*arguments)[1])["harmonic_mean"]


@pytest.mark.slow
def test_settings_can_be_fed_back(tcaf, world, tmp_path):
    arguments = ("settings", "--store", world / "store")
    status, output, _ = tcaf(*arguments, "--config", world / "tiny.toml")
    assert status == 0
    assert f"epochs = 3  # {world / 'tiny.toml'}" in output
    (tmp_path / "again.toml").write_text(output)
    status, again, _ = tcaf(*arguments, "--config", tmp_path / "again.toml")
    assert status == 0
    assert tomllib.loads(again) == tomllib.loads(output)
    _, everything, _ = tcaf(*arguments, "--all")
    assert "num_heads = 4  # synthetic" in everything
    assert "beta1 = 0.9  # default" in everything
    assert "# window_s = none  # default" in everything
    found = json.loads(tcaf(*arguments, "--json")[1])
    assert found["model"]["num_heads"] == 4
    assert found["training"]["window_s"] is None


def test_text_spaces_are_shown_as_sections(tcaf, tmp_path, monkeypatch):
    monkeypatch.setitem(SYSTEMS, "two_spaces", TWO_SPACES)
    file = tmp_path / "words.toml"
    written = {"source": "glove", "path": "words.txt"}
    file.write_text("[text_spaces.words]\nsource = 'glove'\npath = 'words.txt'\n")
    arguments = ("settings", "--system", "two_spaces", "--config", file)
    status, output, _ = tcaf(*arguments)
    assert status == 0
    assert f'[text_spaces.words]\nsource = "glove"  # {file}\n' in output
    assert tomllib.loads(output) == {"system": "two_spaces", "text_spaces": {"words": written}}
    everything = shown(tcaf, *arguments[1:])
    expected = {"name": "", "modality": "", "phrases": ["name"], "phrases_file": ""}
    expected |= {"prompts": "", "normalise": True}
    expected |= {"words": "", "words_temperature": 0.2}
    assert everything["text_spaces"] == {"words": {**written, **expected}}
    told = complaint(tcaf("settings", "--config", file))
    assert "system 'tcaf' does not read 'text_spaces.words.source'" in told


def test_any_command_takes_a_file(tcaf, tmp_path):
    (tmp_path / "world.toml").write_text('relations = ["together"]\nclips_per_class = 20\n')
    arguments = ("prepare", "synthetic", "--config", tmp_path / "world.toml")
    status, output, _ = tcaf(*arguments, "--out", tmp_path / "w", "--json")
    assert status == 0
    assert json.loads(output)["clips"] == 160
    # What is typed wins, wherever it stands.
    fewer = ("--clips_per_class", "21")
    _, output, _ = tcaf(*arguments[:2], *fewer, *arguments[2:], "--out", tmp_path / "v", "--json")
    assert json.loads(output)["clips"] == 168
    (tmp_path / "world.toml").write_text("relatons = 3\n")
    assert "unknown option 'relatons'" in complaint(tcaf(*arguments, "--out", tmp_path / "u"))


def shown(tcaf, *arguments):
    status, output, error = tcaf("settings", *arguments, "--all")
    assert (status, error) == (0, "")
    return tomllib.loads(output)


@pytest.mark.slow
def test_later_configurations_and_options_win(tcaf, tmp_path):
    (tmp_path / "a.toml").write_text("[training]\nepochs = 3\nbatch_size = 5\n")
    (tmp_path / "b.toml").write_text("[training]\nepochs = 4\n")
    both = ("--config", tmp_path / "a.toml", tmp_path / "b.toml")
    apart = ("--config", tmp_path / "a.toml", "--config", tmp_path / "b.toml")
    typed = ("--training.window_s", "9.6", "--training.epochs", "7")
    for files in (both, apart):
        for arguments in ((*files, *typed), (*typed, *files)):
            found = shown(tcaf, *arguments, "--config", "activitynet_cls", "official")
            assert found["training"]["window_s"] == 9.6
            assert found["evaluation"]["window_s"] == 192.0
            assert (found["training"]["epochs"], found["training"]["batch_size"]) == (7, 5)
            assert found["fidelity"]["class_vectors"] == "release_order"
            assert found["model"]["dropout_transformer"] == 0.4
        assert shown(tcaf, *files)["training"]["epochs"] == 4


def test_a_setting_that_may_be_none_can_be_typed(tcaf, tmp_path):
    (tmp_path / "a.toml").write_text("[training]\nwindow_s = 3.0\n")
    arguments = ("--config", tmp_path / "a.toml")
    assert shown(tcaf, *arguments)["training"]["window_s"] == 3.0
    found = shown(tcaf, *arguments, "--training.window_s", "none")
    assert "window_s" not in found["training"]


def test_lists_are_words_and_flags_are_flags(tcaf):
    arguments = ("--text.phrases", "name", "verticals", "--data.average", "--model.no-class_token")
    found = shown(tcaf, *arguments, "--model.attention", "self")
    assert found["text"]["phrases"] == ["name", "verticals"]
    assert found["data"]["average"] is True
    assert found["model"]["class_token"] is False


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_accepted(tcaf, preset):
    folder, _, system = preset.rpartition("/")
    config = (folder, preset) if folder else (preset,)
    found = shown(tcaf, "--config", *config)
    by_default = "textlda" if preset == "videos" else "tcaf"
    assert found["system"] == (system if system in SYSTEMS else by_default)


MISTAKES = {
    "unknown command": (["trian"], "did you mean 'train'?"),
    "unknown source": (["prepare", "syntetic"], "did you mean 'synthetic'?"),
    "unknown option": (["train", "--training.epoch", "3"], "did you mean '--training.epochs'?"),
    "no section": (["train", "--epochs", "3"], "did you mean '--training.epochs'?"),
    "not a number": (["train", "--training.epochs", "x"], "training.epochs: expected int, got 'x'"),
    "not a choice": (["train", "--model.attention", "crss"], "did you mean 'cross'?"),
    "not one of several": (["render", "--out", "x", "--relations", "lat"], "did you mean 'late'?"),
    "not one of those that may be absent": (
        ["prepare", "synthetic", "--out", "x", "--relations", "alik"],
        "did you mean 'alike'?",
    ),
    "nullable": (["train", "--training.window_s", "x"], "expected float | none, got 'x'"),
    "no value": (["train", "--training.epochs"], "--training.epochs needs a value"),
    "twice": (["train", "--seed", "1", "--seed", "2"], "--seed is given twice"),
    "left over": (["train", "nowhere"], "unexpected argument 'nowhere'"),
    "missing and misspelt": (["evaluate", "--per_clas"], "did you mean '--per_class'?"),
    "missing option": (["inspect"], "required: --store"),
    "missing out": (["prepare", "synthetic"], "required: --out"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistaken_command_line_gets_one_line(tcaf, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, expected = MISTAKES[name]
    if arguments[:1] == ["train"]:
        arguments = ["train", "--store", "nowhere", "--out", "run", *arguments[1:]]
    assert expected in complaint(tcaf(*arguments))
    assert not list(tmp_path.iterdir())


def test_without_a_command_there_is_help(tcaf):
    status, output, error = tcaf()
    assert status == 2
    assert "predict" in output
    assert error.count("\n") == 1


@pytest.mark.slow
def test_values_and_presets_are_checked_against_the_data(tcaf, world, tmp_path):
    train = ("train", "--store", world / "store", "--out", tmp_path / "run")
    for arguments, message in (
        (("--training.batch_size", "1"), "training.batch_size must be at least 2, got 1"),
        (("--config", "ucf-cls"), "did you mean 'ucf_cls'?"),
        (("--system", "avca", "--model.num_heads", "4"), "does not read 'model.num_heads'"),
        (("--system", "avca", "--options.num_head", "4"), "did you mean 'options.num_heads'?"),
        (("--system", "avcaa"), "did you mean 'avca'?"),
        (("--config", "avca", "--system", "cjme"), "ask for two systems"),
        (("--config", "yt8m", "ucf_cls"), "presets of several data sets: yt8m, ucf_cls"),
    ):
        assert message in complaint(tcaf(*train, *arguments)), arguments
    assert not list(tmp_path.iterdir())


def test_unknown_keys_of_a_file_are_refused(tcaf, world, tmp_path):
    file = tmp_path / "mine.toml"
    arguments = ("train", "--config", file, "--store", world / "store", "--out", tmp_path / "run")
    file.write_text("[training]\nlearning_rat = 1e-4\n")
    assert "did you mean 'learning_rate'?" in complaint(tcaf(*arguments))
    file.write_text("[trainings]\nepochs = 4\n")
    assert "did you mean 'training'?" in complaint(tcaf(*arguments))
    file.write_text("[training\n")
    assert f"{file}: expected a TOML file" in complaint(tcaf(*arguments))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_wrong_places_get_one_line(tcaf, world, tmp_path):
    train = ("train", "--config", world / "tiny.toml")
    missing = tcaf(*train, "--store", tmp_path / "none", "--out", tmp_path / "run")
    assert "no feature store at" in complaint(missing)
    taken = tcaf(*train, "--store", world / "store", "--out", world / "run")
    assert "--resume" in complaint(taken)
    split = ("--data.split", "clss", "--out", tmp_path / "run")
    assert "did you mean 'cls'?" in complaint(tcaf(*train, "--store", world / "store", *split))
    text = ("--text.source", "stored", "--text.name", "word2vec", "--out", tmp_path / "run")
    assert "attributes" in complaint(tcaf(*train, "--store", world / "store", *text))
    assert "found nothing" in complaint(tcaf("evaluate", tmp_path, "--store", world / "store"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_gets_one_line(tcaf, tmp_path):
    (tmp_path / "file").write_text("in the way")
    made = tcaf("prepare", "synthetic", "--out", tmp_path / "file" / "world")
    assert "file" in complaint(made)


def test_features_of_another_kind_are_refused_by_name(tcaf, world, tmp_path):
    spec = FeatureSpec(5, 7, 0.96, 0.64, "synthetic_audio", "clip")
    with new_store(tmp_path / "s", spec) as writer:
        writer.add(VideoFeatures("a", np.ones((2, 5)), np.ones((2, 7)), "T", "val_seen"))
        writer.splits["cls"] = Split(("T",), ("V",), ("U",))
    error = complaint(tcaf("evaluate", world / "run", "--store", tmp_path / "s"))
    assert "'synthetic_visual'" in error
    assert "'clip'" in error


@pytest.mark.slow
def test_gamma_on_the_edge_is_said(tcaf, world, tmp_path):
    result = tcaf(
        *("train", "--config", world / "tiny.toml", "--store", world / "store"),
        *("--out", tmp_path / "run", "--evaluation.gamma_max", "0.2"),
    )
    assert result[0] == 0
    assert "lies on the edge of the grid" in result[2]
    kept = json.loads((tmp_path / "run" / "result.json").read_text())
    assert kept["choice"]["validation"]["gamma_on_edge"] is True


@pytest.mark.slow
def test_tensorboard_gets_the_curves(tcaf, world, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    status, _, error = tcaf(
        *("train", "--config", world / "tiny.toml", "--store", world / "store"),
        *("--out", tmp_path / "run", "--tensorboard"),
    )
    assert status == 0, error
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"stage_1/loss/loss", "stage_1/validation/harmonic_mean", "stage_2/loss/loss"} <= set(
        events.Tags()["scalars"]
    )
    assert len(events.Scalars("stage_1/validation/zsl")) == 3


def test_doctor_tells_what_is_missing(tcaf, monkeypatch):
    monkeypatch.setattr(about, "_installed", lambda module: module != "gensim")
    status, output, _ = tcaf("doctor")
    assert status == 0
    assert re.search(r"missing.*text.*gensim.*tcaf\[text\]", output)
    assert "have" in output
    extras = json.loads(tcaf("doctor", "--json")[1])["extras"]
    assert extras["text"] == {"installed": False, "missing": ["gensim"]}


def test_parquet_and_back(tcaf, world, tmp_path):
    status, output, _ = tcaf(
        "store", "to-parquet", world / "store", "--out", tmp_path / "p", "--json"
    )
    assert status == 0
    assert json.loads(output)["files"] == sorted(
        file.name for file in (tmp_path / "p").glob("*.parquet")
    )
    assert tcaf("store", "from-parquet", tmp_path / "p", "--out", tmp_path / "s")[0] == 0
    stores = [FeatureStore.open(folder) for folder in (world / "store", tmp_path / "s")]
    assert stores[0].fingerprint == stores[1].fingerprint


@pytest.fixture
def release(tmp_path, request):
    """The recorded weights as a `.pt` file, and a store with their dimensions."""
    weights = np.load(request.path.parents[1] / "golden" / "weights.npz")
    state = {name: torch.from_numpy(np.array(weights[name])) for name in weights.files}
    torch.save({"model": state, "epoch": 3}, tmp_path / "release.pt")
    rng = np.random.default_rng(0)
    spec = FeatureSpec(12, 32, 0.96, 0.64, "vggish", "c3d")
    with new_store(tmp_path / "store", spec) as writer:
        for index, (name, part) in enumerate(
            [("T", "test_seen"), ("U", "test_unseen"), ("U", "test_unseen")]
        ):
            audio, visual = rng.uniform(0, 255, (3, 12)), rng.normal(size=(5, 32))
            writer.add(VideoFeatures(f"c{index}", audio, visual, name, part))
        writer.splits["cls"] = Split(("T",), ("V",), ("U",))
        vectors = {name: rng.normal(size=300) for name in "TVU"}
        writer.add_text("word2vec", vectors)
        writer.add_text("word2vec_release_order", dict(zip("VUT", vectors.values(), strict=True)))
    return tmp_path


@pytest.mark.slow
def test_import_checkpoint_gives_a_model_that_evaluates(tcaf, release):
    arguments = ("import-checkpoint", release / "release.pt", "--store", release / "store")
    status, output, _ = tcaf(*arguments, "--num_heads", "2", "--out", release / "model")
    assert status == 0
    assert "model.safetensors" in output
    evaluate = ("evaluate", release / "model", "--store", release / "store")
    assert "holds no gamma" in complaint(tcaf(*evaluate))
    status, output, _ = tcaf(*evaluate, "--gamma", "0", "--json")
    assert status == 0
    assert json.loads(output)["clips"] == 3
    taken = complaint(tcaf(*arguments, "--out", release / "model"))
    assert taken.endswith("model exists already; name another place\n")
    assert tcaf(*arguments, "--num_heads", "2", "--out", release / "another")[0] == 0

    again = (*arguments, "--num_heads", "2", "--out", release / "again", "--json")
    value = json.loads(tcaf(*again)[1])
    assert value["path"] == str(release / "again" / "model.safetensors")
    assert value["weights"] > 1000


def test_class_vectors_of_another_source_are_by_name(tcaf, release):
    arguments = ("import-checkpoint", release / "release.pt", "--store", release / "store")
    columns = [str(number) for number in range(300)]
    rows = ["class," + ",".join(columns), *(f"{name}," + ",".join(columns) for name in "TUV")]
    (release / "text.csv").write_text("\n".join(rows))
    text = ("--text.source", "attributes", "--text.path", release / "text.csv")
    arguments = (*arguments, *text, "--num_heads", "2", "--out", release / "model")
    assert "add --class_vectors by_name" in complaint(tcaf(*arguments))
    assert tcaf(*arguments, "--class_vectors", "by_name")[0] == 0


def test_a_checkpoint_that_would_execute_something_is_refused(tcaf, release):
    class Evil:
        def __reduce__(self):
            return (open, (str(release / "touched"), "w"))

    torch.save({"model": Evil()}, release / "evil.pt")
    arguments = ("import-checkpoint", release / "evil.pt", "--store", release / "store")
    assert "no checkpoint of plain tensors" in complaint(tcaf(*arguments, "--out", release / "m"))
    assert not (release / "touched").exists()
    assert not (release / "m").exists()


def test_a_checkpoint_of_other_dimensions_is_refused(tcaf, release, world):
    arguments = ("import-checkpoint", release / "release.pt", "--store", world / "store")
    more = ("--num_heads", "2", "--text.name", "attributes", "--class_vectors", "by_name")
    error = complaint(tcaf(*arguments, *more, "--out", release / "m"))
    assert "text embeddings of size 300" in error
    heads = tcaf(*arguments, "--num_heads", "3", "--out", release / "m")
    assert "num_heads must divide 16" in complaint(heads)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_ctrl_c_while_torch_is_imported_is_no_traceback(world, tmp_path):
    arguments = ("train", "--store", str(world / "store"), "--out", str(tmp_path / "run"))
    with subprocess.Popen(
        [sys.executable, "-m", "tcaf", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while "libtorch_cpu" not in maps.read_text() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130
    assert error == "\ninterrupted; the same command with --resume carries on\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(world):
    command = f"{sys.executable} -m tcaf inspect {world / 'store'} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{", "")


@pytest.mark.parametrize("name", ["-0abc.mp4", "-b", "--x.mp4"])
def test_a_name_that_begins_with_a_hyphen(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    hint = f"unknown option '{name}'; a name is given behind a lone --, or as ./{name}"
    for before in (["predict", "run"], ["predict", "run", "a.mp4", "--top_k", "2"]):
        with pytest.raises(cli.UsageError, match=re.escape(hint)):
            cli.parse([*before, name])
        for way in (["--", name, "--config"], [f"./{name}"]):
            _, bound = cli.parse([*before, *way])
            clips = [word for word in way if word != "--"]
            assert bound.arguments["clips"][-len(clips) :] == clips
    _, bound = cli.parse(["prepare", "videos", "--out", "store", "--", name])
    assert bound.arguments["folder"] == Path(name)


def test_what_would_steer_the_terminal_is_shown(tmp_path, tcaf, capsys):
    folder = f"{tmp_path}/x\x1b]0;owned\x07\x9b2J\u202e\nforged: line"
    error = complaint(tcaf("inspect", folder))
    assert "x\\x1b]0;owned\\x07\\x9b2J\\u202e forged: line" in error
    cli._show_warning(f"{folder} is odd")
    error = capsys.readouterr().err
    assert error.startswith("warning: ")
    assert error.endswith("\\u202e forged: line is odd\n")


@pytest.mark.skipif(os.name != "posix", reason="locks of files")
@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("train", ["--resume"]),
        ("reproduce", ["--table", "4", "--models", "tcaf_visual", "--seeds", "0"]),
    ],
)
def test_where_another_process_trains_nobody_else_does(
    world, tmp_path, tcaf, at_work, command, more
):
    other = at_work(tmp_path / "out")
    if command == "train":  # a run that is there, and would be done at once
        shutil.copytree(world / "run", tmp_path / "out")
    arguments = ["--config", world / "tiny.toml", "--store", world / "store"]
    error = complaint(tcaf(command, *arguments, "--out", tmp_path / "out", *more))
    assert f"another process (pid {other.pid} on " in error
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {".out.lock", *(["out"] if command == "train" else [])}


@pytest.mark.slow
def test_two_trainings_at_once(world, tmp_path, tcaf):
    arguments = ["--config", world / "tiny.toml", "--store", world / "store"]
    words = [
        str(a) for a in ("train", *arguments, "--out", tmp_path / "out", "--training.epochs", 40)
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "tcaf", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as first:
        while not (tmp_path / "out" / "checkpoint.safetensors").is_file():
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        try:
            error = complaint(tcaf(*words, "--resume"))
        finally:
            first.send_signal(signal.SIGCONT)
        assert f"another process (pid {first.pid} on " in error
        first.terminate()
        assert first.wait() == 143
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
