"""Settings: defaults, presets, refusals. And that every single one is read by something."""

import json
import math
import re
import tomllib
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import get_type_hints
from unittest.mock import patch

import numpy as np
import pytest
import torch

from other_values import NO_DROPOUT, OTHER_VALUES, STORED, replace_in, with_other_values
from tcaf.data.batches import load_batch
from tcaf.data.features import FeatureSpec
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.evaluation.gzsl import score
from tcaf.experiments.presets import preset_names, preset_path
from tcaf.seeding import seeded
from tcaf.settings.experiment import Experiment
from tcaf.settings.fidelity import Fidelity
from tcaf.settings.sections import (
    EvaluationSettings,
    ModelSettings,
    ObjectiveSettings,
    TextSettings,
    TrainingSettings,
)
from tcaf.systems.joint_space import TCAFConfig
from tcaf.systems.registry import SYSTEMS, configure, find_system
from tcaf.systems.tcaf import TCAF
from tcaf.text.class_text import embed_classes
from tcaf.text.of_backbone import resolved
from tcaf.training.auxiliary import find_auxiliary
from tcaf.training.observers import EpochRecord
from tcaf.training.protocol import EpochDone, TwoStages, choose
from tcaf.training.run import Run
from tcaf.training.start import find_start
from two_spaces import SYSTEM
from write_aligned_text import aligned_text
from write_labelled import labelled_store
from write_world import world_of_two_splits

OBJECTIVE = ("cross_entropy", "regression", "reconstruction")
PRESETS = [preset_path(name) for name in preset_names()]
SYSTEM_PRESETS = [path for path in PRESETS if path.stem in SYSTEMS]
DATA_PRESETS = [path for path in PRESETS if path.stem not in SYSTEMS]


def sections():
    """Returns the sections of an experiment by name; `seed` is a plain field."""
    hints = get_type_hints(Experiment)
    return {name: hint for name, hint in hints.items() if is_dataclass(hint)}


