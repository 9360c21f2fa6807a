"""Files of the user's: run once for each content."""

import hashlib
import sys
from dataclasses import fields
from typing import get_type_hints

import pytest

from tcaf.errors import TCAFError
from tcaf.plugins import run_plugin

CODE = """
import builtins
from dataclasses import dataclass

builtins.runs_of_a_plugin.append(__file__)

@dataclass(frozen=True)
class Options:
    width: "Width" = 3

Width = int
"""


@pytest.fixture
def runs(monkeypatch):
    """Paths of the files that were run."""
    import builtins

    monkeypatch.setattr("tcaf.plugins._RUN", set())
    monkeypatch.setattr(builtins, "runs_of_a_plugin", [], raising=False)
    return builtins.runs_of_a_plugin


def test_it_is_run_once_for_each_content(tmp_path, runs):
    path = tmp_path / "my model-2.txt"
    path.write_text(CODE)
    assert run_plugin(path) == hashlib.sha256(CODE.encode()).hexdigest()
    assert run_plugin(path) == hashlib.sha256(CODE.encode()).hexdigest()
    (tmp_path / "copy.py").write_text(CODE)
    run_plugin(tmp_path / "copy.py")
    assert runs == [str(path)]
    path.write_text(CODE + "changed = True\n")
    assert run_plugin(path) == hashlib.sha256((CODE + "changed = True\n").encode()).hexdigest()
    assert runs == [str(path)] * 2


def test_annotations_in_quotes_are_found(tmp_path, runs):
    (tmp_path / "p.py").write_text(CODE)
    run_plugin(tmp_path / "p.py")
    options = sys.modules["tcaf_plugin_p"].Options
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
            run_plugin(path)
    assert runs == ([] if "SyntaxError" in message else [str(path)] * 2)


def test_no_file(tmp_path):
    with pytest.raises(TCAFError, match=r"expected a Python file at .*gone\.py: No such file"):
        run_plugin(tmp_path / "gone.py")
    with pytest.raises(TCAFError, match=r"expected a Python file at .*: Is a directory"):
        run_plugin(tmp_path)
