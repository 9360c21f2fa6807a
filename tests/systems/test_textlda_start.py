"""TextLDA beside a network's classes: against the formulas, written out in loops and inverses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_textlda import LABELS, TEXT, TEXT_DIM, build, clips, means_by_loop, scores
from test_textlda_auxiliary import LABEL_TEXT, SEEN, further, residuals

from tcaf.seeding import generator
from tcaf.systems.textlda_auxiliary import AuxiliaryFit
from tcaf.systems.textlda_fit import TextLDAFit, choices
from tcaf.systems.textlda_start import StartFit, start_choices
from tcaf.systems.training_parts import StartPart
from tcaf.text.spaces import ClassText

CONFIG = build(time="off").config
NUM_ROWS = 13
ROWS = torch.randn(NUM_ROWS, CONFIG.visual_dim, generator=generator(0, "rows"))
ROW_TEXT = F.normalize(torch.randn(NUM_ROWS, TEXT_DIM, generator=generator(0, "row text")), dim=1)
START = StartPart(ROWS, ClassText({"text": ROW_TEXT}))


def kernel(one, other):
    return np.array([[np.exp((a @ b - 1) / 0.36) for b in other] for a in one])


def regression(phi, counts, lambda_, given):
    noise = np.diag([lambda_ * (1 + 10 / n) for n in counts])
    return np.linalg.inv(kernel(phi, phi) + noise) @ given


def distances_by_formula(batch, new, choice, kappa, with_labels):
    """Vectors of sound and picture: the picture's columns come last."""
    x, own = means_by_loop(batch), batch.labels.numpy()
    n = [(own == c).sum() for c in range(SEEN)]
    means = [x[own == c].mean(axis=0) for c in range(SEEN)]
    scatter = (r := residuals(x, own)).T @ r / len(r)
    texts = [TEXT[:SEEN]]
    if with_labels:
        _, videos, labels, groups = further()
        y = means_by_loop(videos)
        n += [sum(k in o for o in labels) for k in range(5)]
        means += [y[[k in o for o in labels]].mean(axis=0) for k in range(5)]
        scatter = 0.2 * scatter + 0.8 * (r := residuals(y, groups)).T @ r / len(r)
        texts.append(LABEL_TEXT)
    scale = np.trace(scatter) ** -0.5
    values, vectors = np.linalg.eigh(scatter * scale**2)
    usual = values[values > 1e-9 * values[-1]].mean()
    spread = (1 - choice.rho) * values.clip(0) + choice.rho * usual
    root = vectors @ np.diag(spread**-0.5)
    origin = np.mean(means[:SEEN], axis=0)
    means = (np.stack(means) - origin) * scale
    visual = slice(CONFIG.audio_dim, None)
    sigma = (vectors @ np.diag(spread) @ vectors.T)[visual, visual]
    rows = ROWS.double().numpy()
    deviations = np.stack([sigma @ (w - rows.mean(axis=0)) for w in rows])
    lengths = [
        np.mean([np.sum((one @ root[visual]) ** 2) for one in kind])
        for kind in (means[:SEEN, visual], deviations)
    ]
    deviations *= (lengths[0] / lengths[1]) ** 0.5

    text = torch.cat([*texts, ROW_TEXT]).double().numpy()
    # Text is centred where that of the clips is: rows have the same centre with and without.
    centre = text[:-NUM_ROWS].mean(axis=0)
    phi = np.concatenate([text, TEXT.double().numpy()]) - centre
    phi /= np.linalg.norm(phi, axis=1, keepdims=True)
    sources, asked = phi[: len(text)], phi[len(text) :]
    clipped = len(text) - NUM_ROWS
    centre = means.mean(axis=0)
    heard = regression(sources[:clipped], n, choice.lambda_, means - centre)
    given = np.concatenate([means[:, visual] - centre[visual], deviations])
    looked = regression(sources, [*n, *[1000] * NUM_ROWS], choice.lambda_, given)
    classes = centre + kernel(asked, sources[:clipped]) @ heard
    classes[:, visual] = centre[visual] + kernel(asked, sources) @ looked
    for c in range(SEEN):
        classes[c] = (n[c] * means[c] + kappa * classes[c]) / (n[c] + kappa)
    z, classes = (means_by_loop(new) - origin) * scale @ root, classes @ root
    cosine = z @ classes.T / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(classes, axis=1)
    return 1 - cosine


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("epoch", [1, 7, 12])
def test_distances_are_those_of_the_formulas(epoch, with_labels):
    """Of eleven classes eight are learnt from; all eleven are asked for."""
    batch, new = clips(LABELS % SEEN), clips(LABELS, seed=1)
    model = build(kappa=50.0, time="off")
    auxiliary = further()[0] if with_labels else None
    fit = StartFit(START, auxiliary, model, [batch], TEXT[:SEEN])
    for earlier in (2, epoch):  # what one choice leaves for another is right for it too
        fit.solve(earlier)
    choice = start_choices(model.config)[epoch - 1]
    expected = distances_by_formula(batch, new, choice, 50.0, with_labels)
    np.testing.assert_allclose(scores(model, new), expected, atol=2e-5)


