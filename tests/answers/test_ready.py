"""The list of ready models, and the ways to their names."""

import importlib

import pytest

from tcaf import ZeroShotClassifier
from tcaf.answers.ready import FOLDER, READY, is_ready, open_ready
from tcaf.commands import entry as cli
from tcaf.errors import TCAFError


@pytest.mark.parametrize("name", READY)
def test_each_is_made_by_a_function_or_of_backbones(name):
    assert bool(READY[name].open) != bool(READY[name].backbones)
    if READY[name].backbones:
        assert set(READY[name].backbones) == set(READY[name].modalities)
        return
    module, _, function = READY[name].open.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert is_ready(name)


def test_all_files_of_ready_models_belong_to_one():
    names = {file.name.partition(".")[0].partition("_")[0] for file in FOLDER.iterdir()}
    assert names <= set(READY)


def test_what_lies_here_wins_over_a_ready_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()
    assert not is_ready("imagenet")
    with pytest.raises(TCAFError, match="expected a trained model at imagenet"):
        ZeroShotClassifier.load("imagenet")


def test_a_name_that_is_none_tells_which_there_are():
    with pytest.raises(TCAFError, match=r"no ready model 'image'; .*did you mean 'imagenet'\?"):
        open_ready("image")
    for word in ("imagnet", "runs/mine"):
        with pytest.raises(TCAFError, match=f"model at {word}, found nothing; ready .* imagenet"):
            ZeroShotClassifier.load(word)


def test_they_are_listed(capsys):
    assert cli.main(["models"]) == 0
    told = capsys.readouterr().out
    for name, info in READY.items():
        assert name in told
        assert info.fetched in told
    assert cli.main(["models", "--json"]) == 0
    assert f'"fetched": "{READY["imagenet"].fetched}"' in capsys.readouterr().out
