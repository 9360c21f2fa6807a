from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.seeding import generator
from tcaf.settings.experiment import Experiment
from tcaf.systems.interface import Reduces, Together
from tcaf.systems.textlda import READ_OUTS, TextLDA
from tcaf.systems.textlda_fit import Choice, TextLDAFit, choices, num_choices
from tcaf.systems.textlda_together import moved
from tcaf.systems.textlda_vectors import TextLDAConfig
from tcaf.training.model_file import load_model
from tcaf.training.run import Run, train

AUDIO, VISUAL, TEXT_DIM, CLASSES, CLIPS = 3, 5, 7, 11, 97
TEXT = F.normalize(torch.randn(CLASSES, TEXT_DIM, generator=generator(0, "text")), dim=1)
LABELS = torch.arange(CLIPS) * 5 % CLASSES


def build(**options):
    dims = {"audio_dim": AUDIO, "visual_dim": VISUAL, "text_dim": TEXT_DIM}
    torch.manual_seed(0)
    return TextLDA(TextLDAConfig(**dims, **{"num_random": 13, **options}))


def clips(labels=LABELS, seed=0, lens=(4, 5, 7), audio=True, visual=True):
    """Clips around a place of their class."""
    packed = {}
    for name, dim, there in (("audio", AUDIO, audio), ("visual", VISUAL, visual)):
        counts = torch.tensor([lens[i % len(lens)] if there else 0 for i in range(len(labels))])
        places = torch.randn(CLASSES, dim, generator=generator(0, name))
        noise = torch.randn(int(counts.sum()), dim, generator=generator(seed, name))
        times = torch.cat([torch.arange(float(n)) for n in counts.tolist()])
        tokens = places[labels.repeat_interleave(counts)] + noise
        packed[name] = Packed(tokens, counts, times)
    return FeatureBatch(**packed, labels=labels)


def means_by_loop(batch):
    rows = []
    for name in ("audio", "visual"):
        packed = batch.modality(name)
        ends = np.cumsum(packed.lens.tolist())
        tokens = packed.tokens.double().numpy()
        means = [tokens[e - n : e].mean(axis=0) for e, n in zip(ends, packed.lens, strict=True)]
        rows.append([mean / np.linalg.norm(mean) for mean in means])
    return np.concatenate(rows, axis=1)


def distances_by_formula(x, labels, new_x, text, choice, kappa):
    """Discriminant analysis with predicted class means, as the formulas say, in loops and inverses.

    The whitening is written with a matrix root in place of eigenvectors: a rotation apart.
    """
    names = sorted(set(labels.tolist()))
    counts = np.array([(labels == c).sum() for c in names])
    means = np.stack([x[labels == c].mean(axis=0) for c in names])
    residuals = x - means[[names.index(c) for c in labels.tolist()]]
    # One block: its summed within-class variance is brought to 1.
    scatter = residuals.T @ residuals / len(x)
    scatter /= np.trace(scatter)
    values, vectors = np.linalg.eigh(scatter)
    usual = values[values > 1e-9 * values[-1]].mean()
    spread = (1 - choice.rho) * values.clip(0) + choice.rho * usual
    root = vectors @ np.diag(spread**-0.5) @ vectors.T
    centre = means.mean(axis=0)
    z, seen = (new_x - centre) @ root, (means - centre) @ root
    q = text.double().numpy()
    phi = q - q[names].mean(axis=0)
    phi /= np.linalg.norm(phi, axis=1, keepdims=True)
    own = phi[names]
    inverse = np.linalg.inv(own @ own.T + choice.lambda_ * np.eye(len(names)))
    vectors_of = phi @ own.T @ inverse @ seen
    for row, name in enumerate(names):
        n = counts[row]
        vectors_of[name] = (n * seen[row] + kappa * vectors_of[name]) / (n + kappa)
    cosine = z @ vectors_of.T
    cosine /= np.linalg.norm(z, axis=1)[:, None] * np.linalg.norm(vectors_of, axis=1)
    return 1 - cosine


