"""The page of an export, in a real browser: the same answers as in Python, and no network."""

import functools
import io
import json
import os
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from browsers import check
from tcaf import ZeroShotClassifier
from tcaf.errors import TCAFError
from tcaf.export.bundle import make_bundle
from tcaf.export.page import PAGE, RUNTIME, WEB, check_page, write_page
from tcaf.training.model_file import load_model
from tcaf.training.run import Run, train


@pytest.fixture(scope="module")
def classifier(tiny_store, tiny_experiment, tmp_path_factory):
    """A model with seven of the classes that its run knows, seen and unseen."""
    out = tmp_path_factory.mktemp("page") / "run"
    train(tiny_experiment(training={"epochs": 2}), tiny_store, out)
    trained, known = load_model(out), ZeroShotClassifier.load(out).known
    # So short a training tells little apart: a temperature at which probabilities differ.
    rows = tiny_store.rows("cls", "test")[:20]
    distances = ZeroShotClassifier(trained).scores(tiny_store, rows).distances
    sharp = float(distances.std(dim=1).mean())
    text = Run(out).text()
    found = ZeroShotClassifier(replace(trained, gamma=sharp / 2, temperature=sharp), text=text)
    found.set_classes(known[-7:])
    assert 0 < len(found.seen_columns) < 7
    return found


