"""Runs that an older release has left are carried on, evaluated, asked and reported as they are."""

import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from run_contents import without_digests
from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.errors import TCAFError
from tcaf.reports.report import build_report, group
from tcaf.settings.experiment import Experiment
from tcaf.systems.reads import read_settings
from tcaf.training.evaluate import evaluate_run
from tcaf.training.model_file import load_model
from tcaf.training.observers import Silence
from tcaf.training.run import Run, train

# Their files carry no digest, of which `tests/files/test_sealed.py` is.
pytestmark = pytest.mark.filterwarnings("ignore::tcaf.files.sealed.UnsealedWarning")

# Settings that there were not from the beginning, all with their defaults in these runs.
LATER = {
    "data": ("average",),
    "text": ("normalise",),
    "fidelity": ("cjme_attention", "avca_modality_tokens"),
    "training": ("optimiser", "beta1", "beta2", "schedule", "warmup_epochs", "clip_norm"),
}
# Settings that older releases let anybody set for these systems, which do not read them.
NOBODYS = {
    "tcaf": {"fidelity": {"cjme_attention": "separate_means"}},
    "avca": {"model": {"num_heads": 5}, "objective": {"regression": False}},
    "ridge": {"model": {"num_heads": 5}, "training": {"learning_rate": 7e-5, "batch_size": 99}},
}


def as_older(settings, system):
    """Returns settings as JSON without those added since, and with some that nothing reads."""
    older = {
        section: {k: v for k, v in content.items() if k not in LATER.get(section, ())}
        if isinstance(content, dict)
        else content
        for section, content in settings.items()
    }
    for section, content in NOBODYS[system].items():
        older[section] = {**older[section], **content}
    return older


