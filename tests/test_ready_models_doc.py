"""`docs/ready-models.md`: what it shows works."""

import re
import shlex
from pathlib import Path

import pytest

from tcaf.commands import entry as cli
from write_clip_run import write_clip, write_run

DOC = Path(__file__).parents[1] / "docs" / "ready-models.md"
TEXT = DOC.read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in TEXT.splitlines() if line.startswith("    tcaf ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    command, _ = cli.parse(shlex.split(line)[1:])
    assert command is not None


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)", TEXT)
    assert links
    assert [link for link in links if not (DOC.parent / link).exists()] == []


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, tiny_experiment, monkeypatch, capsys):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, tiny_experiment(model={"modalities": "audio"}, text={"source": "sentence"}))
    write_clip(tmp_path / "clip.mp4")
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names: dict = {}
    exec(compile(example, DOC.name, "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 3
    mixed = names["both"].classify("clip.mp4", top_k=3)
    assert sum(answer.probability for answer in mixed.answers) > 0.01
    assert set(names["both"].modalities) == {"audio", "visual"}
