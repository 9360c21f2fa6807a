"""TextLDA with further labelled videos: against the formulas, written out in loops and inverses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_textlda import LABELS, TEXT, TEXT_DIM, build, clips, means_by_loop, scores

from tcaf.seeding import generator
from tcaf.systems.textlda_auxiliary import AuxiliaryFit
from tcaf.systems.textlda_fit import TextLDAFit, choices
from tcaf.systems.training_parts import AuxiliaryPart
from tcaf.text.spaces import ClassText

LABEL_TEXT = F.normalize(torch.randn(5, TEXT_DIM, generator=generator(0, "labels")), dim=1)
SEEN = 8


class Videos(AuxiliaryPart):
    """Videos of no store."""

    def __init__(self, batch, pairs):
        vars(self).update(class_text=ClassText({"text": LABEL_TEXT}), made=(batch, *pairs.T))

    def batches(self):
        return iter([self.made])


def further(seed=3, **there):
    """31 videos, 1 to 3 of five labels each; every fourth is in no group."""
    rng = np.random.default_rng(seed)
    labels = [sorted(rng.choice(5, size=rng.integers(1, 4), replace=False)) for _ in range(31)]
    groups = np.array([own[0] if i % 4 else -1 for i, own in enumerate(labels)])
    batch = clips(torch.from_numpy(groups % 11), seed=seed, **there)
    batch = type(batch)(batch.audio, batch.visual, torch.from_numpy(groups))
    pairs = torch.tensor([(i, n) for i, own in enumerate(labels) for n in own])
    return Videos(batch, pairs), batch, labels, groups


def residuals(x, groups):
    """Vectors less the mean of their group, those without one left out."""
    kept = [i for i, group in enumerate(groups) if group >= 0]
    same = [[j for j in kept if groups[j] == groups[i]] for i in kept]
    return np.stack([x[i] - x[own].mean(axis=0) for i, own in zip(kept, same, strict=True)])


def distances_by_formula(batch, new, choice, kappa):
    _, videos, labels, groups = further()
    x, own, y = means_by_loop(batch), batch.labels.numpy(), means_by_loop(videos)
    n = np.array(
        [(own == c).sum() for c in range(SEEN)] + [sum(k in o for o in labels) for k in range(5)]
    )
    means = [x[own == c].mean(axis=0) for c in range(SEEN)]
    means += [y[[k in o for o in labels]].mean(axis=0) for k in range(5)]
    scatter = [r.T @ r / len(r) for r in (residuals(x, own), residuals(y, groups))]
    scatter = 0.2 * scatter[0] + 0.8 * scatter[1]
    scatter /= np.trace(scatter)
    values, vectors = np.linalg.eigh(scatter)
    usual = values[values > 1e-9 * values[-1]].mean()
    root = vectors @ np.diag(((1 - choice.rho) * values.clip(0) + choice.rho * usual) ** -0.5)
    origin = np.mean(means[:SEEN], axis=0)
    z, m = (means_by_loop(new) - origin) @ root, (np.stack(means) - origin) @ root
    text = torch.cat([TEXT[:SEEN], LABEL_TEXT]).double().numpy()
    phi = np.concatenate([TEXT.double().numpy(), text[SEEN:]]) - text.mean(axis=0)
    phi /= np.linalg.norm(phi, axis=1, keepdims=True)
    sources = phi[[*range(SEEN), *range(len(TEXT), len(TEXT) + 5)]]
    kernel = np.exp((sources @ sources.T - 1) / 0.36)
    noise = np.diag(choice.lambda_ * (1 + 10 / n))
    centre = m.mean(axis=0)
    weights = np.linalg.inv(kernel + noise) @ (m - centre)
    classes = centre + np.exp((phi[: len(TEXT)] @ sources.T - 1) / 0.36) @ weights
    for c in range(SEEN):
        classes[c] = (n[c] * m[c] + kappa * classes[c]) / (n[c] + kappa)
    cosine = z @ classes.T / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(classes, axis=1)
    return 1 - cosine


@pytest.mark.parametrize("epoch", [1, 7, 24])
@pytest.mark.parametrize("kappa", [0.0, 50.0])
def test_distances_are_those_of_the_formulas(epoch, kappa):
    """Of eleven classes eight are learnt from; all eleven are asked for."""
    batch, new = clips(LABELS % SEEN), clips(LABELS, seed=1)
    model = build(kappa=kappa, time="off")
    fit = AuxiliaryFit(further()[0], model, [batch], TEXT[:SEEN])
    for earlier in (2, epoch):  # what one choice leaves for another is right for it too
        fit.solve(earlier)
    expected = distances_by_formula(batch, new, choices(model.config)[epoch - 1], kappa)
    np.testing.assert_allclose(scores(model, new), expected, atol=2e-5)


def test_weights_are_read_back_and_those_of_before_too():
    model, bare = build(time="off"), build(time="off")
    AuxiliaryFit(further()[0], model, [clips()], TEXT).solve(1)
    again = build(time="off")
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(scores(again, clips(seed=1)), scores(model, clips(seed=1)))
    TextLDAFit(bare, [clips()], TEXT).solve(1)
    older = {n: v for n, v in bare.state_dict().items() if "source_" not in n}
    again.load_state_dict(older)
    torch.testing.assert_close(scores(again, clips(seed=1)), scores(bare, clips(seed=1)))


def test_videos_without_sound_serve_the_picture():
    """They change what the picture alone answers, and nothing of clips with both."""
    models = [build(time="off") for _ in range(3)]
    silent, whole = further(audio=False), further()
    for model, fit in zip(models, ([silent[0]], [whole[0]], []), strict=True):
        (AuxiliaryFit if fit else TextLDAFit)(*fit, model, [clips()], TEXT).solve(1)
    picture = clips(seed=1, audio=False)
    assert not torch.allclose(scores(models[0], picture), scores(models[2], picture), atol=1e-3)
    torch.testing.assert_close(scores(models[0], picture), scores(models[1], picture))
    sources = [len(models[0].read_out(name).source_text) for name in ("both", "visual", "audio")]
    assert sources == [11, 16, 11]


def test_time_is_read_of_further_videos_too():
    model = build(time="on")
    solved = AuxiliaryFit(further()[0], model, [clips()], TEXT).solve(1)
    assert solved["time"] == 1
    assert model.read_out("both").dim == model.vectors.dim(("audio", "visual"))
    assert torch.isfinite(scores(model, clips(seed=1))).all()