def rewrite(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def rewrite_tensors(path, name_of, change):
    """Rewrites the names of tensors and the header of a safetensors file."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["header"])
        names = [name for name in file.keys() if not name.startswith("conformity.")]  # noqa: SIM118
        tensors = {name_of(name): file.get_tensor(name) for name in names}
    safetensors.torch.save_file(tensors, path, metadata={"header": json.dumps(change(header))})


def make_old(folder, system):
    """Turns a run, finished or not, into what an older release would have left."""
    without_digests(folder)
    rewrite(folder / "config.json", lambda settings: as_older(settings, system))

    def origin(value):
        data = {k: v for k, v in value["data"].items() if k != "class_text"}
        return {k: v for k, v in value.items() if k not in ("resumed", "plugin")} | {"data": data}

    rewrite(folder / "provenance.json", origin)

    def header(value):
        settings = as_older(value["experiment"], system)
        config = {k: v for k, v in value["config"].items() if k != "avca_modality_tokens"}
        kept = {k: v for k, v in value.items() if k != "temperature"}
        return {**kept, "experiment": settings, "config": config}

    for name in ("stage_1.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            rewrite_tensors(folder / name, str, header)

    def record(value):
        rate = 7e-5 if system == "ridge" else value["learning_rate"]
        validation = value["validation"] and {
            k: v for k, v in value["validation"].items() if k != "temperature"
        }
        kept = {k: v for k, v in value.items() if k != "reliability"}
        return {**kept, "learning_rate": rate, "validation": validation}

    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.is_file():
        rewrite_tensors(
            checkpoint,
            lambda name: name.replace("optimiser.", "adam.", 1),
            lambda value: {**value, "records": [record(each) for each in value["records"]]},
        )
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(record(json.loads(line))) + "\n" for line in lines)
    )


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    training = {"epochs": 2, "batches_per_epoch": 3, "learning_rate": 3e-3}
    # Stage 2 then has two epochs, whichever was best.
    changes = {"training": training, "fidelity": {"stage_2_epochs": "release"}}
    options = {"avca": {"joint_dim": 11, "token_dim": 5, "num_heads": 2, "head_dim": 3}}
    return {
        system: replace(tiny_experiment(**changes), system=system, options=options.get(system, {}))
        for system in NOBODYS
    }


@pytest.fixture(scope="module")
def whole(tiny_store, experiment, tmp_path_factory):
    """A run of each system that nothing interrupted."""
    folder = tmp_path_factory.mktemp("today")
    for system, settings in experiment.items():
        train(settings, tiny_store, folder / system)
    return folder


@pytest.fixture(scope="module")
def older(whole, tmp_path_factory):
    """The same runs as an older release would have left them."""
    folder = tmp_path_factory.mktemp("older")
    for system in NOBODYS:
        shutil.copytree(whole / system, folder / system)
        make_old(folder / system, system)
    return folder


class StopAfter(Silence):
    """Interrupts a run at the end of the epoch after some, before that is kept."""

    def __init__(self, epochs):
        self.left = epochs

    def epoch_done(self, record):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1


def weights(run):
    tensors = safetensors.torch.load_file(run / "model.safetensors")
    return {name: t for name, t in tensors.items() if not name.startswith("conformity.")}


def scores(value):
    """Scores without how sure the answers are, of which older releases say nothing."""
    return {name: score for name, score in value.items() if name != "reliability"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "epochs"),
    [("tcaf", 1), ("tcaf", 3), ("avca", 1), ("avca", 3), ("ridge", 1), ("ridge", 2)],
)
def test_an_interrupted_run_ends_with_the_same_weights(
    system, epochs, whole, experiment, tiny_store, tmp_path
):
    with pytest.raises(KeyboardInterrupt):
        train(experiment[system], tiny_store, tmp_path / "r", observer=StopAfter(epochs))
    make_old(tmp_path / "r", system)
    names = safetensors.torch.load_file(tmp_path / "r" / "checkpoint.safetensors")
    assert ("adam.0.exp_avg" in names) == (system != "ridge")
    result = train(experiment[system], tiny_store, tmp_path / "r", resume=True)
    expected = weights(whole / system)
    found = weights(tmp_path / "r")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert scores(result["test"]) == scores(Run(whole / system).result["test"])


@pytest.mark.parametrize("system", NOBODYS)
def test_a_finished_run_is_the_run_asked_for(system, older, experiment, tiny_store):
    kept = Run(older / system).result
    assert train(experiment[system], tiny_store, older / system, resume=True) == kept
    with pytest.raises(TCAFError, match=r"started with seed = 0, now it is 1"):
        train(replace(experiment[system], seed=1), tiny_store, older / system, resume=True)


@pytest.mark.parametrize("system", NOBODYS)
def test_evaluation_gives_the_same_scores(system, older, whole, tiny_store):
    for part in ("test", "val"):
        found, expected = (
            scores(evaluate_run(folder / system, tiny_store, part=part).to_json())
            for folder in (older, whole)
        )
        assert found == expected


@pytest.mark.parametrize("system", NOBODYS)
def test_answers_are_the_same_but_for_how_sure_they_are(system, older, whole, tiny_store):
    rows = tiny_store.rows("cls", "test")[:3]
    found, expected = (
        [
            [answer.name for answer in ranking.answers]
            for ranking in ZeroShotClassifier.load(folder / system).classify_store(tiny_store, rows)
        ]
        for folder in (older, whole)
    )
    assert found == expected
    made = load_model(older / system)
    assert (made.temperature, made.conformity) == (None, None)


@pytest.mark.parametrize("system", NOBODYS)
def test_it_is_the_same_experiment(system, older, whole):
    old, new = (
        Experiment.from_json(json.loads((folder / system / "config.json").read_text()))
        for folder in (older, whole)
    )
    assert old != new, "the older run was given settings that its system does not read"
    assert read_settings(old) == read_settings(new)


@pytest.mark.slow
def test_a_report_takes_old_and_new_seeds_as_one_row(older, experiment, tiny_store, tmp_path):
    train(replace(experiment["avca"], seed=1), tiny_store, tmp_path / "avca")
    runs = [Run(older / "avca"), Run(tmp_path / "avca"), Run(older / "ridge")]
    rows = {one.name: sorted(one.runs) for one in group(runs)}
    assert rows == {"AVCA": [0, 1], "Ridge": [0]}


@pytest.mark.slow  # draws whole pages
def test_a_page_about_old_runs(older, tiny_store):
    pytest.importorskip("matplotlib")
    page = build_report([older / "ridge"], store=tiny_store.path)
    (row,) = page.results
    kept = Run(older / "ridge").result["test"]
    assert row.model == "Ridge"
    assert row.harmonic_mean.mean == pytest.approx(kept["harmonic_mean"])
