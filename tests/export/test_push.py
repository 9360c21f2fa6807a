"""Models and stores on a hub on loopback: what is pushed, and that `hf://` opens it again."""

import json
import shutil

import numpy as np
import pytest

from hub_server import COMMIT, hub_on_loopback
from tcaf import FeatureStore, ZeroShotClassifier
from tcaf.commands import entry as cli
from tcaf.errors import TCAFError
from tcaf.export.card import without_places
from tcaf.export.push import make_folder, push
from tcaf.pretrained.upload import check_name, push_folder
from tcaf.training.run import train


@pytest.fixture(scope="module")
def run(tiny_store, tiny_experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("pushed") / "run"
    train(tiny_experiment(system="ridge", training={"epochs": 2}), tiny_store, out)
    return out


@pytest.fixture
def hub(monkeypatch, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    assert fsspec
    from huggingface_hub import HfFileSystem

    monkeypatch.setenv("TCAF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    with hub_on_loopback(monkeypatch, tmp_path / "hub_cache") as server:
        server.pushed = tmp_path / "pushed"
        # Which keeps what it was made with, the address of a hub of before among it.
        HfFileSystem.clear_instance_cache()
        yield server
        HfFileSystem.clear_instance_cache()


def test_a_model_comes_back(hub, run, tiny_store, capsys):
    assert cli.main(["push", str(run), "me/ridge", "--licence", "mit", "--private", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["address"] == f"hf://me/ridge@{COMMIT}"
    assert sorted(told["files"]) == [
        *("README.md", "config.json", "model.safetensors", "text/classes.safetensors")
    ]
    assert hub.private is True
    own = ZeroShotClassifier.load(run)
    rows = tiny_store.rows("cls", "test")[:5]
    videos = [tiny_store[row] for row in rows.tolist()]
    for address in (told["address"], "hf://me/ridge"):
        found = ZeroShotClassifier.load(address)
        assert found.classes == own.classes
        assert found.known == own.known
        assert found.classify(videos) == own.classify(videos)


@pytest.mark.slow
def test_every_command_that_names_a_model_takes_the_address(hub, run, tiny_store, tmp_path, capsys):
    push(str(run), "me/ridge", records=True)
    address = f"hf://me/ridge@{COMMIT}"
    for part in ("test", "val"):
        line = ["evaluate", address, "--store", str(tiny_store.path), "--part", part, "--json"]
        assert cli.main(line) == 0
        found = json.loads(capsys.readouterr().out)
        line[1] = str(run)
        assert cli.main(line) == 0
        own = json.loads(capsys.readouterr().out)
        assert found["harmonic_mean"] == own["harmonic_mean"]
    line = ["predict", address, "test", "--store", str(tiny_store.path), "--json"]
    assert cli.main(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["predictions"]) == len(tiny_store.rows("cls", "test"))
    assert cli.main(["report", address, "--out", str(tmp_path / "report.html")]) == 0
    assert "Ridge" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_store_comes_back_and_is_trained_on(hub, tiny_store, tmp_path, capsys):
    store = str(tiny_store.path)
    assert cli.main(["push", store, "me/world", "--licence", "cc-by-4.0", "--json"]) == 0
    address = json.loads(capsys.readouterr().out)["address"]
    assert address == f"hf://datasets/me/world@{COMMIT}"
    found = FeatureStore.open(address)
    assert found.fingerprint == tiny_store.fingerprint
    assert (found.splits, found.phrases) == (tiny_store.splits, tiny_store.phrases)
    assert found.path == FeatureStore.open(address).path
    line = ["train", "--store", address, "--system", "ridge", "--training.epochs", "2"]
    assert cli.main([*line, "--out", str(tmp_path / "run")]) == 0
    kept = json.loads((tmp_path / "run" / "provenance.json").read_text(encoding="utf-8"))
    assert kept["data"]["fingerprint"] == tiny_store.fingerprint
    assert cli.main(["evaluate", str(tmp_path / "run"), "--store", address]) == 0


def test_what_was_there_before_goes(hub, run, tmp_path):
    push(str(run), "me/ridge", records=True)
    there = hub.models["me/ridge"]
    assert (there / "predictions.parquet").is_file()
    push(str(run), "me/ridge")
    assert sorted(each.name for each in there.iterdir()) == [
        *("README.md", "config.json", "model.safetensors", "text")
    ]


def test_the_card_of_a_model(run, tmp_path):
    made = make_folder(str(run), tmp_path / "folder", "me/ridge", licence="mit")
    card = (made.path / "README.md").read_text(encoding="utf-8")
    _, head, text = card.split("---\n", 2)
    lines = dict(line.split(": ", 1) for line in head.splitlines())
    values = {key: json.loads(value) for key, value in lines.items()}
    assert (values["license"], values["library_name"]) == ("mit", "tcaf")
    test = json.loads((run / "result.json").read_text(encoding="utf-8"))["test"]
    metrics = values["model-index"][0]["results"][0]["metrics"]
    assert {each["type"]: each["value"] for each in metrics} == {
        name: round(100 * test[name], 2) for name in ("seen", "unseen", "harmonic_mean", "zsl")
    }
    assert f"| test | {100 * test['seen']:.1f} | {100 * test['unseen']:.1f} |" in text
    for title in ("Intended use", "Licences", "Limits", "How to use it", "Numbers"):
        assert f"## {title}\n" in text
    assert "tcaf predict hf://me/ridge clip.mp4" in text
    assert "audio backbone `synthetic_audio` | not stated" in text
    for file in made.path.rglob("*"):
        assert file.is_dir() or str(tmp_path.parent).encode() not in file.read_bytes()


def test_licences_of_backbones_and_data_are_told(tiny_experiment):
    from dataclasses import replace

    from tcaf.export.card import Origin, model_card
    from write_trained import SPEC, write_trained

    trained = write_trained("ridge", tiny_experiment())
    spec = replace(SPEC, audio_backbone="vggish", visual_backbone="hf:some/clip@abc")
    data = {
        "kind": "audioset",
        "licence": "features CC BY 4.0",
        "models": {"visual": {"model": "some/clip", "commit": "abc", "licence": "mit"}},
    }
    origin = Origin(None, {"data": data})
    card = model_card("me/it", replace(trained, spec=spec), origin, "other")
    for row in (
        "| audio backbone `vggish` | Apache-2.0 |",
        "| visual backbone `hf:some/clip@abc` | the model's |",
        "| clips | features CC BY 4.0 |",
        "| model of a hub `some/clip` | mit |",
        "No scores are kept with this model.",
    ):
        assert row in card


def test_the_card_of_a_store(tiny_store, tmp_path):
    made = make_folder(str(tiny_store.path), tmp_path / "folder", "me/world")
    card = (made.path / "README.md").read_text(encoding="utf-8")
    assert "Features of 240 clips" in card
    assert 'data_files": [{"split": "all", "path": "*.parquet"}]' in card
    parts = tiny_store.parts.tolist()
    assert f"| stage_1_train | {parts.count('stage_1_train'):,} |" in card
    assert made.kind == "dataset"


def test_a_card_of_ones_own(run, tmp_path):
    (tmp_path / "card.md").write_text("# Mine\n", encoding="utf-8")
    made = make_folder(str(run), tmp_path / "folder", "me/it", card=tmp_path / "card.md")
    assert (made.path / "README.md").read_text(encoding="utf-8") == "# Mine\n"


def test_paths_of_this_machine_stay_here():
    known = {"kind": "videos", "folder": "/home/me/clips", "tables": ["C:\\labels.csv"], "n": 3}
    assert without_places(known) == {"kind": "videos", "n": 3}


@pytest.mark.parametrize("name", ["ridge", "me/", "a/b/c", "me/ri dge", "../x", "me/a..b", ""])
def test_names_that_cannot_be(name):
    with pytest.raises(TCAFError, match="expected the name of a repository on the hub"):
        check_name(name)


def test_what_cannot_be_pushed(hub, run, tiny_store, tmp_path, capsys, monkeypatch):
    alone = tmp_path / "model.safetensors"
    shutil.copyfile(run / "model.safetensors", alone)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine", encoding="utf-8")
    for words, told in (
        ([str(run), "other/it"], "cannot push to other/it: log in as someone who may write there"),
        ([str(run), "me/it", "--licence", "My Own"], "expected a licence as the hub calls it"),
        ([str(alone), "me/it", "--records"], "is no folder of a run, and has no records of one"),
        ([str(tiny_store.path), "me/it", "--records"], "is a store, which keeps no records"),
        ([str(tmp_path / "gone"), "me/it"], "expected a trained model at"),
        ([str(run), "me/it", "--out", str(tmp_path / "taken")], "exists already"),
        ([str(run), "me/it", "--card", str(tmp_path / "no.md")], "expected a card in Markdown"),
    ):
        assert cli.main(["push", *words]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert "me/it" not in hub.models
    monkeypatch.setenv("TCAF_OFFLINE", "1")
    assert cli.main(["push", str(run), "me/it"]) == 2
    assert "cannot push to me/it: TCAF_OFFLINE is set" in capsys.readouterr().err


def test_without_huggingface_hub_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("TCAF_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(TCAFError, match=r"pip install 'tcaf\[hub\]'"):
        push_folder(tmp_path, "me/it", "model", message="it")


def test_a_folder_is_written_and_nothing_sent(run, tmp_path, capsys, tiny_store):
    out = tmp_path / "folder"
    assert cli.main(["push", str(run), "me/it", "--out", str(out)]) == 0
    assert "a model of 4 files" in capsys.readouterr().out
    row = int(tiny_store.rows("cls", "test")[0])
    (own,) = ZeroShotClassifier.load(run).classify([tiny_store[row]])
    (found,) = ZeroShotClassifier.load(out).classify([tiny_store[row]])
    assert found == own
    assert np.isfinite(found.answers[0].distance)
