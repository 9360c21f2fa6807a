"""A hub of models on loopback, which huggingface_hub takes for the real one."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories, each with one commit on the branch `main`.

    Names that begin with `gated/` ask for terms to be accepted, those with `broken/` fail. What is
    pushed lies in folders of `pushed`; names that begin with `other/` may not be written.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = {}
        self.requests = []
        self.pushed = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self):
        """Returns the files that were asked for by content, sorted."""
        return sorted({path.rpartition(f"{COMMIT}/")[2] for verb, path in self.requests
                       if verb == "GET" and "/resolve/" in path})  # fmt: skip


def _key(kind, repo):
    """What a repository is called among all kinds of them."""
    return f"datasets/{repo}" if kind == "datasets" else repo


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer("GET")

    def do_HEAD(self):
        self._answer("HEAD")

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(("POST", path))
        _, api, kind, *parts = path.split("/")
        if path == "/api/repos/create":
            return self._create(json.loads(content))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        assert api == "api"
        repo = _key(kind, "/".join(parts[:2]))
        folder, action = self.server.models.get(repo), parts[2]
        if folder is None:
            return self._fail(404, "RepoNotFound")
        if action == "preupload":
            files = json.loads(content)["files"]
            told = [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self._json({"files": told})
        if action == "commit":
            return self._commit(repo, folder, [json.loads(line) for line in content.splitlines()])
        assert action == "paths-info"
        asked = parse_qs(content.decode()).get("paths", [])
        tree = [each for each in self._tree(folder) if each["path"] in asked]
        return self._json(tree)

    def _create(self, asked):
        kind = asked.get("type") or "model"
        name = (
            f"{asked['organization']}/{asked['name']}" if "organization" in asked else asked["name"]
        )
        if name.startswith("other/"):
            return self._fail(403, "")
        key = _key(f"{kind}s", name)
        if key not in self.server.models:
            folder = self.server.pushed / key
            folder.mkdir(parents=True)
            self.server.models[key] = folder
            self.server.private = asked.get("private") or asked.get("visibility") == "private"
        return self._json({"url": f"{self.server.url}/{key}"})

    def _commit(self, repo, folder, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                target = folder / value["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "deletedFile":
                (folder / value["path"]).unlink()
        self._json({"commitOid": COMMIT, "commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}"})

    def _answer(self, verb):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((verb, path))
        _, *parts = path.split("/")
        if parts[0] == "api":
            repo = _key(parts[1], "/".join(parts[2:4]))
            # What is asked of a repository itself is of its newest commit.
            kind, revision = (parts[4], "/".join(parts[5:])) if parts[4:] else ("revision", "main")
        else:
            if is_dataset := parts[0] == "datasets":
                parts = parts[1:]
            repo = _key("datasets" if is_dataset else "models", "/".join(parts[:2]))
            kind, revision = parts[2], parts[3]
        if repo.startswith("gated/"):
            self._fail(403, "GatedRepo")
        elif repo.startswith("broken/"):
            self._fail(500, "")
        elif repo not in self.server.models:
            self._fail(404, "RepoNotFound")
        elif kind != "resolve" and revision not in (COMMIT, "main", "refs/pr/4"):
            self._fail(404, "RevisionNotFound")
        elif kind == "revision":
            self._json({"id": repo, "sha": COMMIT, "siblings": []})
        elif kind == "tree":
            self._json(self._tree(self.server.models[repo]))
        else:
            self._file(verb, self.server.models[repo] / "/".join(parts[4:]))

    def _tree(self, folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [
            {
                "type": "file",
                "path": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in files
        ]

    def _json(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _file(self, verb, path):
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if verb == "GET":
            self.wfile.write(content)

    def _fail(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@contextmanager
def hub_on_loopback(monkeypatch, cache):
    """Starts a hub, with an empty cache of huggingface_hub and no wish to stay offline."""
    from huggingface_hub import constants

    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("TCAF_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
