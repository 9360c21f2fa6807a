"""Writing to a place that is taken: what is said, and that following it to the letter works."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tcaf.commands import entry
from tcaf.training.run import Run


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_store, tiny_experiment, toml):
    """A folder with a store, a configuration and a finished run."""
    folder = tmp_path_factory.mktemp("places")
    shutil.copytree(tiny_store.path, folder / "store")
    training = {"epochs": 1, "batches_per_epoch": 1}
    toml(folder / "tiny.toml", tiny_experiment(training=training))
    arguments = ("train", "--config", folder / "tiny.toml", "--store", folder / "store")
    assert entry.main([str(each) for each in (*arguments, "--out", folder / "run")]) == 0
    return folder


@pytest.fixture
def refused(capsys):
    """Runs a command that fails and returns what it says."""

    def run(*arguments):
        capsys.readouterr()
        status = entry.main([str(each) for each in arguments])
        output = capsys.readouterr()
        assert (status, output.out) == (2, "")
        return output.err

    return run


def works(*arguments):
    assert entry.main([str(each) for each in arguments]) == 0


@pytest.fixture
def stranger(tmp_path):
    """A folder with somebody's file in it, which has to stay."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "diary.txt").write_text("dear diary")
    yield folder
    assert [each.name for each in folder.iterdir()] == ["diary.txt"]


def synthetic(world):
    return ("prepare", "synthetic", "--clips_per_class", "20", "--relations", "together")


def to_parquet(world):
    return ("store", "to-parquet", world / "store")


def from_parquet(world):
    folder = world / "parquet"
    if not folder.exists():
        works(*to_parquet(world), "--out", folder)
    return ("store", "from-parquet", folder)


def embed(world):
    return ("store", "embed", world / "run", "--store", world / "store")


REPLACING = {
    synthetic: "feature store",
    to_parquet: "Parquet folder of tcaf",
    from_parquet: "feature store",
    embed: "feature store",
}


@pytest.mark.parametrize("command", REPLACING)
def test_a_folder_of_the_kind_can_be_replaced(command, world, tmp_path, refused):
    arguments = (*command(world), "--out", tmp_path / "out")
    works(*arguments)
    error = refused(*arguments)
    assert f"holds a {REPLACING[command]} already; name another place or pass --overwrite" in error
    works(*arguments, "--overwrite")
    works(*command(world), "--out", tmp_path / "another")


@pytest.mark.parametrize("command", REPLACING)
def test_a_folder_of_another_kind_cannot(command, world, stranger, refused):
    for more in ((), ("--overwrite",)):
        error = refused(*command(world), "--out", stranger, *more)
        assert f"exists already and is no {REPLACING[command]}; name another place" in error
        assert "--overwrite" not in error


@pytest.mark.parametrize("command", REPLACING)
def test_an_empty_folder_is_no_hindrance(command, world, tmp_path):
    (tmp_path / "out").mkdir()
    works(*command(world), "--out", tmp_path / "out")


def train(world):
    return ("train", "--config", world / "tiny.toml", "--store", world / "store")


@pytest.mark.slow
def test_a_run_is_carried_on_or_another(world, tmp_path, refused):
    shutil.copytree(world / "run", tmp_path / "run")
    arguments = (*train(world), "--out", tmp_path / "run")
    error = refused(*arguments)
    assert "holds a run already; carry on with --resume, or name another place with --out" in error
    assert "--overwrite" not in error
    works(*arguments, "--resume")
    works(*train(world), "--out", tmp_path / "another")


@pytest.mark.slow
def test_a_folder_that_holds_no_run_is_left_alone(world, tmp_path, stranger, refused):
    for more in ((), ("--resume",)):
        error = refused(*train(world), "--out", stranger, *more)
        assert f"{stranger} holds 'diary.txt' and no run; name another place with --out" in error
    (tmp_path / "file").write_text("mine")
    error = refused(*train(world), "--out", tmp_path / "file")
    assert "file exists already and is no folder; name another place" in error
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    works(*train(world), "--out", tmp_path / "empty")
    assert Run(tmp_path / "empty").result is not None


def test_videos_are_refused_before_hours_go_into_them(world, tmp_path, stranger, refused):
    (tmp_path / "clips" / "cats").mkdir(parents=True)
    (tmp_path / "clips" / "cats" / "a.mp4").touch()
    arguments = ("prepare", "videos", tmp_path / "clips", "--out")
    assert "holds a feature store already; name another place or pass --overwrite" in refused(
        *arguments, world / "store"
    )
    for more in ((), ("--overwrite",)):
        assert "is no feature store; name another place" in refused(*arguments, stranger, *more)
    both = refused(*arguments, world / "store", "--overwrite", "--append")
    assert "leave out --overwrite or --append" in both


