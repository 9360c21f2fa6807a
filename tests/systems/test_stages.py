import math
import re
from dataclasses import replace

import pytest
import torch

from other_values import NO_DROPOUT
from tcaf.data.batches import load_batch
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.execution.ranks import Rank
from tcaf.settings.experiment import Experiment
from tcaf.settings.fidelity import Fidelity
from tcaf.systems.interface import System
from tcaf.systems.losses import tcaf_losses
from tcaf.systems.optimisers import Optimiser
from tcaf.systems.registry import SYSTEMS, find_system
from tcaf.systems.ridge import Ridge, RidgeConfig, RidgeFit
from tcaf.systems.stages import ClosedFormStage, DescentStage, Stage, TrainingFreeStage
from tcaf.systems.tcaf import tcaf_objective
from tcaf.training.protocol import TwoStages

DESCENDING = [name for name, system in SYSTEMS.items() if system.objective is not None]


@pytest.fixture(scope="module")
def stage(tiny_store, tiny_experiment):
    """Builds a new stage; what differs from `tiny_experiment` is given."""
    text = {"text": tiny_store.text("attributes")}

    def build(number=1, **changes):
        return TwoStages(tiny_experiment(**changes), tiny_store, text).new_stage(number)

    return build


class Diary:
    """Keeps what is reported."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch, num_batches, losses):
        self.batches.append((batch, num_batches, losses))


def train(stage, epochs=(1, 2), rate=1e-3):
    return [stage.run_epoch(epoch, rate) for epoch in epochs]


def same(one, other):
    assert list(one) == list(other)
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_same_seed_same_weights(stage):
    first, second = stage(), stage()
    assert train(first) == train(second)
    assert same(first.state(), second.state())


def test_everything_random_follows_from_the_seed(stage):
    first = stage()
    torch.manual_seed(99)
    second = stage()
    torch.manual_seed(98)
    before = torch.random.get_rng_state()
    train(second)
    assert torch.equal(torch.random.get_rng_state(), before)
    train(first)
    assert same(first.state(), second.state())


@pytest.mark.parametrize("change", [{"seed": 1}, {"number": 2}])
def test_another_seed_or_stage_starts_elsewhere(stage, change):
    first, second = stage(), stage(**change)
    assert not torch.equal(first.model.class_token, second.model.class_token)


def test_another_seed_draws_other_batches_windows_and_dropout(stage):
    first, second = stage(), stage(seed=1)
    second.model.load_state_dict(first.model.state_dict())
    assert train(first, [1]) != train(second, [1])


def test_an_epoch_is_no_repetition_of_the_last(stage):
    one, two = stage(), stage()
    assert train(one, [1], rate=0.0) != train(two, [2], rate=0.0)


@pytest.mark.slow
def test_going_on_from_a_state_changes_nothing(stage):
    whole = stage()
    train(whole, [1])
    kept = whole.state()
    copies = {name: value.clone() for name, value in kept.items()}
    train(whole, [2, 3])
    # What was kept is of its epoch, whatever the stage has done since.
    assert same(kept, copies)
    for _ in range(2):
        taken_up = stage()
        taken_up.load_state(kept, 1)
        train(taken_up, [2, 3])
        assert same(taken_up.state(), whole.state())
    assert same(kept, copies)


def test_state_names_everything_that_training_changes(stage):
    made = stage()
    train(made, [1])
    state = made.state()
    assert {n for n in state if n.startswith("model.")} == {
        f"model.{name}" for name in made.model.state_dict()
    }
    parameters = [p for p in made.model.parameters() if p.grad is not None]
    averages = [name for name in state if name.startswith("optimiser.")]
    assert len(averages) == 3 * len(parameters)
    assert {name.rpartition(".")[2] for name in averages} == {"step", "exp_avg", "exp_avg_sq"}


MODERN = {
    "optimiser": "adamw",
    "weight_decay": 0.1,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "clip_norm": 0.5,
    "epochs": 5,
}


@pytest.mark.slow
def test_going_on_with_another_optimiser_changes_nothing(stage):
    whole, taken_up = stage(training=MODERN), stage(training=MODERN)

    def rated(made, epochs):
        return [made.run_epoch(epoch, made.learning_rate(epoch, [])) for epoch in epochs]

    rated(whole, [1, 2])
    taken_up.load_state(whole.state(), 2)
    assert rated(whole, [3, 4]) == rated(taken_up, [3, 4])
    assert same(taken_up.state(), whole.state())


def test_a_state_of_before_there_was_a_choice(stage):
    """The averages were named after Adam, the only optimiser there was."""
    whole, taken_up = stage(), stage()
    train(whole, [1])
    old = {re.sub("^optimiser", "adam", name): t for name, t in whole.state().items()}
    assert "adam.0.exp_avg" in old
    taken_up.load_state(old, 1)
    train(whole, [2])
    train(taken_up, [2])
    assert same(taken_up.state(), whole.state())


def test_a_system_brings_its_own_optimiser(stage, monkeypatch):
    """Gradient descent with momentum, at a rate of its own choice."""

    def own(model, experiment):
        steps = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
        return Optimiser(steps, lambda epoch, scores: 0.01 * epoch + len(scores))

    monkeypatch.setitem(SYSTEMS, "tcaf", replace(SYSTEMS["tcaf"], optimiser=own))
    whole, taken_up = stage(), stage()
    assert whole.learning_rate(3, [0.5]) == pytest.approx(1.03)
    train(whole, [1])
    assert "optimiser.0.momentum_buffer" in whole.state()
    taken_up.load_state(whole.state(), 1)
    assert train(whole, [2]) == train(taken_up, [2])
    assert same(taken_up.state(), whole.state())


@pytest.mark.slow
def test_training_lowers_the_loss(stage):
    made = stage(training={"batches_per_epoch": 31, "batch_size": 31})
    losses = [record["loss"] for record in train(made, range(1, 5), rate=3e-3)]
    assert losses[-1] < 0.8 * losses[0]
    assert made.model.training


def test_learning_rate_is_the_one_given(stage):
    made = stage()
    before = {n: p.clone() for n, p in made.model.named_parameters()}
    train(made, [1], rate=0.0)
    assert same(before, dict(made.model.named_parameters()))
    train(made, [1], rate=1e-3)
    assert not same(before, dict(made.model.named_parameters()))


def test_parts_and_labels(stage, tiny_store):
    for number, seen in (
        (1, tiny_store.split("cls").stage_1),
        (2, tiny_store.split("cls").stage_2),
    ):
        part = stage(number).part
        names = sorted(seen.seen)
        text = tiny_store.text("attributes")
        for row, label in zip(part.rows, part.labels, strict=True):
            assert names[label] == tiny_store.class_names[row]
            expected = torch.from_numpy(text[names[label]])
            assert torch.equal(part.class_text["text"][label], expected)
        assert len(part.class_text["text"]) == len(names)


@pytest.mark.slow
def test_reports_are_running_means(stage):
    """With a learning rate of 0 and no dropout, a batch's losses can be computed again."""
    made = stage(training={"batches_per_epoch": 23}, model=NO_DROPOUT)
    diary = Diary()
    means = made.run_epoch(1, 0.0, diary)
    assert [report[:2] for report in diary.batches] == [(10, 23), (20, 23), (23, 23)]
    assert diary.batches[-1][2] == means
    assert list(means) == ["loss", "cross_entropy", "regression", "reconstruction"]
    assert means["loss"] == pytest.approx(sum(list(means.values())[1:]))
    draw = [drawn(made, number) for number in range(23)]
    singles = [objective_of(made, rows, labels).item() for rows, labels in draw]
    assert means["loss"] == pytest.approx(sum(singles) / 23, rel=1e-4)
    assert diary.batches[0][2]["loss"] == pytest.approx(sum(singles[:10]) / 10, rel=1e-4)


