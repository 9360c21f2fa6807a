"""Files are read once, and again once they changed."""

import hashlib
import json
import os
from pathlib import Path

import pytest

import tcaf.files.digests as module
from tcaf.files.digests import cache_folder, changed_files, file_digest


def test_a_file_is_read_once_and_again_once_it_changed(tmp_path, monkeypatch):
    path, read = tmp_path / "net", []
    original = module.file_sha256
    monkeypatch.setattr(module, "file_sha256", lambda path: read.append(path) or original(path))

    def write(content):
        path.write_bytes(content)
        os.utime(path, (0, 0))
        # As it will be some seconds later.
        later = path.stat().st_ctime_ns + module.SETTLED_NS
        monkeypatch.setattr(module.time, "time_ns", lambda: later)
        return hashlib.sha256(content).hexdigest()

    first = write(b"tcaf")
    assert [file_digest(path), file_digest(path)] == [first] * 2
    assert len(read) == 1
    # Same size, same time of writing; only the time of the change is another.
    changed = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == changed:
        second = write(b"TCAF")
    assert [file_digest(path), file_digest(path)] == [second] * 2
    assert len(read) == 2


def test_a_file_that_has_just_changed_is_read_each_time(tmp_path):
    path = tmp_path / "net"
    for number in range(50):
        path.write_bytes(b"%02d" % number)
        os.utime(path, (0, 0))
        assert file_digest(path) == hashlib.sha256(b"%02d" % number).hexdigest()


@pytest.fixture
def later(monkeypatch):
    """Lets all files have changed long ago."""
    now = module.time.time_ns()
    monkeypatch.setattr(module.time, "time_ns", lambda: now + 60 * 10**9)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three files with their right digests, and an empty cache folder."""
    monkeypatch.setenv("TCAF_CACHE", str(tmp_path / "cache"))
    expected = {}
    for name in "abc":
        path = tmp_path / name
        path.write_bytes(name.encode() * 7)
        expected[path] = hashlib.sha256(name.encode() * 7).hexdigest()
    return expected


@pytest.fixture
def read(monkeypatch):
    """The files that are read, in order."""
    found = []
    original = module.file_sha256
    monkeypatch.setattr(
        module, "file_sha256", lambda path: found.append(path.name) or original(path)
    )
    return found


def another_process():
    module._digest_of_version.cache_clear()


def test_what_was_found_right_is_not_read_again_by_any_process(files, read, later):
    assert changed_files(files) == []
    assert read == ["a", "b", "c"]
    another_process()
    assert changed_files(files) == []
    assert read == ["a", "b", "c"]


def test_a_changed_file_is_read_again_and_named_each_time(files, read, later):
    changed_files(files)
    path = list(files)[1]
    times = path.stat()
    path.write_bytes(b"b" * 6 + b"c")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # which a copying program may do
    for _ in range(2):
        another_process()
        assert changed_files(files) == [path]
    assert read == ["a", "b", "c", "b", "b"]


def test_another_digest_is_not_what_was_found_right(files, read, later):
    changed_files(files)
    path = next(iter(files))
    assert changed_files({path: "0" * 64}) == [path]


def test_what_has_just_changed_is_not_remembered(files, read):
    changed_files(files)
    changed_files(files)
    assert read == ["a", "b", "c"] * 2
    assert not cache_folder().exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"x": 1}', None])
def test_without_a_memory_files_are_read(content, files, read, later):
    memory = cache_folder() / "verified.json"
    changed_files(files)
    another_process()
    if content is None:
        memory.unlink()
    else:
        memory.write_bytes(content)
    assert changed_files(files) == []
    assert read == ["a", "b", "c"] * 2
    assert set(json.loads(memory.read_text())) >= set(map(str, files))


def test_where_nothing_can_be_written_nothing_is_amiss(files, read, later, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TCAF_CACHE", str(tmp_path / "file" / "cache"))
    assert changed_files(files) == []
    assert changed_files(files) == []
    assert read == ["a", "b", "c"]  # one process reads once all the same


def test_the_memory_keeps_the_last_files(files, later, monkeypatch):
    monkeypatch.setattr(module, "MOST_REMEMBERED", 2)
    a, b, c = files
    for path in (a, b, c, a):
        changed_files({path: files[path]})
    kept = json.loads((cache_folder() / "verified.json").read_text())
    assert [Path(name).name for name in kept] == ["c", "a"]