@pytest.mark.parametrize("epoch", [1, 7, 24])
@pytest.mark.parametrize("kappa", [0.0, 50.0])
def test_distances_are_those_of_the_formulas(epoch, kappa):
    """Of eleven classes eight are learnt from; all eleven are asked for."""
    batch = clips(LABELS % 8)
    model = build(kappa=kappa, time="off")
    fit = TextLDAFit(model, [batch], TEXT[:8])
    solved = fit.solve(epoch)
    choice = choices(model.config)[epoch - 1]
    assert (solved["rho"], solved["lambda"]) == (choice.rho, choice.lambda_)
    new = clips(LABELS, seed=1)
    found = model.scores(new, model.embed_text(TEXT).class_embedding)
    x, labels = means_by_loop(batch), batch.labels.numpy()
    expected = distances_by_formula(x, labels, means_by_loop(new), TEXT, choice, kappa)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_batches_and_their_order_change_nothing():
    batch = clips()
    rows = torch.randperm(CLIPS, generator=generator(0, "order"))
    one, many = build(time="off"), build(time="off")
    TextLDAFit(one, [batch], TEXT).solve(1)
    parts = [select(batch, part) for part in rows.split(13)]
    TextLDAFit(many, parts, TEXT).solve(1)
    new = clips(seed=1)
    torch.testing.assert_close(scores(many, new), scores(one, new), atol=1e-5, rtol=0)


def scores(model, batch):
    return model.scores(batch, model.embed_text(TEXT).class_embedding)


def select(batch, rows):
    def of(packed):
        ends = packed.lens.cumsum(0)
        places = [torch.arange(ends[r] - packed.lens[r], ends[r]) for r in rows.tolist()]
        where = torch.cat(places)
        return Packed(packed.tokens[where], packed.lens[rows], packed.times[where])

    return FeatureBatch(of(batch.audio), of(batch.visual), batch.labels[rows])


def test_unseen_classes_are_found_where_text_tells_where_they_are():
    """Features are a linear image of text: what was never seen is where its text says."""
    text = F.normalize(torch.randn(40, TEXT_DIM, generator=generator(0, "many")), dim=1)
    to_audio = torch.randn(TEXT_DIM, AUDIO, generator=generator(0, "a"))
    to_visual = torch.randn(TEXT_DIM, VISUAL, generator=generator(0, "v"))

    def world(labels, seed):
        noise = [torch.randn(len(labels), d, generator=generator(seed, d)) for d in (3, 5)]
        ones, zeros = torch.ones(len(labels), dtype=torch.int64), torch.zeros(len(labels))
        tokens = [text[labels] @ m for m in (to_audio, to_visual)]
        packed = [Packed(t + 0.1 * n, ones, zeros) for t, n in zip(tokens, noise, strict=True)]
        return FeatureBatch(*packed, labels=labels)

    model = build()
    TextLDAFit(model, [world(torch.arange(30).repeat(20), 0)], text[:30]).solve(2)
    labels = torch.arange(30, 40).repeat(20)
    new = world(labels, 1)
    distances = model.scores(new, model.embed_text(text[30:]).class_embedding)
    assert (distances.argmin(dim=1) + 30 == labels).double().mean() > 0.75


def timed(labels, seed):
    """Clips of two classes, whose sound and picture change together or one second apart."""
    generator_ = generator(seed, "timed")
    packed = {name: [] for name in ("audio", "visual")}
    for label in labels.tolist():
        at = int(torch.randint(2, 9, (), generator=generator_))
        for name, dim, shift in (("audio", AUDIO, 0), ("visual", VISUAL, 2 * label)):
            tokens = 0.1 * torch.randn(12, dim, generator=generator_)
            tokens[at + shift] += F.normalize(torch.randn(dim, generator=generator_), dim=0)
            packed[name].append(tokens)
    lens, times = torch.full((len(labels),), 12), torch.arange(12.0).repeat(len(labels))
    found = [Packed(torch.cat(tokens), lens, times) for tokens in packed.values()]
    return FeatureBatch(*found, labels=labels)


def test_time_tells_what_means_do_not():
    labels, text = torch.arange(400) % 2, torch.eye(TEXT_DIM)[:2]
    right = {}
    for time in ("on", "off"):
        model = build(time=time, num_random=50)
        TextLDAFit(model, [timed(labels, 0)], text).solve(1)
        new = timed(labels, 1)
        distances = model.scores(new, model.embed_text(text).class_embedding)
        right[time] = (distances.argmin(dim=1) == labels).double().mean()
    assert right["on"] > 0.9
    assert right["off"] < 0.65