def drawn(stage, number):
    """The clips of one batch of the first epoch, and their labels."""
    from tcaf.seeding import generator

    settings = stage.experiment.training
    draw = generator(stage.experiment.seed, "batches", "stage_1", 1)
    chosen = stage.sampler.draw(settings.batches_per_epoch, settings.batch_size, draw)[number]
    return stage.part.rows[chosen], stage.part.labels[chosen]


def objective_of(stage, rows, labels):
    batch = load_batch(stage.part.store, rows, stage.part.windows, labels=labels)
    with torch.no_grad():
        text = stage.part.class_text["text"]
        return tcaf_objective(stage.model, batch, None, text, stage.experiment).total


@pytest.mark.parametrize("statistics", ["classes", "clips"])
def test_objective_by_its_parts(stage, statistics):
    made = stage(fidelity={"text_statistics": statistics}, model=NO_DROPOUT)
    made.model.train()
    rows, labels = drawn(made, 0)
    batch = load_batch(made.part.store, rows, made.part.windows, labels=labels)
    words = made.part.class_text["text"]
    with torch.no_grad():
        video, text = made.model(batch), made.model.embed_text(words)
        own = made.model.embed_text(words[batch.labels])
        # In training mode the batch's own statistics count, so that the two differ.
        assert not torch.allclose(own.class_embedding, text.class_embedding[batch.labels])
        theta_w, rho_w = (
            (text.class_embedding[batch.labels], text.text_reconstruction[batch.labels])
            if statistics == "classes"
            else (own.class_embedding, own.text_reconstruction)
        )
        expected = tcaf_losses(
            video.video_embedding,
            video.video_reconstruction,
            text.class_embedding,
            text.text_reconstruction,
            words,
            batch.labels,
            clip_class_embedding=theta_w,
            clip_text_reconstruction=rho_w,
        )
    assert objective_of(made, rows, labels).item() == pytest.approx(expected.total.item())


