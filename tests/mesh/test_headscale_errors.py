"""What the client says when something is wrong: for each fault at each call a code and a cure, and never the key."""

from __future__ import annotations

import asyncio
import logging
import socket
from ipaddress import ip_network

import pytest

from cni.spec import Refusal
from fixtures.headscale import GENERATIONS, Fault, HeadscaleServer
from fixtures.headscale.shapes import AUTH_KEY
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control import api
from reconciler.mesh.headscale import HeadscaleClient

POD = ip_network("10.244.1.0/24")
KEY = "hskey-api-abcdefghijkl-0123456789"

FAULTS = {
    "no answer": (Fault(hang=True), Trouble.HEADSCALE_UNREACHABLE),
    "connection dropped": (Fault(drop=True), Trouble.HEADSCALE_UNREACHABLE),
    "cut in the middle": (Fault(cut=True), Trouble.HEADSCALE_UNREACHABLE),
    "500": (Fault(status=500, body="boom"), Trouble.HEADSCALE_ANSWER),
    "502 of a proxy": (Fault(status=502, body="<html>bad</html>", content_type="text/html"), Trouble.HEADSCALE_ANSWER),
    "401": (Fault(status=401, body="Unauthorized"), Trouble.HEADSCALE_KEY),
    "403": (Fault(status=403, body="no"), Trouble.HEADSCALE_KEY),
    "500 for a wrong key": (Fault(status=500, body="Unauthorized\n"), Trouble.HEADSCALE_KEY),
    "sent elsewhere": (Fault(status=302, location="https://sso.example/login?x=1"), Trouble.HEADSCALE_URL),
    "a page": (Fault(status=200, body="<html>hello</html>", content_type="text/html"), Trouble.HEADSCALE_ANSWER),
    "JSON of something else": (Fault(status=200, body='["hello"]'), Trouble.HEADSCALE_ANSWER),
    "half of a JSON": (Fault(status=200, body='{"nodes":[{"id":"1",'), Trouble.HEADSCALE_ANSWER),
    "JSON without end": (Fault(status=200, body="[" * 100_000), Trouble.HEADSCALE_ANSWER),
}
CALLS = (
    ("0.22", "GET", "/api/v1/machine"),
    ("0.25", "GET", "/api/v1/node"),
    ("0.25", "GET", "/api/v1/routes"),
    ("0.29", "GET", "/api/v1/node"),
    ("0.22", "POST", "/enable"),
    ("0.29", "POST", "/approve_routes"),
)


def approving(generation, *, fault=None, timeout=5.0, key=KEY, url=None):
    """The outcome of approving with the fault there once the node is known, and of doing it again without."""

    async def run():
        async with HeadscaleServer(generation, key=KEY) as server:
            node = server.tailnet.add("worker-1", [str(POD)])
            client = HeadscaleClient(url or server.url, lambda: key, timeout=timeout)
            try:
                nodes = await client.nodes()
                if isinstance(nodes, Refusal):
                    return nodes, None
                if fault is not None:
                    server.inject(*fault)
                failed = await client.approve(nodes[0], {POD})
                server.cure()
                await client.approve(nodes[0], {POD})
                return failed, server.tailnet.approved(node.id)
            finally:
                await client.close()

    return asyncio.run(run())


def told(outcome, *words):
    """It is a refusal that names these; nothing in it is a key."""
    assert isinstance(outcome, Refusal), outcome
    text = f"{outcome.msg} {outcome.details}"
    assert outcome.details
    assert KEY not in text
    assert AUTH_KEY not in text
    assert len(text) < 600
    for word in words:
        assert word in text
    return outcome.code


@pytest.mark.parametrize(
    ("call", "name"),
    [  # what a writing answers with 200 is not believed but read again
        (call, name) for call in CALLS for name, (fault, _) in FAULTS.items() if call[1] == "GET" or fault.status != 200
    ],
    ids=str,
)
def test_each_fault_at_each_call_is_told_and_then_forgotten(call, name, caplog):
    generation, method, path = call
    fault, code = FAULTS[name]
    caplog.set_level(logging.DEBUG)
    timeout = 0.3 if fault.hang else 5.0
    failed, approved = approving(generation, fault=(method, path, fault), timeout=timeout)
    assert told(failed, "127.0.0.1") == code
    assert approved == [str(POD)]
    assert KEY not in caplog.text


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_answer_to_a_writing_is_not_believed(generation):
    """A proxy that answers 200 to everything has approved nothing."""
    path = "/enable" if generation in ("0.22", "0.25") else "/approve_routes"
    failed, _ = approving(generation, fault=("POST", path, Fault(status=200, body="{}")))
    assert told(failed, "worker-1", "not kept") == Trouble.HEADSCALE_ANSWER


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (
            Fault(status=200, body="<html></html>", content_type="text/html"),
            Trouble.HEADSCALE_URL,
            ["is not Headscale"],
        ),
        (Fault(status=404), Trouble.HEADSCALE_URL, ["is not Headscale", "404"]),
        (Fault(status=200, body='{"status":"ok"}'), Trouble.HEADSCALE_ANSWER, []),
        (Fault(status=500, body='{"status":"fail"}'), Trouble.HEADSCALE_ANSWER, ["500"]),
        (Fault(status=503, body="<html>maintenance"), Trouble.HEADSCALE_ANSWER, ["503"]),
        (
            Fault(status=301, location="https://headscale.example/health"),
            Trouble.HEADSCALE_URL,
            ["https://headscale.example"],
        ),
        (Fault(status=301, location="/web/login"), Trouble.HEADSCALE_URL, ["another page"]),
        (
            Fault(status=400, body="Client sent an HTTP request to an HTTPS server."),
            Trouble.HEADSCALE_URL,
            ["speaks HTTPS", "https://"],
        ),
    ],
)
def test_what_does_not_say_that_it_is_headscale(fault, code, words):
    async def run():
        async with HeadscaleServer() as server:
            server.inject("GET", "/health", fault)
            client = HeadscaleClient(server.url, lambda: KEY)
            try:
                return await client.nodes(), server.calls
            finally:
                await client.close()

    outcome, calls = asyncio.run(run())
    assert told(outcome, "127.0.0.1", *words) == code
    assert calls == ["GET /health"]  # which is asked without the key


