"""The engine as a tool of assistants, by the Model Context Protocol (streamable HTTP).

Owns what an assistant may ask and the words that tell it so. A clip comes in the question, since
nothing that an assistant says may name a file or an address that is read here; one that has been
sent over HTTP is named by its key.
"""

import base64
import binascii
import importlib.util
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from tcaf.app import schema
from tcaf.app.engine import Engine
from tcaf.app.refusals import RefusedError

Elsewhere = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Works in another thread."""

INSTRUCTIONS = """Names what a video or sound clip shows, by sight and sound, among class names
that you choose freely. Probabilities are among these names alone: add a name for everything that
the clip might plausibly show. Ask again with other names by the `key` of the clip; nothing is
decoded anew."""


@dataclass(frozen=True)
class McpServer:
    """What an application needs to answer assistants.

    Args:
        routes: the address.
        lifespan: what has to run as long as the application does.
    """

    routes: list[Any]
    lifespan: Callable[[Any], AbstractAsyncContextManager[None]]


def mcp_server(engine: Engine, elsewhere: Elsewhere, path: str) -> McpServer | None:
    """Returns the engine as a tool of assistants; None where the package `mcp` is missing.

    Args:
        engine: that answers.
        elsewhere: see there.
        path: the address.
    """
    if importlib.util.find_spec("mcp") is None:
        return None
    from mcp.server.fastmcp import FastMCP
    from mcp.server.fastmcp.exceptions import ToolError
    from mcp.server.transport_security import TransportSecuritySettings
    from mcp.types import ToolAnnotations

    server = FastMCP(
        "tcaf",
        INSTRUCTIONS,
        stateless_http=True,
        json_response=True,
        streamable_http_path=path,
        log_level="WARNING",
        # Names of hosts are checked for all addresses at once (`hosting.Guard`).
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    reads_only = ToolAnnotations(readOnlyHint=True, openWorldHint=False)

    async def worked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            found: dict[str, Any] = await elsewhere(work)
        except RefusedError as error:
            raise ToolError(str(error)) from None
        return found

    @server.tool(annotations=reads_only)  # type: ignore[untyped-decorator, unused-ignore]
    async def classify_clip(
        names: schema.Names,
        clip_base64: Annotated[
            str, Field(description="The file, video or sound, in base64; or give its key.")
        ] = "",
        key: Annotated[
            str, Field(description="Of a clip that was sent before, from its answer.")
        ] = "",
        name: Annotated[str, Field(description="What the clip is called.")] = "clip",
        top_k: schema.TopK = 5,
        seen_bias: schema.SeenBias = 0.0,
        why: schema.Why = False,
    ) -> dict[str, Any]:
        """Ranks class names for a video or sound clip, with probabilities.

        Returns the best names, the clip's key for further questions, and where the answer comes
        from.
        """

        def work() -> dict[str, Any]:
            engine.choose(names)
            clip = _clip(engine, clip_base64, key, name)
            return engine.answer([clip], names, top_k=top_k, seen_bias=seen_bias, why=why)

        return await worked(work)

    @server.tool(annotations=reads_only)  # type: ignore[untyped-decorator, unused-ignore]
    async def describe_model() -> dict[str, Any]:
        """Says which model answers, what it reads of a clip, and the classes that it knows."""
        return await worked(lambda: engine.description)

    manager = server.streamable_http_app()

    @asynccontextmanager
    async def lifespan(_: Any) -> Any:
        async with server.session_manager.run():
            yield

    return McpServer(list(manager.routes), lifespan)


def _clip(engine: Engine, content: str, key: str, name: str) -> Any:
    """Returns the clip that is meant.

    Raises:
        RefusedError: it comes in none of the two ways or in both, or see `Engine.receive`.
    """
    if bool(content) == bool(key):
        raise RefusedError("asked", "give either clip_base64 or the key of a clip")
    if key:
        return engine.find(key, name)
    try:
        return engine.receive([base64.b64decode(content, validate=True)], name)
    except binascii.Error as error:
        raise RefusedError("asked", f"clip_base64 is not base64: {error}") from None
