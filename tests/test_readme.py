"""What the README shows must work."""

import re
import shlex
import shutil
from pathlib import Path

from tcaf.commands import entry as cli
from tcaf.training.run import train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run(tiny_store, tiny_experiment, tmp_path, monkeypatch, capsys):
    shutil.copytree(tiny_store.path, tmp_path / "world")
    train(tiny_experiment(), tiny_store, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    output = capsys.readouterr().out
    assert "'clips': 1" in output
    assert re.search(r"tensor\(\[\d+, \d+\]\)", output)


def test_commands_and_options_exist(tmp_path, monkeypatch):
    """Every `tcaf ...` line names a command, every option belongs to it, every target is made."""
    lines = [line.strip().split("#")[0] for line in README.splitlines()]
    shown = [shlex.split(line)[1:] for line in lines if line.startswith("tcaf ")]
    assert len(shown) >= 8
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("[training]\nepochs = 3\n")
    for words in shown:
        command, _ = cli.parse(words)
        assert command is not None
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert f"\n{target}:" in makefile


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
