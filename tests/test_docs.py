"""Every page of the documentation: links, commands, options, settings and code are what they say.

Commands are read here as the command line reads them, and run by `test_commands_of_docs.py`. What a
page claims beyond that has a test of its own: `test_your_own_videos.py` and so on.
"""

import ast
import json
import re
import shlex
import shutil
import sys
import tomllib
from functools import cache
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import yaml

from doc_pages import ALL, PAGES, ROOT, blocks, headings, links, named_in_tests, prose
from tcaf.commands import entry as cli
from tcaf.commands.catalogue import COMMANDS, GROUPS
from tcaf.experiments.layers import experiment_layers, resolve
from tcaf.extract.backbones import BACKBONES, open_backbone
from tcaf.extract.extractor import audio_tokens
from tcaf.plugins import Registry, load_plugin
from tcaf.settings.experiment import SECTIONS, Experiment
from tcaf.settings.sections import TextSettings
from tcaf.systems.reads import own_options
from tcaf.systems.registry import SYSTEMS
from tcaf.training.run import train
from write_clip_run import COLOURS, KINDS, write_clip, write_run
from write_words import write_glove

SHELL = [(b.page, words) for b in ALL if b.kind == "shell" for words in b.commands if words]
TCAF = sorted(
    {shlex.join(w[w.index("tcaf") :]) for _, w in SHELL if "tcaf" in w and w[0] != "docker"}
)
GENERATED = {"commands.md", "settings.md", "api.md"}
"""Pages that the site has and the repository has not."""

FORMULAS = {"systems.md": ["distance = w s_v (1 - v . v_c) + (1 - w) s_a (1 - a . a_c)"]}
"""Blocks that are no code."""

OUTPUT = {"service.md": ["imagenet answers at http://127.0.0.1:8000/"]}
"""Blocks that are what a command prints."""

OPTIONS_OF_OTHERS = {"nnodes", "rdzv-endpoint"}
"""Of torchrun."""

OTHER_TOOLS = re.compile(
    r"torchrun .* -m tcaf .*|make \S+|pip install .*|python3 -m venv .*|source \.venv/bin/activate"
    r"|python -m http\.server .*|docker (build|run) .*|curl .*|hf auth login"
)


def linked_pages():
    return [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "results").rglob("*.md")]


