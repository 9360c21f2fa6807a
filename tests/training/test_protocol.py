"""The two stages: what chooses what, and when the test clips are looked at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tcaf.evaluation.parts
import tcaf.training.protocol
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.windows import Windows
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.evaluation.temperature import fit_temperature
from tcaf.settings.fidelity import Fidelity
from tcaf.settings.sections import ModelSettings
from tcaf.systems.interface import ClassEmbeddings, InputConfig, System
from tcaf.systems.registry import SYSTEMS, find_system
from tcaf.training.model_file import load_model
from tcaf.training.observers import EpochRecord, Observer, Silence
from tcaf.training.protocol import EpochDone, Finished, TwoStages, choose, timed_epoch
from tcaf.training.run import train


@pytest.fixture
def store(tiny_store):
    return tiny_store


@pytest.fixture
def protocol(tiny_experiment):
    """Sets up the two stages on a store, with some settings changed."""
    training = {"epochs": 3, "batches_per_epoch": 5, "learning_rate": 3e-3}

    def build(store, **changes):
        experiment = tiny_experiment(**{"training": training, **changes})
        return TwoStages(experiment, store, {"text": store.text("attributes")})

    return build


def record(epoch, harmonic_mean, rate=1.0, stage=1, gamma=0.4):
    scores = {"harmonic_mean": harmonic_mean, "gamma": gamma, "gamma_on_edge": False}
    return EpochRecord(stage, epoch, rate, {"loss": 1.0}, scores, 0.1)


def test_the_best_epoch_and_its_gamma_are_chosen_the_first_of_equals():
    records = (record(1, 0.2), record(2, 0.5, gamma=1.2), record(3, 0.5, gamma=0.8))
    assert (choose(records).epoch, choose(records).gamma) == (2, 1.2)


@pytest.mark.slow
def test_the_temperature_of_the_best_epoch_is_chosen(store, protocol):
    finished = next(event for event in protocol(store).run() if isinstance(event, Finished))
    kept = finished.choice.validation
    assert finished.choice.temperature == kept["temperature"] > 0
    old = record(1, 0.5)
    assert choose((old,)).temperature is None


@pytest.mark.slow
def test_temperature_is_fitted_where_an_epoch_is_the_best_so_far(store, protocol, monkeypatch):
    # HM of stage 1 by epoch: a new best, none, an equal, a new best.
    means = iter((0.4, 0.3, 0.4, 0.5))
    original = tcaf.training.protocol.evaluate_part

    def scripted(model, part, windows, **settings):
        result = original(model, part, windows, **settings)
        return (
            result if settings["gamma"] is not None else replace(result, harmonic_mean=next(means))
        )

    monkeypatch.setattr(tcaf.training.protocol, "evaluate_part", scripted)
    own = protocol(store, training={"epochs": 4})
    done = [e.record for e in own.run() if isinstance(e, EpochDone) and e.record.stage == 1]
    fitted = ["temperature" in (r.validation or {}) for r in done]
    assert fitted == [True, False, False, True]


def test_the_temperature_makes_validation_clips_likely(store, protocol):
    own = protocol(store)
    model = own.new_stage(1).model
    found = own.trust(model, 0.4).temperature
    part = own.validation
    clips = tcaf.evaluation.parts.distances(model, part, own.windows)
    fitted = fit_temperature(clips, part.labels, seen=part.classes.seen_ids, gamma=0.4)
    assert found == pytest.approx(fitted, rel=1e-6)


@pytest.mark.slow
def test_stage_2_trains_as_long_as_stage_1_needed(store, protocol):
    events = list(protocol(store).run())
    done = [event.record for event in events if isinstance(event, EpochDone)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert [r.epoch for r in done if r.stage == 1] == [1, 2, 3]
    assert [r.epoch for r in done if r.stage == 2] == list(range(1, finished.choice.epoch + 1))
    assert finished.choice == choose(tuple(r for r in done if r.stage == 1))
    assert finished.result.gamma == finished.choice.gamma
    assert not finished.result.gamma_on_edge


def test_the_release_trains_all_epochs_if_the_first_was_best(store, protocol):
    plain = protocol(store).experiment
    release = protocol(store, fidelity=Fidelity(stage_2_epochs="release")).experiment
    tcaf = find_system("tcaf")
    assert [tcaf.stage_2_epochs(plain, best)[-1] for best in (1, 2)] == [1, 2]
    assert [tcaf.stage_2_epochs(release, best)[-1] for best in (1, 2)] == [plain.training.epochs, 2]
    # Of a closed form the epoch that was best is the one to be solved.
    assert list(find_system("ridge").stage_2_epochs(release, 3)) == [3]


def test_without_training_validation_chooses_gamma_alone(store, protocol, monkeypatch, tmp_path):
    """One epoch a stage, which changes nothing; a run is kept, taken up and read as any other."""
    system = System("fixed", "Fixed", InputConfig, Fixed, training_free=True)
    monkeypatch.setitem(SYSTEMS, "fixed", system)
    own = protocol(store, system="fixed")
    *done, finished = own.run()
    assert [(event.record.stage, event.record.epoch) for event in done] == [(1, 1), (2, 1)]
    first = done[0].record.validation
    assert first["gamma"] == finished.choice.gamma == finished.result.gamma
    assert not own.experiment.data.average
    assert own.windows == own.system.windows(own.experiment, training=True) == Windows()

    class Stop(Silence):
        def stage_started(self, stage, epochs, done):
            if stage == 2:
                raise KeyboardInterrupt

    stored = replace(own.experiment, text=replace(own.experiment.text, name="attributes"))
    with pytest.raises(KeyboardInterrupt):
        train(stored, store, tmp_path / "r", observer=Stop())
    again = train(stored, store, tmp_path / "r", resume=True)
    assert again["test"]["harmonic_mean"] == finished.result.harmonic_mean
    assert load_model(tmp_path / "r").gamma == finished.choice.gamma


class Fixed(nn.Module):
    """Compares five numbers of the mean picture with five of the text; has no weights."""

    modalities = ("audio", "visual")

    def __init__(self, config):
        super().__init__()
        self.config = config

    def embed_text(self, text_embedding):
        return ClassEmbeddings(text_embedding[:, :5])

    def scores(self, batch, class_embedding):
        return torch.cdist(batch.visual.mean()[:, :5], class_embedding)


def test_records(store, protocol):
    first, second = (protocol(store).new_stage(number) for number in (1, 2))
    record = timed_epoch(first, 1, 0.5, Silence(), lambda: {"harmonic_mean": 0.25})
    assert (record.stage, record.epoch, record.learning_rate) == (1, 1, 0.5)
    assert record.validation == {"harmonic_mean": 0.25}
    assert record.seconds > 0
    assert EpochRecord(**record.to_json()) == record
    assert timed_epoch(second, 3, 0.5, Silence(), None).validation is None


def test_batches_are_reported_with_their_epoch(store, protocol):
    reports = []

    class Diary(Silence):
        def batch_done(self, epoch, batch, num_batches, losses):
            reports.append((epoch, batch, num_batches, losses["loss"]))

    record = timed_epoch(protocol(store).new_stage(1), 7, 1e-3, Diary(), None)
    assert reports == [(7, 5, 5, record.losses["loss"])]


def test_silence_is_an_observer():
    assert isinstance(Silence(), Observer)


def test_stage_2_replays_the_learning_rates_or_watches_validation(store, protocol):
    # Patience 3: the fourth epoch's record is the third without a better one.
    stage_1 = tuple(record(e, hm) for e, hm in enumerate((0.5, 0.4, 0.3, 0.2), start=1))
    rate = protocol(store).experiment.training.learning_rate
    own = protocol(store)
    first, second = own.new_stage(1), own.new_stage(2)
    assert own.learning_rate(first, stage_1[:3], 4) == rate
    assert own.learning_rate(first, stage_1, 5) == pytest.approx(rate / 10)
    dropped = (*stage_1, record(5, 0.6, rate=0.25))
    assert own.learning_rate(second, dropped, 5) == 0.25
    watching = protocol(store, fidelity=Fidelity(stage_2_schedule="validation"))
    assert watching.learning_rate(watching.new_stage(2), dropped, 5) == rate


@pytest.mark.slow
def test_a_few_clips_a_class_are_trained_on_and_all_are_tested(store, protocol):
    own = protocol(store, data={"clips_per_class": 2})
    for number, part in ((1, "stage_1_train"), (2, "stage_2_train")):
        rows = own.new_stage(number).part.rows
        assert set(rows) < set(store.rows("cls", part))
        counts = np.unique(store.class_names[rows], return_counts=True)[1]
        assert counts.tolist() == [2] * len(counts)
    everything = protocol(store)
    assert (own.validation.rows == everything.validation.rows).all()
    finished, of_all = ([*each.run()][-1] for each in (own, everything))
    assert len(finished.result.decisions.labels) == len(of_all.result.decisions.labels)


@pytest.mark.slow
def test_test_clips_are_looked_at_once_and_last(store, monkeypatch, protocol):
    seen = []
    original = tcaf.training.protocol.evaluate_part

    def spy(model, part, windows, **settings):
        seen.append((set(store.parts[part.rows]), settings["gamma"]))
        return original(model, part, windows, **settings)

    monkeypatch.setattr(tcaf.training.protocol, "evaluate_part", spy)
    gathered = []
    gather = type(store).gather
    monkeypatch.setattr(
        type(store),
        "gather",
        lambda self, rows, *a: gathered.append(rows) or gather(self, rows, *a),
    )
    choice = next(e for e in protocol(store).run() if isinstance(e, Finished)).choice
    assert [parts for parts, _ in seen] == [{"val_seen", "val_unseen"}] * 3 + [
        {"test_seen", "test_unseen"}
    ]
    assert [gamma for _, gamma in seen] == [None, None, None, choice.gamma]
    touched = [bool(set(store.parts[rows]) & {"test_seen", "test_unseen"}) for rows in gathered]
    assert touched == sorted(touched), "no clip of training or validation is read after a test clip"


def test_both_stages_start_anew_from_the_seed(store, protocol):
    own = protocol(store)
    first, again, second = own.new_stage(1), own.new_stage(1), own.new_stage(2)
    weight = "layers.0.attention.to_qkv.weight"
    assert torch.equal(first.model.state_dict()[weight], again.model.state_dict()[weight])
    assert not torch.equal(first.model.state_dict()[weight], second.model.state_dict()[weight])
    assert set(first.part.rows) < set(second.part.rows)
    assert len(second.part.class_text["text"]) > len(first.part.class_text["text"])


def write(path, clips, parts=("train", "val_unseen", "test_unseen")):
    spec = FeatureSpec(3, 5, 0.96, 0.64, "a", "v")
    with new_store(path, spec) as writer:
        for clip in clips:
            writer.add(clip)
        writer.splits["cls"] = Split(*((part,) for part in ("T", "V", "U")))
        writer.add_text("attributes", {name: np.eye(3)[i] for i, name in enumerate("TVU")})
    return tcaf.FeatureStore.open(path)


def clip(name, class_name, part, audio=2, visual=3):
    return VideoFeatures(name, np.ones((audio, 3)), np.ones((visual, 5)), class_name, part)


ALL = [
    clip("a", "T", "stage_1_train"),
    clip("b", "T", "val_seen"),
    clip("c", "V", "val_unseen"),
    clip("d", "T", "test_seen"),
    clip("e", "U", "test_unseen"),
]


@pytest.mark.parametrize("missing", range(5))
def test_every_part_needs_clips(tmp_path, missing, protocol):
    made = write(tmp_path / "s", ALL[:missing] + ALL[missing + 1 :])
    with pytest.raises(TCAFError, match=f"has no clips in {ALL[missing].part}"):
        protocol(made)


def test_a_clip_without_the_modality_in_use_is_named(tmp_path, protocol):
    made = write(tmp_path / "s", [*ALL, clip("silent", "T", "val_seen", audio=0)])
    protocol(made)
    with pytest.raises(TCAFError, match=r"clip 'silent' .* in val_seen have no audio token"):
        protocol(made, model=ModelSettings(modalities="audio"))


def test_a_class_in_a_part_that_must_not_see_it_is_refused(tmp_path, protocol):
    made = write(tmp_path / "s", [*ALL, clip("leak", "U", "stage_1_train")])
    with pytest.raises(TCAFError, match=r"split overlap: clip 'leak' of class 'U'"):
        protocol(made)


def test_a_class_without_text_is_named(store, protocol):
    text = store.text("attributes")
    del text[store.split("cls").test_unseen[0]]
    own = TwoStages(protocol(store).experiment, store, {"text": text})
    with pytest.raises(TCAFError, match=store.split("cls").test_unseen[0]):
        own.evaluation_part("test", own.split.stage_2)


def test_a_missing_gpu_is_said():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(TCAFError, match="torch finds no GPU"):
        tcaf.execution.devices.pick_device("cuda")
    assert tcaf.execution.devices.pick_device("auto") == torch.device("cpu")


def test_data_of_one_modality(sound_store, protocol):
    with pytest.raises(TCAFError, match=r"no visual features; set model\.modalities to 'audio'"):
        protocol(sound_store)
    with pytest.raises(TCAFError, match="'avca' learns from sound beside picture, and store"):
        protocol(sound_store, system="avca")
    assert protocol(sound_store, model={"modalities": "audio"}).new_stage(1).number == 1
