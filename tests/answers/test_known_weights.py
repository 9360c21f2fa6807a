import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import write_aligned
from tcaf.answers import known_weights
from tcaf.answers.aligned_models import open_aligned
from tcaf.answers.known_weights import (
    PICTURES,
    SOUNDS,
    Verdict,
    check_verdicts,
    check_weights,
    known_names,
    picture,
    rendered_cosines,
    sound,
    vggish_verdict,
)
from tcaf.commands.entry import main
from tcaf.errors import TCAFError
from tcaf.extract.backbones import open_backbone
from tcaf.extract.vggish import quantise
from tcaf.pretrained.aligned_model import load_aligned


def authors_backbone(mean=0.000657, factor=None):
    """A stand-in for VGGish whose embedding has the mean and deviation that are published."""
    draw = np.random.default_rng(0).normal(size=(3, 128))
    embedding = ((draw - draw.mean()) / draw.std() * 0.343 + mean).astype(np.float32)
    # The rotation is scaled until the deviation in 8 bits is the published one.
    factors = np.linspace(1, 20, 400) if factor is None else [factor]
    coded = [quantise(embedding, f * np.eye(128), np.zeros(128)).std() for f in factors]
    best = factors[int(np.argmin(np.abs(np.array(coded) - 89.3)))]
    return SimpleNamespace(
        sample_rate=16_000,
        hop_samples=15_360,
        window_samples=15_600,
        network=SimpleNamespace(before_activation=lambda examples: torch.from_numpy(embedding)),
        pca=(best * np.eye(128), np.zeros(128)),
    )


@pytest.mark.usefixtures("unchecked")
def test_vggish_is_trusted_if_its_numbers_are_the_published_ones():
    found = vggish_verdict(authors_backbone())
    assert found.state == "trusted", found.detail
    assert "deviation 0.343 (0.343)" in found.detail
    other = vggish_verdict(authors_backbone(mean=0.1))
    assert (other.state, "mean, mean in 8 bits differ" in other.detail) == ("wrong", True)
    uncoded = vggish_verdict(authors_backbone(factor=1.0))
    assert uncoded.detail.endswith("deviation in 8 bits differ")


@pytest.mark.slow
def test_random_weights_of_vggish_are_not():
    found = vggish_verdict(open_backbone("vggish:weights=random", "audio"))
    assert (found.name, found.state) == ("vggish", "wrong")


@pytest.mark.slow  # a network of 78 million weights
def test_of_c3d_little_is_known(monkeypatch):
    def opened(name, modality):
        return open_backbone(f"{name}:weights=random", modality)

    monkeypatch.setattr(known_weights, "open_backbone", opened)
    (found,) = check_weights(["c3d"])
    assert found.state == "unknown"
    assert "by its SHA-256" in found.detail


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_aligned.write_clip(tmp_path_factory.mktemp("clip") / "model")[1]


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    return write_aligned.write_clap(tmp_path_factory.mktemp("clap") / "model")[1]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_pictures_are_compared_with_their_sentences(clip):
    found = rendered_cosines(open_aligned(f"hf:{clip}"), "visual")
    model = load_aligned(clip)
    drawn = np.stack([picture(number)[None] for number in range(3)])
    text = unit(model.embed_text(PICTURES, "visual"))
    expected = unit(model.embed_frames(drawn)[:, 0]) @ text.T
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sounds_are_compared_with_their_sentences(clap):
    found = rendered_cosines(open_aligned(f"hf:{clap}"), "audio")
    assert found.shape == (3, len(SOUNDS))
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("cosines", "state"),
    [
        # A sentence that is near to everything does no harm.
        ([[0.3, 0.5, 0.1], [0.1, 0.6, 0.1], [0.1, 0.5, 0.3]], "trusted"),
        ([[0.3, 0.1, 0.1], [0.1, 0.1, 0.3], [0.1, 0.3, 0.1]], "wrong"),
        ([[0.2, 0.2, 0.2], [0.2, 0.2, 0.2], [0.2, 0.2, 0.2]], "wrong"),
    ],
)
def test_each_has_to_be_nearest_to_its_own(clip, cosines, state, monkeypatch):
    monkeypatch.setattr(known_weights, "rendered_cosines", lambda *_: np.array(cosines))
    (found,) = check_weights([f"hf:{clip}"])
    assert found.state == state, found.detail


def test_what_is_rendered_is_what_is_said():
    circle, square, triangle = (picture(number) for number in range(3))
    for drawn, channel in ((circle, 0), (square, 2), (triangle, 1)):
        assert (drawn[0, 0] == 255).all()
        assert drawn[128, 128].argmax() == channel
    # Of a square the corners are inside, of a circle of its width they are not.
    assert (square[128 - 60, 128 - 60] != 255).any()
    assert (circle[128 - 65, 128 - 65] == 255).all()
    beep, noise, siren = (sound(number, 16_000) for number in range(3))
    assert np.abs(np.fft.rfft(beep[:4000])).argmax() == 250  # 1000 Hz in a quarter of a second
    assert np.abs(beep[4000:8000]).max() == 0
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02
    assert np.abs(siren).max() <= 0.5


def test_weights_that_cannot_be_had_are_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TCAF_OFFLINE", "1")
    monkeypatch.setenv("TCAF_CACHE", str(tmp_path))
    assert known_names() == ("vggish", "c3d", "clip", "clap", "pe-av")
    found = list(check_weights(["vggish", "c3d"]))
    assert {each.state for each in found} == {"missing"}
    assert main(["doctor", "--weights", "vggish", "--json"]) == 2
    told = capsys.readouterr()
    (verdict,) = json.loads(told.out)
    assert (verdict["name"], verdict["state"]) == ("vggish", "missing")
    assert "weights that could not be had: vggish" in told.err
    assert main(["doctor", "--weights", "c3d"]) == 2
    assert "c3d could not be had: cannot fetch the weights" in capsys.readouterr().out


def test_names_that_are_none_are_refused_before_anything_is_fetched(capsys):
    with pytest.raises(TCAFError, match=r"^nothing is known of weights 'vgish'; .*mean 'vggi"):
        next(check_weights(["c3d", "vgish"]))
    assert main(["doctor", "vggish"]) == 2
    assert "add --weights" in capsys.readouterr().err


def test_one_that_is_wrong_is_told_before_those_that_lack():
    verdicts = [Verdict("a", "trusted", ""), Verdict("b", "missing", ""), Verdict("c", "wrong", "")]
    with pytest.raises(TCAFError, match=r"^weights that cannot be trusted: c$"):
        check_verdicts(verdicts)
    with pytest.raises(TCAFError, match=r"^weights that could not be had: b$"):
        check_verdicts(verdicts[:2])
    check_verdicts([Verdict("a", "trusted", ""), Verdict("c3d", "unknown", "")])
