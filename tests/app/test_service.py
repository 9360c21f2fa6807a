"""The service over HTTP: answers, statuses, sentences, limits, and what its schema promises."""

import json
import threading

import pytest

from write_clip_run import write_clip
from write_engine import BLUE, GREEN, GREY, open_engine

pytest.importorskip("av")
pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

pytestmark = pytest.mark.usefixtures("moody")


@pytest.fixture
def serving(moody_run):
    """Builds clients of services, with the engines behind them."""
    from contextlib import ExitStack

    from tcaf.app.service import create_app

    with ExitStack() as stack:

        def build(token="", raises=True, **limits):
            engine = stack.enter_context(open_engine(moody_run, **limits))
            client = TestClient(create_app(engine, token=token), raise_server_exceptions=raises)
            stack.enter_context(client)
            return client, engine

        yield build


@pytest.fixture
def client(serving):
    return serving()[0]


@pytest.fixture
def grey(tmp_path):
    return write_clip(tmp_path / "grey.mp4", colour=GREY)


def post(client, file, name="mine.mp4", **fields):
    content = file if isinstance(file, bytes) else file.read_bytes()
    return client.post("/api/v1/classify", files={"file": (name, content)}, data=fields)


def until(is_so):
    for _ in range(1000):
        if is_so():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it never came to that")


def problem(answer):
    """Returns status, kind and sentence of an error."""
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert set(told) == {"error", "kind"}
    return answer.status_code, told["kind"], told["error"]


@pytest.mark.slow
def test_a_file_is_answered_as_by_the_engine(serving, grey):
    client, engine = serving()
    found = post(client, grey, names="eel, dog, wet", top_k=1, seen_bias=0.2, why=True, every=2.0)
    assert found.status_code == 200, found.text
    clip = engine.read(grey, "mine.mp4")
    names = ["eel", "dog, wet"]
    expected = engine.answer([clip], names, top_k=1, seen_bias=0.2, why=True)
    spans = engine.spans(clip, 2.0, names, top_k=1, seen_bias=0.2)
    expected["spans"] = [span.to_json() for span in spans]
    assert found.json() == expected
    again = {"key": found.json()["clips"][0]["key"], "id": "mine.mp4"}
    asked = {"names": names, "top_k": 1, "seen_bias": 0.2, "why": True, "every": 2.0}
    assert client.post("/api/v1/classify/again", json={**again, **asked}).json() == expected
    # What was not asked for is not there.
    plain = post(client, grey).json()
    assert plain == engine.answer([clip])
    assert "spans" not in plain
    assert "alone" not in plain["predictions"][0]["answers"][0]


def test_features_are_answered(serving, grey):
    client, engine = serving()
    video = engine.read(grey).video
    clips = [
        {"id": "both", "audio": video.audio.tolist(), "visual": video.visual.tolist()},
        {"id": "sound", "audio": video.audio.tolist(), "audio_backbone": "logmel"},
    ]
    found = client.post("/api/v1/classify/features", json={"clips": clips, "names": ["ant", "eel"]})
    assert [each["id"] for each in found.json()["predictions"]] == ["both", "sound"]
    taken = [engine.take(video.audio.tolist(), video.visual.tolist(), "both")]
    taken.append(engine.take(video.audio.tolist(), name="sound"))
    assert found.json() == engine.answer(taken, ["ant", "eel"])


def test_what_there_is(serving):
    client, engine = serving()
    assert client.get("/api/v1/health").json() == {
        "status": "ok",
        "model": "run",
        "load": {"reading": 0, "waiting": 0, "readers": 1, "max_waiting": 16},
    }
    version = client.get("/api/v1/version").json()
    assert version["tcaf"] == engine.provenance["tcaf"]
    assert version["api"] == "v1"
    models = client.get("/api/v1/models").json()
    assert models["open"] == json.loads(json.dumps(engine.description))
    assert models["ready"]["imagenet"]["fetched"] == "nothing"


@pytest.mark.parametrize(
    ("content", "fields", "status", "kind", "told"),
    [
        (b"", {}, 415, "unsupported", "mine.mp4: an empty file"),
        (b"no clip", {}, 415, "unsupported", "mine.mp4: not a media file"),
        (bytes(4) + b"ftypisom" + bytes(99), {}, 422, "unusable", "mine.mp4: damaged header"),
        (b"x", {"names": "eagle"}, 422, "asked", "the run knows no class 'eagle'"),
        (b"x", {"top_k": "0"}, 422, "asked", "top_k: input should be greater than or equal to 1"),
        (b"x", {"top_k": "two"}, 422, "asked", "top_k: input should be a valid integer"),
        (b"x", {"seen_bias": "nan"}, 422, "asked", "seen_bias: input should be"),
        (b"x", {"abstain": "1"}, 422, "asked", "abstain: input should be less than 1, got '1'"),
        (b"x", {"topk": "1"}, 422, "asked", "unknown field 'topk'; did you mean 'top_k'?"),
    ],
)
def test_errors_are_one_sentence(client, content, fields, status, kind, told):
    found = problem(post(client, content, **fields))
    assert found[:2] == (status, kind)
    assert found[2].startswith(told)


