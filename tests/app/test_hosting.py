"""Who reaches the application: addresses, passwords, other sites, what a browser may load."""

import asyncio
import base64
import socket

import pytest

from tcaf.app.hosting import POLICY, Access, Guard, is_loopback, url_of
from tcaf.errors import TCAFError


async def _hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"own", b"kept")]})
    await send({"type": "http.response.body", "body": b"hello"})


def ask(access, path="/", kind="http", **headers):
    """Returns status, headers and body of what a guarded application answers."""
    sent = []

    async def send(message):
        sent.append(message)

    given = {"host": "127.0.0.1:7860", **headers}
    scope = {
        "type": kind,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    asyncio.run(Guard(_hello, access)(scope, None, send))
    if kind == "websocket":
        return sent
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"].decode()


def test_what_is_answered_carries_the_policy():
    status, headers, body = ask(Access())
    assert (status, body) == (200, "hello")
    assert headers[b"own"] == b"kept"
    assert headers[b"content-security-policy"].decode() == POLICY
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_the_policy_lets_nothing_in_from_elsewhere():
    for part in POLICY.split(";"):
        for source in part.split()[1:]:
            assert source.startswith("'") or source in ("data:", "blob:"), part


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "", "10.0.0.1"])
def test_another_name_for_this_machine_is_refused(host):
    assert ask(Access(), host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "[::1]:7860", "127.1.2.3"])
def test_own_names_are_answered(host):
    assert ask(Access(), host=host)[0] == 200


def test_a_page_of_another_site_is_refused():
    status, _, body = ask(Access(), origin="https://evil.example")
    assert (status, "https://evil.example" in body) == (403, True)
    assert ask(Access(), origin="http://127.0.0.1:7860")[0] == 200
    assert ask(Access(), origin="http://127.0.0.1:7861")[0] == 403
    assert ask(Access(), origin="null")[0] == 403


def test_a_websocket_of_another_site_is_closed():
    (closed,) = ask(Access(), kind="websocket", origin="https://evil.example")
    assert closed == {"type": "websocket.close", "code": 1008}


def basic(auth):
    return "Basic " + base64.b64encode(auth.encode()).decode()


def test_a_password_is_asked_for():
    access = Access(auth="ann:s:ecret")
    status, headers, _ = ask(access)
    assert status == 401
    assert headers[b"www-authenticate"].startswith(b"Basic ")
    assert ask(access, authorization=basic("ann:wrong"))[0] == 401
    assert ask(access, authorization=basic("ann:s:ecret"))[0] == 200
    # Whether it lives may be asked by anybody.
    assert ask(access, "/api/v1/health")[0] == 200
    assert ask(access, "/api/v1/healthy")[0] == 401


@pytest.mark.parametrize("auth", ["ann", "ann:", ":secret", ":"])
def test_half_a_password_is_refused(auth):
    with pytest.raises(TCAFError, match="--auth must be a name and a password"):
        Access(auth=auth)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_others_are_let_in_with_a_password_alone(host):
    with pytest.raises(TCAFError, match=r"add --auth user:password"):
        Access(host)
    assert "not encrypted" in Access(host, auth="a:b").warning
    # Which names lead here nobody knows then.
    assert ask(Access(host, auth="a:b"), host="any.example", authorization=basic("a:b"))[0] == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"])
def test_this_machine_alone(host):
    assert is_loopback(host)
    assert Access(host).warning == ""


def test_ports():
    with pytest.raises(TCAFError, match="from 0 to 65535"):
        Access(port=70_000)
    with Access(port=0).listen() as first:
        port = first.getsockname()[1]
        assert url_of(first) == f"http://127.0.0.1:{port}/"
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        with pytest.raises(TCAFError, match=f"port {port}: .*--port 0 takes one that is free"):
            Access(port=port).listen()
    with pytest.raises(TCAFError, match=r"cannot listen at nowhere\.invalid"):
        Access("nowhere.invalid", auth="a:b").listen()
