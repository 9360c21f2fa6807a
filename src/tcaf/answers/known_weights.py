"""Weights that others publish: fetched, and compared with what is known of them.

Owns what is known of each, and the verdict. No test of this package has any of these weights: what
is said of them follows from public code and pages, and whoever runs `tcaf doctor --weights` tests
it.

- VGGish: its authors' smoke test gives mean and deviation of the embedding of three seconds of a
  1 kHz sine at 16 kHz, 0.000657 and 0.343 before the last ReLU, and 126.0 and 89.3 once it is coded
  in 8 bits (github.com/tensorflow/models, research/audioset/vggish/vggish_smoke_test.py, of July
  2023), with a tolerance of 10 %. The first mean is all but 0, so that it is held to 0.01 in place
  of a share: one who ran it elsewhere got 0.000449 (issue 9248 there).
- CLIP, CLAP, PE-AV and other models that embed text: of three rendered pictures or sounds, each has
  to be nearer to its own sentence than the others are, once what a sentence has in common with all
  three is taken away.
- C3D: no numbers are published. The file must have the digits of the SHA-256 that stand in its
  name, and clips that differ must have features that do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from tcaf.answers.aligned_models import open_aligned
from tcaf.answers.files import FileBackbones
from tcaf.answers.ready import READY
from tcaf.data.features import Modality
from tcaf.errors import MissingExtraError, TCAFError, did_you_mean
from tcaf.extract.backbones import AudioBackbone, VisualBackbone, open_backbone, takes_model
from tcaf.extract.extractor import audio_tokens
from tcaf.extract.vggish import VGGishBackbone, log_mel_of_windows, quantise
from tcaf.text.class_text import open_text_source
from tcaf.text.of_backbone import resolved
from tcaf.training.model_file import TrainedModel

State = Literal["trusted", "unknown", "wrong", "missing"]
"""What is said of weights: they do what is known of them; nothing is known that would tell; they do
not; they could not be had."""

SIDE = 256
"""Pixels of a rendered picture."""

SOUND_S = 5.0
"""Seconds of a rendered sound."""

PICTURES = ("a red circle", "a blue square", "a green triangle")
SOUNDS = ("a high beeping tone", "loud white noise, static", "a siren that goes up and down")
"""Sentences, each of which is rendered."""


@dataclass(frozen=True)
class Verdict:
    """What was found of weights.

    Args:
        name: of the weights.
        state: see `State`.
        detail: one line.
    """

    name: str
    state: State
    detail: str

    def to_json(self) -> dict[str, str]:
        """Returns the verdict as JSON values."""
        return asdict(self)


def known_names() -> tuple[str, ...]:
    """Returns the names of weights that are looked at where none is named."""
    return (*_CHECKS, *(n for n, info in READY.items() if info.backbones and "+" not in n))


def check_weights(names: Sequence[str]) -> Iterator[Verdict]:
    """Yields what is found of weights, each as soon as it is known; fetches them if need be.

    Args:
        names: of `known_names`, or models as `hf:ID_OR_FOLDER[@REVISION]`; all known ones if empty.

    Raises:
        TCAFError: a name that is none, before anything is fetched.
    """
    for name in names:
        if name not in known_names() and not takes_model(name):
            raise TCAFError(
                f"nothing is known of weights {name!r}; there are {', '.join(known_names())}, and "
                f"hf:MODEL{did_you_mean(name, known_names())}"
            )
    for name in names or known_names():
        check = _CHECKS.get(name) or _check_aligned
        try:
            yield check(name)
        except MissingExtraError as error:
            yield Verdict(name, "missing", str(error))
        except TCAFError as error:
            state: State = "missing" if "cannot fetch" in str(error) else "wrong"
            yield Verdict(name, state, str(error))


def check_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Checks that all weights can be had and none is wrong.

    Raises:
        TCAFError: otherwise, with how many.
    """
    wrong = [each.name for each in verdicts if each.state == "wrong"]
    missing = [each.name for each in verdicts if each.state == "missing"]
    if wrong:
        raise TCAFError(f"weights that cannot be trusted: {', '.join(wrong)}")
    if missing:
        raise TCAFError(f"weights that could not be had: {', '.join(missing)}")


def _check_vggish(name: str) -> Verdict:
    backbone = open_backbone(name, "audio")
    assert isinstance(backbone, VGGishBackbone), "the table names its module"
    return vggish_verdict(backbone)


@torch.inference_mode()
def vggish_verdict(backbone: VGGishBackbone) -> Verdict:
    """Returns whether VGGish does with a sine what its authors say; see the module."""
    times = np.arange(3 * backbone.sample_rate) / backbone.sample_rate
    sine = np.sin(2 * np.pi * 1000 * times)
    starts = np.arange(3) * backbone.hop_samples
    windows = np.stack([sine[start : start + backbone.window_samples] for start in starts])
    examples = torch.from_numpy(log_mel_of_windows(windows))
    embedding = backbone.network.before_activation(examples).numpy()
    coded = quantise(embedding, *backbone.pca)
    activated = np.maximum(embedding, 0)
    found = {
        "mean": (float(embedding.mean()), 0.000657, 0.01),
        "deviation": (float(embedding.std()), 0.343, 0.0343),
        "mean in 8 bits": (float(coded.mean()), 126.0, 12.6),
        "deviation in 8 bits": (float(coded.std()), 89.3, 8.93),
    }
    wrong = [n for n, (got, wanted, most) in found.items() if not abs(got - wanted) <= most]
    told = ", ".join(f"{n} {got:.3g} ({wanted:g})" for n, (got, wanted, _) in found.items())
    told += f"; behind the ReLU {activated.mean():.3g} and {activated.std():.3g}"
    if wrong:
        return Verdict("vggish", "wrong", f"a 1 kHz sine gives {told}: {', '.join(wrong)} differ")
    return Verdict("vggish", "trusted", f"a 1 kHz sine gives {told}, as its authors say")


