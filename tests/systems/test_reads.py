"""What a system reads changes its runs, and what it does not read changes nothing: by effect."""

import json
from dataclasses import fields, replace
from functools import cache
from unittest.mock import patch

import pytest
import torch

from other_values import OTHER_VALUES, STORED, replace_in, with_other_values
from tcaf.evaluation.gzsl import score
from tcaf.evaluation.parts import EvaluationPart
from tcaf.execution.devices import pick_device
from tcaf.settings.experiment import text_settings
from tcaf.settings.sections import ModelSettings
from tcaf.systems.interface import System
from tcaf.systems.joint_space import TCAFConfig
from tcaf.systems.reads import own_options, reads_setting
from tcaf.systems.registry import SYSTEMS
from tcaf.systems.ridge import Ridge, RidgeConfig, RidgeFit
from tcaf.systems.tcaf import TCAF
from tcaf.text.class_text import embed_classes
from tcaf.training.observers import EpochRecord
from tcaf.training.protocol import TwoStages
from write_aligned_text import aligned_text
from write_world import world_of_two_splits

# Shapes are checked by the tests of what is called here.
pytestmark = pytest.mark.usefixtures("unchecked")

SECTIONS = ("data", "model", "fidelity", "objective", "training", "evaluation")
SETTINGS = [name for name in OTHER_VALUES if name.startswith(SECTIONS)]

# The kinds that the package has no system of: a fit to windows, and no training at all.
WINDOWED = System(
    "windowed_ridge",
    "Ridge on windows",
    RidgeConfig,
    Ridge,
    fit=RidgeFit,
    ignores=SYSTEMS["ridge"].ignores
    | {"data.average", "fidelity.evaluation_times", "fidelity.window_times"},
)
UNTRAINED = System(
    "untrained",
    "Untrained",
    TCAFConfig,
    TCAF,
    training_free=True,
    # Evaluation has no dropout and moves no running statistics.
    ignores=frozenset(
        f"model.{each.name}" for each in fields(ModelSettings) if each.name.startswith("dropout")
    )
    | {"fidelity.batch_norm_momentum"},
)
ENTRIES = {**SYSTEMS, WINDOWED.name: WINDOWED, UNTRAINED.name: UNTRAINED}

# Sizes that take no time.
SMALL = {
    "perceiver": {"num_latents": 3},
    "cjme": {"joint_dim": 5, "hidden_dim": 7},
    "avgzslnet": {"joint_dim": 5, "hidden_dim": 7, "decoder_hidden_dim": 3},
    "avca": {
        "joint_dim": 11,
        "token_dim": 5,
        "num_heads": 2,
        "head_dim": 3,
        "encoder_hidden_dim": 7,
        "projection_hidden_dim": 7,
        "feed_forward_dim": 7,
    },
}

OTHER_OPTIONS = {
    "num_latents": 5,
    "joint_dim": 3,
    "margin": 0.4,
    "hidden_dim": 5,
    "decoder_hidden_dim": 5,
    "encoder_hidden_dim": 5,
    "projection_hidden_dim": 5,
    "feed_forward_dim": 5,
    "token_dim": 7,
    "num_heads": 3,
    "head_dim": 2,
    "dropout": 0.4,
    "dropout_embedder": 0.4,
    "dropout_encoder": 0.4,
    "dropout_projection": 0.4,
    "dropout_decoder": 0.4,
    "strongest": 0.3,
    "ratio": 0.3,
    "cosine_from": "origin",
    "kappa": 3.0,
    "time": "off",
    "spread": "on",
    "num_random": 7,
    "temperature": 0.5,
    "visual_weight": 0.1,
    "visual_scale": 2.0,
    "audio_scale": 2.0,
}

