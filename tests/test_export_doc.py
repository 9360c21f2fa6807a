"""The document on models elsewhere: what it shows works, in its order."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hub_server import COMMIT, hub_on_loopback
from tcaf import ZeroShotClassifier
from tcaf.commands import entry as cli
from tcaf.training.run import train

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
LINES = [line.strip() for line in TEXT.splitlines() if line.startswith("    ")]
COMMANDS = [line for line in LINES if line.startswith("tcaf ")]
NOT_HERE = ("pip install", "hf auth login", "python -m http.server")
"""What is for people: an install, their account, a server that does not end."""


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    command, _ = cli.parse(shlex.split(line)[1:])
    assert command.__name__ in line


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target


def test_the_package_of_the_page_is_as_large_as_said():
    assert "14 MB of the page are its" in TEXT
    assert "[export]" in TEXT


@pytest.mark.slow
def test_what_is_shown_works(tiny_store, tiny_experiment, tmp_path, monkeypatch):
    from huggingface_hub import HfFileSystem

    shutil.copytree(tiny_store.path, tmp_path / "world")
    train(tiny_experiment(system="ridge", training={"epochs": 2}), tiny_store, tmp_path / "run")
    names = ZeroShotClassifier.load(tmp_path / "run").classes
    (tmp_path / "some.txt").write_text("\n".join(names[:5]), encoding="utf-8")
    (tmp_path / "names.txt").write_text("\n".join(names[5:8]), encoding="utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    exec(compile(code, "docs/export.md", "exec"), {})
    done = []
    with hub_on_loopback(monkeypatch, tmp_path / "hub_cache") as hub:
        hub.pushed = tmp_path / "pushed"
        HfFileSystem.clear_instance_cache()
        for line in LINES:
            if line.startswith(NOT_HERE):
                continue
            words = shlex.split(line.replace("NAME", names[6]).replace("COMMIT", COMMIT))
            if words[:2] == ["tcaf", "predict"] or ("--page" in words and not shutil.which("npm")):
                continue  # of a media file, which this model has no backbones for
            if words[0] == "tcaf":
                more = ["--system", "ridge", "--training.epochs", "2"] * (words[1] == "train")
                assert cli.main([*words[1:], *more]) == 0, line
            else:
                command = [sys.executable, *words[1:]]
                found = subprocess.run(command, capture_output=True, text=True, check=True)
                assert f"  {names[6]}  (unseen)" in found.stdout
            done.append(words[1])
        HfFileSystem.clear_instance_cache()
    assert {"export", "push", "train", "evaluate"} <= set(done)
    assert (tmp_path / "for_torch" / "text.pt2").is_file()