@pytest.mark.parametrize("system", ["tcaf", "avgzslnet"])
def test_clips_are_expected_a_batch_ahead(stage, monkeypatch, system):
    """Of triplets both batches are, in windows that are drawn alike."""
    built = stage(system=system, training={"window_s": 4.0, "batches_per_epoch": 3})
    events = []

    def note(kind, real):
        def noted(store, rows, modality, first, lens):
            events.append((kind, (modality, rows.tolist(), first.tolist(), lens.tolist())))
            return real(store, rows, modality, first, lens)

        return noted

    for kind in ("expect", "gather"):
        monkeypatch.setattr(FeatureStore, kind, note(kind, getattr(FeatureStore, kind)))
    built.run_epoch(1, 1e-3)
    batches = 2 if system == "avgzslnet" else 1
    kinds = [kind for kind, _ in events]
    of_batch = 2 * batches
    assert kinds == [
        *["expect"] * of_batch,
        *(["expect"] * of_batch + ["gather"] * of_batch) * 2,
        *["gather"] * of_batch,
    ]
    expected, asked = ([what for kind, what in events if kind == k] for k in ("expect", "gather"))
    assert expected == asked


def test_windows_of_training(stage):
    assert stage().part.windows == Windows(place="random")
    official = stage(fidelity=Fidelity.official(), training={"window_s": 3.0}).part.windows
    # Training has always counted seconds, also in the release.
    assert (official.times, official.restart, official.release_audio_len) == ("seconds", True, True)
    assert official.window_s == 3


def test_a_loss_that_is_not_a_number(stage):
    made = stage()
    made.model.class_token.data.fill_(math.nan)
    message = r"stage 1, epoch 7: the loss became nan; lower training\.learning_rate or check"
    with pytest.raises(TCAFError, match=message):
        made.run_epoch(7, 1e-3)


def test_nothing_to_train_on(stage, tiny_store):
    for system in ("tcaf", "ridge"):
        made, own = stage(), find_system(system)
        empty = replace(made.part, rows=made.part.rows[:0], labels=made.part.labels[:0])
        message = "stage 2 has no clips to train on"
        with pytest.raises(TCAFError, match=message):
            own.stage(made.model, empty, made.experiment, 2)


def test_a_batch_that_leaves_one_row(stage):
    """Two clips a batch, but one seen class: W_proj has a single row."""
    made = stage()
    part = made.part
    of_one = part.labels == part.labels[0]
    labels, text = part.labels[of_one] * 0, part.class_text.select([0])
    made.part = replace(part, rows=part.rows[of_one], labels=labels, class_text=text)
    made.sampler = replace(made.sampler, labels=labels)
    with pytest.raises(TCAFError, match="at least two classes"):
        train(made)


