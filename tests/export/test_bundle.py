"""What an export writes, that the example without torch runs on it, and what is refused."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tcaf import ZeroShotClassifier
from tcaf.commands import entry as cli
from tcaf.errors import TCAFError
from tcaf.export import bundle
from tcaf.export.bundle import check_out, export_model, kind_of
from tcaf.training.run import train
from write_trained import SPEC, write_trained

EXAMPLE = Path(__file__).parents[2] / "examples" / "classify_without_torch.py"


@pytest.fixture(scope="module")
def run(tiny_store, tiny_experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "run"
    train(tiny_experiment(system="ridge", training={"epochs": 2}), tiny_store, out)
    return out


@pytest.fixture(scope="module")
def names(run):
    return ZeroShotClassifier.load(run).classes


@pytest.fixture(scope="module")
def out(run, names, tmp_path_factory):
    """An export of seven classes, by the command, with three further names beside it."""
    folder = tmp_path_factory.mktemp("export")
    words = folder / "names.txt"
    words.write_text("\n".join(names[7:10]), encoding="utf-8")
    some = folder / "some.txt"
    some.write_text("\n".join(names[:7]), encoding="utf-8")
    out = folder / "made" / "model.onnx"
    line = ["export", str(run), str(out), "--classes_file", str(some), "--vocabulary", str(words)]
    assert cli.main(line) == 0
    return out


@pytest.mark.slow
def test_the_files(out, names):
    assert sorted(each.name for each in out.parent.iterdir()) == [
        *("classes.json", "model.onnx", "text.onnx", "vocabulary.json")
    ]
    known = json.loads((out.parent / "classes.json").read_text(encoding="utf-8"))
    assert known["names"] == list(names[:7])
    assert known["features"]["audio"] == {
        "backbone": "synthetic_audio",
        "dim": 5,
        "step_s": 0.96,
    }
    for name, digest in known["sha256"].items():
        assert hashlib.sha256((out.parent / name).read_bytes()).hexdigest() == digest
    assert set(known["sha256"]) == {"model.onnx", "text.onnx", "vocabulary.json"}


@pytest.mark.slow
@pytest.mark.parametrize("without", [None, "audio", "visual"])
def test_the_example_answers_as_the_model(out, run, names, tiny_store, without, tmp_path):
    video = tiny_store[int(tiny_store.rows("cls", "test")[3])]
    arrays = {m: video.tokens(m) for m in ("audio", "visual") if m != without}
    np.savez(tmp_path / "clip.npz", **arrays)
    command = [sys.executable, EXAMPLE, out, tmp_path / "clip.npz", "--add", *names[8:10]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    classifier = ZeroShotClassifier.load(run)
    classifier.set_classes([*names[:7], *names[8:10]])
    cut = {m: arrays.get(m, np.zeros((0, SPEC.dim(m)), np.float32)) for m in ("audio", "visual")}
    # A class that is added counts as unseen; so does none of the model's own here.
    classifier._seen = [column for column in classifier.seen_columns if column < 7]
    (wanted,) = classifier.classify([type(video)(video.id, **cut)], top_k=5)
    told = [line.split("  ") for line in done.stdout.splitlines()]
    assert [line[1] for line in told] == [answer.name for answer in wanted.answers]
    for line, answer in zip(told, wanted.answers, strict=True):
        assert float(line[0]) == pytest.approx(answer.probability, abs=1e-4)
    assert "torch" not in EXAMPLE.read_text(encoding="utf-8").replace("without_torch", "")


@pytest.mark.slow
def test_one_export_a_folder(out, run, capsys):
    before = {each.name: each.read_bytes() for each in out.parent.iterdir()}
    for other, told in (
        (out, "exists already; name another place or pass --overwrite"),
        (out.with_name("other.onnx"), "holds the export 'model.onnx' already"),
        (out.with_name("text.onnx"), "is the name of the text side"),
        (out.with_name("model.bin"), "expected a file that ends in .onnx or .pt2"),
    ):
        assert cli.main(["export", str(run), str(other)]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert before == {each.name: each.read_bytes() for each in out.parent.iterdir()}


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "classes.json").write_text('["mine"]', encoding="utf-8")
    with pytest.raises(TCAFError, match=r"classes\.json exists already and is of no export"):
        check_out(tmp_path / "model.onnx", overwrite=True)


def test_nothing_is_half_written(tmp_path, monkeypatch, tiny_experiment):
    classifier = ZeroShotClassifier(write_trained("aligned", tiny_experiment()))
    monkeypatch.setattr(bundle, "model_graph", lambda *_: b"model")
    monkeypatch.setattr(bundle, "text_graph", lambda *_: b"text")
    write = Path.write_bytes

    def fail(path, content):
        if "classes" in path.name:
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        export_model(classifier, tmp_path / "made" / "model.pt2")
    assert list((tmp_path / "made").iterdir()) == []


def test_an_export_is_replaced_when_asked(tmp_path, monkeypatch, tiny_experiment):
    classifier = ZeroShotClassifier(write_trained("aligned", tiny_experiment()))
    monkeypatch.setattr(bundle, "model_graph", lambda *_: b"model")
    monkeypatch.setattr(bundle, "text_graph", lambda *_: b"text")
    out = tmp_path / "model.pt2"
    export_model(classifier, out, vocabulary=classifier.known[:2])
    words = json.loads((tmp_path / "vocabulary.json").read_text(encoding="utf-8"))
    assert words["names"] == list(classifier.known[:2])
    classifier.set_classes(["owl hooting"])
    made = export_model(classifier, out, overwrite=True)
    assert not (tmp_path / "vocabulary.json").exists()
    known = json.loads((tmp_path / "classes.json").read_text(encoding="utf-8"))
    assert (known["names"], known["seen"]) == (["owl hooting"], [False])
    assert (made.model, out.read_bytes()) == ("model.pt2", b"model")


def test_numbers_come_back_as_they_were(tmp_path, monkeypatch, tiny_experiment):
    """Decimal digits of float32 are enough."""
    classifier = ZeroShotClassifier(write_trained("ridge", tiny_experiment()))
    monkeypatch.setattr(bundle, "model_graph", lambda *_: b"model")
    monkeypatch.setattr(bundle, "text_graph", lambda *_: b"text")
    export_model(classifier, tmp_path / "model.pt2")
    known = json.loads((tmp_path / "classes.json").read_text(encoding="utf-8"))
    found = np.array(known["class_embedding"], np.float32)
    assert (found == classifier.class_embedding.numpy()).all()
    text = np.array(known["text_embedding"]["text"], np.float32)
    assert (text == classifier.class_text["text"].numpy()).all()


def test_several_models_are_refused(run, tmp_path, capsys):
    assert (
        cli.main(["export", f"{run}+{run / 'model.safetensors'}", str(tmp_path / "model.pt2")]) == 2
    )
    assert "several models that answer together cannot be exported" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_brings_no_torch():
    code = (
        "import sys; from tcaf.commands.entry import main\n"
        "try: main(['export', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--vocabulary" in done.stdout


def test_suffixes(tmp_path):
    assert [kind_of(tmp_path / name) for name in ("a.onnx", "a.ONNX", "b.pt2")] == [
        *("onnx", "onnx", "pt2")
    ]
