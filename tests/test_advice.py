"""Every advice in a message is one that can be followed: options, commands, settings, extras."""

import ast
import functools
import pkgutil
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import tcaf
from tcaf.commands import entry
from tcaf.commands.catalogue import COMMANDS, GROUPS
from tcaf.settings.experiment import SECTIONS
from tcaf.systems.reads import own_options
from tcaf.systems.registry import SYSTEMS

ROOT = Path(tcaf.__file__).parent
EXTRAS = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
MODULES = {m.name.removeprefix("tcaf.") for m in pkgutil.walk_packages(tcaf.__path__, "tcaf.")}

RUNS = ("train", "settings", "reproduce")
TEXT = (*RUNS, "import-checkpoint")
STORES = (
    *("prepare official", "prepare youtube8m", "prepare audioset", "prepare videos"),
    "prepare synthetic",
    "store from-parquet",
)
FILES = ("prepare videos", "predict")

# Under which commands a function's messages appear: what they advise exists for all of these.
UNDER = {
    "answers.clips.choose_classes": ("predict",),
    "app.hosting.Access": ("app",),
    "commands.about": ("doctor",),
    "commands.serve.serve": ("serve",),
    "commands.catalogue": ("train",),
    "commands.entry": ("train",),
    "answers.recordings": ("predict",),
    "answers.watch": ("predict",),
    "commands.predict.predict": ("predict",),
    "commands.printing.print_store": ("inspect", *STORES, "store embed"),
    "commands.train.evaluate": ("evaluate",),
    "commands.train.train": ("train",),
    "data.writer.StoreWriter.add": STORES,
    "export.bundle": ("export",),
    "export.card._limits": ("predict",),
    "evaluation.conformal": ("predict", "evaluate"),
    "execution.cluster.check_cluster": (*FILES, "reproduce"),
    "execution.devices.pick_device": RUNS,
    "execution.processes.setup_of": (*FILES, "app", "serve"),
    "execution.ranks.joined": ("train",),
    "systems.anchored.raw_model": RUNS,
    "systems.textlda_fit.TextLDAFit.solve": RUNS,
    "commands.reproduce.reproduce": ("reproduce",),
    "experiments.layers.resolve": RUNS,
    "experiments.reproduce": ("reproduce",),
    "experiments.layers._only": RUNS,
    "experiments.layers._system": ("train", "settings"),
    "experiments.layers.experiment_layers": RUNS,
    "experiments.presets.read_preset": RUNS,
    "experiments.presets.read_toml": RUNS,
    "experiments.reproduce.plan": ("reproduce",),
    "experiments.reproduce._on_partitions": ("reproduce",),
    "experiments.reproduce._check_row_is_kept": ("reproduce",),
    "experiments.reproduce.run_jobs": ("reproduce",),
    "extract.backbones.check_device": FILES,
    "extract.work_folder.WorkFolder.open": ("prepare videos",),
    "extract.corpus.too_long": ("prepare videos", "predict"),
    "extract.stretches": ("predict",),
    "files.atomic.check_place": (
        *(*STORES, "store embed", "render", "store to-parquet"),
        *("export", "push"),
    ),
    "pretrained.fetch._fetch": FILES,
    "reports.captions": ("predict",),
    "reports.report": ("report",),
    "settings.experiment.text_settings": RUNS,
    "settings.sections": RUNS,
    "text.encoders": RUNS,
    "text.of_backbone": RUNS,
    "sources.official_lists": ("prepare official",),
    "sources.benchmark_videos": ("prepare videos",),
    "sources.found_files.check_reach": ("prepare videos",),
    "sources.labels": ("prepare videos",),
    "sources.published.layout_of": ("prepare videos",),
    "sources.videos": ("prepare videos",),
    "sources.youtube8m.prepare_youtube8m": ("prepare youtube8m",),
    "systems.stages.DescentStage": RUNS,
    "text.candidates": RUNS,
    "text.class_text": TEXT,
    "training.auxiliary": RUNS,
    "training.evaluate.evaluate_run": ("evaluate",),
    "training.model_file": ("evaluate", "predict", "report"),
    "training.protocol.TwoStages": RUNS,
    "training.release.import_release": ("import-checkpoint",),
    "training.run.Run.start": ("train",),
    "training.start": RUNS,
}


PASS_ON = ("commands.train", "commands.predict", "commands.reproduce", "commands.store")
"""Modules that give messages elsewhere an option to name."""


@dataclass(frozen=True)
class Words:
    """What a person may read: a message, or a document that help may show.

    Args:
        where: module and function, as `training.run.Run.start`.
        text: of the literal; what is put in later is {}.
        is_document: a docstring, which stands for no command in particular.
    """

    where: str
    text: str
    is_document: bool


class Collector(ast.NodeVisitor):
    """Gathers the literals of a module that hold more than one word, or hand on an option."""

    def __init__(self, module):
        self.path, self.found = [module], []

    def add(self, text, is_document=False):
        is_alone = re.fullmatch(r"--[\w.-]+", text)
        if re.search(r"\S\s+\S", text) or (is_alone and self.path[0] in PASS_ON):
            self.found.append(Words(".".join(self.path), " ".join(text.split()), is_document))

    def visit_FunctionDef(self, node):
        self.path.append(node.name)
        self.generic_visit(node)
        self.path.pop()

    visit_ClassDef = visit_FunctionDef

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            self.add(node.value.value, is_document=True)
        else:
            self.generic_visit(node)

    def visit_Constant(self, node):
        if isinstance(node.value, str):
            self.add(node.value)

    def visit_JoinedStr(self, node):
        parts = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
        self.add("".join(map(str, parts)))


