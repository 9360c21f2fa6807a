"""What a run is made of: every setting, its default, and its unit.

Owns the sections of a configuration file, and laying several over one another. A section's fields
are the only settings there are: unknown ones are refused here and where command lines are read.
Defaults are the paper's for UCF-GZSL (Mercea et al., ECCV 2022, Sec. 4.1); a preset lists only what
differs. One subject, so longer than most modules.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tcaf.errors import TCAFError, did_you_mean
from tcaf.features import Modality
from tcaf.text import TextSettings

AttentionPattern = Literal["cross", "self", "full"]
Modalities = Literal["both", "audio", "visual"]
AudioScaling = Literal["divide_255", "l2", "none"]
VisualScaling = Literal["l2", "l2_over_time", "none"]
LayerNormKind = Literal["separate", "shared"]
Option = bool | int | float | str
"""A setting of one system."""


MOST_GAMMAS = 10_000


@dataclass(frozen=True)
class _Range:
    """What a number must be: from `least` (or above it, if `least_open`) to below `below`."""

    least: float
    least_open: bool = False
    below: float = math.inf

    def describe(self) -> str:
        """Returns the range in words."""
        low = f"above {self.least:g}" if self.least_open else f"at least {self.least:g}"
        return low if self.below == math.inf else f"{low} and below {self.below:g}"

    def holds(self, value: float | int) -> bool:
        """Returns whether a number lies in the range."""
        low = value > self.least if self.least_open else value >= self.least
        return low and value < self.below


_POSITIVE = _Range(0.0, least_open=True)
_FRACTION = _Range(0.0, below=1.0)
_COUNT = _Range(1.0)
_RANGES = {
    "fourier_scale": _POSITIVE,
    "batch_norm_momentum": _Range(0.0, least_open=True, below=1 + 1e-9),
    "plateau_epochs": _COUNT,
    "epochs": _COUNT,
    "batches_per_epoch": _COUNT,
    "batch_size": _COUNT,
    "learning_rate": _POSITIVE,
    "weight_decay": _Range(0.0),
    "beta1": _FRACTION,
    "beta2": _FRACTION,
    "plateau_factor": _Range(0.0, least_open=True, below=1.0),
    "window_s": _POSITIVE,
    "gamma_max": _Range(0.0),
    "gamma_step": _POSITIVE,
    "strongest": _POSITIVE,
    "margin": _POSITIVE,
    "ratio": _Range(0.0, least_open=True, below=1.0),
}
"""Of numbers that are no dropout (a fraction), size or count (at least 1)."""


def _is(value: object, hint: Any) -> bool:
    """Returns whether a value is of an annotated type; whole numbers count as numbers."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is UnionType:
        return any(_is(value, choice) for choice in get_args(hint))
    if hint in (int, float):
        kinds = int if hint is int else int | float
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def check_type(name: str, value: object, hint: Any) -> None:
    """Checks one setting against its annotation.

    Raises:
        TCAFError: it is of another type, or not among the choices.
    """
    if _is(value, hint):
        return
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        told = ", ".join(map(repr, choices))
        near = did_you_mean(str(value), choices)
        raise TCAFError(f"{name}: expected one of {told}, got {value!r}{near}")
    told = getattr(hint, "__name__", str(hint))
    raise TCAFError(f"{name}: expected {told}, got {value!r}")


def check_settings(section: str, settings: object) -> None:
    """Checks types and choices of a section's settings, and that numbers are finite and in range.

    Raises:
        TCAFError: naming the setting, what was expected and what came.
    """
    hints = get_type_hints(type(settings))
    for name, value in vars(settings).items():
        check_type(f"{section}.{name}", value, hints[name])
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        range_ = _RANGES.get(name, _FRACTION if name.startswith("dropout") else _COUNT)
        if not math.isfinite(value) or not range_.holds(value):
            unit = " seconds" if name.endswith("_s") else ""
            raise TCAFError(f"{section}.{name} must be {range_.describe()}{unit}, got {value}")


@dataclass(frozen=True)
class DataSettings:
    """Which clips a run uses.

    Args:
        split: name of the class partition in the store; `cls` in the paper's tables.
        average: give the model the mean over time of each clip's features in place of their
            sequence, one token per modality at time 0, as methods before TCaF did.
    """

    split: str = "cls"
    average: bool = False

    def __post_init__(self) -> None:
        check_settings("data", self)


