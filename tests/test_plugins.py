"""Files of the user's: run once for each content."""

import hashlib
import sys
from dataclasses import fields
from typing import get_type_hints

import pytest

from tcaf.errors import TCAFError
from tcaf.plugins import Registry, load_plugin

CODE = """
import builtins
from dataclasses import dataclass

import tcaf.plugins

builtins.runs_of_a_plugin.append(__file__)
tcaf.plugins._REGISTRIES[-1].add("mine", 3)

@dataclass(frozen=True)
class Options:
    width: "Width" = 3

Width = int
"""


@pytest.fixture
def runs(monkeypatch):
    """Paths of the files that were run."""
    import builtins

    monkeypatch.setattr("tcaf.plugins._REGISTRIES", [])
    Registry("thing", {"ours": 1})
    monkeypatch.setattr(builtins, "runs_of_a_plugin", [], raising=False)
    return builtins.runs_of_a_plugin


def test_it_is_run_once_for_each_content(tmp_path, runs):
    path = tmp_path / "my model-2.txt"
    path.write_text(CODE)
    assert load_plugin(path).sha256 == hashlib.sha256(CODE.encode()).hexdigest()
    assert load_plugin(path).sha256 == hashlib.sha256(CODE.encode()).hexdigest()
    assert runs == [str(path)]
    # Another file is another plugin, and takes no name of this one.
    (tmp_path / "copy.py").write_text(CODE)
    with pytest.raises(TCAFError, match="there is a thing 'mine' already; choose another name"):
        load_plugin(tmp_path / "copy.py")
    runs.pop()
    path.write_text(CODE + "changed = True\n")
    assert (
        load_plugin(path).sha256 == hashlib.sha256((CODE + "changed = True\n").encode()).hexdigest()
    )
    assert runs == [str(path)] * 2


def test_annotations_in_quotes_are_found(tmp_path, runs):
    (tmp_path / "p.py").write_text(CODE)
    plugin = load_plugin(tmp_path / "p.py")
    options = sys.modules[f"tcaf_plugin_p_{plugin.sha256[:16]}"].Options
    assert get_type_hints(options) == {"width": int}
    assert [f.default for f in fields(options)] == [3]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", r"p\.py cannot be run: ZeroDivisionError: division by zero$"),
        ("def f(:", r"p\.py cannot be run: SyntaxError: invalid syntax"),
        ("raise ValueError('two\\nlines')", r"cannot be run: ValueError: two lines$"),
        ("from tcaf import TCAFError; raise TCAFError('as it is')", "^as it is$"),
    ],
)
def test_what_fails_is_said_in_one_line_and_tried_again(tmp_path, runs, code, message):
    path = tmp_path / "p.py"
    path.write_text(CODE + code)
    for _ in range(2):
        with pytest.raises(TCAFError, match=message):
            load_plugin(path)
    assert runs == ([] if "SyntaxError" in message else [str(path)] * 2)


def test_no_file(tmp_path):
    with pytest.raises(TCAFError, match=r"expected a Python file that .*gone\.py: No such file"):
        load_plugin(tmp_path / "gone.py")
    with pytest.raises(TCAFError, match=r"expected a Python file that .*: Is a directory"):
        load_plugin(tmp_path)
