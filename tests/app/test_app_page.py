"""The page as Gradio is given it: nothing from elsewhere, and clips by their address."""

import gc
import json
import re
import warnings

import pytest

from tcaf.app.page_parts import calling, kept_in, streaming
from tcaf.app.shelf import Shelf
from tcaf.errors import MissingExtraError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Gradio itself imports
    pytest.importorskip("gradio")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from tcaf.app.page import add_page


class Desk:
    """What the page asks before anybody has."""

    title, reads, limits, known = "<model>", "picture", "up to 1 MiB", ()
    can_abstain, about_abstaining, about_stretches = False, "", ""
    reach, bias_step, workers, max_waiting, max_bytes = 1.0, 0.05, 1, 4, 2**20
    together = "not together"

    def end(self, session):
        pass


# Gradio leaves an event loop of its own to be collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def client():
    with pytest.MonkeyPatch.context() as patch, Shelf() as shelf, kept_in(shelf.folder):
        # The desk below is none that shapes know.
        patch.setattr("jaxtyping.config.jaxtyping_disable", True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            app = add_page(FastAPI(), Desk(), shelf)
            with TestClient(app, base_url="http://127.0.0.1") as found:
                yield found, shelf
            del app
            gc.collect()


def test_the_page_names_no_place_to_load_from(client):
    html = client[0].get("/").text
    # What Gradio writes of itself for those who link to a page is not loaded.
    html = re.sub(r"<meta [^>]*>", "", html)
    loaded = re.findall(r'(?:src|href)="([^"]+)"', html) + re.findall(r"url\(([^)]+)\)", html)
    assert loaded
    assert not [place for place in loaded if re.match(r"['\"]?(https?:)?//", place)]


def test_gradio_is_told_to_ask_nobody(client):
    config = client[0].get("/config").json()
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False if "run_history" in config else True
    assert config["max_file_size"] == 2**20
    assert not [s for s in config.get("stylesheets") or () if s.startswith("http")]
    assert "googleapis" not in json.dumps(config)


def test_the_model_is_no_html(client):
    config = client[0].get("/config").json()
    head = next(c for c in config["components"] if c["props"].get("elem_id") == "t-head")
    assert "<code>&lt;model&gt;</code>" in head["props"]["value"]


def test_a_clip_is_sent_in_parts(client, tmp_path):
    browser, shelf = client
    placed = shelf.make("one", "clip.mp4", lambda path: path.write_bytes(b"0123456789"))
    whole = browser.get(placed.url)
    assert (whole.status_code, whole.content) == (200, b"0123456789")
    assert whole.headers["content-type"] == "video/mp4"
    part = browser.get(placed.url, headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    shelf.end("one")
    assert browser.get(placed.url).status_code == 404
    assert browser.get("/media/..%2F..%2Fetc%2Fpasswd").status_code == 404


def test_handlers_know_whose_session_it_is():
    import gradio

    asking = gradio.Request(session_hash="abc")
    assert calling(lambda session, value: (session, value))(asking, 3) == ("abc", 3)
    assert list(streaming(lambda session, value: iter([session, value]))(asking, 3)) == [
        "abc",
        3,
    ]


def test_without_gradio_the_extra_is_named(monkeypatch):
    import sys

    from tcaf.app.page_parts import import_gradio

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        MissingExtraError, match=r"gradio is not installed; pip install 'tcaf\[app\]'"
    ):
        import_gradio()


def test_the_place_of_uploads_is_ours_for_a_while(tmp_path, monkeypatch):
    import os

    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    with kept_in(tmp_path):
        assert os.environ["GRADIO_TEMP_DIR"].startswith(str(tmp_path))
    assert "GRADIO_TEMP_DIR" not in os.environ