@dataclass(frozen=True)
class ModelSettings:
    """The size and shape of TCaF (Sec. 3.2); dimensions of the inputs come from the data.

    Args:
        num_layers: transformer layers, L in the paper.
        num_heads: attention heads per layer, H.
        head_dim: size of one attention head, d_head.
        token_dim: size of a token inside the transformer, d_dim.
        joint_dim: size of the space shared by clips and class names, d_out.
        encoder_hidden_dim: hidden size of A_enc and V_enc, d_fhidd.
        projection_hidden_dim: hidden size of O_proj and D_o, d_fhidd.
        feed_forward_dim: hidden size of the feed-forward function, d_ff.
        position_dim: size of a token's position, d_pos; even.
        fourier_scale: standard deviation of the random frequencies of time, in 1/s before the
            factor 2 pi; small values see slow changes.
        attention: `cross` lets a modality see the other one, `self` itself, `full` both; the class
            token sees and is seen by all (Table 3).
        class_token: read the clip from a learnt class token; without it, from the mean over the
            output tokens (Table 3).
        modalities: which inputs are used (Table 4).
        dropout_encoder: dropout of A_enc and V_enc, drop_enc.
        dropout_position: dropout after positions are added, drop_prob,pos.
        dropout_transformer: dropout inside the transformer layers, drop_prob.
        dropout_text_projection: dropout of W_proj and D_w, drop_proj_w.
        dropout_video_projection: dropout of O_proj and D_o, drop_proj_o.
    """

    num_layers: int = 6
    num_heads: int = 8
    head_dim: int = 64
    token_dim: int = 300
    joint_dim: int = 64
    encoder_hidden_dim: int = 512
    projection_hidden_dim: int = 512
    feed_forward_dim: int = 128
    position_dim: int = 64
    fourier_scale: float = 10.0
    attention: AttentionPattern = "cross"
    class_token: bool = True
    modalities: Modalities = "both"
    dropout_encoder: float = 0.3
    dropout_position: float = 0.2
    dropout_transformer: float = 0.3
    dropout_text_projection: float = 0.1
    dropout_video_projection: float = 0.1

    def __post_init__(self) -> None:
        check_settings("model", self)
        if self.position_dim % 2:
            raise TCAFError(f"model.position_dim must be even, got {self.position_dim}")
        if self.attention == "cross" and self.modalities != "both" and not self.class_token:
            raise TCAFError(
                f"model.attention 'cross' with model.modalities {self.modalities!r} and no class "
                "token leaves nothing to attend to; use 'self' or keep the class token"
            )


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """What every system's configuration holds besides its own settings: inputs, as data decides.

    Args:
        audio_dim: size of an audio feature.
        visual_dim: size of a visual feature.
        text_dim: size of a class's text embedding.
        audio_scaling: see `Fidelity`.
        visual_scaling: see `Fidelity`.
        batch_norm_momentum: see `Fidelity`.
    """

    audio_dim: int
    visual_dim: int
    text_dim: int
    audio_scaling: AudioScaling = "divide_255"
    visual_scaling: VisualScaling = "l2"
    batch_norm_momentum: float = 0.1

    def dim(self, modality: Modality) -> int:
        """Returns the feature size of a modality."""
        return self.audio_dim if modality == "audio" else self.visual_dim

    def scaling(self, modality: Modality) -> AudioScaling | VisualScaling:
        """Returns how a modality's features are scaled."""
        return self.audio_scaling if modality == "audio" else self.visual_scaling


@dataclass(frozen=True, kw_only=True)
class TCAFConfig(InputConfig, ModelSettings):
    """All that `TCAF` is built from: its settings, and what data and fidelity decide.

    Args:
        layer_norm: see `Fidelity`.
    """

    layer_norm: LayerNormKind = "separate"


