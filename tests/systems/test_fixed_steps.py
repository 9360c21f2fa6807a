"""Steps over batches of fixed shapes: equal to plain ones, and the same calls for each batch."""

from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from other_values import NO_DROPOUT
from tcaf.data.batches import FeatureBatch
from tcaf.data.filled import FilledPacked, FixedShape
from tcaf.data.packed import Packed
from tcaf.seeding import seeded
from tcaf.settings.experiment import Experiment
from tcaf.systems import fixed_steps
from tcaf.systems.fixed_steps import WARM_UP, FixedSteps, Recorder
from tcaf.systems.optimisers import Optimiser
from tcaf.systems.registry import configure, find_system

BOTH = ("audio", "visual")
LENS = [3, 0, 7, 2, 5], [4, 6, 0, 9, 1]
OTHERS = [1, 6, 0, 7, 3], [9, 2, 3, 0, 7]
"""Of the same shape."""

AUDIO_DIM, VISUAL_DIM, TEXT_DIM, NUM_CLASSES = 5, 7, 6, 4


def new_batch(lens, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def packed(each, dim):
        tokens = torch.rand(sum(each), dim, generator=generator, dtype=torch.float64)
        times = torch.cat([torch.arange(n) for n in each]).double()
        return Packed(tokens, torch.tensor(each), times)

    labels = torch.randint(NUM_CLASSES, (len(lens[0]),), generator=generator)
    return FeatureBatch(packed(lens[0], AUDIO_DIM), packed(lens[1], VISUAL_DIM), labels)


def filled(batch, modalities=BOTH, rest=3.0):
    shape = FixedShape.of(batch, modalities)
    held = shape.new_batch(batch)
    for modality in modalities:
        held.modality(modality).tokens.fill_(rest)
    shape.fill(held, batch)
    return held


class Learner:
    """A small model in training, in doubles, and its loss."""

    def __init__(self, system="tcaf", scaling="l2", **model):
        whole = Experiment(system=system)
        small = {"token_dim": 8, "num_layers": 3, "num_heads": 2, "head_dim": 4}
        self.experiment = replace(
            whole,
            model=replace(whole.model, **{**small, **NO_DROPOUT, **model}),
            fidelity=replace(whole.fidelity, visual_scaling=scaling),
        )
        found, dims = find_system(system), {"audio_dim": AUDIO_DIM, "visual_dim": VISUAL_DIM}
        config = configure(self.experiment, **dims, text_dim=TEXT_DIM)
        with seeded(0, "init"):
            self.model = found.model(config).double().train()
            self.text = torch.rand(NUM_CLASSES, TEXT_DIM, dtype=torch.float64)
        self.objective = found.objective

    def losses(self, batch):
        return self.objective(self.model, batch, None, self.text, self.experiment)

    def step(self, batch):
        """The loss, its gradients, and what the model keeps of the batch."""
        self.model.zero_grad()
        losses = self.losses(batch)
        losses.total.backward()
        grads = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        return losses.terms(), grads, dict(self.model.named_buffers())


def assert_equal(one, other):
    for first, second in zip(one, other, strict=True):
        assert list(first) == list(second)
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], atol=1e-10, rtol=1e-10)


