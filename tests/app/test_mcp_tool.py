"""Assistants ask a real server on loopback, through the client of the protocol's own package."""

import asyncio
import base64
import contextlib
import threading
import time

import pytest

from write_clip_run import write_clip
from write_engine import GREY, open_engine

pytest.importorskip("av")
pytest.importorskip("fastapi")
pytest.importorskip("mcp")


@contextlib.contextmanager
def listening(app):
    """Yields the address of a server in a thread."""
    import uvicorn

    config = uvicorn.Config(app, port=0, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def engine(moody_run, moody):
    with open_engine(moody_run) as opened:
        yield opened


def asking(url, token, work):
    """Does the protocol's handshake, and then what `work` does with the session."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        headers = {"Authorization": f"Bearer {token}"} if token else None
        async with (
            streamablehttp_client(f"{url}/api/v1/mcp", headers) as (reading, writing, _),
            ClientSession(reading, writing) as session,
        ):
            about = await session.initialize()
            return about, await work(session)

    return asyncio.run(talk())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_assistant_asks(engine, tmp_path):
    from tcaf.app.service import create_app

    file = write_clip(tmp_path / "grey.mp4", colour=GREY)
    content = base64.b64encode(file.read_bytes()).decode()
    asked = {"names": ["ant", "eel"], "top_k": 1}

    async def work(session):
        tools = await session.list_tools()
        first = await session.call_tool(
            "classify_clip", {**asked, "clip_base64": content, "name": "folder/mine.mp4"}
        )
        key = first.structuredContent["clips"][0]["key"]
        again = await session.call_tool("classify_clip", {"names": ["bee", "eel"], "key": key})
        wrong = [
            await session.call_tool("classify_clip", question)
            for question in (
                asked,
                {**asked, "clip_base64": "?"},
                {**asked, "clip_base64": base64.b64encode(b"no clip").decode()},
                {"names": ["eagle"], "key": key},
            )
        ]
        model = await session.call_tool("describe_model", {})
        return tools, first, again, wrong, model

    with listening(create_app(engine, token="sesame")) as url:
        about, (tools, first, again, wrong, model) = asking(url, "sesame", work)
        with pytest.raises(BaseException, match=r"401|unhandled errors"):
            asking(url, "", work)
    assert about.serverInfo.name == "tcaf"
    assert {tool.name for tool in tools.tools} == {"classify_clip", "describe_model"}
    (classify,) = (tool for tool in tools.tools if tool.name == "classify_clip")
    assert classify.inputSchema["required"] == ["names"]
    assert classify.annotations.readOnlyHint
    clip = engine.read(file, "mine.mp4")
    assert first.structuredContent == engine.answer([clip], **asked)
    assert again.structuredContent["classes"] == ["bee", "eel"]
    assert all(each.isError for each in wrong)
    told = [each.content[0].text for each in wrong]
    for sentence, begins in zip(
        told,
        (
            "give either clip_base64 or the key",
            "clip_base64 is not base64",
            "clip: not a media file",
            "the run knows no class 'eagle'",
        ),
        strict=True,
    ):
        assert begins in sentence
    assert model.structuredContent["model"] == "run"
