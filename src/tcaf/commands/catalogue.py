"""Which commands there are: their words, the first line of their help, where their function is.

Imports none of them: nobody waits for torch to read a help text.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """Where a command is, and how its function becomes one.

    Args:
        help: the first line of its help; a test compares with the docstring.
        function: module beside this one and name in it, as `train:train`.
        positional: parameters that are given without their name.
        settings: sections of a run's settings that are options; None for none.
        ready: the function has the command line's form already.
        carries_on: what to add where it was interrupted.
    """

    help: str
    function: str
    positional: tuple[str, ...] = ()
    settings: tuple[str, ...] | None = None
    ready: bool = False
    carries_on: str = ""


_RUN = ("data", "text", "model", "fidelity", "objective", "training", "evaluation")
_AGAIN = "; the same command carries on"

COMMANDS: dict[tuple[str, ...], Command] = {
    ("prepare", "official"): Command(
        "Turns a feature folder of the AVCA and TCaF authors into a feature store.",
        "prepare:official",
        ready=True,
    ),
    ("prepare", "youtube8m"): Command(
        "Prepares YouTube-8M as a feature store with one split, `cls`.",
        "prepare:youtube8m",
        ready=True,
    ),
    ("prepare", "audioset"): Command(
        "Prepares AudioSet's published features as a feature store with one split, `cls`.",
        "prepare:audioset",
        ready=True,
    ),
    ("prepare", "videos"): Command(
        "Extracts features from your own videos into a feature store.",
        "prepare:videos",
        ready=True,
        carries_on=_AGAIN,
    ),
    ("prepare", "synthetic"): Command(
        "Makes the synthetic world as a feature store: classes with a known truth, made in "
        "seconds.",
        "prepare:synthetic",
        ready=True,
    ),
    ("render",): Command(
        "Renders the synthetic world: videos of classes with a known truth, and their tables.",
        "prepare:render",
        ready=True,
    ),
    ("inspect",): Command(
        "Shows what is inside a feature store: clips, classes, tokens, dimensions, splits, text.",
        "store:inspect",
        ("store",),
    ),
    ("train",): Command(
        "Trains a system by the two-stage protocol and tests it once.",
        "train:train",
        settings=_RUN,
        carries_on="; the same command with --resume carries on",
    ),
    ("settings",): Command(
        "Shows the settings that `tcaf train` would take, as a TOML file, and where each comes "
        "from.",
        "train:show_settings",
        settings=_RUN,
    ),
    ("evaluate",): Command(
        "Evaluates a trained model on clips of a store.", "train:evaluate", ("run",)
    ),
    ("predict",): Command(
        "Names what clips show: the best of the run's classes, or of any others that you name.",
        "predict:predict",
        ("run", "clips"),
    ),
    ("app",): Command(
        "Opens a page in which a person drops a clip, names classes, and sees what it shows.",
        "app:app",
        ("model",),
    ),
    ("serve",): Command(
        "Answers over HTTP what clips that are sent show, for programs and assistants.",
        "serve:serve",
        ("model",),
    ),
    ("reproduce",): Command(
        "Reproduces a table of the paper on the clips of a store, over several seeds.",
        "reproduce:reproduce",
        settings=_RUN,
        carries_on=_AGAIN,
    ),
    ("report",): Command(
        "Writes one HTML file about runs: tables, pictures, configuration, provenance.",
        "reproduce:report",
        ("runs",),
    ),
    ("import-checkpoint",): Command(
        "Turns weights of the authors' release into a model that `tcaf evaluate` reads.",
        "train:import_checkpoint",
        ("checkpoint",),
        settings=("text",),
    ),
    ("store", "to-parquet"): Command(
        "Writes a store as Parquet files that other tools and the Hugging Face Hub read.",
        "store:store_to_parquet",
        ("store",),
    ),
    ("store", "from-parquet"): Command(
        "Makes a store of Parquet files that `tcaf store to-parquet` wrote.",
        "store:store_from_parquet",
        ("folder",),
    ),
    ("store", "embed"): Command(
        "Makes a store of what a run makes of its clips, for other systems to be trained on.",
        "store:store_embed",
        ("run",),
    ),
    ("export",): Command(
        "Writes a model as ONNX, or for torch.export, with all that an answer needs beside it.",
        "export:export",
        ("model", "out"),
    ),
    ("push",): Command(
        "Puts a model or a store on the Hugging Face Hub, with a card, as one commit.",
        "push:push",
        ("what", "name"),
    ),
    ("models",): Command(
        "Lists the ready models, which name what clips show before anything is trained.",
        "about:models",
    ),
    ("backbones",): Command(
        "Lists the backbones that turn sound and picture into features, with weights and licences.",
        "about:backbones",
    ),
    ("doctor",): Command(
        "Tells what is installed, what is missing and how to get it; or whether weights are right.",
        "about:doctor",
        ("names",),
    ),
}
"""The commands in the order of the help, by their words."""

GROUPS = {
    "prepare": "Makes a feature store: from the authors' folders, YouTube-8M, AudioSet, your own "
    "videos, or nothing at all.",
    "store": "Turns feature stores into Parquet and back, or into what a run makes of them.",
}
"""What is said of words that several commands begin with."""

OF_RANKS = (("train",),)
"""Commands that the processes of torchrun do together."""

OWN_CONFIG = ("train", "settings", "reproduce")
"""Commands whose --config is about the settings of runs; of others it holds their options."""

INTRODUCTION = """Audio-visual zero-shot video classification.

An answer at once: `tcaf predict imagenet clip.mp4 --classes "cat purring, dog barking"`. To train,
begin with `tcaf prepare synthetic --out world` and `tcaf train --store world --out run`; for videos
of your own with `tcaf prepare videos FOLDER --out store`. `tcaf COMMAND --help` explains a command,
`--help-all` every setting."""


def words_of(tokens: Sequence[str]) -> tuple[str, ...]:
    """Returns the words of the command that is asked for; none where there is none of the name."""
    for count in (2, 1):
        if tuple(tokens[:count]) in COMMANDS:
            return tuple(tokens[:count])
    return ()
