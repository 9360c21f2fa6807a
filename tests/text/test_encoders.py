"""The text of CLIP and CLAP; sentence encoders are tested through `class_text`."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.pretrained.aligned_model import load_aligned
from tcaf.settings.sections import TextSettings
from tcaf.text import encoders
from tcaf.text.class_text import embed_classes, open_text_source
from tcaf.text.encoders import AlignedEncoder
from write_aligned import CLAP_AUDIO

PHRASES = ["dog barks", "a", "a dog plays the longest piano", "Dog"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_LEN = 11


def clip_tokenizer():
    """Knows letters, letters that end a word, and two pairs."""
    from transformers import CLIPTokenizer

    units = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "do", "dog</w>"]
    vocab = {unit: i for i, unit in enumerate([*units, "<|startoftext|>", "<|endoftext|>"])}
    merges = [("d", "o"), ("do", "g</w>")]
    return CLIPTokenizer(vocab=vocab, merges=merges), len(vocab)


def clap_tokenizer():
    """Knows letters, of which `Ġ` stands for a space, and three pairs."""
    from transformers import RobertaTokenizer

    units = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<mask>",
        *LETTERS,
        "D",
        "\u0120",
        "do",
        "dog",
        "\u0120a",
    ]
    vocab = {unit: i for i, unit in enumerate(units)}
    merges = [("d", "o"), ("do", "g"), ("\u0120", "a")]
    return RobertaTokenizer(vocab=vocab, merges=merges), len(vocab)


def spread(model):
    """Gives a model weights so large that its embeddings depend on every token."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.5)
    return model.eval()


