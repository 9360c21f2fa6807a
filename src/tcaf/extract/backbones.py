"""Backbones: networks and transforms that turn a window of sound or picture into one token.

Owns what a backbone is, the table of those that there are, and their names. The decoding of files
is `media`, the cutting into windows `extractor`; each backbone has a module of its own.

A name carries all that features depend on, so that features of two kinds are never mixed:
`efficientnet_lite0`, `efficientnet_lite0:frames=4`, `c3d:colours=release,weights=5d1c0f3a9b77`.
`weights` is there where they are not the ones that the name stands for: `random`, or the beginning
of their SHA-256.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.data.features import Modality
from tcaf.errors import TCAFError, did_you_mean
from tcaf.pretrained.weights import RANDOM


@dataclass(frozen=True)
class FrameSize:
    """How frames are scaled before a backbone sees them.

    Args:
        height: in pixels; of the short side where `keep_aspect`.
        width: in pixels.
        keep_aspect: scale the short side to `height` and cut the middle `height` x `width` out;
            otherwise the picture is stretched to `height` x `width`.
    """

    height: int
    width: int
    keep_aspect: bool = False


@runtime_checkable
class AudioBackbone(Protocol):
    """Makes a token of each window of sound.

    Attributes:
        name: canonical, with options that differ from the defaults.
        dim: size of a token.
        step_s: seconds from one token to the next: `hop_samples / sample_rate`.
        sample_rate: samples per second that it wants, mono.
        window_samples: samples that one token is made from.
        hop_samples: samples from the start of one window to the next.
    """

    name: str
    dim: int
    step_s: float
    sample_rate: int
    window_samples: int
    hop_samples: int

    def embed(
        self, windows: Float[np.ndarray, "num_windows window_samples"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns one float32 token per window; samples lie in -1..1."""
        ...


@runtime_checkable
class VisualBackbone(Protocol):
    """Makes a token of each window of frames.

    Attributes:
        name: canonical, with options that differ from the defaults.
        dim: size of a token.
        step_s: seconds from one token to the next: `window_frames / fps`.
        fps: frames per second that it wants.
        window_frames: frames that one token is made from; windows do not overlap.
        frame_size: how frames are scaled.
    """

    name: str
    dim: int
    step_s: float
    fps: float
    window_frames: int
    frame_size: FrameSize

    def embed(
        self, windows: UInt8[np.ndarray, "num_windows window_frames height width 3"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns one float32 token per window of RGB frames in 0..255."""
        ...


Backbone = AudioBackbone | VisualBackbone


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone before it is loaded.

    Args:
        modality: what it listens to or looks at.
        module: where its `open_backbone(name, weights, options)` lies.
        dim: size of a token; `the model` where it depends on the weights.
        step_s: seconds per token.
        weights: where they come from.
        licence: of the weights.
        options: further options with their defaults; a name lists those that differ.
    """

    modality: Modality
    module: str
    dim: str
    step_s: float
    weights: str
    licence: str
    options: Mapping[str, str] = field(default_factory=dict)


BACKBONES: dict[str, BackboneInfo] = {
    "vggish": BackboneInfo(
        "audio",
        "tcaf.extract.vggish",
        "128",
        0.96,
        "AudioSet, fetched on first use (289 MB)",
        "Apache-2.0",
    ),
    "logmel": BackboneInfo("audio", "tcaf.extract.logmel", "128", 0.96, "none", "none needed"),
    "clap": BackboneInfo(
        "audio",
        "tcaf.extract.clap",
        "the model",
        0.96,
        "a folder of a transformers CLAP model, by --audio_weights",
        "the model's",
    ),
    "c3d": BackboneInfo(
        "visual",
        "tcaf.extract.c3d",
        "4096",
        0.64,
        "Sports-1M, fetched on first use (312 MB)",
        "Apache-2.0",
        {"colours": "paper"},
    ),
    "efficientnet_lite0": BackboneInfo(
        "visual",
        "tcaf.extract.efficientnet",
        "1280",
        0.64,
        "ImageNet, come with the extra `video`",
        "Apache-2.0",
        {"frames": "16"},
    ),
    "clip": BackboneInfo(
        "visual",
        "tcaf.extract.clip",
        "the model",
        0.64,
        "a folder of a transformers CLIP model, by --visual_weights",
        "the model's",
        {"frames": "2"},
    ),
}
"""The backbones by name."""


def parse_name(text: str) -> tuple[str, dict[str, str]]:
    """Splits `c3d:colours=release` into the backbone and its options.

    Raises:
        TCAFError: no such backbone or option, or an option without a value.
    """
    name, _, rest = text.partition(":")
    if name not in BACKBONES:
        raise TCAFError(
            f"no backbone {name!r}; there are {', '.join(BACKBONES)}{did_you_mean(name, BACKBONES)}"
        )
    known = [*BACKBONES[name].options, "weights"]
    options: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        key, is_given, value = part.partition("=")
        if key not in known or not is_given or not value or key in options:
            raise TCAFError(
                f"backbone {text!r}: expected options such as {known[0]}=VALUE, each once, of "
                f"{', '.join(known)}; got {part!r}{did_you_mean(key, known)}"
            )
        options[key] = value
    return name, options


def canonical_name(name: str, options: Mapping[str, str]) -> str:
    """Returns a backbone's name with the options that differ from their defaults, sorted."""
    defaults = BACKBONES[name].options
    told = [f"{k}={v}" for k, v in sorted(options.items()) if defaults.get(k) != v]
    return f"{name}:{','.join(told)}" if told else name


def open_backbone(text: str, modality: Modality, weights: Path | None = None) -> Backbone:
    """Loads a backbone, ready to embed windows.

    Args:
        text: its name, with options.
        modality: what it must be for.
        weights: a file or folder, in place of the weights that the name stands for.

    Raises:
        TCAFError: no such backbone, one of the other modality, a missing package, or weights that
            are missing, damaged, or others than the name says.
    """
    name, options = parse_name(text)
    info = BACKBONES[name]
    if info.modality != modality:
        fitting = ", ".join(n for n, i in BACKBONES.items() if i.modality == modality)
        raise TCAFError(f"backbone {name!r} is {info.modality}; for {modality} there are {fitting}")
    if weights is not None and options.get("weights") == RANDOM:
        raise TCAFError(f"backbone {text!r} asks for random weights; leave out {weights}")
    if weights is None and options.get("weights", RANDOM) != RANDOM:
        raise TCAFError(
            f"{text!r} needs its own weights: give their path with --{modality}_weights"
        )
    backbone: Backbone = importlib.import_module(info.module).open_backbone(options, weights)
    wanted = canonical_name(name, options)
    if "weights" in options and backbone.name != wanted:
        raise TCAFError(
            f"expected the weights of {wanted!r}, {weights} are those of {backbone.name!r}"
        )
    return backbone
