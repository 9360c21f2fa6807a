from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.seeding import generator
from tcaf.systems.registry import configure
from tcaf.systems.ridge import Ridge, RidgeConfig, RidgeFit
from tcaf.training.model_file import load_model
from tcaf.training.observers import Silence
from tcaf.training.protocol import EpochDone, Finished, TwoStages
from tcaf.training.run import Run, train

AUDIO, VISUAL, TEXT_DIM, CLASSES, CLIPS = 3, 5, 7, 11, 23
TEXT = F.normalize(torch.randn(CLASSES, TEXT_DIM, generator=generator(0, "text")), dim=1)


def build(**settings):
    dims = {"audio_dim": AUDIO, "visual_dim": VISUAL, "text_dim": TEXT_DIM}
    return Ridge(RidgeConfig(**dims, **settings))


def clips(labels, seed=0, *, spread=1.0, lens=(1, 2, 4)):
    """Clips of one to four tokens a modality around a place of their class."""
    counts = torch.tensor([lens[i % len(lens)] for i in range(len(labels))])
    packed = {}
    for name, dim in (("audio", AUDIO), ("visual", VISUAL)):
        places = torch.randn(CLASSES, dim, generator=generator(0, name))
        noise = torch.randn(int(counts.sum()), dim, generator=generator(seed, name))
        packed[name] = Packed(
            places[labels.repeat_interleave(counts)] + spread * noise,
            counts,
            torch.zeros(int(counts.sum())),
        )
    return FeatureBatch(**packed, labels=labels)


LABELS = torch.arange(CLIPS) * 5 % CLASSES


def features_by_loop(batch):
    """Each clip's mean audio and mean visual token, each of length 1, side by side."""
    rows = []
    for clip in range(len(batch)):
        row = []
        for name in ("audio", "visual"):
            lens = batch.modality(name).lens.tolist()
            start = sum(lens[:clip])
            tokens = batch.modality(name).tokens[start : start + lens[clip]].double().numpy()
            mean = (
                tokens.mean(axis=0)
                if len(tokens)
                else np.zeros(batch.modality(name).tokens.shape[1])
            )
            row.append(mean / max(np.linalg.norm(mean), 1e-12))
        rows.append(np.concatenate(row))
    return np.stack(rows)


@pytest.mark.slow
def test_one_number_by_hand():
    """Audio 1 and -1 at unit length, no visual; text 3 and 1; lambda 1.

    The means are 0 and 2, so b = 2. W = mean(x w) / (mean(x x) + 1) = ((3 - 1) / 2) / 2 = 1/2:
    predicted are 2.5 and 1.5 where 3 and 1 are wanted, each off by 1/2, a squared error of 1/4.
    """
    model = Ridge(RidgeConfig(audio_dim=1, visual_dim=1, text_dim=1))
    ones, none = torch.tensor([1, 1]), torch.tensor([0, 0])
    batch = FeatureBatch(
        Packed(torch.tensor([[5.0], [-9.0]]), ones, torch.zeros(2)),
        Packed(torch.zeros(0, 1), none, torch.zeros(0)),
        labels=torch.tensor([0, 1]),
    )
    solved = RidgeFit(model, [batch], torch.tensor([[3.0], [1.0]])).solve(1)
    assert solved == pytest.approx({"loss": 0.25, "lambda": 1.0})
    assert model.weight.tolist() == [[0.5], [0.0]]
    assert model.bias.tolist() == [2.0]
    assert model.centre.tolist() == [2.0]


@pytest.mark.parametrize("epoch", [1, 4, 9])
def test_it_is_least_squares_on_the_augmented_system(epoch):
    """Rows of sqrt(n lambda) I below the clips, 0 their target; 1 as an unshrunk feature."""
    batch = clips(LABELS)
    model = build(strongest=0.7, ratio=0.3)
    found = RidgeFit(model, [batch], TEXT).solve(epoch)
    x, w = features_by_loop(batch), TEXT[LABELS].double().numpy()
    strength = 0.7 * 0.3 ** (epoch - 1)
    width = AUDIO + VISUAL
    left = np.block(
        [
            [x, np.ones((CLIPS, 1))],
            [np.sqrt(CLIPS * strength) * np.eye(width), np.zeros((width, 1))],
        ]
    )
    right = np.concatenate([w, np.zeros((width, TEXT_DIM))])
    solution, *_ = np.linalg.lstsq(left, right, rcond=None)
    np.testing.assert_allclose(model.weight.numpy(), solution[:-1], atol=1e-5)
    np.testing.assert_allclose(model.bias.numpy(), solution[-1], atol=1e-5)
    errors = x @ solution[:-1] + solution[-1] - w
    assert found["loss"] == pytest.approx((errors**2).sum(axis=1).mean(), abs=1e-9)
    assert found["lambda"] == pytest.approx(strength)
    np.testing.assert_allclose(model.centre.numpy(), w.mean(axis=0), atol=1e-6)


