"""What a user gets who installs the package without the repository."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PureWindowsPath

import pytest

from tcaf.sources.media_files import readable
from tcaf.training.run import train

ROOT = Path(__file__).parent.parent
NEWER = ("3.12", "3.13")
RESERVED = {"con", "prn", "aux", "nul"} | {f"{k}{n}" for k in ("com", "lpt") for n in range(1, 10)}


def runs_on_windows(name):
    """Returns whether a file can be called so on Windows too."""
    stem = name.partition(".")[0].lower()
    return not re.search(r'[<>:"|?*\\\x00-\x1f]', name) and not (
        name.endswith((".", " ")) or stem in RESERVED
    )


@pytest.mark.parametrize(
    ("name", "fits"),
    [("a.py", True), ("a:b.py", False), ("nul.txt", False), ("a. ", False), ("console.py", True)],
)
def test_which_names_windows_takes(name, fits):
    assert runs_on_windows(name) is fits


def test_names_in_the_repository():
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout of the repository")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z"]
    files = subprocess.run(listed, capture_output=True, check=True).stdout.decode().split("\0")[:-1]
    assert "pyproject.toml" in files
    assert [name for name in files if not all(map(runs_on_windows, name.split("/")))] == []
    # Two names that differ in letter case alone are one file there, and on a Mac.
    folded = sorted(files, key=str.lower)
    pairs = itertools.pairwise(folded)
    assert [(one, other) for one, other in pairs if one.lower() == other.lower()] == []


def test_names_of_what_is_written(tiny_store, tiny_experiment, tmp_path):
    """Names of backbones hold colons, those of stores and classes may hold anything."""
    train(
        tiny_experiment(training={"epochs": 1, "batches_per_epoch": 1}), tiny_store, tmp_path / "r"
    )
    for folder in (tiny_store.path, tmp_path / "r"):
        names = [path.name for path in folder.rglob("*")]
        assert names
        assert [name for name in names if not runs_on_windows(name)] == []


def test_paths_are_said_alike_everywhere():
    """The folder of a clip is its class, whichever way the system's slashes lean."""
    assert readable(PureWindowsPath(r"cats\a clip.mp4")) == "cats/a clip.mp4"


def test_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(version)} ", (ROOT / "CHANGELOG.md").read_text(), re.M)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what a checkout holds."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(
        ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_what_is_in_it(wheel):
    assert wheel.stat().st_size < 10e6
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    data = [
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "tcaf").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert [name for name in data if name not in names] == []
    (info,) = {name.partition("/")[0] for name in names} - {"tcaf"}
    for name in ("LICENSE", "NOTICE"):
        assert f"{info}/licenses/{name}" in names
    assert "tcaf/py.typed" in names


def interpreter(version):
    """Returns the path of a Python of this version, on the PATH or pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(f"python{version}")]
    found += [str(p) for p in sorted(root.glob(f"versions/{version}.*/bin/python{version}"))]
    for path in filter(None, found):
        if not subprocess.run([path, "--version"], capture_output=True).returncode:
            return path
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", NEWER)
def test_newer_pythons(wheel, version, tmp_path):
    """All that needs no torch, which is installed for no Python but our own.

    The core with torch is installed from the wheel by `.ci/run`, in an environment of its own.
    """
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    subprocess.run([python, "-m", "venv", str(tmp_path / "env")], check=True)
    own = tmp_path / "env" / "bin" / "python"
    pip = [str(own), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    needed = (
        "import json; from importlib.metadata import requires; "
        "print(json.dumps([r for r in requires('tcaf') if 'extra ==' not in r]))"
    )
    listed = subprocess.run([str(own), "-c", needed], capture_output=True, check=True).stdout
    light = [name for name in json.loads(listed) if not name.startswith("torch")]
    assert len(light) > 5
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *light], check=True)
    checks = "import compileall, sys; sys.exit(not compileall.compile_dir(sys.argv[1], quiet=1))"
    package = next((tmp_path / "env").glob("lib/python*/site-packages/tcaf"))
    subprocess.run([str(own), "-W", "error", "-c", checks, str(package)], check=True)
    for words in (["--help"], ["train", "--help"], ["models"], ["backbones"], ["--version"]):
        command = [str(own), "-W", "error", "-m", "tcaf", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout
