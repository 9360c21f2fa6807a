"""A real browser, and what every page that is shown in it has to be."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def started_browser():
    """Starts a headless Chromium, with a camera that is none; `CHROMIUM` may say where it is."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser found: none of {', '.join(NAMES)} on PATH, CHROMIUM not set")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *camera])
        yield found
        found.close()


def check(page):
    """Checks that axe finds nothing serious in a page, and that nothing is wider than it."""
    folder = pytest.importorskip("axe_playwright_python").__path__[0]
    page.evaluate((Path(folder) / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document)")
    assert len(found["passes"]) > 20
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, json.dumps([(v["id"], v["nodes"][0]["html"]) for v in serious], indent=1)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