def test_streaming_is_one_batch():
    model, whole = build(), build()
    parts = [clips_of(rows) for rows in (range(3), range(3, 4), range(4, 11), range(11, CLIPS))]
    streamed = RidgeFit(model, iter(parts), TEXT).solve(3)
    together = RidgeFit(whole, [clips(LABELS)], TEXT).solve(3)
    assert streamed == pytest.approx(together)
    torch.testing.assert_close(model.weight, whole.weight)
    torch.testing.assert_close(model.bias, whole.bias)


def clips_of(rows):
    """Some clips of `clips(LABELS)`."""
    batch, chosen = clips(LABELS), list(rows)
    packed = {}
    for name in ("audio", "visual"):
        lens = batch.modality(name).lens
        starts = (lens.cumsum(0) - lens).tolist()
        kept = [starts[r] + i for r in chosen for i in range(int(lens[r]))]
        packed[name] = Packed(
            batch.modality(name).tokens[kept],
            lens[chosen],
            batch.modality(name).times[kept],
        )
    return FeatureBatch(**packed, labels=LABELS[chosen])


def test_an_epoch_is_its_lambda_whatever_ran_before():
    batch, one, other = clips(LABELS), build(), build()
    late = RidgeFit(one, [batch], TEXT).solve(7)
    fit = RidgeFit(other, [batch], TEXT)
    each = [fit.solve(epoch) for epoch in (1, 9, 2, 7)]
    assert each[-1] == late
    assert torch.equal(one.weight, other.weight)
    assert [found["lambda"] for found in each] == [1, 0.5**8, 0.5, 0.5**6]
    # Less regularisation fits the training clips better.
    assert each[0]["loss"] > each[2]["loss"] > each[3]["loss"] > each[1]["loss"] > 0


def test_directions_that_no_clip_has_do_no_harm():
    """One clip has no covariance: weights stay 0 at any lambda, the answer is its class."""
    model = build()
    solved = RidgeFit(model, [clips(LABELS[:1])], TEXT).solve(60)
    assert model.weight.abs().max() < 1e-3
    torch.testing.assert_close(model.bias, TEXT[LABELS[0]], atol=1e-3, rtol=0)
    assert solved["loss"] == pytest.approx(0, abs=1e-6)


def test_scores_by_hand():
    """The angle between predicted text and class text, both seen from (1, 0).

    Unit audio is 1 and gives W x + b = (1, 0) + (0, 2), which lies straight above the centre. Of
    the classes one lies in the same direction, one to the right, one below: cosines 1, 0 and -1.
    """
    model = Ridge(RidgeConfig(audio_dim=1, visual_dim=1, text_dim=2))
    model.weight.copy_(torch.tensor([[0.0, 2.0], [7.0, 7.0]]))
    model.bias.copy_(torch.tensor([1.0, 0.0]))
    model.centre.copy_(torch.tensor([1.0, 0.0]))
    batch = FeatureBatch(
        Packed(torch.tensor([[3.0]]), torch.tensor([1]), torch.zeros(1)),
        Packed(torch.zeros(0, 1), torch.tensor([0]), torch.zeros(0)),
    )
    classes = model.embed_text(torch.tensor([[1.0, 5.0], [4.0, 0.0], [1.0, -0.5]]))
    assert classes.class_embedding.tolist() == [[0, 1], [1, 0], [0, -1]]
    assert model.scores(batch, classes.class_embedding).tolist() == [[0, 1, 2]]


def test_angles_from_the_origin():
    batch, model = clips(LABELS), build(cosine_from="origin")
    RidgeFit(model, [batch], TEXT).solve(3)
    assert not model.centre.any()
    predicted = torch.from_numpy(features_by_loop(batch)).float() @ model.weight + model.bias
    expected = 1 - F.cosine_similarity(predicted[:, None], TEXT[None], dim=2)
    found = model.scores(batch, model.embed_text(TEXT).class_embedding)
    torch.testing.assert_close(found, expected)
    from_mean = build()
    RidgeFit(from_mean, [batch], TEXT).solve(3)
    centred = from_mean.scores(batch, from_mean.embed_text(TEXT).class_embedding)
    centre = TEXT[LABELS].mean(dim=0)
    expected = 1 - F.cosine_similarity((predicted - centre)[:, None], (TEXT - centre)[None], dim=2)
    torch.testing.assert_close(centred, expected)


def test_only_the_direction_of_a_mean_counts():
    """Louder features of one clip change nothing, nor does what `fidelity` says of scaling."""
    batch = clips(LABELS)
    louder = replace(batch, audio=batch.audio.with_tokens(batch.audio.tokens * 37))
    one, other = build(), build(audio_scaling="none", visual_scaling="none")
    assert RidgeFit(one, [batch], TEXT).solve(2) == RidgeFit(other, [batch], TEXT).solve(2)
    torch.testing.assert_close(one(batch).video_embedding, one(louder).video_embedding)
    lengths = one(batch).video_embedding.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(CLIPS))


