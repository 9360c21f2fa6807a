"""`docs/your-own-model.md`: its code is run as it stands, through the commands that it names."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tcaf.sources.synthetic import prepare_synthetic

TEXT = (Path(__file__).parents[1] / "docs" / "your-own-model.md").read_text(encoding="utf-8")
CODE = re.search(r"```python\n(.*?)```", TEXT, re.S)[1]
SHORT = ["--training.epochs", "3", "--training.batches_per_epoch", "20"]


def tcaf(*arguments, folder):
    command = [sys.executable, "-m", "tcaf", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "late_fusion.py").write_text(CODE)
    prepare_synthetic(
        folder / "world",
        looks=3,
        motions=3,
        sounds=2,
        relations=("together",),
        clips_per_class=20,
        audio_dim=11,
        visual_dim=13,
        noise=0.2,
    )
    return folder


def test_it_is_under_60_lines():
    assert len(CODE.splitlines()) < 60


def test_it_imports_from_the_public_face_alone():
    sources = re.findall(r"^(?:from|import) (\S+)", CODE, re.M)
    assert set(sources) == {"dataclasses", "tcaf", "torch", "torch.nn"}


@pytest.mark.slow
def test_a_row_of_the_table(folder):
    done = tcaf(
        *("reproduce", "--table", "1", "--store", "world", "--seeds", "0"),
        *("--models", "late_fusion", "--plugin", "late_fusion.py"),
        *(*SHORT, "--out", "out"),
        folder=folder,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    lines = (folder / "out/table.csv").read_text().splitlines()
    rows = {row["model"]: row for row in csv.DictReader(lines)}
    assert set(rows) == {"late_fusion"}
    # 18 classes, 12 of them seen: chance is 8 % of the seen ones.
    assert float(rows["late_fusion"]["seen"]) > 0.4
    assert "Late fusion" in (folder / "out/table.md").read_text()


@pytest.mark.slow
def test_a_changed_file_is_another_model(folder):
    (folder / "changed.py").write_text(CODE.replace("nn.ReLU()", "nn.GELU()"))
    for plugin in ("late_fusion.py", "changed.py", "changed.py"):
        done = tcaf(
            *("reproduce", "--table", "1", "--store", "world", "--seeds", "0"),
            *("--models", "late_fusion", "--plugin", plugin, "--out", "twice"),
            *("--training.epochs", "1", "--training.batches_per_epoch", "2"),
            folder=folder,
        )
        assert done.returncode == 0, done.stderr
    assert "was done" in done.stderr
    assert len(list((folder / "twice" / "runs").iterdir())) == 2


@pytest.mark.slow
def test_alone_and_with_an_option(folder):
    for options, number in (((), 256), (("--options.hidden_dim", "7"), 7)):
        out = f"run_{number}"
        done = tcaf(
            *("train", "--config", "synthetic", "--plugin", "late_fusion.py"),
            *("--system", "late_fusion", "--store", "world", "--out", out, *options),
            *("--training.epochs", "1", "--training.batches_per_epoch", "2"),
            folder=folder,
        )
        assert done.returncode == 0, done.stderr
        unknown = tcaf("evaluate", out, "--store", "world", folder=folder)
        assert unknown.returncode == 2
        assert "'late_fusion', which is not known here" in unknown.stderr
        known = tcaf(
            *("evaluate", out, "--store", "world", "--plugin", "late_fusion.py"), folder=folder
        )
        assert known.returncode == 0, known.stderr
        config = (folder / out / "config.json").read_text()
        assert '"system": "late_fusion"' in config
        assert ('"hidden_dim": 7' in config) == (number == 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--options.hiden_dim", "7"],
            "does not read 'options.hiden_dim'; did you mean '.*hidden_dim'",
        ),
        (["--options.hidden_dim", "wide"], "options.hidden_dim: expected int, got 'wide'"),
    ],
)
def test_wrong_options(folder, options, message):
    done = tcaf(
        *("train", "--config", "synthetic", "--plugin", "late_fusion.py"),
        *("--system", "late_fusion", "--store", "world", "--out", "wrong", *options),
        folder=folder,
    )
    assert done.returncode == 2
    assert re.search(message, done.stderr)
    assert not (folder / "wrong").exists()