def test_rows_of_any_centre_and_length_are_the_same():
    """What is added to all rows, and their common length, no answer of a classifier depends on."""
    models = [build(time="off") for _ in range(2)]
    for model, rows in zip(models, (ROWS, 7 * ROWS + 3), strict=True):
        StartFit(StartPart(rows, START.class_text), None, model, [clips()], TEXT).solve(1)
    torch.testing.assert_close(scores(models[0], clips(seed=1)), scores(models[1], clips(seed=1)))


def test_sound_alone_knows_no_rows():
    model, bare = build(time="off"), build(time="off")
    StartFit(START, None, model, [clips()], TEXT).solve(1)
    TextLDAFit(bare, [clips()], TEXT).solve(1)
    counts = [len(model.read_out(name).source_text) for name in ("both", "visual", "audio")]
    assert counts == [len(TEXT) + NUM_ROWS, len(TEXT) + NUM_ROWS, 0]
    sound, picture = clips(seed=1, visual=False), clips(seed=1, audio=False)
    torch.testing.assert_close(scores(model, sound), scores(bare, sound))
    assert not torch.allclose(scores(model, picture), scores(bare, picture), atol=1e-3)


@pytest.mark.parametrize("with_labels", [False, True])
def test_validation_may_choose_to_do_without(with_labels):
    """There are as many choices as without a start; half of them are of those."""
    model, bare = build(time="off"), build(time="off")
    tried, before = start_choices(model.config), choices(model.config)
    assert len(tried) == len(set(tried)) == len(before)
    assert [choice.start for choice in tried] == [True] * 12 + [False] * 12
    auxiliary = further()[0] if with_labels else None
    fit = StartFit(START, auxiliary, model, [clips()], TEXT)
    args = (bare, [clips()], TEXT)
    other = AuxiliaryFit(auxiliary, *args) if with_labels else TextLDAFit(*args)
    for epoch in (2, 15, 24):
        assert fit.solve(epoch)["start"] == tried[epoch - 1].start
        if not tried[epoch - 1].start:
            other.solve(1 + before.index(tried[epoch - 1]))
            torch.testing.assert_close(scores(model, clips(seed=1)), scores(bare, clips(seed=1)))


def test_time_is_read_of_clips_alone():
    model = build(time="on")
    assert StartFit(START, None, model, [clips()], TEXT).solve(1)["time"] == 1
    read_out = model.read_out("both")
    assert read_out.dim == model.vectors.dim(("audio", "visual"))
    # Of rows nothing but visual means is known, so that what they add spans no more.
    rank = torch.linalg.matrix_rank(read_out.source_map[-NUM_ROWS:], rtol=1e-4)
    assert int(rank) == CONFIG.visual_dim < read_out.dim
    assert torch.isfinite(scores(model, clips(seed=1))).all()
