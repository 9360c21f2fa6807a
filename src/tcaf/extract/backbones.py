"""Backbones: networks and transforms that turn a window of sound or picture into one token.

Owns what a backbone is, the table of those that there are, and their names. The decoding of files
is `media`, the cutting into windows `extractor`; each backbone has a module of its own, or comes
with a plugin that calls `register_backbone`.

A name carries all that features depend on, so that features of two kinds are never mixed:
`efficientnet_lite0`, `efficientnet_lite0:frames=4`, `c3d:colours=release,weights=5d1c0f3a9b77`.
`weights` is there where they are not the ones that the name stands for: `random`, or the beginning
of their SHA-256. Of backbones that open a model by its name, that comes first:
`hf:openai/clip-vit-base-patch32@<commit>,weights=5d1c0f3a9b77`.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, get_type_hints, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.data.features import Modality
from tcaf.errors import TCAFError, did_you_mean
from tcaf.plugins import Registry
from tcaf.pretrained.fetch import RANDOM
from tcaf.settings.sections import Device


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
class Backbone(Protocol):
    """What both kinds have.

    Attributes:
        name: canonical, with options that differ from the defaults (`canonical_name`).
        dim: size of a token.
        step_s: seconds from one token to the next.
    """

    name: str
    dim: int
    step_s: float


@runtime_checkable
class AudioBackbone(Backbone, Protocol):
    """Makes a token of each window of sound; `step_s` is `hop_samples / sample_rate`.

    Attributes:
        sample_rate: samples per second that it wants, mono.
        window_samples: samples that one token is made from.
        hop_samples: samples from the start of one window to the next.
    """

    sample_rate: int
    window_samples: int
    hop_samples: int

    def embed(
        self, windows: Float[np.ndarray, "num_windows window_samples"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns one float32 token per window; samples lie in -1..1."""
        ...


