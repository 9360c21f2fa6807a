"""TextLDA on labelled clips alone: against the formulas, written out in loops and inverses."""

import numpy as np
import pytest
import torch
from test_textlda import TEXT, build, clips, means_by_loop, scores
from test_textlda_auxiliary import LABEL_TEXT, Videos, further, residuals

from tcaf.errors import TCAFError
from tcaf.systems.textlda_fit import choices
from tcaf.systems.textlda_labels import LabelsFit


def distances_by_formula(new, choice, kappa):
    """Of five labels with clips; asked for these and for eleven others."""
    _, videos, labels, groups = further()
    y = means_by_loop(videos)
    n = np.array([sum(k in own for own in labels) for k in range(5)])
    means = np.stack([y[[k in own for own in labels]].mean(axis=0) for k in range(5)])
    r = residuals(y, groups)
    scatter = r.T @ r / len(r)
    scatter /= np.trace(scatter)
    values, vectors = np.linalg.eigh(scatter)
    usual = values[values > 1e-9 * values[-1]].mean()
    root = vectors @ np.diag(((1 - choice.rho) * values.clip(0) + choice.rho * usual) ** -0.5)
    centre = means.mean(axis=0)
    z, m = (means_by_loop(new) - centre) @ root, (means - centre) @ root
    text = torch.cat([LABEL_TEXT, TEXT]).double().numpy()
    phi = text - text[:5].mean(axis=0)
    phi /= np.linalg.norm(phi, axis=1, keepdims=True)
    kernel = np.exp((phi @ phi[:5].T - 1) / 0.36)
    noise = np.diag(choice.lambda_ * (1 + 10 / n))
    classes = kernel @ np.linalg.inv(kernel[:5] + noise) @ m
    for k in range(5):
        classes[k] = (n[k] * m[k] + kappa * classes[k]) / (n[k] + kappa)
    cosine = z @ classes.T / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(classes, axis=1)
    return 1 - cosine


@pytest.mark.parametrize("epoch", [1, 24])
@pytest.mark.parametrize("kappa", [0.0, 50.0])
def test_distances_are_those_of_the_formulas(epoch, kappa):
    new = clips(seed=1)
    model = build(kappa=kappa, time="off")
    LabelsFit(further()[0], model).solve(epoch)
    found = model.scores(new, model.embed_text(torch.cat([LABEL_TEXT, TEXT])).class_embedding)
    expected = distances_by_formula(new, choices(model.config)[epoch - 1], kappa)
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_clips_of_sound_alone_make_a_model_of_sound_alone():
    model = build(time="off", spread="on")
    LabelsFit(further(visual=False)[0], model).solve(1)
    assert model.modalities == ("audio",)
    assert model.vectors.reads_spread
    assert torch.isfinite(scores(model, clips(seed=1, visual=False))).all()


def test_a_fit_that_cannot_be():
    with pytest.raises(TCAFError, match=r"set options\.time to off"):
        LabelsFit(further()[0], build())
    _, batch, labels, _ = further()
    one = torch.tensor([(i, own[0]) for i, own in enumerate(labels)])
    one[:, 1] = 0
    with pytest.raises(TCAFError, match="clips of two labels or more"):
        LabelsFit(Videos(batch, one), build(time="off"))
