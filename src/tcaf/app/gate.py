"""What stands before everything that is asked over HTTP: who may, how much, and how many at once.

Owns what is refused before a question is read, so that neither memory nor disk grows with what
somebody sends. Knows ASGI and no framework.
"""

import asyncio
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tcaf.app.limits import Limits

PREFIX = "/api/v1/"
"""Where the service answers; everything else is let through."""

OPEN = (f"{PREFIX}health",)
"""Paths that need no token: whether the service is alive."""

DRAINED = 2**24
"""Bytes of a question that are read though it is refused, as many clients listen only then."""

DRAIN_S = 5.0
"""Seconds for which that is done."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
"""An ASGI application."""


class Gate:
    """Lets questions through to what answers them, up to the limits.

    Args:
        app: what answers.
        limits: how much may be asked for.
        at_once: questions that are let through at a time; others are sent away.
        worth_s: returns in how many seconds it may be worth to ask again.
        token: that everybody has to give (`Authorization: Bearer TOKEN`); empty for nobody.
    """

    def __init__(
        self,
        app: Application,
        limits: Limits,
        at_once: int,
        worth_s: Callable[[], int],
        token: str = "",
    ) -> None:
        self._app, self._limits, self._token = app, limits, token
        self._at_once, self._inside, self._worth_s = at_once, 0, worth_s

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers a question, or lets the application do so."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._token and scope["path"] not in OPEN and not self._is_known(headers):
            asks = [(b"www-authenticate", b'Bearer realm="tcaf"')]
            await _drain(receive)
            await _say(send, 401, "forbidden", "a token is needed: Authorization: Bearer", asks)
            return
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        is_file = headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data")
        mib = self._limits.max_mib + 1 if is_file else self._limits.max_json_mib
        if _length(headers) > mib * 2**20:
            await _drain(receive)
            await _say(send, 413, "too_large", f"too large (more than {mib:g} MiB)")
            return
        if self._inside >= self._at_once:
            await _drain(receive)
            after = [(b"retry-after", str(self._worth_s()).encode())]
            told = f"busy: {self._inside} questions are being answered; ask again later"
            await _say(send, 429, "busy", told, after)
            return
        self._inside += 1
        try:
            await _Counted(self._app, mib, self._limits.upload_s)(scope, receive, send)
        finally:
            self._inside -= 1

    def _is_known(self, headers: MutableMapping[bytes, bytes]) -> bool:
        given = headers.get(b"authorization", b"")
        scheme, _, token = given.partition(b" ")
        return scheme.lower() == b"bearer" and secrets.compare_digest(
            token.strip(), self._token.encode()
        )


class _Counted:
    """Lets an application read so much of a question, for so long; then says what is wrong itself.

    Args:
        app: what answers.
        mib: MiB that it may read.
        seconds: for as long.
    """

    def __init__(self, app: Application, mib: float, seconds: float) -> None:
        self._app, self._mib = app, mib
        self._seconds, self._since = seconds, time.monotonic()
        self._size, self._problem = 0, (0, "", "")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers a question."""
        is_whole = False

        async def receiving() -> Message:
            nonlocal is_whole
            if is_whole:
                return await receive()  # waits for whether the client is still there
            left_s = self._seconds - (time.monotonic() - self._since)
            try:
                message = await asyncio.wait_for(receive(), max(left_s, 0.0))
            except TimeoutError:
                told = f"the question did not come within {self._seconds:g} s"
                self._problem = (408, "too_slow", told)
                raise OSError(told) from None
            self._size += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if self._size > self._mib * 2**20:
                told = f"too large (more than {self._mib:g} MiB)"
                self._problem = (413, "too_large", told)
                raise OSError(told)
            return message

        async def sending(message: Message) -> None:
            # What the application makes of its question breaking off is not what is wrong.
            if not self._problem[0]:
                await send(message)

        try:
            await self._app(scope, receiving, sending)
        except OSError:
            if not self._problem[0]:
                raise
        if self._problem[0]:
            await _say(send, *self._problem)


def _length(headers: MutableMapping[bytes, bytes]) -> float:
    """Returns how long a question says that it is; 0 if it does not."""
    try:
        return float(int(headers.get(b"content-length", b"0")))
    except ValueError:
        return math.inf


async def _drain(receive: Receive) -> None:
    """Reads what is sent, up to a limit: who still sends does not listen."""
    size, until = 0, time.monotonic() + DRAIN_S
    while size < DRAINED and (left_s := until - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(receive(), left_s)
        except TimeoutError:
            return
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


async def _say(
    send: Send, status: int, kind: str, told: str, more: list[tuple[bytes, bytes]] | None = None
) -> None:
    body = json.dumps({"error": told, "kind": kind}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, *(more or [])]}
    )
    await send({"type": "http.response.body", "body": body})
