import json
import math
import shutil

import pytest

from run_contents import without_digests
from tcaf.data.features import FeatureSpec
from tcaf.errors import TCAFError
from tcaf.training.evaluate import evaluate_run
from tcaf.training.model_file import load_model, load_tensors, save_tensors
from tcaf.training.numbers import RULES, check_numbers
from tcaf.training.run import Run, train

GOOD = {
    "test": {"seen": 0, "unseen": 1.0, "harmonic_mean": None, "zsl": 0.5, "gamma": -2},
    "choice": {"epoch": 3, "gamma": 0.0, "temperature": None, "validation": {"temperature": 0.1}},
    "epochs": {"stage_1": 2, "stage_2": 0},
    "seconds": 0.0,
    "stage": 1,
    "learning_rate": 0,
    "losses": {"loss": math.nan},
    "seed": -1,
}

BAD = {
    **dict.fromkeys(("seen", "unseen", "harmonic_mean", "zsl", "curve_area"), (-0.1, 1.1)),
    "gamma": ("0.3", [0.3]),
    "temperature": (0, -1.0),
    "stage": (0, 3, None),
    "epoch": (0, 1.5, None),
    "stage_1": (-1, 0.5, None),
    "stage_2": (-1, 0.5, None),
    "learning_rate": (-1e-3, None),
    "seconds": (-1, None),
}


def test_what_a_run_writes_passes():
    check_numbers(GOOD, "it")


@pytest.mark.parametrize("name", RULES)
def test_what_cannot_be_is_refused_wherever_it_stands(name):
    for value in (*BAD[name], math.nan, math.inf, -math.inf, True):
        with pytest.raises(TCAFError, match=rf"^it is damaged: expected {name} to be .*, found"):
            check_numbers({"inside": [], "deeper": {"other": 1, name: value}}, "it")


@pytest.fixture(scope="module")
def run(tiny_store, tiny_experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_experiment(), tiny_store, out)
    return out


@pytest.mark.parametrize(
    ("name", "value"), [("gamma", math.nan), ("temperature", 0.0), ("temperature", math.inf)]
)
def test_a_model_with_such_a_number_is_refused(name, value, run, tmp_path):
    path = tmp_path / "model.safetensors"
    tensors, header = load_tensors(run / "model.safetensors", "a model")
    save_tensors(path, tensors, header)
    load_model(path)
    save_tensors(path, tensors, {**header, name: value})
    # JSON has no word for NaN and infinity.
    said = f"{path} is damaged: expected {name} to be a finite"
    said = said if math.isfinite(value) else f"{path}, found a damaged file .Out of range float"
    with pytest.raises(TCAFError, match=said):
        load_model(path)


def test_whole_numbers_of_any_size_are_numbers(run, tmp_path):
    path = tmp_path / "model.safetensors"
    tensors, header = load_tensors(run / "model.safetensors", "a model")
    save_tensors(path, tensors, {**header, "gamma": 10**30, "temperature": 10**30})
    trained = load_model(path)
    assert (trained.gamma, trained.temperature) == (1e30, 1e30)
    assert isinstance(trained.gamma, float)
    assert isinstance(trained.temperature, float)


def test_a_model_without_settings_is_not_evaluated(run, tiny_store, tmp_path):
    path = tmp_path / "model.safetensors"
    tensors, header = load_tensors(run / "model.safetensors", "a model")
    save_tensors(path, tensors, {**header, "experiment": None})
    with pytest.raises(TCAFError, match="saved without its settings"):
        evaluate_run(path, tiny_store)


def test_a_result_with_such_a_number_is_refused(run, tmp_path):
    copy = Run(without_digests(shutil.copytree(run, tmp_path / "copy")))
    good = copy.result
    (copy.path / "result.json").write_text(json.dumps(good | {"seconds": -1}))
    with pytest.raises(TCAFError, match=r"result\.json is damaged: expected seconds to be a"):
        copy.result  # noqa: B018
    (copy.path / "result.json").write_text("[]")
    with pytest.raises(TCAFError, match=r"expected the result of a run at .*result\.json"):
        copy.result  # noqa: B018


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": 0}, "expected epoch to be a whole number from 1 on, found 0"),
        (
            {"validation": {"temperature": -1.0}},
            "expected temperature to be a finite number above 0",
        ),
        ({"other": 1}, "expected the record of an epoch"),
    ],
)
def test_metrics_with_such_a_number_are_refused(change, words, run, tmp_path):
    copy = Run(without_digests(shutil.copytree(run, tmp_path / "copy")))
    lines = (copy.path / "metrics.jsonl").read_text().splitlines()
    assert len(copy.records()) == len(lines) > 1
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (copy.path / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(TCAFError, match=rf"line 2 of .*metrics\.jsonl is damaged: .*{words}"):
        copy.records()
    (copy.path / "metrics.jsonl").write_text(lines[0] + "\n{")
    with pytest.raises(TCAFError, match=r"line 2 of .*metrics\.jsonl is damaged"):
        copy.records()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"audio_dim": 0}, "audio_dim must be at least 1, got 0"),
        ({"visual_step_s": 0.0}, "visual_step_s must be a finite number above 0, got 0"),
        ({"audio_step_s": math.nan}, "audio_step_s must be a finite number above 0, got nan"),
    ],
)
def test_a_spec_with_such_a_number_is_refused(change, words):
    good = {"audio_dim": 3, "visual_dim": 5, "audio_step_s": 0.96, "visual_step_s": None}
    names = {"audio_backbone": "ears", "visual_backbone": "eyes"}
    FeatureSpec(**good, **names)
    with pytest.raises(TCAFError, match=words):
        FeatureSpec(**good | change, **names)


@pytest.mark.parametrize(
    ("key", "value"), [("system", []), ("seen", 1.5), ("classes", [1]), ("spec", {}), ("gamma", "")]
)
def test_a_model_with_another_header_is_refused(key, value, run, tmp_path):
    path = tmp_path / "model.safetensors"
    tensors, header = load_tensors(run / "model.safetensors", "a model")
    save_tensors(path, tensors, {**header, key: value})
    with pytest.raises(TCAFError, match=f"model {path} is damaged: {key}"):
        load_model(path)
