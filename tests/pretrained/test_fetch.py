import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tcaf.errors import TCAFError
from tcaf.files.digests import cache_folder
from tcaf.pretrained import fetch
from tcaf.pretrained.fetch import (
    WeightsFile,
    find_weights,
    terminal_bar,
    weights_mark,
)

CONTENT = bytes(range(251)) * 13 * 1009  # 3.3 MB: several pieces


class Server(ThreadingHTTPServer):
    """Serves `CONTENT` on loopback in ways that its paths name; counts the requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.release = threading.Event()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        kind = self.path.strip("/")
        if kind == "absent":
            self.send_error(404)
            return
        if kind in ("moved", "downgraded"):
            self.send_response(302)
            own = kind == "moved"
            self.send_header("Location", self.server.url("whole") if own else "http://tcaf.invalid")
            self.end_headers()
            return
        self.send_response(200)
        if kind != "sizeless":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if kind == "slow":
            self.wfile.write(CONTENT[:1_500_000])
            self.wfile.flush()
            self.server.release.wait(20)
            return
        self.wfile.write(CONTENT[: 1009 if kind == "cut" else None])

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def running():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running, monkeypatch, tmp_path):
    """A running server, an empty cache, no proxy in between and no wish to stay offline."""
    for name in ("TCAF_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("TCAF_CACHE", str(tmp_path / "cache"))
    running.requests.clear()
    return running


def published(url, sha256=None):
    return WeightsFile("net-7.pth", url, sha256 or hashlib.sha256(CONTENT).hexdigest(), 3)


def kept():
    return sorted(path.name for path in cache_folder().rglob("*") if path.is_file())


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TCAF_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "tcaf"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "tcaf"
    monkeypatch.setenv("TCAF_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"


# Fetching


@pytest.mark.parametrize("kind", ["whole", "sizeless", "moved"])
@pytest.mark.parametrize("digits", [8, 64])
def test_weights_are_fetched_once(server, kind, digits):
    file = published(server.url(kind), hashlib.sha256(CONTENT).hexdigest()[:digits])
    path = find_weights(file, None)
    assert path == cache_folder() / "weights" / "net-7.pth"
    assert path.read_bytes() == CONTENT
    asked = list(server.requests)
    assert asked == (["/moved", "/whole"] if kind == "moved" else [f"/{kind}"])
    assert find_weights(file, None) == path
    assert server.requests == asked
    assert kept() == ["net-7.pth"]


def test_a_bar_is_told_what_comes_and_the_default_one_is_silent(server, capfd):
    came = []

    @contextmanager
    def bar(description, total):
        came.append((description, total))
        yield came.append

    find_weights(published(server.url("whole")), None, bar)
    assert came[0] == ("fetching net-7.pth", len(CONTENT))
    assert sum(came[1:]) == len(CONTENT)
    assert len(came) > 3
    with terminal_bar("fetching", 7) as advance:
        advance(7)
    assert capfd.readouterr() == ("", "")


def test_the_bar_of_a_terminal_shows_size_and_speed(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with terminal_bar("fetching net", 2_000_000) as advance:
        advance(1_000_000)
        advance(1_000_000)
    out, err = capfd.readouterr()
    assert out == ""
    assert "fetching net" in err
    assert "2.0/2.0 MB" in err


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("absent", "HTTP error 404, Not Found"),
        ("cut", "1009 "),
        ("downgraded", "expected an https address, found http://tcaf.invalid"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_one_line(server, kind, reason):
    file = published(server.url(kind))
    with pytest.raises(TCAFError) as error:
        find_weights(file, None)
    told = str(error.value)
    assert "\n" not in told
    assert told.startswith(f"cannot fetch the weights net-7.pth (3 MB) from {file.url} (")
    assert reason in told
    assert str(cache_folder() / "weights" / "net-7.pth") in told
    assert "--audio_weights or --visual_weights" in told
    assert kept() == []


def test_other_content_is_not_kept(server):
    file = published(server.url("whole"), "0" * 64)
    right = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(
        TCAFError, match=f"not net-7.pth as published.* 0{{12}}, found {right[:12]};"
    ):
        find_weights(file, None)
    assert kept() == []


def test_a_refused_connection_is_told(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TCAFError, match=r"^cannot fetch .*refused.*put that file at"):
        find_weights(published(f"http://127.0.0.1:{port}/whole"), None)
    assert kept() == []


@pytest.mark.parametrize("url", ["http://tcaf.invalid/net", "file:///etc/passwd", "ftp://x/y"])
def test_only_https_is_asked(server, url):
    with pytest.raises(TCAFError, match="expected an https address, found"):
        find_weights(published(url), None)
    assert kept() == []


@pytest.mark.parametrize("variable", ["TCAF_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked_and_the_cache_serves(server, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    file = published(server.url("whole"))
    with pytest.raises(TCAFError, match=rf"^cannot fetch .*\({variable} is set\); put that file"):
        find_weights(file, None)
    assert server.requests == []
    path = cache_folder() / "weights" / "net-7.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    assert find_weights(file, None) == path
    monkeypatch.setenv(variable, "0")
    path.unlink()
    assert find_weights(file, None) == path


def test_a_cache_that_cannot_be_made_is_told(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TCAF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(TCAFError, match=r"^cannot fetch .*Not a directory"):
        find_weights(published(server.url("whole")), None)


def test_an_interrupted_download_leaves_nothing(server):
    @contextmanager
    def bar(description, total):
        yield lambda num_bytes: signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        find_weights(published(server.url("whole")), None, bar)
    assert server.requests == ["/whole"]
    assert kept() == []


def test_what_killed_downloads_left_is_cleared_once_nobody_writes_to_it(server):
    left = cache_folder() / "weights" / ".net-7.pth.7.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(CONTENT[:1009])
    path = find_weights(published(server.url("whole")), None)
    assert kept() == [left.name, "net-7.pth"]
    os.utime(left, (0, 0))
    path.unlink()
    find_weights(published(server.url("whole")), None)
    assert kept() == ["net-7.pth"]


FETCH = """
from tcaf.pretrained.fetch import WeightsFile, find_weights
find_weights(WeightsFile("net-7.pth", {url!r}, {sha!r}, 3), None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_download_is_never_taken_for_weights(server, number):
    file = published(server.url("slow"))
    child = subprocess.Popen(
        [sys.executable, "-c", FETCH.format(url=file.url, sha=file.sha256)],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in cache_folder().rglob("*.partial")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(number)
    assert child.wait(20) != 0
    assert "net-7.pth" not in kept()
    assert kept() == [] or number != signal.SIGINT


def test_a_damaged_cached_file_is_told(server):
    path = find_weights(published(server.url("whole")), None)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(TCAFError, match=r"net-7\.pth is not .* as published.*; delete it"):
        find_weights(published(server.url("whole")), None)


def test_given_weights_come_before_all_others(server, tmp_path):
    own = tmp_path / "own.pth"
    with pytest.raises(TCAFError, match=r"expected weights at .*own\.pth, found nothing"):
        find_weights(published(server.url("whole")), own)
    own.write_bytes(b"anything")
    assert find_weights(published(server.url("whole")), own) == own
    assert server.requests == []


# Marks


def test_the_published_file_has_no_mark_and_others_their_hash(tmp_path):
    path = tmp_path / "net"
    path.write_bytes(b"tcaf")
    digest = hashlib.sha256(b"tcaf").hexdigest()
    for known in (digest, digest[:8]):
        assert weights_mark(path, WeightsFile("net", "https://x", known, 1)) is None
    assert weights_mark(path, WeightsFile("net", "https://x", "f" * 8, 1)) == digest[:12]
    assert weights_mark(path, None) == digest[:12]
    path.write_bytes(b"TCAF")
    assert weights_mark(path, None) == hashlib.sha256(b"TCAF").hexdigest()[:12]


def test_the_mark_of_a_folder_depends_on_its_names_and_contents_alone(tmp_path):
    def folder(name, files):
        for inside, content in files.items():
            path = tmp_path / name / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path / name

    one = folder("one", {"a": "1", "b/c": "2"})
    marks = [
        weights_mark(one, None),
        weights_mark(folder("swapped", {"a": "2", "b/c": "1"}), None),
        weights_mark(folder("renamed", {"a": "1", "b/d": "2"}), None),
        weights_mark(folder("more", {"a": "1", "b/c": "2", "d": ""}), None),
        weights_mark(one, None, [one / "a"]),
    ]
    assert len(set(marks)) == len(marks)
    assert {len(mark) for mark in marks} == {12}
    assert weights_mark(folder("other", {"b/c": "2", "a": "1"}), None) == marks[0]
    assert weights_mark(tmp_path / "more", None, [tmp_path / "more" / "a"]) == marks[-1]


def test_the_timeout_is_passed_on(server, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.2)
    with pytest.raises(TCAFError, match=r"\(.*timed out.*\)"):
        find_weights(published(server.url("slow")), None)
    assert kept() == []
