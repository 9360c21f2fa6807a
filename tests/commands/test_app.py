"""`tcaf app`: what is refused before anything is opened, and that help needs nothing."""

import subprocess
import sys

import pytest

from tcaf.commands.entry import main


def refused(capsys, *arguments):
    assert main(["app", *arguments]) == 2
    return capsys.readouterr().err


def test_the_network_is_let_in_with_a_password_alone(capsys, monkeypatch):
    monkeypatch.delenv("TCAF_AUTH", raising=False)
    err = refused(capsys, "--host", "0.0.0.0")
    assert "add --auth user:password" in err
    assert len(err.strip().splitlines()) == 1


def test_half_a_password_is_refused(capsys, monkeypatch):
    assert "--auth must be a name and a password" in refused(capsys, "--auth", "ann")
    monkeypatch.setenv("TCAF_AUTH", "bob")
    assert "--auth must be a name and a password" in refused(capsys)


def test_who_lets_others_in_is_warned(capsys, monkeypatch):
    monkeypatch.setenv("TCAF_AUTH", "ann:secret")
    monkeypatch.setitem(sys.modules, "gradio", None)
    err = refused(capsys, "--host", "0.0.0.0")
    assert "warning: --host 0.0.0.0 lets other machines in" in err
    assert "secret" not in err


def test_what_is_missing_is_said_first(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    err = refused(capsys, "no such model")
    assert "gradio is not installed; pip install 'tcaf[app]'" in err
    assert len(err.strip().splitlines()) == 1


def test_a_model_that_there_is_not(capsys):
    pytest.importorskip("gradio")
    assert "expected a trained model at imagnet" in refused(capsys, "imagnet")


@pytest.mark.parametrize("arguments", [["--help"], ["--prot", "1"], ["--host", "0.0.0.0"]])
def test_help_and_mistakes_import_nothing_large(arguments):
    code = (
        "import sys; from tcaf.commands.entry import main\n"
        "try: main(['app', *sys.argv[1:]])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'gradio', 'fastapi', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
