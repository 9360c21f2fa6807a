"""The site of the documentation: built strictly, whole, and with nothing in it from elsewhere."""

import os
import re
import subprocess
import sys

import pytest

from doc_pages import PAGES, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


def test_every_page_is_there(site):
    own = {page.stem for page in PAGES if page.parent.name == "docs"}
    made = {"commands", "settings", "api", "CONTRIBUTING", "CHANGELOG"}
    assert own | made <= {path.stem for path in site.glob("*.html")}
    assert (site / "results" / "yt8m" / "index.html").is_file()
    assert (site / "search" / "search_index.json").is_file()


def test_nothing_is_loaded_from_elsewhere(site):
    loads = re.compile(r'<(?:script|img|iframe|source)[^>]+src="([^"]+)"|<link[^>]+href="([^"]+)"')
    found = [
        one or other
        for page in site.rglob("*.html")
        for one, other in loads.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(found) > 100
    assert [each for each in found if re.match(r"(https?:)?//", each)] == []
    # The theme would load a script for these.
    assert not [p for p in site.rglob("*.html") if 'class="mermaid"' in p.read_text("utf-8")]


def test_the_reference_shows_what_the_code_says(site):
    api = (site / "api.html").read_text(encoding="utf-8")
    assert 'id="tcaf.answers.classifier.ZeroShotClassifier"' in api
    assert "A trained model that answers which of some classes a clip shows." in api
    commands = (site / "commands.html").read_text(encoding="utf-8")
    assert 'id="tcaf-predict"' in commands
    assert "--seen_bias" in commands
    settings = (site / "settings.html").read_text(encoding="utf-8")
    assert "training.epochs" in settings


def test_links_between_files_of_the_repository_hold(site):
    """Pages that lie outside `docs/` come along, and point to each other in the site."""
    page = (site / "ready-models.html").read_text(encoding="utf-8")
    assert 'href="results/ready.html"' in page
    card = site / "src" / "tcaf" / "answers" / "ready_models" / "imagenet.html"
    assert 'href="src/tcaf/answers/ready_models/imagenet.html"' in page
    assert card.is_file()
    rooms = (site / "CONTRIBUTING.html").read_text(encoding="utf-8")
    assert 'src="drawings/rooms.svg"' in rooms
