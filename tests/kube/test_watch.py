"""List and watch, with every trouble played to it: what is told, what is asked for next, and how long it rests."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cni.spec import Refusal
from fixtures.headscale import Fault
from fixtures.kube.standin import StandIn
from reconciler.kube import client as client_module
from reconciler.kube.codes import Trouble
from reconciler.kube.patience import FIRST, LATER, LONG, PATIENCE, SOON
from reconciler.kube.ports import HttpRefusal, Seen, What
from reconciler.kube.watch import Event, Kind, Page, watch
from tests.kube.clients import connected, document, write

DOWN = Refusal(Trouble.API_UNREACHABLE, "down", "wait")
BEGUN, GONE = Event(Kind.BEGUN), Event(Kind.ERROR, status=410)


def changed(name, version):
    return Event(Kind.MODIFIED, name, str(version))


class Played:
    """Lists and streams in their order; the last stream never ends."""

    def __init__(self, lists, streams, lasts=10.0):
        self.lists, self.streams, self.lasts = list(lists), list(streams), lasts
        self.asked, self.rests, self.clock = [], [], 0.0

    async def page(self, query):
        self.asked.append(("list", dict(query)))
        return self.lists.pop(0)

    async def events(self, query):
        self.asked.append(("watch", dict(query)))
        if not self.streams:
            await asyncio.Event().wait()
        for event in self.streams.pop(0):
            yield event
        self.clock += self.lasts

    async def pause(self, seconds):
        self.rests.append(seconds)
        self.clock += seconds

    def listed(self):
        """Which versions were listed: None is what is in etcd, and where it says `>=`, a newer one would do as well."""
        return [_version(query) for kind, query in self.asked if kind == "list" and "continue" not in query]

    def versions(self):
        return [query["resourceVersion"] for kind, query in self.asked if kind == "watch"]


def _version(query):
    newer = query.get("resourceVersionMatch") == "NotOlderThan"
    return (">=" if newer else "") + query["resourceVersion"] if "resourceVersion" in query else None


def run(played, count, query=None, draw=lambda: 1.0):
    async def take():
        said = []
        async for each in watch(played, query or {}, played.pause, lambda: played.clock, draw):
            said.append(each)
            if len(said) == count:
                break
        await asyncio.sleep(0)
        return said

    async def bounded():
        async with asyncio.timeout(5):
            return await take()

    return asyncio.run(bounded())


LISTED = Seen(What.LISTED, ("a", "b"))


def test_the_pages_of_a_list_come_as_one_with_the_selector_in_each():
    played = Played([Page(("a",), "5", "next"), Page(("b",), "5")], [[BEGUN, changed("c", 6)]])
    assert run(played, 2, {"fieldSelector": "x=y"}) == [LISTED, Seen(What.CHANGED, ("c",))]
    first, second, third = [query for _, query in played.asked]
    assert "resourceVersion" not in second
    assert (first["fieldSelector"], second["fieldSelector"]) == ("x=y", "x=y")
    assert second["continue"] == "next"
    assert third["resourceVersion"] == "5"
    assert (third["fieldSelector"], third["allowWatchBookmarks"]) == ("x=y", "true")


def test_a_stream_that_ended_is_taken_up_from_the_last_version_without_a_word_or_a_rest():
    bookmark = Event(Kind.BOOKMARK, None, "9")
    played = Played([Page(("a", "b"), "5")], [[BEGUN, changed("a", 7), bookmark], [BEGUN], [BEGUN, changed("b", 12)]])
    said = run(played, 3)
    assert said == [LISTED, Seen(What.CHANGED, ("a",)), Seen(What.CHANGED, ("b",))]
    assert played.versions() == ["5", "9", "9"]
    assert played.rests == []


def test_what_is_deleted_and_what_nobody_keeps():
    gone = Event(Kind.DELETED, "a", "6")
    played = Played([Page(("a", "b"), "5")], [[BEGUN, Event(Kind.MODIFIED, None, "6"), gone], []])
    assert run(played, 2) == [LISTED, Seen(What.DELETED, ("a",))]


def test_what_the_server_has_forgotten_is_listed_anew_after_a_rest():
    played = Played([Page(("a", "b"), "5"), Page(("b",), "90")], [[GONE], [BEGUN, changed("c", 91)]])
    assert run(played, 3) == [LISTED, Seen(What.LISTED, ("b",)), Seen(What.CHANGED, ("c",))]
    assert played.versions() == ["5", "90"]
    assert len(played.rests) == 1


EXPIRED = HttpRefusal(Trouble.API_ANSWER, "410: too old resource version: 5 (90)", "", status=410)
AHEAD = HttpRefusal(Trouble.API_ANSWER, "504: Timeout: Too large resource version: 9, current: 4", "", status=504)
SLOW = HttpRefusal(Trouble.API_ANSWER, "504: Timeout: the server was unable to return a response", "", status=504)
OWN = {"fieldSelector": "spec.nodeName=worker"}


@pytest.mark.parametrize("gone", [EXPIRED, AHEAD])
def test_a_refusal_instead_of_a_stream_means_the_same(gone):
    played = Played([Page(("a", "b"), "5"), Page((), "90")], [[gone]])
    assert run(played, 2) == [LISTED, Seen(What.LISTED, ())]


@pytest.mark.parametrize(("query", "version"), [(OWN, ">=0"), ({}, None)], ids=["of one node", "of all"])
def test_what_belongs_to_one_node_is_first_listed_from_memory_and_everything_in_pages(query, version):
    played = Played([Page((), "5")], [[BEGUN, changed("a", 6)]])
    run(played, 2, query)
    assert played.listed() == [version]


def test_what_is_listed_anew_is_not_older_than_what_was_seen():
    streams = [[BEGUN, changed("a", 7), Event(Kind.BOOKMARK, None, "9")], [GONE], [BEGUN, changed("c", 91)]]
    played = Played([Page(("a", "b"), "5"), Page(("b",), "90")], streams)
    run(played, 4, OWN)
    assert played.listed() == [">=0", ">=9"]


def test_what_is_forgotten_as_soon_as_it_was_listed_is_read_from_etcd():
    played = Played([Page(("a",), "5"), Page(("b",), "90")], [[GONE], [BEGUN, changed("c", 91)]])
    run(played, 3, OWN)
    assert played.listed() == [">=0", None]


@pytest.mark.parametrize("unknown", [EXPIRED, AHEAD])
def test_a_version_that_a_server_cannot_list_is_not_asked_for_again(unknown):
    streams = [[BEGUN, changed("a", 9)], [GONE], [BEGUN, changed("c", 91)]]
    played = Played([Page(("a",), "5"), unknown, Page(("b",), "4")], streams)
    assert unknown in run(played, 4, OWN)
    assert played.listed() == [">=0", ">=9", None]


def test_a_list_that_failed_for_another_reason_asks_for_the_same_again():
    played = Played([SLOW, Page(("a",), "5")], [])
    run(played, 2, OWN)
    assert played.listed() == [">=0", ">=0"]


def test_a_list_whose_continuation_was_forgotten_begins_again():
    expired = HttpRefusal(Trouble.API_ANSWER, "expired", "", status=410)
    played = Played([Page(("a",), "5", "next"), expired, Page(("a", "b"), "6")], [])
    assert run(played, 2) == [expired, LISTED]


def test_a_refusal_is_told_once_for_each_try_and_its_end_is_told_though_nothing_changed():
    played = Played([DOWN, Page(("a", "b"), "5")], [[BEGUN], [DOWN], [DOWN], [BEGUN], []])
    assert run(played, 5) == [DOWN, LISTED, DOWN, DOWN, Seen(What.CHANGED, ())]
    assert set(played.versions()) == {"5"}


def test_an_error_within_a_stream_is_taken_up_from_the_last_version():
    broken = Event(Kind.ERROR, status=500)
    played = Played([Page(("a", "b"), "5")], [[BEGUN, changed("a", 6), broken], [BEGUN, changed("b", 7)]])
    assert len(run(played, 3)) == 3
    assert played.versions() == ["5", "6"]
    assert len(played.rests) == 1


def test_rests_grow_to_a_bound_and_begin_anew_after_a_success():
    played = Played([*[DOWN] * 6, Page((), "5")], [[DOWN], [BEGUN, changed("a", 6)]])
    run(played, 9)
    assert played.rests == [FIRST, 1.0, 2.0, SOON, SOON, SOON, FIRST]


def test_what_fails_for_long_is_asked_for_more_seldom():
    soon = 2 + int(LONG / SOON)
    played = Played([*[DOWN] * (soon + 5), Page((), "5")], [])
    run(played, soon + 6)
    assert set(played.rests[3:soon]) == {SOON}
    assert set(played.rests[soon + 1 :]) == {LATER[1]}


def test_rests_are_drawn_so_that_nodes_do_not_come_all_at_once():
    for drawn in (0.0, 0.5):
        played = Played([DOWN, Page((), "5")], [])
        run(played, 2, draw=lambda drawn=drawn: drawn)
        assert played.rests == [FIRST * (0.5 + drawn / 2)]


@pytest.mark.parametrize(("asked", "rest"), [(7.0, 7.0 + FIRST), (9000.0, PATIENCE + FIRST), (0.0, FIRST)])
def test_the_server_s_wish_for_patience_is_kept_within_reason(asked, rest):
    played = Played([HttpRefusal(Trouble.API_ANSWER, "busy", "", status=429, retry_after=asked), Page((), "5")], [])
    run(played, 2)
    assert played.rests == [rest]


def test_streams_that_end_at_once_are_not_begun_in_a_hurry():
    played = Played([Page((), "5")], [[BEGUN], [BEGUN], [BEGUN, changed("a", 6)]], lasts=0.1)
    run(played, 2)
    assert played.rests == [FIRST, 1.0]


# --- with real streams


def followed(tmp_path, play, **options):
    """`play(server, next, client)`: `next()` is the next word of a watch of the nodes, with `worker` listed already."""

    async def run():
        async with StandIn(**options) as server:
            server.add_node("worker")
            client = await connected(write(tmp_path / "kubeconfig", document(server.url)))
            seen = client.watch("/api/v1/nodes")

            async def following():
                async with asyncio.timeout(10):
                    return await anext(seen)

            assert (await following()).what is What.LISTED
            try:
                return await play(server, following, client)
            finally:
                await client.close()
                await seen.aclose()

    return asyncio.run(run())


def names(seen):
    return [each["metadata"]["name"] for each in seen.objects]


async def watched(server):
    async with asyncio.timeout(10):
        while not server.watched:  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.01)


def test_a_stream_that_fell_silent_is_taken_up_again(tmp_path, monkeypatch):
    """Half-closed: the connection is there, and nothing comes."""
    monkeypatch.setattr(client_module, "SILENCE", 0.3)

    async def play(server, following, client):
        waiting = asyncio.ensure_future(following())
        await watched(server)
        server.freeze_watches()
        server.add_node("late")
        return await waiting

    assert names(followed(tmp_path, play)) == ["late"]


def test_watches_that_are_begun_anew_need_no_end_of_the_silence(tmp_path):
    async def play(server, following, client):
        waiting = asyncio.ensure_future(following())
        await watched(server)
        server.freeze_watches()
        server.add_node("late")
        client.begin_anew()
        return await waiting

    assert names(followed(tmp_path, play)) == ["late"]


def test_bookmarks_keep_a_silent_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(client_module, "SILENCE", 0.5)

    async def play(server, following, client):
        waiting = asyncio.ensure_future(following())
        await watched(server)
        while server.bookmarked < 10:  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.01)
        server.add_node("late")
        await waiting
        return server.calls.count("WATCH /api/v1/nodes")

    assert followed(tmp_path, play, bookmarks=0.1) == 1


def test_a_stream_cut_in_the_middle_of_a_line_is_taken_up_before_that_line(tmp_path):
    async def play(server, following, client):
        server.inject("WATCH", "/nodes", Fault(cut=True, times=1))
        waiting = asyncio.ensure_future(following())
        await watched(server)
        server.add_node("late")
        return await waiting, server.calls.count("WATCH /api/v1/nodes")

    seen, times = followed(tmp_path, play)
    assert names(seen) == ["late"]
    assert times == 2


def test_a_watch_that_may_not_begin_says_why_and_when_it_is_over(tmp_path):
    async def play(server, following, client):
        waiting = asyncio.ensure_future(following())
        await watched(server)
        server.inject("WATCH", "/nodes", Fault(status=500, body="etcd is away", times=2))
        server.cut_watches()
        return await waiting, await following(), await following()

    first, second, third = followed(tmp_path, play)
    assert isinstance(first, Refusal)
    assert "500: etcd is away" in first.msg
    assert first == second
    assert third == Seen(What.CHANGED, ())


def test_a_reducer_that_fails_is_a_fault_and_not_an_end_of_the_stream(tmp_path):
    def broken(found):
        if found["metadata"]["name"] == "late":
            raise ZeroDivisionError
        return found

    async def run():
        async with StandIn() as server:
            client = await connected(write(tmp_path / "kubeconfig", document(server.url)))
            seen = client.watch("/api/v1/nodes", keep=broken)
            await anext(seen)
            server.add_node("late")
            try:
                async with asyncio.timeout(10):
                    await anext(seen)
            finally:
                await client.close()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())


def test_who_stops_listening_leaves_no_stream_and_no_thread(tmp_path):
    async def run():
        async with StandIn() as server:
            client = await connected(write(tmp_path / "kubeconfig", document(server.url)))

            async def listen():
                async for _ in client.watch("/api/v1/nodes"):
                    pass

            listening = asyncio.create_task(listen())
            await watched(server)
            listening.cancel()
            await asyncio.wait([listening])
            async with asyncio.timeout(10):
                while server.watched or any(each.name == "kube" for each in threading.enumerate()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await client.close()

    asyncio.run(run())


def test_a_burst_is_not_lost_on_a_slow_reader(tmp_path):
    async def play(server, following, client):
        waiting = asyncio.ensure_future(following())
        await watched(server)
        for number in range(300):
            server.add_node(f"n{number}")
        got = names(await waiting)
        while len(got) < 300:
            await asyncio.sleep(0)
            got += names(await following())
        return got

    assert followed(tmp_path, play) == [f"n{number}" for number in range(300)]
