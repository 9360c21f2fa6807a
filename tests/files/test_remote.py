"""What lies elsewhere, fetched: whole or absent, once, and again when it has changed."""

import functools
import sys
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tcaf.errors import MissingExtraError, TCAFError
from tcaf.files import remote
from tcaf.files.remote import local_path

fsspec = pytest.importorskip("fsspec")
from fsspec.registry import _registry  # noqa: E402


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder, empty; nothing forbids fetching."""
    monkeypatch.setenv("TCAF_CACHE", str(tmp_path / "cache"))
    for variable in ("TCAF_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def bucket(cache):
    """A file system in memory that looks like an object store, and its root as an address."""
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe(
        {"/bucket/world/store.json": b"{}", "/bucket/world/a/b c.mp4": b"film" * 999_983}
    )
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


@contextmanager
def counting(description, total):
    """A bar that says nothing."""
    yield lambda num_bytes: None


def fetched_by(monkeypatch):
    """Returns the list that names what is fetched from here on."""
    names = []
    download = remote._download

    def noting(filesystem, file, *rest):
        names.append(file.source.rpartition("/")[2])
        download(filesystem, file, *rest)

    monkeypatch.setattr(remote, "_download", noting)
    return names


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_paths_stay_as_they_are(cache):
    assert local_path("a/b.mp4") == Path("a/b.mp4")
    assert local_path(Path("/a")) == Path("/a")
    assert not cache.exists()


def test_files_of_this_machine_are_not_copied(cache, tmp_path):
    assert local_path((tmp_path / "x y").as_uri()) == tmp_path / "x y"
    assert local_path(Path(f"file://{tmp_path}")) == tmp_path
    with pytest.raises(TCAFError, match="names another machine"):
        local_path("file://host/x")
    assert not cache.exists()


def test_a_folder_is_fetched_once(bucket, cache, monkeypatch):
    came, bars = [], []

    @contextmanager
    def bar(description, total):
        bars.append((description, total))
        yield came.append

    folder = local_path("memory://bucket/world", bar)
    assert (folder.name, folder.is_relative_to(cache / "remote")) == ("world", True)
    film = b"film" * 999_983
    assert contents(folder) == {"store.json": b"{}", "a/b c.mp4": film}
    assert bars == [("fetching memory://bucket/world", len(film) + 2)]
    assert sum(came) == len(film) + 2
    names = fetched_by(monkeypatch)
    assert local_path(Path("memory://bucket/world/")) == folder
    assert names == []


def test_what_has_changed_is_fetched_and_what_has_gone_goes(bucket, cache, monkeypatch):
    folder = local_path("memory://bucket/world")
    bucket.pipe({"/bucket/world/store.json": b"[]", "/bucket/world/new/n.txt": b"new"})
    bucket.rm("/bucket/world/a", recursive=True)
    names = fetched_by(monkeypatch)
    assert local_path("memory://bucket/world") == folder
    assert sorted(names) == ["n.txt", "store.json"]
    assert contents(folder) == {"store.json": b"[]", "new/n.txt": b"new"}
    assert not (folder / "a").exists()


def test_what_was_fetched_is_called_by_its_address(bucket):
    folder = local_path("memory://bucket/world")
    assert remote.as_named(folder / "a" / "b c.mp4") == "memory://bucket/world/a/b c.mp4"
    film = local_path("memory://bucket/world/a/b c.mp4")
    assert remote.as_named(film) == "memory://bucket/world/a/b c.mp4"
    assert remote.as_named(Path("a/b.mp4")) == "a/b.mp4"


def test_a_single_file(bucket):
    film = local_path("memory://bucket/world/a/b c.mp4")
    assert film.name == "b c.mp4"
    assert film.read_bytes() == b"film" * 999_983


def test_hidden_files_are_no_part_of_a_folder(bucket):
    bucket.pipe({"/bucket/world/.lock": b"1", "/bucket/world/.git/x": b"2"})
    assert set(contents(local_path("memory://bucket/world"))) == {"store.json", "a/b c.mp4"}


def test_a_killed_fetch_goes_on_where_it_was(bucket, cache, monkeypatch):
    """Nothing is half there, and what has come is not fetched again."""
    monkeypatch.setattr(remote, "AT_ONCE", 1)
    download = remote._download

    def failing(filesystem, file, target, *rest):
        download(filesystem, file, target, *rest)
        if file.source.endswith("json"):
            raise KeyboardInterrupt

    monkeypatch.setattr(remote, "_download", failing)
    with pytest.raises(KeyboardInterrupt):
        local_path("memory://bucket/world")
    left = {path.name for path in cache.rglob("*") if path.is_file()}
    assert left == {"b c.mp4", "so_far.jsonl", ".lock"}
    monkeypatch.setattr(remote, "_download", download)
    names = fetched_by(monkeypatch)
    folder = local_path("memory://bucket/world")
    assert names == ["store.json"]
    assert len(contents(folder)) == 2
    assert {path.name for path in folder.parent.iterdir()} == {"world", "fetched.json", ".lock"}


def test_what_came_beside_a_failure_is_kept(bucket, cache, monkeypatch):
    """Of several that end at once the one that failed may be looked at first."""
    download = remote._download

    def failing(filesystem, file, target, *rest):
        download(filesystem, file, target, *rest)
        if file.source.endswith("json"):
            raise OSError("no more")

    monkeypatch.setattr(remote, "_download", failing)
    failed_first = lambda running: sorted(running, key=lambda done: done.exception() is None)  # noqa: E731
    monkeypatch.setattr(remote, "as_completed", failed_first)
    with pytest.raises(TCAFError, match="no more"):
        local_path("memory://bucket/world")
    left = {path.name for path in cache.rglob("*") if path.is_file()}
    assert left == {"b c.mp4", "so_far.jsonl", ".lock"}


def test_a_file_that_comes_short_is_an_error(bucket, cache, monkeypatch):
    get_file = type(bucket).get_file

    def short(self, source, target, **how):
        get_file(self, source, target, **how)
        Path(target).write_bytes(Path(target).read_bytes()[:-1])

    monkeypatch.setattr(type(bucket), "get_file", short)
    with pytest.raises(TCAFError, match=r"cannot read memory://.*: 1 of 2 bytes came of"):
        local_path("memory://bucket/world/store.json")
    assert not [path for path in cache.rglob("*") if path.name.startswith("store")]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"url": 1, "files": [3]}'])
def test_a_damaged_record_costs_a_fetch(bucket, monkeypatch, damage):
    folder = local_path("memory://bucket/world")
    (folder.parent / "fetched.json").write_bytes(damage)
    names = fetched_by(monkeypatch)
    assert local_path("memory://bucket/world") == folder
    assert len(names) == 2


def test_a_damaged_file_is_fetched_again(bucket):
    folder = local_path("memory://bucket/world")
    (folder / "store.json").write_bytes(b"longer than it was")
    assert (local_path("memory://bucket/world") / "store.json").read_bytes() == b"{}"


@pytest.mark.parametrize("variable", ["TCAF_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked(bucket, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(TCAFError, match=f"was not fetched before, and {variable} is set"):
        local_path("memory://bucket/world")
    monkeypatch.delenv(variable)
    folder = local_path("memory://bucket/world")
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(remote, "_open", None)
    assert local_path("memory://bucket/world") == folder


def test_what_is_wrong_with_an_address_is_said_in_a_line(cache):
    with pytest.raises(TCAFError, match="expected a file or folder at memory://nowhere/x, found"):
        local_path("memory://nowhere/x")
    with pytest.raises(TCAFError, match=r"no file system is called 'sr3'; did you mean 's3'\?"):
        local_path("sr3://bucket/x")
    with pytest.raises(TCAFError, match=r"cannot read http://127\.0\.0\.1:9/x: .*onnect"):
        local_path("http://127.0.0.1:9/x")
    assert not cache.exists()


@pytest.mark.parametrize(
    ("module", "url", "line"),
    [
        ("fsspec", "s3://b/x", r"fsspec is not installed; pip install 'tcaf\[remote\]'"),
        ("s3fs", "s3://b/x", r"what reads s3:// is not installed; pip install 'tcaf\[remote\]'"),
        ("gcsfs", "gs://b/x", r"what reads gs:// is not installed; Please install gcsfs"),
    ],
)
def test_missing_packages(cache, monkeypatch, module, url, line):
    monkeypatch.setitem(sys.modules, module, None)
    if module != "fsspec":
        monkeypatch.delitem(_registry, url.partition(":")[0], raising=False)
    with pytest.raises(MissingExtraError, match=line):
        local_path(url)


def test_one_at_a_time_fetches(bucket, monkeypatch):
    """The second waits for the first, and then has nothing to fetch."""
    names = fetched_by(monkeypatch)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(local_path("memory://bucket/world", counting)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert sorted(names) == ["b c.mp4", "store.json"]


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and writes no log."""

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server on loopback, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    ) as serving:
        serving.daemon_threads = True
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}", folder
        serving.shutdown()


def test_a_web_server(server, cache, monkeypatch):
    """A file, and a folder that it lists as a page."""
    pytest.importorskip("aiohttp")
    url, folder = server
    (folder / "clips").mkdir()
    (folder / "clips" / "a.mp4").write_bytes(b"a" * 4_000_037)
    (folder / "clips" / "b c.mp4").write_bytes(b"b")
    film = local_path(f"{url}/clips/a.mp4?token=1")
    assert (film.name, film.read_bytes()) == ("a.mp4", b"a" * 4_000_037)
    clips = local_path(Path(f"{url}/clips"))
    assert contents(clips) == {"a.mp4": b"a" * 4_000_037, "b c.mp4": b"b"}
    names = fetched_by(monkeypatch)
    local_path(f"{url}/clips")
    assert names == []
    (folder / "clips" / "a.mp4").write_bytes(b"other")
    assert (local_path(f"{url}/clips") / "a.mp4").read_bytes() == b"other"
    assert names == ["a.mp4"]
    with pytest.raises(TCAFError, match=r"expected a file or folder at http://.*none, found"):
        local_path(f"{url}/none")
