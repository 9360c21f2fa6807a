"""Models that embed text beside pictures, videos or sounds in one space, from their folders.

Owns loading by transformers, and the way from text, frames and samples through a model's own
tokenizer and processors to its features: CLIP, SigLIP, MetaCLIP 2, X-CLIP, CLAP, PE-AV and whatever
else has `get_text_features` beside `get_image_features`, `get_video_features` or
`get_audio_features`. Which frames and samples make a token is `extract.hub_models`, how phrases
stand for a class `text`. Where folders come from is `hub`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tcaf.data.features import Modality
from tcaf.errors import MissingExtraError, TCAFError, shorten
from tcaf.execution.devices import on_cpu
from tcaf.files.atomic import read_json
from tcaf.pretrained.model_folder import (
    first_line,
    load_processor,
    load_tokenizer,
    missing_package,
    model_files,
    quiet,
    version,
)

Kind = Literal["image", "video", "audio"]
"""What a half of a model takes: single frames, some frames in order, or samples."""

NUM_FRAMES = 16
"""Frames of a video where the model takes any number."""

UNLIMITED = 100_000
"""Tokenizers without a longest text say a number above this."""

Embed = Callable[[Mapping[str, Tensor]], Float[Tensor, "batch dim"]]


@dataclass(frozen=True)
class Half:
    """What embeds one modality, and text in the same space.

    Args:
        kind: what it takes.
        embed: makes features of what the processor returns.
        embed_text: makes features of what the tokenizer returns.
        logit_scale: what the cosine of both is multiplied by before a softmax; None where the model
            was not trained on cosines.
    """

    kind: Kind
    embed: Embed
    embed_text: Embed
    logit_scale: float | None


class AlignedModel:
    """A loaded model in float32, on whatever device.

    Args:
        model: of transformers, in evaluation mode.
        folder: its processors' files.

    Attributes:
        halves: what it embeds beside text, by modality.

    Raises:
        TCAFError: it embeds no text, or nothing beside text.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.halves: dict[Modality, Half] = _perception_halves(model) or _halves(model)
        if not self.halves:
            raise TCAFError(
                f"the model in {folder}, {type(model).__name__}, does not embed text beside "
                "pictures, videos or sounds (get_text_features, and get_image_features, "
                "get_video_features or get_audio_features); CLIP, SigLIP, MetaCLIP 2, X-CLIP, CLAP "
                "and PE-AV do"
            )

    def __reduce__(self) -> tuple[Callable[[Path], "AlignedModel"], tuple[Path]]:
        """Lets another process load the model from its folder."""
        return load_aligned, (self.folder,)

    def _there(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns inputs on the model's device."""
        device = next(self.model.parameters()).device
        return {n: v.to(device) if isinstance(v, Tensor) else v for n, v in given.items()}

    def half(self, modality: Modality) -> Half:
        """Returns what embeds a modality.

        Raises:
            TCAFError: the model does not embed it.
        """
        if modality not in self.halves:
            raise TCAFError(
                f"the model in {self.folder}, {type(self.model).__name__}, embeds "
                f"{' and '.join(self.halves)}, not {modality}"
            )
        return self.halves[modality]

    def dim(self, modality: Modality) -> int:
        """Returns the size of the features of a modality; embeds something to learn it."""
        if self.half(modality).kind == "audio":
            return self.embed_samples(np.zeros((1, self.sample_rate), np.float32)).shape[1]
        frames = self.num_frames or 1
        return self.embed_frames(np.zeros((1, frames, 64, 64, 3), np.uint8)).shape[2]

    @property
    def num_frames(self) -> int | None:
        """Frames of a video that the model takes; None for any number."""
        vision = getattr(self.model.config, "vision_config", None)
        return getattr(vision, "num_frames", None)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.folder, self._text_config.vocab_size)

    @property
    def _text_config(self) -> Any:
        return getattr(self.model.config, "text_config", self.model.config)

    @property
    def _max_len(self) -> int:
        """Tokens of the longest text."""
        config = self._text_config
        positions = int(getattr(config, "max_position_embeddings", UNLIMITED))
        if "clap" in config.model_type or "roberta" in config.model_type:
            # These count positions from above the padding's number.
            positions -= config.pad_token_id + 1
        longest = int(self._tokenizer.model_max_length)
        return min(positions, longest) if longest < UNLIMITED else positions

    @torch.inference_mode()
    def embed_text(
        self, phrases: Sequence[str], modality: Modality
    ) -> Float[np.ndarray, "num_phrases dim"]:
        """Returns the features of phrases in the space of a modality, as the model has them.

        A phrase that is too long is cut.

        Raises:
            TCAFError: the model does not embed the modality, or has no tokenizer that fits.
        """
        # SigLIP was trained on texts that are all padded to one length.
        same = self.model.config.model_type.startswith("siglip")
        tokens = self._tokenizer(
            list(phrases),
            padding="max_length" if same else True,
            truncation=True,
            max_length=self._max_len,
            return_tensors="pt",
        )
        given = {name: value for name, value in tokens.items() if name != "token_type_ids"}
        return on_cpu(self.half(modality).embed_text(self._there(given)))

    @cached_property
    def _frames_processor(self) -> tuple[Any, bool]:
        """What prepares frames, and whether it is one for videos."""
        kept = self.folder / "processor_config.json"
        settings = read_json(kept, "settings of processors") if kept.is_file() else {}
        is_video = (self.folder / "video_preprocessor_config.json").is_file() or (
            isinstance(settings, dict) and "video_processor" in settings
        )
        if self.half("visual").kind == "video" and is_video:
            return load_processor("AutoVideoProcessor", self.folder, "video processor"), True
        # Always the same arithmetic, whichever packages are installed.
        options = {"backend": "pil"}
        return load_processor(
            "AutoImageProcessor", self.folder, "image processor", **options
        ), False

    @torch.inference_mode()
    def embed_frames(
        self, windows: UInt8[np.ndarray, "num_windows window_frames height width 3"]
    ) -> Float[np.ndarray, "num_windows num_features dim"]:
        """Returns the features of frames, RGB of any size, as the model has them.

        Returns:
            One for each frame where the model takes pictures, one for each window where it takes
            videos.

        Raises:
            TCAFError: see `half`; no processor, or one that needs a package which is not there.
        """
        half = self.half("visual")
        processor, is_video = self._frames_processor
        count = windows.shape[1]
        if is_video:
            videos = [torch.from_numpy(np.moveaxis(w, -1, 1).copy()) for w in windows]
            given = processor(videos, do_sample_frames=False, return_tensors="pt")
            return on_cpu(half.embed(self._there(given)))[:, None]
        frames = list(windows.reshape(-1, *windows.shape[2:]))
        given = dict(processor(frames, input_data_format="channels_last", return_tensors="pt"))
        if half.kind == "image":
            return on_cpu(half.embed(self._there(given)).unflatten(0, (-1, count)))
        # Some processors of videos take frames for one video.
        pixels = given["pixel_values"].reshape(-1, count, *given["pixel_values"].shape[-3:])
        return on_cpu(half.embed(self._there({"pixel_values": pixels})))[:, None]

    @cached_property
    def _samples_processor(self) -> Any:
        return load_processor("AutoFeatureExtractor", self.folder, "feature extractor")

    @property
    def sample_rate(self) -> int:
        """Samples per second of the sound that the model takes."""
        return int(self._samples_processor.sampling_rate)

    @property
    def max_samples(self) -> int | None:
        """Samples of the longest sound that is taken whole; None where there is none."""
        longest = getattr(self._samples_processor, "nb_max_samples", None)
        return None if longest is None else int(longest)

    @torch.inference_mode()
    def embed_samples(
        self, windows: Float[np.ndarray, "num_windows window_samples"]
    ) -> Float[np.ndarray, "num_windows dim"]:
        """Returns the features of sounds at `sample_rate`, as the model has them."""
        given = self._samples_processor(
            list(windows), sampling_rate=self.sample_rate, return_tensors="pt"
        )
        given = {n: v.float() if v.is_floating_point() else v for n, v in given.items()}
        if "is_longer" in given:
            # Models with fusion treat long sounds in a way of their own. With none among them, the
            # extractor declares one at random to be long; its answer would differ from run to run.
            given["is_longer"] = torch.zeros(len(windows), 1, dtype=torch.bool)
        return on_cpu(self.half("audio").embed(self._there(given)))