def turning(labels, seed):
    """Clips of two classes: sound goes up when the picture does, or down; each alone is alike."""
    generator_ = generator(seed, "turning")
    packed = {name: [] for name in ("audio", "visual")}
    for label in labels.tolist():
        word = torch.where(torch.rand(12, generator=generator_) < 0.5, 1.0, -1.0)
        for name, dim, side in (("audio", AUDIO, 1 - 2 * label), ("visual", VISUAL, 1)):
            tokens = 0.1 * torch.randn(12, dim, generator=generator_)
            tokens[:, 1] += side * word
            packed[name].append(tokens)
    lens, times = torch.full((len(labels),), 12), torch.arange(12.0).repeat(len(labels))
    found = [Packed(torch.cat(tokens), lens, times) for tokens in packed.values()]
    return FeatureBatch(*found, labels=labels)


def test_products_tell_what_goes_up_with_what():
    labels, text = torch.arange(400) % 2, torch.eye(TEXT_DIM)[:2]
    model = build(time="on", num_random=50)
    TextLDAFit(model, [turning(labels, 0)], text).solve(1)
    new = turning(labels, 1)
    distances = model.scores(new, model.embed_text(text).class_embedding)
    assert (distances.argmin(dim=1) == labels).double().mean() > 0.9


@pytest.mark.parametrize("spread", ["off", "chosen"])
def test_columns_of_one_modality_are_its_own_vector(spread):
    batch = clips()
    fit = TextLDAFit(build(spread=spread), [batch], TEXT)
    for epoch in (1, 25, 48) if spread == "off" else (1, 25, 49, 96):
        fit.solve(epoch)
        vectors = fit.model.vectors
        both = vectors.vector(vectors.blocks(batch, ("audio", "visual")))
        assert both.shape[1] == vectors.dim(("audio", "visual"))
        for modality in ("audio", "visual"):
            alone = vectors.vector(vectors.blocks(batch, (modality,)))
            torch.testing.assert_close(both[:, vectors.columns(modality)], alone)


def test_clips_without_sound_or_picture_are_answered_from_the_other():
    """Each by a read-out of its own, as if nothing but that modality had ever been there."""
    batch = clips()
    model = build(time="off")
    TextLDAFit(model, [batch], TEXT).solve(1)
    alone = build(time="off")
    silent = clips(audio=False)
    TextLDAFit(alone, [silent], TEXT).solve(1)
    assert alone.read_out("both").dim == alone.read_out("audio").dim == 0
    new = clips(seed=1, audio=False)
    torch.testing.assert_close(scores(model, new), scores(alone, new), atol=1e-5, rtol=0)
    # Where no clip had both, a clip that has is answered from the picture.
    torch.testing.assert_close(scores(alone, clips(seed=1)), scores(alone, new), atol=1e-5, rtol=0)


@pytest.mark.parametrize("time", ["off", "on"])
def test_pictures_that_are_the_same_throughout_a_class_tell_nothing(time):
    """Without variance within classes there is no scale: their block drops out, sound answers."""
    batch = clips()
    places = torch.randn(CLASSES, VISUAL, generator=generator(2, "places"))
    same = replace(batch.visual, tokens=places[LABELS.repeat_interleave(batch.visual.lens)])
    batch = replace(batch, visual=same)
    model = build(time=time)
    fit = TextLDAFit(model, [batch], TEXT)
    for epoch in (1, 7, 24):
        assert np.isfinite(fit.solve(epoch)["loss"])
        for new in (batch, clips(seed=1), batch.only("audio"), batch.only("visual")):
            assert scores(model, new).isfinite().all()
    if time == "off":
        assert (scores(model, batch.only("visual")) == 1).all()
    # The read-out of both answers by sound.
    right = scores(model, batch).argmin(dim=1) == LABELS
    assert right.float().mean() > 0.5


def test_a_batch_of_all_kinds_is_answered_clip_by_clip():
    model = build()
    TextLDAFit(model, [clips()], TEXT).solve(1)
    kinds = [clips(seed=1), clips(seed=1, audio=False), clips(seed=1, visual=False)]
    mixed = [select(kind, torch.arange(i, i + 2)) for i, kind in enumerate(kinds)]

    together = scores(model, joined(mixed))
    apart = torch.cat([scores(model, each) for each in mixed])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


def test_what_is_reduced_serves_every_choice():
    model = build()
    assert isinstance(model, Reduces)
    fit = TextLDAFit(model, [clips()], TEXT)
    new = clips(seed=1)
    fit.solve(1)
    kept = model.reduced(new)
    for epoch in (3, 30):
        fit.solve(epoch)
        assert torch.equal(scores(model, kept), scores(model, new))


