"""Questions and answers over HTTP: their fields, ranges and words, from which the schema follows.

Owns nothing of what they mean: an answer has the fields of `tcaf predict --json`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from tcaf.data.features import Modality

Names = Annotated[
    list[str],
    Field(description="Class names to choose from, known to the model or not; none for its own."),
]
TopK = Annotated[int, Field(ge=1, le=100_000, description="How many answers a clip gets.")]
SeenBias = Annotated[
    float,
    Field(
        ge=-1e6,
        le=1e6,
        allow_inf_nan=False,
        description="Added to gamma: above 0 favours classes that the model was not trained on, "
        "below 0 those that it was.",
    ),
]
Why = Annotated[
    bool,
    Field(
        description="Also say how far sound and picture alone are from each answer, and which "
        "classes of the training the clip is nearest to."
    ),
]
Abstain = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="Share of wrong answers that is allowed: each clip also gets the set of names "
        "that are not ruled out, possibly none. Only for models that hold scores of validation "
        "clips (`abstains` of the model).",
    ),
]
Every = Annotated[
    float | None,
    Field(
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds: also answer each stretch of so many, as `spans`; neighbours with the "
        "same answer are joined.",
    ),
]
# A form has no null: what is left out is not there.
FormAbstain = Annotated[
    Abstain, WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})
]
FormEvery = Annotated[
    Every, WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 86_400})
]
Tokens = Annotated[
    list[list[float]],
    Field(description="Tokens in order of time, each of the model's number of values."),
]


class _Question(BaseModel):
    """What can be asked of any clip."""

    model_config = ConfigDict(extra="forbid")

    names: Names = []
    top_k: TopK = 5
    seen_bias: SeenBias = 0.0
    why: Why = False
    abstain: Abstain = None
    every: Every = None


class Features(BaseModel):
    """The features of a clip, as the model's backbones make them."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(max_length=200, description="What the clip is called.")] = "clip"
    audio: Tokens = []
    visual: Tokens = []
    audio_backbone: Annotated[
        str, Field(max_length=200, description="What made the tokens of sound, to be checked.")
    ] = ""
    visual_backbone: Annotated[
        str, Field(max_length=200, description="What made those of the picture, to be checked.")
    ] = ""


class AskedFeatures(_Question):
    """A question about clips of which features are given."""

    clips: Annotated[list[Features], Field(min_length=1, max_length=1000)]


class AskedAgain(_Question):
    """Another question about a clip that was answered before, which is not sent again."""

    key: Annotated[str, Field(max_length=64, description="`key` of the clip in its answer.")]
    id: Annotated[str, Field(max_length=200, description="What the clip is called.")] = "clip"


class Alone(BaseModel):
    """What sound or picture alone says of a class."""

    distance: float
    rank: Annotated[int, Field(description="Of the class among all names by that alone, from 1.")]


class Answer(BaseModel):
    """One class of one clip."""

    rank: Annotated[int, Field(description="1 for the best.")]
    name: Annotated[str, Field(alias="class", description="The class, as it was named.")]
    probability: Annotated[
        float | None,
        Field(
            description="That this class is right if one of the names is; null where the model "
            "holds no temperature."
        ),
    ]
    distance: Annotated[float, Field(description="In the joint space, before gamma.")]
    seen: Annotated[bool, Field(description="Whether the model was trained on the class.")]
    alone: Annotated[
        dict[Modality, Alone] | None, Field(description="Of sound and picture, with `why`.")
    ] = None


class Neighbour(BaseModel):
    """A class of the training near a clip."""

    name: Annotated[str, Field(alias="class")]
    distance: float


class Prediction(BaseModel):
    """The answers for one clip."""

    id: str
    answers: Annotated[list[Answer], Field(description="The best first.")]
    names: Annotated[
        list[str] | None,
        Field(alias="set", description="With `abstain`: names not ruled out, possibly none."),
    ] = None
    nearest_training: Annotated[list[Neighbour] | None, Field(description="With `why`.")] = None


class Span(BaseModel):
    """A part of a clip with one answer."""

    id: str
    start: Annotated[float, Field(description="In seconds.")]
    end: Annotated[float, Field(description="In seconds.")]
    kind: Annotated[
        Literal["answer", "silence", "none"],
        Field(description="`none`: with `abstain`, none of the names."),
    ]
    name: Annotated[str | None, Field(alias="class")]
    probability: Annotated[float | None, Field(description="In the mean over the stretches.")]
    distance: float | None
    seen: bool | None
    stretches: Annotated[int, Field(description="How many are joined.")]
    answers: list[Answer] = []
    names: Annotated[list[str] | None, Field(alias="set")] = None