@runtime_checkable
class VisualBackbone(Backbone, Protocol):
    """Makes a token of each window of frames; `step_s` is `window_frames / fps`.

    Attributes:
        fps: frames per second that it wants.
        window_frames: frames that one token is made from; windows do not overlap.
        frame_size: how frames are scaled; None leaves them as large as they are.
        takes_incomplete_windows: whether what is left over at the end of a clip is embedded too, as
            a window of fewer frames.
    """

    fps: float
    window_frames: int
    frame_size: FrameSize | None
    takes_incomplete_windows: bool

    def embed(
        self, windows: UInt8[np.ndarray, "num_windows window_frames height width 3"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns one float32 token per window of RGB frames in 0..255."""
        ...


@runtime_checkable
class Moves(Protocol):
    """A backbone that can compute on a GPU. Others compute on the CPU, whatever is there."""

    def move_to(self, device: Any) -> None:
        """Moves its network to a device (`torch.device`), where it computes from now on."""
        ...


OpenBackbone = Callable[[Mapping[str, str], Path | None], Backbone]
"""Loads a backbone: options of its name, and a file or folder in place of its known weights."""


@dataclass(frozen=True)
class BackboneInfo:
    """The description of a backbone, which needs none of its packages or weights.

    Args:
        modality: what its tokens are made of; None where the model decides.
        open: what loads it, or the module whose `open_backbone` does; of either modality,
            `open_audio` and `open_visual`.
        dim: size of a token; `the model` where it depends on the weights.
        step_s: seconds per token; None where that depends on the model.
        weights: where they come from.
        licence: of the weights.
        options: further options with their defaults; a name lists those that differ.
        takes_model: whether the name of a model stands before the options.
    """

    modality: Modality | None
    open: OpenBackbone | str
    dim: str
    step_s: float | None
    weights: str
    licence: str
    options: Mapping[str, str] = field(default_factory=dict)
    takes_model: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the description as JSON values; a function becomes the name of its module."""
        opened = self.open if isinstance(self.open, str) else self.open.__module__
        return {**asdict(self), "options": dict(self.options), "open": opened}


BACKBONES: Registry[BackboneInfo] = Registry(
    "backbone",
    {
        "vggish": BackboneInfo(
            "audio",
            "tcaf.extract.vggish",
            "128",
            0.96,
            "AudioSet, fetched on first use (289 MB)",
            "Apache-2.0",
            {"activation": "relu"},
        ),
        "logmel": BackboneInfo("audio", "tcaf.extract.logmel", "128", 0.96, "none", "none needed"),
        "c3d": BackboneInfo(
            "visual",
            "tcaf.extract.c3d",
            "4096",
            0.64,
            "Sports-1M, fetched on first use (312 MB)",
            "Apache-2.0",
            {"colours": "paper", "precision": "float32"},
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
        "hf": BackboneInfo(
            None,
            "tcaf.extract.hub_models",
            "the model",
            None,
            "hf:ID_OR_FOLDER[@REVISION], a model of the hub that embeds text beside pictures, "
            "videos or sounds (extra `hub`)",
            "the model's",
            {"frames": "the model's", "seconds": "the model's"},
            takes_model=True,
        ),
        "st": BackboneInfo(
            None,
            "tcaf.extract.sentence_models",
            "the model",
            None,
            "st:ID_OR_FOLDER[@REVISION], a sentence-transformers model that takes pictures, videos "
            "or sounds (extra `text`)",
            "the model's",
            {"frames": "the model's", "seconds": "the model's"},
            takes_model=True,
        ),
    },
)
"""The backbones by name."""

FRAMES = ("1", "2", "4", "8", "16")
"""What there is for the option `frames`, of backbones that look at some frames of 16."""


def register_backbone(name: str, info: BackboneInfo) -> BackboneInfo:
    """Adds a backbone of the user's own to the table.

    Raises:
        TCAFError: the name is taken, or has signs that part names from options.
    """
    if not name or set(name) & set(":,= ") or not name.isprintable():
        raise TCAFError(f"expected a name without : , = and spaces for a backbone, got {name!r}")
    return BACKBONES.add(name, info)


def frames_option(name: str, options: Mapping[str, str]) -> int:
    """Returns how many frames of a window a backbone looks at.

    Raises:
        TCAFError: not one of `FRAMES`.
    """
    frames = options.get("frames", BACKBONES[name].options["frames"])
    if frames not in FRAMES:
        raise TCAFError(
            f"{name}: expected frames to be one of {', '.join(FRAMES)}, got {frames!r}"
            f"{did_you_mean(frames, FRAMES)}"
        )
    return int(frames)


MODEL = "model"
"""What `parse_name` calls the name of a model, among the options."""


def parse_name(text: str) -> tuple[str, dict[str, str]]:
    """Splits `c3d:colours=release` into the backbone and its options, the model among them.

    Raises:
        TCAFError: no such backbone or option, an option without a value, or no model where one is
            needed.
    """
    name, _, rest = text.partition(":")
    if name not in BACKBONES:
        raise TCAFError(
            f"no backbone {name!r}; there are {', '.join(BACKBONES)}{did_you_mean(name, BACKBONES)}"
        )
    known = [*BACKBONES[name].options, "weights"]
    options: dict[str, str] = {}
    if BACKBONES[name].takes_model:
        # Names of folders may hold commas and equals signs.
        found = re.match(rf"(.*?)(?:,((?:{'|'.join(known)})=.*))?$", rest, re.DOTALL)
        model, rest = found.groups(default="") if found else ("", "")
        if not model:
            raise TCAFError(f"backbone {name!r} needs a model: {name}:ID_OR_FOLDER[@REVISION]")
        options[MODEL] = model
    for part in rest.split(",") if rest else ():
        key, is_given, value = part.partition("=")
        if key not in known or not is_given or not value or key in options:
            raise TCAFError(
                f"backbone {text!r}: expected options such as {known[0]}=VALUE, each once, of "
                f"{', '.join(known)}; got {part!r}{did_you_mean(key, known)}"
            )
        options[key] = value
    return name, options


def takes_model(text: str) -> bool:
    """Returns whether features are of a backbone that opens a model by its name."""
    info = BACKBONES.get(text.partition(":")[0])
    return info is not None and info.takes_model


def canonical_name(name: str, options: Mapping[str, str]) -> str:
    """Returns a backbone's name with the options that differ from their defaults, sorted."""
    defaults = BACKBONES[name].options
    named = [f"{k}={v}" for k, v in sorted(options.items()) if k != MODEL and defaults.get(k) != v]
    model = [options[MODEL]] if MODEL in options else []
    return f"{name}:{','.join([*model, *named])}" if model or named else name


def open_backbone(text: str, modality: Modality, weights: Path | None = None) -> Backbone:
    """Loads a backbone, ready to embed windows on the CPU.

    Args:
        text: its name, with options.
        modality: what it must be for.
        weights: a file or folder, in place of the weights that the name stands for.

    Raises:
        TCAFError: no such backbone, one of the other modality, a missing package, weights that are
            missing, damaged, or others than the name says, or a plugin's that is no backbone.
    """
    name, options = parse_name(text)
    info = BACKBONES[name]
    if info.modality not in (modality, None):
        fitting = ", ".join(n for n, i in BACKBONES.items() if i.modality in (modality, None))
        raise TCAFError(f"backbone {name!r} is {info.modality}; for {modality} there are {fitting}")
    if weights is not None and options.get("weights") == RANDOM:
        raise TCAFError(f"backbone {text!r} asks for random weights; leave out {weights}")
    if info.takes_model and options.get("weights") == RANDOM:
        raise TCAFError(f"backbone {name!r} has no random weights, since its sizes come from them")
    if weights is None and not info.takes_model and options.get("weights", RANDOM) != RANDOM:
        raise TCAFError(
            f"{text!r} needs its own weights: give their path with --{modality}_weights"
        )
    opened: OpenBackbone = (
        getattr(
            importlib.import_module(info.open),
            "open_backbone" if info.modality else f"open_{modality}",
        )
        if isinstance(info.open, str)
        else info.open
    )
    backbone = opened(options, weights)
    _check(name, modality, backbone)
    wanted = canonical_name(name, options)
    if "weights" in options and backbone.name != wanted:
        raise TCAFError(
            f"expected the weights of {wanted!r}, {weights or 'those found'} are those of "
            f"{backbone.name!r}"
        )
    return backbone


def move(opened: Iterable[Backbone], device: Device) -> None:
    """Moves backbones to a device, those that can compute there.

    Raises:
        TCAFError: there is no such device.
    """
    moving = [backbone for backbone in opened if isinstance(backbone, Moves)]
    if device == "cpu" or not moving:
        return
    # Not before it is needed: torch takes seconds.
    import torch

    from tcaf.execution.devices import pick_device

    target = pick_device(device)
    if target.type == "cpu":
        return
    # Products of convolutions would have 10 bits: features are to differ by rounding alone.
    torch.backends.cudnn.allow_tf32 = False
    for backbone in moving:
        backbone.move_to(target)


def processes_on(device: Device, opened: Iterable[Backbone], processes: int) -> int:
    """Returns how many of so many processes have room for backbones of their own on a device.

    Raises:
        TCAFError: there is no such device.
    """
    if device == "cpu":
        return processes
    from tcaf.execution.devices import fitting_processes, pick_device

    target = pick_device(device)
    moving = any(isinstance(backbone, Moves) for backbone in opened)
    return fitting_processes(target, processes) if moving else processes


def check_device(error: Exception) -> None:
    """Passes over errors but those of a GPU: the next file would fare no better there.

    Raises:
        TCAFError: the GPU failed, or has no memory left.
    """
    import torch

    # Libraries of a GPU have no error of their own.
    failed = isinstance(error, RuntimeError) and re.search("CUDA error|CUBLAS|CUDNN", str(error))
    if failed or isinstance(error, torch.OutOfMemoryError):
        told = str(error).splitlines()[0]
        raise TCAFError(f"the GPU failed: {told}; try fewer --workers, or --device cpu") from None


def _check(name: str, modality: Modality, backbone: Any) -> None:
    """Checks that what was opened under a name is a backbone of that name."""
    kind = AudioBackbone if modality == "audio" else VisualBackbone
    needed = (*get_type_hints(kind), "embed")
    if missing := [attribute for attribute in needed if not hasattr(backbone, attribute)]:
        raise TCAFError(
            f"what backbone {name!r} opens has no {', '.join(missing)}; see {kind.__module__}."
            f"{kind.__name__}"
        )
    if backbone.name.partition(":")[0] != name:
        raise TCAFError(
            f"backbone {name!r} calls itself {backbone.name!r}; expected that name, with options "
            "behind a colon"
        )