def test_clips_of_one_token_have_no_time():
    batch = clips(lens=(1,))
    fit = TextLDAFit(build(), [batch], TEXT)
    assert fit.solve(1)["time"] == 0.0
    assert fit.solve(1)["loss"] == fit.solve(25)["loss"]


def test_clips_in_which_time_stands_still_have_no_time():
    batch = clips()
    still = FeatureBatch(
        *(
            Packed(packed.tokens, packed.lens, torch.zeros_like(packed.times))
            for packed in (batch.audio, batch.visual)
        ),
        labels=batch.known_labels,
    )
    model = build()
    fit = TextLDAFit(model, [still], TEXT)
    assert fit.solve(1)["time"] == 0.0
    assert scores(model, still).isfinite().all()


def straying(labels, seed):
    """Clips whose means tell nothing; of class 1 the second number strays, of class 0 the first."""
    tokens = torch.randn(10 * len(labels), 3, generator=generator(seed, "straying"))
    packed = Packed(tokens, torch.full((len(labels),), 10), torch.arange(10.0).repeat(len(labels)))
    strays = torch.tensor([[3.0, 1.0, 1.0], [1.0, 3.0, 1.0]])[labels]
    apart = (tokens - packed.mean()[packed.packing.clip_of]) * strays.repeat_interleave(10, dim=0)
    visual = Packed(torch.zeros(0, 5), torch.zeros(len(labels), dtype=torch.int64), torch.zeros(0))
    return FeatureBatch(packed.with_tokens(apart + torch.ones(3)), visual, labels)


@pytest.mark.parametrize(("spread", "least", "most"), [("off", 0.3, 0.7), ("on", 0.95, 1.0)])
def test_deviations_tell_what_means_do_not(spread, least, most):
    labels, text = torch.arange(200) % 2, torch.eye(TEXT_DIM)[:2]
    model = build(time="off", spread=spread)
    found = TextLDAFit(model, [straying(labels, 0)], text).solve(1)
    assert found.get("spread") == (None if spread == "off" else 1.0)
    new = straying(labels, 1)
    distances = model.scores(new, model.embed_text(text).class_embedding)
    right = (distances.argmin(dim=1) == labels).double().mean()
    assert least <= right <= most


@pytest.mark.slow
def test_all_four_kinds_of_vectors_are_tried_and_equal_those_that_are_fitted_alone():
    batch, new = clips(), clips(seed=1)
    fit = TextLDAFit(build(spread="chosen"), [batch], TEXT)
    kinds = [(time, spread) for time in ("on", "off") for spread in ("on", "off")]
    kept = None
    for epoch, (time, spread) in zip((1, 25, 49, 73), kinds, strict=True):
        solved = fit.solve(epoch)
        # What is kept of clips at the first serves all.
        kept = fit.model.reduced(new) if kept is None else kept
        assert (solved["time"], solved["spread"]) == (time == "on", spread == "on")
        alone = build(time=time, spread=spread)
        TextLDAFit(alone, [batch], TEXT).solve(1)
        embedded = fit.model.embed_text(TEXT).class_embedding
        torch.testing.assert_close(scores(fit.model, new), scores(alone, new), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            fit.model.scores(kept, embedded), scores(fit.model, new), atol=1e-5, rtol=0
        )


def test_models_of_before_have_no_deviations():
    model = build()
    TextLDAFit(model, [clips()], TEXT).solve(1)
    state = model.state_dict()
    assert len(state.pop("vectors.spread")) == 0
    again = build()
    again.load_state_dict(state)
    assert not again.vectors.reads_spread
    torch.testing.assert_close(scores(again, clips(seed=1)), scores(model, clips(seed=1)))


def test_weights_that_do_not_belong_together_are_refused():
    model = build()
    TextLDAFit(model, [clips()], TEXT).solve(1)
    kept = model.state_dict()
    build().load_state_dict(kept)
    for name in ("mean", "whiten", "text_map", "seen_shift"):
        # As of vectors without the products, which come last.
        one = kept[f"read_outs.both.{name}"]
        kept[f"read_outs.both.{name}"] = one[..., :-5]
    with pytest.raises(RuntimeError, match=r"'both' takes vectors of \d+ numbers and is given"):
        build().load_state_dict(kept)