# --- Every field is read: a table of another legal value, and where it shows. ---


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store with two splits, two kept text embeddings and phrases; and files of text."""
    folder = tmp_path_factory.mktemp("world")
    store = world_of_two_splits(folder / "store")
    names = sorted(store.text("attributes"))
    words = sorted({word for name in names for word in name.replace(",", " ").split()} | {"said"})
    rng = np.random.default_rng(0)
    vectors = {word: rng.normal(size=3).round(3) for word in words}
    (folder / "words.txt").write_text(
        "".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in vectors.items())
    )
    (folder / "templates.txt").write_text(f"{{}} {words[0]}\n")
    (folder / "list.txt").write_text("\n".join(words[:3]))
    for file, factor in (("one.csv", 1), ("two.csv", 2)):
        rows = [f'"{name}",{factor * i + 1},{i * i + 2}' for i, name in enumerate(names)]
        (folder / file).write_text("class,a,b\n" + "\n".join(rows) + "\n")
    phrases = [f'"{name}","{words[i % len(words)]}"' for i, name in enumerate(names)]
    (folder / "phrases.csv").write_text("name,phrase\n" + "\n".join(phrases) + "\n")
    labelled_store(folder / "further", store.spec, words[:7])
    return World(folder, store)


@dataclass
class World:
    folder: Path
    store: FeatureStore

    def protocol(self, experiment):
        return TwoStages(experiment, self.store, {"text": self.store.text("attributes")})


def network(world, experiment):
    """What the model makes of a batch in training and afterwards, and all that it consists of."""
    dims = {"audio_dim": 5, "visual_dim": 7, "text_dim": 11}
    batch = load_batch(world.store, np.arange(7), Windows())
    with seeded(0, "test"), torch.no_grad():
        model = TCAF(configure(experiment, **dims)).train()
        outputs = [*vars(model(batch)).values(), *vars(model.embed_text(torch.eye(11))).values()]
    return list(model.state_dict()), [x.tolist() for x in [*outputs, *model.buffers()]]


def one_epoch(world, experiment):
    stage = world.protocol(experiment).new_stage(1)
    losses = stage.run_epoch(1, experiment.training.learning_rate)
    return losses, {name: value.tolist() for name, value in stage.state().items()}


def losses(world, experiment):
    return one_epoch(world, replace_in(experiment, training={"batches_per_epoch": 1}))[0]


def num_batches(world, experiment):
    counts = []
    stage = world.protocol(experiment).new_stage(1)
    stage.run_epoch(1, 1e-3, lambda batch, num_batches, losses: counts.append(num_batches))
    return counts


def batch_sizes(world, experiment):
    protocol, sizes = world.protocol(experiment), []
    model = protocol.new_stage(1).model
    model.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    protocol.evaluate(model, protocol.validation, 0.0)
    return sizes


def gammas(world, experiment):
    protocol = world.protocol(experiment)
    with patch("tcaf.evaluation.parts.score", wraps=score) as spy:
        protocol.evaluate(protocol.new_stage(1).model, protocol.validation, None)
    return spy.call_args.kwargs["gammas"]


def anchored(world, experiment):
    """The margins of validation clips, where every modality has class text of its own size."""
    text = {"text": world.store.text("attributes"), **aligned_text(world.store)}
    protocol = TwoStages(experiment, world.store, text)
    model = protocol.new_stage(1).model
    answering = protocol.answering(model, protocol.anchor(model))
    return protocol.evaluate(answering, protocol.validation, 0.0).decisions.margin.tolist()


def num_epochs(world, experiment):
    events = world.protocol(experiment).run()
    return sum(isinstance(event, EpochDone) and event.record.stage == 1 for event in events)


def records(*scores, stage=1):
    return tuple(
        EpochRecord(stage, number, 0.01 * number, {}, {"harmonic_mean": s, "gamma": 0.2}, 1.0)
        for number, s in enumerate(scores, start=1)
    )


def rates(world, experiment):
    protocol = world.protocol(experiment)
    falling = records(*[0.5] + [0.1] * 9)
    later = falling + records(0.5, 0.4, stage=2)
    first, second = protocol.new_stage(1), protocol.new_stage(2)
    return [protocol.learning_rate(first, falling[:n], n + 1) for n in range(10)], [
        protocol.learning_rate(second, later, 3)
    ]


def stage_2_epochs(world, experiment):
    best = choose(records(0.5, 0.1, 0.1)).epoch
    return find_system(experiment.system).stage_2_epochs(experiment, best)


def run_text(world, experiment):
    """The class vectors that a run keeps."""
    run = Run(mkdtemp(dir=world.folder))
    run.start(experiment, world.store, resume=False)
    return {name: vector.tolist() for name, vector in run.text()["text"].items()}


def class_vectors(world, experiment):
    """What classes are embedded as; the table tells files by name."""
    settings = experiment.text
    given = {k: getattr(settings, k) for k in ("path", "phrases_file", "prompts", "words")}
    paths = {k: str(world.folder / name) for k, name in given.items() if name}
    names = world.store.split("cls").classes
    return embed_classes(replace(settings, **paths), names, world.store).tolist()


def model_of_text(world, experiment):
    """Which model class text is of, where it is that of the features."""
    return resolved(experiment.text, FeatureSpec(3, 5, 1.0, 1.0, "hf:org/one", "hf:org/two")).path


def space_vectors(world, experiment):
    """What classes are embedded as in the further space that a system reads, if it is there."""
    try:
        settings = SYSTEM.text_settings(experiment)["words"]
    except TCAFError as error:
        return str(error)
    settings = replace(settings, path=str(world.folder / settings.path))
    return embed_classes(settings, world.store.split("cls").classes).tolist()


def split(world, experiment):
    return world.protocol(experiment).split


def further_videos(world, experiment):
    """Which further videos are learnt from."""
    words = TextSettings(source="glove", path=str(world.folder / "words.txt"))
    path = experiment.data.auxiliary and str(world.folder / experiment.data.auxiliary)
    data = replace(experiment.data, auxiliary=path)
    found = find_auxiliary(replace(experiment, data=data, text=words), world.store)
    return found and (found.names, found.rows.tolist())


def known_classes(world, experiment):
    """Whether classes of a ready model are asked for, which this world's features have not."""
    try:
        return find_start(replace(experiment, system="textlda"), world.store)
    except TCAFError as error:
        return str(error)