def _check_c3d(name: str) -> Verdict:
    backbone = open_backbone(name, "visual")
    assert isinstance(backbone, VisualBackbone), "the table says so"
    size = backbone.frame_size
    assert size is not None, "C3D's frames are scaled"
    draw = np.random.default_rng(0)
    still = draw.integers(0, 256, (1, 1, size.height, size.width, 3), np.uint8)
    still = np.repeat(still, backbone.window_frames, axis=1)
    moving = np.stack([np.roll(f, 6 * i, axis=1) for i, f in enumerate(still[0])])[None]
    features = backbone.embed(np.concatenate([still, moving]))
    if not np.isfinite(features).all() or np.allclose(features[0], features[1]):
        return Verdict(name, "wrong", "a picture that moves has the features of one that stands")
    share = float((features > 0).mean())
    return Verdict(
        name,
        "unknown",
        f"the file is the published one, by its SHA-256; {100 * share:.0f} % of the features of "
        "two clips are above 0; no numbers are published that would tell more",
    )


def _check_aligned(name: str) -> Verdict:
    trained = open_aligned(name)
    told, is_wrong = [], False
    for modality in trained.model.modalities:
        cosines = rendered_cosines(trained, modality)
        right = (cosines.argmax(axis=1) == np.arange(len(cosines))).tolist()
        # Some sentences are near to everything; what they have in common with all tells nothing.
        apart = cosines - cosines.mean(axis=0, keepdims=True)
        own = np.diag(apart)
        others = np.where(np.eye(len(apart), dtype=bool), -np.inf, apart).max(axis=1)
        is_wrong |= bool((own <= others).any())
        what = "pictures" if modality == "visual" else "sounds"
        told.append(
            f"{sum(right)} of {len(right)} {what} nearest to their own sentence, by a margin of "
            f"{(own - others).min():.3f} once what sentences share is taken away"
        )
    state: State = "wrong" if is_wrong else "trusted"
    return Verdict(name, state, "; ".join(told))


def rendered_cosines(
    trained: TrainedModel, modality: Modality
) -> Float[np.ndarray, "num_rendered num_sentences"]:
    """Returns the cosine of each rendered picture or sound with each sentence."""
    opened = FileBackbones(trained.spec, (modality,), {modality: None}).opened[modality]
    if isinstance(opened, VisualBackbone):
        sentences = PICTURES
        shape = (1, opened.window_frames, SIDE, SIDE, 3)
        windows = [np.broadcast_to(picture(number), shape) for number in range(len(PICTURES))]
        clips = opened.embed(np.concatenate(windows))
    else:
        assert isinstance(opened, AudioBackbone), "`open_backbone` checks the modality"
        sentences, rate = SOUNDS, opened.sample_rate
        tokens = [audio_tokens(opened, [sound(n, rate)]) for n in range(len(SOUNDS))]
        clips = np.stack([each.mean(axis=0) for each in tokens])
    settings = trained.settings.text_spaces[modality]
    text = open_text_source(resolved(settings, trained.spec)).embed(sentences)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (clips, text)]
    return np.asarray(unit[0] @ unit[1].T, np.float32)


def picture(number: int) -> UInt8[np.ndarray, "side side 3"]:
    """Returns a picture of one of `PICTURES`: a coloured shape on white."""
    down, right = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    shapes = (
        down**2 + right**2 < 0.09,
        np.maximum(abs(down), abs(right)) < 0.27,
        (down < 0.25) & (abs(right) < (down + 0.3) * 0.6),
    )
    colours = ((220, 20, 20), (20, 40, 220), (20, 170, 40))
    drawn = np.full((SIDE, SIDE, 3), 255, np.uint8)
    drawn[shapes[number]] = colours[number]
    return drawn


def sound(number: int, sample_rate: int) -> Float[np.ndarray, " samples"]:
    """Returns one of `SOUNDS`, in -1..1."""
    times = np.arange(round(SOUND_S * sample_rate)) / sample_rate
    if number == 0:
        wave = np.sin(2 * np.pi * 1000 * times) * (times % 0.5 < 0.25)
    elif number == 1:
        wave = np.random.default_rng(0).uniform(-1, 1, len(times))
    else:
        pitch = 900 + 400 * np.sin(2 * np.pi * 0.7 * times)
        wave = np.sin(2 * np.pi * np.cumsum(pitch) / sample_rate)
    return (0.5 * wave).astype(np.float32)


_CHECKS: Mapping[str, Callable[[str], Verdict]] = {"vggish": _check_vggish, "c3d": _check_c3d}
"""Weights of which other things are known than what a model of text and pictures must do."""