@pytest.fixture(scope="module", params=["clip", "clap"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    import transformers

    torch.manual_seed(0)
    tokenizer, vocab_size = (clip_tokenizer if family == "clip" else clap_tokenizer)()
    text = {
        "hidden_size": 14,
        "intermediate_size": 19,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": vocab_size,
    }
    if family == "clip":
        config = transformers.CLIPConfig(
            projection_dim=13,
            text_config={
                **text,
                "max_position_embeddings": MAX_LEN,
                "bos_token_id": vocab_size - 2,
                "eos_token_id": vocab_size - 1,
                "pad_token_id": vocab_size - 1,
            },
            vision_config={
                "hidden_size": 6,
                "intermediate_size": 7,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 10,
                "patch_size": 5,
            },
        )
        return spread(transformers.CLIPModel(config)), tokenizer
    config = transformers.ClapConfig(
        projection_dim=13,
        # Positions 0 and 1 are those of padding.
        text_config={**text, "max_position_embeddings": MAX_LEN + 2, "pad_token_id": 1},
        audio_config=CLAP_AUDIO,
    )
    return spread(transformers.ClapModel(config)), tokenizer


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    for part in model:
        part.save_pretrained(path)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def encoder(folder):
    return AlignedEncoder(folder, None, "the model")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_encoder_gives_what_transformers_gives(model, encoder):
    whole, tokenizer = model
    tokens = tokenizer(PHRASES[:2], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = whole.get_text_features(**tokens)
    expected = getattr(expected, "pooler_output", expected).numpy()
    result = encoder.embed(PHRASES[:2])
    assert result.shape == (2, 13)
    assert result.dtype == np.float32
    assert encoder.dim == 13
    # CLAP's method returns them at length 1, CLIP's as they are.
    np.testing.assert_allclose(unit(result), unit(expected), atol=1e-5)
    assert np.abs(unit(result)[0] - unit(result)[1]).max() > 0.1


def test_the_company_of_a_phrase_does_not_change_it(encoder, monkeypatch):
    together = encoder.embed(PHRASES)
    alone = np.concatenate([encoder.embed([phrase]) for phrase in PHRASES])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    monkeypatch.setattr(encoder, "batch_size", 3)
    np.testing.assert_allclose(encoder.embed(PHRASES), together, atol=1e-5)
    assert encoder.embed([]).shape == (0, 13)


def test_a_long_phrase_is_cut_where_the_model_ends(encoder):
    # Two of the positions are taken by the tokens of start and end.
    fits, long, shorter = encoder.embed([" a" * (MAX_LEN - 2), " a" * 100, " a" * (MAX_LEN - 3)])
    np.testing.assert_allclose(long, fits, atol=1e-6)
    assert not np.allclose(fits, shorter, atol=1e-4)


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "part.safetensors"])
def test_a_list_of_weights_names_files_of_its_folder(copy, shard):
    (copy / "model.safetensors").rename(copy / shard)
    named = dict.fromkeys(load_file(copy / shard), shard)
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": named}))
    if shard == "part.safetensors":
        load_aligned(copy)
        return
    with pytest.raises(TCAFError, match=r"names of files in this folder, found '\.\./else"):
        load_aligned(copy)


def test_half_precision_is_computed_in_single(copy):
    path = copy / "model.safetensors"
    halved = {k: v.half() for k, v in load_file(path).items() if v.is_floating_point()}
    rest = {k: v for k, v in load_file(path).items() if not v.is_floating_point()}
    save_file({**rest, **{k: v.float() for k, v in halved.items()}}, path, {"format": "pt"})
    expected = AlignedEncoder(copy, None, "x").embed(PHRASES)
    save_file({**rest, **halved}, path, {"format": "pt"})
    told = (copy / "config.json").read_text()
    (copy / "config.json").write_text(told.replace('"float32"', '"float16"'))
    result = AlignedEncoder(copy, None, "x").embed(PHRASES)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_loading_says_nothing_and_leaves_settings_alone(folder, capfd, caplog):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    AlignedEncoder(folder, None, "x").embed(PHRASES)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


# Folders that will not do


def refuse(folder, match):
    with pytest.raises(TCAFError, match=match) as error:
        open_text_source(TextSettings(source="hf", path=str(folder)))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    refuse(tmp_path, r"^expected the folder of a transformers model at .*, found no config\.json")
    (tmp_path / "config.json").write_text("[]")
    refuse(tmp_path, "expected the settings of a model, with model_type")
    (tmp_path / "config.json").write_text("{")
    refuse(tmp_path, "damaged")


def test_absent_and_damaged_weights_are_told(copy):
    path = copy / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    refuse(copy, "^expected model.safetensors in .*, found none")
    path.write_bytes(content[:1009])
    refuse(copy, "the model in .* does not load")


def test_weights_that_are_not_there_are_never_made_up(copy):
    path = copy / "model.safetensors"
    state = load_file(path)
    name = next(k for k in sorted(state) if "text_projection" in k and k.endswith("weight"))
    save_file({**state, name: state[name][:, :-1].contiguous()}, path, {"format": "pt"})
    refuse(copy, f"or of another shape than config.json says, for '{name}'")
    del state[name]
    save_file(state, path, {"format": "pt"})
    refuse(copy, f"no weights.* for '{name}'")


def test_absent_and_foreign_tokenizers_are_told(copy):
    path = copy / "tokenizer.json"
    told = json.loads(path.read_text())
    token = {**told["added_tokens"][0], "id": 1009, "content": "<more>"}
    path.write_text(json.dumps({**told, "added_tokens": [*told["added_tokens"], token]}))
    refuse(copy, r"has \d+ tokens, the model \d+; they do not belong together")
    path.write_text("{")
    refuse(copy, "the tokenizer in .* does not load")
    path.unlink()
    refuse(copy, r"expected a tokenizer in .*, found no tokenizer\.json")


def test_code_that_comes_with_a_model_is_not_run(copy):
    (copy / "evil.py").write_text("open('ran', 'w')\nraise SystemExit\n")
    for name, classes in (
        ("config.json", {"AutoConfig": "evil.C", "AutoModel": "evil.M"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.T", None]}),
    ):
        told = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps({**told, "auto_map": classes}))
    source = open_text_source(TextSettings(source="hf", path=str(copy)))
    assert source.embed(["a"]).shape == (1, 13)


def test_the_missing_package_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    refuse(folder, r"^transformers is not installed; pip install 'tcaf\[hub\]'$")


# As a source of class embeddings


def test_embeddings_of_classes_are_kept_with_the_store(copy, encoder, tmp_path, monkeypatch):
    with new_store(tmp_path / "store", FeatureSpec(3, 5, 1.0, 1.0, "a", "v")) as writer:
        writer.add(VideoFeatures("clip", np.ones((2, 3)), np.ones((2, 5)), "dog"))
    store = FeatureStore.open(tmp_path / "store")
    settings = TextSettings(source="hf", path=str(copy))
    first = embed_classes(settings, ["dog", "a"], store)
    np.testing.assert_allclose(first, unit(encoder.embed(["dog", "a"])), atol=1e-6)

    def refuse(*args):
        raise AssertionError("the model was loaded again")

    with monkeypatch.context() as patch:
        patch.setattr(encoders, "load_aligned", refuse)
        np.testing.assert_array_equal(embed_classes(settings, ["a", "dog"], store), first[::-1])
        # A copy of the same content is the same model; of another content it is another, whatever
        # its size and the time of its last writing say.
        weights = copy / "model.safetensors"
        os.utime(weights, (0, 0))
        np.testing.assert_array_equal(embed_classes(settings, ["dog", "a"], store), first)
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(weights, (0, 0))
        with pytest.raises(AssertionError, match="again"):
            embed_classes(settings, ["a", "dog"], store)