def windows(world, experiment):
    """How clips are cut: in evaluation, and in training."""
    protocol = world.protocol(experiment)
    return protocol.windows, protocol.new_stage(1).part.windows


def training_clips(world, experiment):
    return [world.protocol(experiment).new_stage(number).part.rows.tolist() for number in (1, 2)]


def device(world, experiment):
    # Where the model would go if there were a GPU.
    gpu = {"is_available": True, "mem_get_info": (0, 0)}
    with ExitStack() as stack:
        for name, value in gpu.items():
            stack.enter_context(patch(f"torch.cuda.{name}", return_value=value))
        return world.protocol(experiment).device


def fills_up(world, experiment):
    return world.protocol(experiment).new_stage(1).fixed is not None


def weights(world, experiment):
    return world.protocol(experiment).new_stage(1).model.class_token.tolist()


def parameters(world, experiment):
    return [name for name, _ in world.protocol(experiment).new_stage(1).model.named_parameters()]


def latents(world, experiment):
    experiment = replace(experiment, system="perceiver")
    return world.protocol(experiment).new_stage(1).model.latents.shape


def network_of(system):
    """Returns what an epoch makes of a system's weights."""

    def trained(world, experiment):
        epoch = one_epoch(world, replace(experiment, system=system))
        return epoch, parameters(world, replace(experiment, system=system))

    return trained


# Field: where another value of it (`other_values`) shows.
TABLE = {
    "data.split": split,
    "data.average": windows,
    "data.clips_per_class": training_clips,
    "data.auxiliary": further_videos,
    "data.auxiliary_similarity": further_videos,
    "data.start": known_classes,
    "text.source": class_vectors,
    "text.name": class_vectors,
    "text.path": class_vectors,
    "text.modality": model_of_text,
    "text.phrases": class_vectors,
    "text.phrases_file": class_vectors,
    "text.prompts": class_vectors,
    "text.normalise": class_vectors,
    "text.words": class_vectors,
    "text.words_temperature": class_vectors,
    "model.num_layers": network,
    "model.num_heads": network,
    "model.head_dim": network,
    "model.token_dim": network,
    "model.joint_dim": network,
    "model.encoder_hidden_dim": network,
    "model.projection_hidden_dim": network,
    "model.feed_forward_dim": network,
    "model.position_dim": network,
    "model.fourier_scale": network,
    "model.attention": network,
    "model.class_token": network,
    "model.modalities": network,
    "model.dropout_encoder": network,
    "model.dropout_position": network,
    "model.dropout_transformer": network,
    "model.dropout_text_projection": network,
    "model.dropout_video_projection": network,
    "fidelity.class_vectors": run_text,
    "fidelity.audio_scaling": network,
    "fidelity.visual_scaling": network,
    "fidelity.evaluation_times": windows,
    "fidelity.window_times": windows,
    "fidelity.audio_window": windows,
    "fidelity.layer_norm": network,
    "fidelity.batch_norm_momentum": network,
    "fidelity.text_statistics": losses,
    "fidelity.squared_error": losses,
    "fidelity.plateau_epochs": rates,
    "fidelity.stage_2_schedule": rates,
    "fidelity.stage_2_epochs": stage_2_epochs,
    "fidelity.cjme_attention": network_of("cjme"),
    "fidelity.avca_modality_tokens": network_of("avca"),
    "objective.cross_entropy": losses,
    "objective.regression": losses,
    "objective.reconstruction": losses,
    "training.epochs": num_epochs,
    "training.batches_per_epoch": num_batches,
    "training.batch_size": one_epoch,
    "training.optimiser": one_epoch,
    "training.learning_rate": rates,
    "training.weight_decay": one_epoch,
    "training.beta1": one_epoch,
    "training.beta2": one_epoch,
    "training.schedule": rates,
    "training.warmup_epochs": rates,
    "training.clip_norm": one_epoch,
    "training.plateau_factor": rates,
    "training.sampling": one_epoch,
    "training.window_s": one_epoch,
    "training.device": device,
    "training.precision": losses,
    "training.static_shapes": fills_up,
    "evaluation.window_s": windows,
    "evaluation.batch_size": batch_sizes,
    "evaluation.gamma_grid": gammas,
    "evaluation.gamma_max": gammas,
    "evaluation.gamma_step": gammas,
    "evaluation.anchored": anchored,
}
PLAIN = {
    "seed": (weights, 1),
    "system": (parameters, "attention_fusion"),
    "options": (latents, {"num_latents": 3}),
    "text_spaces": (space_vectors, {"words": TextSettings(source="attributes", path="one.csv")}),
}


