"""Class text in several spaces: rows by class, what a model is given, and the file of a run."""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch

from tcaf.data.store import read_text_embeddings
from tcaf.errors import TCAFError
from tcaf.files.sealed import UnsealedWarning, write_sealed
from tcaf.settings.sections import TextSettings
from tcaf.text.candidates import RunClasses
from tcaf.text.spaces import ClassText, read_class_text, write_class_text
from write_words import write_glove

NAMES = ("ant", "bee", "cow")
WORDS = torch.arange(6.0).reshape(3, 2)
CLIP = torch.arange(15.0).reshape(3, 5)


@pytest.fixture
def text():
    return ClassText({"text": WORDS, "clip": CLIP})


def test_it_is_a_mapping_from_space_to_matrix(text):
    assert list(text) == ["text", "clip"]
    assert text.dims == {"text": 2, "clip": 5}
    assert torch.equal(text["clip"], CLIP)


def test_classes_are_selected_in_all_spaces(text):
    for rows in ([2, 0, 2], np.array([2, 0, 2]), torch.tensor([2, 0, 2])):
        found = text.select(rows)
        assert torch.equal(found["text"], torch.tensor([[4.0, 5], [0, 1], [4, 5]]))
        assert torch.equal(found["clip"], CLIP[[2, 0, 2]])


def test_a_model_is_given_a_single_matrix_bare(text):
    assert text.model_input is text
    for name in ("text", "clip"):
        assert ClassText({name: CLIP}).model_input is CLIP


def test_names_choose_rows_in_each_space(text):
    vectors = text.by_name(NAMES)
    found = ClassText.of(vectors, ["cow", "ant"])
    assert torch.equal(found["text"], WORDS[[2, 0]])
    assert torch.equal(found["clip"], CLIP[[2, 0]])
    del vectors["clip"]["bee"]
    with pytest.raises(TCAFError, match=r"^text space 'clip': class 'bee' has no text embedding$"):
        ClassText.of(vectors, NAMES)
    # Of the section text alone nobody speaks of spaces.
    with pytest.raises(TCAFError, match=r"^class 'dog' has no text embedding$"):
        ClassText.of({"text": vectors["text"]}, ["dog"])


@pytest.mark.parametrize(
    ("spaces", "found"),
    [({}, "got none"), ({"text": WORDS, "clip": CLIP[:2]}, "got 3 in 'text', 2 in 'clip'")],
)
def test_other_classes_in_each_space(spaces, found):
    with pytest.raises(TCAFError, match=f"expected the same classes in each text space, {found}"):
        ClassText(spaces)


def test_a_file_comes_back(text, tmp_path):
    path = tmp_path / "text" / "classes.safetensors"
    write_class_text(path, text, NAMES)
    found = read_class_text(path)
    assert set(found) == {"text", "clip"}
    for space, matrix in text.items():
        assert list(found[space]) == list(NAMES)
        np.testing.assert_array_equal(list(found[space].values()), matrix)


def test_the_space_of_old_files_is_text(tmp_path):
    path = tmp_path / "old.safetensors"
    header = {"classes": json.dumps(NAMES)}
    safetensors.numpy.save_file({"embeddings": WORDS.numpy()}, path, header)
    with pytest.warns(UnsealedWarning, match="hold no digest"):
        found = read_class_text(path)
    assert set(found) == {"text"}
    np.testing.assert_array_equal(found["text"]["bee"], [2, 3])
    # And a new one of that space alone is as old ones are.
    write_class_text(path, ClassText({"text": WORDS}), NAMES)
    assert list(safetensors.numpy.load_file(path)) == ["embeddings"]
    np.testing.assert_array_equal(read_text_embeddings(path)["cow"], [4, 5])


@pytest.mark.parametrize("tensors", [{"other": WORDS}, {"embeddings": WORDS[:2]}])
def test_a_file_of_something_else(tensors, tmp_path):
    path = tmp_path / "t.safetensors"
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    write_sealed(path, safetensors.numpy.save(arrays, {"classes": json.dumps(NAMES)}))
    with pytest.raises(TCAFError, match=f"text embeddings {path} are damaged"):
        read_class_text(path)


@pytest.fixture
def classes(tmp_path):
    """Classes of a run that reads two spaces of different sources."""
    table = tmp_path / "table.csv"
    table.write_text("class,a,b\nflute,3,4\npiano,1,1\n")
    words = write_glove(tmp_path / "words.txt")
    settings = {
        "text": TextSettings("attributes", path=str(table), normalise=False),
        "words": TextSettings("glove", path=str(words), normalise=False),
    }
    own = {"Bach": np.array([5, 6], np.float32)}, {"Bach": np.array([0, 0, 2], np.float32)}
    return RunClasses(settings, dict(zip(settings, own, strict=True)), None)


def test_new_names_are_embedded_in_each_space_by_its_source(classes):
    found = classes.embed(["flute", "bach"])
    assert found.known == (None, "Bach")
    np.testing.assert_array_equal(found.text["text"], [[3, 4], [5, 6]])
    np.testing.assert_array_equal(found.text["words"], [[0, 1, 0], [0, 0, 2]])


@pytest.mark.parametrize(
    ("names", "phrases", "message"),
    [
        (["playing"], None, "^text space 'text': the run knows no class 'playing'"),
        (["piano"], None, "^text space 'words': .*piano"),
        (["flute"], {"flute": ["Paris"]}, "^text space 'text': .* embeds no phrases"),
    ],
)
def test_what_a_space_lacks_is_said_of_it(classes, names, phrases, message):
    with pytest.raises(TCAFError, match=message):
        classes.embed(names, phrases)