@pytest.mark.parametrize("page", linked_pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        file = (page.parent / target) if target else page
        assert file.exists(), link
        if anchor:
            assert anchor in headings(file), link


def test_every_page_can_be_reached():
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    listed = [page for group in site["nav"] for pages in group.values() for page in pages]
    own = {page.name for page in PAGES if page.parent.name == "docs"}
    assert set(listed) == own | GENERATED | {"CONTRIBUTING.md", "CHANGELOG.md"}
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_and_tables_are_parted_from_text(page):
    """Where a paragraph begins as text, MkDocs would take a list in it for more of that."""
    mark = re.compile(r"- |\d+\. |\|")
    for part in re.split(r"\n{2,}", prose(page.read_text(encoding="utf-8"))):
        first, *others = part.strip("\n").splitlines() or [""]
        if not mark.match(first):
            assert [line for line in others if mark.match(line)] == [], first


def test_every_block_is_of_a_known_kind():
    for block in ALL:
        if block.kind == "formula":
            known = FORMULAS.get(block.page, []) + OUTPUT.get(block.page, [])
            assert block.text.strip() in known, block
        elif block.kind == "json":
            json.loads(block.text)
        else:
            assert block.kind in ("shell", "toml", "python", "tree", "text"), block


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files of settings that commands name."""
    (tmp_path / "mine.toml").write_text("[training]\nepochs = 3\n")
    for block in ALL:
        if block.kind == "toml" and (name := re.match(r"# (\S+\.toml)\n", block.text)):
            (tmp_path / name[1]).write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", TCAF)
def test_commands_parse(place, line):
    words = shlex.split(line)[1:]
    command, _ = cli.parse(words)
    assert command.__name__ == cli.load_command(cli.words_of(words)).__name__


def test_other_commands_are_those_of_the_repository():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    makefile = (ROOT / "Makefile").read_text()
    for _, words in SHELL:
        line = shlex.join(words)
        if words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), line
        elif words[0] != "tcaf":
            assert OTHER_TOOLS.fullmatch(line), line
        if words[0] == "make":
            assert f"\n{words[1]}:" in makefile, line
        if named := re.search(r"\[([\w,]+)\]", line):
            assert set(named[1].split(",")) <= set(extras["optional-dependencies"]), line
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert f"\n{target}:" in makefile, f"{page.name}: make {target}"


@cache
def options():
    """The options of each command."""
    settings = {
        f"{name}.{field}" for name, kind in SECTIONS.items() for field in kind.__annotations__
    }
    settings |= {f"options.{name}" for system in SYSTEMS.values() for name in own_options(system)}
    always = {"help", "help-all", "config", "version", "install-completion"}
    found = {}
    for words, command in COMMANDS.items():
        own = set(signature(cli.load_command(words)).parameters) | always
        found[words] = own | (settings if command.settings else set())
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_in_a_line_is_there(page):
    """Commands and options between backquotes; options alone belong to some command."""
    every = OPTIONS_OF_OTHERS.union(*options().values())
    for code in re.findall(r"`([^`]+)`", prose(page.read_text(encoding="utf-8"))):
        code = " ".join(code.split())
        known = every
        if code.startswith("tcaf ") and not code.startswith("tcaf COMMAND"):
            first = code.split()[1]
            words = cli.words_of(code.split()[1:])
            assert words or first in GROUPS or first.startswith("-"), f"{page.name}: {code}"
            known = options()[words] if words else every
        elif not code.startswith("--"):
            continue
        for option in re.findall(r"(?:^|\s)--([a-z][\w.-]*)", code):
            own = option.startswith("options.") and page.name == "your-own-model.md"
            assert own or option in known, f"{page.name}: {code}"


def settings_of(block):
    """The settings of a block, as they would be in force."""
    values = tomllib.loads(block.text)
    system = None
    if "text_spaces" in values:
        if block.page == "your-own-model.md":  # a space of the reader's own
            return [TextSettings(**space) for space in values["text_spaces"].values()]
        system = "aligned"
    path = Path("block.toml")
    path.write_text(block.text, encoding="utf-8")
    return resolve(experiment_layers(None, config=[str(path)], system=system))


TOML = [block for block in ALL if block.kind == "toml"]


@pytest.mark.parametrize("block", TOML, ids=lambda b: f"{b.page}-{b.number}")
def test_settings_are_taken(place, block):
    found = settings_of(block)
    assert found
    if isinstance(found, Experiment):
        assert found != resolve(experiment_layers(None, system=found.system))


# Code in Python.

FRAGMENTS = {("your-own-model.md", 1), ("your-own-model.md", 2)}
"""Lines that stand for a system of the reader's own."""


def code(page, number=0):
    path = next(each for each in PAGES if each.name == page)
    return [block.text for block in blocks(path) if block.kind == "python"][number]


def run(page, number=0):
    names = {}
    exec(compile(code(page, number), page, "exec"), names)
    return names


def test_every_example_is_run():
    source = Path(__file__).read_text(encoding="utf-8")
    here = {(p, int(n or 0)) for p, n in re.findall(r'run\("([\w.-]+)"(?:, (\d))?\)', source)}
    here |= {(p, int(n or 0)) for p, n in re.findall(r'code\("([\w.-]+)"(?:, (\d))?\)', source)}
    for block in ALL:
        place = block.page, block.number
        if block.kind == "python" and place not in here | FRAGMENTS:
            # Such as that of your-own-model.md, through the commands that the page names.
            but = "" if block.page == "tutorial.md" else "test_commands_of_docs.py"
            assert named_in_tests(block.page, but), f"no test runs the example of {block.page}"
    for block in ALL:
        if block.kind == "python":
            ast.parse(block.text)


@pytest.fixture
def world(tiny_store, tiny_experiment, tmp_path, monkeypatch):
    """A store `world` and a run `run` on it."""
    shutil.copytree(tiny_store.path, tmp_path / "world")
    train(tiny_experiment(), tiny_store, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_readme_and_of_features(world, capsys):
    run("features.md")
    run("README.md")
    output = capsys.readouterr().out
    assert "'clips': 1" in output
    assert re.search(r"tensor\(\[\d+, \d+\]\)", output)


def test_the_examples_of_formats(world, capsys):
    run("file-formats.md", 0)
    run("file-formats.md", 1)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\S+ .* 10 15", first)
    assert re.fullmatch(r"tcaf -?[\d.e-]+ True", second)


def test_the_backbone_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tcaf.plugins._REGISTRIES", [])
    copy = Registry("backbone", BACKBONES)
    monkeypatch.setattr("tcaf.extract.backbones.BACKBONES", copy)
    (tmp_path / "loudness.py").write_text(code("your-own-backbone.md"), encoding="utf-8")
    load_plugin(tmp_path / "loudness.py")
    samples = np.repeat(np.arange(23, dtype=np.float32) / 32, 1600)
    tokens = audio_tokens(open_backbone("loudness", "audio"), [samples])
    # 2.3 s are two tokens of ten tenths; what is left over is dropped.
    np.testing.assert_allclose(tokens.ravel(), np.arange(20) / 32, rtol=1e-6)


@pytest.mark.slow
def test_the_example_of_your_own_videos(tmp_path, tiny_experiment, monkeypatch, capsys):
    pytest.importorskip("av")
    monkeypatch.setitem(BACKBONES, "colours", COLOURS)
    monkeypatch.chdir(tmp_path)
    phrases = [*KINDS, *re.findall(r'"([a-z ]+)"', code("your-own-videos.md"))]
    words = sorted({word for phrase in phrases for word in re.findall(r"\w+", phrase)})
    glove = {word: [len(word), number, 1.0] for number, word in enumerate(words)}
    text = {"source": "glove", "path": str(write_glove(tmp_path / "glove.txt", glove))}
    write_run(tmp_path, tiny_experiment(text=text, training={"epochs": 1, "batches_per_epoch": 2}))
    write_clip(tmp_path / "new.mp4")
    write_clip(tmp_path / "silent.mp4", sound=False)
    run("your-own-videos.md")
    output = capsys.readouterr().out
    assert output.count("new.mp4 ") == output.count("silent.mp4 ") == 2
    # 3 s hold 3 windows of sound, and frames at 0, 0.32, ... 2.88 s: 10, which make 5 tokens of 2.
    assert "3 5 Answer(name=" in output
    assert "'dog, wet'" in output


@pytest.mark.slow
def test_the_example_of_ready_models(tmp_path, tiny_experiment, monkeypatch, capsys):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, tiny_experiment(model={"modalities": "audio"}, text={"source": "sentence"}))
    write_clip(tmp_path / "clip.mp4")
    names = run("ready-models.md")
    assert len(capsys.readouterr().out.splitlines()) == 3
    mixed = names["both"].classify("clip.mp4", top_k=3)
    assert sum(answer.probability for answer in mixed.answers) > 0.01
    assert set(names["both"].modalities) == {"audio", "visual"}


# What is made of other files.


@pytest.fixture
def website(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "website")
    yield
    for name in ("drawings", "notebook", "reference"):
        sys.modules.pop(name, None)


def test_the_drawings_are_those_of_the_script(website):
    import drawings

    files = {path.stem: path.read_text(encoding="utf-8") for path in drawings.OUT.glob("*.svg")}
    drawn = {name: draw().svg() for name, draw in drawings.DRAWINGS.items()}
    assert files == drawn, "python website/drawings.py draws them anew"


def test_the_notebook_is_the_tutorial(website):
    import notebook

    nbformat = pytest.importorskip("nbformat")
    page = notebook.PAGE.read_text(encoding="utf-8")
    assert notebook.NOTEBOOK.read_text(encoding="utf-8") == notebook.text(page), (
        "python website/notebook.py writes it anew"
    )
    nbformat.validate(nbformat.from_dict(notebook.notebook(page)))
    in_cells = "\n".join(text for kind, text in notebook.cells(page) if kind == "code")
    steps = page.partition("## 1. ")[2].partition("## Your own clips")[0]
    for line in re.findall(r"^    (tcaf .*|python .*)$", steps, re.M):
        assert f"!{line}\n" in in_cells + "\n"


def test_the_reference_has_every_option_and_setting(website):
    import reference

    page = reference.commands_page()
    for words, known in options().items():
        own = page.partition(f"# tcaf {' '.join(words)}\n")[2].partition("\n## ")[0]
        own = own.partition("\n### ")[0]
        for name in signature(cli.load_command(words)).parameters:
            if name in known and name not in ("settings", "help"):
                assert f"- `--{name}`: " in own or f"- `{name.upper()}`: " in own, (words, name)
    settings = reference.settings_page()
    for name in {option for known in options().values() for option in known if "." in option}:
        assert f"- `{name}` = `" in settings, name
    assert reference.api_page().count("\n::: ") == len(__import__("tcaf").__all__)
