"""The client of tailscaled against the stand-in: each call with each fault, and what it never does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from cni.spec import Refusal
from fixtures.localapi import Fault, LocalApiServer
from fixtures.localapi.node import GOOD_KEY
from reconciler.mesh import localapi_transport
from reconciler.mesh.codes import Trouble
from reconciler.mesh.localapi import LocalApi, masked
from reconciler.mesh.localapi_decode import unsuitable
from reconciler.mesh.model import Prefs, Tailnet
from tests.mesh.contract_localapi import eventually, until

KEY = "hskey-auth-abcdef-0123456789"
POD = "10.244.1.0/24"
FOREIGN = "192.168.44.0/24"
LOCKED = orjson.dumps(
    {"Error": "can't reconfigure tailscaled when using a config file; config file is locked"}
).decode()

CALLS = {
    "status": ("GET", "status", lambda api: api.status()),
    "prefs": ("GET", "prefs", lambda api: api.prefs()),
    "edit": ("PATCH", "prefs", lambda api: api.edit({"RouteAll": True})),
    "refresh": ("POST", "start", lambda api: api.start()),
    "start": ("POST", "start", lambda api: api.start(GOOD_KEY, {"WantRunning": True})),
    "login": ("POST", "login-interactive", lambda api: api.start(GOOD_KEY, {"WantRunning": True})),
}
WITH_CONTENT = ("status", "prefs", "edit")


@asynccontextmanager
async def joined(tmp_path, **options):
    async with LocalApiServer(tmp_path / "tailscaled.sock") as server:
        server.node.be_joined()
        api = LocalApi(server.socket, **options)
        try:
            yield server, api
        finally:
            await api.close()


def outcome(tmp_path, call, fault, **options):
    method, path, ask = CALLS[call]

    async def run():
        async with joined(tmp_path, **options) as (server, api):
            server.inject(method, path, fault)
            return await ask(api)

    return asyncio.run(run())


async def asked(socket, ask=LocalApi.status):
    api = LocalApi(socket)
    try:
        return await ask(api)
    finally:
        await api.close()


def refused(seen, code, *words):
    assert isinstance(seen, Refusal), seen
    assert seen.code == code
    assert all(each in str(seen) for each in words), seen
    assert seen.details


# --- each fault at each call


@pytest.mark.parametrize("call", CALLS)
def test_without_a_fault(tmp_path, call):
    assert not isinstance(outcome(tmp_path, call, Fault()), Refusal)


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_never_comes(tmp_path, call):
    seen = outcome(tmp_path, call, Fault(hang=True), read_seconds=0.05, write_seconds=0.07)
    method, path, _ = CALLS[call]
    waited = "within 0.05 s" if method == "GET" else "within 0.07 s"
    refused(seen, Trouble.TAILSCALED_UNREACHABLE, waited, f"{method} {path}", str(tmp_path))


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_is_late_but_in_time(tmp_path, call):
    assert not isinstance(outcome(tmp_path, call, Fault(delay=0.05)), Refusal)


@pytest.mark.parametrize("call", CALLS)
def test_a_connection_that_is_dropped(tmp_path, call):
    refused(outcome(tmp_path, call, Fault(drop=True)), Trouble.TAILSCALED_UNREACHABLE, "broke off", str(tmp_path))


@pytest.mark.parametrize("call", WITH_CONTENT)
def test_an_answer_that_ends_in_the_middle(tmp_path, call):
    refused(outcome(tmp_path, call, Fault(cut=True)), Trouble.TAILSCALED_UNREACHABLE, "broke off", str(tmp_path))


@pytest.mark.parametrize("call", CALLS)
def test_an_error(tmp_path, call):
    seen = outcome(tmp_path, call, Fault(status=500, body="state\nstore \x1b[31mis unhealthy " + "x" * 9999))
    refused(seen, Trouble.TAILSCALED_ANSWER, "500: state store [31mis unhealthy x")
    assert len(seen.msg) < 300


@pytest.mark.parametrize("call", CALLS)
def test_no_permission(tmp_path, call):
    seen = outcome(tmp_path, call, Fault(status=403, body="prefs write access denied"))
    refused(seen, Trouble.TAILSCALED_ANSWER, "403", "prefs write access denied", "--operator")


@pytest.mark.parametrize("call", CALLS)
def test_a_locked_configuration(tmp_path, call):
    seen = outcome(tmp_path, call, Fault(status=400, body=LOCKED))
    refused(seen, Trouble.TAILSCALED_LOCKED, "config file is locked", '"Locked": false')


@pytest.mark.parametrize("call", WITH_CONTENT)
@pytest.mark.parametrize("body", ["", "null", "[]", "17", "<html>", '{"Version": '])
def test_an_answer_that_is_no_object(tmp_path, call, body):
    seen = outcome(tmp_path, call, Fault(status=200, body=body))
    refused(seen, Trouble.TAILSCALED_ANSWER, "no JSON object", "tailscale.socket")


@pytest.mark.parametrize("call", CALLS)
def test_a_redirect_is_not_followed(tmp_path, call):
    seen = outcome(tmp_path, call, Fault(status=302, location="/localapi/v0/elsewhere"))
    refused(seen, Trouble.TAILSCALED_ANSWER, "302")


@pytest.mark.parametrize("call", CALLS)
def test_a_fault_that_is_over_is_over(tmp_path, call):
    method, path, ask = CALLS[call]

    async def run():
        async with joined(tmp_path) as (server, api):
            server.inject(method, path, Fault(status=500, times=1))
            return isinstance(await ask(api), Refusal), isinstance(await ask(api), Refusal)

    assert asyncio.run(run()) == (True, False)


def test_an_answer_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(localapi_transport, "MAX_ANSWER", 100)
    refused(outcome(tmp_path, "status", Fault()), Trouble.TAILSCALED_ANSWER, "more than")


# --- the socket


def test_no_socket(tmp_path):
    seen = asyncio.run(asked(tmp_path / "nowhere" / "s"))
    refused(seen, Trouble.TAILSCALED_UNREACHABLE, str(tmp_path / "nowhere"), "does not exist")


def test_a_file_that_is_no_socket(tmp_path):
    (tmp_path / "s").write_text("x")
    refused(asyncio.run(asked(tmp_path / "s")), Trouble.TAILSCALED_UNREACHABLE, "not a socket", str(tmp_path))


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "s").write_text("x")
    refused(asyncio.run(asked(tmp_path / "s" / "s")), Trouble.TAILSCALED_UNREACHABLE, "does not exist", str(tmp_path))


def test_a_socket_that_nobody_listens_on(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            await server.stop(leave_socket=True)
            return await api.status()

    refused(asyncio.run(run()), Trouble.TAILSCALED_UNREACHABLE, "nobody listens", str(tmp_path))


def test_a_socket_that_may_not_be_opened(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            server.socket.chmod(0)
            if root := os.geteuid() == 0:
                os.seteuid(65534)
            try:
                return await api.status()
            finally:
                if root:
                    os.seteuid(0)

    refused(asyncio.run(run()), Trouble.TAILSCALED_UNREACHABLE, "may not be opened", str(tmp_path))


def test_a_path_that_is_too_long(tmp_path):
    refused(asyncio.run(asked(tmp_path / ("x" * 120))), Trouble.TAILSCALED_UNREACHABLE, "too long")


def test_what_listens_does_not_speak_http(tmp_path):
    async def talk(reader, writer):
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    async def run():
        async with await asyncio.start_unix_server(talk, tmp_path / "s"):
            return await asked(tmp_path / "s")

    refused(asyncio.run(run()), Trouble.TAILSCALED_ANSWER, "does not speak HTTP", str(tmp_path))


def test_a_socket_made_anew_is_found_at_once(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            first = await api.status()
            await server.restart()
            return first, await api.status(), await api.edit({"ShieldsUp": True})

    first, second, third = asyncio.run(run())
    assert (type(first), type(second), type(third)) == (Tailnet, Tailnet, Prefs)


def test_no_connection_outlives_its_call(tmp_path):
    connections = []

    async def answer(reader, writer):
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await reader.read()

    async def run():
        async with await asyncio.start_unix_server(answer, tmp_path / "s"):
            await asked(tmp_path / "s", twice)
            for each in connections:
                each.close()
                await each.wait_closed()

    async def twice(api):
        await api.status()
        await api.status()

    asyncio.run(run())
    assert len(connections) == 2


def test_many_calls_at_once(tmp_path):
    """One that hangs is in nobody's way."""

    async def run():
        async with joined(tmp_path, read_seconds=20) as (server, api):
            server.inject("GET", "prefs", Fault(hang=True))
            hung = [asyncio.create_task(api.prefs()) for _ in range(120)]
            await eventually(lambda: len(server.calls) == 120)
            seen = await api.status()
            for each in hung:
                each.cancel()
            await asyncio.wait(hung)
            return seen

    assert isinstance(asyncio.run(run()), Tailnet)


