"""Commands that read a store, a run or clips take their address; none writes to one."""

import csv
import io
import json
from pathlib import Path

import pytest

from tcaf.commands import entry as cli
from tcaf.data.parquet import to_parquet
from tcaf.data.store import FeatureStore
from tcaf.extract.backbones import BACKBONES
from write_clip_run import COLOURS, write_clip, write_run

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("av")


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_experiment):
    """A store, the same in Parquet, a run, and clips."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_run(folder, tiny_experiment(training={"epochs": 1, "batches_per_epoch": 3}))
    to_parquet(folder / "store", folder / "parquet")
    (folder / "media" / "deep").mkdir(parents=True)
    write_clip(folder / "media" / "both.mp4")
    write_clip(folder / "media" / "deep" / "silent.mp4", sound=False, colour=(10, 240, 30))
    (folder / "media" / "broken.mp4").write_text("no film")
    return folder


@pytest.fixture
def bucket(world, tmp_path, monkeypatch, quick):
    """The address of the world, elsewhere; this machine has an empty cache and another folder."""
    monkeypatch.setitem(BACKBONES, "colours", COLOURS)
    monkeypatch.setenv("TCAF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    for variable in ("TCAF_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    filesystem = fsspec.filesystem("memory")
    for path in world.rglob("*"):
        if path.is_file():
            filesystem.pipe(f"/bucket/{path.relative_to(world).as_posix()}", path.read_bytes())
    yield "memory://bucket"
    filesystem.rm("/bucket", recursive=True)


@pytest.fixture
def tcaf(capsys):
    """Runs a command; returns its exit status, standard output and standard error."""

    def run(*arguments):
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


def without_paths(text):
    value = json.loads(text)
    return {name: one for name, one in value.items() if name not in ("path", "run", "store")}


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "{}/store"),
        ("evaluate", "{}/run", "--store", "{}/store"),
        ("predict", "{}/run", "test", "--store", "{}/store"),
        ("store", "from-parquet", "{}/parquet", "--out", "made"),
        ("store", "embed", "{}/run", "--store", "{}/store", "--out", "made"),
        ("settings", "--store", "{}/store"),
    ],
)
def test_answers_are_those_of_a_folder(tcaf, world, bucket, tmp_path, monkeypatch, words):
    found = {}
    for root in (str(world), bucket):
        place = tmp_path / f"of_{len(found)}"
        place.mkdir()
        monkeypatch.chdir(place)
        status, found[root], error = tcaf(*(word.format(root) for word in words), "--json")
        assert (status, error) == (0, "")
    assert without_paths(found[bucket]) == without_paths(found[str(world)])


@pytest.mark.slow
def test_clips_are_called_by_their_address(tcaf, world, bucket):
    asked = ("predict", f"{bucket}/run", f"{bucket}/media", "--csv")
    status, output, error = tcaf(*asked)
    assert status == 2
    names = list(dict.fromkeys(row["file"] for row in csv.DictReader(io.StringIO(output))))
    assert names == [f"{bucket}/media/both.mp4", f"{bucket}/media/deep/silent.mp4"]
    assert f"no answer for {bucket}/media/broken.mp4: " in error
    _, here, _ = tcaf("predict", world / "run", world / "media", "--csv")
    assert output == here.replace(str(world), bucket)


@pytest.mark.filterwarnings("ignore:.*the store has no split")
@pytest.mark.slow  # with a real network
def test_a_store_of_clips_elsewhere(tcaf, bucket, tmp_path):
    """The same command goes on, and what is fetched is no part of what the store says."""
    backbones = ("--audio", "logmel", "--visual", "efficientnet_lite0:frames=1")
    asked = ("prepare", "videos", f"{bucket}/media", *backbones, "--out", "store", "--json")
    status, _, error = tcaf(*asked, "--workers", "1")
    assert status == 0, error
    store = FeatureStore.open(Path("store"))
    assert store.ids == ["both.mp4", "deep/silent.mp4"]
    assert store.source["folder"] == f"{bucket}/media"
    assert str(tmp_path) not in (Path("store") / "store.json").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--store", "{}/store", "--out", "s3://b/run"),
        ("reproduce", "--table", "1", "--store", "{}/store", "--out", "s3://b/table"),
        ("prepare", "videos", "{}/media", "--out", "s3://b/store"),
        ("prepare", "synthetic", "--out", "s3://b/store"),
        ("store", "to-parquet", "{}/store", "--out", "s3://b/p"),
        ("store", "embed", "{}/run", "--store", "{}/store", "--out", "s3://b/p"),
        ("report", "{}/run", "--out", "s3://b/report.html"),
        ("render", "--out", "s3://b/videos"),
        ("predict", "{}/run", "{}/media", "--every", "2", "--out", "s3://b/a.csv"),
    ],
)
def test_nothing_is_written_elsewhere(tcaf, world, bucket, words):
    status, output, error = tcaf(*(word.format(world) for word in words))
    assert (status, output) == (2, "")
    assert error.startswith("tcaf: cannot write to s3://b/")
    assert error.endswith("name a folder here, and copy it when it is done\n")
    assert not list(Path.cwd().iterdir())
