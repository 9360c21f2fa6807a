"""How the application is reached: the address, who may ask, and what a browser may load.

Owns the checks that stand before everything that answers, page and service alike, and the server's
life from its socket to its end. Nothing here knows what is asked for.
"""

import asyncio
import base64
import ipaddress
import json
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tcaf.errors import MissingExtraError, TCAFError

HOST = "127.0.0.1"
"""The address that only programs of this machine reach."""

PORT = 7860
"""Where the page is looked for, if no other port is named."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-src 'none'; frame-ancestors 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)
"""What a browser may load: nothing from elsewhere. Gradio's own scripts build functions of text."""

API = "/api/"
"""Where errors are JSON."""

OPEN = ("/api/v1/health",)
"""Paths that need no password: whether the server is alive."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
"""An ASGI application."""


@dataclass(frozen=True)
class Access:
    """Who reaches the application, and how.

    Args:
        host: the address that is listened at.
        port: of it; 0 for one that is free.
        auth: `user:password` that everybody has to give; empty for nobody.
        asks_itself: whether what answers asks for a password of its own, or for none on purpose.

    Raises:
        TCAFError: an address of the network without a password, or half a password.
    """

    host: str = HOST
    port: int = PORT
    auth: str = ""
    asks_itself: bool = False

    def __post_init__(self) -> None:
        user, colon, password = self.auth.partition(":")
        if self.auth and not (user and colon and password):
            raise TCAFError("--auth must be a name and a password, as in --auth user:password")
        if not 0 <= self.port < 65_536:
            raise TCAFError(f"--port must be from 0 to 65535, got {self.port}")
        if not self.is_loopback and not self.auth and not self.asks_itself:
            raise TCAFError(
                f"--host {self.host} lets everybody in who reaches this machine; add "
                "--auth user:password, or leave --host out for this machine alone"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine reach the application."""
        return is_loopback(self.host)

    @property
    def warning(self) -> str:
        """What somebody should know who lets others in, in words; empty if nobody is."""
        if self.is_loopback:
            return ""
        return (
            f"--host {self.host} lets other machines in: what they send, the password too, is not "
            "encrypted; put a server with HTTPS before it where the network is not your own"
        )

    def listen(self) -> socket.socket:
        """Returns a socket that listens.

        Raises:
            TCAFError: the address is not one of this machine, or the port is taken.
        """
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            found = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise TCAFError(f"cannot listen at {self.host}: {error.strerror or error}") from None
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)
        except OSError as error:
            found.close()
            raise TCAFError(
                f"cannot listen at {self.host}, port {self.port}: {error.strerror or error}; "
                "--port 0 takes one that is free"
            ) from None
        return found


def is_loopback(host: str) -> bool:
    """Returns whether an address or name is this machine's own."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def url_of(listening: socket.socket) -> str:
    """Returns where a browser finds what listens."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # noqa: S104 - an answer, no address
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Guard:
    """Lets nothing through to an application that should not reach it.

    A page of another site could send what a form can, or have its own name point here: requests
    that come from other sites, and at a loopback address those for other names, are refused.

    Args:
        app: what answers.
        access: who may ask.
        policy: what a browser may load.
    """

    def __init__(self, app: Application, access: Access, policy: str = POLICY) -> None:
        self._app, self._access, self._policy = app, access, policy
        code = base64.b64encode(access.auth.encode()).decode()
        self._expected = f"Basic {code}" if access.auth else ""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers a request, or lets the application do so."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        status, reason, more = self._refusal(scope, headers)
        if status:
            await _refuse(scope, send, status, reason, more)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._headers()]}
            await send(message)

        await self._app(scope, receive, sending)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"content-security-policy", self._policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]

    def _refusal(
        self, scope: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[int, str, list[tuple[bytes, bytes]]]:
        """Returns the status, the reason and further headers of a refusal; status 0 for none."""
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if self._access.is_loopback and not is_loopback(name):
            return 403, f"this is not {name}: open the address that tcaf has printed", []
        origin = headers.get("origin", "")
        if origin and urlsplit(origin).netloc.casefold() != host.casefold():
            return 403, f"requests from {origin} are not answered here", []
        if self._expected and scope["path"] not in OPEN:
            given = headers.get("authorization", "")
            if not secrets.compare_digest(given.encode(), self._expected.encode()):
                asks = (b"www-authenticate", b'Basic realm="tcaf", charset="UTF-8"')
                return 401, "a name and a password are needed", [asks]
        return 0, "", []


async def _refuse(
    scope: Mapping[str, Any],
    send: Send,
    status: int,
    reason: str,
    more: Iterable[tuple[bytes, bytes]],
) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    kind, body = b"text/plain; charset=utf-8", f"{reason}\n"
    if scope["path"].startswith(API):
        kind, body = b"application/json", json.dumps({"error": reason, "kind": "forbidden"})
    headers = [(b"content-type", kind), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


def serve(app: Application, access: Access, say: Callable[[str], None]) -> None:
    """Answers at an address until the process is interrupted.

    Args:
        app: what answers.
        access: who may ask, and where.
        say: is given the address once somebody listens there.

    Raises:
        TCAFError: the address cannot be had, or the extra `serve` is not installed.
    """
    try:
        import uvicorn
    except ImportError:
        raise missing_serve("uvicorn") from None
    listening = access.listen()
    # Long answers are interrupted by whoever stops the server.
    config = uvicorn.Config(
        Guard(app, access), log_level="warning", timeout_graceful_shutdown=3, ws="none"
    )
    logging.getLogger("uvicorn.error").addFilter(_no_partings)
    server = uvicorn.Server(config)
    # The signal that ends it is sent once more when all is answered, and is no interruption.
    with listening, suppress(KeyboardInterrupt):
        say(url_of(listening))
        server.run(sockets=[listening])


def _no_partings(record: logging.LogRecord) -> bool:
    """Returns whether a message is more than that somebody was listening when the server ended."""
    kind = record.exc_info[0] if record.exc_info else None
    is_parting = kind is not None and issubclass(kind, asyncio.CancelledError)
    return not is_parting and "graceful shutdown exceeded" not in record.getMessage()


def missing_app(package: str) -> MissingExtraError:
    """Returns the error for a package that the extra `app` would have brought."""
    return MissingExtraError(f"{package} is not installed; pip install 'tcaf[app]'")


def missing_serve(package: str) -> MissingExtraError:
    """Returns the error for a package that the extra `serve` would have brought."""
    return MissingExtraError(f"{package} is not installed; pip install 'tcaf[serve]'")
