"""What the JSON files of a run hold, as far as something reads it.

Each class is what a file is checked against when it is read, by pydantic: a field that is missing
or of another type makes the file a damaged one. Fields that are not named here may be anything.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# A sum of shares is 1 but for rounding.
Share = Annotated[float, Field(ge=0, le=1 + 1e-9)]


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class ReliabilityContent(_Content):
    """Of probabilities, in bins: see `evaluation.calibration.Reliability`."""

    error: Share
    share: list[Share]
    confidence: list[Share]
    accuracy: list[Share]


class ScoresContent(_Content):
    """Scores on the clips of a part: see `GZSLResult`. None where there are no such clips."""

    seen: float | None
    unseen: float | None
    harmonic_mean: float | None
    zsl: float | None
    gamma: float
    gamma_on_edge: bool


class TestContent(ScoresContent):
    """Scores on the test clips."""

    __test__ = False

    curve_area: float | None
    reliability: ReliabilityContent | None = None


class ChoiceContent(_Content):
    """What stage 1 has chosen: see `training.protocol.Choice`."""

    epoch: int = Field(ge=0, le=10**9)
    gamma: float
    validation: ScoresContent
    reliability: ReliabilityContent | None = None


class ResultContent(_Content):
    """`result.json`, the last file of a run; `files` are the SHA-256 of those before it."""

    test: TestContent
    choice: ChoiceContent
    seed: int
    epochs: dict[str, int] = {}
    seconds: float
    files: dict[str, str] = {}


class DataContent(_Content):
    """What identifies the clips that a run was trained on."""

    clips: int
    fingerprint: str
    split: str


class AuxiliaryContent(_Content):
    """The further labelled videos that a run learnt from."""

    store: str
    content: str
    videos: int
    labels: int
    videos_dropped: int
    videos_known: int
    videos_missing: list[str] = []
    labels_rare: int = 0
    labels_dropped: dict[str, str]


class StartContent(_Content):
    """The classes of a ready model that a run learnt from."""

    model: str
    content: str
    classes: int
    classes_seen: list[str]
    classes_dropped: dict[str, str]


class ResumedContent(_Content):
    """What a run was carried on with."""

    started: str


class ProvenanceContent(_Content):
    """`provenance.json`."""

    commit: str | None
    command: list[str]
    started: str
    versions: dict[str, str]
    machine: str
    threads: int
    gpu: str | None
    seed: int
    data: DataContent
    auxiliary: AuxiliaryContent | None = None
    start: StartContent | None = None
    cpu: str | None = None
    cores: int | None = None
    plugin: str | None = None
    store: str | None = None
    resumed: list[ResumedContent] = []


class CostContent(_Content):
    """`process.json`: wall time and peak memory of the process that trained a run."""

    seconds: float
    peak_mib: float