@dataclass(frozen=True)
class Fidelity:
    """Where the paper and the authors' release part: one field for each side that can be taken.

    The defaults are the preset `paper`: what the text says, repaired where the release is plainly
    broken. `Fidelity.official()` is what the release does. `docs/fidelity.md` lists all
    differences, and why some are not offered.

    Args:
        class_vectors: `by_name` gives a class the vector of its own name; `release_order` gives it
            the one that the release's two sort orders give it (79 of 101 UCF classes: another's).
        audio_scaling: `divide_255` for VGGish features, which are 8-bit; `l2` gives each token unit
            length; `none` leaves features as they are.
        visual_scaling: `l2` gives each token unit length; `l2_over_time` each feature over the
            tokens of a clip, as the release does; `none` leaves features as they are.
        evaluation_times: token times in `seconds`, as in training, or the token's `index`.
        window_times: a window keeps the `absolute` time of its tokens, or times `restart` at 0.
        audio_window: audio tokens cover the same `seconds` as the visual ones, or their number is
            the visual one x 0.64 x 0.96 as in the `release`.
        layer_norm: `separate` layer norms before attention and feed-forward, or one `shared`.
        batch_norm_momentum: weight of a batch in the running statistics; the release's second
            forward per batch moves them twice, which is 0.19.
        text_statistics: W_proj runs once, on the seen `classes`; or, as in the release, also on the
            text of the batch's `clips`, whose own batch statistics the regression then uses.
        squared_error: `mean` over the elements of a vector, or their `sum` (Eq. 17-18, literally).
        plateau_epochs: epochs without a better validation HM after which the learning rate falls.
        stage_2_schedule: stage 2 can `replay` stage 1's learning rates, or watch the `validation`
            HM of clips that it trains on.
        stage_2_epochs: train for the `best` number of epochs; or, as in the `release`, for all of
            them if the first one was best.
        cjme_attention: CJME weighs the triplet loss `per_clip`; or, as its release does by
            broadcasting, it multiplies the `separate_means` of weights and losses.
        avca_modality_tokens: AVCA's two modality embeddings are `learnt`; or, as in its release,
            `fixed` at their random start.
    """

    class_vectors: Literal["by_name", "release_order"] = "by_name"
    audio_scaling: AudioScaling = "divide_255"
    visual_scaling: VisualScaling = "l2"
    evaluation_times: Literal["seconds", "index"] = "seconds"
    window_times: Literal["absolute", "restart"] = "absolute"
    audio_window: Literal["seconds", "release"] = "seconds"
    layer_norm: LayerNormKind = "separate"
    batch_norm_momentum: float = 0.1
    text_statistics: Literal["classes", "clips"] = "classes"
    squared_error: Literal["mean", "sum"] = "mean"
    plateau_epochs: int = 3
    stage_2_schedule: Literal["replay", "validation"] = "replay"
    stage_2_epochs: Literal["best", "release"] = "best"
    cjme_attention: Literal["per_clip", "separate_means"] = "per_clip"
    avca_modality_tokens: Literal["learnt", "fixed"] = "learnt"

    def __post_init__(self) -> None:
        check_settings("fidelity", self)

    @classmethod
    def official(cls) -> "Fidelity":
        """Returns the preset `official`: what the release does."""
        return cls(
            class_vectors="release_order",
            visual_scaling="l2_over_time",
            evaluation_times="index",
            window_times="restart",
            audio_window="release",
            layer_norm="shared",
            batch_norm_momentum=0.19,
            text_statistics="clips",
            plateau_epochs=4,
            stage_2_schedule="validation",
            stage_2_epochs="release",
            cjme_attention="separate_means",
            avca_modality_tokens="fixed",
        )


@dataclass(frozen=True)
class ObjectiveSettings:
    """Which terms the training objective sums (Eq. 15, Table 2).

    Args:
        cross_entropy: over the seen classes of the stage (Eq. 16).
        regression: distance of a clip from its class (Eq. 17).
        reconstruction: distance of the decoded embeddings from the class's text (Eq. 18).
    """

    cross_entropy: bool = True
    regression: bool = True
    reconstruction: bool = True

    def __post_init__(self) -> None:
        check_settings("objective", self)
        if not (self.cross_entropy or self.regression or self.reconstruction):
            raise TCAFError("objective: every term is off; there is nothing to train on")