def test_a_clip_without_one_modality(random_batch):
    batch = random_batch([2, 0, 3], [1, 4, 0], audio_dim=AUDIO, visual_dim=VISUAL)
    batch = replace(batch, labels=torch.tensor([0, 1, 2]))
    model = build()
    found = model.features(batch)
    np.testing.assert_allclose(found.numpy(), features_by_loop(batch), atol=1e-6)
    assert not found[1, :AUDIO].any()
    assert not found[2, AUDIO:].any()
    RidgeFit(model, [batch], TEXT).solve(1)
    assert model.scores(batch, model.embed_text(TEXT).class_embedding).isfinite().all()


def test_a_batch_in_which_no_clip_has_sound(random_batch):
    batch = random_batch([0, 0], [3, 2], audio_dim=AUDIO, visual_dim=VISUAL)
    model = build()
    RidgeFit(model, [replace(batch, labels=torch.tensor([0, 1]))], TEXT).solve(1)
    assert not model.weight[:AUDIO].any()
    assert model.weight[AUDIO:].any()


def test_it_tells_classes_apart():
    """11 classes, so 9 % by chance; those of the test clips were all trained on."""
    labels = torch.arange(11 * 17) % CLASSES
    model = build()
    RidgeFit(model, [clips(labels, 1, spread=0.3)], TEXT).solve(12)
    test = clips(labels, 2, spread=0.3)
    scores = model.scores(test, model.embed_text(TEXT).class_embedding)
    assert (scores.argmin(dim=1) == labels).float().mean() > 0.7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strongest": 0.0}, r"options\.strongest must be above 0, got 0"),
        ({"ratio": 1.0}, r"options\.ratio must be above 0 and below 1, got 1"),
        ({"cosine_from": "mean"}, r"options\.cosine_from: .*did you mean 'mean_text'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_options(settings, message):
    with pytest.raises(TCAFError, match=message):
        build(**settings)


@pytest.mark.usefixtures("unchecked")
def test_features_and_text_of_another_size(random_batch):
    model = build()
    with pytest.raises(TCAFError, match="expected visual features of size 5, got 7"):
        model(random_batch([1], [1], audio_dim=AUDIO))
    with pytest.raises(TCAFError, match="expected text embeddings of size 7, got 2"):
        model.embed_text(torch.zeros(3, 2))


def test_clips_without_labels(random_batch):
    batch = random_batch([1], [1], audio_dim=AUDIO, visual_dim=VISUAL)
    with pytest.raises(TCAFError, match="a batch with labels to train on, got one without"):
        RidgeFit(build(), [batch], TEXT)


# --- In the protocol ---


@pytest.fixture
def experiment(tiny_experiment):
    evaluation = {"gamma_max": 1.0, "gamma_step": 0.05}
    training = {"epochs": 7, "schedule": "constant"}
    return tiny_experiment(system="ridge", training=training, evaluation=evaluation)


def test_the_lambda_of_the_best_epoch_is_stage_2s(tiny_store, experiment):
    text = {"text": tiny_store.text("attributes")}
    events = list(TwoStages(experiment, tiny_store, text).run())
    records = [event.record for event in events if isinstance(event, EpochDone)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    first = [r for r in records if r.stage == 1]
    means = [r.validation["harmonic_mean"] for r in first]
    assert finished.choice.epoch == 1 + means.index(max(means))
    # Else the test below could not tell it from the first or last epoch.
    assert len(set(means)) > 1
    last = records[-1]
    assert (last.stage, last.epoch) == (2, finished.choice.epoch)
    assert last.losses["lambda"] == 0.5 ** (finished.choice.epoch - 1)
    assert [r.losses["lambda"] for r in first] == [0.5**e for e in range(7)]
    # What was tested is the fit to all seen clips at that lambda.
    protocol = TwoStages(experiment, tiny_store, text)
    stage = protocol.new_stage(2)
    stage.run_epoch(finished.choice.epoch, 1.0)
    assert torch.equal(stage.model.weight, finished.model.weight)
    assert finished.result.seen > 3 / 12


@pytest.mark.slow
def test_a_run_taken_up_again_is_the_same(tiny_store, experiment, tmp_path):
    class Stop(Silence):
        def epoch_done(self, record):
            if (record.stage, record.epoch) == (1, 3):
                raise KeyboardInterrupt

    whole = train(experiment, tiny_store, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tiny_store, tmp_path / "r", observer=Stop())
    assert Run(tmp_path / "r").result is None
    again = train(experiment, tiny_store, tmp_path / "r", resume=True)
    assert (again["test"], again["choice"]) == (whole["test"], whole["choice"])
    one, other = (load_model(tmp_path / name).model.state_dict() for name in ("whole", "r"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_options_reach_the_model(tiny_experiment):
    options = {"strongest": 3.0, "cosine_from": "origin"}
    experiment = tiny_experiment(system="ridge")
    config = configure(
        replace(experiment, options=options), audio_dim=AUDIO, visual_dim=VISUAL, text_dim=TEXT_DIM
    )
    assert (config.strongest, config.ratio, config.cosine_from) == (3, 0.5, "origin")