def _halves(model: Any) -> dict[Modality, Half]:
    """Returns what a model embeds by the methods that transformers' models share."""
    if not hasattr(model, "get_text_features"):
        return {}
    found: dict[Modality, Half] = {}
    text = _by_method(model.get_text_features)
    kinds: tuple[tuple[Modality, Kind], ...] = (
        *(("visual", "image"), ("visual", "video")),
        ("audio", "audio"),
    )
    for modality, kind in kinds:
        if hasattr(model, f"get_{kind}_features"):
            embed = _by_method(getattr(model, f"get_{kind}_features"))
            scale = next(
                (getattr(model, n) for n in ("logit_scale", "logit_scale_a") if hasattr(model, n)),
                None,
            )
            scaled = None if scale is None else float(scale.detach().exp())
            found[modality] = Half(kind, embed, text, scaled)
    return found


def _by_method(method: Callable[..., Any]) -> Embed:
    def embed(given: Mapping[str, Tensor]) -> Float[Tensor, "batch dim"]:
        found = method(**given)
        # Before transformers 5 these methods returned the tensor.
        return getattr(found, "pooler_output", found)

    return embed


def _perception_halves(model: Any) -> dict[Modality, Half]:
    """Returns what PE-AV embeds, whose methods have other names, and partly call what is not there.

    Source: `PeAudioVideoModel.forward` of transformers 5. Each modality has a projection of text of
    its own. Trained on dot products of any length, through a sigmoid.
    """
    if type(model).__name__ != "PeAudioVideoModel":
        return {}
    audio, video = model.audio_model, model.video_model

    def first_state(given: Mapping[str, Tensor]) -> Float[Tensor, "batch dim"]:
        return model.text_model(**given, output_hidden_states=True).hidden_states[-1][:, 0]

    def of_samples(given: Mapping[str, Tensor]) -> Float[Tensor, "batch dim"]:
        return audio.audio_head(audio.audio_encoder(**given).pooler_output)

    def of_frames(given: Mapping[str, Tensor]) -> Float[Tensor, "batch dim"]:
        return video.video_head(video.video_encoder(**given).pooler_output)

    return {
        "audio": Half("audio", of_samples, lambda t: audio.text_audio_head(first_state(t)), None),
        "visual": Half("video", of_frames, lambda t: video.text_video_head(first_state(t)), None),
    }


