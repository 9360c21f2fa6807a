"""`docs/file-formats.md`: its tables list what files hold, no more and no less."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from doc_pages import ROOT
from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.clips import answer_clips, answer_json, answers_json
from tcaf.answers.ranking import Ranking
from tcaf.answers.recordings import Recording, Span, recordings_json
from tcaf.answers.watch import Arrived, Record
from tcaf.data.parquet import to_parquet
from tcaf.extract.stretches import Cut
from tcaf.files.sealed import seal_json
from tcaf.reports import answer_rows
from tcaf.reports.captions import COLUMNS
from tcaf.reports.results import per_class_csv, table_csv
from tcaf.training.run import Run, train

TEXT = (ROOT / "docs" / "file-formats.md").read_text(encoding="utf-8")


def section(heading):
    return re.split(r"\n#{2,3} ", TEXT.partition(f"# {heading}\n")[2])[0]


def listed(heading):
    """The names in the first column of the table under a heading."""
    rows = re.findall(r"^\| (`.*?) \| ", section(heading), re.M)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


@pytest.fixture(scope="module")
def folder(tiny_store, tiny_experiment, tmp_path_factory):
    place = tmp_path_factory.mktemp("formats")
    train(tiny_experiment(), tiny_store, place / "run")
    return place


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store


def test_the_store(store):
    content = json.loads((store.path / "store.json").read_text())
    assert listed("store.json") == ["format", "version", *list(content)[2:]]
    for key, value in (("spec", content["spec"]), ("shards", content["shards"][0])):
        (row,) = re.findall(rf"^\| `{key}` \|.*$", section("store.json"), re.M)
        assert set(value) <= set(re.findall(r"`(\w+)`", row))
    rest = {key: value for key, value in content.items() if key != "sha256"}
    assert seal_json(rest)["sha256"] == content["sha256"]
    for key in ("format", "version"):
        assert json.dumps(content[key]) in section("store.json")


def test_shards(store, tmp_path):
    with pa.memory_map(str(store.path / "shard-00000.arrow")) as file:
        opened = pa.ipc.open_file(file)
        assert opened.num_record_batches == 1
        assert listed("Shards") == [*opened.schema.names, "labels"]
        assert opened.schema.field("audio").type.value_type.list_size == store.spec.audio_dim
    with safe_open(store.path / "text" / "attributes.safetensors", "numpy") as file:
        names = json.loads(file.metadata()["classes"])
        assert file.get_tensor("embeddings").shape[0] == len(names)
    to_parquet(store.path, tmp_path / "shared")
    content = json.loads((tmp_path / "shared" / "tcaf.json").read_text())
    assert content["format"] == "tcaf-parquet"
    assert set(content["shards"][0]) == {"file", "sha256"}
    assert set(content) == set(listed("store.json"))


def test_a_run(folder):
    run = folder / "run"
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    other = {"checkpoint.safetensors", "process.json"}
    assert set(listed("A run")) == found | other
    config = json.loads((run / "config.json").read_text())
    assert {"seed", "system", "options"} <= set(config)


def test_the_result(folder):
    content = json.loads((folder / "run" / "result.json").read_text())
    assert set(listed("result.json")) == set(content)
    text = section("result.json")
    for key in ("test", "choice"):
        (row,) = re.findall(rf"^\| `{key}` \|.*$", text, re.M)
        assert set(content[key]) <= set(re.findall(r"`(\w+)`", row))
    assert len(content["test"]["reliability"]["share"]) == 15


def test_metrics_and_provenance(folder):
    (first, *_) = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert list(json.loads(first)) == re.findall(r"`(\w+)`", section("metrics.jsonl"))
    origin = Run(folder / "run").provenance
    told = set(re.findall(r"`(\w+)`", section("provenance.json")))
    assert set(origin) <= told
    assert {"clips", "fingerprint", "split", "class_text"} <= set(origin["data"]) & told


def test_predictions(folder):
    table = pq.read_table(folder / "run" / "predictions.parquet")
    assert listed("predictions.parquet") == table.column_names
    header = json.loads(table.schema.metadata[b"tcaf"])
    assert set(header) == {"format", "version", "classes", "seen", "gamma", "clips"}
    assert set(header) <= set(re.findall(r"`(\w+)`", section("predictions.parquet")))
    rows = table.to_pylist()
    for row in rows:
        near = row["nearest_seen" if row["margin"] >= header["gamma"] else "nearest_unseen"]
        assert row["predicted"] == near
    # S and U follow from the file alone.
    result = json.loads((folder / "run" / "result.json").read_text())["test"]
    right = {}
    for row in rows:
        right.setdefault((row["seen"], row["class"]), []).append(row["predicted"] == row["class"])
    for half, score in ((True, "seen"), (False, "unseen")):
        own = [np.mean(each) for (is_seen, _), each in right.items() if is_seen is half]
        assert np.mean(own) == pytest.approx(result[score])


def test_the_model(folder):
    with safe_open(folder / "run" / "model.safetensors", "numpy") as file:
        header = json.loads(file.metadata()["header"])
        names = set(file.keys())
        assert set(file.metadata()) == {"header", "sha256"}
    assert set(listed("A model file")) == set(header)
    assert (header["format"], header["version"]) == ("tcaf-model", 2)
    own = {name for name in names if not name.startswith("model.")}
    assert own == {"text_embedding", "conformity.seen", "conformity.unseen"}
    assert all(name in TEXT for name in own)


def test_tables(folder):
    text = section("A folder of results")
    (row,) = re.findall(r"^\| `table.csv` \|.*$", text, re.M)
    header = table_csv([]).strip().split(",")
    told = re.findall(r"`(\w+)`", row.partition("| ")[2].partition("| ")[2])
    assert [name for name in header if not name.endswith("_std")] == [
        name for name in told if name != "_std"
    ]
    (row,) = re.findall(r"^\| `per_class.csv` \|.*$", text, re.M)
    assert per_class_csv([]).strip().split(",") == re.findall(r"`(\w+)`", row)


def test_answers(folder, store):
    classifier = ZeroShotClassifier.load(folder / "run")
    asked = {"store": store.path, "abstain": 0.5, "why": True}
    found = list(answer_clips(classifier, ["test_unseen"], **asked))
    value = json.loads(json.dumps(answers_json(classifier, found, 0.0, abstain=0.5)))
    assert list(value) == listed("tcaf predict --json")
    (clip, *_) = value["predictions"]
    assert set(clip) == {"id", "answers", "set", "nearest_training"}
    assert set(clip["answers"][0]) == {
        *("rank", "class", "probability", "distance", "seen", "alone")
    }
    names = set(re.findall(r"`(\w+)`", section("tcaf predict --json")))
    assert {*clip, *clip["answers"][0], *clip["nearest_training"][0]} <= names
    assert set(clip["answers"][0]["alone"]["audio"]) == {"distance", "rank"}
    assert set(answer_rows.columns(sets=True, reasons=True)) <= names
    assert answer_json(found[0]) == found[0].ranking.to_json()


def test_recordings_and_the_record(folder, store, tmp_path):
    classifier = ZeroShotClassifier.load(folder / "run")
    ranking = classifier.classify_store(store, store.rows("cls", "test_unseen")[:1], top_k=1)[0]
    assert isinstance(ranking, Ranking)
    span = Span("a.mp4", 0.0, 10.0, "answer", ranking, 0.5, 0.25)
    told = set(re.findall(r"`(\w+)`", section("Recordings")))
    assert set(COLUMNS) | set(span.to_json()) <= told
    recording = Recording(tmp_path / "a.mp4", 10.0, 1)
    value = recordings_json(classifier, Cut(10.0), [span, recording], 0.0, None)
    assert set(value) | set(value["recordings"][0]) <= told
    file = tmp_path / "a.mp4"
    file.write_bytes(b"a")
    with Record.open(tmp_path / ".tcaf-watch.jsonl", tmp_path, {"model": "run"}) as record:
        record.add(Arrived.of(file), {"id": "a.mp4"})
    first, line = map(json.loads, (tmp_path / ".tcaf-watch.jsonl").read_text().splitlines())
    assert list(first) == ["format", "version", "asked"]
    assert (first["format"], first["version"]) == ("tcaf-watch", 1)
    assert list(line) == ["file", "bytes", "mtime_ns", "answers"]
    assert set(line) <= set(re.findall(r"`(\w+)`", section("The record of a watched folder")))