CASES = [
    *({"attention": a, "class_token": c} for a in ("cross", "self", "full") for c in (True, False)),
    {"scaling": "l2_over_time"},
    {"system": "tcaf_cosine"},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_a_step_is_that_of_the_batch_as_it_is(settings):
    one, other = Learner(**settings), Learner(**settings)
    batch = new_batch(LENS)
    assert_equal(one.step(batch), other.step(filled(batch)))


@pytest.mark.parametrize("modality", BOTH)
def test_a_step_of_one_modality(modality):
    one, other = (Learner(modalities=modality) for _ in range(2))
    batch = new_batch(([3, 1, 7, 2, 5], [4, 6, 2, 9, 1]))
    assert_equal(one.step(batch.only(modality)), other.step(filled(batch, (modality,))))


@pytest.mark.slow
@pytest.mark.parametrize("settings", CASES, ids=str)
def test_what_was_traced_of_one_batch_is_right_for_another(settings):
    """So nothing that depends on a batch is looked at, or comes from anywhere but its tensors."""
    learner = Learner(**settings)
    parameters = [p for p in learner.model.parameters() if p.requires_grad]

    def tensors(batch):
        parts = [batch.audio, batch.visual]
        return [*(t for p in parts for t in (p.tokens, p.lens, p.times)), batch.labels]

    first, second = filled(new_batch(LENS)), filled(new_batch(OTHERS, seed=1))
    rooms = first.audio.room, first.visual.room
    assert rooms == (second.audio.room, second.visual.room)

    def compute(*given):
        packed = [FilledPacked(*given[3 * n : 3 * n + 3], rooms[n]) for n in (0, 1)]
        losses = learner.losses(FeatureBatch(*packed, given[-1]))
        grads = torch.autograd.grad(losses.total, parameters, allow_unused=True)
        return [losses.total.detach(), *(g for g in grads if g is not None)]

    traced = make_fx(compute)(*tensors(first))
    expected = Learner(**settings).step(new_batch(OTHERS, seed=1))
    found = traced(*tensors(second))
    torch.testing.assert_close(found[0], expected[0]["loss"], atol=1e-10, rtol=1e-10)
    for one, other in zip(found[1:], expected[1].values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


# --- When what is recorded ---


class Played(Recorder):
    """Records as a GPU does: over the same memory, what comes out of it too."""

    def __init__(self, warm_up=0):
        self.warmed, self.recorded, self.played, self.forgotten = 0, 0, 0, 0
        self.left = warm_up

    @property
    def is_ready(self):
        return self.warmed >= self.left

    def warm(self, step):
        self.warmed += 1
        return step()

    def forget(self):
        self.forgotten += 1

    def record(self, step):
        self.recorded += 1
        kept = {}

        def play():
            self.played += 1
            for name, value in step().items():
                kept.setdefault(name, torch.empty_like(value)).copy_(value)
            return kept

        return play


def fixed_steps_of(learner, recorder):
    steps = torch.optim.SGD(learner.model.parameters(), lr=0.0)
    optimiser = Optimiser(steps, lambda epoch, scores: 0.0)
    return FixedSteps(learner.losses, optimiser, BOTH, torch.device("cpu"), recorder)


def plain_steps(learner, batches, rate):
    steps = torch.optim.SGD(learner.model.parameters(), lr=0.0)
    optimiser, found = Optimiser(steps, lambda epoch, scores: 0.0), []
    for batch in batches:
        losses = learner.losses(batch)
        optimiser.step(losses.total, rate)
        found.append(losses.terms())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("recorder", [Recorder, Played, lambda: Played(WARM_UP)])
def test_steps_one_after_another(recorder):
    """Two shapes that take turns, and a batch that is taken as it is."""
    small = [2, 1, 1, 2, 1], [1, 2, 1, 1, 3]
    nothing = [0, 0, 0, 0, 0], [1, 2, 1, 1, 3]
    lens = [LENS, OTHERS, small, LENS, nothing, small, OTHERS, LENS]
    batches = [new_batch(each, seed) for seed, each in enumerate(lens)]
    one, other = Learner(), Learner()
    fixed = fixed_steps_of(other, recorder())
    assert_equal(plain_steps(one, batches, 0.001), [fixed.step(batch, 0.001) for batch in batches])
    assert_equal([one.model.state_dict()], [other.model.state_dict()])


def test_a_shape_is_recorded_once_after_some_steps():
    recorder = Played(warm_up=2)
    fixed = fixed_steps_of(Learner(), recorder)
    for seed in range(6):
        fixed.step(new_batch(LENS, seed), 0.1)
    assert (recorder.warmed, recorder.recorded, recorder.played) == (2, 1, 4)


def test_another_learning_rate_or_state_is_recorded_anew():
    recorder = Played()
    learner = Learner()
    fixed = fixed_steps_of(learner, recorder)
    for rate in (0.1, 0.1, 0.01):
        fixed.step(new_batch(LENS), rate)
    assert recorder.recorded == 2
    before = recorder.forgotten
    fixed.forget()
    assert recorder.forgotten == before + 1
    assert not [p for p in learner.model.parameters() if p.grad is not None]
    fixed.step(new_batch(LENS), 0.01)
    assert recorder.recorded == 3


def test_so_many_shapes_are_kept(monkeypatch):
    monkeypatch.setattr(fixed_steps, "MOST_SHAPES", 1)
    recorder = Played()
    fixed = fixed_steps_of(Learner(), recorder)
    small = [2, 1], [1, 2]
    for lens in (LENS, LENS, small, LENS, small):
        fixed.step(new_batch(lens), 0.1)
    assert (recorder.recorded, recorder.played, recorder.warmed) == (1, 2, 3)


def test_terms_are_not_overwritten():
    fixed = fixed_steps_of(Learner(), Played())
    first = fixed.step(new_batch(LENS), 0.1)
    kept = {name: float(value) for name, value in first.items()}
    fixed.step(new_batch(LENS, seed=1), 0.1)
    assert {name: float(value) for name, value in first.items()} == kept


# --- That a GPU could record it ---


class OnOneDevice(TorchDispatchMode):
    """Sees that nothing comes from another device, or goes there."""

    def __init__(self, device):
        super().__init__()
        self.device, self.asked = device, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.asked += 1
        for each in tree_leaves((args, kwargs, found)):
            if isinstance(each, torch.Tensor):
                assert each.device.type == self.device, f"{function} on {each.device}"
        return found


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_a_step_looks_at_nothing(settings):
    """Tensors of this device have shapes and no content; dropout is as on a GPU."""
    learner = Learner(**settings, dropout_encoder=0.3, dropout_transformer=0.3)
    learner.model.to("meta")
    learner.text = learner.text.to("meta")
    held = filled(new_batch(LENS))
    parts = [
        FilledPacked(*(t.to("meta") for t in (p.tokens, p.lens, p.times)), p.room)
        for p in (held.audio, held.visual)
    ]
    batch = FeatureBatch(*parts, held.labels.to("meta"))
    with OnOneDevice("meta") as watched:
        losses = learner.losses(batch)
        losses.total.backward()
    assert watched.asked > 100
    some = [p.grad for p in learner.model.parameters() if p.grad is not None]
    assert some
    assert {grad.device.type for grad in some} == {"meta"}
