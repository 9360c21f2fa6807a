"""Stores of what a run makes of clips: by which weights, of which clips, and that one can train."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tcaf.data.batches import load_batch
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.files.sealed import SEAL, seal_json
from tcaf.training.embed import embed_store
from tcaf.training.model_file import load_model
from tcaf.training.run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_store, tiny_experiment):
    path = tmp_path_factory.mktemp("embed") / "run"
    train(tiny_experiment(training={"epochs": 2}), tiny_store, path)
    return path


@pytest.fixture(scope="module")
def made(run, tiny_store):
    return embed_store(run, tiny_store, run.parent / "made")


def test_each_clip_is_its_embedding_by_the_weights_of_stage_1(run, tiny_store, made):
    rows = np.arange(len(tiny_store))[::7]
    batch = load_batch(tiny_store, rows, Windows())
    first, last = (load_model(run / n).model for n in ("stage_1.safetensors", "model.safetensors"))
    with torch.inference_mode():
        expected, other = (model(batch).video_embedding for model in (first, last))
    found = load_batch(made, rows, Windows())
    assert found.audio.lens.tolist() == [0] * len(rows)
    assert found.visual.lens.tolist() == [1] * len(rows)
    torch.testing.assert_close(found.visual.tokens, expected)
    assert not torch.allclose(expected, other)


def test_all_else_is_as_it_was(tiny_store, made):
    for name in ("ids", "splits", "phrases", "left_out", "text_names"):
        assert getattr(made, name) == getattr(tiny_store, name)
    assert (made.class_names == tiny_store.class_names).all()
    assert (made.parts == tiny_store.parts).all()
    assert made.source["kind"] == tiny_store.source["kind"]
    assert made.source["embedded"] == tiny_store.fingerprint
    kept, given = made.text("attributes"), tiny_store.text("attributes")
    assert kept.keys() == given.keys()
    assert all((kept[name] == given[name]).all() for name in kept)


@pytest.mark.slow
def test_a_closed_form_is_fitted_on_it(made, tiny_experiment, tmp_path):
    experiment = tiny_experiment(training={"epochs": 3}, evaluation={"gamma_grid": "margins"})
    result = train(replace(experiment, system="textlda"), made, tmp_path / "run")
    assert 0 <= result["test"]["harmonic_mean"] <= 1
    assert load_model(tmp_path / "run").model.read_out("visual").dim == made.spec.visual_dim


def test_other_clips_may_have_been_learnt_from(run, tiny_store, made, tmp_path):
    with pytest.raises(TCAFError, match=r"other clips or splits than .*run was trained on"):
        embed_store(run, made, tmp_path / "other")
    # The same clips, of which others are for the test.
    copy = tmp_path / "copy"
    shutil.copytree(tiny_store.path, copy)
    manifest = json.loads((copy / "store.json").read_text())
    del manifest[SEAL]
    cls = manifest["splits"]["cls"]
    cls["val_unseen"], cls["test_unseen"] = cls["test_unseen"], cls["val_unseen"]
    (copy / "store.json").write_text(json.dumps(seal_json(manifest)))
    with pytest.raises(TCAFError, match=r"other clips or splits than .*run was trained on"):
        embed_store(run, FeatureStore.open(copy), tmp_path / "other")
    assert not (tmp_path / "other").exists()