class Clip(BaseModel):
    """A clip that was read."""

    id: str
    key: Annotated[
        str, Field(description="By which it can be asked about again for as long as it is kept.")
    ]
    length: Annotated[float | None, Field(description="Seconds, by its header.")]
    tokens: Annotated[dict[Modality, int], Field(description="How many its features have.")]
    broken: Annotated[
        list[str], Field(description="What is amiss with it though it is used, in sentences.")
    ]


class Provenance(BaseModel):
    """Where an answer comes from."""

    model: str
    features: Annotated[dict[Modality, list[str]], Field(description="The backbones.")]
    licences: Annotated[list[str], Field(description="Of weights and data.")]
    tcaf: Annotated[str, Field(description="The version of the program.")]
    commit: Annotated[str | None, Field(description="Of its code, where it is a checkout.")]
    torch: str


class Answers(BaseModel):
    """The answers for clips, and what they were chosen from."""

    classes: Annotated[list[str], Field(description="What was chosen from.")]
    gamma: Annotated[float, Field(description="Added to the distance of seen classes.")]
    temperature: float | None
    transductive: Annotated[bool, Field(description="Whether clips were answered together.")]
    abstain: float | None = None
    predictions: list[Prediction]
    failed: dict[str, str]
    clips: list[Clip]
    spans: Annotated[list[Span] | None, Field(description="With `every`.")] = None
    provenance: Provenance


class Problem(BaseModel):
    """Why there is no answer."""

    error: Annotated[str, Field(description="One sentence, as a command prints it.")]
    kind: Annotated[
        str,
        Field(
            description="asked, too_large, unsupported, unusable, too_slow, busy, gone, ended, "
            "forbidden, not_found or internal"
        ),
    ]


class Load(BaseModel):
    """How much there is to do."""

    reading: Annotated[int, Field(description="Files that are being read.")]
    waiting: Annotated[int, Field(description="Files that wait.")]
    readers: Annotated[int, Field(description="Files that are read at a time.")]
    max_waiting: Annotated[int, Field(description="Files that may wait.")]


class Health(BaseModel):
    """That the service is alive."""

    status: Literal["ok"]
    model: str
    load: Load


class Version(BaseModel):
    """Of the program and what it computes with."""

    tcaf: str
    commit: str | None
    python: str
    torch: str
    api: Annotated[str, Field(description="Of these addresses.")]


class FeatureKind(BaseModel):
    """Features that the model reads of a modality."""

    backbone: str
    dim: Annotated[int, Field(description="Values of a token.")]
    step: Annotated[
        float | None,
        Field(description="Seconds from one token to the next; null: one stands for all."),
    ]


class KnownClass(BaseModel):
    """A class that the model knows."""

    name: str
    seen: Annotated[bool, Field(description="Whether it was trained on it.")]


class Model(BaseModel):
    """The model that answers."""

    model: str
    modalities: Annotated[list[Modality], Field(description="What it reads of a clip.")]
    features: dict[Modality, FeatureKind]
    window: Annotated[
        float | None,
        Field(description="Seconds around the middle of a clip that it looks at; null: all."),
    ]
    gamma: float
    temperature: float | None
    tells_apart: Annotated[bool, Field(description="Whether `why` parts sound and picture.")]
    abstains: Annotated[bool, Field(description="Whether `abstain` can be asked for.")]
    notes: list[str]
    classes: list[KnownClass]
    provenance: Provenance


class ReadyModel(BaseModel):
    """A model that another call of the program can open by name."""

    modalities: list[Modality]
    classes: str
    size: str
    fetched: str
    licence: str
    known: str


class Models(BaseModel):
    """The model that answers here, and those that there are."""

    open: Model
    ready: dict[str, ReadyModel]


def in_words(error: dict[str, Any]) -> str:
    """Returns what pydantic says of a field, in one sentence."""
    place = ".".join(str(part) for part in error["loc"][1:]) or str(error["loc"][0])
    told = error["msg"][:1].lower() + error["msg"][1:]
    given = error.get("input")
    if error["type"] != "missing" and isinstance(given, str | int | float):
        told += f", got {str(given)[:40]!r}"
    return f"{place}: {told}"