def test_the_table_has_a_row_for_every_field():
    names = {f"{section}.{f.name}" for section, hint in sections().items() for f in fields(hint)}
    plain = {f.name for f in fields(Experiment)} - set(sections())
    assert set(TABLE) == set(OTHER_VALUES) == names
    assert set(PLAIN) == plain


@pytest.mark.parametrize("name", [*TABLE, *PLAIN])
def test_every_field_is_read(name, world, tiny_experiment):
    text = {} if name.startswith("text.") else STORED
    base = tiny_experiment(model=NO_DROPOUT, text=text)
    if name in TABLE:
        shows = TABLE[name]
        base, changed = with_other_values(base, [name])
    else:
        shows, value = PLAIN[name]
        changed = replace(base, **{name: value})
    assert shows(world, base) == shows(world, base), "what is looked at is not repeatable"
    assert shows(world, base) != shows(world, changed)


# --- Presets ---


def read_preset(path):
    return tomllib.loads(path.read_text(encoding="utf-8"))


def as_experiment(content):
    """Builds the settings of a preset; an unknown key or a value of another type is an error."""
    built = {}
    for name, value in content.items():
        hint = sections().get(name)
        if hint is None:
            assert name in {f.name for f in fields(Experiment)}, f"unknown section {name}"
            built[name] = value
        else:
            known = {f.name for f in fields(hint)}
            assert set(value) <= known, f"unknown settings {set(value) - known} in {name}"
            lists = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
            built[name] = hint(**lists)
    return Experiment(**built)


def test_there_are_presets():
    assert {"official", "ucf_cls", "vggsound_main"} <= {path.stem for path in PRESETS}


@pytest.mark.parametrize("path", DATA_PRESETS, ids=lambda path: path.stem)
def test_presets_say_what_differs_and_nothing_else(path):
    content, default = read_preset(path), asdict(Experiment())
    assert isinstance(as_experiment(content), Experiment)
    for section, value in content.items():
        assert value != {}, f"section {section} is empty"
        for field, setting in value.items() if isinstance(value, dict) else ():
            # Where class vectors come from is said in any case: nothing works without.
            if (section, field) != ("text", "source"):
                assert setting != default[section][field], f"{section}.{field} is the default"
        assert isinstance(value, dict) or value != default[section]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_say_their_command(path):
    header = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "tcaf train " in header
    assert re.search(f"--(config|system) {path.stem}", header)


@pytest.mark.parametrize(
    "content",
    [
        {"modle": {}},
        {"model": {"num_layer": 3}},
        {"model": {"attention": "crosss"}},
        {"training": {"epochs": 1.5}},
    ],
)
def test_a_wrong_preset_would_be_noticed(content):
    with pytest.raises((AssertionError, TCAFError)):
        as_experiment(content)


def test_official_preset_is_the_class_method():
    path = next(path for path in PRESETS if path.stem == "official")
    assert as_experiment(read_preset(path)) == Experiment(fidelity=Fidelity.official())