def test_other_questions_that_are_none(client, grey):
    assert problem(client.get("/api/v1/nothing"))[:2] == (404, "not_found")
    assert problem(client.get("/api/v1/classify"))[0] == 405
    assert problem(client.post("/api/v1/classify", data={"names": "ant"})) == (
        422,
        "asked",
        "file: field required",
    )
    found = problem(client.post("/api/v1/classify/again", json={"key": "0" * 64}))
    assert found == (404, "gone", f"clip {'0' * 64!r} is not kept; send it again")
    found = problem(client.post("/api/v1/classify/again?top_k=3", json={"key": "0"}))
    assert found == (422, "asked", "unknown field 'top_k'")
    found = problem(client.post("/api/v1/classify/features", content=b"{"))
    assert found[0] == 422
    clip = {"visual": [[1.0] * 5]}
    found = problem(client.post("/api/v1/classify/features", json={"clips": [clip]}))
    assert found[2] == "clip 'clip': expected visual tokens of 6 values, token 0 has 5"
    found = problem(client.post("/api/v1/classify/features", json={"clips": [clip], "x": 1}))
    assert found == (422, "asked", "x: extra inputs are not permitted, got '1'")


def test_what_goes_wrong_here_tells_nothing(serving, grey, monkeypatch):
    client, engine = serving(raises=False)
    monkeypatch.setattr(engine, "receive", lambda *_: 1 / 0)
    assert problem(post(client, grey)) == (
        500,
        "internal",
        "Something went wrong; the log of the service says what.",
    )


@pytest.mark.slow
def test_clips_that_break_cost_themselves(serving, tmp_path, grey):
    client, _ = serving(timeout_s=1.0)
    blue, green = (
        write_clip(tmp_path / f"{number}.mp4", sound=False, colour=colour)
        for number, colour in enumerate((BLUE, GREEN))
    )
    status, kind, told = problem(post(client, blue))
    assert (status, kind) == (504, "too_slow")
    assert told == "mine.mp4: takes too long (not done within 1 s)"
    assert problem(post(client, green))[:2] == (422, "unusable")
    assert post(client, grey).status_code == 200


def test_too_much_is_refused_before_it_is_read(serving):
    client, _ = serving(max_mib=0.01, max_json_mib=0.001)
    # The form around a file takes room too: beyond a MiB it is not read at all.
    found = problem(post(client, bytes(2**21)))
    assert found == (413, "too_large", "too large (more than 1.01 MiB)")
    found = problem(post(client, bytes(2**15)))
    assert found == (413, "too_large", "mine.mp4: too large (more than 0.01 MiB)")

    def blocks():
        for _ in range(100):
            yield b" " * 100

    found = client.post("/api/v1/classify/features", content=blocks())
    assert problem(found) == (413, "too_large", "too large (more than 0.001 MiB)")


def test_a_token_is_asked_for(serving, grey):
    client, _ = serving(token="sesame")
    assert client.get("/api/v1/health").status_code == 200
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sesame"}):
        found = client.get("/api/v1/models", headers=given)
        assert problem(found)[:2] == (401, "forbidden")
        assert found.headers["www-authenticate"].startswith("Bearer")
    client.headers["Authorization"] = "Bearer sesame"
    assert client.get("/api/v1/models").status_code == 200
    assert post(client, grey).status_code == 200


@pytest.mark.slow
def test_who_comes_too_many_is_told_when_to_come_again(serving, tmp_path, grey):
    client, engine = serving(timeout_s=2.0, max_waiting=0)
    engine.warm()
    blue = write_clip(tmp_path / "blue.mp4", sound=False, colour=BLUE)
    first = threading.Thread(target=post, args=(client, blue))
    first.start()
    until(lambda: engine.load["reading"])
    found = post(client, grey)
    assert problem(found) == (
        429,
        "busy",
        "busy: 1 questions are being answered; ask again later",
    )
    assert 1 <= int(found.headers["retry-after"]) <= 120
    assert client.get("/api/v1/health").json()["load"]["reading"] == 1
    first.join()
    assert post(client, grey).status_code == 200


def test_no_answer_names_a_place(client, grey, tmp_path):
    for name in (str(grey), "..\\..\\C:\\secret\\x.mp4", "a\nb\x1b[2J.mp4", "", "x" * 500):
        found = post(client, grey, name=name or "x.mp4")
        assert found.status_code == 200
        assert str(tmp_path) not in found.text
        assert len(found.json()["predictions"][0]["id"]) <= 120
    found = problem(post(client, b"no clip", name=str(grey)))
    assert found[2].startswith("grey.mp4: not a media file")


def test_answers_have_what_the_schema_says(client, grey):
    import jsonschema_rs

    schema = client.get("/api/v1/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    found = post(client, grey, why=True, every=2.0).json()
    answers = {"$ref": "#/components/schemas/Answers", "components": schema["components"]}
    jsonschema_rs.validator_for(answers).validate(found)
    for path, methods in schema["paths"].items():
        for method, told in methods.items():
            assert told["summary"], (path, method)
            assert told["description"], (path, method)
            assert "500" in told["responses"]
            if method == "post":
                assert {"413", "422", "429"} <= set(told["responses"])


@pytest.mark.slow
def test_a_question_that_never_ends_is_ended(serving):
    """Sends half a question by hand."""
    import asyncio

    client, _ = serving(upload_s=0.3)
    sent, waited = (
        [],
        [
            {"type": "http.request", "body": b'{"clips"', "more_body": True},
        ],
    )

    async def receive():
        if not waited:
            await asyncio.sleep(60)
        return waited.pop()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/api/v1/classify/features",
        "raw_path": b"/api/v1/classify/features",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"]) == {
        "error": "the question did not come within 0.3 s",
        "kind": "too_slow",
    }