def test_a_rendered_world_likewise(tmp_path, stranger, refused):
    pytest.importorskip("av")
    sizes = ("--looks", "3", "--sounds", "1", "--relations", "together", "--clips_per_class", "20")
    for more in ((), ("--overwrite",)):
        error = refused("render", *sizes, "--out", stranger, *more)
        assert "exists already and is no rendered world; name another place" in error
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "world.json").write_text("{}")
    error = refused("render", *sizes, "--out", tmp_path / "world")
    assert "holds a rendered world already; name another place or pass --overwrite" in error


@pytest.fixture
def places(tmp_path):
    """Places at which neither a folder nor a picture can be made, and what is said of each."""
    file, link, circle, pipe = (tmp_path / f"{n}.png" for n in ("file", "link", "circle", "pipe"))
    file.write_text("mine")
    link.symlink_to(file)
    circle.symlink_to(circle)
    os.mkfifo(pipe)
    taken = "exists already and is no |is no folder; name another place"
    yield {
        file: taken,
        link: taken,
        circle: "circle.png is a link that leads in a circle; name another place",
        pipe: f"{taken}|expected a file to write to",
        file / "a" / "b.png": f"cannot make .*b.png.*: {file} is no folder; name another place",
    }
    assert file.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [circle, file, link, pipe]


def reproduce(world):
    (world / "ridge.toml").write_text('[training]\nepochs = 1\ndevice = "cpu"\n')
    arguments = ("reproduce", "--table", "1", "--store", world / "store", "--seeds", "0")
    return (*arguments, "--models", "ridge", "--config", world / "ridge.toml")


def report(world):
    return ("report", world / "run")


@pytest.mark.parametrize("command", [*REPLACING, train, reproduce, report])
def test_places_that_cannot_be_written_to(command, world, places, refused):
    arguments = command(world)
    for place, said in places.items():
        error = refused(*arguments, "--out", place)
        assert re.search(said, error), error
        assert error.count("\n") == 1


@pytest.mark.slow
def test_a_folder_of_runs_cannot_be_anywhere_either(world, places, refused):
    for place, said in places.items():
        error = refused(*reproduce(world), "--out", world / "none", "--runs", place)
        assert re.search(said, error), error
    assert not (world / "none").exists()


def test_a_picture_cannot_be_anywhere_either(world, places, refused):
    pytest.importorskip("matplotlib")
    for place, said in places.items():
        error = refused("predict", world / "run", "test", "--store", world, "--timeline", place)
        assert re.search(said, error), error


def test_who_may_not_write_is_told(world, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for command in (*REPLACING, train, reproduce, report):
        error = refused(*command(world), "--out", tmp_path / "new")
        assert f"new: {tmp_path} may not be written to; name another place" in error.replace(
            "/runs", ""
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", [*REPLACING, train])
def test_behind_a_link_is_what_it_points_to(command, world, tmp_path):
    (tmp_path / "link").symlink_to("place")
    works(*command(world), "--out", tmp_path / "link")
    if command in REPLACING:
        works(*command(world), "--out", tmp_path / "link", "--overwrite")
    assert (tmp_path / "link").is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "place"]


@pytest.mark.slow  # draws whole pages
def test_a_report_is_one_file(world, tmp_path, refused):
    (tmp_path / "folder").mkdir()
    error = refused("report", world / "run", "--out", tmp_path / "folder")
    assert "expected a file to write to" in error
    (tmp_path / "link.html").symlink_to("page.html")
    (tmp_path / "page.html").touch()
    for _ in range(2):  # it replaces an earlier one
        works("report", world / "run", "--out", tmp_path / "link.html")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_results_do_not_take_the_place_of_other_tables(world, tmp_path, refused):
    (tmp_path / "table.csv").write_text("file,class\n")
    error = refused(*reproduce(world), "--out", tmp_path)
    assert "table.csv exists already and is no result of tcaf reproduce" in error
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_table_keeps_what_is_beside_it(world, tmp_path, refused):
    arguments = reproduce(world)
    (tmp_path / "file").write_text("mine")
    assert "file" in refused(*arguments, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear diary")
    works(*arguments, "--out", tmp_path / "out")
    works(*arguments, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "diary.txt").read_text() == "dear diary"
    assert "Ridge" in (tmp_path / "out" / "table.md").read_text()