# --- writing


def test_an_empty_edit_writes_nothing(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            return await api.edit({}), await api.prefs(), server.calls

    seen, had, calls = asyncio.run(run())
    assert seen == had
    assert not any(call.startswith("PATCH") for call in calls)


def test_an_edit_is_masked():
    assert masked({"AdvertiseRoutes": [], "RouteAll": True}) == {
        "AdvertiseRoutes": [],
        "AdvertiseRoutesSet": True,
        "RouteAll": True,
        "RouteAllSet": True,
    }


@pytest.mark.parametrize(
    "changes",
    [{"AdvertiseRoutesSet": True}, {"AdvertiseRoutes": None}, {"AdvertiseRoutes": POD}, {"RouteAllSet": False}],
)
def test_an_edit_that_would_wipe_is_a_fault_and_not_sent(tmp_path, changes):
    async def run():
        async with joined(tmp_path) as (server, api):
            with pytest.raises(ValueError, match="would wipe"):
                await api.edit(changes)
            return server.calls

    assert asyncio.run(run()) == []


def test_another_writer_between_reading_and_writing(tmp_path):
    """Preferences we do not name are the other's; the list is ours, for tailscaled knows no compare-and-set."""

    async def run():
        async with joined(tmp_path) as (server, api):
            write = Fault(act=lambda: server.node.edit(AdvertiseRoutes=[FOREIGN], ShieldsUp=True), times=1)
            server.inject("PATCH", "prefs", write)
            return await api.edit({"AdvertiseRoutes": (POD,)})

    seen = asyncio.run(run())
    assert seen.advertise == (POD,)
    assert seen.raw["ShieldsUp"] is True


def test_a_reader_reads_and_does_not_write(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            server.readers_only = True
            return [await ask(api) for _, _, ask in CALLS.values()]

    status, prefs, *writes = asyncio.run(run())
    assert (type(status), type(prefs)) == (Tailnet, Prefs)
    for each in writes:
        refused(each, Trouble.TAILSCALED_ANSWER, "access denied")


def test_a_join_is_a_start_and_a_login(tmp_path):
    async def run():
        async with LocalApiServer(tmp_path / "s") as server:
            refusal = await asked(server.socket, lambda api: api.start(GOOD_KEY, {"ControlURL": "http://c", "X": 1}))
            return refusal, server.calls, server.node.called_home

    assert asyncio.run(run()) == (None, ["POST start", "POST login-interactive"], False)


def test_a_refresh_is_a_start_and_nothing_else(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            before = dict(server.node.prefs)
            return await api.start(), server.calls, server.node.prefs == before

    assert asyncio.run(run()) == (None, ["POST start"], True)


@pytest.mark.parametrize("path", ["start", "login-interactive"])
def test_a_key_that_is_repeated_by_tailscaled_is_not_told(tmp_path, path):
    async def run():
        async with joined(tmp_path) as (server, api):
            server.inject("POST", path, Fault(status=500, body=f"no such key: {KEY}"))
            return await api.start(KEY, {})

    seen = asyncio.run(run())
    refused(seen, Trouble.TAILSCALED_ANSWER, "no such key: [key]")
    assert KEY not in repr(seen)


# --- the stand-in itself, where it is stricter than the contract


def test_the_stand_in_tells_the_old_of_itself_until_a_refresh(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            await api.edit({"AdvertiseRoutes": [POD]})
            server.node.approve(POD)
            stale = await api.status()
            await api.start()
            await until(api, lambda seen: bool(seen.me.primary))
            return server.node.serving, stale.me.primary, {str(each) for each in (await api.status()).me.primary}

    assert asyncio.run(run()) == ((POD,), frozenset(), {POD})


def test_the_stand_in_may_be_locked_old_and_without_an_interface(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            server.node.locked, server.node.version, server.node.tun = True, "1.64.2-tabc", False
            return await api.edit({"ShieldsUp": True}), await api.prefs(), await api.status()

    edited, prefs, status = asyncio.run(run())
    refused(edited, Trouble.TAILSCALED_LOCKED, "config file is locked")
    assert prefs.raw["ShieldsUp"] is False
    assert (status.version, status.tun) == ("1.64.2-tabc", False)
    refused(unsuitable(status), Trouble.TAILSCALED_UNSUITABLE, "1.64.2-tabc", "1.66.0")


def test_the_stand_in_may_approve_by_itself(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            server.node.auto_approve = True
            await api.edit({"AdvertiseRoutes": [POD, FOREIGN]})
            first = server.node.serving
            server.node.disapprove(POD)
            return first, server.node.serving

    assert asyncio.run(run()) == ((POD, FOREIGN), (FOREIGN,))


def test_wanting_to_run_before_a_start_would_call_home(tmp_path):
    async def run():
        async with LocalApiServer(tmp_path / "s") as server:
            seen = await asked(server.socket, lambda api: api.edit({"ControlURL": "http://c", "WantRunning": True}))
            return seen, server.node.called_home

    seen, called_home = asyncio.run(run())
    refused(seen, Trouble.TAILSCALED_UNREACHABLE, "broke off")
    assert called_home


def test_the_stand_in_as_a_process(tmp_path):
    socket = tmp_path / "s"
    command = (sys.executable, "-m", "fixtures.localapi", "--socket", str(socket), "--peers", "1000", "--churn", "100")
    repository = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        seen = asyncio.run(asked(socket))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert isinstance(seen, Tailnet)
    assert len(seen.peers) == 1000
    assert len(frozenset().union(*(each.routes for each in seen.peers.values()))) == 2000
    assert not socket.exists()
