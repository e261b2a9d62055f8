"""What the client says and does when something is wrong: for each fault a code and a cure, and never the token."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time

import pytest

from cni.spec import Refusal
from fixtures.headscale import Fault
from fixtures.kube.pki import Authority
from fixtures.kube.standin import StandIn
from reconciler.kube import client as client_module
from reconciler.kube import transport
from reconciler.kube.answers import HttpRefusal
from reconciler.kube.codes import Trouble
from reconciler.kube.ports import Patch
from reconciler.kube.transport import Request, Stream
from tests.kube.clients import attempt, connected, document, write

NODE = "/api/v1/nodes/worker"
TOKEN = "t0k3n-0123456789abcdef"
UNREACHABLE, ANSWER = Trouble.API_UNREACHABLE, Trouble.API_ANSWER

FAULTS = {
    "no answer": (Fault(hang=True), UNREACHABLE, "takes connections, but does not answer in time"),
    "connection dropped": (Fault(drop=True), UNREACHABLE, "it broke off the connection"),
    "cut in the middle": (Fault(cut=True), UNREACHABLE, "it broke off the connection"),
    "500": (Fault(status=500, body="boom"), ANSWER, "with 500: boom"),
    "502": (Fault(status=502, body="<html>bad</html>", content_type="text/html"), ANSWER, "502: a page of HTML"),
    "429": (Fault(status=429), ANSWER, "429: stand-in says 429"),
    "a token in the answer": (Fault(status=500, body=f"no {TOKEN} here"), ANSWER, "500: no [token] here"),
    "sent elsewhere": (Fault(status=302, location="https://sso.example/login?x=1"), ANSWER, "to https://sso.example"),
    "a page": (Fault(status=200, body="<html>hello</html>"), ANSWER, "a page of HTML, which is not JSON"),
    "a list": (Fault(status=200, body='["hello"]'), ANSWER, "which is not JSON of an API server"),
    "half of a JSON": (Fault(status=200, body='{"items":[{"id":"1",'), ANSWER, "which is not JSON"),
    "JSON without end": (Fault(status=200, body="[" * 100_000), ANSWER, "which is not JSON"),
    "403 without words": (Fault(status=403), Trouble.API_FORBIDDEN, "(403): stand-in says 403"),
    "control characters": (Fault(status=500, body="a\x1b[31m\nb\x00c"), ANSWER, "500: a [31m b c"),
}


def played(tmp_path, play, **options):
    """`play(server, client)` with a node there."""

    async def run():
        async with StandIn(**options) as server:
            server.tokens.add(TOKEN)
            server.add_node("worker", "10.244.1.0/24")
            client = await connected(write(tmp_path / "kubeconfig", document(server.url, {"token": TOKEN})))
            try:
                return await play(server, client)
            finally:
                await client.close()

    return asyncio.run(run())


def told(outcome, code, *words):
    assert isinstance(outcome, Refusal), outcome
    text = f"{outcome.msg} | {outcome.details}"
    assert outcome.code == code, text
    assert outcome.details
    assert TOKEN not in text
    assert len(text) < 900
    assert text.isprintable()
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("verb", ["get", "patch"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_fault_has_a_code_and_a_cure_and_is_over_when_it_is_over(tmp_path, fault, verb):
    kind, code, words = fault

    async def play(server, client):
        def ask():
            body = b"{}" if verb == "patch" else None
            return client.ask(Request(verb.upper(), NODE, body=body, kind=Patch.MERGE), 0.5)

        server.inject(verb.upper(), "/worker", kind)
        failed = await ask()
        server.cure()
        return failed, await ask(), server.url

    failed, after, url = played(tmp_path, play)
    told(failed, code, words, f"{url} with the token of user someone in {tmp_path / 'kubeconfig'}")
    assert after["metadata"]["name"] == "worker"


def test_the_server_s_wish_for_patience_is_passed_on(tmp_path):
    async def play(server, client):
        server.retry_after = 7
        server.inject("GET", "/worker", Fault(status=429))
        return await client.get(NODE)

    refusal = played(tmp_path, play)
    assert isinstance(refusal, HttpRefusal)
    assert (refusal.status, refusal.retry_after) == (429, 7.0)


@pytest.mark.parametrize(("verb", "times"), [("get", 2), ("patch", 1)])
def test_a_read_whose_connection_broke_is_sent_once_more_and_a_write_is_not(tmp_path, verb, times):
    async def play(server, client):
        server.inject(verb.upper(), "/worker", Fault(drop=True))
        await (client.get(NODE) if verb == "get" else client.patch(NODE, {}, Patch.MERGE))
        return [call for call in server.calls if "worker" in call]

    assert len(played(tmp_path, play)) == times


def test_a_read_on_a_connection_that_the_server_had_closed_succeeds(tmp_path):
    async def play(server, client):
        assert not isinstance(await client.get(NODE), Refusal)
        server.inject("GET", "/worker", Fault(drop=True, times=1))
        return await client.get(NODE)

    assert played(tmp_path, play)["metadata"]["name"] == "worker"


def test_an_answer_that_is_too_large_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "LARGEST", 100_000)

    async def play(server, client):
        server.inject("GET", "/worker", Fault(status=200, body="x" * 1_000_000))
        return await client.get(NODE)

    told(played(tmp_path, play), ANSWER, "larger than any that is wanted")


def test_only_what_puts_the_way_in_doubt_is_told_to_who_keeps_it(tmp_path):
    heard = []

    async def play(server, _):
        client = await connected(tmp_path / "kubeconfig", heard.append)
        for fault in (Fault(status=404), Fault(status=403), Fault(status=500), Fault(drop=True)):
            server.inject("GET", "/worker", fault)
            await client.get(NODE)
            server.cure()
        server.tokens.clear()
        server.tokens.add("another")
        await client.get(NODE)
        await client.close()

    played(tmp_path, play)
    assert [refusal.code for refusal in heard] == [Trouble.API_FORBIDDEN, UNREACHABLE, Trouble.API_CREDENTIALS]


def test_a_thread_that_hangs_does_not_hold_up_the_caller(tmp_path, monkeypatch):
    """As one does on a file system that is gone."""
    monkeypatch.setattr(client_module, "SLACK", 0.1)
    release = threading.Event()

    async def play(server, client):
        monkeypatch.setattr(client._calls, "_once", lambda work, again: release.wait())
        began = time.monotonic()
        refusals = [await client.ask(Request("GET", NODE), 0.1) for _ in range(3)]
        took = time.monotonic() - began
        release.set()
        return refusals, took

    refusals, took = played(tmp_path, play)
    assert took < 3
    for refusal in refusals:
        told(refusal, UNREACHABLE, "does not answer in time")


# --- what changes on the disk


def test_a_renewed_kubeconfig_is_used_at_the_next_call(tmp_path):
    async def play(server, client):
        server.tokens.clear()
        server.tokens.add("renewed-token")
        refused = await client.get(NODE)
        write(tmp_path / "kubeconfig", document(server.url, {"token": "renewed-token"}))
        return refused, await client.get(NODE)

    refused, read = played(tmp_path, play)
    told(refused, Trouble.API_CREDENTIALS, "does not accept these credentials (401)")
    assert read["metadata"]["name"] == "worker"


def test_a_kubeconfig_that_is_half_written_is_told_and_read_when_it_is_whole(tmp_path):
    async def play(server, client):
        whole = (tmp_path / "kubeconfig").read_text()
        (tmp_path / "kubeconfig").write_text(whole[:40])
        refused = await client.get(NODE)
        (tmp_path / "kubeconfig").write_text(whole)
        return refused, await client.get(NODE)

    refused, read = played(tmp_path, play)
    told(refused, Trouble.API_KUBECONFIG, "is cut off, or not YAML")
    assert read["metadata"]["name"] == "worker"


def test_a_plugin_is_asked_again_after_a_401(tmp_path):
    async def run():
        async with StandIn() as server:
            server.tokens.add("second")
            server.add_node("worker")
            script = "read n < n; echo $((n + 1)) > n; [ $n = 0 ] && t=first || t=second; sed s/TOKEN/$t/ answer"
            (tmp_path / "n").write_text("0\n")
            kind = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
            (tmp_path / "answer").write_text(json.dumps({**kind, "status": {"token": "TOKEN"}}))
            plugin = {"apiVersion": kind["apiVersion"], "command": "sh", "args": ["-c", script]}
            client = await connected(write(tmp_path / "kubeconfig", document(server.url, {"exec": plugin})))
            first, second = await client.get(NODE), await client.get(NODE)
            await client.close()
            return first, second, (tmp_path / "n").read_text().strip()

    first, second, runs = asyncio.run(run())
    assert first["metadata"]["name"] == second["metadata"]["name"] == "worker"
    assert runs == "2"


def test_a_client_certificate_that_was_renewed_is_shown_on_new_connections(tmp_path):
    authority = Authority(tmp_path / "pki")
    serving = authority.issue("server", "server", names=("127.0.0.1",))
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
    trust.load_cert_chain(serving.certificate, serving.key)
    trust.verify_mode = ssl.CERT_REQUIRED
    own = authority.issue("own", "first")
    stranger = Authority(tmp_path / "other").issue("own", "stranger")

    async def run():
        async with StandIn(tls=trust) as server:
            server.add_node("worker")
            user = {"client-certificate": str(own.certificate), "client-key": str(own.key)}
            cluster = {"certificate-authority": str(authority.certificate)}
            client = await connected(write(tmp_path / "kubeconfig", document(server.url, user, **cluster)))
            outcomes = [await client.get(NODE)]
            right = own.certificate.read_bytes(), own.key.read_bytes()
            for certificate, key in ((stranger.certificate.read_bytes(), stranger.key.read_bytes()), right):
                own.certificate.write_bytes(certificate)
                own.key.write_bytes(key)
                outcomes.append(await client.get(NODE))
            await client.close()
            return outcomes

    before, wrong, after = asyncio.run(run())
    assert before["metadata"]["name"] == after["metadata"]["name"] == "worker"
    assert isinstance(wrong, Refusal)
    assert "with the certificate of stranger" in wrong.msg


def test_a_port_that_does_not_speak_tls(tmp_path):
    async def run():
        async with StandIn() as server:
            client = await connected(write(tmp_path / "kubeconfig", document(server.url.replace("http", "https"))))
            refusal = await client.get(NODE)
            await client.close()
            return refusal

    told(asyncio.run(run()), ANSWER, "it does not speak TLS", "see the port in `server` of cluster lab in")


def test_nothing_is_opened_for_a_way_that_cannot_be(tmp_path):
    refusal = asyncio.run(attempt(tmp_path / "missing"))
    told(refusal, Trouble.API_KUBECONFIG, "missing does not exist")


@pytest.mark.parametrize("body", ["{}", '{"items": {}, "metadata": {"resourceVersion": "1"}}', '{"metadata": 3}'])
def test_a_list_that_is_none_is_told_by_a_watch(tmp_path, body):
    async def play(server, client):
        server.inject("GET", "/nodes", Fault(status=200, body=body, content_type="application/json", times=1))
        seen = client.watch("/api/v1/nodes")
        first, second = await anext(seen), await anext(seen)
        await seen.aclose()
        return first, second

    first, second = played(tmp_path, play)
    told(first, ANSWER, "the answer is no list of objects")
    assert len(second.objects) == 1


@pytest.mark.parametrize("line", [b"[]\n", b"3\n", b"{}\n", b'{"type": "NEW", "object": {}}\n', b'{"type": "ADDED"}\n'])
def test_what_is_no_event_ends_a_stream_and_nothing_else(tmp_path, monkeypatch, line):
    right = Stream.lines
    lines = iter([[line]])

    async def play(server, client):
        seen = client.watch("/api/v1/nodes")
        await anext(seen)
        monkeypatch.setattr(Stream, "lines", lambda stream: next(lines, None) or right(stream))
        server.add_node("late")
        got = await anext(seen)
        await seen.aclose()
        return got

    assert played(tmp_path, play).objects[0]["metadata"]["name"] == "late"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")  # pytest undoes what package.py does
def test_a_server_that_shall_not_be_verified_is_used(tmp_path):
    pair = Authority(tmp_path / "pki").issue("server", "server")
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trust.load_cert_chain(pair.certificate, pair.key)

    async def run():
        async with StandIn(tls=trust) as server:
            server.add_node("worker")
            cluster = {"insecure-skip-tls-verify": True}
            client = await connected(write(tmp_path / "kubeconfig", document(server.url, **cluster)))
            node = await client.get(NODE)
            await client.close()
            return node

    assert asyncio.run(run())["metadata"]["name"] == "worker"