# What counts only beside a setting of another section.
WINDOW = {"training": {"window_s": 3.0}, "evaluation": {"window_s": 3.0}}
BESIDE = {
    "fidelity.window_times": WINDOW,
    "fidelity.audio_window": WINDOW,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return world_of_two_splits(tmp_path_factory.mktemp("reads") / "store")


@pytest.fixture(scope="module")
def run(store):
    """Returns everything that follows from settings, over two short epochs; remembers it."""

    @cache
    def made(written):
        return short_run(experiments[written], store)

    experiments = {}

    def remembered(experiment):
        written = json.dumps(experiment.to_json())
        experiments[written] = experiment
        return made(written)

    with patch.dict(SYSTEMS, ENTRIES):
        yield remembered


def short_run(experiment, store):
    names = store.split(experiment.data.split).classes
    text = embed_classes(text_settings(experiment), names, store)
    with patch("torch.cuda.is_available", return_value=True):
        # Where the model would go if there were a GPU.
        device = pick_device(experiment.training.device)
    with patch("tcaf.training.protocol.pick_device", return_value=torch.device("cpu")) as asked:
        spaces = {"text": dict(zip(names, text, strict=True)), **aligned_text(store, names)}
        protocol = TwoStages(experiment, store, spaces)
    asked.assert_called_once_with(experiment.training.device)
    stage = protocol.new_stage(1)
    sizes = []
    stage.model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    losses = [stage.run_epoch(epoch, stage.learning_rate(epoch, [])) for epoch in (1, 2)]
    some = protocol.validation
    some = EvaluationPart(store, some.rows[::3], some.classes, some.class_text)
    with patch("tcaf.evaluation.parts.score", wraps=score) as spy:
        model = protocol.answering(stage.model, protocol.anchor(stage.model))
        result = protocol.evaluate(model, some, None)
    decided = result.decisions
    return {
        "classes": protocol.split,
        "device": str(device),
        "batch sizes": sizes,
        "losses": losses,
        "state": {
            name: value.numpy().tobytes()
            for name, value in {**stage.model.state_dict(), **stage.state()}.items()
        },
        "distances": [
            each.tolist() for each in (decided.margin, decided.nearest_seen, decided.nearest_unseen)
        ],
        "gammas": spy.call_args.kwargs["gammas"],
        "learning rates": rates(protocol, stage),
        "epochs": [
            protocol.system.stage_1_epochs(experiment),
            *(protocol.system.stage_2_epochs(experiment, best)[-1] for best in (1, 2)),
        ],
    }


def rates(protocol, stage):
    """The learning rates of both stages, where validation falls in the first and not the second."""
    first = [stage.learning_rate(n + 1, [1 / (k + 1) for k in range(n)]) for n in range(6)]
    records = tuple(
        EpochRecord(
            number, epoch, rate, {}, {"harmonic_mean": epoch / 7 if rising else 1 / epoch}, 1.0
        )
        for number, rising in ((1, False), (2, True))
        for epoch, rate in enumerate(first, start=1)
    )
    stage.number = 2
    return first, protocol.learning_rate(stage, records, 6)


@pytest.fixture
def small(tiny_experiment):
    """Builds the experiment that a system's settings are changed in."""
    base = tiny_experiment(
        text=STORED, training={"batches_per_epoch": 1}, evaluation={"batch_size": 11}
    )
    return lambda name: replace(base, system=name, options=SMALL.get(name, {}))


def differing(left, right):
    return [name for name, value in left.items() if value != right[name]]


def split(system):
    """Returns the settings that a system is said to read, and those that it is said not to."""
    read = [name for name in SETTINGS if reads_setting(ENTRIES[system], name)]
    return read, [name for name in SETTINGS if name not in read]


OFTEN = ("tcaf", "avca", "ridge")
"""Systems whose every setting is looked at in the unit tier: one of each manner of training."""

READ = [
    pytest.param(system, setting, marks=() if system in OFTEN else pytest.mark.slow)
    for system in ENTRIES
    for setting in split(system)[0]
    # Need class text of any label, which this world's has not: tests/training/test_auxiliary.py and
    # test_start.py.
    if not setting.startswith(("data.auxiliary", "data.start"))
]


@pytest.mark.parametrize(("system", "setting"), READ)
def test_a_setting_that_is_read_shows(system, setting, run, small):
    base = replace_in(small(system), **BESIDE.get(setting, {}))
    base, changed = with_other_values(base, [setting])
    assert differing(run(base), run(changed))


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("system", ENTRIES)
def test_settings_that_are_not_read_do_not_show(system, half, run, small):
    # In two halves: all terms of an objective cannot be off at once.
    settings = split(system)[1][half::2]
    assert settings
    base, changed = with_other_values(replace_in(small(system), **WINDOW), settings)
    shown = differing(run(base), run(changed))
    assert not shown, f"one of {settings} shows in {shown}"


OPTIONS = [(name, option) for name, entry in ENTRIES.items() for option in own_options(entry)]


@pytest.mark.parametrize(("system", "option"), OPTIONS)
def test_every_option_of_a_system_shows(system, option, run, small):
    assert reads_setting(ENTRIES[system], f"options.{option}")
    base = small(system)
    changed = replace(base, options={**base.options, option: OTHER_OPTIONS[option]})
    assert differing(run(base), run(changed))


@pytest.mark.slow
def test_what_is_looked_at_is_repeatable(store, small):
    with patch.dict(SYSTEMS, ENTRIES):
        for system in ENTRIES:
            assert not differing(*(short_run(small(system), store) for _ in range(2)))