@pytest.fixture(scope="module")
def page(classifier, tmp_path_factory):
    """The folder of a page, with three further names."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("site") / "page"
    bundle = make_bundle(classifier, "model.onnx", "onnx", classifier.known[:3])
    write_page(bundle, folder)
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def served(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def opened(browser, page):
    """Opens the page, and checks at the end that nothing went wrong nor came from elsewhere."""
    with served(page) as address:
        contexts, wrong, asked = [], [], []

        def open_page(width=1000, scheme="light"):
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            )
            contexts.append(context)
            tab = context.new_page()
            tab.on("console", lambda message: wrong.append(message.text))
            tab.on("pageerror", lambda error: wrong.append(str(error)))
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(address)
            tab.wait_for_selector("body[data-ready=yes]", timeout=120_000)
            return tab

        yield open_page
        for context in contexts:
            context.close()
        assert wrong == []
        assert asked
        assert all(url.startswith((address, "data:", "blob:")) for url in asked)


def npz(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return {"name": "clip.npz", "mimeType": "application/zip", "buffer": file.getvalue()}


def shown(tab):
    """Names and numbers as the page shows them."""
    tab.locator("#answers li").first.wait_for()
    rows = []
    for item in tab.locator("#answers li").all():
        name, number = item.locator(".name > span").all()
        kind = name.locator(".kind").inner_text()
        rows.append((name.inner_text().removesuffix(kind), kind, float(number.inner_text()[:-2])))
    return rows


def wanted(classifier, video, **options):
    (found,) = classifier.classify([video], top_k=20, **options)
    return [
        (a.name, "seen" if a.seen else "unseen", round(100 * a.probability, 1))
        for a in found.answers
    ]


def close(found, expected):
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for (*_, one), (*_, other) in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=0.11)


@pytest.fixture
def video(tiny_store):
    return tiny_store[int(tiny_store.rows("cls", "test")[3])]


@pytest.mark.browser
@pytest.mark.parametrize("without", [None, "audio", "visual"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_it_answers_as_python_does(opened, classifier, video, without, save):
    tab = opened()
    arrays = {m: video.tokens(m) for m in ("audio", "visual") if m != without}
    tab.set_input_files("#file", npz(save, **arrays))
    cut = replace(video, **({without: video.tokens(without)[:0]} if without else {}))
    expected = wanted(classifier, cut)
    assert expected[0][2] > 2 * expected[-1][2]
    close(shown(tab), expected)


@pytest.mark.browser
def test_other_kinds_of_files(opened, classifier, video):
    expected = wanted(classifier, video)
    tab = opened()
    tab.set_input_files("#file", npz(audio=video.audio.astype(np.float64), visual=video.visual))
    close(shown(tab), expected)
    text = json.dumps({"audio": video.audio.tolist(), "visual": video.visual.tolist()})
    file = {"name": "clip.json", "mimeType": "application/json", "buffer": text.encode()}
    tab.set_input_files("#file", file)
    tab.locator("#clip", has_text="clip.json").wait_for()
    close(shown(tab), expected)
    halves = {m: video.tokens(m).astype(np.float16) for m in ("audio", "visual")}
    tab.set_input_files("#file", npz(**halves))
    tab.locator("#clip", has_text="clip.npz").wait_for()
    close(shown(tab), wanted(classifier, replace(video, **halves)))


@pytest.mark.browser
def test_classes_are_chosen_and_added(opened, classifier, video):
    tab = opened()
    tab.set_input_files("#file", npz(audio=video.audio, visual=video.visual))
    assert len(shown(tab)) == 7
    names = [*classifier.classes[:2], *classifier.known[:2]]
    tab.fill("#names", "\n".join(names[:3]))
    tab.dispatch_event("#names", "change")
    tab.fill("#further", names[3])
    tab.click("#add")
    tab.locator("#answers li").nth(3).wait_for()
    assert tab.locator("#answers li").count() == 4
    before = classifier.classes
    classifier.set_classes(names)
    # A name that is added counts as unseen.
    classifier._seen = [column for column in classifier.seen_columns if column < 2]
    expected = wanted(classifier, video)
    classifier.set_classes(before)
    close(shown(tab), expected)
    tab.fill("#names", "zebra")
    tab.dispatch_event("#names", "change")
    tab.wait_for_selector("#status.wrong")
    assert "no text embedding of “zebra”" in tab.inner_text("#status")


@pytest.mark.browser
def test_the_slider_moves_the_answer(opened, classifier, video):
    tab = opened()
    tab.set_input_files("#file", npz(audio=video.audio, visual=video.visual))
    shown(tab)
    bias = float(tab.get_attribute("#bias", "max"))
    tab.evaluate(
        "value => { const e = document.querySelector('#bias'); e.value = value;"
        " e.dispatchEvent(new Event('input')); }",
        bias,
    )
    close(shown(tab), wanted(classifier, video, seen_bias=bias))
    told = json.loads(
        tab.evaluate("decodeURIComponent(document.querySelector('#save').href.split(',')[1])")
    )
    assert told["clip"] == "clip.npz"
    assert [each["name"] for each in told["answers"]] == [row[0] for row in shown(tab)]


@pytest.mark.browser
def test_files_that_are_none(opened, video):
    tab = opened()
    arrays = {"audio": video.audio, "visual": video.visual}
    bad = npz(**arrays)
    for buffer, told in (
        (bad["buffer"][:-40], "the file is no .npz"),
        (npz(other=video.audio)["buffer"], "expected an array audio or visual, found other"),
        (npz(audio=video.audio[:, 0])["buffer"], "expected tokens, one a row"),
        (npz(audio=video.audio.astype(np.int16))["buffer"], "expected float16, 32 or 64"),
        (npz(audio=video.visual)["buffer"], "The model reads audio features of 5 numbers"),
    ):
        tab.set_input_files("#file", {**bad, "buffer": buffer})
        tab.locator("#status.wrong", has_text=told).wait_for()
        assert tab.locator("#answers li").count() == 0
    tab.set_input_files("#file", bad)
    assert len(shown(tab)) == 7
    assert tab.locator("#status.wrong").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 400, 1280])
def test_it_fits_its_window(opened, video, width, scheme):
    tab = opened(width, scheme)
    tab.set_input_files("#file", npz(audio=video.audio, visual=video.visual))
    shown(tab)
    tab.click("summary")
    check(tab)
    if folder := os.environ.get("TCAF_SCREENSHOTS"):
        tab.screenshot(path=f"{folder}/export_{width}_{scheme}.png", full_page=True)


@pytest.mark.browser
def test_every_field_has_a_name(opened):
    tab = opened()
    nameless = tab.evaluate(
        "[...document.querySelectorAll('input, textarea, button')]"
        ".filter(e => !(e.labels && e.labels.length) && !e.textContent.trim()).map(e => e.id)"
    )
    assert nameless == []


def test_without_npm_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TCAFError, match="npm is not installed"):
        check_page(tmp_path / "page", overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_npm_says_is_one_line(tmp_path, monkeypatch, classifier):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\necho at all >&2\nexit 1\n", encoding="utf-8")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    bundle = make_bundle(classifier, "model.onnx", "pt2")
    with pytest.raises(TCAFError, match="npm cannot fetch onnxruntime-web: no network at all"):
        write_page(bundle, tmp_path / "page")
    assert not (tmp_path / "page").exists()


@pytest.mark.slow
def test_a_page_runs_onnx_alone(tmp_path, monkeypatch, classifier):
    monkeypatch.setattr("tcaf.export.page.shutil.which", lambda _: "npm")
    bundle = make_bundle(classifier, "model.pt2", "pt2")
    with pytest.raises(TCAFError, match="a page runs a model of ONNX"):
        write_page(bundle, tmp_path / "page")


def test_the_version_is_pinned():
    package = json.loads((WEB / "package.json").read_text(encoding="utf-8"))
    lock = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))
    wanted = package["dependencies"]["onnxruntime-web"]
    assert wanted.replace(".", "").isdigit()
    entry = lock["packages"]["node_modules/onnxruntime-web"]
    assert entry["version"] == wanted
    assert all("integrity" in each for name, each in lock["packages"].items() if name)
    assert "http" not in (WEB / "index.html").read_text(encoding="utf-8").replace("http-equiv", "")
    assert {*PAGE} <= {each.name for each in WEB.iterdir()}
    assert len(RUNTIME) == 3