@pytest.mark.slow
@pytest.mark.parametrize("system", [n for n in DESCENDING if n != "clipclap"])
def test_products_in_bfloat16_change_little(stage, system):
    """Losses by some per cent at most, in steps that follow one another; weights are float32."""
    found = {}
    for precision in ("float32", "tf32", "bfloat16"):
        made = stage(system=system, training={"precision": precision})
        found[precision] = [record["loss"] for record in train(made)]
        assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert found["tf32"] == pytest.approx(found["float32"], rel=1e-2)
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=5e-2)
    assert found["bfloat16"] != found["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("system", ["tcaf", "tcaf_cosine"])
@pytest.mark.parametrize("window_s", [None, 1.5])
def test_fixed_shapes_change_nothing_but_rounding(stage, system, window_s):
    settings = {"window_s": window_s, "clip_norm": 1.0}
    plain = stage(system=system, model=NO_DROPOUT, training=settings)
    fixed = stage(system=system, model=NO_DROPOUT, training={**settings, "static_shapes": True})
    for one, other in zip(train(plain), train(fixed), strict=True):
        assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_going_on_with_fixed_shapes(stage):
    """With dropout, and a learning rate that changes; averages of before are let go of."""
    settings = {"training": {"static_shapes": True}}
    whole, again = stage(**settings), stage(**settings)
    train(whole, [1])
    kept = whole.state()
    train(whole, [2], rate=1e-4)
    train(again, [1, 2])
    again.load_state(kept, 1)
    train(again, [2], rate=1e-4)
    assert same(again.state(), whole.state())


def test_fixed_shapes_are_for_some_systems_and_one_process(stage, monkeypatch):
    settings = {"training": {"static_shapes": True}}
    names = [name for name in DESCENDING if name != "clipclap"]
    taking = [name for name in names if stage(system=name, **settings).fixed]
    assert taking == ["tcaf", "tcaf_cosine"]
    monkeypatch.setattr("tcaf.execution.ranks.current", lambda: Rank(0, 2))
    with pytest.raises(TCAFError, match=r"training\.static_shapes is for one process alone"):
        stage(**settings)


class SlowGlimpse:
    """Numbers that are ready when they are asked for a third time, as of a busy GPU."""

    def __init__(self, numbers):
        self.numbers, self.asked = numbers.tolist(), 0

    @property
    def is_ready(self):
        self.asked += 1
        return self.asked > 2

    def look(self):
        assert self.asked > 2, "an epoch waits for nothing"
        return self.numbers


@pytest.mark.slow
def test_reports_come_when_they_are_ready(stage, monkeypatch):
    """Of the tenth batch at the twelfth, then of the twentieth; the last one is waited for."""
    plain, late = (stage(training={"batches_per_epoch": 23}) for _ in range(2))
    soon, later = Diary(), Diary()
    plain.run_epoch(1, 1e-3, soon)
    monkeypatch.setattr("tcaf.systems.stages.Glimpse", SlowGlimpse)
    late.run_epoch(1, 1e-3, later)
    assert later.batches == soon.batches
    assert [report[0] for report in later.batches] == [10, 20, 23]


# --- Negatives ---

TRIPLETS = ("cjme", "avgzslnet", "avca")


@pytest.mark.parametrize("system", TRIPLETS)
def test_negatives_are_of_other_classes_and_drawn_anew(stage, system):
    made, pairs = stage(system=system), []
    original = made.step.objective

    def spy(model, batch, negatives, text_embedding, experiment):
        pairs.append((batch, negatives))
        return original(model, batch, negatives, text_embedding, experiment)

    made.step.objective = spy
    train(made)
    assert len(pairs) == 2 * 3
    for batch, negatives in pairs:
        assert len(batch) == len(negatives) == 11
        assert (batch.labels != negatives.labels).all()
        # Time averages: one token a clip.
        assert set(batch.audio.lens.tolist()) <= {0, 1}
    assert len({tuple(negatives.labels.tolist()) for _, negatives in pairs}) == 6
    # The draw of the batches is that of a system without.
    assert pairs[0][0].labels.tolist() == drawn(made, 0)[1].tolist()


def test_a_system_without_triplets_gets_no_negatives(stage):
    made, given = stage(), []

    def spy(model, batch, negatives, text_embedding, experiment):
        given.append(negatives)
        return tcaf_objective(model, batch, negatives, text_embedding, experiment)

    made.step.objective = spy
    train(made, [1])
    assert given == [None] * 3


@pytest.mark.parametrize("system", TRIPLETS)
def test_triplets_go_on_from_a_state(stage, system):
    whole, taken_up = stage(system=system), stage(system=system)
    train(whole, [1])
    taken_up.load_state(whole.state(), 1)
    assert train(whole, [2]) == train(taken_up, [2])
    assert same(taken_up.state(), whole.state())


# --- In closed form ---


@pytest.fixture(scope="module")
def fitted(stage):
    def build(number=1, **changes):
        return stage(number, system="ridge", **changes)

    return build


def test_a_fit_is_a_stage(fitted):
    made = fitted()
    assert isinstance(made, ClosedFormStage)
    assert isinstance(made, Stage)
    assert not isinstance(made, DescentStage)


def test_all_clips_are_read_once(fitted, monkeypatch):
    made, diary, read = fitted(evaluation={"batch_size": 31}), Diary(), []

    def spy(store, rows, windows, **given):
        read.append((rows.tolist(), given["labels"].tolist(), windows))
        return load_batch(store, rows, windows, **given)

    monkeypatch.setattr("tcaf.systems.training_parts.load_batch", spy)
    for epoch in (1, 2, 5):
        made.run_epoch(epoch, 1e-3, diary)
    rows = [row for chunk, _, _ in read for row in chunk]
    assert rows == made.part.rows.tolist()
    assert [label for _, chunk, _ in read for label in chunk] == made.part.labels.tolist()
    assert all(windows == Windows(average=True) for _, _, windows in read)
    count = -(-len(rows) // 31)
    assert diary.batches == [(number, count, {}) for number in range(1, count + 1)]


def test_a_fit_is_what_ridge_finds(fitted):
    made = fitted()
    part = made.part
    record = made.run_epoch(3, 1e-3)
    batch = load_batch(part.store, part.rows, Windows(average=True), labels=part.labels)
    other = Ridge(made.model.config)
    found = RidgeFit(other, [batch], part.class_text["text"]).solve(3)
    assert record == pytest.approx(found)
    torch.testing.assert_close(made.model.weight, other.weight)
    assert not made.model.weight.requires_grad


def test_a_fit_goes_on_from_any_epoch(fitted):
    """Nothing is kept between epochs: the last one is solved again."""
    whole, taken_up = fitted(), fitted()
    train(whole, [1, 2])
    second = {name: value.clone() for name, value in whole.model.state_dict().items()}
    assert whole.state() == {}
    (third,) = train(whole, [3])
    taken_up.load_state({}, 2)
    assert same(taken_up.model.state_dict(), second)
    assert train(taken_up, [3]) == [third]
    assert same(taken_up.model.state_dict(), whole.model.state_dict())


def test_a_fit_depends_on_neither_seed_nor_rate(fitted):
    one, other, more = fitted(), fitted(seed=1), fitted(2)
    assert train(one, [2], rate=1.0) == train(other, [2], rate=1e-7)
    assert same(one.state(), other.state())
    # Stage 2 has clips of more classes.
    assert train(more, [2]) != train(one, [2])


def test_a_fit_may_read_sequences_with_their_times(stage, tiny_store, monkeypatch):
    """One pass over whole clips, timed as they will be at evaluation."""
    given = []

    class Reader:
        def __init__(self, model, batches, text_embedding):
            given.extend(batches)

        def solve(self, epoch):
            return {"loss": 0.0}

    own = System("reader", "Reader", RidgeConfig, Ridge, fit=Reader)
    monkeypatch.setitem(SYSTEMS, "reader", own)
    window = {"window_s": 2.0}
    made = stage(system="reader", training=window, evaluation={**window, "batch_size": 31})
    assert made.part.windows == Windows()
    train(made)
    assert sum(len(batch) for batch in given) == len(made.part.rows)
    lens = tiny_store.lens("visual")[made.part.rows].tolist()
    assert [n for batch in given for n in batch.visual.lens.tolist()] == lens
    first = given[0].visual.times[: lens[0]].tolist()
    assert first == pytest.approx([0.64 * i for i in range(lens[0])])


# --- Without training ---


def test_a_stage_without_training(stage):
    made = TrainingFreeStage(stage().model, 2, Experiment())
    assert isinstance(made, Stage)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    diary = Diary()
    assert made.run_epoch(1, 1.0, diary) == {"loss": 0.0}
    assert diary.batches == []
    kept = made.state()
    assert same({name.removeprefix("model."): value for name, value in kept.items()}, before)
    other = TrainingFreeStage(stage(seed=1).model, 2, Experiment())
    other.load_state(kept, 1)
    assert same(other.state(), kept)