@dataclass(frozen=True)
class TrainingSettings:
    """How a stage is trained.

    Args:
        epochs: epochs of stage 1; stage 2 takes as many as the best one needed.
        batches_per_epoch: batches in an epoch.
        batch_size: clips in a batch.
        learning_rate: of Adam.
        weight_decay: of Adam.
        beta1: Adam's running average of gradients.
        beta2: Adam's running average of squared gradients.
        schedule: `plateau` multiplies the learning rate by `plateau_factor` when validation HM has
            not risen for `fidelity.plateau_epochs`; `constant` leaves it.
        plateau_factor: what the learning rate is multiplied by.
        sampling: `balanced` draws a class, then one of its clips, with replacement; `uniform` draws
            clips.
        window_s: longest stretch of a clip used in training, in seconds, at a random place; null
            uses whole clips.
        device: where to compute: `cpu`, `cuda`, or `auto` for a GPU where there is one.
    """

    epochs: int = 50
    batches_per_epoch: int = 300
    batch_size: int = 64
    learning_rate: float = 7e-5
    weight_decay: float = 1e-5
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: Literal["plateau", "constant"] = "plateau"
    plateau_factor: float = 0.1
    sampling: Literal["balanced", "uniform"] = "balanced"
    window_s: float | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        check_settings("training", self)
        if self.batch_size < 2:
            raise TCAFError(
                f"training.batch_size must be at least 2, got {self.batch_size}: batch "
                "normalisation has no statistics of a single clip"
            )


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is evaluated.

    Args:
        window_s: longest stretch of a clip used, in seconds, from its middle; null: whole clips.
        batch_size: clips in a batch; changes speed and memory, and nothing beyond rounding.
        gamma_max: largest gamma that calibrated stacking tries.
        gamma_step: distance between the gammas tried, from 0 up.
    """

    window_s: float | None = None
    batch_size: int = 256
    gamma_max: float = 3.0
    gamma_step: float = 0.2

    def __post_init__(self) -> None:
        check_settings("evaluation", self)
        if self.gamma_max / self.gamma_step > MOST_GAMMAS:
            raise TCAFError(
                f"evaluation: at most {MOST_GAMMAS} gammas are tried, got gamma_max "
                f"{self.gamma_max} in steps of {self.gamma_step}"
            )

    @property
    def gammas(self) -> tuple[float, ...]:
        """The gammas tried: 0, `gamma_step`, ... up to `gamma_max`."""
        # Multiples are rounded so that 3 x 0.2 reads 0.6 in every report.
        count = int(self.gamma_max / self.gamma_step + 1e-6)
        return tuple(round(i * self.gamma_step, 10) for i in range(count + 1))


@dataclass(frozen=True)
class Experiment:
    """One run: system, data, text, model, objective, training, evaluation, seed.

    Args:
        system: name of what is trained (`tcaf.systems`).
        options: settings of that system alone, by name.
        data: which clips.
        text: where class text embeddings come from.
        model: size and shape of TCaF, and of the systems that share its encoders.
        fidelity: paper or release, where they part.
        objective: terms of the loss.
        training: optimiser, batches, windows.
        evaluation: windows, gammas.
        seed: all randomness follows from it.
    """

    data: DataSettings = field(default_factory=DataSettings)
    text: TextSettings = field(default_factory=TextSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    fidelity: Fidelity = field(default_factory=Fidelity)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    seed: int = 0
    system: str = "tcaf"
    options: Mapping[str, Option] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as plain JSON values, by section."""
        value = asdict(self)
        value["text"]["phrases"] = list(self.text.phrases)
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Experiment":
        """Rebuilds what `to_json` returned.

        Raises:
            TCAFError: a section or field is unknown or has a value that is not allowed.
        """
        try:
            check_type("seed", value["seed"], int)
            check_type("system", value["system"], str)
            # A word alone is a tuple of its letters.
            phrases = value["text"]["phrases"]
            check_type("text.phrases", phrases, list)
            text = {**value["text"], "phrases": tuple(phrases)}
            for name, hint in get_type_hints(TextSettings).items():
                if name != "phrases" and name in text:
                    check_type(f"text.{name}", text[name], hint)
            for name, option in value["options"].items():
                check_type(f"options.{name}", option, Option)
            sections = {n: kind(**value[n]) for n, kind in _SECTIONS.items() if n != "text"}
            return cls(
                **sections,
                text=TextSettings(**text),
                seed=value["seed"],
                system=value["system"],
                options=value["options"],
            )
        except (KeyError, TypeError) as error:
            raise TCAFError(
                f"the stored configuration does not fit this release: {error}"
            ) from None

    @classmethod
    def from_layers(cls, *layers: Mapping[str, Any]) -> "Experiment":
        """Builds an experiment from the defaults and what layers change, the later ones winning.

        Args:
            layers: nested as TOML files are: `{"training": {"epochs": 3}}`.

        Raises:
            TCAFError: a section or field is unknown or has a value that is not allowed.
        """
        value = cls().to_json()
        for layer in layers:
            for section, content in layer.items():
                if section not in value:
                    hint = did_you_mean(section, value)
                    raise TCAFError(f"there is no setting {section!r}{hint}")
                if not isinstance(value[section], dict):
                    value[section] = content
                    continue
                if not isinstance(content, Mapping):
                    raise TCAFError(f"{section} is a section of settings, got {content!r}")
                for name in content:
                    if section != "options" and name not in value[section]:
                        near = did_you_mean(name, value[section])
                        raise TCAFError(f"there is no setting {section}.{name}{near}")
                value[section] = {**value[section], **content}
        return cls.from_json(value)


_SECTIONS: dict[str, Any] = {
    "data": DataSettings,
    "text": TextSettings,
    "model": ModelSettings,
    "fidelity": Fidelity,
    "objective": ObjectiveSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
}