def literals(module, source):
    collector = Collector(module)
    collector.visit(ast.parse(source))
    return collector.found


@functools.cache
def options_of(command):
    """Returns the options that a command takes."""
    names = set(entry.options_of(tuple(command.split())))
    if any(name.startswith("--options") for name in names):
        names |= {
            f"--options.{option}" for each in SYSTEMS.values() for option in own_options(each)
        }
    return names | {"--help", "--help-all"}


NAMES = sorted((" ".join(words) for words in COMMANDS), key=len, reverse=True)
COMMAND = re.compile(rf"\btcaf ({'|'.join([*NAMES, *GROUPS])})\b(?!\.)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
SETTING = re.compile(rf"(?<![\w.])({'|'.join(SECTIONS)})\.([a-z_0-9]+)\b(?!\()")
# Of another program, of a style sheet, and of no option in particular.
FOREIGN = re.compile(
    r"\bhf download\b.*|\btorchrun --[^`]*|\bvar\(--\w+|`--no-\.\.\.`|http\.server --directory"
)
FILE_NAMES = re.compile(r"\b\w+\.(safetensors|md|onnx|pt2)\b")


def advised(text):
    """Yields each option and setting that words name, with the command it is said to be of."""
    text = FILE_NAMES.sub("", FOREIGN.sub("", text))
    at = [(match.start(), match[1]) for match in COMMAND.finditer(text)]
    for match in OPTION.finditer(text):
        before = [(start, name) for start, name in at if start < match.start()]
        start, name = before[-1] if before else (0, None)
        # Options follow their command, in one pair of backticks if in any.
        yield match[0], None if re.search("[;`]", text[start : match.start()]) else name
    for match in SETTING.finditer(text):
        if match[0] not in MODULES:
            yield match[0], None


def commands_under(where):
    """Returns the commands under which a function's messages appear, or None if nobody says."""
    while where:
        if where in UNDER:
            return UNDER[where]
        where = where.rpartition(".")[0]
    return None


def wrong(words):
    """Returns what of some words cannot be followed."""
    found = []
    for name, said_of in advised(words.text):
        if name.startswith("--"):
            under = (said_of,) if said_of in NAMES else commands_under(words.where)
            if words.is_document or not under:
                if not any(name in options_of(command) for command in NAMES):
                    found.append(f"no command has {name}")
            else:
                found += [f"tcaf {c} has no {name}" for c in under if name not in options_of(c)]
            continue
        section, _, field = name.partition(".")
        if field not in {each.name for each in fields(SECTIONS[section])}:
            found.append(f"there is no setting {name}")
        elif not words.is_document:
            for command in commands_under(words.where) or ():
                if f"--{name}" not in options_of(command):
                    found.append(f"tcaf {command} has no --{name}")
    for name in re.findall(r"`tcaf ([a-z][\w-]*(?: [a-z][\w-]*)?)", words.text):
        first, _, second = name.partition(" ")
        if name not in NAMES if first in GROUPS and second else first not in (*GROUPS, *NAMES):
            found.append(f"there is no command tcaf {name}")
    found += [
        f"there is no extra {extra}"
        for extra in re.findall(r"tcaf\\?\[([\w-]+)\\?\]", words.text)
        if extra not in EXTRAS
    ]
    return [f"{words.where}: {each} ({words.text!r})" for each in found]


SOURCES = sorted(ROOT.rglob("*.py"))


@functools.cache
def all_words():
    return [
        words
        for path in SOURCES
        for words in literals(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"),
            path.read_text(encoding="utf-8"),
        )
    ]


@pytest.mark.slow
def test_every_advice_can_be_followed():
    assert not [each for words in all_words() for each in wrong(words)]


def test_there_is_advice():
    named = {name for words in all_words() for name, _ in advised(words.text)}
    assert {"--overwrite", "--resume", "--plugin", "text.path", "--audio_weights"} <= named
    assert len(named) > 30


def test_every_function_that_advises_stands_for_commands():
    asking = {
        words.where
        for words in all_words()
        if not words.is_document and any(said_of is None for _, said_of in advised(words.text))
    }
    unknown = {where for where in asking if commands_under(where) is None}
    assert not unknown, "say in UNDER under which commands these messages appear"
    unused = [name for name in UNDER if not any(f"{w}.".startswith(f"{name}.") for w in asking)]
    assert not unused


@pytest.mark.parametrize(
    ("where", "text", "expected"),
    [
        (
            "training.run.Run.start",
            "there; pass --overwrite",
            "tcaf train has no --overwrite",
        ),
        ("anywhere", "say --overwite", "no command has --overwite"),
        ("anywhere", "next: tcaf evaluate RUN --split S", "tcaf evaluate has no --split"),
        ("text.class_text", "set text.sorce", "there is no setting text.sorce"),
        ("training.evaluate.evaluate_run", "widen --seed", "tcaf evaluate has no --seed"),
        ("anywhere", "see `tcaf trian`", "there is no command tcaf trian"),
        ("anywhere", "see `tcaf prepare vidoes`", "there is no command tcaf prepare vidoes"),
        ("anywhere", "pip install 'tcaf[vidoe]'", "there is no extra vidoe"),
    ],
)
def test_the_test_can_fail(where, text, expected):
    (found,) = wrong(Words(where, text, is_document=False))
    assert expected in found


def test_what_can_be_followed():
    text = "set text.path, or for `tcaf prepare videos FOLDER --out STORE` nothing"
    assert not wrong(Words("text.class_text", text, is_document=False))
    assert not wrong(Words("training.run.Run.start", "carry on with --resume", is_document=False))