def test_paper_is_the_default():
    """Sec. 4.1 of the paper, UCF-GZSL."""
    model, training = ModelSettings(), TrainingSettings()
    assert (model.num_layers, model.num_heads, model.head_dim) == (6, 8, 64)
    assert (model.token_dim, model.joint_dim, model.encoder_hidden_dim) == (300, 64, 512)
    assert (model.feed_forward_dim, model.position_dim) == (128, 64)
    assert (training.epochs, training.learning_rate, training.weight_decay) == (50, 7e-5, 1e-5)
    assert EvaluationSettings().gammas == tuple(round(0.2 * i, 1) for i in range(16))


# --- Values ---


@pytest.mark.parametrize(
    ("largest", "step", "gammas"),
    [
        (0.0, 0.2, (0.0,)),
        (0.6, 0.2, (0.0, 0.2, 0.4, 0.6)),
        (0.5, 0.2, (0.0, 0.2, 0.4)),
        (0.3, 0.1, (0.0, 0.1, 0.2, 0.3)),
    ],
)
def test_gammas_by_hand(largest, step, gammas):
    assert EvaluationSettings(gamma_max=largest, gamma_step=step).gammas == gammas


def test_model_config_takes_everything_over(tiny_experiment):
    fidelity = {"layer_norm": "shared", "batch_norm_momentum": 0.19, "visual_scaling": "none"}
    experiment = tiny_experiment(fidelity=fidelity)
    config = configure(experiment, audio_dim=3, visual_dim=5, text_dim=7)
    assert {f.name for f in fields(TCAFConfig)} == {
        "audio_dim",
        "visual_dim",
        "text_dim",
        "audio_scaling",
        *fidelity,
        *(f.name for f in fields(ModelSettings)),
    }
    expected = {**asdict(experiment.model), **fidelity, "audio_scaling": "none"}
    assert asdict(config) == {**expected, "audio_dim": 3, "visual_dim": 5, "text_dim": 7}


def layers_under(path):
    """A preset, behind that of its system where it is of a system on some data."""
    base = [preset_path(path.stem)] if path.parent.name != "presets" else []
    return [read_preset(each) for each in (*base, path)]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_round_trip(path):
    experiment = replace(Experiment.from_layers(*layers_under(path)), seed=7)
    again = Experiment.from_json(json.loads(json.dumps(experiment.to_json())))
    assert again == experiment


def test_round_trip_of_phrases(tiny_experiment):
    experiment = tiny_experiment(text={"source": "glove", "phrases": ("name", "said")})
    assert Experiment.from_json(json.loads(json.dumps(experiment.to_json()))) == experiment


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda value: value.update(trainig={}), "no setting trainig; did you mean 'training'"),
        (
            lambda value: value["model"].update(num_layer=3),
            r"there is no setting model\.num_layer; did you mean 'num_layers'\?",
        ),
        (
            lambda value: value["model"].update(num_layers=0),
            r"model\.num_layers must be at least 1",
        ),
    ],
)
def test_stored_settings_that_do_not_fit(damage, message):
    value = Experiment().to_json()
    damage(value)
    with pytest.raises(TCAFError, match=message):
        Experiment.from_json(value)


def test_settings_that_an_older_release_did_not_have_are_the_defaults():
    value = replace(Experiment(), seed=7, training=TrainingSettings(epochs=3)).to_json()
    del value["training"]["sampling"], value["objective"], value["options"]
    again = Experiment.from_json(value)
    assert again == Experiment(seed=7, training=TrainingSettings(epochs=3))


