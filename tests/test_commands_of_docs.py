"""The commands of the documentation, run as they stand on small rendered clips.

What is left out of them, and why, is in `NOT_RUN`; `test_docs.py` reads every command all the same.
Those of `reproduce-the-paper.md` and `your-own-model.md` are run by tests of these names.
"""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from doc_pages import ALL, ROOT, blocks, commands_of, named_in_tests
from tcaf.commands import entry as cli
from tcaf.sources.synthetic import prepare_synthetic
from write_clip_run import write_clip

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CLASSES = {
    "train": ("dog barking", "cat purring", "rain falling", "bell ringing"),
    "val_unseen": ("door closing",),
    "test_unseen": ("drum rolling",),
}
FETCHED = "weights are fetched"
NOT_RUN = {
    "--visual c3d": FETCHED,
    "hf:": FETCHED,
    "doctor --weights": FETCHED,
    "imagenet+audioset": FETCHED,
    "--system aligned": "features of fetched models; tests/systems/test_aligned.py",
    "SHARDS": "shards that others publish; tests/sources/test_youtube8m.py",
    "yt8m": "a store of such shards",
    "--store audioset": "a store of such shards",
    "official ROOT": "features that the authors gave away; tests/sources/test_official.py",
    "--store ucf": "tests/test_reproduce_the_paper.py",
    "--labels vggsound.csv": "tests/test_reproduce_the_paper.py",
    "--labels trainlist01.txt": "tests/sources/test_published.py",
    "--watch": "runs until it is ended; tests/answers/test_watch.py",
    "--store mine": "a table of labels for clips in no part; tests/training/test_auxiliary.py",
    "--cluster": "a cluster of Ray",
    "s3://": "an address; tests/files/test_remote.py",
    "https://host": "likewise",
    "hf://": "likewise",
    "torchrun": "several processes; tests/execution/test_ranks.py",
    "tcaf app": "answers until it is ended; tests of the page",
    "my_clips": "the reader's own clips; as those of your-own-videos.md",
    "my_store": "likewise",
    "my_run": "likewise",
    "tcaf export": "tests/test_export_doc.py",
    "tcaf push": "an account at the hub; tests/export/test_push.py",
    "prepare synthetic": "19,200 clips; the world of these tests is smaller",
}
"""What a command holds that is not run, and why."""

BATCHES = ["--training.epochs", "1", "--training.batches_per_epoch", "2"]
CHOICES = ["--training.epochs", "2", "--options.time", "off"]
DESCENDING = ("settings.toml", "--models textlda ridge tcaf", "runs/tcaf", "--system tcaf ")
"""What tells commands that train by descent; the other systems are fitted, and choose among few."""

SMALL = {"0.05": "0.5"}
"""Few validation clips vouch for no 5 %."""


def reason_not_to_run(line):
    return next((why for part, why in NOT_RUN.items() if part in line), "")


def shortened(line):
    """What makes a training short."""
    if any(part in line for part in DESCENDING):
        return BATCHES
    return CHOICES if " train " in line else CHOICES[:2]


def run(words):
    """Runs a command in this process; stores and runs that are there are made anew."""
    line = shlex.join(words)
    words = [SMALL.get(word, word) for word in words[1:]]
    if "--out" in words and not {"--append", "--resume"} & set(words) and words[0] != "predict":
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
    if words[0] in ("train", "reproduce"):
        words += shortened(line)
    found = [sorted(map(str, Path().glob(word))) if "*" in word else [word] for word in words]
    assert cli.main([word for each in found for word in each]) == 0, line


def run_page(page):
    """Runs the commands of a page in its order, but for those that `NOT_RUN` names."""
    ran = 0
    for words in commands_of(page):
        if words[0] == "tcaf" and not reason_not_to_run(shlex.join(words)):
            run(words)
            ran += 1
    return ran