def test_choices_have_the_defaults_first():
    config = build().config
    assert choices(config)[0] == Choice(0.5, 1.0, True)
    assert len(choices(config)) == len(set(choices(config))) == 48
    assert {c.time for c in choices(replace(config, time="off"))} == {False}
    for options in ({}, {"time": "off"}, {"spread": "chosen"}, {"time": "on", "spread": "on"}):
        told = num_choices(Experiment(system="textlda", options=options))
        assert told == len(choices(replace(config, **options))), options
    with pytest.raises(TCAFError, match=r"tries 48 choices.*training\.epochs.*got epoch 49"):
        TextLDAFit(build(), [clips()], TEXT).solve(49)


def test_one_class_is_not_enough():
    with pytest.raises(TCAFError, match="clips of two classes or more"):
        TextLDAFit(build(), [clips(torch.zeros(5, dtype=torch.int64))], TEXT)


def test_one_clip_a_class_is_not_enough():
    with pytest.raises(TCAFError, match="at least two of one class, got fewer"):
        TextLDAFit(build(), [clips(torch.arange(5))], TEXT)


@pytest.mark.slow
def test_a_run_is_kept_and_read_back(tiny_store, tiny_experiment, tmp_path):
    experiment = replace(
        tiny_experiment(training={"epochs": 48}, evaluation={"gamma_grid": "margins"}),
        system="textlda",
    )
    result = train(experiment, tiny_store, tmp_path / "run")
    assert result["epochs"] == {"stage_1": 48, "stage_2": 1}
    kept = load_model(tmp_path / "run")
    assert kept.gamma == result["choice"]["gamma"]
    (last,) = [r for r in Run(tmp_path / "run").records() if r.stage == 2]
    assert last.epoch == result["choice"]["epoch"]
    assert kept.model.vectors.reads_time == bool(last.losses["time"])


def joined(batches):
    def of(name):
        parts = [each.modality(name) for each in batches]
        return Packed(
            *(torch.cat([getattr(p, n) for p in parts]) for n in ("tokens", "lens", "times"))
        )

    labels = torch.cat([each.known_labels for each in batches])
    return FeatureBatch(of("audio"), of("visual"), labels)


def test_clips_together_move_the_classes_of_the_read_out_that_answers_them():
    """As if each kind of clip had been a batch of its own; counts are those of training clips."""
    model = build()
    counts = torch.bincount(LABELS % 8, minlength=CLASSES).float()
    TextLDAFit(model, [clips(LABELS % 8)], TEXT[:8]).solve(1)
    assert isinstance(model, Together)
    added = 0.07 * (counts > 0)
    kinds = [clips(seed=1), clips(seed=2, audio=False), clips(seed=3, visual=False)]
    mixed = [
        select(joined(kinds), rows)
        for rows in torch.randperm(3 * CLIPS, generator=generator(0, "rows")).split(41)
    ]
    found = model.classes_together([model(batch) for batch in mixed], TEXT, added).class_embedding
    before = model.embed_text(TEXT).class_embedding
    first = 0
    for (name, _), kind in zip(READ_OUTS.items(), kinds, strict=True):
        part = slice(first, first + model.read_out(name).dim)
        first = part.stop
        own = [model(kind).video_embedding[:, part]]
        expected = moved(own, before[:, part], counts, added)
        torch.testing.assert_close(found[:, part], expected, atol=1e-4, rtol=0)
        assert (found[:, part] - before[:, part]).abs().max() > 0.01
    output = model(kinds[0])
    assert torch.equal(model.scores(output, before), model.scores(kinds[0], before))


def test_read_outs_without_clips_stay():
    model = build(time="off")
    TextLDAFit(model, [clips()], TEXT).solve(1)
    output = model(clips(seed=1, audio=False))
    found = model.classes_together([output], TEXT, torch.zeros(CLASSES)).class_embedding
    before = model.embed_text(TEXT).class_embedding
    changed = (found != before).any(dim=0)
    both, picture = (model.read_out(name).dim for name in ("both", "visual"))
    assert torch.equal(changed.nonzero()[:, 0], torch.arange(both, both + picture))


def test_a_model_without_counts_answers_clip_by_clip_and_says_how_to_get_them():
    model, older = build(), build()
    TextLDAFit(model, [clips()], TEXT).solve(1)
    kept = {n: t for n, t in model.state_dict().items() if not n.endswith("seen_counts")}
    older.load_state_dict(kept)
    new = clips(seed=1)
    assert torch.equal(scores(older, new), scores(model, new))
    with pytest.raises(TCAFError, match=r"how many clips of each class .*; train it again"):
        older.classes_together([older(new)], TEXT, torch.zeros(CLASSES))
