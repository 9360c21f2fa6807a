"""What tests of several commands share."""

import pytest


@pytest.fixture
def predict(capsys, monkeypatch, world):
    """Runs `tcaf predict` with the run in `world`; returns its exit status, output and errors."""
    from tcaf.commands.entry import main

    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        capsys.readouterr()
        try:
            status = main(["predict", str(world / "run"), *map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


@pytest.fixture
def printed(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")

    def run(function, *arguments):
        function(*arguments)
        return capsys.readouterr().out

    return run