def own_clip(path, class_name, number, seconds):
    """Writes a clip whose colour and pitch are nearly those of its class."""
    rng = np.random.default_rng([number, *map(ord, class_name)])
    of_class = np.random.default_rng(list(map(ord, class_name)))
    colour = of_class.integers(40, 200, 3) + rng.integers(-20, 20, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    pitch = int(of_class.integers(200, 1200) + rng.integers(-20, 20))
    write_clip(path, seconds=seconds, pitch=pitch, colour=tuple(colour.tolist()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Clips, tables and settings that the pages speak of, with a store and a run of them."""
    folder = tmp_path_factory.mktemp("docs")
    rows, number = [], 0
    for names in CLASSES.values():
        for name in names:
            for _ in range(7):
                own_clip(folder / "clips" / name / f"{number}.mp4", name, number, 2)
                rows.append(f"{name}/{number}.mp4,{name}")
                number += 1
    pairs = [f"{name},{subset}" for subset, names in CLASSES.items() for name in names]
    (folder / "labels.csv").write_text("\n".join(["file,class", *rows]))
    (folder / "classes.csv").write_text("\n".join(["class,subset", *pairs]))
    (folder / "names.txt").write_text("cat purring\ndog, barking\n")
    (folder / "mine.toml").write_text('[text]\nsource = "sentence"\n')
    for name in ("new.mp4", "clip.mp4", "recordings/a.mp4", "recordings/b.mp4"):
        own_clip(folder / name, "dog barking", 5, 3)
    own_clip(folder / "lecture.mp4", "cat purring", 3, 21)
    for block in ALL:
        name = block.text.partition("\n")[0].removeprefix("# ")
        if block.kind == "toml" and name.endswith(".toml"):
            (folder / name).write_text(block.text, encoding="utf-8")
    (loudness,) = (b for b in ALL if (b.page, b.kind) == ("your-own-backbone.md", "python"))
    (folder / "loudness.py").write_text(loudness.text, encoding="utf-8")
    prepare_synthetic(
        folder / "world", looks=3, motions=2, sounds=2, relations=("together",), clips_per_class=20
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(shlex.split("tcaf prepare videos clips --classes classes.csv --out store"))
        run(shlex.split("tcaf train --store store --out run"))
        run(shlex.split("tcaf train --store world --out runs/tcaf"))
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A copy of `prepared`, to work in."""
    shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("README.md", 9),
        ("how-it-works.md", 1),
        ("questions.md", 5),
        ("ranks-and-devices.md", 1),
        ("ready-models.md", 2),
        ("recordings.md", 5),
        ("systems.md", 2),
        ("your-own-videos.md", 18),
    ],
)
def test_a_page(folder, page, count):
    assert run_page(page) == count


def test_your_own_backbone(folder):
    """In processes of their own: the plugin stays out of this one."""
    for made in ("store", "run"):
        shutil.rmtree(folder / made)
    for words in commands_of("your-own-backbone.md"):
        short = shortened(shlex.join(words)) if words[1] == "train" else []
        command = [sys.executable, "-m", "tcaf", *words[1:], *short]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "cat purring" in done.stdout


HERE = (
    *("README.md", "how-it-works.md", "questions.md", "ready-models.md", "recordings.md"),
    *("systems.md", "your-own-videos.md", "your-own-backbone.md", "tutorial.md", "index.md"),
    "ranks-and-devices.md",
)


def test_every_command_is_run_somewhere():
    lines = [(b.page, shlex.join(w)) for b in ALL if b.kind == "shell" for w in b.commands]
    for page, line in lines:
        if "tcaf " in line and page not in HERE and not reason_not_to_run(line):
            assert named_in_tests(page, but=Path(__file__).name), f"{page}: {line}"
    for part in NOT_RUN:
        assert any(part in line for _, line in lines), f"nothing holds {part}"


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """Runs the cells of docs/tutorial.ipynb as a notebook does; returns what each printed."""
    cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    place = tmp_path_factory.mktemp("tutorial")
    (place / "examples").symlink_to(ROOT / "examples")
    (place / "bin").mkdir()
    for name, module in (("tcaf", "-m tcaf"), ("python", "")):
        script = place / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        script.chmod(0o755)
    source = os.environ.get("PYTHONPATH", str(ROOT / "src"))
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": source, "COLUMNS": "100"}
    printed, names = [], {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for cell in cells:
            if cell["cell_type"] != "code":
                continue
            if cell["source"].startswith("!"):
                lines = "\n".join(line.removeprefix("!") for line in cell["source"].splitlines())
                done = subprocess.run(
                    ["bash", "-e", "-c", lines], env=env, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
                printed.append(done.stdout)
            else:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile(cell["source"], "tutorial.md", "exec"), names)
                printed.append(out.getvalue())
    return place, printed


def test_the_notebook_of_the_tutorial(tutorial):
    place, (_, store, trained, answers, table, python) = tutorial
    assert "24 classes" in store
    assert "test_unseen" in store
    assert "ZSL" in trained
    assert answers.count("_0000.mp4") >= 24
    assert "Ridge" in table
    assert (place / "results" / "table.md").is_file()
    assert "<title>" in (place / "report.html").read_text(encoding="utf-8")
    right, number = (int(word) for word in python.split() if word.isdigit())
    # A guess among 24 classes is right once in 24.
    assert right >= number / 4


def test_the_answer_on_the_first_page(tutorial):
    """The same clips and names as in the tutorial: what the page shows is what is printed."""
    _, (ready, *_) = tutorial
    first, second = commands_of("index.md")[-2:], commands_of("tutorial.md")
    assert all(words in second for words in first)
    (shown,) = (b.text for b in blocks(ROOT / "docs" / "index.md") if b.kind == "text")

    def cells(table):
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines()]
        return [row for row in rows if row]

    assert [row[:2] for row in cells(shown)] == [row[:2] for row in cells(ready)]
    for mine, real in zip(cells(shown), cells(ready), strict=True):
        assert float(mine[2].rstrip(" %")) == pytest.approx(float(real[2].rstrip(" %")), abs=1)