def test_a_port_where_nobody_listens():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        outcome, _ = approving("0.29", url=url)
    assert told(outcome, url, "Connection refused") == Trouble.HEADSCALE_UNREACHABLE


def test_a_name_that_does_not_resolve(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    outcome, _ = approving("0.29", url="http://headscale.invalid")
    assert told(outcome, "http://headscale.invalid", "cannot be resolved") == Trouble.HEADSCALE_UNREACHABLE


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02\x02\x16", b"HTTP/1.1 abc\r\n\r\n"])
def test_a_port_that_does_not_speak_http(said):
    async def run():
        async def answer(reader, writer):
            await reader.readline()
            writer.write(said)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            client = HeadscaleClient("http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], lambda: KEY)
            try:
                return await client.nodes()
            finally:
                await client.close()

    assert told(asyncio.run(run()), "does not speak HTTP") == Trouble.HEADSCALE_URL


def test_an_answer_without_end(monkeypatch):
    monkeypatch.setattr(api, "MAX_ANSWER", 1000)
    long = Fault(status=200, body="x" * 2000)
    assert told(approving("0.29", fault=("GET", "/node", long))[0]) == Trouble.HEADSCALE_ANSWER


# --- the key


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("key", ["wrong.key", "expired"])
def test_a_key_that_is_not_accepted(generation, key):
    assert told(approving(generation, key=key)[0], "API key", "apikeys create") == Trouble.HEADSCALE_KEY


@pytest.mark.parametrize("key", ["", "two\nlines", "a\r\nX-Header: b", "blank in it", "schlüssel", "\x00"])
def test_a_key_that_cannot_be_one_is_not_sent(key):
    outcome, _ = approving("0.22", key=key)
    assert told(outcome) == Trouble.HEADSCALE_KEY
    assert not key or key not in str(outcome)


def test_a_key_that_cannot_be_read_is_told_as_it_is():
    problem = Refusal(Trouble.SECRET, "the file is empty", "write the key into it")

    async def run():
        async with HeadscaleServer() as server:
            client = HeadscaleClient(server.url, lambda: problem)
            try:
                return await client.nodes()
            finally:
                await client.close()

    assert asyncio.run(run()) is problem


def test_a_key_that_is_renewed_is_used_at_once():
    async def run():
        async with HeadscaleServer(key="old") as server:
            client = HeadscaleClient(server.url, lambda: server.key)
            try:
                assert not isinstance(await client.nodes(), Refusal)
                server.key = "new"
                return await client.nodes()
            finally:
                await client.close()

    assert asyncio.run(run()) == ()


def test_a_server_that_repeats_the_key_does_not_get_it_into_a_message():
    echo = Fault(status=500, body=f"bad header: Bearer {KEY}")
    failed, _ = approving("0.29", fault=("GET", "/node", echo))
    assert told(failed, "bad header: Bearer [key]") == Trouble.HEADSCALE_ANSWER


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"code":2,"message":"database is locked","details":[]}', "database is locked"),
        ('{"title":"Internal Server Error","status":500,"detail":"setting approved routes",'
         '"errors":[{"message":"database is locked"}]}', "setting approved routes: database is locked"),
        ("plain\x1b[31m words\nof two lines", "plain [31m words of two lines"),
        ('{"message": {"deep": 1}, "errors": 7}', "with 500"),
    ],
)  # fmt: skip
def test_the_words_of_an_error_in_each_of_its_forms(body, words):
    failed, _ = approving("0.29", fault=("POST", "/approve_routes", Fault(status=500, body=body)))
    assert told(failed, words) == Trouble.HEADSCALE_ANSWER


def test_nothing_of_the_client_shows_the_key():
    client = HeadscaleClient("http://127.0.0.1:1", lambda: KEY)
    assert KEY not in repr(client) + repr(vars(client))