def test_changes_are_what_differs_from_the_defaults():
    assert Experiment().changes() == {}
    experiment = Experiment(
        seed=3,
        system="avca",
        options={"num_heads": 5},
        training=TrainingSettings(epochs=3, batch_size=64),
        text=TextSettings(source="glove", path="g.txt", phrases=("name", "said")),
    )
    changes = {
        "seed": 3,
        "system": "avca",
        "options": {"num_heads": 5},
        "training": {"epochs": 3},
        "text": {"source": "glove", "path": "g.txt", "phrases": ["name", "said"]},
    }
    assert experiment.changes() == changes
    assert Experiment.from_json(json.loads(json.dumps(changes))) == experiment


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            ModelSettings,
            {"dropout_encoder": 1.0},
            r"model\.dropout_encoder must be at least 0 and below 1, got 1",
        ),
        (ModelSettings, {"dropout_position": -0.1}, r"model\.dropout_position must be at least 0"),
        (ModelSettings, {"num_heads": 0}, r"model\.num_heads must be at least 1, got 0"),
        (ModelSettings, {"token_dim": -3}, r"model\.token_dim must be at least 1, got -3"),
        (ModelSettings, {"position_dim": 7}, r"model\.position_dim must be even, got 7"),
        (
            ModelSettings,
            {"modalities": "audio", "class_token": False},
            r"'cross' with model\.modalities 'audio' and no class token .* use 'self'",
        ),
        (
            ObjectiveSettings,
            {"cross_entropy": False, "regression": False, "reconstruction": False},
            "every term is off",
        ),
        (TrainingSettings, {"epochs": 0}, r"training\.epochs must be at least 1, got 0"),
        (TrainingSettings, {"batches_per_epoch": 0}, r"training\.batches_per_epoch must be"),
        (TrainingSettings, {"batch_size": 1}, r"training\.batch_size must be at least 2, got 1"),
        (
            TrainingSettings,
            {"learning_rate": 0.0},
            r"training\.learning_rate must be above 0, got 0",
        ),
        (TrainingSettings, {"window_s": 0.0}, r"training\.window_s must be above 0 seconds, got 0"),
        (EvaluationSettings, {"window_s": -1.0}, r"evaluation\.window_s must be above 0 seconds"),
        (
            EvaluationSettings,
            {"batch_size": 0},
            r"evaluation\.batch_size must be at least 1, got 0",
        ),
        (EvaluationSettings, {"gamma_step": 1e-5}, "at most 10000 gammas are tried"),
        (EvaluationSettings, {"gamma_max": math.inf}, "gamma_max must be at least 0, got inf"),
        (TrainingSettings, {"window_s": math.nan}, "window_s must be above 0 seconds, got nan"),
        (TrainingSettings, {"learning_rate": math.nan}, "learning_rate must be above 0, got nan"),
        (TrainingSettings, {"beta1": 1.5}, "beta1 must be at least 0 and below 1, got 1.5"),
        (TrainingSettings, {"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
        (TrainingSettings, {"plateau_factor": -1.0}, "plateau_factor must be above 0 and below 1"),
        (Fidelity, {"plateau_epochs": 0}, "plateau_epochs must be at least 1, got 0"),
        (Fidelity, {"batch_norm_momentum": -5.0}, "batch_norm_momentum must be above 0"),
        (ModelSettings, {"fourier_scale": math.nan}, "fourier_scale must be above 0, got nan"),
        (EvaluationSettings, {"gamma_step": 0.0}, "evaluation.gamma_step must be above 0, got 0.0"),
        (
            EvaluationSettings,
            {"gamma_max": -0.2},
            "gamma_max must be at least 0, got -0.2",
        ),
    ],
)
def test_errors(section, values, message):
    with pytest.raises(TCAFError, match=message):
        section(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"modalities": "audio"},
        {"modalities": "audio", "class_token": False, "attention": "self"},
        {"class_token": False},
    ],
)
def test_what_leaves_something_to_attend_to_is_allowed(values):
    ModelSettings(**values)


# --- Layers ---


def test_later_layers_win():
    found = Experiment.from_layers(
        {"training": {"epochs": 3, "batch_size": 5}, "seed": 7},
        {"training": {"epochs": 11}, "model": {"attention": "full"}},
        {},
    )
    assert found == Experiment(
        training=TrainingSettings(epochs=11, batch_size=5),
        model=ModelSettings(attention="full"),
        seed=7,
    )
    assert Experiment.from_layers() == Experiment()