def _class_of(kind: str, transformers: Any) -> Any:
    """Returns the class of transformers that loads a type of model."""
    if kind != "pe_audio_video":
        return transformers.AutoModel

    class PeAudioVideoModel(transformers.PeAudioVideoModel):  # type: ignore[misc]
        # Its list of weights that parts share leaves out one of the tables of positions that timm's
        # network may have, and fails on the other (transformers 5.23 with timm 1.0.31).
        _tied_weights_keys: ClassVar = {
            _without_positions(theirs): _without_positions(own)
            for theirs, own in transformers.PeAudioVideoModel._tied_weights_keys.items()
        }

    return PeAudioVideoModel


def _without_positions(pattern: str) -> str:
    return pattern.replace(r"rope\.pos_embed", r"rope\.")


def load_aligned(folder: Path, device: str = "cpu") -> AlignedModel:
    """Loads a model from its folder; the last two stay in memory, so that both sides share one.

    Args:
        folder: of the model.
        device: where it is to compute.

    Raises:
        TCAFError: transformers is not installed; the folder holds no model that embeds text beside
            something else, not all of its weights in the right shapes, or none in safetensors.
    """
    return _load(folder, version(folder), device)


@lru_cache(maxsize=2)
def _load(folder: Path, version: tuple[tuple[str, int, int], ...], device: str) -> AlignedModel:
    what = "the folder of a transformers model"
    if not (folder / "config.json").is_file():
        raise TCAFError(f"expected {what} at {folder}, found no config.json there")
    config = read_json(folder / "config.json", what)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise TCAFError(
            f"{folder / 'config.json'}: expected the settings of a model, with model_type"
        )
    model_files(folder)  # else transformers would read pickles, or follow a list anywhere
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers is not installed; pip install 'tcaf[hub]'") from None
    try:
        with quiet():
            model, info = _class_of(config["model_type"], transformers).from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except ImportError as error:
        raise MissingExtraError(
            f"the model in {folder} needs a package that is not installed: {missing_package(error)}"
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever a foreign folder makes transformers raise
        raise TCAFError(f"the model in {folder} does not load: {first_line(error)}") from None
    # Transformers would go on with random numbers in their place.
    if lacking := [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]:
        raise TCAFError(
            f"the model in {folder} does not load: no weights, or of another shape than "
            f"config.json says, for {shorten(sorted(lacking))}"
        )
    found = AlignedModel(model.float().eval().requires_grad_(False), folder)
    model.to(device)
    return found
