"""What counts as near an unseen class; its use is tested in `test_auxiliary` and `test_start`."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tcaf.settings.sections import DataSettings, TextSettings
from tcaf.training.unseen import near_unseen

LABELS = ("bell", "drum", "fife")


@pytest.fixture
def words(tiny_store, tmp_path):
    """A table of words whose vectors are far from each other, but for fife."""
    split = tiny_store.split("cls")
    rng = np.random.default_rng(0)
    names = sorted({word for name in split.classes for word in re.findall(r"\w+", name)})
    vectors = {word: rng.normal(size=17) for word in (*names, *LABELS, "played")}
    of_unseen = [vectors[word] for word in re.findall(r"\w+", split.test_unseen[0])]
    vectors["fife"] = np.mean([v / np.linalg.norm(v) for v in of_unseen], axis=0)
    lines = [f"{word} {' '.join(f'{x:.5f}' for x in v)}\n" for word, v in vectors.items()]
    (tmp_path / "words.txt").write_text("".join(lines))
    return TextSettings(source="glove", path=str(tmp_path / "words.txt"))


def near(experiment, text, store):
    data = DataSettings(auxiliary_similarity=0.9)
    asked = replace(experiment, system="textlda", data=data, text=text, options={"num_random": 7})
    return near_unseen(asked, store, LABELS, store)


def test_prompts_make_no_label_near(words, tiny_store, tiny_experiment, tmp_path):
    unseen = tiny_store.split("cls").test_unseen[0]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{'played ' * 40}{{}}\n")
    for text in (words, replace(words, prompts=str(prompts))):
        assert near(tiny_experiment(), text, tiny_store) == {"fife": unseen}


def test_a_space_that_says_nothing_makes_no_label_near(tiny_store, tiny_experiment):
    assert near(tiny_experiment(), TextSettings(source="none"), tiny_store) == {}
