import builtins
import re

import pytest

from hub_server import COMMIT, hub_on_loopback
from tcaf.errors import MissingExtraError, TCAFError
from tcaf.pretrained import hub as models
from tcaf.pretrained.hub import ModelFiles, ModelName, find_model, is_commit
from tcaf.settings.sections import TextSettings
from tcaf.text.class_text import text_origin

CARD = "---\nlanguage: en\nlicense: apache-2.0  # of the weights\n---\n# A model\nlicense: mit\n"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_on_loopback(monkeypatch, tmp_path / "cache") as running:
        yield running


@pytest.fixture
def repository(hub, tmp_path):
    folder = tmp_path / "served"
    (folder / "onnx").mkdir(parents=True)
    (folder / "1_Dense").mkdir()
    for name in (
        *("config.json", "tokenizer.json", "merges.txt", "model.safetensors"),
        *("open_clip_model.safetensors", "pytorch_model.bin", "modeling_own.py"),
        *("onnx/config.json", "onnx/model.safetensors", "1_Dense/config.json"),
        *("1_Dense/model.safetensors", ".gitattributes"),
    ):
        (folder / name).write_text(f"content of {name}")
    (folder / "README.md").write_text(CARD)
    hub.models["org/model"] = folder
    return folder


def test_a_name_is_split_at_the_at():
    assert ModelName.parse("org/model") == ModelName("org/model")
    assert ModelName.parse("org/model@refs/pr/4") == ModelName("org/model", "refs/pr/4")
    assert str(ModelName("org/model", "v1")) == "org/model@v1"
    assert str(ModelName("org/model")) == "org/model"


@pytest.mark.parametrize("text", ["", "@main", "org/model@", " org/model"])
def test_a_name_that_is_none_is_refused(text):
    with pytest.raises(TCAFError, match=r"^expected a model's folder, or its name on the hub"):
        ModelName.parse(text)


def test_a_folder_may_have_an_at_in_its_name(tmp_path):
    folder = tmp_path / "org@home"
    folder.mkdir()
    found = find_model(str(folder))
    assert found == ModelFiles(ModelName(str(folder)), folder, "")
    assert found.commit == ""


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(hub):
    for text in ("./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere_at_all"):
        with pytest.raises(TCAFError, match=f"^expected the folder of a model at {text}, found n"):
            find_model(text)
    assert hub.requests == []


def test_names_that_no_folder_can_have_are_told_in_one_line(hub):
    with pytest.raises(TCAFError, match=r"^expected the folder of a model, or a name on the hub"):
        find_model("x" * 5000)
    with pytest.raises(TCAFError, match=r"^expected the folder of a model at ~nobody_here/x, fou"):
        find_model("~nobody_here/x")
    assert hub.requests == []


def test_settings_and_safetensors_are_fetched_and_nothing_else(hub, repository):
    found = find_model("org/model")
    wanted = [
        *("1_Dense/config.json", "1_Dense/model.safetensors", "README.md", "config.json"),
        *("merges.txt", "model.safetensors", "tokenizer.json"),
    ]
    assert hub.fetched() == wanted
    files = [path for path in found.folder.rglob("*") if path.is_file()]
    assert sorted(path.relative_to(found.folder).as_posix() for path in files) == wanted
    assert found.name == ModelName("org/model", COMMIT)
    assert found.to_json() == {"model": "org/model", "commit": COMMIT, "licence": "apache-2.0"}


def test_what_other_programs_fetched_does_not_count(repository):
    found = find_model("org/model")
    origin = text_origin(TextSettings(source="hf", path="org/model"))
    before = sorted(found.files())
    assert len(before) == 7
    (found.folder / "pytorch_model.bin").write_text("pickled")
    (found.folder / "onnx").mkdir()
    (found.folder / "onnx" / "config.json").write_text("{}")
    assert sorted(found.files()) == before
    assert text_origin(TextSettings(source="hf", path="org/model")) == origin
    # Of a person's own folder all count.
    assert len(ModelFiles(ModelName(str(found.folder)), found.folder).files()) == 9


def test_a_commit_that_is_there_asks_nothing_of_the_hub(hub, repository, monkeypatch):
    folder = find_model("org/model@main").folder
    hub.requests.clear()
    assert find_model(f"org/model@{COMMIT}").folder == folder
    assert hub.requests == []
    monkeypatch.setenv("TCAF_OFFLINE", "1")
    assert find_model("org/model").folder == folder
    assert hub.requests == []


def test_a_request_for_changes_is_a_revision(hub, repository):
    assert find_model("org/model@refs/pr/4").commit == COMMIT


def test_pickles_are_not_read(hub, repository):
    for name in ("model.safetensors", "1_Dense/model.safetensors"):
        (repository / name).unlink()
    with pytest.raises(TCAFError, match=r"^model org/model has no weights in safetensors, and p"):
        find_model("org/model")
    assert "pytorch_model.bin" not in hub.fetched()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("org/other", "there is no folder org/other here and no model 'org/other' on the hub, or"),
        ("org/model@v9", "model 'org/model' has no revision 'v9'; see https://huggingface.co/org"),
        ("gated/model", "model gated/model is given to those only who accepted its terms: do so "),
        ("broken/model", "cannot fetch model broken/model ("),
        ("not a name", "expected the folder of a model, or a name on the hub such as openai/cli"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(hub, repository, text, message):
    with pytest.raises(TCAFError, match=f"^{re.escape(message)}") as raised:
        find_model(text)
    assert "\n" not in str(raised.value)


def test_nothing_is_fetched_offline(hub, repository, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        TCAFError, match=r"^cannot fetch model org/model@v2 \(HF_HUB_OFFLINE is s"
    ) as e:
        find_model("org/model@v2")
    assert "`hf download org/model --revision v2 --local-dir FOLDER`" in str(e.value)
    assert hub.requests == []


def test_a_server_that_is_gone_is_said(hub, repository, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TCAFError, match=r"^cannot fetch model org/model \(") as raised:
        find_model("org/model")
    assert "\n" not in str(raised.value)


def test_a_connection_that_breaks_is_said(hub, repository, monkeypatch):
    import huggingface_hub

    class ReadError(Exception):
        """As those of its client of HTTP: neither one of its own nor an OSError."""

    def broken(*args, **more):
        raise ReadError("the peer\nclosed the connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(TCAFError, match=r"^cannot fetch model org/model \(the peer\); fetch it"):
        find_model("org/model")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def absent(name, *rest, **more):
        if name.startswith("huggingface_hub"):
            raise ImportError
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'tcaf\[hub\]'"):
        find_model("org/model")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("# no front matter\nlicense: mit\n", ""),
        ("---\nlicense: other\nlicense_name: 'fair'\n---\n", "fair"),
        ('---\nlicense: "mit"\n---\n', "mit"),
        ("---\ntags:\n- x\n---\nlicense: mit\n", ""),
        ("", ""),
    ],
)
def test_the_licence_is_that_of_the_card(card, licence, tmp_path):
    (tmp_path / "README.md").write_text(card)
    assert models.find_model(str(tmp_path)).licence == licence


def test_a_commit_has_forty_digits():
    assert is_commit(COMMIT)
    assert not is_commit("main")
    assert not is_commit(COMMIT[:-1])