def test_options_add_up():
    found = Experiment.from_layers(
        {"system": "avca", "options": {"num_heads": 3, "token_dim": 5}},
        {"options": {"num_heads": 7}},
    )
    assert (found.system, found.options) == ("avca", {"num_heads": 7, "token_dim": 5})


def test_lists_become_what_they_are():
    found = Experiment.from_layers({"text": {"phrases": ["name", "said"]}})
    assert found.text.phrases == ("name", "said")


def test_layers_stay_as_they_are():
    layers = [{"training": {"epochs": 3}, "options": {"a": 1}}, {"training": {"batch_size": 5}}]
    before = json.dumps(layers)
    Experiment.from_layers(*layers)
    assert json.dumps(layers) == before


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"trainig": {}}, r"there is no setting trainig; did you mean 'training'\?"),
        ({"training": {"epoch": 3}}, r"no setting training\.epoch; did you mean 'epochs'\?"),
        ({"training": 3}, "training is a section of settings, got 3"),
        ({"options": "x"}, "options is a section of settings, got 'x'"),
        ({"training": {"epochs": "x"}}, r"training\.epochs: expected int, got 'x'"),
        ({"training": {"window_s": "x"}}, r"training\.window_s: expected float \| None, got 'x'"),
        ({"model": {"attention": "crss"}}, "did you mean 'cross'"),
        ({"training": {"batch_size": 1}}, "must be at least 2, got 1"),
        ({"text": {"phrases": "name"}}, r"text\.phrases: expected list, got 'name'"),
        ({"seed": "x"}, "seed: expected int, got 'x'"),
        ({"seed": {"a": 1}}, "seed: expected int"),
        ({"system": 3}, "system: expected str, got 3"),
        ({"objective": dict.fromkeys(OBJECTIVE, False)}, "every term is off"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_layers_that_are_refused(layer, message):
    with pytest.raises(TCAFError, match=message):
        Experiment.from_layers(layer)


# --- Text spaces ---


SPACES = {"text_spaces": {"clip": {"source": "hf", "path": "one"}, "words": {"source": "glove"}}}


def test_text_spaces_are_laid_over_one_another_field_by_field():
    later = {"text_spaces": {"clip": {"path": "two"}, "raw": {"source": "stored"}}}
    found = Experiment.from_layers(SPACES, later).text_spaces
    assert found == {
        "clip": TextSettings("hf", path="two"),
        "words": TextSettings("glove"),
        "raw": TextSettings(),
    }


def test_text_spaces_come_back():
    experiment = Experiment.from_layers(SPACES, {"text_spaces": {"raw": {"source": "stored"}}})
    # A space is there though its settings are the defaults.
    assert experiment.changes() == {
        "text_spaces": {**SPACES["text_spaces"], "raw": {"source": "stored"}}
    }
    assert Experiment.from_json(experiment.changes()) == experiment
    written = json.loads(json.dumps(experiment.to_json()))
    assert written == experiment.to_json()
    assert Experiment.from_json(written) == experiment
    assert "text_spaces" not in Experiment().changes()


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        (
            {"clip": {"sorce": "hf"}},
            r"setting text_spaces\.clip\.sorce; did you mean 'source'",
        ),
        (
            {"clip": {"source": "glov"}},
            r"text_spaces\.clip\.source: expected one of .*mean 'glove'",
        ),
        ({"clip": {"path": "one"}}, r"text_spaces\.clip\.source is missing"),
        ({"clip": 3}, r"text_spaces\.clip is a section of settings, got 3"),
        (3, "text_spaces is a section of settings, got 3"),
        (
            {"text": {"source": "hf"}},
            r"other than 'text', which is the section \[text\], got 't",
        ),
        ({"a.b": {"source": "hf"}}, "expected a name like clip, .* got 'a.b'"),
    ],
)
def test_wrong_text_spaces(spaces, message):
    with pytest.raises(TCAFError, match=message):
        Experiment.from_layers({"text_spaces": spaces})
