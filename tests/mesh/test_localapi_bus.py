"""The event bus: for ever, whatever happens to it, never more than one notice kept, and never a line too many."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.localapi import Fault, LocalApiServer
from reconciler.mesh import localapi_bus
from reconciler.mesh.localapi import LocalApi
from reconciler.mesh.localapi_bus import Backoff, Lines, mask, merged
from reconciler.mesh.ports import Notice
from tests.mesh.contract_localapi import eventually, heard

POD = "10.244.1.0/24"
CONNECTED = Notice(reconnected=True)


@asynccontextmanager
async def joined(tmp_path, sleep=asyncio.sleep):
    async with LocalApiServer(tmp_path / "tailscaled.sock") as server:
        server.node.be_joined()
        api = LocalApi(server.socket, sleep=sleep)
        try:
            yield server, api
        finally:
            await api.close()


async def at_once(seconds):
    await asyncio.sleep(0)


# --- what is heard


def test_the_first_notice_says_connected_and_comes_after_the_bus_is_open(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            bus = api.watch()
            first = await anext(bus)
            watched = server.watched
            server.node.edit(AdvertiseRoutes=[POD])
            return first, watched, await anext(bus)

    first, watched, second = asyncio.run(run())
    assert (first, watched) == (CONNECTED, 1)
    assert second.written == ((POD,),)


def test_a_change_of_peers_is_a_notice_that_says_nothing(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api), heard(api) as notices:
            server.node.set_peer("n2", online=False)
            await eventually(lambda: bool(notices))
            return notices

    assert asyncio.run(run()) == [Notice()]


@pytest.mark.parametrize("end", ["cut", "flood", "restart", "kill"])
def test_a_bus_that_ended_is_opened_again(tmp_path, end):
    async def run():
        async with joined(tmp_path, at_once) as (server, api), heard(api) as notices:
            if end == "cut":
                server.cut_bus()
            elif end == "flood":
                server.flood(200)
            else:
                await server.stop(leave_socket=end == "kill")
                await server.start()
            await eventually(lambda: any(each.reconnected for each in notices))
            notices.clear()
            server.node.edit(AdvertiseRoutes=[POD])
            await eventually(lambda: any((POD,) in each.written for each in notices))
            return notices

    assert not any(each.error for each in asyncio.run(run()))


def test_to_have_fallen_behind_is_no_error_of_the_node(tmp_path):
    async def run():
        async with joined(tmp_path, at_once) as (server, api), heard(api) as notices:
            server.flood(200)
            await eventually(lambda: any(each.reconnected for each in notices))
            return notices

    assert asyncio.run(run()) == [CONNECTED]


def test_what_a_slow_consumer_missed_is_one_notice(tmp_path, monkeypatch):
    read = []
    put = localapi_bus.Inbox.put
    monkeypatch.setattr(localapi_bus.Inbox, "put", lambda self, heard: (read.append(heard), put(self, heard)))

    async def run():
        async with joined(tmp_path) as (server, api):
            bus = api.watch()
            await anext(bus)
            server.node.set_peer("n2", routes=("10.244.2.0/24",))
            server.node.tell({"ErrMessage": "first"})
            for number in range(200):
                server.node.tell({"Prefs": {"AdvertiseRoutes": [f"10.244.{number}.0/24"]}})
                await asyncio.sleep(0)
            server.node.tell({"ErrMessage": "last"})
            await eventually(lambda: read[-1].error == "last")
            only = await anext(bus)
            server.cut_bus()
            return only, await anext(bus)

    only, after = asyncio.run(run())
    assert len(read) > 200
    assert only == Notice(
        about_me=True, written=tuple((f"10.244.{number}.0/24",) for number in range(136, 200)), error="first"
    )
    assert after == CONNECTED


@pytest.mark.parametrize("version", ["1.80.0", "1.98.4"])
def test_an_old_daemon_sends_megabytes_and_is_asked_to_gather_them(tmp_path, version):
    async def run():
        async with joined(tmp_path, at_once) as (server, api):
            server.node.version = version
            server.node.add_peers(1500)
            async with heard(api) as notices:
                server.node.set_peer("worker-1", online=False)
                await eventually(lambda: bool(notices))
                server.node.edit(AdvertiseRoutes=[POD])
                await eventually(lambda: any((POD,) in each.written for each in notices))
                server.cut_bus()
                await eventually(lambda: any(each.reconnected for each in notices))
                return notices, [call for call in server.calls if "bus" in call]

    notices, calls = asyncio.run(run())
    assert notices == [Notice(about_me=True), Notice(written=((POD,),)), CONNECTED]
    assert calls == ["GET watch-ipn-bus?mask=0", *["GET watch-ipn-bus?mask=256"] * 2]


@pytest.mark.parametrize(
    ("version", "wanted"), [("1.66.0", 256), ("1.99.9", 256), ("1.100.0", 0), ("1.102.3-ERR-BuildInfo", 0), ("", 0)]
)
def test_which_daemon_is_asked_for_what(version, wanted):
    assert mask(version) == wanted


# --- attempts


def test_an_attempt_that_fails_is_followed_by_another_later_and_later(tmp_path):
    delays = []

    async def run():
        enough = asyncio.Event()

        async def sleep(seconds):
            delays.append(seconds)
            if len(delays) == 12:
                enough.set()
            await asyncio.sleep(0)

        api = LocalApi(tmp_path / "nobody", sleep=sleep)
        bus = asyncio.create_task(anext(api.watch()))
        await enough.wait()
        await api.close()
        return await asyncio.wait([bus])

    asyncio.run(run())
    steps = [min(0.1 * 2**number, 5.0) for number in range(12)]
    assert all(step / 2 <= delay <= step for step, delay in zip(steps, delays, strict=False))


def test_delays_grow_to_a_limit_and_begin_anew_after_a_stream_that_held():
    backoff = Backoff(lambda: 1.0)
    assert [round(backoff.delay(0.0), 3) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff.delay(4.9) == 5.0
    assert backoff.delay(5.1) == 0.1


def test_delays_are_spread():
    assert Backoff(lambda: 0.0).delay(0) == 0.05
    assert Backoff(lambda: 0.5).delay(0) == pytest.approx(0.075)


@pytest.mark.parametrize("fault", [Fault(status=400, body="bad mask"), Fault(status=403, body="access denied")])
def test_a_bus_that_is_refused_is_told_once_and_tried_again(tmp_path, fault, caplog):
    async def run():
        async with joined(tmp_path, at_once) as (server, api):
            server.inject("GET", "watch-ipn-bus", fault)
            bus = asyncio.create_task(anext(api.watch()))
            await eventually(lambda: len(server.calls) > 5)
            server.cure()
            return await bus

    with caplog.at_level(logging.WARNING, "headcni"):
        assert asyncio.run(run()) == CONNECTED
    (told,) = caplog.messages
    assert "event bus" in told
    assert fault.body in told


@pytest.mark.parametrize("fault", [Fault(hang=True, times=1), Fault(drop=True, times=2), Fault(status=500, times=2)])
def test_a_bus_that_does_not_open_the_first_time(tmp_path, fault):
    async def run():
        async with LocalApiServer(tmp_path / "s") as server:
            server.inject("GET", "watch-ipn-bus", fault)
            api = LocalApi(server.socket, read_seconds=0.1, sleep=at_once)
            first = await anext(api.watch())
            await api.close()
            return first

    assert asyncio.run(run()) == CONNECTED


# --- ends


def test_closing_ends_the_watch_and_leaves_nothing(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            bus = api.watch()
            await anext(bus)
            rest = asyncio.create_task(anext(bus, None))
            await asyncio.sleep(0)
            await api.close()
            last = await rest
            await eventually(lambda: server.watched == 0)
            return last

    assert asyncio.run(run()) is None


def test_a_consumer_that_is_cancelled_leaves_nothing(tmp_path):
    async def run():
        async with joined(tmp_path) as (server, api):
            before = asyncio.all_tasks()
            async with heard(api):
                assert server.watched == 1
            await eventually(lambda: server.watched == 0)
            return {task for task in asyncio.all_tasks() - before if "_listen" in repr(task)}

    assert asyncio.run(run()) == set()


def test_a_watch_that_is_closed_has_ended(tmp_path):
    async def run():
        async with joined(tmp_path) as (_, api):
            bus = api.watch()
            await anext(bus)
            listening = [task for task in asyncio.all_tasks() if "_listen" in repr(task)]
            await bus.aclose()
            return [task.done() for task in listening]

    assert asyncio.run(run()) == [True]


def test_a_fault_in_reading_goes_up_to_the_consumer(tmp_path, monkeypatch):
    def broken(line):
        raise RuntimeError("a fault")

    async def run():
        async with joined(tmp_path) as (server, api):
            bus = api.watch()
            await anext(bus)
            monkeypatch.setattr(localapi_bus, "notice", broken)
            server.flood(1)
            with pytest.raises(RuntimeError, match="a fault"):
                await anext(bus)

    asyncio.run(run())


# --- lines and notices as values


@given(st.lists(st.binary(max_size=5).filter(lambda each: b"\n" not in each)), st.data())
def test_lines_come_whole_however_they_are_cut(lines, data):
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    reader = Lines()
    assert [line for piece in pieces for line in reader.feed(piece)] == lines


def test_a_line_that_is_too_long_is_not_kept(monkeypatch):
    monkeypatch.setattr(localapi_bus, "LONGEST_LINE", 10)
    reader = Lines()
    assert reader.feed(b"1234567890\nabcdefgh") == [b"1234567890"]
    for _ in range(1000):
        assert reader.feed(b"ijk") == []
        assert len(reader._rest) <= 10
    assert reader.feed(b"x\nshort\n") == [None, b"short"]


def test_notices_are_merged():
    empty = Notice()
    assert merged(empty, empty) == empty
    assert merged(Notice(about_me=True), Notice(reconnected=True)) == Notice(about_me=True, reconnected=True)
    assert merged(Notice(written=(("a",),)), Notice(written=((),))).written == (("a",), ())
    assert merged(Notice(written=(("a",),)), empty).written == (("a",),)
    assert merged(Notice(error="first"), Notice(error="second")).error == "first"
    assert merged(empty, Notice(error="second")).error == "second"
